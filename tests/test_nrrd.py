"""NRRD files and segmentations of 3D Slicer, held against SimpleITK's reading of the same files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.case import ImageSource
from data.errors import InputError
from data.find.discover import discover_cases
from data.find.recognise import choose_conventions
from data.grid import Grid
from data.io.read import read_header, read_label_map, read_volume
from data.labels import load_convention
from data.references import read_reference
from pipeline.evaluate.run import evaluate
from pipeline.inspect import inspect_cases

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def labels() -> np.ndarray:
    """Return a label map, (6, 7, 8), with each of 1, 2 and 3."""
    array = np.zeros((6, 7, 8), np.uint8)
    array[1:4, 2:5, 2:6] = 2
    array[2:4, 3:5, 3:5] = 1
    array[2, 3, 3] = 3
    return array


def written(path: Path, array: np.ndarray, names: dict[int, str] | None = None, first: tuple = (0, 0, 0)) -> Path:
    """Write voxels of 20 x 15 x 10 mm as 3D Slicer does, from the voxel ``first`` of the scan on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing((20.0, 15.0, 10.0))
    image.SetOrigin((-50 + 20.0 * first[0], 40 + 15.0 * first[1], 7 + 10.0 * first[2]))
    for number, (value, name) in enumerate((names or {}).items()):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    sitk.WriteImage(image, str(path), True)
    return path


def case_of(root: Path, names: dict[int, str] | None) -> tuple:
    """Return a patient with a segmentation and his convention."""
    written(root / "P1/P1_flair.nrrd", labels() + 1)
    written(root / "P1/Segmentation.seg.nrrd", labels(), names)
    (case,) = discover_cases(root)
    return case, choose_conventions([case])["P1"]


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (0, -1, 0, 0, 0, 1, -1, 0, 0)])
@pytest.mark.parametrize(("packed", "kind"), [(True, np.int16), (False, np.float32), (True, np.uint8)])
def test_voxels_and_their_place_are_those_that_simpleitk_reads(packed, kind, direction, tmp_path):
    image = sitk.GetImageFromArray(np.arange(60).reshape(5, 4, 3).astype(kind))
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-7.0, 8.0, 9.5))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"), packed)
    volume = read_volume(ImageSource((tmp_path / "a.nrrd",)))
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    for index in ((0, 0, 0), (2, 0, 0), (0, 3, 0), (0, 0, 4), (1, 2, 3)):
        there = LPS_TO_RAS @ [*image.TransformIndexToPhysicalPoint(index), 1]
        assert np.allclose(volume.grid.affine @ [*index, 1], there)
    assert volume.header.warnings == () and volume.header.dtype == np.dtype(kind).name


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "left-anterior-superior", "LPS"])
def test_the_world_of_the_header_is_turned_to_ras(space, tmp_path):
    letters = {"right-anterior-superior": "RAS", "left-anterior-superior": "LAS"}.get(space, space)
    head = f"NRRD0005\n# made by hand\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nspace: {space}\n"
    head += "space directions: (20,0,0) (0,15,0) (0,0,10)\nspace origin: (1,2,3)\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + bytes(range(24)))
    grid = read_header(ImageSource((tmp_path / "a.nrrd",))).grid
    signs = [-1 if letter in "LP" else 1 for letter in letters]
    assert grid.orientation == letters
    assert np.array_equal(
        grid.affine, np.diag([*signs, 1]) @ [[20, 0, 0, 1], [0, 15, 0, 2], [0, 0, 10, 3], [0] * 3 + [1]]
    )


@pytest.mark.parametrize(
    ("names", "regions"),
    [
        ({1: "enhancing tumour", 2: "edema", 3: "necrosis"}, {"WT": [1, 2, 3], "TC": [1, 3], "ET": [1]}),
        ({1: "NETC", 2: "SNFH", 3: "ET"}, {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}),
        ({1: "TC", 2: "WT", 3: "ET"}, {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}),
        ({1: "tumor", 2: "tumor 2", 3: "tumor 3"}, {"WT": [1, 2, 3]}),
    ],
)
def test_the_names_of_segments_tell_the_regions(names, regions, tmp_path):
    case, choice = case_of(tmp_path, names)
    found = load_convention(choice.name).regions
    assert {region: sorted(values) for region, values in found.items()} == regions
    assert "segments" in choice.reason or len(case.conventions) > 1
    assert any("read as the whole tumour" in note for note in case.warnings) == (regions == {"WT": [1, 2, 3]})


