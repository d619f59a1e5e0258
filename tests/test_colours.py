"""One set of colours, which everyone can tell apart: in label files, on the page and in the viewer."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from data.labels import CONVENTIONS, REGIONS, load_convention
from pipeline.report.colours import (
    DARK_STATUS_COLOURS,
    NO_REGION_COLOUR,
    REGION_COLOURS,
    STATUS_COLOURS,
    STATUS_SIGNS,
    label_colours,
    region_colour,
    rgb,
    write_label_descriptions,
)
from pipeline.report.rendering import page_style


def luminance(colour: str) -> float:
    """Relative luminance after WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def seen_by_a_deuteranope(colour: str) -> tuple[float, ...]:
    """Linear RGB after Machado, Oliveira & Fernandes (2009), severity 1.0."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb(colour))]
    rows = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
    return tuple(sum(a * b for a, b in zip(row, linear, strict=True)) for row in rows)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_label_of_every_convention_has_a_colour_and_a_line_in_both_files(name, tmp_path):
    convention = load_convention(name)
    colours = label_colours(convention)
    assert set(colours) == set(convention.labels)
    write_label_descriptions(tmp_path, convention)
    for file, columns in (("labels.txt", slice(1, 4)), ("labels.ctbl", slice(2, 5))):
        lines = [line for line in (tmp_path / file).read_text().splitlines() if not line.startswith("#")]
        assert [int(line.split()[0]) for line in lines] == [0, *convention.labels]
        for line, label in zip(lines[1:], convention.labels, strict=True):
            assert tuple(map(int, line.split()[columns])) == rgb(colours[label])


def test_a_label_has_the_colour_of_the_innermost_region_that_holds_it():
    # brats2017: 4 is the enhancing tumour, 1 the rest of the core, 2 the rest of the whole tumour.
    wanted = {1: REGION_COLOURS["TC"], 2: REGION_COLOURS["WT"], 4: REGION_COLOURS["ET"]}
    assert label_colours(load_convention("brats2017")) == wanted


def test_every_region_has_a_colour_and_a_stranger_is_grey():
    assert set(REGION_COLOURS) == set(REGIONS)
    assert region_colour("XX") == NO_REGION_COLOUR


def test_regions_are_told_apart_without_red_green_vision():
    for one, other in combinations(REGION_COLOURS.values(), 2):
        apart = sum((a - b) ** 2 for a, b in zip(*map(seen_by_a_deuteranope, (one, other)), strict=True)) ** 0.5
        assert apart > 0.15, (one, other)


def test_outlines_stand_out_from_the_black_of_a_picture():
    assert all(contrast(colour, "#000000") > 4.5 for colour in REGION_COLOURS.values())


def test_a_state_is_read_easily_and_has_a_sign_besides_its_colour():
    assert all(contrast(*pair) >= 7 for pair in STATUS_COLOURS.values())
    assert set(STATUS_SIGNS) == set(STATUS_COLOURS) and len(set(STATUS_SIGNS.values())) == 3
    assert all(ink in page_style() and ground in page_style() for ink, ground in STATUS_COLOURS.values())
    assert DARK_STATUS_COLOURS.keys() == STATUS_COLOURS.keys()
    assert all(contrast(*pair) >= 7 for pair in DARK_STATUS_COLOURS.values())


def dark_colours() -> dict[str, str]:
    """Colours of the dark page by name."""
    rules = re.findall(r"@media screen and \(prefers-color-scheme:dark\)\{:root\{(.*?)\}", page_style(), re.DOTALL)
    return dict(re.findall(r"--([a-z-]+):(#[0-9a-fA-F]{6})", "".join(rules)))


@pytest.mark.parametrize("ink", ["ink", "quiet", "soft", "link"])
def test_text_on_the_dark_page_has_the_contrast_of_level_aa_too(ink):
    colours = dark_colours()
    assert min(contrast(colours[ink], colours[ground]) for ground in ("page", "card", "head", "hover")) >= 4.5
    assert contrast(colours["doubt"], colours["doubt-ground"]) >= 7


@pytest.mark.parametrize("ink", ["#1f2933", "#52606d", "#3e4c59", "#0b5394", "#5c3d00"])
def test_text_on_the_page_has_the_contrast_of_level_aa(ink):
    assert ink in page_style()
    assert min(contrast(ink, ground) for ground in ("#ffffff", "#fbfbfa", "#f4f6f7", "#fdf8ec")) >= 4.5
