"""Record of one DICOM file: its image, and the place of that.

No person's name is in it. Descriptions lose the words of the names that the file holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.io.dicom.dataset import factor_of, items_of, number_of, numbers_of, open_dataset, text_of, texts_of
from data.io.stream import refuse
from data.visible import visible

_PERSONS = (
    *("PatientName", "PatientID", "PatientBirthDate", "OtherPatientNames", "PatientBirthName"),
    *("PatientMotherBirthName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"),
)
_NUMBERS = {
    "tr": "RepetitionTime",
    "te": "EchoTime",
    "ti": "InversionTime",
    "b": "DiffusionBValue",
    "flip": "FlipAngle",
    "echo": "EchoNumbers",
    "acquisition": "AcquisitionNumber",
    "phase": "TemporalPositionIdentifier",
}
_WORDS = ("SeriesDescription", "ProtocolName", "SequenceName", "ScanningSequence", "SequenceVariant", "ScanOptions")
_DATES = ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate")
_TAGS = (
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "StudyDate", "Modality", "SeriesNumber", "InstanceNumber", "ImageType"),
    *("MRAcquisitionType", "ContrastBolusAgent", "ContrastBolusAgentSequence", "BurnedInAnnotation"),
    *("EchoPulseSequence", "InversionRecovery", "PulseSequenceName", "DerivationDescription", "Manufacturer"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *_PERSONS,
    *_WORDS,
    *_NUMBERS.values(),
    *_DATES,
)
_FEW_LETTERS = 3
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
Vector = tuple[float, ...]


@dataclass(frozen=True)
class Frame:
    """Place and scaling of one picture.

    Parameters
    ----------
    position, orientation, spacing : tuples of float or None
        ImagePositionPatient, ImageOrientationPatient and PixelSpacing, in mm in the LPS world; None where not said.
    scaling : (slope, intercept)
        NaN where the file has one that is no number.
    kind : tuple
        Echo time, b-value, inversion time and kind of image: pictures of one volume have one.
    """

    position: Vector | None
    orientation: Vector | None
    spacing: Vector | None
    scaling: tuple[float, float]
    kind: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """Header of one DICOM file in plain values, without a person's name.

    Parameters
    ----------
    path : Path
    patient : str
        First 10 hexadecimal digits of the SHA-256 of PatientID; of StudyInstanceUID where the file has none.
    patient_id : str
        PatientID itself, which is shown only on request.
    description : str
        SeriesDescription without the words of names.
    words : mapping of str to str
        Texts that tell the sequence, as they are in the file; for the rules alone.
    numbers : mapping of str to float
        tr, te, ti (ms) and others; what is missing is absent.
    frames : tuple of Frame
        One for each picture.
    """

    path: Path
    patient: str
    patient_id: str = field(repr=False)
    study: str
    series: str
    instance: str
    sop_class: str
    frame_of_reference: str
    study_date: str
    date: str
    modality: str
    number: int | None
    description: str
    words: Mapping[str, str] = field(repr=False)
    numbers: Mapping[str, float]
    image_type: tuple[str, ...]
    acquisition: str
    contrast: str | None
    burned_in: bool
    rows: int
    columns: int
    n_frames: int
    samples: int
    photometric: str
    bits: tuple[int, int, int]
    signed: bool
    padding: int | None
    thickness: float | None
    syntax: str
    frames: tuple[Frame, ...]

    @property
    def shown(self) -> str:
        """Name of its series in sentences."""
        number = "without a number" if self.number is None else str(self.number)
        return f"series {number} {self.description!r}" if self.description else f"series {number}"


def read_record(path: Path) -> Record:
    """Read the header of a DICOM file.

    It is kept, and read again only where the file has changed.

    Raises
    ------
    data.errors.InputError
        As :func:`data.io.dicom.dataset.open_dataset` does.
    """
    try:
        status = path.stat()
        return _read_record(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return _read_record(path, 0, 0)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged element makes pydicom raise, or us of it
        refuse(Path("a DICOM file"), f"its header is damaged ({type(error).__name__})", "export it again")


@lru_cache(maxsize=2**14)
def _read_record(path: Path, _time: int, _size: int) -> Record:
    dataset = open_dataset(path, "a DICOM file", _TAGS)
    meta = getattr(dataset, "file_meta", {})
    shared = items_of(dataset, "SharedFunctionalGroupsSequence")[:1]
    per_frame = [_Groups(item, *shared) for item in items_of(dataset, "PerFrameFunctionalGroupsSequence")]
    first = per_frame[0] if per_frame else _Groups(*shared)
    names = _names(dataset)
    patient_id = text_of(dataset, "PatientID")
    study = text_of(dataset, "StudyInstanceUID")
    words = {keyword: text_of(dataset, keyword) for keyword in (*_WORDS, "PulseSequenceName", "EchoPulseSequence")}
    numbers = {name: _first(first, dataset, keyword) for name, keyword in _NUMBERS.items()}
    numbers["tr"] = numbers["tr"] or None
    numbers["te"] = number_of(first.get("MREchoSequence"), "EffectiveEchoTime") or numbers["te"]
    numbers["ti"] = _inversion(first) or numbers["ti"]
    image_type = texts_of(first.get("MRImageFrameTypeSequence"), "FrameType") or texts_of(dataset, "ImageType")
    return Record(
        path=path,
        patient=hashlib.sha256((patient_id or study).encode("utf-8", "surrogatepass")).hexdigest()[:10],
        patient_id=patient_id if visible(patient_id) == patient_id else "",
        study=study,
        series=_uid(dataset, "SeriesInstanceUID"),
        instance=_uid(dataset, "SOPInstanceUID"),
        # A DICOMDIR says what it is in its meta information alone.
        sop_class=text_of(dataset, "SOPClassUID") or text_of(meta, "MediaStorageSOPClassUID"),
        frame_of_reference=text_of(dataset, "FrameOfReferenceUID"),
        study_date=text_of(dataset, "StudyDate"),
        date=next(filter(None, (text_of(dataset, keyword)[:8] for keyword in _DATES)), ""),
        modality=text_of(dataset, "Modality"),
        number=_whole(dataset, "SeriesNumber"),
        description=_without(words["SeriesDescription"] or words["ProtocolName"], names),
        words=words,
        numbers={name: value for name, value in numbers.items() if value is not None},
        image_type=tuple(part.upper() for part in image_type),
        acquisition=text_of(dataset, "MRAcquisitionType").upper(),
        contrast=_contrast(dataset),
        burned_in=text_of(dataset, "BurnedInAnnotation").upper() == "YES",
        rows=_whole(dataset, "Rows") or 0,
        columns=_whole(dataset, "Columns") or 0,
        n_frames=_whole(dataset, "NumberOfFrames") or 1,
        samples=_whole(dataset, "SamplesPerPixel") or 1,
        photometric=re.sub(r"[^A-Z0-9_ ]", "?", text_of(dataset, "PhotometricInterpretation").upper())[:16],
        bits=_bits(dataset),
        signed=_whole(dataset, "PixelRepresentation") == 1,
        padding=_whole(dataset, "PixelPaddingValue"),
        thickness=_first(first, dataset, "SliceThickness"),
        syntax=_uid(meta, "TransferSyntaxUID") or ("" if dataset.original_encoding[1] else _BIG_ENDIAN),
        frames=_frames(dataset, per_frame),
    )


class _Groups:
    """Functional groups of a frame, before those that all frames share.

    One that is not there is empty.
    """

    def __init__(self, *datasets: Any) -> None:
        self._datasets = datasets

    def get(self, keyword: str) -> Any:
        """Return the only item of a group."""
        return next((items[0] for dataset in self._datasets if (items := items_of(dataset, keyword))), {})


_IN_GROUPS = {
    "RepetitionTime": "MRTimingAndRelatedParametersSequence",
    "FlipAngle": "MRTimingAndRelatedParametersSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "SliceThickness": "PixelMeasuresSequence",
}


def _first(groups: _Groups, dataset: Any, keyword: str) -> float | None:
    """Return a number of the first frame's groups, or else of the file itself."""
    inner = number_of(groups.get(_IN_GROUPS[keyword]), keyword) if keyword in _IN_GROUPS else None
    return number_of(dataset, keyword) if inner is None else inner


