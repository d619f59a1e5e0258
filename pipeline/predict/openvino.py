"""Networks run by OpenVINO in float32 on the CPU (extra ``cpu``).

A network is converted once, for all sizes: what it does inside its padding (networks.layers) is the same whatever the
size, so that it is traced on the smallest input and its spatial dimensions are then left open.

OpenVINO's telemetry package is kept from being imported, so that it can send nothing: OpenVINO then takes the stub that
it has for machines without that package. What asks for consent and sends, its converter ``openvino.tools.ovc``, is not
called at all.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from networks.layers import PaddedNetwork
from pipeline.predict import engine_cache
from pipeline.predict.device import out_of_memory
from pipeline.predict.memory.machine import keep_track

log = logging.getLogger(__name__)

TELEMETRY = "openvino_telemetry"


def installed() -> bool:
    """Tell whether OpenVINO is there; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


class OpenVINONetwork(nn.Module):
    """Replacement on the CPU for the network that it was made from.

    That network takes over when OpenVINO fails.

    Parameters
    ----------
    network : PaddedNetwork
        In ``eval`` mode.
    identity : dict of str
        What decides the network's function (its weights' digest, its level), for the cache.

    Attributes
    ----------
    failure : str
        Why the network of torch runs instead; empty while OpenVINO runs.

    Raises
    ------
    Exception
        Whatever OpenVINO or the conversion raises; nothing of it is ours to tell apart.
    """

    def __init__(self, network: PaddedNetwork, identity: engine_cache.Identity) -> None:
        super().__init__()
        self.network, self.failure = network, ""
        ov = _openvino()
        identity = {**identity, "openvino": ov.get_version(), "torch": torch.__version__}
        core = _core()
        stored = engine_cache.load(identity)
        if stored is None:
            stored = _convert(ov, network)
            engine_cache.store(identity, *stored)
        # The arrays must outlive the model, which reads the weights where they lie.
        self._weights = ov.Tensor(stored[1])
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = core.compile_model(core.read_model(stored[0], self._weights), "CPU", options)
        self._in_use = threading.Lock()
        keep_track(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, as the network's own ``forward`` gives them."""
        if self.failure or x.device.type != "cpu":
            return self.network(x)
        padding = self.network.padding(x.shape[2:])
        padded = F.pad(x, padding) if any(padding) else x
        try:
            with self._in_use:
                answer = self._compiled(np.ascontiguousarray(padded.numpy()), share_inputs=True)[0]
        except Exception as error:
            if out_of_memory(error):
                raise
            log.debug("openvino failed", exc_info=True)
            self.failure = reason(error)
            return self.network(x)
        return torch.from_numpy(answer)[(slice(None), slice(None), *(slice(n) for n in x.shape[2:]))]

    def release(self) -> None:
        """Give back the memory of the last pass; the next pass takes it again."""
        if not self.failure and self._in_use.acquire(blocking=False):
            try:
                self._compiled.release_memory()
            finally:
                self._in_use.release()


def reason(error: Exception) -> str:
    """Return the first words of an error, for a remark."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _openvino() -> Any:
    if TELEMETRY not in sys.modules:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # an import of it raises ImportError from now on
    import openvino

    return openvino


@lru_cache(maxsize=1)
def _core() -> Any:
    """Return the one runtime of this process, kept to its end.

    Its CPU plugin gives the calling thread a stack of its own for signals, and leaves the thread with a freed one where
    several runtimes are not ended in the opposite order: the next Ctrl-C, or the end of a child, is then a crash.
    """
    return _openvino().Core()


class _Inside(nn.Module):
    """Part of a network that works on an input that halves evenly."""

    def __init__(self, network: PaddedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.outputs(x, every_level=False)[0]


def _convert(ov: Any, network: PaddedNetwork) -> tuple[str, np.ndarray]:
    """Convert a network for any size that halves evenly.

    The result is OpenVINO's description and the weights (n,) uint8.

    torch's own trace without its check, which runs the network twice more and imports torch.distributed, and the front
    end alone: 0.8 s of CPU time where ``openvino.convert_model`` took 4 to 5.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    dims, channels = network.spatial_dims, network.in_channels
    smallest = torch.zeros(1, channels, *(2 * network.multiple,) * dims)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of comparisons of sizes, which come out the same for every even size
        traced = torch.jit.freeze(torch.jit.trace(_Inside(network).eval(), smallest, check_trace=False))
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # must live until the conversion is over
    model = front_end.convert(front_end.load(decoder))
    model.reshape([-1, channels, *[-1] * dims])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        return path.read_text(encoding="utf-8"), np.fromfile(path.with_suffix(".bin"), np.uint8)
