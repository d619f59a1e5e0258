"""Visits of one patient: error of registration, of volumes and of identities, against geometry.

    python -m bench.follow [--patients 4] [--visits 5] [--mm 1.0] [--output FILE]
    python -m bench.follow --pairs BASELINE.nii.gz VISIT.nii.gz [...] [--pictures FOLDER]

Phantom patients are turned, shifted and imaged anew at each visit (`data.phantom.visits`). Each visit is registered to
the baseline by its T1c; lesions are measured in the true masks and followed through the moves that were found, and so
is their growth. The first visit of each patient is also registered to that of the next, which must be doubted. With
--pairs, two real images without a skull (0 outside the brain) are aligned, and a chequerboard of both is drawn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.moves import brain_places
from data.case import ImageSource
from data.io.read import Volume, read_volume
from data.phantom.visits import Visit, draw_visits
from pipeline.follow.align import Aligned, align, look_at
from pipeline.follow.components import Components, find_components
from pipeline.follow.lesions import Event, follow_lesions
from pipeline.score.tables import write_table
from transforms.registration.register import Picture
from transforms.restore import resample_to

TC = (1, 3)
TILE = 24
"""Voxels of a chequerboard's square."""


def true_events(visits: Sequence[Visit]) -> list[dict[int, Event]]:
    """Return the event of each lesion of TC at each visit, from geometry."""
    told: list[dict[int, Event]] = []
    ever: set[int] = set()
    for visit in visits:
        here: dict[int, Event] = {}
        for lesion in visit.lesions["TC"]:
            before = set(told[-1]) if told else set()
            split = lesion.lesion not in ever and lesion.story == "splits"
            known: Event = "same" if lesion.lesion in before else "returned" if lesion.lesion in ever else "new"
            here[lesion.lesion] = "first" if not told else "split" if split else known
        ever |= set(here)
        told.append(here)
    return told


def see(visit: Visit) -> Picture:
    """Reduce a visit's T1c, its tumour left out."""
    return look_at(visit.phantom.images["t1c"], visit.phantom.grid, visit.phantom.label_map > 0)


def patient_rows(seed: int, visits: Sequence[Visit]) -> list[dict[str, object]]:
    """Return a row for each visit of a patient."""
    baseline = visits[0].phantom
    header = baseline.header(Path("phantom"))
    places = brain_places(Volume(baseline.images["t1c"], header))
    first = see(visits[0])
    rows: list[dict[str, object]] = []
    parts: list[Components] = []
    for number, visit in enumerate(visits):
        started = time.process_time()
        aligned = align(first, see(visit))
        seconds = time.process_time() - started
        apart = np.linalg.norm(places @ (aligned.transform.matrix - visit.move_from(visits[0])).T, axis=1)
        started = time.process_time()
        tumour = np.isin(visit.phantom.label_map, TC)
        parts.append(find_components(tumour, visit.phantom.grid, aligned.transform.matrix, baseline.grid))
        rows.append({
            "patient": seed, "visit": number, "error_mean_mm": apart.mean(), "error_max_mm": apart.max(),
            "information": aligned.transform.information, "overlap": aligned.overlap, "doubt": aligned.doubt,
            "cpu_seconds_align": seconds, "cpu_seconds_lesions": time.process_time() - started,
        })  # fmt: skip
    names: dict[int, int] = {}
    for row, visit, components, told, true in zip(
        rows, visits, parts, follow_lesions(parts), true_events(visits), strict=True
    ):
        assert told is not None
        ml = {each.lesion: each.volume_ml for each in visit.lesions["TC"]}
        right, worst = 0, 0.0
        for lesion in told.lesions:
            inside = np.bincount(visit.lesion_map[components.labels == lesion.component.number])
            of = int(inside.argmax())
            right += names.setdefault(lesion.lesion, of) == of and true.get(of) == lesion.event
            worst = max(worst, abs(lesion.component.volume_ml / ml[of] - 1)) if of in ml else np.inf
        row |= {"lesions": len(ml), "found": len(told.lesions), "identities_right": right, "volume_error_max": worst}
        measured = sum(each.component.volume_ml for each in told.lesions)
        row["volume_error_all"] = abs(measured / sum(ml.values()) - 1)
    return rows


