"""The predictive density: what is stated, its regions, and whether the coverage counts right."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import density, flow
from tests import golden_flow

LAPLACE = density.Model(log_g=None, base="laplace")
GAUSSIAN = density.Model(log_g=None, base="gaussian")


def shifted(e):
    """A Gaussian flow off the centre, correlated: mean (0.5, -1), standard deviations (1, 0.5)."""
    z = (e - jnp.array([0.5, -1.0])) * jnp.array([1.0, 2.0])
    rho = 0.6
    quadratic = (z[..., 0] ** 2 - 2 * rho * z[..., 0] * z[..., 1] + z[..., 1] ** 2) / (1 - rho**2)
    return -0.5 * quadratic - math.log(2 * math.pi) - 0.5 * math.log(1 - rho**2) + math.log(2.0)


@pytest.fixture(scope="module")
def released(golden):
    """(log_g, arrays) of the official 2D flow."""
    variables = golden_flow.variables(golden("rle_official"), "flow2d.")
    net = flow.RealNVP()
    return lambda e: net.apply(variables, e, method="log_prob")


def test_which_density_is_stated():
    e = jnp.array([[0.3, -0.7], [1.0, 2.0]])
    paper = density.log_prob(e, density.Model(log_g=shifted, base="laplace"))
    np.testing.assert_allclose(paper, shifted(e))  # trained without log s: G alone, Q not counted
    for variant in ("official", "mmpose"):
        model = density.Model(log_g=shifted, base="laplace", variant=variant)
        np.testing.assert_allclose(density.log_prob(e, model), shifted(-e))  # their flow sees (mu - x) / sigma
    full = density.log_prob(e, density.Model(log_g=shifted, base="laplace", log_normalizer=0.4))
    np.testing.assert_allclose(full, shifted(e) - jnp.abs(e).sum(-1) - 2 * math.log(2) + 0.4, rtol=1e-6)
    np.testing.assert_allclose(density.log_prob(e, LAPLACE), -jnp.abs(e).sum(-1) - 2 * math.log(2), rtol=1e-6)


def test_coordinates_are_shifted_and_scaled():
    x, mu, sigma = jnp.array([[0.4, 0.5]]), jnp.array([[0.3, 0.7]]), jnp.array([[0.2, 0.1]])
    model = density.Model(log_g=shifted)
    expected = shifted((x - mu) / sigma) - math.log(0.2 * 0.1)
    np.testing.assert_allclose(density.log_prob_at(x, mu, sigma, model), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"x \(1, 2\), mu \(2,\)"):
        density.log_prob_at(x, mu[0], sigma, model)


@pytest.mark.parametrize("base", ["laplace", "gaussian"])
def test_the_trained_density_integrates_to_one(released, base):
    """s Q G at the density's setting, integrated by an independent rule: equal cells, 0 on an edge."""
    log_s = float(density.log_normalizer(jax.jit(released), base))
    model = density.Model(log_g=released, base=base, log_normalizer=log_s)
    width = 0.04
    axis = np.float32(width * (np.arange(-300, 300) + 0.5))
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1)
    mass = np.exp(np.asarray(jax.jit(lambda e: density.log_prob(e, model))(grid), np.float64)).sum() * width**2
    assert mass == pytest.approx(1, abs=1e-3)
    assert density.moments(model).mass == pytest.approx(1, abs=1e-3)


def test_the_flow_alone_integrates_to_one(released):
    for variant in ("paper", "official"):
        found = density.moments(density.Model(log_g=released, variant=variant))
        assert found.mass == pytest.approx(1, abs=1e-3)


def test_moments_of_known_densities():
    for model, deviation in ((LAPLACE, math.sqrt(2)), (GAUSSIAN, 1.0)):
        found = density.moments(model)
        np.testing.assert_allclose(found.mean, 0, atol=1e-6)
        np.testing.assert_allclose(found.covariance, deviation**2 * np.eye(2), rtol=1e-4, atol=1e-6)
    found = density.moments(density.Model(log_g=shifted))
    np.testing.assert_allclose(found.mean, [0.5, -1.0], atol=1e-4)
    np.testing.assert_allclose(found.standard_deviation, [1.0, 0.5], rtol=1e-4)
    np.testing.assert_allclose(found.covariance[0, 1], 0.3, rtol=1e-3)
    mirrored = density.moments(density.Model(log_g=shifted, variant="official"))
    np.testing.assert_allclose(mirrored.mean, [-0.5, 1.0], atol=1e-4)


