"""The type of the products: by the recipe, the device and what the CPU can do."""

from __future__ import annotations

import pytest
import torch

from pipeline import precision
from pipeline.config import TrainingConfig
from pipeline.precision import product_type


@pytest.mark.parametrize(
    ("device", "settings", "tiles", "expected"),
    [
        ("cuda", {}, False, torch.float16),
        ("cuda", {"cpu_precision": "float32"}, False, torch.float16),
        ("cuda", {"mixed_precision": False}, False, None),
        ("cpu", {}, True, torch.bfloat16),
        ("cpu", {}, False, None),
        ("cpu", {"cpu_precision": "float32"}, True, None),
        ("cpu", {"cpu_precision": "bfloat16"}, False, torch.bfloat16),
        ("cpu", {"mixed_precision": False, "cpu_precision": "bfloat16"}, True, None),
        ("mps", {}, True, None),
    ],
)
def test_products_are_as_the_recipe_says_and_by_itself_bfloat16_only_where_the_cpu_has_tiles(
    device, settings, tiles, expected, monkeypatch
):
    monkeypatch.setattr(precision, "has_bfloat16_tiles", lambda: tiles)
    assert product_type(TrainingConfig(patch=(8, 8), **settings), torch.device(device)) == expected
