"""What a training run leaves behind: a table, curves that show what was measured, event files."""

from __future__ import annotations

import csv
import logging
import math
import os
import struct
import sys
import types
import warnings
from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.report.colours import REGION_COLOURS
from pipeline.training.progress.history import (
    EpochRecord,
    best_epoch,
    curves_figure,
    open_tensorboard,
    plot_curves,
    write_history,
)
from tests.conftest import read_history

PANELS = ["Loss", "Dice", "Tversky index", "Pixel accuracy", "Learning rate"]


def record(epoch: int, **values) -> EpochRecord:
    return EpochRecord(
        **{"epoch": epoch, "step": 10 * epoch, "minutes": 0.5, "learning_rate": 0.1, "loss": 1.0} | values
    )


def validated(epoch: int, mean: float) -> EpochRecord:
    dice = {"WT": mean + 0.1, "TC": mean - 0.1}
    return record(epoch, val_loss=1.2, mean_dice=mean, tversky_index=mean, pixel_accuracy=0.99, dice=dice)


def panel(figure, title: str):
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def curve(figure, title: str, label: str | None = None):
    """Epochs and heights of a panel's only curve, or of the one with this label."""
    lines = [line for line in panel(figure, title).lines if line.get_linestyle() == "-"]
    (line,) = [line for line in lines if label is None or line.get_label() == label]
    return list(line.get_xdata()), list(line.get_ydata())


# --- history.csv -----------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_row_and_what_was_not_measured_is_an_empty_cell(tmp_path):
    first = EpochRecord(1, 20, 0.25, 0.1, 1.5)
    second = EpochRecord(2, 40, 0.5, 0.05, 1.25, 1.75, 0.5, math.nan, 0.99, 0.625, {"ET": 0.25, "WT": 0.75})
    write_history([first, second], tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,step,minutes,learning_rate,loss,val_loss,mean_dice,tversky_index,pixel_accuracy,lesion_dice,"
        "dice_WT,dice_ET\n"
        "1,20,0.25,0.1,1.5,,,,,,,\n"
        "2,40,0.5,0.05,1.25,1.75,0.5,,0.99,0.625,0.75,0.25\n"
    )


measured = st.floats(allow_nan=False)
scores = st.none() | measured
records_strategy = st.lists(
    st.builds(
        EpochRecord,
        epoch=st.integers(1, 10**6),
        step=st.integers(0, 10**9),
        minutes=measured,
        learning_rate=measured,
        loss=measured,
        val_loss=scores,
        mean_dice=scores,
        tversky_index=scores,
        pixel_accuracy=scores,
        lesion_dice=scores,
        dice=st.dictionaries(st.sampled_from(["WT", "TC", "ET", "RC", 'a "b", c', "d\r\ne"]), measured),
    ),
    max_size=4,
)


def six_digits(value: float) -> float:
    if not math.isfinite(value) or value == int(value):
        return value
    return float(Context(prec=6, rounding=ROUND_HALF_EVEN, Emin=-999999).create_decimal(Decimal(value)))


def bits(records) -> list:
    """Every number, with six digits of a fraction, as its eight bytes: -0.0 is not 0.0 then."""
    return [
        [r.epoch, r.step]
        + [
            None if value is None else struct.pack("<d", six_digits(value))
            for value in (
                r.minutes,
                r.learning_rate,
                r.loss,
                r.val_loss,
                r.mean_dice,
                r.tversky_index,
                r.pixel_accuracy,
                r.lesion_dice,
            )
        ]
        + [{region: struct.pack("<d", six_digits(value)) for region, value in r.dice.items()}]
        for r in records
    ]


@given(records=records_strategy)
def test_reading_gives_back_six_digits_of_every_fraction_and_whole_numbers_to_the_bit(records, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    write_history(records, path)
    assert bits(read_history(path)) == bits(records)


def test_a_nan_of_validation_reads_as_not_measured_and_one_of_the_training_loss_stays_nan(tmp_path):
    diverged = record(3, loss=math.nan, val_loss=math.nan, mean_dice=math.nan, dice={"WT": math.nan, "TC": None})
    write_history([diverged], tmp_path / "h.csv")
    (back,) = read_history(tmp_path / "h.csv")
    assert math.isnan(back.loss)
    assert back.val_loss is None and back.mean_dice is None and back.dice == {}


def test_scalars_of_numpy_are_written_as_plain_numbers(tmp_path):
    write_history(
        [record(np.int64(2), loss=np.float32(1) / np.float32(3), mean_dice=np.float64(0.1))], tmp_path / "h.csv"
    )
    (row,) = csv.DictReader((tmp_path / "h.csv").open(newline=""))
    assert (row["epoch"], row["loss"], row["mean_dice"]) == ("2", "0.333333", "0.1")


def test_an_interrupted_writing_leaves_the_older_files_and_nothing_else(tmp_path, monkeypatch):
    table, picture = tmp_path / "history.csv", tmp_path / "curves.png"
    table.write_text("older")
    picture.write_text("older")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_history([record(1)], table)
    with pytest.raises(OSError, match="disk full"):
        plot_curves([record(1)], picture, "x")
    assert table.read_text() == picture.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "history.csv"]


