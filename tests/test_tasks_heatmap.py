"""The heatmap task: losses as composed, masks, flips, decoding in input pixels, and a config that gives the task back."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpose import heatmap, losses, tasks
from jaxpose.nets import (
    HeatmapNet,
    HRNet,
    IntegralRegressor,
    MapHead,
    PeakRegressor,
    PoseRegressor,
    RegressionHead,
    ResNet,
)
from jaxpose.skeleton import COCO17
from jaxpose.tasks import JointLoss, Likelihood, MapLoss, Readout

SIZE_WH = (24, 32)
MAP_HW = (8, 6)
KINDS = ("mse", "ohkm", "cross_entropy", "bce", "softmax_mse", "kl", "js")


class Echo(nn.Module):
    """A net without convolutions: 17 maps that look at the image's column means, so that tests are fast."""

    stages: int = 1

    @nn.compact
    def __call__(self, images, *, train=False):
        cells = nn.avg_pool(images, (4, 4), (4, 4)).reshape(len(images), -1)
        maps = [nn.Dense(8 * 6 * 17, kernel_init=nn.initializers.normal(0.05))(cells) for _ in range(self.stages)]
        maps = tuple(m.reshape(-1, 8, 6, 17) for m in maps)
        return maps if self.stages > 1 else maps[0]


class Given(nn.Module):
    """The same maps whatever the image."""

    maps: np.ndarray

    @nn.compact
    def __call__(self, images, *, train=False):
        return self.param("maps", lambda key: jnp.asarray(self.maps))


def make(maps=MapLoss(sigma=1.0), joints=JointLoss(), read=Readout(), net=None, **options) -> tasks.Task:  # noqa: B008
    net = Echo() if net is None else net
    return tasks.heatmaps(net, skeleton=COCO17, size_wh=SIZE_WH, maps=maps, joints=joints, read=read, **options)


def batch(count: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, 32, 24, 3), dtype=np.uint8)),
        "joints": jnp.asarray(rng.uniform(0, 23, (count, 17, 2)), jnp.float32),
        "visibility": jnp.asarray(rng.integers(0, 3, (count, 17)), jnp.int8),
    }


def value_and_grad(task):
    variables = task.init(jax.random.key(0))

    @jax.jit
    def f(params, data):
        return jax.value_and_grad(lambda p: task.loss({**variables, "params": p}, data, key=jax.random.key(0))[0])(
            params
        )

    return variables["params"], f


@pytest.mark.parametrize(("kind", "compensate"), [*((kind, True) for kind in (*KINDS, "none")), ("mse", False)])
def test_every_loss_has_finite_gradients_and_ignores_unlabelled_joints(kind, compensate):
    joint = "l1" if compensate or kind == "none" else "none"
    read = Readout("soft_argmax", beta=10.0, compensate=compensate)
    params, f = value_and_grad(make(MapLoss(kind), JointLoss(joint), read))
    data = batch()
    value, grads = f(params, data)
    hidden = (data["visibility"] == 0)[..., None]
    garbage = {**data, "joints": jnp.where(hidden, jnp.asarray([jnp.nan, jnp.inf]), data["joints"])}
    value_again, grads_again = f(params, garbage)
    assert np.isfinite(value) and value == value_again and value != 0
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_again), strict=True):
        assert np.isfinite(a).all() and np.abs(a).max() > 0
        np.testing.assert_array_equal(a, b)
    nothing = {**data, "visibility": jnp.zeros((4, 17), jnp.int8), "joints": jnp.full((4, 17, 2), jnp.nan)}
    value, grads = f(params, nothing)
    assert value == 0 and all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_the_reductions_are_the_published_ones():
    data = batch()
    data["visibility"] = jnp.full((4, 17), 2, jnp.int8)
    variables = make().init(jax.random.key(0))
    maps = Echo().apply({"params": variables["params"]["net"]}, tasks.IMAGENET(data["image"]))

    def value(*settings):
        return float(make(*settings).loss(variables, data, key=jax.random.key(0))[0])

    target = heatmap.gaussian(data["joints"] / 4, MAP_HW, sigma=1.0)
    mean = float(jnp.square(maps - target).mean())
    assert value(MapLoss(sigma=1.0)) == pytest.approx(mean / 2, rel=1e-5)
    assert value(MapLoss(sigma=1.0, variant="mmpose", weight=3.0)) == pytest.approx(3 * mean, rel=1e-5)
    divergence = losses.heatmap_js(heatmap.softmax(maps, beta=2.0), heatmap.normalized(target)).sum() / 4
    read = Readout("soft_argmax", beta=2.0)
    assert value(MapLoss("js", sigma=1.0), JointLoss(), read) == pytest.approx(float(divergence), rel=1e-5)

    xy, _ = heatmap.soft_argmax(maps, beta=2.0)
    error = np.abs(xy / jnp.asarray([6, 8]) - data["joints"] / jnp.asarray(SIZE_WH))
    none = MapLoss("none")
    assert value(none, JointLoss("l1"), read) == pytest.approx(float(error.sum()) / 4, rel=1e-5)
    assert value(none, JointLoss("smooth_l1", variant="mmpose"), read) == pytest.approx(
        float(0.5 * np.square(error).mean()), rel=1e-5
    )
    both = value(MapLoss("js", sigma=1.0), JointLoss("l1", weight=2.0), read)
    assert both == pytest.approx(float(divergence) + 2 * float(error.sum()) / 4, rel=1e-5)


