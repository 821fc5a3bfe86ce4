"""The commands `jaxpose prepare` and `jaxpose synthetic`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Literal

from jaxpose import buckets
from jaxpose.data import labels as tools
from jaxpose.data.formats import Choice
from jaxpose.data.reading import Exif, Links

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
    labels: Path | None = None,
    labels_format: tools.Choice = "auto",
    names: tuple[str, ...] | None = None,
    corner: bool = False,
    box: Literal["joints", "picture"] = "joints",
    category: int | str | None = None,
    flip_pairs: tuple[str, ...] | None = None,
    sigmas: tuple[float, ...] | None = None,
    visible_above: float | None = None,
    exif: Exif = "auto",
    follow_links: Links = "files",
    val_fraction: float = 0.0,
    name: str | None = None,
    on_bad: Literal["error", "skip"] = "error",
    verify: bool = False,
    force: bool = False,
) -> None:
    """Prepare one split of a folder once, so that every later run starts at once.

    Args:
        folder: Image folder and annotations, also in a bucket; the layouts of COCO 2017, of MPII in HRNet and mmpose, and of
            CrowdPose in HigherHRNet and mmpose are detected.
        split: Name of the split: train, val, ...
        format: Format of the annotation JSON: coco, mpii (a list of image, center, scale, joints, joints_vis),
            crowdpose (as coco, with 14 joints and a crowdIndex), or coco_wholebody (as coco, with feet, face and hands
            in separate fields);
            auto: the one that its content shows.
        data_dir: The folder of prepared data sets; also in a bucket (gs://bucket/data), into which a copy in runs/cache is sent.
        annotations: The annotation JSON; by default it is searched for.
        images: The image folder; by default it is searched for.
        labels: A project of a labelling tool in place of the folder: DeepLabCut, Lightning Pose, SLEAP (.slp), YOLO pose,
            Label Studio's export, CVAT's XML, labelme, COCO. If the tool does not split it, all of it is the split train.
        labels_format: The tool; auto: the one that the content shows.
        names: Names of the joints in order, if the project does not list them, or to change their order.
        corner: The tool counts pixels from the corner of the first pixel, not its centre: subtract half a pixel.
        box: Box of a person without one: the extent of the joints and a margin, or the whole picture, if it holds one person and is
            to be predicted without a detector.
        category: Name or id of a category, if several categories of the file have keypoints, or all, which is the
            default if they have the same joints.
        flip_pairs: Pairs of left and right joints, such as left_ear:right_ear, or none; by default those of the category
            (flip_pairs, swap or flip_idx), or those that the names show.
        sigmas: OKS sigmas, one for each joint, or one for all; by default the category's, or those that belong to the
            names.
        visible_above: A joint is labelled if its third number is above this; by default above 0.
        exif: apply turns pictures as their EXIF orientation says, ignore takes the stored pixels; auto: whichever the
            annotated sizes and poses show.
        follow_links: Symbolic links out of the image folder that are followed: files (of image files), all (of folders
            too), or none.
        val_fraction: With --split val, only this fraction of the images; with another split, only the others. Their
            file names decide which ones.
        name: Name of the data set within data_dir; by default the folder's.
        on_bad: Stop at a bad sample, or skip, count and log it (also persons without a box, whose boxes are otherwise
            derived from their joints).
        verify: Decode every image completely, which detects damaged ones.
        force: Prepare again, even if nothing seems to have changed.
    """
    from jaxpose.data import builder, formats
    from jaxpose.data.reading import Reading

    if not 0 <= val_fraction < 1:
        raise ValueError(f"--val-fraction {val_fraction}: expected a fraction of the images, from 0 to below 1")
    shared = buckets.url_of(data_dir)
    data_dir = data_dir if shared is None else buckets.local_copy(data_dir, buckets.CACHE)
    folder = None if folder is None else buckets.here(folder, buckets.CACHE)
    if labels is not None:
        if folder is not None or annotations is not None or images is not None:
            raise ValueError(
                f"--labels {labels} names labels and pictures: leave out the folder, --annotations and --images"
            )
        options = tools.Options(names, category=category, on_bad=on_bad, box=box)
        place = tools.folder_for(labels, data_dir, format=labels_format, options=options, corner=corner)
        converted = tools.convert(labels, place, format=labels_format, options=options, corner=corner)
        annotations, images = converted.of_split(split, divided=val_fraction > 0)
        format, name = "coco", name or place.name.rpartition("-")[0]
        print(json.dumps(converted.to_dict()))
    else:
        tools.check_alone(names=names, corner=corner, labels_format=labels_format, box=box)
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
        reading=Reading(
            flip_pairs=flip_pairs,
            sigmas=sigmas,
            visible_above=visible_above,
            exif=exif,
            follow_links=follow_links,
            part=("val" if split in ("val", "valid") else "train") if val_fraction else None,
            val_fraction=val_fraction,
        ),
    )
    directory = str(source.directory)
    if shared is not None:
        directory = f"{shared}/{source.directory.relative_to(data_dir).as_posix()}"
        buckets.send(source.directory, directory)
    facts = {"split": split, "persons": len(source), "joints": source.skeleton.num_joints}
    print(json.dumps(facts | {"skipped": sum(source.skipped.values()), "directory": directory}))


def synthetic(
    out: Path,
    /,
    *,
    train: int = 1800,
    val: int = 200,
    seed: int = 0,
    layout: Literal["coco", "mpii"] = "coco",
    label_noise: float = 1.0,
    person_sizes: tuple[float, float] | None = None,
) -> None:
    """Draw the embedded synthetic people: COCO JSON and JPEG files.

    Args:
        out: Folder to create.
        train: Number of images for training.
        val: Number of images held out.
        seed: The same seed gives the same pixels and labels.
        layout: COCO's, or MPII's with its 16 joints, head boxes and a test split without labels.
        label_noise: Factor on the errors of the training labels; those of the images held out keep 1.
        person_sizes: Least and largest height of a standing person as fractions of the picture's height, such as 0.2 1.6.
    """
    from jaxpose.data.synthetic import write_dataset, write_mpii

    settings = {"train": train, "val": val, "seed": seed, "label_noise": label_noise, "person_sizes": person_sizes}
    if layout == "coco":
        print(write_dataset(out, **settings))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        print(write_mpii(write_dataset(Path(folder) / "coco", **settings), out))
