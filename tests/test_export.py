"""Masks in the formats of clinics lie, voxel by voxel, where the NIfTI mask has them."""

from __future__ import annotations

import gzip
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from data.grid import Grid
from data.labels import load_convention
from pipeline.export.seg_nrrd import write_seg_nrrd
from pipeline.export.segments import segments_of

CONVENTION = load_convention("brats2023")
SHAPE, SPACING = (24, 20, 12), (0.8, 0.9, 2.5)  # columns, rows, slices


def label_map() -> np.ndarray:
    """A tumour without any symmetry, with a hole and two parts, (columns, rows, slices)."""
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[4:18, 3:15, 2:9] = 2
    voxels[6:14, 5:12, 3:8] = 1
    voxels[8:12, 6:10, 4:7] = 3
    voxels[9:11, 7:9, 3:8] = 0  # a hole through it
    voxels[20, 17, 10] = voxels[21, 18, 10] = 3  # parts that touch at a corner
    voxels[5, 4, 2] = 0
    return voxels


def grid_of(turn: np.ndarray) -> Grid:
    """Right-handed in LPS, as a DICOM series is: columns, rows, slices along the columns of ``turn``."""
    lps = np.eye(4)
    lps[:3, :3] = turn * SPACING
    lps[:3, 3] = (-31.25, 17.5, 44.125)
    return Grid(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


Points = tuple[np.ndarray, np.ndarray]


def points(voxels: np.ndarray, affine: np.ndarray) -> Points:
    """Places of all labelled voxels in LPS, (n, 3) mm, and their labels, (n,)."""
    where = np.argwhere(voxels)
    places = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine @ np.column_stack([where, np.ones(len(where))]).T
    return places[:3].T, voxels[tuple(where.T)]


def assert_same_places(found: Points, expected: Points) -> None:
    """All labelled voxels are there, none more, each within 1e-3 mm and of its label."""
    assert len(found[0]) == len(expected[0])
    apart, nearest = cKDTree(expected[0]).query(found[0])
    assert apart.max() <= 1e-3 and len(set(nearest)) == len(expected[0])
    np.testing.assert_array_equal(found[1], expected[1][nearest])


def as_found(volume) -> Points:
    """Places of what highdicom's geometry gives back, labels told by segment numbers (1 to 3 here too)."""
    where = np.argwhere(volume.array)
    places = (volume.affine @ np.column_stack([where, np.ones(len(where))]).T)[:3].T
    return places, volume.array[tuple(where.T)]


ORIENTATIONS = ["".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]
OBLIQUE = list(range(20))
assert len(ORIENTATIONS) == 48


def turned(way) -> tuple[Grid, np.ndarray, Grid]:
    """The series' grid, the mask stored in one of 48 orders of axes or on an oblique grid, and its grid."""
    if isinstance(way, str):
        series = grid_of(np.eye(3))
        return series, np.ascontiguousarray(series.turn(label_map(), way)), series.reoriented(way)
    series = grid_of(Rotation.random(random_state=way).as_matrix())
    return series, label_map(), series


# ---------------------------------------------------------------------------------------------------------- Slicer


@pytest.mark.parametrize("way", [*ORIENTATIONS, *OBLIQUE])
def test_a_slicer_segmentation_has_every_voxel_where_the_nifti_has_it(tmp_path, way):
    import SimpleITK as sitk

    _, voxels, grid = turned(way)
    write_seg_nrrd(tmp_path / "x.seg.nrrd", voxels, grid, CONVENTION)
    image = sitk.ReadImage(str(tmp_path / "x.seg.nrrd"))
    read = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    np.testing.assert_array_equal(read, voxels)
    for index in [(0, 0, 0), (voxels.shape[0] - 1, 0, 0), (1, 2, 3), tuple(n - 1 for n in voxels.shape)]:
        place = np.diag([-1.0, -1.0, 1.0]) @ (grid.affine @ [*index, 1.0])[:3]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint([int(n) for n in index]), place, atol=1e-3)