def test_rectified_maps_have_no_background_below_zero():
    """A bump on a background of -0.3: compensated as it is, the joint is thrown outwards; rectified, it is where it is."""
    xy = np.full((1, 17, 2), [2.0, 5.0], np.float32)
    bump = heatmap.gaussian(xy, MAP_HW, sigma=0.6, method="unbiased")
    below = np.asarray(jnp.where(bump > 0.01, bump, -0.3))
    found = {}
    for rectify in (False, True):
        read = Readout("soft_argmax", beta=5.0, compensate=True, rectify=rectify)
        task = make(read=read, net=Given(below))
        image = {"image": jnp.zeros((1, 32, 24, 3), jnp.uint8)}
        found[rectify] = task.predict(task.init(jax.random.key(0)), image, flip_test=False)["xy"]
    assert np.abs(found[True] - 4 * xy).max() < 0.05
    assert np.abs(found[False] - 4 * xy).max() > 0.3


def test_joints_outside_the_crop_teach_nothing():
    data = {**batch(), "visibility": jnp.full((4, 17), 2, jnp.int8), "joints": jnp.full((4, 17, 2), -60.0)}
    for maps in (MapLoss("mse"), MapLoss("cross_entropy"), MapLoss("bce"), MapLoss("js")):
        task = make(maps, JointLoss("l1"), Readout("soft_argmax"))
        assert float(task.loss(task.init(jax.random.key(0)), data, key=jax.random.key(0))[0]) == 0


def test_every_stage_is_supervised_and_the_last_is_read():
    task = make(net=Echo(stages=3))
    variables = task.init(jax.random.key(0))
    data = batch()
    total = float(task.loss(variables, data, key=jax.random.key(0))[0])
    singles = []
    for i in range(3):
        params = {"Dense_0": variables["params"]["net"][f"Dense_{i}"]}
        one = {"params": {"net": params}, "batch_stats": {}}
        singles.append(float(make().loss(one, data, key=jax.random.key(0))[0]))
        last = make().predict(one, data)
    assert total == pytest.approx(sum(singles), rel=1e-6)
    np.testing.assert_array_equal(task.predict(variables, data)["xy"], last["xy"])


JOINTS = (
    np.random.default_rng(3).uniform((20, 24), (76, 100), (1, 17, 2)).astype(np.float32)
)  # input px of a 96x128 crop


