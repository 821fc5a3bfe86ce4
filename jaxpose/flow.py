"""The normalising flows of RLE: `RealNVP` for two and three coordinates, `Spline` for one.

This is the only module of the library that uses distrax (through `jaxpose._distrax`).

RealNVP (Li et al. 2021, section 3.3 and appendix A; Dinh et al. 2017): with `m` the mask of a coupling
(True: passes through and conditions; False: transformed), a sample is made from z ~ N(0, I) by

    forward,  i = 0 .. n-1:   x = m z + (1 - m) (z exp(s_i(m z)) + t_i(m z))
    inverse,  i = n-1 .. 0:   z = m x + (1 - m) (x - t_i(m x)) exp(-s_i(m x))
    log det of the inverse:   minus the sum over couplings and transformed coordinates of s_i

and log G(x) = log N(z; 0, I) + log det. Each s_i and t_i is a net of fully connected layers with leaky ReLU (slope
0.01) between them; s_i ends in tanh, t_i is linear, as in both released codes. The paper's appendix A puts a leaky ReLU
after every layer, which `ends="paper"` does (QUIRK R8). The prior is Gaussian even if Q is Laplace.

Parameters: for coupling i and layer j, `params["s{i}_{j}"]` and `params["t{i}_{j}"]`, each {"kernel" (in, out), "bias"
(out,)}; in released state dicts these are `s.{i}.{2 j}.weight` (transposed) and `s.{i}.{2 j}.bias`.

The couplings have equal shapes, so one `lax.scan` runs them, and each is recomputed in the backward pass. The memory
of a training step is then that of one coupling instead of all: on a CPU this decides the speed beyond about 4,000
points, because the allocator returns larger blocks to the system after every step.

One coordinate: a coupling transforms a coordinate as a function of the others. With one coordinate there is no other, so
that s_i and t_i are constants, the flow is x = a z + b, and G is a Gaussian whatever the nets learn. `Spline` is the flow
for residuals of one coordinate, such as the row of a boundary in a column of a scan.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpose import density
from jaxpose._distrax import distrax
from jaxpose.losses import base_log_prob

Net = list[dict[str, jax.Array]]  # one {"kernel", "bias"} per layer

MASKS = {
    2: ([0, 1], [1, 0]),
    3: ([0, 0, 1], [1, 1, 0]),
}  # used alternately; 1 passes through (RLE code, 2D and 3D models)
INITIALISERS = ("torch", "xavier")
ENDS = ("code", "paper")


class RealNVP(nn.Module):
    """A normalising flow of dimension 2 or 3 over standardised errors.

    Attributes:
        dim: The dimension, 2 or 3.
        layers: The number of couplings; the published flows have 6.
        hidden: The widths of the hidden layers of every net; L_fc x N_n of the paper's table 6 is (N_n,) * (L_fc - 1).
        scheme: The initialisation. "torch", weights and biases uniform in +-1/sqrt(fan_in), is what the official code
            trains from (it defines a Xavier initialisation but never calls it); "xavier" is mmpose's, Xavier-uniform
            weights of gain 0.01 and biases as before, close to the identity.
        ends: The end of every net. "code": tanh after that of s_i and nothing after that of t_i, as in both
            released codes; "paper": the leaky ReLU of the other layers after both (appendix A), with which s_i has no bound.

    Raises:
        ValueError: The dimension is not 2 or 3, there is no coupling or hidden layer, or the scheme or the end is unknown.

    >>> flow = RealNVP(hidden=(8, 8))
    >>> variables = flow.init(jax.random.key(0), jnp.zeros((1, 2)), method="log_prob")
    >>> flow.apply(variables, jnp.zeros((5, 17, 2)), method="log_prob").shape
    (5, 17)
    >>> flow.apply(variables, jax.random.key(1), (3,), method="sample").shape
    (3, 2)
    """

    dim: int = 2
    layers: int = 6
    hidden: tuple[int, ...] = (64, 64)
    scheme: Literal["torch", "xavier"] = "torch"
    ends: Literal["code", "paper"] = "code"

    def setup(self):
        if self.dim not in MASKS:
            advice = "; of one coordinate a RealNVP is a Gaussian: take flow.Spline" if self.dim == 1 else ""
            raise ValueError(f"dim={self.dim}: the flow has masks for 2 and 3 coordinates{advice}")
        if self.layers < 1 or not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"layers={self.layers}, hidden={self.hidden}: at least one coupling and one hidden layer")
        if self.scheme not in INITIALISERS:
            raise ValueError(f"scheme={self.scheme!r} is unknown, expected one of {INITIALISERS}")
        if self.ends not in ENDS:
            raise ValueError(f"ends={self.ends!r} is unknown, expected one of {ENDS}")
        widths = (self.dim, *self.hidden, self.dim)
        layer = _torch_layer if self.scheme == "torch" else _xavier_layer
        shapes = list(enumerate(zip(widths[:-1], widths[1:], strict=True)))
        self.nets = {
            kind: [[self.param(f"{kind}{i}_{j}", layer, *shape) for j, shape in shapes] for i in range(self.layers)]
            for kind in "st"
        }

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.log_prob(x)

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Returns log G(x): (..., dim) -> (...), in nats."""
        x = self._check(x)
        return self._distribution(x.dtype).log_prob(x)

    def sample(self, key: jax.Array, shape: int | tuple[int, ...] = ()) -> jax.Array:
        """Draws from G: shape + (dim,), in the dtype of the parameters, float32 at least."""
        return self._distribution(self._dtype(jnp.float32)).sample(seed=key, sample_shape=shape)

    def forward(self, z: jax.Array) -> jax.Array:
        """Maps latent to data, (..., dim)."""
        z = self._check(z)
        return self._couplings(z.dtype).forward(z)

    def inverse(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps data to latent: (..., dim) -> z (..., dim) and log |det dz/dx| (...)."""
        x = self._check(x)
        return self._couplings(x.dtype).inverse_and_log_det(x)

    def _check(self, x) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape[-1:] != (self.dim,):
            raise ValueError(f"got shape {x.shape}, expected (..., {self.dim}): the flow has dim={self.dim}")
        return x.astype(self._dtype(x))

    def _dtype(self, given) -> jnp.dtype:
        return jnp.result_type(given, jnp.float32, *jax.tree.leaves(self.nets))

    def _couplings(self, dtype) -> _Couplings:
        stacked = {kind: _stack(nets, dtype) for kind, nets in self.nets.items()}
        first, second = MASKS[self.dim]
        masks = np.array([second if i % 2 else first for i in range(self.layers)], bool)
        return _Couplings(jnp.asarray(masks), stacked, ends=self.ends)

    def _distribution(self, dtype) -> distrax.Distribution:
        prior = distrax.MultivariateNormalDiag(jnp.zeros(self.dim, dtype))
        return distrax.Transformed(prior, self._couplings(dtype))


class _Couplings(distrax.Bijector):
    """Masked affine couplings of equal shape, the i-th with masks[i] and the i-th slice of every parameter."""

    def __init__(self, masks: jax.Array, nets: dict[str, Net], *, ends: str):
        super().__init__(event_ndims_in=1)
        self._parameters = (masks, nets)
        self._ends = ends

    def forward_and_log_det(self, x):
        return self._scan(lambda coupling, value: coupling.forward_and_log_det(value), x, reverse=False)

    def inverse_and_log_det(self, y):
        return self._scan(lambda coupling, value: coupling.inverse_and_log_det(value), y, reverse=True)

    def _scan(self, apply, x, *, reverse):
        def step(carry, parameters):
            value, log_det = carry
            value, change = apply(_coupling(*parameters, ends=self._ends), value)
            return (value, log_det + change), None

        step = jax.checkpoint(step, prevent_cse=False)  # recomputed, see the head of the module
        points = x.reshape(-1, x.shape[-1])  # with one axis of points, XLA's CPU matrix products are a third faster
        start = (points, jnp.zeros(points.shape[:1], x.dtype))
        (points, log_det), _ = jax.lax.scan(step, start, self._parameters, reverse=reverse)
        return points.reshape(x.shape), log_det.reshape(x.shape[:-1])


def _coupling(mask: jax.Array, nets: dict[str, Net], *, ends: str) -> distrax.MaskedCoupling:
    of_shift, of_scale = (lambda x: x, jnp.tanh) if ends == "code" else (_leaky_relu, _leaky_relu)
    return distrax.MaskedCoupling(
        mask,
        conditioner=lambda x: (of_shift(_perceptron(nets["t"], x)), of_scale(_perceptron(nets["s"], x))),
        bijector=lambda shift_and_log_scale: distrax.ScalarAffine(
            shift=shift_and_log_scale[0], log_scale=shift_and_log_scale[1]
        ),
    )


def _perceptron(net: Net, x: jax.Array) -> jax.Array:
    for layer in net[:-1]:
        x = _leaky_relu(x @ layer["kernel"] + layer["bias"])
    return x @ net[-1]["kernel"] + net[-1]["bias"]


@jax.custom_jvp
def _leaky_relu(x: jax.Array) -> jax.Array:
    return jnp.where(x >= 0, x, 0.01 * x)


@_leaky_relu.defjvp
def _leaky_relu_jvp(primals, tangents):
    # The sign is taken from the output, which the next layer keeps anyway, so that the input need not be kept as well.
    y = _leaky_relu(*primals)
    return y, jnp.where(y >= 0, tangents[0], 0.01 * tangents[0])


class Spline(nn.Module):
    """A normalising flow of one coordinate over standardised errors: a monotone rational quadratic spline.

    The spline (Durkan et al. 2019, Neural spline flows) maps [-bound, bound] onto itself, and is the identity outside, with
    slope 1 at both ends: the tails of G are those of a standard normal. It starts as the identity, so that G starts as a
    standard normal. The RLE paper does not say which flow it takes for the boundaries of its appendix H.

    Attributes:
        bins: The number of pieces of the spline; the flow has 3 bins + 1 parameters.
        bound: The half width of the interval in which the flow differs from the identity, in standardised errors.

    Raises:
        ValueError: There is no bin, or the bound is not positive.

    >>> flow = Spline()
    >>> variables = flow.init(jax.random.key(0), jnp.zeros((1, 1)), method="log_prob")
    >>> flow.apply(variables, jnp.zeros((5, 8, 1)), method="log_prob").shape
    (5, 8)
    >>> flow.apply(variables, jnp.array([0.5]), method="forward").tolist()
    [0.5]
    """

    bins: int = 8
    bound: float = 6.0

    def setup(self):
        if self.bins < 1 or not self.bound > 0:
            raise ValueError(f"bins={self.bins}, bound={self.bound}: expected at least one bin and a positive bound")
        self.knots = self.param("knots", nn.initializers.zeros, (3 * self.bins + 1,))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.log_prob(x)

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Returns log G(x): (..., 1) -> (...), in nats."""
        z, log_det = self.inverse(x)
        return base_log_prob(z, base="gaussian").sum(-1) + log_det

    def sample(self, key: jax.Array, shape: int | tuple[int, ...] = ()) -> jax.Array:
        """Draws from G: shape + (1,), in the dtype of the parameters, float32 at least."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return self.forward(jax.random.normal(key, (*shape, 1), jnp.result_type(self.knots, jnp.float32)))

    def forward(self, z: jax.Array) -> jax.Array:
        """Maps latent to data, (..., 1)."""
        z = self._check(z)
        return self._bijector(z.dtype).forward(z)

    def inverse(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps data to latent: (..., 1) -> z (..., 1) and log |dz/dx| (...)."""
        x = self._check(x)
        z, log_det = self._bijector(x.dtype).inverse_and_log_det(x)
        return z, log_det.sum(-1)

    def _check(self, x) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape[-1:] != (1,):
            raise ValueError(f"got shape {x.shape}, expected (..., 1): the spline is a flow of one coordinate")
        return x.astype(jnp.result_type(x, jnp.float32, self.knots))

    def _bijector(self, dtype) -> distrax.Bijector:
        return distrax.RationalQuadraticSpline(
            self.knots.astype(dtype), -self.bound, self.bound, boundary_slopes="identity"
        )


def _stack(nets: list[Net], dtype) -> Net:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves).astype(dtype), *nets)