def chequerboard(baseline: Volume, visit: Volume, aligned: Aligned) -> NDArray[np.uint8]:
    """Return three planes through the middle, squares of both images in turn."""
    there = resample_to(
        torch.from_numpy(visit.array.astype(np.float32))[None], aligned.transform.lay(visit.grid), baseline.grid
    )[0].numpy()
    shown = []
    for array in (baseline.array.astype(np.float32), there):
        turned = baseline.grid.turn(array, "RAS")
        low, high = np.percentile(turned[turned != 0], [1, 99.5])
        shown.append(np.clip((turned - low) / (high - low), 0, 1) * 255 * (turned != 0))
    squares = (np.indices(shown[0].shape) // TILE).sum(axis=0) % 2
    both = np.where(squares == 1, shown[1], shown[0]).astype(np.uint8)
    middle = np.argwhere(shown[0] > 0).mean(axis=0).astype(int)
    planes = [np.take(both, middle[axis], axis).T[::-1, ::-1] for axis in (2, 1, 0)]
    height = max(len(plane) for plane in planes)
    return np.concatenate([np.pad(plane, ((0, height - len(plane)), (0, 4))) for plane in planes], axis=1)


def align_pairs(paths: Sequence[Path], pictures: Path | None) -> list[str]:
    """Align real images, two by two; return a line for each pair."""
    from PIL import Image

    lines = []
    for one, other in zip(paths[::2], paths[1::2], strict=True):
        baseline, visit = (read_volume(ImageSource((path,)), max_voxels=2**28) for path in (one, other))
        started = time.process_time()
        aligned = align(look_at(baseline.array, baseline.grid), look_at(visit.array, visit.grid))
        move = aligned.transform
        lines.append(
            f"{other}: moved by {move.moved_mm:.1f} mm / {move.degrees:.1f} degrees, mutual information "
            f"{move.information:.2f}, overlap {aligned.overlap:.3f}, {aligned.doubt or 'no doubt'}, "
            f"{time.process_time() - started:.1f} CPU s"
        )
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            Image.fromarray(chequerboard(baseline, visit, aligned)).save(pictures / f"pair{len(lines)}.png")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--mm", type=float, default=1.0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--pairs", type=Path, nargs="+")
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args(arguments)
    if given.pairs:
        sys.stdout.write("\n".join(align_pairs(given.pairs, given.pictures)) + "\n")
        return 0
    rows: list[dict[str, object]] = []
    firsts: list[Picture] = []
    for seed in range(given.patients):
        visits = draw_visits(seed, given.visits, spacing_mm=given.mm, modalities=("t1c",))
        firsts.append(see(visits[0]))
        rows += patient_rows(seed, visits)
    table = pd.DataFrame(rows)
    if given.output is not None:
        write_table(given.output, table)
    later = table[table["visit"] > 0]
    others = [align(one, other) for one, other in zip(firsts, firsts[1:], strict=False)]
    lines = [
        f"registration: error mean {later['error_mean_mm'].mean():.2f} mm, largest {later['error_max_mm'].max():.2f} "
        f"mm; {int((later['doubt'] != '').sum())} of {len(later)} doubted, mutual information "
        f"{later['information'].min():.2f} at least; {later['cpu_seconds_align'].max():.1f} CPU s at most",
        f"other patients: {sum(each.is_doubtful for each in others)} of {len(others)} doubted, mutual information "
        f"{max((each.transform.information for each in others), default=0):.2f} at most",
        f"lesions: {table['found'].sum()} of {table['lesions'].sum()} found, {table['identities_right'].sum()} "
        f"identities and events right; {table['cpu_seconds_lesions'].max():.1f} CPU s at most",
        f"volumes: a lesion's error {100 * table['volume_error_max'].max():.1f} % at most, of all of a visit "
        f"{100 * table['volume_error_all'].max():.1f} % at most",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
