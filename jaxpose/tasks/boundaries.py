"""Boundaries in scans (RLE, appendix H): net -> (mu, sigma) of every boundary in every column -> loss -> rows in pixels.

A boundary is a function of the column: the residual has one coordinate. The flow of RLE is then a spline (`flow.Spline`),
because a RealNVP of one coordinate is a Gaussian. The paper does not say what it took; `residual="pair"` is the reading that
is nearest to its code: the residuals of two neighbouring boundaries in one column are the two coordinates of a RealNVP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxpose import density, losses
from jaxpose.tasks.base import Batch, Level, LossAndMetrics, NetTask, PyTree, check_choices, check_size
from jaxpose.tasks.regression import Likelihood, per_joint_loss


@dataclass(frozen=True, eq=False, kw_only=True)
class Boundaries(NetTask):
    """The family whose net predicts the rows of K boundaries in every column of a scan; created by `boundaries`.

    Attributes:
        net: module from scans (B, H, W) to mu and sigma (B, W, K), mu as row / H - 0.5: `nets.ColumnRegressor`, or
            `nets.ColumnSoftmax`.
        skeleton: the K boundaries in the place of joints, from top to bottom.
        size_wh: width and height of the training crops; the height is that of every scan.
        preprocess: "none": a scan has been normalised on the host (`jaxpose.data.scans`).
        likelihood: the loss.
        objective: "likelihood"; or "columns", He's losses of `nets.ColumnSoftmax`: the cross entropy of the row in its column and
            a smooth L1 loss of the mean.
        residual: "boundary": each residual is one coordinate; "pair": those of two neighbouring boundaries are two.
        flow_gain: factor of the spline's parameters, by which a step of Adam changes the spline more; a RealNVP has none.
        ordered: if True, predicted rows never fall below those of the boundary above, by a running maximum from the top.
    """

    preprocess: str = "none"
    likelihood: Likelihood = Likelihood()
    objective: Literal["likelihood", "columns"] = "likelihood"
    residual: Literal["boundary", "pair"] = "boundary"
    flow_gain: float = 1.0
    ordered: bool = False

    family: ClassVar[str] = "boundaries"
    level: ClassVar[Level] = "scan"
    outputs: ClassVar[tuple[str, ...]] = ("rows", "sigma")
    SETTINGS: ClassVar = {
        "likelihood": ("likelihood", Likelihood),
        "objective": ("objective", None),
        "residual": ("residual", None),
        "flow_gain": ("flow_gain", None),
        "ordered": ("ordered", None),
    }

    def __post_init__(self) -> None:
        check_size(self.size_wh)
        check_choices(self)
        object.__setattr__(self, "size_wh", tuple(self.size_wh))
        if not (math.isfinite(self.flow_gain) and self.flow_gain > 0):
            raise ValueError(f"flow_gain={self.flow_gain}: expected a positive factor")
        if self.likelihood.loss == "basic":
            raise ValueError("loss='basic': the flow would move the rows themselves; expected a loss of the residual")
        if self.residual == "pair" and self.skeleton.num_joints % 2:
            raise ValueError(f"residual='pair' with {self.skeleton.num_joints} boundaries: expected an even number")

    @property
    def dim(self) -> int:
        """The number of coordinates of a residual."""
        return 2 if self.residual == "pair" else 1

    @property
    def learns_sigma(self) -> bool:
        """Whether the loss trains sigma."""
        return self.objective == "columns" or self.likelihood.learns_sigma

    @property
    def public_outputs(self) -> tuple[str, ...]:
        """The outputs for users, without a sigma that is not trained."""
        return self.outputs if self.learns_sigma else ("rows",)

    @property
    def has_flow(self) -> bool:
        """Whether a flow is trained with the net."""
        return self.objective == "likelihood" and self.likelihood.has_flow

    def init(self, key: jax.Array) -> PyTree:
        """See `Task.init`; the flow's parameters are in params/flow."""
        net_key, flow_key = jax.random.split(key)
        params, batch_stats = self.init_net(net_key)
        params = {"net": params}
        if self.has_flow:
            flow = self.likelihood.flow(dim=self.dim)
            params["flow"] = flow.init(flow_key, jnp.zeros((1, self.dim)), method="log_prob")["params"]
        return {"params": params, "batch_stats": batch_stats}

    def init_net(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """See `NetTask.init_net`; a scan has one channel."""
        width, height = self.size_wh
        variables = self.net.init(key, jnp.zeros((1, height, width)), train=False)
        return variables["params"], variables.get("batch_stats", {})

    def apply_net(self, variables: PyTree, images: jax.Array, *, train: bool, **options: Any) -> tuple[Any, PyTree]:
        """See `NetTask.apply_net`; the scans (B, H, W) have been normalised on the host."""
        variables = {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}
        if not train:
            return self.net.apply(variables, images, train=False, **options), {}
        return self.net.apply(variables, images, train=True, mutable=["batch_stats"], **options)

    def loss(self, variables: PyTree, batch: Batch, *, key: jax.Array) -> LossAndMetrics:
        """See `Task.loss`.

        Args:
            variables: the variables, with the structure that `init` returns.
            batch: image (B, H, W), normalised; rows (B, W, K) in pixels, not finite where there is no label.
            key: unused.
        """
        with_maps = {"with_maps": True} if self.objective == "columns" else {}
        (mu, sigma, *maps), collections = self.apply_net(variables, batch["image"], train=True, **with_maps)
        self._check_outputs(mu, batch["image"])
        where = jnp.isfinite(batch["rows"])
        rows = jnp.where(where, batch["rows"], 0.0)
        if maps:
            values = column_losses(maps[0], (mu + 0.5) * self.height, rows, where=where)
        else:
            grouped = lambda x: x.reshape(*x.shape[:2], -1, self.dim)  # noqa: E731
            target = rows / self.height - 0.5
            values = per_joint_loss(
                self.likelihood, grouped(mu), grouped(sigma), grouped(target),
                flow=self._bound_flow(variables), where=grouped(where).all(-1),
            )  # fmt: skip
        error = jnp.where(where, jnp.abs((mu + 0.5) * self.height - rows), 0.0)
        metrics = {
            "error": losses.mean(jax.lax.stop_gradient(error), where=where),
            "sigma": losses.mean(sigma * self.height, where=where),
        }
        # The sum over boundaries, the mean over all columns, labelled or not: linear in the samples, as in RLE's code.
        return values.sum() / (values.shape[0] * values.shape[1]), (collections, metrics)

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables, with the structure that `init` returns; the flow may be missing.
            batch: image (B, H, W), normalised; the width may differ from that of the training crops.
            flip_test: if True, average with the prediction for the scan mirrored from left to right.

        Returns:
            rows and sigma (B, W, K), both in pixels.
        """
        (mu, sigma), _ = self.apply_net(variables, batch["image"], train=False)
        self._check_outputs(mu, batch["image"])
        if flip_test:
            (mirrored_mu, mirrored_sigma), _ = self.apply_net(variables, batch["image"][:, :, ::-1], train=False)
            mu, sigma = (mu + mirrored_mu[:, ::-1]) / 2, (sigma + mirrored_sigma[:, ::-1]) / 2
        if self.ordered:
            mu = jax.lax.cummax(mu, axis=2)
        return {"rows": (mu + 0.5) * self.height, "sigma": sigma * self.height}

    def density(self, variables: PyTree, *, required: bool = False) -> density.Model | None:
        """See `Task.density`; of one coordinate, or of the two of a pair. None if sigma is not trained, and for "columns"."""
        return self.density_of(self.config, variables, required=required)

    @staticmethod
    def density_of(config: Mapping[str, Any], variables: PyTree, *, required: bool = False) -> density.Model | None:
        """Returns `density` for a stored config, without its net."""
        if config["objective"] == "columns":
            return None
        dim = 2 if config["residual"] == "pair" else 1
        if dim == 1 and "flow" in variables["params"]:
            flow = with_gain(variables["params"]["flow"], config.get("flow_gain", 1.0))
            variables = {**variables, "params": {**variables["params"], "flow": flow}}
        return Likelihood(**config["likelihood"]).density(variables, dim=dim, required=required)

    @classmethod
    def from_config(cls, config: dict[str, Any], *, net: nn.Module | None = None) -> Self:
        """See `NetTask.from_config`; checkpoints from before there was a `flow_gain` have 1."""
        return super().from_config({"flow_gain": 1.0, **config}, net=net)

    def inference_variables(self, variables: PyTree) -> PyTree:
        """Returns the variables without the flow, which only training and the density read."""
        params = {name: value for name, value in variables["params"].items() if name != "flow"}
        return {**variables, "params": params}

    @property
    def height(self) -> int:
        """The height of every scan in pixels."""
        return self.size_wh[1]

    def _bound_flow(self, variables: PyTree) -> Callable[..., Any] | None:
        if not self.has_flow:
            return None
        params = variables["params"]["flow"]
        params = with_gain(params, self.flow_gain) if self.dim == 1 else params
        return partial(self.likelihood.flow(dim=self.dim).apply, {"params": params})

    def _check_outputs(self, mu: jax.Array, images: jax.Array) -> None:
        expected = (images.shape[0], images.shape[2], self.skeleton.num_joints)
        if mu.shape != expected or images.shape[1] != self.height:
            raise ValueError(
                f"scans {images.shape} give mu {mu.shape}: expected scans (B, {self.height}, W) and mu {expected}, for the "
                f"{self.skeleton.num_joints} boundaries of {self.skeleton.name!r}"
            )


def with_gain(params: PyTree, gain: float) -> PyTree:
    """Returns the parameters with which a spline is evaluated: those that are trained, times a factor."""
    return jax.tree.map(lambda values: gain * values, params)


def column_losses(logits: jax.Array, rows: jax.Array, target: jax.Array, *, where: jax.Array) -> jax.Array:
    """Returns He's two losses of a softmax over columns, (B, W, K): -log q at the target's row, and smooth L1 of the mean.

    The weights of the two are not published; here they are equal, with rows in pixels.

    Args:
        logits: (B, H, W, K).
        rows: (B, W, K) means of the softmax in pixels.
        target: (B, W, K) in pixels, finite.
        where: (B, W, K) mask of the labels.
    """
    nearest = jnp.clip(jnp.round(target), 0, logits.shape[1] - 1).astype(int)
    log_q = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), nearest[:, None], axis=1)[:, 0]
    distance = losses.smooth_l1(rows[..., None], target[..., None], where=where)[..., 0]
    return jnp.where(where, distance - log_q, 0.0)


def bands(rows: np.ndarray, sigma: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest row (W, K) of the regions around predictions.

    Args:
        rows, sigma: (W, K) predictions in pixels.
        extent: (dim, 2) lowest and highest standardised error of a region of the density (`jaxpose.density.Region.extent`), of
            one coordinate or of the two of a pair.

    >>> low, high = bands(np.array([[5.0, 9.0]]), np.array([[1.0, 2.0]]), np.array([[-1.0, 2.0]]))
    >>> low.tolist(), high.tolist()
    ([[4.0, 7.0]], [[7.0, 13.0]])
    """
    low, high = np.tile(extent, (rows.shape[1] // len(extent), 1)).T
    return rows + low * sigma, rows + high * sigma


def boundaries(net: nn.Module, **settings: Any) -> Boundaries:
    """Returns the task of boundaries in scans.

    Args:
        net: module from scans (B, H, W) to mu and sigma (B, W, K).
        **settings: the fields of `Boundaries`; skeleton and size_wh are required.

    >>> from jaxpose import nets
    >>> from jaxpose.skeleton import RETINA8
    >>> net = nets.ColumnRegressor(nets.ResUNet(width=4, levels=2), 8)
    >>> task = boundaries(net, skeleton=RETINA8, size_wh=(6, 16))
    >>> variables = task.init(jax.random.key(0))
    >>> task.predict(variables, {"image": jnp.zeros((2, 16, 10))})["rows"].shape
    (2, 10, 8)
    """
    return Boundaries(net, **settings)
