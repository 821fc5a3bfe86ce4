"""Split conformal quantiles: levels that hold for a finite calibration set, whatever the errors are distributed like.

A nonconformity score says how badly a prediction fits its label. Let the scores of n calibration samples and of a new one be
exchangeable. The new score is then at most the ceil((n + 1) level)-th smallest of the n with probability at least `level`, and
less than 1 / (n + 1) above it where the scores have no ties (Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates 2023,
arXiv 2107.07511). The probability is over calibration sets and new samples together; for one calibration set the coverage is Beta
distributed around the level, with a standard deviation near sqrt(level (1 - level) / n).

`jaxpose.density.conformal` makes the scores of poses. Only NumPy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Conformal", "Scores"]

STORED = 500
"""The most scores that are stored; for a rank between them the next higher one is taken, which errs on the safe side."""
SLACK = 1e-9
"""Against the rounding of (n + 1) * level, which is a whole number for many levels."""


@dataclass(frozen=True)
class Scores:
    """Nonconformity scores of a calibration set, sorted.

    Attributes:
        count: n, the number of scores.
        ranks: (m,) ascending ranks from 1 to n of the scores that are kept.
        values: (m,) these scores, ascending.

    Raises:
        ValueError: arrays that do not fit one another.

    >>> scores = Scores.of(np.arange(9.0))
    >>> scores.quantile(0.5), scores.quantile(0.9), scores.quantile(0.95)
    (4.0, 8.0, inf)
    """

    count: int
    ranks: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "ranks", np.asarray(self.ranks, np.int64))
        object.__setattr__(self, "values", np.asarray(self.values, np.float64))
        ranks, values = self.ranks, self.values
        fits = ranks.ndim == 1 and ranks.shape == values.shape and self.count >= 0
        fits = fits and (len(ranks) > 0) == (self.count > 0)
        if fits and self.count:
            fits = (
                ranks[0] >= 1 and ranks[-1] == self.count and (np.diff(ranks) > 0).all() and not np.isnan(values).any()
            )
            fits = fits and (values[1:] >= values[:-1]).all()
        if not fits:
            raise ValueError(f"{len(ranks)} ranks and {len(values)} values of {self.count} scores are no sorted scores")

    @classmethod
    def of(cls, scores: np.ndarray, *, most: int = STORED) -> Scores:
        """Sorts the scores, and keeps `most` of them where they are more.

        Args:
            scores: any shape; NaN are left out.
            most: number of scores to keep.

        Returns:
            The sorted scores.
        """
        scores = np.sort(scores[~np.isnan(scores)])
        count = len(scores)
        ranks = (
            np.unique(np.ceil(np.linspace(1, count, most)).astype(np.int64))
            if count > most
            else np.arange(1, count + 1)
        )
        return cls(count, ranks, scores[ranks - 1])

    def quantile(self, level: float) -> float:
        """Returns the score that a new one exceeds with probability 1 - level at most; infinity where n is too small for that.

        Args:
            level: In (0, 1).

        Raises:
            ValueError: The level is outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie in (0, 1): the share of new samples that the region holds")
        rank = int(np.ceil((self.count + 1) * level - SLACK))
        return float("inf") if rank > self.count else float(self.values[np.searchsorted(self.ranks, max(rank, 1))])

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-able values; `from_dict` reads them."""
        return {"count": self.count, "ranks": self.ranks.tolist(), "values": self.values.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """Builds scores from what `to_dict` gave.

        Raises:
            ValueError: The values are others.
        """
        try:
            return cls(int(values["count"]), np.array(values["ranks"]), np.array(values["values"], np.float64))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"no sorted scores: {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class Conformal:
    """The scores of a calibration set of poses, from which a region of any level follows.

    The score of a joint is the negative log density of its standardised error, so that a region is {log density >= threshold}.

    Attributes:
        joints: The scores of the labels of each of the K joints.
        poses: The largest score of the labelled joints of each pose.
        spread: The mean over all joints and coordinates of log sigma of each pose, by which drift is noticed.
    """

    joints: tuple[Scores, ...]
    poses: Scores
    spread: Scores

    def log_thresholds(self, level: float, *, whole_pose: bool = False) -> np.ndarray:
        """Returns the log density at the border of each joint's region.

        Args:
            level: The probability that a region holds its joint, in (0, 1).
            whole_pose: The probability that all regions of a pose hold their joints instead.

        Returns:
            (K,); minus infinity where the calibration set is too small for the level.

        >>> scores = Scores.of(np.arange(9.0))
        >>> both = Conformal((scores, Scores.of(np.ones(4))), poses=scores, spread=scores)
        >>> both.log_thresholds(0.8).tolist(), both.log_thresholds(0.8, whole_pose=True).tolist()
        ([-7.0, -1.0], [-7.0, -7.0])
        """
        if whole_pose:
            return np.full(len(self.joints), -self.poses.quantile(level))
        return np.array([-scores.quantile(level) for scores in self.joints])

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-able values; `from_dict` reads them."""
        joints = [scores.to_dict() for scores in self.joints]
        return {"joints": joints, "poses": self.poses.to_dict(), "spread": self.spread.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Conformal:
        """Builds a `Conformal` from what `to_dict` gave.

        Raises:
            ValueError: The values are others.
        """
        try:
            joints = tuple(Scores.from_dict(scores) for scores in values["joints"])
            return cls(joints, Scores.from_dict(values["poses"]), Scores.from_dict(values["spread"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no scores of a calibration set: {type(error).__name__}: {error}") from None
