"""Phantom patients to try on a page that has no case yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UsageError
from pipeline.web.store import Source

SHAPE, SPACING_MM = (120, 120, 78), (2.0, 2.0, 2.0)
_NAMES = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f", "reference": "seg"}


@dataclass(frozen=True)
class Example:
    """One entry of the gallery; ``lesions`` and ``seed`` as for `data.phantom.patient.make_phantom`."""

    id: str
    title: str
    text: str
    seed: int
    lesions: tuple[int, int] | None = None
    without: tuple[str, ...] = ()


GALLERY = (
    Example(
        "glioma",
        "A large glioma",
        "Four modalities and the exact truth, so that the result shows how well the model did.",
        seed=1,
    ),
    Example(
        "metastases",
        "Several small lesions",
        "Many small enhancing lesions, as a cancer that has spread makes them: the models were not trained for these.",
        seed=4,
        lesions=(4, 7),
    ),
    Example(
        "unknown-truth",
        "A patient without a reference",
        "As in the clinic: four modalities and no truth to compare with.",
        seed=2,
        without=("reference",),
    ),
)


def find_example(example_id: str) -> Example | None:
    """Return the entry of this id, or None."""
    return next((entry for entry in GALLERY if entry.id == example_id), None)


def example_sources(entry: Example) -> tuple[Source, ...]:
    """Return the images that the example will have, assigned."""
    roles = [role for role in _NAMES if role not in entry.without]
    return tuple(
        Source(str(number), f"phantom-{entry.id}-{_NAMES[role]}.nii.gz", (f"f{number:04d}.nii.gz",), None, role, role)
        for number, role in enumerate(roles, 1)
    )


def write_example(example_id: str, folder: Path) -> None:
    """Make the phantom and write its images into ``folder``. Raises UsageError for an id that is none."""
    from data.io.read import write_image, write_label_map
    from data.phantom.patient import make_phantom

    entry = find_example(example_id)
    if entry is None:
        raise UsageError(f"there is no example {example_id!r}; the gallery has {', '.join(e.id for e in GALLERY)}")
    phantom = make_phantom(entry.seed, shape=SHAPE, spacing_mm=SPACING_MM, lesions=entry.lesions)
    like = phantom.header(folder)
    for source in example_sources(entry):
        path = folder / source.files[0]
        if source.role == "reference":
            write_label_map(path, phantom.label_map, like)
        else:
            write_image(path, phantom.images[str(source.role)].astype(np.int16), like)