def _inversion(groups: _Groups) -> float | None:
    times = texts_of(groups.get("MRModifierSequence"), "InversionTimes")
    try:
        return float(times[0]) if times else None
    except ValueError:
        return None


def _frames(dataset: Any, per_frame: list[_Groups]) -> tuple[Frame, ...]:
    if not per_frame:
        whole = (_whole(dataset, "NumberOfFrames") or 1) == 1
        return (_frame(dataset, dataset, dataset, dataset, _kind(dataset, dataset, dataset)),) if whole else ()
    frames = []
    for groups in per_frame:
        kind = _kind(groups.get("MREchoSequence"), groups.get("MRDiffusionSequence"), {})
        kind = (*kind, *texts_of(groups.get("MRImageFrameTypeSequence"), "FrameType")[2:])
        frames.append(
            _frame(
                groups.get("PlanePositionSequence"),
                groups.get("PlaneOrientationSequence"),
                groups.get("PixelMeasuresSequence"),
                groups.get("PixelValueTransformationSequence"),
                kind,
            )
        )
    return tuple(frames)


def _frame(position: Any, orientation: Any, measures: Any, scaling: Any, kind: tuple[Any, ...]) -> Frame:
    return Frame(
        numbers_of(position, "ImagePositionPatient", 3),
        numbers_of(orientation, "ImageOrientationPatient", 6),
        numbers_of(measures, "PixelSpacing", 2),
        (factor_of(scaling, "RescaleSlope", 1.0), factor_of(scaling, "RescaleIntercept", 0.0)),
        kind,
    )


