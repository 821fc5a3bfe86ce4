"""People of pictures as boxes, from a checkpoint of a detector: `load` returns a `Detector`, a `Detector` returns `Detections`.

detector = load("runs/fasterrcnn")
people = detector([picture])[0]
people.box, people.score                 # (P, 4) x, y, w, h and (P,)
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxpose import checkpoint, inference, tasks
from jaxpose.data import detection as scaling
from jaxpose.tasks.detection import Detection

logger = logging.getLogger(__name__)
BATCH = 2  # pictures at a time: at 800 pixels each needs half a gigabyte


@dataclass(frozen=True)
class Detections:
    """The P people of one picture, best first, in pixels of the picture.

    Attributes:
        box: (P, 4) x, y, w, h, within the picture.
        score: (P,) in 0..1.
        label: (P,) the class as the net numbers it, 1 (or, of Detectron2, 0) for persons.
        xy: (P, K, 2) joints; K is 0 for a detector of boxes.
        confidence: (P, K) in 0..1.
        sigma: (P, K, 2) scales of a likelihood, or None.
        left_out: The number of people for whom the net had no slot.
    """

    box: np.ndarray
    score: np.ndarray
    label: np.ndarray
    xy: np.ndarray
    confidence: np.ndarray
    sigma: np.ndarray | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.box)

    @property
    def scored_boxes(self) -> np.ndarray:
        """(P, 5) boxes with their scores, as `jaxpose.predict.Predictor` takes them."""
        return np.concatenate([self.box, self.score[:, None]], -1)


class Detector:
    """Finds the people of pictures; made by `load`. One program per padded size is compiled.

    Attributes:
        task: The task of the checkpoint.
        min_score: People with a lower score are left out.
        batch_size: The number of pictures at a time.
    """

    def __init__(
        self,
        task: Detection,
        variables: Any,
        *,
        min_score: float = 0.0,
        max_people: int | None = None,
        batch_size: int | None = None,
        device: jax.Device | None = None,
    ):
        if max_people is not None:
            if max_people < 1:
                raise ValueError(f"max_people={max_people} (--max-people): expected a positive number of slots")
            net = task.net.clone(max_detections=max_people, post_nms=max(task.net.post_nms, max_people))
            task = Detection.from_config(task.config, net=net)
        self.task, self.min_score = task, min_score
        self.batch_size = BATCH if batch_size is None else batch_size
        if self.batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected a positive number")
        self.device = device or jax.local_devices()[0]
        program = jax.jit(lambda weights, batch: task.predict(weights, batch))
        weights = jax.device_put(variables, self.device)
        self._step = lambda batch: program(
            weights, jax.device_put(inference.views(batch) | {"size_hw": batch["size_hw"]}, self.device)
        )

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Detections]:
        """Returns the people of each picture.

        Args:
            pictures: (h, w, 3) uint8 RGB, of any sizes; see `jaxpose.predict.media.picture`.

        Raises:
            ValueError: The net's outputs are not finite.
        """
        resize = self.task.resize
        by_shape = defaultdict(list)
        for i, picture in enumerate(pictures):
            size_hw = scaling.resized_hw(
                picture.shape[:2], short=resize.short, longest=resize.longest, rule=resize.rule
            )
            image = scaling.padded(scaling.resized(picture, size_hw, rule=resize.rule))
            by_shape[image.shape].append({"image": image, "size_hw": np.array(size_hw), "index": i})
        batches = chain.from_iterable(
            inference.batches(samples, size=self.batch_size, smallest=1) for samples in by_shape.values()
        )
        rows = inference.run(self._step, batches, gather=False) if pictures else {}
        place = {int(index): row for row, index in enumerate(rows.get("index", ()))}
        return [
            self._detections({name: values[place[i]] for name, values in rows.items()}, picture.shape[:2])
            for i, picture in enumerate(pictures)
        ]

    def _detections(self, row: dict[str, np.ndarray], picture_hw: tuple[int, int]) -> Detections:
        if not all(np.isfinite(row[name]).all() for name in ("boxes", "scores")):
            raise ValueError("the net's outputs are not finite: its weights are damaged, or its training diverged")
        placed = scaling.in_picture(row, picture_hw=np.array(picture_hw), half_pixel=self.task.resize.half_pixel)
        box, count = placed["box"], len(placed["box"])
        where = row["valid"] & (row["scores"] >= self.min_score) & (box[:, 2:] > 0).all(-1)
        xy = placed.get("xy", np.zeros((count, 0, 2)))
        confidence = row.get("keypoint_confidence", np.zeros((count, 0))).astype(np.float64)
        sigma = placed.get("sigma")
        left_out = 0
        if row["valid"].all() and row["scores"].min() >= self.min_score:  # those without a slot may have been as good
            left_out = int(row["candidates"]) - count
        return Detections(
            box=box[where],
            score=row["scores"][where].astype(np.float64),
            label=row["labels"][where],
            xy=xy[where],
            confidence=confidence[where],
            sigma=None if sigma is None else sigma[where],
            left_out=left_out,
        )


def load(
    directory: str | Path,
    *,
    step: int | Literal["best", "latest"] = "best",
    min_score: float = 0.0,
    max_people: int | None = None,
    batch_size: int | None = None,
    device: jax.Device | None = None,
) -> Detector:
    """Builds a detector from a run's folder or an imported checkpoint.

    Args:
        directory: The run's folder, or its checkpoints folder.
        step: The checkpoint to load; see `checkpoint.restore_model`.
        min_score: People with a lower score are left out.
        max_people: The number of slots of a picture; None stands for that of the net, 100 for released ones.
        batch_size: The number of pictures at a time; None stands for 2.
        device: The device that the net runs on; None stands for the first local device.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The checkpoint is no detector, is damaged or does not fit its net, or an argument is out of range.
    """
    variables, config = checkpoint.restore_model(directory, step=step)
    task = tasks.from_config(config["task"])
    if not isinstance(task, Detection):
        raise ValueError(
            f"{directory}: a net of the family {task.family!r}, which finds no boxes: expected a detector, such as jaxpose import "
            "makes of torchvision's fasterrcnn_resnet50_fpn_v2"
        )
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), directory)
    return Detector(task, variables, min_score=min_score, max_people=max_people, batch_size=batch_size, device=device)


def warn_of_left_out(people: Sequence[Detections], names: Sequence[Any]) -> None:
    """Logs the pictures with more people than slots, so that nobody is left out silently.

    Args:
        people: The detections of each picture.
        names: What the warning calls each picture.
    """
    for each, name in zip(people, names, strict=True):
        if each.left_out:
            log_left_out(name, count=len(each) + each.left_out, slots=len(each), advice="allow more with --max-people")


def log_left_out(name: Any, *, count: int, slots: int, advice: str) -> None:
    """Logs that a picture has more people than slots, and what allows more."""
    logger.warning(
        "%s: %d people for %d slots; the %d with the lowest scores are left out: %s",
        name, count, slots, count - slots, advice,
    )  # fmt: skip
