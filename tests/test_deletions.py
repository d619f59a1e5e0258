"""What a command replaces or removes below --output and in caches: what a run wrote, never a file that was there
before."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.case import ImageSource
from data.errors import UsageError
from data.find.discover import discover_cases
from data.io.read import read_label_map, write_label_map
from pipeline.demo import run_demo
from pipeline.evaluate.run import evaluate
from pipeline.execute.lock import output_lock
from pipeline.execute.lock_owner import LOCK_NAME
from pipeline.options import SegmentOptions, TrainOptions
from pipeline.predict import engine_cache
from pipeline.segment.merge import merge_shards
from pipeline.segment.run import segment_cases
from pipeline.segment.shards import parse_shard
from pipeline.training.progress.files import RunFiles
from pipeline.training.run import run_training

FIRST = "BraTS-GLI-90001-000"


@pytest.fixture(autouse=True)
def _no_page(monkeypatch):
    monkeypatch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)


@pytest.fixture
def case(phantoms):
    return next(c for c in discover_cases(phantoms) if c.case_id == FIRST)


def run(case, output, model, **options):
    return segment_cases([case], output, SegmentOptions(models=(str(model),), **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(*files: Path) -> None:
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"somebody else's")


# ---- an output folder that is not ours ----


@pytest.mark.parametrize(
    "there",
    ["report.csv", "run.json", "labels.txt", ".state/shard", ".state/staging/x", f"{FIRST}.nii.gz",
     f"{FIRST}/{FIRST}_seg.nii.gz", f"{FIRST}/{FIRST}_flair.nii.gz", f"images/{FIRST}_t1.nii.gz"],
)  # fmt: skip
def test_segment_refuses_a_folder_with_a_file_that_it_would_replace_or_remove(case, tiny_model, tmp_path, there):
    put(tmp_path / there, tmp_path / "notes.txt")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="is there already.*choose another --output"):
        run(case, tmp_path, tiny_model)
    assert contents(tmp_path) == before


def test_files_that_are_in_no_runs_way_stay_and_cost_nothing(case, tiny_model, tmp_path):
    put(tmp_path / "log.txt", tmp_path / FIRST / "notes.txt", tmp_path / "other" / "other_seg.nii.gz")
    before = contents(tmp_path)
    for overwrite in (False, True):
        assert list(run(case, tmp_path, tiny_model, overwrite=overwrite)["status"]) == ["ok"]
        assert before.items() <= contents(tmp_path).items()


def test_the_output_of_a_version_without_marks_is_gone_on_with(case, tiny_model, tmp_path):
    run(case, tmp_path, tiny_model)
    for mark in tmp_path.glob(".made-by-*"):
        mark.unlink()
    made = (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").stat().st_mtime_ns
    assert list(run(case, tmp_path, tiny_model)["status"]) == ["ok"]
    assert (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").stat().st_mtime_ns == made


def test_the_other_commands_refuse_such_a_folder_too(case, phantoms, tiny_model, tmp_path):
    masks = tmp_path / "masks"
    segment_cases([case], masks, SegmentOptions(models=(str(tiny_model),)), shard=parse_shard("1/1"))
    commands = {
        "summary.csv": lambda out: evaluate(masks, phantoms, out),
        f"pictures/{FIRST}.png": lambda out: evaluate(masks, phantoms, out),
        "metrics.csv": lambda out: merge_shards([masks], out),
        f"patients/{FIRST}/{FIRST}-t1n.nii.gz": run_demo,
    }
    for number, (name, command) in enumerate(commands.items()):
        out = tmp_path / str(number)
        put(out / name)
        with pytest.raises(UsageError, match="is there already.*choose another --output"):
            command(out)
        assert list(contents(out)) == [name]


def test_a_fifo_in_the_place_of_scores_is_refused_and_not_waited_for(phantoms, tmp_path):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "metrics.csv")
    signal.signal(signal.SIGALRM, lambda *a: pytest.fail("it waits for the fifo"))
    signal.alarm(20)
    try:
        with pytest.raises(UsageError, match=r"metrics\.csv: is there already"):
            evaluate(phantoms, phantoms, tmp_path / "out")
    finally:
        signal.alarm(0)


@pytest.fixture
def begun(monkeypatch):
    """A training that begins has failed the test, and is not waited for."""
    monkeypatch.setattr("pipeline.training.run._run_in", lambda *a: pytest.fail("the training began"))


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("name", ["model.safetensors", "history.csv", "kept/epoch_000001.safetensors"])
def test_train_refuses_a_folder_with_a_file_that_it_would_replace_or_remove(phantoms, tmp_path, name):
    put(tmp_path / name)
    with pytest.raises(UsageError, match="is there already.*choose another --output"):
        run_training(phantoms, "brats_attention_unet_2d", tmp_path, TrainOptions(fold="all"))
    assert list(contents(tmp_path)) == [name]


# ---- links ----


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("folder", ["kept", "first", "cache", "tensorboard"])
def test_train_never_writes_or_removes_behind_a_link(phantoms, tmp_path, folder):
    put(tmp_path / "another run" / "epoch_000001.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / folder).symlink_to(tmp_path / "another run")
    with pytest.raises(UsageError, match=f"{folder}: is a symbolic link"):
        run_training(phantoms, "brats_attention_unet_2d", tmp_path / "out", TrainOptions(fold="all"))
    assert len(contents(tmp_path)) == 1


def test_of_the_kept_epochs_the_older_go_and_no_copy_of_one(tmp_path):
    put(*(tmp_path / "kept" / f"epoch_{name}.safetensors" for name in ("000001", "000002", "000001-copy", "best")))

    class Run(RunFiles):
        def _save(self, path, network, card):
            put(path)

        def _soup_epochs(self, records):
            return [2, 3]

    kept = Run(tmp_path, *[None] * 7, on_epoch=None)
    kept._keep_for_soup(SimpleNamespace(records=[SimpleNamespace(epoch=3)], average=SimpleNamespace(module=None)), {})
    left = sorted(path.stem for path in (tmp_path / "kept").iterdir())
    assert left == ["epoch_000001-copy", "epoch_000002", "epoch_000003", "epoch_best"]


@pytest.mark.parametrize("several", [False, True])
def test_evaluate_never_draws_behind_a_link(case, phantoms, tiny_model, tmp_path, several):
    masks = tmp_path / "masks"
    run(case, masks, tiny_model)
    compare = [shutil.copytree(masks, tmp_path / "second")] if several else []
    out = tmp_path / "out"
    evaluate(masks, phantoms, out, compare=compare, pictures=0)
    victim = tmp_path / "victim"
    put(victim / f"{FIRST}.png")
    place = out / "pictures" / ("second" if several else "")
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(victim)
    with pytest.raises(UsageError, match="is a symbolic link"):
        evaluate(masks, phantoms, out, compare=compare, pictures=1)
    assert list(contents(victim).values()) == [b"somebody else's"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_leads_to_stays(case, tiny_model, tmp_path):
    out = tmp_path / "out"
    run(case, out, tiny_model)
    victim = tmp_path / "victim"
    put(victim)
    for name in ("report.csv", f"{FIRST}/{FIRST}_preview.png", f".state/{FIRST}.json"):
        (out / name).unlink()
        (out / name).symlink_to(victim)
    assert list(run(case, out, tiny_model)["status"]) == ["ok"]
    assert victim.read_bytes() == b"somebody else's" and not (out / "report.csv").is_symlink()


# ---- what a user puts among results ----


@pytest.mark.parametrize("failing", [False, True])
def test_images_that_a_user_lays_beside_a_mask_stay(phantoms, tiny_model, tmp_path, failing):
    patients = shutil.copytree(phantoms, tmp_path / "in")
    cases, out = discover_cases(patients)[:1], tmp_path / "out"
    segment_cases(cases, out, SegmentOptions(models=(str(tiny_model),)))
    own = [out / FIRST / f"{FIRST}_{modality}.nii.gz" for modality in ("t1", "flair")]
    put(*own)
    if failing:
        (patients / FIRST / f"{FIRST}-t2w.nii.gz").write_bytes(b"no image")
    report = segment_cases(cases, out, SegmentOptions(models=(str(tiny_model),), overwrite=True))
    assert list(report["status"]) == ["error" if failing else "ok"]
    assert [path.read_bytes() for path in own] == [b"somebody else's"] * 2


def test_what_a_run_that_was_killed_half_way_says_that_it_wrote_is_its_own(case, tiny_model, tmp_path):
    """Its state file has names and nothing else yet; every other file is somebody's."""
    run(case, tmp_path, tiny_model)
    listed, beside = (f"{FIRST}/{FIRST}_{modality}.nii.gz" for modality in ("t1", "flair"))
    put(tmp_path / listed, tmp_path / beside)
    state = tmp_path / ".state" / f"{FIRST}.json"
    state.write_text(json.dumps({"mask_sha256": "", "files": [f"{FIRST}/{FIRST}_seg.nii.gz", listed]}))
    assert list(run(case, tmp_path, tiny_model)["status"]) == ["ok"]
    assert not (tmp_path / listed).exists() and (tmp_path / beside).exists()


