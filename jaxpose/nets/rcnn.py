"""Faster R-CNN and Keypoint R-CNN: people, or other things, of whole images, and the joints of each.

Ren et al. 2015 (Faster R-CNN), He et al. 2017 (Mask R-CNN): a region proposal network on a feature pyramid proposes boxes; a head
on the features of each proposal classifies and corrects it; a second head predicts the joints in each box that remains. The
differences between torchvision's and Detectron2's nets are one attribute, `variant` (docs/detection.md).

Everything has static shapes: rows that stand for nothing have valid = False. Prediction runs the heads on chunks of the valid rows
only, so that slots for a hundred people cost nothing where there are three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose import platforms
from jaxpose.detection import anchors, boxes, keypoint_maps, roi_align
from jaxpose.nets.deconv import deconvolve
from jaxpose.nets.fpn import FPN, BiasConv, NormConv, caffe_xavier
from jaxpose.nets.layers import compute_dtype, later, param_dtype

Rows = dict[str, jax.Array]
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BOX_CELLS = 7
BOX_CHUNK, JOINT_CHUNK = 128, 4  # rows of a head at a time
OUTPUTS = ("boxes", "scores", "labels", "valid", "keypoints", "keypoint_scores")
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class RPNHead(nn.Module):
    """Predicts whether each anchor holds an object, and the offsets of its box; the same convolutions on all levels.

    Attributes:
        ratios: number of anchors at each cell.
        convs: number of 3x3 convolutions, 1 or (torchvision's v2) 2.
        dtype: compute dtype of the convolutions.
    """

    ratios: int = 3
    convs: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns logits (B, A) and deltas (B, A, 4) of every level, in the order y, x, ratio."""
        features = levels[0].shape[-1]
        narrow = nn.initializers.normal(0.01)
        options = {"dtype": self.dtype, "kernel_init": narrow}
        convs = [BiasConv(features, 3, **options, name=f"conv_{i}") for i in range(self.convs)]
        to_logits = BiasConv(self.ratios, 1, **options, name="logits")
        to_deltas = BiasConv(4 * self.ratios, 1, **options, name="deltas")
        logits, deltas = [], []
        for x in levels:
            for conv in convs:
                x = nn.relu(conv(x))
            logits.append(_wide(to_logits(x)).reshape(len(x), -1))
            deltas.append(_wide(to_deltas(x)).reshape(len(x), -1, 4))
        return logits, deltas


class BoxHead(nn.Module):
    """Classifies regions and predicts the offsets of their boxes, per class.

    Attributes:
        scores: number of logits.
        boxes: number of boxes; torchvision also has one for the background.
        convs: channels of 3x3 convolutions with BatchNorm (torchvision's v2).
        features: units of the fully connected layers.
        dtype: compute dtype.
    """

    scores: int
    boxes: int
    convs: tuple[int, ...] = ()
    features: tuple[int, ...] = (1024, 1024)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Returns logits (R, scores) and deltas (R, boxes, 4) of regions (R, 7, 7, C)."""
        x = regions
        for i, features in enumerate(self.convs):
            x = nn.relu(NormConv(features, 3, dtype=self.dtype, name=f"conv_{i}")(x, train=train))
        x = x.reshape(len(x), -1)
        for i, features in enumerate(self.features):
            x = nn.relu(self._dense(features, caffe_xavier, f"fc_{i}")(x))
        x = _wide(x)
        logits = self._dense(self.scores, nn.initializers.normal(0.01), "scores")(x)
        deltas = self._dense(4 * self.boxes, nn.initializers.normal(0.001), "deltas")(x)
        return _wide(logits), _wide(deltas).reshape(len(x), self.boxes, 4)

    def _dense(self, features: int, init: Any, name: str) -> nn.Dense:
        dtype = self.dtype if jnp.dtype(self.dtype).itemsize < 4 else None  # None: promoted, so that float64 stays
        return nn.Dense(features, kernel_init=init, dtype=dtype, param_dtype=param_dtype(self.dtype), name=name)


class KeypointHead(nn.Module):
    """Predicts the joints of regions: maps four times as fine (He et al. 2017: 56 x 56), or coordinates with their sigma for RLE.

    Attributes:
        num_joints: the number of joints, K.
        convs: channels of the 3x3 convolutions.
        output: "heatmap": a deconvolution and bilinear enlargement to maps; "rle": the mean over the region and one linear layer
            to 4 K numbers, per joint x, y and the raw sigmas (Li et al. 2021, section 4).
        dtype: compute dtype.
    """

    num_joints: int
    convs: tuple[int, ...] = (512,) * 8
    output: Literal["heatmap", "rle"] = "heatmap"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array) -> jax.Array:
        """Returns maps (R, 4 n, 4 n, K) or numbers (R, K, 4) of regions (R, n, n, C); n is 14 as published."""
        x = regions
        for i, features in enumerate(self.convs):
            x = nn.relu(BiasConv(features, 3, dtype=self.dtype, kernel_init=he_fan_out, name=f"conv_{i}")(x))
        if self.output == "rle":
            x = _wide(x).mean((1, 2))
            init = nn.initializers.normal(0.01)
            x = nn.Dense(4 * self.num_joints, kernel_init=init, param_dtype=param_dtype(self.dtype), name="joints")(x)
            return x.reshape(len(x), self.num_joints, 4)
        maps = _wide(BiasDeconv(self.num_joints, dtype=self.dtype, name="deconv")(x))
        size = (len(maps), 2 * maps.shape[1], 2 * maps.shape[2], self.num_joints)
        return jax.image.resize(maps, size, "bilinear")


class BiasDeconv(nn.Module):
    """Transposed convolution with bias, kernel 4, stride 2, padding 1: (B, h, w, I) -> (B, 2 h, 2 w, O)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (4, 4, self.features, x.shape[-1])
        kernel = self.param("kernel", he_fan_out, shape, param_dtype(self.dtype))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), param_dtype(self.dtype))
        dtype = compute_dtype(self.dtype, x, kernel)
        return deconvolve(x.astype(dtype), kernel.astype(dtype)) + bias.astype(dtype)


