"""Targets and decoders against the reference code; soft-argmax, its bias and the compensation as properties."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import geometry, heatmap
from jaxpose.skeleton import COCO17

SIZE = (64, 48)  # of the golden maps: height, width; input 192 x 256, stride 4


def channels_last(maps):
    return np.moveaxis(maps, -3, -1)


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [2, 3])
@pytest.mark.parametrize("name", ["hrnet", "mmpose_msra", "mmpose_unbiased", "mmpose_udp"])
def test_targets_match_the_reference(golden, name, sigma):
    arrays = golden("heatmap_targets")
    expected = arrays[f"{name}_sigma{sigma}_target"]
    weight = arrays[f"{name}_sigma{sigma}_weight"].reshape(5, 17)
    method = {"hrnet": "msra", "mmpose_msra": "msra", "mmpose_unbiased": "unbiased", "mmpose_udp": "udp"}[name]
    stride = np.float32([191 / 47, 255 / 63]) if method == "udp" else np.float32(4)
    xy, visible = arrays["kpts"] / stride, arrays["vis"] > 0.5
    maps = heatmap.gaussian(xy, SIZE, sigma=sigma, method=method)
    reaches = np.asarray(heatmap.reaches(xy, SIZE, sigma=sigma, method=method))
    np.testing.assert_array_equal(reaches & visible, weight > 0.5)
    drawn = np.asarray(maps) * visible[:, None, None, :]
    # Nothing is drawn where the weight is 0: a whole unbiased Gaussian has a tail in the map all the same.
    drawn = drawn * reaches[:, None, None, :]
    np.testing.assert_allclose(drawn[: len(expected)], channels_last(expected), atol=1e-5)


@pytest.mark.parametrize("method", ["msra", "unbiased", "udp", "bottom_up"])
def test_garbage_and_far_joints_give_empty_maps(method):
    xy = jnp.array([[np.nan, 3.0], [np.inf, -np.inf], [1e30, 2.0], [-500.0, 2.0], [4.0, 5.0]])
    maps = heatmap.gaussian(xy, (8, 10), sigma=2.0, method=method)
    assert np.isfinite(maps).all() and np.asarray(maps)[..., :4].max() < 1e-6
    assert np.asarray(maps)[5, 4, 4] == pytest.approx(1)
    assert heatmap.reaches(xy, (8, 10), sigma=2.0, method=method).tolist() == [False] * 4 + [True]


def test_targets_commute_with_a_mirror():
    xy = jax.random.uniform(jax.random.key(0), (3, 17, 2)) * jnp.array([47.0, 63.0])
    flip = jnp.asarray(COCO17.flip_index)
    mirrored = xy.at[..., 0].set(47 - xy[..., 0])[:, flip]
    for method in ("unbiased", "udp"):
        direct = heatmap.gaussian(mirrored, SIZE, sigma=2.0, method=method)
        np.testing.assert_allclose(
            direct, heatmap.gaussian(xy, SIZE, sigma=2.0, method=method)[..., ::-1, :][..., flip], atol=1e-5
        )


def test_a_sigma_for_every_joint():
    xy = jnp.array([[10.0, 10.0], [12.0, 14.0]])
    both = heatmap.gaussian(xy, (32, 32), sigma=jnp.array([1.5, 3.0]))
    for k, sigma in enumerate((1.5, 3.0)):
        np.testing.assert_allclose(both[..., k], heatmap.gaussian(xy, (32, 32), sigma=sigma)[..., k])


def test_one_hot_and_disc():
    xy = jnp.array([[2.4, 0.6], [-3.0, 1.0], [np.nan, 1.0]])
    assert heatmap.one_hot(xy, (4, 5)).sum((0, 1)).tolist() == [1, 0, 0]
    assert heatmap.disc(jnp.array([[8.0, 8.0]]), (17, 17), radius=5.0).sum() == 81  # Gauss's circle problem, r = 5


def test_normalized_and_softmax_are_distributions_with_finite_gradients():
    target = heatmap.gaussian(jnp.array([[3.0, 4.0], [-99.0, 4.0], [-15.0, 4.0]]), (9, 8), sigma=2.0, method="unbiased")
    found = heatmap.normalized(target)
    np.testing.assert_allclose(found.sum((0, 1)), [1, 0, 1], rtol=1e-5)  # the third is a far tail: 1e-20, all the same
    softmax = heatmap.softmax(1e4 * target.astype(jnp.bfloat16), beta=10.0)
    assert softmax.dtype == jnp.float32
    np.testing.assert_allclose(softmax.sum((0, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(heatmap.softmax(jnp.log(found[..., :1])), found[..., :1], atol=1e-7)
    for f in (heatmap.normalized, heatmap.softmax):
        gradient = jax.grad(lambda m, f=f: (f(m) ** 2).sum())(target)
        assert np.isfinite(gradient).all()


# --- decoders --------------------------------------------------------------------------------------------------------


def test_argmax_matches_hrnet(golden):
    arrays = golden("heatmap_targets")
    maps = channels_last(arrays["dec_hm"])
    xy, score = heatmap.argmax(maps, shift=0)
    np.testing.assert_array_equal(xy, arrays["hrnet_max_preds"])
    np.testing.assert_array_equal(score[..., None], arrays["hrnet_maxvals"])
    # Back into the image: the map's width is spread over 200 px times the scale around the centre.
    for post in (0, 1):
        xy, _ = heatmap.argmax(maps, shift=0.25 * post)
        width = arrays["dec_scale"][:, None, :1] * 200
        image = (np.asarray(xy) - [24, 32]) * width[..., None, 0] / 48 + arrays["dec_center"][:, None]
        np.testing.assert_allclose(image, arrays[f"hrnet_final_preds_post{post}"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["msra", "dark_k11", "dark_k17", "udp_k11"])
def test_decoders_match_mmpose(golden, name):
    arrays = golden("heatmap_targets")
    maps = arrays["dec_hm"].copy()
    if name != "msra":
        maps[3, :2] = arrays["dec_hm_fixed_sample3_ch01"]
    maps = channels_last(maps)
    decode = {
        "msra": lambda m: heatmap.argmax(m, border="mmpose"),
        "dark_k11": heatmap.dark,
        "dark_k17": lambda m: heatmap.dark(m, kernel=17),
        "udp_k11": heatmap.udp,
    }[name]
    xy, score = jax.jit(decode)(maps)
    stride = np.array([192 / 47, 256 / 63]) if name.startswith("udp") else 4.0
    np.testing.assert_allclose(score, arrays[f"mmpose_{name}_score"], rtol=1e-5)
    np.testing.assert_allclose(xy * stride, arrays[f"mmpose_{name}_decode"], rtol=1e-4, atol=5e-3)


def test_blur_matches_mmpose(golden):
    arrays = golden("heatmap_targets")
    blurred = heatmap.blur(channels_last(arrays["dec_hm"][0, :4]), kernel=11)
    np.testing.assert_allclose(blurred, channels_last(arrays["mmpose_blur_k11_sample0_ch0_3"]), atol=1e-5)


@pytest.mark.parametrize("decode", [heatmap.dark, heatmap.udp])
def test_decode_undoes_encode(decode):
    xy = jax.random.uniform(jax.random.key(1), (20, 17, 2), minval=8.0, maxval=39.0)
    found, _ = decode(heatmap.gaussian(xy, SIZE, sigma=2.0, method="unbiased"))
    assert abs(found - xy).max() < 0.05


@pytest.mark.parametrize("decode", [heatmap.argmax, heatmap.dark, heatmap.udp])
def test_maps_with_nothing_on_them_are_marked(decode):
    maps = jnp.stack([jnp.zeros((8, 8)), -jnp.ones((8, 8)), jnp.zeros((8, 8)).at[0, 7].set(1)], -1)
    xy, score = decode(maps)
    mark = 0.0 if decode is heatmap.argmax else -1.0
    assert xy[:2].tolist() == [[mark, mark]] * 2 and np.isfinite(xy).all() and score.tolist() == [0, -1, 1]


# --- soft-argmax -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1, 10, 20])
def test_soft_argmax_matches_mmpose(golden, beta):
    arrays = golden("integral")
    with jax.enable_x64(True):
        maps = jnp.asarray(channels_last(arrays["hm"]), jnp.float64)
        size, whole = (32, 24), np.array([24, 32])

        def coordinates(maps, debias):
            xy, _ = heatmap.soft_argmax(maps, beta=beta)
            if debias:  # mmpose's C leaves beta out
                log_c = jax.scipy.special.logsumexp(maps, axis=(1, 2))
                xy = heatmap.compensate_bias(xy, log_c, size, variant="mmpose")
            return xy / whole

        for debias in (0, 1):
            prefix = f"mmpose_beta{beta}_debias{debias}"
            found = coordinates(maps, debias)
            np.testing.assert_allclose(found, arrays[f"{prefix}_coords_f64"], rtol=1e-6)

            def l1(maps, debias=debias):
                return jnp.abs(coordinates(maps, debias) - arrays["l1_target_01"]).sum() / 4

            value, gradient = jax.value_and_grad(l1)(maps)
            np.testing.assert_allclose(value, arrays[f"{prefix}_l1_f64"], rtol=1e-6)
            if arrays.full or f"{prefix}_dhm" in arrays:
                expected = channels_last(arrays[f"{prefix}_dhm"])
                np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max() + 1e-9, rtol=1e-5)


@pytest.mark.parametrize("beta", [1, 10, 20])
def test_the_exact_compensation_matches_the_analytic_form(golden, beta):
    """Both of ours against the plain NumPy of the golden file, which is clear of the guard at these maps' bumps."""
    arrays = golden("integral")
    with jax.enable_x64(True):
        maps = jnp.asarray(channels_last(arrays["hm"]), jnp.float64)
        plain, log_z = heatmap.soft_argmax(maps, beta=beta)
        np.testing.assert_allclose(plain / np.array([24, 32]), arrays[f"analytic_beta{beta}_plain"], rtol=1e-9)
        np.testing.assert_allclose(jnp.exp(log_z), arrays[f"analytic_beta{beta}_C"], rtol=1e-9)
        expected = arrays[f"analytic_beta{beta}_debias_hw"] * np.array([24, 32])
        direct, _ = heatmap.soft_argmax(maps, beta=beta, compensate=True)
        for found in (heatmap.compensate_bias(plain, log_z, (32, 24)), direct):
            np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-6)  # the two samples that are bumps
            outside = ((expected < 0) | (expected > [23, 31])).any(-1)
            np.testing.assert_allclose(found[~outside], expected[~outside], rtol=1e-6)


