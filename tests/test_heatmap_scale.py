"""Targets of several people and of adaptive scale, and the losses that go with them, against SWAHR's numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import geometry, heatmap, losses
from tests.test_losses_embedding import from_nodes


def channels_last(maps):
    return np.moveaxis(maps, -3, -1)


def channels_first(maps):
    return np.moveaxis(np.asarray(maps), -1, -3)


# --- several people --------------------------------------------------------------------------------------------------

TARGETS = {  # name -> (joints, size, sigma or None for column 3, factor of the coordinates)
    "tgt_sigma2": ("tgt_joints", 64, 2.0, 1),
    "tgt_sigma_default": ("tgt_joints", 64, 1.0, 1),
    "tgt_sigma2_res128": ("tgt_joints", 128, 2.0, 2),
    "tgt_scale_aware": ("tgt_joints", 64, None, 1),
    "tgt_scale_aware_frac": ("tgt_joints_frac", 64, None, 1),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_of_people_match_the_reference(golden, name):
    arrays = golden("swahr")
    joints, size, sigma, factor = TARGETS[name]
    joints = arrays[joints]
    with jax.enable_x64(True):
        maps = heatmap.people(
            joints[..., :2] * factor, joints[..., 2], (size, size), sigma=joints[..., 3] if sigma is None else sigma
        )
    expected = channels_last(arrays[name])
    np.testing.assert_allclose(maps[..., : expected.shape[-1]], expected, atol=1e-6)


def test_which_joints_are_read(golden):
    arrays = golden("swahr")
    joints = arrays["tgt_joints"]
    for name, per_joint in {"tgt_joint_nodes_tpj1": True, "tgt_joint_nodes_tpj0": False}.items():
        nodes = arrays[name]
        _, where = heatmap.read(np.zeros((64, 64, 17)), joints[..., :2], joints[..., 2])
        pixel = np.trunc(joints[..., :2]).astype(int)
        index = pixel[..., 1] * 64 + pixel[..., 0] + (np.arange(17) * 64**2 if per_joint else 0)
        for person, kept in enumerate(np.asarray(where)):
            packed = nodes[person][nodes[person][:, 1] > 0, 0]
            np.testing.assert_array_equal(packed, index[person][kept])
    xy, visible = from_nodes(arrays["multi_nodes0"], 32)
    values, where = heatmap.read(channels_last(arrays["multi_out0"])[..., 28:], xy, visible)
    assert where.shape == values.shape == (2, 30, 14)


def test_people_are_a_maximum_in_any_order():
    rng = np.random.default_rng(0)
    xy = rng.uniform(-3, 22, (2, 5, 3, 2)).astype(np.float32)
    visible, sigma = rng.random((2, 5, 3)) < 0.7, rng.uniform(1, 3, (2, 5, 3)).astype(np.float32)
    draw = jax.jit(lambda xy, visible, sigma: heatmap.people(xy, visible, (16, 20), sigma=sigma))
    maps = np.asarray(draw(xy, visible, sigma))
    np.testing.assert_allclose(draw(xy[:, ::-1], visible[:, ::-1], sigma[:, ::-1]), maps, atol=1e-7)
    np.testing.assert_allclose(heatmap.people(xy, visible, (16, 20), sigma=sigma), maps, atol=1e-6)
    inside = visible & ((xy > -1) & (xy < [20, 16])).all(-1)
    each = np.asarray(jax.jit(lambda xy: heatmap.gaussian(xy, (16, 20), sigma=sigma, method="bottom_up"))(xy))
    np.testing.assert_allclose(maps, (each * inside[..., None, None, :]).max(1), atol=1e-6)
    assert not draw(np.full_like(xy, np.nan), np.ones_like(visible), sigma).any()
    assert heatmap.people(np.zeros((0, 3, 2)), np.zeros((0, 3)), (16, 20), sigma=2.0).shape == (16, 20, 3)


def test_people_never_hold_all_their_maps_at_once():
    def peak(people):
        xy, visible = jnp.zeros((people, 17, 2)), jnp.ones((people, 17))
        compiled = jax.jit(lambda *a: heatmap.people(*a, (64, 64), sigma=2.0)).lower(xy, visible).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one_map = 64 * 64 * 17 * 4
    assert peak(60) < 4 * one_map


@pytest.mark.parametrize("n", [0, 1])
def test_masks_of_the_reference(golden, golden_json, n):
    from jaxpose.data import masks

    arrays = golden("swahr")
    height, width = (int(v) for v in arrays[f"mask{n}_shape"])
    expected = np.unpackbits(arrays[f"mask{n}_packbits"])[: height * width].reshape(height, width)
    images = golden_json("coco_gt_train2017")
    chosen = [a for a in images["annotations"] if a["image_id"] == int(arrays[f"mask{n}_image_id"])]
    persons = np.zeros(len(chosen), [("box", "f4", 4), ("keypoints", "f4", (17, 3)), ("crowd", "?")])
    for person, annotation in zip(persons, chosen):
        person["box"], person["crowd"] = annotation["bbox"], annotation["iscrowd"]
        person["keypoints"] = np.reshape(annotation["keypoints"], (17, 3))
    record = {"size_wh": (width, height), "persons": persons, "segmentations": [a["segmentation"] for a in chosen]}
    assert expected.min() == 0
    np.testing.assert_array_equal(masks.valid_mask(record), expected > 0)


@pytest.mark.parametrize("n", [0, 1])
def test_one_affine_a_resolution(golden, n):
    """The published code turns a square of side 200 scale around the centre; joints and mask go through the same matrix."""
    arrays = golden("swahr")
    x, y, scale, rotation = arrays[f"hhaff{n}_center_scale_rot"]
    joints = arrays[f"mask{n}_joints_intsigma"][..., :2]
    for size in (128, 512):
        affine = geometry.center_to_affine(np.array([x, y]), 200 * scale, (size, size), rotation=rotation)
        np.testing.assert_allclose(affine, arrays[f"hhaff{n}_mat{size}"], rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(
            geometry.apply_affine(affine, joints), arrays[f"hhaff{n}_joints{size}"], atol=2e-3 * size / 128
        )
    cv2 = pytest.importorskip("cv2")
    height, width = (int(v) for v in arrays[f"mask{n}_shape"])
    mask = np.unpackbits(arrays[f"mask{n}_packbits"])[: height * width].reshape(height, width)
    affine = geometry.center_to_affine(np.array([x, y]), 200 * scale, (128, 128), rotation=rotation)
    warped = cv2.warpAffine(mask * 255, affine, (128, 128)) / 255 > 0.5
    expected = np.unpackbits(arrays[f"hhaff{n}_mask128_packbits"]).reshape(128, 128) > 0
    assert (warped != expected).mean() < 1e-3


# --- scale -----------------------------------------------------------------------------------------------------------


def swahr(arrays, dtype=np.float64):
    names = ("gt", "pred", "scale")
    target, pred, alpha = (jnp.asarray(channels_last(arrays[f"loss_{n}"]).astype(dtype)) for n in names)
    return target, pred, alpha, jnp.asarray(arrays["loss_mask"].astype(dtype))[..., None]


@pytest.mark.parametrize("x64", [True, False])
def test_heatmap_and_scale_losses_of_the_reference(golden, x64):
    arrays = golden("swahr")
    tolerance = {"rtol": 1e-6} if x64 else {"rtol": 1e-4}
    with jax.enable_x64(x64):
        target, pred, alpha, mask = swahr(arrays, np.float64 if x64 else np.float32)

        @jax.jit
        def each(pred, alpha):
            scaled = heatmap.scale_adaptive(target, alpha)
            return (losses.weight_adaptive_mse(pred, scaled, base_target=target) * mask).mean((1, 2, 3))

        np.testing.assert_allclose(each(pred, alpha), arrays[f"swahr_heatmap_loss_f{64 if x64 else 32}"], **tolerance)
        by_pred, by_alpha = jax.grad(lambda *a: each(*a).sum(), argnums=(0, 1))(pred, alpha)
        for found, name in ((by_pred, "swahr_dpred"), (by_alpha, "swahr_dscale")):
            expected = arrays[name]  # stored in float32
            scale = np.abs(expected).max()
            np.testing.assert_allclose(channels_first(found)[:, ::2], expected, rtol=1e-5, atol=1e-6 * scale)

        def penalty(alpha):  # stored of maps that were not yet multiplied by [target > 0]
            return (losses.scale_penalty(alpha, jnp.ones_like(alpha)) * mask).mean((1, 2, 3))

        np.testing.assert_allclose(penalty(alpha), arrays["swahr_scale_loss_f64"], **tolerance)
        expected = arrays["swahr_scale_loss_dscale_ch0"]
        found = jax.grad(lambda a: penalty(a).sum())(alpha)[..., 0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        drawn = np.asarray(target > 0)
        np.testing.assert_array_equal(losses.scale_penalty(alpha, target), np.where(drawn, np.square(alpha), 0))

        plain = (losses.heatmap_mse(pred, target) * mask).mean((1, 2, 3))
        np.testing.assert_allclose(plain, arrays["plain_heatmap_loss_f64"], **tolerance)


def test_two_stage_totals_of_the_reference(golden):
    arrays = golden("swahr")
    with jax.enable_x64(True):
        outs = [jnp.asarray(channels_last(arrays[f"multi_out{s}"]).astype(np.float64)) for s in (0, 1)]
        targets = [channels_last(arrays[f"multi_heatmap{s}"]).astype(np.float64) for s in (0, 1)]
        keeps = [arrays[f"multi_mask{s}"].astype(np.float64)[..., None] for s in (0, 1)]
        xy, visible = from_nodes(arrays["multi_nodes0"], 32)

        def total(outs, scaled):
            parts, value = {}, 0.0
            for s, (out, target, keep) in enumerate(zip(outs, targets, keeps)):
                alpha, out = (out[..., :14], out[..., 14:])
                maps = out[..., :14]
                if scaled:
                    moved = heatmap.scale_adaptive(target, alpha)
                    each = losses.weight_adaptive_mse(maps, moved, base_target=target)
                    parts[f"scale{s}"] = (losses.scale_penalty(alpha, target) * keep).mean((1, 2, 3))
                    value += parts[f"scale{s}"].mean()
                else:
                    each = losses.heatmap_mse(maps, target)
                parts[f"heat{s}"] = (each * keep).mean((1, 2, 3))
                value += parts[f"heat{s}"].mean()
            tags, where = heatmap.read(outs[0][..., 28:], xy, visible)
            pull, push = losses.associative_embedding(tags, where=where)
            parts["pull"], parts["push"] = 1e-3 * pull, 1e-3 * push
            return value + (parts["pull"] + parts["push"]).mean(), parts

        for scaled, name in ((True, "swahr"), (False, "higher")):
            (value, parts), gradient = jax.value_and_grad(total, has_aux=True)(outs, scaled)
            np.testing.assert_allclose(value, arrays[f"multi_{name}_total_f64"], rtol=1e-6)
            for stage in (0, 1):
                np.testing.assert_allclose(parts[f"heat{stage}"], arrays[f"multi_{name}_heat_f64"][stage], rtol=1e-6)
                if scaled:
                    np.testing.assert_allclose(
                        parts[f"scale{stage}"], arrays["multi_swahr_scale_f64"][stage], rtol=1e-6
                    )
            np.testing.assert_allclose(parts["push"], arrays[f"multi_{name}_push0_f64"], rtol=1e-6)
            np.testing.assert_allclose(parts["pull"], arrays[f"multi_{name}_pull0_f64"], rtol=1e-6)
            first, second = (channels_first(g) for g in gradient)
            if scaled:
                expected = arrays["multi_swahr_dout0"]
                np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
                expected = arrays["multi_swahr_dout1_b0"]
                np.testing.assert_allclose(second[0, ::4], expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
                sums = arrays["multi_swahr_dout1_absum"]
                np.testing.assert_allclose(np.abs(second).sum((2, 3)), sums, rtol=1e-6)
            else:
                for found, s in ((first, 0), (second, 1)):
                    sums = arrays[f"multi_higher_dout_absum{s}"]
                    np.testing.assert_allclose(np.abs(found[:, 14:]).sum((2, 3)), sums, rtol=1e-6)


@pytest.mark.parametrize(
    ("h", "alpha", "second", "exact"),
    [
        (1.0, 0.7, 1.0, 1.0),
        (0.5, 0.3, 0.406838, 0.406126),
        (0.5, -0.3, 0.614782, 0.615572),
        (0.0111, 0.3, 0.006231, 0.0111**1.3),
        (0.0111, 0.5, 0.014227, 0.0111**1.5),
    ],
)
def test_scaled_values(h, alpha, second, exact):
    h, alpha = np.full((1, 1, 1), h), np.full((1, 1, 1), alpha)
    np.testing.assert_allclose(heatmap.scale_adaptive(h, alpha), second, atol=1e-6)
    np.testing.assert_allclose(heatmap.scale_adaptive(h, alpha, order=None), exact, rtol=1e-5)


@pytest.mark.parametrize("alpha", [-0.4, -0.1, 0.0, 0.5])
def test_std_scales_the_standard_deviation(alpha):
    xy = jnp.array([[20.0, 18.0]])
    h = heatmap.gaussian(xy, (40, 44), sigma=3.0, method="unbiased")
    expected = heatmap.gaussian(xy, (40, 44), sigma=3.0 / (1 + alpha), method="unbiased")
    found = heatmap.scale_adaptive(h, jnp.full_like(h, alpha), order=None, exponent="std")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    near = h > 0.7  # where the expansion holds
    second = heatmap.scale_adaptive(h, jnp.full_like(h, alpha), exponent="std")
    np.testing.assert_allclose(second[near], expected[near], atol=0.04)


@pytest.mark.parametrize("order", [2, None])
@pytest.mark.parametrize("exponent", ["alpha", "std"])
def test_finite_everywhere_and_nothing_where_the_target_is_0(order, exponent):
    h = np.array([0.0, 1e-45, 1e-38, 1e-30, 1e-3, 0.5, 1.0], np.float32)[:, None, None]

    @jax.jit
    def both(h, alpha):
        def total(h, alpha):
            scaled = heatmap.scale_adaptive(h, alpha, order=order, exponent=exponent)
            weighted = losses.weight_adaptive_mse(jnp.full_like(h, 0.3), scaled, base_target=h)
            return scaled.sum(), (scaled, weighted)

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(h, alpha)

    for value in (-1e6, -3.0, -1.0, 0.0, 2.0, 1e6):
        (_, (scaled, weighted)), gradients = both(h, np.full_like(h, value))
        assert np.isfinite(scaled).all() and all(np.isfinite(g).all() for g in gradients)
        assert abs(value) == 1e6 or np.isfinite(weighted).all()
        assert scaled[0] == 0 and all(g[0] == 0 for g in gradients)
    nothing = np.where(h > 0, 0.1, np.nan).astype(np.float32)
    (_, (scaled, _)), gradients = both(h, nothing)
    assert np.isfinite(scaled).all() and all(np.isfinite(g).all() for g in gradients)
    assert np.isfinite(jax.grad(lambda a: losses.scale_penalty(a, h).sum())(nothing)).all()


@pytest.mark.parametrize(
    ("h", "p", "weight"), [(1, 0.9, 0.1), (0.5, 0.1, 0.894474), (0.0111, 0.0, 0.955990), (0, 0.2, 0.2)]
)
def test_weights(h, p, weight):
    h, p = np.full((1, 1, 1), h, np.float32), np.full((1, 1, 1), p, np.float32)
    for target in (np.zeros_like(h), np.ones_like(h)):
        found = losses.weight_adaptive_mse(p, target, base_target=h)
        np.testing.assert_allclose(found, weight * (p - target) ** 2, rtol=1e-5)
    np.testing.assert_allclose(losses.weight_adaptive_mse(p, h), weight * (p - h) ** 2, rtol=1e-5, atol=1e-9)


def test_masked_pixels_give_nothing_whatever_they_hold():
    target = heatmap.people(jnp.array([[[3.0, 4.0], [6.0, 1.0]]]), jnp.ones((1, 2)), (8, 9), sigma=1.0)
    rng = np.random.default_rng(0)
    target, pred, where = np.asarray(target), rng.normal(size=target.shape).astype(np.float32), rng.random((8, 9)) < 0.6

    def total(pred, target):
        weighted = losses.weight_adaptive_mse(pred, target, where=where)
        return (weighted + losses.scale_penalty(pred, target, where=where)).sum()

    both = jax.jit(jax.value_and_grad(total))
    value, gradient = both(pred, target)
    for garbage in (jnp.nan, jnp.inf):
        bad = [np.where(where[..., None], a, garbage).astype(np.float32) for a in (pred, target)]
        again, bad_gradient = both(*bad)
        np.testing.assert_allclose(again, value, rtol=1e-6)
        np.testing.assert_allclose(bad_gradient, gradient, rtol=1e-6)
    assert not np.asarray(gradient)[~where].any()
    outside = (losses.weight_adaptive_mse(pred, target) * where[..., None]).sum()
    outside += (losses.scale_penalty(pred, target) * where[..., None]).sum()
    np.testing.assert_allclose(value, outside, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: losses.weight_adaptive_mse(a, a[:-1]), r"pred \(5, 4, 3\), target \(4, 4, 3\)"),
        (lambda a: losses.weight_adaptive_mse(a, a, base_target=a[..., :1]), r"base_target \(5, 4, 1\)"),
        (lambda a: losses.weight_adaptive_mse(a, a, gamma=0), "gamma=0: expected a positive"),
        (lambda a: losses.weight_adaptive_mse(a, a, where=a), r"where has shape \(5, 4, 3\), expected \(5, 4\)"),
        (lambda a: losses.scale_penalty(a, a[0]), r"alpha \(5, 4, 3\), target \(4, 3\)"),
        (lambda a: heatmap.scale_adaptive(a, a[..., :1]), r"target \(5, 4, 3\), alpha \(5, 4, 1\)"),
        (lambda a: heatmap.scale_adaptive(a, a, order=3), "order=3.*expected 2 or None"),
        (lambda a: heatmap.scale_adaptive(a, a, exponent="sigma"), "exponent='sigma'"),
        (lambda a: heatmap.people(a[..., :2], a, (8, 8), sigma=2.0), r"visible \(5, 4, 3\)"),
        (lambda a: heatmap.people(a[..., :2], a[..., 0], (8, 8), sigma=a[0, 0]), r"sigma has shape \(3,\)"),
        (lambda a: heatmap.read(a, a[..., :2], a[..., 0]), r"maps \(5, 4, 3\), xy \(5, 4, 2\)"),
    ],
)
def test_errors_name_what_was_given(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((5, 4, 3)))
