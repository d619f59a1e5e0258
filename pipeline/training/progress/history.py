"""History of a training run: history.csv, curves.png and TensorBoard event files.

The event files are written where tensorboard is installed.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.io.write import write_bytes_atomically, write_text_atomically
from data.labels import sort_regions
from data.visible import visible
from pipeline.report.colours import REGION_COLOURS
from pipeline.score.tables import csv_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRecord:
    """Measured values at the end of one epoch.

    epoch : from 1; step : optimiser steps since the start of the run; minutes : wall time since then; learning_rate :
    of the epoch's last step; loss : mean over the epoch's steps. The rest is None or NaN, and ``dice`` empty, in an
    epoch without validation; all but ``val_loss`` lie in 0..1. dice : region to Dice of the validation patients;
    lesion_dice : mean Dice of the lesions that are set aside, over their regions; mean_dice : the figure that decides
    which epoch was best, the mean over the regions of ``dice``, or of that and ``lesion_dice`` where there are such
    lesions.

    Raises
    ------
    ValueError
        The epoch is below 1.
    """

    epoch: int
    step: int
    minutes: float
    learning_rate: float
    loss: float
    val_loss: float | None = None
    mean_dice: float | None = None
    tversky_index: float | None = None
    pixel_accuracy: float | None = None
    lesion_dice: float | None = None
    dice: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise ValueError(f"epoch is {self.epoch}, but the first one is 1")


_COUNTS = ("epoch", "step")
_ALWAYS = ("minutes", "learning_rate", "loss")
_VALIDATION = ("val_loss", "mean_dice", "tversky_index", "pixel_accuracy", "lesion_dice")
_COLUMNS = tuple(f.name for f in fields(EpochRecord) if f.name != "dice")
_DICE = "dice_"


def best_epoch(records: Iterable[EpochRecord]) -> int | None:
    """Return the epoch with the highest mean Dice, the earliest of equals.

    None where no epoch was validated.
    """
    measured = [(-r.mean_dice, r.epoch) for r in records if r.mean_dice is not None and math.isfinite(r.mean_dice)]
    return min(measured)[1] if measured else None


def write_history(records: Sequence[EpochRecord], path: Path) -> None:
    """Write history.csv whole or not at all.

    It has a row for each epoch, in the order given.

    Parameters
    ----------
    records : sequence of EpochRecord
        None at all give the header alone.
    path : Path
        In a folder that exists; after an OSError it holds what it held before.

    Notes
    -----
    The columns are the fields of :class:`EpochRecord`, with ``dice_<region>`` for each region. Fractions have six
    significant digits, as in every table: equal runs give files that differ in ``minutes`` alone. A validation value
    that is None or NaN is an empty cell, but a training loss that is NaN is written ``nan``: it was measured.
    """
    regions = _regions(records)
    lines = [csv_line([*_COLUMNS, *(_DICE + region for region in regions)])]
    for record in records:
        measured = [float(getattr(record, name)) for name in _ALWAYS]
        row: list[Any] = [
            *(int(getattr(record, name)) for name in _COUNTS),
            *("nan" if math.isnan(m) else m for m in measured),
        ]
        row += [_cell(getattr(record, name)) for name in _VALIDATION]
        lines.append(csv_line([*row, *(_cell(record.dice.get(region)) for region in regions)]))
    write_text_atomically(path, "".join(lines))


def _cell(value: float | None) -> float | None:
    return None if value is None else float(value)


def _regions(records: Iterable[EpochRecord]) -> list[str]:
    """Return every region that has a Dice in some epoch."""
    return sort_regions(region for record in records for region in record.dice)


_INK, _GREY, _BLUE, _VERMILION = "#000000", "#767676", "#0072B2", "#D55E00"
"""Black, blue and vermilion of Okabe & Ito (2008), as the regions' colours are; grey for what is no measurement."""
_BEST_LINE: dict[str, Any] = {"color": _GREY, "linewidth": 1.0, "linestyle": (0, (4, 3))}


def plot_curves(records: Sequence[EpochRecord], path: Path, title: str) -> None:
    """Write the picture of :func:`curves_figure` as PNG, whole or not at all.

    It has 1200 x 760 pixels.
    """
    picture = io.BytesIO()
    curves_figure(records, title).savefig(picture, format="png", dpi=100, metadata={"Software": None})
    write_bytes_atomically(path, picture.getvalue())