@pytest.mark.parametrize(
    ("target", "read", "within"),
    [
        ("unbiased", Readout("dark", kernel=11), 0.2),
        ("udp", Readout("udp", kernel=11), 0.2),
        ("unbiased", Readout("argmax"), 1.5),  # a quarter of a pixel of stride 4, and as much again
        ("unbiased", Readout("soft_argmax", beta=10.0, compensate=True), 0.2),
    ],
)
def test_what_the_target_says_is_read_in_input_pixels(target, read, within):
    """Through the stride, or UDP's (W - 1) / (w - 1): encode, decode, and the joint is where it was."""
    cell = np.array([95 / 23, 127 / 31]) if target == "udp" else 4.0
    maps = heatmap.gaussian(JOINTS / cell, (32, 24), sigma=2.0, method=target)
    task = tasks.heatmaps(
        Given(np.asarray(maps)), skeleton=COCO17, size_wh=(96, 128), maps=MapLoss(target=target), read=read
    )
    image = {"image": jnp.zeros((1, 128, 96, 3), jnp.uint8)}
    found = task.predict(task.init(jax.random.key(0)), image, flip_test=False)
    assert np.abs(found["xy"] - JOINTS).max() < within
    expected = {"peak": maps.max((1, 2)), "one": np.ones((1, 17))}
    for confidence, values in expected.items():
        other = tasks.heatmaps(Given(np.asarray(maps)), skeleton=COCO17, size_wh=(96, 128), maps=MapLoss(target=target),
                               read=Readout(read.decode, confidence=confidence))  # fmt: skip
        got = other.predict(other.init(jax.random.key(0)), image, flip_test=False)["confidence"]
        np.testing.assert_allclose(got, values, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("msra", Readout("soft_argmax", beta=3.0)),
        ("msra", Readout("soft_argmax", beta=3.0, compensate=True, confidence="probability")),
        ("udp", Readout("dark", kernel=5)),  # the rule at the border of the published argmax is not symmetric
    ],
)
def test_the_flip_test_of_a_mirrored_crop_is_the_mirrored_prediction(target, read):
    task = make(MapLoss(target=target), read=read)
    variables = task.init(jax.random.key(0))
    data = batch()
    there, back = task.predict(variables, data), task.predict(variables, {"image": data["image"][:, :, ::-1]})
    swap = np.asarray(COCO17.flip_index)
    np.testing.assert_allclose(SIZE_WH[0] - 1 - there["xy"][..., 0], back["xy"][:, swap, 0], atol=2e-3)
    np.testing.assert_allclose(there["xy"][..., 1], back["xy"][:, swap, 1], atol=2e-3)
    np.testing.assert_allclose(there["confidence"], back["confidence"][:, swap], rtol=1e-5)
    alone = task.predict(variables, data, flip_test=False)
    assert np.abs(alone["xy"] - there["xy"]).max() > 1e-2


@pytest.mark.parametrize(("kind", "confidence"), [("bce", 0.3775), ("cross_entropy", 0.8389)])
def test_logits_below_zero_are_searched_as_the_probabilities_that_they_are(kind, confidence):
    """H2 and H3: a highest logit of -0.5 among -6 is the joint, not "nothing found"."""
    maps = np.full((1, 8, 6, 17), -6.0, np.float32)
    maps[:, 4, 3] = -0.5
    task = make(MapLoss(kind), net=Given(maps))
    image = {"image": jnp.zeros((1, 32, 24, 3), jnp.uint8)}
    found = task.predict(task.init(jax.random.key(0)), image, flip_test=False)
    np.testing.assert_allclose(found["xy"], np.broadcast_to([12.0, 16.0], (1, 17, 2)))
    np.testing.assert_allclose(found["confidence"], confidence, atol=1e-3)


def test_the_flipped_map_is_moved_by_a_column_as_published():
    """A peak at column 2 of the map and at 2 of the mirrored one, which is 3 unmoved and 4 moved: the mean has two peaks."""
    maps = np.zeros((1, 8, 6, 17), np.float32)
    maps[:, 4, 2] = 1.0
    task = make(read=Readout("argmax"), net=Given(maps))
    moved = (maps + np.pad(maps[:, :, ::-1], ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :6]) / 2
    expected, _ = heatmap.argmax(jnp.asarray(moved))
    found = task.predict(task.init(jax.random.key(0)), {"image": jnp.zeros((1, 32, 24, 3), jnp.uint8)})
    np.testing.assert_allclose(found["xy"], expected * 4)


