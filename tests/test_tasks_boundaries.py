"""The family of boundaries: losses, masks, the mirrored scan, the order of the rows, its density and its description."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import density, nets, tasks
from jaxpose.skeleton import RETINA8

H, W = 8, 6


def make(head=nets.ColumnRegressor, loss="rle", **settings):
    net = head(nets.ResUNet(width=4, levels=1), 8)
    likelihood = tasks.Likelihood(loss=loss)
    return tasks.boundaries(net, skeleton=RETINA8, size_wh=(W, H), likelihood=likelihood, **settings)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    rows = np.sort(rng.uniform(0, H - 1, (2, W, 8)), -1).astype(np.float32)
    rows[0, :2], rows[1, 3, 4] = np.nan, np.nan
    return {"image": rng.uniform(size=(2, H, W)).astype(np.float32), "rows": rows}


@functools.cache
def variables_of(loss="rle"):
    return make(loss=loss).init(jax.random.key(0))


@pytest.mark.parametrize("loss", ["rle", "laplace", "gaussian", "l1"])
def test_losses_are_those_of_the_residuals_summed_over_boundaries(batch, loss):
    task, variables = make(loss=loss), variables_of(loss)
    value, (collections, metrics) = jax.jit(task.loss)(variables, batch, key=jax.random.key(0))
    (mu, sigma), _ = task.apply_net(variables, batch["image"], train=True)
    labelled = np.isfinite(batch["rows"])
    d = np.where(labelled, np.asarray(mu) - (batch["rows"] / H - 0.5), 0.0)
    s = np.asarray(sigma)
    normal = lambda e: 0.5 * e**2 + 0.5 * np.log(2 * np.pi)  # noqa: E731
    laplace = np.log(s * np.sqrt(2 * np.pi)) + np.abs(d) / (np.sqrt(2) * s)
    each = {
        "l1": np.abs(d),
        "laplace": np.log(2 * s) + np.abs(d) / s,
        "gaussian": np.log(s) + normal(d / s),
        "rle": np.log(s) + normal(d / s) + laplace,  # the spline is the identity at the start
    }[loss]
    assert float(value) == pytest.approx(np.where(labelled, each, 0).sum() / (2 * W), rel=1e-4)
    assert float(metrics["error"]) == pytest.approx(H * np.abs(d)[labelled].mean(), rel=1e-4)
    assert collections["batch_stats"]


def test_an_unlabelled_row_may_hold_anything(batch):
    task, variables = make(), variables_of()
    other = {**batch, "rows": np.where(np.isnan(batch["rows"]), np.inf, batch["rows"])}
    gradient = jax.jit(jax.grad(lambda v, b: task.loss(v, b, key=jax.random.key(0))[0]))
    a, b = gradient(variables, batch), gradient(variables, other)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(a))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(a["params"]["flow"]))


def test_a_prediction_is_averaged_with_the_mirrored_scan(batch):
    task, variables = make(), variables_of()
    mirrored = {"image": batch["image"][:, :, ::-1]}
    plain = [task.predict(variables, b, flip_test=False) for b in (batch, mirrored)]
    both = task.predict(variables, batch)
    for name in task.outputs:
        mean = (np.asarray(plain[0][name]) + np.asarray(plain[1][name])[:, ::-1]) / 2
        np.testing.assert_allclose(both[name], mean, rtol=1e-5)


def test_ordered_rows_are_the_running_maximum(batch):
    variables = variables_of()
    free, ordered = (make(ordered=o).predict(variables, batch, flip_test=False)["rows"] for o in (False, True))
    assert (np.diff(free, axis=-1) < 0).any()
    np.testing.assert_allclose(ordered, np.maximum.accumulate(free, -1))


def test_pairs_of_boundaries_have_the_realnvp_of_the_paper(batch):
    task = make(residual="pair")
    variables = task.init(jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["flow"])) == 53_784
    assert task.density(variables).dim == 2
    value, _ = jax.jit(task.loss)(variables, batch, key=jax.random.key(0))
    assert np.isfinite(value)


def test_the_head_of_he(batch):
    task = make(nets.ColumnSoftmax, loss="l1", objective="columns")
    variables = task.init(jax.random.key(0))
    value, _ = jax.jit(task.loss)(variables, batch, key=jax.random.key(0))
    (mu, _, logits), _ = task.apply_net(variables, batch["image"], train=True, with_maps=True)
    mu, log_q = np.asarray(mu), np.asarray(jax.nn.log_softmax(logits, axis=1))
    total = 0.0
    for b, x, k in np.ndindex(2, W, 8):
        row = batch["rows"][b, x, k]
        if np.isfinite(row):
            d = abs((mu[b, x, k] + 0.5) * H - row)
            total += -log_q[b, int(np.round(row)), x, k] + (0.5 * d**2 if d < 1 else d - 0.5)
    assert float(value) == pytest.approx(total / (2 * W), rel=1e-4)
    assert task.density(variables) is None and "flow" not in variables["params"]


def test_the_density_is_that_of_one_coordinate():
    task, variables = make(), variables_of()
    model = task.density(variables)
    assert model.dim == 1 and model.variant == "official"
    e = jnp.linspace(-3, 3, 7)[:, None]
    np.testing.assert_allclose(density.log_prob(e, model), -0.5 * e[:, 0] ** 2 - 0.5 * np.log(2 * np.pi), atol=1e-5)
    assert tasks.predictive_density(task.config, variables).dim == 1
    assert "flow" not in task.inference_variables(variables)["params"]
    with pytest.raises(ValueError, match="restore it with flow=True"):
        task.density(task.inference_variables(variables), required=True)
    assert make(loss="l1").density(variables_of("l1")) is None and make(loss="l1").public_outputs == ("rows",)


@pytest.mark.parametrize("settings", [{}, {"residual": "pair", "ordered": True}])
def test_its_description_rebuilds_it(settings):
    task = make(**settings)
    again = tasks.from_config(task.config)
    assert type(again) is tasks.Boundaries and again.config == task.config
    assert {f.name: getattr(again, f.name) for f in dataclasses.fields(again)} == {
        f.name: getattr(task, f.name) for f in dataclasses.fields(task)
    }
    assert tasks.families_of("scan") == ["boundaries"]


def test_what_it_refuses(batch):
    with pytest.raises(ValueError, match="loss='basic'"):
        make(loss="basic")
    with pytest.raises(ValueError, match="objective='other'"):
        make(objective="other")
    odd = dataclasses.replace(RETINA8, joints=RETINA8.joints[:7], sigmas=RETINA8.sigmas[:7])
    with pytest.raises(ValueError, match="7 boundaries: expected an even number"):
        tasks.boundaries(make().net, skeleton=odd, size_wh=(W, H), residual="pair")
    with pytest.raises(ValueError, match=r"expected scans \(B, 8, W\) and mu \(2, 6, 7\)"):
        task = tasks.boundaries(make().net, skeleton=odd, size_wh=(W, H))
        task.predict(variables_of(), batch)
