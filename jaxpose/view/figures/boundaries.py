"""Figures of boundaries in scans: the scan beside itself with boundaries and bands, and the curves of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.view.figures.base import limit_to_image, printable, pyplot, save
from jaxpose.view.palette import LEFT, RIGHT, TRUTH

COLOR_MAP = "turbo"


def scan_boundaries(
    image: np.ndarray,
    rows: np.ndarray,
    path: str | Path,
    *,
    names: Sequence[str],
    bands: tuple[np.ndarray, np.ndarray] | None = None,
    labels: np.ndarray | None = None,
    title: str = "",
    band_title: str = "90 % bands",
) -> Path:
    """Draws a scan, and beside it the same scan with predicted boundaries, their bands, and the labels.

    Args:
        image: (H, W) scan.
        rows: (W, K) predicted rows in pixels of the scan.
        path: path of the picture.
        names: names of the K boundaries.
        bands: lowest and highest row (W, K) of each band; None: no bands.
        labels: (W, K) labelled rows, NaN where there is none; None: no labels.
        title: title of the picture.
        band_title: name of the bands.

    Returns:
        The path.

    Raises:
        ValueError: the shapes differ.

    >>> from tempfile import mkdtemp
    >>> scan_boundaries(np.zeros((9, 5)), np.ones((5, 1)), Path(mkdtemp()) / "scan.png", names=["ILM"]).name
    'scan.png'
    """
    expected = (image.shape[1], len(names))
    for name, value in {"rows": rows, "labels": labels, "bands": None if bands is None else bands[0]}.items():
        if value is not None and value.shape != expected:
            raise ValueError(
                f"{name} of shape {value.shape}, expected {expected} for the scan {image.shape} and {len(names)} names"
            )
    plt = pyplot()
    # The part of the scan with the retina, because scans are mostly dark.
    low, high = np.nanmin(rows) - 25, np.nanmax(rows) + 25
    figure, axes = plt.subplots(1, 2, figsize=(13, 13 / 2 * np.clip((high - low) / image.shape[1], 0.25, 1.2) + 0.6))
    columns = np.arange(image.shape[1])
    colors = plt.get_cmap(COLOR_MAP)(np.linspace(0.08, 0.95, len(names)))
    for axis in axes:
        axis.imshow(image, cmap="gray", aspect="auto")
        axis.axis("off")
        limit_to_image(axis, image)
        axis.set_ylim(min(high, len(image) - 0.5), max(low, -0.5))
    for k, (name, color) in enumerate(zip(names, colors, strict=True)):
        axes[1].plot(columns, rows[:, k], color=color, lw=1, label=name)
        if bands is not None:
            axes[1].fill_between(columns, bands[0][:, k], bands[1][:, k], color=color, alpha=0.35, lw=0)
        if labels is not None:
            axes[1].plot(columns, labels[:, k], ".", color="white", ms=1)
    axes[0].set_title(printable(title), fontsize=9)
    parts = [
        "predicted boundaries",
        *([band_title] if bands is not None else []),
        *(["labels (white)"] if labels is not None else []),
    ]
    axes[1].set_title(", ".join(parts), fontsize=9)
    axes[1].legend(fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return save(figure, path)


def scan_curves(events: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Draws the loss, the error of the training batches, and the errors of the evaluations against the step."""
    plt = pyplot()
    train = [e for e in events if e["event"] == "train"]
    evals = [e for e in events if e["event"] == "eval" and "error_um" in e]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    steps = [e["step"] for e in train]
    axes[0].plot(steps, [e["loss"] for e in train], color=RIGHT, lw=1)
    axes[0].set(title="training loss", xlabel="step")
    axes[1].plot(steps, [e["error"] for e in train], color=RIGHT, lw=1, label="error")
    axes[1].plot(steps, [e["sigma"] for e in train], color=LEFT, lw=1, label="sigma")
    axes[1].set(title="training batches (px)", xlabel="step", yscale="log")
    axes[1].legend(fontsize=8)
    for name, color, label in (("error_um", LEFT, "from the labels"), ("true_error_um", TRUTH, "from the truth")):
        if evals and name in evals[0]:
            axes[2].plot([e["step"] for e in evals], [e[name] for e in evals], "o-", ms=4, color=color, label=label)
    axes[2].set(title="mean error of the evaluation (µm)", xlabel="step", ylim=(0, None))
    if evals:
        axes[2].legend(fontsize=8)
    return save(figure, path)
