"""Situations that users of other programs of this field have reported, rebuilt as small inputs.

Each names its thread; docs/robustness.md lists them with what was right before.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Case, ImageSource
from data.errors import InputError
from data.find.dataset_json import parse_dataset_json
from data.find.discover import discover_cases
from data.find.recognise import choose_conventions
from data.grid import Grid
from data.io.read import read_header, read_label_map, read_volume
from data.labels import load_convention
from data.references import read_reference
from pipeline.evaluate.run import evaluate

RAS = np.diag([20.0, 20.0, 20.0, 1.0])
BRATS = load_convention("brats2023")


def labels(*order: int) -> np.ndarray:
    """Return a label map, (6, 7, 8): oedema, core and enhancing tumour by their numbers, 20, 9 and 3 voxels more."""
    oedema, core, enhancing = order or (2, 1, 3)
    array = np.zeros((6, 7, 8), np.uint8)
    array[1:5, 1:5, 2:4] = oedema
    array[2:4, 2:5, 2:4] = core
    array[2, 2:5, 2] = enhancing
    return array


def save(path: Path, array: np.ndarray, affine: np.ndarray = RAS) -> ImageSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return ImageSource((path,))


def named(root: Path, *names: str) -> list[Case]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return discover_cases(root)


def regions_of(names: dict) -> dict[str, list[int]]:
    """Return the regions that the labels of a dataset.json tell."""
    text = json.dumps({"channel_names": {"0": "T1"}, "labels": {"background": 0, **names}}).encode()
    conventions = parse_dataset_json("dataset.json", text).conventions
    found = {json.dumps({r: sorted(v) for r, v in load_convention(name).regions.items()}) for name in conventions[:1]}
    return json.loads(found.pop()) if found else {}


def nrrd(path: Path, kinds: str, sizes: str, keys: str = "") -> Path:
    directions = "none (20,0,0) (0,20,0) (0,0,20)"
    head = f"NRRD0004\ntype: uchar\ndimension: 4\nspace: left-posterior-superior\nsizes: {sizes}\nkinds: {kinds}\n"
    head += f"space directions: {directions}\nspace origin: (0,0,0)\nencoding: raw\n{keys}\n"
    path.write_bytes(head.encode() + bytes(int(np.prod([int(n) for n in sizes.split()]))))
    return path


# ---- segmentations of 3D Slicer and its relatives ----


def test_layers_saved_under_a_plain_nrrd_name_are_no_label_map(tmp_path):
    """MIC-DKFZ/nnUNet#2925: shape (873, 479, 2), for the layers come first; Project-MONAI/MONAILabel#766."""
    path = nrrd(tmp_path / "Segmentation.nrrd", "list domain domain domain", "2 3 4 5", "Segment0_Name:=edema\n")
    with pytest.raises(InputError, match="2 layers of segments"):
        read_label_map(ImageSource((path,)))


def test_layers_that_all_bear_the_label_1_are_no_label_map(tmp_path):
    """lassoan/slicerio#9: each segment in a layer of its own, with LabelValue 1."""
    keys = "".join(f"Segment{n}_Name:=s{n}\nSegment{n}_LabelValue:=1\nSegment{n}_Layer:={n}\n" for n in range(3))
    with pytest.raises(InputError, match="3 layers of segments"):
        read_header(ImageSource((nrrd(tmp_path / "a.seg.nrrd", "list domain domain domain", "3 3 4 5", keys),)))


def test_channels_in_the_first_axis_of_an_nrrd_image_are_no_slices(tmp_path):
    """Project-MONAI/MONAI#8653: four scans along the first axis, one slice."""
    path = nrrd(tmp_path / "P1_t1.nrrd", "list domain domain domain", "4 9 9 1")
    with pytest.raises(InputError, match="4 numbers a voxel; write each into a file of its own"):
        read_volume(ImageSource((path,)))


