"""The likelihood losses against the released codes: every loss and gradient of rle_official.npz and rle_mmpose.npz."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import flow, losses
from tests import golden_flow

TOLERANCE = {64: 1e-6, 32: 1e-4}
DTYPE = {64: jnp.float64, 32: jnp.float32}


def close(found, expected, bits, name):
    """Relative to the largest entry: single entries of a gradient may cancel."""
    scale = max(np.abs(expected).max(), 1e-12)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[bits], atol=TOLERANCE[bits] * scale, err_msg=name)


def log_prob(net, variables):
    return lambda e: net.apply(variables, e, method="log_prob")


def check(arrays, prefix, bits, loss, inputs, flows, order):
    """`loss(flows, pred, sigma_logits) -> scalar` against <prefix>_{loss,dpred,dsigma_logits,d<flow>_norm}_f<bits>."""
    value, (d_flows, d_pred, d_logits) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(flows, *inputs)
    close(value, arrays[f"{prefix}_loss_f{bits}"], bits, "loss")
    close(d_pred, arrays[f"{prefix}_dpred_f{bits}"], bits, "dpred")
    close(d_logits, arrays[f"{prefix}_dsigma_logits_f{bits}"], bits, "dsigma_logits")
    for name, gradient in d_flows.items():
        expected = arrays[f"{prefix}_d{name}_norm_f{bits}"]
        close(golden_flow.norms(gradient, order), expected, bits, name)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("weights", ["bin", "gen", "zero"])
def test_official_2d(golden, weights, bits):
    arrays, dtype = golden("rle_official"), DTYPE[bits]
    with jax.enable_x64(bits == 64):
        net = flow.RealNVP()
        pred, logits, target, weight = (
            jnp.asarray(arrays[f"l2_{name}"], dtype) for name in ("pred", "sigma_logits", "target", f"w_{weights}")
        )
        for averaged in (0, 1):

            def loss(flows, pred, logits, averaged=averaged):
                each = losses.rle(
                    pred,
                    jax.nn.sigmoid(logits),
                    target,
                    log_prob(net, flows["flow"]),
                    variant="official",
                    weight=weight,
                )
                return each.sum() / (len(pred) if averaged else 1)

            flows = {"flow": golden_flow.variables(arrays, "flow2d.", dtype)}
            order = arrays["flow_param_names"]
            check(arrays, f"l2_{weights}_sa{averaged}", bits, loss, (pred, logits), flows, order)


@pytest.mark.parametrize("bits", [64, 32])
def test_official_mixture_of_2d_and_3d(golden, bits):
    arrays, dtype = golden("rle_official"), DTYPE[bits]
    with jax.enable_x64(bits == 64):
        flat, deep = flow.RealNVP(dim=2), flow.RealNVP(dim=3)
        pred, logits, target, weight = (
            jnp.asarray(arrays[f"l3_{name}"], dtype) for name in ("pred", "sigma_logits", "target", "w")
        )
        flows = {f"flow{d}d": golden_flow.variables(arrays, f"m3d.flow{d}d.", dtype) for d in (2, 3)}
        for averaged in (0, 1):

            def loss(flows, pred, logits, averaged=averaged):
                sigma = jax.nn.sigmoid(logits) + 1e-9
                functions = log_prob(flat, flows["flow2d"]), log_prob(deep, flows["flow3d"])
                each = losses.rle_mixture(pred, sigma, target, *functions, weight=weight)
                return each.sum() / (len(pred) if averaged else 1)

            check(arrays, f"l3_sa{averaged}", bits, loss, (pred, logits), flows, arrays["flow_param_names"])


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("residual", [0, 1])
@pytest.mark.parametrize("base", ["laplace", "gaussian"])
def test_mmpose(golden, base, residual, bits):
    arrays, dtype = golden("rle_mmpose"), DTYPE[bits]
    with jax.enable_x64(bits == 64):
        net = flow.RealNVP()
        pred, logits, target, weight = (
            jnp.asarray(arrays[name], dtype) for name in ("pred", "sigma_logits", "target", "target_weight")
        )
        for averaged in (0, 1):
            for weighted in (0, 1):

                def loss(flows, pred, logits, averaged=averaged, weighted=weighted):
                    each = losses.rle(
                        pred,
                        jax.nn.sigmoid(logits),
                        target,
                        log_prob(net, flows["flow"]),
                        base=base if residual else None,
                        variant="mmpose",
                        weight=weight[..., 0] if weighted else None,
                    )
                    return each.sum() / (len(pred) if averaged else 1)

                flows = {"flow": golden_flow.variables(arrays, "flow.", dtype)}
                prefix = f"{base}_res{residual}_sa{averaged}_tw{weighted}"
                check(arrays, prefix, bits, loss, (pred, logits), flows, arrays["flow_param_names"])


def test_golden_intermediates(golden):
    """log phi, the flow term and the Q term of the official loss, one by one."""
    arrays = golden("rle_official")
    with jax.enable_x64(True):
        sigma = jax.nn.sigmoid(jnp.asarray(arrays["l2_sigma_logits"], jnp.float64))
        pred, target = (jnp.asarray(arrays[f"l2_{name}"], jnp.float64) for name in ("pred", "target"))
        np.testing.assert_allclose(sigma, arrays["l2_sigma_f64"], rtol=1e-12)
        log_g = log_prob(flow.RealNVP(), golden_flow.variables(arrays, "flow2d.", jnp.float64))
        np.testing.assert_allclose(log_g((pred - target) / sigma), arrays["l2_logphi_f64"][..., 0], rtol=1e-9)
        without_base = losses.rle(pred, sigma, target, log_g, base=None, variant="official")
        np.testing.assert_allclose(without_base, arrays["l2_nf_loss_f64"].sum(-1), rtol=1e-9)
        with_base = losses.rle(pred, sigma, target, log_g, variant="official")
        np.testing.assert_allclose(with_base - without_base, arrays["l2_logQ_f64"].sum(-1), rtol=1e-9)
