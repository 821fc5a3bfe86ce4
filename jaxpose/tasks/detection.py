"""Finds the people of a whole image as boxes, and the joints in each: R-CNNs on a feature pyramid.

`jaxpose.nets.RCNN` is the net. An image is scaled to a short side and padded (`Resize`); boxes and joints come back in pixels of the
scaled image, which the caller divides by the scale of each axis, as both code bases do. Boxes are in continuous coordinates, where
an image of width W spans 0..W; torchvision takes the joints of its labels for such coordinates as they are, while Detectron2 adds
half a pixel to them and subtracts it again (QUIRK E8), which `Resize.half_pixel` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import density
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import (
    Batch,
    Level,
    LossAndMetrics,
    NetTask,
    PyTree,
    check_choices,
    check_positive,
    not_normalization,
    preprocessor,
)
from jaxpose.tasks.detection_loss import Priority, RegionLoss, is_frozen, region_losses, trainable
from jaxpose.tasks.regression import Likelihood

BOX_OUTPUTS = ("boxes", "scores", "labels", "valid", "candidates")
JOINT_OUTPUTS = ("keypoints", "keypoint_confidence")
PUBLISHED = RegionLoss()
UNITS = {
    "boxes": "x1, y1, x2, y2 in pixels of the input, whose left edge is 0 and whose right edge is its width; best first",
    "scores": "probability of each box, in 0..1",
    "labels": "class of each box, as the net numbers it",
    "valid": "True for the rows that are boxes",
    "candidates": "number of boxes that there were for the rows",
    "keypoints": "x and y in pixels of the input",
    "keypoint_confidence": "0..1; 1 - mean sigma of coordinates, or the probability of a map's highest point",
    "keypoint_sigma": "learned scale of x and y, in pixels of the input",
}
RLE = Likelihood()


@dataclass(frozen=True)
class Resize:
    """How an image is scaled before a detector sees it.

    Attributes:
        short: the shorter side, px.
        longest: the largest length of the longer side, px, which has priority.
        rule: the code base whose interpolation and rounding are used (QUIRK E7).
        half_pixel: if True, the joints of the net are in continuous coordinates, so that half a pixel is subtracted from predicted
            ones; the caller adds it to the labels that it trains on (`Detection.loss`), which is not done here.
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
        training: the matching and sampling of the losses.
        likelihood: the loss of the joints of a net with keypoint_output="rle".
    """

    resize: Resize = Resize()
    training: RegionLoss = RegionLoss()
    likelihood: Likelihood = Likelihood()

    family: ClassVar[str] = "detection"
    level: ClassVar[Level] = "detection"
    rescore: ClassVar[str] = "box"
    size_multiple: ClassVar[int] = 32
    SETTINGS: ClassVar = {
        "preprocess": ("preprocess", None),
        "resize": ("resize", Resize),
        "training": ("training", RegionLoss),
        "likelihood": ("likelihood", Likelihood),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if getattr(self.net, "num_joints", self.skeleton.num_joints) != self.skeleton.num_joints:
            raise ValueError(
                f"the net has {self.net.num_joints} joints, the skeleton {self.skeleton.name!r} {self.skeleton.num_joints}"
            )

    @classmethod
    def from_config(cls, config: dict[str, Any], *, net: nn.Module | None = None) -> Detection:
        """See `NetTask.from_config`; imported detectors do not state how they were trained."""
        return super().from_config({"training": {}, "likelihood": {}, **config}, net=net)

    @property
    def config(self) -> dict[str, Any]:
        """See `Task.config`; only a net that predicts coordinates has a likelihood."""
        config = super().config
        return config if self.has_likelihood else {k: v for k, v in config.items() if k != "likelihood"}

    @property
    def has_likelihood(self) -> bool:
        """Whether the net predicts coordinates with their sigma."""
        return bool(self.skeleton.num_joints) and self.net.keypoint_output == "rle"

    def init(self, key: jax.Array) -> PyTree:
        """See `Task.init`."""
        net_key, flow_key = jax.random.split(key)
        variables = super().init(net_key)
        if self.has_likelihood and self.likelihood.has_flow:
            variables["params"]["flow"] = self.likelihood.flow().init(flow_key, jnp.zeros((1, 2)))["params"]
        return variables

    def decays(self, params: PyTree) -> PyTree:
        """Returns which parameters a decay of weights applies to: neither frozen ones nor those of normalisation."""
        options = {"freeze_at": self.training.freeze_at, "train_bn": self.net.train_bn}
        frozen = is_frozen(params["net"]["backbone"], **options)
        decayed = not_normalization(params)
        backbone = jax.tree.map(lambda decay, stop: decay and not stop, decayed["net"]["backbone"], frozen)
        return decayed | {"net": decayed["net"] | {"backbone": backbone}}

    def density(self, variables: PyTree, *, required: bool = False) -> density.Model | None:
        """See `Task.density`."""
        return self.likelihood.density(variables, required=required) if self.has_likelihood else None

    def inference_variables(self, variables: PyTree) -> PyTree:
        """See `ImageTask.inference_variables`."""
        return variables | {"params": {"net": variables["params"]["net"]}}

    def loss(
        self, variables: PyTree, batch: Batch, *, key: jax.Array, priority: Priority | None = None
    ) -> LossAndMetrics:
        """See `Task.loss`: the sum of the losses of proposals, boxes and joints (`jaxpose.tasks.detection_loss`).

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: "image" (B, H, W, 3) in 0..255, padded, "size_hw" (B, 2), "boxes" (B, G, 4) xyxy, "people" (B, G) bool,
                with joints "keypoints" (B, G, K, 3), with `Resize.half_pixel` half a pixel of the picture more than COCO's, and
                "image_id" (B,), which decides what is sampled of an image.
            key: random key of this step.
            priority: other priorities of the samples, see `region_losses`.
        """
        size_hw = batch["size_hw"]
        images = masked(preprocessor(self.preprocess)(self.training_images(batch)), size_hw)
        params = variables["params"]
        options = {"freeze_at": self.training.freeze_at, "train_bn": self.net.train_bn}
        weights = {"params": trainable(params["net"], **options), "batch_stats": variables["batch_stats"]}
        flow = None
        if "flow" in params and self.has_likelihood:
            flow = partial(self.likelihood.flow().apply, {"params": params["flow"]})
        terms, collections = self.net.apply(
            weights, images, batch, settings=self.training, priority=priority or drawn_by_image(key, batch),
            likelihood=self.likelihood, flow=flow, method=region_losses, mutable=["batch_stats"],
        )  # fmt: skip
        factors = {"joints": self.training.joints}
        total = sum(factors.get(name, 1.0) * value for name, value in terms.items())
        return total, (collections, {f"{name}_loss": value for name, value in terms.items()})

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Task.outputs`."""
        if not self.skeleton.num_joints:
            return BOX_OUTPUTS
        return BOX_OUTPUTS + JOINT_OUTPUTS + (("keypoint_sigma",) if self.net.keypoint_output == "rle" else ())

    @property
    def units(self) -> dict[str, str]:
        """See `NetTask.units`."""
        return UNITS

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = False) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: "image" (B, H, W, 3) in 0..255, padded, and "size_hw" (B, 2), the size without padding, px; without it there is no
                padding.
            flip_test: ignored; the published detectors see an image once.

        Returns:
            "boxes" (B, D, 4) xyxy in pixels of the scaled image, best first, "scores", "labels", "valid" (B, D); "candidates"
            (B,), the number of boxes that there were for the D slots; with joints "keypoints" (B, D, K, 2),
            "keypoint_confidence" (B, D, K) in 0..1, and for coordinates "keypoint_sigma" (B, D, K, 2).
        """
        images = preprocessor(self.preprocess)(batch["image"])
        size_hw = batch.get("size_hw")
        images = images if size_hw is None else masked(images, size_hw)
        weights = {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}
        outputs = self.net.apply(weights, images, size_hw, method=self.net.detect)
        if self.resize.half_pixel and "keypoints" in outputs:
            outputs["keypoints"] = outputs["keypoints"] - 0.5 * outputs["valid"][..., None, None]
        return {name: outputs[name] for name in self.outputs}


def drawn_by_image(key: jax.Array, batch: Batch) -> Priority:
    """Returns uniform random priorities that depend on the key, the image's id and the name of the sample alone.

    >>> batch = {"image": jnp.zeros((2, 4, 4, 3)), "image_id": jnp.array([7, 7])}
    >>> rows = drawn_by_image(jax.random.key(0), batch)("regions", 3)
    >>> rows.shape, bool((rows[0] == rows[1]).all())
    ((2, 3), True)
    """
    ids = batch.get("image_id", jnp.arange(len(batch["image"])))

    def priority(what: str, count: int) -> jax.Array:
        stream = jax.random.fold_in(key, {"anchors": 0, "regions": 1}[what])
        keys = jax.vmap(lambda number: jax.random.fold_in(stream, number))(ids)
        return jax.vmap(lambda each: jax.random.uniform(each, (count,)))(keys)

    return priority


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
    training: RegionLoss = PUBLISHED,
    likelihood: Likelihood = RLE,
) -> Detection:
    """Builds the task of a detector.

    Args:
        net: a `jaxpose.nets.RCNN`.
        skeleton: the joints that it predicts; `jaxpose.skeleton.BOX` for boxes alone.
        size_wh: width and height of the images that initialise the net, px.
        resize: the scaling of images.
        preprocess: name of the image normalisation.
        training: the matching and sampling of the losses.
        likelihood: the loss of the joints of a net with keypoint_output="rle".

    >>> from jaxpose import nets
    >>> from jaxpose.skeleton import COCO17
    >>> net = nets.RCNN(nets.ResNet(depth=18, width=4), num_joints=17, fpn_features=8, box_features=(8, 8))
    >>> detection(net, skeleton=COCO17, size_wh=(64, 64)).outputs[:4]
    ('boxes', 'scores', 'labels', 'valid')
    """
    return Detection(
        net, skeleton=skeleton, size_wh=tuple(size_wh), resize=resize, preprocess=preprocess, training=training,
        likelihood=likelihood,
    )  # fmt: skip