def corrected(out: Path) -> Path:
    """The mask with one voxel changed, as by hand."""
    path = out / FIRST / f"{FIRST}_seg.nii.gz"
    mask = read_label_map(ImageSource((path,)))
    changed = mask.array.astype(np.uint8)
    changed[0, 0, 0] = 0 if changed[0, 0, 0] else 1
    write_label_map(path, changed, mask.header)
    return path


def test_a_mask_that_was_corrected_by_hand_is_replaced_only_when_asked(phantoms, case, tiny_model, tmp_path):
    run(case, tmp_path, tiny_model)
    path = corrected(tmp_path)
    by_hand = path.read_bytes()
    report = run(case, tmp_path, tiny_model)
    assert list(report["status"]) == ["error"] and "corrected by hand, move it away" in report["reason"][0]
    assert path.read_bytes() == by_hand
    assert list(run(case, tmp_path, tiny_model, overwrite=True)["status"]) == ["ok"]
    assert path.read_bytes() != by_hand


def test_a_mask_that_goes_on_for_terabytes_is_damaged_and_made_again_without_being_read(case, tiny_model, tmp_path):
    run(case, tmp_path, tiny_model)
    path = tmp_path / FIRST / f"{FIRST}_seg.nii.gz"
    whole = path.read_bytes()
    os.truncate(path, 2**40)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it reads on"))
    signal.alarm(60)
    try:
        assert list(run(case, tmp_path, tiny_model)["status"]) == ["ok"]
    finally:
        signal.alarm(0)
    assert path.read_bytes() == whole


