"""The stages of a case: one vocabulary for the predictor, the files and the page, and shares that only grow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data.find.discover import discover_cases
from pipeline.execute.stages import BEGINS, Stage, begin, enter, listening
from pipeline.options import SegmentOptions
from pipeline.segment.run import segment_cases

PAGE = Path(__file__).resolve().parent.parent / "pipeline" / "web" / "static" / "format.js"


def test_shares_grow_from_0_and_never_fall_also_where_several_models_go_the_same_way():
    said: list[tuple[str, float]] = []
    with listening(lambda stage, share: said.append((stage, share))):
        begin()
        for stage in ("read", "preprocess", "network", "restore", "read", "network", "restore", "write"):
            enter(Stage(stage), 0.5)
        begin()
    shares = [share for _, share in said[:-1]]
    assert shares[0] == 0 and shares == sorted(shares) and shares[-1] < 1
    assert said[-1] == ("read", 0.0)


def test_a_half_done_network_is_halfway_between_where_it_begins_and_ends():
    said: list[float] = []
    with listening(lambda stage, share: said.append(share)):
        enter(Stage.NETWORK, 0.5)
    assert said == [pytest.approx((0.15 + 0.8) / 2)]
    assert list(BEGINS) == list(Stage) and list(BEGINS.values()) == sorted(BEGINS.values())


def test_nothing_is_said_outside_the_block():
    said: list[str] = []
    with listening(lambda stage, share: said.append(stage)):
        enter(Stage.READ)
    enter(Stage.WRITE)
    assert said == ["read"]


def test_a_run_says_and_records_every_stage_by_the_same_name(phantoms, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)
    seen: list[tuple[str, float]] = []
    options = SegmentOptions(models=(str(tiny_model),))
    segment_cases(discover_cases(phantoms)[:1], tmp_path, options, on_stage=lambda *said: seen.append(said))
    assert list(dict.fromkeys(stage for stage, _ in seen)) == list(Stage)
    assert all(0 <= share < 1 for _, share in seen)
    (recorded,) = [case["stages"] for case in json.loads((tmp_path / "run.json").read_text())["cases"].values()]
    assert set(recorded) == set(Stage)


def test_the_page_knows_the_stages_in_their_order():
    text = PAGE.read_text()
    (order,) = re.findall(r"STAGE_ORDER = \[(.*?)\]", text)
    (names,) = re.findall(r"const STAGES = \{(.*?)\}", text, re.DOTALL)
    assert json.loads(f"[{order}]") == re.findall(r"(\w+):", names) == list(Stage)
