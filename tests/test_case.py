"""Finding patients by names alone, in every layout and in hostile folders."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.case import Case
from data.errors import UsageError
from data.find.discover import cases_of_names, discover_cases
from data.find.layouts.layout import load_layouts, parse_layout
from data.find.naming import natural_key
from data.find.places import Names
from data.folder_names import folder_name, unique_folder_names

FOUR = ("t1", "t1ce", "t2", "flair")


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def brats(root: Path, patient: str, folder: str | None = None, tokens: tuple[str, ...] = (*FOUR, "seg")) -> Path:
    return touch(root, *(f"{patient if folder is None else folder}/{patient}_{token}.nii.gz" for token in tokens))


def only(root: Path) -> Case:
    (case,) = discover_cases(root)
    return case


def expand(root: Path, text: str) -> tuple[tuple[Path, ...], int | None]:
    """``a_{1,2}.tif#0`` of the YAML examples: the paths and the channel."""
    path, _, channel = text.partition("#")
    brace = re.search(r"\{(.*)\}", path)
    paths = [path.replace(brace[0], number) for number in brace[1].split(",")] if brace else [path]
    return tuple(root / one for one in paths), int(channel) if channel else None


@pytest.mark.parametrize("name", load_layouts())
def test_every_layout_finds_what_its_own_example_says(name: str, tmp_path: Path) -> None:
    example = load_layouts()[name].example
    touch(tmp_path, *example["paths"])
    for path, text in example.get("json", {}).items():
        (tmp_path / path).write_text(text)
    cases = discover_cases(tmp_path)
    assert [case.case_id for case in cases] == [expected["case"] for expected in example["cases"]]
    for case, expected in zip(cases, example["cases"], strict=True):
        assert {m: (s.paths, s.channel) for m, s in case.images.items()} == {
            m: expand(tmp_path, text) for m, text in expected["images"].items()
        }
        reference = (case.reference.paths, case.reference.channel) if case.reference else None
        assert reference == (expand(tmp_path, expected["reference"]) if expected["reference"] else None)
        assert (case.layout, case.problems, case.warnings) == (name, (), ())
        assert case.conventions == load_layouts()[name].conventions
        assert case.layout_reason


@pytest.mark.parametrize("name", load_layouts())
def test_names_alone_are_understood_as_the_same_names_on_a_disk(name: str, tmp_path: Path) -> None:
    example = load_layouts()[name].example
    touch(tmp_path, *example["paths"], "left/nothing.txt", "x.nii/x_t1.nii", "x.nii/Thumbs.db")
    texts = {path: text.encode() for path, text in example.get("json", {}).items()}
    names = Names(str(tmp_path))
    for path in sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()):
        names.add(path.parts)
    for path, text in texts.items():
        names.add(Path(path).parts, text)
        (tmp_path / path).write_bytes(text)
    assert cases_of_names(names) == discover_cases(tmp_path)


def test_of_a_file_and_a_folder_of_one_name_the_first_counts() -> None:
    names = Names("/nowhere")
    assert names.add(["a", "b.nii"]) == "/nowhere/a/b.nii"
    assert [names.add(["a"]), names.add(["a", "b.nii"]), names.add(["a", "b.nii", "c.nii"])] == [None] * 3
    assert names.n_folders == 2
    listing = names.list_folder("/nowhere")
    assert [entry.name for entry in listing.folders] == ["a"] and listing.files == [] and listing.hidden == []


