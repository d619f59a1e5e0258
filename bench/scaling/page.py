"""Many patients on 1 to 64 GPUs, on paper and by simulation.

The page tells the saturation and the costs.

    python -m bench.scaling [OUT/run.json ...] [--patients N] [--gpus N ...] [--output FILE] [--raw FILE]

The seconds of each stage and the bytes of each patient are those of the runs of ``run_pipeline.py segment`` whose
run.json is given (out/demo/run.json without any); the simulated patients are drawn from theirs, with replacement. Their
files must still be there. What such a run does not tell is an option, and the page says which number is which:
measured, assumed, computed from these, or simulated. See :mod:`bench.scaling.model` for the machines.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.scaling.model import Patient, Site, bottleneck, demands, own_bound
from bench.scaling.runs import Run, draw, on_cards, read_run
from bench.scaling.simulation import Point, efficiencies, saturating_gpus, scale
from bench.speed.results import table

ROOT = Path(__file__).resolve().parents[2]
GB = 1e9
ENOUGH = 0.9
"""Share of perfect scaling down to which more GPUs are said to be of use."""


def result_rows(points: Sequence[Point]) -> list[list[str]]:
    rows = []
    for point, share in zip(points, efficiencies(points), strict=True):
        run, busy = point.simulated, point.busy()
        shares = (busy["GPU"], busy["CPU"], busy["storage"], share)
        rows.append(
            [
                f"{point.site.gpus}",
                f"{run.per_hour:,.0f}",
                f"{3600 * min(point.bounds.values()):,.0f}",
                bottleneck(point.bounds),
                *(f"{value:.1%}" for value in shares),
                f"{run.seconds / 3600:,.2f}",
                f"{run.failures}",
                f"{run.begun_again}",
                f"{run.lost_share:.3%}",
                f"{point.cost:,.2f}",
            ]
        )
    return rows


RESULTS = (
    ("GPUs", "given"),
    ("patients/h", "simulated"),
    ("bound, patients/h", "computed"),
    ("bottleneck", "computed"),
    ("GPU busy", "simulated"),
    ("CPU busy", "simulated"),
    ("storage busy", "simulated"),
    ("of perfect scaling", "simulated"),
    ("hours for all", "simulated"),
    ("failures", "simulated"),
    ("begun again", "simulated"),
    ("lost work", "simulated"),
    ("cost", "simulated x assumed prices"),
)


def input_rows(runs: Sequence[Run], patients: Sequence[Patient], a: argparse.Namespace) -> list[list[str]]:
    """Return the rows of the simulation's inputs with their sources.

    The runs are numbered from 1.
    """
    measured = "measured: run " + ", ".join(str(number) for number, _ in enumerate(runs, start=1))
    rows = [
        ["preparing, s a patient", _spread(patients, lambda p: p.prepare_s), measured],
        ["network on the card, s a patient", _spread(patients, lambda p: p.network_s), _network(runs, a)],
        ["finishing, s a patient", _spread(patients, lambda p: p.finish_s), measured],
        ["read, a reference included, MB a patient", _spread(patients, lambda p: p.bytes_read / 1e6), measured],
        ["written, MB a patient", _spread(patients, lambda p: p.bytes_written / 1e6), measured],
        ["CPU threads of a patient in these parts", f"{a.threads}", f"{measured}, machine.threads"],
    ]
    for number, run in enumerate(runs, start=1):
        parts = ", ".join(f"{name} {seconds:.3f}" for name, seconds in run.stages.items())
        rows.append([f"stages of run {number}, mean s", parts, f"measured: run {number}"])
        if run.other_s is not None:
            text = f"{run.other_s:.3f} a patient, part of preparing; the model's loading {run.load_s:.1f}"
            rows.append(["hashes and headers, s", text, f"measured: report.csv of run {number} less its stages"])
    assumed = [
        ("storage, GB/s for all", a.bandwidth, "bandwidth"),
        ("cores of each GPU, as fast as those measured", a.cores, "cores"),
        ("patients prepared at a time in a worker, and finished", a.lanes, "lanes"),
        ("patients on their way in a worker", a.at_a_time, "at-a-time"),
        ("mean time between a worker's failures, h", a.mtbf, "mtbf"),
        ("from a failure until it works again, s; also its start", a.restart, "restart"),
        ("price of a GPU for an hour", a.gpu_hour, "gpu-hour"),
        ("price of a core for an hour", a.core_hour, "core-hour"),
    ]
    return [*rows, *([name, f"{value:g}", f"assumed (option --{option})"] for name, value, option in assumed)]


def _spread(patients: Sequence[Patient], of: Callable[[Patient], float]) -> str:
    values = [of(p) for p in patients]
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _network(runs: Sequence[Run], a: argparse.Namespace) -> str:
    if a.network_s is not None:
        return "assumed (option --network-s)"
    return "; ".join(
        f"measured: run {number}"
        if run.on_card
        else f"assumed (option --gpu-speedup): those of run {number} / {a.gpu_speedup:g}"
        for number, run in enumerate(runs, start=1)
    )


def conclusions(points: Sequence[Point], patients: Sequence[Patient]) -> list[str]:
    """Word the saturation and the ways out of it, all from the tables."""
    first, shares = points[0], efficiencies(points)
    site, each = first.site, demands(patients, first.site)
    own = {name: seconds for name, seconds in each.items() if name.startswith("CPU")}
    slowest = bottleneck({name: bound for name, bound in first.bounds.items() if name != "storage"})
    useful = max(point.site.gpus for point, share in zip(points, shares, strict=True) if share >= ENOUGH)
    cheapest = min(points, key=lambda point: point.cost)
    moved = sum(p.bytes_read + p.bytes_written for p in patients) / len(patients)
    per_gpu = own_bound(first.bounds) / first.site.gpus
    lines = [
        f"A worker is limited by: {slowest} (computed). The card can be the limit only where the network takes more "
        "than "
        f"{max(own.values()):.3f} s a patient; here it takes {each['GPU']:.3f} s.",
        f"The storage saturates at {saturating_gpus(first):,.1f} GPUs (computed); a GPU moves "
        f"{moved * per_gpu / 1e6:,.1f} MB/s, so that {points[-1].site.gpus} of them need "
        f"{moved * per_gpu * points[-1].site.gpus / GB:,.2f} GB/s.",
        f"At least {ENOUGH:.0%} of perfect scaling up to {useful} GPUs of those tried (simulated).",
        f"Cheapest: {cheapest.cost:,.2f} with {cheapest.site.gpus} GPU(s), in "
        f"{cheapest.simulated.seconds / 3600:,.2f} h; "
        f"fastest: {min(p.simulated.seconds for p in points) / 3600:,.2f} h (simulated).",
    ]
    if site.availability < 1:
        lines.append(f"A worker is up for {site.availability:.3%} of the time (computed).")
    return lines


def as_page(
    runs: Sequence[Run],
    points: Sequence[Point],
    inputs: Sequence[Sequence[str]],
    patients: Sequence[Patient],
    said: str,
) -> str:
    names = list(points[0].bounds)
    allowed = [[p.site.gpus, *(f"{3600 * p.bounds[name]:,.0f}" for name in names)] for p in points]
    lines = [
        f"# {len(patients):,} patients on {points[0].site.gpus} to {points[-1].site.gpus} GPUs",
        "",
        f"`{said}`, with",
        "",
        *(f"{number}. {run.name}: {run.about}" for number, run in enumerate(runs, start=1)),
        "",
        "Figures with a range are the mean and the range over the measured patients. Perfect scaling is as many "
        "times the "
        "first row. A GPU is also paid for while it starts.",
        "",
        "## What goes in",
        "",
        *table(("what", "value", "source"), inputs),
        "## What comes out",
        "",
        *table([f"{name} ({source})" for name, source in RESULTS], result_rows(points)),
        "## Patients/h that each resource allows (computed: Denning and Buzen 1978)",
        "",
        *table(("GPUs", *names), allowed),
        "## Where it saturates",
        "",
        *(f"- {line}" for line in conclusions(points, patients)),
    ]
    return "\n".join(lines) + "\n"


def arguments_of(command: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="*", metavar="OUT/run.json", help="default: out/demo/run.json")
    parser.add_argument("--patients", type=_count, default=100_000)
    parser.add_argument("--gpus", type=_count, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    assumed = parser.add_argument_group("assumed, because such a run does not tell")
    assumed.add_argument("--network-s", type=_positive, help="seconds of the network on the card, for every patient")
    assumed.add_argument("--gpu-speedup", type=_positive, default=20.0, help="of the network, against a run on a CPU")
    assumed.add_argument("--bandwidth", type=_positive, default=1.0, help="of the shared storage, GB/s")
    assumed.add_argument("--cores", type=_count, default=4, help="for each GPU, as fast as those of the run")
    assumed.add_argument(
        "--lanes", type=_count, default=1, help="patients prepared at a time in a worker; the program: 1"
    )
    assumed.add_argument(
        "--at-a-time",
        type=_count,
        help="patients on their way in a worker; default: 2 lanes + 1; 1: no overlap",
    )
    assumed.add_argument(
        "--mtbf", type=_positive, default=100.0, help="mean hours between failures of a worker; inf: none"
    )
    assumed.add_argument("--restart", type=_amount, default=60.0, help="seconds from a failure until it works again")
    assumed.add_argument("--gpu-hour", type=_amount, default=2.0, help="price of a GPU for an hour")
    assumed.add_argument("--core-hour", type=_amount, default=0.04, help="price of a core for an hour")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the page")
    parser.add_argument("--raw", type=Path, help="also write all numbers as JSON")
    arguments = parser.parse_args(command)
    arguments.runs = arguments.runs or [ROOT / "out" / "demo" / "run.json"]
    arguments.at_a_time = arguments.at_a_time or 2 * arguments.lanes + 1
    arguments.gpus = sorted(set(arguments.gpus))
    return arguments


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give at least 1")
    return int(text)


def _positive(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text}: give more than 0")
    return float(text)


def _amount(text: str) -> float:
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give 0 or more")
    return float(text)


def main(command: Sequence[str] = sys.argv[1:]) -> int:
    a = arguments_of(command)
    runs = [read_run(path) for path in a.runs]
    a.threads = max(run.threads for run in runs)
    if a.cores < a.threads:
        raise SystemExit(f"--cores {a.cores}: the run used {a.threads} threads a patient; give as many cores, or more")
    measured = [patient for run in runs for patient in on_cards(run, a.network_s, a.gpu_speedup)]
    patients = draw(measured, a.patients, a.seed)
    site = Site(1, a.bandwidth * GB, a.at_a_time, a.lanes, a.cores // a.threads, 3600 * a.mtbf, a.restart)
    try:
        points = scale(patients, site, a.gpus, a.gpu_hour + a.cores * a.core_hour, a.seed)
    except ValueError as error:
        raise SystemExit(f"--mtbf {a.mtbf:g}: {error}; give more hours") from None
    said = " ".join(["python -m bench.scaling", *map(str, command)])
    inputs = input_rows(runs, measured, a)
    page = as_page(runs, points, inputs, patients, said)
    sys.stdout.write(page)
    if a.output:
        a.output.write_text(page, encoding="utf-8")
    if a.raw:
        a.raw.write_text(json.dumps(_raw(points, inputs, said), indent=1) + "\n", encoding="utf-8")
    return 0


def _raw(points: Sequence[Point], inputs: Sequence[Sequence[str]], said: str) -> dict[str, Any]:
    """Return all numbers.

    A bound that does not bind, and no failures, are null, which JSON has a word for.
    """

    def plain(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in values.items() if k != "finished"}

    found = [
        {
            "site": plain(asdict(point.site)),
            "simulated": plain(asdict(point.simulated)),
            "patients_per_s_at_most": plain(point.bounds),
            "bottleneck": bottleneck(point.bounds),
            "busy": point.busy(),
            "of_perfect_scaling": share,
            "cost": point.cost,
        }
        for point, share in zip(points, efficiencies(points), strict=True)
    ]
    return {
        "command": said,
        "inputs": [dict(zip(("what", "value", "source"), row, strict=True)) for row in inputs],
        "points": found,
    }
