"""Pipeline beside plain MONAI, nnU-Net's predictor and the network alone.

One run, same models, same patients.

    python -m bench.speed.yardsticks PATIENTS [--quick] [--model NAME ...] [--nnunet-python PATH]

Writes bench/RESULTS.md. Every measurement is a process of its own; the systems take turns, round after round, so that
the machine's moods hit all alike, and each figure is a median over the rounds. Compared are

  ours        `run_pipeline.py segment` as a user calls it: one patient, a batch, and with --tta beside nnU-Net
  (a), (a2)   bench.speed.plain_monai, as it comes and with glibc's malloc tuned
  (b)         bench.speed.nnunet_predictor in the environment of --nnunet-python, which has nnunetv2; without it left
  out (c)         bench.speed.floor, the network alone on one window that holds the brain, and the peak of torch.mm

The batch holds the given patients copied under other ids. (a) and (b) work on --yardstick-patients of them, one after
another; what they take for a longer batch is their start-up and their mean patient times its length.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.speed.agreement import Masks, agreement, labelled, stacked
from bench.speed.copies import copy_patients
from bench.speed.own_process import ROOT, CommandFailed, run_in_own_process
from bench.speed.results import as_page
from bench.speed.systems import Plan, systems
from data.case import Case
from data.find.discover import discover_cases
from pipeline.checkpoint import Checkpoint, open_checkpoint

WIDE = "16-256"
"""Stands for the network of bench.speed.widen, which the targets are about."""


DEFAULT_MODELS = (WIDE, "brats-attention-unet-2d", "brats-attention-unet-3d")


MANY = 1000
"""Patients that `inspect` is timed on."""


PACKAGES = ("torch", "monai", "numpy", "nibabel", "openvino", "isal")


def measure(plan: Plan, model: Checkpoint, say: Any) -> dict[str, Any]:
    """Measure all rounds of one model and compare the masks of the last round."""
    rounds: list[dict[str, dict[str, Any]]] = []
    failed: dict[str, str] = {}
    for number in range(plan.rounds):
        found: dict[str, dict[str, Any]] = {}
        for name, command, environment in systems(plan, model, number):
            try:
                usage = run_in_own_process(command, environment)
            except CommandFailed as error:
                if name in ("one", "batch"):
                    raise
                failed[name] = str(error)
                say(f"{model.name}, round {number + 1}, {name}: failed")
                continue
            found[name] = asdict(usage) | _stages(plan.scratch / str(number) / name)
            say(f"{model.name}, round {number + 1}, {name}: {usage.wall:.1f} s wall, {usage.cpu:.1f} s CPU")
        rounds.append(found)
    counts = {name: len(discover_cases(folder)) for name, folder in (("batch", plan.batch), ("few", plan.few))}
    last = plan.scratch / str(plan.rounds - 1)
    return {
        "model": model.name,
        "network": dict(model.settings["network"]),
        "spacing_mm": list(model.settings["preprocess"]["spacing_mm"]),
        "window": list(model.settings["window"]["size"]),
        "counts": counts,
        "rounds": rounds,
        "failed": failed,
        "agreement": _agreement(plan, model, last),
    }


def _stages(output: Path) -> dict[str, Any]:
    """Return the seconds of each stage of our run, for every patient.

    The seconds that run.json gives come with them.

    The seconds that run.json gives come with them.
    """
    try:
        run = json.loads((output / "run.json").read_text())
    except OSError:
        return {}
    cases = [case.get("stages", {}) for case in run["cases"].values()]
    names = dict.fromkeys(name for stages in cases for name in stages)
    stages = {name: [stages[name] for stages in cases if name in stages] for name in names}
    return {"stages": stages, "run_seconds": run["seconds"], "options": run["options"]}


def _agreement(plan: Plan, model: Checkpoint, folder: Path) -> dict[str, Any]:
    regions, own = model.settings["regions"], model.settings["convention"]
    conventions: dict[str, str] = {}
    with open(folder / "batch" / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if wrong := [f"{row['case']}: {row['reason']}" for row in rows if row["status"] == "error"]:
        raise CommandFailed("; ".join(wrong))
    conventions = {row["case"]: row["convention"] for row in rows}
    cases = discover_cases(plan.batch)

    def ours(name: str) -> dict[str, Masks]:
        paths = {row["case"]: folder / name / row["folder"] / f"{row['folder']}_seg.nii.gz" for row in rows}
        return {case: labelled(p, conventions[case], regions) for case, p in paths.items() if p.is_file()}

    names = [case.case_id for case in discover_cases(plan.few)]
    found: dict[str, dict[str, Masks]] = {"ours": {c: m for c, m in ours("batch").items() if c in names}}
    found |= {name: ours(name) for name in ("sliding", "tta") if (folder / name).is_dir()}
    for name in ("a", "a2"):
        found[name] = {
            case: stacked(folder / name / case, regions) for case in names if (folder / name / case).is_dir()
        }
    paths = {case: folder / "b" / f"{case}.nii.gz" for case in names}
    found["b"] = {case: labelled(path, own, regions) for case, path in paths.items() if path.is_file()}
    truth = {
        case.case_id: labelled(case.reference.paths[0], conventions[case.case_id], regions)
        for case in cases
        if case.reference is not None and case.case_id in names
    }
    return agreement({name: masks for name, masks in found.items() if masks}, truth)


def measure_start(plan: Plan, cases: Sequence[Case], rounds: int, say: Any) -> dict[str, Any]:
    """Measure `--help`, and `inspect` on a thousand patients.

    They are hard links to a few.
    """
    many = plan.scratch / "many"
    copy_patients(discover_cases(plan.batch), many, MANY, link=True, first=1)
    ours = [sys.executable, "run_pipeline.py"]
    commands = {"help": [*ours, "--help"], "inspect": [*ours, "inspect", str(many)]}
    traced = [sys.executable, "-m", "bench.speed.traced_start", "{result}", str(many), "inspect", str(plan.one)]
    found: dict[str, Any] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            usage = run_in_own_process(command)
            found[name].append({"wall": usage.wall, "cpu": usage.cpu, "peak_gib": usage.peak_gib})
            say(f"{name}: {usage.wall:.1f} s wall, {usage.cpu:.1f} s CPU")
    found["inspect_imports_torch"] = "import torch" in run_in_own_process(traced).result
    return found


def about_this(plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions, command and how busy the machine was."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    processor = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {
        "command": "python -m bench.speed.yardsticks " + shlex.join(_without_places(sys.argv[1:], arguments)),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {processor or platform.processor()}, {len(os.sched_getaffinity(0))} CPUs",
        "versions": {name: found for name, found in versions.items() if found},
        "load_before": os.getloadavg()[0],
        "rounds": plan.rounds,
        "quick": arguments.quick,
        "device": plan.device,
        "nnunet": bool(plan.nnunet_python),
    }


def _without_places(typed: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """Return the command without the places of this machine.

    They are those of another Python and of the figures.
    """
    places = {str(arguments.nnunet_python): "NNUNET_PYTHON", str(arguments.raw): "RAW", str(arguments.output): "FILE"}
    return [places.get(part, part) for part in typed]


def options_of_segment() -> tuple[str, ...]:
    """Return the long options that `segment --help` names.

    Options newer than this file are so measured, too.
    """
    import re
    import subprocess

    command = [sys.executable, "run_pipeline.py", "segment", "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(dict.fromkeys(re.findall(r"--[a-z][a-z-]+", text)))


def bench(arguments: argparse.Namespace, scratch: Path, say: Any) -> dict[str, Any]:
    """Measure everything; return plain data."""
    names = arguments.model or DEFAULT_MODELS[: 1 if arguments.quick else None]
    wide = scratch / f"{WIDE}.safetensors"
    if WIDE in names:
        run_in_own_process([sys.executable, "-m", "bench.speed.widen", str(wide)])
    models = [open_checkpoint(wide if name == WIDE else name) for name in names]
    needed = {modality for model in models for modality in model.settings["modalities"]}
    cases = [case for case in discover_cases(arguments.patients) if needed <= set(case.images) and not case.problems]
    if not cases:
        raise CommandFailed(f"{arguments.patients}: no patient has {', '.join(sorted(needed))}")
    n_batch, n_few = arguments.batch or (2 if arguments.quick else 8), arguments.yardstick_patients
    n_few = min(n_few or (1 if arguments.quick else 2), n_batch)
    folders = {name: scratch / name for name in ("batch", "few", "one")}
    for name, n in (("batch", n_batch), ("few", n_few), ("one", 1)):
        copy_patients(cases, folders[name], n)
    plan = Plan(
        **folders,
        scratch=scratch,
        rounds=arguments.rounds or (1 if arguments.quick else 3),
        device=arguments.device,
        threads=arguments.threads,
        nnunet_python=arguments.nnunet_python,
        options=options_of_segment(),
    )
    found: dict[str, Any] = {"about": about_this(plan, arguments)}
    found["start"] = measure_start(plan, cases, plan.rounds, say)
    found["models"] = []
    for index, model in enumerate(models):
        own = scratch / f"model-{index}"
        own.mkdir()
        found["models"].append(measure(Plan(**{**vars(plan), "scratch": own}), model, say))
    found["about"]["load_after"] = os.getloadavg()[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--quick", action="store_true", help="one round, a batch of 2, one model: ~5 minutes")
    parser.add_argument(
        "--model", nargs="*", default=[], help=f"shipped names, .safetensors files or {WIDE} (bench.speed.widen)"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--batch", type=int, help="patients of the batch; 8")
    parser.add_argument("--yardstick-patients", type=int, help="of these, how many (a) and (b) work on; 2")
    parser.add_argument("--nnunet-python", help="Python of an environment with nnunetv2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads of all systems; as they come by default")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "RESULTS.md")
    parser.add_argument("--raw", type=Path, help="also write all measurements as JSON")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends with it
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = bench(arguments, Path(scratch).resolve(), say)
        except CommandFailed as error:
            sys.exit(f"bench: {error}")
    if arguments.raw:
        arguments.raw.write_text(json.dumps(found, indent=1))
    page = as_page(found)
    arguments.output.write_text(page, encoding="utf-8")
    print(page, end="")


if __name__ == "__main__":
    main()
