"""The flow of one coordinate: identity, inverse, integral, tails, and that it learns a density that is no Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpose import density, flow, losses


@pytest.fixture(scope="module")
def spline():
    net = flow.Spline()
    knots = jax.random.normal(jax.random.key(3), (25,), jnp.float32)
    return net, {"params": {"knots": 0.8 * knots}}


def normal(x):
    return -0.5 * np.square(x) - 0.5 * np.log(2 * np.pi)


def test_it_starts_as_the_identity_and_G_as_a_standard_normal():
    net = flow.Spline()
    variables = net.init(jax.random.key(0), jnp.zeros((1, 1)), method="log_prob")
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 25
    x = jnp.linspace(-9, 9, 101)[:, None]
    np.testing.assert_allclose(net.apply(variables, x, method="forward"), x, atol=1e-6)
    np.testing.assert_allclose(net.apply(variables, x, method="log_prob"), normal(x[:, 0]), atol=2e-5)


def test_inverse_determinant_and_tails(spline):
    with jax.enable_x64(True):
        net, variables = spline[0], jax.tree.map(lambda p: p.astype(jnp.float64), spline[1])
        z = jnp.linspace(-8, 8, 81)[:, None]
        x = net.apply(variables, z, method="forward")
        back, log_det = net.apply(variables, x, method="inverse")
        np.testing.assert_allclose(back, z, atol=1e-7)
        slope = jax.vmap(jax.grad(lambda value: net.apply(variables, value[None], method="inverse")[0][0]))(x[:, 0])
        np.testing.assert_allclose(log_det, np.log(slope), atol=1e-7)
        assert np.abs(log_det).max() > 0.4
        log_prob = net.apply(variables, x, method="log_prob")
        np.testing.assert_allclose(log_prob, normal(z[:, 0]) + log_det, atol=1e-9)
        outside = np.abs(z[:, 0]) > 6
        np.testing.assert_allclose(log_prob[outside], normal(x[outside, 0]), atol=1e-9)


@pytest.mark.parametrize("bins, bound", [(1, 2.0), (8, 6.0)])
def test_it_integrates_to_one(bins, bound):
    with jax.enable_x64(True):
        net = flow.Spline(bins=bins, bound=bound)
        knots = jax.random.normal(jax.random.key(bins), (3 * bins + 1,))
        x = np.linspace(-9, 9, 40_001)
        log_prob = net.apply({"params": {"knots": knots}}, x[:, None], method="log_prob")
        assert np.trapezoid(np.exp(log_prob), x) == pytest.approx(1, abs=1e-5)


def test_samples_follow_the_density(spline):
    net, variables = spline
    x = np.asarray(net.apply(variables, jax.random.key(0), (20_000,), method="sample"))
    assert x.shape == (20_000, 1) and x.dtype == np.float32
    assert net.apply(variables, jax.random.key(0), method="sample").shape == (1,)
    grid = np.linspace(-8, 8, 20_001)
    cumulative = np.cumsum(np.exp(net.apply(variables, grid[:, None], method="log_prob"))) * (grid[1] - grid[0])
    observed = np.searchsorted(np.sort(x[:, 0]), grid) / len(x)
    assert np.abs(observed - cumulative).max() < 0.02


def test_two_modes_are_learned_which_a_gaussian_cannot():
    """A RealNVP of one coordinate would end at the likelihood of the best Gaussian."""
    rng = np.random.default_rng(0)
    e = np.where(rng.random(4000) < 0.7, rng.normal(-1, 0.3, 4000), rng.normal(1.5, 0.3, 4000)).astype(np.float32)
    net = flow.Spline()
    params = net.init(jax.random.key(0), e[:, None])
    tx = optax.adam(0.05)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            gradient = jax.grad(lambda p: -net.apply(p, e[:, None]).mean())(params)
            updates, state = tx.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=200)
        return params, -net.apply(params, e[:, None]).mean()

    _, nll = train(params)
    gaussian = 0.5 * np.log(2 * np.pi * np.e * e.var())
    true = -np.log(0.7 * np.exp(normal((e + 1) / 0.3)) / 0.3 + 0.3 * np.exp(normal((e - 1.5) / 0.3)) / 0.3).mean()
    assert gaussian - nll > 0.5 and nll - true < 0.05


def test_the_losses_and_the_density_take_it(spline):
    net, variables = spline
    log_prob = jax.jit(lambda e: net.apply(variables, e, method="log_prob"))
    mu = jnp.zeros((2, 8, 1))
    values = losses.rle(mu, mu + 0.1, mu + 0.05, log_prob, variant="official", where=jnp.ones((2, 8), bool))
    assert values.shape == (2, 8) and np.isfinite(values).all()
    model = density.Model(log_g=log_prob, dim=1)
    assert density.moments(model).mass == pytest.approx(1, abs=1e-3)
    plane = flow.log_normalizer(log_prob, "laplace", points=2000, dim=1)
    latent = flow.log_normalizer_latent(
        lambda z: net.apply(variables, z, method="forward"), "laplace", points=2000, dim=1
    )
    assert float(plane) == pytest.approx(float(latent), abs=1e-2)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"got shape \(3, 2\), expected \(..., 1\)"):
        flow.Spline().init(jax.random.key(0), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="bins=0, bound=6.0: expected at least one bin"):
        flow.Spline(bins=0).init(jax.random.key(0), jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match="of one coordinate a RealNVP is a Gaussian: take flow.Spline"):
        flow.RealNVP(dim=1).init(jax.random.key(0), jnp.zeros((3, 1)))
