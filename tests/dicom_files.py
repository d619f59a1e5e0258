"""Synthetic DICOM files: series and studies with the words and numbers of four vendors. Nothing of any patient."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
NAME, BIRTH = "Zyxwiak^Quirina^^Dr.", "19570231"
WORDS = [word for word in NAME.replace(".", "").split("^") if len(word) > 2] + [BIRTH, "MRN-0042", "Wolpertinger"]
"""What must stand in no output."""


def uid(*words: object) -> str:
    """Return a UID that follows from words, so that a test can name it."""
    return generate_uid(entropy_srcs=[str(word) for word in words])


def base_dataset(series: str, *, study: str = "study", patient: str = "MRN-0042", **tags: Any) -> Dataset:
    """Return the elements that all files of a series share."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = MRImageStorage
    ds.PatientName, ds.PatientBirthDate, ds.PatientID, ds.PatientSex = NAME, BIRTH, patient, "F"
    ds.ReferringPhysicianName = "Wolpertinger^Xaver"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study", study), uid("series", study, series)
    ds.FrameOfReferenceUID = uid("frame", study)
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240229", "101500", "1", "A1"
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "MR", 1, series
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.Manufacturer = "SIEMENS"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    for keyword, value in tags.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def write(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write a dataset with a preamble and its file meta information."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.save_as(path, enforce_file_format=True)


def write_series(
    folder: Path,
    voxels: np.ndarray,
    series: str,
    *,
    orientation: Sequence[float] = AXIAL,
    first: Sequence[float] = (-90.0, -80.0, -60.0),
    step: Sequence[float] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 5.0),
    syntax: UID = ExplicitVRLittleEndian,
    suffix: str = "",
    **tags: Any,
) -> list[Path]:
    """Write one file for each slice of voxels, (slices, rows, columns) of whole numbers; return their paths."""
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    way = np.cross(across, down) * spacing[2] if step is None else np.asarray(step)
    base = base_dataset(series, **tags)
    base.Rows, base.Columns = voxels.shape[1:]
    base.ImageOrientationPatient = [f"{value:.12g}"[:16] for value in orientation]
    base.PixelSpacing, base.SliceThickness = [spacing[0], spacing[1]], spacing[2]
    paths = []
    for index, picture in enumerate(voxels):
        ds = copy.copy(base)
        ds._dict = dict(base._dict)
        ds.InstanceNumber = index + 1
        ds.SOPInstanceUID = uid(base.SeriesInstanceUID, index)
        ds.ImagePositionPatient = [f"{value:.12g}"[:16] for value in np.asarray(first) + index * way]
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        kind = f"{order}{'i' if base.PixelRepresentation else 'u'}{base.BitsAllocated // 8}"
        ds.PixelData = picture.astype(kind).tobytes()
        ds["PixelData"].VR = "OW"
        if syntax.is_encapsulated:
            compress(ds, picture, syntax)
        # In an order and under names that say nothing of the place.
        path = folder / f"{(index * 7) % len(voxels) if len(voxels) % 7 else index:04d}{suffix}"
        write(ds, path, syntax)
        paths.append(path)
    return paths


def compress(ds: Dataset, picture: np.ndarray, syntax: str) -> None:
    """Compress a picture: RLE and JPEG-LS by pydicom, JPEG lossless and JPEG 2000 by ITK."""
    compressors = {"1.2.840.10008.1.2.4.70": "JPEG", "1.2.840.10008.1.2.4.90": "JPEG2000"}
    if syntax not in compressors:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(syntax, generate_instance_uid=False)
        return
    import tempfile

    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(f"{folder}/x.dcm")
        writer.UseCompressionOn()
        writer.SetCompressor(compressors[syntax])
        writer.Execute(sitk.GetImageFromArray(picture.astype(np.int16 if ds.PixelRepresentation else np.uint16)))
        made = pydicom.dcmread(f"{folder}/x.dcm")
    assert made.file_meta.TransferSyntaxUID == syntax
    ds.BitsStored, ds.HighBit = made.BitsStored, made.HighBit
    ds.PixelData = made.PixelData
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


