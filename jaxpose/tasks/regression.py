"""Coordinates regressed with a likelihood: net -> (mu, sigma) -> loss (L1 ... RLE) -> pixels and confidence.

The flow is part of the variables, under params/flow. It is used in training and by the predictive density; only the loss
"basic" needs it to predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import density, geometry, losses
from jaxpose.flow import RealNVP, Spline, log_normalizer, log_normalizer_latent
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, Level, LossAndMetrics, NetTask, PyTree, check_choices, later
from jaxpose.tasks.supervision import NO_MAP_LOSS, MapLoss, inside, map_loss

LossName = Literal["rle", "dle", "basic", "laplace", "gaussian", "l1", "l2"]
LOSS_NAMES = get_args(LossName)
WITH_FLOW = ("rle", "dle", "basic")
WITHOUT_SIGMA = ("l1", "l2")


@dataclass(frozen=True)
class Likelihood:
    """The density that the labels are assumed to follow; see `jaxpose.losses.rle` for the formulas.

    Attributes:
        loss: "rle"; "dle" (equation 5: the flow alone); "basic" (figure 2a, equations 3 and 4: the flow moves the
            coordinates themselves); "laplace" and "gaussian" (learned sigma); "l1" and "l2" (constant sigma).
        base: the density Q of RLE.
        variant: the formula, "paper", "official" or "mmpose".
        log_s: if True, add log s of equation 16 (paper variant only).
        flow_layers: number of coupling layers of the RealNVP.
        flow_hidden: widths of the flow's hidden layers; (64, 64) is the paper's 3 x 64.
        flow_init: initialisation of the flow, see `jaxpose.flow.RealNVP`.
        flow_ends: end of the flow's nets, as in the released codes or as in the paper's appendix A, see `jaxpose.flow.RealNVP`.
    """

    loss: LossName = "rle"
    base: Literal["laplace", "gaussian"] = "laplace"
    variant: Literal["paper", "official", "mmpose"] = "official"
    log_s: bool = False
    flow_layers: int = 6
    flow_hidden: tuple[int, ...] = (64, 64)
    flow_init: Literal["torch", "xavier"] = "torch"
    flow_ends: Literal["code", "paper"] = later("code")

    def __post_init__(self):
        object.__setattr__(self, "flow_hidden", tuple(self.flow_hidden))  # JSON has lists
        check_choices(self)
        if self.log_s and (self.loss != "rle" or self.variant != "paper"):
            raise ValueError(
                f"Invalid log_s=True: expected loss='rle' and variant='paper' (equation 8), not {self.loss!r}, {self.variant!r}"
            )

    @property
    def has_flow(self) -> bool:
        """Whether the loss has a flow, whose parameters are then trained with the net's."""
        return self.loss in WITH_FLOW

    @property
    def learns_sigma(self) -> bool:
        """Whether the loss trains sigma."""
        return self.loss not in WITHOUT_SIGMA

    def flow(self, *, dim: int = 2) -> RealNVP | Spline:
        """Returns the flow over the `dim` coordinates of a joint: of one coordinate a spline, which has no couplings to set."""
        if dim == 1:
            return Spline()
        return RealNVP(
            dim=dim, layers=self.flow_layers, hidden=self.flow_hidden, scheme=self.flow_init, ends=self.flow_ends
        )

    def density(self, variables: PyTree, *, dim: int = 2, required: bool = False) -> density.Model | None:
        """Returns the density of the standardised error after training with this loss; see `Task.density`.

        Args:
            variables: the task's variables; only params/flow is read, and only by the losses with a flow.
            dim: number of coordinates of a joint.
            required: if True, raise an error if the weights lack the flow (imported without it, or left out), instead of
                returning None.

        Raises:
            ValueError: `required` is set and the flow is missing.
        """
        if not self.learns_sigma or self.loss == "basic":
            return None
        if not self.has_flow:
            return density.Model(log_g=None, base=self.loss, dim=dim)
        if "flow" not in variables["params"]:
            if not required:
                return None
            raise ValueError("the flow was left out when this checkpoint was loaded: restore it with flow=True")
        log_g = partial(self.flow(dim=dim).apply, {"params": variables["params"]["flow"]}, method="log_prob")
        if not self.log_s:
            return density.Model(log_g=log_g, variant=self.variant, dim=dim)
        log_s = float(density.log_normalizer(log_g, base=self.base, dim=dim))
        return density.Model(log_g=log_g, base=self.base, log_normalizer=log_s, dim=dim)


