"""Losses: exact formulas, masks, dtypes, shapes. The released code's numbers are in test_losses_golden.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpose import losses

GARBAGE = (np.nan, np.inf, -np.inf, 0.0)
VARIANTS = ("paper", "official", "mmpose")


def standard_normal(e):
    return -0.5 * (e**2).sum(-1) - e.shape[-1] / 2 * math.log(2 * math.pi)


def skewed(e, shift=0.3):
    """A density without symmetry, with a parameter to differentiate."""
    return standard_normal(e - shift) - 0.1 * e[..., 0]


ONE = tuple(jnp.array([x]) for x in ([0.10, -0.20], [0.05, 0.04], [0.13, -0.26]))  # mu, sigma, target

# Computed by hand from the definitions, for a joint with e = (-0.6, 1.5) and an identity flow: log G = -3.142877.
BY_HAND = {
    ("paper", "laplace"): 0.414563,
    ("paper", None): 3.142877 + math.log(0.05 * 0.04),
    ("paper", "gaussian"): 2 * 3.142877 + math.log(0.05 * 0.04),
    ("official", "laplace"): -2.820661,
    ("official", None): 0.071146,
    ("mmpose", "laplace"): -2.657168,
    ("mmpose", "gaussian"): -3.000585,
    ("mmpose", None): 0.071146,
}


@pytest.mark.parametrize("variant, base", BY_HAND, ids=str)
def test_one_joint_by_hand(variant, base):
    value = losses.rle(*ONE, standard_normal, variant=variant, base=base)
    assert value.shape == (1,)
    assert value.item() == pytest.approx(BY_HAND[variant, base], abs=2e-6)


def test_the_sign_fed_to_the_flow():
    """The paper feeds (target - mu) / sigma, both codes (mu - target) / sigma."""
    seen = {}

    def spy(variant):
        def log_prob(e):
            seen[variant] = np.asarray(e)
            return standard_normal(e)

        return log_prob

    for variant in VARIANTS:
        losses.rle(*ONE, spy(variant), variant=variant)
    np.testing.assert_allclose(seen["paper"], [[0.6, -1.5]], rtol=1e-5)
    np.testing.assert_allclose(seen["official"], [[-0.6, 1.5]], rtol=1e-5)
    np.testing.assert_allclose(seen["mmpose"], [[-0.6, 1.5]], rtol=1e-5)


def test_log_normalizer_is_subtracted_once_a_joint():
    plain = losses.rle(*ONE, standard_normal)
    np.testing.assert_allclose(losses.rle(*ONE, standard_normal, log_normalizer=0.25), plain - 0.25, rtol=1e-6)
    half = losses.rle(*ONE, standard_normal, log_normalizer=0.25, weight=jnp.full((1,), 0.5))
    np.testing.assert_allclose(half, 0.5 * (plain - 0.25), rtol=1e-6)


@pytest.mark.parametrize("variant, base", [("official", "laplace"), ("mmpose", "gaussian"), ("paper", None)])
def test_log_normalizer_where_there_is_none(variant, base):
    with pytest.raises(ValueError, match="log_normalizer"):
        losses.rle(*ONE, standard_normal, variant=variant, base=base, log_normalizer=0.25)
    with pytest.raises(ValueError, match="log_normalizer"):
        jax.jit(lambda s: losses.rle(*ONE, standard_normal, variant=variant, base=base, log_normalizer=s))(0.0)


def test_paper_with_log_s_is_a_density_of_the_target():
    """With the exact log s the exponential of -loss integrates to 1 over the target."""
    log_s = -2 * math.log(math.exp(0.5) * 0.5 * math.erfc(1 / math.sqrt(2)))  # Laplace times N(0, 1), both axes
    axis = np.linspace(-1.5, 1.5, 601)
    target = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 1, 2)
    mu, sigma = np.full_like(target, 0.1), np.broadcast_to([0.2, 0.3], target.shape)
    nll = losses.rle(mu, sigma, target, standard_normal, log_normalizer=log_s)
    assert np.exp(-nll).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("nll", [losses.laplace_nll, losses.gaussian_nll])
def test_plain_likelihoods_are_densities_of_the_target(nll):
    target = np.linspace(-20, 20, 40_001)[:, None, None]
    value = nll(np.full_like(target, 0.3), np.full_like(target, 0.7), target)
    assert np.exp(-value).sum() * 1e-3 == pytest.approx(1, abs=1e-4)


def test_laplace_and_gaussian_by_hand():
    mu, sigma, target = jnp.array([[1.0, 2.0]]), jnp.array([[0.5, 2.0]]), jnp.array([[2.0, 1.0]])
    np.testing.assert_allclose(losses.laplace_nll(mu, sigma, target), [[2.0, math.log(4) + 0.5]], rtol=1e-6)
    expected = 0.5 * math.log(2 * math.pi) + np.log([0.5, 2.0]) + [2.0, 0.125]
    np.testing.assert_allclose(losses.gaussian_nll(mu, sigma, target), [expected], rtol=1e-6)


def test_coordinate_losses_by_hand():
    pred, target = jnp.array([[0.5, -3.0]]), jnp.zeros((1, 2))
    np.testing.assert_allclose(losses.l1(pred, target), [[0.5, 3.0]])
    np.testing.assert_allclose(losses.l2(pred, target), [[0.25, 9.0]])
    np.testing.assert_allclose(losses.smooth_l1(pred, target), [[0.125, 2.5]])
    np.testing.assert_allclose(losses.smooth_l1(pred, target, beta=0.25), [[0.375, 2.875]])
    with pytest.raises(ValueError, match=r"beta=0"):
        losses.smooth_l1(pred, target, beta=0)
    with pytest.raises(ValueError, match=r"beta=nan"):
        losses.smooth_l1(pred, target, beta=math.nan)
    traced = jax.jit(lambda beta: losses.smooth_l1(pred, target, beta=beta))(0.25)
    np.testing.assert_allclose(traced, [[0.375, 2.875]])


# Every loss as f(mu, sigma, target, where) -> elementwise.
ELEMENTWISE = {
    "laplace_nll": lambda m, s, t, w: losses.laplace_nll(m, s, t, where=w),
    "gaussian_nll": lambda m, s, t, w: losses.gaussian_nll(m, s, t, where=w),
    "l1": lambda m, s, t, w: losses.l1(m, t, where=w) + 0 * losses.l1(s, s, where=w),
    "l2": lambda m, s, t, w: losses.l2(m, t, where=w) + 0 * losses.l1(s, s, where=w),
    "smooth_l1": lambda m, s, t, w: losses.smooth_l1(m, t, where=w) + 0 * losses.l1(s, s, where=w),
} | {
    f"rle-{variant}-{base}": lambda m, s, t, w, v=variant, b=base: losses.rle(
        m, s, t, skewed, base=b, variant=v, where=w
    )
    for variant in VARIANTS
    for base in ("laplace", "gaussian", None)
}


def joints(seed, shape=(3, 4, 2)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.uniform(0.1, 1, size=shape), rng.normal(size=shape)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_masked_joints_are_not_read(name):
    """Zero value and gradient whatever they hold, and the rest as if they were not there."""
    loss = ELEMENTWISE[name]
    clean = joints(0)
    where = np.arange(12).reshape(3, 4) % 3 != 1
    dirty = [a.copy() for a in clean]
    for position, (b, k) in enumerate(np.argwhere(~where)):
        for which in range(3):
            dirty[which][b, k] = GARBAGE[(position + which) % 4]

    def total(*a):
        return losses.mean(loss(*a, where), where=where)

    value_and_grad = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    value, grads = value_and_grad(*dirty)
    expected, expected_grads = value_and_grad(*clean)
    assert float(value) == float(expected)
    for grad, other in zip(grads, expected_grads):
        assert (np.asarray(grad)[~where] == 0).all()
        np.testing.assert_array_equal(grad, other)
    assert (np.asarray(loss(*dirty, where))[~where] == 0).all()
    assert np.abs(grads[0][where]).min() > 0


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_all_masked_is_zero_with_zero_gradient(name):
    garbage = [np.full((2, 3, 2), g) for g in (np.nan, 0.0, np.inf)]
    where = np.zeros((2, 3), bool)

    def total(*a):
        return losses.mean(ELEMENTWISE[name](*a, where), where=where)

    value, grads = jax.value_and_grad(total, argnums=(0, 1, 2))(*garbage)
    assert value == 0 and all((np.asarray(g) == 0).all() for g in grads)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mask", ["where", "weight", "weight_xy"])
def test_flow_parameters_get_no_gradient_from_masked_joints(variant, mask):
    mu, sigma, target = (jnp.asarray(a) for a in joints(1))
    where = jnp.arange(12).reshape(3, 4) % 4 != 2
    full = where[..., None]
    dirty = [jnp.where(full, a, g) for a, g in zip((mu, sigma, target), (np.nan, 0.0, np.inf))]
    masks = {
        "where": {"where": where, "weight": jnp.where(where, 1.0, jnp.nan)},
        "weight": {"weight": where.astype(float)},
        "weight_xy": {"weight": jnp.broadcast_to(full, mu.shape).astype(float)},
    }[mask]

    def total(shift, mu, sigma, target):
        return losses.rle(mu, sigma, target, lambda e: skewed(e, shift), variant=variant, **masks).sum()

    found = jax.value_and_grad(total, argnums=(0, 1, 2, 3))(0.3, *dirty)
    kept = [a[where][:, None] for a in (mu, sigma, target)]
    expected = jax.value_and_grad(lambda s: losses.rle(*kept, lambda e: skewed(e, s), variant=variant).sum())(0.3)
    np.testing.assert_allclose([found[0], found[1][0]], expected, rtol=1e-5)
    for grad in found[1][1:]:
        assert (np.asarray(grad)[~np.asarray(where)] == 0).all() and np.isfinite(grad).all()


def test_official_weight_of_y_alone_does_not_read_x():
    """Official 2D masks the flow by the x-weight only: with weight (0, 1) the Q term of y is left."""
    weight = jnp.array([[0.0, 1.0]])
    mu, sigma, target = ONE
    dirty = [a.at[0, 0].set(g) for a, g in zip(ONE, (np.nan, 0.0, np.inf))]

    def total(*a):
        return losses.rle(*a, standard_normal, variant="official", weight=weight).sum()

    value, grads = jax.value_and_grad(total, argnums=(0, 1, 2))(*dirty)
    y = 0.5 * math.log(2 * math.pi) + math.log(0.04) + 0.06 / (math.sqrt(2) * 0.04)
    assert value.item() == pytest.approx(y, rel=1e-5)
    assert all(grad[0, 0] == 0 and np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("base", ["laplace", "gaussian", None])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("weight", [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0, 0.0]])
def test_a_coordinate_without_weight_lets_no_nan_through(weight, variant, base):
    """Its joint counts and the flow reads it: what is no number there is an error of 0 of scale 1, with zero gradient."""
    dim, missing = len(weight), int(np.argmin(weight))
    clean = [jnp.array([[v] * dim]) for v in (0.1, 0.5, 0.2)]
    neutral = [a.at[0, missing].set(v) for a, v in zip(clean, (0.0, 1.0, 0.0))]

    options = {"variant": variant, "base": base, "weight": jnp.array([weight])}

    def total(shift, *a):
        return losses.rle(*a, lambda e: skewed(e, shift), **options).sum()

    value_and_grad = jax.value_and_grad(total, argnums=(0, 1, 2, 3))
    expected, expected_grads = value_and_grad(0.3, *neutral)
    for which in range(3):
        for garbage in GARBAGE[: 4 if which == 1 else 3]:
            dirty = [a.at[0, missing].set(garbage) if i == which else a for i, a in enumerate(clean)]
            value, grads = value_and_grad(0.3, *dirty)
            assert value == expected
            assert all(grad[0, missing] == 0 for grad in grads[1:])
            for grad, other in zip(grads, expected_grads):
                present = np.arange(dim) != missing
                np.testing.assert_array_equal(*(np.asarray(g)[..., present] if g.ndim else g for g in (grad, other)))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_mask_of_nan_masks(name):
    arrays = joints(8)
    floats = np.ones((3, 4))
    floats[1, 2] = np.nan
    np.testing.assert_array_equal(ELEMENTWISE[name](*arrays, floats), ELEMENTWISE[name](*arrays, floats == 1))


@pytest.mark.parametrize("name", [*ELEMENTWISE, "mean"])
@pytest.mark.parametrize("number", [2, 0.5, -1.0, np.inf])
def test_a_mask_of_other_numbers_is_an_error(name, number):
    """A visibility of 2 would count as 1, a confidence of 0.5 too: whoever passes them means something else."""
    arrays, where = joints(8), np.ones((3, 4), type(number))
    where[1, 2] = number
    loss = ELEMENTWISE.get(name, lambda m, s, t, w: losses.mean(m, where=w))
    with pytest.raises(ValueError, match=rf"where is a mask .* holds {number:g}"):
        loss(*arrays, where)
    where[1, 2] = 0
    np.testing.assert_array_equal(loss(*arrays, where), loss(*arrays, where == 1))


def test_every_loss_refuses_a_mask_of_other_numbers():
    maps, twos = jnp.full((4, 3, 2), 0.1), jnp.full(2, 2)
    pixels = jnp.full((4, 3), 2)
    for call in (
        lambda: losses.heatmap_mse(maps, maps, where=twos),
        lambda: losses.heatmap_ohkm(maps, maps, top=1, where=twos),
        lambda: losses.heatmap_cross_entropy(maps, maps, where=twos),
        lambda: losses.heatmap_bce(maps, maps, key=jax.random.key(0), where=twos),
        lambda: losses.heatmap_js(maps, maps, where=twos),
        lambda: losses.weight_adaptive_mse(maps, maps, where=pixels),
        lambda: losses.scale_penalty(maps, maps, where=pixels),
        lambda: losses.associative_embedding(jnp.ones((3, 2)), where=jnp.full((3, 2), 2)),
    ):
        with pytest.raises(ValueError, match="where is a mask .* holds 2"):
            call()


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights(variant):
    arrays = [jnp.asarray(a) for a in joints(2)]
    plain = losses.rle(*arrays, skewed, variant=variant)
    weight = jnp.asarray(np.random.default_rng(0).uniform(0.2, 2, size=plain.shape))
    once = losses.rle(*arrays, skewed, variant=variant, weight=weight)
    np.testing.assert_allclose(once, weight * plain, rtol=1e-5)
    twice = losses.rle(*arrays, skewed, variant=variant, weight=jnp.stack([weight, weight], -1))
    np.testing.assert_allclose(twice, once, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_three_coordinates(variant):
    """D = 3: the released form counts log G three times a joint, the paper's once."""
    mu, sigma, target = (jnp.asarray(a) for a in joints(3, (2, 5, 3)))
    d = target - mu if variant == "paper" else mu - target
    q = {"paper": jnp.abs(d / sigma) + math.log(2)}
    q["official"] = jnp.log(sigma) + 0.5 * math.log(2 * math.pi) + jnp.abs(d) / (math.sqrt(2) * sigma)
    q["mmpose"] = jnp.log(2 * sigma) + jnp.abs(d / sigma)
    copies = 1 if variant == "paper" else 3
    expected = (jnp.log(sigma) + q[variant]).sum(-1) - copies * skewed(d / sigma)
    np.testing.assert_allclose(losses.rle(mu, sigma, target, skewed, variant=variant), expected, rtol=2e-5)


