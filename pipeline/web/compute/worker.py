"""Process that computes.

It reads one request a line of JSON and writes lines of JSON, under limits that the server sets.

    python -m pipeline.web.compute.worker FUNCTION MEMORY_BYTES

It writes ``{"ready": true}``, then for each request any number of ``{"stage": ..., "share": ...}`` and one
``{"done": ...}`` or ``{"failed": sentence}``. FUNCTION is ``module:name``; it is called with a request and a function
for messages, and returns the answer. The process keeps its imports and the last models, so the second case of a model
starts at once. It ends at once when the server ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from data.errors import SegmentationError, explain
from pipeline.web.compute.advice import PAGE

log = logging.getLogger(__name__)

Emit = Callable[[str, float], None]


def main(function: str, memory_bytes: int) -> None:
    """Answer requests until the input ends."""
    # Output that a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit_memory(memory_bytes)
    module, _, name = function.partition(":")
    perform = getattr(importlib.import_module(module), name)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), daemon=True).start()
    _send(answers, {"ready": True})
    while True:
        _send(answers, _answer(perform, requests.get(), answers))


def _read(source: BinaryIO, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in source:
        requests.put(json.loads(line))
    os._exit(0)  # the server is gone, and the other thread's answer has no reader


def _answer(
    perform: Callable[[dict[str, Any], Emit], Any], request: dict[str, Any], answers: BinaryIO
) -> dict[str, Any]:
    def emit(stage: str, share: float) -> None:
        _send(answers, {"stage": stage, "share": share})

    here = Path.cwd()
    try:
        os.chdir(request["folder"])  # so that sentences and tables hold no path of the server
        return {"done": perform(request, emit)}
    except (SegmentationError, MemoryError) as error:
        return {"failed": explain(error, words=PAGE)}
    except Exception as error:
        log.exception("%s failed", request.get("do"))
        if "can't allocate memory" in str(error):  # torch's own message
            return {"failed": explain(MemoryError(), words=PAGE)}
        return {"failed": f"unexpected {type(error).__name__} while computing; the server's log says more"}
    finally:
        os.chdir(here)


def _send(target: BinaryIO, message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # then the other thread ends us
        target.write(json.dumps(message).encode() + b"\n")
        target.flush()


def _limit_memory(memory_bytes: int) -> None:
    """Make allocations beyond the limit fail.

    The case can then say so; the server watches the memory too.
    """
    if memory_bytes <= 0:
        return
    try:
        import resource
    except ImportError:  # Windows
        return
    # Not RLIMIT_AS, which also counts address space that CUDA and thread stacks only reserve.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    main(sys.argv[1], int(sys.argv[2]))
