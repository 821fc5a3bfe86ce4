"""Hands in space from pixels and relative depths (2.5D): the wrist's depth follows from the camera, the size is assumed.

A picture does not show how large a hand is. What is known decides:

    camera and depth of the wrist    camera coordinates; the size of the hand follows
    camera alone                     camera coordinates of a hand whose key bone has the mean length of the training hands
    neither                          pixels only: with errors of depth as large as a small net's, bones seen without perspective do
                                     not give the scale of a hand

NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose import checkpoint, density, hands, tasks
from jaxpose.files import read_json
from jaxpose.predict.space import SpacePoses
from jaxpose.skeleton import RHD21

__all__ = ["HandSpace", "read"]


@dataclass(frozen=True)
class HandSpace:
    """What a run on hands states about space.

    Attributes:
        run: The run's name, for messages.
        bone: The name of the key bone, the unit of depth, one of `jaxpose.hands.NAMED_BONES`; None: not stated.
        sizes: The sizes of the training hands; None: not stated.
    """

    run: str
    bone: str | None
    sizes: hands.Sizes | None

    def lacking(self, *, camera: np.ndarray | None, root_depth: float | None = None) -> str:
        """Returns a sentence that says why hands cannot be placed in space; "" if they can.

        Args:
            camera: (4,) fx, fy, cx, cy in pixels; None: unknown.
            root_depth: The depth of the wrist in mm, which replaces the sizes of the training hands; None: unknown.

        >>> HandSpace("runs/hands", "palm", None).lacking(camera=np.array([300, 300, 160, 160]), root_depth=600.0)
        ''
        """
        if self.bone is None:
            return (
                f"{self.run} does not state its key bone, the unit of depth ('bone' in the settings of experiments.rhd_integral), so "
                "that its hands have no joints in space"
            )
        if self.sizes is None and root_depth is None:
            return (
                f"{self.run} does not state the sizes of its training hands ({hands.SIZES_FILE} beside its checkpoints), so that the "
                "size of a hand in mm is unknown: copy that file from the run, or give --camera FX FY CX CY and --root-depth MM"
            )
        if camera is None:
            return (
                "without the camera a hand has no joints in space: give --camera FX FY CX CY, in pixels of the pictures; a guess of it "
                "serves joints relative to the wrist"
            )
        return ""

    def placed(
        self,
        xy: np.ndarray,
        depth: np.ndarray,
        *,
        camera: np.ndarray | None,
        root_depth: float | None = None,
        sigma: np.ndarray | None = None,
        model: density.Model | None = None,
    ) -> SpacePoses:
        """Places hands in space.

        Args:
            xy: (P, 21, 2) pixels of the picture.
            depth: (P, 21) relative to the wrist, in units of the key bone.
            camera: (4,) fx, fy, cx, cy in pixels.
            root_depth: The depth of the wrist in mm, or None.
            sigma: (P, 21, 3) scale of a likelihood: x and y in pixels of the picture, depth in units of the key bone; or None.
            model: The model of the standardised error of the three coordinates, or None.

        Raises:
            ValueError: The run does not state what is needed (`lacking`).

        >>> hand = hands.example_hand()
        >>> xy, depth = hand[:, :2] / hand[:, 2:] * 300 + 160, hands.relative_depth(hand, bone=hands.PALM)
        >>> space = HandSpace("runs/hands", "palm", None)
        >>> poses = space.placed(xy[None], depth[None], camera=np.array([300, 300, 160, 160]), root_depth=600.0)
        >>> bool(np.allclose(poses.joints, 1000 * hand)), poses.is_absolute
        (True, True)
        """
        if lacking := self.lacking(camera=camera, root_depth=root_depth):
            raise ValueError(lacking)
        bone = hands.NAMED_BONES[self.bone]
        options = {} if self.sizes is None else self.sizes.lift_options
        lifted = hands.lift(xy, depth, focal=camera[:2], center=camera[2:], bone=bone, **options)
        if root_depth is not None:
            bone_mm, assumed = root_depth / lifted[:, hands.WRIST, 2], ""
        else:
            joints = " to ".join(RHD21.joints[joint] for joint in bone)
            assumed = f"the key bone ({joints}) is {self.sizes.bone_mm:.1f} mm long, the mean of the training hands"
            bone_mm = np.full(len(lifted), self.sizes.bone_mm)
        points = lifted * bone_mm[:, None, None]
        if sigma is None or model is None:
            return SpacePoses(points, True, assumed=assumed)
        in_mm = hands.sigma_in_space(sigma, points, focal=camera[:2], bone=bone_mm)
        return SpacePoses(points, True, in_mm, model, assumed)


def read(directory: str | Path, task: tasks.ImageTask, config: Mapping[str, Any]) -> HandSpace | None:
    """Reads what a run states about space; None if its net predicts no depth of hands.

    Args:
        directory: The run's folder, or its checkpoints folder.
        task: The task of the checkpoint.
        config: The values that the checkpoint stores beside the weights.

    Raises:
        ValueError: The file of the sizes is damaged.
    """
    has_maps = isinstance(task, tasks.DepthMaps) and task.depth_loss.kind != "none"
    if not has_maps and not (isinstance(task, tasks.Regression3D) and task.depth.unit == "bone"):
        return None
    if task.skeleton.num_joints != hands.NUM_JOINTS:
        return None
    bone = (config.get("run") or {}).get("bone")
    path = checkpoint.find(directory).parent / hands.SIZES_FILE
    sizes = None
    if path.is_file():
        sizes = hands.Sizes.from_dict(read_json(path, "sizes of a run's hands"), name=str(path))
    return HandSpace(str(directory), bone if bone in hands.NAMED_BONES else None, sizes)
