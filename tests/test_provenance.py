"""Provenance: whom a model has learnt from is in its file, is handed on to its children, and is known again."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from bench import heldout
from data.find.discover import discover_cases
from pipeline import provenance
from pipeline.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from pipeline.fingerprint import BLOCKS
from pipeline.options import SegmentOptions
from pipeline.provenance import (
    Learnt,
    as_listing,
    entries_of,
    part_entries,
    patient_entries,
    prints_of,
    why_seen,
    with_earlier,
    with_parent,
)
from pipeline.segment.run import segment_cases

FIRST, SECOND = "BraTS-GLI-90001-000", "BraTS-GLI-90002-000"


def checkpoint(name: str, card: dict) -> Checkpoint:
    return Checkpoint(Path(f"{name}.safetensors"), name, {}, card, f"digest of {name}")


def model_with(card: dict, source: Path, path: Path) -> Path:
    model = open_checkpoint(source)
    save_checkpoint(path, model.build(), model.config, {**model.card, **card})
    return path


def test_a_listing_holds_each_patient_of_a_kind_once_in_order():
    slices = part_entries({"slice": ["volume_7_slice_60", "volume_7_slice_61", "volume_271_slice_9"]})
    listing = as_listing([*slices, Learnt("patient", "b", {"flair": "0f"}), Learnt("patient", "a")])
    assert listing == {
        "patient": {"a": {}, "b": {"flair": "0f"}},
        "slice": {"BraTS20_Training_007": {}, "BraTS20_Training_271": {}},
    }
    assert list(listing) == ["patient", "slice"] and list(listing["patient"]) == ["a", "b"]
    assert as_listing(entries_of({"learnt_from": listing}) or ()) == listing


def test_a_card_that_does_not_say_is_not_taken_for_one_that_has_seen_none():
    assert entries_of({}) is None and entries_of({"learnt_from": {}}) == []
    assert why_seen({}, "a", {}) == ""


def test_fingerprints_of_two_images_are_kept_and_read_once(phantoms, tmp_path, monkeypatch):
    cases = discover_cases(phantoms)
    entries = patient_entries(cases, tmp_path)
    assert [(entry.kind, entry.name) for entry in entries] == [("patient", FIRST), ("patient", SECOND)]
    assert [set(entry.prints) for entry in entries] == [{"flair", "t1c"}] * 2
    monkeypatch.setattr(provenance, "prints_of", lambda case: pytest.fail("read again"))
    assert patient_entries(cases, tmp_path) == entries


def test_three_hundred_patients_take_less_than_100_kb():
    prints = dict.fromkeys(("flair", "t1c"), "0f" * (BLOCKS**3 // 8))
    listing = as_listing(Learnt("patient", f"BraTS2021_{number:05d}", prints) for number in range(300))
    assert len(str(listing)) < 100_000


def test_a_child_has_learnt_from_all_that_its_parents_have():
    old = checkpoint("old", {"trained_on": "somebody"})
    first = checkpoint("first", with_parent({"learnt_from": {"patient": {"a": {}}}}, old))
    card = with_parent({"licence": "CC0", "learnt_from": {"slice": {"b": {}}}}, first)
    assert card == {
        "licence": "CC0",
        "learnt_from": {"patient": {"a": {}}, "slice": {"b": {}}},
        "parents": [
            {"name": "first", "sha256": "digest of first"},
            {"name": "old", "sha256": "digest of old", "learnt_from": "unknown", "trained_on": "somebody"},
        ],
    }
    assert with_earlier({"learnt_from": {"slice": {"c": {}}}}, card)["parents"] == card["parents"]
    assert with_earlier(card, card) == card  # going on with a run says nothing twice


def test_weights_that_are_no_model_of_ours_are_a_parent_by_name_and_digest(tmp_path):
    (tmp_path / "vgg19_bn.pth").write_bytes(b"weights")
    (parent,) = with_parent({"learnt_from": {}}, tmp_path / "vgg19_bn.pth")["parents"]
    assert parent == {"name": "vgg19_bn.pth", "sha256": hashlib.sha256(b"weights").hexdigest()}


def test_a_patient_is_known_again_by_name_by_another_name_and_by_image():
    zeros, ones = "00" * 64, "ff" * 64
    card = {"learnt_from": {"slice": {"BraTS20_Training_271": {}}, "patient": {"P1": {"flair": zeros}}}}
    assert why_seen(card, "BraTS2021_01476", {}) == "by name, BraTS20_Training_271"
    assert why_seen(card, "renamed", {"flair": zeros}) == "by image, P1"
    assert why_seen(card, "renamed", {"flair": ones}) == "" == why_seen(card, "renamed", {"t1c": zeros})


# What the commands say


@pytest.fixture(scope="module")
def seen(phantoms, tiny_model, tmp_path_factory) -> Path:
    """A model that says that it has learnt from the first phantom, under another name."""
    case = next(case for case in discover_cases(phantoms) if case.case_id == FIRST)
    card = {"learnt_from": {"patient": {"somebody": prints_of(case)}}}
    return model_with(card, tiny_model, tmp_path_factory.mktemp("seen") / "m.safetensors")


def test_segment_remarks_on_a_patient_whom_the_model_has_learnt_from(phantoms, seen, tmp_path):
    report = segment_cases(discover_cases(phantoms), tmp_path, SegmentOptions(models=(str(seen),)))
    sentence = "the model m has learnt from this patient (by image, somebody), so that its Dice says nothing"
    assert [sentence in flags for flags in report["flags"]] == [True, False]
    assert list(report["status"]) == ["ok", "ok"]


def test_segment_remarks_on_nobody_where_no_dice_would_deceive(phantoms, seen, tiny_model, tmp_path):
    root = shutil.copytree(phantoms, tmp_path / "in")
    next((root / FIRST).glob("*seg*")).unlink()
    for model, folder in ((seen, root), (tiny_model, phantoms)):  # no reference; a model that does not say
        report = segment_cases(discover_cases(folder), tmp_path / model.stem, SegmentOptions(models=(str(model),)))
        assert not any("learnt from" in flags for flags in report["flags"])


def held_out(monkeypatch, patients: Path, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["heldout", str(patients), *arguments])
    monkeypatch.setattr(heldout, "score_patients", lambda cases, names, window, tta: names)
    monkeypatch.setattr(heldout, "as_markdown", lambda scores: f"scored {len(scores)}\n")
    heldout.main()


def test_held_out_scores_refuse_a_case_that_the_model_has_seen_unless_that_is_said(phantoms, seen, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        held_out(monkeypatch, phantoms, "--cases", FIRST, "--model", str(seen))
    assert f"m has learnt from {FIRST} (by image, somebody)" in capsys.readouterr().err
    held_out(monkeypatch, phantoms, "--cases", FIRST, "--model", str(seen), "--seen")
    said = capsys.readouterr()
    assert said.out == "scored 1\n" and "m has learnt from" in said.err
    held_out(monkeypatch, phantoms, "--cases", SECOND, "--model", str(seen))
    assert capsys.readouterr().out == "scored 1\n"


def test_a_model_that_does_not_say_is_scored_as_before(phantoms, tiny_model, monkeypatch, capsys):
    held_out(monkeypatch, phantoms, "--cases", FIRST, "--model", str(tiny_model))
    assert capsys.readouterr().out == "scored 1\n"
