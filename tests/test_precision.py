"""The type of the products: by the recipe, the device and what it can do."""

from __future__ import annotations

import pytest
import torch

from pipeline.config import TrainingConfig
from pipeline.training import precision
from pipeline.training.precision import product_type


@pytest.mark.parametrize(
    ("device", "settings", "has_it", "expected"),
    [
        ("cuda", {}, True, torch.bfloat16),
        ("cuda", {}, False, torch.float16),
        ("cuda", {"cpu_precision": "float32"}, True, torch.bfloat16),
        ("cuda", {"mixed_precision": False}, True, None),
        ("cpu", {}, True, torch.bfloat16),
        ("cpu", {}, False, None),
        ("cpu", {"cpu_precision": "float32"}, True, None),
        ("cpu", {"cpu_precision": "bfloat16"}, False, torch.bfloat16),
        ("cpu", {"mixed_precision": False, "cpu_precision": "bfloat16"}, True, None),
        ("mps", {}, True, None),
    ],
)
def test_products_are_as_the_recipe_says_and_by_themselves_bfloat16_only_where_the_device_has_it(
    device, settings, has_it, expected, monkeypatch
):
    monkeypatch.setattr(precision, "has_bfloat16_tiles", lambda: has_it)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    assert product_type(TrainingConfig(patch=(8, 8), **settings), torch.device(device)) == expected
