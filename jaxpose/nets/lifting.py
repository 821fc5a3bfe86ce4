"""Nets that lift the 2D joints of one person, in a frame or a sequence, to 3D: fully connected, temporal, and in groups.

All three take joints ``(B, K, 2)`` or sequences of them ``(B, T, K, 2)`` and return plain numbers ``(B, K', 3)`` or
``(B, T', K', 3)``, in whatever unit they were trained in; how pixels become inputs and outputs become millimetres is
`jaxpose.tasks.lifting`'s. With ``dim=6`` every joint has three more numbers, the raw scales of a likelihood.

    LinearLifter     Martinez et al. 2017      every frame by itself, fully connected
    TemporalLifter   Pavllo et al. 2019        convolutions over time; with widths (1, 1, 1) a fully connected net
    SRNet            Zeng et al. 2020          the same in groups of joints, which a gate of the other groups modulates

A temporal net with the receptive field R returns T' = T - R + 1 frames; the caller pads the ends.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpose.nets.layers import BatchNorm, DType, compute_dtype, param_dtype

Recombine = Literal["multiply", "add", "concat", "none"]
SRNET_JOINTS = 17
# Input channels (x and y of the joints of Human3.6M) of every group; the root's are in each.
SRNET_GROUPS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: (tuple(range(34)),),
    2: (tuple(range(16)), (0, 1, *range(16, 34))),
    3: (tuple(range(14)), (0, 1, *range(14, 22)), (0, 1, *range(22, 34))),
    5: (tuple(range(8)), (0, 1, *range(8, 14)), (0, 1, *range(14, 22)), (0, 1, *range(22, 28)), (0, 1, *range(28, 34))),
}  # fmt: skip

he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(+-1 / sqrt(fan_in))


def torch_bias(fan_in: int) -> Any:
    """Returns PyTorch's initialiser of a bias, U(+-1 / sqrt(fan_in))."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -1.0, 1.0) / math.sqrt(fan_in)


class Conv1D(nn.Module):
    """Convolution over time without padding: (B, T, I) -> (B, T - (k - 1) * dilation, O), kernel (k, I, O)."""

    features: int
    size: int = 1
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Any = torch_kernel
    bias_init: Any = None
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, dtype = (self.size, x.shape[-1], self.features), param_dtype(self.dtype)
        kernel = self.param("kernel", self.kernel_init, shape, dtype)
        compute = compute_dtype(self.dtype, x, kernel)
        x = windows(x.astype(compute), self.size, self.dilation)
        out = jnp.einsum("btki,kio->bto", x, kernel.astype(compute))
        if self.use_bias:
            init = self.bias_init or torch_bias(self.size * shape[1])
            out = out + self.param("bias", init, (self.features,), dtype).astype(compute)
        return out


def windows(x: jax.Array, size: int, dilation: int) -> jax.Array:
    """Returns the frames under every tap: (B, T, C) -> (B, T - (size - 1) * dilation, size, C)."""
    frames = x.shape[1] - (size - 1) * dilation
    return jnp.stack([jax.lax.slice_in_dim(x, i * dilation, i * dilation + frames, axis=1) for i in range(size)], 2)


def normalize_frames(x: jax.Array, *, train: bool, name: str, dtype: DType) -> jax.Array:
    """Applies batch normalisation over (B, T) to (B, T, C)."""
    return BatchNorm(dtype=dtype, name=name)(x[:, :, None], train=train)[:, :, 0]


