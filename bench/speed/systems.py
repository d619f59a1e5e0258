"""Systems that bench.speed.yardsticks compares: the command of each measurement."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from bench.speed.nnunet_predictor import job
from bench.speed.own_process import ROOT, TUNED_MALLOC, CommandFailed
from data.find.discover import discover_cases
from data.labels import load_convention
from pipeline.checkpoint import Checkpoint

LARGEST_WINDOW = 128


@dataclass(frozen=True)
class Plan:
    """Measurements to make, and the places of their files."""

    batch: Path
    """Folder of the patients of the batch."""
    few: Path
    """Folder of the first of them, for the yardsticks."""
    one: Path
    """Folder of the first one."""
    scratch: Path
    rounds: int
    device: str
    threads: int | None
    nnunet_python: str | None
    options: tuple[str, ...]
    """Of `segment`, as its --help names them."""


SYSTEMS = ("one", "batch", "tta", "sliding", "a", "a2", "b")
"""Those that write masks."""


def segment_command(plan: Plan, patients: Path, output: Path, model: Checkpoint, *more: str) -> list[str]:
    """Arguments of run_pipeline.py."""
    threads = ["--threads", str(plan.threads)] if plan.threads else []
    command = ["segment", str(patients), "--output", str(output), "--model", str(model.path), "--device", plan.device]
    return [*command, *threads, *more, "--quiet"]


def systems(plan: Plan, model: Checkpoint, number: int) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Yield name, command and environment of every measurement of one round.

    The order is that in which they take turns.

    Masks go to ``plan.scratch / name``, which each round writes anew.
    """
    out = {name: plan.scratch / f"{number}" / name for name in SYSTEMS}
    ours = [sys.executable, "run_pipeline.py"]
    common = ["--model", str(model.path), "--device", plan.device, "--result", "{result}"]
    common += ["--threads", str(plan.threads)] if plan.threads else []
    traced = [sys.executable, "-m", "bench.speed.traced_start", "{result}", str(plan.one)]
    yield "one", [*traced, *segment_command(plan, plan.one, out["one"], model)], {}
    for name, environment in (("a", {}), ("a2", TUNED_MALLOC)):
        command = [sys.executable, "-m", "bench.speed.plain_monai", str(plan.few), str(out[name]), *common]
        yield name, command, environment
    yield "batch", [*ours, *segment_command(plan, plan.batch, out["batch"], model)], {}
    if "--window" in plan.options:
        window = ["--window", str(min(*model.settings["window"]["size"], LARGEST_WINDOW))]
        yield "sliding", [*ours, *segment_command(plan, plan.few, out["sliding"], model, *window)], {}
    for name, environment in (("floor", {}), ("floor2", TUNED_MALLOC)):
        command = [sys.executable, "-m", "bench.speed.floor", str(plan.few), *common]
        yield name, [*command, *["--torch-only"] * (name == "floor2")], environment
    if plan.nnunet_python:
        yield "tta", [*ours, *segment_command(plan, plan.few, out["tta"], model, "--tta")], {}
        yield "b", nnunet_command(plan, model, out["b"]), {}


def nnunet_command(plan: Plan, model: Checkpoint, output: Path) -> list[str]:
    """Return the call of bench.speed.nnunet_predictor; its job lies beside its masks."""
    settings = json.loads(json.dumps(model.settings))
    settings["window"]["size"] = [min(side, LARGEST_WINDOW) for side in settings["window"]["size"]]
    convention = load_convention(settings["convention"])
    labels = {region: sorted(labels) for region, labels in convention.regions.items()}
    monai = util.find_spec("monai")
    if monai is None or monai.origin is None:
        raise CommandFailed("monai is not installed here")
    shown = plan.scratch / "monai-alone"
    if not shown.exists():  # nothing else of this environment: nnU-Net's has its own
        shown.mkdir()
        (shown / "monai").symlink_to(Path(monai.origin).parent)
    cases = discover_cases(plan.few)
    files = {case.case_id: [str(case.images[m].paths[0]) for m in settings["modalities"]] for case in cases}
    output.mkdir(parents=True)
    about = job(settings, labels, dict(convention.written_as)) | {
        "weights": str(model.path.resolve()),
        "files": files,
        "output": str(output),
        "path": [str(ROOT), str(shown)],
        "mirror": True,
        "device": plan.device,
    }
    path = output / "job"
    path.write_text(json.dumps(about))
    return [str(plan.nnunet_python), str(ROOT / "bench" / "speed" / "nnunet_predictor.py"), str(path), "{result}"]
