"""Seconds and bytes of each patient, from runs of ``run_pipeline.py segment``.

They stand in each run.json.
"""

from __future__ import annotations

import csv
import glob
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.scaling.model import Patient

PREPARE = ("read", "preprocess")
"""Stages before the network; all others but the network itself come after it."""


@dataclass(frozen=True)
class Run:
    """Content of one run.json.

    Parameters
    ----------
    patients : sequence of Patient
        Those with a result, as measured: the network's seconds are those of the run's own device.
    other_s, load_s : float or None
        Beside the stages: of a middling case (hashes, headers), and what the slowest case took more, which is the
        loading of the model. None where the run does not tell: its cases overlapped, it has no report, or it is one
        case.
    threads : int
        CPU threads of each process.
    """

    name: str
    about: str
    patients: tuple[Patient, ...]
    stages: Mapping[str, float]
    other_s: float | None
    load_s: float | None
    threads: int
    on_card: bool


def read_run(path: Path) -> Run:
    """Read the measured service times and sizes of a run.

    Raises
    ------
    SystemExit
        It is not there or no such record, there is no result in it, or a patient's files are gone.
    """
    try:
        return _read(path, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SystemExit(f"{path}: not there; name the run.json of a run, or make one (`make demo`)") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"{path}: no run.json of `run_pipeline.py segment` ({error!r}); do the run again") from None


def _read(path: Path, record: Mapping[str, Any]) -> Run:
    options, machine, folder = record["options"], record["machine"], Path(record["working_folder"])
    cases = {name: case for name, case in record["cases"].items() if case.get("stages")}
    if not cases:
        raise SystemExit(f"{path}: no case with a result; give the run.json of a run that has some")
    stages = {name: dict(case["stages"]) for name, case in cases.items()}
    rests = [] if options["executor"] == "overlap" else _rests(path.with_name("report.csv"), stages)
    other = statistics.median(sorted(rests)[:-1]) if len(rests) > 1 else None
    patients = [
        Patient(
            sum(_size(path, folder / file) for file in case["inputs"]),
            sum(stages[name].get(stage, 0.0) for stage in PREPARE) + (other or 0.0),
            stages[name].get("network", 0.0),
            sum(seconds for stage, seconds in stages[name].items() if stage not in (*PREPARE, "network")),
            _written(path.parent, case["folder"], bool(options["flat"])),
        )
        for name, case in cases.items()
    ]
    about = (
        f"{len(cases)} of {len(record['cases'])} cases have a result; {record['started'][:10]}, device "
        f"{options['device_used']}, executor {options['executor']}, {machine['threads']} threads, "
        f"{machine.get('gpu', machine['processor'])}"
    )
    load = None if other is None else max(rests) - other
    on_card = str(options["device_used"]).startswith("cuda")
    means = _means(list(stages.values()))
    return Run(str(path), about, tuple(patients), means, other, load, int(machine["threads"]), on_card)


def _rests(report: Path, stages: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Seconds of each case's row that are in none of its stages."""
    if not report.is_file():
        return []
    with open(report, encoding="utf-8", newline="") as file:
        seconds = {row["case"]: float(row["seconds"]) for row in csv.DictReader(file) if row.get("seconds")}
    return [max(0.0, seconds[case] - sum(stages[case].values())) for case in stages if case in seconds]


def _means(stages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in stages for name in one)
    return {name: statistics.fmean(one.get(name, 0.0) for one in stages) for name in names}


def _size(record: Path, file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        raise SystemExit(f"{record}: {file} is gone, so that its size is unknown; do the run again") from None


def _written(output: Path, folder: str, flat: bool) -> int:
    """Return the bytes of a case's results.

    They are those of its folder, or with --flat of its files, and of its state.
    """
    name = glob.escape(folder)
    patterns = (f"{name}.nii.gz", f"*/{name}_*") if flat else (f"{name}/*",)
    files = [file for pattern in (*patterns, f".state/{name}.json") for file in output.glob(pattern)]
    return sum(file.stat().st_size for file in files)


def on_cards(run: Run, network_s: float | None, speedup: float) -> list[Patient]:
    """Return the run's patients with the network on a card.

    It is as measured there, or as assumed.
    """
    divisor = 1.0 if run.on_card else speedup
    return [replace(p, network_s=p.network_s / divisor if network_s is None else network_s) for p in run.patients]


def draw(patients: Sequence[Patient], number: int, seed: int) -> list[Patient]:
    """Draw so many patients, with replacement.

    They are the same ones for every number of GPUs.
    """
    return random.Random(seed).choices(patients, k=number)
