"""`jaxpose view maps`: draws a net's output before coordinates are computed from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxpose.data.formats import Choice
from jaxpose.view import figures

if TYPE_CHECKING:
    from jaxpose.inference import Settings

__all__ = ["maps"]

LEVELS = (0.5, 0.9)
AT_ONCE = 8  # number of images per call of the net
ON_A_SHEET = 8


def maps(
    run: Path,
    /,
    *,
    data: Path,
    split: str = "val",
    format: Choice = "coco",
    count: int = 4,
    seed: int = 0,
    step: Literal["best", "latest"] = "best",
    out: Path | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> None:
    """Draw a run's output before coordinates are computed: heatmaps, tags, scale maps, densities, proposals.

    For heatmaps: each joint's map over the crop. For a bottom-up net: heatmaps, tags and scale maps over the whole image. For a
    regression: every joint's standard deviation, and the regions that hold 50 % and 90 % of its predictive density, with the
    run's calibration of sigma. For a detector: the positive anchors, the best proposals and the boxes of each picture, and which share
    of the labelled boxes each step reaches at IoU 0.5. All are drawn without the flip test.

    Args:
        run: a run's folder.
        data: image folder and annotations.
        split: split of the data.
        format: format of the annotations; auto: detected from the content.
        count: number of crops or images.
        seed: seed that selects them.
        step: checkpoint to load.
        out: folder of the pictures; by default maps in the run's folder.
        on_bad: stop at a bad sample, or skip it, counted and logged.
    """
    from jaxpose import checkpoint, inference, tasks
    from jaxpose.data import formats

    if count < 1:
        raise ValueError(f"--count {count}: expected 1 or more")
    figures.require()
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs a lot
    variables, stored = checkpoint.restore_model(run, step=step)
    task = tasks.from_config(stored["task"])
    tasks.check_poses(task, run, detectors=True)
    if getattr(task, "dim", 2) == 3:
        raise ValueError(
            f"{run} predicts joints in space, whose regions are no areas of a picture: report.html of the run shows them "
            "(hands_in_space.html of hands), and space.html of jaxpose predict"
        )
    if task.level == "image" and "heatmap" not in task.outputs:
        raise ValueError(
            f"{run} predicts poses of whole pictures, no heatmaps and tags to draw: jaxpose predict draws its people"
        )
    reader = formats.choose(format, data, split)
    paths = reader.find(data, split, annotations=None, images=None)
    source = reader.read(*paths, split=split, skeleton=task.skeleton, on_bad=on_bad)
    out = Path(run) / "maps" if out is None else out
    is_crop = task.level == "person"
    settings, source = inference.from_checkpoint(stored), source.at_level("person" if is_crop else "image")
    further = {}
    if task.level == "detection":
        from jaxpose.view import regions

        indices = _select_indices(source, count, seed)
        pictures, further["reached"] = regions.draw(task, variables, source, indices, out / split)
    else:
        draw = _people if not is_crop else _heatmaps if hasattr(task, "maps") else _regions
        pictures = draw(task, variables, settings, source, count=count, seed=seed, out=out / split)
    facts = {
        "checkpoint_step": stored["step"],
        "family": task.family,
        "pictures": [str(path) for path in pictures],
        **further,
    }
    print(json.dumps(facts))


def _select_indices(source, count: int, seed: int) -> list[int]:
    from jaxpose.data import feed

    if len(source) == 0:
        raise ValueError(f"{source} has nothing to draw")
    return feed.sample_indices(np.arange(min(count, len(source))), num_samples=len(source), seed=seed)[0].tolist()


def _crops(source, size_wh: tuple[int, int], settings: Settings, count: int, seed: int) -> list[dict[str, Any]]:
    """Returns crops as in the evaluation, with NaN for unlabelled joints."""
    from jaxpose.data import crops

    options = {"size_wh": size_wh, "decode": settings.decode, "padding": settings.padding}
    samples = [crops.sample(source, i, **options) for i in _select_indices(source, count, seed)]
    return [
        sample | {"truth": np.where(sample["visibility"][:, None] > 0, sample["joints"], np.nan)} for sample in samples
    ]


def _outputs(function, variables, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Applies function(variables, (B, H, W, 3)) -> arrays to all images; jitted once."""
    import jax

    from jaxpose import inference

    step = jax.jit(function)
    samples = ({"image": image} for image in images)
    batches = inference.batches(samples, size=min(AT_ONCE, len(images)))
    return inference.run(lambda batch: step(variables, batch["image"]), batches, gather=False)


def _heatmaps(task, variables, settings, source, *, count: int, seed: int, out: Path) -> list[Path]:
    from jaxpose.tasks.supervision import pixels_per_cell

    samples = _crops(source, task.size_wh, settings, count, seed)

    def both(variables, images):
        outputs = task.predict(variables, {"image": images}, flip_test=False)
        return {"xy": outputs["xy"], "maps": task.maps(variables, images)}

    outputs, paths = _outputs(both, variables, [sample["image"] for sample in samples]), []
    cell = pixels_per_cell(task.size_wh, outputs["maps"].shape[1:3], target=task.map_loss.target)
    for sample, xy, heat in zip(samples, outputs["xy"], outputs["maps"], strict=True):
        paths.append(
            figures.joint_maps(
                sample["image"], heat, source.skeleton, out / f"person_{sample['annotation_id']}.png", poses=[xy],
                truth=[sample["truth"]], pixels_per_cell=tuple(np.broadcast_to(cell, 2)),
            )
        )  # fmt: skip
    return paths