def test_a_config_gives_the_task_back():
    nets = [
        HeatmapNet(ResNet(depth=18, width=4, dtype=jnp.bfloat16), 17, deconvs=(8, 8)),
        HeatmapNet(HRNet(width=4), 17, deconvs=()),
    ]
    for net in nets:
        task = make(MapLoss("js", weight=2.0), JointLoss("l1"), Readout("soft_argmax", beta=10.0), net=net,
                    preprocess="simple_baseline")  # fmt: skip
        config = json.loads(json.dumps(task.config))
        again = tasks.from_config(config)
        assert json.loads(json.dumps(again.config)) == config
    own = make()
    assert own.config["net"] is None
    with pytest.raises(ValueError, match="pass it as net="):
        tasks.from_config(own.config)
    assert tasks.from_config(own.config, net=Echo()).config == own.config
    assert tasks.predictive_density(own.config, {}) is None
    with pytest.raises(ValueError, match="lacks maps, read"):
        tasks.from_config({k: v for k, v in own.config.items() if k not in ("maps", "read")})
    with pytest.raises(ValueError, match="unknown net 'Unet': expected one of"):
        tasks.from_config({**own.config, "net": {"name": "Unet"}})


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: MapLoss("mae"), "kind='mae': expected one of none, mse, ohkm"),
        (lambda: MapLoss(sigma=0.0), "sigma=0.0: expected a positive number"),
        (lambda: MapLoss(target="round"), "target='round': expected one of msra, unbiased, udp"),
        (lambda: JointLoss("l3"), "kind='l3': expected one of none, l1, l2"),
        (lambda: Readout("max"), "decode='max': expected one of argmax"),
        (lambda: Readout(beta=-1.0), "beta=-1.0: expected a positive number"),
        (lambda: Readout(kernel=10), "kernel=10: expected an odd number"),
        (lambda: Readout(floor=0.0), "floor=0.0: expected a number between 0 and 1"),
        (lambda: Readout("dark", offset=0.5), "only argmax has an offset"),
        (lambda: make(MapLoss("none")), "there is no loss to train with"),
        (lambda: make(preprocess="caffe"), "preprocess='caffe': expected one of imagenet"),
        (lambda: tasks.heatmaps(Echo(), skeleton=COCO17, size_wh=(0, 4)), "both positive"),
    ],
)
def test_bad_options_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


def test_a_net_of_another_skeleton_is_refused():
    task = make(net=Given(np.zeros((4, 8, 6, 16), np.float32)))
    with pytest.raises(ValueError, match=r"maps \(4, 8, 6, 16\): expected \(4, h, w, 17\)"):
        task.loss(task.init(jax.random.key(0)), batch(), key=jax.random.key(0))


def test_an_input_that_the_stride_does_not_divide_is_refused():
    """ResNet's 72 pixels are 3 columns of features and 24 of the map, 3 pixels each, beside rows of 4."""
    task = tasks.heatmaps(Given(np.zeros((1, 24, 24, 17), np.float32)), skeleton=COCO17, size_wh=(72, 96))
    image = {"image": jnp.zeros((1, 96, 72, 3), jnp.uint8)}
    with pytest.raises(ValueError, match="maps of width 24 and height 24, 3 by 4 pixels each: choose a size_wh"):
        task.predict(task.init(jax.random.key(0)), image)


def test_checkpoints_of_the_first_version_are_read():
    net = PoseRegressor(ResNet(depth=18, width=4), RegressionHead(17, kind="normalized"))
    config = json.loads(json.dumps(tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH).config))
    old = {k: v for k, v in config.items() if k != "auxiliary"}
    part = {k: {f: v for f, v in config["net"][k].items() if f != "name"} for k in ("backbone", "head")}
    old["net"] = {"backbone": {"name": "resnet", **part["backbone"]}, "head": part["head"]}
    assert json.loads(json.dumps(tasks.from_config(old).config)) == config


