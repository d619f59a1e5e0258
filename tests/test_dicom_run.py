"""A DICOM examination goes through the command line as any patient does, and nobody's name comes out."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra dicom is not installed")

import nibabel as nib

import run_pipeline
from data.find.discover import discover_cases
from tests.dicom_files import EXPORTED, WORDS, export_patient, uid

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def examination(tmp_path_factory, phantoms) -> Path:
    """A phantom patient exported as a scanner does: folder, file names and descriptions bear the patient's name."""
    root = tmp_path_factory.mktemp("export")
    export_patient(sorted(path for path in phantoms.iterdir() if path.is_dir())[0], root)
    return root


def everything(folder: Path) -> str:
    """All names and all bytes below a folder, unpacked.

    Of DICOM objects, which need the identity to be filed, the names alone.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = [unpacked(path) for path in files if path.suffix != ".dcm"]
    return "\n".join([*(str(path.relative_to(folder)) for path in files), *texts])


def unpacked(path: Path) -> str:
    """A file's bytes as text: gzip and the streams of a PDF unpacked, and the texts that a PDF shows as letters."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content += gzip.decompress(content)
    elif path.suffix == ".pdf":
        for packed in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
            with contextlib.suppress(zlib.error):  # a picture in another packing
                shown = zlib.decompressobj().decompress(packed)
                content += shown + b"".join(re.findall(rb"\((.*?)\)", shown))
    return content.decode("latin-1")


def assert_nobody_is_named(told: str) -> None:
    for word in WORDS:
        assert word.lower() not in told.lower(), word


def test_an_examination_is_segmented_and_no_name_reaches_any_output(
    examination, tmp_path, capfd, monkeypatch, caplog, tiny_model
):
    out = tmp_path / "out"
    command = ["segment", str(examination / "ZYXWIAK_QUIRINA_19570231"), "-o", str(out), "--outputs"]
    command += ["nifti", "seg-nrrd", "dicom-seg", "rtstruct", "sr", "pdf", "--model", str(tiny_model)]
    monkeypatch.setattr(sys, "argv", ["run_pipeline.py", *command])
    caplog.set_level("DEBUG", "pipeline")
    assert run_pipeline.main(command) == 0
    said = capfd.readouterr()
    [case] = discover_cases(examination)
    names = ["seg.nii.gz", "preview.png", "seg.seg.nrrd", "seg.dcm", "rtstruct.dcm", "sr.dcm", "report.pdf"]
    assert {path.name for path in (out / case.case_id).iterdir()} == {f"{case.case_id}_{name}" for name in names}
    assert_nobody_is_named(everything(out) + said.out + said.err + caplog.text)
    report = out / case.case_id / f"{case.case_id}_report.pdf"
    assert "research use only" in unpacked(report).lower()  # its letters are seen
    record = json.loads((out / "run.json").read_text())["cases"][case.case_id]
    assert record["files"]["t2"] == [f"series {uid('series', 'study', 't2')}"]
    mask, header = nib.load(out / case.case_id / f"{case.case_id}_seg.nii.gz"), case.images["t1c"]
    import highdicom as hd

    from data.io.read import read_header

    np.testing.assert_allclose(mask.affine, read_header(header).grid.affine, atol=1e-3)
    seg = hd.seg.segread(out / case.case_id / f"{case.case_id}_seg.dcm")
    found = seg.get_volume(combine_segments=True)
    assert np.count_nonzero(found.array) == np.count_nonzero(np.asarray(mask.dataobj))


def test_a_second_run_reads_neither_its_masks_nor_reports_as_series(examination, tmp_path):
    [case] = discover_cases(examination)
    assert all(line.role for line in case.series) and re.fullmatch("[0-9a-f]{10}-[0-9a-f]{6}", case.case_id)


def test_inspect_says_a_line_for_each_series_and_no_name(examination, capfd):
    assert run_pipeline.main(["inspect", str(examination)]) == 0
    said = capfd.readouterr()
    lines = [line for line in said.out.splitlines() if line.strip().startswith("series")]
    assert len(lines) == 4 and len(said.out.splitlines()) < 20
    assert not any(word.lower() in (said.out + said.err).lower() for word in WORDS)


@pytest.fixture(scope="module")
def packed(examination, tmp_path_factory) -> str:
    return shutil.make_archive(str(tmp_path_factory.mktemp("zip") / "packed"), "zip", examination)


def test_a_zip_is_read_as_its_folder_is(examination, packed, tmp_path, capfd):
    run_pipeline.main(["inspect", str(examination)])
    folder = capfd.readouterr().out
    assert run_pipeline.main(["inspect", packed]) == 0
    assert capfd.readouterr().out == folder
    (tmp_path / "broken.zip").write_bytes(Path(packed).read_bytes()[:-50])
    assert run_pipeline.main(["inspect", str(tmp_path / "broken.zip")]) == 2


