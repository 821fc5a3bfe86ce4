"""The figures: curves, the learned density, calibration, predictions, maps. Needs the extra `plot` (matplotlib).

JAX is imported by those alone that evaluate a density.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpose.skeleton import Skeleton

if TYPE_CHECKING:
    from jaxpose import density

MIDDLE = "#f2c318"
INK, TRUTH, LEFT, RIGHT = "#222222", "#2a9d3f", "#e07a1f", "#2f6fb5"
DPI = 110
PERSONS = (LEFT, RIGHT, "#d4308e", "#8b5cd6", "#f2c318", "#18b6c9", "#c0392b", "#8d6e63")  # in turn; none is green


def require() -> None:
    """Raise an ImportError that says what to install, where pictures cannot be drawn; before hours of training."""
    _pyplot()


def _pyplot():
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'jaxpose[plot]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
    _pyplot().close(figure)
    return path


def curves(events: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Loss, EPE or the terms of the loss, and AP against the step, from the events of a run's log.jsonl."""
    plt = _pyplot()
    train = [e for e in events if e["event"] == "train"]
    evals = [e for e in events if e["event"] == "eval" and "AP" in e]  # without annotations there is none
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    steps = [e["step"] for e in train]
    axes[0].plot(steps, [e["loss"] for e in train], color=RIGHT, lw=1)
    axes[0].set(title="training loss", xlabel="step")
    if train and "epe" in train[0]:
        axes[1].plot(steps, [e["epe"] for e in train], color=RIGHT, lw=1)
        axes[1].set(title="training EPE (input px)", xlabel="step")
    else:  # whole images: what the loss is made of, before its factors
        for term in ("map_loss", "scale_loss", "pull", "push"):
            axes[1].plot(steps, [e.get(term, np.nan) for e in train], lw=1, label=term)
        axes[1].set(title="terms of the loss", xlabel="step", yscale="log")
        axes[1].legend(fontsize=8)
    axes[2].plot([e["step"] for e in evals], [e["AP"] for e in evals], "o-", color=LEFT, ms=4)
    axes[2].set(title="AP on the evaluation set", xlabel="step", ylim=(0, 1))
    return _save(figure, path)


def learned_density(model: density.Model, path: str | Path, *, bound: float = 4.0, points: int = 201) -> Path:
    """The learned density of the standardised error beside Laplace and Gaussian (RLE figure 4), 2D.

    All three in units of their own standard deviation: how wide the learned one is says little, because sigma and the
    flow share the scale (`jaxpose.losses.likelihood`); its shape is what is learned.
    """
    from jaxpose import density

    plt = _pyplot()
    axis = np.linspace(-bound, bound, points, dtype=np.float32)
    e = np.stack(np.meshgrid(axis, axis), -1)
    found = density.moments(model)
    deviation = found.standard_deviation
    learned = np.exp(np.asarray(density.log_prob(found.mean + e * deviation, model))) * deviation.prod()
    laplace = np.exp(-np.sqrt(2) * np.abs(e).sum(-1)) / 2
    gaussian = np.exp(-(e**2).sum(-1) / 2) / (2 * np.pi)
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8))
    for ax, values, title in zip(axes, (learned, laplace, gaussian), ("learned", "Laplace", "Gaussian"), strict=False):
        ax.imshow(values, origin="lower", extent=(-bound, bound, -bound, bound), cmap="viridis")
        ax.set(title=title, xlabel="$e_x$ / its deviation", ylabel="$e_y$ / its deviation")
    step = float(axis[1] - axis[0])
    for values, label, style in ((learned, "learned", "-"), (laplace, "Laplace", "--"), (gaussian, "Gaussian", ":")):
        axes[3].plot(axis, values.sum(0) * step, style, label=f"{label}, $e_x$")
    axes[3].plot(axis, learned.sum(1) * step, "-", label="learned, $e_y$", color=LEFT)
    axes[3].set(
        title=f"marginals (learned deviation {deviation[0]:.3f}, {deviation[1]:.3f})", xlabel="e / its deviation"
    )
    axes[3].legend(fontsize=8)
    return _save(figure, path)


