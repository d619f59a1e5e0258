"""Executors: every kind runs a case, brings back its result or its error, and starts its workers."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import wait

import pytest

from data.errors import InputError, UsageError
from data.find.discover import discover_cases
from data.find.recognise import ConventionChoice
from pipeline.execute.executors import CHOICES, EXECUTORS, make_executor, run_tasks, spec_for
from pipeline.execute.processes import own_device
from pipeline.options import SegmentOptions
from pipeline.segment.case import segment_one
from pipeline.segment.run import segment_cases
from pipeline.segment.task import CaseTask

SPECS = {"serial": ("serial", 1), "processes": ("processes:2", 2), "cuda": ("cuda:0,1", 2)}
_started: list[str] = []


def start(word: str) -> None:
    _started.append(word)


def refuse() -> None:
    raise ValueError("a mistake of the initializer's own")


def nothing() -> None:
    pass


def square(number: int, *, plus: int = 0) -> int:
    return number * number + plus


def started() -> list[str]:
    return _started


def fail(text: str) -> None:
    raise InputError(text)


def where() -> int:
    return os.getpid()


def test_every_executor_has_an_example_here() -> None:
    assert set(SPECS) == set(EXECUTORS) - {"dask"}  # see test_cluster.py


@pytest.fixture(scope="module", params=SPECS)
def executor(request: pytest.FixtureRequest):
    spec, workers = SPECS[request.param]
    made, at_a_time = make_executor(spec, start, ("ready",))
    assert at_a_time == workers
    with made:
        yield request.param, made
    _started.clear()


def test_results_come_back_in_their_own_futures(executor) -> None:
    futures = [executor[1].submit(square, n, plus=1) for n in range(5)]
    assert not wait(futures).not_done
    assert [future.result() for future in futures] == [1, 2, 5, 10, 17]


def test_an_exception_belongs_to_its_case_and_the_next_one_runs(executor) -> None:
    broken, fine = executor[1].submit(fail, "a.nii: no"), executor[1].submit(square, 3)
    with pytest.raises(InputError, match="^a.nii: no$"):
        broken.result()
    assert fine.result() == 9


def test_the_initializer_ran_once_in_the_worker(executor) -> None:
    assert executor[1].submit(started).result() == ["ready"]


def test_serial_means_here_and_processes_means_elsewhere(executor) -> None:
    name, made = executor
    assert (made.submit(where).result() == os.getpid()) is (name == "serial")


def test_a_serial_run_stops_at_ctrl_c() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    made, _ = make_executor("serial", nothing)
    with pytest.raises(KeyboardInterrupt):
        made.submit(interrupt)


@pytest.mark.parametrize(
    "spec", ["", "threads", "serial:2", "processes", "processes:", "processes:0", "processes:-1", "processes:two",
             "processes:1.5", "processes:²", "PROCESSES:2", "processes:2:3", "cuda", "cuda:", "cuda:0,0", "cuda:0,",
             "cuda:x",
             "dask", "dask:", "dask:localhost:8786", "dask:slurm:", "dask:slurm:0", "dask:slurm:two", "dask:pbs",
             "dask:tcp://", "dask:tcp://host", "dask:tcp://host:port", "dask:tcp://:8786", "dask:tls://host:8786/x",
             "dask:http://host:1"],
)  # fmt: skip
def test_a_spec_that_cannot_be_is_refused_with_what_can(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_executor(spec, refuse)
    assert str(caught.value) == f"--executor {spec}: {CHOICES}"


@pytest.mark.parametrize("spec", ["overlap", "overlap:3"])
def test_the_executor_that_is_gone_is_refused_with_those_that_do_its_work(spec: str) -> None:
    with pytest.raises(UsageError, match=rf"--executor {spec}: is no more: .*use serial, or processes:2"):
        make_executor(spec, refuse)


def test_a_mistake_of_the_initializer_is_not_taken_for_a_wrong_spec() -> None:
    with pytest.raises(ValueError, match="the initializer's own"):
        make_executor("serial", refuse)


# ---- many tasks ----


def mortal(number: int) -> int:
    if number == 2:
        os._exit(1)
    return number * number


def test_a_worker_that_dies_costs_its_own_task_and_no_other():
    results = dict(run_tasks(mortal, range(6), "processes:2", lambda number: -number))
    assert results == {0: 0, 1: 1, 2: -2, 3: 9, 4: 16, 5: 25}


def test_results_in_order_hold_back_no_more_than_the_window():
    begun: list[int] = []
    for index, _ in run_tasks(begun.append, range(9), "serial", lambda task: None, ahead=2):
        assert len(begun) <= index + 2
    assert begun == list(range(9))


def test_by_default_a_process_has_several_patients_to_do():
    assert spec_for(3, None) == spec_for(0, None) == spec_for(5, 1) == spec_for(1, 8) == "serial"
    assert spec_for(5, 3) == "processes:3" and spec_for(2, 3) == "processes:2"


def log_level(task: int) -> int:
    return logging.getLogger("pipeline").getEffectiveLevel()


def test_workers_log_as_much_as_their_parent(monkeypatch):
    monkeypatch.setattr(logging.getLogger("pipeline"), "level", logging.DEBUG)
    assert dict(run_tasks(log_level, [0], "processes:1", lambda task: -1)) == {0: logging.DEBUG}


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_a_loop_that_is_left_early_waits_for_no_worker():
    results = run_tasks(sleep, [0.0, 60.0], "processes:2", lambda task: None)
    next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 10


def test_a_pool_that_is_shut_down_while_the_run_is_stopped_waits_for_no_worker():
    start = time.monotonic()
    executor, _ = make_executor("processes:1", nothing)
    with pytest.raises(KeyboardInterrupt):
        try:
            executor.submit(sleep, 60.0)
            raise KeyboardInterrupt
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
    assert time.monotonic() - start < 10


def device(_: int) -> str | None:
    time.sleep(0.5)
    return own_device()


def test_each_card_has_a_worker_of_its_own(monkeypatch):
    monkeypatch.setattr("pipeline.execute.executors.CARD", "card {}")
    found = dict(run_tasks(device, range(4), "cuda:0,3", lambda n: "died"))
    assert set(found.values()) == {"card 0", "card 3"} and len(found) == 4
    assert own_device() is None


def test_a_worker_that_dies_takes_no_other_ones_card(monkeypatch):
    monkeypatch.setattr("pipeline.execute.executors.CARD", "card {}")
    found = dict(run_tasks(device_or_death, range(4), "cuda:0,3", lambda n: "died"))
    assert found.pop(1) == "died" and set(found.values()) <= {"card 0", "card 3"} and len(found) == 3


def device_or_death(number: int) -> str | None:
    if number == 1:
        os._exit(1)
    return own_device()


def test_a_card_that_is_not_there_cannot_start(phantoms, tiny_model, tmp_path):
    cases, options = discover_cases(phantoms), SegmentOptions(models=(str(tiny_model),))
    with pytest.raises(UsageError, match="--device cuda:97: this machine has"):
        segment_cases(cases, tmp_path / "out", options, executor="cuda:97")
    assert not (tmp_path / "out").exists()


def predictors() -> tuple[int, int]:
    """How often this process was asked for a predictor, and how often it built one."""
    from pipeline.segment.case import _predictor

    asked = _predictor.cache_info()
    return asked.hits + asked.misses, asked.misses


def test_workers_keep_the_model_and_the_card_is_theirs(phantoms, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.execute.executors.CARD", "cpu")  # a device that there is
    cases, options = discover_cases(phantoms), SegmentOptions(models=(str(tiny_model),), device="cuda:97")
    with make_executor("cuda:0", nothing)[0] as made:
        for case in cases:
            choice = ConventionChoice("brats2023", "")
            row = made.submit(segment_one, CaseTask(case, case.case_id, tmp_path, options, choice)).result()
            assert row.status == "ok", row
        assert made.submit(predictors).result() == (2, 1)
