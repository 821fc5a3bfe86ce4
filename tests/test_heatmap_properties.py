"""Where the compensation of soft-argmax is exact and where it ends; round trips, mirrors, extreme inputs.

tests/test_heatmap.py holds the definitions and the reference numbers; here are bounds that were measured in float64.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import heatmap, losses

SIZE = (64, 48)
LAST = np.array([47, 63])
# One compilation each for the whole file: their maps are all (64, 48, 64) in float64.
dark, udp = jax.jit(heatmap.dark), jax.jit(heatmap.udp)


def channels_last(maps):
    return np.moveaxis(maps, -3, -1)


def both_compensations(maps, beta, **options):
    """Straight from the maps, and from what the plain soft-argmax returned."""
    ndim = options.get("ndim", 2)
    direct, _ = heatmap.soft_argmax(maps, beta=beta, compensate=True, **options)
    pair = heatmap.soft_argmax(maps, beta=beta, ndim=ndim)
    return direct, heatmap.compensate_bias(*pair, maps.shape[-ndim - 1 : -1])


def expm1_mean(maps, beta):
    """The definition, in NumPy: ([d,] h, w, K) -> (K, D), in the order x, y[, z], kept inside the map."""
    weights = np.expm1(beta * np.asarray(maps, np.float64))
    weights = weights / weights.sum(tuple(range(weights.ndim - 1)))
    grid = np.indices(weights.shape[:-1])[::-1]
    mean = np.stack([(weights * p[..., None]).sum(tuple(range(p.ndim))) for p in grid], -1)
    return np.clip(mean, 0, np.array(weights.shape[-2::-1]) - 1)


def share(maps, beta):
    """1 - N / Z."""
    return 1 - 1 / np.exp(beta * np.asarray(maps, np.float64)).mean(tuple(range(np.ndim(maps) - 1)))


# --- where the compensation is exact ---------------------------------------------------------------------------------


def bumps(width, *, sigma, amplitude, centers):
    """Bumps whose weight expm1(beta H) has, to second order at its peak, the standard deviation `width`; and beta."""
    maps = amplitude * heatmap.gaussian(centers, SIZE, sigma=sigma, method="unbiased")
    return maps, (sigma / width) ** 2 / amplitude


def inner_points(sigma, *, on_grid):
    xy = np.random.default_rng(0).uniform(np.ceil(5 * sigma), LAST - np.ceil(5 * sigma), (64, 2))
    return np.round(xy) if on_grid else xy


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_at_a_pixel_the_compensation_is_exact_at_every_beta(sigma):
    with jax.enable_x64(True):
        centers = inner_points(sigma, on_grid=True)
        maps = heatmap.gaussian(centers, SIZE, sigma=sigma, method="unbiased")
        for beta in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0):
            for amplitude in (1.0, 0.1, 10.0):
                for found in both_compensations(amplitude * maps, beta):
                    assert np.abs(found - centers).max() < 1e-5


@pytest.mark.parametrize("amplitude", [1.0, 0.2])
@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_between_pixels_the_error_is_that_of_the_grid(sigma, amplitude):
    """It grows as the weight gets narrower than a pixel: beta 10 on a bump of sigma 2 has width 0.63."""
    bounds = {0.9: 1e-3, 0.8: 2e-3, 0.65: 5e-3, 0.6: 8e-3, 0.5: 0.025, 0.4: 0.09, 0.3: 0.21}
    with jax.enable_x64(True):
        centers = inner_points(sigma, on_grid=False)
        errors = []
        for width, bound in bounds.items():
            maps, beta = bumps(width, sigma=sigma, amplitude=amplitude, centers=centers)
            direct, from_pair = both_compensations(maps, beta)
            np.testing.assert_allclose(direct, from_pair, rtol=0, atol=1e-9)
            errors.append(np.abs(direct - centers).max())
            assert errors[-1] < bound, (width, errors[-1])
        assert errors == sorted(errors) and errors[-1] > 0.1


def test_towards_the_border_the_bump_is_cut():
    """Pixels are missing on one side; the narrower the weight (larger beta), the less it matters."""
    bounds = {  # distance in sigmas: pixels of error at beta 1, 3, 10
        2: (0.09, 0.05, 6e-4),
        3: (6e-3, 3e-3, 4e-5),
        4: (2e-4, 8e-5, 1e-6),
        5: (2e-6, 1e-6, 1e-8),
    }
    with jax.enable_x64(True):
        for distance, allowed in bounds.items():
            centers = np.array([[2.0 * distance, 31], [47 - 2.0 * distance, 31], [23, 2.0 * distance]])
            centers = np.resize(centers, (64, 2))  # the shape that is compiled already
            maps = heatmap.gaussian(centers, SIZE, sigma=2.0, method="unbiased")
            for beta, bound in zip((1.0, 3.0, 10.0), allowed, strict=True):
                for found in both_compensations(maps, beta):
                    error = np.abs(found - centers).max()
                    assert bound / 20 < error < bound, (distance, beta, error)


@pytest.mark.parametrize("shape", [(20, 14), (6, 9, 7)])
def test_on_any_map_the_compensation_is_the_mean_under_expm1(shape):
    """Noise, several bumps, noise below the background beside a bump; between the borders and held by them."""
    rng = np.random.default_rng(1)
    grid = np.indices(shape)[..., None]

    def bump(sigma, amplitude):
        center = rng.uniform(0, np.array(shape)[:, None] - 1, (len(shape), 40)).reshape(-1, *[1] * len(shape), 40)
        return amplitude * np.exp(-((grid - center) ** 2).sum(0) / 2 / sigma**2)

    noise = rng.normal(size=(*shape, 40))
    cases = [noise, np.abs(noise), bump(1.5, 1.0) + bump(1.0, 0.7) + bump(2.5, 0.4), bump(1.5, 2.0) + 0.05 * noise]
    maps = np.concatenate([*cases, bump(2.0, 3.0) - 0.01], -1)
    with jax.enable_x64(True):
        tested = 0
        for beta in (0.3, 1.0, 7.0, 50.0):
            enough = share(maps, beta) > 1.1 * heatmap.FLOOR
            tested += enough.sum()
            expected = expm1_mean(maps[..., enough], beta)
            for found in both_compensations(jnp.asarray(maps[..., enough]), beta, ndim=len(shape)):
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
        assert tested > 600


# --- round trips and mirrors -----------------------------------------------------------------------------------------


def test_decode_undoes_encode():
    """Each decoder on its own target."""
    with jax.enable_x64(True):
        xy = inner_points(2.0, on_grid=False)
        maps = {m: heatmap.gaussian(xy, SIZE, sigma=2.0, method=m) for m in ("msra", "unbiased", "udp")}
        assert np.abs(dark(maps["unbiased"])[0] - xy).max() < 2e-3
        assert np.abs(udp(maps["udp"])[0] - xy).max() < 2e-3
        np.testing.assert_array_equal(heatmap.argmax(maps["msra"], shift=0)[0], np.floor(xy + 0.5))
        assert np.abs(heatmap.argmax(maps["unbiased"])[0] - xy).max() <= 0.25
        log = jnp.log(jnp.maximum(maps["unbiased"], 1e-300))
        assert np.abs(heatmap.soft_argmax(log)[0] - xy).max() < 1e-4


MIRRORS = {"x": (slice(None), slice(None, None, -1)), "y": (slice(None, None, -1),), "xy": (slice(None, None, -1),) * 2}


def mirrored(xy, axis):
    return np.where([c in axis for c in "xy"], LAST - np.asarray(xy), xy)


@pytest.mark.parametrize("axis", MIRRORS)
def test_flips_commute(axis):
    with jax.enable_x64(True):
        xy = np.random.default_rng(3).uniform(0, LAST, (64, 2))
        for method in ("msra", "unbiased", "udp"):
            maps = heatmap.gaussian(xy, SIZE, sigma=2.0, method=method)
            there = heatmap.gaussian(mirrored(xy, axis), SIZE, sigma=2.0, method=method)
            np.testing.assert_allclose(there, maps[MIRRORS[axis]], atol=1e-12)
        noise = jnp.asarray(np.random.default_rng(4).uniform(size=(*SIZE, 64)))
        clean = heatmap.gaussian(xy, SIZE, sigma=2.0, method="unbiased")
        decoders = {
            "dark": (dark, noise + 4 * clean),
            # Its mixed derivative is read off one diagonal: on maps that are no Gaussian only the half turn commutes.
            "udp": (udp, noise + 4 * clean if axis == "xy" else clean),
            "plain": (lambda m: heatmap.soft_argmax(m, beta=3.0), noise),
            "compensated": (lambda m: heatmap.soft_argmax(m, beta=3.0, compensate=True), noise),
            "from the pair": (lambda m: (both_compensations(m, 3.0)[1],), noise),
        }
        for name, (decode, maps) in decoders.items():
            # A blurred bump cut by the border is no Gaussian any more.
            keep = ((xy > 14) & (xy < LAST - 14)).all(-1) if name == "udp" and axis != "xy" else slice(None)
            found, there = decode(maps)[0], decode(maps[MIRRORS[axis]])[0]
            np.testing.assert_allclose(there[keep], mirrored(found, axis)[keep], atol=1e-6, err_msg=name)


# --- extreme inputs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_maps_are_decoded_as_well_as_they_hold(dtype):
    """All that is lost is lost by the rounding of the maps: the arithmetic is float32's."""
    xy = inner_points(2.0, on_grid=False)
    exact = heatmap.gaussian(xy, SIZE, sigma=2.0, method="unbiased")
    for height in (1.0, 1e4):
        maps = (height * exact).astype(dtype)
        pair = {"plain": heatmap.soft_argmax(maps, beta=3.0), "compensated": both_compensations(maps, 3.0)}
        with jax.enable_x64(True):
            wide = jnp.asarray(np.asarray(maps, np.float64))
            plain, log_z = heatmap.soft_argmax(wide, beta=3.0)
            compensated = heatmap.soft_argmax(wide, beta=3.0, compensate=True)[0]
        np.testing.assert_allclose(pair["plain"][0], plain, atol=1e-3)
        np.testing.assert_allclose(pair["plain"][1], log_z, rtol=1e-5)
        for found in pair["compensated"]:
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, compensated, atol=2e-3)
        # Of a height of 1e4 the exponential leaves the highest pixel alone: half a pixel from the joint.
        error = np.abs(pair["compensated"][0] - xy).max()
        assert error < (5e-3 if height == 1 else 0.51)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_losses_of_huge_logits_and_of_half_precision_are_finite(dtype):
    target = heatmap.one_hot(np.array([[3.0, 4.0], [90.0, 4.0], [0.0, 0.0]]), (8, 6))
    logits = jnp.asarray(1e4 * np.random.default_rng(8).normal(size=target.shape), dtype)

    @jax.jit
    @jax.value_and_grad
    def loss(logits):
        total = losses.heatmap_cross_entropy(logits, target).sum()
        total += losses.heatmap_bce(logits, target, key=jax.random.key(1)).sum()
        prob, goal = heatmap.softmax(logits), heatmap.normalized(target)
        return total + losses.heatmap_kl(prob, goal).sum() + losses.heatmap_js(prob, goal).sum()

    value, gradient = loss(logits)
    assert np.isfinite(value) and value > 0 and np.isfinite(gradient.astype(jnp.float32)).all()
    assert gradient.dtype == dtype


