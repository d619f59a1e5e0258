"""A case is finished where nothing has changed that decides its files; tables of another format are scored anew."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest

from data.errors import UsageError
from data.find.discover import discover_cases
from data.find.recognise import ConventionChoice
from pipeline.options import Decides, SegmentOptions
from pipeline.segment import identity
from pipeline.segment.merge import merge_shards
from pipeline.segment.run import segment_cases
from pipeline.segment.shards import Shard
from pipeline.segment.state import read_state
from pipeline.segment.task import CaseTask

FIRST, SECOND = "BraTS-GLI-90001-000", "BraTS-GLI-90002-000"
TABLES = ("report.csv", "metrics.csv", "lesions.csv", "summary.csv", "detection.csv")
OTHER = {
    "models": ("x",), "device": "cpu", "engine": "torch", "window": "whole", "level": 2, "tta": True,
    "convention": "brats2017", "missing": "zero", "save_probabilities": True, "flat": True, "threads": 3,
    "max_voxels": 10**8, "overwrite": True, "strict": True, "reference_convention": "msd",
    "prepare": "off", "grid": "flair", "native": True, "space": "mni",
    "brain_mask": "brains", "outputs": ("nifti", "seg-nrrd"),
}  # fmt: skip
"""For each option a value that is not the default."""


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)


@pytest.fixture(scope="module")
def finished(phantoms, tiny_model, tmp_path_factory) -> Path:
    """An output folder, not to be changed."""
    output = tmp_path_factory.mktemp("identity") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)
        run(phantoms, output, tiny_model)
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder, its files of an hour ago."""
    copy = Path(shutil.copytree(finished, tmp_path / "out"))
    for path in copy.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    return copy


def run(phantoms: Path, output: Path, model: Path, **options) -> pd.DataFrame:
    return segment_cases(discover_cases(phantoms), output, SegmentOptions(models=(str(model),), **options))


def state_file(output: Path, case: str = FIRST) -> Path:
    return output / ".state" / f"{case}.json"


def change_state(output: Path, case: str = FIRST, **entries: object) -> dict:
    state = json.loads(state_file(output, case).read_text()) | entries
    state_file(output, case).write_text(json.dumps(state))
    return state


def made_again(output: Path) -> set[str]:
    """Cases whose mask, picture or map is not the file of an hour ago."""
    return {p.parent.name for p in output.glob("[!.]*/*") if p.stat().st_mtime_ns != 10**18}


def require_same(output: Path, finished: Path, *tables: str) -> None:
    for name in tables or TABLES:
        assert (output / name).read_bytes() == (finished / name).read_bytes(), name
    for path in finished.glob("*/*.nii.gz"):
        assert (output / path.relative_to(finished)).read_bytes() == path.read_bytes()


# ---- the options ----


def test_every_option_is_marked_with_what_it_decides():
    marks = {each.name: each.metadata.get("decides") for each in fields(SegmentOptions)}
    assert marks and all(isinstance(mark, Decides) for mark in marks.values()), marks
    assert marks.keys() == OTHER.keys()  # so that the tests below try each of them


def task(phantoms: Path, **options) -> CaseTask:
    return CaseTask(
        discover_cases(phantoms)[0], "x", Path("out"), SegmentOptions(**options), ConventionChoice(None, "")
    )


@pytest.mark.parametrize("name", OTHER)
def test_another_value_changes_the_identity_exactly_where_the_option_decides_the_files(name, phantoms):
    plain = task(phantoms)
    other = replace(plain, options=replace(plain.options, **{name: OTHER[name]}))
    decides = name not in ("models", "threads", "max_voxels", "overwrite", "strict", "reference_convention")
    assert (identity.identity(plain, [])[0] != identity.identity(other, [])[0]) is decides


@pytest.mark.parametrize("package", identity.PACKAGES)
def test_another_version_of_a_package_that_decides_bytes_changes_the_identity(package, phantoms, monkeypatch):
    before = identity.identity(task(phantoms), [])[0]
    installed = identity.package_version
    monkeypatch.setattr(identity, "package_version", lambda name: "0.0" if name == package else installed(name))
    assert identity.identity(task(phantoms), [])[0] != before


def test_our_own_number_of_masks_is_in_the_identity_and_that_of_tables_is_not(phantoms, monkeypatch):
    before = identity.identity(task(phantoms), [])[0]
    monkeypatch.setattr(identity, "TABLES", identity.TABLES + 1)
    assert identity.identity(task(phantoms), [])[0] == before
    monkeypatch.setattr(identity, "MASKS", identity.MASKS + 1)
    assert identity.identity(task(phantoms), [])[0] != before


# ---- a run that is continued ----


def test_with_another_number_of_masks_every_case_is_done_again(output, phantoms, tiny_model, monkeypatch):
    monkeypatch.setattr(identity, "MASKS", identity.MASKS + 1)
    assert list(run(phantoms, output, tiny_model)["status"]) == ["ok", "ok"]
    assert made_again(output) == {FIRST, SECOND}


