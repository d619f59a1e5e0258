"""Training on a card that is at hand for minutes.

It is reached only by copying small files there and back.

    python -m bench.card pack PATIENTS --recipe NAME|FILE --split FILE --cache FOLDER --output PARTS [--first MODEL]
    python -m bench.card train PARTS --output RUN [--minutes 8] [--resume] [--init MODEL] [--batch N]
    python -m bench.card join RUN/back --output RUN

`pack` prepares the cases that `train` would, and writes them as numbered parts. `train` learns from the parts, where
there are neither patients nor their libraries. It leaves `RUN/back`: files of at most 16 MiB, which `join` puts
together again, so that the run goes on in the next call (`train PARTS --resume`) or at home (`run_pipeline.py train ...
--recipe RUN/recipe.yaml --output RUN --resume`).
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path

from bench.card.back import BACK, join
from bench.card.packing import pack
from bench.card.parts import MIB
from bench.card.training import train_on_card
from data.errors import SegmentationError, UsageError
from pipeline.options import TrainOptions

WHEELS = {
    "SimpleITK": "simpleitk",
    "annotated_types": "annotated-types",
    "cc3d": "connected-components-3d",
    "dateutil": "python-dateutil",
    "monai": "monai",
    "nibabel": "nibabel",
    "packaging": "packaging",
    "pandas": "pandas",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "typing_inspection": "typing-inspection",
    "yaml": "pyyaml",
}
"""What `train` imports beside Python, torch and numpy: module -> wheel to bring along."""


def main() -> None:
    wheels = "Wheels to bring along, where only torch and numpy are: " + ", ".join(sorted(WHEELS.values())) + "."
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=wheels, formatter_class=form)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="prepare the cases and write them into parts")
    packing.add_argument("patients", type=Path)
    packing.add_argument("--recipe", required=True)
    packing.add_argument("--split", type=Path, required=True)
    packing.add_argument("--extra", nargs="*", default=[], metavar="FOLDER[:kind]")
    packing.add_argument("--convention", metavar="NAME", help="label convention of the references")
    packing.add_argument("--leave-out", nargs="*", default=[], metavar="CASE")
    packing.add_argument("--first", metavar="MODEL", help="of a cascade, its first stage")
    packing.add_argument("--cache", type=Path, required=True)
    packing.add_argument("--output", type=Path, required=True, metavar="PARTS")
    packing.add_argument("--part-mib", type=float, default=60, help="most MiB of a part")
    packing.add_argument("--with-validation", action="store_true", help="bring what is validated on along")
    packing.add_argument("--licence", default=TrainOptions.licence)
    packing.add_argument("--workers", type=int, default=0)
    training = verbs.add_parser("train", help="learn from the parts", epilog=wheels)
    training.add_argument("parts", type=Path)
    training.add_argument("--output", type=Path, required=True, metavar="RUN")
    training.add_argument("--minutes", type=float, default=8, help="of this call")
    training.add_argument("--total-minutes", type=float, help="of the run, for the schedule")
    training.add_argument("--batch", type=int, help="instead of the recipe's; the rate follows its square root")
    training.add_argument("--init", metavar="MODEL")
    training.add_argument("--resume", action="store_true")
    training.add_argument("--workers", type=int, help="processes that augment; default: all cores but two")
    training.add_argument("--device", default="auto")
    training.add_argument("--cache", type=Path, help="where the parts are unpacked; default: PARTS/unpacked")
    joining = verbs.add_parser("join", help="put together what came back")
    joining.add_argument("back", type=Path)
    joining.add_argument("--output", type=Path, required=True, metavar="RUN")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        print(_run(arguments))
    except SegmentationError as error:
        raise SystemExit(str(error)) from None


def _run(arguments: argparse.Namespace) -> str:
    given = vars(arguments)
    if given.pop("verb") == "join":
        return "\n".join(join(arguments.back, arguments.output))
    if "parts" in given:
        count = train_on_card(**given, command=shlex.join(["python", "-m", "bench.card", *sys.argv[1:]]))
        return f"{count} files to bring back: {arguments.output / BACK}"
    options = TrainOptions(
        split=arguments.split,
        extra=arguments.extra,
        convention=arguments.convention,
        leave_out=arguments.leave_out,
        cache=arguments.cache,
        first=arguments.first,
        workers=arguments.workers,
        licence=arguments.licence,
    )
    part_bytes = int(arguments.part_mib * MIB)
    if part_bytes < 1:
        raise UsageError(f"--part-mib {arguments.part_mib}: must be above 0")
    count = pack(arguments.patients, arguments.recipe, arguments.output, options, part_bytes, arguments.with_validation)
    return f"{count} parts: {arguments.output}"