@pytest.mark.parametrize("names", [None, {1: "Segment_1", 2: "Segment_2", 3: "3"}])
def test_names_that_say_nothing_leave_the_evidence_to_the_values(names, tmp_path):
    case, choice = case_of(tmp_path, names)
    assert case.conventions == () and choice.name is None and "fit" in choice.error
    inspected = inspect_cases(tmp_path, convention="brats2023", full=True)[0]
    assert inspected["images"]["reference"]["shape"] == [6, 7, 8] and not inspected["problems"]


def test_outside_the_box_of_a_segmentation_there_is_background(tmp_path):
    """3D Slicer stores no more than the box around the segments, unless it is told otherwise."""
    whole = written(tmp_path / "t1.nrrd", labels())
    part = written(tmp_path / "s.seg.nrrd", labels()[1:4, 2:5, 2:6], {1: "NCR", 2: "ED", 3: "ET"}, (1, 2, 2))
    grid = read_header(ImageSource((whole,))).grid
    for wanted in (grid, grid.reoriented("RAS"), grid.reoriented("SPL")):
        found = read_reference(ImageSource((part,)), wanted, load_convention("brats2023"))
        assert not found.doubt and not found.warnings
        assert np.array_equal(found.masks["WT"], grid.turn(labels() > 0, wanted.orientation))
    assert read_header(ImageSource((part,))).grid.offset_in(grid) == (1, 2, 2)
    moved = grid.affine.copy()
    moved[0, 3] += 3.0  # a seventh of a voxel aside
    assert (
        "lies on another grid"
        in read_reference(ImageSource((part,)), Grid(grid.shape, moved), load_convention("brats2023")).doubt
    )


def test_a_box_of_another_format_is_still_a_doubt(tmp_path):
    whole = written(tmp_path / "t1.nrrd", labels())
    part = written(tmp_path / "s.mha", labels()[1:4, 2:5, 2:6], None, (1, 2, 2))
    found = read_reference(ImageSource((part,)), read_header(ImageSource((whole,))).grid, load_convention("brats2023"))
    assert "lies on another grid" in found.doubt


@pytest.mark.parametrize("side", ["prediction", "reference"])
def test_evaluate_scores_a_segmentation_over_the_whole_scan_without_asking(side, tmp_path):
    """Dice 2 x 36 / (36 + 39): three voxels lie outside the box of the other side's segments."""
    more = labels()
    more[5, 6, 5:8] = 2
    names = {1: "necrosis", 2: "edema", 3: "enhancing"}
    written(tmp_path / "s/P1.seg.nrrd", labels()[1:4, 2:5, 2:6], names, (1, 2, 2))
    written(tmp_path / "w/P1_seg.mha", more)
    folders = (tmp_path / "s", tmp_path / "w") if side == "prediction" else (tmp_path / "w", tmp_path / "s")
    conventions = {"reference_convention" if side == "prediction" else "convention": "brats2023"}
    row = evaluate(*folders, tmp_path / "out", **conventions).iloc[0]
    assert row["status"] == "ok", row["reason"]
    assert row["dice_WT"] == pytest.approx(2 * 36 / (36 + 39))
    assert row["dice_ET"] == 1


def test_boxes_that_lie_apart_are_two_tumours_of_one_scan(tmp_path):
    names = {1: "whole tumour"}
    one = np.ones((2, 2, 2), np.uint8)
    written(tmp_path / "p/P1.seg.nrrd", one, names, (0, 0, 0))
    written(tmp_path / "r/P1.seg.nrrd", one, names, (4, 5, 6))
    row = evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out").iloc[0]
    assert row["status"] == "ok" and row["dice_WT"] == 0