def _regions(task, variables, settings, source, *, count: int, seed: int, out: Path) -> list[Path]:
    from jaxpose import density
    from jaxpose.view.overlay import outlines

    samples, size = _crops(source, task.size_wh, settings, count, seed), np.asarray(task.size_wh, np.float64)

    def predicted(variables, images):
        return task.predict(variables, {"image": images}, flip_test=False)

    outputs = _outputs(predicted, variables, [sample["image"] for sample in samples])
    model = task.density(variables)
    deviation = None if model is None else density.moments(model).standard_deviation
    curves = [] if model is None else [outlines(model, level) for level in LEVELS]  # in units of the standardised error
    entries = []
    for i, sample in enumerate(samples):
        xy, sigma = outputs["xy"][i].astype(np.float64), outputs["sigma"][i] * (settings.sigma_scale * size)
        title = f"person {sample['annotation_id']}" + ("" if model is not None else "\nits sigma is not trained")
        entry = {"image": sample["image"], "truth": sample["truth"], "xy": xy, "title": title}
        if model is not None:
            entry["deviation"] = sigma * deviation
            entry["outlines"] = [
                [[m + s * c for c in level] for m, s in zip(xy, sigma, strict=True)] for level in curves
            ]
        entries.append(entry)
    return [
        figures.joint_regions(
            entries[first : first + ON_A_SHEET],
            source.skeleton,
            out / f"density_{first // ON_A_SHEET + 1}.png",
            levels=LEVELS,
        )
        for first in range(0, len(entries), ON_A_SHEET)
    ]


def _people(task, variables, settings, source, *, count: int, seed: int, out: Path) -> list[Path]:
    from jaxpose import geometry
    from jaxpose.data import whole_images

    indices = _select_indices(source, count, seed)
    side = settings.side(task.size_wh)
    squares = [whole_images.eval_sample(source, i, size=side, fit="long") for i in indices]

    def everything(variables, images):
        maps = task.predict(variables, {"image": images}, flip_test=False)
        return maps | ({"factor": task.scale_factors(variables, images)} if task.learns_scale else {})

    maps = _outputs(everything, variables, [square["image"] for square in squares])
    stride = squares[0]["image"].shape[1] / maps["heatmap"].shape[2]
    people = task.people(maps, stride=stride)
    paths = []
    for i, (index, square) in enumerate(zip(indices, squares, strict=True)):
        rows = source.persons[source.persons["image"] == index]["keypoints"]
        xy = geometry.apply_affine(np.broadcast_to(square["affine"], (len(rows), 2, 3)), rows[..., :2])
        poses = people["poses"][i][people["valid"][i]]
        # Joints below the threshold are guesses of the refinement, anywhere in the image.
        poses = np.where(poses[..., 2:] > task.least_confidence, poses[..., :2], np.nan)
        heat, tags = maps["heatmap"][i], maps["tag"][i][..., 0]
        further = [_tag_panel(heat, tags, (stride, stride))]
        if task.learns_scale:
            factor = maps["factor"][i].mean(-1)
            reach = max(float(np.abs(factor - 1).max()), 0.05)  # a difference below 5 % stays nearly white
            cells = square["image"].shape[1] / factor.shape[1]
            further.append({
                "title": f"factor of sigma, 1 +- {reach:.2g}", "values": factor, "pixels_per_cell": (cells, cells),
                "cmap": "RdBu", "low": 1 - reach, "high": 1 + reach,
            })  # fmt: skip
        paths.append(
            figures.joint_maps(
                square["image"], heat, source.skeleton, out / f"image_{square['image_id']}.png", poses=list(poses),
                truth=list(np.where(rows[..., 2:] > 0, np.asarray(xy), np.nan)), further=further,
                pixels_per_cell=(stride, stride),
            )
        )  # fmt: skip
    return paths


def _tag_panel(heat: np.ndarray, tags: np.ndarray, pixels_per_cell: tuple[float, float]) -> dict[str, Any]:
    """Returns a panel with the tag of the strongest joint at every pixel; its opacity is the strength of that joint."""
    peaks = np.maximum(heat.max((0, 1)), 1e-12)
    light = np.clip(heat / peaks, 0, 1)
    strongest = light.argmax(-1)[..., None]
    values = np.take_along_axis(tags, strongest, -1)[..., 0]
    alpha = light.max(-1)
    seen = values[alpha > 0.3] if (alpha > 0.3).any() else values.ravel()
    low, high = (float(v) for v in np.percentile(seen, (2, 98)))
    return {
        "title": f"tags, {low:.2g} to {high:.2g}", "values": values, "alpha": alpha, "pixels_per_cell": pixels_per_cell,
        "cmap": "turbo", "low": low, "high": max(high, low + 1e-6),
    }  # fmt: skip