@pytest.mark.parametrize("kind", ["l1", "l2"])
@pytest.mark.parametrize("volume", ["vol3d", "vol2d"])
def test_volumes_match_the_integral_code(golden, volume, kind):
    arrays = golden("integral")
    with jax.enable_x64(True):
        logits = jnp.asarray(arrays[f"{volume}_logits"], jnp.float64)  # channel = joint * depth + d
        depth = logits.shape[1] // 4
        size = np.array([10, 12, depth])
        target, visible = (arrays[f"{volume}_{n}"].astype(np.float64).reshape(2, 4, 3) for n in ("target", "vis"))

        def coordinates(logits):
            maps = jnp.moveaxis(logits.reshape(2, 4, depth, 12, 10), 1, -1)
            return heatmap.soft_argmax(maps, ndim=3)[0] / size - 0.5

        def loss(logits):
            d = coordinates(logits) - target
            return ((jnp.abs(d) if kind == "l1" else jnp.square(d)) * visible).sum() / 2

        np.testing.assert_allclose(coordinates(logits).reshape(2, 12), arrays[f"{volume}_coords_f64"], rtol=1e-6)
        value, gradient = jax.value_and_grad(loss)(logits)
        np.testing.assert_allclose(value, arrays[f"{volume}_{kind}_loss_f64"], rtol=1e-6)
        expected = arrays[f"{volume}_{kind}_dlogits_f64"]
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-12)