def test_per_coordinate_weights_of_the_paper_form():
    mu, sigma, target = ONE
    weight = jnp.array([[0.5, 2.0]])
    e = (target - mu) / sigma
    each = jnp.abs(e) + math.log(2) + jnp.log(sigma)
    expected = (weight * each).sum(-1) - 1.25 * standard_normal(e)
    np.testing.assert_allclose(losses.rle(*ONE, standard_normal, weight=weight), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_leading_axes_and_dtypes(name):
    arrays = joints(4, (2, 3, 4, 2))

    def loss(*a):
        return ELEMENTWISE[name](*a, None)

    single = loss(*(jnp.asarray(a, jnp.float32) for a in arrays))
    assert single.shape[:3] == (2, 3, 4) and single.dtype == jnp.float32
    first = loss(*(jnp.asarray(a[1, 2], jnp.float32) for a in arrays))
    np.testing.assert_allclose(first, single[1, 2], rtol=1e-5)
    half = [jnp.asarray(a, jnp.bfloat16) for a in arrays]
    assert loss(*half).dtype == jnp.float32
    np.testing.assert_array_equal(loss(*half), loss(*(a.astype(jnp.float32) for a in half)))
    with jax.enable_x64(True):
        mixed = loss(jnp.asarray(arrays[0]), jnp.asarray(arrays[1], jnp.float32), jnp.asarray(arrays[2]))
        assert mixed.dtype == jnp.float64


@pytest.mark.parametrize("name", ["laplace_nll", "gaussian_nll", "l1", "l2", "smooth_l1"])
def test_nothing_is_broadcast_silently(name):
    a, b = np.ones((5, 1)), np.ones((5, 2))
    function = getattr(losses, name)
    arguments = (a, b) if name.startswith(("l1", "l2", "smooth")) else (a, b, b)
    with pytest.raises(ValueError, match=r"\(5, 1\).*\(5, 2\)"):
        function(*arguments)
    with pytest.raises(ValueError, match=r"\(2,\).*\(5,\)"):
        function(*[b] * len(arguments), where=np.ones(2))


def test_rle_checks_its_arguments():
    with pytest.raises(ValueError, match=r"mu \(1, 2\).*sigma \(2,\)"):
        losses.rle(ONE[0], ONE[1][0], ONE[2], standard_normal)
    with pytest.raises(ValueError, match=r"where has shape \(1, 1\), expected \(1,\)"):
        losses.rle(*ONE, standard_normal, where=np.ones((1, 1)))
    with pytest.raises(ValueError, match=r"weight has shape \(2,\), expected \(1,\) or \(1, 2\)"):
        losses.rle(*ONE, standard_normal, weight=np.ones(2))
    with pytest.raises(ValueError, match=r"variant='oficial'.*'official'"):
        losses.rle(*ONE, standard_normal, variant="oficial")
    with pytest.raises(ValueError, match=r"base='l1'.*'laplace'"):
        losses.rle(*ONE, standard_normal, base="l1")
    with pytest.raises(ValueError, match=r"log_prob maps \(1, 2\) to \(1, 1\), expected \(1,\)"):
        losses.rle(*ONE, lambda e: standard_normal(e)[..., None])
    with pytest.raises(ValueError, match=r"log_normalizer has shape \(1,\)"):
        losses.rle(*ONE, standard_normal, log_normalizer=jnp.zeros(1))
    with pytest.raises(ValueError, match="scalar"):
        losses.l1(1.0, 2.0)


def test_mean_counts_what_it_keeps():
    values = jnp.array([[1.0, 2.0], [np.nan, 4.0]])
    entries = jnp.array([[True, False], [False, True]])
    assert losses.mean(values[0]) == 1.5
    assert losses.mean(values, where=entries) == 2.5
    assert losses.mean(values, where=jnp.array([True, False])) == 1.5
    assert losses.mean(jnp.arange(5)) == 2.0
    value, grad = jax.value_and_grad(lambda v: losses.mean(v, where=jnp.zeros((2, 2))))(values)
    assert value == 0 and (grad == 0).all()
    for shape in ((2, 1), (1, 2), (3,)):
        with pytest.raises(ValueError, match="expected"):
            losses.mean(values, where=np.ones(shape))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        losses.mean(jnp.zeros(()), where=np.ones(2))


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_the_paper_form_is_a_density_of_the_coordinate(shift, scale):
    """Moving and stretching prediction and target alike changes the loss by D log scale, nothing else."""
    mu, sigma, target = joints(7)
    plain = losses.rle(mu, sigma, target, skewed)
    moved = losses.rle(scale * mu + shift, scale * sigma, scale * target + shift, skewed)
    np.testing.assert_allclose(moved, plain + 2 * math.log(scale), rtol=2e-4, atol=2e-4)


def rescaling(r):
    """The flow that can do nothing but rescale, N(0, r^2), and its exact log s with a Laplace Q."""

    def log_g(e):
        return standard_normal(e / r) - e.shape[-1] * math.log(r)

    # The integral of exp(-|x|)/2 N(x; 0, r^2) is exp(r^2 / 2) Phi(-r).
    return log_g, -2 * math.log(math.exp(r**2 / 2) * math.erfc(r / math.sqrt(2)) / 2)


def loss_along_sigma(variant, dim=2):
    """The mean loss at sigma = 0.1 ... 100 where a flow that rescales undoes sigma: r sigma = 1 throughout."""
    mu, _, target = joints(5, (50, 1, dim))
    return [
        float(losses.rle(mu, np.full_like(mu, sigma), target, rescaling(1 / sigma)[0], variant=variant).mean())
        for sigma in (0.1, 1.0, 10.0, 100.0)
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_rescaling_flow_lets_sigma_grow(variant):
    """The head of losses/likelihood.py: without log s a larger sigma never costs anything, in the codes' forms too."""
    values = loss_along_sigma(variant)
    assert values == sorted(values, reverse=True)
    assert values[0] - values[1] > 5 and values[2] - values[3] < 0.5  # what is left of sigma is |d| / sigma
    if variant != "paper":
        deep = loss_along_sigma(variant, dim=3)
        assert deep[2] - deep[3] == pytest.approx(3 * math.log(10), abs=0.5)  # 9 log G against 6 log sigma


def test_what_holds_sigma():
    """Laplace noise of scale 1 and the best rescaling flow at each sigma: two forms have their minimum at sigma = 1."""
    noise = np.random.default_rng(0).laplace(size=(400, 1, 2))

    def best(form):
        return [
            min(float(form(np.full_like(noise, sigma), *rescaling(r)).mean()) for r in (0.02, 0.1, 0.3, 1.0, 3.0, 10.0))
            for sigma in (0.3, 1.0, 3.0, 30.0)
        ]

    zero = np.zeros_like(noise)
    without = best(lambda sigma, log_g, log_s: losses.rle(zero, sigma, noise, log_g))
    with_log_s = best(lambda sigma, log_g, log_s: losses.rle(zero, sigma, noise, log_g, log_normalizer=log_s))
    one_log_g = best(
        lambda sigma, log_g, log_s: (
            losses.rle(zero, sigma, noise, log_g, base=None) + losses.laplace_nll(zero, sigma, noise).sum(-1)
        )
    )
    assert np.argmin(without) == 3
    assert np.argmin(with_log_s) == 1 and np.argmin(one_log_g) == 1
    assert with_log_s[3] > with_log_s[1] + 0.05 and one_log_g[3] > one_log_g[1] + 4


def test_mixture_routes_by_the_z_weight():
    mu, sigma, target = (jnp.asarray(a) for a in joints(6, (1, 3, 3)))
    weight = jnp.array([[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    found = losses.rle_mixture(mu, sigma, target, skewed, lambda e: 2 * skewed(e), weight=weight)
    deep = losses.rle(mu, sigma, target, lambda e: 2 * skewed(e), variant="official")
    flat = losses.rle(mu[..., :2], sigma[..., :2], target[..., :2], skewed, variant="official")
    np.testing.assert_allclose(found, [[deep[0, 0], flat[0, 1], 0]], rtol=1e-5)


def test_mixture_does_not_read_what_has_no_weight():
    mu, sigma, target = (jnp.asarray(a) for a in joints(6, (1, 4, 3)))
    weight = jnp.array([[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    where = jnp.array([[True, True, True, False]])
    read = (weight != 0) & where[..., None]
    dirty = [jnp.where(read, a, g) for a, g in zip((mu, sigma, target), (np.nan, 0.0, np.inf))]

    def total(shift, mu, sigma, target):
        def flow(e):
            return skewed(e, shift)

        return losses.rle_mixture(mu, sigma, target, flow, flow, weight=weight, where=where).sum()

    value, grads = jax.value_and_grad(total, argnums=(0, 1, 2, 3))(0.3, *dirty)
    expected, expected_grads = jax.value_and_grad(total, argnums=(0, 1, 2, 3))(0.3, mu, sigma, target)
    assert np.isfinite(value) and value == expected
    for grad, other in zip(grads, expected_grads):
        np.testing.assert_array_equal(grad, other)
    assert all((np.asarray(g)[~np.asarray(read)] == 0).all() for g in grads[1:])


def test_mixture_wants_three_coordinates():
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        losses.rle_mixture(*ONE, skewed, skewed, weight=np.ones((1, 2)))
