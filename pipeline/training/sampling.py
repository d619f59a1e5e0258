"""Patches to learn from.

Every sample is a function of the seed, the epoch and its number alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.transforms import Compose
from torch.utils.data import Dataset

from data.errors import UsageError
from transforms.augment.chain import crop_size, training_chain
from transforms.augment.donor import Donor, is_whole, make_donor
from transforms.augment.placement import clear_of_faces, draw_placement
from transforms.augment.transplant import transplant
from transforms.first_stage import simulated_first_stage
from transforms.planes import axes_of, turned, turning, turning_back

if TYPE_CHECKING:
    from pipeline.config import RunConfig, SamplingConfig
    from pipeline.training.cached import TrainingCase
from transforms.augment.crops import crop_slices, crop_volume

log = logging.getLogger(__name__)


class PatchDataset(Dataset):
    """Augmented patches, epoch after epoch.

    They are the same for any number of loading processes.

    Item ``i`` of an epoch is ``{"image", "regions"}``: (channels, *patch) float32, and (regions, *patch) float32 in [0,
    1] or NaN where a share is not known. Kinds are drawn with the recipe's shares, cases of a kind with equal chance;
    the slices of a volume lie in one of the recipe's planes, drawn at random, a single slice in its own.

    Parameters
    ----------
    cases : sequence of TrainingCase
        Of the data set; ``extra`` are those of further folders, ``phantoms`` synthetic ones. Where the recipe
        transplants, the volumes among ``cases`` and ``extra`` that are brains are hosts, and all that have a lesion are
        donors.

    Raises
    ------
    data.errors.UsageError
        There is no case that the shares allow.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        config: RunConfig,
        extra: Sequence[TrainingCase] = (),
        phantoms: Sequence[TrainingCase] = (),
    ) -> None:
        sampling, training = config.training.sampling, config.training
        own_share = round(1 - sampling.extra_share - sampling.phantom_share, 9)  # 1 - 0.9 - 0.1 is not quite 0
        shares = [(cases, own_share), *_by_kind(extra, sampling), (phantoms, sampling.phantom_share)]
        if extra and sampling.extra_share == 0:
            log.warning("the recipe's training.sampling.extra_share is 0: %d further cases are not used", len(extra))
        self.pools = [(list(pool), share) for pool, share in shares if len(pool) and share > 0]
        if not self.pools:
            raise UsageError(
                "there is no case to learn from; every patient needs the recipe's modalities and a reference"
            )
        total = sum(share for _, share in self.pools)
        self.chances = [share / total for _, share in self.pools]
        self.patch, self.dims = training.patch, config.network.spatial_dims
        self.crop = crop_size(self.dims, self.patch, config.window.context)
        self.context, self.step = config.window.context, config.window.context_step
        self.regions, self.regions_share = config.regions, sampling.regions_share
        n_fed = len(config.first.regions) if config.first else 0
        self.slice_axes = config.slice_axes
        self.chains = {across: _chain(config, across, n_fed) for across in {2, *self.slice_axes}}
        self.augment = config.augment
        self.flat = config.preprocess.spacing_mm[2] is None
        # Left and right alone are alike.
        side = [axis for axis in range(3) if config.preprocess.orientation[axis] in "LR"][0]
        self.mirror_axis = side if side in config.augment.flip_axes else None
        self.donors = [c for c in (*cases, *extra) if self.augment.transplant and _may_give(c, config.regions[0])]
        if self.augment.transplant and not self._can_transplant():
            log.warning(
                "augment.transplant is %g, but nothing can be transplanted: there is no patient's brain with a "
                "lesion of "
                "another patient; add patients, or lesions with --extra",
                self.augment.transplant,
            )
        self.whole_donors = [c for c in self.donors if self.augment.transplant_whole and _is_whole(c)]
        if self.augment.transplant_whole and self.donors and not self.whole_donors:
            log.warning(
                "the recipe's augment.transplant_whole has no effect: every lesion is cut by a face of its volume"
            )
        self.first_stage = _first_stage(config)
        self.batch, self.seed, self.epoch = training.batch, training.seed, 0
        self.length = training.steps_per_epoch * training.batch

    def __len__(self) -> int:
        return self.length

    def _can_transplant(self) -> bool:
        """Tell whether a lesion of another patient can go into a brain here."""
        hosts = {case.patient for pool, _ in self.pools for case in pool if _may_take(case)}
        givers = {case.patient for case in self.donors}
        return bool(hosts and givers) and len(hosts | givers) > 1

    def make_donors(self) -> None:
        """Prepare every lesion that can be transplanted.

        Loading processes, which begin anew in every epoch, then find them ready.
        """
        for case in self.donors:
            _donor(case, self.flat)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng((self.seed, self.epoch, index))
        pool, _ = self.pools[generator.choice(len(self.pools), p=self.chances)]
        case = pool[generator.integers(len(pool))]
        axes = (2,) if case.apart else axes_of(case.voxels.shape[1:], self.slice_axes)
        cut = None
        across = axes[0] if len(axes) == 1 else axes[generator.integers(len(axes))]
        if self.donors and _may_take(case) and generator.random() < self.augment.transplant:
            cut = self._transplanted(case, generator, across)
        if cut is None:
            cut, _ = self._cut(case, self._centre(case, generator, across), across)
        chain = self.chains[across].set_random_state(int(generator.integers(2**32)))
        voxels = turned(torch.as_tensor(cut), across)
        images, regions = voxels[: case.n_images], voxels[case.n_images :]
        if self.first_stage is not None:
            random = np.random.RandomState(int(generator.integers(2**32)))
            images = torch.cat((images, self.first_stage(regions, random, across)))
        sample: Mapping[Any, Any] = chain({"image": images, "regions": regions})
        return {
            "image": sample["image"],
            "regions": sample["regions"].clamp(0, 1),  # interpolation rounds; NaN stays
        }

    def _transplanted(self, host: TrainingCase, generator: np.random.Generator, across: int = 2) -> np.ndarray | None:
        """Return a cut of the host about a lesion of another patient.

        None where its brain does not hold the one drawn.
        """
        giver = self._giver(generator)
        if giver.patient == host.patient:
            return None
        donor = _donor(giver, self.flat)
        placement = draw_placement(
            donor,
            host.voxels[: host.n_images],
            generator,
            mirror_axis=self.mirror_axis,
            scale=self.augment.transplant_scale,
            fade=self.augment.transplant_fade,
        )
        if placement is None:
            return None
        middles = clear_of_faces(donor, placement)
        middle = middles[generator.integers(len(middles))]
        centre = np.round(placement.to_host(middle, donor.voxels.shape[1:])).astype(int)
        centre = np.clip(self._off_middle(centre, generator, across), 0, np.array(host.voxels.shape[1:]) - 1)
        cut, positions = self._cut(host, centre, across)
        # Scanners differ by more than z-scores take away.
        contrast = np.stack((generator.normal(1, 0.1, host.n_images), generator.normal(0, 0.1, host.n_images)), axis=1)
        return transplant(cut, positions, donor, placement, contrast.clip(-2, 2))

    def _giver(self, generator: np.random.Generator) -> TrainingCase:
        whole = self.whole_donors and generator.random() < self.augment.transplant_whole
        givers = self.whole_donors if whole else self.donors
        return givers[generator.integers(len(givers))]

    def _off_middle(self, centre: np.ndarray, generator: np.random.Generator, across: int) -> np.ndarray:
        """Move ``centre`` by up to a quarter of the patch.

        In 2D it stays within its slice.
        """
        reach = [n // 4 for n in self.patch]
        centre = centre.copy()
        centre[list(turning(across)[: len(reach)])] += generator.integers([-r for r in reach], [r + 1 for r in reach])
        return centre

    def _centre(self, case: TrainingCase, generator: np.random.Generator, across: int = 2) -> np.ndarray:
        """Draw the voxel about which a patch is cut.

        It lies in a region that the case has, off the patch's middle by up to a quarter of it, or in the brain.

        In 2D the brain's voxel is one of a slice that is drawn first: by their voxels alone the slices at the ends of
        the head, where little is brain and much looks odd, would hardly ever be seen.
        """
        present = [region for region in self.regions if region in case.centres]
        about_region = bool(present) and generator.random() < self.regions_share
        places = case.centres.get(present[generator.integers(len(present))] if about_region else "brain")
        if places is None:
            return np.array(case.voxels.shape[1:]) // 2
        if self.dims == 2 and not about_region:
            slices = np.unique(places[:, across])
            places = places[places[:, across] == slices[generator.integers(len(slices))]]
        centre = places[generator.integers(len(places))].astype(int)
        return self._off_middle(centre, generator, across) if about_region else centre

    def _cut(self, case: TrainingCase, centre: np.ndarray, across: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Cut the crop about a voxel and tell the case's voxels in it.

        In 2D its slices lie across the axis that is given; the voxels are told along each axis.

        Its axes are the case's.
        """
        # A region that the reference does not tell is unknown beyond the volume, too: its first voxel says so.
        beyond = np.where(np.isnan(case.voxels[:, 0, 0, 0]), np.nan, 0).astype(np.float32)
        if not case.beyond_known:
            beyond[case.n_images :] = np.nan
        if self.dims == 3:
            return crop_volume(case.voxels, centre, self.patch, self.crop, beyond)
        offsets = range(-self.context * self.step, self.context * self.step + 1, self.step)
        return crop_slices(
            case.voxels, centre, across, offsets, self.patch, self.crop[:2], beyond, neighbours=not case.apart
        )


def _chain(config: RunConfig, across: int, n_probabilities: int) -> Compose:
    """Return the augmentation of samples with slices across an axis.

    The mirrored axes are those of the working grid.
    """
    options = config.augment.of_the_patch
    options["flip_axes"] = [turning_back(across)[axis] for axis in options["flip_axes"]]
    patch = config.training.patch
    return training_chain(config.network.spatial_dims, patch, **options, n_probabilities=n_probabilities)


def _by_kind(extra: Sequence[TrainingCase], sampling: SamplingConfig) -> list[tuple[list[TrainingCase], float]]:
    """Group the further cases by kind, with the share of each kind.

    The share is its weight times its number, unless the recipe weighs it.
    """
    kinds: dict[str, list[TrainingCase]] = {}
    for case in extra:
        kinds.setdefault(case.kind, []).append(case)
    given: dict[str, float] = dict(sampling.extra_weights.items())
    weights = {kind: given.get(kind, 0.0 if given else len(cases)) for kind, cases in kinds.items()}
    if unused := [kind for kind, weight in weights.items() if weight == 0]:
        log.warning("the recipe's training.sampling.extra_weights gives no weight to: %s", ", ".join(unused))
    total = sum(weights.values()) or 1.0
    return [(cases, sampling.extra_share * weights[kind] / total) for kind, cases in kinds.items()]


def _may_give(case: TrainingCase, lesion: str) -> bool:
    """Tell whether a case has a lesion that another brain can take.

    All images show it, and it is more than a trace.
    """
    if min(case.voxels.shape[1:]) <= 1 or lesion not in case.centres:
        return False
    shares = case.voxels[(case.n_images, *case.centres[lesion].T)]
    return bool((shares > 0.5).any() and all(image.any() for image in case.voxels[: case.n_images]))


def _is_whole(case: TrainingCase) -> bool:
    """Tell whether no face cuts the lesion.

    A patient's lesion ends by itself.
    """
    return case.place is None or is_whole(case.voxels[case.n_images])


def _may_take(case: TrainingCase) -> bool:
    """Tell whether a case is a whole brain.

    Only then is its place in the head known.
    """
    return case.kind in ("patient", "tumour-free", "silver") and min(case.voxels.shape[1:]) > 1 and case.place is None


@lru_cache(maxsize=1024)
def _donor(case: TrainingCase, flat: bool) -> Donor:
    donor = make_donor(case.voxels, case.n_images, case.place, flat=flat)
    assert donor is not None  # _may_give has looked
    return donor


def _first_stage(config: RunConfig) -> Callable[[torch.Tensor, np.random.RandomState, int], torch.Tensor] | None:
    """Return the simulation of a cascade's first stage, None for one network.

    It takes a sample's region shares to the probabilities that the second network is fed.

    The shares are turned, their slices cut across the axis that is given.
    """
    first = config.first
    if first is None:
        return None
    fed = [config.regions.index(region) for region in first.regions]
    spacings = zip(first.recipe.preprocess.spacing_mm, config.preprocess.spacing_mm, strict=True)
    coarseness = [1.0 if theirs is None or own is None else theirs / own for theirs, own in spacings]
    errors = first.errors

    def probabilities(shares: torch.Tensor, random: np.random.RandomState, across: int) -> torch.Tensor:
        steps = [coarseness[axis] for axis in turning(across)]
        if config.network.spatial_dims == 2:
            steps[2] /= config.window.context_step  # between the slices of a sample
        return simulated_first_stage(shares, random, coarseness=steps, errors=errors)[fed]

    return probabilities
