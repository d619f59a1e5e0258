"""RT structure set of a mask: contours in the planes of the source series.

A hole is joined to its outline by a cut of no width, as PS3.3 C.8.8.6.3 describes: readers that fill by parity and
those that fill by winding see the same area.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.dicom.dataset import pydicom_or_refuse
from data.io.dicom.geometry import LPS_TO_RAS
from data.io.write import atomic_write
from data.labels import LabelConvention
from pipeline import __version__
from pipeline.export.dicom_seg import SERIES_NUMBERS
from pipeline.export.segments import ALGORITHM, Segment, segments_of
from pipeline.export.source import SourceSeries, derived_uid, on_source

_RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_CUTS, _CLEARANCE = 256, 0.02
"""Cuts that are tried, shortest first, and their least distance from the centre of a voxel, in voxels."""
_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
_PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
    "SpecificCharacterSet",
)


def write_rtstruct(
    path: Path, label_map: NDArray[np.uint8], grid: Grid, convention: LabelConvention, source: SourceSeries, model: str
) -> Any:
    """Write a structure set with a region for each tissue that is there.

    Parameters are those of :func:`pipeline.export.dicom_seg.write_dicom_seg`.

    Returns
    -------
    pydicom Dataset
        As written. Contours run half-way between voxel centres.
    """
    pydicom = pydicom_or_refuse()
    frames, turned = on_source(label_map, grid, source)
    segments = [segment for segment in segments_of(convention) if (frames == segment.label).any()]
    made = _structure_set(pydicom, source, frames.tobytes() + turned.affine.tobytes(), model)
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, segment in enumerate(segments, 1):
        contours = _contours(pydicom, frames == segment.label, turned, source)
        made.StructureSetROISequence.append(_region(pydicom, number, segment, source, model))
        colour = list(segment.colour)
        made.ROIContourSequence.append(
            _item(pydicom, ROIDisplayColor=colour, ContourSequence=contours, ReferencedROINumber=number)
        )
        made.RTROIObservationsSequence.append(
            _item(
                pydicom,
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType="",
                ROIInterpreter="",
            )
        )
    with atomic_write(path) as file:
        made.save_as(file, enforce_file_format=True)
    return made


def _structure_set(pydicom: Any, source: SourceSeries, content: bytes, model: str) -> Any:
    first, made, now = source.datasets[0], pydicom.dataset.Dataset(), datetime.now()
    for keyword in _PATIENT_AND_STUDY:
        if keyword in first:
            setattr(made, keyword, first[keyword].value)
    identity = (first.SeriesInstanceUID, content, model, __version__)
    made.SOPClassUID, made.SOPInstanceUID = _RT_STRUCTURE_SET, derived_uid("rtstruct", *identity)
    made.SeriesInstanceUID = derived_uid("rtstruct series", *identity)
    made.Modality, made.SeriesNumber, made.InstanceNumber = "RTSTRUCT", SERIES_NUMBERS["rtstruct"], 1
    made.SeriesDescription = "Brain tumour contours (research use only)"
    made.OperatorsName = ""
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = ALGORITHM, ALGORITHM, __version__
    made.StructureSetLabel, made.StructureSetName = "TUMOUR", "Brain tumour, research use only"
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.ApprovalStatus = "UNAPPROVED"
    images = [_reference(pydicom, dataset) for dataset in source.datasets]
    series = _item(pydicom, SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        pydicom,
        ReferencedSOPClassUID=_STUDY_MANAGEMENT,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    frame = _item(pydicom, FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    made.ReferencedFrameOfReferenceSequence = [frame]
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def _region(pydicom: Any, number: int, segment: Segment, source: SourceSeries, model: str) -> Any:
    return _item(
        pydicom,
        ROINumber=number,
        ReferencedFrameOfReferenceUID=source.datasets[0].FrameOfReferenceUID,
        ROIName=segment.name[:64],
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=model[:64],
    )


def _contours(pydicom: Any, mask: NDArray[np.bool_], grid: Grid, source: SourceSeries) -> list[Any]:
    """Return the contours of a mask, (slices, rows, columns), slice by slice."""
    lps = LPS_TO_RAS @ grid.affine
    on_planes = grid is source.stack.grid
    made: list[Any] = []
    for index in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for outline in outlines(mask[index]):
            points = np.column_stack([outline, np.full(len(outline), index), np.ones(len(outline))]) @ lps[:3].T
            contour = _item(
                pydicom,
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourNumber=len(made) + 1,
                ContourData=[f"{value:.5f}" for value in points.ravel().tolist()],
            )
            if on_planes:
                contour.ContourImageSequence = [_reference(pydicom, *source.image_of(index))]
            made.append(contour)
    return made


def outlines(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Yield the outline of each part of a slice, its holes cut open.

    Parameters
    ----------
    mask : (rows, columns) bool

    Yields
    ------
    (n, 2) float64
        Column and row of each corner, half-way between a voxel within and one without. The last is not the first.
    """
    framed = np.pad(mask, 1).astype(np.float64)
    generator = contourpy.contour_generator(z=framed, fill_type=contourpy.FillType.OuterOffset)
    for points, offsets in zip(*generator.filled(0.5, np.inf), strict=True):
        rings = [points[a : b - 1] - 1 for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
        outline = rings[0]
        for hole in rings[1:]:
            outline = _cut_open(outline, hole)
        yield outline


def _cut_open(outline: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Join a hole to an outline by a short cut.

    The cut meets no voxel's centre. Whether a centre on a border lies within is told differently by different readers.
    """
    apart = ((outline[:, None, :] - hole[None, :, :]) ** 2).sum(axis=2)
    nearest = np.argsort(apart, axis=None, kind="stable")[:_CUTS]
    pairs = [(int(n) // len(hole), int(n) % len(hole)) for n in nearest]
    at, start = next((pair for pair in pairs if _is_clear(outline[pair[0]], hole[pair[1]])), pairs[0])
    around = np.concatenate([hole[start:], hole[: start + 1]])
    return np.concatenate([outline[: at + 1], around, outline[at:]])


def _is_clear(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Tell whether the way between two points keeps off the centres of voxels."""
    low, high = np.floor(np.minimum(one, other)), np.ceil(np.maximum(one, other))
    centres = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True))), -1).reshape(-1, 2)
    way = other - one
    share = np.clip((centres - one) @ way / max(float(way @ way), 1e-12), 0, 1)
    return bool(np.linalg.norm(one + share[:, None] * way - centres, axis=1).min() > _CLEARANCE)


def _reference(pydicom: Any, dataset: Any, frame: int | None = None) -> Any:
    item = _item(pydicom, ReferencedSOPClassUID=dataset.SOPClassUID, ReferencedSOPInstanceUID=dataset.SOPInstanceUID)
    if frame is not None:
        item.ReferencedFrameNumber = frame
    return item


def _item(pydicom: Any, **values: Any) -> Any:
    item = pydicom.dataset.Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