def expm1_mean(maps, beta):
    """The definition, in NumPy: (h, w, K) -> (K, 2)."""
    weights = np.expm1(beta * np.asarray(maps, np.float64))
    weights = weights / weights.sum((0, 1))
    y, x = np.mgrid[: maps.shape[0], : maps.shape[1]]
    return np.stack([(weights * x[..., None]).sum((0, 1)), (weights * y[..., None]).sum((0, 1))], -1)


@pytest.mark.parametrize("beta", [1, 3, 10, 25, 50])
@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_compensation_is_exact_for_a_bump_on_an_empty_background(beta, sigma):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        margin = np.ceil(5 * sigma)
        whole = np.round(rng.uniform(margin, np.array([47, 63]) - margin, (20, 2)))
        for centers in (whole, whole + rng.uniform(-0.5, 0.5, whole.shape)):
            on_grid = centers is whole
            if not on_grid and sigma / np.sqrt(beta) < 0.65:
                continue  # narrower than the grid resolves
            maps = heatmap.gaussian(centers, SIZE, sigma=sigma, method="unbiased")
            plain, log_z = heatmap.soft_argmax(maps, beta=beta)
            direct, _ = heatmap.soft_argmax(maps, beta=beta, compensate=True)
            from_pair = heatmap.compensate_bias(plain, log_z, SIZE)
            for found in (direct, from_pair):
                assert np.abs(found - expm1_mean(maps, beta)).max() < 1e-9
                if (np.abs(centers - np.clip(centers, 5 * sigma, np.array([47, 63]) - 5 * sigma)) == 0).all():
                    assert np.abs(found - centers).max() < 1e-3


