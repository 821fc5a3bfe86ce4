"""Figures of a run: curves, the learned density, calibration, the scale factor against the size of people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpose.view.figures.base import pyplot, save
from jaxpose.view.palette import INK, LEFT, RIGHT

if TYPE_CHECKING:
    from jaxpose import density


def curves(events: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Loss, EPE or the terms of the loss, and AP against the step, from the events of a run's log.jsonl."""
    plt = pyplot()
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
    return save(figure, path)


def learned_density(model: density.Model, path: str | Path, *, bound: float = 4.0, points: int = 201) -> Path:
    """The learned density of the standardised error beside Laplace and Gaussian (RLE figure 4), 2D.

    All three in units of their own standard deviation: how wide the learned one is says little, because sigma and the
    flow share the scale (`jaxpose.losses.likelihood`); its shape is what is learned.
    """
    from jaxpose import density

    plt = pyplot()
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
    return save(figure, path)


def calibration(levels: np.ndarray, coverage: dict[str, np.ndarray], path: str | Path) -> Path:
    """Share of labels inside the predicted region of each level, against that level; the diagonal is calibrated."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.plot([0, 1], [0, 1], color=INK, lw=0.8)
    for name, values in coverage.items():
        axis.plot(levels, values, "o-", ms=3, label=name)
    axis.set(
        xlabel="level of the region", ylabel="share of labels inside", title="calibration", xlim=(0, 1), ylim=(0, 1)
    )
    axis.legend(fontsize=8)
    return save(figure, path)


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
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    axis.axhline(1, color=INK, lw=0.8)
    axis.plot(size, factor, "o", ms=2.5, alpha=0.4, color=RIGHT, mec="none")
    said = f"r = {r:.3f}" if np.isfinite(r) else "r undefined"
    axis.set(
        xlabel="size of the person (px)",
        ylabel=r"mean learned factor of $\sigma$",
        title=f"scale factor against size: {said}, {len(size)} people",
    )
    return save(figure, path)