EXTREME = {  # and where the compensated point is: at c, the centre, or somewhere on the map
    "flat": (np.zeros((9, 7)), "c"),
    "equal, above the background": (np.full((9, 7), 0.3), "c"),
    "equal, far above": (np.full((9, 7), 1e4), "c"),
    "equal, below": (np.full((9, 7), -0.3), "c"),
    "equal, far below": (np.full((9, 7), -1e4), "c"),
    "negative": (-np.random.default_rng(5).uniform(0.1, 2, (9, 7)), "on the map"),
    "far negative": (-1e4 * np.random.default_rng(6).uniform(0.1, 2, (9, 7)), "on the map"),
    "one pixel up": (np.where(np.arange(63) == 30, 1e4, 0.0).reshape(9, 7), [2, 4]),
    "one pixel down": (np.where(np.arange(63) == 30, -1e4, 0.0).reshape(9, 7), "on the map"),
}


def test_extreme_maps_give_the_documented_point_and_finite_gradients():
    """The same eager, under jit and under vmap."""
    maps = jnp.asarray(np.stack([m for m, _ in EXTREME.values()], -1), jnp.float32)

    def loss(maps):
        direct, from_pair = both_compensations(maps, 10.0)
        return ((direct - 1.0) ** 2 + (from_pair - 2.0) ** 2).sum(), jnp.stack([direct, from_pair])

    both = jax.value_and_grad(loss, has_aux=True)
    found = loss(maps)[1]
    (_, jitted), gradient = jax.jit(both)(maps)
    (_, mapped), mapped_gradient = jax.jit(jax.vmap(both))(jnp.moveaxis(maps, -1, 0)[..., None])
    for other in (jitted, mapped[:, :, 0].swapaxes(0, 1)):
        np.testing.assert_allclose(other, found, atol=0.02)  # see the guard below
    assert np.isfinite(gradient).all() and np.isfinite(mapped_gradient).all()
    for k, (name, (_, where)) in enumerate(EXTREME.items()):
        for xy in found[:, k]:
            assert (xy >= 0).all() and (xy <= np.array([6, 8])).all(), name
            if where != "on the map":
                # The guard multiplies float32's last digit of the mean by up to 1 / floor.
                np.testing.assert_allclose(xy, [3, 4] if where == "c" else where, atol=0.02, err_msg=name)


