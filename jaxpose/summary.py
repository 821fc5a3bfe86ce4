"""Parameters and operations of a net and of the flow, as in tables 5 and 11 of the RLE paper (Li et al. 2021).

Nothing is computed: shapes are traced, and the operations are counted in the trace.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported by the functions, because other tools of the console script do not need them
    import jax
    from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class Cost:
    """Size and work of a module.

    Attributes:
        params: The number of trained parameters.
        multiply_adds: Those of convolutions and matrix products, which the paper calls FLOPs of a network.
        sums: Terms of plain sums, such as the average pooling of the head.

    >>> Cost(3, 5, 1) - Cost(1, 2, 1)
    Cost(params=2, multiply_adds=3, sums=0)
    """

    params: int
    multiply_adds: int
    sums: int = 0

    @property
    def operations(self) -> int:
        """multiply_adds + sums."""
        return self.multiply_adds + self.sums

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(a - b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


def count(net: nn.Module, size_wh: tuple[int, int]) -> Cost:
    """Counts the cost of a net for one image.

    Args:
        net: A module images (B, H, W, 3) -> anything, such as `ResNet` or `PoseRegressor`.
        size_wh: The width and height of the input, px.

    Raises:
        ValueError: The size is not positive.

    >>> from jaxpose.nets import ResNet
    >>> count(ResNet(depth=18), (192, 256))
    Cost(params=11176512, multiply_adds=1776549888, sums=0)
    """
    import jax
    import jax.numpy as jnp

    width, height = size_wh
    if width < 1 or height < 1:
        raise ValueError(f"size_wh={size_wh}: expected a positive width and height in px")
    return _trace(net, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))


def count_flow(*, dim: int = 2, hidden: tuple[int, ...] = (64, 64), layers: int = 6) -> Cost:
    """Counts the cost of log G for one joint of one image (the sums are those of log det and of the prior).

    Table 11's FLOPs are those of 17 joints, with two for a multiply-add and one for the addition of a bias: 17
    (parameters + multiply_adds) gives all five of its rows.

    >>> cost = count_flow(hidden=(64, 64))  # "3 x 64" in the paper
    >>> cost.params, cost.multiply_adds, round(17 * (cost.params + cost.multiply_adds) / 1e6, 1)
    (53784, 52224, 1.8)
    """
    import jax
    import jax.numpy as jnp

    from jaxpose.flow import RealNVP

    return _trace(RealNVP(dim=dim, hidden=hidden, layers=layers), jax.ShapeDtypeStruct((1, dim), jnp.float32))


def main(
    *,
    depth: int = 50,
    width: int = 64,
    size_wh: tuple[int, int] = (192, 256),
    joints: int = 17,
    dim: int = 2,
    flow_hidden: tuple[int, ...] = (64, 64),
    flow_layers: int = 6,
) -> None:
    """Print the parameters and operations of a ResNet, its regression head and the flow.

    Args:
        depth: Depth of the ResNet: 18, 34, 50, 101 or 152.
        width: Channels of its first layer.
        size_wh: Width and height of the input in px.
        joints: Number of joints.
        dim: Coordinates of a joint, 2 or 3.
        flow_hidden: Widths of the hidden layers of every net in the flow.
        flow_layers: Number of couplings of the flow.
    """
    from jaxpose.nets import PoseRegressor, RegressionHead, ResNet

    backbone_net = ResNet(depth=depth, width=width)
    backbone = count(backbone_net, size_wh)
    total = count(PoseRegressor(backbone_net, RegressionHead(joints, dim=dim)), size_wh)
    flow = count_flow(dim=dim, hidden=flow_hidden, layers=flow_layers)
    head = total - backbone
    print(f"ResNet-{depth}, width {width}, input {size_wh[0]} x {size_wh[1]} px, {joints} joints in {dim}D\n")
    print(f"{'':28}{'parameters':>14}{'multiply-adds':>18}{'plain sums':>14}{'GFLOPs (RLE table 5)':>22}")
    rows = {"backbone": backbone, "head": head, "total": total, "flow, per joint, training": flow}
    for name, cost in rows.items():
        print(f"{name:28}{cost.params:>14,}{cost.multiply_adds:>18,}{cost.sums:>14,}{cost.operations / 1e9:>22.4f}")
    print("Table 5 counts a multiply-add and a term of a plain sum (the head's average pooling) as one each.\n")
    print(f"The head takes 1/{backbone.operations / head.operations:,.0f} of the backbone's operations.")
    flops = joints * (flow.params + flow.multiply_adds)
    print(f"RLE table 11 counts the flow as {flops / 1e6:.1f}M FLOPs: {joints} joints, 2 per multiply-add, 1 per bias.")


def _trace(module: nn.Module, x: jax.ShapeDtypeStruct) -> Cost:
    import jax

    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    multiply_adds, sums = _operations(jax.make_jaxpr(module.apply)(variables, x).jaxpr)
    return Cost(params, int(multiply_adds), int(sums))


def _operations(jaxpr) -> np.ndarray:
    """Returns (multiply-adds, terms of sums) of a trace and of the traces in it; a loop's body counts as often as it runs."""
    import jax

    total = np.zeros(2, np.int64)
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out = equation.outvars[0].aval.size if equation.outvars else 0
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            total[0] += out * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total[0] += out * (kernel.size // outputs)
        elif name == "reduce_sum":
            total[1] += equation.invars[0].aval.size
        repeats = params["length"] if name == "scan" else 1
        for inner in jax.tree.leaves(list(params.values()), is_leaf=_is_trace):
            if _is_trace(inner):
                total += repeats * _operations(getattr(inner, "jaxpr", inner))
    return total


def _is_trace(value) -> bool:
    return hasattr(value, "eqns")
