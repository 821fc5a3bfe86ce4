"""Regions with a guarantee: the scores of a run's calibration set, used on new pictures, and a test whether these have drifted.

The scores are in RUN/results/step_N_conformal.json, which a run with --calibrate writes at every evaluation.
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from jaxpose import checkpoint, conformal, density, files
from jaxpose.predict.poses import Poses
from jaxpose.predict.predictor import Predictor
from jaxpose.view.overlay import region_outlines

__all__ = ["Guarantee", "path_of"]

log = logging.getLogger("jaxpose")
DRIFT, SURE = 0.2, 1e-3
"""Spreads have drifted where the Kolmogorov-Smirnov distance is above DRIFT and its p value below SURE. Frames of a video resemble
one another, so that the p value alone would always be small."""


def path_of(directory: str | Path, step: int) -> Path:
    """Returns the file of the scores that belong to a checkpoint of a run."""
    return checkpoint.find(directory).parent / "results" / f"step_{step}_conformal.json"


class Guarantee:
    """The regions of one level for every joint, from the calibration set of the predictor's checkpoint.

    Args:
        directory: The run's folder.
        predictor: What predicts; its settings must be those of the calibration.
        level: The probability that a region holds its joint.
        whole_pose: The probability that all regions of a person hold their joints instead.

    Raises:
        ValueError: The net states no density; the run has no scores, too few of them for the level, or scores that belong to other
            settings.
    """

    def __init__(self, directory: str | Path, predictor: Predictor, *, level: float, whole_pose: bool = False):
        if predictor.density is None:
            raise ValueError(f"--guarantee: the net in {directory} states no density of its error")
        self.level, self.whole_pose, self.model = level, whole_pose, predictor.density
        self.path, self.joints = path_of(directory, predictor.config["step"]), predictor.skeleton.joints
        self.scores, self.persons = self._read(directory, predictor)
        self.log_thresholds = self.scores.log_thresholds(level, whole_pose=whole_pose)
        if short := [name for name, t in zip(self.joints, self.log_thresholds, strict=True) if not np.isfinite(t)]:
            counts = [self.scores.poses] if whole_pose else self.scores.joints
            raise ValueError(
                f"--region {level} --guarantee: {min(c.count for c in counts)} labels in the calibration set of {self.path} are too "
                f"few for that level ({', '.join(short[:5])}): it needs {int(np.ceil(level / (1 - level) - 1e-9))}; take a lower level"
            )
        self.regions = [density.region_above(self.model, log_threshold=t) for t in self.log_thresholds]
        self.spreads: list[float] = []

    def _read(self, directory: str | Path, predictor: Predictor) -> tuple[conformal.Conformal, int]:
        """Returns the scores and the number of their persons."""
        if not self.path.is_file():
            raise ValueError(
                f"--guarantee: {directory} has no scores of a calibration set ({self.path} does not exist): train with --calibrate, or "
                f"evaluate it with its page's --eval-only {directory} --data DATA --calibrate, on frames that it was not trained on"
            )
        stored = files.read_json(self.path, "scores of a calibration set")
        try:
            ours = {"flip_test": predictor.flip_test, "sigma_scale": predictor.settings.sigma_scale}
            for name, value in ours.items():
                if not abs(stored[name] - value) <= 1e-3 * abs(value):  # NaN too
                    raise ValueError(f"they belong to {name} {stored[name]}, poses are predicted with {value}")
            if len(stored["scores"]["joints"]) != len(self.joints):
                raise ValueError(
                    f"they are of {len(stored['scores']['joints'])} joints, the net has {len(self.joints)}"
                )
            return conformal.Conformal.from_dict(stored["scores"]), int(stored["persons"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"--guarantee: the scores in {self.path} cannot be used: {error}") from None

    @cached_property
    def _curves(self) -> list[list[np.ndarray]]:
        """The outlines of each joint's region, in units of sigma."""
        return [region_outlines(region) for region in self.regions]

    def curves(self, poses: Poses, where: np.ndarray) -> list[np.ndarray]:
        """Returns the outlines of the regions of some joints.

        Args:
            poses: P people.
            where: (P, K) the joints.

        Returns:
            Closed curves (n, 2) in picture pixels.
        """
        return [poses.xy[p, k] + poses.sigma[p, k] * curve for p, k in np.argwhere(where) for curve in self._curves[k]]

    def limits(self, poses: Poses) -> np.ndarray:
        """Returns the lowest and highest coordinates of each region, (P, K, 2 coordinates, 2) picture pixels."""
        extent = np.stack([region.extent() for region in self.regions])
        return np.sort(
            poses.xy[..., None] + poses.sigma[..., None] * extent, axis=-1
        )  # sigma is negative where mirrored

    def add(self, poses: Poses) -> None:
        """Counts the predicted spreads of some people, for `drift`."""
        if len(poses):
            side = np.sqrt(poses.crop_area)[:, None, None]
            self.spreads += np.log(np.abs(poses.sigma) / side).mean((1, 2)).tolist()

    def drift(self) -> dict[str, Any]:
        """Compares the predicted spreads with those of the calibration set.

        Returns:
            {"distance": of Kolmogorov and Smirnov, "p", "factor": median spread here over that of calibration, "drifted"}.
        """
        if not self.spreads or not self.scores.spread.count:
            return {"distance": 0.0, "p": 1.0, "factor": 1.0, "drifted": False}
        test = ks_2samp(self.spreads, self.scores.spread.values)
        factor = float(np.exp(np.median(self.spreads) - np.median(self.scores.spread.values)))
        drifted = bool(test.statistic > DRIFT and test.pvalue < SURE)
        return {"distance": float(test.statistic), "p": float(test.pvalue), "factor": factor, "drifted": drifted}

    def sentences(self) -> list[str]:
        """Returns what the regions guarantee, under which conditions, and whether these look broken."""
        what = "all joints of a person lie in their regions" if self.whole_pose else "each joint lies in its region"
        lines = [
            f"{what} with probability {self.level:g} or more, for persons that are exchangeable with the {self.persons} of the "
            "calibration set and boxes as good as its labelled ones",
            "the same persons chose the checkpoint and the factor of sigma, so that the level holds nearly, not strictly; frames of "
            "one video are no independent persons",
        ]
        drift = self.drift()
        if drift["drifted"]:
            lines.append(
                f"these pictures have drifted away from the calibration set: predicted spreads are {drift['factor']:.2f} times "
                f"as large (Kolmogorov-Smirnov distance {drift['distance']:.2f}, p {drift['p']:.1g}): the guarantee "
                "does not hold for them"
            )
        return lines

    def write(self, path: Path) -> None:
        """Writes the thresholds, the drift and the sentences as JSON, and logs the sentences."""
        drift, lines = self.drift(), self.sentences()
        for line in lines:
            log.warning("--guarantee: %s", line)
        joints = dict(zip(self.joints, self.log_thresholds.tolist(), strict=True))
        counts = {"persons": self.persons, "poses": len(self.spreads)}
        stated = {
            "level": self.level,
            "whole_pose": self.whole_pose,
            "scores": str(self.path),
            "log_thresholds": joints,
        }
        files.write_json(path, stated | counts | {"drift": drift, "sentences": lines}, indent=1)