def write_enhanced(
    path: Path,
    voxels: np.ndarray,
    series: str,
    *,
    orientation: Sequence[float] = AXIAL,
    first: Sequence[float] = (-90.0, -80.0, -60.0),
    spacing: tuple[float, float, float] = (1.0, 1.0, 5.0),
    timing: tuple[float | None, float | None, float | None] = (None, None, None),
    frame_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "M", "NONE"),
    **tags: Any,
) -> Path:
    """Write voxels as one enhanced multi-frame file; timing is TR, TE, TI in ms."""
    ds = base_dataset(series, **tags)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.InstanceNumber = EnhancedMRImageStorage, uid(ds.SeriesInstanceUID, "all"), 1
    ds.Rows, ds.Columns, ds.NumberOfFrames = voxels.shape[1], voxels.shape[2], voxels.shape[0]
    tr, te, ti = timing
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[spacing[0], spacing[1]], SliceThickness=spacing[2])]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(orientation))]
    shared.PixelValueTransformationSequence = [_item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")]
    shared.MRImageFrameTypeSequence = [_item(FrameType=list(frame_type))]
    if tr is not None:
        shared.MRTimingAndRelatedParametersSequence = [_item(RepetitionTime=tr)]
    if te is not None:
        shared.MREchoSequence = [_item(EffectiveEchoTime=te)]
    if ti is not None:
        shared.MRModifierSequence = [_item(InversionTimes=[ti])]
    ds.SharedFunctionalGroupsSequence = [shared]
    normal = np.cross(orientation[:3], orientation[3:]) * spacing[2]
    frames = []
    for index in range(voxels.shape[0]):
        place = [float(f"{value:.12g}") for value in np.asarray(first) + index * normal]
        frames.append(_item(PlanePositionSequence=[_item(ImagePositionPatient=place)]))
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.PixelData = voxels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    write(ds, path)
    return path


EXPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "t1": ("t1_se_tra", {"RepetitionTime": 600.0, "EchoTime": 10.0, "ScanningSequence": "SE"}),
    "t1c": ("t1_se_tra_KM", {"RepetitionTime": 600.0, "EchoTime": 10.0, "ScanningSequence": "SE"}),
    "t2": ("t2_tse_tra", {"RepetitionTime": 6000.0, "EchoTime": 100.0, "ScanningSequence": "SE"}),
    "flair": ("t2_flair", {"RepetitionTime": 9000.0, "EchoTime": 100.0, "InversionTime": 2500.0}),
}


def export_patient(patient: Path, root: Path, *, moved_mm: dict[str, float] | None = None) -> Path:
    """Export a phantom as a scanner does: folder, file names and descriptions bear the patient's name.

    ``moved_mm`` lays modalities so far to the left.
    """
    import nibabel as nib

    names = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"}
    for number, (role, (words, times)) in enumerate(EXPORTED.items(), 1):
        image: Any = nib.load(next(patient.glob(f"*-{names[role]}.nii.gz")))
        ras = nib.as_closest_canonical(image)
        voxels = np.asarray(ras.dataobj)[::-1, ::-1].transpose(2, 1, 0)  # rows to the back, columns to the left
        voxels = np.round(voxels / voxels.max() * 4000).astype(int)
        first = (np.diag([-1, -1, 1, 1]) @ ras.affine @ [voxels.shape[2] - 1, voxels.shape[1] - 1, 0, 1])[:3]
        first[0] += (moved_mm or {}).get(role, 0.0)
        folder = root / "ZYXWIAK_QUIRINA_19570231" / f"{role}"
        tags: dict[str, Any] = {
            **times,
            "SeriesNumber": number,
            "SeriesDescription": f"{words} Zyxwiak",
            "PatientBirthDate": BIRTH,
        }
        along, across, up = map(float, ras.header.get_zooms()[:3])
        for path in write_series(folder, voxels, role, first=first, spacing=(along, across, up), **tags):
            path.rename(path.with_name(f"ZYXWIAK.QUIRINA.MR.{path.name}.IMA"))
    return root


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


@dataclass(frozen=True)
class Made:
    """One series of a synthetic study: words, numbers, and the role that it has."""

    description: str
    preset: str
    role: str = ""
    tags: dict[str, Any] = field(default_factory=dict)


_SE, _TSE, _GR, _IR = (
    {"ScanningSequence": "SE", "SequenceVariant": "NONE", "MRAcquisitionType": "2D"},
    {"ScanningSequence": "SE", "SequenceVariant": ["SK", "SP"], "MRAcquisitionType": "2D"},
    {"ScanningSequence": "GR", "SequenceVariant": "SP", "MRAcquisitionType": "2D"},
    {"ScanningSequence": ["SE", "IR"], "SequenceVariant": ["SK", "SP", "MP"], "MRAcquisitionType": "2D"},
)
_GRIR = {"ScanningSequence": ["GR", "IR"], "SequenceVariant": ["SK", "SP", "MP"], "MRAcquisitionType": "3D"}
_EP = {"ScanningSequence": "EP", "SequenceVariant": "SK", "MRAcquisitionType": "2D"}


