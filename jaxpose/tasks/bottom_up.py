"""Detects all people in a whole image, from heatmaps of all of them and tags that assign each joint to a person.

HigherHRNet (Cheng 2020) predicts heatmaps at 1/4 and at 1/2 of the image size and tags at 1/4. Associative embedding (Newell
2017) pulls the tags of one person together and pushes those of two people apart. SWAHR (Luo 2021) adds two parts, which can
be used alone or together:

    SAHR   the net also predicts alpha, by which the Gaussian of a joint becomes wider or narrower
           (`heatmap.scale_adaptive`), held near 0 by `losses.scale_penalty`
    WAHR   easy pixels of the heatmaps have lower weights (`losses.weight_adaptive_mse`)

The loss of a batch is the mean over its images, joints and pixels. Masked pixels count as zeros in that mean, as published:

    sum over both resolutions (maps + penalty * alpha^2) + embedding * (pull + push)

A prediction consists of maps; `BottomUp.people` groups them into people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose import grouping, heatmap, losses
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, Level, LossAndMetrics, NetTask, PyTree, check_choices, check_positive

COARSEST = 32
LEAST_SIGMA = 0.1  # of a person of no size, in map pixels: the Gaussian of this one is a single pixel already


@dataclass(frozen=True)
class PeopleLoss:
    """The targets of the maps of a whole image, and the terms of the loss.

    Attributes:
        targets: the rule for the standard deviation of the Gaussians. "fixed": `sigma` for everybody (HigherHRNet).
            "scale_adaptive": scaled pixel by pixel by the predicted alpha (SAHR). Three are SHR, `sigma` times a length of the
            person's box over `base` (table 4 of Luo 2021, the baseline of SAHR; QUIRK S9). "box_paper": the width in input pixels,
            as the paper says. "box_official": the longer side in pixels of the original image over the scale that the augmentation
            drew, as the released code would if its option did not crash. "box": ours, the longer side in input pixels, rounded
            to round(sigma + 1/2), half to even, at least 1, because the Gaussians of the released code have their peak at the
            joint for whole numbers only.
        sigma: standard deviation in map pixels, at both resolutions.
        base: length in pixels of a box whose Gaussians have the standard deviation `sigma`; used by the three of SHR.
        order: the power that "scale_adaptive" applies to a Gaussian: its expansion to "second" order, as published, or the
            "exact" power.
        exponent: the quantity that alpha changes in "scale_adaptive": the exponent ("alpha", as published) or the standard
            deviation ("std"), QUIRK S1.
        penalty: lambda, the factor of alpha^2.
        weighting: the weights of the pixels: "none": equal weights; "adaptive": WAHR.
        gamma: exponent of the weights of "adaptive".
        embedding: factor of pull and push.
        variant: form of the push, see `losses.associative_embedding` (QUIRK S7).
    """

    targets: Literal["fixed", "scale_adaptive", "box", "box_paper", "box_official"] = "fixed"
    sigma: float = 2.0
    base: float = 256.0
    order: Literal["second", "exact"] = "second"
    exponent: Literal["alpha", "std"] = "alpha"
    penalty: float = 1.0
    weighting: Literal["none", "adaptive"] = "none"
    gamma: float = 0.01
    embedding: float = 1e-3
    variant: Literal["official", "mmpose", "max"] = "official"

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "sigma", "base", "gamma")
        for name in ("penalty", "embedding"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")


@dataclass(frozen=True)
class FindPeople:
    """Settings of the search for people in the maps, see `jaxpose.grouping.group`.

    Attributes:
        max_people: largest number of people in an image.
        detection_threshold: least height of a joint's peak; SWAHR tests with 0.12 (W32) and 0.1 (W48), QUIRK S8.
        tag_threshold: largest distance between a joint's tag and the mean tag of its person.
        refine: if True, search the whole map for the joints that a person lacks.
        maps: the maps that are searched: "both": the mean of both resolutions; "half": the maps at 1/2 alone, as in tables 7
            and 8 of Luo 2021.
        project: if True, enlarge the maps to the size of the image before the search, as published, instead of searching at 1/2.
    """

    max_people: int = 30
    detection_threshold: float = 0.1
    tag_threshold: float = 1.0
    refine: bool = True
    maps: Literal["both", "half"] = "both"
    project: bool = True

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "max_people", "tag_threshold")
        if not self.detection_threshold >= 0:
            raise ValueError(f"detection_threshold={self.detection_threshold}: expected 0 or more")


@dataclass(frozen=True, eq=False, kw_only=True)
class BottomUp(NetTask):
    """The family whose net predicts the maps and tags of all people of an image; created by `bottom_up`.

    Attributes:
        net, skeleton, size_wh, preprocess: see `NetTask`.
        people_loss: the targets and terms of the loss, "loss" in the config.
        search: the settings of the search for people, "people" in the config.
    """

    people_loss: PeopleLoss = PeopleLoss()
    search: FindPeople = FindPeople()

    family: ClassVar[str] = "bottom_up"
    level: ClassVar[Level] = "image"
    outputs: ClassVar[tuple[str, ...]] = ("heatmap", "tag")
    rescore: ClassVar[str] = "box"
    size_multiple: ClassVar[int] = 2 * COARSEST  # the published test code rounds the sides to it
    SETTINGS: ClassVar = {
        "loss": ("people_loss", PeopleLoss),
        "people": ("search", FindPeople),
        "preprocess": ("preprocess", None),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(side % COARSEST for side in self.size_wh):
            raise ValueError(
                f"size_wh={self.size_wh}: expected multiples of {COARSEST}, the stride of the net's coarsest branch"
            )
        if self.learns_scale and not getattr(self.net, "scale", True):
            raise ValueError("targets='scale_adaptive' needs scale maps: make the net with scale=True")
        joints = self.skeleton.num_joints
        if getattr(self.net, "num_joints", joints) != joints:
            raise ValueError(f"the net has {self.net.num_joints} joints, the skeleton {self.skeleton.name!r} {joints}")

    @property
    def least_confidence(self) -> float:
        """The confidence above which a joint is drawn: joints below it are guesses of the refinement, anywhere in the image."""
        return self.search.detection_threshold

    @property
    def learns_scale(self) -> bool:
        """Whether training scales the Gaussians by the predicted alpha, so that `scale_factors` is meaningful."""
        return self.people_loss.targets == "scale_adaptive"

    def loss(self, variables: PyTree, batch: Batch, *, key: jax.Array) -> LossAndMetrics:
        """See `Task.loss`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: a batch of `jaxpose.data.whole_images`, see `bottom_up`.
            key: unused; this loss is deterministic.
        """
        settings = self.people_loss
        stages, collections = self.run_net(variables, batch["image"], train=True)
        of_maps, of_alpha = jnp.zeros(()), jnp.zeros(())
        visible, width = batch["visibility"] > 0, batch["image"].shape[2]
        for maps in stages:
            size_hw = maps["heatmap"].shape[1:3]
            stride = width // size_hw[1]
            xy = batch["joints"] / stride
            base = heatmap.people(xy, visible, size_hw, sigma=self.sigma(batch))
            term, penalty = self.loss_of_maps(maps, base, where=batch[f"mask_{stride}"])
            of_maps, of_alpha = of_maps + term, of_alpha + penalty
        values, where = read_joints(stages[0]["tag"], batch["joints"], visible, width=width)
        embedding = losses.associative_embedding(values, where=where, variant=settings.variant)
        pull, push = (term.mean() for term in embedding)
        metrics = {"map_loss": of_maps, "scale_loss": of_alpha, "pull": pull, "push": push}
        total = of_maps + settings.penalty * of_alpha + settings.embedding * (pull + push)
        return total, (collections, metrics)

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: the image and any number of further scales of it, see `bottom_up`.
            flip_test: if True, average the heatmaps with those of the mirrored images, and append their tags.

        Returns:
            heatmap (B, h, w, K) and tag (B, h, w, K, T), with T = 2 in the flip test; `people` groups them into people.
        """
        views = [name for name in batch if name == "image" or name.startswith("image_") and name != "image_id"]
        views.sort(key=lambda name: name != "image")  # the first one decides the size and supplies the tags
        height, width = batch["image"].shape[1:3]
        size_hw = (height, width) if self.search.project else (height // 2, width // 2)
        total, tags = jnp.zeros(()), []
        for name in views:
            maps, tag = self.view(variables, batch[name])
            tags += [tag] * (name == "image")
            if flip_test:
                flipped = self.view(variables, batch[name][:, :, ::-1])
                mirrored, tag = (x[:, :, ::-1, self.flip_index] for x in flipped)
                maps, tags = (maps + mirrored) / 2, tags + [tag] * (name == "image")
            total = total + resized(maps, size_hw)
        return {"heatmap": total / len(views), "tag": jnp.stack([resized(tag, size_hw) for tag in tags], -1)}

    def people(
        self, outputs: dict[str, Any], *, stride: float, device: bool = False
    ) -> dict[str, np.ndarray | jax.Array]:
        """Groups the maps that `predict` returned into people; see `find_people`.

        Args:
            outputs: the output of `predict`.
            stride: input pixels per map pixel.
            device: if True, group with the jitted `grouping.group_batch`; by default `grouping.group` runs on the host.

        Returns:
            poses (B, max_people, K, 3), scores (B, max_people) and valid (B, max_people).
        """
        return find_people(outputs, self.search, stride=stride, device=device)

    def scale_factors(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """Returns the factor by which the learned alpha multiplies the standard deviation (figure 5 of Luo 2021).

        H^(1 + alpha) has sigma_0 (1 + alpha)^(-1/2) for the exponent "alpha", where the paper takes 1 / (1 + alpha), its s, as the
        factor (QUIRK S1); with the exponent "std" it is sigma_0 / (1 + alpha). The published second order is close to that only
        near the joint. 1 + alpha is bounded below as in `heatmap.scale_adaptive`.

        Args:
            variables: the variables, with the structure that `init` returns.
            images: (B, H, W, 3), as in a batch.

        Returns:
            The factors (B, H/2, W/2, K).

        Raises:
            ValueError: the net has no scale maps.
        """
        maps = self.run_net(variables, images, train=False)[0][-1]
        if "alpha" not in maps:
            raise ValueError("this net has no scale maps: train with targets='scale_adaptive' to get them")
        bounded = jnp.maximum(1 + maps["alpha"], heatmap.LEAST_EXPONENT)
        return bounded**-0.5 if self.people_loss.exponent == "alpha" else 1 / bounded

    def run_net(
        self, variables: PyTree, images: jax.Array, *, train: bool
    ) -> tuple[tuple[dict[str, jax.Array], ...], PyTree]:
        """Returns the maps at 1/4 and at 1/2 of the images, by name, with the new collections.

        Raises:
            ValueError: the maps have other strides.
        """
        outputs, collections = self.apply_net(variables, images, train=train)
        stages = self.net.split(outputs)
        strides = [images.shape[2] / maps["heatmap"].shape[2] for maps in stages]
        if strides != [4, 2]:
            raise ValueError(
                f"the net's maps have strides {strides}: expected 4 and 2, so a backbone of stride 4 (a ResNet of n stages, of stride "
                "2^(n+1), with n - 1 deconvolutions)"
            )
        return stages, collections

    def view(self, variables: PyTree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the heatmaps, averaged over the resolutions, and the tags of unmirrored images, both at 1/2."""
        (coarse, fine), _ = self.run_net(variables, images, train=False)
        size_hw = fine["heatmap"].shape[1:3]
        maps = fine["heatmap"]
        if self.search.maps == "both":
            maps = (resized(coarse["heatmap"], size_hw) + maps) / 2
        return maps, resized(coarse["tag"], size_hw)

    def sigma(self, batch: Batch) -> float | jax.Array:
        """Returns the standard deviation of the unscaled Gaussians in map pixels: one number, or (B, P, K)."""
        settings = self.people_loss
        if settings.targets in ("fixed", "scale_adaptive"):
            return settings.sigma
        if settings.targets != "box":
            length = batch[{"box_paper": "width", "box_official": "released_extent"}[settings.targets]]
            sigma = jnp.maximum(settings.sigma * length / settings.base, LEAST_SIGMA)
            return jnp.broadcast_to(sigma[..., None], batch["joints"].shape[:-1])
        # The released code's rounding: a patch at a fractional position would have its peak beside the joint.
        sigma = jnp.maximum(jnp.round(settings.sigma * batch["extent"] / settings.base + 0.5), 1)
        return jnp.broadcast_to(sigma[..., None], batch["joints"].shape[:-1])

    def loss_of_maps(
        self, maps: dict[str, jax.Array], base: jax.Array, *, where: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns two scalars for one resolution: the heatmap term, and the alpha term before its factor lambda.

        Args:
            maps: the maps of one resolution: "heatmap" (B, h, w, K) and, for a net with scale maps, "alpha".
            base: the unscaled Gaussians (B, h, w, K).
            where: (B, h, w) pixels that count.
        """
        settings = self.people_loss
        target, penalty = base, jnp.zeros(())
        if self.learns_scale:
            order = {"second": 2, "exact": None}[settings.order]
            target = heatmap.scale_adaptive(base, maps["alpha"], order=order, exponent=settings.exponent)
            penalty = losses.scale_penalty(maps["alpha"], base, where=where).mean()
        if settings.weighting == "adaptive":
            options = {"base_target": base, "gamma": settings.gamma, "where": where}
            return losses.weight_adaptive_mse(maps["heatmap"], target, **options).mean(), penalty
        return jnp.square(jnp.where(where[..., None], maps["heatmap"] - target, 0)).mean(), penalty


def bottom_up(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    loss: PeopleLoss = PeopleLoss(),
    people: FindPeople = FindPeople(),
    preprocess: str = "imagenet",
) -> BottomUp:
    """Returns a task whose net is `jaxpose.nets.HigherHRNet`, or has its outputs and its `split`.

    `loss` takes a batch of `jaxpose.data.whole_images`: image (B, H, W, 3), joints (B, P, K, 2) in input pixels, visibility
    (B, P, K), mask_4 and mask_2, and for targets of SHR extent, width or released_extent (B, P). `predict` takes image, whose
    sides are multiples of 64, and any number of further scales of it (image_0.5 and so on), which are all enlarged to the maps
    of the first. It returns heatmap (B, h, w, K) and tag (B, h, w, K, T), with T = 2 in the flip test. Heatmaps are averaged over
    scales and mirror images; tags come from the first scale, one from each mirror image.

    Args:
        net: the net, from images to maps at 1/4 and at 1/2.
        skeleton: the skeleton whose joints the net predicts.
        size_wh: size (W, H) of the training images.
        loss: targets and terms of the loss.
        people: settings of the search for people in the maps.
        preprocess: name of an image normalisation, see `jaxpose.tasks.PREPROCESS`.

    Raises:
        ValueError: an option is unknown; the size is not a multiple of 32; scale-adaptive targets are used with a net without
            scale maps; the net was built for another skeleton.

    >>> from jaxpose.nets import HigherHRNet, HRNet
    >>> from jaxpose.skeleton import COCO17
    >>> task = bottom_up(HigherHRNet(HRNet(4), 17), skeleton=COCO17, size_wh=(128, 128))
    >>> task.config["loss"]["targets"]
    'fixed'
    """
    return BottomUp(net, skeleton=skeleton, size_wh=size_wh, people_loss=loss, search=people, preprocess=preprocess)


def resized(maps: jax.Array, size_hw: tuple[int, int]) -> jax.Array:
    """Resizes maps (B, h, w, K) bilinearly, with the corners of the outer pixels kept in place.

    >>> resized(jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1), (1, 4)).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    if maps.shape[1:3] == tuple(size_hw):
        return maps
    return jax.image.resize(maps, (maps.shape[0], *size_hw, maps.shape[-1]), "linear", antialias=False)


def read_joints(maps: jax.Array, joints: jax.Array, visible: jax.Array, *, width: int) -> tuple[jax.Array, jax.Array]:
    """Returns the values of maps (B, h, w, K) at joints (B, P, K, 2), and a mask (B, P, K) of those read; see `heatmap.read`.

    Args:
        maps: the maps of the images.
        joints: the joints in input pixels.
        visible: (B, P, K), above 0 where labelled.
        width: width of the images in input pixels.

    >>> values, where = read_joints(jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.array([[[[5.0, 0.0]]]]), jnp.ones((1, 1, 1)), width=8)
    >>> values.item(), where.item()
    (2.0, True)
    """
    return heatmap.read(maps, joints * (maps.shape[2] / width), visible)


def find_people(
    maps: dict[str, Any], settings: FindPeople, *, stride: float, device: bool = False
) -> dict[str, np.ndarray | jax.Array]:
    """Groups the maps that `BottomUp.predict` returns into people.

    Args:
        maps: "heatmap" (B, h, w, K) and "tag" (B, h, w, K, T).
        settings: settings of the search.
        stride: input pixels per map pixel.
        device: if True, group with the jitted `grouping.group_batch` on the device that holds the maps; by default
            `grouping.group` runs on the host, image by image, which is faster on a CPU.

    Returns:
        poses (B, max_people, K, 3): x, y in input pixels and the joint's score, which is 0 for a missing joint; scores
        (B, max_people), best first; valid (B, max_people) bool. If there are more than `max_people`, the best are returned.

    Raises:
        ValueError: the maps are not finite.

    >>> maps = {"heatmap": np.zeros((1, 8, 8, 2)), "tag": np.zeros((1, 8, 8, 2, 1))}
    >>> maps["heatmap"][0, 2, 1] = maps["heatmap"][0, 6, 5] = 0.9
    >>> maps["tag"][0, 6, 5] = 4.0
    >>> people = find_people(maps, FindPeople(max_people=3), stride=2)
    >>> people["valid"].tolist(), people["poses"][0, :2, 0, :2].tolist()
    ([[True, True, False]], [[2.5, 4.5], [10.5, 12.5]])
    """
    options = {
        "max_people": settings.max_people,
        "detection_threshold": settings.detection_threshold,
        "tag_threshold": settings.tag_threshold,
        "refine": settings.refine,
    }
    if device:
        poses, scores, valid = grouping.group_batch(maps["heatmap"], maps["tag"], **options)
        order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), axis=-1, stable=True)
        poses, scores, valid = (
            jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), 1) for x in (poses, scores, valid)
        )
        return {"poses": poses[..., :3] * jnp.array([stride, stride, 1]), "scores": scores, "valid": valid}
    batch, joints = len(maps["heatmap"]), maps["heatmap"].shape[-1]
    people = {
        "poses": np.zeros((batch, settings.max_people, joints, 3), np.float32),
        "scores": np.zeros((batch, settings.max_people), np.float32),
        "valid": np.zeros((batch, settings.max_people), bool),
    }
    for i, (heatmaps, tags) in enumerate(zip(np.asarray(maps["heatmap"]), np.asarray(maps["tag"]), strict=True)):
        poses, scores = grouping.group(heatmaps, tags, **options)
        best = np.argsort(-scores, kind="stable")[: settings.max_people]
        people["poses"][i, : len(best)] = poses[best, :, :3] * (stride, stride, 1)
        people["scores"][i, : len(best)], people["valid"][i, : len(best)] = scores[best], True
    return people
