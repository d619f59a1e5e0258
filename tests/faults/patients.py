"""Folders that hold too little, too much or another's files, and patients with names made to break things."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence

import numpy as np

from tests.faults.patient import IMAGES, Patient
from tests.faults.registry import CannotMake, add, fault

# What is missing, doubled, or somebody else's


def _missing() -> None:
    for what in IMAGES:

        def make(patient: Patient, what: str = what) -> None:
            patient.remove(what)

        add(f"no_{what}", __name__, f"no {what} image", make, "error", ("no " + what, "--missing"))


_missing()


@fault("error", "no t1, t2", "image")
def two_missing(patient: Patient) -> None:
    """Two modalities are not there."""
    patient.remove("t1", "t2")


@fault("error", "t1c is there more than once", "-t1c.nii and", "-t1c.nii.gz")
def modality_packed_and_not(patient: Patient) -> None:
    """T1c is there packed and unpacked: which one is meant?"""
    packed = patient.path("t1c").read_bytes()
    patient.unpack("t1c")
    patient.path("t1c").write_bytes(packed)


@fault("error", "t1c is there more than once", "_t1ce.nii.gz")
def modality_under_two_names(patient: Patient) -> None:
    """T1c is there under the names of two data sets."""
    shutil.copy(patient.path("t1c"), patient.folder / f"{patient.name}_t1ce.nii.gz")


@fault("error", "another patient's file", "BraTS-GLI-77777-000-t2w.nii.gz")
def file_of_another_patient(patient: Patient) -> None:
    """One more file, of another patient."""
    shutil.copy(patient.path("t2"), patient.folder / "BraTS-GLI-77777-000-t2w.nii.gz")


@fault("error", "another patient's file", "BraTS-GLI-77777-000-t2w.nii.gz")
def file_of_another_patient_in_the_place_of_ones_own(patient: Patient) -> None:
    """T2 is another patient's."""
    os.rename(patient.path("t2"), patient.folder / "BraTS-GLI-77777-000-t2w.nii.gz")


@fault("error", "another patient's file", "BraTS-GLI-77777-000-seg.nii.gz")
def reference_of_another_patient(patient: Patient) -> None:
    """The reference is another patient's."""
    os.rename(patient.path("seg"), patient.folder / "BraTS-GLI-77777-000-seg.nii.gz")


@fault("error", "BraTS-GLI-77777-000-t1n.nii.gz", "different patients' names")
def two_patients_in_one_folder(patient: Patient) -> None:
    """All files of a second patient lie in the folder."""
    for path in sorted(patient.folder.iterdir()):
        shutil.copy(path, patient.folder / path.name.replace(patient.name, "BraTS-GLI-77777-000"))


@fault("warn", "BraTS-GLI-77777-001", "check whose", same=True)
def files_all_called_after_another(patient: Patient) -> None:
    """All files bear another patient's name than the folder."""
    for path in list(patient.folder.iterdir()):
        os.rename(path, patient.folder / path.name.replace(patient.name, "BraTS-GLI-77777-001"))


@fault("error", "empty")
def empty_folder(patient: Patient) -> None:
    """A folder without a file."""
    for path in patient.folder.iterdir():
        path.unlink()


