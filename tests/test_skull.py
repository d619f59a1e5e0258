"""Networks of deepbet: only the known files are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.errors import UsageError
from transforms import skull


class Harmless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_program_under_the_name_of_deepbets_weights_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in skull.WEIGHTS]
    for path in files:
        torch.jit.script(Harmless()).save(str(path))
    monkeypatch.setattr(skull, "_files", lambda: files)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the file was loaded"))
    skull._networks.cache_clear()
    with pytest.raises(UsageError, match=r"bbox_model.pt: is not the file of deepbet 1.0.2; install deepbet==1.0.2"):
        skull.brain_of_head({"t1": torch.ones(8, 8, 8).numpy()})


def test_the_installed_files_are_the_known_ones() -> None:
    if not skull.is_installed():
        pytest.skip("deepbet is not installed")
    skull._networks.cache_clear()
    assert len(skull._networks()) == 2
