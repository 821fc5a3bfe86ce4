"""Figures that compare runs or show a property of a method: bias, distances, bars, PCKh curves, truncation, target widths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxpose.skeleton import Skeleton
from jaxpose.view.figures.base import draw_pose, limit_to_image, printable, pyplot, save
from jaxpose.view.palette import DEVIATION, INK, PEOPLE, PREDICTION, TRUTH

Table = Mapping[str, Mapping[str, Mapping[str, Any]]]

SUB_BENCHMARKS = ("size_by_joints", "occlusion_by_joints")
"""The tables of a report that `sub_benchmarks` draws."""


def soft_argmax_bias(place: ArrayLike, size: int, *, beta: float, sigma: float = 2.0) -> np.ndarray:
    """Computes the bias of soft-argmax along one axis of a square map with one Gaussian bump of height 1, in closed form.

    The map is 0 outside the bump, where the softmax still has the weight 1 at each of the N = size^2 pixels. With
    S = sum over n >= 1 of beta^n / (n n!), the bump adds 2 pi sigma^2 S, so the background has the share
    r = N / (N + 2 pi sigma^2 S) and draws the coordinate towards the centre m = (size - 1) / 2 by r (m - place)
    (Gu 2021, equations 6 to 8, for pixels that count from 0). The sum over pixels is taken as an integral, so the
    rounding of a bump that the softmax makes narrower than a pixel, at a large beta between pixels, is not in it.

    Args:
        place: places of the mode in map pixels, any shape, some sigma away from the border.
        size: side of the map in pixels.
        beta: inverse temperature of the softmax.
        sigma: standard deviation of the bump in pixels.

    Returns:
        The bias in map pixels, of the shape of `place`.

    Raises:
        ValueError: a number is not positive, or beta is above 600, where the sum overflows.

    >>> round(float(soft_argmax_bias(10.0, 64, beta=10.0)), 2)
    1.32
    """
    if not (size > 0 and 0 < beta <= 600 and sigma > 0):
        raise ValueError(f"size={size}, beta={beta}, sigma={sigma}: expected positive numbers, beta at most 600")
    total, term, n = 0.0, 1.0, 0
    while n < beta or term > 1e-18 * total:
        n += 1
        term *= beta / n
        total += term / n
    share = size**2 / (size**2 + 2 * math.pi * sigma**2 * total)
    return share * ((size - 1) / 2 - np.asarray(place, np.float64))


def bias(
    path: str | Path, *, size: int = 64, sigma: float = 2.0, betas: Sequence[float] = (1.0, 5.0, 10.0, 20.0)
) -> Path:
    """Draws the bias of soft-argmax against the place of the mode, one line per beta (Gu 2021, figure 1).

    Args:
        path: path of the picture.
        size, sigma: the map and its bump, see `soft_argmax_bias`.
        betas: inverse temperatures of the softmax.

    Returns:
        The path.

    >>> from tempfile import mkdtemp
    >>> bias(Path(mkdtemp()) / "bias.png", betas=(1.0, 10.0)).name
    'bias.png'
    """
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5.6, 4.2))
    place = np.linspace(0, size - 1, 129)
    axis.axhline(0, color=INK, lw=0.8)
    for beta, color in zip(betas, _colors(len(betas)), strict=True):
        axis.plot(
            place, soft_argmax_bias(place, size, beta=beta, sigma=sigma), color=color, label=rf"$\beta$ = {beta:g}"
        )
    axis.set(
        title=f"bias of soft-argmax, {size} x {size} pixels, a bump of sigma {sigma:g} and height 1",
        xlabel="place of the mode (map px)",
        ylabel="bias (map px)",
    )
    axis.legend(fontsize=8)
    return save(figure, path)


def centre_distances(distance: ArrayLike, path: str | Path, *, title: str) -> Path:
    """Draws the distribution of the joints' distances from the centre of the crop (Gu 2021, figure 2).

    Args:
        distance: ``(N,)`` distances divided by the largest possible one, from the centre to a corner.
        path: path of the picture.
        title: name of the data.

    Returns:
        The path.

    Raises:
        ValueError: there is no distance.

    >>> from tempfile import mkdtemp
    >>> centre_distances([0.2, 0.5], Path(mkdtemp()) / "centre.png", title="two joints").name
    'centre.png'
    """
    distance = np.asarray(distance, np.float64)
    if not distance.size:
        raise ValueError("no labelled joint, so no distance to draw")
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5.6, 4.2))
    weights = np.full(distance.size, 1 / distance.size)
    axis.hist(distance, bins=np.linspace(0, max(1.0, distance.max()), 51), weights=weights, color=DEVIATION)
    axis.axvline(distance.mean(), color=INK, lw=0.8, ls="--", label=f"mean {distance.mean():.3f}")
    axis.set(
        title=printable(f"{title}: {distance.size} labelled joints"),
        xlabel="distance from the centre of the crop / half its diagonal",
        ylabel="share of the joints",
    )
    axis.legend(fontsize=8)
    return save(figure, path)


def sub_benchmarks(reports: Mapping[str, Mapping[str, Table]], path: str | Path) -> Path:
    """Draws the EPE of several runs side by side on every part of the benchmark (Gu 2021, figure 5).

    Args:
        reports: the report of each run, by name, as `jaxpose.evaluation.report.details` returns it. A part without labels has
            no bar.
        path: path of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no report.
    """
    if not reports:
        raise ValueError("no report to draw: give one or more")
    plt = pyplot()
    first = next(iter(reports.values()))
    figure, axes = plt.subplots(2, 1, figsize=(14, 7.5), layout="constrained")
    width = 0.8 / len(reports)
    for axis, name in zip(axes, SUB_BENCHMARKS, strict=True):
        everywhere = [(row, column) for row, columns in first[name].items() for column in columns]
        cells = [c for c in everywhere if any(np.isfinite(_epe(report[name], *c)) for report in reports.values())]
        for i, ((run, report), color) in enumerate(zip(reports.items(), _colors(len(reports)), strict=True)):
            heights = [_epe(report[name], row, column) for row, column in cells]
            axis.bar(np.arange(len(cells)) + (i - (len(reports) - 1) / 2) * width, heights, width, color=color,
                     label=printable(run))  # fmt: skip
        axis.set(
            title=f"EPE, image pixels: {name.replace('_', ' ')}",
            xticks=range(len(cells)),
            xlim=(-0.6, len(cells) - 0.4),
        )
        axis.set_xticklabels([f"{row}\n{column}" for row, column in cells], rotation=60, ha="right", fontsize=7)
        axis.legend(fontsize=8)
    return save(figure, path)


def pckh_curves(curves: Mapping[str, Mapping[str, ArrayLike]], path: str | Path) -> Path:
    """Draws PCKh against the threshold for several runs (Sun 2018, figure 3).

    Args:
        curves: "threshold" and "mean" of each run, by name, as `jaxpose.evaluation.mpii.pckh_curve` returns them.
        path: path of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no curve.

    >>> from tempfile import mkdtemp
    >>> pckh_curves({"a": {"threshold": [0.0, 0.5], "mean": [0.0, 0.9]}}, Path(mkdtemp()) / "pckh.png").name
    'pckh.png'
    """
    if not curves:
        raise ValueError("no curve to draw: give one or more")
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5.6, 4.2))
    for (run, curve), color in zip(curves.items(), _colors(len(curves)), strict=True):
        rates = np.asarray(curve["mean"], np.float64)
        label = printable(f"{run}: {rates[-1]:.3f} at 0.5, AUC {rates.mean():.3f}")
        axis.plot(curve["threshold"], rates, color=color, label=label)
    axis.set(
        title="PCKh", xlabel="threshold (head sizes)", ylabel="share of correct joints", xlim=(0, 0.5), ylim=(0, 1)
    )
    axis.legend(fontsize=8, loc="upper left")
    return save(figure, path)


def truncation(
    pictures: Sequence[np.ndarray],
    boxes: Sequence[ArrayLike],
    poses: Mapping[str, Sequence[np.ndarray]],
    skeleton: Skeleton,
    path: str | Path,
    *,
    truth: Sequence[np.ndarray] | None = None,
) -> Path:
    """Draws the poses that several nets predict from a part of each person, a row per net (Li 2021, figure 5).

    Args:
        pictures: N of (H, W, 3) uint8, each showing a whole person.
        boxes: N of x, y, w, h in pixels of the picture, the part that the nets were given.
        poses: N arrays (K, 2) in pixels of the picture for each run, by its name.
        skeleton: the skeleton of the poses.
        path: path of the picture.
        truth: N of (K, 2) labels, NaN where there is none.

    Returns:
        The path.

    Raises:
        ValueError: there is no picture or no run.
    """
    if not len(pictures) or not poses:
        raise ValueError(f"{len(pictures)} pictures of {len(poses)} runs: expected at least one of each")
    plt = pyplot()
    aspect = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure, axes = plt.subplots(
        len(poses),
        len(pictures),
        figsize=(2.0 * len(pictures), 2.0 * aspect * len(poses) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for row, (run, of_run) in zip(axes, poses.items(), strict=True):
        for i, axis in enumerate(row):
            axis.imshow(pictures[i])
            x, y, w, h = boxes[i]
            axis.add_patch(plt.Rectangle((x, y), w, h, fill=False, color=DEVIATION, lw=1.5))
            if truth is not None:
                draw_pose(axis, truth[i], skeleton, color=TRUTH, shown=np.isfinite(truth[i]).all(1), lw=0.8)
            draw_pose(axis, np.asarray(of_run[i]), skeleton, color=PREDICTION)
            limit_to_image(axis, pictures[i])
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(printable(run), fontsize=9)
    figure.suptitle("seen: inside the blue box alone; orange: predicted; green: labelled", fontsize=9)
    return save(figure, path)


def target_widths(people: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draws one joint of several persons under a Gaussian of fixed width, and of the width that a net adapts (Luo 2021, figure 1).

    Args:
        people: one mapping per person: "image" (H, W, 3) uint8; "fixed" and "adaptive", the two targets (H, W) in its pixels;
            "title".
        path: path of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is nobody.
    """
    if not people:
        raise ValueError("no person to draw: give one or more")
    plt = pyplot()
    figure, axes = plt.subplots(2, len(people), figsize=(2.4 * len(people), 5.4), squeeze=False, layout="constrained")
    for name, row in zip(("fixed", "adaptive"), axes, strict=True):
        for person, axis in zip(people, row, strict=True):
            values = np.asarray(person[name], np.float64)
            axis.imshow(person["image"])
            axis.imshow(values, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * np.clip(2 * values, 0, 1))
            limit_to_image(axis, person["image"])
            axis.set(xticks=[], yticks=[])
            if row is axes[0]:
                axis.set_title(printable(person["title"]), fontsize=8)
        row[0].set_ylabel(f"{name} width", fontsize=9)
    return save(figure, path)


def _epe(table: Table, row: str, column: str) -> float:
    value = table.get(row, {}).get(column, {}).get("EPE")
    return float("nan") if value is None else float(value)


def _colors(count: int) -> list[str]:
    return [str(PEOPLE[i % len(PEOPLE)]) for i in range(count)]
