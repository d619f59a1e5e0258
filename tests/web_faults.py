"""Stand-ins for what the web app's computing process runs: quick results, and every way to misbehave, by the case's
name."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from data.io.read import read_label_map, write_label_map
from data.labels import load_convention
from pipeline.score.quality import quality_flags
from pipeline.web.compute.checks import case_of
from pipeline.web.compute.follow import follow_visits
from pipeline.web.compute.perform import OUTPUT, VIEW, finished
from pipeline.web.compute.results import Outcome, describe


def job(request: dict[str, Any], emit: Any) -> Any:
    """What is asked for in the name: die, exit, hang, eat, raise, slow, late; else the reference as a result, or
    the follow-up that is asked for."""
    if request["do"] == "warm":
        return None
    wish = request["case"]["name"].partition(" ")[0]
    if wish == "late":  # as one that loads its model first
        emit("read", 0.0)
        time.sleep(2)
        emit("preprocess", 0.05)
        time.sleep(0.3)
        emit("network", 0.5)
        time.sleep(1.5)
    emit("network", 0.25)
    if wish == "die":
        os.kill(os.getpid(), 9)
    if wish == "exit":
        os._exit(7)
    if wish == "hang":
        time.sleep(600)
    if wish == "eat":
        hoard = []
        while True:
            hoard.append(b"\1" * 2**28)
    if wish == "raise":
        raise ValueError("a secret path /root/of/the/server")
    if wish == "slow":
        time.sleep(float(request["case"]["name"].split()[1]))
    if request["do"] == "follow":
        return follow_visits(request, emit)
    Path("order").write_text(str(time.time()))
    return reference_as_result(request)


def reference_as_result(request: dict[str, Any]) -> Any:
    """The answer of a job whose mask is the uploaded reference."""
    case = case_of(request["case"])
    assert case.reference is not None
    mask = OUTPUT / "patient" / "patient_seg.nii.gz"
    mask.parent.mkdir(parents=True, exist_ok=True)
    volume = read_label_map(case.reference, max_voxels=request["max_voxels"])
    if len(case.reference.paths) == 1:
        shutil.copyfile(case.reference.paths[0], mask)
    else:  # slices
        write_label_map(mask, volume.array.astype(np.uint8), volume.header)
    convention = load_convention(request["case"]["convention"] or "brats2023")
    flags = [] if volume.grid.spacing_known else quality_flags(convention.region_masks(volume.array), volume.grid)[-1:]
    row = {"status": "ok", "reason": "", "flags": "; ".join(flags), "model": "none", "convention": convention.name}
    row["seconds"] = 0.1
    outcome = Outcome(mask, row, [], [], case.images, case.reference)
    return finished(describe(outcome, VIEW, request["max_voxels"]), mask)