def test_merging_again_keeps_a_mask_that_was_corrected_by_hand(case, tiny_model, tmp_path):
    part, out = tmp_path / "part", tmp_path / "out"
    segment_cases([case], part, SegmentOptions(models=(str(tiny_model),)), shard=parse_shard("1/1"))
    merge_shards([part], out)
    path = corrected(out)
    by_hand = path.read_bytes()
    with pytest.raises(UsageError, match="corrected by hand, move it away"):
        merge_shards([part], out)
    assert path.read_bytes() == by_hand


# ---- locks and caches ----


@pytest.mark.parametrize("kind", ["text", "json", "hard link"])
def test_another_programs_lock_file_is_neither_emptied_nor_removed(tmp_path, kind):
    (tmp_path / "out").mkdir()
    lock = tmp_path / "out" / LOCK_NAME
    content = b'{"package": 1}' if kind == "json" else b"somebody else's"
    lock.write_bytes(content)
    if kind == "hard link":
        (tmp_path / "precious").hardlink_to(lock)
    with (
        pytest.raises(UsageError, match=r"\.lock: is in the way.*choose another --output"),
        output_lock(tmp_path / "out"),
    ):
        pass
    assert lock.read_bytes() == content


@pytest.mark.parametrize("left", [b"", b'{"pi', b'{"pid": 1, "host": "gone"}\n'])
def test_what_a_killed_run_left_of_its_lock_is_no_other_programs(tmp_path, left):
    (tmp_path / LOCK_NAME).write_bytes(left)
    with output_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_cache_of_networks_forgets_its_own_files_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_cache, "KEPT", 2)
    folder = engine_cache.cache_folder()
    assert folder is not None
    put(folder / "my own.safetensors", folder / f"{'0' * 39}.safetensors")
    for number in range(4):
        engine_cache.store({"model": str(number)}, "", np.zeros(1, np.uint8))
    assert len([path for path in folder.iterdir() if len(path.stem) == 40]) == 2
    assert (folder / "my own.safetensors").exists() and len(list(folder.iterdir())) == 4


def test_nothing_is_kept_or_forgotten_in_a_cache_behind_a_link(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_cache, "KEPT", 0)
    folder = engine_cache.cache_folder()
    assert folder is not None
    put(tmp_path / "victim" / f"{'0' * 40}.safetensors")
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tmp_path / "victim")
    engine_cache.store({"model": "x"}, "", np.zeros(1, np.uint8))
    assert list(contents(tmp_path / "victim").values()) == [b"somebody else's"]
