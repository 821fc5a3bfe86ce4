"""Heads that map features to (mu, sigma) of every joint."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose.geometry import normalize
from jaxpose.heatmap import dark, soft_argmax
from jaxpose.nets.deconv import check_cells


class RegressionHead(nn.Module):
    """Maps features (B, h, w, C) to mu and sigma, both (B, K, D), by global average pooling and linear layers.

    mu is normalised, x / W - 0.5; sigma = sigmoid(raw) in (0, 1), in the same unit. Both are float32 even if the
    backbone computes in bfloat16 (float64 stays float64).

    kind "linear" (mmpose; "one FC layer" in the RLE paper): 2 D K outputs, joint by joint [x, y, (z), sx, sy, (sz)].
    kind "normalized" (the authors' code, QUIRK R6): mu = (W f) / ||f|| + b, which stabilises training, and sigma
    from a separate plain layer. The norm is guarded: at f = 0 mu is b and the gradients are finite; for every
    other f the value is the published one. The authors' 3D code adds 1e-9 to sigma; here sigma is the sigmoid alone.

    Attributes:
        num_joints, dim: the number of joints K and the number of coordinates D (2 or 3).
        kind: the kind of the layer, "linear" or "normalized".
        sigma_bias: value added to the initial bias of the raw sigma; -1 starts sigma near 0.27 instead of 0.5.
        weight_init: the initialisation: "official": weights Xavier-uniform with gain 0.01, biases U(+-1 / sqrt(C)); "mmpose":
            weights N(0, 0.01^2), biases 0; None: that of the code base with this kind.

    Raises:
        ValueError: an option is unknown, dim is not 2 or 3, or features are not (B, h, w, C).

    >>> head = RegressionHead(num_joints=17)
    >>> (mu, sigma), _ = head.init_with_output(jax.random.key(0), jnp.ones((2, 8, 6, 64)))
    >>> mu.shape, sigma.shape
    ((2, 17, 2), (2, 17, 2))
    """

    num_joints: int
    dim: int = 2
    kind: Literal["linear", "normalized"] = "linear"
    sigma_bias: float = 0.0
    weight_init: Literal["official", "mmpose"] | None = None

    def __post_init__(self):
        if self.num_joints < 1:
            raise ValueError(f"num_joints={self.num_joints}: expected 1 or more")
        if self.dim not in (2, 3):
            raise ValueError(f"dim={self.dim}: expected 2 or 3")
        if self.kind not in ("linear", "normalized"):
            raise ValueError(f"kind={self.kind!r}: expected 'linear' or 'normalized'")
        if self.weight_init not in ("official", "mmpose", None):
            raise ValueError(f"weight_init={self.weight_init!r}: expected 'official', 'mmpose' or None")
        super().__post_init__()

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        if features.ndim != 4 or 0 in features.shape[1:]:
            raise ValueError(f"features have shape {features.shape}: expected (B, h, w, C) with h, w and C positive")
        pooled = features.mean((1, 2), dtype=jnp.promote_types(features.dtype, jnp.float32))
        n, c = self.dim * self.num_joints, pooled.shape[-1]
        if self.kind == "linear":
            shift = jnp.tile(jnp.repeat(jnp.array([0.0, self.sigma_bias]), self.dim), self.num_joints)
            raw = self._dense("fc", 2 * n, c, shift)(pooled).reshape(-1, self.num_joints, 2 * self.dim)
            mu, raw_sigma = raw[..., : self.dim], raw[..., self.dim :]
        else:
            mu = self._dense("coord", n, c, 0.0)(unit(pooled)).reshape(-1, self.num_joints, self.dim)
            raw_sigma = self._dense("sigma", n, c, self.sigma_bias)(pooled).reshape(mu.shape)
        return mu, jax.nn.sigmoid(raw_sigma)

    def _dense(self, name: str, outputs: int, fan_in: int, shift: jax.Array | float) -> nn.Dense:
        """Returns a linear layer with the selected initialisation, its initial bias shifted."""
        scheme = self.weight_init or {"linear": "mmpose", "normalized": "official"}[self.kind]
        kernel_init = nn.initializers.normal(0.01) if scheme == "mmpose" else xavier_uniform(gain=0.01)

        def bias_init(key, shape, dtype):
            spread = 0.0 if scheme == "mmpose" else fan_in**-0.5
            return (shift + spread * jax.random.uniform(key, shape, minval=-1.0)).astype(dtype)

        # Full float32 on every device: the outputs are the coordinates, and the product costs very little.
        return nn.Dense(outputs, kernel_init=kernel_init, bias_init=bias_init, precision="highest", name=name)


class PoseRegressor(nn.Module):
    """A backbone and a head: maps images (B, H, W, 3) to mu and sigma (B, K, D).

    Attributes:
        backbone: a module with `__call__(images, *, train)` -> features (B, h, w, C), such as `jaxpose.nets.ResNet`.
        head: a module from features to (mu, sigma), such as `RegressionHead`.
        maps: a module with `__call__(features, *, train)` -> heatmaps, such as `MapHead`, for an auxiliary loss (table 14 of the
            RLE paper): with with_maps=True the net returns (mu, sigma, heatmaps). Prediction skips it.

    >>> from jaxpose.nets import ResNet
    >>> net = PoseRegressor(ResNet(depth=18, width=8), RegressionHead(num_joints=17))
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 64, 48, 3)))
    >>> mu, sigma = net.apply(variables, jnp.zeros((2, 64, 48, 3)))
    >>> mu.shape
    (2, 17, 2)
    """

    backbone: nn.Module
    head: nn.Module
    maps: nn.Module | None = None

    def __call__(self, images: jax.Array, *, train: bool = False, with_maps: bool = False) -> tuple[jax.Array, ...]:
        features = self.backbone(images, train=train)
        mu, sigma = self.head(features)
        if self.maps is None and with_maps:
            raise ValueError("Invalid with_maps=True: this net has no heatmap head; build PoseRegressor with maps=")
        if self.maps is not None and (with_maps or self.is_initializing()):
            heatmaps = self.maps(features, train=train)
        return (mu, sigma, heatmaps) if with_maps else (mu, sigma)


class IntegralRegressor(nn.Module):
    """A heatmap net whose soft-argmax is mu, and a linear layer on the pooled features for sigma: both (B, K, 2).

    RLE with HRNet (Li 2021, table 2b) is described only as "soft-argmax" and "an FC layer". The open points are decided
    as follows: the maps come from the layers of the detection net; beta is 1; sigma is the sigmoid of a layer on the mean of
    the features that the maps are computed from, as in `RegressionHead`; mu is x / W - 0.5, so it is never outside.

    Attributes:
        net: a `HeatmapNet`; its maps are also those of an auxiliary loss (with_maps=True).
        beta, compensate, floor: options of the soft-argmax, see `jaxpose.heatmap.soft_argmax`; the floor is larger than its
            default, since initial maps are flat.
        sigma_bias: initial bias of the raw sigma; -1 starts sigma near 0.27 instead of 0.5.

    >>> from jaxpose.nets import HeatmapNet, HRNet
    >>> net = IntegralRegressor(HeatmapNet(HRNet(width=4), 17, deconvs=()))
    >>> mu, sigma = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((2, 64, 32, 3)))
    >>> mu.shape, sigma.shape
    ((2, 17, 2), (2, 17, 2))
    """

    net: nn.Module
    beta: float = 1.0
    compensate: bool = False
    floor: float = 0.01
    sigma_bias: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, with_maps: bool = False) -> tuple[jax.Array, ...]:
        maps, features = self.net(images, train=train, with_features=True)
        check_cells(images.shape[2:0:-1], maps.shape[1:3])
        xy, _ = soft_argmax(maps, beta=self.beta, compensate=self.compensate, floor=self.floor)
        mu = normalize(xy, (maps.shape[2], maps.shape[1]))
        pooled = features.mean((1, 2), dtype=jnp.promote_types(features.dtype, jnp.float32))
        sigma = sigma_layer(pooled, mu.shape, self.sigma_bias)
        return (mu, sigma, maps) if with_maps else (mu, sigma)


class PeakRegressor(nn.Module):
    """A heatmap net whose peaks are mu, and a linear layer for sigma, both (B, K, 2): detection with an uncertainty.

    mu is the highest point of each map, refined by DARK's Newton step within that pixel, and passes no gradient: an
    auxiliary map loss trains the maps (`jaxpose.tasks.regression(auxiliary=...)`), and the likelihood learns sigma and the flow
    around their peaks. With few images the maps learn in a fraction of the steps that a pooled head needs (docs/few_frames.md).

    A low peak among other low ones can be anywhere, so mu = w peak + (1 - w) place: w is the part of softmax(beta map) within two
    pixels of the peak, `place` the joint's mean peak over the training batches (a running mean in batch_stats). sigma depends on the
    mean of the features that the maps are computed from, the heights of the peaks, and w, and passes no gradient either: with it, the
    maps of a small set are worse (docs/few_frames.md). This net is ours, not from a paper.

    Attributes:
        net: a `HeatmapNet`.
        kernel: size of DARK's blur, odd: about 5 sigma of the targets.
        beta: inverse temperature of w, for targets of height 1.
        momentum: momentum of the running mean.
        sigma_bias: initial bias of the raw sigma; -1 starts sigma near 0.27 instead of 0.5.

    >>> from jaxpose.nets import HeatmapNet, ResNet
    >>> net = PeakRegressor(HeatmapNet(ResNet(depth=18, width=4, stages=2), 17, deconvs=(8,)))
    >>> mu, sigma = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((2, 64, 32, 3)))
    >>> mu.shape, sigma.shape
    ((2, 17, 2), (2, 17, 2))
    """

    net: nn.Module
    kernel: int = 7
    beta: float = 15.0
    momentum: float = 0.98
    sigma_bias: float = 0.0

    def __post_init__(self):
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: expected an odd number of pixels, 3 at least")
        if not self.beta > 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"beta={self.beta}, momentum={self.momentum}: expected a positive number, and 0 to below 1"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, with_maps: bool = False) -> tuple[jax.Array, ...]:
        maps, features = self.net(images, train=train, with_features=True)
        check_cells(images.shape[2:0:-1], maps.shape[1:3])
        fixed = jax.lax.stop_gradient(maps)
        xy, height = refined_peak(fixed, kernel=self.kernel)
        peak = normalize(xy, (maps.shape[2], maps.shape[1]))
        place = self.variable("batch_stats", "place", jnp.zeros, peak.shape[1:], jnp.float32)
        if train and not self.is_initializing():
            place.value = self.momentum * place.value + (1 - self.momentum) * peak.mean(0)
        trust = mass_around(fixed, xy, beta=self.beta)
        mu = trust[..., None] * peak + (1 - trust[..., None]) * place.value
        pooled = features.mean((1, 2), dtype=jnp.promote_types(features.dtype, jnp.float32))
        inputs = jnp.concatenate([pooled, height.astype(pooled.dtype), trust.astype(pooled.dtype)], -1)
        sigma = sigma_layer(jax.lax.stop_gradient(inputs), mu.shape, self.sigma_bias)
        return (mu, sigma, maps) if with_maps else (mu, sigma)


def mass_around(maps: jax.Array, xy: jax.Array, *, beta: float, reach: float = 2.0) -> jax.Array:
    """Returns the part of softmax(beta maps) within `reach` pixels of xy in x and y.

    Args:
        maps: the maps (..., h, w, K).
        xy: positions (..., K, 2) in map pixels.

    Returns:
        The parts (..., K), in [0, 1].

    >>> from jaxpose.heatmap import gaussian
    >>> xy = jnp.array([[20.0, 17.0]])
    >>> sharp = gaussian(xy, (40, 48), sigma=1.5)
    >>> [round(float(mass_around(height * sharp, xy, beta=15.0)[0]), 2) for height in (1.0, 0.2)]
    [1.0, 0.07]
    """
    h, w = maps.shape[-3:-1]
    near_x = jnp.abs(jnp.arange(w)[:, None] - xy[..., None, :, 0]) <= reach + 0.5
    near_y = jnp.abs(jnp.arange(h)[:, None] - xy[..., None, :, 1]) <= reach + 0.5
    part = jnp.exp(beta * (maps - maps.max((-3, -2), keepdims=True)))
    inside = jnp.where(near_y[..., :, None, :] & near_x[..., None, :, :], part, 0.0)
    return inside.sum((-3, -2)) / part.sum((-3, -2))


def refined_peak(maps: jax.Array, *, kernel: int) -> tuple[jax.Array, jax.Array]:
    """Returns the highest pixel of each map, moved by DARK's step of at most a pixel: xy (..., K, 2) in map pixels, height (..., K).

    Unlike `jaxpose.heatmap.dark` it stays near the peak on noise, and also locates the maximum of maps without a positive value.

    >>> from jaxpose.heatmap import gaussian
    >>> xy, height = refined_peak(gaussian(jnp.array([[20.3, 17.6]]), (40, 48), sigma=1.5, method="unbiased"), kernel=7)
    >>> bool(abs(xy - jnp.array([[20.3, 17.6]])).max() < 0.02), round(float(height[0]), 1)
    (True, 0.9)
    """
    flat = maps.reshape(*maps.shape[:-3], -1, maps.shape[-1])
    place, height = flat.argmax(-2), flat.max(-2)
    pixel = jnp.stack([place % maps.shape[-2], place // maps.shape[-2]], -1).astype(maps.dtype)
    fine, _ = dark(maps, kernel=kernel)
    return pixel + jnp.where((height > 0)[..., None], jnp.clip(fine - pixel, -1, 1), 0), height


def sigma_layer(features: jax.Array, shape: tuple[int, ...], bias: float) -> jax.Array:
    """Returns sigma (B, K, D), the sigmoid of a linear layer "sigma" on (B, C), which is a submodule of the calling module."""
    dense = nn.Dense(
        int(np.prod(shape[1:])), kernel_init=nn.initializers.normal(0.01), bias_init=nn.initializers.constant(bias),
        precision="highest", name="sigma",
    )  # fmt: skip
    return jax.nn.sigmoid(dense(features).reshape(shape))


def unit(f: jax.Array) -> jax.Array:
    """Returns f / ||f|| along the last axis; 0, with finite gradients, if f = 0.

    >>> [[round(v, 3) for v in row] for row in unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()]
    [[0.6, 0.8], [0.0, 0.0]]
    """
    # Divided by the largest entry first, so that small features do not underflow when squared. The result does not
    # depend on that factor, so no gradient passes through it.
    largest = jax.lax.stop_gradient(jnp.abs(f).max(-1, keepdims=True))
    f = f / jnp.where(largest > 0, largest, 1.0)
    square = jnp.square(f).sum(-1, keepdims=True)
    return f / jnp.sqrt(jnp.where(square > 0, square, 1.0))


def xavier_uniform(*, gain: float) -> nn.initializers.Initializer:
    """Returns the initialiser U(+-gain sqrt(6 / (fan_in + fan_out)))."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")
