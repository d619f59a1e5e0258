"""Contact sheet of augmented training samples, with the outlines of their regions.

    python -m bench.quality.transplants PATIENTS --extra FOLDER[:kind] ... --recipe NAME --output FILE.png

``--transplant 1`` shows transplanted lesions alone, as far as a patient's brain holds them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COLOURS = ("lime", "red", "yellow", "cyan")
"""Of the outlines, by region in the recipe's order."""


def main(arguments: Sequence[str] | None = None) -> None:
    from data.find.discover import discover_cases
    from pipeline.config import load_recipe
    from pipeline.training.cases import patient_cases
    from pipeline.training.sampling import PatchDataset
    from pipeline.training.sources.kinds import source_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--extra", nargs="*", default=[])
    parser.add_argument("--convention", help="label convention of the references; recognised by default")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder for preprocessed cases; a temporary one by default")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--modality", help="t1c, else flair, else the recipe's first by default")
    parser.add_argument("--transplant", type=float, help="instead of the recipe's augment.transplant")
    parser.add_argument("--each", type=int, default=40, help="most cases of a folder")
    given = parser.parse_args(arguments)

    config = load_recipe(given.recipe)
    if given.transplant is not None:
        config = config.model_copy(
            update={"augment": config.augment.model_copy(update={"transplant": given.transplant})}
        )
    with tempfile.TemporaryDirectory() as folder:
        cache = given.cache or Path(folder)
        own = patient_cases(discover_cases(given.patients)[: given.each], config, cache, convention=given.convention)
        extra = []
        for option in given.extra:
            path, source = source_of(option)
            names = list(source.names(path))
            extra += source.cases(path, config, cache, names=names[:: max(1, len(names) // given.each)])
        dataset = PatchDataset(own, config, extra)
        samples = [dataset[index] for index in range(given.samples)]
        preferred = [m for m in (given.modality, "t1c", "flair", config.modalities[0]) if m in config.modalities]
        pictures = [
            middle_slice(
                sample["image"].numpy(),
                sample["regions"].numpy(),
                config.modalities.index(preferred[0]),
                len(config.modalities),
            )
            for sample in samples
        ]
    draw_sheet(pictures, config.regions, given.output)
    print(f"{given.output}: {len(pictures)} samples of {preferred[0]}")


def middle_slice(
    image: NDArray[np.float32], regions: NDArray[np.float32], channel: int, modalities: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the slice of a sample that shows most of the first region.

    It is the middle one where none shows it.

    Parameters
    ----------
    image : (channels, d1, d2) or (channels, d1, d2, d3)
        In 2D the neighbouring slices of each modality follow each other; the middle one is taken.
    regions : (regions, d1, d2) or (regions, d1, d2, d3)
    channel : int
        Which modality.
    modalities : int

    Returns
    -------
    (d1, d2), (regions, d1, d2)
    """
    if image.ndim == 3:
        neighbours = len(image) // modalities
        return image[channel * neighbours + neighbours // 2], regions
    size = np.nan_to_num(regions[0]).sum(axis=(0, 1))
    k = int(size.argmax()) if size.any() else image.shape[-1] // 2
    return image[channel, ..., k], regions[..., k]


def draw_sheet(
    pictures: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], regions: Sequence[str], output: Path
) -> None:
    """Draw the slices in rows of ten, anterior up, with outlines.

    Outlines are at a share of .5; unknown voxels are shaded.
    """
    from matplotlib.figure import Figure

    columns = min(10, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.3 * rows + 0.3), layout="constrained")
    for number, (axes, (image, shares)) in enumerate(
        zip(figure.subplots(rows, columns, squeeze=False).flat, pictures, strict=False)
    ):
        brain = image[image != 0]
        low, high = np.percentile(brain, (1, 99.5)) if brain.size else (0.0, 1.0)
        axes.imshow(image.T, origin="lower", cmap="gray", vmin=min(low, 0), vmax=high)
        unknown = np.isnan(shares[0])
        if unknown.any():
            axes.imshow(np.where(unknown, 1.0, np.nan).T, origin="lower", cmap="cool", alpha=0.25, vmin=0, vmax=1)
        for share, colour in zip(shares, COLOURS, strict=False):
            told = np.nan_to_num(share)
            if told.max() > 0.5 > told.min():
                axes.contour(told.T, [0.5], colors=colour, linewidths=0.7)
        axes.set_title(str(number), fontsize=7)
    for axes in figure.axes:
        axes.axis("off")
    legend = ", ".join(f"{region} {colour}" for region, colour in zip(regions, COLOURS, strict=False))
    figure.suptitle(f"{legend}; first region not known: shaded", fontsize=9)
    figure.savefig(output, dpi=70)


if __name__ == "__main__":
    main()
