"""Figures of one model that the targets are about, and whether each was reached."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

Round = Mapping[str, Any]
CORE = ("read", "preprocess", "network", "restore", "write")
"""Stages up to the mask; the others make the preview, the scores and the report."""


class Comparison:
    """Measurements of bench.speed.yardsticks for one model: medians over its rounds.

    Parameters
    ----------
    found : mapping
        As from :func:`bench.speed.yardsticks.measure`.
    """

    EACH: ClassVar = ("batch", "a", "a2", "b")
    """Systems whose time for one more patient is known."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.found = found
        self.name = str(found["model"])
        self.rounds: list[Round] = found["rounds"]
        self.n_batch, self.n_few = found["counts"]["batch"], found["counts"]["few"]

    def has(self, *names: str) -> bool:
        return any(all(name in one for name in names) for one in self.rounds)

    def over_rounds(self, of: Callable[[Round], float], *names: str) -> float:
        """Median of ``of`` over the rounds in which all the named systems have run."""
        return statistics.median(of(one) for one in self.rounds if all(name in one for name in names))

    def median(self, name: str, unit: str) -> float:
        """Return the median of the whole call.

        ``unit`` is ``"wall"`` or ``"cpu"``.
        """
        return self.over_rounds(lambda one: one[name][unit], name)

    def peak_gib(self, name: str) -> float:
        return max(one[name]["peak_gib"] for one in self.rounds if name in one)

    def patients_of(self, name: str) -> int:
        return {"one": 1, "batch": self.n_batch}.get(name, self.n_few)

    def each(self, name: str, unit: str) -> float:
        """Seconds of one more patient."""
        return self.over_rounds(lambda one: self._each(one, name, unit), name)

    def _each(self, one: Round, name: str, unit: str) -> float:
        if name == "batch":
            return (one[name][unit] - one["one"][unit]) / (self.n_batch - 1)
        if name == "b":
            start_up = one["b"]["result"]["start_up" if unit == "wall" else "start_up_cpu"]
            return (one["b"][unit] - start_up) / self.n_few
        return statistics.mean(case[unit] for case in one[name]["result"]["cases"].values())

    def ratio(self, name: str, unit: str) -> float:
        """Return the ratio of the time of system ``name`` to ours, for the batch.

        Start-up is included; they take turns in each round.
        """

        def of(one: Round) -> float:
            whole = one[name][unit] + (self.n_batch - self.n_few) * self._each(one, name, unit)
            return whole / one["batch"][unit]

        return self.over_rounds(of, name, "batch")

    def ratio_few(self, name: str, ours: str, unit: str) -> float:
        """Return that ratio for the whole calls of both on the same few patients."""
        return self.over_rounds(lambda one: one[name][unit] / one[ours][unit], name, ours)

    def sliding_ratio(self, name: str) -> float:
        """Return the wall ratio against ours in sliding windows.

        Else as :meth:`ratio`; a further patient of that takes the sum of its stages.
        """

        def of(one: Round) -> float:
            further = self.n_batch - self.n_few
            each = sum(statistics.mean(seconds) for seconds in one["sliding"]["stages"].values())
            return (one[name]["wall"] + further * self._each(one, name, "wall")) / (
                one["sliding"]["wall"] + further * each
            )

        return self.over_rounds(of, name, "sliding")

    def stages(self) -> dict[str, float]:
        """Wall seconds of each stage of ours in the batch, of the mean patient."""
        names = dict.fromkeys(name for one in self.rounds for name in one["batch"].get("stages", {}))
        return {
            name: self.over_rounds(lambda one: statistics.mean(one["batch"]["stages"][name]), "batch")  # noqa: B023
            for name in names
        }

    def plain_stages(self) -> dict[str, float]:
        names = ("read_preprocess", "network", "restore_write") if self.has("a") else ()

        def mean(name: str) -> Callable[[Round], float]:
            return lambda one: statistics.mean(case[name] for case in one["a"]["result"]["cases"].values())

        return {name: self.over_rounds(mean(name), "a") for name in names}

    def moment(self, what: str) -> float | None:
        """Wall seconds from the cold call to the moment; None where it did not come."""
        at = [one["one"]["result"][what] for one in self.rounds if what in one["one"]["result"]]
        return statistics.median(at) if at else None

    # The network alone

    def has_floor(self, name: str, engine: str) -> bool:
        return any(
            engine in case for one in self.rounds if name in one for case in one[name]["result"]["cases"].values()
        )

    def floor(self, name: str, engine: str, what: str) -> float:
        """Return the floor of the mean patient.

        ``"wall"`` or ``"cpu"`` seconds, or ``"share_of_peak"``, in wall time, or ``_cpu``.
        """
        return self.over_rounds(
            lambda one: statistics.mean(case[engine][what] for case in one[name]["result"]["cases"].values()), name
        )

    def floors(self, what: str) -> list[float]:
        pairs = (("floor", "torch"), ("floor2", "torch"), ("floor", "openvino"))
        return [self.floor(*pair, what) for pair in pairs if self.has_floor(*pair)]

    def floor_shape(self) -> tuple[str, float, float]:
        """Return shapes of the inputs, 10^9 operations of the mean patient, and the peak.

        The peak of the machine is in 10^9 a second.
        """
        cases = [case for one in self.rounds if "floor" in one for case in one["floor"]["result"]["cases"].values()]
        shapes = ", ".join(dict.fromkeys("x".join(map(str, case["shape"])) for case in cases))
        gflop = statistics.mean(case["gflop"] for case in cases)
        return shapes, gflop, max(case["sgemm_gflops"] for case in cases)

    def worst_dice_loss(self, ours: str, other: str) -> float | None:
        """Return the largest of the regions' losses of ours against ``other``.

        Each is scored against the references; it may be negative.
        """
        scores = self.found["agreement"]["with_reference"]
        if other not in scores or ours not in scores:
            return None
        return max(scores[other][region][0] - scores[ours][region][0] for region in scores[other])


