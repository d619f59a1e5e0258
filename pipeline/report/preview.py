"""Picture of one patient: three planes through the largest lesion.

The prediction is solid, the reference dashed.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.case import ImageSource
from data.errors import InputError
from data.grid import Grid
from data.io.read import read_volume, write_bytes_atomically
from data.labels import Mask
from data.references import voxels_on
from data.visible import visible
from pipeline.report.colours import NO_REGION_COLOUR, REGION_COLOURS, region_colour, rgb
from transforms.postprocess import bounding_box, largest_component, union_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# A name in letters that the font lacks is drawn with boxes; matplotlib would say so on the terminal, letter by letter.
warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)

_PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
_EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
"""What lies at the left, the right, the top and the bottom of each plane in radiological convention."""
_DASHES = (0, (2.2, 1.8))
_GREYS = 64


def largest_lesion_centre(mask: Mask) -> tuple[int, ...]:
    """Return the voxel of the largest lesion nearest to its centre of mass.

    A lesion is a 26-connected component; an empty mask gives the array's middle.
    """
    if not mask.any():
        return tuple(n // 2 for n in mask.shape)
    box = bounding_box(mask)
    inside = np.ascontiguousarray(mask[box])  # a turned array is slow to go through
    voxels = np.argwhere(largest_component(inside)) + [cut.start for cut in box]
    nearest = np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
    return tuple(int(n) for n in voxels[nearest])


def write_preview(
    path: Path,
    title: str,
    background: NDArray[Any] | None,
    masks: Mapping[str, Mask],
    grid: Grid,
    reference_masks: Mapping[str, Mask] | None = None,
) -> None:
    """Draw three planes through the largest lesion, with regions as outlines.

    Radiological convention: the patient's left is on the right.

    Parameters
    ----------
    path : Path
        A PNG of at most 256 colours, in a folder that exists.
    title : str
        Shown above the planes; what cannot be printed becomes U+FFFD, and 80 characters are kept.
    background : (d1, d2, d3) or None
        On ``grid``, like the masks; 0 is taken for outside. None gives the outlines on a grey field.
    masks : region -> (d1, d2, d3) bool
        The prediction, as solid lines. The outermost region first: its largest lesion decides where the planes lie;
        where it is empty the reference's does, and the middle of the picture where that is empty too.
    grid : Grid
        The planes are the patient's, whatever the order and the direction of the array's axes.
    reference_masks : region -> (d1, d2, d3) bool, optional
        As dashed lines, in the same colours.

    Raises
    ------
    OSError
        Disk full, no permission: for the caller to report.
    """
    references = reference_masks or {}
    # Cut first, then turned: a turned array is slow to go through where its axes run backwards.
    cut = _shown_box(background, [*masks.values(), *references.values()], grid.shape)
    prediction = {region: grid.turn(mask[cut], "RAS") for region, mask in masks.items()}
    reference = {region: grid.turn(mask[cut], "RAS") for region, mask in references.items()}
    empty = np.zeros([s.stop - s.start for s in cut], np.float32)
    image = grid.turn(empty if background is None else background[cut], "RAS")
    full_shape, box = grid.reoriented("RAS").shape, _turned(cut, grid)
    centre = _shown_centre(image.shape, prediction, reference)
    planes = _planes_with_area(image.shape)
    figure = _black_figure(len(planes))
    spacing = grid.reoriented("RAS").spacing_mm
    limits = _window(image, background is None)
    outlines: list[tuple[str, Mask, Any]] = [(region, mask, "solid") for region, mask in prediction.items()]
    outlines += [(region, mask, _DASHES) for region, mask in reference.items()]
    for column, (name, axis) in enumerate(planes, start=1):
        axes = figure.add_subplot(1, len(planes), column)
        across, up = (a for a in range(3) if a != axis)
        _show_greys(axes, _plane(image, centre[axis], axis), limits, spacing[up] / spacing[across])
        for region, mask, style in outlines:
            _outline(axes, _plane(mask, centre[axis], axis), region_colour(region), style)
        _name_edges(axes, name)
        shown = f"{name} {box[axis].start + centre[axis] + 1}/{full_shape[axis]}"
        figure.text((column - 0.5) / len(planes), 0.89, shown, color="white", fontsize=9, ha="center")
    figure.suptitle(printable(title), color="white", fontsize=10)
    _legend(figure, dict.fromkeys((*prediction, *reference)), bool(reference))
    write_bytes_atomically(path, _png(figure))


def _shown_centre(
    shape: tuple[int, ...], prediction: Mapping[str, Mask], reference: Mapping[str, Mask]
) -> tuple[int, ...]:
    """Return the voxel through which the planes lie.

    It is in the outermost region of the prediction, or else of the reference.
    """
    outermost = [mask for masks in (prediction, reference) for mask in list(masks.values())[:1]]
    return largest_lesion_centre(next((mask for mask in outermost if mask.any()), np.zeros(shape, bool)))


def _planes_with_area(shape: tuple[int, ...]) -> list[tuple[str, int]]:
    """Return the planes that are no line of voxels, or else the axial one."""
    wide = [(name, axis) for name, axis in _PLANES if min(n for a, n in enumerate(shape) if a != axis) > 1]
    return wide or [_PLANES[0]]


def _show_greys(axes: Axes, plane: NDArray[Any], limits: tuple[float, float], aspect: float) -> None:
    axes.imshow(plane, cmap="gray", vmin=limits[0], vmax=limits[1], origin="lower", aspect=aspect)


def _black_figure(columns: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * columns, 4.3), facecolor="black")
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.09, top=0.87, wspace=0.02)
    return figure


def printable(text: str) -> str:
    """Return a text for a picture: one line of at most 80 characters.

    Nothing is left in it that matplotlib would take for a formula.
    """
    shown = visible(text).replace("$", "\N{REPLACEMENT CHARACTER}")
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _plane(array: NDArray[Any], index: int, axis: int) -> NDArray[Any]:
    """Return one plane, (up, across).

    `take` would copy the whole of a turned array first.
    """
    return array[(slice(None),) * axis + (index,)].T


def _turned(box: tuple[slice, ...], grid: Grid) -> list[slice]:
    """Return the same box in the axes R, A, S."""
    turned = list(box)
    for cut, size, (axis, direction) in zip(box, grid.shape, grid.orientation_to("RAS"), strict=True):
        turned[int(axis)] = cut if direction > 0 else slice(size - cut.stop, size - cut.start)
    return turned


def _shown_box(image: NDArray[Any] | None, masks: list[Mask], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the box of the brain and every outline, with a margin.

    All of the image where there is neither.
    """
    margin = 5 if image is not None else 20
    boxes = [bounding_box(part) for part in ([] if image is None else [image != 0]) + masks]
    box = union_box(boxes, shape, margin)
    return box if box[0].stop else tuple(slice(0, n) for n in shape)


