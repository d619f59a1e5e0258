"""What a person looks at: pictures in radiological convention, a page that runs nothing, colours that everyone can tell apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.grid import Grid
from data.labels import CONVENTIONS, load_convention
from pipeline.report import (
    REGION_COLOURS,
    label_colours,
    largest_lesion_centre,
    write_label_descriptions,
    write_page,
    write_preview,
)

RAS = Grid((40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0]))


def test_the_planes_go_through_the_largest_lesion():
    mask = np.zeros((40, 40, 40), dtype=bool)
    mask[2:4, 2:4, 2:4] = True
    mask[20:27, 10:15, 30:33] = True
    assert largest_lesion_centre(mask) == (23, 12, 31)
    assert largest_lesion_centre(np.zeros((5, 7, 9), dtype=bool)) == (2, 3, 4)


def test_the_centre_lies_in_the_lesion_even_when_that_is_a_ring():
    ring = np.zeros((21, 21, 1), dtype=bool)
    ring[3:18, 3:18] = True
    ring[5:16, 5:16] = False
    assert ring[largest_lesion_centre(ring)]


def coloured(path, colour: str) -> np.ndarray:
    """Pixels (rows, columns) near a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.argwhere(np.abs(pixels - wanted).max(axis=2) < 40)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAL"])
def test_a_lesion_on_the_patients_right_is_shown_on_the_left_whatever_the_axes_are(orientation, tmp_path):
    import nibabel as nib

    grid = RAS.reoriented(orientation)
    background, mask = np.ones((40, 40, 40), np.float32), np.zeros((40, 40, 40), dtype=bool)
    mask[30:36, 18:22, 18:22] = True  # RAS: far along the first axis is the patient's right
    turn = RAS.orientation_to(orientation)
    images = [nib.orientations.apply_orientation(a, turn) for a in (background, mask)]
    write_preview(tmp_path / "p.png", "x", images[0], {"WT": images[1]}, grid)
    height, width = np.asarray(Image.open(tmp_path / "p.png")).shape[:2]
    outline = coloured(tmp_path / "p.png", REGION_COLOURS["WT"])
    outline = outline[outline[:, 0] < 0.88 * height]  # without the legend
    axial = outline[outline[:, 1] < width / 3]
    assert len(axial) and (axial[:, 1] < width / 6).all()


def test_a_single_slice_and_an_empty_mask_give_a_picture_too(tmp_path):
    grid = Grid((30, 20, 1), np.eye(4))
    write_preview(
        tmp_path / "p.png", "$x^2 \n", np.ones((30, 20, 1), np.float32), {"WT": np.zeros((30, 20, 1), bool)}, grid
    )
    assert Image.open(tmp_path / "p.png").size[0] > 100


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_label_of_every_convention_has_a_colour_and_a_line_in_both_files(name, tmp_path):
    convention = load_convention(name)
    assert set(label_colours(convention)) == set(convention.labels)
    write_label_descriptions(tmp_path, convention)
    for file, mark in (("labels.txt", '"'), ("labels.ctbl", " ")):
        lines = [line for line in (tmp_path / file).read_text().splitlines() if not line.startswith("#")]
        assert [int(line.split()[0]) for line in lines] == [0, *convention.labels]
        assert all(mark in line for line in lines)


def test_the_page_is_one_file_that_runs_nothing_and_loads_nothing(tmp_path):
    rows = pd.DataFrame(
        [
            {"case": "<script>alert(1)</script>", "status": "ok", "reason": "", "flags": "a & b", "dice_WT": 0.5},
            {"case": "b", "status": "error", "reason": 'bad "file"', "flags": None, "dice_WT": float("nan")},
        ]
    )
    summary = pd.DataFrame([{"region": "WT", "metric": "dice", "mean": 0.5}])
    write_page(tmp_path / "r.html", "t", rows, summary, {})
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page
    assert "2 patients: 1 ok, 0 warn, 1 error" in page and "a &amp; b" in page and "bad &quot;file&quot;" in page
    assert ">nan<" not in page
    assert "<td>WT</td><td>0.5</td>" in page
