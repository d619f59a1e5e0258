"""Claim of a run on its output folder.

The folder lies apart from the inputs, is marked as our own, and is cleaned.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path

from data.case import Case
from data.errors import UsageError
from data.find.earlier_run import read_earlier_run
from data.output_names import LABEL_DESCRIPTIONS, PAGE, RESULTS, RUN_RECORD, STATE_FOLDER, TABLES, result_paths
from pipeline.execute.lock import remove_temporary_files
from pipeline.execute.own_folder import own_output
from pipeline.segment.commit import staging_folder


def require_apart(cases: Sequence[Case], output: Path, folders: Mapping[str, str]) -> None:
    """Refuse an output folder that lies among the inputs.

    A result could replace an image or a reference of the same name.
    """
    top = output.resolve()
    results = {top / name for name in folders.values()}
    for case in cases:
        sources = [*case.images.values(), *([case.reference] if case.reference else [])]
        inputs = {case.folder.resolve(), *(path.parent.resolve() for source in sources for path in source.paths)}
        around = inputs.union(*(path.parents for path in inputs))  # a patient's results around another's images, too
        if top in inputs or results & around:
            raise UsageError(f"{output}: results would lie among the files of {case.case_id}; choose another --output")


def own_results(output: Path, folders: Iterable[str], further: Sequence[Path] = ()) -> AbstractContextManager[None]:
    """Claim all paths that a run may replace and remove.

    ``further`` folders below ``output`` are claimed too.

    See :func:`pipeline.execute.own_folder.own_output`; ``folders`` are the cases'.
    """
    names = [*TABLES, RUN_RECORD, PAGE, STATE_FOLDER]
    names += [path.name for pattern in LABEL_DESCRIPTIONS for path in output.glob(pattern)]
    results = (path for folder in folders for what in RESULTS for path in result_paths(output, folder, what))
    # A link in the place of a case's folder costs that case its row, not the run.
    own = (path for path in results if path.parent == output or not path.parent.is_symlink())
    earlier = read_earlier_run(str(output)) is not None
    return own_output(
        output,
        chain((output / name for name in names), own, further),
        [output / STATE_FOLDER, *further],
        earlier=earlier,
    )


@contextmanager
def clean_output(output: Path, folders: Iterable[str]) -> Iterator[None]:
    """Remove leftovers of killed runs before the block, of killed workers after it.

    ``folders`` are the cases'.
    """
    own = [STATE_FOLDER, *folders]

    def clean() -> None:
        remove_temporary_files(output, own)
        shutil.rmtree(staging_folder(output), ignore_errors=True)

    clean()
    try:
        staging_folder(output).mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written to ({error.strerror}); choose another --output") from None
    try:
        yield
    finally:
        clean()