def test_a_mixed_root_gives_each_patient_its_own_layout(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS2021_00001", "HGG/BraTS2021_00001")
    touch(
        tmp_path,
        "LGG/TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_1.tif",
        "b/flair.nii",
        "b/seg.nii",
        "imagesTr/BRATS_001.nii.gz",
    )
    assert {case.case_id: case.layout for case in discover_cases(tmp_path)} == {
        "BraTS2021_00001": "brats2021", "TCGA_CS_4941_19960909": "lgg", "b": "generic", "BRATS_001": "msd",
    }  # fmt: skip


def test_one_patients_folder_of_files_is_one_case_called_after_the_folder(tmp_path: Path) -> None:
    case = only(
        touch(
            tmp_path / "smith",
            "t1.nii.gz",
            "T1Gd.nii.gz",
            "t2w.mha",
            "FLAIR.mhd",
            "FLAIR.raw",
            "label.nii",
            "notes.txt",
        )
    )
    assert case.case_id == "smith" and list(case.images) == ["t1", "t1c", "t2", "flair"] and case.reference
    assert [path.name for path in case.unrecognised] == ["notes.txt"]


def test_kaggle_folders_called_like_files_are_looked_into(tmp_path: Path) -> None:
    touch(tmp_path, *(f"BraTS2021_00001/BraTS2021_00001_{token}.nii/0000_{token}_x.nii" for token in FOUR))
    case = only(tmp_path)
    assert case.layout == "brats2021" and case.images["t1c"].paths[0].name == "0000_t1ce_x.nii"


def test_a_folder_in_the_place_of_an_image_is_said(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS2021_00001", tokens=FOUR[:3])
    (tmp_path / "BraTS2021_00001/BraTS2021_00001_flair.nii.gz").mkdir()
    assert "is a folder" in only(tmp_path).problems[0]


def test_files_of_several_patients_side_by_side_are_grouped(tmp_path: Path) -> None:
    brats(tmp_path, "P1", ".")
    brats(tmp_path, "P2", ".")
    brats(tmp_path, "p2", ".")
    assert [case.case_id for case in discover_cases(tmp_path)] == ["P1", "P2", "p2"]
    touch(tmp_path / "flair_only", "a_flair.nii", "b_flair.nii")
    assert [case.case_id for case in discover_cases(tmp_path / "flair_only")] == ["a", "b"]


@pytest.mark.parametrize("stranger", ["BraTS2021_00002_flair.nii.gz", "BraTS2021_00002_seg.nii.gz", "jones_t2.nii"])
@pytest.mark.parametrize("folder", ["BraTS2021_00001", "renamed"])
def test_another_patients_file_in_the_folder_is_named(folder: str, stranger: str, tmp_path: Path) -> None:
    touch(brats(tmp_path, "BraTS2021_00001", folder), f"{folder}/{stranger}")
    case = only(tmp_path)
    assert len(case.problems) == 1 and stranger in case.problems[0] and case.case_id == folder


ARCHIVE = {
    "t1": "T1_AX_OtherEXampleTCIA_{0}_Si_{0}_T1_AX_SE_10_se2d1_t1.nii.gz",
    "t1c": "MRHR_T1_AX_POST_GAD_OtherEXampleTCIA_{0}_Si_{0}_MRHR_T1_AX_POST_GAD_SE_13_se2d1r_t1c.nii.gz",
    "t2": "MRHR_T2_AX_OtherEXampleTCIA_{0}_Si_{0}_MRHR_T2_AX_SE_2_tse2d1_11_t2.nii.gz",
    "flair": "MRHR_FLAIR_AX_OtherEXampleTCIA_{0}_Si_{0}_MRHR_FLAIR_AX_SE_IR_5_tir2d1_21_fla.nii.gz",
}
"""Names of an archive's export: the words of the series, then the patient, then numbers of the sequence."""


@pytest.mark.parametrize("below", ["", "TCGA-FG-6692"])
def test_names_of_an_archive_are_the_patients_whose_folder_they_lie_in(below: str, tmp_path: Path) -> None:
    root = tmp_path / "TCGA-FG-6692" if not below else tmp_path
    touch(root / below, *(name.format("TCGA-FG-6692") for name in ARCHIVE.values()))
    case = only(root)
    assert case.case_id == "TCGA-FG-6692" and not case.problems
    assert {role: source.paths[0].name for role, source in case.images.items()} == {
        role: name.format("TCGA-FG-6692") for role, name in ARCHIVE.items()
    }


@pytest.mark.parametrize("role", ARCHIVE)
def test_an_archives_name_of_another_patient_or_series_is_no_ones_own(role: str, tmp_path: Path) -> None:
    for folder, number in (("other", "TCGA-FG-66921"), ("set", "TCGA-FG-6692")):
        names = {**ARCHIVE, role: ARCHIVE[role].format(number) if folder == "other" else f"a_{{0}}_1_{role}.nii.gz"}
        touch(tmp_path / folder / "TCGA-FG-6692", *(name.format("TCGA-FG-6692") for name in names.values()))
        [case] = discover_cases(tmp_path / folder)
        assert "different patients' names" in case.problems[0] and "--t1c" in case.problems[0]


def test_another_patients_file_in_the_place_of_a_missing_one_is_not_taken(tmp_path: Path) -> None:
    touch(brats(tmp_path, "BraTS2021_00001", "renamed", FOUR[:3]), "renamed/BraTS2021_00002_flair.nii.gz")
    case = only(tmp_path)
    assert "flair" not in case.images and "BraTS2021_00002_flair.nii.gz" in case.problems[0]


@pytest.mark.parametrize("double", ["BraTS2021_00001_t1ce.nii", "BraTS2021_00001_T1GD.nii.gz", "t1c.mha"])
def test_a_doubled_modality_names_both_files(double: str, tmp_path: Path) -> None:
    case = only(touch(brats(tmp_path, "BraTS2021_00001"), f"BraTS2021_00001/{double}"))
    assert double in case.problems[0] and "BraTS2021_00001_t1ce.nii.gz" in case.problems[0] and "t1c" not in case.images


def test_a_doubled_reference_costs_the_scores_and_not_the_patient(tmp_path: Path) -> None:
    case = only(touch(brats(tmp_path, "BraTS2021_00001"), "BraTS2021_00001/BraTS2021_00001_mask.nii"))
    assert case.reference is None and not case.problems and "BraTS2021_00001_mask.nii" in case.warnings[0]


def test_empty_and_unusable_folders_are_rows_too(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS2021_00001")
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "odd/scan.nii.gz", "odd/readme.txt", "HGG/also_empty/.DS_Store")
    problems = {case.case_id: case.problems for case in discover_cases(tmp_path)}
    assert list(problems) == ["BraTS2021_00001", "empty", "HGG/also_empty", "odd"]
    assert "empty" in problems["empty"][0] and "empty" in problems["HGG/also_empty"][0]
    assert "no image that any layout names" in problems["odd"][0]


def test_hidden_files_are_not_seen_and_what_no_layout_names_is_listed(tmp_path: Path) -> None:
    touch(
        brats(tmp_path, "P1"),
        "P1/._P1_t1.nii.gz",
        "P1/.DS_Store",
        "P1/report.pdf",
        "P1/P1_brain_mask.nii.gz",
        "P1/dicom/1.dcm",
        ".git/x_t1.nii",
    )
    assert sorted(path.name for path in only(tmp_path).unrecognised) == ["P1_brain_mask.nii.gz", "dicom", "report.pdf"]


@pytest.mark.parametrize(
    "patient",
    [
        "a b",
        'q"uote,',
        "new\nline",
        "a..b",
        "..up",
        "..\\..\\x",
        "=1+2",
        "<img>",
        "x" * 230,
        "é",
        "P1.nii",
        "seg",
        "a_t1",
    ],
)
def test_hostile_names_stay_exact(patient: str, tmp_path: Path) -> None:
    touch(tmp_path, *(f"{patient}/{token}.nii" for token in FOUR))
    case = only(tmp_path)
    assert case.case_id == patient and len(case.images) == 4 and not case.problems


def test_bytes_that_are_no_utf8_survive(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/p\xff"
    os.mkdir(folder)
    os.close(os.open(folder + b"/p\xff_flair.nii", os.O_CREAT))
    case = only(tmp_path)
    assert case.case_id == "p\udcff" and case.images["flair"].paths[0].is_file()


def test_links_loops_pipes_and_dangling_ends_become_sentences(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside", "P3/t1.nii", "P3/flair.nii", "far_t2.nii")
    root = brats(tmp_path / "in", "P1", tokens=("t1", "t1ce"))
    os.mkfifo(root / "P1/P1_flair.nii")
    os.symlink("/nowhere/t2.nii", root / "P1/P1_t2.nii")
    os.symlink("..", root / "P1/up")
    brats(root, "P2", tokens=("t1",))
    os.symlink(outside / "far_t2.nii", root / "P2/P2_t2.nii")
    os.symlink(outside / "P3", root / "P3")
    os.symlink("/nowhere/P4", root / "P4")
    os.symlink("round", root / "round")
    os.symlink(".", root / "self")
    cases = {case.case_id: case for case in discover_cases(root)}
    assert sorted(cases) == ["P1", "P2", "P3", "P4", "round", "self"]
    assert "pipe" in " ".join(cases["P1"].problems) and "/nowhere/t2.nii" in " ".join(cases["P1"].problems)
    assert str(root) in " ".join(cases["P1"].warnings)
    assert not cases["P2"].problems and "far_t2.nii" in cases["P2"].warnings[0]
    assert len(cases["P3"].images) == 2 and str(outside / "P3") in cases["P3"].warnings[0]
    assert (
        "/nowhere/P4" in cases["P4"].problems[0]
        and cases["round"].problems
        and "leads back" in cases["self"].problems[0]
    )


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for one in range(12):
        touch(tmp_path, f"g{one}/P{one}/flair.nii", f"g{one}/P{one}/t1.nii")
        for other in range(12):
            os.symlink(tmp_path / f"g{other}", tmp_path / f"g{one}/to{other}")
    started = time.process_time()
    found = [case.case_id for case in discover_cases(tmp_path) if not case.problems]
    assert sorted(found) == sorted(f"g{one}/P{one}" for one in range(12)) and time.process_time() - started < 2


def test_folders_nested_without_end_are_reported(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    assert "deep" in only(tmp_path).problems[0]


def test_two_patients_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for group in ("HGG", "LGG"):
        brats(tmp_path, "P1", f"{group}/P1")
        brats(tmp_path, "BraTS2021_00001", f"{group}/BraTS2021_00001")
    cases = {case.case_id: case.warnings for case in discover_cases(tmp_path)}
    own = [f"{group}/{name}" for group in ("HGG", "LGG") for name in ("BraTS2021_00001", "P1")]
    assert sorted(cases) == own and not cases["HGG/P1"]
    assert "2 patients are called 'BraTS2021_00001'" in cases["LGG/BraTS2021_00001"][0]


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("Patient-001/week-044/T1.nii", "Patient-002/week-044/T1.nii", "Patient-001_week-044"),
        ("A/P1/t1.nii", "B/P1/t1.nii", "A/P1"),
        ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii", "sub-01_ses-1"),
        ("P1_t1.nii", "P2_t1.nii", "P1"),
        ("Dataset1/imagesTr/BRATS_001.nii", "Dataset1/imagesTr/BRATS_002.nii", "BRATS_001"),
        ("site/BraTS2021_00001/BraTS2021_00001_t1.nii", "site/BraTS2021_00002/BraTS2021_00002_t1.nii",
         "BraTS2021_00001"),
    ],
)  # fmt: skip
def test_a_patients_name_stays_when_another_comes(first: str, second: str, name: str, tmp_path: Path) -> None:
    for one in (first, first.replace("t1.", "flair.").replace("T1.", "FLAIR.").replace("T1w.", "FLAIR.")):
        touch(tmp_path, one)
    assert only(tmp_path).case_id == name
    for one in (second, second.replace("t1.", "flair.").replace("T1.", "FLAIR.").replace("T1w.", "FLAIR.")):
        touch(tmp_path, one)
    cases = discover_cases(tmp_path)
    assert name in [case.case_id for case in cases] and len(cases) == 2 and not cases[0].warnings


def test_masks_in_a_folder_of_their_own_find_their_patients(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        brats(tmp_path, patient, f"images/{patient}", FOUR)
    touch(tmp_path, "masks/P1_seg.nii", "masks/P3_seg.nii")
    cases = {case.case_id: case for case in discover_cases(tmp_path)}
    assert cases["P1"].reference and not cases["P2"].reference
    assert len(cases) == 3 and any(case.reference and not case.images for case in cases.values())


def test_a_folder_called_after_another_patient_warns(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS2021_00002", "BraTS2021_00001")
    assert "BraTS2021_00002" in only(tmp_path).warnings[0]


DATASET: dict[str, Any] = {
    "channel_names": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "CT"},
    "labels": {"background": 0},
}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0}, ("nnunet-brats", "msd")),
        ({"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3}, ("nnunet-brats", "msd")),
        (
            {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": [3]},
            ("brats2023", "brats2024-gli"),
        ),
        ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}, ("brats2024-gli",)),
    ],
)
def test_dataset_json_says_which_channel_and_which_labels(
    labels: dict[str, Any], expected: tuple[str, ...], tmp_path: Path
) -> None:
    touch(tmp_path, *(f"imagesTr/c_{n:04d}.nii.gz" for n in range(4)), "labelsTr/c.nii.gz", "labelsTr/lost.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({**DATASET, "labels": labels}))
    case, lost = discover_cases(tmp_path)
    assert {m: s.paths[0].name for m, s in case.images.items()} == {
        "t1": "c_0001.nii.gz",
        "t1c": "c_0002.nii.gz",
        "flair": "c_0000.nii.gz",
    }
    assert case.conventions == expected and case.reference and case.unrecognised[0].name == "c_0003.nii.gz"
    assert lost.case_id == "lost" and not lost.images


@pytest.mark.parametrize("text", [None, "{", "[]", '{"channel_names": {"zero": "T1"}}', "fifo"])
def test_numbered_channels_without_a_usable_dataset_json_are_refused(text: str | None, tmp_path: Path) -> None:
    touch(tmp_path, "imagesTs/c_0000.nii.gz")
    if text == "fifo":
        os.mkfifo(tmp_path / "dataset.json")
    elif text is not None:
        (tmp_path / "dataset.json").write_text(text)
    assert "dataset.json" in only(tmp_path).problems[0] and only(tmp_path).case_id == "c"


def test_dataset_json_overrules_the_usual_channel_order_of_a_4d_file(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/BRATS_001.nii.gz", "imagesTr/other.nii.gz")
    (tmp_path / "dataset.json").write_text(
        json.dumps(
            {
                "modality": {"0": "T1w", "1": "FLAIR"},
                "labels": {"0": "background", "1": "edema", "3": "enhancing tumour"},
            }
        )
    )
    first, other = discover_cases(tmp_path)
    assert {m: s.channel for m, s in first.images.items()} == {"t1": 0, "flair": 1} and first.conventions == (
        "msd",
        "nnunet-brats",
    )
    assert other.case_id == "other" and other.layout == "msd"


def test_slices_are_ordered_by_number_and_gaps_doubles_and_missing_masks_are_said(tmp_path: Path) -> None:
    name = "TCGA_CS_4941_19960909"
    case = only(
        touch(
            tmp_path, *(f"{name}/{name}_{n}.tif" for n in (1, 2, 10)), *(f"{name}/{name}_{n}_mask.tif" for n in (1, 2))
        )
    )
    assert [path.stem[-2:] for path in case.images["flair"].paths] == ["_1", "_2", "10"]
    assert case.reference is None and "3 is missing" in case.warnings[0] and "slice 10 has no mask" in case.warnings[1]
    touch(tmp_path, f"{name}/{name}_01.tif")
    assert f"{name}_01.tif" in only(tmp_path).problems[0]


def test_slices_whose_names_say_nothing_are_taken_as_colour_bands_with_a_warning(tmp_path: Path) -> None:
    case = only(touch(tmp_path, "p/s1.png", "p/s2.png", "p/s1_mask.png", "p/s2_mask.png"))
    assert {m: s.channel for m, s in case.images.items()} == {"t1": 0, "t1c": 2, "flair": 1}
    assert case.reference and "bands are taken as" in case.warnings[0] and case.conventions == ()


def test_a_root_that_is_missing_a_file_or_empty_cannot_start(tmp_path: Path) -> None:
    for root in (tmp_path / "missing", touch(tmp_path, "file") / "file", tmp_path):
        with pytest.raises(UsageError, match="give"):
            discover_cases(root)


def test_a_thousand_patients_take_less_than_two_seconds(tmp_path: Path) -> None:
    for number in range(1000):
        folder = tmp_path / f"BraTS2021_{number:05d}"
        folder.mkdir()
        for token in FOUR:
            os.close(os.open(f"{folder}/{folder.name}_{token}.nii.gz", os.O_CREAT))
    started = time.process_time()
    cases = discover_cases(tmp_path)
    assert time.process_time() - started < 2
    assert len(cases) == 1000 and cases == discover_cases(tmp_path)


def test_a_folders_name_shows_every_letter_that_it_has() -> None:
    # Hangul fillers are letters to Python, and show nothing in any listing.
    name = folder_name("p\u31641\u115f")
    assert name.startswith("p_1_-") and "\u3164" not in name and name != folder_name("p\u31641\u1160")


@given(st.text(max_size=300))
def test_folder_names_are_one_safe_component(case_id: str) -> None:
    name = folder_name(case_id)
    assert name and len(name.encode()) <= 109 and not set(name) & set('/\\<>:"|?*\n\0') and ".." not in name
    assert not name.startswith(".") and not name.endswith((".", " ")) and name.isprintable()


def test_ordinary_ids_are_their_own_folder_names_and_clashing_ones_are_told_apart() -> None:
    assert folder_name("BraTS-GLI-00000-000") == "BraTS-GLI-00000-000"
    assert folder_name("NUL") != "NUL" and folder_name("a/b") != folder_name("a\\b") and folder_name("\udcff")
    ids = ["P1", "p1", "P2", "a/b", "a\nb", "\udcff", ""]
    names = unique_folder_names(ids)
    assert len({name.casefold() for name in names.values()}) == len(ids) and names["P2"] == "P2"
    assert unique_folder_names(reversed(ids)) == names


@pytest.mark.parametrize("name", ["report.csv", "Report.CSV", "lesions.csv", "run.json", "report.html", "labels.txt"])
def test_a_patient_called_like_a_file_of_the_run_gets_a_folder_of_another_name(name: str) -> None:
    assert folder_name(name).casefold() != name.casefold() and not Path(folder_name(name)).suffix.endswith("csv")
    assert folder_name("P1.nii") == "P1.nii" and folder_name("v1.2") == "v1.2"


@given(st.lists(st.text(max_size=12), unique=True))
def test_folder_names_never_clash(ids: list[str]) -> None:
    assert len({name.casefold() for name in unique_folder_names(ids).values()}) == len(ids)


@given(st.text(), st.text())
def test_natural_order_tells_all_names_apart(one: str, other: str) -> None:
    assert (natural_key(one) == natural_key(other)) == (one == other)
    assert natural_key("x_2") < natural_key("x_10")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "odd"},
        {"extra": 1},
        {"images": {"t3": ["t3"]}},
        {"conventions": ["none"]},
        {"pattern": "("},
        {"title": None, "channels": ["pd"]},
    ],
)
def test_a_misspelt_layout_is_refused_with_its_file(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"name": "x", "title": "X", "kind": "files", "conventions": [], "example": {}}
    parse_layout(good, "x.yaml")
    with pytest.raises(UsageError, match="x.yaml"):
        parse_layout({**good, **change}, "x.yaml")


