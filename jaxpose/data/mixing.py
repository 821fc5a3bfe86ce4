"""Training on two data sets in one batch, one with joints in space and one without, by a share that is a setting.

The batch stays a function of (seed, step): a part has a permutation for each of its own epochs, and step t takes the next ones
of both. The published codes draw the second part at random (RLE), repeat the smaller set (PoseNet), or cut the larger one to
the smaller (integral regression); all of them give halves.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxpose.data.feed import sample_indices
from jaxpose.data.source import Joined, Source, person_dtype
from jaxpose.data.space import has_space, withheld
from jaxpose.geometry import clip_box
from jaxpose.skeleton import Skeleton

__all__ = ["mapped", "mixed", "mixed_indices", "split"]

OTHER_NAMES = {"upper_neck": "neck", "head_top": "head"}
"""Joints of MPII under their names in Human3.6M: RLE's and integral regression's map, which is also PoseNet's by names."""


def mixed_indices(
    positions: Sequence[int], *, batch_size: int, num_samples: int, mix: tuple[int, float], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the samples at some positions of the endless sequence of batches, each of which holds both parts.

    Args:
        positions: ``(B,)`` positions, 0 or more; position p is row p mod batch_size of its batch.
        batch_size: The size of the global batch.
        num_samples: The number of samples of both parts.
        mix: The number of samples of the first part, and its share of a batch.
        seed: Seeds the permutations.

    Returns:
        The indices of the samples ``(B,)`` and the epochs of their parts ``(B,)``.

    Raises:
        ValueError: A batch is too small to hold both parts.

    >>> indices, _ = mixed_indices(range(8), batch_size=4, num_samples=10, mix=(2, 0.5), seed=0)
    >>> print((indices < 2).astype(int))
    [0 1 0 1 0 1 0 1]
    """
    count, share = mix
    step, row = np.divmod(np.asarray(positions, np.int64), batch_size)
    rows = round(share * batch_size)  # of the first part in each batch, evenly spread over it
    if not 0 < rows < batch_size:
        raise ValueError(
            f"a share of {share} of {batch_size} samples is {rows} of the first part and {batch_size - rows} of the second: give a "
            "larger batch, or another share, so that a batch holds both"
        )
    before, after = row * rows // batch_size, (row + 1) * rows // batch_size
    is_first = after > before
    places = np.where(is_first, step * rows + before, step * (batch_size - rows) + row - before)
    indices, epochs = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
    for part, size, start, offset in ((is_first, count, 0, 0), (~is_first, num_samples - count, count, 1)):
        if part.any():
            indices[part], epochs[part] = sample_indices(places[part], num_samples=size, seed=seed + offset)
            indices[part] += start
    return indices, epochs


def mixed(labelled: Source, flat: Source, *, share: float) -> Source:
    """Returns a source of both whose batches hold persons of the first by a share.

    Args:
        labelled: The persons with joints in space.
        flat: The persons without, whose joints are those of the first (`mapped`).
        share: The share of the first in every batch, above 0 and below 1.

    Raises:
        ValueError: One of the two is empty, their joints differ, or the share is out of range.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share}: expected a number between 0 and 1, the part of a batch with joints in space")
    for source in (labelled, flat):
        if not len(source):
            raise ValueError(f"{source.name} has no persons to mix")
    if labelled.skeleton.joints != flat.skeleton.joints:
        raise ValueError(f"{flat.name} has other joints than {labelled.name}: map them first")
    both = Joined([_clipped(labelled), _clipped(flat if has_space(flat) else withheld(flat))])
    both.mix = (len(labelled), share)
    return both


def _clipped(source: Source) -> Source:
    """Returns a source whose boxes are cut off at the borders of the pictures already, if they are to be."""
    if not source.clip_boxes:
        return source
    other = copy.copy(source)
    other.persons = np.array(source.persons)
    sizes = source.images["size_wh"][other.persons["image"]].astype(np.float64)
    other.persons["box"] = clip_box(other.persons["box"].astype(np.float64), sizes)
    other.clip_boxes = False
    return other


def split(source: Source, *, part: float, seed: int = 0) -> tuple[Source, Source]:
    """Divides the persons of a source by their images: the first has `part` of the images, the second the rest without depth.

    Args:
        source: A source of persons with joints in space.
        part: The part of the images, between 0 and 1.
        seed: The seed of the division.

    Returns:
        (persons with joints in space, persons whose depth is withheld).
    """
    order = np.random.default_rng(seed).permutation(len(source.images))
    is_first = np.zeros(len(source.images), bool)
    is_first[order[: round(part * len(order))]] = True
    sources = []
    for is_taken in (is_first, ~is_first):
        other = copy.copy(source)
        other.persons = np.array(source.persons)[is_taken[source.persons["image"]]]
        sources.append(other)
    return sources[0], withheld(sources[1])


def mapped(
    source: Source,
    skeleton: Skeleton,
    *,
    enlarged: float = 1.0,
    visibility: Literal["labelled", "official"] = "labelled",
) -> Source:
    """Returns a source of persons with the joints of another skeleton, matched by their names; depth is withheld.

    Args:
        source: A source of persons, such as MPII's or COCO's.
        skeleton: The other skeleton, such as `jaxpose.skeleton.H36M18`. A joint without a counterpart is unlabelled.
        enlarged: A factor on the boxes, about their centres: RLE pads those of MPII by 1.25 and those of Human3.6M not at all.
        visibility: "labelled": joints that are labelled count; "official": as in RLE's 3D code (QUIRK V4), every joint with a
            counterpart counts, and one without a label lies at the corner of the picture, (0, 0); it is left out only where that
            corner lies outside the crop.

    Raises:
        ValueError: No joint has a counterpart.
    """
    names = [OTHER_NAMES.get(name, name) for name in source.skeleton.joints]
    places = [names.index(name) if name in names else -1 for name in skeleton.joints]
    if max(places) < 0:
        raise ValueError(
            f"{source.name} has none of the joints of {skeleton.name}: {', '.join(source.skeleton.joints)}"
        )
    cleaned = _clipped(source)
    table = _with_joints(cleaned.persons, skeleton.num_joints)
    keypoints = cleaned.persons["keypoints"][:, np.maximum(places, 0)]
    has_counterpart = np.array(places) >= 0
    table["keypoints"] = np.where(has_counterpart[:, None], keypoints, 0.0)
    if visibility == "official":
        table["keypoints"][..., 2] = np.where(has_counterpart, np.maximum(table["keypoints"][..., 2], 1), 0)
    box = table["box"].astype(np.float64)
    table["box"] = np.concatenate([box[:, :2] + (1 - enlarged) / 2 * box[:, 2:], enlarged * box[:, 2:]], 1)
    other = copy.copy(cleaned)
    other.persons, other.skeleton = table, skeleton
    return withheld(other)


def _with_joints(persons: np.ndarray, num_joints: int) -> np.ndarray:
    """Returns a table of `jaxpose.data.source.person_dtype` with another number of joints, all of them unlabelled."""
    table = np.zeros(len(persons), person_dtype(num_joints))
    for column in table.dtype.names:
        if column != "keypoints":
            table[column] = persons[column]
    return table