class _Lifter(nn.Module):
    """The shared part of the nets: the shapes at the door, and sequences of frames."""

    def lift(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Computes (B, T, 2 K) -> (B, T', K', dim)."""
        raise NotImplementedError

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Returns the shape of the smallest input, from which variables are initialised."""
        return jax.ShapeDtypeStruct((1, self.receptive_field, self.joints_in, 2), jnp.float32)

    @property
    def receptive_field(self) -> int:
        """The number of frames that one frame of the output depends on: the product of the widths of a temporal net."""
        return math.prod(getattr(self, "widths", ()))

    def check(self, xy: jax.Array) -> jax.Array:
        """Returns joints as sequences (B, T, K, 2).

        Raises:
            ValueError: the shape is none of (B, K, 2) and (B, T, K, 2), or there are fewer frames than the receptive field.
        """
        expected = f"expected (B, {self.joints_in}, 2) or (B, T, {self.joints_in}, 2) of {type(self).__name__}"
        if xy.ndim not in (3, 4) or xy.shape[-2:] != (self.joints_in, 2):
            raise ValueError(f"joints have shape {xy.shape}: {expected}")
        xy = xy[:, None] if xy.ndim == 3 else xy
        if xy.shape[1] < self.receptive_field:
            raise ValueError(f"{xy.shape[1]} frames: the net needs {self.receptive_field}; pad the ends of a sequence")
        return xy

    def __call__(self, xy: jax.Array, *, train: bool = False) -> jax.Array:
        sequences = self.check(xy)
        out = self.lift(sequences.reshape(*sequences.shape[:2], -1), train=train)
        return out[:, 0] if xy.ndim == 3 else out


def check_dim(dim: int) -> None:
    """Raises a ValueError unless a joint has 3 numbers, or 6 with the scales of a likelihood."""
    if dim not in (3, 6):
        raise ValueError(f"dim={dim}: expected 3, or 6 with the scales of a likelihood")


class LinearLifter(_Lifter):
    """The fully connected net of Martinez et al. 2017: two residual blocks of two layers.

    Attributes:
        joints_in, joints_out: the numbers of joints; 16 each as published, without the nose and without the root.
        width: the number of hidden units.
        blocks: the number of residual blocks.
        dropout: the share of units that training leaves out.
        dim: numbers per joint of the output: 3, or 6 with the scales of a likelihood.
        dtype: the compute dtype.

    The sum of a block has no activation after it. Initialisation: He on the fan-in; biases PyTorch's.

    >>> net = LinearLifter(joints_in=17, joints_out=17, width=8)
    >>> variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 17, 2)))
    >>> apply = jax.jit(net.apply)
    >>> apply(variables, jnp.zeros((4, 17, 2))).shape, apply(variables, jnp.zeros((4, 9, 17, 2))).shape
    ((4, 17, 3), (4, 9, 17, 3))
    """

    joints_in: int = 16
    joints_out: int = 16
    width: int = 1024
    blocks: int = 2
    dropout: float = 0.5
    dim: int = 3
    dtype: DType = jnp.float32

    def __post_init__(self):
        check_dim(self.dim)
        super().__post_init__()

    @nn.compact
    def lift(self, x: jax.Array, *, train: bool) -> jax.Array:
        def dense(x: jax.Array, features: int, name: str) -> jax.Array:
            options = {"kernel_init": he_fan_in, "bias_init": torch_bias(x.shape[-1])}
            dtype = compute_dtype(self.dtype, x)
            return nn.Dense(features, dtype=dtype, param_dtype=param_dtype(self.dtype), name=name, **options)(x)

        def layer(x: jax.Array, linear: str, norm: str) -> jax.Array:
            x = dense(x, self.width, linear)
            x = nn.relu(normalize_frames(x, train=train, name=norm, dtype=self.dtype))
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        x = layer(x, "w1", "batch_norm1")
        for i in range(self.blocks):
            y = layer(x, f"linear_stages_{i}_w1", f"linear_stages_{i}_batch_norm1")
            x = x + layer(y, f"linear_stages_{i}_w2", f"linear_stages_{i}_batch_norm2")
        out = dense(x, self.joints_out * self.dim, "w2")
        return out.reshape(*out.shape[:2], self.joints_out, self.dim)


class TemporalLifter(_Lifter):
    """The temporal net of Pavllo et al. 2019 (VideoPose3D): dilated convolutions over the frames of a sequence.

    Attributes:
        joints_in, joints_out: the numbers of joints.
        widths: odd numbers of taps; the dilation of each layer is the product of the former ones. (3, 3, 3, 3, 3) sees 243 frames,
            (1, 1, 1) one.
        width: the number of channels.
        dropout: the share of channels that training leaves out.
        causal: True if the output is that of the last frame instead of the one in the middle.
        slope: the slope of the activation below 0: 0 as published, 0.01 in SRNet's code.
        dim: numbers per joint of the output: 3, or 6 with the scales of a likelihood.
        dtype: the compute dtype.

    >>> net = TemporalLifter(widths=(3, 3), width=8)
    >>> variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 9, 17, 2)))
    >>> net.receptive_field, jax.jit(net.apply)(variables, jnp.zeros((2, 15, 17, 2))).shape
    (9, (2, 7, 17, 3))
    """

    joints_in: int = 17
    joints_out: int = 17
    widths: tuple[int, ...] = (3, 3, 3, 3, 3)
    width: int = 1024
    dropout: float = 0.25
    causal: bool = False
    slope: float = 0.0
    dim: int = 3
    dtype: DType = jnp.float32

    def __post_init__(self):
        check_widths(self.widths)
        check_dim(self.dim)
        super().__post_init__()

    @nn.compact
    def lift(self, x: jax.Array, *, train: bool) -> jax.Array:
        def activate(x: jax.Array, norm: str) -> jax.Array:
            x = normalize_frames(x, train=train, name=norm, dtype=self.dtype)
            return nn.Dropout(self.dropout, deterministic=not train)(leaky(x, self.slope))

        x = activate(Conv1D(self.width, self.widths[0], name="expand_conv", dtype=self.dtype)(x), "expand_bn")
        dilation = self.widths[0]
        for i, size in enumerate(self.widths[1:]):
            y = Conv1D(self.width, size, dilation, name=f"layers_conv_{2 * i}", dtype=self.dtype)(x)
            y = activate(y, f"layers_bn_{2 * i}")
            y = Conv1D(self.width, name=f"layers_conv_{2 * i + 1}", dtype=self.dtype)(y)
            x = same_frames(x, size, dilation, causal=self.causal) + activate(y, f"layers_bn_{2 * i + 1}")
            dilation *= size
        out = Conv1D(self.joints_out * self.dim, use_bias=True, name="shrink", dtype=self.dtype)(x)
        return out.reshape(*out.shape[:2], self.joints_out, self.dim)


def check_widths(widths: tuple[int, ...]) -> None:
    """Raises a ValueError unless there are odd numbers of taps."""
    if not widths or any(width < 1 or width % 2 == 0 for width in widths):
        raise ValueError(f"widths={tuple(widths)}: expected odd numbers of frames, such as (3, 3, 3)")


def leaky(x: jax.Array, slope: float) -> jax.Array:
    """The rectifier with this slope below 0."""
    return jnp.where(x >= 0, x, slope * x) if slope else nn.relu(x)


def same_frames(x: jax.Array, size: int, dilation: int, *, causal: bool) -> jax.Array:
    """Returns the frames (B, T - (size - 1) * dilation, C) that a convolution's output belongs to: the middle ones, or the last."""
    pad = (size - 1) * dilation // 2
    start = pad + (size // 2 * dilation if causal else 0)
    return jax.lax.slice_in_dim(x, start, start + x.shape[1] - 2 * pad, axis=1)


class SRNet(_Lifter):
    """The split-and-recombine net of Zeng et al. 2020: groups of joints, modulated by the other groups at every layer.

    The channels of a group stay by themselves from layer to layer. Before each convolution of a group, all channels of the other
    groups are reduced to one number per frame and tap, which multiplies the group's channels (after batch normalisation and a
    sigmoid), is added to them (after a leaky rectifier), or is appended to them. The order of the 17 joints is Human3.6M's.

    Attributes:
        groups: the number of groups, 1, 2, 3 or 5 (legs, trunk with head, arms). A single group has no others to recombine.
        recombine: "multiply" (published default), "add", "concat", or "none".
        widths: odd numbers of taps, all equal; (1, 1, 1) sees one frame.
        width: the number of channels of all groups together; 1024 as published.
        dropout: the share of channels that training leaves out; 0 as published.
        causal: True if the output is that of the last frame.
        add_input: True if the 2D input is added to the first two numbers of the output, as with the normalisation "lcn".
        dim: numbers per joint of the output: 3, or 6 with the scales of a likelihood.
        dtype: the compute dtype.

    The gates' convolutions start at 0. The last layer has no bias, and predicts the root once per group: the first group's counts.

    >>> net = SRNet(groups=5, width=64)
    >>> variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 17, 2)))
    >>> jax.jit(net.apply)(variables, jnp.zeros((4, 17, 2))).shape
    (4, 17, 3)
    """

    groups: int = 5
    recombine: Recombine = "multiply"
    widths: tuple[int, ...] = (1, 1, 1)
    width: int = 1024
    dropout: float = 0.0
    causal: bool = False
    add_input: bool = False
    dim: int = 3
    dtype: DType = jnp.float32

    joints_in = joints_out = SRNET_JOINTS

    def __post_init__(self):
        check_widths(self.widths)
        check_dim(self.dim)
        if self.groups not in SRNET_GROUPS:
            raise ValueError(f"groups={self.groups}: expected {', '.join(map(str, SRNET_GROUPS))}")
        if self.recombine not in ("multiply", "add", "concat", "none"):
            raise ValueError(f"recombine={self.recombine!r}: expected 'multiply', 'add', 'concat' or 'none'")
        if len(set(self.widths)) > 1:
            raise ValueError(f"widths={tuple(self.widths)}: expected equal widths, as in the published code")
        if self.add_input and self.receptive_field > 1:
            raise ValueError(f"add_input with widths={tuple(self.widths)}: the input has more frames than the output")
        super().__post_init__()

    @nn.compact
    def lift(self, x: jax.Array, *, train: bool) -> jax.Array:
        xy = x

        def layer(parts: list[jax.Array], name: str, norm: str | None, **options: int) -> list[jax.Array]:
            shared = {"recombine": self.recombine if len(parts) > 1 else "none", "dtype": self.dtype}
            sizes = self._outputs if norm is None else split_sizes([part.shape[-1] for part in parts], self.width)
            parts = GroupedConv(tuple(sizes), name=name, **shared, **options)(parts, train=train)
            if norm is None:
                return parts
            x = normalize_frames(jnp.concatenate(parts, -1), train=train, name=norm, dtype=self.dtype)
            return split_channels(nn.Dropout(self.dropout, deterministic=not train)(leaky(x, 0.01)), sizes)

        parts = [x[..., jnp.asarray(channels)] for channels in SRNET_GROUPS[self.groups]]
        parts = layer(parts, "expand_conv", "expand_bn", size=self.widths[0])
        dilation = self.widths[0]
        for i, size in enumerate(self.widths[1:]):
            options = {"size": size, "dilation": dilation}
            deep = layer(parts, f"layers_conv_{2 * i}", f"layers_bn_{2 * i}", **options)
            deep = layer(deep, f"layers_conv_{2 * i + 1}", f"layers_bn_{2 * i + 1}")
            parts = [same_frames(a, size, dilation, causal=self.causal) + b for a, b in zip(parts, deep, strict=True)]
            dilation *= size
        out = self._joints(layer(parts, "final_layer", None))
        if self.add_input:
            xy = xy.reshape(*xy.shape[:2], SRNET_JOINTS, 2)
            out = jnp.concatenate([out[..., :2] + xy, out[..., 2:]], -1)
        return out

    @property
    def _outputs(self) -> list[int]:
        """The numbers of outputs of the last layer: each group's joints, its root included, and a few that nobody reads."""
        *sizes, last = (len(group) // 2 * self.dim for group in SRNET_GROUPS[self.groups])
        return [*sizes, last + (self.dim // 3 if self.groups > 1 else 0)]

    def _joints(self, parts: list[jax.Array]) -> jax.Array:
        """Returns the joints (B, T, K, dim) of all groups, without the roots of all groups but the first."""
        joints = []
        for i, part in enumerate(parts):
            part = part[..., : part.shape[-1] // self.dim * self.dim]
            joints.append(part.reshape(*part.shape[:-1], -1, self.dim)[..., min(i, 1) :, :])
        return jnp.concatenate(joints, -2)


def split_sizes(sizes: list[int], total: int) -> list[int]:
    """Returns how many of `total` channels each group gets: in proportion, rounded down, the rest to the last one.

    >>> split_sizes([8, 8, 10, 8, 8], 1024)
    [195, 195, 243, 195, 196]
    """
    parts = [int(size / sum(sizes) * total) for size in sizes[:-1]]
    return [*parts, total - sum(parts)]


def split_channels(x: jax.Array, sizes: list[int]) -> list[jax.Array]:
    """Returns consecutive parts (..., n) of the channels of x."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [x[..., end - size : end] for size, end in zip(sizes, ends)]


class GroupedConv(nn.Module):
    """One layer of `SRNet`: a convolution per group, whose input the other groups modulate.

    Attributes:
        features: the number of output channels of every group.
        size, dilation: the taps of the convolutions.
        recombine: see `SRNet`.
        dtype: the compute dtype.
    """

    features: tuple[int, ...]
    size: int = 1
    dilation: int = 1
    recombine: Recombine = "multiply"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, parts: list[jax.Array], *, train: bool) -> list[jax.Array]:
        outs = []
        for i, (part, features) in enumerate(zip(parts, self.features, strict=True)):
            taps = windows(part, self.size, self.dilation)
            if self.recombine != "none":
                gate = self._gate(jnp.concatenate(parts[:i] + parts[i + 1 :], -1), i, train=train)[..., None]
                if self.recombine == "multiply":
                    taps = taps * gate
                elif self.recombine == "add":
                    taps = taps + gate
                else:
                    taps = jnp.concatenate([taps, gate], -1)
            flat = taps.reshape(*taps.shape[:2], -1)
            outs.append(Taps(features, self.size, dtype=self.dtype, name=f"group_conv_{i}")(flat))
        return outs

    def _gate(self, others: jax.Array, group: int, *, train: bool) -> jax.Array:
        """Computes one number per frame and tap, (B, T', size), from the channels of the other groups."""
        zeros = nn.initializers.zeros
        gate = Conv1D(
            self.size, self.size, self.dilation, use_bias=True, kernel_init=zeros, bias_init=zeros, dtype=self.dtype,
            name=f"m_conv_{group}",
        )(others)  # fmt: skip
        if self.recombine == "multiply":
            return nn.sigmoid(normalize_frames(gate, train=train, name=f"layers_bn_{group}", dtype=self.dtype))
        return leaky(gate, 0.01)


class Taps(nn.Module):
    """The product of the frames under a kernel, (B, T, k * I), with the kernel (k, I, O)."""

    features: int
    size: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, x.shape[-1] // self.size, self.features)
        kernel = self.param("kernel", torch_kernel, shape, param_dtype(self.dtype))
        dtype = compute_dtype(self.dtype, x, kernel)
        return x.astype(dtype) @ kernel.astype(dtype).reshape(-1, self.features)