def _torch_layer(key: jax.Array, n_in: int, n_out: int) -> dict[str, jax.Array]:
    kernel_key, bias_key = jax.random.split(key)
    bound = 1 / math.sqrt(n_in)
    return {
        "kernel": jax.random.uniform(kernel_key, (n_in, n_out), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (n_out,), minval=-bound, maxval=bound),
    }


def _xavier_layer(key: jax.Array, n_in: int, n_out: int, gain: float = 0.01) -> dict[str, jax.Array]:
    bound = gain * math.sqrt(6 / (n_in + n_out))
    kernel = jax.random.uniform(jax.random.fold_in(key, 0), (n_in, n_out), minval=-bound, maxval=bound)
    return _torch_layer(key, n_in, n_out) | {"kernel": kernel}


def log_normalizer(
    log_prob: Callable[[jax.Array], jax.Array],
    base: Literal["laplace", "gaussian"],
    *,
    bound: float = 5.0,
    points: int = 48,
    dim: int = 2,
) -> jax.Array:
    """log s = -log of the integral of Q G over [-bound, bound]^dim (RLE paper, equation 16), differentiable.

    The paper sums over equal cells. The nodes here are Gauss-Legendre's on either side of 0, where Q has its kink, and
    lie closest near 0. (Table 17's 44.2 against 1.8 MFLOPs amount to about 20 x 20 evaluations of the flow. That is too
    few for training: the flow learns to hide between the nodes, which makes s, and the likelihood, look larger than they
    are. `experiments/sigma_collapse.py` did so with 20 and 32 nodes per axis, and never with 48.) For densities use
    `density.log_normalizer`, which is finer and wider.

    Args:
        log_prob: The flow's log density, (..., dim) -> (...).
        base: The density Q.
        bound: Half the side of the square; [-5, 5] is the paper's.
        points: The number of nodes on each axis: points^dim evaluations of the flow.
        dim: The number of coordinates: 1, 2 or 3.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: The base is unknown, the bound not positive, there are fewer than 2 points, or the dimension is
            another.

    >>> normal = lambda x: -0.5 * (x**2).sum(-1) - 1.837877
    >>> round(log_normalizer(normal, "gaussian").item(), 4)  # 1 / integral of N(0, 1)^2 is 2 sqrt(pi) per axis
    2.531
    """
    return density.log_normalizer(log_prob, base, bound=bound, points=points, dim=dim)


