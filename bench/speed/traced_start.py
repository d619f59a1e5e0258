"""Call of run_pipeline.py as a user makes it, with the moments of its start.

    python -m bench.speed.traced_start RESULT PATIENTS [argument of run_pipeline.py ...]

RESULT is JSON: name of the moment -> wall seconds since the process was started. Nothing of the pipeline is looked
into: imports are seen by a finder, files by Python's audit hook, the network by hooks of torch and OpenVINO.
"""

from __future__ import annotations

import json
import runpy
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.speed.own_process import ROOT, since_start

WATCHED = ("torch", "monai", "pandas", "matplotlib", "SimpleITK", "itk", "openvino", "openvino._ov_api")
INFERS = {"CompiledModel": ("__call__",), "InferRequest": ("infer", "start_async"), "AsyncInferQueue": ("start_async",)}
"""OpenVINO's ways to run a network."""


class Moments:
    """First time of each event."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def mark(self, what: str) -> None:
        self.seconds.setdefault(what, since_start())


class ImportWatch:
    """Finder that marks the imports of the packages of :data:`WATCHED`.

    Their begin and their end are marked.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in WATCHED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.moments.mark(f"import {name}")
            execute(module)
            self.moments.mark(f"imported {name}")
            if name == "torch":
                _watch_torch(module, self.moments)
            elif name == "openvino._ov_api":
                _watch_openvino(module, self.moments)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _watch_torch(torch: Any, moments: Moments) -> None:
    def first(*_: object) -> None:
        moments.mark("network in torch")
        handle.remove()

    handle = torch.nn.modules.module.register_module_forward_pre_hook(first)


def _watch_openvino(api: Any, moments: Moments) -> None:
    for name, methods in INFERS.items():
        for method in methods:
            _mark_calls(getattr(api, name, None), method, moments)


def _mark_calls(owner: Any, method: str, moments: Moments) -> None:
    original = getattr(owner, method, None)
    if original is None:
        return

    def marked(*args: Any, **keywords: Any) -> Any:
        moments.mark("network in openvino")
        return original(*args, **keywords)

    setattr(owner, method, marked)


def main() -> None:
    result, patients, arguments = Path(sys.argv[1]), str(Path(sys.argv[2]).resolve()), sys.argv[3:]
    moments = Moments()
    moments.mark("python")

    def audit(event: str, values: tuple[Any, ...]) -> None:
        # The reference is opened early, to recognise the label convention; the images are what the network waits for.
        if event == "open" and isinstance(values[0], str) and values[0].startswith(patients):
            if "seg" in Path(values[0]).name:
                moments.mark("reference opened")
            else:
                moments.mark("first image opened")
                if threading.current_thread().name.startswith("read_"):  # not to be hashed, nor for its header
                    moments.mark("images are read")

    sys.addaudithook(audit)
    sys.meta_path.insert(0, ImportWatch(moments))  # type: ignore[arg-type]
    sys.argv = ["run_pipeline.py", *arguments]
    status: object = 0
    try:
        runpy.run_path(str(ROOT / "run_pipeline.py"), run_name="__main__")
    except SystemExit as end:
        status = end.code
    moments.mark("end")
    # OpenVINO is made from a pass through torch, which is not yet the network at work.
    seconds = dict(moments.seconds)
    running = seconds.get("network in openvino", seconds.get("network in torch"))
    result.write_text(json.dumps(seconds | ({} if running is None else {"network running": running})))
    sys.exit(status)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
