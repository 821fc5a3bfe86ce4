"""Figures of a net's output for an image before coordinates are computed: heatmaps, scale maps, regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.skeleton import Skeleton
from jaxpose.view.figures.base import (
    add_legend,
    check_one_per_image,
    draw_pose,
    grid,
    limit_to_image,
    median_aspect,
    printable,
    require,
    save,
    sides,
)
from jaxpose.view.palette import INK, LEFT, MIDDLE, PEOPLE, PREDICTION, RIGHT, TRUTH


def scale_maps(
    images: Sequence[np.ndarray],
    factors: Sequence[np.ndarray],
    path: str | Path,
    *,
    joints: Sequence[np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    columns: int = 4,
) -> Path:
    """Draws every image next to its map of factors of sigma (`tasks.scale_factors`; SWAHR figure 5), with one colour bar for all.

    White is 1, the base sigma; red is smaller (for small people, in the paper's figure), blue larger. That figure shows the
    reciprocal, each image normalised separately; here colours can be compared between images. The colour range covers 99.5 %
    of all pixels, so that a few extreme values do not turn the rest white.

    Args:
        images: N of (H, W, 3) uint8, of any sizes.
        factors: (N, h, w), or N of (h, w), finite, of any resolution: drawn at the size of the image. (In the paper's figure,
            the mean of the channels.)
        path: path of the picture.
        joints: N of (P, K, 3): x, y in the image's pixels, visibility; joints with a visibility above 0 are drawn as dots.
        names: N titles.
        columns: number of pairs side by side.

    Raises:
        ValueError: the number of entries differs from that of the images; a map is not (h, w) or not finite.

    >>> from tempfile import mkdtemp
    >>> image, factor = np.zeros((32, 48, 3), np.uint8), np.full((8, 12), 0.9)
    >>> scale_maps([image], [factor], Path(mkdtemp()) / "scale_maps.png").name
    'scale_maps.png'
    """
    check_one_per_image(len(images), factors=factors, joints=joints, names=names)
    maps = [np.asarray(factor, np.float64) for factor in factors]
    for i, factor in enumerate(maps):
        if factor.ndim != 2:
            raise ValueError(f"factors[{i}] is {factor.shape}, expected (h, w): take the mean of the channels")
        if not np.isfinite(factor).all():
            count = int((~np.isfinite(factor)).sum())
            raise ValueError(f"factors[{i}] has {count} values that are not finite: 1 + alpha must not be 0")
    reach = np.percentile(np.concatenate([abs(factor.ravel() - 1) for factor in maps]), 99.5)
    require()
    from matplotlib.colors import CenteredNorm

    norm = CenteredNorm(vcenter=1.0, halfrange=max(float(reach), 1e-3))
    figure, axes = grid(2 * len(images), 2 * columns, aspect=median_aspect(images), width=1.9, layout="constrained")
    for i, image in enumerate(images):
        left, right = axes.flat[2 * i], axes.flat[2 * i + 1]
        height, width = image.shape[:2]
        left.imshow(image)
        factor_image = right.imshow(maps[i], cmap="RdBu", norm=norm, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        if joints is not None:
            dots = np.asarray(joints[i], np.float64).reshape(-1, 3)
            dots = dots[dots[:, 2] > 0]
            for ax in (left, right):
                ax.plot(dots[:, 0], dots[:, 1], "o", color=TRUTH, ms=1.8)
        if names is not None:
            left.set_title(names[i], fontsize=8, parse_math=False)
        right.axis("on")  # a frame, because the map is white where alpha is 0
        right.set(xticks=[], yticks=[])
        for ax in (left, right):
            limit_to_image(ax, image)
    figure.colorbar(factor_image, ax=axes, extend="both", shrink=0.8, label=r"learned factor of $\sigma$")
    return save(figure, path)


def joint_maps(
    image: np.ndarray,
    maps: np.ndarray,
    skeleton: Skeleton,
    path: str | Path,
    *,
    pixels_per_cell: tuple[float, float],
    poses: Sequence[np.ndarray] = (),
    truth: Sequence[np.ndarray] = (),
    further: Sequence[dict[str, Any]] = (),
    columns: int = 6,
) -> Path:
    """Draws one image with its heatmaps: first all joints together, then each alone, scaled by its own peak.

    Args:
        image: (H, W, 3) uint8.
        maps: (h, w, K), finite.
        skeleton: the skeleton of the K joints.
        path: path of the picture.
        pixels_per_cell: input pixels from one cell of the maps to the next, x and y; cell 0 is at pixel 0.
        poses: predicted poses, each (K, 2) in image pixels, or NaN: dark crosses, and the pose on the first picture.
        truth: labelled poses of the same form: green circles.
        further: panels after the first: title, values (h', w'), pixels_per_cell, and optionally alpha (h', w') in [0, 1], cmap,
            low, high.
        columns: number of pictures side by side.

    Raises:
        ValueError: maps have another shape, or are not finite.

    >>> from tempfile import mkdtemp
    >>> image, path = np.zeros((16, 12, 3), np.uint8), Path(mkdtemp()) / "maps.png"
    >>> stick = Skeleton.from_coco_category({"keypoints": ["top", "end"], "skeleton": [[1, 2]]})
    >>> joint_maps(image, np.ones((4, 3, 2)), stick, path, pixels_per_cell=(4, 4)).name
    'maps.png'
    """
    maps = np.asarray(maps, np.float64)
    if maps.ndim != 3 or maps.shape[-1] != skeleton.num_joints:
        raise ValueError(f"maps must be (h, w, {skeleton.num_joints}) for skeleton {skeleton.name!r}, got {maps.shape}")
    if not np.isfinite(maps).all():
        raise ValueError(f"{int((~np.isfinite(maps)).sum())} values of the maps are not finite")
    count = 2 + len(further) + skeleton.num_joints
    aspect = image.shape[0] / image.shape[1]
    figure, axes = grid(count, columns, aspect=aspect, width=2.0, layout="constrained")
    panels = iter(axes.flat)

    def panel(title: str):
        ax = next(panels)
        ax.set_title(printable(title), fontsize=7, parse_math=False)
        ax.imshow(image)
        limit_to_image(ax, image)
        return ax

    ax = panel("prediction and labels" if len(truth) else "prediction")
    for xy in truth:
        draw_pose(ax, xy, skeleton, color=TRUTH, shown=np.isfinite(xy).all(-1), lw=1)
    for j, xy in enumerate(poses):
        color = PREDICTION if len(poses) == 1 else PEOPLE[j % len(PEOPLE)]
        draw_pose(ax, xy, skeleton, color=color, shown=np.isfinite(xy).all(-1), lw=1.2)
    # Each map is scaled by its own peak, or one strong joint would make the others invisible.
    peaks = np.maximum(maps.max((0, 1)), 1e-12)
    light = np.clip(maps / peaks, 0, 1)
    _over(panel("all joints, each over its peak"), light.max(-1), light.max(-1), pixels_per_cell)
    for entry in further:
        options = {key: entry[key] for key in ("cmap", "low", "high") if key in entry}
        _over(panel(entry["title"]), entry["values"], entry.get("alpha"), entry["pixels_per_cell"], **options)
    for k, name in enumerate(skeleton.joints):
        ax = panel(f"{name}, peak {maps[..., k].max():.2g}")
        _over(ax, light[..., k], light[..., k], pixels_per_cell)
        for width, ring, cross in ((2.6, "white", "white"), (1.2, TRUTH, INK)):  # a rim is visible on any colour
            for xy in truth:
                ax.plot(*xy[k], "o", mfc="none", mec=ring, ms=6, mew=width)
            for xy in poses:
                ax.plot(*xy[k], "x", color=cross, ms=5, mew=width)
    colors = {"labelled": TRUTH} if len(truth) else {}
    colors["predicted" if len(poses) == 1 else "predicted, a colour per person"] = PREDICTION
    add_legend(figure, colors)
    return save(figure, path)


def _over(ax, values, alpha, pixels_per_cell, *, cmap: str = "inferno", low=0.0, high=1.0) -> None:
    """Draws values over the picture: opaque where alpha is 1, and a darkened picture where it is 0."""
    h, w = values.shape
    (sx, sy), (x, y) = pixels_per_cell, (ax.get_xlim(), ax.get_ylim())
    extent = (-0.5 * sx, (w - 0.5) * sx, (h - 0.5) * sy, -0.5 * sy)
    ax.imshow(np.zeros((1, 1)), cmap="gray", alpha=0.35, extent=(*x, *y), vmin=0, vmax=1)
    veil = None if alpha is None else 0.92 * np.sqrt(alpha)  # so that the flank of a peak is visible too
    ax.imshow(values, cmap=cmap, alpha=veil, extent=extent, vmin=low, vmax=high, interpolation="nearest")
    ax.set_xlim(*x)
    ax.set_ylim(*y)


def joint_regions(
    samples: Sequence[dict[str, Any]], skeleton: Skeleton, path: str | Path, *, levels: Sequence[float] = ()
) -> Path:
    """Draws crops with the regression of each joint: the pose; its standard deviations as ellipses; the regions of its density.

    Args:
        samples: N of image (H, W, 3) uint8, xy (K, 2), truth (K, 2, NaN where unlabelled), title; and if sigma is trained,
            deviation (K, 2) in pixels, and outlines: for each level a list of K lists of closed lines (n, 2) in pixels.
        skeleton: the skeleton of the joints.
        path: path of the sheet.
        levels: probability masses of the regions, for the titles.

    Raises:
        ValueError: there are no samples.

    >>> from tempfile import mkdtemp
    >>> from jaxpose.skeleton import COCO17
    >>> xy = np.full((17, 2), 8.0)
    >>> sample = {"image": np.zeros((16, 12, 3), np.uint8), "title": "a", "xy": xy, "truth": xy}
    >>> joint_regions([sample], COCO17, Path(mkdtemp()) / "regions.png").name
    'regions.png'
    """
    check_one_per_image(len(samples))
    require()
    from matplotlib.patches import Ellipse

    panels = 3 if "deviation" in samples[0] else 1
    aspect = median_aspect([sample["image"] for sample in samples])
    across = panels * max(1, min(len(samples), 6 // panels))
    figure, axes = grid(panels * len(samples), across, aspect=aspect, width=2.6, layout="constrained")
    percentages = " and ".join(f"{level:.0%}" for level in levels)
    colors = sides(skeleton)
    for sample, row in zip(samples, axes.reshape(-1, panels), strict=False):
        titles = (sample["title"], "standard deviation", f"regions of {percentages}")
        for ax, title in zip(row, titles, strict=False):
            ax.imshow(sample["image"])
            ax.set_title(printable(title), fontsize=7, parse_math=False)
            limit_to_image(ax, sample["image"])
            draw_pose(ax, sample["truth"], skeleton, color=TRUTH, shown=np.isfinite(sample["truth"]).all(-1), lw=0.9)
        draw_pose(row[0], sample["xy"], skeleton, color=PREDICTION)
        if panels == 1:
            continue
        for k, (centre, size) in enumerate(zip(sample["xy"], sample["deviation"], strict=True)):
            row[1].add_patch(Ellipse(centre, *(2 * size), fill=False, color=colors[k], lw=1))
            row[1].plot(*centre, "o", color=colors[k], ms=1.8)
        for width, joints in zip(np.linspace(1.3, 0.6, len(levels)), sample["outlines"], strict=True):
            for k, pieces in enumerate(joints):
                for line in pieces:
                    row[2].plot(*np.asarray(line).T, color=colors[k], lw=width)
    legend = {"labelled": TRUTH, "predicted pose, left joints": LEFT, "right joints": RIGHT, "middle": MIDDLE}
    add_legend(figure, legend if panels > 1 else {"labelled": TRUTH, "predicted": PREDICTION})
    return save(figure, path)