def _times(tr: float, te: float, ti: float | None = None) -> dict[str, Any]:
    return {"RepetitionTime": tr, "EchoTime": te} | ({} if ti is None else {"InversionTime": ti})


_D = ["DERIVED", "PRIMARY"]
PRESETS: dict[str, dict[str, Any]] = {
    "loc": {**_GR, **_times(8.6, 4), "slices": 3},
    "t1se": {**_SE, **_times(686, 11)},
    "t1gre": {**_GR, **_times(313, 4.76)},
    "mprage": {**_GRIR, **_times(2300, 3, 900), "mm": (1, 1, 1)},
    "spgr": {**_GR, **_times(8.2, 3.2, 450), "MRAcquisitionType": "3D", "mm": (1, 1, 1)},
    "t2": {**_TSE, **_times(7410, 107)},
    "t2space": {**_TSE, **_times(3200, 408), "MRAcquisitionType": "3D", "mm": (1, 1, 1)},
    "flair": {**_IR, **_times(8000, 81, 2370)},
    "flair3d": {**_IR, **_times(5000, 388, 1800), "MRAcquisitionType": "3D", "mm": (1, 1, 1)},
    "t1flair": {**_IR, **_times(2000, 23, 860)},
    "t2star": {**_GR, **_times(960, 25)},
    "swi": {**_GR, **_times(28, 20), "MRAcquisitionType": "3D"},
    "dwi": {**_EP, **_times(5800, 90), "DiffusionBValue": 1000.0},
    "adc": {**_EP, **_times(5800, 75), "ImageType": [*_D, "DIFFUSION", "ADC", "ND"]},
    "pd": {**_TSE, **_times(3000, 14)},
    "stir": {**_IR, **_times(4500, 60, 150)},
    "sub": {**_GRIR, **_times(2300, 3, 900), "ImageType": [*_D, "M", "SUB"], "mm": (1, 1, 1)},
    "mpr": {**_GRIR, **_times(2300, 3, 900), "ImageType": ["DERIVED", "SECONDARY", "MPR"], "mm": (1, 1, 1)},
    "mip": {**_GR, **_times(23, 4), "ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP"]},
    "perf": {**_EP, **_times(1500, 30)},
    "tof": {**_GR, **_times(21, 3.4), "MRAcquisitionType": "3D"},
    "mp2rage2": {**_GRIR, **_times(5000, 2.9, 2500), "mm": (1, 1, 1)},
    "bare": {},
}
VENDORS: dict[str, dict[str, Any]] = {
    "siemens": {"Manufacturer": "SIEMENS"},
    "ge": {
        "Manufacturer": "GE MEDICAL SYSTEMS",
        "ProtocolName": "BRAIN W/WO CONTRAST",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
    },
    "philips": {"Manufacturer": "Philips Medical Systems", "ImageType": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]},
    "canon": {"Manufacturer": "CANON_MEC"},
}


def write_study(folder: Path, name: str, vendor: str, series: Sequence[Made], *, enhanced: bool = False) -> None:
    """Write a study of small series (5 slices of 8 x 8 voxels), numbered from 1."""
    voxels = np.arange(5 * 64).reshape(5, 8, 8) % 251
    for number, made in enumerate(series, 1):
        preset = dict(PRESETS[made.preset])
        count, mm = preset.pop("slices", 5), preset.pop("mm", (1, 1, 5))
        tags = {**VENDORS[vendor], **preset, **made.tags}
        tags |= {"SeriesNumber": number, "SeriesDescription": made.description, "study": name, "patient": name}
        mm = tags.pop("mm", mm)
        ident = f"{number}"
        if enhanced and count == 5 and "DERIVED" not in tags.get("ImageType", ()):
            timing = tuple(tags.pop(key, None) for key in ("RepetitionTime", "EchoTime", "InversionTime"))
            kinds = [str(tags.pop(key, "")) for key in ("ScanningSequence", "SequenceVariant")]
            tags["EchoPulseSequence"] = "GRADIENT" if "GR" in kinds[0] else "SPIN"
            write_enhanced(folder / f"IM{number:04d}", voxels, ident, spacing=mm, timing=timing, **tags)
        else:
            write_series(folder / f"S{number:03d}", voxels[:count], ident, spacing=mm, **tags)
