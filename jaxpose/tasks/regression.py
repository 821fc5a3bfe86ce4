"""Coordinates regressed with a likelihood: net -> (mu, sigma) -> loss (L1 ... RLE) -> pixels and confidence.

The flow is part of the variables under params/flow. It is used in training and by the predictive density; of the
losses only "basic" needs it to predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import density, geometry, losses
from jaxpose.flow import RealNVP, log_normalizer, log_normalizer_latent
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, PyTree, Task, apply_net, check_choices, check_size, init_net, preprocessor
from jaxpose.tasks.describe import describe
from jaxpose.tasks.supervision import NO_MAP_LOSS, MapLoss, inside, map_loss

LossName = Literal["rle", "dle", "basic", "laplace", "gaussian", "l1", "l2"]
LOSS_NAMES = get_args(LossName)
DIM = 2  # coordinates of a joint
WITH_FLOW = ("rle", "dle", "basic")
WITHOUT_SIGMA = ("l1", "l2")


@dataclass(frozen=True)
class Likelihood:
    """Which density the labels are assumed to have; see `jaxpose.losses.rle` for the formulas.

    Attributes:
      loss: "rle"; "dle" (equation 5: the flow alone); "basic" (figure 2a, equations 3 and 4: the flow moves the
        coordinates themselves); "laplace", "gaussian" (learned sigma); "l1", "l2" (constant sigma).
      base: Q of RLE.
      variant: "paper", "official" or "mmpose".
      log_s: add log s of equation 16 (paper variant only).
      flow_layers, flow_hidden, flow_init: the RealNVP; `hidden=(64, 64)` is the paper's 3 x 64.
    """

    loss: LossName = "rle"
    base: Literal["laplace", "gaussian"] = "laplace"
    variant: Literal["paper", "official", "mmpose"] = "official"
    log_s: bool = False
    flow_layers: int = 6
    flow_hidden: tuple[int, ...] = (64, 64)
    flow_init: Literal["torch", "xavier"] = "torch"

    def __post_init__(self):
        object.__setattr__(self, "flow_hidden", tuple(self.flow_hidden))  # JSON has lists
        check_choices(self)
        if self.log_s and (self.loss != "rle" or self.variant != "paper"):
            raise ValueError(
                f"log_s=True goes with loss='rle' and variant='paper' (equation 8), not {self.loss!r}, {self.variant!r}"
            )

    @property
    def has_flow(self) -> bool:
        return self.loss in WITH_FLOW

    def flow(self) -> RealNVP:
        return RealNVP(dim=DIM, layers=self.flow_layers, hidden=self.flow_hidden, scheme=self.flow_init)


def per_joint_loss(
    likelihood: Likelihood,
    mu: jax.Array,
    sigma: jax.Array,
    target: jax.Array,
    *,
    flow: Callable[..., Any] | None,
    where: jax.Array,
) -> jax.Array:
    """(..., K, D) predictions and targets -> (..., K) losses; `flow(x, method=...)` is the bound RealNVP."""
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
        # A flow narrower than the gaps between the nodes of the plane hides from them, one wider than those of the latent
        # from the others, and a training finds either; the larger integral, that is the smaller log s, is the true one.
        plane = log_normalizer(log_prob, likelihood.base)
        log_s = jnp.minimum(plane, log_normalizer_latent(partial(flow, method="forward"), likelihood.base))
    return losses.rle(
        mu, sigma, target, log_prob, base=base, variant=likelihood.variant, log_normalizer=log_s, where=where
    )


def regression(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    likelihood: Likelihood = Likelihood(),
    preprocess: str = "imagenet",
    outside: Literal["keep", "mask"] = "keep",
    auxiliary: MapLoss = NO_MAP_LOSS,
) -> Task:
    """A task whose net gives (mu, sigma), both (B, K, 2), mu normalised as x / W - 0.5.

    Args:
      net: linen module, `net.apply(variables, images, train=...)`; `jaxpose.nets.PoseRegressor` or your own.
      size_wh: input size (W, H) in pixels.
      likelihood: the loss.
      preprocess: "imagenet" or "rle_official".
      outside: what becomes of labelled joints that fall outside the crop (QUIRK R16): "keep" (official 2D) lets the
        net learn to infer them, "mask" (mmpose) drops them.
      auxiliary: a loss of heatmaps that the net gives beside mu and sigma when it is called with `with_maps=True`
        (table 14 of the RLE paper: a parallel head, which prediction leaves out).

    The reduction is the published one (R5): summed over joints and coordinates, divided by the global batch size.

    Raises:
      ValueError: an unknown option, a size that is not positive; when it is traced, a net whose output does not suit the
        skeleton.

    >>> from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
    >>> from jaxpose.skeleton import COCO17
    >>> net = PoseRegressor(ResNet(depth=18, width=8), RegressionHead(17))
    >>> task = regression(net, skeleton=COCO17, size_wh=(48, 64))
    >>> task.config["likelihood"]["loss"]
    'rle'
    """
    check_size(size_wh)
    to_input = preprocessor(preprocess)
    if outside not in ("keep", "mask"):
        raise ValueError(f"outside={outside!r}: expected 'keep' or 'mask'")
    width = size_wh[0]
    flow = likelihood.flow() if likelihood.has_flow else None

    def init(key: jax.Array) -> PyTree:
        net_key, flow_key = jax.random.split(key)
        params, batch_stats = init_net(net, net_key, size_wh)
        params = {"net": params}
        if flow is not None:
            params["flow"] = flow.init(flow_key, jnp.zeros((1, DIM)), method="log_prob")["params"]
        return {"params": params, "batch_stats": batch_stats}

    def run_net(variables: PyTree, images: jax.Array, *, train: bool) -> tuple[tuple[jax.Array, ...], PyTree]:
        with_maps = {"with_maps": True} if train and auxiliary.kind != "none" else {}
        outputs, collections = apply_net(net, variables, to_input(images), train=train, **with_maps)
        mu, sigma = outputs[:2]
        expected = (images.shape[0], skeleton.num_joints, DIM)
        if mu.shape != expected or sigma.shape != expected:
            raise ValueError(
                f"the net gives mu {mu.shape} and sigma {sigma.shape}: expected {expected} twice, for the skeleton "
                f"{skeleton.name!r} of {skeleton.num_joints} joints"
            )
        return outputs, collections

    def bound_flow(variables: PyTree):
        return partial(flow.apply, {"params": variables["params"]["flow"]}) if flow is not None else None

    def coordinates(variables: PyTree, mu: jax.Array) -> jax.Array:
        """What the net's first output means in the image: in the basic design the flow moves it there."""
        return bound_flow(variables)(mu, method="forward") if likelihood.loss == "basic" else mu

    def loss(variables: PyTree, batch: Batch, *, key: jax.Array):
        (mu, sigma, *maps), new_collections = run_net(variables, batch["image"], train=True)
        target = geometry.normalize(batch["joints"], size_wh)
        where = labelled = batch["visibility"] > 0
        if outside == "mask":
            where &= inside(batch["joints"], size_wh)
        values = per_joint_loss(likelihood, mu, sigma, target, flow=bound_flow(variables), where=where)
        found = coordinates(variables, jax.lax.stop_gradient(mu))
        error = jnp.linalg.norm(jnp.where(where[..., None], (found - target) * jnp.asarray(size_wh), 0.0), axis=-1)
        metrics = {
            "epe": losses.mean(error, where=where),
            "sigma": losses.mean(sigma.mean(-1), where=where),
        }
        total = values.sum() / values.shape[0]
        if maps:
            metrics["map_loss"] = map_loss(
                auxiliary, maps[0], batch["joints"], size_wh=size_wh, where=labelled, key=key
            )
            total += metrics["map_loss"]
        return total, (new_collections, metrics)

    def predict(variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        def view(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            (mu, sigma), _ = run_net(variables, images, train=False)
            return coordinates(variables, mu), sigma

        mu, sigma = view(batch["image"])
        if flip_test:
            # The exact mirror of pixel indices: x' = W - 1 - x, left and right exchanged, then the mean (R17).
            mu_flipped, sigma_flipped = view(batch["image"][:, :, ::-1])
            swap = jnp.asarray(skeleton.flip_index)
            mu = (mu + geometry.mirror_normalized(mu_flipped, width=width)[:, swap]) / 2
            sigma = (sigma + sigma_flipped[:, swap]) / 2
        confidence = jnp.ones(mu.shape[:-1]) if likelihood.loss in WITHOUT_SIGMA else 1.0 - sigma.mean(-1)
        return {"mu": mu, "sigma": sigma, "xy": geometry.denormalize(mu, size_wh), "confidence": confidence}

    config = {
        "family": "regression",
        "net": describe(net),
        "skeleton": skeleton.to_dict(),
        "size_wh": list(size_wh),
        "likelihood": asdict(likelihood),
        "preprocess": preprocess,
        "outside": outside,
        "auxiliary": asdict(auxiliary),
    }
    return Task(init=init, loss=loss, predict=predict, config=config)


def predictive_density(config: dict[str, Any], variables: PyTree, *, required: bool = True) -> density.Model | None:
    """What the trained model says of the standardised error (`jaxpose.density`); None where sigma is untrained.

    Args:
      config: the task's config, as stored in the checkpoint.
      variables: the task's variables; only params/flow is read, and only by the losses that have one.
      required: False gives None where the weights have no flow (imported without, or left out), which is an error otherwise.
    """
    if config["family"] != "regression":
        return None
    likelihood = Likelihood(**config["likelihood"])
    if likelihood.loss in WITHOUT_SIGMA or likelihood.loss == "basic":
        return None
    if not likelihood.has_flow:
        return density.Model(log_g=None, base=likelihood.loss, dim=DIM)
    if "flow" not in variables["params"]:
        if not required:
            return None
        raise ValueError("the flow was left out when this checkpoint was loaded: restore it with flow=True")
    flow = likelihood.flow()
    log_g = partial(flow.apply, {"params": variables["params"]["flow"]}, method="log_prob")
    if not likelihood.log_s:
        return density.Model(log_g=log_g, variant=likelihood.variant, dim=DIM)
    log_s = float(density.log_normalizer(log_g, base=likelihood.base, dim=DIM))
    return density.Model(log_g=log_g, base=likelihood.base, log_normalizer=log_s, dim=DIM)
