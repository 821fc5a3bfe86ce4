"""`jaxpose view data`: draws the annotations, or the net's input made from them, with the input pipeline itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose.data.formats import Choice
from jaxpose.view import figures

__all__ = ["data"]

PAGE = {"labels": (12, 4), "crops": (32, 8), "whole": (8, 4)}  # pictures per sheet, and per row
SIZE_WH = {"crops": (192, 256), "whole": (512, 512)}


def data(
    folder: Path,
    /,
    *,
    split: str = "val",
    format: Choice = "coco",
    augment: str | None = None,
    whole: bool = False,
    size_wh: tuple[int, int] | None = None,
    count: int = 32,
    seed: int = 0,
    epoch: int = 0,
    out: Path | None = None,
    annotations: Path | None = None,
    images: Path | None = None,
    category: int | str | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> None:
    """Draw sheets of the annotations, or (--augment, --whole) of the net's input.

    Without both flags: whole images with every person in a colour, boxes, and crowds and unlabelled people hatched. With --augment
    NAME: the first crops of training with this augmentation, seed and epoch. With --whole: the first whole images of bottom-up
    training; pixels that its loss ignores are shaded.

    Args:
        folder: image folder and annotations, as for `jaxpose prepare`.
        split: name of the split.
        format: format of the annotations; auto: detected from the content.
        augment: name of an augmentation, or "none"; see jaxpose/data/augment.py.
        whole: draw whole images instead of crops of persons.
        size_wh: width and height of the crops (192 256) or whole images (512 512), as in the experiments.
        count: largest number of pictures.
        seed: seed of the order and of the augmentation, as in the experiments.
        epoch: epoch of the order and of the augmentation.
        out: folder of the sheets; by default runs/view and the folder's name.
        annotations: the annotation JSON, if it is not in the usual place.
        images: the image folder, if it is not in the usual place.
        category: name or id of the category, if several categories of the file have keypoints.
        on_bad: stop at a bad sample, or skip it, counted and logged.
    """
    from jaxpose.data import formats

    if count < 1 or epoch < 0:
        raise ValueError(f"--count {count} --epoch {epoch}: expected 1 or more pictures, and an epoch of 0 or more")
    figures.require()
    reader = formats.choose(format, folder, split, annotations=annotations)
    paths = reader.find(folder, split, annotations=annotations, images=images)
    source = reader.read(*paths, split=split, category=category, on_bad=on_bad)
    kind = "whole" if whole else "crops" if augment is not None else "labels"
    out = Path("runs/view") / folder.resolve().name if out is None else out
    name = f"{split}_{kind}" + (f"_{augment or 'none'}" if kind != "labels" else "")
    if kind == "labels":
        samples = _labels(source, count=count, seed=seed, epoch=epoch)
    else:
        options = {"augment": augment or "none", "count": count, "seed": seed, "epoch": epoch}
        options["size_wh"] = SIZE_WH[kind] if size_wh is None else size_wh
        samples = (_whole_images if whole else _crops)(source, **options)
    size, columns = PAGE[kind]
    sheets = [
        figures.annotations(
            samples[first : first + size], source.skeleton, out / f"{name}_{first // size + 1}.png", columns=columns
        )
        for first in range(0, len(samples), size)
    ]
    facts = {"persons": len(source.persons), "images": len(source.images), "shown": len(samples)}
    print(json.dumps(facts | {"skipped": sum(source.skipped.values()), "sheets": [str(path) for path in sheets]}))


def _labels(source: Any, *, count: int, seed: int = 0, epoch: int = 0) -> list[dict[str, Any]]:
    """Returns images with all of their annotations.

    Args:
        source: a `jaxpose.data.source.Source`.
        count: largest number of images, in the order of an epoch of images.
        seed, epoch: seed and epoch of the order.

    Returns:
        The arguments of `figures.annotations` per image: image, joints (P, K, 2), visibility (P, K), boxes (P, 4), shaded
        (H, W) bool (crowds and unlabelled people), and title.
    """
    from jaxpose.data import masks, pixels

    samples = []
    for index in _first(len(source.images), count=count, seed=seed, epoch=epoch, what=f"{source} has no images"):
        record = source.image(int(index))
        people = record["persons"]
        counted = ~people["crowd"] & (people["keypoints"][..., 2] > 0).any(axis=-1)
        samples.append(
            {
                "image": np.asarray(pixels.decode_picture(record["jpeg"], record["file_name"]).convert("RGB")),
                "joints": people["keypoints"][..., :2],
                "visibility": people["keypoints"][..., 2],
                "boxes": people["box"],
                "shaded": ~masks.valid_mask(record),
                "title": f"{record['file_name']}\nid {record['image_id']}: people {counted.sum()}, not labelled {(~counted).sum()}",
            }
        )
    return samples


def _crops(
    source: Any, *, size_wh: tuple[int, int], augment: str, count: int, seed: int = 0, epoch: int = 0
) -> list[dict[str, Any]]:
    """Returns the first crops of an epoch: those of `jaxpose.data.crops.train_batches`, completely decoded, bit for bit.

    Args:
        source: a `jaxpose.data.source.Source`.
        size_wh, augment, seed: options of `train_batches`.
        count: largest number of crops.
        epoch: number of the epoch.

    Returns:
        The same entries as `_labels`, without boxes and shading.
    """
    from jaxpose.data import crops

    samples = []
    for index in _first(len(source.persons), count=count, seed=seed, epoch=epoch, what=f"{source} has no person"):
        crop = crops.sample(
            source.at_level("person"), int(index), size_wh=size_wh, augment=augment, seed=seed, epoch=epoch
        )
        title = f"person {crop['annotation_id']}\njoints {int((crop['visibility'] > 0).sum())}"
        samples.append(_sample(crop["image"], crop["joints"][None], crop["visibility"][None], title))
    return samples


def _whole_images(
    source: Any, *, size_wh: tuple[int, int], augment: str, count: int, seed: int = 0, epoch: int = 0
) -> list[dict[str, Any]]:
    """Returns the first images of an epoch: those of `jaxpose.data.whole_images.train_batches`, with the mask of the finer maps.

    Arguments and result are those of `_crops`.
    """
    from jaxpose.data import whole_images

    images, stride, samples = whole_images.select_images(source, "annotated"), 2, []
    for place in _first(len(images), count=count, seed=seed, epoch=epoch, what=f"{source} has no image with a person"):
        sample = whole_images.sample(
            source, int(images[place]), size_wh=size_wh, augment=augment, seed=seed, epoch=epoch
        )
        is_labelled = (sample["visibility"] > 0).any(axis=-1)
        title = f"image {sample['image_id']}: people {int(is_labelled.sum())}"
        shaded = ~sample[f"mask_{stride}"].repeat(stride, axis=0).repeat(stride, axis=1)
        samples.append(
            _sample(sample["image"], sample["joints"][is_labelled], sample["visibility"][is_labelled], title)
            | {"shaded": shaded}
        )
    return samples


def _first(length: int, *, count: int, seed: int, epoch: int, what: str) -> np.ndarray:
    """Returns the indices of the first `count` samples of an epoch."""
    from jaxpose.data import feed

    if length == 0:
        raise ValueError(f"{what}: nothing to draw")
    positions = epoch * length + np.arange(min(count, length))
    return feed.sample_indices(positions, num_samples=length, seed=seed)[0]


def _sample(image: np.ndarray, joints: np.ndarray, visibility: np.ndarray, title: str) -> dict[str, Any]:
    return {"image": image, "joints": joints, "visibility": visibility, "title": title}
