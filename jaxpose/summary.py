"""Parameters and operations of the papers' nets and of the flow: tables 5 and 11 of RLE (Li 2021), 3, 4 and 7 of integral
regression (Sun 2018), 1 of SWAHR (Luo 2021).

Nothing is computed: shapes are traced, and the operations are counted in the trace.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:  # imported by the functions, because other tools of the console script do not need them
    import jax
    from flax import linen as nn

    from jaxpose.tasks import Boundaries


@dataclasses.dataclass(frozen=True)
class Cost:
    """Size and work of a module.

    Attributes:
        params: The number of trained parameters.
        multiply_adds: Those of convolutions and matrix products, which the paper calls FLOPs of a network.
        sums: Terms of plain sums, such as the average pooling of the head.
        more_at_output: Further multiply-adds of transposed convolutions if each output pixel is said to take a whole kernel,
            stride^2 times as many as are needed; the papers count so, except Sun 2018.

    >>> Cost(3, 5, 1) - Cost(1, 2, 1)
    Cost(params=2, multiply_adds=3, sums=0)
    """

    params: int
    multiply_adds: int
    sums: int = 0
    more_at_output: int = dataclasses.field(default=0, repr=False)

    @property
    def as_published(self) -> int:
        """multiply_adds, with those of transposed convolutions counted at their output size."""
        return self.multiply_adds + self.more_at_output

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


def count_lifter(net: nn.Module) -> Cost:
    """Counts the cost of a net that lifts joints, for one predicted pose.

    Args:
        net: A net of `jaxpose.nets.lifting`, which sees its receptive field.

    >>> from jaxpose.nets import LinearLifter
    >>> cost = count_lifter(LinearLifter())  # Martinez et al. 2017: 4.3M
    >>> cost.params, cost.multiply_adds
    (4291632, 4276224)
    """
    return _trace(net, net.example_input())


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


Net = Literal["rle", "hrnet_rle", "simple_baseline", "hrnet", "integral", "higher_hrnet", "swahr"]
USED_BY = {
    "depth": ("rle", "simple_baseline", "integral"),
    "dim": ("rle",),
    "flow_hidden": ("rle", "hrnet_rle"),
    "flow_layers": ("rle", "hrnet_rle"),
    "deconvs": ("simple_baseline", "integral"),
    "stages": ("integral",),
}


def main(
    *,
    net: Net = "rle",
    run: Path | None = None,
    depth: int = 50,
    width: int | None = None,
    size_wh: tuple[int, int] | None = None,
    joints: int = 17,
    dim: int = 2,
    deconvs: tuple[int, ...] | None = None,
    stages: int = 1,
    flow_hidden: tuple[int, ...] = (64, 64),
    flow_layers: int = 6,
) -> None:
    """Print the parameters and operations of a net of the papers, or of a run's net.

    Args:
        net: "rle" (a ResNet, its regression head and the flow), "hrnet_rle", "simple_baseline", "hrnet", "integral" (Sun 2018: two
            deconvolutions, or several stages), "higher_hrnet" or "swahr".
        run: Folder of a run; its net and input size replace all other options.
        depth: Depth of the ResNet: 18, 34, 50, 101 or 152.
        width: Channels of the first layer of a ResNet (64), or of the finest branch of an HRNet (32).
        size_wh: Width and height of the input in px; by default 192 x 256, for integral 256 x 256, and for whole images 512 x 512.
        joints: Number of joints.
        dim: Coordinates of a joint, 2 or 3.
        deconvs: Channels of the deconvolutions.
        stages: Stages of Sun 2018's net, 1 to 4.
        flow_hidden: Widths of the hidden layers of every net in the flow.
        flow_layers: Number of couplings of the flow.

    Raises:
        ValueError: The net does not have an option that was given.
    """
    given = {"depth": depth != 50, "dim": dim != 2, "deconvs": deconvs is not None, "stages": stages != 1}
    given |= {"flow_hidden": tuple(flow_hidden) != (64, 64), "flow_layers": flow_layers != 6}
    others = {"width": width is not None, "size_wh": size_wh is not None, "joints": joints != 17, "net": net != "rle"}
    unused = [name for name, by_hand in given.items() if by_hand and net not in USED_BY[name]]
    if run is not None:
        unused = [name for name, by_hand in (given | others).items() if by_hand]
    if unused:
        beside = f"--run {run}" if run is not None else f"--net {net}"
        raise ValueError(f"--{unused[0].replace('_', '-')} has no effect with {beside}: leave it out")
    if run is not None:
        _print_run(run)
        return
    options = {"depth": depth, "width": width, "joints": joints, "deconvs": deconvs, "stages": stages, "dim": dim}
    module, default_wh = make(net, **options)
    size_wh = size_wh or default_wh
    name = f"ResNet-{depth}" if "depth" in options and net in USED_BY["depth"] else "HRNet"
    width = width or (64 if name != "HRNet" else 32)
    print(f"{net}: {name}, width {width}, input {size_wh[0]} x {size_wh[1]} px, {joints} joints in {dim}D\n")
    rows = {}
    if hasattr(module, "head"):
        rows["backbone"] = count(module.backbone, size_wh)
    total = count(module, size_wh)
    if rows:
        rows["head"] = total - rows["backbone"]
    rows["total"] = total
    if net in USED_BY["flow_layers"]:
        rows["flow, per joint, training"] = count_flow(dim=dim, hidden=flow_hidden, layers=flow_layers)
    _print_rows(rows)
    if "head" in rows:
        ratio = rows["backbone"].operations / rows["head"].operations
        print(f"The head takes 1/{ratio:,.0f} of the backbone's operations.")
    if net in USED_BY["flow_layers"]:
        flow = rows["flow, per joint, training"]
        flops = joints * (flow.params + flow.multiply_adds)
        print(
            f"RLE table 11 counts the flow as {flops / 1e6:.1f}M FLOPs: {joints} joints, 2 per multiply-add, 1 per bias."
        )


def make(
    net: Net,
    *,
    depth: int = 50,
    width: int | None = None,
    joints: int = 17,
    deconvs: tuple[int, ...] | None = None,
    stages: int = 1,
    dim: int = 2,
) -> tuple[nn.Module, tuple[int, int]]:
    """Returns a net of the papers and the size (W, H) of its input there.

    Args:
        net: The name, as for `main`.
        depth: Depth of the ResNet.
        width: Channels of the first layer of a ResNet (64), or of the finest branch of an HRNet (32).
        joints: Number of joints.
        deconvs: Channels of the deconvolutions.
        stages: Stages of Sun 2018's net.
        dim: Coordinates of a joint.

    Raises:
        ValueError: The name is unknown.
    """
    from jaxpose import nets

    resnet, hrnet = nets.ResNet(depth=depth, width=width or 64), nets.HRNet(width or 32)
    match net:
        case "rle":
            return nets.PoseRegressor(resnet, nets.RegressionHead(joints, dim=dim)), (192, 256)
        case "hrnet_rle":
            return nets.IntegralRegressor(nets.HeatmapNet(hrnet, joints, deconvs=())), (192, 256)
        case "simple_baseline":
            return nets.HeatmapNet(resnet, joints, deconvs=deconvs or (256, 256, 256)), (192, 256)
        case "hrnet":
            return nets.HeatmapNet(hrnet, joints, deconvs=()), (192, 256)
        case "integral":
            deconvs = deconvs or (256, 256)
            if stages == 1:
                return nets.HeatmapNet(resnet, joints, deconvs=deconvs), (256, 256)
            return nets.MultiStageNet(joints, stages, deconvs, depth=depth, width=width or 64), (256, 256)
        case "higher_hrnet" | "swahr":
            return nets.HigherHRNet(hrnet, joints, scale=net == "swahr"), (512, 512)
    raise ValueError(f"net={net!r}: expected one of {', '.join(get_args(Net))}")


def _print_run(run: Path) -> None:
    """Prints the cost of a run's net, and of its flow if its loss has one."""
    from jaxpose import checkpoint, tasks

    task = tasks.from_config(checkpoint.read_config(run)["task"])
    if task.level == "scan":
        _print_scans(task, run)
        return
    if isinstance(task, tasks.Lifting):
        seen, total = f"{task.frames} frame{'s' * (task.frames > 1)} of joints", count_lifter(task.net)
        likelihood, dim = task.loss_settings, 3
    else:
        tasks.check_poses(task, run)
        seen, total = f"{task.size_wh[0]} x {task.size_wh[1]} px", count(task.net, task.size_wh)
        likelihood, dim = getattr(task, "likelihood", None), getattr(task, "dim", 2)
    print(f"{run}: {type(task.net).__name__}, input {seen}, {task.skeleton.num_joints} joints\n")
    rows = {"total": total}
    if likelihood is not None and likelihood.has_flow:
        widths = {"hidden": likelihood.flow_hidden, "layers": likelihood.flow_layers}
        rows["flow, per joint, training"] = count_flow(dim=dim, **widths)
    _print_rows(rows)


