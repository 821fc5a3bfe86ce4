"""Finds the people of a whole image as boxes, and the joints in each: R-CNNs on a feature pyramid.

`jaxpose.nets.RCNN` is the net. An image is scaled to a short side and padded (`Resize`); boxes and joints come back in pixels of the
scaled image, which the caller divides by the scale of each axis, as both code bases do. Boxes are in continuous coordinates, where
an image of width W spans 0..W; torchvision takes the joints of its labels for such coordinates as they are, while Detectron2 adds
half a pixel to them and subtracts it again (QUIRK E8), which `Resize.half_pixel` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, Level, NetTask, PyTree, check_choices, check_positive, preprocessor

BOX_OUTPUTS = ("boxes", "scores", "labels", "valid", "candidates")
JOINT_OUTPUTS = ("keypoints", "keypoint_confidence")


@dataclass(frozen=True)
class Resize:
    """How an image is scaled before a detector sees it.

    Attributes:
        short: the shorter side, px.
        longest: the largest length of the longer side, px, which has priority.
        rule: the code base whose interpolation and rounding are used (QUIRK E7).
        half_pixel: if True, joints are in continuous coordinates, so that half a pixel is subtracted from them.
    """

    short: int = 800
    longest: int = 1333
    rule: Literal["torchvision", "detectron2"] = "torchvision"
    half_pixel: bool = False

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "short", "longest")


@dataclass(frozen=True, eq=False, kw_only=True)
class Detection(NetTask):
    """The family whose net finds the boxes of the people of an image, and their joints; created by `detection`.

    Attributes:
        net, skeleton, size_wh, preprocess: see `NetTask`; a detector of boxes alone has a skeleton without joints.
        resize: the scaling of images.
    """

    resize: Resize = Resize()

    family: ClassVar[str] = "detection"
    level: ClassVar[Level] = "detection"
    rescore: ClassVar[str] = "box"
    size_multiple: ClassVar[int] = 32
    SETTINGS: ClassVar = {"preprocess": ("preprocess", None), "resize": ("resize", Resize)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if getattr(self.net, "num_joints", self.skeleton.num_joints) != self.skeleton.num_joints:
            raise ValueError(
                f"the net has {self.net.num_joints} joints, the skeleton {self.skeleton.name!r} {self.skeleton.num_joints}"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Task.outputs`."""
        if not self.skeleton.num_joints:
            return BOX_OUTPUTS
        return BOX_OUTPUTS + JOINT_OUTPUTS + (("keypoint_sigma",) if self.net.keypoint_output == "rle" else ())

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = False) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: "image" (B, H, W, 3) in 0..255, padded, and "size_hw" (B, 2), the size without padding, px.
            flip_test: ignored; the published detectors see an image once.

        Returns:
            "boxes" (B, D, 4) xyxy in pixels of the scaled image, best first, "scores", "labels", "valid" (B, D); "candidates"
            (B,), the number of boxes that there were for the D slots; with joints "keypoints" (B, D, K, 2),
            "keypoint_confidence" (B, D, K) in 0..1, and for coordinates "keypoint_sigma" (B, D, K, 2).
        """
        size_hw = batch["size_hw"]
        images = masked(preprocessor(self.preprocess)(batch["image"]), size_hw)
        weights = {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}
        outputs = self.net.apply(weights, images, size_hw, method=self.net.detect)
        if self.resize.half_pixel and "keypoints" in outputs:
            outputs["keypoints"] = outputs["keypoints"] - 0.5 * outputs["valid"][..., None, None]
        return {name: outputs[name] for name in self.outputs}


def masked(images: jax.Array, size_hw: jax.Array) -> jax.Array:
    """Returns normalised images (B, H, W, 3) whose padding is 0, which it is not after the mean is subtracted.

    >>> masked(jnp.ones((1, 2, 2, 1)), jnp.array([[2, 1]]))[0, :, :, 0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    rows, columns = (jnp.arange(n) < size_hw[:, axis, None] for axis, n in enumerate(images.shape[1:3]))
    return jnp.where((rows[:, :, None] & columns[:, None])[..., None], images, 0.0)


def detection(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    resize: Resize = Resize(),
    preprocess: str = "imagenet",
) -> Detection:
    """Builds the task of a detector.

    Args:
        net: a `jaxpose.nets.RCNN`.
        skeleton: the joints that it predicts; `jaxpose.skeleton.BOX` for boxes alone.
        size_wh: width and height of the images that initialise the net, px.
        resize: the scaling of images.
        preprocess: name of the image normalisation.

    >>> from jaxpose import nets
    >>> from jaxpose.skeleton import COCO17
    >>> net = nets.RCNN(nets.ResNet(depth=18, width=4), num_joints=17, fpn_features=8, box_features=(8, 8))
    >>> detection(net, skeleton=COCO17, size_wh=(64, 64)).outputs[:4]
    ('boxes', 'scores', 'labels', 'valid')
    """
    return Detection(net, skeleton=skeleton, size_wh=tuple(size_wh), resize=resize, preprocess=preprocess)
