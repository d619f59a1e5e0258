"""Cases that overlap: one at a time in each part of the way, the same bytes, and an end when it is asked for."""

from __future__ import annotations

import threading
import time

import pandas as pd
import pytest

from data.find.discover import discover_cases
from pipeline.execute.executors import OverlappingExecutor, run_tasks
from pipeline.execute.overlap import begin, enter, listening, reserve
from pipeline.segment.run import SegmentOptions, segment_cases

PARTS = ("reading", "network", "scoring", "writing")


class Log:
    """Who was in which part at the same time: the most in one part, in all, and in all while one was in the network."""

    def __init__(self) -> None:
        self.lock, self.inside, self.most, self.together = threading.Lock(), dict.fromkeys(PARTS, 0), 0, 0
        self.beside_network = 0

    def work(self, stage: str) -> None:
        with self.lock:
            self.inside[stage] += 1
            self.most = max(self.most, *self.inside.values())
            self.together = max(self.together, sum(self.inside.values()))
            if self.inside["network"]:
                self.beside_network = max(self.beside_network, sum(self.inside.values()) - 1)
        time.sleep(0.02)
        with self.lock:
            self.inside[stage] -= 1


@pytest.mark.parametrize("alone", [False, True])
def test_one_case_at_a_time_is_in_each_part_and_different_parts_run_at_once_but_none_beside_one_that_is_alone(alone):
    log = Log()

    def case(number: int) -> int:
        begin()
        log.work("reading")
        for stage in ("network", "scoring", "writing"):
            enter(stage, alone=alone and stage == "network")
            log.work(stage)
        return number

    assert dict(run_tasks(case, range(12), "overlap", lambda n: -1)) == {n: n for n in range(12)}
    assert log.most == 1 and log.together > 1
    assert (log.beside_network == 0) is alone


@pytest.mark.parametrize("alone", [False, True])
def test_cases_of_several_models_that_go_back_to_the_first_part_do_not_wait_for_each_other_for_ever(alone):
    def case(number: int) -> int:
        begin()
        reserve(lambda: 1, lambda size: size <= 2)
        for stage in ("reading", "network", "restoring") * 3:
            enter(stage, alone=alone and stage == "network")
        return number

    assert len(dict(run_tasks(case, range(20), "overlap", lambda n: -1))) == 20


def test_a_case_waits_where_there_is_no_memory_beside_the_others_and_one_alone_never_does():
    lock, together, most = threading.Lock(), 0, 0

    def case(number: int) -> None:
        nonlocal together, most
        begin()
        reserve(lambda: 100, lambda size: size <= 50)
        with lock:
            together += 1
            most = max(most, together)
        enter("network")
        time.sleep(0.01)
        enter("writing")
        with lock:
            together -= 1

    assert len(dict(run_tasks(case, range(6), "overlap", lambda n: None))) == 6
    assert most == 1


@pytest.mark.parametrize("alone", [False, True])
def test_a_failed_case_leaves_its_place_to_the_next(alone):
    executor = OverlappingExecutor()

    def fail() -> None:
        begin()
        enter("network", alone=alone)
        raise ValueError("no")

    def fine() -> int:
        begin()
        enter("network")
        return 1

    with pytest.raises(ValueError, match="no"):
        executor.submit(fail).result()
    assert executor.submit(fine).result(timeout=5) == 1
    executor.shutdown()


def test_a_run_that_is_left_stops_cases_that_compute_and_cases_that_wait():
    cleaned: list[str] = []
    inside = threading.Event()

    def case(number: int) -> None:
        begin()
        if number == 0:
            return
        enter("network")
        inside.set()
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                time.sleep(0.01)
        except Exception:
            cleaned.append("swallowed")
        finally:
            cleaned.append("cleaned")

    results = run_tasks(case, range(5), "overlap", lambda n: None)
    next(results)
    assert inside.wait(5)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 5
    assert cleaned == ["cleaned"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("case")]


def test_shares_grow_from_0_and_never_fall_also_where_several_models_go_the_same_way():
    said: list[tuple[str, float]] = []
    with listening(lambda stage, share: said.append((stage, share))):
        begin()
        for stage in ("reading", "preprocessing", "network", "restoring", "reading", "network", "restoring", "writing"):
            enter(stage, 0.5)
        begin()
    shares = [share for _, share in said[:-1]]
    assert shares[0] == 0 and shares == sorted(shares) and shares[-1] < 1
    assert said[-1] == ("reading", 0.0)


def test_overlapping_cases_come_out_as_one_after_another_to_the_byte(phantoms, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.segment.run.write_segment_page", lambda *a: None)
    options, seen = SegmentOptions(models=(str(tiny_model),), save_probabilities=True), []
    one = segment_cases(
        discover_cases(phantoms), tmp_path / "a", options, on_stage=lambda stage, share: seen.append((stage, share))
    )
    both = segment_cases(discover_cases(phantoms), tmp_path / "b", options, executor="overlap")
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), both.drop(columns="seconds"))
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.nii.gz"))
    assert len(files) == 8
    for name in (*files, "metrics.csv", "lesions.csv", "summary.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {"reading", "network", "scoring", "writing"} <= {stage for stage, _ in seen}
    assert all(0 <= share < 1 for _, share in seen)