@pytest.mark.parametrize("scale", [0.01, 1.0, 60.0])
def test_narrow_and_wide_densities_are_found(scale):
    """Trained without log s, a flow can end far from unit scale."""
    model = density.Model(log_g=lambda e: shifted(e / scale) - 2 * math.log(scale))
    np.testing.assert_allclose(density.moments(model).standard_deviation, [scale, scale / 2], rtol=1e-3)
    assert density.level(scale * jnp.array([0.5, -1.0]), model) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_heavy_tails_are_held(dim):
    """As a flow that was fitted to errors with outliers: one in twenty of 15 times the scale."""

    def log_g(e):
        each = [math.log(share / (2 * b)) - jnp.abs(e) / b for share, b in ((0.95, 0.4), (0.05, 6.0))]
        return jnp.logaddexp(*each).sum(-1)

    found = density.moments(density.Model(log_g=log_g, dim=dim))
    assert found.mass == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(found.standard_deviation, math.sqrt(2 * (0.95 * 0.4**2 + 0.05 * 36)), rtol=0.03)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.99])
def test_regions_of_known_densities(level):
    # Gaussian: a disc of radius sqrt(-2 log(1 - p)), log density log(1 - p) - log(2 pi).
    assert density.region(GAUSSIAN, level).log_threshold == pytest.approx(
        math.log(1 - level) - math.log(2 * math.pi), abs=0.02
    )
    # Laplace: |x| + |y| <= r, where 1 - (1 + r) exp(-r) = p.
    r = -density.region(LAPLACE, level).log_threshold - 2 * math.log(2)
    assert 1 - (1 + r) * math.exp(-r) == pytest.approx(level, abs=0.004)


def test_a_region_as_contour_and_ellipse():
    region = density.region(density.Model(log_g=shifted), 0.8)
    assert region.mask.shape == tuple(len(axis) for axis in region.axes)
    centre, half_axes, directions = region.ellipse()
    # This density is Gaussian, so the ellipse is the region: its boundary has the threshold's density.
    angle = np.linspace(0, 2 * np.pi, 40)
    boundary = centre + (np.stack([np.cos(angle), np.sin(angle)], -1) * half_axes) @ directions.T
    np.testing.assert_allclose(shifted(jnp.asarray(boundary)), region.log_threshold, atol=0.03)
    inside = region.contains(np.array([[0.5, -1.0], [5.0, 5.0]]), density.Model(log_g=shifted))
    assert inside.tolist() == [True, False]


