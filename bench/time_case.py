"""Where the time of one case goes, and the same model under plain MONAI, side by side in one run.

    python -m bench.time_case PATIENTS [--runs N] [--model NAME ...]

Writes bench/RESULTS.md. The whole-process figures come from `run_pipeline.py segment` on one patient; the stages are that run's own.
The yardstick is the same network under monai.inferers.sliding_window_inference on the whole, uncropped volume: LoadImaged,
EnsureChannelFirstd, ConcatItemsd, Orientationd, Spacingd, NormalizeIntensityd, windows of the checkpoint's size, overlap and weighting.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from monai.inferers import SliceInferer, sliding_window_inference
from monai.transforms import (
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
)

from data.case import Case, discover_cases
from pipeline.case_task import metadata_version
from pipeline.checkpoint import Checkpoint, open_checkpoint, shipped_models
from pipeline.predictor import Predictor
from transforms.augment import slices_as_channels

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("read", "preprocess", "network", "restore", "write", "metrics", "preview")


def segment_in_own_process(case: Case, model: Checkpoint, scratch: Path) -> dict[str, float]:
    """Wall and CPU seconds of a whole `segment` call on one patient, its peak memory in GiB, and its stages."""
    output = scratch / "out"
    command = [
        sys.executable,
        "run_pipeline.py",
        "segment",
        str(case.folder.parent),
        "--cases",
        case.case_id,
        "--output",
        str(output),
    ]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*command, "--model", model.name, "--quiet"], cwd=ROOT, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    stages = next(iter(json.loads((output / "run.json").read_text())["cases"].values()))["stages"]
    shutil.rmtree(output)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "peak_gib": after.ru_maxrss / 2**20, **stages}


def plain_monai(case: Case, predictor: Predictor) -> dict[str, float]:
    """Wall seconds of reading with preprocessing, and of the network, with MONAI's own transforms and no crop."""
    (config,), (network,) = predictor.configs, predictor.networks
    files = {m: str(case.images[m].paths[0]) for m in config.modalities}
    chain = Compose(
        [
            LoadImaged(config.modalities),
            EnsureChannelFirstd(config.modalities),
            ConcatItemsd(config.modalities, name="image"),
            Orientationd("image", axcodes=config.preprocess.orientation, labels=None),
            Spacingd("image", pixdim=[s or -1.0 for s in config.preprocess.spacing_mm]),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    start = time.perf_counter()
    image = chain(files)["image"].as_tensor()[None]
    read = time.perf_counter() - start
    window, start = config.window, time.perf_counter()
    with torch.inference_mode():
        if config.network.spatial_dims == 2:
            infer = SliceInferer(
                roi_size=window.size, spatial_dim=2, sw_batch_size=window.batch, overlap=window.overlap, mode="gaussian"
            )
            infer(slices_as_channels(image, window.context), network)
        else:
            sliding_window_inference(image, window.size, window.batch, network, overlap=window.overlap, mode="gaussian")
    return {"monai_read_preprocess": read, "monai_network": time.perf_counter() - start}


def bench(patients: Path, models: list[Checkpoint], runs: int) -> str:
    """The page, as Markdown."""
    case = next(c for c in discover_cases(patients) if {"t1", "t1c", "t2", "flair"} <= set(c.images))
    lines = [
        "# Time and memory of one case",
        "",
        f"`python -m bench.time_case PATIENTS --runs {runs}`: one patient with four modalities, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, monai {metadata_version('monai')}. Seconds; median of {runs} runs, "
        "ours and MONAI's in turn. Absolute figures belong to this machine at that time; the ratios are what to read.",
    ]
    for model in models:
        predictor = Predictor(model, "cpu")
        with tempfile.TemporaryDirectory() as scratch:
            samples = [
                segment_in_own_process(case, model, Path(scratch)) | plain_monai(case, predictor) for _ in range(runs)
            ]
        median = {key: statistics.median(s[key] for s in samples) for key in samples[0]}
        ratio = statistics.median(s["monai_network"] / s["network"] for s in samples)
        loading = statistics.median(s["monai_read_preprocess"] / (s["read"] + s["preprocess"]) for s in samples)
        lines += ["", f"## {model.name}", "", "| stage | wall s |", "|---|---|"]
        lines += [f"| {stage} | {median[stage]:.2f} |" for stage in STAGES]
        lines += [
            f"| whole `segment` call, imports included | {median['wall']:.2f} |",
            "",
            f"Whole call: {median['cpu']:.1f} s of CPU, peak memory {max(s['peak_gib'] for s in samples):.2f} GiB.",
            f"Plain MONAI, uncropped: read and preprocess {median['monai_read_preprocess']:.2f} s ({loading:.1f} times ours), "
            f"network {median['monai_network']:.2f} s ({ratio:.1f} times ours).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", nargs="*", default=[])
    arguments = parser.parse_args()
    four = [model for model in shipped_models() if set(model.settings["modalities"]) == {"t1", "t1c", "t2", "flair"}]
    models = [open_checkpoint(name) for name in arguments.model] or four
    (ROOT / "bench" / "RESULTS.md").write_text(bench(arguments.patients, models, arguments.runs), encoding="utf-8")


if __name__ == "__main__":
    main()
