"""Errors that the library raises on purpose.

SegmentationError            the root; its text is one sentence for a person: where, what value, what to do
├── InputError               something about one patient's files: costs that patient's row, never the run
├── ConventionError          a label convention is unknown, lossy, or cannot be decided
├── CheckpointError          a model file is missing, damaged or does not fit
├── TrainingError            a training run cannot go on
└── UsageError               the run cannot start: an option, a path, a recipe
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from enum import Enum, auto


def few(items: Iterable[object], most: int = 5) -> str:
    """Join the first few of many things, for a sentence that stays one line.

    Twelve numbers give "1, 2, 3, 4, 5 and 7 more".
    """
    listed = [str(item) for item in items]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


class Mend(Enum):
    """Fix of a fault, where its words depend on the reader.

    Users of the command line have options and folders, those of the page have neither. The words for the command line
    are in ``COMMAND_LINE``, those for the page in `pipeline.web.compute.advice`. A fix that is the same for both is
    written out in its error.
    """

    ADD_IMAGE = auto()
    ADD_IMAGE_OR_TAKE_ZEROS = auto()
    NAME_CONVENTION = auto()
    NAME_CONVENTION_TO_SCORE = auto()
    WRITE_ANOTHER_CONVENTION = auto()
    CHECK_HEADER = auto()
    CHECK_SLICES = auto()
    NAME_AS_A_LAYOUT = auto()
    MOVE_TO_ITS_PATIENT = auto()
    PART_THE_PATIENTS = auto()
    PREPARE = auto()
    STRIP = auto()
    FREE_MEMORY = auto()
    REPORT = auto()


COMMAND_LINE: Mapping[Mend, str] = {
    Mend.ADD_IMAGE: "add the file, choose --missing skip, or name another model",
    Mend.ADD_IMAGE_OR_TAKE_ZEROS: "add the file, choose --missing zero or skip, or name another model",
    Mend.NAME_CONVENTION: "name its convention with --convention",
    Mend.NAME_CONVENTION_TO_SCORE: "it will not be scored, name its convention with --convention",
    Mend.WRITE_ANOTHER_CONVENTION: "choose another with --convention",
    Mend.CHECK_HEADER: "check the header, or raise --max-voxels of `segment`",
    Mend.CHECK_SLICES: "check the slices, or raise --max-voxels of `segment`",
    Mend.NAME_AS_A_LAYOUT: "see the layouts in README, or give your own with --layout",
    Mend.MOVE_TO_ITS_PATIENT: "move it to that patient's folder",
    Mend.PART_THE_PATIENTS: (
        "keep one patient's files in a folder, or name them: `segment FOLDER --t1 FILE --t1c FILE --t2 FILE`"
    ),
    Mend.PREPARE: "run with --prepare auto",
    Mend.STRIP: "install the extra `raw` (deepbet), or give brain masks with --brain-mask",
    Mend.FREE_MEMORY: "free some, or use fewer processes",
    Mend.REPORT: "please report it (--debug shows where)",
}
"""Each fix in the words of the command line."""


def advise(fault: str, mend: Mend, words: Mapping[Mend, str] = COMMAND_LINE) -> str:
    """Return the sentence of a fault with its fix in the reader's words."""
    return f"{fault}; {words[mend]}"


class SegmentationError(Exception):
    """Root of all errors raised on purpose; ``str(error)`` is one line.

    It names place, value and fix.

    Parameters
    ----------
    fault : str
        The sentence, without the fix where ``mend`` is given.
    mend : Mend, optional
        The fix, where its words depend on the reader.
    """

    def __init__(self, fault: str = "", mend: Mend | None = None) -> None:
        super().__init__(fault if mend is None else advise(fault, mend))
        self.fault, self.mend = fault, mend


class InputError(SegmentationError):
    """Fault of a patient's file or folder, which cannot be used as it is."""


class ConventionError(SegmentationError):
    """Fault of a label convention.

    It is unknown, loses information, or cannot be decided from the evidence.
    """


class CheckpointError(SegmentationError):
    """Fault of a model file.

    It is missing, damaged, or does not fit the case or the other models.
    """


class TrainingError(SegmentationError):
    """Fault of a training run, which cannot go on.

    Its numbers are not finite.
    """


class UsageError(SegmentationError):
    """Fault of the command: an option, a path or a recipe.

    The run cannot start.
    """


_DISK_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "mend its permissions",
}


def explain(error: BaseException, subject: str = "", words: Mapping[Mend, str] = COMMAND_LINE) -> str:
    """Return any exception as one sentence.

    Parameters
    ----------
    error : BaseException
        The sentence of a :class:`SegmentationError` is its own. Of others at most 300 characters are kept.
    subject : str, optional
        Name of the case, which begins the sentence. Files are then called by their names alone, without folders.
    words : Mend -> str, optional
        Each fix in the reader's words; those of the command line without it.
    """
    if isinstance(error, SegmentationError):
        return str(error) if error.mend is None else advise(error.fault, error.mend, words)
    where = f"{subject}: " if subject else ""
    if isinstance(error, MemoryError):
        return advise(f"{where}not enough memory for this case", Mend.FREE_MEMORY, words)
    if isinstance(error, OSError):
        if isinstance(error.filename, str | bytes):
            file = os.fsdecode(error.filename)
            where += f"{os.path.basename(file) if subject else file}: "
        fix = _DISK_FIXES.get(error.errno or 0, "mend that")
        return f"{where}{error.strerror or error}; {fix}, and run it again"
    text = " ".join(str(error).split())[:300]
    return advise(f"{where}unexpected {type(error).__name__}: {text}", Mend.REPORT, words)


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """Return ``" (did you mean NAME?)"`` for an error; empty where no name is alike.

    A name that begins with the given text, or the other way round, is alike, too; the shortest of them is meant.
    """
    from difflib import get_close_matches

    there = list(names)
    alike = [name for name in there if name.startswith(given) or given.startswith(name)]
    begun = sorted(alike, key=len) if len(given) > 3 else []
    meant = begun or get_close_matches(given, there, n=1, cutoff=0.6)
    return f" (did you mean {meant[0]}?)" if meant else ""