def test_levels_are_uniform_where_the_model_is_right():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 2))
    e = np.stack([z[:, 0], 0.6 * z[:, 0] + 0.8 * z[:, 1]], -1) * [1, 0.5] + [0.5, -1]
    for sign, variant in ((1, "paper"), (-1, "official")):
        reached = density.level(sign * e, density.Model(log_g=shifted, variant=variant))
        np.testing.assert_allclose(np.quantile(reached, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.015)


@pytest.mark.parametrize("dim", [1, 3])
def test_other_dimensions(dim):
    """Three coordinates, and one (a depth)."""
    rng = np.random.default_rng(1)
    e = rng.laplace(size=(20_000, dim))
    model = density.Model(log_g=None, base="laplace", dim=dim)
    assert density.moments(model).mass == pytest.approx(1, abs=1e-3)
    reached = density.level(e, model)
    np.testing.assert_allclose(np.quantile(reached, [0.25, 0.5, 0.9]), [0.25, 0.5, 0.9], atol=0.02)


def evaluation(size=3000):
    """Two joints with known sigma; the second is overconfident by 2 where occluded."""
    rng = np.random.default_rng(2)
    mu = rng.normal(size=(size, 2, 2))
    sigma = rng.uniform(0.05, 0.5, size=mu.shape)
    occluded = np.zeros((size, 2), bool)
    occluded[: size // 2, 1] = True
    target = mu + sigma * rng.laplace(size=mu.shape) * np.where(occluded, 2, 1)[..., None]
    return mu, sigma, target, occluded


def test_coverage_counts_joints():
    mu, sigma, target, occluded = evaluation()
    found = density.coverage(mu, sigma, target, LAPLACE, levels=[0.5, 0.9], where=~occluded)
    np.testing.assert_allclose(found.overall, [0.5, 0.9], atol=0.02)
    np.testing.assert_allclose(found.per_joint, [[0.5, 0.5], [0.9, 0.9]], atol=0.035)
    assert found.count.tolist() == [3000, 1500]
    hidden = density.coverage(mu, sigma, target, LAPLACE, levels=[0.5, 0.9], where=occluded)
    # Laplace of twice the scale inside the region of radius r: 1 - (1 + r/2) exp(-r/2).
    for level, share in zip((0.5, 0.9), hidden.overall):
        r = -density.region(LAPLACE, level).log_threshold - 2 * math.log(2)
        assert share == pytest.approx(1 - (1 + r / 2) * math.exp(-r / 2), abs=0.03)
    assert np.isnan(hidden.per_joint[:, 0]).all()
    assert density.calibration_error(found) < 0.02 < 0.15 < density.calibration_error(hidden)


def test_masked_joints_are_not_read():
    mu, sigma, target, occluded = evaluation(300)
    expected = density.coverage(mu, sigma, target, LAPLACE, where=~occluded)
    for array, garbage in ((mu, np.nan), (sigma, 0.0), (target, np.inf)):
        array[occluded] = garbage
    found = density.coverage(mu, sigma, target, LAPLACE, where=~occluded)
    np.testing.assert_array_equal(found.overall, expected.overall)
    assert np.isfinite(density.sigma_quantiles(sigma, where=~occluded)).all()


def test_calibration_is_json():
    mu, sigma, target, occluded = evaluation(200)
    labelled = np.ones_like(occluded)
    labelled[:, 0] = False
    found = json.loads(
        json.dumps(density.calibration(mu, sigma, target, LAPLACE, where=labelled, occluded=occluded), allow_nan=False)
    )
    assert {name: part["count"] for name, part in found.items()} == {"all": 200, "visible": 100, "occluded": 100}
    assert found["occluded"]["calibration_error"] > found["visible"]["calibration_error"]
    assert found["all"]["sigma_quantiles"][2][0] is None  # joint 0 was never counted
    nothing = density.calibration(mu, sigma, target, LAPLACE, where=np.zeros_like(occluded))
    assert nothing["all"]["coverage"] == [None] * 5


def test_sigma_quantiles():
    sigma = np.stack([np.arange(1.0, 102.0), np.full(101, 3.0)], -1)[..., None].repeat(2, -1)
    found = density.sigma_quantiles(sigma, quantiles=[0.0, 0.5, 1.0])
    np.testing.assert_allclose(found, [[1, 3], [51, 3], [101, 3]])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"log_g": None}, "needs a flow"),
        ({"log_g": None, "base": "l1"}, "base='l1'"),
        ({"log_g": shifted, "variant": "x"}, "variant='x'"),
        ({"log_g": shifted, "log_normalizer": 0.1}, "log_normalizer=0.1"),
        ({"log_g": shifted, "base": "laplace", "variant": "official", "log_normalizer": 0.1}, "'official'"),
        ({"log_g": shifted, "dim": 4}, "dim=4"),
    ],
)
def test_models_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        density.Model(**fields)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\(3,\).*\(\.\.\., 2\)"):
        density.log_prob(jnp.zeros(3), LAPLACE)
    with pytest.raises(ValueError, match=r"level=1.5"):
        density.region(LAPLACE, 1.5)
    mu, sigma, target, occluded = evaluation(10)
    with pytest.raises(ValueError, match=r"levels=\[2.0\]"):
        density.coverage(mu, sigma, target, LAPLACE, levels=[2.0])
    with pytest.raises(ValueError, match=r"mu \(10, 2, 2\), sigma \(2, 2\)"):
        density.coverage(mu, sigma[0], target, LAPLACE)
    with pytest.raises(ValueError, match=r"occluded has shape \(10,\), expected \(10, 2\)"):
        density.calibration(mu, sigma, target, LAPLACE, occluded=np.ones(10))


