"""A Dask cluster of worker processes: the same report and masks, and a worker that dies costs nobody else anything."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from data.errors import UsageError
from data.find.discover import discover_cases
from pipeline.execute.cluster import SlurmJobs
from pipeline.execute.executors import run_tasks
from pipeline.options import SegmentOptions
from pipeline.segment.run import segment_cases
from tests.cluster_tasks import die_always, die_once, fail, process

distributed = pytest.importorskip("distributed", reason="Dask is not installed (extra `cluster`)")


@pytest.fixture(scope="module")
def address():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        yield f"dask:{cluster.scheduler_address}"


def test_a_lost_workers_task_is_given_to_another(address, tmp_path):
    tasks = [(number, str(tmp_path)) for number in range(8)]
    assert dict(run_tasks(die_once, tasks, address, lambda task: -1)) == {n: n for n in range(8)}
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_its_workers_is_given_up_and_the_next_one_is_done(address, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.execute.cluster.TRIES", 2)
    assert dict(run_tasks(die_always, [(1, str(tmp_path))], address, lambda task: -1)) == {0: -1}
    assert dict(run_tasks(die_always, [(0, str(tmp_path))], address, lambda task: -1)) == {0: 0}


def test_an_exception_comes_back_as_itself(address):
    with pytest.raises(ZeroDivisionError, match="no"):
        list(run_tasks(fail, [1], address, lambda task: -1))


@pytest.fixture(scope="module")
def patients(phantoms, tmp_path_factory) -> Path:
    """Four of them, so that each worker gets several."""
    root = tmp_path_factory.mktemp("patients")
    for number in range(4):
        phantom = sorted(phantoms.iterdir())[number % 2]
        shutil.copytree(phantom, root / f"BraTS-GLI-0000{number}-000", copy_function=os.link)
        for path in (root / f"BraTS-GLI-0000{number}-000").iterdir():
            path.rename(path.with_name(path.name.replace(phantom.name, path.parent.name)))
    return root


@pytest.fixture(scope="module")
def serial(patients, tiny_model, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("serial")
    segment(patients, tiny_model, output)
    return output


def segment(patients: Path, model: Path, output: Path, **how) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)
        segment_cases(discover_cases(patients), output, SegmentOptions(models=(str(model),)), **how)


def assert_same_results(output: Path, expected: Path) -> None:
    ours, theirs = (pd.read_csv(folder / "report.csv").drop(columns="seconds") for folder in (output, expected))
    pd.testing.assert_frame_equal(ours, theirs)
    masks = sorted(path.relative_to(expected) for path in expected.rglob("*_seg.nii.gz"))
    assert len(masks) == 4
    for name in masks:
        assert (output / name).read_bytes() == (expected / name).read_bytes()
    assert (output / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()


def predictors() -> tuple[int, int]:
    """How often this process was asked for a predictor, and how often it built one."""
    from pipeline.segment.case import _predictor

    asked = _predictor.cache_info()
    return asked.hits + asked.misses, asked.misses


def test_a_run_with_a_worker_killed_in_the_middle_is_as_the_serial_one_and_each_worker_builds_the_model_once(
    address, patients, serial, tiny_model, tmp_path
):
    killed: list[int] = []
    with distributed.Client(address.removeprefix("dask:"), set_as_default=False) as client:

        def kill_one_at_work(row: dict[str, object]) -> None:
            """One that surely has a case: it is stopped first, then looked at."""
            for worker, pid in client.run(os.getpid).items() if not killed else ():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.1)  # what it had said before has come
                if client.processing()[worker]:
                    os.kill(pid, signal.SIGKILL)
                    return killed.append(pid)
                os.kill(pid, signal.SIGCONT)

        segment(patients, tiny_model, tmp_path, executor=address, progress=kill_one_at_work)
        asked = client.run(predictors)
    assert len(killed) == 1
    assert_same_results(tmp_path, serial)
    assert any(cases > 1 for cases, _ in asked.values())
    assert all(built == min(cases, 1) for cases, built in asked.values())


def test_a_worker_that_is_added_during_the_run_gets_work_and_one_of_many_threads_no_more_than_another():
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=8, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        spans: dict[int, list[tuple[float, float]]] = {}
        for index, (pid, begun, ended) in run_tasks(process, [0.25] * 30, f"dask:{cluster.scheduler_address}", print):
            spans.setdefault(pid, []).append((begun, ended))
            if index == 1:
                cluster.scale(2)
    assert len(spans) == 2 and min(map(len, spans.values())) >= 3
    for ran in map(sorted, spans.values()):
        assert all(ended <= begun for (_, ended), (begun, _) in zip(ran, ran[1:], strict=False))


def test_an_address_where_nobody_answers_is_refused(monkeypatch):
    monkeypatch.setattr("pipeline.execute.cluster.CONNECT_S", 1)
    with pytest.raises(UsageError, match="no scheduler answers"):
        list(run_tasks(fail, [1], "dask:tcp://127.0.0.1:9", lambda task: -1))


# ---- SLURM ----

SBATCH = """#!/bin/sh
echo job >> "{folder}/submitted"
cp "$1" "{folder}/job.$$"
setsid sh "{folder}/job.$$" >> "{folder}/log" 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job; do echo "$job" >> "{folder}/ended"; kill -TERM -- "-$job"; done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A SLURM that runs each job at once on this machine; the folder where it says what it did."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed (extra `cluster`)")
    import dask

    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL), ("squeue", "#!/bin/sh\n")):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script.format(folder=tmp_path))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with dask.config.set({"jobqueue.slurm.cores": 1, "jobqueue.slurm.memory": "500MB"}):
        yield tmp_path


def test_up_to_n_jobs_of_slurm_work_and_end_with_the_run(slurm):
    results = dict(run_tasks(process, [0.2] * 20, "dask:slurm:2", print))
    assert sorted(results) == list(range(20))
    assert len({pid for pid, *_ in results.values()}) in (1, 2)  # the second may come late
    assert (slurm / "submitted").read_text() == "job\njob\n"
    assert len(set((slurm / "ended").read_text().split())) == 2


def test_jobs_are_asked_for_as_there_are_calls_and_never_taken_back():
    jobs, asked = object.__new__(SlurmJobs), []
    jobs.most, jobs.asked, jobs.processes = 3, 1, 2  # up to 3 jobs of 2 processes
    jobs.cluster = SimpleNamespace(scale=lambda jobs: asked.append(jobs))
    for calls in (0, 2, 3, 9, 1):
        jobs.ask_for(calls)
    assert asked == [1, 1, 2, 3, 3]


def test_slurm_that_cannot_be_is_refused_with_what_to_mend(slurm, monkeypatch):
    import dask

    with dask.config.set({"jobqueue.slurm.memory": None}), pytest.raises(UsageError, match="set cores and memory"):
        SlurmJobs("dask:slurm", 1)
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    with pytest.raises(UsageError, match="--executor dask:slurm: SLURM took no job .*invalid partition"):
        SlurmJobs("dask:slurm", 1)
    monkeypatch.setenv("PATH", str(slurm))
    with pytest.raises(UsageError, match="there is no `sbatch` here"):
        SlurmJobs("dask:slurm", 1)