@fault("error", "empty")
def folder_of_hidden_files(patient: Patient) -> None:
    """A folder that holds nothing but .DS_Store and ._ files."""
    for path in list(patient.folder.iterdir()):
        os.rename(path, path.with_name("._" + path.name))
    (patient.folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


@fault("error", "notes.txt")
def folder_of_text(patient: Patient) -> None:
    """A folder that holds a text and no image."""
    for path in patient.folder.iterdir():
        path.unlink()
    (patient.folder / "notes.txt").write_text("scan again on Monday")


@fault("error", "no t1, t1c, t2, flair image")
def reference_alone(patient: Patient) -> None:
    """A reference without an image."""
    patient.remove(*IMAGES)


@fault("error", "3 DICOM files cannot be read", "--keep-identity")
def folder_of_dicom(patient: Patient) -> tuple[str]:
    """DICOM files without content; their row does not tell the name of their folder."""
    for path in patient.folder.iterdir():
        path.unlink()
    for number in range(3):
        (patient.folder / f"IM_000{number}.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    return (patient.hidden,)


@fault("error", "8 DICOM files cannot be read", "--keep-identity")
def folders_of_dicom(patient: Patient) -> tuple[str]:
    """As an archive exports it: a folder of DICOM files for each sequence. The row is the patient's."""
    for path in list(patient.folder.iterdir()):
        path.unlink()
    for sequence in ("T1", "T1c", "T2", "FLAIR"):
        (patient.folder / sequence).mkdir()
        for number in range(2):
            (patient.folder / sequence / f"IM{number}.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    return (patient.hidden,)


@fault("error", "one (t1, t1c)", "two (t2, flair)", "one folder")
def images_in_two_folders(patient: Patient) -> None:
    """Two images lie in a folder called one, two in a folder called two."""
    patient.remove("seg")
    for place, whats in (("one", ("t1", "t1c")), ("two", ("t2", "flair"))):
        (patient.folder / place).mkdir()
        for what in whats:
            os.rename(patient.path(what), patient.folder / place / patient.path(what).name)


@fault("error", "another patient's file", "BraTS-GLI-70002-000-t1c.nii.gz", "and 57 more")
def files_of_sixty_other_patients(patient: Patient) -> None:
    """Sixty files of other patients: the row names some of them."""
    for number in range(60):
        (patient.folder / f"BraTS-GLI-{70000 + number}-000-t1c.nii.gz").write_bytes(b"")


@fault("error", "no t1c", "not recognised: .BraTS")
def hidden_image(patient: Patient) -> None:
    """A dot before the name of an image: it is not read, and the row says that it is there."""
    os.rename(patient.path("t1c"), patient.path("t1c").with_name("." + patient.path("t1c").name))


@fault("error", "hidden by the dot", "rename")
def all_images_hidden(patient: Patient) -> None:
    """A dot before the name of every file."""
    for path in list(patient.folder.iterdir()):
        os.rename(path, path.with_name("." + path.name))


@fault("error", "hidden by the dot", "rename")
def hidden_patient(patient: Patient) -> Sequence[str]:
    """A dot before the name of the patient's folder."""
    hidden = patient.folder.with_name("." + patient.name)
    os.rename(patient.folder, hidden)
    return (hidden.name,)


# Sets whose files dataset.json explains


_TISSUES = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": [3]}


def _index(*names: str) -> dict[str, object]:
    return {"channel_names": {str(n): name for n, name in enumerate(names)}, "labels": _TISSUES}


_FOUR = ("T1", "T1ce", "T2", "FLAIR")
_USUAL = json.dumps(_index(*_FOUR)).encode()


def _numbered(patient: Patient, index: bytes | None, *more: str) -> None:
    """The patient as nnU-Net keeps it, a numbered file each image."""
    (patient.folder / "imagesTr").mkdir()
    (patient.folder / "labelsTr").mkdir()
    for number, what in enumerate((*IMAGES, *more)):
        shutil.copy(patient.path(what), patient.folder / "imagesTr" / f"{patient.name}_{number:04d}.nii.gz")
    patient.remove(*IMAGES)
    os.rename(patient.path("seg"), patient.folder / "labelsTr" / f"{patient.name}.nii.gz")
    if index is not None:
        (patient.folder / "dataset.json").write_bytes(index)


def _stacked(patient: Patient, index: bytes | None, *more: str) -> None:
    """The patient as the Medical Segmentation Decathlon keeps it, all images in one file."""
    (patient.folder / "imagesTr").mkdir()
    patient.write("t1c", np.stack([patient.arrays[what] for what in (*IMAGES, *more)], axis=-1))
    os.rename(patient.path("t1c"), patient.folder / "imagesTr" / f"{patient.name}.nii.gz")
    patient.remove("t1", "t2", "flair", "seg")
    if index is not None:
        (patient.folder / "dataset.json").write_bytes(index)


def _indices() -> None:
    contents: dict[str, tuple[str, bytes | None, str]] = {
        "missing": ("is not there", None, "write a dataset.json"),
        "in_utf_16": ("is in UTF-16", _USUAL.decode().encode("utf-16"), "UTF-8"),
        "nested_deep": ("is nested 200,000 deep", b"[" * 200_000 + b"]" * 200_000, "nested too deep"),
        "of_a_long_number": ("holds a number of 5000 digits", b'{"a": ' + b"9" * 5000 + b"}",
                             "a number in it is too long"),
        "of_a_number": ("is a number", b"123", "holds a number"),
        "cut": ("is cut", _USUAL[:40], "line 1"),
        "of_a_list": ("lists its channels without numbers", json.dumps({"channel_names": _FOUR}).encode(), "a list"),
        "of_others": ("names other channels", json.dumps(_index("CT", "PET", "ADC", "DWI")).encode(), "'0': 'CT'"),
    }  # fmt: skip
    for key, (about, content, says) in contents.items():

        def make(patient: Patient, content: bytes | None = content) -> None:
            _numbered(patient, content)

        about = f"numbered files whose dataset.json {about}"
        add(f"dataset_json_{key}", __name__, about, make, "error", ("dataset.json", "_0000.nii.gz", says))


_indices()


@fault("error", "dataset.json is no file")
def dataset_json_that_is_a_fifo(patient: Patient) -> None:
    """A pipe bears the name of dataset.json."""
    _numbered(patient, None)
    if not hasattr(os, "mkfifo"):
        raise CannotMake("this platform has no named pipes")
    os.mkfifo(patient.folder / "dataset.json")


@fault("ok", scored=True)
def dataset_json_with_a_byte_order_mark(patient: Patient) -> None:
    """dataset.json begins with a byte order mark, as some editors leave it."""
    _numbered(patient, b"\xef\xbb\xbf" + _USUAL)


@fault("warn", "dataset.json is a link out of the input to", same=True)
def dataset_json_linked_out(patient: Patient) -> None:
    """dataset.json is a link out of INPUT."""
    _numbered(patient, None)
    patient.outside.mkdir()
    (patient.outside / "index.json").write_bytes(_USUAL)
    (patient.folder / "dataset.json").symlink_to(patient.outside / "index.json")


@fault("warn", "_0004.nii.gz", "channel 4", "names 4 channels", same=True)
def channel_beyond_dataset_json(patient: Patient) -> None:
    """A fifth numbered file where dataset.json names four channels."""
    _numbered(patient, _USUAL, "t2")


@fault("error", "t1 is there more than once", "_0000.nii.gz and", "correct its channel_names")
def dataset_json_names_two_files_alike(patient: Patient) -> None:
    """dataset.json calls two numbered files T1."""
    _numbered(patient, json.dumps(_index("T1", "T1", "T2", "FLAIR")).encode())


@fault("error", "t2 is there more than once", "channels 2 and 4", "correct its channel_names")
def dataset_json_names_two_volumes_alike(patient: Patient) -> None:
    """dataset.json calls two volumes of one file T2."""
    _stacked(patient, json.dumps(_index(*_FOUR, "T2")).encode(), "t2")


@fault("error", "holds 4 volumes", "5 are named", "dataset.json")
def volume_that_only_dataset_json_has(patient: Patient) -> None:
    """dataset.json names five channels, the file has four volumes."""
    _stacked(patient, json.dumps(_index(*_FOUR, "ADC")).encode())


@fault("error", "holds 5 volumes", "4 are named", "dataset.json")
def volume_that_dataset_json_does_not_name(patient: Patient) -> None:
    """dataset.json names four channels, the file has five volumes: which are they?"""
    _stacked(patient, _USUAL, "t2")


@fault("error", "holds 3 volumes", "-t1c.nii.gz")
def four_axes_three_volumes(patient: Patient) -> None:
    """T1c holds three volumes: which one is meant?"""
    patient.write("t1c", np.stack([patient.arrays["t1c"]] * 3, axis=-1))


@fault("ok")
def four_axes_one_volume(patient: Patient) -> None:
    """Every file has a fourth axis of one."""
    patient.write_each(lambda what, array: array[..., None])


@fault("ok")
def seven_axes_one_volume(patient: Patient) -> None:
    """T1c has seven axes, four of them of one."""
    patient.write("t1c", patient.arrays["t1c"][..., None, None, None, None])


@fault("error", "-t1n.nii.gz")
def one_of_two_axes(patient: Patient) -> None:
    """T1 is a single slice of two axes; the others are volumes."""
    patient.write("t1", patient.arrays["t1"][:, :, 8])


@fault("warn", "-t1", "a single slice", "2D model", same=False)
def all_of_two_axes(patient: Patient) -> None:
    """Every file is a slice of two axes, and the model is 3D."""
    patient.write_each(lambda what, array: array[:, :, 8])


# What may lie about


@fault("ok")
def stray_files_of_a_mac(patient: Patient) -> None:
    """._ files beside every image, and .DS_Store."""
    for path in list(patient.folder.iterdir()):
        path.with_name("._" + path.name).write_bytes(b"\0\5\26\7" + bytes(100))
    (patient.folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


@fault("ok")
def stray_files_of_windows(patient: Patient) -> None:
    """Thumbs.db and desktop.ini."""
    for name in ("Thumbs.db", "desktop.ini"):
        (patient.folder / name).write_bytes(b"\xd0\xcf\x11\xe0")


@fault("ok")
def notes_beside_the_images(patient: Patient) -> None:
    """A text, a table and a picture beside the images."""
    for name in ("notes.txt", "report.csv", "preview.jpg", ".hidden.nii.gz"):
        (patient.folder / name).write_text("=1+2")


@fault("ok")
def empty_folder_within(patient: Patient) -> None:
    """An empty folder and a hidden one within the patient's."""
    (patient.folder / "dicom").mkdir()
    (patient.folder / ".git").mkdir()


@fault("warn", "loop", "leads back", same=True)
def link_to_the_patients_own_folder(patient: Patient) -> None:
    """A link in the folder leads back to it, so that a walk would never end."""
    (patient.folder / "loop").symlink_to(patient.folder)


@fault("warn", "up", "leads back", same=True)
def link_to_the_input_folder(patient: Patient) -> None:
    """A link in the folder leads to INPUT."""
    (patient.folder / "up").symlink_to(patient.folder.parent)


@fault("ok", same=True, scored=False)
def results_of_an_earlier_run(patient: Patient) -> None:
    """The output of an earlier run lies within the patient's folder: its mask is no reference."""
    folder = patient.folder / "results"
    (folder / patient.name).mkdir(parents=True)
    os.rename(patient.path("seg"), folder / patient.name / f"{patient.name}_seg.nii.gz")
    (folder / ".state").mkdir()
    (folder / ".state" / f"{patient.name}.json").write_text('{"mask_sha256": "00"}')


@fault("ok")
def fifo_beside_the_images(patient: Patient) -> None:
    """A pipe that bears no image's name."""
    if not hasattr(os, "mkfifo"):
        raise CannotMake("this platform has no named pipes")
    os.mkfifo(patient.folder / "commands")


@fault("error", "cannot be searched")
def unreadable_folder(patient: Patient) -> None:
    """A folder without permission to list it."""
    patient.folder.chmod(0)
    if os.access(patient.folder, os.R_OK):
        patient.folder.chmod(0o755)
        raise CannotMake("this user may read everything")


@fault("error", "deep")
def folders_without_end(patient: Patient) -> Sequence[str]:
    """Images below twenty folders."""
    deep = patient.folder.joinpath(*["down"] * 20)
    deep.mkdir(parents=True)
    for path in list(patient.folder.iterdir()):
        if path.is_file():
            os.rename(path, deep / path.name)
    return ("/".join([patient.name, *["down"] * 16]),)  # the walk goes no deeper


@fault("ok")
def patient_in_a_folder_of_its_own(patient: Patient) -> None:
    """The images lie in a folder called anat, within the patient's."""
    (patient.folder / "anat").mkdir()
    for path in list(patient.folder.iterdir()):
        if path.is_file():
            os.rename(path, patient.folder / "anat" / path.name)


@fault("ok")
def two_of_one_name(patient: Patient) -> Sequence[str]:
    """Two patients of one name in two folders: each is called after its own path."""
    ids = []
    for side in ("site_a", "site_b"):
        place = patient.folder.parent / f"{side}-{patient.name}"
        shutil.copytree(patient.folder, place / "twin" if side == "site_b" else place / "twin")
        ids.append(f"{place.name}/twin")
    shutil.rmtree(patient.folder)
    return ids


# Names


NAMES = {
    "spaces": "Jane Doe  2nd visit",
    "space_at_the_end": "trailing ",
    "quotes": "O'Brien \"Bob\" `id`",
    "commas": "a,b;c\td",
    "newline": "two\nlines",
    "carriage_return": "car\rriage",
    "vertical_tab_and_escape": "bell\x07\x0b\x1b[31mred",
    "dots": "..up..",
    "two_dots_and_slashes": "..\\..\\evil",
    "backslashes": "C:\\temp\\x",
    "formula": "=1+2",
    "formula_of_excel": "=HYPERLINK(\"http:x\",\"y\")",
    "formula_plus": "+1-2",
    "formula_minus": "-1+2",
    "formula_at": "@SUM(1)",
    "formula_after_blanks": "  =1+2",
    "formula_after_a_semicolon": "a;=1+2",
    "formula_in_full_width": "\uff1d1+2",
    "html": "<img src=x onerror=alert(1)>",
    "html_that_closes_a_script": "<script>alert(1)<",
    "html_entity": "&lt;b&gt; &amp; \" onclick='x'",
    "markdown_and_braces": "{{7*7}} ${x} %s %(x)s {0}",
    "percent": "%2e%2e%2f %00",
    "shell": "$(touch evil); rm -rf x | y & z",
    "option": "--output",
    "long": "L" * 230,
    "long_in_many_bytes": "ß" * 115,
    "right_to_left": "abc\u202egpj.exe",
    "zero_width": "a\u200bb\ufeff",
    "line_separator": "a\u2028b\x85c",
    "emoji": "\U0001f9e0 brain",
    "decomposed": "Mu\u0308ller",
    "reserved_by_windows": "CON",
    "reserved_with_suffix": "nul.txt",
    "dot_at_the_end": "ends.",
    "colon_and_star": "a:b*c?d|e",
    "not_available": "NA",
    "not_a_number": "nan",
    "a_number": "007",
    "a_date": "1e5",
    "report_csv": "report.csv",
    "report_html": "report.html",
    "run_json": "run.json",
    "labels_txt": "labels.txt",
    "lesions_csv": "lesions.csv",
    "metrics_csv": "metrics.csv",
    "temporary": "x.12-0123abcd.tmp",
    "lock": "lock",
    "as_another_output": "previews",
    "as_what_folders_hold": "images",
    "as_what_folders_hold_too": "scans",
}  # fmt: skip
"""What a patient may be called; each name is a fault of its own and must do no harm."""


def _names() -> None:
    def make(patient: Patient) -> None:
        # What is tested is the name. A reference under a name that no data set gives may have no convention.
        patient.remove("seg")

    for key, name in NAMES.items():
        shown = ascii(name if len(name) < 50 else f"{name[0]} {len(name)} times")
        add(f"called_{key}", __name__, f"a patient called {shown}", make, "ok", folder=name)


_names()


@fault("ok", folder="bytes that are no UTF-8")
def called_by_bytes_that_are_no_utf8(patient: Patient) -> Sequence[str]:
    """A name of bytes that are no UTF-8."""
    name = os.fsdecode(b"caf\xe9\xff")
    other = patient.folder.parent / name
    try:
        os.rename(patient.folder, other)
        for path in list(other.iterdir()):
            os.rename(path, other / path.name.replace(patient.name, name))
    except (OSError, UnicodeError) as error:
        raise CannotMake(f"this file system takes no such name: {error}") from None
    Patient(other, patient.outside).remove("seg")
    return (name,)


@fault("ok", folder="Twin")
def called_alike_but_for_case(patient: Patient) -> Sequence[str]:
    """Two patients whose names differ only in case."""
    if (patient.folder.parent / "tWIN").exists():
        raise CannotMake("this file system takes no two names that differ only in case")
    other = patient.again("tWIN")
    patient.remove("seg")
    other.remove("seg")
    return ("Twin", "tWIN")


@fault("ok", folder="a_b")
def called_alike_once_made_safe(patient: Patient) -> Sequence[str]:
    """Two patients whose names are the same once they are made safe for a file system."""
    other = patient.again("a\\b")
    patient.remove("seg")
    other.remove("seg")
    return ("a_b", "a\\b")


@fault("error", "t1c.nii.gz", "0 bytes", folder="=cmd|' /C calc'!A0 <b>")
def hostile_name_in_an_error(patient: Patient) -> Sequence[str]:
    """A hostile name whose error sentence holds it: defused and escaped there too."""
    patient.remove("seg")
    patient.path("t1c").write_bytes(b"")
    return (f"{patient.folder.parent.name}/{patient.name}",)  # the slash in it makes two folders


@fault("error", "t1c.nii.gz", "0 bytes", folder="a\nb\r=1+2")
def line_breaks_in_an_error(patient: Patient) -> None:
    """A name with line breaks whose error sentence stays one line."""
    patient.remove("seg")
    patient.path("t1c").write_bytes(b"")


@fault("error", "<img src=x>", "does not exist")
def hostile_link_target(patient: Patient) -> None:
    """A dangling link whose target is HTML with line breaks."""
    patient.remove("t1c")
    patient.path("t1c").symlink_to("<img src=x>\n=1+2")
