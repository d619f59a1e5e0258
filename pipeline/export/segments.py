"""Segments of a label map: names, colours and codes, the same in every format.

The codes are those of DICOM's context groups 7150 (categories), 7159 and 7168 (types).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.labels import LabelConvention
from pipeline.report.colours import label_colours, rgb

ALGORITHM = "brain-tumour-segmentation"
_PRIVATE = "99BTSEG"
"""Coding scheme of our own, for tissues without a code in DICOM's groups."""


@dataclass(frozen=True)
class Code:
    """Coded word: value, scheme, and meaning."""

    value: str
    scheme: str
    meaning: str


CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
BRAIN = Code("12738006", "SCT", "Brain")
_ENHANCING = Code("C113842", "NCIt", "Enhancing Lesion")
_NON_ENHANCING = Code("C81175", "NCIt", "Non-Enhancing Lesion")
_NECROSIS = Code("6574001", "SCT", "Necrosis")
_EDEMA = Code("79654002", "SCT", "Edema")
_NEOPLASM = Code("108369006", "SCT", "Neoplasm")
_CODES = {
    **dict.fromkeys(("ET", "ENHANCING"), _ENHANCING),
    **dict.fromkeys(("NET", "NETC", "NCR", "NON-ENHANCING"), _NON_ENHANCING),
    **dict.fromkeys(("ED", "SNFH", "EDEMA", "OEDEMA"), _EDEMA),
    **dict.fromkeys(("GTV", "TUMOUR", "TUMOR", "FLAIR ABNORMALITY"), _NEOPLASM),
    "RC": Code("RC", _PRIVATE, "Resection cavity"),
    "CC": Code("CC", _PRIVATE, "Cystic component"),
}
_NAMES = {
    "ET": "Enhancing tumour",
    "NET": "Non-enhancing tumour",
    "NETC": "Non-enhancing tumour core",
    "NCR": "Necrotic and non-enhancing core",
    "ED": "Oedema",
    "SNFH": "Surrounding FLAIR hyperintensity",
    "GTV": "Gross tumour volume",
    "RC": "Resection cavity",
    "CC": "Cystic component",
}


@dataclass(frozen=True)
class Segment:
    """One tissue of a label map.

    Parameters
    ----------
    label : int
        Its value in the label map.
    short, name : str
        Its name in the convention (``ET``), and in words.
    kind : Code
    colour : (red, green, blue)
        0 to 255 each, as in previews and label files.
    """

    label: int
    short: str
    name: str
    kind: Code
    colour: tuple[int, int, int]


def segments_of(convention: LabelConvention) -> tuple[Segment, ...]:
    """Return the segments of a label convention, in the order of their labels.

    Necrosis has its own code only where the convention keeps it apart from the other core that does not enhance.
    """
    colours = label_colours(convention)
    names = {name.upper() for name in convention.labels.values()}
    found = []
    for label, short in sorted(convention.labels.items()):
        key = short.upper()
        apart = key == "NCR" and "NET" in names
        kind = _NECROSIS if apart else _CODES.get(key, Code(key[:16], _PRIVATE, short[:64]))
        name = "Necrosis" if apart else _NAMES.get(key, short[:1].upper() + short[1:])
        found.append(Segment(label, short, name, kind, rgb(colours[label])))
    return tuple(found)


def extents(label_map: NDArray[np.uint8], labels: Mapping[int, object] | tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Return the first and last index of each label along each axis: (i0, i1, j0, j1, k0, k1).

    A label that is not there has (0, -1, 0, -1, 0, -1).
    """
    found = {}
    for label in labels:
        mask = label_map == label
        ends: list[int] = []
        for axis in range(3):
            present = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            ends += [int(present[0]), int(present[-1])] if present.size else [0, -1]
        found[label] = tuple(ends)
    return found
