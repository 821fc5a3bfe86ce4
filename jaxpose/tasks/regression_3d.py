"""Joints in space from one picture: image coordinates and depth relative to the root, regressed with a likelihood.

A batch mixes persons with depth and persons without, such as Human3.6M's and MPII's. With a flow there are two of them: a
joint with a depth label is scored by the flow of (x, y, z), any other one by the flow of (x, y), which is the released rule
(`jaxpose.losses.rle_mixture`); the paper's and mmpose's forms of the loss divide joints in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import losses
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, PyTree, check_choices, check_positive, later
from jaxpose.tasks.regression import Likelihood, Regression, per_joint_loss

RLE = Likelihood()
EPSILON = 1e-9  # the released 3D code adds it to sigma


@dataclass(frozen=True)
class Depth:
    """The third coordinate.

    Attributes:
        extent: length of 1 in the normalised depth, in `unit`; 2000 mm in the code of RLE and of integral regression, so that a body
            spans -0.5 to 0.5.
        root: the joints whose mean is the root, the point that depth is relative to.
        relative: subtract the predicted depth of the root at test (RLE's code); if False, depth is taken as it is predicted.
        bone_length: mean length in mm of all limbs of a training person together; it gives the size of a person where no camera is
            known (`jaxpose.predict`). None: unknown.
        unit: the unit of depths: "mm", or "bone", the length of a hand's key bone (2.5D, `jaxpose.hands`), of which no camera is needed
            in training.
    """

    extent: float = 2000.0
    root: tuple[int, ...] = (0,)
    relative: bool = True
    bone_length: float | None = None
    unit: Literal["mm", "bone"] = later("mm")

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "extent")
        object.__setattr__(self, "root", tuple(int(k) for k in self.root))  # JSON has lists
        if not self.root:
            raise ValueError("root=(): expected at least one joint")
        if self.bone_length is not None and not self.bone_length > 0:
            raise ValueError(f"bone_length={self.bone_length}: expected a positive number of mm, or None")

    @property
    def unit_name(self) -> str:
        """The unit of depths in words."""
        return {"mm": "mm", "bone": "lengths of the key bone"}[self.unit]


BODY = Depth()


@dataclass(frozen=True, eq=False, kw_only=True)
class Regression3D(Regression):
    """The family whose net predicts (mu, sigma), both (B, K, 3): x / W - 0.5, y / H - 0.5 and the depth over `Depth.extent`.

    Created by `regression_3d`. A batch has joints (B, K, 3): input pixels and the depth relative to the root, in `Depth.unit`, and
    has_depth (B, K), True where the depth is a label; a depth that is none may hold anything.

    With outside="mask" a joint counts if all its normalised coordinates, also the depth, lie in [-0.5, 0.5], as in RLE's code.

    Attributes:
        depth: the third coordinate.
    """

    depth: Depth = BODY

    family: ClassVar[str] = "regression_3d"
    outputs: ClassVar[tuple[str, ...]] = ("mu", "sigma", "xy", "depth", "confidence")
    dim: ClassVar[int] = 3
    SETTINGS: ClassVar = {**Regression.SETTINGS, "depth": ("depth", Depth)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood.loss == "basic":
            raise ValueError(
                "loss='basic' moves coordinates by one flow, and joints in space have two: expected another loss"
            )
        if self.auxiliary.kind != "none":
            raise ValueError(f"auxiliary.kind={self.auxiliary.kind!r}: joints in space have no auxiliary maps")
        if max(self.depth.root) >= self.skeleton.num_joints:
            raise ValueError(
                f"depth.root={self.depth.root}: the skeleton has the joints 0 to {self.skeleton.num_joints - 1}"
            )

    @property
    def public_outputs(self) -> tuple[str, ...]:
        """See `ImageTask.public_outputs`."""
        return ("xy", "depth", *super().public_outputs[1:])

    @property
    def units(self) -> dict[str, str]:
        """See `NetTask.units`."""
        sigma = (
            f"learned scale: of x and y as fractions of the input's size; the third is that of the depth, as a fraction of "
            f"{self.depth.extent:g} {self.depth.unit_name}"
        )
        return {"depth": f"{self.depth.unit_name}, relative to the root, away from the camera", "sigma": sigma}

    def init(self, key: jax.Array) -> PyTree:
        """See `Task.init`; the parameters of the two flows are in params/flow (x, y, z) and params/flow_2d (x, y)."""
        variables = super().init(key)
        if self.likelihood.has_flow:
            flow = self.likelihood.flow(dim=2)
            params = flow.init(jax.random.fold_in(key, 2), jnp.zeros((1, 2)), method="log_prob")["params"]
            variables["params"]["flow_2d"] = params
        return variables

    def inside(self, batch: Batch, target: jax.Array) -> jax.Array:
        """See `Regression.inside`; a depth that is no label does not count."""
        beyond = jnp.abs(target) > 0.5
        return ~(beyond[..., :2].any(-1) | (beyond[..., 2] & batch["has_depth"]))

    def joint_losses(
        self, variables: PyTree, mu: jax.Array, sigma: jax.Array, target: jax.Array, *, batch: Batch, where: jax.Array
    ) -> jax.Array:
        """See `Regression.joint_losses`."""
        with_depth = where & batch["has_depth"]
        flow, flow_2d = self.bound_flow(variables), self.bound_flow_2d(variables)
        settings = self.likelihood
        if settings.variant == "official" and settings.has_flow:
            sigma = sigma + EPSILON
        if settings.loss == "rle" and settings.variant == "official" and settings.base == "laplace":
            weight = jnp.stack([where, where, with_depth], -1).astype(mu.dtype)
            flows = (partial(flow_2d, method="log_prob"), partial(flow, method="log_prob"))
            return losses.rle_mixture(mu, sigma, target, *flows, weight=weight, where=where)
        full = per_joint_loss(settings, mu, sigma, target, flow=flow, where=with_depth)
        flat = (values[..., :2] for values in (mu, sigma, target))
        return full + per_joint_loss(settings, *flat, flow=flow_2d, where=where & ~with_depth)

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns; the flows may be missing.
            batch: image (B, H, W, 3) in 0..255.
            flip_test: if True, average mu and sigma with those of the mirrored crop.

        Returns:
            mu and sigma (B, K, 3), normalised; xy (B, K, 2) in input pixels; depth (B, K) relative to the root, in `Depth.unit`;
            confidence (B, K), which is 1 - the mean of sigma, or 1 if sigma is not trained.
        """
        outputs = super().predict(variables, batch, flip_test=flip_test)
        points = outputs.pop("xy")
        return {**outputs, "xy": points[..., :2], "depth": points[..., 2]}

    def view(self, variables: PyTree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Regression.view`; with `Depth.relative` the root has depth 0."""
        mu, sigma = super().view(variables, images)
        if self.depth.relative:
            mu = mu.at[..., 2].add(-mu[..., jnp.asarray(self.depth.root), 2].mean(-1, keepdims=True))
        return mu, sigma

    def inference_variables(self, variables: PyTree) -> PyTree:
        """Returns the variables without the flows, with which the density alone is computed."""
        variables = super().inference_variables(variables)
        params = {name: value for name, value in variables["params"].items() if name != "flow_2d"}
        return {**variables, "params": params}

    def bound_flow_2d(self, variables: PyTree) -> Callable[..., Any] | None:
        """Returns the flow of joints without depth, bound to its parameters; None for a loss without a flow."""
        if not self.likelihood.has_flow:
            return None
        return partial(self.likelihood.flow(dim=2).apply, {"params": variables["params"]["flow_2d"]})

    def metrics(
        self, variables: PyTree, mu: jax.Array, sigma: jax.Array, target: jax.Array, *, where: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns means over the labelled joints: "epe", the distance in input pixels, and "sigma"."""
        error = (mu - target)[..., :2] * jnp.asarray(self.size_wh)
        error = jnp.linalg.norm(jnp.where(where[..., None], error, 0.0), axis=-1)
        return {"epe": losses.mean(error, where=where), "sigma": losses.mean(sigma.mean(-1), where=where)}

    @property
    def extent(self) -> tuple[float, ...]:
        """Width and height of the input in pixels, and the length of 1 in the normalised depth, in `Depth.unit`."""
        return (*self.size_wh, self.depth.extent)

    def normalized(self, joints: jax.Array) -> jax.Array:
        """See `Regression.normalized`; the depth is divided, and not shifted."""
        return joints / jnp.asarray(self.extent, joints.dtype) - jnp.asarray((0.5, 0.5, 0.0), joints.dtype)

    def pixels(self, mu: jax.Array) -> jax.Array:
        """The inverse of `normalized`."""
        return (mu + jnp.asarray((0.5, 0.5, 0.0), mu.dtype)) * jnp.asarray(self.extent, mu.dtype)


def regression_3d(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    likelihood: Likelihood = RLE,
    preprocess: str = "imagenet",
    outside: Literal["keep", "mask"] = "mask",
    depth: Depth = BODY,
) -> Regression3D:
    """Returns a task whose net predicts (mu, sigma), both (B, K, 3): normalised image coordinates and depth.

    The reduction is the published one (R5): summed over joints and coordinates, divided by the global batch size.

    Args:
        net: linen module, `net.apply(variables, images, train=...)`; `jaxpose.nets.PoseRegressor` with a head of dim 3, or your own.
        skeleton: the skeleton whose joints the net predicts.
        size_wh: input size (W, H) in pixels.
        likelihood: the loss, except "basic"; "l1" is direct regression.
        preprocess: "imagenet" or "rle_official_3d".
        outside: treatment of labelled joints beyond the crop or the extent of the depth: "mask" (RLE's 3D code) drops them, "keep"
            (integral regression) lets the net learn to infer them.
        depth: the third coordinate.

    Raises:
        ValueError: an option is unknown or does not exist in space; during tracing: the net's output does not match the skeleton.

    >>> from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
    >>> from jaxpose.skeleton import H36M18
    >>> net = PoseRegressor(ResNet(depth=18, width=8), RegressionHead(18, dim=3))
    >>> regression_3d(net, skeleton=H36M18, size_wh=(64, 64)).config["depth"]["extent"]
    2000.0
    """
    return Regression3D(
        net,
        skeleton=skeleton,
        size_wh=size_wh,
        likelihood=likelihood,
        preprocess=preprocess,
        outside=outside,
        depth=depth,
    )