def test_numbered_volumes_that_say_no_modality_are_not_taken_for_slices(tmp_path: Path) -> None:
    names = ("P1.nii.gz", "P2.nii", "3.mha", "P2_3.mhd")
    case = only(touch(tmp_path, *names))
    assert not case.images and case.case_id == tmp_path.name and len(case.unrecognised) == 4
    assert "no file name tells a modality" in case.problems[0] and "NAME_t1c.mha" in case.problems[0]


def test_files_that_are_no_images_are_said_to_need_conversion(tmp_path: Path) -> None:
    assert "export the patient's images as NIfTI" in only(touch(tmp_path, "p/1.dcm", "p/2.dcm")).problems[0]


def test_a_folder_that_says_only_what_it_holds_is_its_patients(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        touch(tmp_path, *(f"{patient}/images/{token}.nii" for token in FOUR), f"{patient}/masks/seg.nii")
    touch(
        tmp_path, "P3/images/t1.nii", "P3/images/flair.nii", "P3/P3_seg.nii", "P4/images/s_1.png", "P4/images/s_2.png"
    )
    (tmp_path / "P5/images").mkdir(parents=True)
    cases = discover_cases(tmp_path)
    assert [case.case_id for case in cases] == ["P1", "P2", "P3", "P4", "P5"]
    assert [case.reference is not None for case in cases] == [True, True, True, False, False]
    assert [len(case.images) for case in cases] == [4, 4, 2, 3, 0] and not any(case.problems for case in cases[:4])
    assert only(tmp_path / "P1/images").case_id == "images"  # what lies above the given folder is not looked at


def test_a_bids_patient_is_called_after_its_subject_and_its_session_where_it_names_one(tmp_path: Path) -> None:
    touch(tmp_path, *(f"sub-01/anat/sub-01_{token}.nii.gz" for token in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")))
    touch(tmp_path, *(f"sub-02/ses-1/anat/sub-02_ses-1_{token}.nii.gz" for token in ("T1w", "FLAIR")))
    touch(tmp_path, *(f"sub-03/ses-{n}/anat/sub-03_ses-{n}_T1w.nii.gz" for n in (1, 2)))
    touch(tmp_path, "derivatives/seg/sub-01/anat/sub-01_seg.nii.gz")
    cases = discover_cases(tmp_path)
    assert [case.case_id for case in cases] == ["sub-01", "sub-02_ses-1", "sub-03_ses-1", "sub-03_ses-2"]
    assert len(cases[0].images) == 4 and cases[0].reference
    assert cases[0].folder == tmp_path / "sub-01/anat" and not cases[1].warnings
    assert [case.case_id for case in discover_cases(tmp_path / "sub-03")] == ["ses-1", "ses-2"]


def test_two_patients_of_one_name_at_the_root_and_below_keep_apart(tmp_path: Path) -> None:
    root = touch(tmp_path / "P1", "t1.nii", "flair.nii", "images/t1.nii", "images/flair.nii")
    assert len({case.case_id for case in discover_cases(root)}) == 2
    touch(tmp_path / "in", *(f"P1/{folder}/{token}.nii" for folder in ("mri", "nifti") for token in ("t1", "flair")))
    assert [case.case_id for case in discover_cases(tmp_path / "in")] == ["P1/mri", "P1/nifti"]


def test_a_mask_apart_whose_name_several_patients_bear_is_given_to_none_of_them(tmp_path: Path) -> None:
    brats(tmp_path, "p", folder="one")
    brats(tmp_path, "p", folder="two", tokens=FOUR)
    brats(tmp_path, "p", folder="masks_of_somebody", tokens=("seg",))
    found = {case.case_id: case for case in discover_cases(tmp_path)}
    assert found["two"].reference is None
    assert not found["masks_of_somebody"].images


# What an earlier run left


def results(folder: Path, case: str, files: tuple[str, ...], inputs: tuple[Path, ...] = (), state: bool = True) -> Path:
    """A folder as a run leaves it: its results, and either the state of each case or run.json."""
    touch(folder, *files, "report.csv", "labels.txt", "report.html")
    made_from = {str(path): "00" for path in inputs}
    if state:
        (folder / ".state").mkdir(exist_ok=True)
        (folder / f".state/{case}.json").write_text(json.dumps({"mask_sha256": "00", "inputs": made_from}))
    else:
        about = {"command": "", "options": {}, "models": {}, "versions": {}}
        (folder / "run.json").write_text(json.dumps({**about, "cases": {case: {"folder": case, "inputs": made_from}}}))
    return folder


NESTED = ("P1/P1_seg.nii.gz", "P1/P1_preview.png", "P1/P1_prob_WT.nii.gz", "P1/P1_t1.nii.gz", "P1/P1_flair.nii.gz")
FLAT = ("P1.nii.gz", "previews/P1_preview.png", "probabilities/P1_prob_WT.nii.gz", "images/P1_t1c.nii.gz")


@pytest.mark.parametrize("state", [True, False], ids=["state", "run.json"])
@pytest.mark.parametrize("files", [NESTED, FLAT], ids=["nested", "flat"])
@pytest.mark.parametrize("where", ["results", "P1/results", "labelsTr", "a/b/out"])
def test_masks_of_an_earlier_run_within_the_input_are_no_references(
    where: str, files: tuple[str, ...], state: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    brats(tmp_path, "P1", tokens=FOUR)
    folder = results(tmp_path / where, "P1", files, state=state)
    (folder / "refused").mkdir()  # a run leaves this of a patient that gets no mask
    with caplog.at_level(logging.WARNING):
        case = only(tmp_path)
    assert case.case_id == "P1" and case.reference is None and len(case.images) == 4
    assert not case.problems and not case.warnings
    assert len(caplog.records) == 1 and str(folder) in caplog.text and "earlier run" in caplog.text


def test_the_output_of_a_run_given_as_the_root_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = results(tmp_path / "results", "P1", NESTED[:3])
    case = only(folder)
    assert case.case_id == "P1" and case.reference and not caplog.records


def test_patients_within_the_output_of_a_run_keep_their_rows_and_lose_its_masks(tmp_path: Path) -> None:
    brats(tmp_path, "P2", "patients/P2", FOUR)
    (tmp_path / "patients/P3").mkdir()
    results(tmp_path, "P2", ("P2/P2_seg.nii.gz", "P2/P2_preview.png"))
    cases = discover_cases(tmp_path)
    assert [(case.case_id, case.reference, bool(case.problems)) for case in cases] == [
        ("patients/P2", None, False),
        ("patients/P3", None, True),
    ]


def test_the_images_that_a_run_read_are_not_taken_for_its_results(tmp_path: Path) -> None:
    brats(tmp_path, "P1", tokens=("t1", "t1c", "t2", "flair"))
    images = tuple((tmp_path / "P1").iterdir())
    results(tmp_path, "P1", ("P1/P1_seg.nii.gz",), images)
    case = only(tmp_path)
    assert len(case.images) == 4 and case.reference is None
    assert [path.name for path in case.unrecognised] == ["P1_seg.nii.gz"]


def test_a_folder_called_state_or_a_foreign_run_json_makes_no_folder_a_runs_output(tmp_path: Path) -> None:
    brats(tmp_path, "P1")
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state/P1.json").write_text('{"open_windows": []}')
    (tmp_path / "run.json").write_text('{"cases": {"P1": {"folder": "P1"}}}')
    assert only(tmp_path).reference
    (tmp_path / "run.json").write_text("[" * 100_000)
    assert only(tmp_path).reference


# Whose row it is


def test_folders_called_after_modalities_are_parts_of_the_patient_above(tmp_path: Path) -> None:
    for patient in ("MUELLER", "SCHMIDT"):
        touch(tmp_path, *(f"{patient}/{sequence}/IM{n}.dcm" for sequence in ("T1", "FLAIR") for n in (0, 1)))
    touch(tmp_path, *(f"P1/images/{token}.nii" for token in FOUR))
    (tmp_path / "P1/seg").mkdir()
    first, second, third = discover_cases(tmp_path)
    assert (first.case_id, second.case_id, third.case_id) == ("MUELLER", "P1", "SCHMIDT")
    assert first.problems[0].startswith("MUELLER/FLAIR, MUELLER/T1: no image") and "IM0.dcm" in first.problems[0]
    assert not second.problems and second.unrecognised == (tmp_path / "P1/seg",)


def test_a_folder_deep_below_the_root_that_holds_nothing_to_read_is_said_with_its_path(tmp_path: Path) -> None:
    brats(tmp_path, "P1")
    touch(tmp_path, "MUELLER/study/series7/IM0.dcm")
    case = discover_cases(tmp_path)[0]
    assert case.case_id == "MUELLER/study/series7" and case.problems[0].startswith("MUELLER/study/series7: ")


@pytest.mark.parametrize("root", [".", "P1"])
def test_one_patients_images_in_several_folders_are_one_row_that_says_where(root: str, tmp_path: Path) -> None:
    touch(tmp_path, "P1/one/P1_t1.nii", "P1/one/P1_t1c.nii", "P1/two/P1_t2.nii", "P1/two/P1_flair.nii")
    case = only(tmp_path / root)
    assert case.case_id == "P1" and not case.images
    assert "one (t1, t1c), two (t2, flair)" in case.problems[0] and "one folder" in case.problems[0]


def test_sessions_and_sites_that_hold_the_same_modalities_stay_apart(tmp_path: Path) -> None:
    for session in ("first", "second"):
        brats(tmp_path, "P1", f"P1/{session}", FOUR)
    brats(tmp_path, "P2", "site/P2", FOUR[:2])
    brats(tmp_path, "P2", "other/P2", FOUR[2:])
    assert {case.case_id: len(case.images) for case in discover_cases(tmp_path)} == {
        "P1/first": 4,
        "P1/second": 4,
        "other/P2": 2,
        "site/P2": 2,
    }


def test_a_patient_called_images_keeps_its_name_beside_others_and_gives_it_to_the_root_alone(tmp_path: Path) -> None:
    touch(tmp_path / "in", *(f"{name}/{token}.nii" for name in ("images", "scans") for token in FOUR))
    assert [case.case_id for case in discover_cases(tmp_path / "in")] == ["images", "scans"]
    assert not any(case.warnings for case in discover_cases(tmp_path / "in"))
    touch(tmp_path / "smith", *(f"anat/{token}.nii" for token in FOUR), "dwi/x.bval")
    assert [case.case_id for case in discover_cases(tmp_path / "smith")] == ["smith", "dwi"]
    brats(tmp_path / "flat", "P1", "images")
    brats(tmp_path / "flat", "P2", "images")
    assert [case.case_id for case in discover_cases(tmp_path / "flat")] == ["P1", "P2"]


def test_hidden_images_are_said_and_what_programs_hide_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    brats(tmp_path, "P1")
    touch(
        tmp_path, "P1/.P1_t1.nii", "P1/.old/P1_t2.nii", "P1/.notes", ".P2/P2_t1.nii", ".git/x_t1.nii", ".hidden/a.txt"
    )
    touch(tmp_path, "g/P3/.P3_t1.nii", "g/P3/.P3_flair.nii.gz", "._P4_t1.nii", ".Trash-1000/P5_t1.nii", ".DS_Store")
    cases = {case.case_id: case for case in discover_cases(tmp_path)}
    assert sorted(cases) == [".P2", "P1", "g/P3"] and not caplog.records
    assert [path.name for path in cases["P1"].unrecognised] == [".old", ".P1_t1.nii"] and not cases["P1"].problems
    assert ".P2 holds images" in cases[".P2"].problems[0]
    assert cases["g/P3"].problems[0].startswith("g/P3: hidden") and ".P3_t1.nii" in cases["g/P3"].problems[0]
    touch(tmp_path, ".P6_t1.nii")
    discover_cases(tmp_path)
    assert ".P6_t1.nii" in caplog.text


def test_a_set_without_a_usable_dataset_json_has_one_row_a_patient(tmp_path: Path) -> None:
    touch(tmp_path, *(f"set/imagesTr/p_{n:04d}.nii" for n in range(4)), "set/labelsTr/p.nii")
    (tmp_path / "set/dataset.json").write_text("123")
    case = only(tmp_path)
    assert case.case_id == "set/p" and len(case.problems) == 1
    assert "dataset.json holds a number" in case.problems[0] and "write a dataset.json" not in case.problems[0]


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    touch(brats(tmp_path, "BraTS2021_00001"), *(f"BraTS2021_00001/BraTS2021_{n:05d}_t1.nii" for n in range(2, 900)))
    touch(tmp_path, *(f"twice/twice_t1{'.' * n}.nii" for n in range(1, 90)), "twice/t2.nii")
    touch(tmp_path, *(f"many/imagesTr/p_{n:04d}.nii" for n in range(500)))
    os.mkdir(tmp_path / "pipes")
    for n in range(99):
        os.mkfifo(tmp_path / f"pipes/flair_{n}.png")
    for case in discover_cases(tmp_path):
        assert case.problems and len(" ".join(case.problems)) < 600 and "more" in " ".join(case.problems), case.case_id


def four(root: Path, pattern: str) -> Path:
    return touch(root, *(pattern.format(token=token) for token in FOUR))


@pytest.mark.parametrize(
    ("images", "mask"),
    [
        ("P1/P1_brain_{token}.nii", "P1/P1_tumorMask.nii"),
        ("P1/P1_{token}.nii", "P1/P1_t1c_seg.nii"),
        ("P1/P1_reg_{token}.nii", "P1/manual_seg.nii"),
        ("P1/sub-7_ses-1_space-T1w_{token}.nii", "P1/sub-7_ses-1_desc-tumor_mask.nii"),
        ("P1/P1_{token}_bet.nii", "P1/P1_seg.nii"),
    ],
)
def test_a_mask_is_its_patients_whatever_else_its_name_says(images: str, mask: str, tmp_path: Path) -> None:
    case = only(touch(four(tmp_path, images), mask))
    assert not case.problems and len(case.images) == 4 and case.case_id == "P1"
    assert case.reference is not None and case.reference.paths == (tmp_path / mask,)


def test_two_patients_images_in_one_folder_are_told_apart_all_the_same(tmp_path: Path) -> None:
    four(four(tmp_path, "both/P1_brain_{token}.nii"), "both/P2_brain_{token}.nii")
    assert [len(case.images) for case in discover_cases(tmp_path)] == [4, 4]
    touch(tmp_path, "P3/P3_t1.nii", "P3/P3_flair.nii", "P3/P4_seg.nii")
    assert "another patient's file: P4_seg.nii" in discover_cases(tmp_path)[-1].problems[0]


def test_the_brain_masks_of_hd_bet_are_no_tumours(tmp_path: Path) -> None:
    four(four(tmp_path, "P1/P1_{token}_bet.nii"), "P1/P1_{token}_bet_mask.nii")
    case = only(tmp_path)
    assert len(case.images) == 4 and case.reference is None and not case.problems


@pytest.mark.parametrize("below", ["", "NIFTI/"])
def test_a_numbered_folder_for_each_sequence_is_part_of_its_patient(below: str, tmp_path: Path) -> None:
    for patient in ("PAT-1", "PAT-2"):
        for number, token in enumerate(("T1", "T1GD", "T2", "FLAIR"), 1):
            touch(tmp_path, f"{patient}/{number}_{token}/{below}{token}.nii")
    cases = discover_cases(tmp_path)
    assert [(case.case_id, len(case.images), case.problems) for case in cases] == [("PAT-1", 4, ()), ("PAT-2", 4, ())]


def test_numbered_channels_are_read_in_any_folder_by_the_dataset_json_beside_them(tmp_path: Path) -> None:
    touch(tmp_path, *(f"input/{name}_{channel:04d}.nii" for name in "ab" for channel in range(4)))
    for case in discover_cases(tmp_path / "input"):
        assert not case.images and "dataset.json" in case.problems[0]
    text = json.dumps({"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}})
    (tmp_path / "input/dataset.json").write_text(text)
    cases = discover_cases(tmp_path / "input")
    assert [(case.case_id, list(case.images)) for case in cases] == [
        (name, ["t1", "t1c", "t2", "flair"]) for name in "ab"
    ]
    assert cases[1].images["t1c"].paths == (tmp_path / "input/b_0001.nii",)


def test_ct1_is_the_scan_with_contrast_and_an_unread_segmentation_is_said(tmp_path: Path) -> None:
    case = only(touch(tmp_path, "P1/P1_CT1.nii", "P1/P1_T1.nii", "P1/Segmentation.nhdr"))
    assert list(case.images) == ["t1", "t1c"] and "this format is not read" in case.warnings[0]