HEAD = (
    "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 3 4\n"
    "space directions: (20,0,0) (0,15,0) (0,0,10)\nspace origin: (0,0,0)\nencoding: raw\n"
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("sizes: 2 3 4", "sizes: 2 3 4000000000"), "declares the sizes '2 3 4000000000'"),
        (("sizes: 2 3 4", "sizes: 900 900 900"), "over the limit"),
        (("sizes: 2 3 4", "sizes: 20 30 40"), "23976 of the 24000 bytes .* missing"),
        (("sizes: 2 3 4", "sizes: 2 3 0"), "declares the sizes"),
        (("sizes: 2 3 4", "sizes: 2 -3 4"), "declares the sizes"),
        (("dimension: 3", "dimension: 99"), "declares '99' axes"),
        (("type: uchar", "type: block"), "of the type 'block'"),
        (("type: uchar", "type: short"), "byte order .endian. is ''"),
        (("encoding: raw", "encoding: bzip2"), "stored as 'bzip2'; save it as NRRD with gzip"),
        (("encoding: raw", "encoding: raw\ndata file: ../../secret"), "keeps its voxels in '../../secret'"),
        (("encoding: raw", "encoding: raw\ndatafile: LIST"), "keeps its voxels in 'LIST'"),
        (("encoding: raw", "encoding: raw\nbyte skip: -1"), "foreign header"),
        (("encoding: raw", "encoding: raw\ntype: short"), "gives 'type' twice"),
        (("(20,0,0)", "(nan,0,0)"), "hold '.nan,0,0.', not three numbers"),
        (("(20,0,0)", "(0,0,0)"), "singular"),
        (("(20,0,0) ", ""), "axes and the directions"),
        (("(20,0,0)", "none"), "2 numbers a voxel"),
        (("encoding: raw\n", "encoding: raw\n" + "x" * 2**20), "no end within"),
    ],
)
def test_a_header_that_cannot_be_is_refused_before_a_voxel_is_read(change, words, tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_bytes((HEAD.replace(*change) + "\n").encode() + bytes(24))
    with pytest.raises(InputError, match=words):
        read_label_map(ImageSource((path,)))


def test_packed_voxels_that_end_too_early_are_refused(tmp_path):
    packed = gzip.compress(bytes(24))
    path = tmp_path / "a.nrrd"
    path.write_bytes((HEAD.replace("raw", "gzip") + "\n").encode() + packed[:-9])
    with pytest.raises(InputError, match="ends too early"):
        read_label_map(ImageSource((path,)))


def test_layers_of_segments_that_overlap_are_refused_with_the_way_out(tmp_path):
    head = HEAD.replace("dimension: 3", "dimension: 4").replace("sizes: 2 3 4", "sizes: 2 2 3 4")
    head = head.replace("(20,0,0)", "none (20,0,0)") + "Segment0_Name:=WT\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n"
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes((head + "\n").encode() + bytes(48))
    with pytest.raises(InputError, match="2 layers of segments that overlap.*3D Slicer, export"):
        read_label_map(ImageSource((path,)))
    path.write_bytes((head.replace("sizes: 2 2", "sizes: 1 2") + "\n").encode() + bytes(23) + b"\1")
    assert read_label_map(ImageSource((path,))).array[1, 2, 3] == 1  # one layer is none


def test_names_that_contradict_each_other_are_not_used(tmp_path):
    text = "Segment0_Name:=a\nSegment0_LabelValue:=1\nSegment1_Name:=b\nSegment1_LabelValue:=1\n"
    (tmp_path / "a.seg.nrrd").write_bytes((HEAD + text + "\n").encode() + bytes(24))
    header = read_header(ImageSource((tmp_path / "a.seg.nrrd",)))
    assert not header.segments and "gives the label 1 twice" in header.warnings[0]


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_an_origin_beyond_what_float32_can_tell_apart_is_doubted(name, tmp_path):
    """At 2^25 mm float32 has steps of 4 mm: more than half of a voxel of 1 mm."""
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    for origin, warned in (((0.0, 0.0, 0.0), False), ((2.0**25, 0.0, 0.0), True)):
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(tmp_path / name))
        warnings = read_header(ImageSource((tmp_path / name,))).warnings
        assert any("steps of 4 mm" in text and text.startswith(str(tmp_path / name)) for text in warnings) == warned
