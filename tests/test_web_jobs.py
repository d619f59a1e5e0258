"""The line of jobs, and a process that dies, hangs or eats memory: the case says so and the server goes on."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from pipeline.web.compute.process import ComputingProcess, resident_bytes
from pipeline.web.store import Store
from pipeline.web.turns import Line, Turns
from tests.web_server import files_of, run, running, upload, wait_for

MEMORY = 700 * 2**20


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    from data.phantom.patient import write_phantom

    return write_phantom(tmp_path_factory.mktemp("web"), 1, shape=(20, 24, 16), spacing_mm=(10.0, 10.0, 10.0))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("workspace")
    with running(workspace, job_minutes=8.0 / 60, job_memory_bytes=MEMORY) as server:
        yield server


def test_the_names_of_the_processes_and_of_their_functions_lead_to_them():
    from pipeline.web import app
    from pipeline.web.compute import perform, process, worker

    assert importlib.import_module(process.WORKER) is worker
    assert (process.ROOT / "pipeline" / "web" / "compute" / "worker.py").samefile(worker.__file__)
    for name, function in ((app._JOB, perform.job_process), (app._CHECK, perform.check_process)):
        module, _, attribute = name.partition(":")
        assert getattr(importlib.import_module(module), attribute) is function


def test_a_case_goes_through_its_states_to_a_result(server, patient):
    with server.client() as client:
        case = run(client, patient, "quick", "done", "failed")
    assert case["state"] == "done", case["error"]
    assert (case["progress"], case["error"], case["queue_position"]) == (1.0, None, None)
    assert [region["dice"] for region in case["result"]["regions"]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ("die", "ended by signal SIGKILL, probably for want of memory; run it again"),
        ("exit", "ended with exit status 7; run it again"),
        ("hang", "took longer than 8 seconds and was stopped"),
        ("eat", "memory"),
        ("raise", "unexpected ValueError while computing; the server's log says more"),
    ],
)
def test_a_job_that_misbehaves_says_so_and_the_next_one_runs(server, patient, wish, sentence):
    with server.client() as client:
        failed = run(client, patient, wish, "done", "failed")
        assert failed["state"] == "failed" and sentence in failed["error"], failed["error"]
        assert "/" not in failed["error"]  # no path of the server
        assert failed["can_run"]
        assert run(client, patient, "quick", "done", "failed")["state"] == "done"
        assert client.get("/healthz").status_code == 200


def test_the_log_has_one_line_a_case_that_names_neither_patient_nor_case(server, patient, caplog):
    caplog.set_level("INFO", "pipeline.web.jobs")
    with server.client() as client:
        for wish, state in (("quick", "done"), ("exit", "failed")):
            caplog.clear()
            case = run(client, patient, wish, "done", "failed")
            (line,) = [record.getMessage() for record in caplog.records if record.name == "pipeline.web.jobs"]
            assert re.fullmatch(rf"a case is {state} after [0-9.]+ s \({re.escape(case['model'])}\); 0 wait", line)
            assert case["id"] not in line and patient.name not in line


def test_an_answer_that_is_too_long_ends_in_a_sentence_and_not_in_a_case_that_is_looked_at_for_ever(
    tmp_path, patient, monkeypatch
):
    monkeypatch.setattr("pipeline.web.compute.process._LONGEST_ANSWER", 500)
    with running(tmp_path) as server, server.client() as client:
        reply = client.post("/api/cases", files=files_of(patient))
        assert (reply.status_code, "of text would have to be said of it" in reply.text) == (422, True), reply.text
        case = client.post("/api/gallery/glioma").json()
        failed = wait_for(client, case["id"], "failed", seconds=20)
        assert "of text would have to be said of it" in failed["error"]


def test_a_look_that_takes_too_long_names_no_option(tmp_path, patient, monkeypatch):
    monkeypatch.setattr("pipeline.web.jobs.CHECK_SECONDS", 0.001)
    with running(tmp_path) as server, server.client() as client:
        reply = client.post("/api/cases", files=files_of(patient))
    assert reply.json() == {"error": "took longer than 0.001 seconds and was stopped; try fewer or smaller images"}


def test_a_look_that_fails_in_the_server_ends_the_case_in_a_sentence(tmp_path, monkeypatch):
    """Whatever it fails of: the case is not looked at for ever."""
    monkeypatch.setattr("pipeline.web.jobs._looked_at", lambda *_: 1 / 0)
    with running(tmp_path) as server, server.client() as client:
        case = client.post("/api/gallery/glioma").json()
        failed = wait_for(client, case["id"], "failed", seconds=20)
    assert failed["error"] == "something went wrong in the server; its log says what" and not failed["can_run"]


def test_a_process_that_takes_more_memory_than_allowed_is_stopped_even_where_allocation_goes_on(
    server, patient, monkeypatch
):
    computer = server.app.state.context.jobs.computer
    with server.client() as client:
        run(client, patient, "quick", "done")  # so that its own limit is that of the other tests
        monkeypatch.setattr(computer, "memory_bytes", 2**21)
        failed = run(client, patient, "hang", "done", "failed")
    assert "took more than 0.00195 GiB of memory and was stopped" in failed["error"]
    assert computer.pid is None


def test_cancel_stops_the_process_and_the_case_can_run_again(server, patient):
    with server.client() as client:
        case = run(client, patient, "hang", "running")
        pid = wait_for_pid(server)
        reply = client.post(f"/api/cases/{case['id']}/cancel").json()
        assert (reply["state"], reply["can_run"]) == ("cancelled", True)
        assert resident_bytes(pid) == 0
        assert run(client, patient, "quick", "done")["state"] == "done"


def wait_for_pid(server):
    end = time.monotonic() + 20
    while (pid := server.app.state.context.jobs.computer.pid) is None and time.monotonic() < end:
        time.sleep(0.02)
    return pid


@pytest.fixture
def slow_disk(server, monkeypatch):
    """Every write of a case takes a while, as on a disk that is busy."""
    write = Store._write

    def slowly(self, case_id, document):
        time.sleep(0.3)
        write(self, case_id, document)

    monkeypatch.setattr(Store, "_write", slowly)


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.4, 0.7])
def test_cancel_counts_however_soon_after_run_it_comes(server, patient, slow_disk, after_s):
    """In line before the disk has it, and taken from the line before the disk has that."""
    with server.client() as client, server.client() as other, ThreadPoolExecutor(1) as pool:
        case = upload(client, patient, "slow 2")
        other.cookies.update(client.cookies)
        asked = pool.submit(other.post, f"/api/cases/{case['id']}/run")
        while client.get(f"/api/cases/{case['id']}").json()["state"] == "ready":
            time.sleep(0.005)
        time.sleep(after_s)
        assert client.post(f"/api/cases/{case['id']}/cancel").json()["state"] == "cancelled"
        assert asked.result().status_code == 202
        time.sleep(0.5)
        assert client.get(f"/api/cases/{case['id']}").json()["state"] == "cancelled"
    assert list(server.app.state.context.jobs.turns) == []


def test_removing_a_running_case_stops_it_and_leaves_no_file(server, patient):
    with server.client() as client:
        case = run(client, patient, "hang", "running")
        folder = server.settings.workspace / "cases" / case["id"]
        assert folder.is_dir()
        assert client.delete(f"/api/cases/{case['id']}").status_code == 204
        assert not folder.exists()
        assert client.get(f"/api/cases/{case['id']}").status_code == 404


def test_users_take_turns_and_see_their_position(server, patient):
    with server.client() as busy, server.client() as other:
        cases = [upload(busy, patient, f"slow 0.4 {n}") for n in range(3)]
        late = upload(other, patient, "slow 0.1")
        for case in cases:
            busy.post(f"/api/cases/{case['id']}/run")
        waiting = other.post(f"/api/cases/{late['id']}/run").json()
        assert waiting["queue_position"] in (2, 3)
        # The one who came last is served after the first's next job, not after all of them.
        third = busy.get(f"/api/cases/{cases[2]['id']}").json()
        assert third["queue_position"] > waiting["queue_position"]
        for case in cases:
            wait_for(busy, case["id"], "done")
        wait_for(other, late["id"], "done")
        began = {}
        for case in (*cases, late):
            began[case["id"]] = float((server.settings.workspace / "cases" / case["id"] / "order").read_text())
        assert began[late["id"]] < began[cases[2]["id"]]


def test_turns_go_round_the_users():
    turns = Turns()
    for job in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.add(job[0], job)
    assert list(turns) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert turns.take() == "a1"
    assert list(turns) == ["b1", "c1", "a2", "b2", "a3"]
    turns.add("d", "d1")
    assert turns.remove("b1") and not turns.remove("b1")
    order = list(turns)
    assert [turns.take() for _ in order] == order
    assert turns.take() is None and list(turns) == []


def test_quick_looks_go_round_the_users_too():
    """One that sends fifty cases at once holds up another's one by a single look."""
    order = []

    async def look(line, owner, begun):
        begun.set()
        async with line.turn(owner):
            order.append(owner)
            await asyncio.sleep(0.001)

    async def play():
        line, tasks = Line(), []
        for owner in ["a"] * 5 + ["b", "c", "b"]:
            begun = asyncio.Event()
            tasks.append(asyncio.create_task(look(line, owner, begun)))
            await begun.wait()
        tasks[2].cancel()  # one of a's, while it waits
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1), line.turn("d"):  # nothing is left over
            order.append("d")

    asyncio.run(play())
    assert order == ["a", "a", "b", "c", "a", "b", "a", "d"]


