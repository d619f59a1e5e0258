"""A patient's picture: radiological convention, prediction solid, reference dashed, a small file."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from data.grid import Grid
from pipeline.report.colours import REGION_COLOURS, rgb
from pipeline.report.preview import largest_lesion_centre, printable, write_preview

RAS = Grid((40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0]))


def box(*slices) -> np.ndarray:
    mask = np.zeros(RAS.shape, dtype=bool)
    mask[tuple(slice(*s) for s in slices)] = True
    return mask


def coloured(path, colour: str, above_legend: bool = True) -> np.ndarray:
    """Pixels (rows, columns) near a colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found = np.argwhere(np.abs(pixels - np.array(rgb(colour))).max(axis=2) < 40)
    return found[found[:, 0] < 0.88 * pixels.shape[0]] if above_legend else found


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


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAL"])
def test_a_lesion_on_the_patients_right_is_shown_on_the_left_whatever_the_axes_are(orientation, tmp_path):
    background, mask = np.ones(RAS.shape, np.float32), box((30, 36), (18, 22), (18, 22))  # RAS: far along x is right
    turn = RAS.orientation_to(orientation)
    images = [nib.orientations.apply_orientation(a, turn) for a in (background, mask)]
    write_preview(tmp_path / "p.png", "x", images[0], {"WT": images[1]}, RAS.reoriented(orientation))
    width = Image.open(tmp_path / "p.png").size[0]
    outline = coloured(tmp_path / "p.png", REGION_COLOURS["WT"])
    axial = outline[outline[:, 1] < width / 3]
    assert len(axial) and (axial[:, 1] < width / 6).all()


def test_a_single_slice_and_an_empty_mask_give_a_picture_too(tmp_path):
    grid = Grid((30, 20, 1), np.eye(4))
    empty = np.zeros((30, 20, 1), bool)
    write_preview(tmp_path / "p.png", "$x^2 \n", np.ones((30, 20, 1), np.float32), {"WT": empty}, grid)
    assert Image.open(tmp_path / "p.png").size[0] > 100
    write_preview(tmp_path / "q.png", "one voxel", None, {}, Grid((1, 1, 1), np.eye(4)))
    assert Image.open(tmp_path / "q.png").size[0] > 100


@pytest.mark.parametrize("background", [None, np.ones(RAS.shape, np.float32)], ids=["no image", "an image"])
def test_a_reference_is_outlined_with_gaps_where_a_prediction_is_whole(background, tmp_path):
    lesion = box((10, 30), (10, 30), (10, 30))
    nothing = np.zeros_like(lesion)
    write_preview(tmp_path / "solid.png", "x", background, {"ET": lesion}, RAS)
    write_preview(tmp_path / "dashed.png", "x", background, {"ET": nothing}, RAS, {"ET": lesion})
    solid, dashed = (len(coloured(tmp_path / f"{n}.png", REGION_COLOURS["ET"])) for n in ("solid", "dashed"))
    assert 0.35 * solid < dashed < 0.8 * solid


def test_a_reference_moves_the_planes_only_when_nothing_was_predicted(tmp_path):
    low, high = box((5, 9), (5, 9), (5, 9)), box((30, 34), (30, 34), (30, 34))
    # The planes go through the prediction alone: the reference, elsewhere, is not cut by them.
    write_preview(tmp_path / "p.png", "x", None, {"WT": low}, RAS, {"ET": high})
    assert not len(coloured(tmp_path / "p.png", REGION_COLOURS["ET"]))
    write_preview(tmp_path / "q.png", "x", None, {"WT": low & high}, RAS, {"ET": high})
    assert len(coloured(tmp_path / "q.png", REGION_COLOURS["ET"]))


def test_each_region_of_the_legend_has_its_very_colour_and_the_bytes_are_the_same_again(tmp_path):
    masks = {region: box((10, 14), (10, 14), (10, 14)) for region in REGION_COLOURS}
    for name in "ab":
        write_preview(tmp_path / name, "x", np.ones(RAS.shape, np.float32), masks, RAS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    image = Image.open(tmp_path / "a")
    assert image.mode == "P"
    present = {pixel[1] for pixel in image.convert("RGB").getcolors(1 << 20)}
    assert {rgb(colour) for colour in REGION_COLOURS.values()} <= present


def test_a_picture_of_noise_as_large_as_a_brats_case_stays_small(tmp_path):
    noise = np.random.default_rng(0).normal(100, 20, (140, 170, 140)).astype(np.float32)
    mask = np.zeros(noise.shape, bool)
    mask[40:80, 50:90, 60:90] = True
    write_preview(tmp_path / "p.png", "x", noise, {"WT": mask}, Grid(noise.shape, np.eye(4)))
    assert (tmp_path / "p.png").stat().st_size < 260_000  # noise is the worst case: a brain takes 90 kB


def test_a_title_is_one_short_line_without_formulas():
    assert printable("a\nb$c\u202e") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}"
    assert len(printable("x" * 500)) == 80
