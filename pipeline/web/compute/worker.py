"""The process that computes: one request a line of JSON in, lines of JSON out, under limits that the server sets.

    python -m pipeline.web.compute.worker FUNCTION MEMORY_BYTES

It says ``{"ready": true}``, then for each request any number of ``{"stage": ..., "share": ...}`` and one ``{"done": ...}``
or ``{"failed": sentence}``. FUNCTION is ``module:name``, called with a request and a function for messages; what it returns is the answer. The
process keeps what it has imported and the last models, so the second case of a model starts at once. It ends when the
server does, whatever it is at.
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

from data.errors import SegmentationError

log = logging.getLogger(__name__)

Emit = Callable[[str, float], None]
NO_MEMORY = "not enough memory for this case: it has too many voxels for the memory that a job may take"


def main(function: str, memory_bytes: int) -> None:
    """Answer requests until the input ends."""
    # What a library prints must not be taken for an answer.
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
    os._exit(0)  # the server is gone: nobody waits for what the other thread is at


def _answer(
    perform: Callable[[dict[str, Any], Emit], Any], request: dict[str, Any], answers: BinaryIO
) -> dict[str, Any]:
    def emit(stage: str, share: float) -> None:
        _send(answers, {"stage": stage, "share": share})

    here = Path.cwd()
    try:
        os.chdir(request["folder"])  # sentences and tables then hold no path of the server
        return {"done": perform(request, emit)}
    except SegmentationError as error:
        return {"failed": str(error)}
    except MemoryError:
        return {"failed": NO_MEMORY}
    except Exception as error:
        log.exception("%s failed", request.get("do"))
        if "can't allocate memory" in str(error):  # torch's way to say it
            return {"failed": NO_MEMORY}
        return {"failed": f"unexpected {type(error).__name__} while computing; the server's log says more"}
    finally:
        os.chdir(here)


def _send(target: BinaryIO, message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # then the other thread ends us
        target.write(json.dumps(message).encode() + b"\n")
        target.flush()


def _limit_memory(memory_bytes: int) -> None:
    """An allocation beyond it fails, so that the case can say so; the server watches too."""
    if memory_bytes <= 0:
        return
    try:
        import resource
    except ImportError:  # Windows
        return
    # Not RLIMIT_AS: address space that is only reserved, as CUDA and thread stacks do, is no memory.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    main(sys.argv[1], int(sys.argv[2]))
