"""Average of the weights of several models of one architecture.

It is called a "soup", and is as good as an ensemble at one model's cost.

References
----------
.. [1] M. Wortsman et al., "Model soups", ICML 2022, arXiv:2203.05482.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import torch

from data.errors import CheckpointError
from pipeline.provenance import with_parent

if TYPE_CHECKING:
    from torch import nn

    from pipeline.checkpoint import Checkpoint


NOT_COMPUTED = ("name", "training", "augment")
"""Keys of a recipe that say how weights were found; all others say what is computed with them."""


def average_weights(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Take the mean of every floating-point tensor, running statistics included.

    Counters are those of the first.
    """
    first = states[0]
    return {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in first.items()
    }


def soup_network(models: Sequence[Checkpoint]) -> nn.Module:
    """Build the network of the averaged weights, in ``eval`` mode.

    Raises
    ------
    data.errors.CheckpointError
        There are fewer than two models, one cannot be read, or two of them do not compute the same.
    """
    if len(models) < 2:
        raise CheckpointError(f"{len(models)} model cannot be averaged; name two or more")
    for other in models[1:]:
        _require_same_computation(models[0], other)
    network, *others = [model.build() for model in models]
    network.load_state_dict(average_weights([network.state_dict(), *(other.state_dict() for other in others)]))
    return network.eval()


def soup_card(models: Sequence[Checkpoint], command: str = "") -> dict[str, Any]:
    """Describe an average by its parents, each with name and SHA-256.

    It has no scores, since it has not been measured.

    Held out of it are those alone that every parent has held out.
    """
    cards = [model.card for model in models]
    card: dict[str, Any] = {
        "trained_on": _joined(card.get("trained_on", "") for card in cards),
        "held_out": [
            name for name in cards[0].get("held_out", []) if all(name in c.get("held_out", []) for c in cards)
        ],
        "scores": {},
        "licence": _joined(card.get("licence", "") for card in cards),
        "date": date.today().isoformat(),
        "command": command,
    }
    for model in models:  # with whom each has learnt from
        card = with_parent(card, model)
    return card


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _require_same_computation(first: Checkpoint, other: Checkpoint) -> None:
    ours, theirs = (_computed(model) for model in (first, other))
    for key in ours:
        if ours[key] != theirs[key]:
            raise CheckpointError(
                f"{other.path}: its {key} is {_short(theirs[key])}, but that of {first.path} is {_short(ours[key])}; "
                "average models of one recipe alone"
            )


def _computed(model: Checkpoint) -> dict[str, Any]:
    """List all settings that decide an answer, by their dotted names."""
    config = model.config
    settings = {key: value for key, value in config.model_dump(mode="json").items() if key not in NOT_COMPUTED}
    # Of the augmentation, what --tta mirrors and whether a modality may be left out.
    flips = {"augment.flip_axes": sorted(config.augment.flip_axes), "missing_modalities": config.missing_modalities}
    return flat_settings(settings) | flips


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, as ``network.channels``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
