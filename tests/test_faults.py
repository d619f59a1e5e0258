"""Every fault of `tests.faults` in one folder, segmented in one run: each is one row that says what is wrong, and none
touches another."""

from __future__ import annotations

import csv
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import pipeline.report.preview
import pipeline.segment.results
import pipeline.segment.run
import run_pipeline
from data.find.discover import discover_cases
from data.io import write
from data.io.read import is_temporary_name
from pipeline.options import SegmentOptions
from pipeline.score.tables import text_cell
from pipeline.segment.run import segment_cases
from tests.conftest import read_mask
from tests.faults import FAULTS, HEALTHY, Fault, Sown, small_model, sow, sow_healthy
from tests.faults.trial import alike_everywhere

LONGEST_ERROR_S = 3.0
"""No refused patient keeps the others waiting longer, on a busy machine."""
MOVED = re.compile(r"T1 moved by [0-9]+\.[0-9] mm / [0-9]+ degrees onto T1c")
"""Whole reason of a patient of whom one image was laid on another: the fault and the work in one."""
WARNED = [name for name, fault in FAULTS.items() if fault.status == "warn"]


@dataclass(frozen=True)
class Run:
    """What was sown, and what one run made of it: rows by case id, as returned and as report.csv holds them."""

    root: Path
    output: Path
    sown: Sown
    rows: dict[str, dict[str, Any]]
    cells: dict[str, dict[str, str]]

    def row(self, name: str) -> dict[str, Any]:
        """The judged row of a fault; the test is skipped where the fault could not be made."""
        if name in self.sown.unmade:
            pytest.skip(self.sown.unmade[name])
        return self.rows[self.sown.cases[name][0]]

    def mask(self, row: dict[str, Any]) -> Path:
        return self.output / str(row["folder"]) / f"{row['folder']}_seg.nii.gz"