def test_a_case_is_called_as_asked(examination, capfd):
    for option, name in ((["--keep-identity"], "MRN-0042-[0-9a-f]{6}"), (["--case", "pilot-7"], "pilot-7")):
        run_pipeline.main(["inspect", str(examination), *option])
        assert re.match(f"{name}: ", capfd.readouterr().out)


def test_a_series_may_be_named_and_no_other(examination, capfd):
    run_pipeline.main(["inspect", str(examination), "--series", f"t2={uid('series', 'study', 't1')}"])
    line = next(line for line in capfd.readouterr().out.splitlines() if "series 1 " in line and "pictures" in line)
    assert ": t2 (" in line
    assert run_pipeline.main(["inspect", str(examination), "--series", "t2=1.2.3"]) == 2
    assert run_pipeline.main(["inspect", str(examination), "--series", "t9=1.2.3"]) == 2


def test_the_reader_of_dicom_is_imported_where_a_dicom_file_is_met_and_nowhere_else(phantoms):
    """nibabel imports pydicom by itself where it is installed; none of ours does."""
    code = (
        "import sys; from pathlib import Path; from data.find.discover import discover_cases;"
        "from data.io.read import read_volume;"
        "cases = discover_cases(sys.argv[1]); read_volume(cases[0].images['t1c']);"
        "names = ('data.io.dicom.record', 'highdicom', 'SimpleITK', 'torch', 'monai');"
        "print([name for name in names if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code, phantoms], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def on_a_medium(examination: Path, folder: Path) -> Path:
    """The examination as a clinic's CD has it: DICOMDIR, numbered files without a suffix, and a viewer."""
    import pydicom
    from pydicom.fileset import FileSet

    made = FileSet()
    for path in examination.rglob("*.IMA"):
        dataset = pydicom.dcmread(path)
        if dataset.InstanceNumber % 3 == 0:  # every third slice is a volume too, and quicker
            made.add(dataset)
    made.write(folder)
    (folder / "VIEWER" / "help").mkdir(parents=True)
    (folder / "VIEWER" / "viewer.exe").write_bytes(b"MZ")
    (folder / "AUTORUN.INF").write_text("[autorun]")
    return folder


def test_a_medium_with_a_dicomdir_is_its_patient_and_its_viewer_none(examination, tmp_path):
    [expected] = discover_cases(examination)
    medium = on_a_medium(examination, tmp_path / "several" / "cd")
    for given in (medium, medium.parent):
        [case] = discover_cases(given)
        assert case.case_id == expected.case_id and not case.problems and not case.warnings
        assert {m: source.series for m, source in case.images.items()} == {
            m: source.series for m, source in expected.images.items()
        }


@pytest.fixture(scope="module")
def prepared(examination, packed, tmp_path_factory) -> tuple[Path, str]:
    """The zip of the examination, prepared, with the patient's own reference beside the images; and what was said."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(sys, "argv", ["run_pipeline.py"])
        assert run_pipeline.main(["prepare", packed, "-o", str(out)]) == 0
    return out, said.getvalue()


def test_a_zip_is_prepared_and_no_name_reaches_any_output(examination, prepared):
    out, said = prepared
    [case] = discover_cases(examination)
    assert {path.name for path in (out / case.case_id).iterdir()} == {f"{case.case_id}_{m}.nii.gz" for m in EXPORTED}
    assert_nobody_is_named(everything(out) + said)


def test_a_prepared_examination_is_evaluated_and_learnt_from(examination, prepared, phantoms, tmp_path):
    """A reference that was drawn on the images lies where they do."""
    from data.io.read import read_header
    from pipeline.evaluate.run import evaluate
    from tests.test_training_cases import patient_cases, recipe

    [case] = discover_cases(examination)
    folder = Path(shutil.copytree(prepared[0], tmp_path / "prepared")) / case.case_id
    own = nib.as_closest_canonical(nib.load(next(sorted(phantoms.glob("*-000"))[0].glob("*-seg.nii.gz"))))
    nib.save(own, folder / f"{case.case_id}_seg.nii.gz")
    [found] = discover_cases(folder.parent)
    assert set(found.images) == set(EXPORTED) and found.reference is not None and not found.problems
    for source in found.images.values():  # the phantom's grid, exported and read again
        np.testing.assert_allclose(nib.as_closest_canonical(nib.load(source.paths[0])).affine, own.affine, atol=1e-4)
    assert read_header(found.reference).grid.holds_voxels_of(read_header(found.images["t1c"]).grid)
    (tmp_path / "masks").mkdir()
    shutil.copy(folder / f"{case.case_id}_seg.nii.gz", tmp_path / "masks" / f"{case.case_id}.nii.gz")
    report = evaluate(tmp_path / "masks", folder.parent, tmp_path / "scores", convention="brats2023", pictures=0)
    assert report["dice_WT"].tolist() == [1.0]
    [learnt] = patient_cases([found], recipe(), tmp_path / "cache", convention="brats2023")
    assert learnt.name == case.case_id