class RCNN(nn.Module):
    """Maps images (B, H, W, 3), normalised and padded with zeros on the right and below, to boxes, and to joints.

    `net.apply(variables, images, size_hw, train=False)` returns a dictionary, in pixels of `images`, in continuous coordinates:
    "boxes" (B, D, 4) xyxy, "scores" (B, D), best first, "labels" (B, D), "valid" (B, D) and, if the net predicts joints,
    "keypoints" (B, D, K, 2) and "keypoint_scores" (B, D, K). Training calls `features`, `rpn`, `box_head` and `keypoint_head`.

    Attributes:
        backbone: a ResNet.
        num_classes: number of classes, with the background.
        num_joints: number of joints; 0: boxes alone.
        variant: the code base whose rules are followed. The background is class 0 of torchvision and the last one of Detectron2.
        fpn_features: channels of the pyramid.
        fpn_norm: BatchNorm in the pyramid.
        rpn_convs: number of convolutions of the proposal network.
        box_convs: channels of the convolutions of the box head.
        box_features: units of the box head.
        keypoint_convs: channels of the convolutions of the keypoint head.
        keypoint_output: see `KeypointHead`.
        anchor_sizes: side of the anchors of each level, px.
        anchor_ratios: heights over widths of the anchors.
        first_level: first level of the pyramid that is used, 2 (stride 4) or more.
        region_size: side of a box that is read from `region_level`, px.
        region_level: see `region_size`.
        pre_nms: number of proposals of each level before their suppression.
        post_nms: number of proposals.
        max_detections: slots for boxes, D.
        min_score: score that a box has to exceed.
        proposal_nms: IoU above which the weaker of two proposals of a level is dropped.
        box_nms: IoU above which the weaker of two boxes of a class is dropped.
        classes: labels that are output, as a detector of persons has the person alone; None: all.
        train_bn: if True, BatchNorm of the backbone is trained; False: frozen.
        joint_cells: rows and columns of a region for the keypoint head; its maps have four times as many.
        dtype: compute dtype of everything but box arithmetic and outputs.
    """

    backbone: nn.Module
    num_classes: int = 2
    num_joints: int = 0
    variant: Literal["torchvision", "detectron2"] = "torchvision"
    fpn_features: int = 256
    fpn_norm: bool = False
    rpn_convs: int = 1
    box_convs: tuple[int, ...] = ()
    box_features: tuple[int, ...] = (1024, 1024)
    keypoint_convs: tuple[int, ...] = (512,) * 8
    keypoint_output: Literal["heatmap", "rle"] = "heatmap"
    anchor_sizes: tuple[float, ...] = anchors.SIZES
    anchor_ratios: tuple[float, ...] = anchors.RATIOS
    first_level: int = 2
    region_size: float = 224.0
    region_level: int = 4
    pre_nms: int = 1000
    post_nms: int = 1000
    max_detections: int = 100
    min_score: float = 0.05
    proposal_nms: float = 0.7
    box_nms: float = 0.5
    classes: tuple[int, ...] | None = None
    train_bn: bool = False
    joint_cells: int = later(14)
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.variant not in ("torchvision", "detectron2"):
            raise ValueError(f"variant={self.variant!r}: expected 'torchvision' or 'detectron2'")
        if self.keypoint_output not in ("heatmap", "rle"):
            raise ValueError(f"keypoint_output={self.keypoint_output!r}: expected 'heatmap' or 'rle'")
        if self.num_classes < 2 or min(self.pre_nms, self.post_nms, self.max_detections) < 1:
            raise ValueError(
                f"num_classes={self.num_classes}, pre_nms={self.pre_nms}, post_nms={self.post_nms}, "
                f"max_detections={self.max_detections}: expected two classes and a positive number of slots"
            )
        super().__post_init__()

    def setup(self):
        self.fpn = FPN(self.fpn_features, norm=self.fpn_norm, dtype=self.dtype)
        self.rpn = RPNHead(len(self.anchor_ratios), self.rpn_convs, dtype=self.dtype)
        self.box_head = BoxHead(
            self.num_classes, self.num_classes - (self.variant == "detectron2"), self.box_convs, self.box_features,
            dtype=self.dtype,
        )  # fmt: skip
        if self.num_joints:
            self.keypoint_head = KeypointHead(
                self.num_joints, self.keypoint_convs, self.keypoint_output, dtype=self.dtype
            )

    @property
    def foreground(self) -> slice:
        """The classes that are no background, among the logits."""
        return slice(1, None) if self.variant == "torchvision" else slice(0, self.num_classes - 1)

    @property
    def person_label(self) -> int:
        """The label of persons in both code bases: 1, or 0 where the background is the last class."""
        return 1 if self.variant == "torchvision" else 0

    @property
    def sampling(self) -> dict[str, Any]:
        """The options of RoIAlign."""
        aligned = self.variant == "detectron2"
        return {"samples": 0 if aligned else 2, "aligned": aligned}

    def __call__(self, images: jax.Array, size_hw: jax.Array | None = None, *, train: bool = False) -> Rows:
        """Returns the detections, see the class.

        Args:
            images: (B, H, W, 3).
            size_hw: (B, 2) height and width without padding, px; None: there is none.
            train: must be False; training has its own path (`jaxpose.tasks.detection`).
        """
        if train:
            raise ValueError("train=True: an R-CNN is trained through features, rpn and the heads, see jaxpose.tasks")
        outputs = self.detect(images, size_hw)
        return {name: outputs[name] for name in OUTPUTS if name in outputs}

    def detect(self, images: jax.Array, size_hw: jax.Array | None = None) -> Rows:
        """Returns the same as a call, the number of boxes "candidates" (B,) that there were for the slots, and intermediate values.

        These are "proposals" (B, P, 4), "proposal_valid" (B, P), "proposal_scores" (B, P), "class_logits" (B, P, n), and
        for coordinates with sigma "keypoint_sigma" (B, D, K, 2).
        """
        if size_hw is None:
            size_hw = jnp.broadcast_to(jnp.array(images.shape[1:3]), (len(images), 2))
        levels = self.features(images)
        logits, deltas = self.rpn(levels)
        proposals = self.propose(logits, deltas, images.shape[1:3], size_hw)
        outputs = {"proposals": proposals["boxes"], "proposal_valid": proposals["valid"]}
        outputs["proposal_scores"] = proposals["scores"]
        rows = self._rows(proposals["boxes"], proposals["valid"])
        class_logits, box_deltas = self._in_chunks(self.box_head, levels, rows, cells=BOX_CELLS, size=BOX_CHUNK)
        class_logits, box_deltas = (
            x.reshape(*proposals["valid"].shape, *x.shape[1:]) for x in (class_logits, box_deltas)
        )
        outputs["class_logits"] = class_logits
        outputs |= self.select(class_logits, box_deltas, proposals, size_hw)
        if self.num_joints:
            rows = self._rows(outputs["boxes"], outputs["valid"])
            read = self.read_joints
            joints = self._in_chunks(
                self.keypoint_head, levels, rows, cells=self.joint_cells, size=JOINT_CHUNK, after=read
            )
            shape = outputs["valid"].shape
            outputs |= {name: values.reshape(*shape, *values.shape[1:]) for name, values in joints.items()}
        return outputs

    def features(self, images: jax.Array, *, train: bool = False) -> list[jax.Array]:
        """Returns the levels of the pyramid, the coarsest one for the proposal network alone."""
        maps = self.backbone(images, train=train and self.train_bn, every_stage=True)
        return self.fpn(maps[self.first_level - 2 :], train=train)

    def anchors(self, padded_hw: tuple[int, int]) -> jax.Array:
        """Returns the anchors (A, 4) of images of that size."""
        options = {"sizes": self.anchor_sizes, "ratios": self.anchor_ratios, "first_level": self.first_level}
        return jnp.asarray(anchors.pyramid(padded_hw, variant=self.variant, **options))

    def propose(
        self,
        logits: list[jax.Array],
        deltas: list[jax.Array],
        padded_hw: tuple[int, int],
        size_hw: jax.Array,
        *,
        pre_nms: int | None = None,
        post_nms: int | None = None,
    ) -> Rows:
        """Returns the proposals: "boxes" (B, P, 4), "scores" (B, P), best first, "valid" (B, P).

        Args:
            logits, deltas: the outputs of `rpn`.
            padded_hw: height and width of the padded images, px.
            size_hw: (B, 2) height and width of the images, px.
            pre_nms: number of proposals of each level before suppression; None: that of the net.
            post_nms: number of proposals; None: that of the net.
        """
        pre_nms, post_nms = pre_nms or self.pre_nms, post_nms or self.post_nms
        anchor, start, by_level = self.anchors(padded_hw), 0, []
        most = min(pre_nms, max(level.shape[1] for level in logits))
        for logit, delta in zip(logits, deltas, strict=True):
            count = logit.shape[1]
            score, index = jax.lax.top_k(logit, min(pre_nms, count))
            delta = jnp.take_along_axis(delta, index[..., None], 1)
            box = boxes.decode(delta, anchor[start : start + count].astype(delta.dtype)[index])
            padding = most - score.shape[1]
            by_level.append(
                (
                    jnp.pad(box, ((0, 0), (0, padding), (0, 0))),
                    jnp.pad(score, ((0, 0), (0, padding)), constant_values=-jnp.inf),
                )
            )
            start += count
        box, score = (jnp.stack(each, 1) for each in zip(*by_level, strict=True))
        box = boxes.clip(box, size_hw[:, None, None])
        side = (box[..., 2:] - box[..., :2]).min(-1)
        large = side >= 1e-3 if self.variant == "torchvision" else side > 0
        where = large & (score > -jnp.inf) & jnp.isfinite(box).all(-1)
        if self.variant == "torchvision":
            score = jax.nn.sigmoid(score)
        where = boxes.nms(box, score, threshold=self.proposal_nms, where=where)
        score = jnp.where(where, score, -jnp.inf).reshape(len(score), -1)
        score, index = jax.lax.top_k(score, min(post_nms, score.shape[1]))
        box = jnp.take_along_axis(box.reshape(len(box), -1, 4), index[..., None], 1)
        return {"boxes": box, "scores": score, "valid": score > -jnp.inf}

    def select(self, class_logits: jax.Array, deltas: jax.Array, proposals: Rows, size_hw: jax.Array) -> Rows:
        """Returns the boxes that are output: "boxes", "scores", "labels", "valid" in D slots, and "candidates" (B,).

        Args:
            class_logits: (B, P, n).
            deltas: (B, P, n, 4), or without the background.
            proposals: "boxes" (B, P, 4) and "valid" (B, P).
            size_hw: (B, 2) height and width of the images, px.
        """
        score = jax.nn.softmax(class_logits, -1)[..., self.foreground]
        deltas = deltas[..., -score.shape[-1] :, :]
        labels = np.arange(score.shape[-1]) + self.person_label
        if self.classes is not None:
            index = np.flatnonzero(np.isin(labels, self.classes))
            labels, score, deltas = labels[index], score[..., index], deltas[..., index, :]
        classes = len(labels)
        box = boxes.decode(deltas, proposals["boxes"][..., None, :], weights=BOX_WEIGHTS)
        box = boxes.clip(box, size_hw[:, None, None])
        where = proposals["valid"][..., None] & (score > self.min_score) & jnp.isfinite(box).all(-1)
        if self.variant == "torchvision":
            where &= (box[..., 2:] - box[..., :2]).min(-1) >= 1e-2
        where = self._suppress(box, score, where)
        batch, count, _ = score.shape
        slots = min(self.max_detections, count * classes)
        ranked = jnp.where(where, score, -jnp.inf).reshape(batch, -1)
        ranked, index = jax.lax.top_k(ranked, slots)
        valid = ranked > -jnp.inf
        padding = self.max_detections - slots
        rows = {
            "boxes": jnp.take_along_axis(box.reshape(batch, -1, 4), index[..., None], 1) * valid[..., None],
            "scores": jnp.where(valid, ranked, 0),
            "labels": jnp.where(valid, jnp.asarray(labels)[index % classes], 0),
            "valid": valid,
        }
        rows = {k: jnp.pad(v, ((0, 0), (0, padding), *((0, 0),) * (v.ndim - 2))) for k, v in rows.items()}
        return rows | {"candidates": where.sum((1, 2))}

    def _suppress(self, box: jax.Array, score: jax.Array, where: jax.Array) -> jax.Array:
        """Returns which of the boxes (B, P, C, 4) stay; classes that no proposal reaches cost nothing."""
        if box.shape[2] == 1:
            keep = boxes.nms(box[:, :, 0], score[:, :, 0], threshold=self.box_nms, where=where[:, :, 0])
            return keep[..., None]
        batch, count, classes, _ = box.shape
        by_class = [
            jnp.moveaxis(x, 2, 1).reshape(batch * classes, *x.shape[1:2], *x.shape[3:]) for x in (box, score, where)
        ]

        def suppress(args: tuple) -> jax.Array:
            box, score, where = args
            return jax.lax.cond(
                where.any(), lambda: boxes.nms(box, score, threshold=self.box_nms, where=where), lambda: where
            )

        keep = jax.lax.map(suppress, tuple(by_class))
        return jnp.moveaxis(keep.reshape(batch, classes, count), 1, 2)

    def read_joints(self, outputs: jax.Array, box: jax.Array) -> Rows:
        """Returns the joints of boxes (R, 4) from the outputs of `keypoint_head`.

        They are "keypoints" (R, K, 2); "keypoint_confidence" (R, K) in 0..1, the probability of the highest point of a map,
        or the mean over x and y of 1 - sigma; "keypoint_scores" (R, K), the same, or torchvision's, the logit of that point
        (QUIRK E9); and for coordinates "keypoint_sigma" (R, K, 2) in pixels.
        """
        if self.keypoint_output == "rle":
            sigma, size = jax.nn.sigmoid(outputs[..., 2:]), (box[:, 2:] - box[:, :2])[:, None]
            xy = box[:, None, :2] + (outputs[..., :2] + 0.5) * size
            sure = 1 - sigma.mean(-1)
            return {
                "keypoints": xy,
                "keypoint_scores": sure,
                "keypoint_confidence": sure,
                "keypoint_sigma": sigma * size,
            }
        xy, value, sure = keypoint_maps.decode(outputs, box)
        score = value if self.variant == "torchvision" else sure
        return {"keypoints": xy, "keypoint_scores": score, "keypoint_confidence": jnp.minimum(sure, 1.0)}

    def pool(self, levels: Sequence[jax.Array], box: jax.Array, *, cells: int) -> jax.Array:
        """Returns the features (B, R, cells, cells, C) of boxes (B, R, 4), for training."""
        levels = levels[:-1]
        scales = [2.0 ** -(self.first_level + i) for i in range(len(levels))]
        # A GPU's scatter would add in another order every time.
        form = {"tpu": "matrices", "cpu": "scatter"}.get(platforms.platform(), "gather")
        options = {"size_hw": (cells, cells), "scales": scales, "first": self.first_level, "form": form}
        options |= self.sampling
        return roi_align.pyramid(levels, box, self.level_of(box), **options)

    def level_of(self, box: jax.Array) -> jax.Array:
        """Returns the level of the pyramid that each box (..., 4) is read from."""
        last = self.first_level + len(self.anchor_sizes) - 2
        options = {"size": self.region_size, "size_level": self.region_level, "variant": self.variant}
        return roi_align.levels(box, first=self.first_level, last=last, **options)

    def _rows(self, box: jax.Array, valid: jax.Array) -> Rows:
        image = jnp.broadcast_to(jnp.arange(len(box))[:, None], valid.shape)
        return {"box": box.reshape(-1, 4), "valid": valid.ravel(), "image": image.ravel()}

    def _in_chunks(
        self,
        head: nn.Module,
        levels: Sequence[jax.Array],
        rows: Rows,
        *,
        cells: int,
        size: int,
        after: Callable[[jax.Array, jax.Array], Any] = lambda outputs, box: outputs,
    ) -> Any:
        """Applies a head to the features of the valid rows, `size` of them at a time; other rows are 0."""
        maps = levels[:-1]
        flat = jnp.concatenate([x.reshape(len(x), -1, x.shape[-1]) for x in maps], 1)
        length = flat.shape[1]
        flat = flat.reshape(-1, flat.shape[-1])
        shape = jnp.array([x.shape[1:3] for x in maps])
        first = jnp.cumsum(shape.prod(1)) - shape.prod(1)
        size = min(size, len(rows["box"]))

        def regions(box: jax.Array, image: jax.Array) -> jax.Array:
            level = self.level_of(box) - self.first_level
            scale = 2.0 ** -(level + self.first_level).astype(box.dtype)
            where = {"origin": image * length + first[level], "map_hw": shape[level], "scale": scale}
            return roi_align.gather(flat, box, **where, size_hw=(cells, cells), **self.sampling)

        if self.is_initializing():
            outputs = after(head(regions(rows["box"][:size], rows["image"][:size])), rows["box"][:size])
            return jax.tree.map(lambda x: jnp.zeros((len(rows["box"]), *x.shape[1:]), x.dtype), outputs)
        pure, variables = head.unbind()  # submodules cannot be called inside the loop

        def apply(start: jax.Array) -> Any:
            box, image = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in (ordered["box"], ordered["image"]))
            return after(pure.apply(variables, regions(box, image)), box)

        chunks = -(-len(rows["box"]) // size)
        order = jnp.argsort(~rows["valid"], stable=True)
        padding = chunks * size - len(order)
        ordered = {name: jnp.pad(x[order], ((0, padding), *((0, 0),) * (x.ndim - 1))) for name, x in rows.items()}
        shapes = jax.eval_shape(apply, 0)
        start = jax.tree.map(lambda x: jnp.zeros((chunks * size, *x.shape[1:]), x.dtype), shapes)

        def add(number: jax.Array, total: Any) -> Any:
            put = jax.lax.dynamic_update_slice_in_dim
            return jax.tree.map(lambda x, new: put(x, new, number * size, 0), total, apply(number * size))

        used = (rows["valid"].sum() + size - 1) // size
        total = jax.lax.fori_loop(0, used, add, start)
        place = jnp.argsort(order, stable=True)
        where = rows["valid"]
        return jax.tree.map(lambda x: jnp.where(where.reshape(-1, *(1,) * (x.ndim - 1)), x[place], 0), total)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
