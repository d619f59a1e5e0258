"""The table of ingredients: every variant is a recipe, and differs from the plain one in its ingredient alone."""

from __future__ import annotations

import pandas as pd
import pytest

from bench.ingredients import INGREDIENTS, KINDS, as_markdown, variant
from pipeline.config import parse_config
from pipeline.training.sources.kinds import SOURCES


@pytest.mark.parametrize("name", INGREDIENTS)
def test_every_variant_is_a_recipe_for_as_many_steps(name):
    config = parse_config(variant("brats_attention_unet_2d", INGREDIENTS[name], 2500, 3), name)
    training = config.training
    assert training.epochs * training.steps_per_epoch == 2500 and training.validate_every == training.epochs
    assert training.seed == 3 and training.stopping.minutes is None
    assert set(training.sampling.extra_weights) == {KINDS[folder] for folder in INGREDIENTS[name].extra}


def test_the_kinds_are_those_that_training_knows():
    assert set(KINDS.values()) <= set(SOURCES)


def test_transplanting_and_the_further_share_are_off_unless_they_are_the_ingredient():
    plain = parse_config(variant("brats_attention_unet_2d_1mm", INGREDIENTS["patients alone"], 100, 0), "plain")
    assert plain.augment.transplant == 0 and plain.training.sampling.extra_share == 0
    given = parse_config(variant("brats_attention_unet_2d_1mm", INGREDIENTS["cubes, transplanting"], 100, 0), "given")
    assert given.augment.transplant == 0.5 and given.training.sampling.extra_share == 0.4


def test_the_table_has_a_line_for_each_run():
    rows = pd.DataFrame([{"ingredient": "cubes", "seed": 1, "WT": 0.5, "lesions ET": 0.25, "CPU minutes": 12.4}])
    assert as_markdown(rows).splitlines() == [
        "| ingredient | seed | WT | lesions ET | CPU minutes |",
        "|---|---|---|---|---|",
        "| cubes | 1 | 0.500 | 0.250 | 12 |",
    ]
