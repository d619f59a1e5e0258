"""Types of the entries of a model file's header."""

from __future__ import annotations

from typing import Any

from data.labels import LONGEST_SPELLING

LONGEST_NAME = LONGEST_SPELLING
"""Letters of a name in a card: some come into a table or a sentence.

The longest are label conventions of a user's own, which stand there with their whole content; then fingerprints, of
128.
"""


def check_kinds(settings: Any, card: Any) -> None:
    """Check the types of the entries that are used without torch.

    This comes before the settings are checked as a recipe. Raises ValueError, TypeError or KeyError.
    """
    network, window, scores = settings["network"], settings["window"], card.get("scores", {})
    lists = (settings["modalities"], settings["regions"], card.get("held_out", []), window.get("planes", []))
    names = [settings["convention"], network["architecture"], *(name for part in lists for name in part), *scores]
    if settings.get("first") is not None:
        names.append(settings["first"]["recipe"]["network"]["architecture"])
    for cases in card.get("learnt_from", {}).values():
        names += [text for name, prints in cases.items() for text in (name, *prints, *prints.values())]
    for model in (*card.get("parents", ()), *card.get("soup", ())):
        names += model.values()
    remarks = [card.get(key, "") for key in ("trained_on", "licence", "date", "command")]
    if (
        not all(isinstance(part, dict) for part in (settings, network, window, card, scores))
        or not isinstance(settings.get("preprocess", {}), dict)
        or not all(isinstance(part, list) for part in lists)
        or not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in names)
        or not all(isinstance(remark, str) for remark in remarks)
        or not all(_is_number(value) for value in (network["spatial_dims"], *scores.values()))
    ):
        raise ValueError("a part of it is of the wrong kind")


def _is_number(value: Any) -> bool:
    """Tell whether a table can hold a value.

    It is finite, and no whole number beyond any float.
    """
    return type(value) in (int, float) and abs(value) < 1e15
