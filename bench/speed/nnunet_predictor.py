"""Second yardstick: nnU-Net v2's nnUNetPredictor, end to end.

Network and weights are the same.

    NNUNET_PYTHON bench/speed/nnunet_predictor.py JOB RESULT

NNUNET_PYTHON is the Python of an environment that has nnunetv2, JOB a JSON file that bench.speed.yardsticks writes
(:func:`job`), RESULT one that this writes. nnU-Net reads, crops, normalises and resamples by its own preprocessor, runs
its own windows (tile step 0.5, Gaussian weights, mirroring along the model's axes), and writes by its own export, with
the numbers of processes that its command line takes by default. Runs as a file, since that environment has nothing of
ours; of MONAI, which our networks are built from, it sees that one package.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PROCESSES = 3
"""Of preprocessing and of export, as `nnUNetv2_predict` takes by default; no more than there are CPUs."""


def job(settings: dict[str, Any], labels: dict[str, list[int]], written_as: dict[str, int]) -> dict[str, Any]:
    """nnU-Net's plans and dataset.json of one of our models.

    Parameters
    ----------
    settings : dict
        A checkpoint's, whose window is that of the plain yardstick.
    labels, written_as : dict
        Of the label convention: the labels of each region, and the one that its own voxels are written as.
    """
    dims, context = settings["network"]["spatial_dims"], settings["window"].get("context", 0)
    channels = range(len(settings["modalities"]))
    # The reader gives the axes of RAS as (S, A, R). Ours is (R, A, S); nnU-Net's slices lie along the first axis.
    transpose = [2, 1, 0] if dims == 3 else [0, 2, 1]
    spacing = [settings["preprocess"]["spacing_mm"][2 - axis] for axis in transpose]
    resampling: dict[str, Any] = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "ours",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "patch_size": list(settings["window"]["size"]),
        "median_image_size_in_voxels": [],
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization" for _ in channels],
        "use_mask_for_norm": [True for _ in channels],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "batch_dice": False,
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    plans = {
        "dataset_name": "ours",
        "plans_name": "ours",
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": transpose,
        "transpose_backward": [transpose.index(axis) for axis in range(3)],
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in channels},
        "label_manager": "LabelManager",
        "configurations": {"ours": configuration},
    }
    dataset = {
        "channel_names": {str(index): name for index, name in enumerate(settings["modalities"])},
        "labels": {"background": 0} | {region: labels[region] for region in settings["regions"]},
        "regions_class_order": [written_as[region] for region in settings["regions"]],
        "file_ending": ".nii.gz",
    }
    return {
        "network": dict(settings["network"]),
        "plans": plans,
        "dataset": dataset,
        "context": context,
        "mirror_axes": sorted(set(settings["augment"]["flip_axes"])),
    }


def _predictor(settings: dict[str, Any]) -> Any:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from safetensors.torch import load_file

    from networks import NetworkConfig, build_network

    class WithNeighbours(nnUNetPredictor):
        """Predictor for 2.5D networks.

        The slices beside each one become channels before nnU-Net's windows are cut.
        """

        def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
            if context := settings["context"]:
                at, last = torch.arange(data.shape[1]), data.shape[1] - 1
                shifted = [data[:, (at + k).clamp(0, last)] for k in range(-context, context + 1)]
                data = torch.stack(shifted, dim=1).flatten(0, 1)
            return super().predict_logits_from_preprocessed_data(data)

    network = build_network(NetworkConfig(**settings["network"]))
    weights = load_file(settings["weights"])
    own = network.state_dict()
    weights = {name: weight.to(own[name].dtype) for name, weight in weights.items()}
    plans = PlansManager(settings["plans"])
    predictor = WithNeighbours(0.5, True, settings["mirror"], device=torch.device(settings["device"]), allow_tqdm=False)
    axes = tuple(settings["mirror_axes"]) or None
    configuration = plans.get_configuration("ours")
    predictor.manual_initialization(network, plans, configuration, [weights], settings["dataset"], "ours", axes)
    return predictor


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    # Not this file's folder, whose modules would stand before those of Python with the same names.
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)] + settings["path"]
    started = float(os.environ.get("BENCH_STARTED", time.monotonic()))
    predictor = _predictor(settings)
    start_up, start_up_cpu = time.monotonic() - started, time.process_time()
    processes = min(PROCESSES, os.cpu_count() or 1)
    predictor.predict_from_files(
        list(settings["files"].values()),
        [str(Path(settings["output"]) / case) for case in settings["files"]],
        num_processes_preprocessing=processes,
        num_processes_segmentation_export=processes,
    )
    from importlib.metadata import version

    versions = {name: version(name) for name in ("nnunetv2", "torch")}
    found = {"start_up": start_up, "start_up_cpu": start_up_cpu, "processes": processes, "versions": versions}
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
