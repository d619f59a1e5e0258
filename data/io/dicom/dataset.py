"""Headers of DICOM files, opened so that no header decides the memory taken.

pydicom parses them. It is imported when the first DICOM file is met.
"""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from data.errors import InputError, UsageError
from data.io.stream import open_regular, printable, refuse

HEADER_BYTES = 2**26
"""A header lies within so many bytes: one of 4000 frames has some 20 MB."""
_HEAD = 2**12
_DEFLATED = re.compile(rb"1\.2\.840\.10008\.1\.2\.1\.99(?![0-9.])")
_WITHOUT_PREAMBLE = re.compile(
    rb"[\x02\x08]\x00[\x00\x01\x05\x08\x16]\x00(?:[A-Z]{2}|[\x02-\x40]\x00\x00\x00)"
    rb"|\x00\x08\x00[\x00\x01\x05\x08\x16][A-Z]{2}"  # big-endian
)


def is_dicom(head: bytes) -> bool:
    """Tell whether a file's first 132 bytes are those of DICOM.

    Old files lack the preamble and begin with the first element.
    """
    return head[128:132] == b"DICM" or _WITHOUT_PREAMBLE.match(head) is not None


class Bounded(io.RawIOBase):
    """View on a file in which no read asks for more than is there.

    Python allocates what a read asks for, and a header may ask for 4 GB.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__()
        self._file, self._size = file, size

    def read(self, n: int | None = -1) -> bytes:
        """Read ``n`` bytes, or as many as are left."""
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if n is None or n < 0 else min(n, left))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the file; its end is that of the view."""
        if whence == io.SEEK_END:
            return self._file.seek(self._size + offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place in the file."""
        return self._file.tell()


def pydicom_or_refuse() -> ModuleType:
    """Import pydicom, made silent: its warnings quote values, names among them.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import pydicom
    except ModuleNotFoundError:
        raise UsageError("a DICOM file is there, and pydicom is not installed; install the extra `dicom`") from None
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    return pydicom


def open_dataset(path: Path, shown: str, tags: Sequence[str] | None, *, pixels: bool = False) -> Any:
    """Parse a DICOM file.

    Parameters
    ----------
    path : Path
    shown : str
        Name of the file in sentences: its own may hold a person's.
    tags : sequence of str or None
        Keywords that are kept; all without it.
    pixels : bool
        Keep the pixel data too, as bytes.

    Returns
    -------
    pydicom.dataset.FileDataset

    Raises
    ------
    InputError
        It is no DICOM file, is damaged, or is packed as a whole.
    """
    pydicom = pydicom_or_refuse()
    label = Path(shown)
    try:
        with open_regular(path) as (file, size):
            head = file.read(_HEAD)
            if not is_dicom(head):
                refuse(label, "is no DICOM file", "export the examination again")
            if _DEFLATED.search(head):
                refuse(label, "is packed as a whole (deflated)", "export it in another transfer syntax")
            file.seek(0)
            view = Bounded(file, size if pixels else min(size, HEADER_BYTES))
            keep = None if tags is None else [*tags, *(["PixelData"] if pixels else [])]
            return pydicom.dcmread(view, stop_before_pixels=not pixels, force=True, specific_tags=keep)
    except InputError as error:
        raise InputError(str(error).replace(printable(path), shown)) from None
    except Exception as error:  # pydicom raises whatever it meets; its words may quote the file
        refuse(label, f"its DICOM header is damaged ({type(error).__name__})", "export it again")


def text_of(dataset: Any, keyword: str) -> str:
    """Return an element as text; empty where it is missing or cannot be read."""
    return " ".join(texts_of(dataset, keyword))


def texts_of(dataset: Any, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as texts.

    There are none where it is missing or cannot be read.
    """
    try:
        value = dataset.get(keyword)
        if value is None:
            return ()
        values = value if _is_list(value) else [value]
        return tuple(text for item in values if (text := " ".join(str(item).split())))
    except Exception:  # values that are not what their type says
        return ()


def numbers_of(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers; None where the element has others."""
    try:
        value = dataset.get(keyword)
        numbers = tuple(float(item) for item in (value if _is_list(value) else [value]))
    except Exception:  # missing, or no number
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def number_of(dataset: Any, keyword: str) -> float | None:
    """Return a number; None where the element is missing or none."""
    numbers = numbers_of(dataset, keyword, 1)
    return numbers[0] if numbers else None


def factor_of(dataset: Any, keyword: str, usual: float) -> float:
    """Return a number by which values are scaled.

    It is ``usual`` where the element is missing or empty, and NaN where it holds no finite number.
    """
    try:
        if dataset.get(keyword) in (None, ""):
            return usual
    except Exception:  # no number, or damaged
        return math.nan
    number = number_of(dataset, keyword)
    return math.nan if number is None else number


def items_of(dataset: Any, keyword: str) -> list[Any]:
    """Return the items of a sequence; empty where there is none."""
    try:
        return [item for item in dataset.get(keyword) or [] if hasattr(item, "get")]
    except Exception:  # damaged
        return []


def _is_list(value: Any) -> bool:
    # A person's name is a sequence of letters to Python, and no list of values.
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
