"""The life of a case on real patients: whatever a data set calls its files and however it stores its axes, the mask is
the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from data.find.discover import discover_cases
from data.labels import load_convention
from pipeline.options import SegmentOptions
from pipeline.predict.predictor import Predictor
from pipeline.segment.run import segment_cases

CASE = "BraTS2021_00495"
MODALITIES = {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair", "seg": "seg"}
ORIENTATIONS = ["".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]


@pytest.fixture(scope="module")
def reduced(real_patients: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, nib.Nifti1Image]:
    """Every second voxel of a real patient: the same anatomy, an eighth of the work."""
    images = {}
    for name, suffix in MODALITIES.items():
        full = nib.load(real_patients / CASE / f"{CASE}_{suffix}.nii.gz")
        image = full.slicer[::2, ::2, ::2]
        # The mask of this patient has other codes than its images; here they shall be alike.
        images[name] = nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine)
        images[name].set_sform(image.affine, 1)
        images[name].set_qform(image.affine, 1)
    return images


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("brats-attention-unet-3d", "cpu")


@pytest.fixture(scope="module")
def expected(reduced, predictor, tmp_path_factory) -> dict[str, np.ndarray]:
    """Region masks of the patient as BraTS 2021 stores it, in RAS axes."""
    root = tmp_path_factory.mktemp("expected")
    brats("BraTS2021_00495", {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair"})(root, reduced)
    return in_world(predictor, root)


def in_world(predictor: Predictor, root: Path) -> dict[str, np.ndarray]:
    (case,) = discover_cases(root)
    assert not case.problems, case.problems
    result = predictor(case)
    flip = result.native.grid.orientation_to("RAS")
    return {region: nib.orientations.apply_orientation(mask, flip) for region, mask in result.masks.items()}


def brats(
    folder: str, names: dict[str, str], suffix: str = ".nii.gz", separator: str = "_"
) -> Callable[[Path, dict], None]:
    def write(root: Path, images: dict[str, nib.Nifti1Image]) -> None:
        target = root / folder
        target.mkdir(parents=True)
        for modality, name in names.items():
            nib.save(images[modality], target / f"{target.name}{separator}{name}{suffix}")

    return write


def msd(root: Path, images: dict[str, nib.Nifti1Image]) -> None:
    (root / "imagesTr").mkdir()
    stack = np.stack([np.asarray(images[m].dataobj) for m in ("flair", "t1", "t1c", "t2")], axis=-1)
    nib.save(nib.Nifti1Image(stack, images["t1"].affine), root / "imagesTr" / "BRATS_001.nii.gz")
    (root / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"stray")
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}))


def nnunet(root: Path, images: dict[str, nib.Nifti1Image]) -> None:
    (root / "imagesTr").mkdir()
    for channel, modality in enumerate(("t1", "t1c", "t2", "flair")):
        nib.save(images[modality], root / "imagesTr" / f"BRATS_001_{channel:04d}.nii.gz")
    names = {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
    (root / "dataset.json").write_text(
        json.dumps({"channel_names": names, "labels": {"background": 0}, "file_ending": ".nii.gz"})
    )


def brats2013(root: Path, images: dict[str, nib.Nifti1Image]) -> None:
    for number, (modality, name) in enumerate({"t1": "T1", "t1c": "T1c", "t2": "T2", "flair": "Flair"}.items()):
        folder = root / "brats_2013_pat0001_1" / f"VSD.Brain.XX.O.MR_{name}.{number}"
        folder.mkdir(parents=True)
        array, affine = np.asarray(images[modality].dataobj), images[modality].affine
        image = sitk.GetImageFromArray(array.T.copy())
        lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
        spacing = np.linalg.norm(lps, axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps / spacing).ravel().tolist())
        image.SetOrigin((np.diag([-1.0, -1.0, 1.0]) @ affine[:3, 3]).tolist())
        sitk.WriteImage(image, str(folder / f"VSD.Brain.XX.O.MR_{name}.{number}.mha"))


OLD = {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair"}
NEW = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"}
LAYOUTS: dict[str, Callable[[Path, dict], None]] = {
    "brats2013": brats2013,
    "brats2018": brats("HGG/Brats18_TCIA01_001_1", OLD),
    "brats2019": brats("LGG/BraTS19_TCIA01_001_1", OLD),
    "brats2020": brats("BraTS20_Training_001", OLD, suffix=".nii"),
    "brats2023": brats("BraTS-GLI-00001-000", NEW, separator="-"),
    "fets2022": brats("FeTS2022_00001", OLD),
    "upenn": brats("UPENN-GBM-00001_11", {"t1": "T1", "t1c": "T1GD", "t2": "T2", "flair": "FLAIR"}),
    "ucsf": brats("UCSF-PDGM-0004", {"t1": "T1", "t1c": "T1c", "t2": "T2", "flair": "FLAIR"}),
    "msd": msd,
    "nnunet": nnunet,
    "generic": brats("Jane", {"t1": "T1w", "t1c": "T1post", "t2": "T2w", "flair": "t2flair"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_real_patient_gets_the_same_mask_under_every_layouts_names(layout, reduced, predictor, expected, tmp_path):
    LAYOUTS[layout](tmp_path, reduced)
    for region, mask in in_world(predictor, tmp_path).items():
        assert np.array_equal(mask, expected[region]), region


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "PSR", "SAL", "IPL"])
def test_a_real_patient_stored_flipped_or_permuted_gets_the_same_mask_in_the_patient(
    orientation, reduced, predictor, expected, tmp_path
):
    def turned(image: nib.Nifti1Image) -> nib.Nifti1Image:
        to = nib.orientations.axcodes2ornt(orientation)
        return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), to))

    LAYOUTS["brats2023"](tmp_path, {name: turned(image) for name, image in reduced.items()})
    for region, mask in in_world(predictor, tmp_path).items():
        assert np.array_equal(mask, expected[region]), region


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_of_the_48_orientations_gives_the_same_voxels_in_the_patient(orientation, phantoms, tiny_model, tmp_path):
    source = next(iter(sorted(phantoms.iterdir())))
    target = tmp_path / source.name
    target.mkdir()
    for path in source.iterdir():
        image = nib.load(path)
        to = nib.orientations.axcodes2ornt(orientation)
        nib.save(
            image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), to)),
            target / path.name,
        )
    predictor = Predictor(tiny_model, "cpu")
    straight = in_world(predictor, source)
    turned = in_world(predictor, target)
    assert straight["WT"].any()
    for region in straight:
        assert np.array_equal(straight[region], turned[region])


def test_one_flipped_modality_is_brought_into_line(reduced, predictor, expected, tmp_path):
    images = dict(reduced) | {"t2": nib.as_closest_canonical(reduced["t2"])}
    LAYOUTS["brats2023"](tmp_path, images)
    for region, mask in in_world(predictor, tmp_path).items():
        assert np.array_equal(mask, expected[region])


def test_the_two_real_patients_come_out_ok_with_masks_that_open_at_the_same_place(real_patients, tmp_path):
    report = segment_cases(discover_cases(real_patients), tmp_path, SegmentOptions(models=("brats-attention-unet-3d",)))
    assert list(report["status"]) == ["ok", "ok"]
    assert list(report["convention"]) == ["brats2017", "brats2017"]
    convention = load_convention("brats2017")
    for row in report.to_dict("records"):
        image = real_patients / row["case"] / f"{row['case']}_t1ce.nii.gz"
        mask = tmp_path / row["case"] / f"{row['case']}_seg.nii.gz"
        by_nibabel, by_itk = [nib.load(p) for p in (mask, image)], [sitk.ReadImage(str(p)) for p in (mask, image)]
        assert np.array_equal(by_nibabel[0].affine, by_nibabel[1].affine)
        assert by_itk[0].GetOrigin() == by_itk[1].GetOrigin() and by_itk[0].GetDirection() == by_itk[1].GetDirection()
        voxels = np.asarray(by_nibabel[0].dataobj)
        assert not convention.unknown_labels([float(v) for v in np.unique(voxels)])
        # Both patients are among the training patients: this says that the way is right, not how good the model is.
        assert row["dice_WT"] > 0.75


@pytest.mark.parametrize("model", ["brats-attention-unet-2d", "brats-attention-unet-3d", "brats-unet-plus-plus-2d"])
def test_the_shipped_models_find_the_tumour_of_a_phantom(model, tmp_path):
    from data.phantom.patient import write_phantom

    write_phantom(tmp_path / "in", 7, shape=(120, 120, 78), spacing_mm=(2.0, 2.0, 2.0))
    report = segment_cases(discover_cases(tmp_path / "in"), tmp_path / "out", SegmentOptions(models=(model,)))
    assert report["dice_WT"][0] >= 0.70


def test_the_demo_leaves_scored_patients_and_a_page(tmp_path):
    from pipeline.demo import run_demo

    report = run_demo(tmp_path / "demo")
    assert list(report["status"]) == ["ok"] * 3
    assert (report["dice_WT"] >= 0.70).all()
    assert (tmp_path / "demo" / "report.html").is_file()
    saved = pd.read_csv(tmp_path / "demo" / "report.csv")
    assert saved["volume_ml_WT"].between(5, 300).all()
    shutil.rmtree(tmp_path / "demo")
