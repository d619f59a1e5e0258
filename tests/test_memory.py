"""Memory: predicted by arithmetic that can be done by hand, found as the system states it, and refused in time."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.errors import InputError
from data.find.discover import discover_cases
from data.grid import Grid
from data.io.read import ImageHeader
from pipeline.config import RunConfig, parse_config
from pipeline.predict.memory import forecast as memory
from pipeline.predict.memory import machine as free_memory
from pipeline.predict.memory.forecast import ModelCost, phases, predicted_bytes
from pipeline.predict.memory.network import activation_bytes_per_voxel
from pipeline.predict.predictor import Predictor

MIB = 2**20


def config(*, dims: int = 3, modalities: int = 4, regions: int = 3, batch: int = 1, flip_axes: tuple[int, ...] = (0, 1),
           **preprocess: object) -> RunConfig:  # fmt: skip
    return parse_config(
        {
            "name": "sized",
            "modalities": ["t1", "t1c", "t2", "flair"][:modalities],
            "regions": ["WT", "TC", "ET"][:regions],
            "convention": "brats2023",
            "network": {
                "architecture": "attention_unet",
                "spatial_dims": dims,
                "in_channels": modalities,
                "out_channels": regions,
                "channels": (4, 8),
            },
            "preprocess": preprocess,
            "window": {"size": (50,) * dims, "batch": batch},
            "augment": {"flip_axes": flip_axes},
            "training": {"patch": (16,) * dims},
        },
        "test",
    )


def header(shape: tuple[int, int, int] = (100, 100, 100), dtype: str = "int16", spacing: float = 1.0) -> ImageHeader:
    grid = Grid(shape, np.diag([spacing, spacing, spacing, 1.0]))
    return ImageHeader(
        path=Path("image.nii.gz"),
        grid=grid,
        dtype=dtype,
        channels=1,
        sform_code=1,
        qform_code=1,
        qform=None,
        xyzt_units=2,
    )


def four(**options: object) -> dict[str, ImageHeader]:
    return {m: header(**options) for m in ("t1", "t1c", "t2", "flair")}  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- the formula


def test_the_phases_are_the_arrays_that_they_hold() -> None:
    """A million voxels, four modalities, three regions, no resampling; activations of 100 bytes a voxel."""
    million, window = 10**6, 50**3
    found = phases(four(), [ModelCost(config(), 100.0)])
    assert found["read"] == 4 * 4 * million + 4 * million  # four float32 images, and one as float32 twice
    assert found["preprocess"] == 4 * million + 16 * million + 24 * million  # background, stack, normalising a channel
    batch = window * 100.0 * memory.ACTIVATION_FACTOR + 2 * 4 * 3 * window
    stitching = 4 * 3 * million + 4 * million + batch
    assert found["network"] == int(4 * million + 16 * million + max(stitching, 3 * 12 * million))
    assert found["restore"] == 4 * million + 12 * million + 2 * 12 * million
    made = million * (4 * 4 + 2 * 3 + 1)  # three probabilities and the background, masks twice, the label map
    assert found["uncertainty"] == made  # of one member there is none
    assert found["writing"] == made + 12 * million
    assert found["picture"] == made + 5 * million + memory.LIBRARY_BYTES
    picture = memory.HEADROOM * found["picture"] + memory.FIXED_BYTES  # the largest
    assert predicted_bytes(four(), [ModelCost(config(), 100.0)]) == int(picture)
    hungry = ModelCost(config(), 10_000.0)
    network = memory.HEADROOM * phases(four(), [hungry])["network"] + memory.FIXED_BYTES
    assert predicted_bytes(four(), [hungry]) == int(network) > 2 * picture


def test_stored_float64_counts_while_it_is_read() -> None:
    cost = ModelCost(config(), 0.0)
    read = phases(four(dtype="float64"), [cost])["read"]
    assert read == 4 * 4 * 10**6 + 8 * 10**6
    one_is_larger = four() | {"t2": header((200, 100, 100))}
    assert phases(one_is_larger, [cost])["read"] == 4 * 5 * 10**6 + 4 * 2 * 10**6


def test_members_are_gathered_with_mean_spread_and_masks() -> None:
    plain, mirrored = (phases(four(), [ModelCost(config(), 0.0)], tta=tta) for tta in (False, True))
    spread = 3 * 10**6 * (8 + 1)  # two float32 and one byte for up to eight members
    # The mirrored copy of the image, the sum of the passes, the spread, and four more temporaries.
    assert mirrored["network"] - plain["network"] == 16 * 10**6 + 12 * 10**6 + spread + 4 * 12 * 10**6
    assert mirrored["uncertainty"] - plain["uncertainty"] == 24 * 10**6 + spread
    assert mirrored["picture"] - plain["picture"] == 12 * 10**6
    unmirrored = config(flip_axes=())
    assert phases(four(), [ModelCost(unmirrored, 0.0)], tta=True)["uncertainty"] == plain["uncertainty"]


def test_a_card_takes_the_windows_off_the_machines_memory() -> None:
    cost = ModelCost(config(dims=2, batch=64), 3000.0)
    assert phases(four(), [cost], on_card=True)["network"] < 10**8 < phases(four(), [cost])["network"]


def test_a_finer_working_grid_takes_more_and_a_known_crop_less() -> None:
    fine = ModelCost(config(spacing_mm=(0.5, 0.5, 0.5)), 100.0)
    whole = predicted_bytes(four(), [fine])
    assert phases(four(), [fine])["network"] > 8 * 16 * 10**6  # eight times the voxels
    assert predicted_bytes(four(), [fine], working=(60, 60, 60)) < whole


@pytest.mark.parametrize("change", ["size", "modalities", "regions", "tta", "batch", "models", "filters", "grids"])
def test_more_of_anything_never_takes_less(change: str) -> None:
    few = {"headers": four(), "models": [ModelCost(config(), 200.0)], "tta": False}
    more: dict[str, dict] = {
        "size": {"headers": four(shape=(110, 100, 100))},
        "modalities": {"models": [ModelCost(config(modalities=4), 200.0)]},
        "regions": {"models": [ModelCost(config(regions=3), 200.0)]},
        "tta": {"tta": True},
        "batch": {"models": [ModelCost(config(batch=4), 200.0)]},
        "models": {"models": [ModelCost(config(), 200.0)] * 2},
        "filters": {"models": [ModelCost(config(blank_air=True, bias_correction=True), 200.0)]},
        "grids": {"headers": four() | {"flair": header((150, 100, 100))}},
    }
    if change in ("modalities", "regions"):
        few["models"] = [ModelCost(config(**{change: 1}), 200.0)]  # type: ignore[arg-type]
    before, after = phases(**few), phases(**{**few, **more[change]})
    assert all(after[phase] >= before[phase] for phase in before) and after != before


def test_a_networks_activations_are_counted_while_they_are_alive() -> None:
    class Two(nn.Module):
        """3D, 4 images, 8 maps, 3 regions; the maps are dropped before the last sum."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv3d(4, 8, 1), nn.Conv3d(8, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.second(self.first(x))
            return x + 1

    # Floats a voxel. First convolution: input 4, and its and the 8 maps' copies in blocks of 16. Second: input and
    # maps, which the call still holds, and blocks of 16 for each side.
    assert activation_bytes_per_voxel(Two(), config()) == 4 * (4 + 8 + 16 + 16)


