"""Flame graph of one case: the time of `run_pipeline.py segment`, line by line.

All its threads are in it.

    python -m bench.speed.profile PATIENTS [--case ID] [--model NAME] [--output FILE.svg] [-- argument of segment ...]

Samples a call as a user makes it with py-spy (https://github.com/benfred/py-spy, extra `dev`), from outside, so that
the call is not slowed. Writes an SVG that a browser opens: width is time, a click goes into a frame. PATIENTS is a data
set's folder, of which the first patient is taken unless --case says otherwise, or one patient's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.speed.own_process import ROOT
from data.find.discover import discover_cases

RATE = 100
"""Samples a second."""


def sampler() -> str:
    """Return the path of py-spy: beside this Python, or on the PATH.

    Exits where there is none.
    """
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        sys.exit("bench.speed.profile: py-spy is not installed; install it with: pip install '.[dev]'")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--case")
    parser.add_argument("--model")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "profile.svg")
    parser.add_argument("more", nargs="*", help="further arguments of segment, after --")
    arguments = parser.parse_args()
    tool = sampler()
    case = arguments.case or discover_cases(arguments.patients)[0].case_id
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        segment = [sys.executable, str(ROOT / "run_pipeline.py"), "segment", str(arguments.patients.resolve())]
        segment += ["--cases", case, "--output", f"{folder}/out", "--quiet", *arguments.more]
        segment += ["--model", arguments.model] if arguments.model else []
        record = [tool, "record", "--rate", str(RATE), "--threads", "--subprocesses", "--output", str(arguments.output)]
        status = subprocess.run([*record, "--", *segment], cwd=ROOT).returncode
    if status or not arguments.output.is_file():
        sys.exit(
            f"bench.speed.profile: py-spy ended with {status}; where it may not look into a process, which needs "
            "ptrace, "
            "run it as root or allow SYS_PTRACE"
        )
    sys.stdout.write(f"{arguments.output}\n")


if __name__ == "__main__":
    main()