Cell = tuple[str, bool | None]
"""What was reached, and whether that is enough; None where it was not measured."""
MISSING: Cell = ("not measured", None)


def cell_text(cell: Cell) -> str:
    text, reached = cell
    return text if reached is None else f"{text}: {'reached' if reached else '**missed**'}"


def rows(models: Sequence[Comparison], start: Mapping[str, Any]) -> list[list[str]]:
    """Target, figure, and a cell for each model."""
    per_model: list[tuple[str, str, Callable[[Comparison], Cell]]] = [
        ("read, checks, network, restore, write / fastest floor", "<= 1.15", core_over_floor),
        ("the same with preview, report and scores", "<= 1.35", whole_over_floor),
        ("(a) / ours, batch, default window", ">= 15, Dice within .005", lambda m: against_plain(m, "a")),
        ("(a2) / ours, batch, default window", "given", lambda m: against_plain(m, "a2")),
        ("(a) / ours, batch, sliding windows", ">= 4.5, Dice within .002", lambda m: sliding(m, "a")),
        ("(a2) / ours, batch, sliding windows", "given", lambda m: sliding(m, "a2")),
        ("network alone, share of the sgemm peak", ">= 70 %", share_of_peak),
        ("(b) / ours, mirroring", ">= 2", against_nnunet),
        ("peak memory", "<= 3 GB", peak_memory),
        ("network running, cold call", "<= 10 s", network_running),
    ]
    lines = [[title, figure, *(cell_text(of(model)) for model in models)] for title, figure, of in per_model]
    same = [""] * (len(models) - 1)
    for title, limit, key in (("`--help`", 1.5, "help"), ("`inspect`, 1000 patients", 10.0, "inspect")):
        wall = statistics.median(one["wall"] for one in start[key])
        enough = wall <= limit and (key == "help" or not start["inspect_imports_torch"])
        torch = "" if key == "help" else f", torch {'' if start['inspect_imports_torch'] else 'not '}imported"
        lines.append([title, f"<= {limit:g} s", cell_text((f"{wall:.2f} s{torch}", enough)), *same])
    return lines


def core_over_floor(model: Comparison) -> Cell:
    """Return the core's time over the floor.

    Stages that overlap are counted twice in their sum; the time of one more patient, with all stages, is then less.
    """
    floors, stages = model.floors("wall"), model.stages()
    if not floors or not stages:
        return MISSING
    core = min(sum(stages.get(name, 0.0) for name in CORE), model.each("batch", "wall"))
    return f"{core / min(floors):.2f}", core / min(floors) <= 1.15


def whole_over_floor(model: Comparison, name: str = "batch") -> Cell:
    if not model.floors("wall") or not model.has(name):
        return MISSING
    wall, cpu = (model.each(name, unit) / min(model.floors(unit)) for unit in ("wall", "cpu"))
    return f"{wall:.2f} (CPU {cpu:.2f})", wall <= 1.35


def against_plain(model: Comparison, name: str) -> Cell:
    if not model.has(name, "batch"):
        return MISSING
    wall, cpu = (model.ratio(name, unit) for unit in ("wall", "cpu"))
    loss = model.worst_dice_loss("ours", name)
    text = f"{wall:.1f} (CPU {cpu:.1f})" + ("" if loss is None else f", Dice lost at most {loss:.4f}")
    return text, (wall >= 15 and (loss is None or loss <= 0.005)) if name == "a" else None


def sliding(model: Comparison, name: str) -> Cell:
    """Return the ratio in sliding windows.

    It is of its own run where `segment` has --window (its CPU ratio is of the few patients); else the default itself
    slides.
    """
    if model.has(name, "sliding"):
        wall, cpu = model.sliding_ratio(name), model.ratio_few(name, "sliding", "cpu")
        loss = model.worst_dice_loss("sliding", name)
    elif model.has(name, "batch"):
        wall, cpu = (model.ratio(name, unit) for unit in ("wall", "cpu"))
        loss = model.worst_dice_loss("ours", name)
    else:
        return MISSING
    text = f"{wall:.1f} (CPU {cpu:.1f})" + ("" if loss is None else f", Dice lost at most {loss:.4f}")
    return text, (wall >= 4.5 and (loss is None or loss <= 0.002)) if name == "a" else None


def share_of_peak(model: Comparison) -> Cell:
    shares = model.floors("share_of_peak")
    return (f"{max(shares):.0%}", max(shares) >= 0.7) if shares else MISSING


def against_nnunet(model: Comparison) -> Cell:
    if not model.has("b", "tta"):
        return MISSING
    wall, cpu = (model.ratio_few("b", "tta", unit) for unit in ("wall", "cpu"))
    return f"{wall:.1f} (CPU {cpu:.1f})", wall >= 2


def peak_memory(model: Comparison) -> Cell:
    peak_gb = max(model.peak_gib(name) for name in ("one", "batch")) * 2**30 / 1e9
    return f"{peak_gb:.2f} GB", peak_gb <= 3


def network_running(model: Comparison) -> Cell:
    at = model.moment("network running")
    return MISSING if at is None else (f"{at:.1f} s", at <= 10)