def _kind(echo: Any, diffusion: Any, file: Any) -> tuple[Any, ...]:
    te = number_of(echo, "EffectiveEchoTime") or number_of(echo, "EchoTime")
    return (
        te,
        number_of(diffusion, "DiffusionBValue"),
        number_of(file, "InversionTime"),
        number_of(file, "TemporalPositionIdentifier"),
        *texts_of(file, "ImageType")[2:3],
    )


def _whole(dataset: Any, keyword: str) -> int | None:
    number = number_of(dataset, keyword)
    return None if number is None or number != int(number) else int(number)


def _bits(dataset: Any) -> tuple[int, int, int]:
    allocated = _whole(dataset, "BitsAllocated") or 0
    stored = _whole(dataset, "BitsStored") or allocated
    high = _whole(dataset, "HighBit")
    return allocated, stored, stored - 1 if high is None else high


def _uid(dataset: Any, keyword: str) -> str:
    """Return a UID.

    Of a text that is none it is a hash, for such a text may hold anything.
    """
    text = text_of(dataset, keyword)
    return text if re.fullmatch(r"[0-9.]{0,64}", text) else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _contrast(dataset: Any) -> str | None:
    """Return the contrast agent; empty where the element is, None where there is none."""
    if items_of(dataset, "ContrastBolusAgentSequence"):
        return "named"
    return text_of(dataset, "ContrastBolusAgent") if "ContrastBolusAgent" in dataset else None


def _names(dataset: Any) -> list[str]:
    """Return the words of the persons that a file names, longest first."""
    values = [text for keyword in _PERSONS for text in texts_of(dataset, keyword)]
    parts = {part for value in values for part in (value, *re.split(r"[\s^=,;._-]+", value))}
    return sorted((part for part in parts if len(part) >= _FEW_LETTERS), key=len, reverse=True)


def _without(text: str, names: list[str]) -> str:
    """Return a text without names.

    Short ones are taken out where they are words of their own. A text with control characters is none: in a damaged
    file it runs into the next elements, of which one is the name.
    """
    for name in names:
        word = re.escape(name)
        pattern = word if len(name) > _FEW_LETTERS else rf"(?<![^\W_]){word}(?![^\W_])"
        text = re.sub(pattern, "...", text, flags=re.IGNORECASE)
    return text[:64] if visible(text) == text else ""
