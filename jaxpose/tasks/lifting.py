"""Lifting: the joints of a person in pixels -> the same joints in space, by a net that sees no picture.

What a net reads and predicts is a normalisation of pixels and millimetres. Four are published (Zeng et al. 2020 compare them), and
"raw" serves imported nets that were trained on standardised numbers (`jaxpose.data.statistics`):

    name       reads                                  predicts, relative to the root            needs at test
    base       pixels / width, from -1 to 1           metres in the axes of the camera          nothing
    proj       pixels of a box of 2 m, rel. to root   perspective pixels and depth of that box  depth and pixel of the root
    weak_proj  the same                               the same with one depth for all joints    the same; its inverse is lossy
    lcn        as base                                as base, with the input added; depth      depth of the root
    raw        pixels as they are                     as base                                   nothing

"base" is what VideoPose3D, SRNet and SemGCN train on. The inverse of "weak_proj" divides by each joint's own depth, as the code does,
although the forward direction divides by the root's: up to 7 cm off even for a perfect net (QUIRK T20). None uses distortion.

RLE on lifters was never released (QUIRK T13). Its three readings differ in what they add to the flow's term: "official" is the loss
of the released 3D regression, "paper" is equation 8, "srnet" is a class that SRNet's repository carries unused: the flow's term and
a plain L1 without sigma. The root is left out of the likelihood in each: its target is always 0, so that sigma -> 0 would make
the likelihood infinite. Units are metres; sigma is a sigmoid, so below 1 m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose import density, losses
from jaxpose.flow import RealNVP
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.base import Batch, Level, LossAndMetrics, PyTree, check_choices, stated
from jaxpose.tasks.describe import build, describe

Norm = Literal["base", "proj", "weak_proj", "lcn", "raw"]
NEEDS_NO_ROOT = ("base", "raw")
BOX = 2000.0  # mm: width of the box about the root in the pixel normalisations
MM = 1000.0
SIGMA_MIN = 1e-9  # as in the released 3D head


@dataclass(frozen=True)
class LiftLoss:
    """The loss of a lifter.

    Attributes:
        loss: "l2" (mean square), "l1" (mean absolute), "mpjpe" (mean distance, VideoPose3D's), or "rle".
        reading: the form of RLE on lifters: "official", "paper" or "srnet".
        flow_layers, flow_hidden: the flow's coupling layers and the widths of their hidden layers.
    """

    loss: Literal["l2", "l1", "mpjpe", "rle"] = "l2"
    reading: Literal["official", "paper", "srnet"] = "official"
    flow_layers: int = 6
    flow_hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self):
        object.__setattr__(self, "flow_hidden", tuple(self.flow_hidden))  # JSON has lists
        check_choices(self)

    @property
    def has_flow(self) -> bool:
        """Whether a flow is trained with the net, and the net predicts scales."""
        return self.loss == "rle"

    def flow(self) -> RealNVP:
        """Returns the flow over the three coordinates of a joint."""
        return RealNVP(dim=3, layers=self.flow_layers, hidden=self.flow_hidden)


def screen(px: jax.Array, size_wh: jax.Array) -> jax.Array:
    """Converts pixels (..., 2) to coordinates from -1 to 1 over the width, the aspect kept: p / w * 2 - [1, h / w].

    >>> screen(jnp.array([500.0, 250.0]), jnp.array([1000.0, 500.0])).tolist()
    [0.0, 0.0]
    """
    width = size_wh[..., :1]
    return px / width * 2 - size_wh / width


def unscreen(xy: jax.Array, size_wh: jax.Array) -> jax.Array:
    """The inverse of `screen`."""
    width = size_wh[..., :1]
    return (xy + size_wh / width) * width / 2


@dataclass(frozen=True)
class View:
    """What a normalisation knows of a picture: arrays whose leading axes fit those of the joints (..., K, D) without K and D.

    Attributes:
        focal, center, size_wh: (..., 2) px.
        root: (..., 3) mm, the root in the axes of the camera; None where it is unknown, for "base" and "raw".
    """

    focal: jax.Array
    center: jax.Array
    size_wh: jax.Array
    root: jax.Array | None = None

    @property
    def depth_ratio(self) -> jax.Array:
        """Pixels per mm at the root, (..., 1, 1)."""
        return (self.focal[..., 0] / self.root[..., 2])[..., None, None]

    @property
    def root_px(self) -> jax.Array:
        """The pixel of the root, (..., 1, 2)."""
        return (self.root[..., :2] / self.root[..., 2:] * self.focal + self.center)[..., None, :]

    def lcn_size(self) -> jax.Array:
        """The size that "lcn" divides by: twice the centre, rounded down."""
        return jnp.floor(2 * self.center)[..., None, :]


def read_pixels(px: jax.Array, view: View, *, norm: Norm, root: int = 0) -> jax.Array:
    """Returns what a net reads.

    Args:
        px: (..., K, 2) pixels.
        view: the picture.
        norm: the normalisation.
        root: index of the root.

    >>> view = View(jnp.full(2, 1000.0), jnp.full(2, 500.0), jnp.full(2, 1000.0))
    >>> read_pixels(jnp.array([[500.0, 500.0], [1000.0, 0.0]]), view, norm="base").tolist()
    [[0.0, 0.0], [1.0, -1.0]]
    """
    if norm == "base":
        return screen(px, view.size_wh[..., None, :])
    if norm == "raw":
        return jnp.asarray(px)
    if norm == "lcn":
        return screen(px, view.lcn_size())
    scaled = px * (2 / (BOX * view.depth_ratio))
    return scaled - scaled[..., root : root + 1, :]


def target_of(joints: jax.Array, view: View, *, norm: Norm, root: int = 0) -> jax.Array:
    """Returns what a net predicts, for "lcn" with the input added.

    Args:
        joints: (..., K, 3) mm in the axes of the camera.
        view: the picture, with its root unless the normalisation is "base" or "raw".
        norm: the normalisation.
        root: index of the root.
    """
    middle = joints[..., root : root + 1, :]
    if norm in NEEDS_NO_ROOT:
        return (joints - middle) / MM
    depth = middle[..., 2:] if norm == "weak_proj" else joints[..., 2:]
    px = joints[..., :2] / depth * view.focal[..., None, :] + view.center[..., None, :]
    z = joints[..., 2:] - middle[..., 2:]
    if norm == "lcn":
        return jnp.concatenate([screen(px, view.lcn_size()), z * (view.depth_ratio + 1) / MM], -1)
    scaled = jnp.concatenate([px, z * view.depth_ratio], -1) * (2 / (BOX * view.depth_ratio))
    return scaled - scaled[..., root : root + 1, :]


def joints_of(output: jax.Array, view: View, *, norm: Norm, root: int = 0) -> jax.Array:
    """The inverse of `target_of`: returns joints (..., K, 3) in mm relative to the root.

    For "base" and "raw" the predicted root stays where the net puts it; the others are moved so that their root is at 0.
    """
    if norm in NEEDS_NO_ROOT:
        return output * MM
    ratio = view.depth_ratio
    if norm == "lcn":
        px, z = unscreen(output[..., :2], view.lcn_size()), output[..., 2:] * MM / (ratio + 1)
    else:
        px = output[..., :2] / (2 / (BOX * ratio)) + view.root_px
        z = output[..., 2:] / (2 / (BOX * ratio)) / ratio
    depth = z + view.root[..., None, 2:]
    xy = (px - view.center[..., None, :]) / view.focal[..., None, :] * depth
    points = jnp.concatenate([xy, depth], -1)
    return points - points[..., root : root + 1, :]


def flow_l1(
    mu: jax.Array,
    sigma: jax.Array,
    target: jax.Array,
    log_prob: Callable[..., jax.Array],
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    """The unused loss of SRNet's repository, (..., K): log sigma - log G(e) of each coordinate, and a plain L1.

    Args:
        mu, sigma, target: (..., K, 3) in the same unit.
        log_prob: log density of the flow, (..., 3) -> (...).
        where: (..., K) bool, or None.

    The flow's one number per joint counts for each of the three coordinates, as in the released RLE; sigma acts through it alone.
    """
    if where is not None:
        keep = where[..., None]
        mu, target = jnp.where(keep, mu, 0.0), jnp.where(keep, target, 0.0)
        sigma = jnp.where(keep, sigma, 1.0)
    e = (mu - target) / sigma
    values = (jnp.log(sigma) + jnp.abs(target - mu)).sum(-1) - mu.shape[-1] * log_prob(e)
    return values if where is None else jnp.where(where, values, 0.0)


@dataclass(frozen=True, eq=False)
class Lifting:
    """The family of lifters: a `PoseTask` that reads no image.

    A batch has px (B, T, K, 2), the frames that the net sees; focal, center, size_wh (B, 2) px; for training joints (B, K, 3) mm in the
    axes of the camera; and root (B, T, 3) mm for the normalisations that need it. The frame that is predicted is the middle one of
    T, or the last one of a causal net. With mirrored (B,) bool, the net reads and has to predict the mirrored normalised coordinates of
    these rows, whose arrays stay those of the picture (`mirrored`, for "lcn").

    Attributes:
        net: a net of `jaxpose.nets.lifting`, or one with the same call, whose `dim` is 6 for "rle" and 3 otherwise.
        skeleton: the joints.
        norm: the normalisation.
        relative: True if the net reads positions relative to the root, whose own position stays absolute.
        loss: the loss.
        root: index of the root.
        input_joints, output_joints: indices of the joints that the net reads and predicts; None: all. What is not predicted is 0.
    """

    net: nn.Module
    _: KW_ONLY
    skeleton: Skeleton
    norm: Norm = "base"
    relative: bool = False
    loss_settings: LiftLoss = field(default=LiftLoss())
    root: int = 0
    input_joints: tuple[int, ...] | None = None
    output_joints: tuple[int, ...] | None = None

    family: ClassVar[str] = "lifting"
    level: ClassVar[Level] = "pair"

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("input_joints", "output_joints"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if not 0 <= self.root < self.skeleton.num_joints:
            raise ValueError(f"root={self.root}: expected the index of a joint of {self.skeleton.name}")
        dim, needed = getattr(self.net, "dim", None), 6 if self.loss_settings.has_flow else 3
        if dim not in (None, needed):
            raise ValueError(f"the net has dim={dim} numbers per joint: {self.loss_settings.loss} needs {needed}")
        if self.norm == "lcn" and not getattr(self.net, "add_input", True):
            raise ValueError("norm='lcn' adds the input to the output: expected a net with add_input=True")

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Task.outputs`."""
        return ("joints", "mu", "sigma") if self.loss_settings.has_flow else ("joints",)

    @property
    def config(self) -> dict[str, Any]:
        """See `Task.config`."""
        lists = {name: getattr(self, name) for name in ("input_joints", "output_joints")}
        return {
            "family": self.family, "net": describe(self.net), "skeleton": self.skeleton.to_dict(), "norm": self.norm,
            "relative": self.relative, "loss": stated(self.loss_settings), "root": self.root,
            **{name: None if value is None else list(value) for name, value in lists.items()},
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], *, net: nn.Module | None = None) -> Lifting:
        """The inverse of `config`; see `jaxpose.tasks.from_config`."""
        missing = [name for name in ("net", "skeleton", "norm", "loss") if name not in config]
        if missing:
            raise ValueError(f"the task's config lacks {', '.join(missing)}; its fields are {', '.join(config)}")
        if net is None and config["net"] is None:
            raise ValueError("this checkpoint was trained with a net of your own: pass it as net=")
        plain = {
            name: config[name]
            for name in ("norm", "relative", "root", "input_joints", "output_joints")
            if name in config
        }
        return cls(
            build(config["net"]) if net is None else net,
            skeleton=Skeleton.from_dict(config["skeleton"]), loss_settings=LiftLoss(**config["loss"]), **plain,
        )  # fmt: skip

    @property
    def frames(self) -> int:
        """The number of frames that a prediction needs."""
        return getattr(self.net, "receptive_field", 1)

    @property
    def causal(self) -> bool:
        """Whether the predicted frame is the last one."""
        return getattr(self.net, "causal", False)

    @property
    def needs_root(self) -> bool:
        """Whether a prediction needs the position of the root in space, which only labels have."""
        return self.norm not in NEEDS_NO_ROOT

    def init(self, key: jax.Array) -> PyTree:
        """See `Task.init`."""
        net_key, flow_key = jax.random.split(key)
        joints = self.skeleton.num_joints if self.input_joints is None else len(self.input_joints)
        variables = self.net.init(net_key, jnp.zeros((1, self.frames, joints, 2)), train=False)
        params = {"net": variables["params"]}
        if self.loss_settings.has_flow:
            params["flow"] = self.loss_settings.flow().init(flow_key, jnp.zeros((1, 3)), method="log_prob")["params"]
        return {"params": params, "batch_stats": variables.get("batch_stats", {})}

    def view(self, batch: Batch) -> View:
        """Returns the picture of the predicted frame."""
        return View(batch["focal"], batch["center"], batch["size_wh"], self._root(batch))

    def target(self, batch: Batch) -> jax.Array:
        """Returns what the net has to predict, (B, K, 3), in the unit of the normalisation."""
        target = target_of(batch["joints"], self.view(batch), norm=self.norm, root=self.root)
        return self._mirror_rows(target, batch)

    def _mirror_rows(self, x: jax.Array, batch: Batch) -> jax.Array:
        """Mirrors normalised coordinates (B, ..., K, D), whose x is 0 in the middle, of the rows that `batch` marks."""
        if "mirrored" not in batch:
            return x
        where = jnp.asarray(batch["mirrored"]).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(where, x[..., jnp.asarray(self.skeleton.flip_index), :].at[..., 0].multiply(-1.0), x)

    def _root(self, batch: Batch) -> jax.Array | None:
        if not self.needs_root:
            return None
        if "root" not in batch:
            raise ValueError(f"norm={self.norm!r} needs the root in space, which the batch lacks (base does not)")
        return batch["root"][:, -1 if self.causal else self.frames // 2]

    def apply_net(
        self, variables: PyTree, batch: Batch, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, PyTree]:
        """Returns the raw output (B, K, dim) of the predicted frame, and the new collections ({} unless `train`)."""
        each = {name: batch[name][:, None] for name in ("focal", "center", "size_wh")}
        frames = View(**each, root=batch.get("root"))
        xy = self._mirror_rows(read_pixels(batch["px"], frames, norm=self.norm, root=self.root), batch)
        if self.relative:
            middle = xy[..., self.root : self.root + 1, :]
            xy = (xy - middle).at[..., self.root, :].set(middle[..., 0, :])
        if self.input_joints is not None:
            xy = xy[..., jnp.asarray(self.input_joints), :]
        variables = {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}
        if not train:
            return self._all_joints(self.net.apply(variables, xy, train=False)[:, 0]), {}
        out, collections = self.net.apply(variables, xy, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return self._all_joints(out[:, 0]), collections

    def _all_joints(self, out: jax.Array) -> jax.Array:
        """Puts predicted joints (B, K', dim) in their places among K; others are 0."""
        if self.output_joints is None:
            return out
        shape = (out.shape[0], self.skeleton.num_joints, out.shape[-1])
        return jnp.zeros(shape, out.dtype).at[:, jnp.asarray(self.output_joints)].set(out)

    def split(self, out: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Returns mu and sigma (B, K, 3); sigma is None without a likelihood."""
        if not self.loss_settings.has_flow:
            return out, None
        return out[..., :3], jax.nn.sigmoid(out[..., 3:]) + SIGMA_MIN

    @property
    def is_trained(self) -> jax.Array:
        """(K,) True for the joints that the loss counts: with RLE all but the root, else all that the net predicts."""
        trained = jnp.zeros(self.skeleton.num_joints, bool)
        trained = trained.at[jnp.asarray(self.output_joints or range(self.skeleton.num_joints))].set(True)
        return trained.at[self.root].set(False) if self.loss_settings.has_flow else trained

    def loss(self, variables: PyTree, batch: Batch, *, key: jax.Array) -> LossAndMetrics:
        """See `Task.loss`; L1, L2 and the mean distance are means, RLE is summed over the joints and divided by the batch."""
        out, collections = self.apply_net(variables, batch, train=True, key=key)
        mu, sigma = self.split(out)
        view, target = self.view(batch), self.target(batch)
        where = jnp.broadcast_to(self.is_trained, mu.shape[:-1])
        values = self.per_joint_loss(variables, mu, sigma, target, where=where)
        if self.loss_settings.has_flow:
            total = values.sum() / values.shape[0]
        else:
            total = losses.mean(values, where=where) / (1 if self.loss_settings.loss == "mpjpe" else 3)
        truth = batch["joints"] - batch["joints"][:, self.root : self.root + 1]
        joints = self.to_mm(self._mirror_rows(mu, batch), view)
        error = jnp.linalg.norm(jax.lax.stop_gradient(joints) - truth, axis=-1)
        metrics = {"mpjpe": error.mean()}
        if sigma is not None:
            metrics["sigma"] = losses.mean(sigma.mean(-1), where=where)
        return total, (collections, metrics)

    def per_joint_loss(self, variables: PyTree, mu, sigma, target, *, where: jax.Array) -> jax.Array:
        """Returns losses (B, K), 0 where a joint does not count."""
        settings = self.loss_settings
        if settings.loss == "l1":
            return losses.l1(mu, target, where=where).sum(-1)
        if settings.loss == "l2":
            return losses.l2(mu, target, where=where).sum(-1)
        if settings.loss == "mpjpe":
            difference = jnp.where(where[..., None], mu - target, 0.0)
            squares = jnp.square(difference).sum(-1)
            return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        log_prob = partial(settings.flow().apply, {"params": variables["params"]["flow"]}, method="log_prob")
        if settings.reading == "srnet":
            return flow_l1(mu, sigma, target, log_prob, where=where)
        return losses.rle(mu, sigma, target, log_prob, variant=settings.reading, where=where)

    def to_mm(self, mu: jax.Array, view: View) -> jax.Array:
        """Converts the net's first numbers to joints in mm relative to the root; a root that is not trained is at 0."""
        if not self.loss_settings.has_flow or self.norm == "lcn":
            return joints_of(mu, view, norm=self.norm, root=self.root)
        return joints_of(mu.at[..., self.root, :].set(0.0), view, norm=self.norm, root=self.root)

    def predict(self, variables: PyTree, batch: Batch, *, flip_test: bool = True) -> dict[str, jax.Array]:
        """See `Task.predict`.

        Args:
            variables: the variables.
            batch: px, focal, center, size_wh, and root if the normalisation needs it.
            flip_test: average with the prediction for the mirrored joints.

        Returns:
            joints (B, K, 3) in mm relative to the root; with RLE also mu and sigma (B, K, 3) in the unit of the normalisation.
        """
        view = self.view(batch)
        mu, sigma = self.split(self.apply_net(variables, batch, train=False)[0])
        joints = self.to_mm(mu, view)
        if flip_test:
            other = mirrored(batch, self.skeleton, norm=self.norm)
            mu_other, sigma_other = self.split(self.apply_net(variables, other, train=False)[0])
            swap = jnp.asarray(self.skeleton.flip_index)
            back = jnp.asarray([-1.0, 1.0, 1.0])
            joints = (joints + (self.to_mm(mu_other, self.view(other)) * back)[:, swap]) / 2
            mu = (mu + (mu_other * back)[:, swap]) / 2
            sigma = None if sigma is None else (sigma + sigma_other[:, swap]) / 2
        return {"joints": joints} | ({} if sigma is None else {"mu": mu, "sigma": sigma})

    def density(self, variables: PyTree, *, required: bool = False) -> density.Model | None:
        """See `Task.density`; None without a flow, and for "srnet", which is no likelihood of the standardised error."""
        if not self.loss_settings.has_flow or self.loss_settings.reading == "srnet":
            return None
        if "flow" not in variables["params"]:
            if required:
                raise ValueError("the flow was left out when this checkpoint was loaded: restore it with flow=True")
            return None
        log_g = partial(self.loss_settings.flow().apply, {"params": variables["params"]["flow"]}, method="log_prob")
        return density.Model(log_g=log_g, variant=self.loss_settings.reading, dim=3)

    def inference_variables(self, variables: PyTree) -> PyTree:
        """Returns the variables without the flow, which prediction does not need."""
        params = {name: value for name, value in variables["params"].items() if name != "flow"}
        return {**variables, "params": params}


def mirrored(batch: Batch, skeleton: Skeleton, *, norm: Norm = "base") -> Batch:
    """Returns a batch of mirrored pictures: pixels w - x, left and right exchanged, and positions -x in space.

    The size that "lcn" divides by is twice the camera's centre, which differs in the mirrored picture: there the net would read the
    mirrored pose up to 5 % larger or smaller. As in the published code, its normalised coordinates are mirrored instead (QUIRK T31).

    Args:
        batch: the batch.
        skeleton: the joints.
        norm: the normalisation.
    """
    batch = {name: jnp.asarray(values) for name, values in batch.items()}
    if norm == "lcn":
        return {**batch, "mirrored": jnp.ones(len(batch["px"]), bool)}
    swap = jnp.asarray(skeleton.flip_index)
    width = batch["size_wh"][:, 0]
    px = batch["px"][..., swap, :]
    result = {**batch, "px": px.at[..., 0].set(width[:, None, None] - px[..., 0])}
    result["center"] = batch["center"].at[:, 0].set(width - batch["center"][:, 0])
    if "joints" in batch:
        result["joints"] = batch["joints"][:, swap].at[..., 0].multiply(-1.0)
    if "root" in batch:
        result["root"] = batch["root"].at[..., 0].multiply(-1.0)
    return result


def lifting(
    net: nn.Module,
    *,
    skeleton: Skeleton,
    norm: Norm = "base",
    relative: bool = False,
    loss: LiftLoss = LiftLoss(),
    root: int = 0,
    input_joints: tuple[int, ...] | None = None,
    output_joints: tuple[int, ...] | None = None,
) -> Lifting:
    """Returns a task that lifts joints in pixels to space.

    Args:
        net: a net of `jaxpose.nets.lifting`, with dim=6 for RLE.
        skeleton: the joints.
        norm: the normalisation, see the docstring of this module.
        relative: True if the net reads positions relative to the root.
        loss: the loss.
        root: index of the root.
        input_joints, output_joints: indices of the joints that the net reads and predicts; None: all.

    Raises:
        ValueError: an option is unknown, or does not fit the net.

    >>> from jaxpose.nets import LinearLifter
    >>> from jaxpose.skeleton import H36M17
    >>> task = lifting(LinearLifter(joints_in=17, joints_out=17, width=8), skeleton=H36M17)
    >>> task.config["loss"]["loss"], task.outputs
    ('l2', ('joints',))
    """
    return Lifting(
        net, skeleton=skeleton, norm=norm, relative=relative, loss_settings=loss, root=root,
        input_joints=input_joints, output_joints=output_joints,
    )  # fmt: skip
