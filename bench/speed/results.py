"""Page bench/RESULTS.md, from the measurements of bench.speed.yardsticks.

The targets stand beside the figures reached, then all figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.speed import targets
from bench.speed.targets import Comparison

Row = Sequence[object]

NAMES = {
    "one": "ours, one patient, cold",
    "batch": "ours, batch",
    "sliding": "ours, sliding windows",
    "tta": "ours, --tta",
    "a": "(a) plain MONAI",
    "a2": "(a2) plain MONAI, malloc tuned",
    "b": "(b) nnU-Net's predictor, mirroring",
}
MOMENTS = {
    "python": "Python runs",
    "import torch": "torch is asked for",
    "imported torch": "torch is imported",
    "first image opened": "first image is opened, to be hashed",
    "images are read": "images begin to be read",
    "imported monai": "MONAI is imported",
    "network running": "network runs",
    "end": "end",
}
ENGINES = {
    ("floor", "torch"): "PyTorch",
    ("floor2", "torch"): "PyTorch, malloc tuned",
    ("floor", "openvino"): "OpenVINO",
}


def table(head: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def as_page(found: Mapping[str, Any]) -> str:
    """Write the page from the measurements of :func:`bench.speed.yardsticks.bench`."""
    about, models = found["about"], [Comparison(model) for model in found["models"]]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        "# Speed and memory, beside plain MONAI, nnU-Net and the network alone",
        "",
        f"`{about['command']}`, {about['date']}; {about['machine']}, device {about['device']}; {versions}.",
        f"Load of the machine before and after: {about['load_before']:.1f}, {about['load_after']:.1f}. Absolute "
        "figures belong "
        f"to that machine at that time; the ratios are what to read. Medians of {about['rounds']} rounds, in each of "
        "which "
        "all systems take their turn, each in a process of its own. CPU: user and system time of all threads.",
        "",
        "## Targets",
        "",
        *table(
            ["target", "figure", *(model.name for model in models)],
            targets.rows(models, found["start"]),
        ),
        *_skipped(about, models),
    ]
    for model in models:
        lines += _of_model(model)
    return "\n".join(lines).rstrip() + "\n"


def _skipped(about: Mapping[str, Any], models: Sequence[Comparison]) -> list[str]:
    lines = []
    if not about["nnunet"]:
        lines.append("- (b) was left out: --nnunet-python named no environment that has nnunetv2.")
    for model in models:
        for name, reason in model.found["failed"].items():
            lines.append(f"- {model.name}: {NAMES.get(name, name)} failed: {' '.join(reason.split())[-300:]}")
    return [*lines, ""] if lines else []


def _of_model(model: Comparison) -> list[str]:
    network = model.found["network"]
    return [
        f"## {model.name}",
        "",
        f"{network['architecture']}, {network['spatial_dims']}D, channels {'-'.join(map(str, network['channels']))}, "
        f"spacing {model.found['spacing_mm']} mm, window {model.found['window']}; batch of {model.n_batch}, "
        f"yardsticks on {model.n_few}.",
        "",
        *_systems(model),
        *_stages(model),
        *_start(model),
        *_floor(model),
        *_dice(model),
    ]


def _systems(model: Comparison) -> list[str]:
    rows = []
    for name, title in NAMES.items():
        if model.has(name):
            n = model.patients_of(name)
            each = [f"{model.each(name, unit):.2f}" if name in model.EACH else "" for unit in ("wall", "cpu")]
            whole = [f"{model.median(name, unit):.1f}" for unit in ("wall", "cpu")]
            rows.append([title, n, *whole, *each, f"{model.peak_gib(name):.2f}"])
    note = (
        "Each patient: of ours, the batch less the single call, over the patients between; of (a), the mean patient; "
        "of (b), "
        "the call less its start-up, over the patients. Peak: largest resident set of one process."
    )
    head = ["system", "patients", "wall s", "CPU s", "each patient, wall s", "each patient, CPU s", "peak GiB"]
    return [*table(head, rows), note, ""]


def _stages(model: Comparison) -> list[str]:
    ours = model.stages()
    plain = [f"{name.replace('_', ' and ')} {seconds:.2f}" for name, seconds in model.plain_stages().items()]
    said = f"(a): {', '.join(plain)}." if plain else ""
    return [
        *table(["stage of ours, batch", *ours], [["wall s, mean patient", *(f"{s:.2f}" for s in ours.values())]]),
        said,
        "",
    ]


def _start(model: Comparison) -> list[str]:
    moments = {name: model.moment(name) for name in MOMENTS}
    rows = [[MOMENTS[name], f"{at:.2f}"] for name, at in moments.items() if at is not None]
    return table(["one patient, cold, since the call", "wall s"], rows)


def _floor(model: Comparison) -> list[str]:
    rows = []
    for (name, engine), title in ENGINES.items():
        if model.has_floor(name, engine):
            pair = [f"{model.floor(name, engine, unit):.2f}" for unit in ("wall", "cpu")]
            share = [f"{model.floor(name, engine, f'share_of_peak{of}'):.0%}" for of in ("", "_cpu")]
            rows.append([title, *pair, *share])
    if not rows:
        return []
    shapes, gflop, peak = model.floor_shape()
    note = f"Inputs {shapes}: {gflop:.0f} GFLOP in the mean; peak {peak:.0f} GFLOP/s (torch.mm, float32)."
    head = ["(c) network alone, one window", "wall s", "CPU s", "share of the peak", "share of the peak, in CPU time"]
    return [*table(head, rows), note, ""]


def _dice(model: Comparison) -> list[str]:
    found = model.found["agreement"]
    regions: Sequence[str] = next(iter(found["with_reference"].values()), next(iter(found["with_ours"].values()), ()))
    rows = []
    for name in dict.fromkeys([*found["with_reference"], *found["with_ours"]]):
        cells: list[object] = ["ours, batch" if name == "ours" else NAMES[name]]
        for part in ("with_ours", "with_reference"):
            values = found[part].get(name, {})
            for region in regions:
                value = values.get(region)
                cells.append("" if value is None else f"{value if isinstance(value, float) else value[0]:.4f}")
        rows.append(cells)
    head = ["mean Dice", *(f"{r} with ours" for r in regions), *(f"{r} with the reference" for r in regions)]
    note = "The yardsticks do not post-process their masks; ours are post-processed as the model asks for."
    return [*table(head, rows), note, ""]