def test_events_tell_every_state_and_end(server, patient):
    with server.client() as client:
        case = upload(client, patient, "slow 0.3")
        states = []
        client.post(f"/api/cases/{case['id']}/run")
        with client.stream("GET", f"/api/cases/{case['id']}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    states.append(json.loads(line.removeprefix("data: "))["state"])
    assert states[-1] == "done" and states[0] in ("queued", "running")


def test_time_left_comes_from_earlier_runs(server, patient):
    with server.client() as client:
        run(client, patient, "slow 0.5", "done")
        case = run(client, patient, "slow 1.0", "running")
        assert case["seconds_left"] is not None and 0 <= case["seconds_left"] < 10
        wait_for(client, case["id"], "done")


def test_time_left_of_the_first_case_does_not_count_what_came_before_its_first_progress(tmp_path, patient):
    with running(tmp_path, job_minutes=1.0) as server, server.client() as client:
        case = run(client, patient, "late", "running")
        while (case := client.get(f"/api/cases/{case['id']}").json())["progress"] < 0.5:
            assert case["state"] == "running" and case["seconds_left"] is None
            time.sleep(0.02)
        # Half of it in 0.3 s and a little, at most 1.8 s; with the 2 s before, 2.3 s and more would be left.
        assert 0 < case["seconds_left"] < 2
        wait_for(client, case["id"], "done")
        # Nor does it count for the next case: 1.8 s for 95 hundredths are remembered, not 3.8 s.
        case = run(client, patient, "slow 1.0", "running")
        while (case := client.get(f"/api/cases/{case['id']}").json())["progress"] == 0:
            time.sleep(0.02)
        assert 0 < case["seconds_left"] < 2.5
        wait_for(client, case["id"], "done")


def test_time_left_is_the_share_left_of_what_earlier_runs_took_and_no_more_than_the_pace_so_far_says(tmp_path):
    import asyncio

    from pipeline.web.jobs import Jobs
    from pipeline.web.settings import Settings
    from pipeline.web.store import CaseRecord

    async def left(progress, seconds, began):
        """Of a case that is so far, after so many seconds since its first 5 hundredths."""
        store = Store(tmp_path / "x.sqlite3")
        jobs = Jobs(Settings(workspace=tmp_path), store, {}, "tests.web_faults:job", "tests.web_faults:job")
        await store.add_timing("m", 1000, 20.0)
        now = time.monotonic()
        if seconds is not None:
            jobs.forecast._first, jobs.forecast._latest = (now - seconds, 0.05), now
        record = CaseRecord("a" * 32, "o", "x", "running", 1.0, 2.0, model="m", voxels=1000, progress=progress)
        found = jobs.forecast.seconds_left(dataclasses.replace(record, started_at=time.time() - began))
        await store.close()
        return found

    def ask(*arguments):
        return asyncio.run(left(*arguments))

    assert ask(0.0, None, 15.0) == pytest.approx(20)  # a model is being loaded: nothing of the case is done yet
    assert ask(0.1, 0.5, 15.5) == pytest.approx(18, abs=0.1)  # too early to judge its pace
    assert ask(0.5, 4.5, 20.0) == pytest.approx(5, abs=0.1)  # 45 hundredths in 4.5 s, not half of 20 s
    assert ask(0.5, 45.0, 60.0) == pytest.approx(10, abs=0.1)  # slower than ever, which may be the machine's business


def test_a_long_line_is_reckoned_once_and_not_for_each_case_in_it(tmp_path):
    """Of 2000 cases in line a session's list of 200 took 11 s of the server's time, while all others waited."""
    from pipeline.web.jobs import Jobs
    from pipeline.web.settings import Settings
    from pipeline.web.store import CaseRecord

    async def play():
        store = Store(tmp_path / "x.sqlite3")
        jobs = Jobs(Settings(workspace=tmp_path), store, {}, "tests.web_faults:job", "tests.web_faults:job")
        await store.add_timing("m", 1000, 20.0)
        asked = []
        expected = store.expected_seconds
        store.expected_seconds = lambda *kind: (asked.append(kind), expected(*kind))[1]

        def queue(owner, name):
            record = CaseRecord(name, owner, name, "queued", 1.0, 2.0, model="m", voxels=1000)
            store.show(record)
            jobs.turns.add(owner, name)
            return record

        records = [queue(*case) for case in (("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3"))]
        told = [(jobs.forecast.position(record), jobs.forecast.seconds_left(record)) for record in records]
        records += [queue(f"owner {n % 10}", f"case {n}") for n in range(2000)]
        asked.clear()
        for record in records[-200:]:
            jobs.forecast.position(record), jobs.forecast.seconds_left(record)
        jobs.turns.remove("a1")
        told.append((jobs.forecast.position(records[1]), jobs.forecast.seconds_left(records[1])))
        await store.close()
        return told, len(asked)

    told, asked = asyncio.run(play())
    # a1, b1, a2, a3 is the line, of 20 s each; without a1 it begins with a2.
    assert told == [(1, 20.0), (3, 60.0), (2, 40.0), (4, 80.0), (1, 20.0)]
    assert asked < 10


def test_a_restart_shows_what_is_done_runs_what_waited_and_marks_what_was_interrupted(tmp_path, patient):
    options = {"job_minutes": 1.0}
    with running(tmp_path, **options) as server, server.client() as client:
        done = run(client, patient, "quick", "done")
        first = run(client, patient, "hang", "running")
        second = upload(client, patient, "quick again")
        client.post(f"/api/cases/{second['id']}/run")
        cookies = dict(client.cookies)
        stray = server.app.state.context.jobs.folders.make("0" * 32)
    with running(tmp_path, **options) as server, server.client(cookies=cookies) as client:
        assert client.get(f"/api/cases/{done['id']}").json()["result"] == done["result"]
        interrupted = client.get(f"/api/cases/{first['id']}").json()
        assert (
            interrupted["state"] == "interrupted" and "run it again" in interrupted["error"] and interrupted["can_run"]
        )
        assert wait_for(client, second["id"], "done")["result"] is not None
        assert [case["id"] for case in client.get("/api/cases").json()] == [second["id"], first["id"], done["id"]]
        assert not stray.exists()


def test_a_second_server_on_one_workspace_is_refused(server):
    from data.errors import UsageError
    from pipeline.web.app import create_app

    with pytest.raises(UsageError, match="another server running on this workspace"):
        create_app(server.settings)


def test_a_case_is_removed_after_its_time(tmp_path, patient):
    with running(tmp_path, keep_hours=1.5 / 3600) as server, server.client() as client:
        reply = client.post("/api/cases", files=[("files", ("x_t1.nii.gz", b"no image"))]).json()
        assert reply["expires"] == pytest.approx(reply["created"] + 1.5)
        end = time.monotonic() + 10
        while client.get(f"/api/cases/{reply['id']}").status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(0.2)
        assert list((tmp_path / "cases").iterdir()) == []


def test_records_come_back_from_the_disk_as_they_were(tmp_path):
    import asyncio

    from pipeline.web.store import CaseRecord, Source

    source = Source("1", "a.nii", ("f0001.nii",), None, "t1", "t1", (1, 2, 3), (1.0, 1.0, 2.5), "LPS", None)
    record = CaseRecord("a" * 32, "owner", "Müller 😀", "ready", 1.0, 2.0, sources=(source,), notes=("n",))

    async def write():
        store = Store(tmp_path / "x.sqlite3")
        await store.put(record)
        await store.put(dataclasses.replace(record, state="done"))
        await store.add_timing("m", 1000, 4.0)
        await store.close()

    asyncio.run(write())
    store = Store(tmp_path / "x.sqlite3")
    assert store.records == {record.id: dataclasses.replace(record, state="done")}
    assert store.expected_seconds("m", 1000) == pytest.approx(4.0)
    assert store.expected_seconds("m", 2000) > 4.0
    assert store.expected_seconds("other", 1000) is None
    asyncio.run(store.close())


def test_the_worker_ends_with_its_server(tmp_path):
    """Whatever it is at: its input ends when the server does, also by kill -9."""
    import asyncio

    async def begin():
        process = ComputingProcess("tests.web_faults:job", None)
        task = asyncio.create_task(
            process.ask({"do": "x", "folder": str(tmp_path), "case": {"name": "hang"}}, 60.0, lambda *_: heard.set())
        )
        heard = asyncio.Event()
        await heard.wait()
        pid = process.pid
        assert process._process.stdin is not None
        process._process.stdin.close()
        end = time.monotonic() + 10
        while resident_bytes(pid) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return resident_bytes(pid)

    assert asyncio.run(begin()) == 0


def test_requests_are_answered_while_a_file_is_slow_to_write(server, patient, monkeypatch):
    """Disk work is in threads: a disk that stalls holds up the one who waits for it, nobody else."""
    real = shutil.rmtree

    def slow(*arguments, **options):
        time.sleep(1.5)
        real(*arguments, **options)

    with server.client() as one, server.client() as other:
        case = upload(one, patient, "quick")
        monkeypatch.setattr(shutil, "rmtree", slow)
        removing = threading.Thread(target=one.delete, args=(f"/api/cases/{case['id']}",))
        removing.start()
        start = time.monotonic()
        while removing.is_alive():
            began = time.monotonic()
            other.get("/api/cases")
            assert time.monotonic() - began < 1.0
        assert time.monotonic() - start > 1.0
        removing.join()