def test_slicer_finds_names_colours_and_terminology(tmp_path):
    """Keys as 3D Slicer writes and reads them (vtkMRMLSegmentationStorageNode)."""
    import SimpleITK as sitk

    path = tmp_path / "x.seg.nrrd"
    write_seg_nrrd(path, label_map(), grid_of(np.eye(3)), CONVENTION)
    image = sitk.ReadImage(str(path))
    about = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert [about[f"Segment{n}_Name"] for n in range(3)] == [
        "Non-enhancing tumour core",
        "Surrounding FLAIR hyperintensity",
        "Enhancing tumour",
    ]
    assert [about[f"Segment{n}_LabelValue"] for n in range(3)] == ["1", "2", "3"]
    red, green, blue = map(float, about["Segment2_Color"].split())  # #D55E00, vermilion
    assert (round(red * 255), round(green * 255), round(blue * 255)) == (0xD5, 0x5E, 0)
    assert about["Segment1_Extent"] == "4 17 3 14 2 8"
    assert "SCT^49755003^Morphologically Abnormal Structure~SCT^79654002^Edema" in about["Segment1_Tags"]
    assert "~SCT^12738006^Brain~^^|" in about["Segment1_Tags"] and about["Segment0_Layer"] == "0"


def test_an_empty_mask_has_empty_segments_and_the_same_bytes_twice(tmp_path):
    for name in "ab":
        write_seg_nrrd(tmp_path / name, np.zeros(SHAPE, np.uint8), grid_of(np.eye(3)), CONVENTION)
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    head, _, packed = content.partition(b"\n\n")
    assert b"Segment0_Extent:=0 -1 0 -1 0 -1" in head and len(gzip.decompress(packed)) == 24 * 20 * 12


@pytest.mark.parametrize("name", ["brats2012", "brats2017", "brats2024-gli", "brats2024-ped", "msd", "lgg"])
def test_each_label_of_a_convention_has_a_name_a_colour_and_a_code(name):
    found = segments_of(load_convention(name))
    assert [s.label for s in found] == sorted(load_convention(name).labels)
    assert len({s.name for s in found}) == len(found) and all(s.kind.value and len(s.kind.value) <= 16 for s in found)


def test_necrosis_has_its_own_code_only_where_it_is_apart():
    names = ("brats2012", "brats2017")
    codes = {name: {s.short: s.kind.value for s in segments_of(load_convention(name))} for name in names}
    assert codes["brats2012"] == {"NCR": "6574001", "ED": "79654002", "NET": "C81175", "ET": "C113842"}
    assert codes["brats2017"] == {"NCR": "C81175", "ED": "79654002", "ET": "C113842"}


