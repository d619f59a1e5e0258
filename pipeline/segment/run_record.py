"""Record of a run, run.json: enough to repeat and compare it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.io.write import write_text_atomically
from data.output_names import RUN_RECORD
from pipeline.execute.executors import available_cpus, threads_of_each
from pipeline.score.tables import text_cell
from pipeline.segment.identity import package_version, versions
from pipeline.segment.state import CaseState
from pipeline.segment.task import CaseTask

OURS = "brain-tumour-segmentation"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def write_run_record(
    output: Path,
    command: str,
    options: Mapping[str, Any],
    tasks: Sequence[CaseTask],
    states: Sequence[CaseState | None],
    started: float,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write ``output/run.json``.

    Parameters
    ----------
    command : str
        The command line; paths in it may be relative to ``working_folder``, which is recorded too.
    options : mapping
        The fields of SegmentOptions, ``executor`` and ``device_used``.
    tasks, states : sequences
        The run's cases, and their state files; None where a case has no result.
    started : float
        Seconds since 1970.
    more : mapping, optional
        Further entries, or others in the place of these.
    """
    more = more or {}
    cases: dict[str, Any] = {}
    models: dict[str, str] = {}
    for task, state in zip(tasks, states, strict=True):
        files = {m: source.names for m, source in task.case.images.items()}
        about: dict[str, Any] = {"folder": task.folder, "layout": task.case.layout, "files": files}
        about["patient"] = task.case.patient
        about |= {} if task.case.timepoint is None else task.case.timepoint.as_record()
        cases[text_cell(task.case.case_id)] = about | ({} if state is None else state.about())
        models |= {} if state is None else {Path(file).stem: sha256 for file, sha256 in state.models.items()}
    run = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "command": command,
        "working_folder": os.getcwd(),
        "options": options,
        "models": models,
        "versions": {
            "python": platform.python_version(),
            OURS: package_version(OURS),
            **versions(),
        },
        "machine": more["machine"] if "machine" in more else _machine(options),
        **{key: value for key, value in more.items() if key != "machine"},
        "cases": cases,
    }
    write_text_atomically(output / RUN_RECORD, json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def _machine(options: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the machine.

    Another processor, or another number of threads, may round differently.
    """
    import torch

    device = options["device_used"]
    about: dict[str, Any] = {
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cpus": available_cpus(),
        "threads": threads_of_each(options["threads"], options["executor"]) or torch.get_num_threads(),
        "threads_from_environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if device.startswith("cuda"):
        about["gpu"] = torch.cuda.get_device_name(device)
    return about


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