class Blocked(BaseException):
    """The run did not end; no handler of errors in it may take this for one of them."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail instead of waiting for ever, should a fault block the run."""

    def fail(*_: object) -> None:
        raise Blocked(f"the run was still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def listing(folder: Path, without: Path) -> list[tuple[str, int, int]]:
    """Every name below a folder with its size and time of change, links not followed; ``without`` is left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) != without]
        for name in (*folders, *files):
            status = os.lstat(os.path.join(place, name))
            found.append((os.path.join(place, name), status.st_size, status.st_mtime_ns))
    return sorted(found)


def segment(root: Path, output: Path, model: Path, page: bool = False, **options: Any) -> pd.DataFrame:
    """One run, without what takes longest and is not on trial.

    That is pictures of harmless patients, and waiting for the disk.
    """
    with pytest.MonkeyPatch.context() as patch:
        draw = pipeline.report.preview.write_preview
        drawn = {*HEALTHY, *(case for case in options.pop("drawn", ()))}

        def some(path: Path, case_id: str, *rest: Any, **more: Any) -> None:
            if case_id in drawn:
                draw(path, case_id, *rest, **more)
            else:
                path.write_bytes(b"not drawn in this test")

        patch.setattr(pipeline.report.preview, "write_preview", some)
        patch.setattr(write.os, "fsync", lambda _: None)
        if not page:
            patch.setattr(pipeline.segment.results, "write_segment_page", lambda *_: None)
        with alike_everywhere(), within(600):
            return segment_cases(discover_cases(root), output, SegmentOptions(models=(str(model),), **options))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`tests.faults.small_model`."""
    return small_model(tmp_path_factory.mktemp("model") / "random.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Run:
    """All faults and the healthy patients in one folder, segmented in one run; nothing else changed."""
    parent = tmp_path_factory.mktemp("faults")
    root, output = parent / "in", parent / "out"
    sow_healthy(root)
    sown = sow(root, parent / "outside", FAULTS)
    odd = [name for name, fault in FAULTS.items() if fault.kind == "geometry" and fault.mask and not fault.same]
    drawn = [sown.cases[name][0] for name in odd if name in sown.cases]
    before = listing(parent, output)
    report = segment(root, output, model, page=True, drawn=drawn)
    assert listing(parent, output) == before, "something outside the output folder changed"
    with open(output / "report.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(report)
    ids = list(map(str, report["case"]))
    rows = dict(zip(ids, report.to_dict("records"), strict=True))
    return Run(root, output, sown, rows, dict(zip(ids, table, strict=True)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The output of a run over the healthy patients alone."""
    parent = tmp_path_factory.mktemp("healthy")
    sow_healthy(parent / "in")
    segment(parent / "in", parent / "out", model)
    return parent / "out"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_gives_its_one_row_and_no_other_result(run: Run, name: str):
    fault, row = FAULTS[name], run.row(name)
    reason = str(row["reason"])
    assert row["status"] == fault.status, reason
    for words in fault.says:
        assert words.lower() in reason.lower()
    assert reason.isprintable(), "one line"
    assert "Traceback" not in reason and "unexpected" not in reason and "please report" not in reason
    if fault.status == "ok":
        assert reason == ""
    else:
        assert re.search(r"[;:] \S", reason) or MOVED.fullmatch(reason), "what is wrong, then what was done or is to do"
    assert run.mask(row).is_file() == fault.mask
    if fault.status == "error":
        assert not [path for path in (run.output / str(row["folder"])).glob("**/*") if path.is_file()]
        assert not (run.output / ".state" / f"{row['folder']}.json").exists()
        assert row["seconds"] < LONGEST_ERROR_S
    if fault.scored is not None:
        assert pd.notna(row.get("dice_WT")) == fault.scored


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.mask])
def test_a_mask_lies_on_its_own_grid_and_is_the_same_where_nothing_is_wrong(run: Run, undisturbed: Path, name: str):
    row = run.row(name)
    mask = nib.load(run.mask(row))
    assert mask.get_data_dtype() == np.uint8
    folder = case_folder(run, name)
    assert_on_the_grid_of_t1c(mask, next(folder.rglob("*-t1c*"), None) if folder else None)
    if not FAULTS[name].same:
        return
    healthy = next(iter(HEALTHY))
    expected = nib.as_closest_canonical(nib.load(undisturbed / healthy / f"{healthy}_seg.nii.gz"))
    ours = nib.as_closest_canonical(mask)
    assert np.array_equal(np.squeeze(ours.dataobj), np.asarray(expected.dataobj))
    scale = {1: 1000.0, 3: 0.001}.get(int(mask.header["xyzt_units"]) & 7, 1.0)
    if name not in ("units_metres_that_are_mm",) and mask.header["sform_code"] > 0:
        np.testing.assert_allclose(ours.affine[:3] * scale, expected.affine[:3], rtol=1e-5, atol=1e-3)


def case_folder(run: Run, name: str) -> Path | None:
    """The patient's folder; None where the case is not called after it, as of DICOM."""
    folder = run.root / run.sown.cases[name][0].partition("/")[0]
    return folder if folder.is_dir() else None


def assert_on_the_grid_of_t1c(mask: nib.Nifti1Image, image: Path | None) -> None:
    """Shape, affine and codes as nibabel reads them; files that it does not read are left to the other tests."""
    if image is None or ".nii" not in image.name.lower():
        return
    try:
        other = nib.load(image)
        affine = other.affine
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, ValueError, OSError):
        return
    shape = other.shape if len(other.shape) < 4 else other.shape[:3]
    assert mask.shape == shape
    if int(other.header["sform_code"]) in range(1, 6):
        np.testing.assert_allclose(mask.affine, affine, rtol=1e-6)
        assert int(mask.header["sform_code"]) == int(other.header["sform_code"])


def test_every_patient_folder_has_exactly_one_row(run: Run):
    wanted = sorted(itertools.chain(HEALTHY, *run.sown.cases.values()))
    assert sorted(run.rows) == wanted


@pytest.mark.parametrize("case", HEALTHY)
def test_healthy_patients_among_the_faults_come_out_as_if_they_were_alone(run: Run, undisturbed: Path, case: str):
    assert run.rows[case]["status"] == "ok"
    for name in (f"{case}_seg.nii.gz", f"{case}_preview.png"):
        assert (run.output / case / name).read_bytes() == (undisturbed / case / name).read_bytes()


def test_every_table_parses_with_csv_and_pandas_and_no_cell_is_a_formula(run: Run):
    for path in run.output.glob("*.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        assert {len(line) for line in lines} == {len(lines[0])}, path.name
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        assert len(frame) == len(lines) - 1
        for cell in itertools.chain.from_iterable(lines):
            number = re.fullmatch(r"-?[0-9.]+(e[-+]?[0-9]+)?", cell)
            assert number or not cell.strip().startswith(("=", "+", "-", "@")), cell
    assert [cells["case"] for cells in run.cells.values()] == [text_cell(case) for case in run.rows]
    assert [cells["status"] for cells in run.cells.values()] == [row["status"] for row in run.rows.values()]


class _Page(HTMLParser):
    """Collects the tags of a page, and what could run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(f"{name}={value}")
            if name == "src" and not (value or "").startswith("data:"):
                self.outside.append(value or "")


def test_hostile_names_are_text_on_the_page(run: Run):
    text = (run.output / "report.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert "alert(1)" in text and "Bob" in text  # the names are there
    assert "<img src=x" not in text and "<script>alert" not in text
    assert not [handler for handler in page.handlers if "alert" in handler or "onclick='x'" in handler]
    assert page.outside == []


def test_nothing_that_was_written_holds_a_traceback_or_a_temporary_name(run: Run):
    for path in run.output.rglob("*"):
        assert not is_temporary_name(path.name)
        if path.is_file() and path.suffix in (".csv", ".html", ".json", ".txt"):
            assert "Traceback (most recent call last)" not in path.read_text(encoding="utf-8")


def test_every_folder_of_results_belongs_to_a_row_and_is_one_safe_component(run: Run):
    folders = {path.name for path in run.output.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders <= {str(row["folder"]) for row in run.rows.values()}
    for folder in folders:
        assert folder == Path(folder).name and len(folder) <= 110 and folder.isprintable()
    assert len({folder.casefold() for folder in folders}) == len(folders)


def test_strict_turns_every_warning_into_an_error_without_a_mask(tmp_path: Path, model: Path):
    root, output = tmp_path / "in", tmp_path / "out"
    sow_healthy(root)
    sown = sow(root, tmp_path / "outside", WARNED)
    report = segment(root, output, model, strict=True)
    rows = {str(row["case"]): row for row in report.to_dict("records")}
    for name, (case, *_) in sown.cases.items():
        assert rows[case]["status"] == "error", name
        for words in FAULTS[name].says:
            # A patient that is refused is not scored anyway: why it would not be is said without that.
            assert words == "not scored" or words.lower() in str(rows[case]["reason"]).lower(), name
        assert not (output / rows[case]["folder"] / f"{rows[case]['folder']}_seg.nii.gz").exists(), name
    assert all(rows[case]["status"] == "ok" for case in HEALTHY)


# On the command line


SOME = ("gz_wrong_crc", "fifo", "nan", "dims_huge", "affine_sheared", "no_t1c", "hostile_name_in_an_error")


def command(tmp_path: Path, model: Path, *more: str) -> list[str]:
    sow(tmp_path / "in", tmp_path / "outside", SOME)
    return ["segment", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--model", str(model), *more]


def test_the_command_line_says_each_fault_in_a_line_and_ends_with_1(tmp_path: Path, model: Path):
    sow_healthy(tmp_path / "in")
    arguments = command(tmp_path, model)
    done = subprocess.run(
        [sys.executable, run_pipeline.__file__, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        errors="replace",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    for name in SOME:
        assert FAULTS[name].says[-1].lower() in (done.stderr + done.stdout).lower(), name
    assert (tmp_path / "out" / "report.csv").read_text().count(",error,") == len(SOME)


def test_only_debug_shows_a_traceback(tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]):
    arguments = command(tmp_path, model)
    assert run_pipeline.main(arguments) == 1
    assert "Traceback" not in "".join(capfd.readouterr())
    assert run_pipeline.main([*arguments, "--debug"]) == 1
    assert "Traceback (most recent call last)" in capfd.readouterr().err


# Of the faults themselves


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_says_what_it_is(fault: Fault):
    assert fault.about and fault.about[0] != " " and "\n" not in fault.about
    assert fault.says or fault.status == "ok", "a refusal or a warning names something"
    assert fault.mask or fault.status == "error"


def test_the_undamaged_patient_has_a_mask_that_a_mistake_would_change(undisturbed: Path):
    for case in HEALTHY:
        labels, counts = np.unique(read_mask(undisturbed / case / f"{case}_seg.nii.gz"), return_counts=True)
        assert len(labels) >= 3 and counts.min() > 5