def per_joint_loss(
    likelihood: Likelihood,
    mu: jax.Array,
    sigma: jax.Array,
    target: jax.Array,
    *,
    flow: Callable[..., Any] | None,
    where: jax.Array,
) -> jax.Array:
    """Returns losses (..., K) of predictions and targets (..., K, D); `flow(x, method=...)` is the bound RealNVP."""
    match likelihood.loss:
        case "l1":
            return losses.l1(mu, target, where=where).sum(-1)
        case "l2":
            return losses.l2(mu, target, where=where).sum(-1)
        case "laplace":
            return losses.laplace_nll(mu, sigma, target, where=where).sum(-1)
        case "gaussian":
            return losses.gaussian_nll(mu, sigma, target, where=where).sum(-1)
        case "basic":
            # Equations 3 and 4: -log N(f^-1(x); mu, sigma) - log |det df^-1/dx| at x = the label.
            z, logdet = flow(jnp.where(where[..., None], target, 0.0), method="inverse")
            return losses.gaussian_nll(mu, sigma, z, where=where).sum(-1) - jnp.where(where, logdet, 0.0)
    log_prob = partial(flow, method="log_prob")
    base = likelihood.base if likelihood.loss == "rle" else None
    log_s = 0.0
    if likelihood.log_s:
        # The grid of the plane misses a flow narrower than the gaps between its nodes, and that of the latent misses one that is
        # wider; training exploits either. The larger integral, that is, the smaller log s, is the true one.
        dim = mu.shape[-1]
        plane = log_normalizer(log_prob, likelihood.base, dim=dim)
        log_s = jnp.minimum(plane, log_normalizer_latent(partial(flow, method="forward"), likelihood.base, dim=dim))
    return losses.rle(
        mu, sigma, target, log_prob, base=base, variant=likelihood.variant, log_normalizer=log_s, where=where
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Regression(NetTask):
    """The family whose net predicts (mu, sigma), both (B, K, D), mu normalised as x / W - 0.5; created by `regression`.

    A subclass for joints with three coordinates sets `dim` and `extent`, the unit of each coordinate; everything else follows
    from these two.

    Attributes:
        net, skeleton, size_wh, preprocess: see `NetTask`.
        likelihood: the loss.
        outside: treatment of labelled joints outside the crop: "keep" or "mask".
        auxiliary: a loss of heatmaps that the net predicts in addition to mu and sigma.
    """

    likelihood: Likelihood = Likelihood()
    outside: Literal["keep", "mask"] = "keep"
    auxiliary: MapLoss = NO_MAP_LOSS

    family: ClassVar[str] = "regression"
    level: ClassVar[Level] = "person"
    outputs: ClassVar[tuple[str, ...]] = ("mu", "sigma", "xy", "confidence")
    rescore: ClassVar[str] = "box+mean+max"
    dim: ClassVar[int] = 2
    SETTINGS: ClassVar = {
        "likelihood": ("likelihood", Likelihood),
        "preprocess": ("preprocess", None),
        "outside": ("outside", None),
        "auxiliary": ("auxiliary", MapLoss),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outside not in ("keep", "mask"):
            raise ValueError(f"outside={self.outside!r}: expected 'keep' or 'mask'")

    @classmethod
    def from_config(cls, config: dict[str, Any], *, net: nn.Module | None = None) -> Regression:
        """See `NetTask.from_config`; checkpoints from before the auxiliary loss existed have none."""
        return super().from_config({"auxiliary": {"kind": "none"}, **config}, net=net)

    @property
    def public_outputs(self) -> tuple[str, ...]:
        """See `ImageTask.public_outputs`."""
        return ("xy", "confidence", "sigma") if self.likelihood.learns_sigma else ("xy", "confidence")

    def init(self, key: jax.Array) -> PyTree:
        """See `Task.init`; the flow's parameters are in params/flow."""
        net_key, flow_key = jax.random.split(key)
        params, batch_stats = self.init_net(net_key)
        params = {"net": params}
        if self.likelihood.has_flow:
            flow = self.likelihood.flow(dim=self.dim)
            params["flow"] = flow.init(flow_key, jnp.zeros((1, self.dim)), method="log_prob")["params"]
        return {"params": params, "batch_stats": batch_stats}

    def loss(self, variables: PyTree, batch: Batch, *, key: jax.Array) -> LossAndMetrics:
        """See `Task.loss`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: image (B, H, W, 3) in 0..255, joints (B, K, D) in input pixels, visibility (B, K), above 0 where labelled.
            key: random key of the auxiliary loss.
        """
        (mu, sigma, *maps), new_collections = self.run_net(variables, self.training_images(batch), train=True)
        target, labelled = self.normalized(batch["joints"]), batch["visibility"] > 0
        where = labelled & self.inside(batch, target) if self.outside == "mask" else labelled
        values = self.joint_losses(variables, mu, sigma, target, batch=batch, where=where)
        metrics = self.metrics(variables, jax.lax.stop_gradient(mu), sigma, target, where=where)
        total = values.sum() / values.shape[0]
        if maps:
            metrics["map_loss"] = map_loss(
                self.auxiliary, maps[0], batch["joints"], size_wh=self.size_wh, where=labelled, key=key
            )
            total += metrics["map_loss"]
        return total, (new_collections, metrics)

    def inside(self, batch: Batch, target: jax.Array) -> jax.Array:
        """Returns which joints (B, K) of a batch, normalised (B, K, D), lie in the crop."""
        return inside(batch["joints"], self.size_wh)

    def joint_losses(
        self, variables: PyTree, mu: jax.Array, sigma: jax.Array, target: jax.Array, *, batch: Batch, where: jax.Array
    ) -> jax.Array:
        """Returns the loss of each joint (B, K) of a batch; mu, sigma and target are (B, K, D), where (B, K) counts joints."""
        return per_joint_loss(self.likelihood, mu, sigma, target, flow=self.bound_flow(variables), where=where)

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns; the flow may be missing, unless the loss is "basic".
            batch: image (B, H, W, 3) in 0..255.
            flip_test: if True, average mu and sigma with those of the mirrored crop.

        Returns:
            mu and sigma (B, K, D), normalised; xy (B, K, D) in input pixels; confidence (B, K), which is 1 - the mean of sigma, or
            1 if sigma is not trained.
        """
        mu, sigma = self.view(variables, batch["image"])
        if flip_test:
            # The exact mirror of pixel indices: x' = W - 1 - x, left and right exchanged, then the mean (R17).
            mu_flipped, sigma_flipped = self.view(variables, batch["image"][:, :, ::-1])
            swap = self.flip_index
            mu = (mu + self.mirrored(mu_flipped)[:, swap]) / 2
            sigma = (sigma + sigma_flipped[:, swap]) / 2
        confidence = 1.0 - sigma.mean(-1) if self.likelihood.learns_sigma else jnp.ones(mu.shape[:-1])
        return {"mu": mu, "sigma": sigma, "xy": self.pixels(mu), "confidence": confidence}

    def density(self, variables: PyTree, *, required: bool = False) -> density.Model | None:
        """See `Task.density`; None if sigma is not trained, and for "basic", whose sigma applies before the flow."""
        return self.likelihood.density(variables, dim=self.dim, required=required)

    def inference_variables(self, variables: PyTree) -> PyTree:
        """Returns the variables without the flow, unless the loss is "basic", the only one that predicts with it."""
        if self.likelihood.loss == "basic":
            return variables
        params = {name: value for name, value in variables["params"].items() if name != "flow"}
        return {**variables, "params": params}

    def run_net(self, variables: PyTree, images: jax.Array, *, train: bool) -> tuple[tuple[jax.Array, ...], PyTree]:
        """Returns (mu, sigma), in training also the auxiliary maps if any, with the new collections.

        Raises:
            ValueError: the net's output does not match the skeleton.
        """
        with_maps = {"with_maps": True} if train and self.auxiliary.kind != "none" else {}
        outputs, collections = self.apply_net(variables, images, train=train, **with_maps)
        mu, sigma = outputs[:2]
        expected = (images.shape[0], self.skeleton.num_joints, self.dim)
        if mu.shape != expected or sigma.shape != expected:
            raise ValueError(
                f"the net gives mu {mu.shape} and sigma {sigma.shape}: expected {expected} twice, for the skeleton "
                f"{self.skeleton.name!r} of {self.skeleton.num_joints} joints"
            )
        return outputs, collections

    def view(self, variables: PyTree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the normalised coordinates and sigma of unmirrored images (B, H, W, 3), both (B, K, D)."""
        (mu, sigma), _ = self.run_net(variables, images, train=False)
        return self.coordinates(variables, mu), sigma

    def bound_flow(self, variables: PyTree) -> Callable[..., Any] | None:
        """Returns the flow bound to its parameters, `flow(x, method=...)`; None for a loss without a flow."""
        if not self.likelihood.has_flow:
            return None
        return partial(self.likelihood.flow(dim=self.dim).apply, {"params": variables["params"]["flow"]})

    def coordinates(self, variables: PyTree, mu: jax.Array) -> jax.Array:
        """Converts the net's first output to image coordinates: in the basic design the flow moves it there."""
        return self.bound_flow(variables)(mu, method="forward") if self.likelihood.loss == "basic" else mu

    def metrics(
        self, variables: PyTree, mu: jax.Array, sigma: jax.Array, target: jax.Array, *, where: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns means over the labelled joints: "epe", the distance in input pixels, and "sigma"."""
        xy = self.coordinates(variables, mu)
        error = jnp.linalg.norm(jnp.where(where[..., None], (xy - target) * jnp.asarray(self.extent), 0.0), axis=-1)
        return {"epe": losses.mean(error, where=where), "sigma": losses.mean(sigma.mean(-1), where=where)}

    @property
    def extent(self) -> tuple[float, ...]:
        """The length of 1 of each normalised coordinate: the width and the height of the input in pixels."""
        return self.size_wh

    def normalized(self, joints: jax.Array) -> jax.Array:
        """Converts joints (..., D) of a batch to the coordinates that the net predicts."""
        return geometry.normalize(joints, self.extent)

    def pixels(self, mu: jax.Array) -> jax.Array:
        """The inverse of `normalized`."""
        return geometry.denormalize(mu, self.extent)

    def mirrored(self, mu: jax.Array) -> jax.Array:
        """Returns coordinates (..., D) in the mirrored crop, without exchanging left and right."""
        return geometry.mirror_normalized(mu, width=self.size_wh[0])


def regression(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    likelihood: Likelihood = Likelihood(),
    preprocess: str = "imagenet",
    outside: Literal["keep", "mask"] = "keep",
    auxiliary: MapLoss = NO_MAP_LOSS,
) -> Regression:
    """Returns a task whose net predicts (mu, sigma), both (B, K, 2), mu normalised as x / W - 0.5.

    The reduction is the published one (R5): summed over joints and coordinates, divided by the global batch size.

    Args:
        net: linen module, `net.apply(variables, images, train=...)`; `jaxpose.nets.PoseRegressor` or your own.
        skeleton: the skeleton whose joints the net predicts.
        size_wh: input size (W, H) in pixels.
        likelihood: the loss.
        preprocess: "imagenet" or "rle_official".
        outside: treatment of labelled joints that fall outside the crop (QUIRK R16): "keep" (official 2D) lets the net
            learn to infer them, "mask" (mmpose) drops them.
        auxiliary: a loss of heatmaps that the net also returns when it is called with `with_maps=True` (table
            14 of the RLE paper: a parallel head, which prediction leaves out).

    Raises:
        ValueError: an option is unknown, or the size is not positive; during tracing: the net's output does not match the
            skeleton.

    >>> from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
    >>> from jaxpose.skeleton import COCO17
    >>> net = PoseRegressor(ResNet(depth=18, width=8), RegressionHead(17))
    >>> task = regression(net, skeleton=COCO17, size_wh=(48, 64))
    >>> task.config["likelihood"]["loss"]
    'rle'
    """
    return Regression(
        net, skeleton=skeleton, size_wh=size_wh, likelihood=likelihood, preprocess=preprocess, outside=outside,
        auxiliary=auxiliary,
    )  # fmt: skip