def test_compensation_in_volumes():
    with jax.enable_x64(True):
        z, y, x = np.mgrid[:24, :26, :28]
        bump = np.exp(-((x - 11) ** 2 + (y - 13) ** 2 + (z - 9) ** 2) / 2 / 1.5**2)[..., None]
        for beta in (1.0, 10.0):
            found, log_z = heatmap.soft_argmax(bump, beta=beta, ndim=3, compensate=True)
            np.testing.assert_allclose(found[0], [11, 13, 9], atol=1e-3)
            plain, _ = heatmap.soft_argmax(bump, beta=beta, ndim=3)
            np.testing.assert_allclose(heatmap.compensate_bias(plain, log_z, (24, 26, 28))[0], [11, 13, 9], atol=1e-3)


def test_the_well_conditioned_form_keeps_float32s_digits():
    """At beta 0.01 the bump holds 1e-4 of the softmax: from the pair in float32 it is lost, the direct form has it."""
    center = np.array([[10.0, 20.0]])
    bump = heatmap.gaussian(center, (64, 64), sigma=2.0)
    with jax.enable_x64(True):
        exact = expm1_mean(bump, 0.05)
    direct, log_z = heatmap.soft_argmax(bump, beta=0.05, compensate=True)
    pair = heatmap.compensate_bias(heatmap.soft_argmax(bump, beta=0.05)[0], log_z, (64, 64))
    assert np.abs(direct - exact).max() < 2e-3 < np.abs(pair - exact).max()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("compensate", [False, True])
def test_large_logits(dtype, compensate):
    maps = (1e4 * heatmap.gaussian(jnp.array([[10.0, 20.0]]), (64, 64), sigma=2.0)).astype(dtype)
    xy, log_z = heatmap.soft_argmax(maps, beta=10.0, compensate=compensate)
    assert xy.dtype == jnp.float32
    np.testing.assert_allclose(xy, [[10, 20]], atol=1e-3)
    np.testing.assert_allclose(log_z, [1e5], rtol=1e-2)


