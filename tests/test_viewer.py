"""The interactive view: what the page holds is the patient's image at its place, and only our scripts may run."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re

import nibabel as nib
import numpy as np
import pytest

from data.grid import Grid
from pipeline.report.colours import REGION_COLOURS, rgb
from pipeline.report.viewer import View, script_policy, view_data, viewer_panel, viewer_scripts

AFFINE = np.array([[0.0, -2.0, 0.0, 30.0], [1.5, 0.0, 0.0, -40.0], [0.0, 0.0, 3.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
GRID = Grid((20, 24, 16), AFFINE)


def patient() -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    image = np.zeros(GRID.shape, np.float32)
    image[4:16, 6:20, 3:12] = rng.uniform(50, 900, (12, 14, 9))
    whole, core = np.zeros(GRID.shape, bool), np.zeros(GRID.shape, bool)
    whole[6:12, 8:14, 4:9] = True
    core[7:10, 9:12, 5:8] = True
    return image, {"WT": whole, "ET": core}, {"WT": core, "ET": whole}  # the reference is no nested one


def decode(content: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def test_the_embedded_image_is_the_cropped_one_in_its_own_units_at_its_own_place():
    image, masks, reference = patient()
    data = view_data(View(image, masks, GRID, reference))
    decoded = decode(data.background)
    # The brain is [4:16, 6:20, 3:12]; with a margin of 2 voxels the crop starts at (2, 4, 1).
    assert decoded.shape == (16, 18, 13)
    assert np.allclose(decoded.affine[:3, 3], AFFINE[:3, :3] @ [2, 4, 1] + AFFINE[:3, 3])
    assert np.allclose(decoded.affine[:3, :3], AFFINE[:3, :3])
    assert decoded.get_data_dtype() == np.uint8
    low, high = data.window
    wanted = np.clip(image[2:18, 4:22, 1:14], low, high)
    assert np.abs(decoded.get_fdata() - wanted).max() <= (high - low) / 255 / 2 + 1e-3


def test_every_region_comes_back_whole_even_when_regions_are_not_nested():
    image, masks, reference = patient()
    data = view_data(View(image, masks, GRID, reference))
    for content, wanted in ((data.prediction, masks), (data.reference, reference)):
        values = np.asarray(decode(content).dataobj).astype(int)
        for bit, region in enumerate(data.regions):
            assert np.array_equal(values >> bit & 1 == 1, wanted[region][2:18, 4:22, 1:14])


def test_the_crosshair_starts_in_the_lesion():
    image, masks, _ = patient()
    data = view_data(View(image, masks, GRID))
    voxel = np.linalg.inv(AFFINE) @ [*data.centre_mm, 1]
    assert masks["WT"][tuple(np.rint(voxel[:3]).astype(int))]


def test_without_an_image_and_without_a_lesion_there_is_still_a_view():
    nothing = np.zeros(GRID.shape, bool)
    data = view_data(View(None, {"WT": nothing}, GRID))
    assert decode(data.background).shape == GRID.shape and not decode(data.prediction).get_fdata().any()
    assert data.reference is None


def test_arrays_of_another_shape_and_too_many_regions_are_refused():
    with pytest.raises(ValueError, match="grid of shape"):
        view_data(View(None, {"WT": np.zeros((2, 2, 2), bool)}, GRID))
    with pytest.raises(ValueError, match="at most 8"):
        view_data(View(None, {f"R{i}": np.zeros(GRID.shape, bool) for i in range(9)}, GRID))


def test_the_panel_holds_the_same_files_and_the_regions_colours_as_data_that_run_nothing():
    image, masks, reference = patient()
    view = View(image, masks, GRID, reference)
    panel = viewer_panel(view, '</script><b onclick="x">')
    (kind, payload), *more = re.findall(r"<script(.*?)>(.*?)</script>", panel, re.DOTALL)
    assert not more and 'type="application/json"' in kind and "<b onclick" not in panel
    said, data = json.loads(payload), view_data(view)
    assert base64.b64decode(said["background"]) == data.background
    assert [tuple(colour) for colour in said["colours"]] == [rgb(REGION_COLOURS[region]) for region in ("WT", "ET")]
    assert "Radiological convention" in panel and panel.count('class="region"') == 2 and 'value="reference"' in panel
    assert 'value="reference"' not in viewer_panel(View(image, masks, GRID), "x")
    assert viewer_panel(view, "x") == viewer_panel(view, "x")


def test_only_our_two_scripts_may_run_and_neither_can_close_its_own_element():
    scripts = viewer_scripts()
    policy = script_policy(scripts)
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
        assert "</script" not in script and "<!--" not in script
    assert "unsafe-inline" not in policy and "http" not in policy
    assert "isRadiologicalConvention: true" in scripts[1] and "http" not in scripts[1]
