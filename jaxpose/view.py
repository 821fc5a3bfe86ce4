"""Pictures of a run: curves, the learned density, calibration, predictions. Needs the extra `plot` (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose import density
from jaxpose.skeleton import Skeleton

INK, TRUTH, LEFT, RIGHT = "#222222", "#2a9d3f", "#e07a1f", "#2f6fb5"


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
    figure.savefig(path, dpi=110, bbox_inches="tight")
    _pyplot().close(figure)
    return path


def curves(events: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Loss and AP against the step, from the events of a run's log.jsonl."""
    plt = _pyplot()
    train = [e for e in events if e["event"] == "train"]
    evals = [e for e in events if e["event"] == "eval" and "AP" in e]  # without annotations there is none
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    for axis, key, title in ((axes[0], "loss", "training loss"), (axes[1], "epe", "training EPE (input px)")):
        axis.plot([e["step"] for e in train], [e[key] for e in train], color=RIGHT, lw=1)
        axis.set(title=title, xlabel="step")
    axes[2].plot([e["step"] for e in evals], [e["AP"] for e in evals], "o-", color=LEFT, ms=4)
    axes[2].set(title="AP on the evaluation set", xlabel="step", ylim=(0, 1))
    return _save(figure, path)


def learned_density(model: density.Model, path: str | Path, *, bound: float = 4.0, points: int = 201) -> Path:
    """The learned density of the standardised error beside Laplace and Gaussian (RLE figure 4), 2D.

    All three in units of their own standard deviation: how wide the learned one is says little, because sigma and the
    flow share the scale (`jaxpose.losses.likelihood`); its shape is what is learned.
    """
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


def draw_pose(axis, xy: np.ndarray, skeleton: Skeleton, *, color: str, shown: np.ndarray | None = None, lw=1.5) -> None:
    """One pose: limbs between the joints that are `shown` (K,) bool, coordinates (K, 2) in the picture's pixels."""
    shown = np.ones(len(xy), bool) if shown is None else np.asarray(shown, bool)
    for a, b in skeleton.limbs:
        if shown[a] and shown[b]:
            axis.plot(xy[[a, b], 0], xy[[a, b], 1], color=color, lw=lw, alpha=0.9)
    axis.plot(xy[shown, 0], xy[shown, 1], "o", color=color, ms=2.2)


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
