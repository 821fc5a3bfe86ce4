"""What the kinds of whole images share, bottom-up and with boxes: the opened splits, result records, report and picture of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from experiments.common import kinds
from experiments.common.config import RunConfig
from jaxpose.data import pixels
from jaxpose.data.source import Source
from jaxpose.evaluation import results
from jaxpose.skeleton import Skeleton

PICTURES = 16  # number of images in the picture at the end of a run


@dataclass(frozen=True)
class AllPeople:
    """Whole images with all of their people: the part of a `Kind` that does not depend on the net.

    Attributes:
        config: settings of the run.
        train: images to train on; None if a run only evaluates.
        val: images to evaluate on.
        ground_truth: annotation JSON of the evaluation; None: there is none.
        mesh: devices that a batch is split over.
    """

    config: RunConfig
    train: Source | None
    val: Source
    ground_truth: Path | None
    mesh: Mesh
    samples: ClassVar[str] = "images"

    @property
    def skeleton(self) -> Skeleton:
        """The joints of the training data, or of the evaluation data if a run only evaluates."""
        return (self.val if self.train is None else self.train).skeleton

    def check(self) -> None:
        """Raises a ValueError if there are no images to evaluate on."""
        if len(self.val) == 0:
            raise ValueError(
                f"split {self.config.val_split!r} of {self.config.labels or self.config.data} has no images"
            )

    def test_rows(self) -> int:
        """Returns the number of images of a test batch: that of the flag, rounded up to a multiple of the devices."""
        return -(-self.config.test_batch_size // self.mesh.size) * self.mesh.size

    def report(self, name: str) -> None:
        """Writes report.html, the page of the evaluation `name`."""
        kinds.write_report(self.config.out, name, source=self.val, ground_truth=self.ground_truth)

    def draw_people(self, poses: np.ndarray, scores: np.ndarray, where: np.ndarray) -> None:
        """Draws the people of some images, with their labels, into out/plots.

        Args:
            poses: (N, P, K, 3) in pixels of the images of `val`, with a score per joint.
            scores: (N, P).
            where: (N, P), the people to draw.
        """
        from jaxpose import view

        indices = range(min(PICTURES, len(self.val)))
        records = [self.val.image(i) for i in indices]
        pictures = [np.asarray(pixels.decode_picture(r["jpeg"], r["file_name"]).convert("RGB")) for r in records]
        labels = [r["persons"]["keypoints"] for r in records]
        view.people(
            pictures, [poses[i][where[i]] for i in indices], self.val.skeleton, self.config.out / kinds.LAST_PICTURE,
            truth=[k[..., :2] for k in labels], labelled=[k[..., 2] > 0 for k in labels],
            scores=[scores[i][where[i]] for i in indices],
        )  # fmt: skip


def open_images(config: RunConfig, *, skeleton: Skeleton | None) -> tuple[Source | None, Source, Path | None, Mesh]:
    """Opens the splits that the config names, as images; see `kinds.open_splits`.

    Returns:
        `train`, `val`, `ground_truth` and `mesh` of `AllPeople`.

    Raises:
        ValueError: the evaluation data have persons of several categories.
    """
    mesh = kinds.make_mesh(config)
    train, val = kinds.open_splits(config, skeleton=skeleton)
    if len(val.category_ids) > 1:
        raise ValueError(
            f"{val.name} has persons of {len(val.category_ids)} categories, which people found in a whole image do not tell: "
            "choose one (--category)"
        )
    ground_truth = val.ground_truth_json if len(val) else None
    return None if train is None else train.at_level("image"), val.at_level("image"), ground_truth, mesh


def records_of(predictions: Mapping[str, np.ndarray], *, category_id: int) -> Sequence[dict[str, Any]]:
    """Returns result records of the people, with their boxes where the net predicts them.

    A person's score is the net's, as published: that of the box, of the anchor, or the mean of the joints' in a parser.
    """
    image, person = np.nonzero(predictions["valid"])
    poses = predictions["poses"][image, person]
    return results.from_predictions(
        xy=poses[..., :2], confidence=poses[..., 2], image_id=predictions["image_id"][image],
        box_score=predictions["scores"][image, person],
        box=predictions["box"][image, person] if "box" in predictions else None, category_id=category_id, rescore="box",
    )  # fmt: skip
