"""Identity of a run: the settings that must not change between its calls."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UsageError
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.config import RunConfig, parse_config
from pipeline.options import TrainOptions
from pipeline.score.tables import read_columns
from pipeline.soup import flat_settings
from pipeline.training.plan import Further
from pipeline.training.progress.extension import BUDGET, STATE_NAME
from pipeline.training.progress.files import LESION_TABLE, MODEL_NAME
from pipeline.training.progress.state import load_state
from pipeline.training.splits import Split
from pipeline.training.validation import mean_scores

log = logging.getLogger(__name__)

LABELS = "label convention"
"""Key of the references' convention, as the user gave it, in the identity of a run."""
RECOGNISED = "recognised"


def run_identity(
    config: RunConfig, split: Split, further: Further, options: TrainOptions, first: Checkpoint | None = None
) -> dict[str, str]:
    """Return the settings that must be the same for a run to go on."""
    names = sorted(name for _, _, found in further for name in found if name not in options.leave_out)
    digest = hashlib.sha256(json.dumps(names).encode("utf-8", "surrogateescape")).hexdigest()
    theirs = [f"{folder.name} {source.convention}" for folder, source, _ in further if source.convention]
    return {
        "recipe": config.model_dump_json(),
        "split": json.dumps(split.as_lists()),
        LABELS: ", ".join([options.convention or RECOGNISED, *theirs]),
        "list of further cases": digest,
    } | ({"first stage": first.sha256} if first else {})


def earlier_state(output: Path, identity: Mapping[str, str], options: TrainOptions) -> dict[str, Any] | None:
    """Return the state to go on from, None without one.

    The state of another run is refused.
    """
    path = output / STATE_NAME
    if (output / "state.pt").is_file() and not path.is_file():
        raise UsageError(f"{output} holds a training run of an earlier version; choose another folder")
    if not path.is_file():
        if options.resume:
            log.info("%s: no state to go on from; starting at the beginning", output)
        return None
    if not options.resume:
        raise UsageError(f"{output} holds a training run; go on with --resume, or choose another folder")
    state = load_state(path)
    theirs, ours = (run.get(LABELS, RECOGNISED) for run in (state, identity))  # states of 0.5 have none
    if theirs != ours:  # before the recipe, whose own convention follows it
        raise UsageError(
            f"{output}: its run has another {LABELS} ({theirs} there, {ours} here); resume with the same --convention "
            "and --extra, or choose another folder"
        )
    _require_same_recipe(recipe_of(state, output), parse_config(json.loads(identity["recipe"]), "recipe"), output)
    for part, value in ((part, value) for part, value in identity.items() if part != LABELS):
        if part != "recipe" and state.get(part) != value:
            raise UsageError(
                f"{output}: its run has another {part}; resume with the same one, or choose another folder"
            )
    return state


def recipe_of(state: Mapping[str, Any], output: Path) -> RunConfig:
    """Return the recipe that a state was trained with.

    Keys that its version did not have are at their defaults.
    """
    try:
        return parse_config(json.loads(state["recipe"]), str(output / STATE_NAME))
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{output / STATE_NAME}: holds no recipe; choose another folder") from None


def _require_same_recipe(theirs: RunConfig, ours: RunConfig, output: Path) -> None:
    """Refuse a recipe that differs in anything but the budget.

    The result would not be one run.
    """
    before, now = (flat_settings(config.model_dump(mode="json")) for config in (theirs, ours))
    for key in sorted(before.keys() | now.keys()):
        if key not in BUDGET and before.get(key) != now.get(key):
            raise UsageError(
                f"{output}: its run has another recipe ({key} is {before.get(key)!r} there, {now.get(key)!r} here); "
                f"resume with the same one (only {' and '.join(BUDGET)} may change), or choose another folder"
            )


def score_of(output: Path, config: RunConfig, *, with_lesions: bool) -> float | None:
    """Return the score by which the model in ``output`` was chosen.

    None where there is no model or it was not validated.
    """
    model, table = output / MODEL_NAME, output / LESION_TABLE
    if not model.is_file():
        return None
    scores = [score for name, score in open_checkpoint(model).card.get("scores", {}).items() if "dice_" in name]
    if not scores:
        return None
    deciding = [float(np.mean(scores))]
    if with_lesions and table.is_file():
        deciding.append(lesion_score(table, config.regions))
    return float(np.mean(deciding))


def lesion_score(table: Path, regions: Sequence[str]) -> float:
    """Return the mean Dice of the lesions in a table of the run.

    Raises :class:`data.errors.UsageError`.
    """
    try:
        names = [f"dice_{region}" for region in regions]
        rows: list[dict[str, float | str]] = [
            {name: cell for name, cell in row.items() if cell}  # blank where a region is not told
            for row in read_columns(table, (), names)
        ]
        scores = list(mean_scores(rows, "dice", regions).values())
        score = float(np.mean(scores)) if scores else math.nan
        if not 0 <= score <= 1:
            raise ValueError("no mean Dice can be taken of it")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{table}: not readable ({' '.join(str(error).split())[:100]}); remove it") from None
    return score
