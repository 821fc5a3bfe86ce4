"""Converts the flows of the golden files to parameters of `flow.RealNVP`, with the place of every released parameter."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np


def place(name: str) -> tuple[str, str]:
    """Returns the place of a released parameter: "t.0.2.weight" -> ("t0_1", "kernel")."""
    kind, coupling, position, field = name.split(".")
    return f"{kind}{coupling}_{int(position) // 2}", {"weight": "kernel", "bias": "bias"}[field]


def variables(arrays, prefix: str, dtype=jnp.float32) -> dict:
    """Reads every {s,t}.{i}.{0,2,4}.{weight,bias} below a prefix such as "flow2d."."""
    params: dict = {}
    for key in arrays.keys():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name.split(".")[0] not in ("s", "t"):
            continue
        layer, field = place(name)
        params.setdefault(layer, {})[field] = jnp.asarray(arrays[key].T, dtype)
    return {"params": params}


def norms(gradient: dict, names) -> np.ndarray:
    """Returns the L2 norm of each parameter's gradient, in the order of the released names."""
    values = []
    for name in names:
        layer, field = place(str(name))
        values.append(np.linalg.norm(np.asarray(gradient["params"][layer][field])))
    return np.array(values)