def test_an_epoch_below_one_is_refused():
    with pytest.raises(ValueError, match="epoch is 0"):
        record(0)


# --- the best epoch --------------------------------------------------------------------------------------------------


def test_the_best_epoch_has_the_highest_mean_dice_and_the_earliest_of_equals():
    records = [record(1), validated(2, 0.5), validated(3, 0.7), validated(4, 0.7), record(5, mean_dice=math.nan)]
    assert best_epoch(records) == 3


def test_without_validation_no_epoch_is_the_best():
    assert best_epoch([record(1), record(2, mean_dice=math.nan)]) is None
    assert best_epoch([]) is None


# --- curves.png ------------------------------------------------------------------------------------------------------


def test_each_panel_shows_its_own_values_at_the_epochs_where_they_were_measured():
    records = [record(1, loss=3.0), validated(2, 0.5), record(3, loss=2.0, learning_rate=0.01), validated(4, 0.75)]
    figure = curves_figure(records, "x")
    assert [axes.get_title(loc="left") for axes in figure.axes] == PANELS
    assert curve(figure, "Loss", "training") == ([1, 2, 3, 4], [3.0, 1.0, 2.0, 1.0])
    assert curve(figure, "Loss", "validation") == ([2, 4], [1.2, 1.2])
    assert curve(figure, "Dice", "mean") == ([2, 4], [0.5, 0.75])
    assert curve(figure, "Dice", "WT") == ([2, 4], [0.6, 0.85])
    assert curve(figure, "Dice", "TC") == ([2, 4], [0.4, 0.65])
    assert curve(figure, "Tversky index") == ([2, 4], [0.5, 0.75])
    assert curve(figure, "Pixel accuracy") == ([2, 4], [0.99, 0.99])
    assert curve(figure, "Learning rate") == ([1, 2, 3, 4], [0.1, 0.1, 0.01, 0.1])
    assert panel(figure, "Learning rate").get_yscale() == "log"


def test_the_best_epoch_is_marked_in_every_panel_and_named_once():
    figure = curves_figure([validated(1, 0.25), validated(2, 0.75), validated(3, 0.5)], "x")
    for title in PANELS:
        marks = [line for line in panel(figure, title).lines if list(line.get_xdata()) == [2, 2]]
        assert len(marks) == 1, title
    legend = [text.get_text() for text in panel(figure, "Dice").get_legend().get_texts()]
    assert legend == ["WT", "TC", "mean", "best 0.750, epoch 2"]


def test_the_picture_is_1200_pixels_wide_and_has_each_regions_colour(tmp_path):
    dice = dict.fromkeys(REGION_COLOURS, 0.5)
    records = [
        record(e, mean_dice=0.5, dice={region: 0.2 * (i + 1) for i, region in enumerate(dice)}) for e in range(1, 9)
    ]
    plot_curves(records, tmp_path / "curves.png", "x")
    picture = Image.open(tmp_path / "curves.png")
    assert (picture.format, picture.size) == ("PNG", (1200, 760))
    pixels = np.asarray(picture.convert("RGB")).astype(int)[:380, 600:]  # the upper right panel
    for region, colour in REGION_COLOURS.items():
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(axis=2) < 8).sum() > 100, region


def test_nothing_drawn_lies_outside_the_picture_or_runs_into_another_text():
    dice = dict.fromkeys(REGION_COLOURS, 0.8)
    figure = curves_figure([record(e, val_loss=0.1, mean_dice=0.1, dice=dice) for e in range(1, 2000, 50)], "x" * 500)
    figure.canvas.draw()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1200 and box.y1 <= 760
        if axes.get_legend() is not None:
            assert axes._left_title.get_window_extent().x1 < axes.get_legend().get_window_extent().x0
    title = figure._suptitle.get_window_extent()
    assert title.x0 >= 0 and title.x1 <= 1200