@pytest.mark.parametrize("level", [0.0, 1e-7, -1e-7, 0.3, -0.3, -50.0, 80.0])
@pytest.mark.parametrize("beta", [1.0, 10.0, 20.0])
@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_flat_and_negative_maps_give_points_of_the_map_and_finite_gradients(level, beta, noise):
    maps = level + noise * jax.random.normal(jax.random.key(2), (16, 12, 5))
    target = jnp.array([3.0, 4.0])

    def loss(maps):
        xy, log_z = heatmap.soft_argmax(maps, beta=beta, compensate=True)
        pair = heatmap.compensate_bias(*heatmap.soft_argmax(maps, beta=beta), (16, 12))
        return jnp.abs(xy - target).sum() + jnp.abs(pair - target).sum(), (xy, pair)

    (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(maps)
    assert np.isfinite(gradient).all()
    for xy in found:
        assert (xy >= 0).all() and (xy <= jnp.array([11.0, 15.0]) + 1e-5).all()
        if noise == 0:
            np.testing.assert_allclose(xy, [[5.5, 7.5]] * 5, atol=0.05 if abs(level) > 1e-3 else 2)


def test_a_flat_map_is_left_by_gradient_descent():
    """The map from which the formula is singular: descent on the distance to a joint ends there."""
    target = jnp.array([[3.0, 4.0]])

    def loss(maps):
        return jnp.abs(heatmap.soft_argmax(maps, beta=10.0, compensate=True, floor=1e-2)[0] - target).sum()

    maps = jnp.zeros((16, 12, 1))
    step = jax.jit(lambda m, rate: m - rate * jnp.sign(jax.grad(loss)(m)))
    for i in range(300):
        maps = step(maps, 3e-3 * (1 - i / 300))
    assert loss(maps) < 0.2


def test_soft_argmax_decodes_its_log_target():
    xy = jax.random.uniform(jax.random.key(1), (5, 17, 2), minval=10.0, maxval=37.0)
    target = heatmap.gaussian(xy, SIZE, sigma=2.0, method="unbiased")
    found, _ = heatmap.soft_argmax(jnp.log(jnp.maximum(target, 1e-30)))
    assert abs(found - xy).max() < 0.05


@pytest.mark.parametrize("compensate", [False, True])
def test_soft_argmax_commutes_with_a_mirror(compensate):
    maps = jax.random.normal(jax.random.key(3), (2, 16, 12, 17))
    xy, _ = heatmap.soft_argmax(maps, beta=2.0, compensate=compensate)
    mirrored, _ = heatmap.soft_argmax(maps[:, :, ::-1], beta=2.0, compensate=compensate)
    np.testing.assert_allclose(mirrored[..., 0], 11 - xy[..., 0], atol=1e-3)
    np.testing.assert_allclose(mirrored[..., 1], xy[..., 1], atol=1e-3)


def test_flip_of_maps_is_the_flip_of_joints(golden):
    arrays = golden("heatmap_targets")
    flipped = channels_last(arrays["flip_in"])[..., ::-1, :][..., np.asarray(COCO17.flip_index)]
    np.testing.assert_array_equal(flipped, channels_last(arrays["flip_out"]))
    xy, score = heatmap.argmax(channels_last(arrays["flip_in"]), shift=0)
    there, _ = heatmap.argmax(flipped, shift=0)
    back, _ = geometry.flip_joints(there, score > 0, width=6, flip_index=COCO17.flip_index)
    single = (score > 0) & (np.sort(arrays["flip_in"].reshape(2, 17, -1))[..., -2] < score)
    np.testing.assert_array_equal(np.asarray(back)[single], np.asarray(xy)[single])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heatmap.gaussian(jnp.zeros((17, 3)), SIZE, sigma=2.0), r"xy has shape \(17, 3\)"),
        (lambda: heatmap.gaussian(jnp.zeros((17, 2)), (0, 4), sigma=2.0), r"size_hw=\(0, 4\)"),
        (lambda: heatmap.gaussian(jnp.zeros((17, 2)), SIZE, sigma=2.0, method="dark"), "method='dark'"),
        (lambda: heatmap.argmax(jnp.zeros((4, 4))), r"maps has shape \(4, 4\)"),
        (lambda: heatmap.argmax(jnp.zeros((4, 4, 1)), border="udp"), "border='udp'"),
        (lambda: heatmap.blur(jnp.zeros((4, 4, 1)), kernel=4), "kernel=4"),
        (lambda: heatmap.normalized(jnp.zeros((4, 4))), r"maps has shape \(4, 4\)"),
        (lambda: heatmap.softmax(jnp.zeros((4, 4, 1)), beta=-1.0), "beta=-1.0"),
        (lambda: heatmap.softmax(jnp.zeros((4, 4))), r"logits has shape \(4, 4\)"),
        (lambda: heatmap.soft_argmax(jnp.zeros((4, 4, 1)), ndim=3), r"logits has shape \(4, 4, 1\)"),
        (lambda: heatmap.soft_argmax(jnp.zeros((4, 4, 1)), beta=0.0), "beta=0.0"),
        (lambda: heatmap.soft_argmax(jnp.zeros((4, 4, 1)), floor=0.0), "floor=0.0"),
        (lambda: heatmap.compensate_bias(jnp.zeros((3, 2)), jnp.zeros(4), (4, 4)), r"xy \(3, 2\), log_z \(4,\)"),
        (lambda: heatmap.compensate_bias(jnp.zeros((3, 2)), jnp.zeros(3), (4, 4), variant="gu"), "variant='gu'"),
    ],
)
def test_errors_name_what_was_given(call, message):
    with pytest.raises(ValueError, match=message):
        call()
