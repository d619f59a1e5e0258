"""Engines: whichever runs a network, the answer is torch's; what was converted is kept, and never trusted blindly."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from data.case import Case, ImageSource
from data.errors import UsageError
from data.find.discover import discover_cases
from networks import ARCHITECTURES, NetworkConfig, build_network
from pipeline.checkpoint import Checkpoint, open_checkpoint, shipped_models
from pipeline.predict import engine_cache, engines
from pipeline.predict.engines import ENGINES, choose_engine, multiplications, prepare
from pipeline.predict.memory.machine import give_back
from pipeline.predict.openvino import OpenVINONetwork, installed
from pipeline.predict.predictor import Predictor
from tests.conftest import make_model
from tests.test_predictor import save_tiny

CPU = torch.device("cpu")
WITH_DIMS = [(name, dims) for name, architecture in ARCHITECTURES.items() for dims in architecture.spatial_dims]
CHANNELS_LAST = [(name, dims) for name, dims in WITH_DIMS if dims in ARCHITECTURES[name].channels_last]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    return tmp_path / "cache" / "brain-tumour-segmentation" / "networks"


@pytest.fixture
def openvino() -> None:
    if not installed():
        pytest.skip("openvino is not installed (extra cpu)")


def scrambled(network: nn.Module) -> nn.Module:
    """Statistics that are not 0 and 1, so that a norm which is lost on the way shows."""
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.2, 1.0) if value.ndim < 2 else value.normal_(0, 0.3)
    return network.eval()


def small(architecture: str, dims: int, norm: str = "batch") -> Any:
    torch.manual_seed(0)
    channels = (4, 8, 12, 12, 12)[: ARCHITECTURES[architecture].resolutions or 3]
    return scrambled(build_network(NetworkConfig(architecture, dims, 2, 3, channels, norm)))  # type: ignore[arg-type]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1) if a.any() or b.any() else 1.0


# ------------------------------------------------------------------------------------------------------ agreement


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize(
    ("architecture", "dims", "norm"), [(*pair, n) for pair, n in itertools.product(WITH_DIMS, ("batch", "instance"))]
)
def test_one_conversion_answers_every_size_as_torch_does(architecture: str, dims: int, norm: str) -> None:
    network = small(architecture, dims, norm)
    converted = OpenVINONetwork(network, {"model": "test"})
    for batch, *size in ((1, 32, 32, 16), (2, 21, 40, 17), (1, 5, 9, 7)):
        x = torch.randn(batch, 2, *size[:dims])
        with torch.inference_mode():
            expected, answer = network(x), converted(x)
        assert answer.shape == expected.shape and answer.dtype == torch.float32
        np.testing.assert_allclose(answer, expected, atol=1e-4 * float(expected.abs().max()))
    assert converted.failure == ""


@pytest.mark.parametrize(("architecture", "dims"), CHANNELS_LAST)
def test_another_memory_format_changes_the_order_of_sums_only(architecture: str, dims: int, tiny_model: Path) -> None:
    network, x = small(architecture, dims), torch.randn(2, 2, *(32, 48, 16)[:dims])
    checkpoint = open_checkpoint(tiny_model)
    settings = replace(checkpoint.config.network, architecture=architecture, spatial_dims=dims, channels=(4,) * 5)
    other = Checkpoint(checkpoint.path, "other", {}, {})
    other.__dict__["config"] = checkpoint.config.model_copy(update={"network": settings})
    with torch.no_grad():
        expected = network(x)
        runner = ENGINES["torch"](network, other)
        answer = runner.network(x)
    assert answer.stride()[1] == 1 or answer.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(answer, expected, atol=1e-4 * float(expected.abs().max()))


def thin(case: Case, folder: Path) -> Case:
    """The 40 slices of a patient that hold most of the tumour: a quarter of the work of all."""
    assert case.reference is not None
    tumour = np.asarray(nib.load(case.reference.paths[0]).dataobj) > 0
    middle = int(np.argmax(tumour.sum(axis=(0, 1))))
    sources = {}
    for modality, source in case.images.items():
        sources[modality] = ImageSource((folder / f"{modality}.nii",))
        nib.save(nib.load(source.paths[0]).slicer[..., middle - 20 : middle + 20], sources[modality].paths[0])
    return replace(case, images=sources, reference=None)


@pytest.mark.usefixtures("openvino")
def test_shipped_models_give_the_same_masks_on_real_patients(
    real_patients: Path, real_slices: Path, tmp_path: Path
) -> None:
    cases = {"brats": [thin(discover_cases(real_patients)[0], tmp_path)], "lgg": discover_cases(real_slices)[:1]}
    for checkpoint in shipped_models():
        if checkpoint.name.startswith("lgg-unet-plus-plus"):  # the slowest; its architecture is tried on BraTS
            continue
        predictors = [Predictor(checkpoint, "cpu", engine=name) for name in ENGINES]
        for case in cases[checkpoint.name.partition("-")[0]]:
            one, other = (predictor(case) for predictor in predictors)
            assert (one.engine, other.engine, other.remarks) == ("torch", "openvino", ())
            for region in one.masks:
                assert dice(one.masks[region], other.masks[region]) >= 0.999, (checkpoint.name, region)


# --------------------------------------------------------------------------------------------------------- choice


def test_auto_depends_on_the_model_alone(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr("pipeline.predict.openvino.installed", lambda: True)
    tiny, large = (open_checkpoint(name) for name in (tiny_model, "brats-unet-plus-plus-2d"))
    assert choose_engine("auto", tiny.build(), tiny.config, CPU) == "torch"
    assert choose_engine("auto", large.build(), large.config, CPU) == "openvino"
    assert choose_engine("auto", large.build(), large.config, torch.device("cuda")) == "torch"
    assert choose_engine("torch", large.build(), large.config, CPU) == "torch"
    monkeypatch.setattr("pipeline.predict.openvino.installed", lambda: False)
    assert choose_engine("auto", large.build(), large.config, CPU) == "torch"


def test_an_engine_that_cannot_be_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    tiny = open_checkpoint(tiny_model)
    with pytest.raises(UsageError, match=r"^--engine onnx: no such engine; choose auto, torch, openvino$"):
        Predictor(tiny, "cpu", engine="onnx")
    monkeypatch.setattr("pipeline.predict.openvino.installed", lambda: False)
    with pytest.raises(UsageError, match=r"^--engine openvino: OpenVINO is not installed; .* the extra `cpu`$"):
        Predictor(tiny, "cpu", engine="openvino")
    with pytest.raises(UsageError, match=r"^--engine openvino runs on the CPU, not on cuda:1; add --device cpu"):
        choose_engine("openvino", tiny.build(), tiny.config, torch.device("cuda:1"))


def test_multiplications_are_counted_as_by_hand(tiny_model: Path) -> None:
    class Two(nn.Module):
        """4 to 8 maps by 3 x 3 x 3 at full size, 8 to 2 down by half, 2 to 3 up again by 2 x 2 x 2."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv3d(4, 8, 3, padding=1), nn.Conv3d(8, 2, 2, stride=2), nn.ConvTranspose3d(2, 3, 2, stride=2)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    config = open_checkpoint(tiny_model).config  # 5 mm
    each = 4 * 8 * 27 + 8 * 2 * 8 / 8 + 2 * 3 * 8 / 8
    assert multiplications(Two(), config) == pytest.approx(each * 144 * 176 * 144 / 125)


