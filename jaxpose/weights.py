"""PyTorch state dicts -> variables of the nets and of the flow.

A layout is the naming that a code base saves under. Every tensor is accounted for: one that is missing, left over or of
another shape is an error. Convolutions (out, in, h, w) become (h, w, in, out), linear layers (out, in) become (in, out),
transposed convolutions (in, out, h, w) the kernels of `nets.deconv.Deconv`, (h, w, out, in).

    layout          names                                          net
    "resnet"        torchvision's; its classifier fc is dropped    ResNet: features (B, H/32, W/32, C)
    "mobilenet_v2"  torchvision's; its classifier is dropped       MobileNetV2: features (B, H/32, W/32, C)
    "hrnet_backbone"  HRNet's ImageNet classifier, of which     HRNet: features (B, H/4, W/4, C)
                    pose nets take stem and stages
    "rle_official"  preact.*, fc_coord.*, fc_sigma.*, flow*.*      PoseRegressor: mu, sigma (B, K, D)
    "rle_mmpose"    backbone.*, head.fc.*, head.loss_module.*;     PoseRegressor: mu, sigma (B, K, 2)
                    0.x: keypoint_head.fc.*, keypoint_head.loss.*
    "simple_baseline", "hrnet"                  the authors'       HeatmapNet: heatmaps (B, H/4, W/4, K)
    "simple_baseline_mmpose", "hrnet_mmpose"    backbone.*, head.* (0.x: keypoint_head.*)
    "higher_hrnet", "swahr"                     the authors'       HigherHRNet: (maps at 1/4, maps at 1/2)

The backbone of "rle_mmpose" and "simple_baseline_mmpose" is a ResNet or a MobileNetV2. "simple_baseline_mmpose" also reads
mmpose's integral models (IPR, DSNT, their debiased kind), which have the same net under head.simplebaseline_head.*; their
coordinate axes head.linspace_{x,y} are constants. The coordinates are a soft-argmax of the maps: `jaxpose.heatmap`.

The flow of a pose model takes no part in prediction: `from_torch` passes over it, `flow_from_torch` reads it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxpose import torch_file
from jaxpose.nets import HeatmapNet, HigherHRNet, HRNet, MobileNetV2, PoseRegressor, RegressionHead, ResNet, mobilenet
from jaxpose.nets.resnet import STAGES

Layout = Literal[
    "resnet", "mobilenet_v2", "hrnet_backbone", "rle_official", "rle_mmpose",
    "simple_baseline", "hrnet", "simple_baseline_mmpose", "hrnet_mmpose", "higher_hrnet",
    "swahr",
]  # fmt: skip
MMPOSE_HEADS = ("keypoint_head.", "head.simplebaseline_head.")  # what is called head. elsewhere
# What a layout's names begin with, each in one of its spellings, and what none of them begins with.
NAMES: dict[str, tuple[tuple[str | tuple[str, ...], ...], tuple[str, ...]]] = {
    "resnet": (("conv1.weight", "layer4.0.conv1."), ("deconv_layers.", "final_layer.", "fc_coord.", "transition1.")),
    "mobilenet_v2": (("features.0.0.", "features.18.0."), ()),
    "hrnet_backbone": (("conv2.weight", "transition1.0.0.", "stage4.0."), ("final_layer.weight", "final_layers.")),
    "rle_official": (("preact.conv1.", "fc_coord.linear.", "fc_sigma."), ()),
    "rle_mmpose": (("backbone.conv1.", ("head.fc.", "keypoint_head.fc.")), ()),
    "simple_baseline": (("conv1.weight", "layer4.0.conv1.", "deconv_layers.0.weight", "final_layer.weight"), ()),
    "hrnet": (("conv2.weight", "transition1.0.0.", "final_layer.weight"), ()),
    "simple_baseline_mmpose": (
        ("backbone.conv1.", tuple(f"{head}deconv_layers.0.weight" for head in ("head.", *MMPOSE_HEADS))),
        ("backbone.transition1.",),
    ),
    "hrnet_mmpose": (("backbone.transition1.0.0.", ("head.final_layer.weight", "keypoint_head.final_layer.weight")), ()),
    "higher_hrnet": (("transition1.0.0.", "final_layers.1.", "deconv_layers.0.0."), ("conv_scale_layers.",)),
    "swahr": (("transition1.0.0.", "final_layers.1.", "deconv_layers.0.0.", "conv_scale_layers.0.0."), ()),
}  # fmt: skip
UNREADABLE = {  # published nets that no layout reads, by the beginning of a name
    "head.features.": "Sun's Integral code, whose heads give volumes (64 maps a joint, for 3D)",
    "keypoint_head.final_layers.": "mmpose 0.x's HigherHRNet: take the authors' file",
}
WRAPPERS = ("state_dict", "model", "network", "best_state_dict")  # where training scripts put the tensors
MOST_WRAPPERS = 8  # around one another
MOST_BLOCKS = 32  # behind a backbone; published are 4
TORCH_SUFFIXES = (".pth", ".pt", ".tar")

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Modules of ours whose numbers are levels of the published names: layer1_0, stage2_0, fuse_layers_0_1_0.
NUMBERED = re.compile(
    r"\b(?P<name>layer\d|stage\d|transition\d|branches|fuse_layers|deconv_layers|final_layers|conv_scale_layers)(?P<levels>(?:_\d+)+)(?=\.)"
)
FLOW_TENSOR = re.compile(r"(?:(?P<prefix>.+)\.)?(?P<net>[st])\.(?P<i>\d+)\.(?P<j>\d+)\.(?P<leaf>weight|bias)")
NOT_PREDICTING = {  # tensors of a layout that prediction does not need
    "resnet": re.compile(r"fc\.(weight|bias)"),
    "mobilenet_v2": re.compile(r"classifier\.1\.(weight|bias)"),
    "hrnet_backbone": re.compile(
        r"(incre_modules|downsamp_modules|final_layer|classifier)\..*|stage4\.2\.fuse_layers\.[123]\..*"
    ),
    "rle_official": re.compile(r"flow(2d|3d)?\.(mask|loc|cov|[st]\.\d+\.\d+\.(weight|bias))"),
    "rle_mmpose": re.compile(r"head\.(loss|loss_module)\.flow_model\.(mask|loc|cov|[st]\.\d+\.\d+\.(weight|bias))"),
    "simple_baseline_mmpose": re.compile(r"head\.linspace_[xy]"),
}
# Width multipliers to be recognised, round numbers first: several may give the same channels.
MOBILENET_WIDTHS = (1.0, 0.5, *(i / 20 for i in range(1, 81)), *(i / 100 for i in range(1, 401)))


def from_torch(state_dict: Mapping[str, Any], *, layout: Layout) -> tuple[nn.Module, dict[str, Any]]:
    """The net that a state dict belongs to, and its variables: `net.apply(variables, images, train=False)`.

    Depth, width, number of joints and dimension are read off the names and shapes. Images are (B, H, W, 3), prepared
    as the net was trained (channel order, mean and deviation are not in a state dict).

    The outputs follow this library's conventions: mu is x / W - 0.5. mmpose's nets predict x / W, so 0.5 is taken off
    the biases of mu. The authors' 3D model adds 1e-9 to sigma, which is left out, and at evaluation makes z relative to
    joint 0, which is left to the caller.

    Args:
      state_dict: {name: array}; anything `np.asarray` takes. Wrappers of training scripts ({"state_dict": ...}) and the
        prefix "module." are taken off; num_batches_tracked is ignored; half precision becomes float32.
      layout: naming of the tensors, see the head of this module.

    Returns:
      (net, variables) with variables {"params": ..., "batch_stats": ...}.

    Raises:
      ValueError: an unknown layout; blocks of no published ResNet; a head under two names; missing, left-over or misshapen
        tensors, listed.

    >>> resnet = ResNet(depth=18, width=4)
    >>> shapes = jax.eval_shape(resnet.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> state = {name: np.zeros(shape) for name, (_, shape) in torch_tensors(shapes).items()}
    >>> net, variables = from_torch(state, layout="resnet")
    >>> net.depth, net.width, state["conv1.weight"].shape, variables["params"]["conv1"]["kernel"].shape
    (18, 4, (4, 3, 7, 7), (7, 7, 3, 4))
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout={layout!r}: expected one of {', '.join(map(repr, get_args(Layout)))}")
    state = _arrays(_unwrap(state_dict))
    if layout.endswith("_mmpose"):
        for head in MMPOSE_HEADS:
            state = _renamed(state, head, "head.")
    state = {
        name: value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
        and not (layout in NOT_PREDICTING and NOT_PREDICTING[layout].fullmatch(name))
    }
    match layout:
        case "resnet":
            net, names = _resnet(state, ""), {}
        case "mobilenet_v2":
            names = _mobilenet_torchvision()
            net = _mobilenet(state, names)
        case "hrnet_backbone":
            net, names = HRNet(_shape(state, "transition1.0.0.weight", rank=4)[0]), {}
        case "rle_official":
            net, names = _rle_official(state)
        case "rle_mmpose":
            net, names = _rle_mmpose(state)
        case "simple_baseline" | "hrnet":
            net, _ = _heatmap_net(state, layout, backbone="", head="")
            names = {"backbone.": ""}
        case "simple_baseline_mmpose" | "hrnet_mmpose":
            net, names = _heatmap_net(state, layout.removesuffix("_mmpose"), backbone="backbone.", head="head.")
            names |= {"deconv_layers.": "head.deconv_layers.", "final_layer.": "head.final_layer."}
        case "higher_hrnet" | "swahr":
            net, names = _higher_hrnet(state, scale=layout == "swahr"), {"backbone.": ""}
    variables = _fill(net, state, names, layout)
    if layout == "rle_mmpose":
        bias = variables["params"]["head"]["fc"]["bias"]
        variables["params"]["head"]["fc"]["bias"] = bias - jnp.tile(
            jnp.array([0.5, 0.5, 0, 0], bias.dtype), len(bias) // 4
        )
    return net, variables


def layout_of(state_dict: Mapping[str, Any]) -> Layout:
    """The layout that a state dict's names are in.

    Args:
      state_dict: {name: anything}; wrappers and the prefix "module." are taken off.

    Raises:
      ValueError: none or several fit: which, and what was looked for.

    >>> layout_of({"fc_coord.linear.weight": 0, "fc_sigma.linear.weight": 0, "preact.conv1.weight": 0})
    'rle_official'
    >>> layout_of({"head.fc.weight": 0, "backbone.conv1.weight": 0})
    'rle_mmpose'
    """
    names = list(_unwrap(state_dict))
    for start, what in UNREADABLE.items():
        if any(name.startswith(start) for name in names):
            raise ValueError(f"{start}*: this is {what}; there is no layout for it")

    def fits(layout: str) -> bool:
        needs, lacks = NAMES[layout]
        has = all(any(name.startswith(start) for name in names) for start in needs)
        return has and not any(name.startswith(lacks) for name in names)

    found = [layout for layout in get_args(Layout) if fits(layout)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"names of several layouts: {', '.join(found)}; choose one with layout= (--layout)")
    spelled = lambda start: start if isinstance(start, str) else " or ".join(start)  # noqa: E731
    looked = "; ".join(f"{layout}: {', '.join(map(spelled, needs))}" for layout, (needs, _) in NAMES.items())
    raise ValueError(f"names of no layout: {_listed(names, 8)}. Looked for names that begin with: {looked}")


def flow_from_torch(state_dict: Mapping[str, Any], *, prefix: str | None = None) -> dict[str, Any]:
    """The variables of `flow.RealNVP` from the flow in a state dict, of the authors' code or of mmpose.

    Args:
      state_dict: {name: array} with names {s,t}.{coupling}.{0,2,4}.{weight,bias} under any prefix; other tensors are
        passed over (prior and masks are constants: masks are only compared).
      prefix: which flow, where there are several: the authors' 3D model has "flow2d" and "flow3d".

    Returns:
      {"params": {"s0_0": {"kernel", "bias"}, ...}}; the flow that they belong to has `layers` = couplings, `dim` and
      `hidden` as the kernels' shapes say.

    Raises:
      ValueError: no flow, or several and no prefix; missing or misshapen tensors, or such that are not finite floats;
        masks other than the published ones, one a coupling.

    >>> shapes = {0: (8, 2), 2: (8, 8), 4: (2, 8)}
    >>> state = {f"flow.{n}.0.{j}.weight": np.ones(shape) for n in "st" for j, shape in shapes.items()}
    >>> state |= {f"flow.{n}.0.{j}.bias": np.ones(shape[0]) for n in "st" for j, shape in shapes.items()}
    >>> variables = flow_from_torch(state)
    >>> sorted(variables["params"]), variables["params"]["s0_0"]["kernel"].shape
    (['s0_0', 's0_1', 's0_2', 't0_0', 't0_1', 't0_2'], (2, 8))
    """
    state = _unwrap(state_dict)
    found = {name: match for name in state if (match := FLOW_TENSOR.fullmatch(name))}
    prefixes = sorted({match["prefix"] or "" for match in found.values()})
    ends_so = [p for p in prefixes if prefix is None or f".{p}".endswith(f".{prefix}")]
    chosen = [prefix] if prefix in prefixes else ends_so
    if len(chosen) != 1:
        wanted = "a flow" if prefix is None else f"a flow under prefix={prefix!r}"
        hint = ": choose one with prefix=" if len(chosen) > 1 else ", named {s,t}.{i}.{0,2,4}.{weight,bias}"
        raise ValueError(f"expected {wanted}, found {chosen or 'none'} (flows in the state dict: {prefixes}){hint}")

    ours = {name: match for name, match in found.items() if (match["prefix"] or "") == chosen[0]}
    tensors = _arrays({name: state[name] for name in ours})
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, match in ours.items():
        if int(match["j"]) % 2:
            raise ValueError(f"{name}: expected linear layers at even places only, with an activation between them")
        layer = layers.setdefault(f"{match['net']}{int(match['i'])}_{int(match['j']) // 2}", {})
        layer["kernel" if match["leaf"] == "weight" else "bias"] = tensors[name].T
    dim, couplings = _check_flow(layers)
    _check_finite_floats(tensors)
    mask_name = f"{chosen[0]}.mask".removeprefix(".")
    if mask_name in state:
        _check_masks(_arrays({mask_name: state[mask_name]})[mask_name], dim, couplings, name=mask_name)
    return {"params": jax.tree.map(jnp.asarray, layers)}


def load_file(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file as {name: array}, without running code that the file may hold.

    Args:
      path: .pth, .pt or .tar as `torch.save` writes them (read by `jaxpose.torch_file`, without PyTorch), or .safetensors.
        Wrappers, what lies beside the state dict in them, and the prefix "module." are taken off; half precision becomes
        float32.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an unknown suffix, a truncated file, or a state dict that holds other objects than tensors.
      ImportError: safetensors is missing.

    >>> load_file("weights.onnx")
    Traceback (most recent call last):
    FileNotFoundError: weights.onnx: no such file
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix in TORCH_SUFFIXES:
        content = torch_file.load(path)
    elif path.suffix == ".safetensors":
        content = _load_safetensors(path)
    else:
        expected = ", ".join((*TORCH_SUFFIXES, ".safetensors"))
        raise ValueError(f"{path}: unknown kind of file {path.suffix!r}, expected one of {expected}")
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a state dict {{name: tensor}}")
    try:
        state = _unwrap(content)
        # No list or the like: what NumPy makes of nested ones has no bound.
        plain = (torch_file.Tensor, np.ndarray, int, float)
        return _arrays({name: value if isinstance(value, plain) else None for name, value in state.items()})
    except Exception as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error  # a tensor's error has the name


def torch_tensors(
    variables: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> dict[str, tuple[tuple, tuple]]:
    """PyTorch name -> (path in the variables, shape in PyTorch) of every array of a net.

    Args:
      variables: {"params": ..., "batch_stats": ...} of arrays or shapes.
      names: beginnings of dotted paths to be replaced, {"head.coord.": "fc_coord.linear."}; the first that fits is.

    >>> torch_tensors({"params": {"layer1_0": {"downsample_conv": {"kernel": np.zeros((1, 1, 2, 8))}}}})
    {'layer1.0.downsample.0.weight': (('params', 'layer1_0', 'downsample_conv', 'kernel'), (8, 2, 1, 1))}
    """
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        dotted = ".".join((*path[1:-1], LEAVES[path[-1]]))
        dotted = dotted.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
        dotted = NUMBERED.sub(lambda match: match["name"] + match["levels"].replace("_", "."), dotted)
        for ours, theirs in (names or {}).items():
            if dotted.startswith(ours):
                dotted = theirs + dotted.removeprefix(ours)
                break
        tensors[dotted] = path, _torch_shape(leaf.shape)
    return tensors


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(h, w, in, out) -> (out, in, h, w), (in, out) -> (out, in)."""
    return (*shape[:-3:-1], *shape[:-2])


def _from_torch_order(value: np.ndarray) -> np.ndarray:
    """(out, in, h, w) -> (h, w, in, out), (out, in) -> (in, out), (n,) as it is."""
    return value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value


def _fill(net: nn.Module, state: dict[str, np.ndarray], names: dict[str, str], layout: str) -> dict[str, Any]:
    """The variables of `net` with the values of `state`, each tensor used once."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    tensors = torch_tensors(jax.eval_shape(net.init, jax.random.key(0), image), names)
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    wrong = [
        f"{n} {state[n].shape} instead of {shapes[n]}" for n in shapes if n in state and state[n].shape != shapes[n]
    ]
    problems = {"missing": shapes.keys() - state.keys(), "left over": state.keys() - shapes.keys(), "shape": wrong}
    if any(problems.values()):
        found = "; ".join(f"{what}: {_listed(which)}" for what, which in problems.items() if which)
        backbone = getattr(net, "backbone", net)
        kind = f"ResNet-{backbone.depth}" if isinstance(backbone, ResNet) else type(backbone).__name__
        raise ValueError(f"state dict of layout={layout!r}, read as {kind} of width {backbone.width}: {found}")
    flat = {path: jnp.asarray(_from_torch_order(state[name])) for name, (path, _) in tensors.items()}
    return traverse_util.unflatten_dict(flat)


def _resnet(state: dict[str, np.ndarray], prefix: str) -> ResNet:
    """The ResNet whose tensors are under `prefix`."""
    width = _shape(state, f"{prefix}conv1.weight", rank=4)[0]
    blocks = [re.match(rf"{re.escape(prefix)}layer([1-4])\.(\d+)\.", name) for name in state]
    last = {stage: max((int(b[2]) for b in blocks if b and b[1] == stage), default=-1) for stage in "1234"}
    key = tuple(i + 1 for i in last.values()), f"{prefix}layer1.0.conv3.weight" in state
    for depth, kind in STAGES.items():
        if kind == key:
            return ResNet(depth=depth, width=width)
    block = "bottleneck" if key[1] else "basic"
    raise ValueError(
        f"{prefix}layer1 to layer4 have {key[0]} {block} blocks: no ResNet of {', '.join(map(str, STAGES))}"
    )


def _rle_official(state: dict[str, np.ndarray]) -> tuple[PoseRegressor, dict[str, str]]:
    """Net and names; the 3D model's fc_sigma is a plain linear layer, the 2D one's is wrapped as fc_coord is."""
    rows = _shape(state, "fc_coord.linear.weight", rank=2)[0]
    dim, sigma = (3, "fc_sigma.") if "fc_sigma.weight" in state else (2, "fc_sigma.linear.")
    head = RegressionHead(_joints(rows, dim, "fc_coord.linear.weight"), dim=dim, kind="normalized")
    names = {"backbone.": "preact.", "head.coord.": "fc_coord.linear.", "head.sigma.": sigma}
    return PoseRegressor(_resnet(state, "preact."), head), names


def _rle_mmpose(state: dict[str, np.ndarray]) -> tuple[PoseRegressor, dict[str, str]]:
    rows = _shape(state, "head.fc.weight", rank=2)[0]
    backbone, names = _mmpose_backbone(state)
    return PoseRegressor(backbone, RegressionHead(_joints(rows, 4, "head.fc.weight"), kind="linear")), names


def _heatmap_net(
    state: dict[str, np.ndarray], kind: str, *, backbone: str, head: str
) -> tuple[HeatmapNet, dict[str, str]]:
    """Net, and the names of its backbone where they are not ours."""
    joints = _shape(state, f"{head}final_layer.weight", rank=4)[0]
    if kind == "hrnet":
        return HeatmapNet(HRNet(_shape(state, f"{backbone}transition1.0.0.weight", rank=4)[0]), joints, deconvs=()), {}
    deconvs = []
    while (name := f"{head}deconv_layers.{3 * len(deconvs)}.weight") in state:
        deconvs.append(_shape(state, name, rank=4)[1])
    if len(deconvs) > MOST_BLOCKS:
        raise ValueError(f"{head}deconv_layers are {len(deconvs)}: expected {MOST_BLOCKS} at most")
    net, names = _mmpose_backbone(state) if backbone else (_resnet(state, ""), {})
    return HeatmapNet(net, joints, deconvs=tuple(deconvs)), names


def _mmpose_backbone(state: dict[str, np.ndarray]) -> tuple[ResNet | MobileNetV2, dict[str, str]]:
    """The net under "backbone." and its names; a MobileNetV2 has a conv and a bn in every conv1."""
    if not any(name.startswith("backbone.conv1.conv.") for name in state):
        return _resnet(state, "backbone."), {}
    names = _mobilenet_mmpose("backbone.")
    return _mobilenet(state, {ours.removeprefix("backbone."): theirs for ours, theirs in names.items()}), names


def _mobilenet(state: dict[str, np.ndarray], names: dict[str, str]) -> MobileNetV2:
    """The MobileNetV2 whose channels agree with the most layers; `_fill` names those that do not."""
    projections = (f"layer{i}.0.project_conv." for i in range(1, len(mobilenet.LAYERS) + 1))
    weights = [f"{names[ours]}weight" for ours in ("conv1.", *projections, "conv2.")]
    _shape(state, weights[0], rank=4)
    found = [state[name].shape[:1] if name in state else () for name in weights]

    def agreeing(width: float) -> int:
        return sum(shape == (c,) for shape, c in zip(found, mobilenet.channels(width), strict=True))

    return MobileNetV2(width=max(MOBILENET_WIDTHS, key=agreeing))


def _mobilenet_blocks() -> list[tuple[str, tuple[str, ...]]]:
    """Our name of every block and of its convolutions."""
    return [
        (f"layer{number}.{i}.", ("expand", "depthwise", "project")[expansion == 1 :])
        for number, (expansion, _, blocks, _) in enumerate(mobilenet.LAYERS, start=1)
        for i in range(blocks)
    ]


def _mobilenet_torchvision() -> dict[str, str]:
    """features.0 is the first convolution, .18 the last, the blocks lie between; a block's last pair is not nested."""
    blocks = _mobilenet_blocks()
    names = {}
    for ours, place in (("1", 0), ("2", len(blocks) + 1)):
        names |= {f"conv{ours}.": f"features.{place}.0.", f"bn{ours}.": f"features.{place}.1."}
    for place, (block, parts) in enumerate(blocks, start=1):
        for i, part in enumerate(parts):
            conv, bn = (f"{i}", f"{i + 1}") if part == "project" else (f"{i}.0", f"{i}.1")
            names[f"{block}{part}_conv."] = f"features.{place}.conv.{conv}."
            names[f"{block}{part}_bn."] = f"features.{place}.conv.{bn}."
    return names


def _mobilenet_mmpose(prefix: str) -> dict[str, str]:
    """Every convolution is a module with a conv and a bn."""
    names = {}
    for i in "12":
        names |= {f"{prefix}conv{i}.": f"{prefix}conv{i}.conv.", f"{prefix}bn{i}.": f"{prefix}conv{i}.bn."}
    for block, parts in _mobilenet_blocks():
        for i, part in enumerate(parts):
            for leaf in ("conv", "bn"):
                names[f"{prefix}{block}{part}_{leaf}."] = f"{prefix}{block}conv.{i}.{leaf}."
    return names


def _higher_hrnet(state: dict[str, np.ndarray], *, scale: bool) -> HigherHRNet:
    """Joints are the maps at 1/2, tags are there if the maps at 1/4 are twice as many. (Dilation is not in a state dict.)"""
    width = _shape(state, "transition1.0.0.weight", rank=4)[0]
    joints, first = (_shape(state, f"final_layers.{i}.weight", rank=4)[0] for i in (1, 0))
    if first not in (joints, 2 * joints):
        raise ValueError(
            f"final_layers have {first} and {joints} maps: expected K or 2 K (with tags) at 1/4, and K at 1/2"
        )
    blocks = [re.match(r"deconv_layers\.0\.([1-9]\d*)\.", name) for name in state]
    count = max((int(match[1]) for match in blocks if match), default=0)
    if count > MOST_BLOCKS:
        raise ValueError(f"deconv_layers.0 has {count} blocks: expected {MOST_BLOCKS} at most")
    return HigherHRNet(HRNet(width), joints, tags=first == 2 * joints, scale=scale, dilations=(1,) * count)


def _joints(rows: int, each: int, name: str) -> int:
    if rows % each or not rows:
        raise ValueError(f"{name} has {rows} rows: expected a multiple of {each}, {each} a joint")
    return rows // each


def _shape(state: dict[str, np.ndarray], name: str, *, rank: int) -> tuple[int, ...]:
    """Shape of a tensor that the net's sizes are read off."""
    if name not in state:
        raise ValueError(f"missing: {name}; the state dict has {_listed(state)}. Is this the right layout?")
    if state[name].ndim != rank:
        raise ValueError(f"{name} has shape {state[name].shape}: expected {rank} axes")
    return state[name].shape


def _check_flow(layers: dict[str, dict[str, np.ndarray]]) -> tuple[int, int]:
    """Raise unless these are the layers of equal couplings 0 .. n-1; the flow's dimension and n."""
    index = {tuple(map(int, name[1:].split("_"))) for name in layers}
    couplings, depth = (1 + max(i) for i in zip(*index))
    names = (f"{net}{i}_{j}" for net in "st" for i in range(couplings) for j in range(depth))
    lacking = (f"{name} {leaf}" for name in names for leaf in ("kernel", "bias") if leaf not in layers.get(name, {}))
    if missing := list(itertools.islice(lacking, 20)):  # numbers in names have no bound
        raise ValueError(f"flow of {couplings} couplings with {depth} layers a net: missing {_listed(missing)}")
    expected = list(layers)
    kernels = [layers[f"s0_{j}"]["kernel"] for j in range(depth)]
    if depth < 2 or any(kernel.ndim != 2 for kernel in kernels):
        raise ValueError("flow: expected two linear layers or more a net, weights (out, in)")
    widths = [kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels)]
    if widths[0] not in (2, 3) or widths[-1] != widths[0]:
        raise ValueError(f"flow from {widths[0]} to {widths[-1]} coordinates: expected 2 to 2 or 3 to 3")
    for name in expected:
        j = int(name.split("_")[1])
        shapes = layers[name]["kernel"].shape, layers[name]["bias"].shape
        wanted = (widths[j], widths[j + 1]), (widths[j + 1],)
        if shapes != wanted:
            raise ValueError(f"flow {name}: kernel and bias have shapes {shapes}, expected {wanted}")
    return widths[0], couplings


def _check_finite_floats(tensors: dict[str, np.ndarray]) -> None:
    if bad := [name for name, value in tensors.items() if not np.issubdtype(value.dtype, np.floating)]:
        raise ValueError(f"not floating-point: {_listed(bad)}; expected float weights (is the file quantised?)")
    if bad := [name for name, value in tensors.items() if not np.isfinite(value).all()]:
        raise ValueError(f"not finite: {_listed(bad)}; expected weights of a training that did not diverge")


def _check_masks(masks: np.ndarray, dim: int, couplings: int, *, name: str) -> None:
    from jaxpose.flow import MASKS

    expected = [MASKS[dim][i % 2] for i in range(couplings)]
    if not np.array_equal(masks, expected):
        raise ValueError(
            f"{name} is {masks.tolist()}: expected the published, alternating {expected}, one for each of the "
            f"{couplings} couplings"
        )


def _unwrap(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take off the dicts that training scripts wrap around a state dict, and the "module." of data parallelism."""
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"state_dict is a {type(state_dict).__name__}: expected {{name: array}}")
    for _ in range(MOST_WRAPPERS):  # a hostile dict may hold itself
        inner = next((state_dict[w] for w in WRAPPERS if isinstance(state_dict.get(w), Mapping)), None)
        if inner is None:
            break
        state_dict = inner
    if odd := {type(name).__name__ for name in state_dict if not isinstance(name, str)}:
        raise ValueError(f"state_dict has keys that are {_listed(odd)}: expected {{name: array}}")
    state_dict = dict(state_dict)
    if all(name.startswith("module.") for name in state_dict):
        return {name.removeprefix("module."): value for name, value in state_dict.items()}
    return state_dict


def _renamed(state: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    """`state` with `old` at the beginning of a name as `new`."""
    names = {name: new + name.removeprefix(old) if name.startswith(old) else name for name in state}
    if twice := [name for name in state if names[name] != name and names[name] in state]:
        raise ValueError(f"both under {old} and {new}: {_listed(twice)}; expected the head of one net")
    return {names[name]: value for name, value in state.items()}


def _arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every value as an array of numbers, half precision as float32."""
    arrays = {name: _array(value) for name, value in state_dict.items()}
    if bad := [name for name, value in arrays.items() if value is None]:
        raise ValueError(f"not arrays of numbers: {_listed(bad)}; expected a state dict {{name: tensor}}")
    return arrays


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, torch_file.Tensor):
        value = value.array()
    if hasattr(value, "detach"):  # a torch.Tensor, which NumPy may refuse: on a device, with a gradient, in bfloat16
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.element_size() < 4 else value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        return None
    half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(np.float32) if half else array


def _listed(names: Iterable[str], most: int = 20) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _load_safetensors(path: Path) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"reading {path} needs safetensors: pip install 'jaxpose[torch]'") from error
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from error
