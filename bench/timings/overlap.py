"""Batch of copies of one patient, cases overlapping and one after another.

They alternate in one process.

    python -m bench.timings.overlap --patient FOLDER [--model NAME] [--copies 8] [--rounds 3] [--threads N]

Prints wall and CPU seconds of each, their medians and the ratio, and exits with 1 where a mask differs by a byte. The
model is loaded before: one case is done first and not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from data.find.discover import discover_cases
from pipeline.segment.run import SegmentOptions, segment_cases

KINDS = ("serial", "overlap")


def copy_of(patient: Path, root: Path, count: int) -> Path:
    """Make ``count`` patients, each a folder of links to the files of one."""
    for number in range(count):
        folder = root / f"patient-{number:02d}"
        folder.mkdir(parents=True)
        for path in patient.iterdir():
            (folder / path.name).symlink_to(path.resolve())
    return root


def run(patients: Path, output: Path, options: SegmentOptions, kind: str) -> tuple[float, float]:
    """Wall and CPU seconds of a whole run."""
    wall, cpu = time.perf_counter(), time.process_time()
    report = segment_cases(discover_cases(patients), output, options, executor=kind)
    took = time.perf_counter() - wall, time.process_time() - cpu
    if (report["status"] == "error").any():
        sys.exit(f"{kind}: {report.loc[report['status'] == 'error', 'reason'].iloc[0]}")
    return took


def same_masks(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("*_seg.nii.gz"))
    return bool(names) and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--patient", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    options = SegmentOptions(models=(args.model,) if args.model else (), device="cpu", threads=args.threads)
    took: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        run(copy_of(args.patient, root / "first", 1), root / "warm", options, "serial")
        patients = copy_of(args.patient, root / "patients", args.copies)
        for number in range(args.rounds):
            for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                took[kind].append(run(patients, root / f"{kind}-{number}", options, kind))
                print(f"{kind:8} wall {took[kind][-1][0]:7.2f} s  cpu {took[kind][-1][1]:7.2f} s", flush=True)
            if not same_masks(root / f"serial-{number}", root / f"overlap-{number}"):
                print("the masks differ")
                return 1
    middle = {kind: [median(values) for values in zip(*took[kind], strict=True)] for kind in KINDS}
    for kind in KINDS:
        print(f"{kind:8} median of {args.rounds}: wall {middle[kind][0]:.2f} s, cpu {middle[kind][1]:.2f} s")
    wall, cpu = (middle["overlap"][n] / middle["serial"][n] for n in (0, 1))
    print(f"overlap / serial: wall {wall:.2f}, cpu {cpu:.2f}; every mask the same to the byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