# --------------------------------------------------------------------------------------------------------- levels


def test_a_level_is_the_nested_network_of_that_depth() -> None:
    name = "brats-unet-plus-plus-2d"
    whole, cut = Predictor(name, "cpu", engine="torch"), Predictor(name, "cpu", engine="torch", level=2)
    x = torch.randn(1, 4, 32, 48)
    nodes = {}
    network = whole.networks[0]
    for key in ("0_2",):
        node: Any = network.nodes[key]
        node.register_forward_hook(lambda m, i, o, key=key: nodes.update({key: o}))
    with torch.inference_mode():
        network(x)
        expected = network.heads["2"](nodes["0_2"])  # type: ignore[union-attr]
        np.testing.assert_allclose(cut.networks[0](x), expected, atol=1e-4)
    assert cut.costs[0].activation_bytes <= whole.costs[0].activation_bytes
    assert multiplications(cut.networks[0], cut.configs[0]) < multiplications(network, whole.configs[0]) / 2


def test_a_level_that_there_is_not_is_refused_in_one_line(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Predictor("brats-unet-plus-plus-2d", "cpu", level=5)
    assert str(caught.value) == (
        "--level 5: brats-unet-plus-plus-2d has no output at level 5; this network has levels 1, 2, 3, 4"
    )
    with pytest.raises(UsageError, match=r"^--level 1: tiny is no UNet\+\+, the one that has levels; leave it out$"):
        Predictor(tiny_model, "cpu", level=1)
    shallow = save_tiny(tmp_path, "shallow", dims=2)  # not trained with deep supervision: the deepest head alone
    assert Predictor(shallow, "cpu", level=1).networks[0].level == 1
    with pytest.raises(UsageError, match="no output at level 2; this network has levels 1"):
        Predictor(shallow, "cpu", level=2)


# ------------------------------------------------------------------------------------------------------ the cache


def sealed(identity: dict[str, str]) -> Path:
    engine_cache.store(identity, "<net/>", np.arange(9, dtype=np.uint8))
    path = engine_cache._path(identity)
    assert path is not None
    return path


def test_a_converted_network_is_kept_and_found_for_the_same_making_only(own_cache: Path) -> None:
    identity = {"model": "a" * 64, "level": "2", "torch": "2"}
    assert engine_cache.load(identity) is None
    path = sealed(identity)
    assert path.parent == own_cache and path.stat().st_mode & 0o777 == 0o600
    found = engine_cache.load(identity)
    assert found is not None and found[0] == "<net/>" and found[1].tolist() == list(range(9))
    for other in ({**identity, "level": "3"}, {**identity, "torch": "3"}, {"model": "a" * 64}):
        assert engine_cache.load(other) is None
        renamed = engine_cache._path(other)
        assert renamed is not None
        renamed.write_bytes(path.read_bytes())  # even under its name
        assert engine_cache.load(other) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_file_is_not_used(damage: str) -> None:
    identity = {"model": "b"}
    path = sealed(identity)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-5]), "empty": b"", "text": b"<net/>"}[damage])
    assert engine_cache.load(identity) is None


