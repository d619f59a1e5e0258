"""A run that is asked to stop stops soon, tells the truth about what is done, and leaves nothing half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from data.io.write import is_temporary_name
from pipeline.execute.executors import run_tasks
from pipeline.execute.interruption import Interrupted, check_stopped, stoppable

ROOT = Path(__file__).resolve().parent.parent
FIRST = "BraTS-GLI-90001-000"
CASES = 120


def default_signals() -> None:
    """As a user's shell starts a program, whatever started these tests."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def start(*arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=default_signals, **options,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """A shell's background job, which may have started these tests, ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_raises_what_no_except_exception_takes_and_the_second_does_nothing(number):
    before, cleaned = signal.getsignal(number), False
    with pytest.raises(Interrupted) as caught, stoppable():
        try:
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            except Exception:
                pytest.fail("taken for an error of a patient")
        finally:
            for other in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), other)
                time.sleep(0.01)
            cleaned = True
    assert cleaned and caught.value.exit_status == 128 + number
    assert signal.getsignal(number) == before


def test_a_signal_that_a_library_swallows_stops_the_loop_at_the_next_case():
    begun: list[int] = []

    def swallow(task: int) -> None:
        begun.append(task)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except BaseException:
            pass

    with pytest.raises(Interrupted), stoppable():
        list(run_tasks(swallow, range(5), "serial", lambda task: None))
    assert begun == [0]
    check_stopped()  # no block, nothing to tell


def test_a_signal_within_a_finaliser_is_raised_once_more(capfd):
    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)

    with pytest.raises(Interrupted), stoppable():
        Finalised()
        time.sleep(5)
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_that_does_not_look_up_is_ended_in_time_with_the_status_of_the_signal():
    code = "import signal, time; from pipeline.execute.interruption import stoppable\n"
    code += "with stoppable(patience_s=0.5):\n try:\n  print(1, flush=True); time.sleep(9)\n finally:\n  time.sleep(60)"
    process = start("-c", code)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=10)[1]
    assert process.returncode == 143 and said.count("\n") == 1 and "SIGTERM" in said


def test_what_a_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# ---- the command line ----


@pytest.fixture(scope="module")
def many(phantoms, tmp_path_factory) -> Path:
    """One small patient under many names."""
    root = tmp_path_factory.mktemp("many")
    for number in range(CASES):
        (root / f"p{number:02}").symlink_to(phantoms / FIRST)
    return root


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"{text!r} was never said; {process.stderr.read()}")


def assert_stopped(process: subprocess.Popen, number: int, output: Path, *, may_not_have_begun: bool = False) -> None:
    asked = time.monotonic()
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)  # impatience changes nothing
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - asked < 10
    if (
        may_not_have_begun and process.returncode == -number
    ):  # a slow machine: no line of ours had run (a shell says 143)
        assert not said and not output.exists()
        return
    assert process.returncode == 128 + number
    assert said.count("\n") == 1 and "Traceback" not in said and signal.Signals(number).name in said
    files = list(output.rglob("*")) if output.exists() else []
    assert not [path for path in files if is_temporary_name(path.name) or path.name == ".lock"]


@pytest.mark.parametrize(("number", "spec"), [(signal.SIGTERM, "processes:2"), (signal.SIGINT, "serial")])
def test_segment_keeps_a_second_run_out_and_stops_with_a_report_of_what_is_done(
    number, spec, many, tiny_model, tmp_path
):
    out = tmp_path / "out"
    arguments = ("segment", many, "-o", out, "--model", tiny_model, "--threads", 1, "--executor", spec)
    process = start("run_pipeline.py", *arguments)
    wait_for(process, f"[2/{CASES}]")
    second = start("run_pipeline.py", *arguments)
    said = second.communicate(timeout=60)[1]
    assert second.returncode == 2 and f"process {process.pid}" in said and said.count("\n") == 1
    assert_stopped(process, number, out)
    report = pd.read_csv(out / "report.csv")
    assert 2 <= len(report) < CASES and set(report["status"]) <= {"ok", "warn"}
    for folder in report["folder"]:
        assert (out / folder / f"{folder}_seg.nii.gz").is_file()


@pytest.mark.parametrize("delay", [0.15, 2.0])
def test_a_signal_while_it_starts_leaves_nothing(delay, many, tiny_model, tmp_path):
    process = start("run_pipeline.py", "segment", many, "-o", tmp_path / "out", "--model", tiny_model, "--quiet")
    time.sleep(delay)
    assert_stopped(process, signal.SIGTERM, tmp_path / "out", may_not_have_begun=delay < 1)


def test_evaluate_stops_and_leaves_no_half_table(many, tmp_path):
    process = start("run_pipeline.py", "evaluate", many, many, "-o", tmp_path / "out", "--workers", 1)
    wait_for(process, f"[1/{CASES}]")
    assert_stopped(process, signal.SIGTERM, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- orphans ----

ORPHANS = """
import os, sys, time
from pipeline.execute.executors import run_tasks
def say(task):
    print(os.getpid(), flush=True); time.sleep(60)
if __name__ == "__main__":
    list(run_tasks(say, range(2), "processes:2", lambda task: None))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "orphans.py")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(map(alive, workers))
    parent.kill()
    parent.wait()
    until = time.monotonic() + 2
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(alive, workers))