def log_normalizer_latent(
    forward: Callable[[jax.Array], jax.Array],
    base: Literal["laplace", "gaussian"],
    *,
    points: int = 48,
    dim: int = 2,
) -> jax.Array:
    """log s of equation 16 as an expectation over the flow's latent: -log E[Q(f(z))], z standard normal.

    It is the same integral as `log_normalizer`, over the plane instead of a square, with equal cells of the latent,
    |z| <= 4.5 (7e-6 of a coordinate lies beyond), so that the nodes move with the flow. Use this one for training: a flow
    can learn to avoid nodes that are fixed in the plane of e by becoming narrower than their gaps, and did; the
    likelihood then looked larger than it was.

    Args:
        forward: f, latent (..., dim) -> errors (..., dim), `net.apply(variables, z, method="forward")`.
        base: The density Q.
        points: The number of nodes on each axis: points^dim evaluations of the flow.
        dim: The dimension: 1, 2 or 3.

    Returns:
        A scalar in nats.

    >>> round(log_normalizer_latent(lambda z: z, "gaussian").item(), 4)  # as above
    2.531
    """
    x = np.linspace(-4.5, 4.5, points)
    w = np.exp(-0.5 * x**2)
    nodes = jnp.asarray(np.stack(np.meshgrid(*[x] * dim, indexing="ij"), -1).reshape(-1, dim), jnp.result_type(float))
    log_w = functools.reduce(np.add.outer, [np.log(w / w.sum())] * dim).ravel()
    log_q = base_log_prob(forward(nodes), base=base).sum(-1)
    return -jax.nn.logsumexp(log_q + jnp.asarray(log_w, log_q.dtype))
