"""The commands `jaxpose prepare` and `jaxpose synthetic`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from jaxpose.data.formats import Choice

__all__ = ["prepare", "synthetic"]


def prepare(
    folder: Path | None = None,
    /,
    *,
    split: str = "train",
    format: Choice = "coco",
    data_dir: Path = Path("runs/data"),
    annotations: Path | None = None,
    images: Path | None = None,
    category: int | str | None = None,
    name: str | None = None,
    on_bad: Literal["error", "skip"] = "error",
    verify: bool = False,
    force: bool = False,
) -> None:
    """Prepare one split of a folder once, so that every later run starts at once.

    Args:
        folder: image folder and annotations; the layouts of COCO 2017, of MPII in HRNet and mmpose, and of CrowdPose in
            HigherHRNet and mmpose are found by themselves.
        split: name of the split: train, val, ...
        format: format of the annotation JSON: coco, mpii (a list of image, center, scale, joints, joints_vis), or crowdpose (as
            coco, with 14 joints and a crowdIndex); auto: the one that its content shows.
        data_dir: where prepared data sets are kept.
        annotations: the annotation JSON, where it is not to be looked for.
        images: the image folder, where it is not to be looked for.
        category: name or id, where several categories of the file have keypoints.
        name: of the data set within data_dir; by default the folder's.
        on_bad: stop at a bad sample, or skip it, counted and logged.
        verify: decode every image completely, which finds damaged ones.
        force: prepare again, though nothing seems to have changed.
    """
    from jaxpose.data import builder, formats

    source = builder.prepare(
        folder,
        data_dir=data_dir,
        split=split,
        annotations=annotations,
        images=images,
        category=category,
        name=name,
        on_bad=on_bad,
        verify=verify,
        force=force,
        reader=formats.choose(format, folder, split, annotations=annotations),
    )
    facts = {"split": split, "persons": len(source), "joints": source.skeleton.num_joints}
    print(json.dumps(facts | {"skipped": sum(source.skipped.values()), "directory": str(source.directory)}))


def synthetic(out: Path, /, *, train: int = 1800, val: int = 200, seed: int = 0) -> None:
    """Draw the embedded synthetic people: COCO JSON and JPEG files.

    Args:
        out: folder to make.
        train: images for training.
        val: images held out.
        seed: the same seed gives the same pixels and labels.
    """
    from jaxpose.data.synthetic import write_dataset

    print(write_dataset(out, train=train, val=val, seed=seed))
