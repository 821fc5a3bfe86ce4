"""`jaxpose view data`: the annotations as they are, or what a net is shown of them. The pictures are the pipeline's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose.data.formats import Choice
from jaxpose.view import figures

__all__ = ["data"]

PAGE = {"labels": (12, 4), "crops": (32, 8), "whole": (8, 4)}  # pictures on a sheet, side by side
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
    """Draw sheets of the annotations as they are, or (--augment, --whole) of what the net is shown.

    Without both: whole images with every person in a colour, boxes, and crowds and unlabelled people hatched. With --augment
    NAME: the crops that training begins with, by that augmentation, seed and epoch. With --whole: the whole images that
    bottom-up training begins with; what its loss does not look at is shaded.

    Args:
        folder: image folder and annotations, as `jaxpose prepare` takes them.
        split: name of the split.
        format: of the annotations; auto: the one that their content shows.
        augment: name of an augmentation, "none" among them; see jaxpose/data/augment.py.
        whole: whole images, not crops of persons.
        size_wh: of the crops (192 256) or whole images (512 512), as in the experiments.
        count: so many pictures at most.
        seed: of the order and of the augmentation, as in the experiments.
        epoch: whose order and augmentation.
        out: folder of the sheets; by default runs/view and the folder's name.
        annotations: the annotation JSON, where it is not to be looked for.
        images: the image folder, where it is not to be looked for.
        category: name or id, where several categories of the file have keypoints.
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
    """Images with all of their annotations.

    Args:
        source: `jaxpose.data.source.Source`.
        count: so many images at most, drawn as an epoch of images is.
        seed, epoch: of the order.

    Returns:
        Per image what `figures.annotations` draws: image, joints (P, K, 2), visibility (P, K), boxes (P, 4), shaded
        (H, W) bool: crowds and unlabelled people; title.
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
    """The first crops of an epoch: those of `jaxpose.data.crops.train_batches`, decoded in full, bit for bit.

    Args:
        source: `jaxpose.data.source.Source`.
        size_wh, augment, seed: as there.
        count: so many at most.
        epoch: which.

    Returns:
        As `_labels`.
    """
    from jaxpose.data import crops

    samples = []
    for index in _first(len(source.persons), count=count, seed=seed, epoch=epoch, what=f"{source} has no person"):
        made = crops.sample(
            source.at_level("person"), int(index), size_wh=size_wh, augment=augment, seed=seed, epoch=epoch
        )
        title = f"person {made['annotation_id']}\njoints {int((made['visibility'] > 0).sum())}"
        samples.append(_sample(made["image"], made["joints"][None], made["visibility"][None], title))
    return samples


def _whole_images(
    source: Any, *, size_wh: tuple[int, int], augment: str, count: int, seed: int = 0, epoch: int = 0
) -> list[dict[str, Any]]:
    """The first images of an epoch: those of `jaxpose.data.whole_images.train_batches`, with the mask of its finer maps.

    Arguments and result as of `_crops`.
    """
    from jaxpose.data import whole_images

    images, stride, samples = whole_images.select_images(source, "annotated"), 2, []
    for place in _first(len(images), count=count, seed=seed, epoch=epoch, what=f"{source} has no image with a person"):
        made = whole_images.sample(source, int(images[place]), size_wh=size_wh, augment=augment, seed=seed, epoch=epoch)
        there = (made["visibility"] > 0).any(axis=-1)
        title = f"image {made['image_id']}: people {int(there.sum())}"
        shaded = ~made[f"mask_{stride}"].repeat(stride, axis=0).repeat(stride, axis=1)
        samples.append(
            _sample(made["image"], made["joints"][there], made["visibility"][there], title) | {"shaded": shaded}
        )
    return samples


def _first(length: int, *, count: int, seed: int, epoch: int, what: str) -> np.ndarray:
    """Indices of the first `count` of an epoch."""
    from jaxpose.data import feed

    if length == 0:
        raise ValueError(f"{what}: nothing to draw")
    positions = epoch * length + np.arange(min(count, length))
    return feed.sample_indices(positions, num_samples=length, seed=seed)[0]


def _sample(image: np.ndarray, joints: np.ndarray, visibility: np.ndarray, title: str) -> dict[str, Any]:
    return {"image": image, "joints": joints, "visibility": visibility, "title": title}
