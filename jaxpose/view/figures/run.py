"""Figures of a run: curves, the learned density, calibration, the scale factor as a function of the size of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from jaxpose.view.figures.base import pyplot, save
from jaxpose.view.palette import INK, LEFT, RIGHT

if TYPE_CHECKING:
    from jaxpose import density


def curves(events: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Draws loss, EPE or the terms of the loss, and AP against the step, from the events of a run's log.jsonl."""
    plt = pyplot()
    train = [e for e in events if e["event"] == "train"]
    evals = [e for e in events if e["event"] == "eval" and "AP" in e]  # without annotations there is no AP
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    steps, losses = [e["step"] for e in train], [e["loss"] for e in train]
    axes[0].plot(steps, losses, color=RIGHT, lw=1)
    # Negative values surprise readers, but a density can exceed 1.
    note = "\nnegative log-likelihood, can be below 0" if min(losses, default=0) < 0 else ""
    axes[0].set(title=f"training loss{note}", xlabel="step")
    if train and "epe" in train[0]:
        axes[1].plot(steps, [e["epe"] for e in train], color=RIGHT, lw=1)
        axes[1].set(title="training EPE (input px)", xlabel="step")
    else:  # whole images: the terms of the loss, before their factors
        for term in ("map_loss", "scale_loss", "pull", "push"):
            axes[1].plot(steps, [e.get(term, np.nan) for e in train], lw=1, label=term)
        axes[1].set(title="terms of the loss", xlabel="step", yscale="log")
        axes[1].legend(fontsize=8)
    axes[2].plot([e["step"] for e in evals], [e["AP"] for e in evals], "o-", color=LEFT, ms=4)
    axes[2].set(title="AP on the evaluation set", xlabel="step", ylim=(0, 1))
    for axis in axes:  # the same steps in every panel
        axis.set_xlim(0, max([*steps, *(e["step"] for e in evals), 1]))
    return save(figure, path)


def learned_density(model: density.Model, path: str | Path, *, bound: float = 4.0, points: int = 201) -> Path:
    """Draws the learned density of the standardised error next to Laplace and Gaussian (RLE figure 4), in 2D.

    All three are in units of their own standard deviation. The width of the learned density is not informative, because sigma
    and the flow share the scale (`jaxpose.losses.likelihood`); only its shape is learned.

    Args:
        model: the density to draw, of two coordinates.
        path: path of the picture.
        bound: half the width of the panels, in standard deviations.
        points: grid points along each axis.

    Returns:
        The path.

    >>> from tempfile import mkdtemp
    >>> from jaxpose import density
    >>> learned_density(density.Model(log_g=None, base="laplace"), Path(mkdtemp()) / "density.png", points=21).name
    'density.png'
    """
    from jaxpose import density

    plt = pyplot()
    axis = np.linspace(-bound, bound, points, dtype=np.float32)
    e = np.stack(np.meshgrid(axis, axis), -1)
    moments = density.moments(model)
    deviation = moments.standard_deviation
    learned = np.exp(np.asarray(density.log_prob(moments.mean + e * deviation, model))) * deviation.prod()
    laplace = np.exp(-np.sqrt(2) * np.abs(e).sum(-1)) / 2
    gaussian = np.exp(-(e**2).sum(-1) / 2) / (2 * np.pi)
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), layout="constrained")
    for ax, values, title in zip(axes, (learned, laplace, gaussian), ("learned", "Laplace", "Gaussian"), strict=False):
        ax.imshow(values, origin="lower", extent=(-bound, bound, -bound, bound), cmap="viridis")
        ax.set(title=title, xlabel="$e_x$ / standard deviation", ylabel="$e_y$ / standard deviation")
    step = float(axis[1] - axis[0])
    for values, label, style, color in (
        (learned.sum(0), "learned, $e_x$", "-", RIGHT),
        (learned.sum(1), "learned, $e_y$", "-", LEFT),
        (laplace.sum(0), "Laplace", "--", INK),
        (gaussian.sum(0), "Gaussian", ":", INK),
    ):
        axes[3].plot(axis, values * step, style, label=label, color=color)
    axes[3].set(
        title=f"marginals\nlearned standard deviations {deviation[0]:.3f}, {deviation[1]:.3f}",
        xlabel="$e$ / standard deviation",
        ylabel="density",
    )
    axes[3].legend(fontsize=8)
    return save(figure, path)


def calibration(
    levels: np.ndarray, coverage: Mapping[str, ArrayLike], path: str | Path, *, title: str = "calibration"
) -> Path:
    """Draws the share of labels inside the predicted region of each level against that level; the diagonal is calibrated.

    Args:
        levels: ``(L,)`` levels of the regions, from 0 to 1.
        coverage: the ``(L,)`` shares of each group of labels, by the group's name; a group with only NaN or None is left out.
        path: path of the picture.
        title: title of the picture.

    Returns:
        The path.

    >>> from tempfile import mkdtemp
    >>> calibration(np.array([0.5, 0.9]), {"all": np.array([0.4, 0.9])}, Path(mkdtemp()) / "calibration.png").name
    'calibration.png'
    """
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.plot([0, 1], [0, 1], color=INK, lw=0.8)
    for i, (name, shares) in enumerate(coverage.items()):
        values = np.asarray(shares, np.float64)  # None, as in JSON, becomes NaN
        if np.isfinite(values).any():  # a group without labels has no curve
            # The first curve is wider, so that it is visible where another one has the same values.
            axis.plot(levels, values, "o-", ms=3, lw=1.5 if i else 4, alpha=1 if i else 0.5, label=name)
    axis.set(xlabel="level of the region", ylabel="share of labels inside", title=title, xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=8)
    return save(figure, path)


def scale_against_size(size: np.ndarray, factor: np.ndarray, path: str | Path, *, r: float) -> Path:
    """Draws the mean learned scale factor of every person against its size: whether small people get small factors.

    Args:
        size: (N,) sizes of the persons in pixels.
        factor: (N,) factors of sigma, the mean over a person's joints (`tasks.scale_factors`).
        path: path of the picture.
        r: Pearson's correlation of the two (`jaxpose.metrics.pearson`), for the title.

    Raises:
        ValueError: size and factor are not (N,) of the same length.

    >>> from tempfile import mkdtemp
    >>> size, factor = np.array([40.0, 90.0]), np.array([0.8, 1.1])
    >>> scale_against_size(size, factor, Path(mkdtemp()) / "scale_size.png", r=1.0).name
    'scale_size.png'
    """
    size, factor = np.asarray(size), np.asarray(factor)
    if size.ndim != 1 or size.shape != factor.shape:
        raise ValueError(f"size and factor must be (N,) of one length, got {size.shape} and {factor.shape}")
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.axhline(1, color=INK, lw=0.8)
    axis.plot(size, factor, "o", ms=2.5, alpha=0.4, color=RIGHT, mec="none")
    correlation = f"r = {r:.3f}" if np.isfinite(r) else "r undefined"
    axis.set(
        xlabel="size of the person (px)",
        ylabel=r"mean learned factor of $\sigma$",
        title=f"scale factor against size\n{correlation}, {len(size)} people",
    )
    return save(figure, path)