def calibration(levels: np.ndarray, coverage: dict[str, np.ndarray], path: str | Path) -> Path:
    """Share of labels inside the predicted region of each level, against that level; the diagonal is calibrated."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.plot([0, 1], [0, 1], color=INK, lw=0.8)
    for name, values in coverage.items():
        axis.plot(levels, values, "o-", ms=3, label=name)
    axis.set(
        xlabel="level of the region", ylabel="share of labels inside", title="calibration", xlim=(0, 1), ylim=(0, 1)
    )
    axis.legend(fontsize=8)
    return _save(figure, path)


def draw_pose(
    axis,
    xy: np.ndarray,
    skeleton: Skeleton,
    *,
    color: str | Sequence[str],
    shown: np.ndarray | None = None,
    lw=1.5,
) -> None:
    """One pose: limbs between the joints that are `shown` (K,) bool, coordinates (K, 2) in the picture's pixels.

    `color` is that of the pose, or K of the joints; a limb has that of its second joint, or of its first where the second
    is in the middle of the body.
    """
    shown = np.ones(len(xy), bool) if shown is None else np.asarray(shown, bool)
    colors = [color] * len(xy) if isinstance(color, str) else list(color)
    for a, b in skeleton.limbs:
        if shown[a] and shown[b]:
            ink = colors[a] if colors[b] == MIDDLE else colors[b]
            axis.plot(xy[[a, b], 0], xy[[a, b], 1], color=ink, lw=lw, alpha=0.9)
    for ink in dict.fromkeys(colors):
        mine = shown & [other == ink for other in colors]
        axis.plot(xy[mine, 0], xy[mine, 1], "o", color=ink, ms=2.2)


def sides(skeleton: Skeleton) -> list[str]:
    """A colour for every joint: left orange, right blue, others yellow; by name, so that a wrong mirror shows.

    >>> from jaxpose.skeleton import COCO17
    >>> sides(COCO17)[0] == MIDDLE, sides(COCO17)[1] == LEFT, sides(COCO17)[2] == RIGHT
    (True, True, True)
    """
    pairs = {joint for pair in skeleton.flip_pairs for joint in pair}
    names = [re.sub(r"[^a-z]", "", name.lower()) for name in skeleton.joints]
    side = lambda name: LEFT if name.startswith("l") or "left" in name else RIGHT  # noqa: E731
    return [side(name) if k in pairs else MIDDLE for k, name in enumerate(names)]


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
    """Crops (N, H, W, 3) with predicted poses (N, K, 2), their mean confidence, the truth in green, and
    the standard deviation of each joint (N, K, 2) as an ellipse."""
    plt = _pyplot()
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
        draw_pose(ax, xy[i], skeleton, color=LEFT)
        if deviation_px is not None:
            for centre, size in zip(xy[i], deviation_px[i], strict=True):
                ax.add_patch(Ellipse(centre, *(2 * size), fill=False, color=RIGHT, lw=0.6))
        ax.set_title(f"{confidence[i].mean():.2f}", fontsize=8)
        ax.set_xlim(-0.5, images.shape[2] - 0.5)
        ax.set_ylim(images.shape[1] - 0.5, -0.5)
    return _save(figure, path)


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
    """Whole images with everybody found in them, each person in a colour of its own, the labelled ones in green.

    The title of an image says how many people were found, and how many are labelled (with any joint).

    Args:
        images: N of (H, W, 3) uint8, of any sizes.
        poses: N of (P, K, 3): x, y in the image's pixels, confidence. Joints of confidence 0 are not drawn, nor their
            limbs; nobody found is (0, K, 3).
        skeleton: of the poses.
        path: of the picture.
        truth: N of (P, K, 2) or more columns: x, y of the labelled people, in pixels.
        labelled: N of (P, K) bool, which joints of `truth` are labelled; None: all.
        scores: N of (P,), written at each pose.
        columns: images side by side.

    Raises:
        ValueError: not as many entries as images, or of other shapes.

    >>> from tempfile import mkdtemp
    >>> image, pose = np.zeros((32, 48, 3), np.uint8), np.full((1, 17, 3), 16.0)
    >>> from jaxpose.skeleton import COCO17
    >>> people([image], [pose], COCO17, Path(mkdtemp()) / "people.png").name
    'people.png'
    """
    _one_per_image(len(images), poses=poses, truth=truth, labelled=labelled, scores=scores)
    shapes = [("poses", poses, 3), *([("truth", truth, 2)] if truth is not None else [])]
    for name, entries, least in shapes:
        for i, entry in enumerate(entries):
            shape = np.shape(entry)
            if len(shape) != 3 or shape[1] != skeleton.num_joints or shape[2] < least:
                expected = f"(P, {skeleton.num_joints}, {least})"
                raise ValueError(f"{name}[{i}] is {shape}, expected {expected} for skeleton {skeleton.name!r}")
    figure, axes = _grid(len(images), columns, aspect=_aspect(images), width=3.0)
    for i, ax in zip(range(len(images)), axes.flat, strict=False):
        ax.imshow(images[i])
        title = f"found {len(poses[i])}"
        if truth is not None:
            shown = np.ones(np.shape(truth[i])[:2], bool) if labelled is None else np.asarray(labelled[i], bool)
            for xy, where in zip(truth[i], shown, strict=True):
                draw_pose(ax, np.asarray(xy), skeleton, color=TRUTH, shown=where, lw=1)
            title += f", labelled {int(shown.any(axis=1).sum())}"
        for j, pose in enumerate(np.asarray(poses[i])):
            color, shown = PERSONS[j % len(PERSONS)], pose[:, 2] > 0
            draw_pose(ax, pose[:, :2], skeleton, color=color, shown=shown)
            if scores is not None and shown.any():
                x, y = pose[shown][pose[shown, 1].argmin(), :2]
                where = dict(xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", annotation_clip=True)
                where["bbox"] = dict(facecolor="white", alpha=0.7, pad=0.4, lw=0)
                ax.annotate(f"{float(scores[i][j]):.2f}", (x, y), color=color, fontsize=6, weight="bold", **where)
        ax.set_title(title, fontsize=8)
        _whole(ax, images[i])
    return _save(figure, path)


def scale_maps(
    images: Sequence[np.ndarray],
    factors: Sequence[np.ndarray],
    path: str | Path,
    *,
    joints: Sequence[np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    columns: int = 4,
) -> Path:
    """Every image beside the map of what multiplies sigma there (`tasks.scale_factors`; SWAHR figure 5), with one colour bar for all.

    White is 1, the base sigma; red is smaller (for small people, in the figure), blue larger. The figure shows the
    reciprocal, each image normalised by itself; here colours compare between images. They reach as far from 1 as 99.5 %
    of all pixels do: few extreme ones do not blanch the rest.

    Args:
        images: N of (H, W, 3) uint8, of any sizes.
        factors: (N, h, w), or N of (h, w), finite, of any resolution: shown as large as the image. (The mean of the
            channels, in the figure.)
        path: of the picture.
        joints: N of (P, K, 3): x, y in the image's pixels, visibility; those above 0 are drawn as dots.
        names: N titles.
        columns: pairs side by side.

    Raises:
        ValueError: not as many entries as images; a map that is not (h, w) or not finite.

    >>> from tempfile import mkdtemp
    >>> image, factor = np.zeros((32, 48, 3), np.uint8), np.full((8, 12), 0.9)
    >>> scale_maps([image], [factor], Path(mkdtemp()) / "scale_maps.png").name
    'scale_maps.png'
    """
    _one_per_image(len(images), factors=factors, joints=joints, names=names)
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
    figure, axes = _grid(2 * len(images), 2 * columns, aspect=_aspect(images), width=1.9, layout="constrained")
    for i, image in enumerate(images):
        left, right = axes.flat[2 * i], axes.flat[2 * i + 1]
        height, width = image.shape[:2]
        left.imshow(image)
        shown = right.imshow(maps[i], cmap="RdBu", norm=norm, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        if joints is not None:
            dots = np.asarray(joints[i], np.float64).reshape(-1, 3)
            dots = dots[dots[:, 2] > 0]
            for ax in (left, right):
                ax.plot(dots[:, 0], dots[:, 1], "o", color=TRUTH, ms=1.8)
        if names is not None:
            left.set_title(names[i], fontsize=8, parse_math=False)
        right.axis("on")  # a frame: where alpha is 0 the map is as white as the paper
        right.set(xticks=[], yticks=[])
        for ax in (left, right):
            _whole(ax, image)
    figure.colorbar(shown, ax=axes, extend="both", shrink=0.8, label=r"learned factor of $\sigma$")
    return _save(figure, path)


def scale_against_size(size: np.ndarray, factor: np.ndarray, path: str | Path, *, r: float) -> Path:
    """The mean learned scale factor of every person against its size: whether small people get small factors.

    Args:
        size: (N,) of the persons, in pixels.
        factor: (N,) mean over a person's joints of what multiplies sigma (`tasks.scale_factors`).
        path: of the picture.
        r: Pearson's correlation of the two (`jaxpose.metrics.pearson`), for the title.

    Raises:
        ValueError: not one size and one factor each.

    >>> from tempfile import mkdtemp
    >>> size, factor = np.array([40.0, 90.0]), np.array([0.8, 1.1])
    >>> scale_against_size(size, factor, Path(mkdtemp()) / "scale_size.png", r=1.0).name
    'scale_size.png'
    """
    size, factor = np.asarray(size), np.asarray(factor)
    if size.ndim != 1 or size.shape != factor.shape:
        raise ValueError(f"size and factor must be (N,) of one length, got {size.shape} and {factor.shape}")
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.axhline(1, color=INK, lw=0.8)
    axis.plot(size, factor, "o", ms=2.5, alpha=0.4, color=RIGHT, mec="none")
    said = f"r = {r:.3f}" if np.isfinite(r) else "r undefined"
    axis.set(
        xlabel="size of the person (px)",
        ylabel=r"mean learned factor of $\sigma$",
        title=f"scale factor against size: {said}, {len(size)} people",
    )
    return _save(figure, path)


def tile_sheet(pictures: Sequence[np.ndarray], titles: Sequence[str], path: str | Path, *, columns: int = 4) -> Path:
    """Pictures of one size with a title each, none of them changed.

    Args:
        pictures: N of (h, w, 3) uint8.
        titles: N, shown as they are.
        path: of the sheet.
        columns: pictures side by side.

    Raises:
        ValueError: no pictures, or not as many titles.

    >>> from tempfile import mkdtemp
    >>> tile_sheet([np.zeros((8, 8, 3), np.uint8)], ["$x^"], Path(mkdtemp()) / "sheet.png").name
    'sheet.png'
    """
    _one_per_image(len(pictures), titles=titles)
    lines = max(title.count("\n") for title in titles)
    figure, axes = _grid(
        len(pictures),
        columns,
        aspect=_aspect(pictures) + 0.05 * lines,
        width=pictures[0].shape[1] / DPI + 0.15,
        layout="constrained",
    )
    for picture, title, ax in zip(pictures, titles, axes.flat, strict=False):
        ax.imshow(picture)
        ax.set_title(printable(title), fontsize=8, parse_math=False)
    return _save(figure, path)


def annotations(samples: Sequence[dict[str, Any]], skeleton: Skeleton, path: str | Path, *, columns: int = 4) -> Path:
    """Images with their labels: every person in a colour, visible joints filled, hidden ones hollow, boxes dashed.

    Where there is one person and no box, a crop, the left side is orange and the right side blue.

    Args:
        samples: N of image (H, W, 3) uint8; joints (P, K, 2) and visibility (P, K), image pixels; title; and, where there
            are any, boxes (P, 4) x, y, w, h and shaded (H, W) bool, the pixels that do not count.
        skeleton: of the joints.
        path: of the sheet.
        columns: images side by side.

    Raises:
        ValueError: no samples.

    >>> from tempfile import mkdtemp
    >>> from jaxpose.skeleton import COCO17
    >>> sample = {"image": np.zeros((32, 48, 3), np.uint8), "title": "a", "joints": np.full((1, 17, 2), 16.0)}
    >>> annotations([sample | {"visibility": np.ones((1, 17))}], COCO17, Path(mkdtemp()) / "labels.png").name
    'labels.png'
    """
    _one_per_image(len(samples))
    require()
    from matplotlib.patches import Rectangle

    images = [sample["image"] for sample in samples]
    figure, axes = _grid(
        len(samples), columns, aspect=_aspect(images), width=12.0 / columns + 0.3, layout="constrained"
    )
    for sample, ax in zip(samples, axes.flat, strict=False):
        ax.imshow(sample["image"])
        if "shaded" in sample and sample["shaded"].any():
            _shade(ax, sample["shaded"])
        for j, (xy, seen) in enumerate(zip(sample["joints"], sample["visibility"], strict=True)):
            color = PERSONS[j % len(PERSONS)]
            if (seen > 0).any():
                crop = len(sample["joints"]) == 1 and "boxes" not in sample and "shaded" not in sample
                colors = sides(skeleton) if crop else [color] * len(xy)
                draw_pose(ax, xy, skeleton, color=colors, shown=seen > 0, lw=1.2)
                for k in np.flatnonzero(seen == 1):
                    ax.plot(*xy[k], "o", mfc="white", mec=colors[k], ms=3.4, mew=0.9)
            if "boxes" in sample:
                x, y, w, h = sample["boxes"][j]
                edge = color if (seen > 0).any() else "white"
                ax.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, ec=edge, lw=0.9, ls="--"))
        ax.set_title(printable(sample["title"]), fontsize=7, parse_math=False)
        _whole(ax, sample["image"])
    return _save(figure, path)


def _shade(ax, shaded: np.ndarray) -> None:
    """Dark with light stripes, where `shaded` (H, W)."""
    rows, columns = np.indices(shaded.shape)
    period = max(6, min(shaded.shape) // 24)
    stripe = (rows + columns) % period < period / 4
    veil = np.zeros((*shaded.shape, 4), np.float32)
    veil[shaded & ~stripe] = (0.05, 0.05, 0.12, 0.62)
    veil[shaded & stripe] = (0.85, 0.85, 0.95, 0.55)
    ax.imshow(veil)


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
    """One image with its heatmaps over it: first all joints together, then one by one, each as bright as its own peak.

    Args:
        image: (H, W, 3) uint8.
        maps: (h, w, K), finite.
        skeleton: of the K joints.
        path: of the picture.
        pixels_per_cell: input pixels from one cell of the maps to the next, x and y; cell 0 is at pixel 0.
        poses: predicted, each (K, 2) image pixels, or NaN: dark crosses, and the pose on the first picture.
        truth: labelled, likewise: green circles.
        further: panels after the first: title, values (h', w'), pixels_per_cell, and, where they are wanted, alpha (h', w')
            in [0, 1], cmap, low, high.
        columns: pictures side by side.

    Raises:
        ValueError: maps of another shape, or not finite.

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
    figure, axes = _grid(count, columns, aspect=aspect, width=2.0, layout="constrained")
    panels = iter(axes.flat)

    def panel(title: str):
        ax = next(panels)
        ax.set_title(printable(title), fontsize=7, parse_math=False)
        ax.imshow(image)
        _whole(ax, image)
        return ax

    ax = panel("prediction, truth" if len(truth) else "prediction")
    for xy in truth:
        draw_pose(ax, xy, skeleton, color=TRUTH, shown=np.isfinite(xy).all(-1), lw=1)
    for j, xy in enumerate(poses):
        color = LEFT if len(poses) == 1 else PERSONS[j % len(PERSONS)]
        draw_pose(ax, xy, skeleton, color=color, shown=np.isfinite(xy).all(-1), lw=1.2)
    # Each map by its own peak, else one strong joint blanches the rest.
    peaks = np.maximum(maps.max((0, 1)), 1e-12)
    light = np.clip(maps / peaks, 0, 1)
    _over(panel("all joints, each by its peak"), light.max(-1), light.max(-1), pixels_per_cell)
    for entry in further:
        options = {key: entry[key] for key in ("cmap", "low", "high") if key in entry}
        _over(panel(entry["title"]), entry["values"], entry.get("alpha"), entry["pixels_per_cell"], **options)
    for k, name in enumerate(skeleton.joints):
        ax = panel(f"{name}  {maps[..., k].max():.2g}")
        _over(ax, light[..., k], light[..., k], pixels_per_cell)
        for width, ring, cross in ((2.6, "white", "white"), (1.2, TRUTH, INK)):  # a rim: seen on any colour
            for xy in truth:
                ax.plot(*xy[k], "o", mfc="none", mec=ring, ms=6, mew=width)
            for xy in poses:
                ax.plot(*xy[k], "x", color=cross, ms=5, mew=width)
    return _save(figure, path)