def test_a_map_of_one_pixel():
    maps = jnp.array([[[0.0, 2.0, -2.0, 1e4]]])

    @jax.jit
    def everything(maps):
        soft = jnp.stack([heatmap.soft_argmax(maps)[0], *both_compensations(maps, 1.0), heatmap.argmax(maps)[0]])
        return soft, jnp.stack([heatmap.dark(maps)[0], heatmap.udp(maps)[0]])

    soft, newton = everything(maps)
    np.testing.assert_array_equal(soft, 0)
    np.testing.assert_array_equal(newton, [[[-1, -1], [0, 0], [-1, -1], [0, 0]]] * 2)
    np.testing.assert_array_equal(jax.grad(lambda m: everything(m)[0].sum())(maps), 0)


def test_float32_on_a_bump_of_a_thousandth():
    """1 - r is 4e-4: the quotient of the plain pair has lost half of float32's digits, the direct form none."""
    centers, beta = inner_points(2.0, on_grid=False), 50.0
    maps = np.asarray(1e-3 * heatmap.gaussian(centers, SIZE, sigma=2.0, method="unbiased"))
    assert 1e-4 < share(maps, beta).min() < share(maps, beta).max() < 5e-4
    exact = expm1_mean(maps, beta)
    direct, from_pair = both_compensations(jnp.asarray(maps), beta)
    assert np.abs(direct - exact).max() < 5e-5 < 2e-3 < np.abs(from_pair - exact).max()
    # A lower floor lets it go on down to where the difference of two exponentials has no digits either.
    faint, _ = heatmap.soft_argmax(1e-3 * maps, beta=beta, compensate=True, floor=1e-9)
    assert np.abs(faint - expm1_mean(1e-3 * maps, beta)).max() < 5e-5