@pytest.mark.parametrize("names", [("Segment", "Segment_1", "Segment_2"), ("1", "2", "4")])
def test_names_that_3d_slicer_gives_by_itself_are_no_tissues(names, tmp_path):
    """Slicer/Slicer#4733: a label map of 1, 2 and 4 comes back as Segment, Segment_1, Segment_2."""
    image = sitk.GetImageFromArray(labels(2, 1, 4).transpose(2, 1, 0))
    for number, (value, name) in enumerate(zip((1, 2, 4), names, strict=True)):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    named(tmp_path, "P1/P1_t1.nii")
    sitk.WriteImage(image, str(tmp_path / "P1/P1.seg.nrrd"))
    (case,) = discover_cases(tmp_path)
    assert choose_conventions([case])["P1"].name == "brats2017"


def test_segments_without_layer_and_extent_keep_their_names(tmp_path):
    """Kitware/VolView#858: other programs write names and label values alone."""
    image = sitk.GetImageFromArray(labels(1, 2, 3).transpose(2, 1, 0))
    for number, name in enumerate(("Peritumoral edema", "Necrosis", "Enhancing tumor")):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
    named(tmp_path, "P1/P1_t1.nii")
    sitk.WriteImage(image, str(tmp_path / "P1/P1.seg.nrrd"))
    (case,) = discover_cases(tmp_path)
    found = load_convention(choose_conventions([case])["P1"].name).regions
    assert (sorted(found["WT"]), sorted(found["TC"]), sorted(found["ET"])) == ([1, 2, 3], [2, 3], [3])


# ---- labels and their names ----


@pytest.mark.parametrize(
    "names",
    [
        {"T2/FLAIR signal alteration": 1, "contrast enhancing tumor": 2},
        {"non-enhancing T2/FLAIR signal abnormality": 1, "CE": 2},
        {"FLAIR hyperintensity": 1, "contrast-enhancing": 2},
    ],
)
def test_two_labels_of_a_glioma_tell_the_whole_and_the_enhancing_tumour(names):
    """CCI-Bonn/HD-GLIO#12: contrast-enhancing tumour and T2/FLAIR signal alteration, no necrosis."""
    assert regions_of(names) == {"WT": [1, 2], "ET": [2]}