def test_simple_baseline_sees_bgr_with_the_statistics_of_rgb():
    """QUIRK H1."""
    image = np.asarray([[[10, 100, 200]]], np.uint8)
    expected = (image[0, 0, ::-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(tasks.SIMPLE_BASELINE(jnp.asarray(image))[0, 0], expected, rtol=1e-5)


class Both(nn.Module):
    """mu and sigma, and maps when asked."""

    @nn.compact
    def __call__(self, images, *, train=False, with_maps=False):
        maps = Echo()(images)
        x = nn.Dense(17 * 4)(images.mean((1, 2)))
        mu, raw = jnp.split(x.reshape(-1, 17, 4), 2, -1)
        return (mu, nn.sigmoid(raw), maps) if with_maps else (mu, nn.sigmoid(raw))


def test_an_auxiliary_heatmap_loss_is_added_and_prediction_leaves_it_out():
    data = batch()
    likelihood = Likelihood(loss="laplace")
    options = dict(skeleton=COCO17, size_wh=SIZE_WH, likelihood=likelihood)
    plain = tasks.regression(Both(), **options)
    task = tasks.regression(Both(), **options, auxiliary=MapLoss(weight=5.0, sigma=1.0))
    variables = task.init(jax.random.key(0))
    total, (_, metrics) = task.loss(variables, data, key=jax.random.key(0))
    alone = plain.loss(variables, data, key=jax.random.key(0))[0]
    maps = Echo().apply({"params": variables["params"]["net"]["Echo_0"]}, tasks.IMAGENET(data["image"]))
    where = data["visibility"] > 0
    target = heatmap.gaussian(data["joints"] / 4, MAP_HW, sigma=1.0)
    expected = 5 * 0.5 * losses.heatmap_mse(maps, target, where=where).mean()
    assert float(metrics["map_loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(total) == pytest.approx(float(alone + expected), rel=1e-5)
    for key in ("mu", "sigma"):
        np.testing.assert_array_equal(task.predict(variables, data)[key], plain.predict(variables, data)[key])


@pytest.mark.slow
def test_nets_that_give_maps_beside_mu_and_sigma():
    features = ResNet(depth=18, width=4)
    auxiliary = PoseRegressor(features, RegressionHead(17), maps=MapHead(17, deconvs=(8,)))
    integral = IntegralRegressor(HeatmapNet(features, 17, deconvs=(8,)), beta=10.0, compensate=True, sigma_bias=-1.0)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 32, 3)), jnp.float32)
    for net in (auxiliary, integral):
        variables = jax.jit(net.init)(jax.random.key(0), images)
        assert tasks.describe.build(tasks.describe.describe(net)) == net
        mu, sigma, maps = jax.jit(lambda v, x, net=net: net.apply(v, x, with_maps=True))(variables, images)
        assert mu.shape == sigma.shape == (2, 17, 2) and maps.shape == (2, 4, 2, 17)
        assert ((sigma > 0) & (sigma < 1)).all()
    xy, _ = heatmap.soft_argmax(maps, beta=10.0, compensate=True, floor=0.01)
    np.testing.assert_allclose(mu, xy / np.array([2, 4]) - 0.5, atol=1e-3)  # nearly flat maps: float32
    assert float(sigma.mean()) == pytest.approx(1 / (1 + np.e), abs=0.05)
    with pytest.raises(ValueError, match="no heatmap head"):
        plain = PoseRegressor(features, RegressionHead(17))
        jax.eval_shape(lambda x: plain.init_with_output(jax.random.key(0), x, with_maps=True), images)


@pytest.mark.parametrize("kind", ["mse", "cross_entropy", "bce"])
def test_the_maps_are_those_that_coordinates_are_read_off(kind):
    images, net = batch()["image"], Echo(stages=2)
    task = make(maps=MapLoss(kind, sigma=1.0), net=net)
    variables = task.init(jax.random.key(0))
    maps = tasks.heatmap_of(task.config, variables, images, net=net)
    found = task.predict(variables, {"image": images}, flip_test=False)
    xy, peak = heatmap.argmax(maps)
    np.testing.assert_allclose(xy * 4, found["xy"], rtol=1e-5)
    np.testing.assert_allclose(peak, found["confidence"], rtol=1e-5)
    summed = {"cross_entropy": 1.0}.get(kind)
    if summed:
        np.testing.assert_allclose(maps.sum((1, 2)), summed, rtol=1e-5)
    if kind == "bce":
        assert 0 < float(maps.min()) and float(maps.max()) < 1


@pytest.mark.parametrize("rectify", [False, True])
def test_the_mean_of_the_maps_is_the_soft_argmax(rectify):
    images, net = batch()["image"], Echo()
    read = Readout("soft_argmax", beta=3.0, rectify=rectify)
    task = make(maps=MapLoss("none"), joints=JointLoss("l1"), read=read, net=net)
    variables = task.init(jax.random.key(0))
    maps = np.asarray(jax.jit(lambda v, x: tasks.heatmap_of(task.config, v, x, net=net))(variables, images))
    x, y = np.meshgrid(np.arange(6), np.arange(8))
    mean = np.stack([(maps * grid[..., None]).sum((1, 2)) for grid in (x, y)], -1)
    np.testing.assert_allclose(mean * 4, task.predict(variables, {"image": images}, flip_test=False)["xy"], rtol=1e-4)
    with pytest.raises(ValueError, match="family 'regression' has no heatmaps"):
        tasks.heatmap_of(task.config | {"family": "regression"}, variables, images, net=net)


@pytest.mark.slow
def test_a_peak_regressor_reads_the_peaks_and_only_its_map_loss_moves_the_maps():
    """mu is between the peak and the mean place; the likelihood moves sigma and the flow, the map loss the maps."""
    net = PeakRegressor(HeatmapNet(ResNet(depth=18, width=4, stages=1), 17, deconvs=()), sigma_bias=-1.0)
    size_wh = (48, 64)
    task = tasks.regression(net, skeleton=COCO17, size_wh=size_wh, auxiliary=MapLoss(sigma=1.5, target="unbiased"))
    variables = task.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 255, (2, 64, 48, 3), np.uint8),
        "joints": rng.uniform(5, 40, (2, 17, 2)).astype(np.float32),
        "visibility": np.full((2, 17), 2, np.int8),
    }

    def grads(scale):
        def loss(params):
            value, (_, metrics) = task.loss({**variables, "params": params}, batch, key=jax.random.key(1))
            return value - scale * metrics["map_loss"]

        return jax.grad(loss)(variables["params"])["net"]

    with_maps, without = jax.jit(grads)(0.0), jax.jit(grads)(1.0)
    final = lambda tree: np.abs(tree["net"]["final_layer"]["kernel"]).max()  # noqa: E731
    assert final(with_maps) > 0 and final(without) == 0
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(without["net"])) == 0
    assert np.abs(without["sigma"]["kernel"]).max() > 0

    (mu, sigma, maps), changed = net.apply(
        {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]},
        batch["image"].astype(np.float32), train=True, with_maps=True, mutable=["batch_stats"],
    )  # fmt: skip
    pixel = np.asarray(maps).reshape(2, -1, 17).argmax(1)
    peak = np.stack([pixel % 12, pixel // 12], -1) / [12, 16] - 0.5
    place = np.asarray(changed["batch_stats"]["place"])
    np.testing.assert_allclose(
        place, 0.02 * peak.mean(0), atol=0.02 / 12 + 1e-6
    )  # a hundredth of a step of the running mean
    low, high = np.minimum(peak, place) - 1 / 12 - 1e-4, np.maximum(peak, place) + 1 / 12 + 1e-4
    assert ((np.asarray(mu) >= low) & (np.asarray(mu) <= high)).all()
    assert sigma.shape == mu.shape and tasks.from_config(task.config).config == task.config


def test_a_sharp_peak_is_trusted_and_a_flat_map_is_not():
    """mu is the peak where the map has one, and the mean place of the joint where it has none."""

    class Given(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False, with_features=False):
            return images[:, ::4, ::4, :1], images

    net = PeakRegressor(Given())
    truth = jnp.array([[[7.0, 9.0]]])
    sharp = heatmap.gaussian(truth, (16, 16), sigma=1.5)
    images = jnp.concatenate([sharp, 0.05 * sharp]).repeat(4, 1).repeat(4, 2).repeat(3, 3)
    variables = net.init(jax.random.key(0), images)
    variables = {**variables, "batch_stats": {"place": jnp.array([[0.25, 0.25]])}}
    mu, _ = net.apply(variables, images)
    np.testing.assert_allclose(mu[0, 0], truth[0, 0] / 16 - 0.5, atol=0.01)
    assert np.abs(np.asarray(mu[1, 0]) - 0.25).max() < 0.1


@pytest.mark.parametrize("kernel", [4, 1])
def test_a_blur_of_even_size_is_refused(kernel):
    with pytest.raises(ValueError, match=f"kernel={kernel}: expected an odd number"):
        PeakRegressor(HeatmapNet(ResNet(depth=18, width=4, stages=1), 17, deconvs=()), kernel=kernel)
