"""`jaxpose view maps`: what the net of a run says before coordinates are made of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpose.view import figures

__all__ = ["maps"]

LEVELS = (0.5, 0.9)
AT_ONCE = 8  # images per call of the net
ON_A_SHEET = 8


def maps(
    run: Path,
    /,
    *,
    data: Path,
    split: str = "val",
    format: Literal["coco", "mpii", "crowdpose"] = "coco",
    count: int = 4,
    seed: int = 0,
    step: Literal["best", "latest"] = "best",
    out: Path | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> None:
    """Draw what a run's net says before coordinates are made of it: heatmaps, tags, scale maps, densities.

    Of heatmaps: each joint's map over the crop. Of a bottom-up net: heatmaps, tags and scale maps over the whole image. Of a
    regression: every joint's standard deviation, and the regions that hold 50 % and 90 % of its predictive density. Without the
    flip test.

    Args:
      run: a run's folder.
      data: image folder and annotations.
      split: of the data.
      format: of the annotations.
      count: so many crops or images.
      seed: which ones.
      step: which checkpoint.
      out: folder of the pictures; by default maps in the run's folder.
      on_bad: stop at a bad sample, or skip it, counted and logged.
    """
    from jaxpose import checkpoint, tasks
    from jaxpose.data.formats import coco, crowdpose, mpii
    from jaxpose.skeleton import Skeleton

    if count < 1:
        raise ValueError(f"--count {count}: expected 1 or more")
    figures.require()
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells much
    variables, stored = checkpoint.restore_model(run, step=step)
    config = stored["task"]
    task = tasks.from_config(config)
    reader = {"coco": coco, "mpii": mpii, "crowdpose": crowdpose}[format]
    skeleton = Skeleton.from_dict(config["skeleton"])
    paths = reader.find(data, split, annotations=None, images=None)
    source = reader.read(*paths, skeleton=skeleton, on_bad=on_bad)
    out = Path(run) / "maps" if out is None else out
    draw = {"heatmaps": _heatmaps, "regression": _regions, "bottom_up": _people}[config["family"]]
    level = "image" if config["family"] == "bottom_up" else "person"
    pictures = draw(task, variables, stored, source.at_level(level), count=count, seed=seed, out=out / split)
    facts = {
        "checkpoint_step": stored["step"],
        "family": config["family"],
        "pictures": [str(path) for path in pictures],
    }
    print(json.dumps(facts))


def _chosen(source, count: int, seed: int) -> list[int]:
    from jaxpose.data import feed

    if len(source) == 0:
        raise ValueError(f"{source} has nothing to draw")
    return feed.sample_indices(np.arange(min(count, len(source))), num_samples=len(source), seed=seed)[0].tolist()


def _crops(source, stored, count: int, seed: int) -> list[dict[str, Any]]:
    """As the evaluation makes them, with the labels as NaN where there are none."""
    from jaxpose import inference
    from jaxpose.data import crops

    tested = inference.from_checkpoint(stored)
    options = {"size_wh": tuple(stored["task"]["size_wh"]), "decode": tested.decode, "padding": tested.padding}
    samples = [crops.sample(source, i, **options) for i in _chosen(source, count, seed)]
    return [
        sample | {"truth": np.where(sample["visibility"][:, None] > 0, sample["joints"], np.nan)} for sample in samples
    ]


def _outputs(function, variables, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """function(variables, (B, H, W, 3)) -> arrays, over all the images; jitted once."""
    import jax

    from jaxpose import inference

    step = jax.jit(function)
    samples = ({"image": image} for image in images)
    batches = inference.batches(samples, size=min(AT_ONCE, len(images)))
    return inference.run(lambda batch: step(variables, batch["image"]), batches, gather=False)


def _heatmaps(task, variables, stored, source, *, count: int, seed: int, out: Path) -> list[Path]:
    from jaxpose import tasks
    from jaxpose.tasks.supervision import pixels_per_cell

    config, samples = task.config, _crops(source, stored, count, seed)

    def both(variables, images):
        found = task.predict(variables, {"image": images}, flip_test=False)
        return {"xy": found["xy"], "maps": tasks.heatmap_of(config, variables, images)}

    found, paths = _outputs(both, variables, [sample["image"] for sample in samples]), []
    cell = pixels_per_cell(tuple(config["size_wh"]), found["maps"].shape[1:3], target=config["maps"]["target"])
    for sample, xy, heat in zip(samples, found["xy"], found["maps"], strict=True):
        paths.append(
            figures.joint_maps(
                sample["image"], heat, source.skeleton, out / f"person_{sample['annotation_id']}.png", poses=[xy],
                truth=[sample["truth"]], pixels_per_cell=tuple(np.broadcast_to(cell, 2)),
            )
        )  # fmt: skip
    return paths


def _regions(task, variables, stored, source, *, count: int, seed: int, out: Path) -> list[Path]:
    from jaxpose import density, predict, tasks

    samples, size = _crops(source, stored, count, seed), np.asarray(task.config["size_wh"], np.float64)

    def predicted(variables, images):
        return task.predict(variables, {"image": images}, flip_test=False)

    found = _outputs(predicted, variables, [sample["image"] for sample in samples])
    model = tasks.predictive_density(task.config, variables, required=False)
    deviation = None if model is None else density.moments(model).standard_deviation
    curves = [] if model is None else [predict.outlines(model, level) for level in LEVELS]  # of the standardised error
    drawn = []
    for i, sample in enumerate(samples):
        xy, sigma = found["xy"][i].astype(np.float64), found["sigma"][i] * size
        title = f"person {sample['annotation_id']}" + ("" if model is not None else "\nits sigma is not trained")
        entry = {"image": sample["image"], "truth": sample["truth"], "xy": xy, "title": title}
        if model is not None:
            entry["deviation"] = sigma * deviation
            entry["outlines"] = [
                [[m + s * c for c in level] for m, s in zip(xy, sigma, strict=True)] for level in curves
            ]
        drawn.append(entry)
    return [
        figures.joint_regions(
            drawn[first : first + ON_A_SHEET],
            source.skeleton,
            out / f"density_{first // ON_A_SHEET + 1}.png",
            levels=LEVELS,
        )
        for first in range(0, len(drawn), ON_A_SHEET)
    ]


def _people(task, variables, stored, source, *, count: int, seed: int, out: Path) -> list[Path]:
    from jaxpose import geometry, inference, tasks
    from jaxpose.data import whole_images

    config = task.config
    side = inference.from_checkpoint(stored).side(tuple(config["size_wh"]))
    indices = _chosen(source, count, seed)
    squares = [whole_images.eval_sample(source, i, size=side, fit="long") for i in indices]
    scaled = config["loss"]["targets"] == "scale_adaptive"

    def everything(variables, batch):
        found = task.predict(variables, {"image": batch}, flip_test=False)
        return found | ({"factor": tasks.scale_factors(config, variables, batch)} if scaled else {})

    found = _outputs(everything, variables, [square["image"] for square in squares])
    stride = squares[0]["image"].shape[1] / found["heatmap"].shape[2]
    settings = tasks.FindPeople(**config["people"])
    people = tasks.find_people(found, settings, stride=stride)
    paths = []
    for i, (index, square) in enumerate(zip(indices, squares, strict=True)):
        rows = source.persons[source.persons["image"] == index]["keypoints"]
        xy = geometry.apply_affine(np.broadcast_to(square["affine"], (len(rows), 2, 3)), rows[..., :2])
        poses = people["poses"][i][people["valid"][i]]
        # Joints below the threshold are guesses of the refinement, anywhere in the image.
        poses = np.where(poses[..., 2:] > settings.detection_threshold, poses[..., :2], np.nan)
        heat, tags = found["heatmap"][i], found["tag"][i][..., 0]
        further = [_tag_panel(heat, tags, (stride, stride))]
        if scaled:
            factor = found["factor"][i].mean(-1)
            reach = max(float(np.abs(factor - 1).max()), 0.05)  # what is less than 5 % is white
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
    """At every pixel the tag of its strongest joint, as opaque as that joint is strong."""
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
