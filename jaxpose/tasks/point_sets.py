"""Finds the people of a whole image as poses: anchors that are poses, moved in two stages (PointSet Anchors, Wei et al. 2020).

Every anchor gets a score and an offset for each of its joints. Offsets are trained with L1, as published, or with a likelihood such
as RLE's (table 2 d of Li 2021, for which no code was published): then the net predicts a scale of every coordinate as well, and every
stage has its own flow, since their errors differ by an order of magnitude. `jaxpose.nets.PointSetNet` is the net,
`jaxpose.detection.point_sets` the arithmetic.

The loss of a batch is a sum over both stages, each divided by the number of matched anchors:

    focal loss of the scores + joints * (loss of the offsets, summed over x, y and joints)

plus, with heatmaps, maps * (squared error + 2.5 * error of the offsets within a cell). Persons without a labelled joint, crowds, and
persons whose middle is outside the input are background; the middle is that of the labelled joints, in the published code that of
the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose import density, losses
from jaxpose.detection import matching
from jaxpose.detection import point_sets as arithmetic
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, Level, LossAndMetrics, NetTask, PyTree, check_choices, check_positive
from jaxpose.tasks.regression import Likelihood, per_joint_loss

MAP_STRIDE = 4
MAP_RADIUS, MAP_SIGMA = 3, 7 / 6  # of the Gaussians, in cells
BACKGROUND = 0.1  # weight of the cells of a heatmap whose target is 0
# The published loss is 0.05 (sum over cells and 4 images + 10 mean offset error) = 0.2 (mean over images + 2.5 mean offset error).
OFFSET_WEIGHT = 2.5
PUBLISHED = Likelihood("l1")


@dataclass(frozen=True)
class AnchorLoss:
    """The matching of anchors with people, and the terms of the loss.

    Attributes:
        high, low: similarities (OKS) from which an anchor of the first stage is a person, and below which it is background.
        second_high, second_low: those of the second stage.
        best: number of anchors that each person takes, however low their similarity.
        positives: largest number of matched anchors of an image whose joints are trained, the most similar first; None: all.
            The flow is evaluated on that many anchors, matched or not.
        joints: factor of the loss of the offsets: 10 with L1 as published; RLE's slope is about as large without it.
        maps: factor of the loss of the heatmaps, which is a mean over images. The published one is 0.05 times a sum over the 4 images
            of a device (QUIRK E19).
    """

    high: float = 0.5
    low: float = 0.4
    second_high: float = 0.99
    second_low: float = 0.89
    best: int = 9
    positives: int | None = None
    joints: float = 10.0
    maps: float = 0.2

    def __post_init__(self):
        for low, high in (("low", "high"), ("second_low", "second_high")):
            if not 0 <= getattr(self, low) <= getattr(self, high) <= 1:
                raise ValueError(
                    f"{low}={getattr(self, low)}, {high}={getattr(self, high)}: expected similarities in 0..1, in order"
                )
        if self.best < 0 or self.positives is not None and self.positives < 1:
            raise ValueError(f"best={self.best}, positives={self.positives}: expected 0 or more, and 1 or more")
        if not self.joints > 0 or not self.maps >= 0:
            raise ValueError(
                f"joints={self.joints}, maps={self.maps}: expected a positive factor, and one of 0 or more"
            )


@dataclass(frozen=True)
class ReadPoses:
    """Settings of the prediction of people.

    Attributes:
        refine: "heatmap": move every joint to the nearest peak of its heatmap, as published; "none": take the regressed joints.
        reach: largest distance to such a peak, in units of the anchor's size; None: there is no limit, as published (QUIRK E21).
        peaks: number of peaks of a joint.
        max_people: largest number of people in an image.
        candidates: number of anchors of an image before suppression, best first; the published code takes 1000 of every level.
        min_score: least score of a person.
        nms: OKS above which the weaker of two people is dropped.
        rescore: person's score: "score", that of the anchor, as published, or "score*confidence", times the mean of the joints'.
    """

    refine: Literal["heatmap", "none"] = "heatmap"
    reach: float | None = None
    peaks: int = 30
    max_people: int = 100
    candidates: int = 1000
    min_score: float = 0.001
    nms: float = 0.5
    rescore: Literal["score", "score*confidence"] = "score"

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "peaks", "max_people", "candidates")
        if self.reach is not None and not self.reach > 0:
            raise ValueError(f"reach={self.reach}: expected a positive distance, or None")
        if not 0 <= self.min_score < 1 or not 0 < self.nms <= 1:
            raise ValueError(f"min_score={self.min_score}, nms={self.nms}: expected 0 up to 1, and above 0 up to 1")


@dataclass(frozen=True, eq=False, kw_only=True)
class PointSets(NetTask):
    """The family whose net moves pose anchors to the people of an image; created by `point_sets`.

    Attributes:
        net, skeleton, size_wh, preprocess: see `NetTask`.
        likelihood: the loss of the offsets.
        training: the matching and the terms of the loss.
        search: the settings of the prediction, "people" in the config.
    """

    likelihood: Likelihood = PUBLISHED
    training: AnchorLoss = AnchorLoss()
    search: ReadPoses = ReadPoses()

    family: ClassVar[str] = "point_sets"
    level: ClassVar[Level] = "image"
    rescore: ClassVar[str] = "box"
    size_multiple: ClassVar[int] = 64
    learns_scale: ClassVar[bool] = False
    least_confidence: ClassVar[float] = 0.0
    SETTINGS: ClassVar = {
        "likelihood": ("likelihood", Likelihood),
        "training": ("training", AnchorLoss),
        "people": ("search", ReadPoses),
        "preprocess": ("preprocess", None),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        joints = self.skeleton.num_joints
        if any(side % 32 for side in self.size_wh):
            raise ValueError(f"size_wh={self.size_wh}: expected multiples of 32, the stride of the coarsest level")
        if getattr(self.net, "num_joints", joints) != joints:
            raise ValueError(f"the net has {self.net.num_joints} joints, the skeleton {self.skeleton.name!r} {joints}")
        if self.likelihood.loss == "basic":
            raise ValueError(
                "likelihood loss='basic': its flow moves absolute coordinates, and anchors have offsets; expected another"
            )
        if self.likelihood.learns_sigma and not getattr(self.net, "sigma", True):
            raise ValueError(
                f"likelihood loss={self.likelihood.loss!r} needs a scale of every coordinate: make the net with sigma=True"
            )
        if self.search.refine == "heatmap" and not getattr(self.net, "heatmaps", True):
            raise ValueError(
                "refine='heatmap': the net has no heatmaps; make it with heatmaps=True, or take refine='none'"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Task.outputs`."""
        people = ("poses", "scores", "valid", "candidates", "regressed")
        return (*people, "sigma") if self.has_regions else people

    @property
    def has_regions(self) -> bool:
        """Whether the density of the error is that of the predicted joints, which joints at peaks of heatmaps do not follow."""
        return self.likelihood.learns_sigma and self.search.refine == "none"

    @property
    def units(self) -> dict[str, str]:
        """See `NetTask.units`."""
        return {
            "sigma": 'learned scale of x and y, pixels of the input; times sigma_scale of "inference" it is calibrated'
        }

    def init(self, key: jax.Array) -> PyTree:
        """See `Task.init`; the flow of the second stage is in params/flow, that of the first in params/first_flow."""
        net_key, *flow_keys = jax.random.split(key, 3)
        variables = super().init(net_key)
        if self.likelihood.has_flow:
            for name, flow_key in zip(("first_flow", "flow"), flow_keys, strict=True):
                flow = self.likelihood.flow()
                variables["params"][name] = flow.init(flow_key, jnp.zeros((1, 2)), method="log_prob")["params"]
        return variables

    def density(self, variables: PyTree, *, required: bool = False) -> density.Model | None:
        """See `Task.density`: that of the second stage; None if joints are moved to peaks of heatmaps, which it does not describe."""
        return self.likelihood.density(variables, required=required) if self.has_regions else None

    def inference_variables(self, variables: PyTree) -> PyTree:
        """Returns the variables without the flows."""
        return variables | {"params": {"net": variables["params"]["net"]}}

    def loss(self, variables: PyTree, batch: Batch, *, key: jax.Array) -> LossAndMetrics:
        """See `Task.loss`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: image (B, H, W, 3) in 0..255, joints (B, P, K, 2) in input pixels, visibility (B, P, K), above 0 where labelled.
            key: unused; this loss is deterministic.
        """
        outputs, collections = self.apply_net(variables, self.training_images(batch), train=True)
        size_wh = jnp.asarray(batch["image"].shape[2:0:-1], jnp.float32)
        joints, labelled = batch["joints"], batch["visibility"] > 0
        labelled &= in_image(joints, labelled, size_wh)[..., None]
        joints = jnp.where(labelled[..., None], joints, 0.0)
        total, metrics = jnp.zeros(()), {}
        for stage in (0, 1):
            score, of_joints, counts = self.stage_loss(variables, outputs, stage, joints, labelled)
            total += score + self.training.joints * of_joints
            metrics |= {f"score_loss_{stage + 1}": score, f"joint_loss_{stage + 1}": of_joints}
            metrics |= {f"{name}_{stage + 1}": value for name, value in counts.items()}
        if "heatmap" in outputs:
            metrics["map_loss"] = heatmap_loss(outputs["heatmap"], outputs["map_offset"], joints, labelled)
            total += self.training.maps * metrics["map_loss"]
        return total, (collections, metrics)

    def stage_loss(
        self, variables: PyTree, outputs: dict[str, Any], stage: int, joints: jax.Array, labelled: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Returns the loss of the scores and that of the offsets of stage 0 or 1, and the numbers of matched anchors of an image."""
        settings = self.training
        logits, deltas = outputs["logits"][stage], outputs["deltas"][stage]
        anchors = jnp.broadcast_to(outputs["anchors"][stage], deltas.shape)
        high, low = ((settings.high, settings.low), (settings.second_high, settings.second_low))[stage]
        similarity = arithmetic.oks(joints, anchors, sigmas=self.skeleton.sigmas, where=labelled)
        index = arithmetic.match(similarity, high=high, low=low, best=settings.best, where=labelled.any(-1))
        positive = index >= 0
        count = jnp.maximum(positive.sum(-1), 1).sum()
        score = losses.focal(logits, positive.astype(logits.dtype), where=index != matching.BETWEEN).sum() / count

        most = min(settings.positives or index.shape[-1], index.shape[-1])
        _, rows = jax.lax.top_k(jnp.where(positive, 1.0 + similarity.max(-2, initial=0.0), 0.0), most)
        trained, person = (jnp.take_along_axis(x, rows, -1) for x in (positive, jnp.maximum(index, 0)))
        target = arithmetic.encode(each(joints, person), each(anchors, rows), scale=outputs["scale"][rows])
        where = each(labelled, person) & trained[..., None]
        sigma = each(outputs["sigma"][stage], rows) if "sigma" in outputs else jnp.ones_like(target)
        flow = None
        if self.likelihood.has_flow:
            name = ("first_flow", "flow")[stage]
            flow = partial(self.likelihood.flow().apply, {"params": variables["params"][name]})
        values = per_joint_loss(self.likelihood, each(deltas, rows), sigma, target, flow=flow, where=where)
        matched = positive.sum(-1).mean(dtype=jnp.float32)
        untrained = matched - trained.sum(-1).mean(dtype=jnp.float32)
        return score, values.sum() / count, {"matched": matched, "untrained": untrained}

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = False) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns; the flows may be missing.
            batch: image (B, H, W, 3) in 0..255, whose sides are multiples of 32.
            flip_test: ignored; the published net sees an image once.

        Returns:
            "poses" (B, P, K, 3): x, y in input pixels and the joint's confidence, best person first; "scores", "valid" (B, P);
            "candidates" (B,), the number of people that there were for the P slots; "regressed" (B, P, K, 2), the joints before they
            were moved to peaks; if they are not moved, with a likelihood "sigma" (B, P, K, 2), the scale of each coordinate in
            input pixels.
        """
        outputs, _ = self.apply_net(variables, batch["image"], train=False)
        size_wh = jnp.asarray(batch["image"].shape[2:0:-1], jnp.float32)
        search, logits = self.search, outputs["logits"][1]
        confidence = jnp.ones(outputs["deltas"][1].shape[:-1])
        if self.likelihood.learns_sigma:
            confidence = 1.0 - outputs["sigma"][1].mean(-1)
        scores = nn.sigmoid(logits)
        if search.rescore == "score*confidence":
            scores *= confidence.mean(-1)
        scores, rows = jax.lax.top_k(scores, min(search.candidates, scores.shape[-1]))
        scale, confidence = outputs["scale"][rows], each(confidence, rows)
        xy = arithmetic.decode(each(outputs["deltas"][1], rows), each(outputs["anchors"][1], rows), scale=scale)
        regressed = jnp.clip(xy, 0.0, size_wh - 1)
        xy = regressed
        if search.refine == "heatmap":
            reach = None if search.reach is None else search.reach * scale
            xy = jnp.clip(self.at_peaks(outputs, regressed, reach), 0.0, size_wh - 1)
        # A score that is NaN is kept, so that damaged weights show in the outputs and do not look like an empty picture.
        keep = arithmetic.nms(
            xy, scores, sigmas=self.skeleton.sigmas, threshold=search.nms, where=~(scores <= search.min_score)
        )
        # The kept people first, by falling score.
        falling = jnp.where(jnp.isnan(scores), -jnp.inf, -scores)
        order = jnp.argsort(jnp.where(keep, falling, jnp.inf), stable=True)[:, : search.max_people]
        valid = jnp.take_along_axis(keep, order, -1)

        def slots(values: jax.Array) -> jax.Array:
            values = each(values, order)
            values = jnp.where(
                valid.reshape(*valid.shape, *[1] * (values.ndim - 2)), values, jnp.zeros((), values.dtype)
            )
            return jnp.pad(values, [(0, 0), (0, search.max_people - valid.shape[1])] + [(0, 0)] * (values.ndim - 2))

        people = {
            "poses": slots(jnp.concatenate([xy, confidence[..., None]], -1)),
            "scores": slots(scores),
            "valid": slots(keep),
            "candidates": keep.sum(-1),
            "regressed": slots(regressed),
        }
        if self.has_regions:
            people["sigma"] = slots(each(outputs["sigma"][1], rows) * scale[..., None, None])
        return people

    def at_peaks(self, outputs: dict[str, Any], xy: jax.Array, reach: jax.Array | None) -> jax.Array:
        """Returns poses (B, N, K, 2) whose joints are moved to the nearest peaks of the heatmaps, in input pixels."""
        cell, peak, height = arithmetic.peaks(nn.sigmoid(outputs["heatmap"]), count=self.search.peaks)
        batch, joints = xy.shape[0], xy.shape[2]
        offset = outputs["map_offset"].reshape(batch, -1, joints, 2).swapaxes(1, 2)  # (B, K, cells, 2)
        peak = (peak + jnp.take_along_axis(offset, cell[..., None], 2)) * MAP_STRIDE
        return arithmetic.move_to_nearest(xy, peak, where=height > 0, reach=reach)

    def people(
        self, outputs: dict[str, Any], *, stride: float, device: bool = False
    ) -> dict[str, np.ndarray | jax.Array]:
        """Returns the people of `predict`, which has already found them; `BottomUp.people` groups maps here.

        Args:
            outputs: the output of `predict`.
            stride, device: unused.

        Raises:
            ValueError: the outputs are not finite.
        """
        if not device and not all(np.isfinite(values).all() for values in outputs.values()):
            raise ValueError("the net's outputs are not finite: its weights are damaged, or its training diverged")
        return dict(outputs)


def in_image(joints: jax.Array, labelled: jax.Array, size_wh: jax.Array) -> jax.Array:
    """Returns which people have the middle of their labelled joints in the image.

    Args:
        joints: (..., K, 2) px.
        labelled: (..., K) bool.
        size_wh: (2,) px.

    >>> in_image(jnp.array([[[1.0, 1.0], [9.0, 9.0]], [[7.0, 1.0], [11.0, 1.0]]]), jnp.ones((2, 2), bool), jnp.array([8, 8])).tolist()
    [True, False]
    """
    low = jnp.where(labelled[..., None], joints, jnp.inf).min(-2)
    high = jnp.where(labelled[..., None], joints, -jnp.inf).max(-2)
    middle = jnp.where(labelled.any(-1)[..., None], (low + high) / 2, -1.0)
    return ((middle >= 0) & (middle <= size_wh - 1)).all(-1)


def heatmap_targets(joints: jax.Array, labelled: jax.Array, size_hw: tuple[int, int]) -> jax.Array:
    """Draws the targets of the heatmaps: at every cell the maximum over the people's Gaussians, in windows of 7 x 7 cells.

    Args:
        joints: (..., P, K, 2) in cells.
        labelled: (..., P, K) bool; a joint outside the map is not drawn.
        size_hw: the height and width of the maps.

    Returns:
        (..., h, w, K).

    >>> heatmap_targets(jnp.array([[[1.8, 0.0]]]), jnp.ones((1, 1), bool), (1, 6))[0, :, 0].round(2).tolist()[:3]
    [0.6899999976158142, 1.0, 0.6899999976158142]
    """
    height, width = size_hw
    center = jnp.floor(joints)
    inside = labelled & ((center >= 0) & (center < jnp.array([width, height]))).all(-1)

    def profile(axis: int, count: int) -> jax.Array:
        distance = jnp.arange(count, dtype=center.dtype) - center[..., axis, None]
        value = jnp.exp(-jnp.square(distance) / (2 * MAP_SIGMA**2))
        return jnp.where((jnp.abs(distance) <= MAP_RADIUS) & inside[..., None], value, 0.0)

    rows, columns = jnp.moveaxis(profile(1, height), -3, 0), jnp.moveaxis(profile(0, width), -3, 0)

    def draw(maps: jax.Array, person: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        row, column = person
        return jnp.maximum(maps, jnp.einsum("...kh,...kw->...hwk", row, column)), None

    empty = jnp.zeros((*joints.shape[:-3], height, width, joints.shape[-2]), center.dtype)
    return jax.lax.scan(draw, empty, (rows, columns))[0]


def heatmap_loss(logits: jax.Array, offset: jax.Array, joints: jax.Array, labelled: jax.Array) -> jax.Array:
    """Returns the loss of heatmaps and of the offsets within their cells, a mean over images.

    The squared error of the maps is summed, with a weight of 0.1 where the target is 0; that of the offsets is
    `OFFSET_WEIGHT` times their mean over labelled joints. Where two people share a cell both count; the published code takes the later.

    Args:
        logits: (B, h, w, K).
        offset: (B, h, w, K, 2) in 0..1.
        joints: (B, P, K, 2) px.
        labelled: (B, P, K) bool.

    >>> maps = (jnp.full((1, 2, 2, 1), -20.0), jnp.zeros((1, 2, 2, 1, 2)))
    >>> heatmap_loss(*maps, jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 1, 1), bool)).round(3).item()
    0.0
    """
    batch, height, width, count = logits.shape
    cells = joints / MAP_STRIDE
    target = heatmap_targets(cells, labelled, (height, width))
    probability = jnp.clip(nn.sigmoid(logits), 1e-4, 1 - 1e-4)
    of_maps = (jnp.where(target > 0, 1.0, BACKGROUND) * jnp.square(probability - target)).sum()
    corner = jnp.floor(cells)
    inside = labelled & ((corner >= 0) & (corner < jnp.array([width, height]))).all(-1)
    cell = jnp.where(inside, corner[..., 1] * width + corner[..., 0], 0).astype(jnp.int32)  # (B, P, K)
    flat = offset.reshape(batch, height * width, count, 2)
    values = jnp.take_along_axis(flat, cell[..., None], 1)
    error = losses.l1(values, cells - corner, where=inside).sum()
    return of_maps / batch + OFFSET_WEIGHT * error / jnp.maximum(inside.sum(), 1)


def each(values: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns rows of the second axis: values (B, N, ...) at (B, M) indices -> (B, M, ...).

    >>> each(jnp.array([[5, 6, 7]]), jnp.array([[2, 0]])).tolist()
    [[7, 5]]
    """
    return jnp.take_along_axis(values, rows.reshape(*rows.shape, *[1] * (values.ndim - 2)), 1)


def point_sets(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    likelihood: Likelihood = PUBLISHED,
    training: AnchorLoss = AnchorLoss(),
    people: ReadPoses = ReadPoses(),
    preprocess: str = "imagenet",
) -> PointSets:
    """Returns a task whose net is `jaxpose.nets.PointSetNet`.

    `loss` takes a batch of `jaxpose.data.whole_images`, of which image, joints and visibility are read.

    Args:
        net: the net.
        skeleton: the skeleton whose joints the net predicts.
        size_wh: size (W, H) of the training images.
        likelihood: the loss of the offsets; "l1" as published, "rle" and others with a net that has sigma=True.
        training: the matching and the terms of the loss.
        people: settings of the prediction.
        preprocess: name of an image normalisation, see `jaxpose.tasks.PREPROCESS`.

    Raises:
        ValueError: the size is not a multiple of 32; the net lacks what the loss or the prediction reads.

    >>> from jaxpose import nets
    >>> from jaxpose.skeleton import COCO17
    >>> net = nets.PointSetNet(nets.ResNet(18, width=4), 17, templates=[[[0.0, 0.1 * k] for k in range(17)]], taps=(0, 16), groups=8)
    >>> point_sets(net, skeleton=COCO17, size_wh=(64, 64)).outputs
    ('poses', 'scores', 'valid', 'candidates', 'regressed')
    """
    return PointSets(
        net,
        skeleton=skeleton,
        size_wh=size_wh,
        likelihood=likelihood,
        training=training,
        search=people,
        preprocess=preprocess,
    )
