"""Options of a segmentation and of a training run.

The command line inherits from them, so that each option, its default and its help stand here once; those of a
segmentation are marked with the results that they decide. Light on purpose: ``--help`` reads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from data.case import MAX_VOXELS


class Decides(Enum):
    """Results of a case that an option decides."""

    FILES = "files"
    """The bytes of the mask and its maps, or their places: with another value a finished case is done again."""
    FILES_BY_MODEL = "files by model"
    """The same, by the content of the files that it names: their SHA-256 counts, their names do not."""
    ROW = "row"
    """Whether there is a mask at all: a finished case is kept, and the parts of one run must agree."""
    NOTHING = "nothing"
    """How the work is done: a finished case is kept, and the parts of one run may differ."""


def _option(default: Any, decides: Decides) -> Any:
    return field(default=default, metadata={"decides": decides})


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a segmentation. The same options on the same files give the same bytes.

    Each is marked with the results that it decides, see :class:`Decides`.
    """

    models: tuple[str, ...] = _option((), Decides.FILES_BY_MODEL)
    """Shipped names or .safetensors files; several are averaged. Default: the shipped model that fits each case."""
    device: str = _option("auto", Decides.FILES)
    """auto, cpu, cuda or cuda:N."""
    engine: str = _option("auto", Decides.FILES)
    """Library that runs the network: auto, torch, or openvino (extra `cpu`). A voxel on the border may differ between
    engines."""
    window: str = _option("auto", Decides.FILES)
    """auto, as the model was trained for, or the side of a sliding window in voxels."""
    level: int | None = _option(None, Decides.FILES)
    """Of a UNet++: the depth at which it is cut; less is faster. Default: all of it."""
    tta: bool = _option(False, Decides.FILES)
    """Average over all mirrorings: slower, a little better."""
    convention: str | None = _option(None, Decides.FILES)
    """Label convention of the masks, a name or a YAML file of your own. Default: each case's own."""
    reference_convention: str | None = _option(None, Decides.ROW)
    """Label convention of the references, likewise. Default: recognised; where nothing tells it, that of the masks."""
    missing: Literal["fail", "skip", "zero"] = _option("fail", Decides.FILES)
    """A modality that the model needs is not there: error row, warn row without a mask, or zeros in its place."""
    prepare: Literal["auto", "off", "always"] = _option("auto", Decides.FILES)
    """Images that are not registered or show a skull: register and strip them (extra `raw`), refuse them, or register
    every patient's."""
    brain_mask: str | None = _option(None, Decides.FILES)
    """Folder of brain masks, each named after its patient, on the grid of one of his images; in place of deepbet."""
    grid: str = _option("auto", Decides.FILES)
    """Image on whose grid masks lie, and that the others are registered to: a modality, or finest. auto: the first of
    t1c, flair, t1, t2 that there is."""
    native: bool = _option(False, Decides.FILES)
    """Also write the mask on each image's own grid."""
    space: Literal["own", "mni"] = _option("own", Decides.FILES)
    """mni: also register T1c, or T1, to the MNI152 template, and write the mask there too."""
    save_probabilities: bool = _option(False, Decides.FILES)
    """Also write one float image a region."""
    outputs: tuple[str, ...] = _option(("nifti",), Decides.FILES)
    """Formats of the masks: nifti (always written), seg-nrrd (3D Slicer), pdf; and from DICOM dicom-seg, rtstruct,
    sr (with its dicom-seg)."""
    flat: bool = _option(False, Decides.FILES)
    """All masks in one folder as <case>.nii.gz, as the BraTS servers want them."""
    threads: int | None = _option(None, Decides.NOTHING)
    """CPU threads of each process. Default: all, shared among the processes."""
    max_voxels: int = _option(MAX_VOXELS, Decides.ROW)
    """A file whose header promises more voxels is refused, unread."""
    overwrite: bool = _option(False, Decides.NOTHING)
    """Do finished cases again."""
    strict: bool = _option(False, Decides.ROW)
    """A warning is an error: that patient gets no mask."""


def options_that_decide(options: SegmentOptions, *decided: Decides) -> dict[str, Any]:
    """Return the values of the options with one of these marks, by name."""
    return {each.name: getattr(options, each.name) for each in fields(options) if each.metadata["decides"] in decided}


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run: place and conduct. The recipe decides the computation."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun each process takes its own card."""
    changes: Sequence[str] = ()
    """KEY=VALUE: another value of one key of the recipe, such as training.learning_rate=0.003; may be given again. It
    is checked as the recipe is, and stands in the model."""
    folds: int = 5
    """Parts of the cross-validation, by patient."""
    fold: int | str = 0
    """The part that is validated on, from 0; "all" learns from every patient."""
    split: Path | None = None
    """JSON file with the lists train, validation and test of case ids, instead of folds."""
    extra: Sequence[str | Path] = ()
    """Further folders to learn from, FOLDER or FOLDER:kind (cube, slice, t1c-slice, lesion-slice, silver, tumour-free,
    head, patient) or FOLDER:patient:CONVENTION; none of them is validated on."""
    convention: str | None = None
    """Label convention of the references, and of the masks that the model writes where it has all of the recipe's
    regions: a name, or a YAML file of your own. Default: each case's own, and the recipe's."""
    leave_out: Sequence[str] = ()
    """Cases that are neither learnt from nor validated on."""
    first: str | None = None
    """Of a cascade: a finished model for its first stage, which is otherwise trained in OUTPUT/first."""
    init: str | None = None
    """A model to go on from; for vgg19_unet also a file with torchvision's vgg19_bn weights (.pth)."""
    resume: bool = False
    """Go on with the run in OUTPUT, as if it had never stopped; more --minutes extend it."""
    cache: Path | None = None
    """Folder for preprocessed cases, which runs may share; OUTPUT/cache by default."""
    minutes: float | None = None
    """Wall-clock time (of each stage) instead of the recipe's, counted once the cases are prepared, which is not in it;
    the schedule then follows the clock. The recipe's epochs may end the run sooner."""
    workers: int = 0
    """Processes that load and augment; 0: the training process itself."""
    licence: str = "as its training data"
    """Stands in the model file."""
    command: str = ""
    """Command line, for the model file."""
    on_step: Callable[[int, int, float], None] = field(default=lambda done, total, loss: None)
    """See :func:`pipeline.training.loop.train`."""