def test_a_wrong_normaliser_is_found():
    """With a log s of another flow nothing integrates to 1."""
    wrong = density.Model(log_g=shifted, base="laplace", log_normalizer=0.0)
    with pytest.raises(ValueError, match="expected 1"):
        density.moments(wrong)
    for off, mass in ((0.05, "1.05"), (0.002, "1.0020")):
        barely = float(density.log_normalizer(shifted, "laplace")) + off
        with pytest.raises(ValueError, match=f"integrates to {mass}"):
            density.moments(density.Model(log_g=shifted, base="laplace", log_normalizer=barely))


@pytest.mark.parametrize("name, value", [("mu", np.nan), ("target", np.inf), ("sigma", 0.0), ("sigma", -1.0)])
def test_what_is_counted_must_be_numbers(name, value):
    """NaN compares as a miss and a negative sigma as a hit: both would end up in a coverage that looks fine."""
    arrays = dict(zip(("mu", "sigma", "target"), evaluation(10)[:3]))
    arrays[name][3, 1, 0] = value
    for call in (density.coverage, density.calibration):
        with pytest.raises(ValueError, match=rf"{name}\[3, 1, 0\] is {value}.*`where`"):
            call(**arrays, model=LAPLACE)
    at = {"x": arrays["target"][3], "mu": arrays["mu"][3], "sigma": arrays["sigma"][3]}
    with pytest.raises(ValueError, match=rf"{name.replace('target', 'x')}\[1, 0\] is {value}"):
        density.log_prob_at(**at, model=LAPLACE)
    jax.jit(lambda a: density.log_prob_at(**a, model=LAPLACE))(at)  # no values to look at


def test_a_mask_of_nan_masks():
    mu, sigma, target, occluded = evaluation(10)
    found = density.coverage(mu, sigma, target, LAPLACE, where=np.where(occluded, np.nan, 1.0))
    assert found.count.tolist() == [10, 5]


def test_the_mass_of_a_disc():
    """Of a Gaussian in closed form, of the skewed flow beside draws from it; monotonous in the radius."""
    sigma = np.geomspace(0.05, 40, 30)
    got = density.within(np.stack([sigma, sigma], -1), GAUSSIAN, radius=2.0)
    np.testing.assert_allclose(got, 1 - np.exp(-((2 / sigma) ** 2) / 2), atol=5e-3)
    z = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 200_000)
    e = np.array([0.5, -1.0]) + z / np.array([1.0, 2.0])
    model = density.Model(log_g=shifted)
    for sx, sy in ((1.0, 1.0), (4.0, 0.5), (0.3, 6.0)):
        counted = (np.hypot(e[:, 0] * sx, e[:, 1] * sy) < 3).mean()
        assert density.within([sx, sy], model, radius=3.0) == pytest.approx(counted, abs=6e-3)
    assert np.all(np.diff([density.within([1.0, 2.0], model, radius=r) for r in np.geomspace(1e-4, 1e4, 50)]) > -1e-12)


@pytest.mark.parametrize(
    "sigma, options, message",
    [
        ([1.0, 0.0], {"radius": 1.0}, "sigma.* is 0.0"),
        ([1.0, 1.0, 1.0], {"radius": 1.0}, r"\(3,\)"),
        ([1.0, 1.0], {"radius": 0.0}, "radius=0.0"),
    ],
)
def test_discs_that_are_none(sigma, options, message):
    with pytest.raises(ValueError, match=message):
        density.within(sigma, GAUSSIAN, **options)