def _print_scans(task: Boundaries, run: Path) -> None:
    """Prints the cost of a net that reads scans, for a crop of its training, and of the flow of its loss."""
    import jax
    import jax.numpy as jnp

    width, height = task.size_wh
    boundaries = task.skeleton.num_joints
    print(f"{run}: {type(task.net).__name__}, input {width} x {height} px in grey values, {boundaries} boundaries\n")
    rows = {"total": _trace(task.net, jax.ShapeDtypeStruct((1, height, width), jnp.float32))}
    if task.has_flow:
        residual = "boundary" if task.residual == "boundary" else "pair of boundaries"
        point = jax.ShapeDtypeStruct((1, task.dim), jnp.float32)
        rows[f"flow, per column and {residual}"] = _trace(task.likelihood.flow(dim=task.dim), point)
    _print_rows(rows)
    print(f"A scan of another width takes width / {width} of the operations of the net.")


def _print_rows(rows: dict[str, Cost]) -> None:
    """Prints the table and an explanation of its columns."""
    columns = ("parameters", "multiply-adds", "at output size", "plain sums", "GFLOPs (RLE table 5)")
    names = max(28, *(len(name) + 1 for name in rows))
    print(" " * names + "".join(f"{title:>{max(18, len(title) + 2)}}" for title in columns))
    for name, cost in rows.items():
        gflops = (cost.as_published + cost.sums) / 1e9
        print(
            f"{name:{names}}{cost.params:>18,}{cost.multiply_adds:>18,}{cost.as_published:>18,}{cost.sums:>18,}{gflops:>22.4f}"
        )
    print(
        "'multiply-adds' counts a transposed convolution as a kernel per input pixel (Sun 2018), 'at output size' as a kernel per\n"
        "output pixel, four times as many (RLE table 5, SWAHR table 1). HRNet's paper has the latter in units of 2^30.\n"
        "Table 5 counts a multiply-add and a term of a plain sum (the head's average pooling) as one each.\n"
    )


def _trace(module: nn.Module, x: jax.ShapeDtypeStruct) -> Cost:
    import jax
    from flax import linen as nn

    from jaxpose import platforms

    transposed = []
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    # Papers count the arithmetic of the layers, not the zeros of a TPU's folded kernels.
    with nn.intercept_methods(_recorder(transposed)), platforms.traced_for("cpu"):
        multiply_adds, sums = _operations(jax.make_jaxpr(module.apply)(variables, x).jaxpr)
    exact, traced = np.sum(transposed, 0, dtype=np.int64) if transposed else (0, 0)
    return Cost(params, int(multiply_adds - traced + exact), int(sums), int(3 * exact))


def _recorder(transposed: list[tuple[int, int]]):
    """Returns an interceptor that records for each `Deconv` its multiply-adds, and those of the padded product in the trace."""
    from jaxpose.nets.deconv import Deconv

    def intercept(call, args, kwargs, context):
        if isinstance(context.module, Deconv) and context.method_name == "__call__":
            b, h, w, inputs = args[0].shape
            taps = b * 16 * inputs * context.module.features
            transposed.append((taps * h * w, taps * (h + 1) * (w + 1)))
        return call(*args, **kwargs)

    return intercept


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