def _over(ax, values, alpha, pixels_per_cell, *, cmap: str = "inferno", low=0.0, high=1.0) -> None:
    """Values over the picture: opaque where alpha is 1, a darkened picture where it is 0."""
    h, w = values.shape
    (sx, sy), (x, y) = pixels_per_cell, (ax.get_xlim(), ax.get_ylim())
    extent = (-0.5 * sx, (w - 0.5) * sx, (h - 0.5) * sy, -0.5 * sy)
    ax.imshow(np.zeros((1, 1)), cmap="gray", alpha=0.35, extent=(*x, *y), vmin=0, vmax=1)
    veil = None if alpha is None else 0.92 * np.sqrt(alpha)  # the flank of a peak is seen too
    ax.imshow(values, cmap=cmap, alpha=veil, extent=extent, vmin=low, vmax=high, interpolation="nearest")
    ax.set_xlim(*x)
    ax.set_ylim(*y)


def joint_regions(
    samples: Sequence[dict[str, Any]], skeleton: Skeleton, path: str | Path, *, levels: Sequence[float] = ()
) -> Path:
    """Crops with what a regression says of each joint: the pose; its deviations as ellipses; the regions of its density.

    Args:
        samples: N of image (H, W, 3) uint8, xy (K, 2), truth (K, 2, NaN where unlabelled), title; and where sigma is trained,
            deviation (K, 2) pixels, and outlines: for each level a list of K lists of (n, 2) closed lines, pixels.
        skeleton: of the joints.
        path: of the sheet.
        levels: masses of the regions, for the titles.

    Raises:
        ValueError: no samples.

    >>> from tempfile import mkdtemp
    >>> from jaxpose.skeleton import COCO17
    >>> xy = np.full((17, 2), 8.0)
    >>> sample = {"image": np.zeros((16, 12, 3), np.uint8), "title": "a", "xy": xy, "truth": xy}
    >>> joint_regions([sample], COCO17, Path(mkdtemp()) / "regions.png").name
    'regions.png'
    """
    _one_per_image(len(samples))
    require()
    from matplotlib.patches import Ellipse

    panels = 3 if "deviation" in samples[0] else 1
    aspect = _aspect([sample["image"] for sample in samples])
    across = panels * max(1, min(len(samples), 6 // panels))
    figure, axes = _grid(panels * len(samples), across, aspect=aspect, width=2.6, layout="constrained")
    said = " and ".join(f"{level:.0%}" for level in levels)
    colors = sides(skeleton)
    for sample, row in zip(samples, axes.reshape(-1, panels), strict=False):
        titles = (sample["title"], "standard deviation", f"regions of {said}")
        for ax, title in zip(row, titles, strict=False):
            ax.imshow(sample["image"])
            ax.set_title(printable(title), fontsize=7, parse_math=False)
            _whole(ax, sample["image"])
            draw_pose(ax, sample["truth"], skeleton, color=TRUTH, shown=np.isfinite(sample["truth"]).all(-1), lw=0.9)
        draw_pose(row[0], sample["xy"], skeleton, color=LEFT)
        if panels == 1:
            continue
        for k, (centre, size) in enumerate(zip(sample["xy"], sample["deviation"], strict=True)):
            row[1].add_patch(Ellipse(centre, *(2 * size), fill=False, color=colors[k], lw=1))
            row[1].plot(*centre, "o", color=colors[k], ms=1.8)
        for width, joints in zip(np.linspace(1.3, 0.6, len(levels)), sample["outlines"], strict=True):
            for k, pieces in enumerate(joints):
                for line in pieces:
                    row[2].plot(*np.asarray(line).T, color=colors[k], lw=width)
    return _save(figure, path)


def printable(text: str) -> str:
    """A name out of somebody's file, as a title can show it: what is no character becomes one, and what is long is cut.

    >>> printable("a\\x00b" + "c" * 99)[:4], len(printable("c" * 99))
    ('a?bc', 60)
    """
    lines = [line if len(line) <= 60 else line[:29] + "\u2026" + line[-30:] for line in text.split("\n")]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _one_per_image(count: int, **entries: Sequence | None) -> None:
    if not count:
        raise ValueError("no images to draw: give one or more")
    for name, values in entries.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{name} must have one entry for each of the {count} images, got {len(values)}")


def _aspect(images: Sequence[np.ndarray]) -> float:
    """Height of the cells for a width of 1: that of the middle image."""
    return float(np.median([image.shape[0] / image.shape[1] for image in images]))


def _grid(count: int, columns: int, *, aspect: float, width: float, **options: Any):
    """A figure of `count` cells without axes, each `width` inches wide, at most `columns` side by side."""
    plt = _pyplot()
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns, (width * aspect + 0.25) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for ax in axes.flat:
        ax.axis("off")
    return figure, axes


def _whole(ax, image: np.ndarray) -> None:
    """The image and nothing beyond it."""
    ax.set_xlim(-0.5, image.shape[1] - 0.5)
    ax.set_ylim(image.shape[0] - 0.5, -0.5)
