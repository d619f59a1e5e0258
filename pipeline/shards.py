"""One run's patients in several parts, each segmented by a run of its own, and what a part tells :mod:`pipeline.merge`.

For schedulers that start many commands and know nothing of one another (job arrays). Each part has an output folder of
its own, because there is one run at a time on a folder. What a part computes depends on all patients: the names of their
folders, and the label convention that some of them show for others. So every part looks at all of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.case import Case, ImageSource
from data.errors import UsageError
from data.write import write_text_atomically
from pipeline.case_task import (
    STATE_FOLDER,
    CaseTask,
    Row,
    SegmentOptions,
    metadata_version,
    numbers_of,
    plain_json,
    read_state,
    state_path,
)
from pipeline.run_record import PACKAGES

RECORD = "shard"
"""In the folder of state files, whose names end otherwise: there when the part's run has come to its end."""
NEUTRAL = ("overwrite", "threads")
"""Options that change no row and no mask: parts may differ in them."""


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``of`` parts, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder_in(self, output: Path) -> Path:
        """Where this part's results go; its siblings', of the same ``output``, lie beside it in order."""
        return output / f"shard-{self.number:0{len(str(self.of))}d}-of-{self.of}"

    def part_of(self, case_ids: Iterable[str]) -> set[str]:
        """Every ``of``-th of the sorted ids: the parts are disjoint, make up the whole, and differ by one at most."""
        return set(sorted(set(case_ids))[self.number - 1 :: self.of])


def parse_shard(text: str) -> Shard:
    """``"2/8"`` as a shard.

    Raises
    ------
    data.errors.UsageError
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: give I/N, the I-th of N parts, with I from 1 to N, such as 2/8")
    return Shard(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class ShardCase:
    """One patient of a finished part.

    index : place among all patients of the whole run. mask_sha256 : empty where the part's run left no mask.
    """

    index: int
    case: Case
    folder: str
    row: Row
    mask_sha256: str


@dataclass(frozen=True)
class FinishedShard:
    """What a part's run left in ``folder``, by its own account.

    n_patients : of the whole. patients : hash of their ids in order. made_with : models, options, package versions; the
    same for parts of one run. run : what of its run.json is its own.
    """

    folder: Path
    shard: Shard
    n_patients: int
    patients: str
    made_with: dict[str, Any]
    options: SegmentOptions
    cases: tuple[ShardCase, ...]
    run: dict[str, Any]


def record_path(output: Path) -> Path:
    return output / STATE_FOLDER / RECORD


def write_shard_record(
    output: Path,
    shard: Shard,
    cases: Sequence[Case],
    tasks: Sequence[CaseTask],
    rows: Sequence[Row],
    options: SegmentOptions,
    models: Mapping[str, str],
) -> None:
    """Say that the part in ``output`` is finished; the last thing that its run does.

    Parameters
    ----------
    cases : sequence of Case
        All patients of the whole run, in order.
    tasks, rows : sequences
        The part's patients and their rows of report.csv, in the same order.
    models : mapping of str to str
        Name and SHA-256 of each model that may have been used.

    Raises
    ------
    OSError
    """
    ids = [case.case_id for case in cases]
    place = {case_id: index for index, case_id in enumerate(ids)}
    record = {
        "shard": [shard.number, shard.of],
        "n_patients": len(ids),
        "patients": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "made_with": {
            **{f"model {name}": sha256 for name, sha256 in models.items()},
            **{f"--{key.replace('_', '-')}": value for key, value in asdict(options).items() if key not in NEUTRAL},
            **{package: metadata_version(package) for package in PACKAGES},
        },
        "options": asdict(options),
        "cases": [
            {
                "index": place[task.case.case_id],
                "case": task.case.case_id,
                "layout": task.case.layout,
                "images": {m: [[str(p.absolute()) for p in s.paths], s.channel] for m, s in task.case.images.items()},
                "folder": task.folder,
                "row": row,
                "mask_sha256": read_state(state_path(task)).get("mask_sha256", ""),
            }
            for task, row in zip(tasks, rows, strict=True)
        ],
    }
    write_text_atomically(record_path(output), json.dumps(plain_json(record), allow_nan=False))


def read_shard(folder: Path) -> FinishedShard:
    """What a part's run left.

    Raises
    ------
    data.errors.UsageError
        None came to its end there.
    """
    record, run = read_state(record_path(folder)), read_state(folder / "run.json")
    try:
        number, of = record["shard"]
        options = record["options"]
        return FinishedShard(
            folder,
            parse_shard(f"{number}/{of}"),
            int(record["n_patients"]),
            str(record["patients"]),
            dict(record["made_with"]),
            SegmentOptions(**{**options, "models": tuple(options["models"])}),
            tuple(_read_case(entry) for entry in record["cases"]),
            {key: run[key] for key in ("started", "seconds", "command", "working_folder", "machine")}
            | {key: run["options"][key] for key in ("executor", "device_used")},
        )
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):
        raise UsageError(
            f"{folder}: no finished part is there; give the folders shard-I-of-N that `segment --shard I/N` ended, and "
            "run that again where it was stopped"
        ) from None


def _read_case(entry: Mapping[str, Any]) -> ShardCase:
    images = {str(m): ImageSource(tuple(map(Path, paths)), channel) for m, (paths, channel) in entry["images"].items()}
    case = Case(str(entry["case"]), Path(), str(entry["layout"]), "", images, None)
    folder = str(entry["folder"])
    if Path(folder).name != folder or folder == "..":
        raise ValueError(folder)  # it would lie elsewhere
    return ShardCase(int(entry["index"]), case, folder, numbers_of(entry["row"]), str(entry["mask_sha256"]))