# --- golden arrays that test_heatmap.py does not read ----------------------------------------------------------------


def test_the_golden_bumps_are_ours_and_the_compensation_finds_their_centres(golden):
    arrays = golden("integral")
    with jax.enable_x64(True):
        centers = np.stack([arrays["bump_cx"], arrays["bump_cy"]], -1)
        np.testing.assert_allclose(arrays["analytic_true_centre_01"] * [24, 32], centers)
        maps = heatmap.gaussian(centers, (32, 24), sigma=float(arrays["bump_sigma"]), method="unbiased")
        for sample, amplitude in enumerate((1.0, 10.0)):
            np.testing.assert_allclose(amplitude * maps, channels_last(arrays["hm"])[sample], atol=1e-6)
        maps = jnp.asarray(channels_last(arrays["hm"]), jnp.float64)
        for beta, bound in ((1.0, 0.04), (10.0, 0.03)):
            for found in both_compensations(maps, beta):
                assert np.abs(found[0] - centers).max() < bound
            plain, _ = heatmap.soft_argmax(maps, beta=beta)
            assert np.abs(plain[0] - centers).max() > 4 * bound


@pytest.mark.parametrize("debias", [0, 1])
def test_soft_argmax_matches_mmpose_in_float32(golden, debias):
    arrays = golden("integral")
    maps = jnp.asarray(channels_last(arrays["hm"]))
    log_c = jax.scipy.special.logsumexp(maps, axis=(1, 2))  # mmpose's C leaves beta out
    for beta in (1, 10, 20):
        xy, _ = heatmap.soft_argmax(maps, beta=beta)
        if debias:
            xy = heatmap.compensate_bias(xy, log_c, (32, 24), variant="mmpose")
        expected = arrays[f"mmpose_beta{beta}_debias{debias}_coords_f32"]
        np.testing.assert_allclose(xy / np.array([24, 32]), expected, rtol=1e-4)