def test_with_options_that_decide_no_bytes_no_case_is_done_again(output, finished, phantoms, tiny_model):
    run(phantoms, output, tiny_model, threads=1, max_voxels=10**8)
    assert made_again(output) == set()
    require_same(output, finished)


def test_with_another_number_of_tables_masks_are_kept_and_scored_again(
    output, finished, phantoms, tiny_model, monkeypatch
):
    # Scores of another version, which are wrong by this one's account.
    state = change_state(output)
    wrong = [row | {"dice": 0.5, "a_metric_of_old": 3.0} for row in state["regions"]]
    change_state(output, regions=wrong, lesions=[], row=state["row"] | {"dice_WT": 0.5, "flags": "no"}, tables=0)
    run(phantoms, output, tiny_model)
    assert made_again(output) == set()
    require_same(output, finished)
    assert json.loads(state_file(output).read_text()) == json.loads(state_file(finished).read_text())
    assert state_file(output, SECOND).stat().st_mtime_ns == 10**18
    monkeypatch.setattr(identity, "TABLES", identity.TABLES + 1)
    run(phantoms, output, tiny_model)
    assert made_again(output) == set()
    require_same(output, finished)
    assert [read_state(state_file(output, case)).tables for case in (FIRST, SECOND)] == [identity.TABLES] * 2


def test_a_metric_that_is_new_has_values_for_cases_of_before(output, finished, phantoms, tiny_model):
    """Also where the number of tables was forgotten."""
    state = change_state(output)
    change_state(output, regions=[{k: v for k, v in row.items() if k != "nsd"} for row in state["regions"]])
    run(phantoms, output, tiny_model)
    assert pd.read_csv(output / "metrics.csv")["nsd"].notna().all()
    assert made_again(output) == set()
    require_same(output, finished)


def test_flags_and_disagreement_of_the_network_survive_scoring_again(phantoms, tiny_model, tmp_path):
    options = {"tta": True, "save_probabilities": True}
    before = run(phantoms, tmp_path, tiny_model, **options)
    assert before["disagreement_WT"].notna().all() and before["flags"].str.contains("predictions disagree").any()
    change_state(tmp_path, tables=0, remarks=["said by the network"])
    after = run(phantoms, tmp_path, tiny_model, **options)
    assert after["flags"][0] == f"said by the network; {before['flags'][0]}"
    pd.testing.assert_frame_equal(after.drop(columns="flags"), before.drop(columns="flags"))


def test_a_case_whose_mask_does_not_tell_all_regions_is_done_again_where_its_scores_are_old(
    phantoms, tiny_model, tmp_path
):
    """The convention has no label for the tumour core and the enhancing tumour, and they were measured all the same."""
    run(phantoms, tmp_path, tiny_model, convention="whole-tumour")
    metrics = (tmp_path / "metrics.csv").read_bytes()
    assert set(read_state(state_file(tmp_path)).voxels) == {"WT", "TC", "ET"}
    change_state(tmp_path, tables=0)
    for path in tmp_path.glob("*/*"):
        os.utime(path, ns=(10**18, 10**18))
    run(phantoms, tmp_path, tiny_model, convention="whole-tumour")
    assert made_again(tmp_path) == {FIRST}
    assert (tmp_path / "metrics.csv").read_bytes() == metrics


# ---- folders of versions before these numbers ----


def test_a_folder_of_the_version_before_is_done_again_and_none_of_its_scores_is_used(
    output, finished, phantoms, tiny_model
):
    for case in (FIRST, SECOND):
        state = json.loads(state_file(output, case).read_text())
        old = {name: value for name, value in state.items() if name not in ("tables", "voxels", "remarks")}
        state_file(output, case).write_text(json.dumps(old | {"key": "0" * 64}))
    found = read_state(state_file(output))
    assert found is not None and not found.is_scored and found.regions == found.lesions == []
    assert found.row.measures == {} and found.row.model == "tiny"
    run(phantoms, output, tiny_model)
    assert made_again(output) == {FIRST, SECOND}
    require_same(output, finished, "metrics.csv", "lesions.csv")


def test_parts_that_another_version_scored_are_not_merged(phantoms, tiny_model, tmp_path, monkeypatch):
    cases, options = discover_cases(phantoms), SegmentOptions(models=(str(tiny_model),))
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        segment_cases(cases, part, options, shard=Shard(number, 2))
    monkeypatch.setattr(identity, "TABLES", identity.TABLES + 1)
    with pytest.raises(UsageError, match=r"1: was scored by another version .*run `segment --shard` again"):
        merge_shards(parts, tmp_path / "out")
    for number, part in enumerate(parts, 1):
        segment_cases(cases, part, options, shard=Shard(number, 2))
    assert list(merge_shards(parts, tmp_path / "out")["status"]) == ["ok", "ok"]