def test_regions_that_leave_the_cavity_out_admit_it_in_the_masks():
    """MIC-DKFZ/nnUNet#2316: regions of three labels, and BraTS 2024's fourth in the masks."""
    raw = {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
    text = json.dumps({"channel_names": {"0": "T1"}, "labels": raw}).encode()
    assert "nnunet-brats" in parse_dataset_json("dataset.json", text).conventions
    assert 4 in load_convention("nnunet-brats").regions["RC"]


def test_numbers_of_nnunet_are_scored_against_those_of_brats_2020(tmp_path):
    """MIC-DKFZ/nnUNet#965, Rubics-Xuan/TransBTS#59: predictions of 1, 2, 3 beside references of 1, 2, 4."""
    for number in (1, 2):
        case = f"BraTS20_Training_00{number}"
        save(tmp_path / f"r/{case}/{case}_seg.nii.gz", labels(2, 1, 4))
        save(tmp_path / f"p/{case}.nii.gz", labels(1, 2, 3))
    rows = evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", convention="nnunet-brats")
    assert (rows[["dice_WT", "dice_TC", "dice_ET"]] == 1).all(axis=None)


def test_msd_calls_the_enhancing_tumour_3_whatever_a_tutorial_says():
    """Project-MONAI/tutorials#1355, shaohao011/BrainMVP#8: 2 is taken there for the enhancing tumour."""
    assert regions_of({"edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3})["ET"] == [3]
    assert load_convention("msd").regions["ET"] == {3} and load_convention("brats2023").regions["ET"] == {3}


def test_labels_smeared_by_a_conversion_are_refused_with_an_example(tmp_path):
    """TorchIO-project/torchio#220: 0.9882, 2.0235, 3.0118."""
    source = save(tmp_path / "a.nii", labels().astype(np.float32) * 0.9882)
    with pytest.raises(InputError, match=r"no whole numbers, such as 1\.9764.*nearest neighbour"):
        read_label_map(source)


def test_labels_scaled_again_and_again_stay_whole(tmp_path):
    """nipy/nibabel#1001: each saving leaves a little more rounding in scl_slope."""
    image = nib.Nifti1Image(labels().astype(np.int32) * 1000, RAS)
    image.header.set_slope_inter(0.001 * (1 + 2e-6), 0)
    nib.save(image, tmp_path / "a.nii")
    again = nib.load(tmp_path / "a.nii")
    stored = np.asarray(again.dataobj)
    assert np.array_equal(read_label_map(ImageSource((tmp_path / "a.nii",))).array, np.rint(stored))


def test_labels_of_16_bits_are_labels(tmp_path):
    """pyushkevich/itksnap#163: ITK-SNAP saves its few labels in 16 bits."""
    source = save(tmp_path / "a.nii.gz", labels().astype(np.uint16))
    assert np.array_equal(read_label_map(source).array, labels())


def test_a_stray_label_is_named_with_its_voxels(tmp_path):
    """MIC-DKFZ/nnUNet#439: a fifth label in paediatric masks."""
    save(tmp_path / "p/P1.nii.gz", labels())
    array = labels()
    array[0, 0, :2] = 5
    save(tmp_path / "r/P1.nii.gz", array)
    row = evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", reference_convention="brats2023").iloc[0]
    assert row["status"] == "error" and "label 5 (2 voxels)" in row["reason"]


def test_a_label_map_of_one_volume_a_class_is_refused(tmp_path):
    """Project-MONAI/MONAI#7185: four axes, the last of classes."""
    source = save(tmp_path / "a.nii.gz", np.stack([labels() == n for n in range(4)], axis=-1).astype(np.uint8))
    with pytest.raises(InputError, match="holds 4 volumes"):
        read_label_map(source)


# ---- places ----


@pytest.mark.parametrize("off_mm", [0.02, 1.0])
def test_a_header_that_is_a_little_off_places_a_reference_on_its_images(off_mm, tmp_path):
    """White65534/BHSD#10, ivadomed/seg-sc-ms-lesion-multicontrast#27: directions differ in the fourth digit."""
    moved = RAS.copy()
    moved[0, 3] += off_mm
    found = read_reference(save(tmp_path / "seg.nii.gz", labels(), moved), Grid((6, 7, 8), RAS), BRATS)
    assert not found.doubt and np.array_equal(found.masks["WT"], labels() > 0)
    assert f"{off_mm:g} mm off" in found.warnings[0]
    save(tmp_path / "p/P1.nii.gz", labels())
    save(tmp_path / "r/P1.nii.gz", labels(), moved)
    row = evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", convention="brats2023").iloc[0]
    assert row["dice_WT"] == 1 and row["status"] == "warn" and "mm off" in row["reason"]


@pytest.mark.parametrize("off_mm", [15.0, 400.0])
def test_a_reference_of_another_origin_is_not_scored(off_mm, tmp_path):
    """MIC-DKFZ/nnUNet#2551, #2130: "Origin mismatch between segmentation and corresponding images"."""
    moved = RAS.copy()
    moved[0, 3] += off_mm
    found = read_reference(save(tmp_path / "seg.nii.gz", labels(), moved), Grid((6, 7, 8), RAS), BRATS)
    assert "lies on another grid" in found.doubt


@pytest.mark.parametrize("shape", [(6, 7, 10), (12, 14, 16)])
def test_a_reference_of_more_voxels_than_its_image_is_not_scored(shape, tmp_path):
    """CoBrALab/atlases#8 and #11, pyushkevich/itksnap#247: labels of 734 slices for an image of 503."""
    found = read_reference(save(tmp_path / "seg.nii", np.zeros(shape, np.uint8)), Grid((6, 7, 8), RAS), BRATS)
    assert "lies on another grid" in found.doubt


def _at_352(header: nib.Nifti1Header) -> bytes:
    header["vox_offset"], header["magic"], header["scl_slope"], header["scl_inter"] = 352, b"n+1", 1, 0
    return header.binaryblock + bytes(4)


def test_a_voxel_size_that_the_sform_does_not_have_is_told(tmp_path):
    """InsightSoftwareConsortium/ITK#3514: pixdim .8658, a unit matrix in srow; ITK refuses the file."""
    image = nib.Nifti1Image(labels(), np.eye(4))
    image.header["pixdim"][1:4] = 0.865759, 0.865759, 0.796
    (tmp_path / "a.nii").write_bytes(_at_352(image.header) + labels().tobytes(order="F"))
    header = read_header(ImageSource((tmp_path / "a.nii",)))
    assert any("0.865759" in text and "affine was used" in text for text in header.warnings)


@pytest.mark.parametrize("shear", [1e-4, 5e-4])
def test_directions_that_are_nearly_at_right_angles_are_read(shear, tmp_path):
    """wasserth/TotalSegmentator#461, SimpleITK/SimpleITK#1433: ITK finds "no orthonormal definition"."""
    affine = RAS.copy()
    affine[0, 1] = shear * 20
    assert read_label_map(save(tmp_path / "a.nii", labels(), affine)).array.any()


def test_a_sagittal_mask_with_an_sform_alone_is_read(tmp_path):
    """Inria-Empenn/Anima-Public#108: qfac -1, no qform, 16 x 528 x 528."""
    affine = np.array([[0, 0, -10.0, 5], [0, 12.0, 0, 6], [25.0, 0, 0, 7], [0, 0, 0, 1]])
    image = nib.Nifti1Image(labels(), affine)
    image.set_qform(None, 0)
    image.set_sform(affine, 2)
    image.header["pixdim"][0] = -1
    nib.save(image, tmp_path / "a.nii")
    assert np.allclose(read_header(ImageSource((tmp_path / "a.nii",))).grid.affine, affine)


# ---- names ----


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("1_T1_Eq_1", "1_T1c_Crop_1", "1_T2_Tilt_1", "1_FLAIR"), ["t1", "t1c", "t2", "flair"]),
        (("x_T1", "x_CT1", "x_T2", "x_FL"), ["t1", "t1c", "t2", "flair"]),
        (("P_brain_t1", "P_brain_t1gd", "P_brain_t2", "P_brain_t2flair"), ["t1", "t1c", "t2", "flair"]),
        (("x_T1", "x_T1_ph", "x_T2_e2_ph", "x_FLAIR_real"), ["t1"]),
    ],
)
def test_names_that_converters_write_tell_the_modality(names, roles, tmp_path):
    """rordenlab/dcm2niix#119 and #172, CBICA/CaPTk#1453, FeTS-AI/Front-End#16; a phase image is none of ours."""
    (case,) = named(tmp_path, *(f"P1/{name}.nii.gz" for name in names))
    assert list(case.images) == roles and not case.problems


