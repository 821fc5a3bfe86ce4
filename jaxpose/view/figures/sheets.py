"""Sheets of pictures with poses: predictions, people, annotations, tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.skeleton import Skeleton
from jaxpose.view.figures.base import (
    DPI,
    add_legend,
    check_one_per_image,
    draw_pose,
    grid,
    limit_to_image,
    median_aspect,
    printable,
    pyplot,
    require,
    save,
    sides,
)
from jaxpose.view.palette import DEVIATION, LEFT, MIDDLE, PEOPLE, PREDICTION, RIGHT, TRUTH


def sheet(
    images: np.ndarray,
    xy: np.ndarray,
    confidence: np.ndarray,
    skeleton: Skeleton,
    path: str | Path,
    *,
    truth: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    deviation_px: np.ndarray | None = None,
    columns: int = 8,
) -> Path:
    """Draws crops (N, H, W, 3) with predicted poses (N, K, 2), their mean confidence, the truth in green, and
    the standard deviation of each joint (N, K, 2) as an ellipse."""
    plt = pyplot()
    from matplotlib.patches import Ellipse

    count = len(images)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 2.4 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, ax in zip(range(count), axes.flat, strict=False):
        ax.imshow(images[i])
        if truth is not None:
            draw_pose(ax, truth[i], skeleton, color=TRUTH, shown=labelled[i] if labelled is not None else None, lw=1)
        draw_pose(ax, xy[i], skeleton, color=PREDICTION)
        if deviation_px is not None:
            for centre, size in zip(xy[i], deviation_px[i], strict=True):
                ax.add_patch(Ellipse(centre, *(2 * size), fill=False, color=DEVIATION, lw=0.6))
        ax.set_title(f"confidence {confidence[i].mean():.2f}", fontsize=8)
        ax.set_xlim(-0.5, images.shape[2] - 0.5)
        ax.set_ylim(images.shape[1] - 0.5, -0.5)
    add_legend(
        figure,
        ({} if truth is None else {"labelled": TRUTH})
        | {"predicted": PREDICTION}
        | ({} if deviation_px is None else {"standard deviation": DEVIATION}),
    )
    return save(figure, path)


def people(
    images: Sequence[np.ndarray],
    poses: Sequence[np.ndarray],
    skeleton: Skeleton,
    path: str | Path,
    *,
    truth: Sequence[np.ndarray] | None = None,
    labelled: Sequence[np.ndarray] | None = None,
    scores: Sequence[np.ndarray] | None = None,
    columns: int = 4,
) -> Path:
    """Draws whole images with all detected people, each person in a different colour, and the labelled people in green.

    The title of an image gives the numbers of detected people and of labelled people (with any labelled joint).

    Args:
        images: N of (H, W, 3) uint8, of any sizes.
        poses: N of (P, K, 3): x, y in the image's pixels, confidence. Joints with confidence 0 and their limbs are not drawn;
            an image without detected people has (0, K, 3).
        skeleton: the skeleton of the poses.
        path: path of the picture.
        truth: N of (P, K, 2) or more columns: x, y of the labelled people, in pixels.
        labelled: N of (P, K) bool, the labelled joints of `truth`; None: all.
        scores: N of (P,), written at each pose.
        columns: number of images side by side.

    Raises:
        ValueError: the number of entries differs from that of the images, or shapes are wrong.

    >>> from tempfile import mkdtemp
    >>> image, pose = np.zeros((32, 48, 3), np.uint8), np.full((1, 17, 3), 16.0)
    >>> from jaxpose.skeleton import COCO17
    >>> people([image], [pose], COCO17, Path(mkdtemp()) / "people.png").name
    'people.png'
    """
    check_one_per_image(len(images), poses=poses, truth=truth, labelled=labelled, scores=scores)
    shapes = [("poses", poses, 3), *([("truth", truth, 2)] if truth is not None else [])]
    for name, entries, least in shapes:
        for i, entry in enumerate(entries):
            shape = np.shape(entry)
            if len(shape) != 3 or shape[1] != skeleton.num_joints or shape[2] < least:
                expected = f"(P, {skeleton.num_joints}, {least})"
                raise ValueError(f"{name}[{i}] is {shape}, expected {expected} for skeleton {skeleton.name!r}")
    figure, axes = grid(len(images), columns, aspect=median_aspect(images), width=3.0)
    for i, ax in zip(range(len(images)), axes.flat, strict=False):
        ax.imshow(images[i])
        title = f"detected {len(poses[i])}"
        if truth is not None:
            is_labelled = np.ones(np.shape(truth[i])[:2], bool) if labelled is None else np.asarray(labelled[i], bool)
            for xy, where in zip(truth[i], is_labelled, strict=True):
                draw_pose(ax, np.asarray(xy), skeleton, color=TRUTH, shown=where, lw=1)
            title += f", labelled {int(is_labelled.any(axis=1).sum())}"
        for j, pose in enumerate(np.asarray(poses[i])):
            color, is_drawn = PEOPLE[j % len(PEOPLE)], pose[:, 2] > 0
            draw_pose(ax, pose[:, :2], skeleton, color=color, shown=is_drawn)
            if scores is not None and is_drawn.any():
                x, y = pose[is_drawn][pose[is_drawn, 1].argmin(), :2]
                where = dict(xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", annotation_clip=True)
                where["bbox"] = dict(facecolor="white", alpha=0.7, pad=0.4, lw=0)
                ax.annotate(f"{float(scores[i][j]):.2f}", (x, y), color=color, fontsize=6, weight="bold", **where)
        ax.set_title(title, fontsize=8)
        limit_to_image(ax, images[i])
    if truth is not None:
        add_legend(figure, {"labelled": TRUTH, "detected, a colour per person": PEOPLE[0]})
    return save(figure, path)


def tile_sheet(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    path: str | Path,
    *,
    columns: int = 4,
    colors: Mapping[str, str] | None = None,
) -> Path:
    """Draws pictures of the same size, unchanged, each with a title.

    Args:
        pictures: N of (h, w, 3) uint8.
        titles: N titles, printed unchanged.
        path: path of the sheet.
        columns: number of pictures side by side.
        colors: meaning -> colour, for the legend; None: no legend.

    Raises:
        ValueError: there are no pictures, or the number of titles differs.

    >>> from tempfile import mkdtemp
    >>> tile_sheet([np.zeros((8, 8, 3), np.uint8)], ["$x^"], Path(mkdtemp()) / "sheet.png").name
    'sheet.png'
    """
    check_one_per_image(len(pictures), titles=titles)
    lines = max(title.count("\n") for title in titles)
    figure, axes = grid(
        len(pictures),
        columns,
        aspect=median_aspect(pictures) + 0.05 * lines,
        width=pictures[0].shape[1] / DPI + 0.15,
        layout="constrained",
    )
    for picture, title, ax in zip(pictures, titles, axes.flat, strict=False):
        ax.imshow(picture)
        ax.set_title(printable(title), fontsize=8, parse_math=False)
    if colors is not None:
        add_legend(figure, colors)
    return save(figure, path)


def annotations(samples: Sequence[dict[str, Any]], skeleton: Skeleton, path: str | Path, *, columns: int = 4) -> Path:
    """Draws images with their labels: every person in a colour, visible joints filled, hidden ones hollow, boxes dashed.

    If there is one person and no box, as in a crop, the left side is orange and the right side blue.

    Args:
        samples: N of image (H, W, 3) uint8; joints (P, K, 2) and visibility (P, K), in image pixels; title; and optionally
            boxes (P, 4) x, y, w, h and shaded (H, W) bool, the ignored pixels.
        skeleton: the skeleton of the joints.
        path: path of the sheet.
        columns: number of images side by side.

    Raises:
        ValueError: there are no samples.

    >>> from tempfile import mkdtemp
    >>> from jaxpose.skeleton import COCO17
    >>> sample = {"image": np.zeros((32, 48, 3), np.uint8), "title": "a", "joints": np.full((1, 17, 2), 16.0)}
    >>> annotations([sample | {"visibility": np.ones((1, 17))}], COCO17, Path(mkdtemp()) / "labels.png").name
    'labels.png'
    """
    check_one_per_image(len(samples))
    require()
    from matplotlib.patches import Rectangle

    images = [sample["image"] for sample in samples]
    figure, axes = grid(
        len(samples), columns, aspect=median_aspect(images), width=12.0 / columns + 0.3, layout="constrained"
    )
    is_crop = [len(s["joints"]) == 1 and "boxes" not in s and "shaded" not in s for s in samples]
    for sample, ax, crop in zip(samples, axes.flat, is_crop, strict=False):
        ax.imshow(sample["image"])
        if "shaded" in sample and sample["shaded"].any():
            _shade(ax, sample["shaded"])
        for j, (xy, visibility) in enumerate(zip(sample["joints"], sample["visibility"], strict=True)):
            color = PEOPLE[j % len(PEOPLE)]
            if (visibility > 0).any():
                colors = sides(skeleton) if crop else [color] * len(xy)
                draw_pose(ax, xy, skeleton, color=colors, shown=visibility > 0, lw=1.2)
                for k in np.flatnonzero(visibility == 1):
                    ax.plot(*xy[k], "o", mfc="white", mec=colors[k], ms=3.4, mew=0.9)
            if "boxes" in sample:
                x, y, w, h = sample["boxes"][j]
                edge = color if (visibility > 0).any() else "white"
                ax.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, ec=edge, lw=0.9, ls="--"))
        ax.set_title(printable(sample["title"]), fontsize=7, parse_math=False)
        limit_to_image(ax, sample["image"])
    sides_of_crops = {"left": LEFT, "right": RIGHT, "middle": MIDDLE} if any(is_crop) else {}
    add_legend(figure, sides_of_crops, hollow="occluded joint")
    return save(figure, path)


def _shade(ax, shaded: np.ndarray) -> None:
    """Draws a dark veil with light stripes where `shaded` (H, W) is True."""
    rows, columns = np.indices(shaded.shape)
    period = max(6, min(shaded.shape) // 24)
    stripe = (rows + columns) % period < period / 4
    veil = np.zeros((*shaded.shape, 4), np.float32)
    veil[shaded & ~stripe] = (0.05, 0.05, 0.12, 0.62)
    veil[shaded & stripe] = (0.85, 0.85, 0.95, 0.55)
    ax.imshow(veil)