def curves_figure(records: Sequence[EpochRecord], title: str) -> Figure:
    """Draw the curves of a run against the epoch.

    They are loss, Dice, Tversky index, pixel accuracy and learning rate (on a log scale); the best epoch is marked.

    Parameters
    ----------
    records : sequence of EpochRecord
        In any number. What was not measured in an epoch leaves no point, and a line joins its neighbours; a panel
        without any point says so.
    title : str
        Shown as it is, on one line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    shown = visible(title)
    figure.suptitle(shown if len(shown) <= 100 else shown[:97] + "...", fontsize=12, parse_math=False)
    grid = figure.add_gridspec(2, 6, height_ratios=(1.25, 1))
    cells = (grid[0, :3], grid[0, 3:], grid[1, :2], grid[1, 2:4], grid[1, 4:])
    loss, dice, tversky, accuracy, learning_rate = panels = [figure.add_subplot(cell) for cell in cells]
    _draw_loss(loss, records)
    _draw_dice(dice, records)
    _draw_line(tversky, records, [r.tversky_index for r in records])
    tversky.set_ylim(0, 1.02)
    _draw_line(accuracy, records, [r.pixel_accuracy for r in records])
    low, high = accuracy.get_ylim()
    accuracy.set_ylim(top=min(high, 1 + 0.03 * (1 - low)))  # nothing is above 1, but a point at 1 is seen whole
    # A schedule may end at 0, which has no place on a log scale.
    if _draw_line(learning_rate, records, [r.learning_rate if r.learning_rate > 0 else None for r in records]):
        learning_rate.set_yscale("log")
    for axes, name in zip(panels, ("Loss", "Dice", "Tversky index", "Pixel accuracy", "Learning rate"), strict=True):
        axes.set_title(name, loc="left")
        _finish(axes, records)
    return figure


def _draw_loss(axes: Axes, records: Sequence[EpochRecord]) -> None:
    _draw_line(axes, records, [r.loss for r in records], label="training")
    _draw_line(axes, records, [r.val_loss for r in records], label="validation", color=_VERMILION)
    lost = sum(not math.isfinite(r.loss) for r in records)
    if lost:
        text = f"training loss not finite in {lost} of {len(records)} epochs"
        axes.text(0.98, 0.96, text, transform=axes.transAxes, ha="right", va="top", color="#b00020", fontsize=9)


def _draw_dice(axes: Axes, records: Sequence[EpochRecord]) -> None:
    from matplotlib.patheffects import Normal, Stroke

    # Yellow alone would vanish on white.
    outline = [Stroke(linewidth=2.4, foreground="#4d4d4d"), Normal()]
    for region in _regions(records):
        values = [r.dice.get(region) for r in records]
        colour = REGION_COLOURS.get(region, _GREY)
        _draw_line(axes, records, values, label=region, color=colour, markersize=2.5, path_effects=outline)
    _draw_line(axes, records, [r.mean_dice for r in records], label="mean", color=_INK, linewidth=2.0)
    best = best_epoch(records)
    if best is not None:
        height = max(r.mean_dice for r in records if r.epoch == best and r.mean_dice is not None)
        star: dict[str, Any] = {"marker": "*", "markersize": 13, "markerfacecolor": _INK, "markeredgecolor": "white"}
        label = f"best {height:.3f}, epoch {best}"
        axes.plot([best], [height], label=label, zorder=4, **_BEST_LINE, **star)
    axes.set_ylim(0, 1.02)


def _draw_line(
    axes: Axes, records: Sequence[EpochRecord], values: Sequence[float | None], color: str = _BLUE, **style: Any
) -> bool:
    """Draw one curve through the finite values, one for each record.

    False, and nothing drawn, where there is none.
    """
    points = [(r.epoch, v) for r, v in zip(records, values, strict=True) if v is not None and math.isfinite(v)]
    if points:
        style = {"linewidth": 1.6, "marker": "o" if len(points) <= 40 else "", "markersize": 3.5} | style
        axes.plot(*zip(*points, strict=True), color=color, **style)
    return bool(points)


def _finish(axes: Axes, records: Sequence[EpochRecord]) -> None:
    """Finish a panel: frame, axis of epochs, legend, line at the best epoch."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.set_xlabel("epoch")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e2e2e2", linewidth=0.8)
    axes.set_axisbelow(True)
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=_GREY)
        axes.set_yticks([])
    elif axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    labels = axes.get_legend_handles_labels()[1]
    if labels:  # beside the title, where no curve can run into it
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
        place |= {"handlelength": 1.2, "columnspacing": 0.9, "handletextpad": 0.4}
        axes.legend(ncols=len(labels), frameon=False, fontsize=9, **place)
    best = best_epoch(records)
    if best is not None:
        axes.axvline(best, zorder=1.5, **_BEST_LINE)
    first, last = (min(r.epoch for r in records), max(r.epoch for r in records)) if records else (1, 1)
    margin = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def open_tensorboard(folder: Path) -> Callable[[EpochRecord], None]:
    """Return a function that adds an epoch to TensorBoard event files.

    They lie in ``folder``; without tensorboard the function does nothing.

    Each call is on the disk when it returns. The abscissa is the epoch. The file is made at the first call, and hides
    the epochs from that one on that an interrupted run left in the same folder.

    Parameters
    ----------
    folder : Path
        Made at the first call if it is not there.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        log.info("no TensorBoard event files: %s (pip install tensorboard)", error)
        return lambda record: None
    writers: list[Any] = []

    def add(record: EpochRecord) -> None:
        if not writers:
            writers.append(SummaryWriter(log_dir=str(folder), purge_step=record.epoch))
        for tag, value in _scalars(record).items():
            writers[0].add_scalar(tag, value, record.epoch)
        writers[0].flush()

    return add


def _scalars(record: EpochRecord) -> dict[str, float]:
    """Return the record's measured values by TensorBoard tag.

    A slash groups related values.
    """
    values = {"loss/training": record.loss, "learning_rate": record.learning_rate, "loss/validation": record.val_loss}
    values |= {"dice/mean": record.mean_dice} | {f"dice/{region}": value for region, value in record.dice.items()}
    values |= {"tversky_index": record.tversky_index, "pixel_accuracy": record.pixel_accuracy}
    always = ("loss/training", "learning_rate")
    return {tag: float(v) for tag, v in values.items() if v is not None and (tag in always or not math.isnan(v))}
