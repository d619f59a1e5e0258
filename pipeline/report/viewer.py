"""Interactive view of a patient in the page: NiiVue, fed from the page itself.

The images are NIfTI inside the page; nothing is fetched from anywhere.

NiiVue 0.68 comes with nilearn (``nilearn/_assets/js/niivue.umd.js``, BSD-2-Clause). It is 2.3 MB, and a BraTS patient
about 2 MB more, so the page holds it only for the patients that are asked for.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.errors import UsageError
from data.grid import Grid
from data.labels import Mask
from pipeline.report.colours import region_colour, rgb
from pipeline.report.preview import largest_lesion_centre
from pipeline.report.rendering import read_asset, render
from transforms.postprocess import bounding_box


@dataclass(frozen=True, eq=False)
class View:
    """Images and masks shown of one patient.

    Parameters
    ----------
    background : (d1, d2, d3) or None
        On ``grid``, like the masks; 0 is taken for outside. None shows the masks on black.
    masks : region -> (d1, d2, d3) bool
        The prediction, the outermost region first; at most 8.
    grid : Grid
    reference_masks : region -> (d1, d2, d3) bool, optional
    name : str
        Of the prediction; its system's where there are others.
    others : name -> region -> (d1, d2, d3) bool
        Predictions of other systems.
    """

    background: NDArray[Any] | None
    masks: Mapping[str, Mask]
    grid: Grid
    reference_masks: Mapping[str, Mask] | None = None
    name: str = "prediction"
    others: Mapping[str, Mapping[str, Mask]] = field(default_factory=dict)


@dataclass(frozen=True)
class ViewData:
    """View as the page holds it: three NIfTI files (gzip) and their description.

    background is uint8 with slope and intercept, so that it reads back in the image's own units; in ``prediction`` and
    ``reference`` bit i of a voxel says that it lies in ``regions[i]``. centre_mm : where the crosshair starts (RAS+).
    """

    background: bytes
    prediction: bytes
    reference: bytes | None
    regions: tuple[str, ...]
    centre_mm: tuple[float, float, float]
    window: tuple[float, float]
    others: Sequence[bytes] = ()
    """Predictions of other systems, in the order of :attr:`View.others`."""


def view_data(view: View) -> ViewData:
    """Crop a view to the brain and its masks and pack it.

    A margin of 2 voxels is kept.

    Raises
    ------
    ValueError
        More than 8 regions, or an array of another shape than the grid's.
    """
    others = list(view.others.values())
    regions = tuple(dict.fromkeys(r for named in (view.masks, view.reference_masks or {}, *others) for r in named))
    if len(regions) > 8:
        raise ValueError(f"a view shows at most 8 regions, not {len(regions)}: {', '.join(regions)}")
    arrays = [mask for named in (view.masks, view.reference_masks or {}, *others) for mask in named.values()]
    arrays += [] if view.background is None else [view.background]
    for array in arrays:
        if array.shape != view.grid.shape:
            raise ValueError(f"an array of shape {array.shape} does not lie on a grid of shape {view.grid.shape}")
    filled = np.zeros(view.grid.shape, dtype=bool)
    for array in arrays:
        filled |= array != 0
    box = bounding_box(filled, margin=2) if filled.any() else tuple(slice(0, n) for n in view.grid.shape)
    affine = view.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    image = np.zeros(filled[box].shape, np.uint8) if view.background is None else view.background[box]
    grey, low, high = _eight_bits(image)
    masks = {region: mask[box] for region, mask in view.masks.items()}
    truth = {region: mask[box] for region, mask in (view.reference_masks or {}).items()}
    whole = next(
        (m for named in (masks, truth) for m in list(named.values())[:1] if m.any()), np.zeros(grey.shape, bool)
    )
    centre = affine[:3, :3] @ largest_lesion_centre(whole) + affine[:3, 3]
    return ViewData(
        background=_nifti(grey, affine, slope=(high - low) / 255, intercept=low),
        prediction=_nifti(_bits(masks, regions, grey.shape), affine),
        reference=_nifti(_bits(truth, regions, grey.shape), affine) if view.reference_masks is not None else None,
        regions=regions,
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        window=(low, high),
        others=[
            _nifti(_bits({r: mask[box] for r, mask in named.items()}, regions, grey.shape), affine) for named in others
        ],
    )


def _eight_bits(image: NDArray[Any]) -> tuple[NDArray[np.uint8], float, float]:
    """Scale an image to 256 steps; return it with the two ends.

    The ends are the 0.5 and 99.8 percentile of the voxels that are not 0.
    """
    inside = image[image != 0]
    low, high = map(float, np.percentile(inside, [0.5, 99.8])) if inside.size else (0.0, 1.0)
    low = min(low, 0.0)  # what is outside stays the darkest
    high = high if high > low else low + 1.0
    steps = np.clip((image.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    return np.rint(steps).astype(np.uint8), low, high


def _bits(masks: Mapping[str, Mask], regions: Sequence[str], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    packed = np.zeros(shape, np.uint8)
    for bit, region in enumerate(regions):
        if region in masks:
            packed[masks[region]] |= np.uint8(1 << bit)
    return packed


def _nifti(array: NDArray[np.uint8], affine: NDArray[np.float64], slope: float = 1.0, intercept: float = 0.0) -> bytes:
    image = nib.Nifti1Image(array, affine)
    image.header.set_slope_inter(slope, intercept)
    # to_bytes() would scale the array anew; the header's scale is the array's already.
    image.header.set_data_offset(352)
    raw = image.header.binaryblock + b"\0" * 4 + array.tobytes(order="F")
    return gzip.compress(raw, compresslevel=9, mtime=0)


def viewer_panel(view: View, name: str) -> str:
    """Return the viewer part of a patient's section.

    A button, the controls, the canvas, and the data as JSON (which runs nothing).
    """
    packed = view_data(view)
    data = {
        "background": base64.b64encode(packed.background).decode(),
        "prediction": base64.b64encode(packed.prediction).decode(),
        "reference": base64.b64encode(packed.reference).decode() if packed.reference is not None else None,
        "others": [base64.b64encode(other).decode() for other in packed.others],
        "regions": packed.regions,
        "colours": [rgb(region_colour(region)) for region in packed.regions],
        "centre": packed.centre_mm,
        "window": packed.window,
    }
    sides = [("prediction", view.name), *((f"others{number}", name) for number, name in enumerate(view.others))]
    sides += [("reference", "reference")] if packed.reference is not None else []
    return render("viewer.html", data=data, sides=sides, name=name)


def viewer_scripts() -> list[str]:
    """Return NiiVue and the script that lays the page's images into it.

    They stand in the page once, for all patients.

    Raises
    ------
    UsageError
        The installed nilearn carries no NiiVue.
    """
    from importlib.resources import files

    source = files("nilearn") / "_assets" / "js" / "niivue.umd.js"
    if not source.is_file():
        raise UsageError("the interactive view needs NiiVue, which this nilearn does not carry; install nilearn 0.14.1")
    # Inside a string or a template "<\/" is "</"; NiiVue 0.68.1 has neither mark.
    library = source.read_text(encoding="utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return [library, read_asset("viewer.js")]


def script_policy(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy directives for these scripts and NiiVue's WebAssembly.

    No other script runs.
    """
    return f"{own_scripts_alone(scripts)} 'wasm-unsafe-eval'; connect-src data: blob:; worker-src blob:"


def own_scripts_alone(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy directive that lets these scripts run and no other."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return " ".join(["script-src", *(f"'sha256-{value}'" for value in hashes)])
