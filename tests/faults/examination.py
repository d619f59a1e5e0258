"""The undamaged patient as a scanner exports it: DICOM files that a fault may damage."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.patient import IMAGES, SPACING_MM, Array, Patient, healthy
from tests.faults.registry import CannotMake

ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Columns go to the left and rows to the back, as the array's first two axes do: no axis is turned."""
WORDS: dict[str, tuple[str, float, float, float | None]] = {
    "t1": ("t1_se_tra", 600.0, 10.0, None),
    "t1c": ("t1_se_tra post gd", 600.0, 10.0, None),
    "t2": ("t2_tse_tra", 6000.0, 100.0, None),
    "flair": ("t2_flair_tra", 9000.0, 100.0, 2500.0),
}
"""Description, TR, TE and TI of each series; its number is its place here."""
_PATIENT = "MRN-000000"


@dataclass(frozen=True)
class Examination:
    """Four series of one patient, each one file; T1c may have a file for each of its slices.

    Parameters
    ----------
    folder : Path
        Of the export.
    patient_id : str
    """

    folder: Path
    patient_id: str

    @property
    def case(self) -> str:
        """The case's name: nobody's."""
        return self.case_of(self.patient_id)

    @staticmethod
    def case_of(person: str, study: str | None = None) -> str:
        """Name of a case: hashes of PatientID (of the study where there is none) and StudyInstanceUID."""
        from tests.dicom_files import uid

        study = study or uid("study", "study")
        first, last = (hashlib.sha256(word.encode()).hexdigest() for word in (person or study, study))
        return f"{first[:10]}-{last[:6]}"

    def slices(self) -> list[Path]:
        """Files of T1c, from the lowest upwards."""
        folder = self.folder / "t1c"
        return sorted(folder.iterdir()) if folder.is_dir() else [folder]

    def files(self) -> list[Path]:
        """All files of the four series."""
        return [*self.slices(), *(self.one(what) for what in ("t1", "t2", "flair"))]

    def one(self, what: str) -> Path:
        """The only file of another series."""
        return self.folder / what

    def edit(self, paths: Iterable[Path], change: Callable[[Any], None] | None = None, /, **tags: Any) -> None:
        """Set elements of files (None takes one out), then change what a function changes."""
        import pydicom

        for path in paths:
            dataset = pydicom.dcmread(path, force=True)
            for keyword, value in tags.items():
                if value is None:
                    del dataset[keyword]
                else:
                    setattr(dataset, keyword, value)
            if change is not None:
                change(dataset)
            dataset.save_as(path)

    def text(self, paths: Iterable[Path], keyword: str, value: str) -> None:
        """Set an element of numbers to a text that is none, past the library's checks."""
        import pydicom

        tag = pydicom.datadict.tag_for_keyword(keyword)
        assert tag is not None
        group, element = tag >> 16, tag & 0xFFFF
        packed = value.encode() + b" " * (len(value) % 2)
        head = group.to_bytes(2, "little") + element.to_bytes(2, "little") + b"DS"
        for path in paths:
            if head not in path.read_bytes():
                self.edit([path], **{keyword: 1})
            content = path.read_bytes()
            at = content.index(head)
            length = int.from_bytes(content[at + 6 : at + 8], "little")
            packed_length = len(packed).to_bytes(2, "little")
            path.write_bytes(content[: at + 6] + packed_length + packed + content[at + 8 + length :])

    def encode(self, syntax: str) -> None:
        """Store T1c in another transfer syntax."""
        import pydicom

        from tests.dicom_files import compress, write

        for path in self.slices():
            read = pydicom.dcmread(path)
            picture = read.pixel_array
            dataset = pydicom.Dataset({element.tag: element for element in read})
            if pydicom.uid.UID(syntax).is_encapsulated:
                compress(dataset, picture, syntax)
            elif syntax == pydicom.uid.ExplicitVRBigEndian:
                dataset.PixelData = picture.astype(">u2").tobytes()
            path.unlink()
            write(dataset, path, syntax)

    def add_series(self, name: str, pictures: Array, **tags: Any) -> list[Path]:
        """One more series of pictures, (slices, rows, columns), on T1c's grid."""
        return _write_slices(self.folder / name, pictures, name, **{"patient": self.patient_id, **tags})


def examine(patient: Patient, *, sliced: bool = False) -> Examination:
    """Put an examination into a patient's folder, in place of what is there."""
    for path in sorted(patient.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return examine_again(patient.name, patient.folder, sliced=sliced)


def examine_again(name: str, folder: Path, *, sliced: bool = False) -> Examination:
    """Put one more examination, of another id, into a folder."""
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10**6
    made = Examination(folder, f"MRN-{number:06d}")
    for place, content in _stored(sliced).items():
        path = made.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace(_PATIENT.encode(), made.patient_id.encode()))
    return made


@cache
def _stored(sliced: bool) -> dict[str, bytes]:
    """Bytes of the files of the undamaged examination, by their paths in its folder."""
    try:
        from tests.dicom_files import write_enhanced
    except ModuleNotFoundError:
        raise CannotMake("the extra dicom is not installed") from None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what in IMAGES:
            description, tr, te, ti = WORDS[what]
            tags: dict[str, Any] = {
                "SeriesNumber": list(WORDS).index(what) + 1,
                "SeriesDescription": description,
                "patient": _PATIENT,
            }
            pictures = healthy().arrays[what].transpose(2, 1, 0)
            if what == "t1c" and sliced:
                _write_slices(folder / what, pictures, what, **tags)
            else:
                write_enhanced(
                    folder / what,
                    pictures,
                    what,
                    orientation=ORIENTATION,
                    first=_first(),
                    spacing=(SPACING_MM,) * 3,
                    timing=(tr, te, ti),
                    EchoPulseSequence="SPIN",
                    **tags,
                )
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _first() -> Sequence[float]:
    """Centre of the first voxel in DICOM's world."""
    place: list[float] = (np.diag([-1.0, -1.0, 1.0]) @ healthy().affine[:3, 3]).tolist()
    return place


def _write_slices(folder: Path, pictures: Array, series: str, **tags: Any) -> list[Path]:
    from tests.dicom_files import write_series

    times = {"RepetitionTime": 600.0, "EchoTime": 10.0, "ScanningSequence": "SE"}
    spacing = (SPACING_MM,) * 3
    where = {"orientation": ORIENTATION, "first": _first(), "spacing": spacing}
    made = write_series(folder, pictures, series, **where, **{**times, **tags})  # type: ignore[arg-type]
    # Under names in the order of their places, so that a fault can name one; other tests shuffle them.
    for number, path in enumerate(made):
        path.rename(path.with_name(f"s{number:02d}"))
    return sorted(folder.iterdir())
