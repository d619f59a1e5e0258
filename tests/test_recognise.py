"""Choosing a label convention: names first, values second, the set's other patients third, and a tie refused."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from data.case import Case, ImageSource
from data.errors import ConventionError, InputError
from data.find.naming import load_layouts
from data.find.recognise import ConventionChoice, choose_conventions

Values = Collection[float] | None | Exception


def choose(
    layout: str, *patients: Values, fallback: str | None = None, override: str | None = None
) -> list[ConventionChoice]:
    """One patient for each set of reference values (None: no reference; an exception: unreadable)."""
    values = {Path(f"/{number}"): labels for number, labels in enumerate(patients)}
    cases = [
        Case(
            case_id=str(number),
            folder=path,
            layout=layout,
            layout_reason="",
            images={},
            reference=None if labels is None else ImageSource((path,)),
            conventions=load_layouts()[layout].conventions,
        )
        for number, (path, labels) in enumerate(values.items())
    ]

    def read_labels(source: ImageSource) -> Collection[float]:
        labels = values[source.paths[0]]
        if isinstance(labels, Exception):
            raise labels
        assert labels is not None
        return labels

    chosen = choose_conventions(cases, override=override, fallback=fallback, read_labels=read_labels)
    return [chosen[case.case_id] for case in cases]


def names(choices: list[ConventionChoice]) -> list[str | None]:
    assert all((choice.name is None) == (choice.error is not None) and choice.reason for choice in choices)
    return [choice.name for choice in choices]


@pytest.mark.parametrize("layout", [name for name, layout in load_layouts().items() if len(layout.conventions) == 1])
def test_naming_that_admits_one_convention_decides_without_reading_a_mask(layout: str) -> None:
    (choice,) = choose(layout, AssertionError("the mask was read"))
    assert choice.name == load_layouts()[layout].conventions[0] and not choice.error


@pytest.mark.parametrize(
    ("layout", "values", "expected"),
    [
        ("generic", {0, 1, 2, 4}, "brats2017"),
        ("generic-slices", {0, 255}, "lgg"),
        ("generic", {0.0, 1.0, 2.0, 4.0}, "brats2017"),
        ("brats2023", {1, 2, 3}, "brats2023"),
        ("brats2023", {1, 2, 3, 4}, "brats2024-gli"),
        ("brats2023", {1, 2, 4}, "brats2024-gli"),
        ("brats2023", {0}, "brats2023"),
        ("brats2023", None, "brats2023"),
        ("brats2023-ped", {2, 4}, "brats2024-ped"),
        ("nnunet", {1, 2, 3}, "nnunet-brats"),
        ("nnunet", {1, 4}, "nnunet-brats"),
    ],
)
def test_values_decide_among_what_the_naming_admits(layout: str, values: Values, expected: str) -> None:
    assert names(choose(layout, values)) == [expected]


@pytest.mark.parametrize(
    ("layout", "values"),
    [("generic", {1, 2, 3}), ("generic", {1, 2, 3, 4}), ("brats2023-ped", {1, 2, 3})],
)
def test_a_tie_is_refused_whatever_the_model_would_like(layout: str, values: Values) -> None:
    (choice,) = choose(layout, values, fallback="brats2023")
    assert (
        choice.name is None
        and choice.error
        and "--convention" in choice.error
        and "brats2024-ped" in choice.error
        or "msd" in str(choice.error)
    )


def test_the_sets_other_patients_decide_where_a_patients_own_values_do_not() -> None:
    assert names(choose("generic", {1, 2}, {1, 2, 4}, None)) == ["brats2017"] * 3
    assert names(choose("generic", {1, 2}, {4, 2})) == ["brats2017"] * 2
    assert names(choose("brats2023", {1, 2, 3}, {3, 4}, None)) == ["brats2024-gli"] * 3
    assert names(choose("brats2023-ped", {1, 2, 3}, {4})) == ["brats2024-ped"] * 2


def test_references_of_zeros_and_ones_are_the_whole_tumour_unless_a_sibling_shows_more() -> None:
    assert names(choose("generic", {1}, {0, 1}, None)) == ["whole-tumour"] * 3
    assert names(choose("generic", {1}, {1, 2, 4})) == ["brats2017"] * 2
    assert names(choose("generic", {1}, {1, 2})) == [None, None]


def test_other_patients_do_not_outweigh_a_patients_own_values() -> None:
    assert names(choose("generic", {1, 2, 3}, {1, 2, 4})) == [None, "brats2017"]


def test_other_patients_that_disagree_decide_nothing() -> None:
    assert names(choose("generic", {255}, {1, 2, 4}, None, fallback="brats2023")) == ["lgg", "brats2017", None]


def test_without_reference_and_evidence_the_models_own_is_taken_and_without_that_nothing() -> None:
    assert names(choose("generic", None, {0}, InputError("broken"), fallback="brats2023")) == ["brats2023"] * 3
    assert names(choose("generic", None)) == [None]
    assert names(choose("brats2023-ped", None, fallback="brats2024-ped")) == ["brats2024-ped"]
    assert names(choose("brats2023-ped", None, fallback="brats2017")) == [None]


def test_an_override_is_taken_always_and_no_mask_is_read() -> None:
    (choice,) = choose("brats2021", AssertionError("the mask was read"), override="msd")
    assert choice.name == "msd" and "--convention" in choice.reason
    with pytest.raises(ConventionError, match="brats2017"):
        choose("brats2021", None, override="nonsense")


@pytest.mark.parametrize(
    ("values", "expected"), [({1, 2, 3, 7}, "brats2023"), ({1, -1, 1.5}, "brats2023"), ({4, 7}, "brats2024-gli")]
)
def test_values_that_no_convention_knows_are_warned_of_and_set_aside(values: Values, expected: str) -> None:
    (choice,) = choose("brats2023", values)
    assert choice.name == expected and "not be scored" in choice.warnings[0]


def test_values_that_no_single_convention_holds_are_no_evidence() -> None:
    (choice,) = choose("generic", {1, 255}, fallback="brats2023")
    assert choice.name == "brats2023" and "255" in choice.warnings[0]


def test_nan_in_a_mask_is_no_crash() -> None:
    (choice,) = choose("brats2023", {1, float("nan")})
    assert choice.name == "brats2023" and "nan" in choice.warnings[0]


def test_no_cases_give_no_choices() -> None:
    assert choose("generic") == []