def test_activations_grow_with_the_width_of_a_real_network() -> None:
    from networks import build_network

    narrow = config()
    wide = parse_config(narrow.model_dump() | {"network": {**vars(narrow.network), "channels": (16, 32)}}, "test")
    sizes = [activation_bytes_per_voxel(build_network(c.network).eval(), c) for c in (narrow, wide)]
    assert 4 * (4 + 3) < sizes[0] < sizes[1]


def test_a_network_that_pads_to_huge_inputs_is_counted_without_taking_them() -> None:
    class Shapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Conv3d(4, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            devices.append(x.device.type)
            return self.only(x)

    devices: list[str] = []
    small = config()
    deep = parse_config(small.model_dump() | {"network": {**vars(small.network), "channels": (4,) * 8}}, "test")
    sizes = [activation_bytes_per_voxel(Shapes(), c) for c in (small, deep)]
    assert devices == ["cpu", "meta"] and sizes[0] == sizes[1] == 4 * (4 + 16 + 16)


@pytest.mark.parametrize("model", ["tiny_model", "tiny_cascade"])
def test_the_peak_of_a_real_case_stays_below_its_prediction(
    model: str, phantoms: Path, request: pytest.FixtureRequest
) -> None:
    """What Python and PyTorch allocate, in this process, seen by the kernel; `python -m bench.timings.memory` does
    large cases."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the kernel does not tell a process its peak")
    predictor, case = Predictor(request.getfixturevalue(model), "cpu", tta=True), discover_cases(phantoms)[0]

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    idle = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    predictor(case)
    assert status("VmHWM") - idle < predictor.predicted_bytes(case)


# ------------------------------------------------------------------------------------------------ what there is


def system(root: Path, available_kib: int, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, cgroups = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal:  99999999 kB\nMemFree:  5 kB\nMemAvailable:   {available_kib} kB\n")
    (proc / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return proc, cgroups


def test_without_control_groups_it_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    assert free_memory.machine_bytes(*system(tmp_path, 2048, "0::/\n", {})) == 2 * MIB
    assert free_memory.machine_bytes(tmp_path / "no", tmp_path / "such") is None


def test_a_control_groups_limit_less_its_use_holds_and_file_cache_does_not_count(tmp_path: Path) -> None:
    files = {
        "box/job/memory.max": "max\n",
        "box/job/memory.current": "1\n",
        "box/memory.max": str(900 * MIB),
        "box/memory.current": str(500 * MIB),
        "box/memory.stat": f"anon 7\ninactive_file {100 * MIB}\nactive_file 9\n",
    }
    proc, cgroups = system(tmp_path, 2**22, "0::/box/job\n", files)
    assert free_memory.machine_bytes(proc, cgroups) == (900 - 500 + 100) * MIB  # of the group above


def test_control_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": "1000\n",
        "memory/a/memory.limit_in_bytes": str(300 * MIB),
        "memory/a/memory.usage_in_bytes": str(350 * MIB),
        "memory/a/memory.stat": f"inactive_file 5\ntotal_inactive_file {10 * MIB}\n",
    }
    proc, cgroups = system(tmp_path, 2**22, "5:devices:/x\n4:cpu,memory:/a\n0::/\n", files)
    assert free_memory.machine_bytes(proc, cgroups) == 0  # more in use than it may


def test_a_container_that_sees_the_hosts_path_is_held_to_the_root(tmp_path: Path) -> None:
    files = {"memory.max": str(64 * MIB), "memory.current": str(4 * MIB)}
    proc, cgroups = system(tmp_path, 2**22, "0::/system.slice/docker-1234.scope\n", files)
    assert free_memory.machine_bytes(proc, cgroups) == 60 * MIB


def test_a_limit_on_the_address_space_holds_less_what_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "statm").write_text("1000 500 3 4 0 5 0\n")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (10**8, resource.RLIM_INFINITY))
    assert free_memory.limit_bytes(tmp_path / "statm") == 10**8 - 1000 * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert free_memory.limit_bytes(tmp_path / "statm") is None


@pytest.mark.parametrize(
    ("workers", "at_start", "now", "wanted"),
    [
        (1, 8000, 6000, 6000),
        (4, 8000, 6000, 2000),  # its share of what was free at the start, though siblings are at work
        (4, 8000, 1500, 1500),  # never more than there is
        (4, 8000, 20000, 5000),  # others have gone
    ],
)
def test_each_of_several_workers_has_its_share(
    monkeypatch: pytest.MonkeyPatch, workers: int, at_start: int, now: int, wanted: int
) -> None:
    monkeypatch.setattr(free_memory, "_workers", 1)
    monkeypatch.setattr(free_memory, "_share_at_start", None)
    monkeypatch.setattr(free_memory, "limit_bytes", lambda: None)
    monkeypatch.setattr(free_memory, "machine_bytes", lambda: at_start)
    free_memory.set_workers(workers)
    monkeypatch.setattr(free_memory, "machine_bytes", lambda: now)
    assert free_memory.available_bytes() == wanted
    monkeypatch.setattr(free_memory, "limit_bytes", lambda: 700)  # its own, shared with nobody
    assert free_memory.available_bytes() == 700


# ----------------------------------------------------------------------------------------------------- refusals


def test_a_case_that_would_not_fit_is_refused_with_its_number_before_a_voxel_is_read(
    tiny_model: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, case = Predictor(tiny_model, "cpu"), discover_cases(phantoms)[0]
    needed = predictor.predicted_bytes(case)
    monkeypatch.setattr("data.io.stream.load_voxels", None)  # reading a voxel would be another error
    monkeypatch.setattr("data.io.read.load_voxels", None)
    monkeypatch.setattr(free_memory, "machine_bytes", lambda: needed - 1)
    monkeypatch.setattr(free_memory, "limit_bytes", lambda: None)
    with pytest.raises(InputError) as caught:
        predictor(case)
    number = f"{needed / 2**30:.2f} GiB"
    assert str(caught.value) == (
        f"{case.folder}: segmenting it takes about {number} of memory, and {number} are left for this process; "
        "free memory, take a machine with more, or resample the images to fewer voxels"
    )
    monkeypatch.setattr(free_memory, "_workers", 3)
    with pytest.raises(InputError, match=r"for this process \(one of 3 processes\); use fewer processes, free memory"):
        memory.require_room("patient", 10 * needed)


def test_where_nothing_can_be_known_no_case_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.require_room("patient", 2**60)


def test_a_case_is_refused_under_a_real_limit_of_the_process(tiny_model: Path, phantoms: Path) -> None:
    predictor, case = Predictor(tiny_model, "cpu"), discover_cases(phantoms)[0]
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 60 * MIB, before[1]))
        with pytest.raises(InputError, match=r"takes about 0\.\d\d GiB of memory, and 0\.0[456] GiB are left"):
            predictor(case)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert predictor(case).label_map.any()
