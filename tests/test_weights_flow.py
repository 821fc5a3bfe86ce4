"""The flow of a state dict -> the variables of RealNVP."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import weights
from jaxpose.flow import RealNVP
from tests.torch_states import flow, mmpose, official


@pytest.mark.parametrize(
    ("prefix", "case", "dim"), [("flow2d", "flow2d", 2), ("m3d.flow3d", "flow3d", 3), ("flow3d", "flow3d", 3)]
)
def test_the_official_flows_match_the_reference(golden, prefix, case, dim):
    g = golden("rle_official")
    with jax.enable_x64(True):
        state = {k: g[k].astype(np.float64) for k in g.keys() if k.startswith(("flow2d.", "m3d."))}
        variables = weights.flow_from_torch(state, prefix=prefix)
        log_prob = RealNVP(dim=dim).apply(variables, g[f"{case}_x"].astype(np.float64))
        np.testing.assert_allclose(log_prob, g[f"{case}_logprob_f64"], rtol=1e-10, atol=1e-10)


def test_flow_is_found_under_any_prefix():
    state = mmpose()
    params = weights.flow_from_torch({"state_dict": state})["params"]
    assert len(params) == 36
    np.testing.assert_array_equal(params["t5_2"]["kernel"], state["head.loss_module.flow_model.t.5.4.weight"].T)
    np.testing.assert_array_equal(params["s0_1"]["bias"], state["head.loss_module.flow_model.s.0.2.bias"])
    bare = {k.removeprefix("head.loss_module.flow_model."): v for k, v in state.items() if "flow_model" in k}
    jax.tree.map(np.testing.assert_array_equal, weights.flow_from_torch(bare)["params"], params)
    assert RealNVP(hidden=(8, 8)).apply({"params": params}, jnp.zeros((3, 2))).shape == (3,)


def test_one_of_several_flows():
    state = official(dim=3)
    with pytest.raises(ValueError, match="flow2d.*flow3d.*prefix="):
        weights.flow_from_torch(state)
    assert weights.flow_from_torch(state, prefix="flow2d")["params"]["s0_0"]["kernel"].shape == (2, 8)
    assert weights.flow_from_torch(state, prefix="flow3d")["params"]["s0_0"]["kernel"].shape == (3, 8)
    with pytest.raises(ValueError, match="prefix='flow4d'.*none"):
        weights.flow_from_torch(state, prefix="flow4d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("flow.t.3.2.bias"), "missing t3_1 bias"),
        (lambda s: s.update({"flow.s.2.4.weight": np.ones((2, 9))}), r"s2_2: kernel .*\(9, 2\).* expected \(\(8, 2\)"),
        (lambda s: s.update({"flow.s.2.1.weight": np.ones((2, 9))}), "even indices"),
        (lambda s: s.update({"flow.mask": s["flow.mask"][:, ::-1]}), "expected the published"),
        (lambda s: s.update({"flow.mask": s["flow.mask"][:4]}), "expected the published.*each of the 6 couplings"),
        (lambda s: s.update({"flow.mask": np.array(1)}), "flow.mask is 1: expected the published"),
        (lambda s: s["flow.s.1.2.bias"].fill(np.nan), r"not finite: flow\.s\.1\.2\.bias;"),
        (
            lambda s: s.update({"flow.t.0.0.weight": s["flow.t.0.0.weight"].astype(np.int8)}),
            r"not floating-point: flow\.t\.0\.0\.weight;",
        ),
        (lambda s: s.clear(), "expected a flow, found none"),
    ],
)
def test_flows_are_checked(change, message):
    state = flow("flow")
    change(state)
    with pytest.raises(ValueError, match=message):
        weights.flow_from_torch(state)