@pytest.mark.parametrize(
    ("records", "empty"),
    [
        ([], PANELS),
        ([record(1)], ["Dice", "Tversky index", "Pixel accuracy"]),
        ([record(1), record(2)], ["Dice", "Tversky index", "Pixel accuracy"]),
        ([validated(1, 0.5)], []),
        ([record(1, loss=math.nan, mean_dice=math.nan, dice={"WT": math.nan})], PANELS[:4]),
        ([record(1, loss=math.inf, learning_rate=0.0, val_loss=math.inf)], PANELS),
    ],
)
def test_a_panel_without_a_value_says_so_and_the_others_are_drawn(records, empty, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_curves(records, tmp_path / "curves.png", "x")
        figure = curves_figure(records, "x")
    assert Image.open(tmp_path / "curves.png").size == (1200, 760)
    saying = [t for t in PANELS if any(text.get_text() == "not measured" for text in panel(figure, t).texts)]
    assert saying == empty


def test_a_loss_that_was_not_finite_is_told():
    figure = curves_figure([record(1), record(2, loss=math.nan), record(3, loss=math.inf)], "x")
    assert "training loss not finite in 2 of 3 epochs" in [text.get_text() for text in panel(figure, "Loss").texts]


def test_a_single_epoch_has_a_single_whole_number_on_its_axis():
    figure = curves_figure([validated(1, 0.5)], "x")
    figure.canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_high_pixel_accuracies_are_labelled_in_full():
    figure = curves_figure([record(e, pixel_accuracy=0.99980 + 1e-5 * e) for e in range(1, 5)], "x")
    figure.canvas.draw()
    axis = panel(figure, "Pixel accuracy").yaxis
    assert axis.get_offset_text().get_text() == ""
    assert any(label.get_text().startswith("0.9998") for label in axis.get_ticklabels())


def test_a_title_is_shown_as_it_is_on_one_line(tmp_path):
    plot_curves([record(1)], tmp_path / "curves.png", r"$\broken{ a_b" + "\n\udcff")
    assert curves_figure([], "fold_1 $x$\n").get_suptitle() == "fold_1 $x$\N{REPLACEMENT CHARACTER}"


def test_drawing_opens_no_window_and_changes_no_setting(tmp_path):
    import matplotlib
    import matplotlib.pyplot as plt

    settings, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    plot_curves([validated(1, 0.5)], tmp_path / "curves.png", "x")
    assert plt.get_fignums() == open_figures and dict(matplotlib.rcParams) == settings


def test_the_same_records_give_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plot_curves([validated(1, 0.5), validated(2, 0.6)], tmp_path / name, "x")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# --- TensorBoard -----------------------------------------------------------------------------------------------------


class Writer:
    """Stands for SummaryWriter: notes what it is asked for."""

    made: list[Writer] = []

    def __init__(self, log_dir, purge_step):
        self.log_dir, self.purge_step, self.scalars, self.on_disk = log_dir, purge_step, [], 0
        Writer.made.append(self)

    def add_scalar(self, tag, value, step):
        assert isinstance(tag, str) and type(value) is float
        self.scalars.append((tag, value, step))

    def flush(self):
        self.on_disk = len(self.scalars)


@pytest.fixture
def fake_tensorboard(monkeypatch):
    monkeypatch.setattr(Writer, "made", [])
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer.made


def test_tensorboard_gets_what_was_measured_against_the_epoch_and_has_it_on_disk_at_once(fake_tensorboard, tmp_path):
    add = open_tensorboard(tmp_path)
    add(record(7, loss=math.nan, mean_dice=math.nan, dice={"WT": np.float64(0.5), "TC": None, "ET": math.nan}))
    (writer,) = fake_tensorboard
    assert writer.log_dir == str(tmp_path) and writer.on_disk == len(writer.scalars)
    scalars = {tag: value for tag, value, _ in writer.scalars}
    assert math.isnan(scalars.pop("loss/training"))
    assert scalars == {"learning_rate": 0.1, "dice/WT": 0.5}
    add(validated(8, 0.5))
    assert len(fake_tensorboard) == 1
    assert {tag: value for tag, value, step in writer.scalars if step == 8} == {
        "loss/training": 1.0,
        "loss/validation": 1.2,
        "learning_rate": 0.1,
        "dice/mean": 0.5,
        "dice/WT": 0.6,
        "dice/TC": 0.4,
        "tversky_index": 0.5,
        "pixel_accuracy": 0.99,
    }


def test_a_resumed_run_hides_the_epochs_that_it_repeats(fake_tensorboard, tmp_path):
    open_tensorboard(tmp_path)(record(41))
    assert [writer.purge_step for writer in fake_tensorboard] == [41]


def test_without_tensorboard_nothing_is_written_and_one_line_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO, logger="pipeline.training.progress.history"):
        add = open_tensorboard(tmp_path / "events")
        add(record(1))
        add(record(2))
    assert [entry.levelno for entry in caplog.records] == [logging.INFO]
    assert "tensorboard" in caplog.text
    assert not (tmp_path / "events").exists()


def test_the_event_files_of_an_interrupted_run_and_its_resumption_read_back_as_one(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = open_tensorboard(tmp_path)
    for epoch in (1, 2, 3):
        first(record(epoch, loss=0.5 * epoch, dice={"WT": 0.25 * epoch}))
    # The names of event files order by seconds; the second must not sort before the first.
    (made,) = tmp_path.iterdir()
    made.rename(made.with_name(made.name.replace("tfevents.", "tfevents.0")))
    open_tensorboard(tmp_path)(record(3, loss=8.0))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/training")] == [(1, 0.5), (2, 1.0), (3, 8.0)]
    assert [(e.step, e.value) for e in events.Scalars("dice/WT")] == [(1, 0.25), (2, 0.5)]
