"""`Poses`: the people of one picture, with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from jaxpose import density
from jaxpose.evaluation import results
from jaxpose.predict.space import SpacePoses
from jaxpose.skeleton import Skeleton
from jaxpose.view.overlay import outlines


@dataclass(frozen=True)
class Poses:
    """The P people of one picture: best first if the net detects them itself, else in the order of the boxes.

    Attributes:
        xy: (P, K, 2) picture pixels; pixel centres are at integers.
        confidence: (P, K): 1 - sigma of a likelihood, or the height of a heatmap; 0 for a missing joint.
        score: (P,) scores by which average precision sorts; for a likelihood box + mean + maximum, so up to 3.
        skeleton: The names, limbs and mirror pairs of the K joints.
        box: (P, 4) x, y, w, h; None if the net detects people itself without boxes.
        box_score: (P,) scores of the boxes; 1 for boxes without a score.
        crop_area: (P,) areas in square pixels, which OKS-NMS uses, or None.
        sigma: (P, K, 2) pixels, the scale of a likelihood; None for other nets. See `deviation`. The scale of x is negative if the
            net saw the mirror image (right hands of --one-side): the density is mirrored too.
        density: The model of the standardised error, or None.
        space: The joints in space of a 3D run, with their own sigma and density; None for other nets.
    """

    xy: np.ndarray
    confidence: np.ndarray
    score: np.ndarray
    skeleton: Skeleton = field(repr=False)
    box: np.ndarray | None = None
    box_score: np.ndarray | None = None
    crop_area: np.ndarray | None = None
    sigma: np.ndarray | None = None
    density: density.Model | None = field(default=None, repr=False)
    space: SpacePoses | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.xy)

    @cached_property
    def deviation(self) -> np.ndarray | None:
        """(P, K, 2) standard deviation of each coordinate in pixels: sigma times that of the standardised error.

        Sigma alone is not a standard deviation: the flow holds a part of the scale. None if the net has no density.
        """
        if self.density is None:
            return None
        return np.abs(self.sigma) * density.moments(self.density).standard_deviation

    @cached_property
    def covariance(self) -> np.ndarray | None:
        """(P, K, 2, 2) pixels squared: diag(sigma) C diag(sigma), C the covariance of the standardised error.

        The crop's affine is a scaling and a shift, which sigma contains already. None where the net has no density.
        """
        if self.density is None:
            return None
        return self.sigma[..., :, None] * density.moments(self.density).covariance * self.sigma[..., None, :]

    def within(self, radius: float) -> np.ndarray | None:
        """(P, K): the probability that a joint's error is below `radius` pixels, under the predicted density; None without one."""
        return None if self.density is None else density.within(np.abs(self.sigma), self.density, radius=radius)

    def regions(self, level: float) -> list[np.ndarray]:
        """Returns outlines of the smallest region that holds each joint with probability `level`.

        Returns:
            Closed curves (P, K, n, 2) in pixels; several if the region has several parts.

        Raises:
            ValueError: The net has no density, or the level is outside (0, 1).
            ImportError: contourpy is missing, which matplotlib installs (the extra `plot`).
        """
        if self.density is None:
            raise ValueError(
                "this net states no density of its error: regions are those of a likelihood (RLE, Laplace, ...)"
            )
        return [self.xy[:, :, None] + self.sigma[:, :, None] * curve for curve in outlines(self.density, level)]

    def records(self, image_id: int, *, category_id: int = 1) -> list[dict[str, Any]]:
        """Returns COCO result records, see `jaxpose.evaluation.results`; those of boxes alone have no keypoints.

        Those of a 3D run also have "keypoints_3d", K times x, y, z in mm, and "frame_3d", "camera" or "root"; those of hands also
        have "assumed_3d", what was assumed of their size, if anything was.
        """
        rows = results.from_predictions(
            self.xy, self.confidence, image_id=np.full(len(self), image_id), box=self.box, box_score=self.box_score,
            area=self.crop_area, category_id=category_id, rescore="box",
        )  # fmt: skip
        for row, score in zip(rows, self.score.tolist(), strict=True):
            row["score"] = round(score, results.SCORE_DIGITS)
            if not self.skeleton.num_joints:  # COCO's form for boxes, which `jaxpose predict --boxes` reads too
                del row["keypoints"], row["bbox_score"]
                row["bbox"] = row.pop("box")
        if self.space is not None:
            frame = "camera" if self.space.is_absolute else "root"
            for row, joints in zip(rows, self.space.joints, strict=True):
                row |= {"keypoints_3d": joints.ravel().round(3).tolist(), "frame_3d": frame}
                row |= {"assumed_3d": self.space.assumed} if self.space.assumed else {}
        return rows