def _window(image: NDArray[Any], empty: bool) -> tuple[float, float]:
    """Return the grey values shown as black and white.

    An empty field is shown as dark grey.
    """
    values = image.ravel(order="K")
    inside = values[values != 0]
    if empty or not inside.size:
        return -1.0, 4.0
    low, high = np.percentile(inside, [1, 99.5])
    return float(low), float(high)


def _outline(axes: Axes, cut: Mask, colour: str, style: Any) -> None:
    if cut.any():
        from contourpy import contour_generator
        from matplotlib.collections import LineCollection

        # An outline lies on the border of the mask's voxels: half way between a voxel inside and one outside.
        rows, columns = (np.arange(-1, n + 1) for n in cut.shape)
        # What `axes.contour` draws; its own bookkeeping of levels and colours takes longer than the drawing.
        lines: list[Any] = list(contour_generator(columns, rows, np.pad(cut, 1).astype(np.float64)).lines(0.5))
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=1.2, linestyles=[style]), autolim=False)


def _name_edges(axes: Axes, plane: str) -> None:
    axes.set_axis_off()
    axes.set(xticks=[], yticks=[])  # what is switched off is laid out all the same, unless there is none
    axes.invert_xaxis()
    for text, (x, y) in zip(_EDGES[plane], ((0.025, 0.5), (0.975, 0.5), (0.5, 0.97), (0.5, 0.03)), strict=True):
        axes.text(x, y, text, color="white", transform=axes.transAxes, ha="center", va="center", fontsize=8)


def _legend(figure: Figure, regions: Mapping[str, None], with_reference: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=region_colour(region), lw=2, label=region) for region in regions]
    if with_reference:
        handles.append(Line2D([], [], color="white", lw=1.2, label="prediction"))
        handles.append(Line2D([], [], color="white", lw=1.2, linestyle=_DASHES, label="reference"))
    if handles:
        figure.legend(
            handles=handles, loc="lower center", ncols=len(handles), frameon=False, labelcolor="white", fontsize=9
        )


def _png(figure: Figure) -> bytes:
    """Return the figure as a PNG with one byte a pixel.

    Its palette: greys, and each region's colour mixed with black, grey and white.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    palette = [(v, v, v) for v in np.linspace(0, 255, _GREYS).round().astype(int).tolist()]
    for colour in map(rgb, (*REGION_COLOURS.values(), NO_REGION_COLOUR)):
        for ground in (0, 96, 192):
            for share in (0.3, 0.55, 0.8):
                red, green, blue = (round(share * c + (1 - share) * ground) for c in colour)
                palette.append((red, green, blue))
        palette.append(colour)
    chart = Image.new("P", (1, 1))
    chart.putpalette([value for colour in palette for value in colour])
    buffer = io.BytesIO()
    shown = Image.fromarray(pixels).quantize(palette=chart, dither=Image.Dither.NONE)
    shown.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


log = logging.getLogger(__name__)


def read_background(images: Mapping[str, ImageSource], grid: Grid) -> NDArray[np.float32] | None:
    """Read the FLAIR, or the first usable image, (d1, d2, d3) float32 on ``grid``.

    None where no image is readable and on the same voxels (axes may be stored in another order): a picture is an aid,
    so nothing about it is an error.
    """
    for modality in sorted(images, key=lambda name: name != "flair"):
        try:
            volume = read_volume(images[modality])
        except InputError as error:
            log.debug("no background: %s", error)
            continue
        if (turned := voxels_on(volume, grid)) is not None:
            return turned.astype(np.float32, copy=False)
    return None
