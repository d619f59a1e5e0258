"""A DICOM examination goes through the command line as any patient does, and nobody's name comes out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra dicom is not installed")

import nibabel as nib

import run_pipeline
from data.find.discover import discover_cases
from tests.dicom_files import WORDS, export_patient, uid

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def examination(tmp_path_factory, phantoms) -> Path:
    """A phantom patient exported as a scanner does: folder, file names and descriptions bear the patient's name."""
    root = tmp_path_factory.mktemp("export")
    export_patient(sorted(path for path in phantoms.iterdir() if path.is_dir())[0], root)
    return root


def everything(folder: Path) -> str:
    """All names and all texts below a folder; DICOM objects, which need the identity to be filed, by name alone."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = [path.read_bytes().decode("latin-1") for path in files if path.suffix not in (".dcm", ".gz", ".png")]
    return "\n".join([*(str(path.relative_to(folder)) for path in files), *texts])


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
    told = everything(out) + said.out + said.err + caplog.text
    for word in WORDS:
        assert word.lower() not in told.lower(), word
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


def test_a_zip_is_read_as_its_folder_is(examination, tmp_path, capfd):
    import shutil

    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", examination)
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