@pytest.mark.parametrize("volume", ["vol3d", "vol2d"])
def test_volumes_match_the_integral_code_in_float32(golden, volume):
    arrays = golden("integral")
    logits = jnp.asarray(arrays[f"{volume}_logits"])
    depth = logits.shape[1] // 4
    target, visible = (arrays[f"{volume}_{n}"].reshape(2, 4, 3) for n in ("target", "vis"))

    def coordinates(logits):
        maps = jnp.moveaxis(logits.reshape(2, 4, depth, 12, 10), 1, -1)
        return heatmap.soft_argmax(maps, ndim=3)[0] / np.float32([10, 12, depth]) - 0.5

    def loss(logits, kind):
        d = coordinates(logits) - target
        return ((jnp.abs(d) if kind == "l1" else jnp.square(d)) * visible).sum() / 2

    np.testing.assert_allclose(coordinates(logits).reshape(2, 12), arrays[f"{volume}_coords_f32"], rtol=1e-4)
    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    for kind in ("l1", "l2"):
        value, gradient = both(logits, kind)
        np.testing.assert_allclose(value, arrays[f"{volume}_{kind}_loss_f32"], rtol=1e-4)
        if arrays.full or f"{volume}_{kind}_dlogits_f32" in arrays:
            expected = arrays[f"{volume}_{kind}_dlogits_f32"]
            np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_volume_decoded_to_the_patch(golden):
    """Depth is in units of the patch's width, and 0 in the middle of the volume."""
    arrays = golden("integral")
    with jax.enable_x64(True):
        logits = jnp.asarray(arrays["vol_cube_logits"], jnp.float64).reshape(2, 4, 8, 8, 8)
        xyz, _ = heatmap.soft_argmax(jnp.moveaxis(logits, 1, -1), ndim=3)
        found = xyz / 8 * np.array([192, 256, 192]) - np.array([0, 0, 96])
        np.testing.assert_allclose(found, arrays["vol_cube_result_pw192_ph256"][..., :3], rtol=1e-5, atol=1e-5)


def test_labels_are_what_the_volume_decodes_to(golden):
    """A volume with the mean at a joint of the patch gives the label that the integral code makes of that joint."""
    arrays = golden("integral")
    size = np.array([4, 4, 128])  # x, y, z: the deepest of these joints is in the last hundredth
    with jax.enable_x64(True):
        at = (arrays["label_in_joints"] / np.array([192, 256, 192]) + np.array([0, 0, 0.5])) * size
        x, y, z = (np.maximum(1 - np.abs(np.arange(n) - c[:, None]), 0) for n, c in zip(size, at.T, strict=True))
        weights = np.einsum("kz,ky,kx->zyxk", z, y, x)
        xyz, _ = heatmap.soft_argmax(jnp.log(jnp.maximum(weights, 1e-30)), ndim=3)
        np.testing.assert_allclose((xyz / size - 0.5).reshape(-1), arrays["label_out_joints"], rtol=1e-6)


@pytest.mark.parametrize("name", ["dark_k11", "udp_k11"])
def test_our_maps_of_the_true_centres_decode_as_mmposes(golden, name):
    arrays = golden("heatmap_targets")
    centers = np.stack([arrays["dec_true_cx"][0], arrays["dec_true_cy"][0]], -1)
    decode, stride = {"dark_k11": (dark, 4.0), "udp_k11": (udp, np.array([192 / 47, 256 / 63]))}[name]
    with jax.enable_x64(True):  # the heights of mmpose's maps are its scores
        maps = heatmap.gaussian(np.resize(centers, (64, 2)), SIZE, sigma=2.0, method="unbiased")
        peak = maps.max((0, 1))
        xy = decode(np.resize(arrays[f"mmpose_{name}_score"][0], 64) / peak * maps)[0][:17]
        xy = np.asarray(xy)
    np.testing.assert_allclose(xy * stride, arrays[f"mmpose_{name}_decode"][0], rtol=1e-4, atol=5e-3)
    inner = ((centers > 8) & (centers < LAST - 8)).all(-1)
    assert inner.sum() >= 4 and np.abs(xy - centers)[inner].max() < 0.05
