"""Converts the normalising flow of a state dict to the variables of `jaxpose.flow.RealNVP`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.weights.state import arrays, check_values, list_names, unwrap

FLOW_TENSOR = re.compile(r"(?:(?P<prefix>.+)\.)?(?P<net>[st])\.(?P<i>\d+)\.(?P<j>\d+)\.(?P<leaf>weight|bias)")


def flow_from_torch(state_dict: Mapping[str, Any], *, prefix: str | None = None) -> dict[str, Any]:
    """Returns the variables of `flow.RealNVP` from the flow in a state dict of the authors' code or of mmpose.

    Args:
        state_dict: {name: array} with names {s,t}.{coupling}.{0,2,4}.{weight,bias} under any prefix; other tensors are
            ignored (prior and masks are constants: masks are only compared).
        prefix: prefix of the flow, needed if there are several: the authors' 3D model has "flow2d" and "flow3d".

    Returns:
        {"params": {"s0_0": {"kernel", "bias"}, ...}}; the matching flow has `layers` = number of couplings, and the `dim` and
        `hidden` of the kernels' shapes.

    Raises:
        ValueError: there is no flow, or there are several and no prefix; tensors are missing, have wrong shapes or are not finite
            floats; masks differ from the published ones, one per coupling.

    >>> shapes = {0: (8, 2), 2: (8, 8), 4: (2, 8)}
    >>> state = {f"flow.{n}.0.{j}.weight": np.ones(shape) for n in "st" for j, shape in shapes.items()}
    >>> state |= {f"flow.{n}.0.{j}.bias": np.ones(shape[0]) for n in "st" for j, shape in shapes.items()}
    >>> variables = flow_from_torch(state)
    >>> sorted(variables["params"]), variables["params"]["s0_0"]["kernel"].shape
    (['s0_0', 's0_1', 's0_2', 't0_0', 't0_1', 't0_2'], (2, 8))
    """
    state = unwrap(state_dict)
    matches = {name: match for name in state if (match := FLOW_TENSOR.fullmatch(name))}
    prefixes = sorted({match["prefix"] or "" for match in matches.values()})
    ends_so = [p for p in prefixes if prefix is None or f".{p}".endswith(f".{prefix}")]
    selected = [prefix] if prefix in prefixes else ends_so
    if len(selected) != 1:
        wanted = "a flow" if prefix is None else f"a flow under prefix={prefix!r}"
        hint = ": choose one with prefix=" if len(selected) > 1 else ", named {s,t}.{i}.{0,2,4}.{weight,bias}"
        raise ValueError(f"expected {wanted}, found {selected or 'none'} (flows in the state dict: {prefixes}){hint}")

    ours = {name: match for name, match in matches.items() if (match["prefix"] or "") == selected[0]}
    tensors = arrays({name: state[name] for name in ours})
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, match in ours.items():
        if int(match["j"]) % 2:
            raise ValueError(f"{name}: expected linear layers at even indices only, with an activation between them")
        layer = layers.setdefault(f"{match['net']}{int(match['i'])}_{int(match['j']) // 2}", {})
        layer["kernel" if match["leaf"] == "weight" else "bias"] = tensors[name].T
    dim, couplings = _check_flow(layers)
    check_values(tensors)
    mask_name = f"{selected[0]}.mask".removeprefix(".")
    if mask_name in state:
        _check_masks(arrays({mask_name: state[mask_name]})[mask_name], dim, couplings, name=mask_name)
    return {"params": jax.tree.map(jnp.asarray, layers)}


def _check_flow(layers: dict[str, dict[str, np.ndarray]]) -> tuple[int, int]:
    """Raises a ValueError unless these are the layers of equal couplings 0 .. n-1; returns the flow's dimension and n."""
    index = {tuple(map(int, name[1:].split("_"))) for name in layers}
    couplings, depth = (1 + max(i) for i in zip(*index))
    names = (f"{net}{i}_{j}" for net in "st" for i in range(couplings) for j in range(depth))
    lacking = (f"{name} {leaf}" for name in names for leaf in ("kernel", "bias") if leaf not in layers.get(name, {}))
    if missing := list(itertools.islice(lacking, 20)):  # the numbers in names are unbounded
        raise ValueError(f"flow of {couplings} couplings with {depth} layers per net: missing {list_names(missing)}")
    expected = list(layers)
    kernels = [layers[f"s0_{j}"]["kernel"] for j in range(depth)]
    if depth < 2 or any(kernel.ndim != 2 for kernel in kernels):
        raise ValueError("flow: expected at least two linear layers per net, weights (out, in)")
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


def _check_masks(masks: np.ndarray, dim: int, couplings: int, *, name: str) -> None:
    from jaxpose.flow import MASKS

    expected = [MASKS[dim][i % 2] for i in range(couplings)]
    if not np.array_equal(masks, expected):
        raise ValueError(
            f"{name} is {masks.tolist()}: expected the published, alternating {expected}, one for each of the "
            f"{couplings} couplings"
        )
