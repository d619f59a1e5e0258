"""Memory that is freed stays with the process, is used again, and goes back when it is wanted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipeline.predict.memory import forecast as memory
from pipeline.predict.memory import machine as machine_memory

TWICE = """
import json, resource, sys
import numpy as np
from pipeline.predict.memory.machine import give_back, tune_malloc
def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
if sys.argv[1] == "tuned":
    assert tune_malloc() and tune_malloc()
np.ones(2**23)  # 64 MiB, above what glibc serves from its heap
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**23)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
kept = now()
given = give_back()
print(json.dumps({"faults": faults, "kept": kept, "given": given, "left": now()}))
"""


def run(how: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", TWICE, how], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_freed_blocks_are_used_again_and_given_back_when_wanted() -> None:
    if machine_memory._glibc() is None:
        pytest.skip("the C library is not glibc")
    plain, tuned = run("plain"), run("tuned")
    # Twenty times 64 MiB are 327680 pages of 4 KiB, or 640 of the huge ones that some machines give.
    assert tuned["faults"] < plain["faults"] / 10
    assert tuned["kept"] > plain["kept"] + 50 * 2**20
    assert tuned["given"] and tuned["left"] < tuned["kept"] - 50 * 2**20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_memory, "_glibc", lambda: None)
    assert machine_memory.tune_malloc() is False and machine_memory.give_back() is False


def test_what_this_process_holds_unused_is_given_back_before_a_case_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([100, 300, 300])
    monkeypatch.setattr(memory, "available_bytes", lambda: next(free))
    monkeypatch.setattr(memory, "give_back", lambda: True)
    memory.require_room("patient", 200)
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    assert memory.has_room(100) and not memory.has_room(101)


def test_what_engines_keep_is_given_back_too_as_long_as_they_live() -> None:
    class Engine:
        released = 0

        def release(self) -> None:
            self.released += 1

    engine, other = Engine(), Engine()
    machine_memory.keep_track(engine)
    machine_memory.keep_track(other)
    del other
    machine_memory.give_back()
    machine_memory.give_back()
    assert engine.released == 2
