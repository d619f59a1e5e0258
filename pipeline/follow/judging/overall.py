"""Category of a visit as a whole: both regions, steroids and clinical state."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.follow.judging.side import Side

_BETTER = ("CR", "PR", "MR")


def combine(sides: Sequence[Side]) -> tuple[str, str]:
    """Return the category of one region or of two, and a note.

    PD + any = PD; SD + SD = SD; CR + CR = CR; CR, PR or MR on one side and PR, MR or SD on the other = the better of
    PR and MR. CR + SD is told two ways in the literature: NE.
    """
    categories = [side.category for side in sides]
    if len(sides) == 1:
        return categories[0], ""
    if "PD" in categories:
        return "PD", ""
    if set(categories) == {"CR", "SD"}:
        return "NE", "CR beside SD is told two ways (PR or MR; SD): no category of both"
    if len(set(categories)) == 1:
        return categories[0], ""
    return next(category for category in ("PR", "MR") if category in categories), ""


def with_clinic(
    category: str, dose: float | None, dose_at_baseline: float | None, state: str | None
) -> tuple[str, str, list[str]]:
    """Return the overall category, words about it, and the facts that lack.

    The overall category is empty where it is not computable: steroids or clinical state are not given. PD needs
    neither. A rise of steroids alone makes neither PD nor SD: NE.
    """
    if state == "worse":
        return "PD", "clinical state worse due to tumour", []
    if category in ("PD", "NE"):
        return category, "", []
    lacking = []
    if dose is None or (dose_at_baseline is None and (category != "CR" or dose > 0)):
        lacking.append("steroids" if dose is None else "steroids at the baseline")
    if state is None:
        lacking.append("clinical state")
    if lacking or dose is None:
        return "", f"{' and '.join(lacking)} not given: category of the images alone", lacking
    if category == "CR" and dose == 0:
        return "CR", "", []
    if dose_at_baseline is not None and dose > dose_at_baseline:
        return (
            "NE",
            f"steroids rose from {dose_at_baseline:g} to {dose:g} mg a day: neither SD nor PD, watch",
            [],
        )
    if category == "CR":
        return "PR", f"steroids {dose:g} mg a day: CR asks for none", []
    return category, "", []
