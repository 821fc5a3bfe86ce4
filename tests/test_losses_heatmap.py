"""Heatmap losses: HRNet's numbers, definitions by hand, masks that let nothing through."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import heatmap, losses

LOSSES = {
    "mse": lambda a, b, **o: losses.heatmap_mse(a, b, **o),
    "cross_entropy": lambda a, b, **o: losses.heatmap_cross_entropy(a, b, **o),
    "bce": lambda a, b, **o: losses.heatmap_bce(a, b, key=jax.random.key(0), **o),
    "kl": lambda a, b, **o: losses.heatmap_kl(a, b, **o),
    "js": lambda a, b, **o: losses.heatmap_js(a, b, **o),
    "ohkm": lambda a, b, **o: losses.heatmap_ohkm(a, b, top=2, **o),
}


@pytest.mark.parametrize("weighted", [0, 1])
@pytest.mark.parametrize("name", ["mse", "ohkm"])
def test_hrnets_losses(golden, name, weighted):
    arrays = golden("heatmap_targets")
    with jax.enable_x64(True):
        pred, target = (np.moveaxis(arrays[f"mse_{n}"], 1, -1).astype(np.float64) for n in ("out", "target"))
        weight = arrays["mse_weight"][..., 0].astype(np.float64) if weighted else None

        def loss(pred):
            if name == "mse":
                return 0.5 * losses.heatmap_mse(pred, target, weight=weight).mean()
            return 0.5 * losses.heatmap_ohkm(pred, target, weight=weight).mean()

        value, gradient = jax.value_and_grad(loss)(jnp.asarray(pred))
        np.testing.assert_allclose(value, arrays[f"{name}_w{weighted}_loss_f64"], rtol=1e-6)
        expected = np.moveaxis(arrays[f"{name}_w{weighted}_grad"], 1, -1)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", LOSSES)
def test_a_masked_joint_gives_nothing_whatever_it_holds(name):
    prob = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 20, 4)), axis=1).reshape(2, 5, 4, 4)
    target = jax.nn.softmax(jax.random.normal(jax.random.key(1), (2, 20, 4)), axis=1).reshape(2, 5, 4, 4)
    where = jnp.array([[True, True, False, True]] * 2)
    for garbage in (jnp.nan, jnp.inf, -jnp.inf):
        bad, bad_target = (a.at[..., 2].set(garbage) for a in (prob, target))

        def loss(prob, bad_target=bad_target):
            return LOSSES[name](prob, bad_target, where=where).sum()

        value, gradient = jax.value_and_grad(loss)(bad)
        clean = LOSSES[name](prob, target, where=where).sum()
        np.testing.assert_allclose(value, clean, rtol=1e-6)
        assert np.isfinite(gradient).all() and (np.asarray(gradient)[..., 2] == 0).all()
        nothing = jax.grad(lambda p: LOSSES[name](p, target, where=jnp.zeros((2, 4), bool)).sum())(bad)
        assert (np.asarray(nothing) == 0).all()


def test_cross_entropy_of_the_log_target_is_its_entropy():
    target = heatmap.gaussian(jnp.array([[3.0, 4.0]]), (9, 8), sigma=1.0, method="unbiased")
    target = target / target.sum()
    found = losses.heatmap_cross_entropy(jnp.log(target), target)
    np.testing.assert_allclose(found, [-(target * jnp.log(target)).sum()], rtol=1e-5)


def test_bce_draws_as_many_negatives_as_asked():
    target = heatmap.disc(jnp.array([[6.0, 7.0], [90.0, 7.0], [0.0, 0.0]]), (16, 12), radius=2.0)
    logits = jax.random.normal(jax.random.key(4), target.shape)
    positives = target.sum((0, 1))
    for ratio in (0, 1, 3):
        values = losses.heatmap_bce(logits, target, key=jax.random.key(5), negatives=ratio)
        assert ((values > 0) & (target == 0)).sum((0, 1)).tolist() == (ratio * positives).tolist()
    everywhere = losses.heatmap_bce(logits, target, key=jax.random.key(5), negatives=1e6)
    expected = -jnp.where(target > 0, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits))
    np.testing.assert_allclose(everywhere[..., (0, 2)], expected[..., (0, 2)], rtol=1e-5, atol=1e-6)
    other = losses.heatmap_bce(logits, target, key=jax.random.key(6))
    assert ((other > 0) != (losses.heatmap_bce(logits, target, key=jax.random.key(5)) > 0)).any()


def test_divergences():
    a = jax.nn.softmax(jax.random.normal(jax.random.key(0), (30, 3)), axis=0).reshape(5, 6, 3)
    b = jax.nn.softmax(jax.random.normal(jax.random.key(1), (30, 3)), axis=0).reshape(5, 6, 3)
    np.testing.assert_allclose(losses.heatmap_js(a, b), losses.heatmap_js(b, a), rtol=1e-5)
    np.testing.assert_allclose(losses.heatmap_kl(a, a), 0, atol=1e-6)
    np.testing.assert_allclose(losses.heatmap_kl(a, b), (b * np.log(b / a)).sum((0, 1)), rtol=1e-5)
    hole = a.at[0, 0].set(0)
    for name in ("kl", "js"):
        assert np.isfinite(jax.grad(lambda p, name=name: LOSSES[name](p, hole).sum())(hole)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: losses.heatmap_mse(a, a[..., :2]), r"pred \(5, 4, 3\), target \(5, 4, 2\)"),
        (lambda a: losses.heatmap_mse(a, a, where=jnp.ones(2)), r"where has shape \(2,\), expected \(3,\)"),
        (lambda a: losses.heatmap_mse(a, a, weight=jnp.ones(2)), r"weight has shape \(2,\), expected \(3,\)"),
        (lambda a: losses.heatmap_ohkm(a, a, top=4), "top=4: expected 1 to 3"),
        (lambda a: losses.heatmap_bce(a, a, key=jax.random.key(0), negatives=-1), "negatives=-1"),
    ],
)
def test_errors_name_what_was_given(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((5, 4, 3)))
