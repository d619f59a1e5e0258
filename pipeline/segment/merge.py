"""Merging of the parts that ``segment --shard`` left into one result.

It equals the result of an undivided run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UsageError
from data.find.recognise import ConventionChoice
from data.folder_names import unique_folder_names
from data.io.write import atomic_write
from data.output_names import REPORT
from data.regular_file import open_regular_file
from pipeline.execute.lock import output_lock
from pipeline.score.tables import write_table
from pipeline.segment.commit import new_files
from pipeline.segment.output import clean_output, own_results
from pipeline.segment.results import report_of, write_results
from pipeline.segment.shards import FinishedShard, ShardCase, read_shard
from pipeline.segment.state import read_state, results_are_there
from pipeline.segment.task import CaseTask, remove_results, require_own_mask, result_names, state_path

if TYPE_CHECKING:
    import pandas as pd

LISTED = 5
"""So many names stand in a sentence."""


def merge_shards(
    folders: Sequence[Path | str],
    output: Path | str,
    *,
    interactive: Collection[str] = (),
    command: str = "",
) -> pd.DataFrame:
    """Merge all parts of a run into one result.

    Masks, tables, page and run.json come in the order of the undivided run.

    Parameters
    ----------
    folders : sequence of Path
        Those of all parts, in any order.
    output : Path
        Made if missing. Neither one of the parts nor around or inside one: `evaluate` would find each mask twice.
    interactive, command
        As for :func:`pipeline.segment.run.segment_cases`, which returns the same.

    Raises
    ------
    data.errors.UsageError
        Before anything is written: parts are missing, there twice, unfinished, changed since, or of different runs.
    OSError
        A file could not be written; run it again.

    Notes
    -----
    Files come as hard links where the file system can, else as copies; a patient's files get their places together. The
    pipeline never writes into an existing file; an editor that does would change both folders.
    """
    started, output = time.time(), Path(output)
    parts = [read_shard(Path(folder)) for folder in folders]
    if not parts:
        raise UsageError("merge: no folder is given; give those of all parts, such as parts/shard-*")
    _require_outside(parts, output)
    _require_one_run(parts)
    found = sorted(((entry, part) for part in parts for entry in part.cases), key=lambda pair: pair[0].index)
    _require_each_once(found)
    _require_unchanged(found)
    if unknown := sorted(set(interactive) - {entry.case.case_id for entry, _ in found}):
        raise UsageError(f"--interactive: no patient {_listed(unknown)} among the parts; report.csv lists them")
    options = parts[0].options
    tasks = [_task(entry, output, part) for entry, part in found]
    own = [task.folder for task in tasks]
    with output_lock(output), own_results(output, own), clean_output(output, own):
        for task in tasks:
            require_own_mask(task)
        for task, (entry, part) in zip(tasks, found, strict=True):
            _bring(task, part.folder, bool(entry.mask_sha256))
        report = report_of([entry.row for entry, _ in found])
        write_table(output / REPORT, report)
        how = asdict(options) | {key: _together(parts, key) for key in ("executor", "device_used")}
        write_results(output, tasks, report, how, command, started, interactive, _about(parts))
    return report


def _require_outside(parts: Sequence[FinishedShard], output: Path) -> None:
    top = output.resolve()
    for part in parts:
        folder = part.folder.resolve()
        if folder.is_relative_to(top) or top.is_relative_to(folder):
            raise UsageError(
                f"{output}: the part {part.folder} would lie with the merged result, and `evaluate` would find each "
                "mask twice; choose another --output"
            )


def _require_one_run(parts: Sequence[FinishedShard]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.shard.of != first.shard.of:
            raise UsageError(
                f"{part.folder} is part {part.shard}, but {first.folder} is part {first.shard}; give the parts "
                "of one run"
            )
        for what in dict.fromkeys((*first.made_with, *part.made_with)):
            ours, theirs = first.made_with.get(what), part.made_with.get(what)
            if ours != theirs:
                raise UsageError(
                    f"{part.folder} was made with {what} {theirs!r}, but {first.folder} with {ours!r}; run one of them "
                    "again as the other was"
                )
    _require_all_parts(parts)
    for part in parts[1:]:
        if (part.n_patients, part.patients) != (first.n_patients, first.patients):
            twice = [i for i, n in Counter(entry.case.case_id for p in parts for entry in p.cases).items() if n > 1]
            also = f", and {_listed(twice)} are in several parts" if twice else ""
            raise UsageError(
                f"{part.folder} is a part of {part.n_patients} patients, but {first.folder} of {first.n_patients}, or "
                f"of others{also}: the input has changed in between; run `segment --shard` again for all parts"
            )


def _require_all_parts(parts: Sequence[FinishedShard]) -> None:
    there: dict[int, Path] = {}
    for part in parts:
        if part.shard.number in there:
            names = [entry.case.case_id for entry in part.cases]
            raise UsageError(
                f"{part.folder} and {there[part.shard.number]} are both part {part.shard}, with the same patients"
                f"{' (' + _listed(names) + ')' if names else ''}; give one of them"
            )
        there[part.shard.number] = part.folder
    n_parts, total = parts[0].shard.of, parts[0].n_patients
    # Not all that are missing: a part may say that it is one of a thousand millions.
    if missing := list(islice((number for number in range(1, n_parts + 1) if number not in there), LISTED)):
        unlisted = n_parts - len(there) - len(missing)
        lacking = total - sum(len(part.cases) for part in parts)
        raise UsageError(
            f"part {', '.join(f'{n}/{n_parts}' for n in missing)}"
            f"{f' and {unlisted} more' if unlisted else ''} is missing, and with it {lacking} of "
            f"{total} patients; give its folder, or run `segment --shard {missing[0]}/{n_parts}`"
        )


def _require_each_once(found: Sequence[tuple[ShardCase, FinishedShard]]) -> None:
    """Refuse parts that share ids, places or folders.

    The parts' own account is not trusted.
    """
    for what, names in (
        ("are in several parts", [entry.case.case_id for entry, _ in found]),
        ("would share an output folder with others", [entry.folder.casefold() for entry, _ in found]),
    ):
        counts = Counter(names)
        if twice := [entry.case.case_id for (entry, _), name in zip(found, names, strict=True) if counts[name] > 1]:
            raise UsageError(f"{_listed(dict.fromkeys(twice))} {what}; run `segment --shard` again for all parts")
    ids = [entry.case.case_id for entry, _ in found]
    folders = unique_folder_names(ids)
    wanted = [(index, folders[case_id]) for index, case_id in enumerate(ids)]
    n_patients = found[0][1].n_patients if found else 0
    if len(ids) != n_patients or [(entry.index, entry.folder) for entry, _ in found] != wanted:
        raise UsageError(
            "the parts are not what their runs left (patients are missing, or have other folders); run "
            "`segment --shard` again"
        )


def _require_unchanged(found: Sequence[tuple[ShardCase, FinishedShard]]) -> None:
    changed = [entry.case.case_id for entry, part in found if not _is_unchanged(entry, part)]
    if changed:
        raise UsageError(
            f"the results of {_listed(changed)} are not what the part's run left; run its `segment --shard` again"
        )


def _is_unchanged(entry: ShardCase, part: FinishedShard) -> bool:
    task = _task(entry, part.folder, part)
    state = read_state(state_path(task))
    if state is None or not entry.mask_sha256:
        return state is None and not entry.mask_sha256
    return state.mask_sha256 == entry.mask_sha256 and results_are_there(task, state)


def _task(entry: ShardCase, output: Path, part: FinishedShard) -> CaseTask:
    return CaseTask(entry.case, entry.folder, output, part.options, ConventionChoice(None, ""))


def _bring(task: CaseTask, source: Path, finished: bool) -> None:
    """Bring the case's files from its part.

    Where the part has none, those of an earlier merge are removed.
    """
    if not finished:
        remove_results(task)
        return
    there = replace(task, output=source)
    names, state = result_names(there), read_state(state_path(there))
    if state is None:  # gone since it was checked
        raise UsageError(f"{source}: changed while it was merged; run it again")
    with new_files(task) as files:
        for name in state.files:
            _link_or_copy(source / name, files.path(names[name]))
        files.commit(state)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one that has no links, or too many of this file
        with open_regular_file(source) as (file, _), atomic_write(target) as copy:
            shutil.copyfileobj(file, copy)


def _together(parts: Sequence[FinishedShard], key: str) -> str:
    return ", ".join(dict.fromkeys(str(part.run[key]) for part in parts))


def _about(parts: Sequence[FinishedShard]) -> Mapping[str, object]:
    """Return the machines on which the parts were made, for run.json."""
    machines = [part.run["machine"] for part in parts]
    ordered = sorted(parts, key=lambda part: part.shard.number)
    return {
        "machine": machines[0] if all(machine == machines[0] for machine in machines) else None,
        "shards": [{"shard": str(part.shard), "folder": str(part.folder)} | part.run for part in ordered],
    }


def _listed(names: Collection[str]) -> str:
    shown = [repr(name) for name in list(names)[:LISTED]]
    return ", ".join(shown) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
