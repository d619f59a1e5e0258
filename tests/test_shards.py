"""A run in parts: each part does its own patients as the whole run would.

Merged, they are the whole run's result.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import run_pipeline
from data.errors import UsageError
from data.find.discover import discover_cases
from pipeline.options import SegmentOptions
from pipeline.segment.merge import merge_shards
from pipeline.segment.run import segment_cases
from pipeline.segment.shards import Shard, parse_shard, record_path
from tests.conftest import make_model

TABLES = ("metrics.csv", "summary.csv", "lesions.csv", "detection.csv", "labels.txt", "labels.ctbl")
N_PARTS = 3


def write_patient(folder: Path, phantom: Path, labels: dict[int, int]) -> None:
    """A phantom under names that say nothing of its label convention, its labels changed."""
    folder.mkdir(parents=True)
    for ours, theirs in (("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f")):
        os.link(phantom / f"{phantom.name}-{theirs}.nii.gz", folder / f"{ours}.nii.gz")
    mask = nib.load(phantom / f"{phantom.name}-seg.nii.gz")
    table = np.arange(5, dtype=np.uint8)
    table[list(labels)] = list(labels.values())
    nib.save(nib.Nifti1Image(table[np.asarray(mask.dataobj)], mask.affine), folder / "seg.nii.gz")


@pytest.fixture(scope="module")
def patients(phantoms, tmp_path_factory) -> Path:
    """Four patients and an empty folder, whose order by number is not that of their letters.

    P1 shows labels 1, 2 and 4, and so tells the convention of P2 and P10, which have 1 and 2. P2 and p2 would share a
    folder where a file system ignores case.
    """
    root = tmp_path_factory.mktemp("shards") / "in"
    first, second = sorted(phantoms.iterdir())
    write_patient(root / "P1", first, {3: 4})
    write_patient(root / "P2", second, {3: 0})
    write_patient(root / "P10", first, {3: 0})
    write_patient(root / "p2", second, {3: 4})
    (root / "P3").mkdir()
    return root


def segment(patients: Path, output: Path, model: Path, shard: Shard | None = None, **options) -> pd.DataFrame:
    options = {"models": (str(model),), **options}
    return segment_cases(discover_cases(patients), output, SegmentOptions(**options), shard=shard)


@pytest.fixture(autouse=True, scope="module")
def _quickly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)
        yield


@pytest.fixture(scope="module")
def whole(patients, tiny_model, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    segment(patients, output, tiny_model)
    return output


@pytest.fixture(scope="module")
def finished(patients, tiny_model, tmp_path_factory) -> list[Path]:
    """The folders of all parts, not to be changed."""
    output = tmp_path_factory.mktemp("parts")
    parts = [Shard(number + 1, N_PARTS) for number in range(N_PARTS)]
    for part in parts:
        segment(patients, part.folder_in(output), tiny_model, part)
    return [part.folder_in(output) for part in parts]


@pytest.fixture
def parts(finished, tmp_path) -> list[Path]:
    """A copy that a test may break."""
    return [Path(shutil.copytree(folder, tmp_path / "parts" / folder.name)) for folder in finished]


def without_seconds(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="seconds")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_parts_are_disjoint_complete_and_of_one_size_but_for_one_patient(count):
    ids = {f"P{n}" for n in range(10)}
    parts = [Shard(number, count).part_of(ids) for number in range(1, count + 1)]
    assert set().union(*parts) == ids and sum(map(len, parts)) == 10
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_does_not_depend_on_the_order_in_which_patients_are_found():
    assert Shard(2, 3).part_of(["e", "b", "a", "d", "c"]) == Shard(2, 3).part_of("abcde") == {"b", "e"}


def test_folders_of_parts_lie_in_order_beside_each_other():
    assert [Shard(n, 12).folder_in(Path("o")).name for n in (1, 12)] == ["shard-01-of-12", "shard-12-of-12"]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "1 / 2", "a/b", "²/3", "1/2\n"])
def test_a_shard_that_cannot_be_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="(?s)--shard .*such as 2/8"):
        parse_shard(text)


def test_merged_parts_are_the_undivided_run(whole, finished, tmp_path):
    report = merge_shards(list(reversed(finished)), tmp_path)
    assert list(report["case"]) == [c.case_id for c in discover_cases_of(whole)]
    pd.testing.assert_frame_equal(without_seconds(tmp_path / "report.csv"), without_seconds(whole / "report.csv"))
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    assert set(report["convention"].dropna()) == {"brats2017"}  # P2 and P10 alone would not tell
    masks = sorted(path.relative_to(whole) for path in whole.rglob("*_seg.nii.gz"))
    assert len(masks) == 4 and len({path.parent.name.casefold() for path in masks}) == 4
    for name in masks:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (
        {path.relative_to(folder) for folder in (root,) for path in folder.rglob("*") if path.is_file()}
        for root in (tmp_path, whole)
    )
    assert ours == theirs


def discover_cases_of(output: Path):
    """The patients of the run in ``output``, in its order, as the input has them."""
    record = json.loads((output / "run.json").read_text())
    inside = next(iter(next(iter(record["cases"].values()))["files"].values()))[0]
    return discover_cases(Path(inside).parent.parent)


def test_the_record_of_a_merged_run_names_its_parts_and_each_part_its_number(finished, tmp_path):
    merge_shards(finished, tmp_path, command="merge them")
    record = json.loads((tmp_path / "run.json").read_text())
    assert [part["shard"] for part in record["shards"]] == ["1/3", "2/3", "3/3"]
    assert [json.loads((folder / "run.json").read_text())["shard"] for folder in finished] == ["1/3", "2/3", "3/3"]
    assert record["machine"] == record["shards"][0]["machine"] and record["command"] == "merge them"
    assert len(record["cases"]) == 5 and len(record["models"]["tiny"]) == 64


def test_masks_are_links_or_where_there_are_none_copies(finished, tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    merge_shards(finished, tmp_path / "linked")
    of_parts = {path.stat().st_ino for folder in finished for path in folder.rglob("*_seg.nii.gz")}
    monkeypatch.setattr("os.link", no_links)
    merge_shards(finished, tmp_path / "copied")
    for linked in (tmp_path / "linked").rglob("*_seg.nii.gz"):
        copied = tmp_path / "copied" / linked.relative_to(tmp_path / "linked")
        assert linked.stat().st_ino in of_parts and copied.stat().st_ino not in of_parts
        assert linked.read_bytes() == copied.read_bytes()


def test_merging_again_gives_the_same_and_takes_an_older_mask_away(parts, tmp_path):
    out = tmp_path / "out"
    merge_shards(parts, out)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.csv")}
    (out / "P3").mkdir()
    (out / "P3" / "P3_seg.nii.gz").write_bytes(b"of an older run")
    merge_shards(parts, out)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*.csv")} == before
    assert not (out / "P3" / "P3_seg.nii.gz").exists()
    assert not list(out.rglob("*.tmp")) and not (out / ".state" / "staging").exists()


def test_a_later_run_on_the_merged_folder_does_nothing_again(patients, parts, tiny_model, tmp_path, monkeypatch):
    merge_shards(parts, tmp_path / "out")
    monkeypatch.setattr("pipeline.segment.case._predictor", lambda *a, **k: pytest.fail("a case was done again"))
    assert list(segment(patients, tmp_path / "out", tiny_model)["status"]).count("warn") == 4  # they are copies of two


def refusal(folders: list[Path], output: Path) -> str:
    with pytest.raises(UsageError) as caught:
        merge_shards(folders, output)
    assert not output.exists()
    return str(caught.value)


def test_a_missing_part_is_named_with_the_command_that_makes_it(parts, tmp_path):
    said = refusal([parts[0], parts[2]], tmp_path / "out")
    assert "part 2/3 is missing, and with it 2 of 5 patients" in said and "`segment --shard 2/3`" in said


def test_a_part_that_is_there_twice_is_named_with_its_patients(parts, tmp_path):
    twin = shutil.copytree(parts[1], tmp_path / "twin")
    said = refusal([*parts, twin], tmp_path / "out")
    assert str(twin) in said and str(parts[1]) in said and "'p2', 'P10'" in said  # sorted: P1 P10 P2 P3 p2


def test_a_part_whose_run_was_stopped_is_named(parts, tmp_path, patients, tiny_model):
    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        options = SegmentOptions(models=(str(tiny_model),))
        segment_cases(discover_cases(patients), parts[0], options, progress=stop, shard=Shard(1, 3))
    assert f"{parts[0]}: no finished part is there" in refusal(parts, tmp_path / "out")
    segment(patients, parts[0], tiny_model, Shard(1, 3))
    assert len(merge_shards(parts, tmp_path / "out")) == 5


def test_what_is_no_part_is_refused(parts, whole, tmp_path):
    for folder in (whole, tmp_path, tmp_path / "nowhere"):
        assert f"{folder}: no finished part is there" in refusal([*parts, folder], tmp_path / "out")
    record_path(parts[1]).write_text('{"shard": [2, 3], "cases": 7}')
    assert f"{parts[1]}: no finished part is there" in refusal(parts, tmp_path / "out")


def test_parts_of_different_options_or_models_are_refused(patients, parts, tiny_model, tmp_path):
    segment(patients, parts[1], tiny_model, Shard(2, 3), tta=True)
    said = refusal(parts, tmp_path / "out")
    assert "was made with --tta True" in said and str(parts[1]) in said and str(parts[0]) in said
    other = make_model(tmp_path / tiny_model.name, seed=4)
    segment(patients, parts[1], other, Shard(2, 3))
    assert "was made with model tiny" in refusal(parts, tmp_path / "out")
    segment(patients, parts[1], tiny_model, Shard(2, 3), threads=1, overwrite=True)  # changes nothing
    assert len(merge_shards(parts, tmp_path / "out")) == 5


def test_parts_of_another_division_or_of_an_input_that_changed_are_refused(patients, parts, tiny_model, tmp_path):
    other = tmp_path / "other"
    segment(patients, other, tiny_model, Shard(2, 2))
    assert "is part 2/2" in refusal([parts[0], other], tmp_path / "out")
    more = Path(shutil.copytree(patients, tmp_path / "more"))
    (more / "P11").mkdir()
    shutil.rmtree(parts[2])
    segment(more, parts[2], tiny_model, Shard(3, 3))  # sorted: P1 P10 P11 P2 P3 p2
    said = refusal(parts, tmp_path / "out")
    assert "of 6 patients" in said and "the input has changed" in said and "'p2' are in several parts" in said


def test_a_mask_that_changed_since_its_run_is_named(parts, tmp_path):
    (mask,) = parts[0].rglob("P1_seg.nii.gz")
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert "the results of 'P1' are not what the part's run left" in refusal(parts, tmp_path / "out")


def test_a_record_that_points_out_of_the_folder_is_refused(parts, tmp_path):
    record = json.loads(record_path(parts[0]).read_text())
    record["cases"][0]["folder"] = "../elsewhere"
    record_path(parts[0]).write_text(json.dumps(record))
    assert "no finished part" in refusal(parts, tmp_path / "out")


def test_parts_never_lie_within_the_merged_result(finished):
    for output in (finished[0], finished[0].parent, finished[0] / "below"):
        with pytest.raises(UsageError, match="choose another --output"):
            merge_shards(finished, output)


def test_more_parts_than_patients_leave_some_empty(patients, tiny_model, whole, tmp_path):
    parts = [Shard(n, 6) for n in range(1, 7)]
    folders = [part.folder_in(tmp_path) for part in parts]
    assert [len(segment(patients, f, tiny_model, p)) for f, p in zip(folders, parts, strict=True)] == [1] * 5 + [0]
    merge_shards(folders, tmp_path / "out")
    pd.testing.assert_frame_equal(
        without_seconds(tmp_path / "out" / "report.csv"), without_seconds(whole / "report.csv")
    )


def test_on_the_command_line_parts_go_beside_each_other_and_merge_gives_the_page(
    patients, tiny_model, tmp_path, capsys, monkeypatch
):
    from pipeline.segment.page import write_segment_page

    output = patients / "results"  # the masks of the first part are no patients of the second
    common = ("segment", patients, "--model", tiny_model, "-o", output, "--quiet")
    for number in (1, 2):
        run_pipeline.main([str(a) for a in (*common, "--shard", f"{number}/2")])
    monkeypatch.setattr("pipeline.segment.results.write_segment_page", write_segment_page)
    folders = [str(output / f"shard-{n}-of-2") for n in (1, 2)]
    assert run_pipeline.main(["merge", *folders, "-o", str(tmp_path / "out"), "--interactive", "P10"]) == 1
    assert "5 patients: 0 ok, 4 warn, 1 error" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<script type="application/json">') == 1
    assert run_pipeline.main(["merge", folders[0], "-o", str(tmp_path / "out")]) == 2
    assert "part 2/2 is missing" in capsys.readouterr().err
    shutil.rmtree(output)
