"""The steps of a detector on labelled pictures: anchors, proposals, boxes. Part of `jaxpose view maps`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.view.figures.regions import boxes_by_step
from jaxpose.view.palette import DEVIATION, PREDICTION, TRUTH

PROPOSALS = 40  # number of drawn proposals of a picture, the best ones
MATCHED = 0.5  # IoU from which a label counts as reached
COLORS = {"labelled": TRUTH, "anchor, proposal": DEVIATION, "predicted": PREDICTION}


def draw(task, variables, source, indices: Sequence[int], out: Path) -> tuple[list[Path], dict[str, float]]:
    """Draws each picture three times: with the anchors that are positive in training, with the best proposals, with the output.

    Args:
        task: a `jaxpose.tasks.Detection`.
        variables: its variables.
        source: the labelled pictures.
        indices: rows of the pictures in `source`.
        out: folder of the pictures.

    Returns:
        The paths of the pictures; and the share of the labelled boxes that an anchor, a proposal and an output box reach at IoU 0.5,
        which tells the step that loses them.
    """
    from jaxpose.data import boxed_images

    resize = task.resize
    scaling = boxed_images.Scaling(
        resize.short, resize.longest, rule=resize.rule, half_pixel=resize.half_pixel, padded_long=()
    )
    predict, paths, reached = _jitted(task, variables), [], []
    people = boxed_images.People.of(source)
    for index in indices:
        sample = boxed_images.sample(people, index, scaling=scaling)
        outputs = predict(sample["image"][None], sample["size_hw"][None])
        steps = _steps(task, sample, outputs)
        height, width = sample["size_hw"]
        picture = np.clip(sample["image"][:height, :width], 0, 255).astype(np.uint8)
        paths.append(boxes_by_step(picture, _panels(steps), out / f"image_{sample['image_id']}.png", colors=COLORS))
        reached.append(steps["reached"])
    shares = np.concatenate(reached).mean(0) if any(len(rows) for rows in reached) else np.full(3, np.nan)
    names = ("anchors", "proposals", "boxes")
    return paths, {name: round(float(share), 3) for name, share in zip(names, shares, strict=True)}


def _jitted(task, variables):
    import jax

    from jaxpose.tasks.base import preprocessor
    from jaxpose.tasks.detection import masked

    weights = {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}
    normalize = preprocessor(task.preprocess)

    @jax.jit
    def detect(image, size_hw):
        return task.net.apply(weights, masked(normalize(image), size_hw), size_hw, method=task.net.detect)

    return lambda image, size_hw: {name: np.asarray(values[0]) for name, values in detect(image, size_hw).items()}


def _steps(task, sample: dict[str, Any], outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the labelled boxes, positive anchors, proposals and output boxes of a picture, and which labels they reach."""
    from jaxpose.detection import boxes, matching

    truth, settings = sample["boxes"][sample["people"]], task.training
    anchors = np.asarray(task.net.anchors(sample["image"].shape[:2]))
    overlap = boxes.iou(truth, anchors)
    match = matching.assign(overlap, high=settings.proposal_high, low=settings.proposal_low, low_quality=True)
    proposals = outputs["proposals"][outputs["proposal_valid"]]
    predicted, scores = outputs["boxes"][outputs["valid"]], outputs["scores"][outputs["valid"]]
    best = [np.asarray(boxes.iou(truth, b)).max(-1, initial=0) for b in (anchors, proposals, predicted)]
    return {
        "truth": truth, "anchors": anchors[np.asarray(match) >= 0], "proposals": proposals, "predicted": predicted,
        "scores": scores, "reached": np.stack(best, -1) >= MATCHED,
    }  # fmt: skip


def _panels(steps: dict[str, Any]) -> list[dict[str, Any]]:
    truth = (steps["truth"], "labelled", 1.0)
    count = len(steps["proposals"])
    return [
        {"title": f"{len(steps['truth'])} labelled, {len(steps['anchors'])} positive anchors",
         "boxes": [(steps["anchors"], "anchor, proposal", 0.5), truth]},
        {"title": f"the best {min(PROPOSALS, count)} of {count} proposals",
         "boxes": [(steps["proposals"][:PROPOSALS], "anchor, proposal", 0.6), truth]},
        {"title": f"{len(steps['predicted'])} boxes, opaque where the score is high",
         "boxes": [truth, (steps["predicted"], "predicted", steps["scores"])]},
    ]  # fmt: skip