def test_two_conversions_of_one_scan_are_told_by_name(tmp_path):
    """rordenlab/dcm2niix#119: slices interpolated to equal distances (Eq) beside those as they were."""
    (case,) = named(tmp_path, "P1/x_T1.nii.gz", "P1/x_T1_Eq_1.nii.gz", "P1/x_FLAIR.nii.gz")
    assert "t1 is there more than once: x_T1.nii.gz and x_T1_Eq_1.nii.gz; keep one" in case.problems[0]


def test_an_analyze_pair_is_listed_as_not_read(tmp_path):
    """nipy/nibabel#643: .hdr and .img beside NIfTI images."""
    (case,) = named(tmp_path, "P1/x_T1.nii.gz", "P1/x_T2.hdr", "P1/x_T2.img")
    assert [path.name for path in case.unrecognised] == ["x_T2.hdr", "x_T2.img"]
    assert any("x_T2.img" in text and "NIfTI" in text for text in case.warnings)


def test_only_the_subject_that_lacks_a_scan_lacks_it(tmp_path):
    """aramis-lab/clinica#9: the second subject has no FLAIR, and the first's was counted for both."""
    scans = [f"sub-{n}/ses-M00/anat/sub-{n}_ses-M00_{scan}.nii.gz" for n in (1, 2) for scan in ("T1w", "FLAIR")]
    found = named(tmp_path, *scans[:3])
    assert [list(case.images) for case in found] == [["t1", "flair"], ["t1"]]
