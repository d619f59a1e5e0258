"""Ends of the names of image files, in lower case.

A name may have them in any case.
"""

from __future__ import annotations

NIFTI_SUFFIXES = (".nii", ".nii.gz")
METAIMAGE_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIX, SEGMENTATION_SUFFIX = ".nrrd", ".seg.nrrd"
"""The second is how 3D Slicer names its segmentations: "seg" stays in the stem and tells what they are."""
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *METAIMAGE_SUFFIXES, NRRD_SUFFIX)
SLICE_SUFFIXES = (".tif", ".tiff", ".png")
SUFFIXES = (*VOLUME_SUFFIXES, *SLICE_SUFFIXES)
"""All that the reader reads."""


def split_suffix(name: str) -> tuple[str, str]:
    """Split a name into its stem and its image suffix, in lower case.

    The suffix is ``""``, and the stem the whole name, where it is none that we read.
    """
    lower = name.lower()
    suffix = next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), "")
    return name[: len(name) - len(suffix)], suffix
