"""Files that a run leaves: models, tables, curves and its state."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from data.io.write import write_bytes_atomically
from networks import Cascade
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.config import RunConfig
from pipeline.execute.lock import remove_temporary_files
from pipeline.score.tables import write_table
from pipeline.soup import soup_network
from pipeline.training.cube_validation import validate_cubes
from pipeline.training.distributed import Process
from pipeline.training.progress.extension import BEFORE_COOLDOWN, STATE_NAME, enters_cooldown
from pipeline.training.progress.history import EpochRecord, best_epoch, plot_curves, write_history
from pipeline.training.progress.state import save_state
from pipeline.training.progress.trainee import Trainee
from pipeline.training.sampling import PatchDataset
from pipeline.training.sources.cubes import LesionCube
from pipeline.training.validation import Reference, mean_scores, validate, validation_loss

log = logging.getLogger(__name__)

LAST_NAME = "last.safetensors"
MODEL_NAME = "model.safetensors"
LESION_TABLE = "validation_lesions.csv"
KEPT = "kept"
"""Folder of the latest validated checkpoints, for `training.soup`."""
_EPOCH_FILE = re.compile(r"epoch_\d{6,}\.safetensors")


@dataclass(frozen=True)
class Aside:
    """Cases that a run is validated on; nothing by default."""

    patients: Sequence[Reference] = ()
    lesions: Sequence[LesionCube] = ()
    """Set aside, to validate on beside the patients."""
    unchanged: PatchDataset | None = None
    """Of the patients, for the validation loss."""


@dataclass(frozen=True)
class RunFiles:
    """Files and scores of a run, written while the loop runs."""

    output: Path
    config: RunConfig
    identity: Mapping[str, str]
    aside: Aside
    process: Process
    card: Mapping[str, Any]
    tensorboard: Callable[[EpochRecord], None]
    curves: bool
    on_epoch: Callable[[EpochRecord], None]
    first: nn.Module | None = None
    """Of a cascade, whose second network is learning."""
    to_beat: float | None = None
    """Mean Dice of the model that an extended run began with."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of the last validation."""
    lesion_rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model(self) -> Path:
        return self.output / MODEL_NAME

    @property
    def last(self) -> Path:
        return self.output / LAST_NAME

    def _save(self, path: Path, network: nn.Module, card: Mapping[str, Any]) -> None:
        save_checkpoint(path, network if self.first is None else Cascade(self.first, network), self.config, card)

    def validate(self, network: nn.Module) -> dict[str, Any]:
        """Score the file that a user would get, float16 weights and all."""
        with self.process.leader_first():  # the file is there before any process reads it
            if self.process.leads:
                self._save(self.last, network, self.card)
        self.rows[:] = validate(self.last, self.aside.patients, self.process)
        self.lesion_rows[:] = validate_cubes(self.last, self.aside.lesions, self.process) if self.aside.lesions else []
        means = self._means(self.rows, self.lesion_rows)
        if self.aside.unchanged is not None:
            means["val_loss"] = validation_loss(network, self.aside.unchanged, self.config, self.process.device)
        return means

    def _means(self, rows: Sequence[dict[str, Any]], lesion_rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        dice, tversky, accuracy = (
            mean_scores(rows, name, self.config.regions) for name in ("dice", "tversky", "accuracy")
        )
        deciding, lesion_dice = [float(np.mean(list(dice.values())))], None
        if lesion_rows:
            lesion_dice = float(np.mean(list(mean_scores(lesion_rows, "dice", self.config.regions).values())))
            deciding.append(lesion_dice)
        return {
            "dice": dice,
            "lesion_dice": lesion_dice,
            "mean_dice": float(np.mean(deciding)),
            "tversky_index": float(np.mean(list(tversky.values()))),
            "pixel_accuracy": float(np.mean(list(accuracy.values()))),
        }

    def keep(self, trainee: Trainee) -> None:
        """Write the epoch so that a kill loses this one at most.

        The state goes last.
        """
        if not self.process.leads:
            return
        record, network = trainee.records[-1], trainee.average.module.eval()
        card = {**self.card, "scores": {f"dice_{region}": value for region, value in record.dice.items()}}
        self._save(self.last, network, card)
        if not self.aside.patients or self._is_best(trainee.records):
            self._save(self.model, network, card)
            if self.rows:
                write_table(self.output / "validation.csv", pd.DataFrame(self.rows))
            if self.lesion_rows:
                write_table(self.output / LESION_TABLE, pd.DataFrame(self.lesion_rows))
        write_history(trainee.records, self.output / "history.csv")
        if self.curves and (not self.aside.patients or record.mean_dice is not None):
            plot_curves(trainee.records, self.output / "curves.png", self.config.name)
        if self.config.training.soup and record.mean_dice is not None:
            self._keep_for_soup(trainee, card)
        self.tensorboard(record)
        if enters_cooldown(trainee, self.config.training) and (self.output / STATE_NAME).is_file():
            # That of the epoch before, whose rate was still the full one.
            write_bytes_atomically(self.output / BEFORE_COOLDOWN, (self.output / STATE_NAME).read_bytes())
        state = {**self.identity, "score to beat": self.to_beat, "trainee": trainee.state()}
        save_state(self.output / STATE_NAME, state)
        self.on_epoch(record)

    def _is_best(self, records: Sequence[EpochRecord]) -> bool:
        score = records[-1].mean_dice
        best = records[-1].epoch == best_epoch(records)
        return best and (self.to_beat is None or (score is not None and score > self.to_beat))

    def _kept(self, epoch: int) -> Path:
        return self.output / KEPT / f"epoch_{epoch:06d}.safetensors"

    def _soup_epochs(self, records: Sequence[EpochRecord]) -> list[int]:
        return [record.epoch for record in records if record.mean_dice is not None][-self.config.training.soup :]

    def _keep_for_soup(self, trainee: Trainee, card: Mapping[str, Any]) -> None:
        (self.output / KEPT).mkdir(exist_ok=True)
        remove_temporary_files(self.output / KEPT)
        self._save(self._kept(trainee.records[-1].epoch), trainee.average.module, card)
        wanted = {self._kept(epoch) for epoch in self._soup_epochs(trainee.records)}
        for path in set((self.output / KEPT).iterdir()) - wanted:
            if _EPOCH_FILE.fullmatch(path.name):  # a user's copy of one stays
                path.unlink()

    def try_soup(self, trainee: Trainee) -> None:
        """Make the average of the latest validated epochs the model, where it wins.

        It must score better than the best epoch of the run.
        """
        if not self.config.training.soup or not self.aside.patients:
            return
        found = [path for epoch in self._soup_epochs(trainee.records) if (path := self._kept(epoch)).is_file()]
        paths = self.process.from_leader(found)  # who writes them
        if len(paths) < 2:
            return
        parents = [open_checkpoint(path) for path in paths]
        card = {**self.card, "soup": [{"name": parent.name, "sha256": parent.sha256} for parent in parents]}
        is_there = self.process.from_leader(self.model.is_file() and open_checkpoint(self.model).card.get("soup"))
        if is_there == card["soup"]:
            return  # the run was at its end before
        network, soup = soup_network(parents), self.output / KEPT / "soup.safetensors"
        with self.process.leader_first():
            if self.process.leads:
                save_checkpoint(soup, network, self.config, card)
        rows = validate(soup, self.aside.patients, self.process)
        lesion_rows = validate_cubes(soup, self.aside.lesions, self.process) if self.aside.lesions else []
        means = self._means(rows, lesion_rows)
        singles = [*(record.mean_dice for record in trainee.records), self.to_beat]
        best = max((score for score in singles if score is not None and np.isfinite(score)), default=-np.inf)
        log.info("average of %d epochs: Dice %.4f; best single one: %.4f", len(paths), means["mean_dice"], best)
        if means["mean_dice"] > best and self.process.leads:
            scores = {f"dice_{region}": value for region, value in means["dice"].items()}
            save_checkpoint(self.model, network, self.config, {**card, "scores": scores})
            write_table(self.output / "validation.csv", pd.DataFrame(rows))
            if lesion_rows:
                write_table(self.output / LESION_TABLE, pd.DataFrame(lesion_rows))
