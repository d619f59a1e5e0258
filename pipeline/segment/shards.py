"""Parts of one run's patients, each segmented by a run of its own.

Each part leaves a record for :mod:`pipeline.segment.merge`.

For schedulers that start many commands and know nothing of one another (job arrays). Each part has an output folder of
its own, because there is one run at a time on a folder. What a part computes depends on all patients: the names of
their folders, and the label convention that some of them show for others. So every part looks at all of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from data.case import Case, ImageSource
from data.errors import UsageError
from data.io.write import write_text_atomically
from data.output_names import RUN_RECORD, SHARD_RECORD, STATE_FOLDER
from data.regular_file import read_json_object
from pipeline.options import SegmentOptions
from pipeline.segment import identity
from pipeline.segment.state import Digest, ReportRow, Text, plain_json, read_state
from pipeline.segment.task import CaseTask, state_path

MOST_VOXELS = 2**40
"""Of the ``--max-voxels`` of a part that is merged."""


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``of`` parts, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder_in(self, output: Path) -> Path:
        """Return the folder of this part's results.

        The folders of all parts of one ``output`` lie side by side in order.
        """
        return output / f"shard-{self.number:0{len(str(self.of))}d}-of-{self.of}"

    def part_of(self, case_ids: Iterable[str]) -> set[str]:
        """Return every ``of``-th of the sorted ids.

        The parts are disjoint, make up the whole, and differ by one at most.
        """
        return set(sorted(set(case_ids))[self.number - 1 :: self.of])


def parse_shard(text: str) -> Shard:
    """Read a shard such as ``"2/8"``.

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
    row: ReportRow
    mask_sha256: str


@dataclass(frozen=True)
class FinishedShard:
    """Record of the part that a run left in ``folder``.

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
    """Return the path of a part's record.

    It is there when the part's run has come to its end.
    """
    return output / STATE_FOLDER / SHARD_RECORD


def write_shard_record(
    output: Path,
    shard: Shard,
    cases: Sequence[Case],
    tasks: Sequence[CaseTask],
    rows: Sequence[ReportRow],
    options: SegmentOptions,
    models: Mapping[str, str],
) -> None:
    """Record that the part in ``output`` is finished.

    It is the last step of the part's run.

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
        "made_with": identity.made_with(options, models),
        "options": asdict(options),
        "cases": [
            {
                "index": place[task.case.case_id],
                "case": task.case.case_id,
                "layout": task.case.layout,
                "images": {m: [s.absolute().names, s.channel] for m, s in task.case.images.items()},
                "folder": task.folder,
                "row": row.to_json(),
                "mask_sha256": "" if (state := read_state(state_path(task))) is None else state.mask_sha256,
            }
            for task, row in zip(tasks, rows, strict=True)
        ],
    }
    write_text_atomically(record_path(output), json.dumps(plain_json(record), allow_nan=False))


def read_shard(folder: Path) -> FinishedShard:
    """Read the record of a finished part.

    Raises
    ------
    data.errors.UsageError
        No part came to its end there, or one that another version scored.
    """
    record, run = read_json_object(record_path(folder)), read_json_object(folder / RUN_RECORD)
    if isinstance(made := record.get("made_with"), dict) and made.get(identity.TABLE_FORMAT) != identity.TABLES:
        raise UsageError(
            f"{folder}: was scored by another version of this program; run `segment --shard` again for this part, with "
            "this version"
        )
    try:
        number, of = record["shard"]
        return FinishedShard(
            folder,
            parse_shard(f"{number}/{of}"),
            _COUNT.validate_python(record["n_patients"]),
            _DIGEST.validate_python(record["patients"]),
            _MADE_WITH.validate_python(record["made_with"]),
            _read_options(record["options"]),
            tuple(_read_case(entry) for entry in record["cases"]),
            _ABOUT_RUN.validate_python(
                {key: run[key] for key in ("started", "seconds", "command", "working_folder", "machine")}
                | {key: run["options"][key] for key in ("executor", "device_used")}
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):
        raise UsageError(
            f"{folder}: no finished part is there; give the folders shard-I-of-N that `segment --shard I/N` ended, and "
            "run that again where it was stopped"
        ) from None


_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_COUNT = TypeAdapter(Annotated[int, Field(ge=0, lt=2**31)], config=_STRICT)
_DIGEST, _DIGEST_OR_NONE = TypeAdapter(Digest), TypeAdapter(Literal[""] | Digest)
_Plain = Text | float | bool | None
_ABOUT_RUN = TypeAdapter(dict[str, _Plain | dict[str, _Plain | dict[Text, _Plain]]], config=_STRICT)
"""What of run.json comes into another run.json: two levels, as the machine has."""
_MADE_WITH = TypeAdapter(dict[str, _Plain | list[_Plain]], config=_STRICT)
_IMAGES = TypeAdapter(dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]], config=_STRICT)
_TEXT = TypeAdapter(Text)
_PATHS, _CHANNEL = TypeAdapter(list[Text], config=_STRICT), TypeAdapter(int | None, config=_STRICT)
_OPTIONS = TypeAdapter(SegmentOptions)


def _read_options(options: Mapping[str, Any]) -> SegmentOptions:
    """ValueError or TypeError where they are no options."""
    given = SegmentOptions(**{**options, "models": tuple(options["models"])})
    found = _OPTIONS.validate_json(json.dumps(asdict(given)), strict=True)
    if not 1 <= found.max_voxels <= MOST_VOXELS:
        raise ValueError(found.max_voxels)
    return found


def _read_case(entry: Mapping[str, Any]) -> ShardCase:
    case_id, folder, layout = (_TEXT.validate_python(entry[key]) for key in ("case", "folder", "layout"))
    if Path(folder).name != folder or folder in ("", ".."):
        raise ValueError(folder)  # it would lie elsewhere
    images = {
        modality: ImageSource.named(_PATHS.validate_python(names), _CHANNEL.validate_python(channel))
        for modality, (names, channel) in _IMAGES.validate_python(entry["images"]).items()
    }
    row, mask = (
        ReportRow.from_json(entry["row"], case_id, folder),
        _DIGEST_OR_NONE.validate_python(entry["mask_sha256"]),
    )
    case = Case(case_id=case_id, folder=Path(), layout=layout, layout_reason="", images=images, reference=None)
    return ShardCase(_COUNT.validate_python(entry["index"]), case, folder, row, mask)