def test_what_another_user_may_write_is_not_used() -> None:
    identity = {"model": "c"}
    path = sealed(identity)
    path.chmod(0o666)
    assert engine_cache.load(identity) is None
    path.chmod(0o600)
    assert engine_cache.load(identity) is not None
    path.parent.chmod(0o777)
    assert engine_cache.load(identity) is None


def test_the_cache_keeps_the_newest_and_may_be_unusable(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache, "KEPT", 3)
    for number in range(5):
        sealed({"model": str(number)})
    assert len(list(own_cache.iterdir())) == 3
    for unusable in (own_cache.parent.parent / "file", Path("/proc/nowhere")):
        if unusable.name == "file":
            unusable.write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(unusable))
        engine_cache.store({"model": "x"}, "", np.zeros(1, np.uint8))
        assert engine_cache.load({"model": "x"}) is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/somewhere")
    assert engine_cache.cache_folder() == Path("/somewhere/.cache/brain-tumour-segmentation/networks")


@pytest.mark.usefixtures("openvino")
def test_the_second_conversion_is_read_and_gives_the_same_bytes(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, x = make_model(tmp_path / "m.safetensors"), torch.randn(1, 4, 20, 24, 18)
    first = prepare("openvino", open_checkpoint(path).build(), open_checkpoint(path), CPU)
    monkeypatch.setattr("pipeline.predict.openvino._convert", None)  # calling it would be an error
    second = prepare("openvino", open_checkpoint(path).build(), open_checkpoint(path), CPU)
    assert (first.engine, second.engine) == ("openvino", "openvino") and len(list(own_cache.iterdir())) == 1
    with torch.inference_mode():
        assert torch.equal(first.network(x), second.network(x)) and torch.equal(second.network(x), second.network(x))


# -------------------------------------------------------------------------------------------------------- failing


@pytest.mark.usefixtures("openvino")
def test_a_conversion_that_fails_leaves_torch_and_a_remark(
    tiny_model: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no such\n  operation")

    case = discover_cases(phantoms)[0]
    expected = Predictor(tiny_model, "cpu", engine="torch")(case)
    monkeypatch.setattr("pipeline.predict.openvino._convert", fail)
    result = Predictor(tiny_model, "cpu", engine="openvino")(case)
    assert result.engine == "torch" and result.label_map.tobytes() == expected.label_map.tobytes()
    assert result.remarks == ("openvino could not be used (RuntimeError: no such operation): ran with torch",)


@pytest.mark.usefixtures("openvino")
def test_an_engine_that_fails_in_a_case_leaves_torch_and_a_remark(tiny_model: Path, phantoms: Path) -> None:
    class Broken:
        def __call__(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("gone")

        def release_memory(self) -> None:
            raise RuntimeError("gone")

    case = discover_cases(phantoms)[0]
    predictor = Predictor(tiny_model, "cpu", engine="openvino")
    predictor.networks[0]._compiled = Broken()
    result = predictor(case)
    assert result.remarks == ("openvino could not be used (RuntimeError: gone): ran with torch",)
    assert result.engine == "torch"
    assert result.label_map.tobytes() == Predictor(tiny_model, "cpu", engine="torch")(case).label_map.tobytes()


@pytest.mark.usefixtures("openvino")
def test_what_openvino_keeps_is_given_back_when_memory_is_wanted_and_not_while_it_runs() -> None:
    network = OpenVINONetwork(small("attention_unet", 2), {"model": "x"})
    released = []
    network._compiled = type("Compiled", (), {"release_memory": lambda self: released.append(1)})()
    with network._in_use:
        give_back()
    assert released == []
    give_back()
    assert released == [1]


ELSEWHERE = """
import gc, json, os, signal, sys
import torch
from networks import NetworkConfig, build_network
from pipeline.predict.openvino import OpenVINONetwork
config = NetworkConfig(architecture="attention_unet", spatial_dims=2, in_channels=1, out_channels=1, channels=(2, 4))
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
networks = []
for number in range(4):
    networks.append(OpenVINONetwork(build_network(config).eval(), {"model": str(number)}))
    networks[-1](torch.zeros(1, 1, 16, 16))
    assert not networks[-1].failure
    if number % 2:
        del networks[0]
        gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
networks.clear()
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
try:
    import openvino_telemetry
except ImportError:
    blocked = True
telemetry = [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]
print(json.dumps({"heard": len(heard), "blocked": blocked, "telemetry": telemetry}))
"""


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, Any]:
    """Of a process of its own that uses OpenVINO: signals heard, and what there is of its telemetry."""
    if not installed():
        pytest.skip("openvino is not installed (extra cpu)")
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout)


def test_openvinos_telemetry_is_never_imported(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["blocked"] and elsewhere["telemetry"] == []


def test_a_signal_is_heard_after_models_have_come_and_gone(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["heard"] == 5


def test_every_engine_is_held_to_this_contract() -> None:
    assert set(ENGINES) == {"torch", "openvino"} and engines.PAYS_FROM > 0
