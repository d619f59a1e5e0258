"""Thousand patients with thirty broken ones among them.

Every one must have its row.

    python -m bench.chaos.thousand [FOLDER] [--patients N] [--executor NAME] [--model NAME]

Makes the patients in FOLDER/in (copies of ten small phantoms under different names; the faults are those of
`tests.faults`, spread over their kinds), runs `run_pipeline.py segment` on them in a process of its own, and prints
what came of it. Without FOLDER a temporary one. By default the model is a small 3D network with random weights: what is
measured is the pipeline.
"""

from __future__ import annotations

import argparse
import csv
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults import FAULTS, Sown, small_model, sow
from tests.faults.patient import Patient

ROOT = Path(__file__).resolve().parents[2]
PHANTOMS = 10
"""Seeds of which the healthy patients are copies."""


def chosen_faults(number: int) -> list[str]:
    """Choose so many faults evenly from each kind, in the order of the register.

    Harmless oddities are left out.
    """
    kinds: dict[str, list[str]] = {}
    for name, fault in FAULTS.items():
        if fault.status != "ok" and fault.folder is None:
            kinds.setdefault(fault.kind, []).append(name)
    shares = {kind: number // len(kinds) + (rank < number % len(kinds)) for rank, kind in enumerate(kinds)}
    return [names[i * len(names) // shares[kind]] for kind, names in kinds.items() for i in range(shares[kind])]


def make_patients(root: Path, outside: Path, patients: int, faults: Sequence[str]) -> Sown:
    """Fill ``root`` with so many patients, the faults among them.

    A fault that cannot be made becomes one more healthy patient.
    """
    sown = sow(root, outside, faults)
    for number in range(patients - sum(map(len, sown.cases.values()))):
        Patient(root / f"BraTS-GLI-{50000 + number}-000", outside, seed=2 + number % PHANTOMS).write_all()
    return sown


@dataclass(frozen=True)
class Ran:
    """Outcome of one ``segment`` on the command line.

    It has exit status, wall and CPU seconds, its errors, and the peak resident memory of its main process in MiB.
    """

    status: int
    seconds: float
    cpu_s: float
    said: str
    peak_mib: float


def segment(root: Path, output: Path, model: str, executor: str) -> Ran:
    """Run ``segment`` in a process of its own."""
    command = [sys.executable, "run_pipeline.py", "segment", str(root), "--output", str(output), "--quiet"]
    before, start, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0.0
    with open(output.with_name("stderr.txt"), "wb") as said:
        process = subprocess.Popen([*command, "--model", model, "--executor", executor], cwd=ROOT, stderr=said)

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, _peak_mib(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(status, seconds, cpu_s, output.with_name("stderr.txt").read_text(errors="replace"), peak)


def _peak_mib(pid: int) -> float:
    """Return the largest resident memory of a process so far.

    It is 0 where the system does not say (it has no /proc).
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def main() -> int:
    """Make the patients, run and print.

    Return 1 where a patient was lost or a fault had another outcome than it should.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.chaos.thousand", description=__doc__.splitlines()[0])
    about = "for patients and results, which stay; `in`, `out` and `outside` in it are replaced"
    parser.add_argument("folder", type=Path, nargs="?", help=about)
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--executor", default="serial")
    parser.add_argument("--model", default="", help="a shipped name or a file; default: small, with random weights")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        return run(arguments.folder.resolve(), arguments)
    with tempfile.TemporaryDirectory() as scratch:
        return run(Path(scratch).resolve(), arguments)


def run(folder: Path, arguments: argparse.Namespace) -> int:
    """Return the lines of :func:`main`, in ``folder``."""
    for name in ("in", "out", "outside"):
        shutil.rmtree(folder / name, ignore_errors=True)
    start = time.perf_counter()
    sown = make_patients(folder / "in", folder / "outside", arguments.patients, chosen_faults(arguments.faults))
    making = time.perf_counter() - start
    model = arguments.model or str(small_model(folder / "random.safetensors"))
    ran = segment(folder / "in", folder / "out", model, arguments.executor)

    with open(folder / "out" / "report.csv", encoding="utf-8", newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    folders = {path.name for path in (folder / "in").iterdir()}
    counts = Counter(row["status"] for row in rows.values())
    wrong = [name for name, (case, *_) in sown.cases.items() if rows.get(case, {}).get("status") != FAULTS[name].status]
    masks = sum(1 for _ in (folder / "out").glob("*/*_seg.nii.gz"))
    lost = len(folders - set(rows))
    sys.stdout.write(
        f"model: {arguments.model or 'a small 3D Attention U-Net with random weights'}; executor: "
        f"{arguments.executor}\n"
        f"patient folders: {len(folders)} ({len(sown.cases)} faults among them), made in {making:.1f} s\n"
        f"rows: {len(rows)}; ok {counts['ok']}, warn {counts['warn']}, error {counts['error']}; masks: {masks}\n"
        f"lost patients: {lost}\n"
        f"faults with another outcome than expected: {len(wrong)} {' '.join(wrong)}\n"
        f"lines on stderr: {len(ran.said.splitlines())}, tracebacks: {ran.said.count('Traceback')}\n"
        f"exit status {ran.status}; {ran.seconds:.1f} s, {ran.cpu_s:.1f} s of CPU; "
        f"peak memory of the main process {ran.peak_mib:.0f} MiB\n"
    )
    return 1 if lost or wrong or "Traceback" in ran.said else 0


if __name__ == "__main__":
    sys.exit(main())