# ----------------------------------------------------------------------------------------------------------- DICOM


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A function that writes, once for each rotation, the series of a grid and reads its headers."""
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from data.case import ImageSource
    from pipeline.export.source import read_source
    from tests.dicom_files import write_enhanced, write_series

    root, made = tmp_path_factory.mktemp("series"), {}

    def of(key, *, enhanced: bool = False):
        if (key, enhanced) not in made:
            turn = np.eye(3) if isinstance(key, str) else Rotation.random(random_state=key).as_matrix()
            folder = root / f"{len(made)}"
            voxels = np.random.default_rng(3).integers(1, 4000, SHAPE[::-1])
            how = {"orientation": [*turn[:, 0], *turn[:, 1]], "first": (-31.25, 17.5, 44.125)}
            spacing = (SPACING[1], SPACING[0], SPACING[2])
            if enhanced:
                paths = [write_enhanced(folder / "x", voxels, "t1c", spacing=spacing, **how)]
            else:
                paths = write_series(folder, voxels, "t1c", spacing=spacing, **how)
            source = ImageSource(tuple(paths), series="1.2.3")
            made[key, enhanced] = read_source(source)
        return made[key, enhanced]

    return of


def key_of(way):
    return "axial" if isinstance(way, str) else way


@pytest.mark.parametrize("way", [*ORIENTATIONS, *OBLIQUE])
def test_a_dicom_segmentation_has_every_voxel_where_the_nifti_has_it(tmp_path, series, way):
    import highdicom as hd

    from pipeline.export.dicom_seg import write_dicom_seg

    _, voxels, grid = turned(way)
    source = series(key_of(way))
    write_dicom_seg(tmp_path / "x.dcm", voxels, grid, CONVENTION, source, "a-model")
    read = hd.seg.segread(tmp_path / "x.dcm")
    # Read by pydicom alone: each frame's own position, orientation and bits.
    places, found = [], []
    shared = read.SharedFunctionalGroupsSequence[0]
    row = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = [float(n) for n in shared.PixelMeasuresSequence[0].PixelSpacing]
    labels = {s.SegmentNumber: s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in read.SegmentSequence}
    values = {segment.kind.value: segment.label for segment in segments_of(CONVENTION)}
    for frame, groups in zip(read.pixel_array, read.PerFrameFunctionalGroupsSequence, strict=True):
        first = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        label = values[labels[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber]]
        for r, c in np.argwhere(frame):
            places.append(first + c * spacing[1] * row[:3] + r * spacing[0] * row[3:])
            found.append(label)
    assert_same_places((np.array(places), np.array(found)), points(voxels, grid.affine))
    # And by highdicom's own geometry.
    assert_same_places(as_found(read.get_volume(combine_segments=True)), points(voxels, grid.affine))


def test_a_dicom_segmentation_refers_to_its_series_and_is_named_and_coloured(tmp_path, series):
    import highdicom as hd

    from pipeline.export.dicom_seg import write_dicom_seg

    source = series("axial")
    write_dicom_seg(tmp_path / "x.dcm", label_map(), grid_of(np.eye(3)), CONVENTION, source, "a-model")
    read, first = hd.seg.segread(tmp_path / "x.dcm"), source.datasets[0]
    assert read.FrameOfReferenceUID == first.FrameOfReferenceUID and read.StudyInstanceUID == first.StudyInstanceUID
    assert read.PatientID == first.PatientID and read.SeriesInstanceUID != first.SeriesInstanceUID
    [referenced] = read.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID
    assert len(referenced.ReferencedInstanceSequence) == SHAPE[2]
    oedema = next(s for s in read.SegmentSequence if s.SegmentLabel == "Surrounding FLAIR hyperintensity")
    assert oedema.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    lab = hd.color.CIELabColor.from_dicom_value(oedema.RecommendedDisplayCIELabValue)
    assert np.abs(np.array(lab.to_rgb()) - (0x56, 0xB4, 0xE9)).max() <= 3
    frame = read.PerFrameFunctionalGroupsSequence[0]
    position = frame.PlanePositionSequence[0].ImagePositionPatient
    image = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    [shown] = [d for d in source.datasets if d.SOPInstanceUID == image]
    np.testing.assert_allclose(position, shown.ImagePositionPatient, atol=1e-6)


def test_the_frames_of_an_enhanced_series_are_referred_to_by_their_numbers(tmp_path, series):
    import highdicom as hd

    from pipeline.export.dicom_seg import write_dicom_seg

    source = series("axial", enhanced=True)
    write_dicom_seg(tmp_path / "x.dcm", label_map(), grid_of(np.eye(3)), CONVENTION, source, "a-model")
    volume = hd.seg.segread(tmp_path / "x.dcm").get_volume(combine_segments=True)
    assert_same_places(as_found(volume), points(label_map(), grid_of(np.eye(3)).affine))


def test_a_mask_on_other_voxels_than_the_series_keeps_its_own(tmp_path, series):
    import highdicom as hd

    from pipeline.export.dicom_seg import write_dicom_seg

    grid = grid_of(Rotation.from_euler("xyz", [5, 8, -11], degrees=True).as_matrix())
    write_dicom_seg(tmp_path / "x.dcm", label_map(), grid, CONVENTION, series("axial"), "a-model")
    volume = hd.seg.segread(tmp_path / "x.dcm").get_volume(combine_segments=True)
    assert_same_places(as_found(volume), points(label_map(), grid.affine))


def rasterised(dataset, grid: Grid) -> dict[str, np.ndarray]:
    """Masks of a structure set: voxel centres inside its contours by parity, with matplotlib."""
    from matplotlib.path import Path as Polygon

    inverse = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine)
    names = {roi.ROINumber: roi.ROIName for roi in dataset.StructureSetROISequence}
    columns, rows = np.meshgrid(np.arange(grid.shape[0]), np.arange(grid.shape[1]), indexing="ij")
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    masks = {}
    for region in dataset.ROIContourSequence:
        mask = np.zeros(grid.shape, bool)
        for contour in region.ContourSequence:
            world = np.array(contour.ContourData, float).reshape(-1, 3)
            index = (inverse @ np.column_stack([world, np.ones(len(world))]).T)[:3].T
            assert np.ptp(index[:, 2]) < 1e-3  # in a plane of the series
            inside = Polygon(np.vstack([index[:, :2], index[:1, :2]]), closed=True).contains_points(centres)
            mask[:, :, round(index[0, 2])] ^= inside.reshape(grid.shape[:2])
        masks[names[region.ReferencedROINumber]] = mask
    return masks


@pytest.mark.parametrize("way", [*ORIENTATIONS, *OBLIQUE])
def test_contours_rasterised_again_are_the_mask(tmp_path, series, way):
    import pydicom

    from pipeline.export.rtstruct import write_rtstruct

    on_series, voxels, grid = turned(way)
    write_rtstruct(tmp_path / "x.dcm", voxels, grid, CONVENTION, series(key_of(way)), "a-model")
    masks = rasterised(pydicom.dcmread(tmp_path / "x.dcm"), on_series)
    for segment in segments_of(CONVENTION):
        expected, found = label_map() == segment.label, masks[segment.name]
        dice = 2 * (expected & found).sum() / (expected.sum() + found.sum())
        assert dice >= 0.99


def test_contours_name_the_picture_they_lie_on(tmp_path, series):
    import pydicom

    from pipeline.export.rtstruct import write_rtstruct

    source = series("axial")
    write_rtstruct(tmp_path / "x.dcm", label_map(), grid_of(np.eye(3)), CONVENTION, source, "a-model")
    read = pydicom.dcmread(tmp_path / "x.dcm")
    heights = {d.SOPInstanceUID: float(d.ImagePositionPatient[2]) for d in source.datasets}
    contours = [c for region in read.ROIContourSequence for c in region.ContourSequence]
    for contour in contours:
        [image] = contour.ContourImageSequence
        assert float(contour.ContourData[2]) == pytest.approx(heights[image.ReferencedSOPInstanceUID], abs=1e-3)
    assert read.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID == source.datasets[0].FrameOfReferenceUID
    assert [list(r.ROIDisplayColor) for r in read.ROIContourSequence][2] == [0xD5, 0x5E, 0]


def test_holes_within_islands_within_holes_are_cut_open_rightly():
    from matplotlib.path import Path as Polygon

    from pipeline.export.rtstruct import outlines

    mask = np.zeros((30, 33), bool)
    for inset in range(0, 12, 3):  # rings within rings
        mask[2 + inset : 28 - inset, 3 + inset : 30 - inset] = inset % 2 == 0
    mask[5, 5] = True
    mask[0, 0] = mask[29, 32] = True  # at the border of the picture
    rows, columns = np.indices(mask.shape)
    inside = np.zeros(mask.shape, bool)
    for outline in outlines(mask):
        polygon = Polygon(np.vstack([outline, outline[:1]]), closed=True)
        inside ^= polygon.contains_points(np.column_stack([columns.ravel(), rows.ravel()])).reshape(mask.shape)
    np.testing.assert_array_equal(inside, mask)


def test_the_structured_report_holds_volumes_and_diameters(tmp_path, series):
    import highdicom as hd

    from pipeline.export.dicom_seg import write_dicom_seg
    from pipeline.export.structured_report import write_structured_report

    voxels = np.zeros(SHAPE, np.uint8)
    voxels[5:15, 6:10, 3:7] = 3  # 10 x 4 x 4 voxels of .8 x .9 x 2.5 mm: 160 x 1.8 mm3 = .288 ml
    grid, source = grid_of(np.eye(3)), series("axial")
    seg = write_dicom_seg(tmp_path / "seg.dcm", voxels, grid, CONVENTION, source, "a-model")
    write_structured_report(tmp_path / "sr.dcm", voxels, grid, CONVENTION, source, seg, "a-model")
    read = hd.sr.srread(tmp_path / "sr.dcm")
    [group] = read.content.get_volumetric_roi_measurement_groups()
    assert group.finding_type.value == "C113842"
    measured = {item.name.value: (item.value, item.unit.value) for item in group.get_measurements()}
    assert measured["118565006"] == (pytest.approx(0.288), "cm3")
    # Between voxel corners: 8 x 3.6 mm, its diagonal 8.77 mm.
    assert measured["103339001"] == (pytest.approx(np.hypot(8, 3.6), abs=0.01), "mm")
    assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
    others = read.content.get_image_measurement_groups()
    assert {g.tracking_identifier for g in others} == {"Whole tumour", "Tumour core", "Enhancing tumour"}


def test_an_empty_mask_is_written_in_every_format(tmp_path, series):
    from pipeline.export.dicom_seg import write_dicom_seg
    from pipeline.export.rtstruct import write_rtstruct
    from pipeline.export.structured_report import write_structured_report

    voxels, grid, source = np.zeros(SHAPE, np.uint8), grid_of(np.eye(3)), series("axial")
    seg = write_dicom_seg(tmp_path / "seg.dcm", voxels, grid, CONVENTION, source, "a-model")
    assert not seg.pixel_array.any() and len(seg.SegmentSequence) == 3
    assert len(write_rtstruct(tmp_path / "rt.dcm", voxels, grid, CONVENTION, source, "m").ROIContourSequence) == 0
    write_structured_report(tmp_path / "sr.dcm", voxels, grid, CONVENTION, source, seg, "a-model")


def test_the_page_says_volumes_warnings_and_research_use_only(tmp_path):
    from PIL import Image

    from pipeline.export.pdf import write_pdf

    Image.new("RGB", (300, 100)).save(tmp_path / "p.png")
    masks = CONVENTION.region_masks(label_map())
    grid = grid_of(np.eye(3))
    for name in "ab":
        write_pdf(
            tmp_path / name, "case-1", tmp_path / "p.png", masks, grid, model="a-model", warnings=["T2 moved"] * 90
        )
    content = (tmp_path / "a").read_bytes()
    assert content.startswith(b"%PDF") and content == (tmp_path / "b").read_bytes()
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") == 1


def test_a_mask_of_no_dicom_series_cannot_be_a_dicom_object():
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from data.case import ImageSource
    from data.errors import InputError
    from pipeline.export.source import read_source

    with pytest.raises(InputError, match="choose --outputs nifti seg-nrrd pdf"):
        read_source(ImageSource((Path("t1c.nii.gz"),)))


def test_a_dicom_object_of_other_files_is_refused_before_the_model_is_loaded(tmp_path, phantoms, monkeypatch):
    from data.find.discover import discover_cases
    from data.find.recognise import ConventionChoice
    from pipeline.options import SegmentOptions
    from pipeline.segment import case as one_case
    from pipeline.segment.task import CaseTask

    monkeypatch.setattr(one_case, "choose_model", lambda case: pytest.fail("the model was chosen"))
    case, options = discover_cases(phantoms)[0], SegmentOptions(outputs=("nifti", "sr"))
    row = one_case.segment_one(CaseTask(case, case.case_id, tmp_path, options, ConventionChoice(None, "")))
    assert (row.status, "give the examination as DICOM" in row.reason) == ("error", True)
