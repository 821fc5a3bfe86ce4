"""The regression task: losses as composed, masks, flips, and a config that gives the task back."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpose import density, losses, tasks
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
from jaxpose.skeleton import COCO17
from jaxpose.tasks import Likelihood
from jaxpose.tasks.regression import LOSS_NAMES

SIZE_WH = (24, 32)
RLE = Likelihood()


class Echo(nn.Module):
    """A net without convolutions: coordinates and sigma are read off the image's mean, so that tests are fast."""

    @nn.compact
    def __call__(self, images, *, train=False):
        left, right = images[:, :, :12].mean((1, 2, 3)), images[:, :, 12:].mean((1, 2, 3))
        x = nn.Dense(17 * 4, kernel_init=nn.initializers.normal(0.1))(jnp.stack([left, right], -1))
        mu, raw = jnp.split(x.reshape(-1, 17, 4), 2, -1)
        return mu, nn.sigmoid(raw - 1)


def make(likelihood=RLE, **options) -> tasks.Task:
    return tasks.regression(Echo(), skeleton=COCO17, size_wh=SIZE_WH, likelihood=likelihood, **options)


def batch(count: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, 32, 24, 3), dtype=np.uint8)),
        "joints": jnp.asarray(rng.uniform(0, 24, (count, 17, 2)), jnp.float32),
        "visibility": jnp.asarray(rng.integers(0, 3, (count, 17)), jnp.int8),
    }


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_every_loss_has_finite_gradients_and_ignores_unlabelled_joints(loss):
    task = make(Likelihood(loss=loss))
    variables = task.init(jax.random.key(0))
    data = batch()

    @jax.jit
    def value_and_grad(params, data):
        return jax.value_and_grad(lambda p: task.loss({**variables, "params": p}, data, key=jax.random.key(0))[0])(
            params
        )

    value, grads = value_and_grad(variables["params"], data)
    hidden = (data["visibility"] == 0)[..., None]
    garbage = {**data, "joints": jnp.where(hidden, jnp.asarray([jnp.nan, jnp.inf]), data["joints"])}
    value_again, grads_again = value_and_grad(variables["params"], garbage)
    assert np.isfinite(value) and value == value_again
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_again), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
    assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["net"]))
    assert ("flow" in grads) == (loss in ("rle", "dle", "basic"))


def test_nothing_labelled_is_zero_with_zero_gradient():
    task = make()
    variables = task.init(jax.random.key(0))
    data = {**batch(), "visibility": jnp.zeros((4, 17), jnp.int8), "joints": jnp.full((4, 17, 2), jnp.nan)}
    loss = lambda p: task.loss({**variables, "params": p}, data, key=jax.random.key(0))[0]  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
    assert value == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_the_reduction_is_the_sum_over_joints_by_the_batch_size():
    task = make(Likelihood(loss="l1"))
    variables = task.init(jax.random.key(0))
    data = batch()
    value, _ = task.loss(variables, data, key=jax.random.key(0))
    mu = task.predict(variables, data, flip_test=False)["mu"]
    target = data["joints"] / jnp.asarray(SIZE_WH) - 0.5
    expected = losses.l1(mu, target, where=data["visibility"] > 0).sum() / 4
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_mmpose_masks_labels_outside_the_crop_and_the_official_code_keeps_them():
    data = batch()
    outside = {**data, "visibility": jnp.full((4, 17), 2, jnp.int8), "joints": jnp.full((4, 17, 2), -3.0)}
    values = {}
    for option in ("keep", "mask"):
        task = make(outside=option)
        values[option] = float(task.loss(task.init(jax.random.key(0)), outside, key=jax.random.key(0))[0])
    assert values["mask"] == 0 and values["keep"] != 0


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_flip_test_of_a_mirrored_crop_is_the_mirrored_prediction(loss):
    task = make(Likelihood(loss=loss))
    variables = task.init(jax.random.key(0))
    data = batch()
    there = task.predict(variables, data)
    back = task.predict(variables, {"image": data["image"][:, :, ::-1]})
    swap = np.asarray(COCO17.flip_index)
    np.testing.assert_allclose(SIZE_WH[0] - 1 - there["xy"][..., 0], back["xy"][:, swap, 0], atol=1e-4)
    np.testing.assert_allclose(there["xy"][..., 1], back["xy"][:, swap, 1], atol=1e-4)
    np.testing.assert_allclose(there["confidence"], back["confidence"][:, swap], atol=1e-6)
    alone = task.predict(variables, data, flip_test=False)
    assert np.abs(alone["xy"] - there["xy"]).max() > 1e-3


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_logged_epe_is_that_of_the_predicted_coordinates(loss):
    """In the basic design mu lives before the flow."""
    task = make(Likelihood(loss=loss))
    variables = task.init(jax.random.key(0))
    data = batch()
    _, (_, metrics) = task.loss(variables, data, key=jax.random.key(0))
    found = task.predict(variables, data, flip_test=False)["xy"]
    error = np.linalg.norm(found - data["joints"], axis=-1)[np.asarray(data["visibility"]) > 0]
    np.testing.assert_allclose(metrics["epe"], error.mean(), rtol=1e-4)


def test_a_net_of_another_skeleton_is_refused():
    net = PoseRegressor(ResNet(depth=18, width=4), RegressionHead(14))
    task = tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH)
    with pytest.raises(ValueError, match=r"mu \(4, 14, 2\).*expected \(4, 17, 2\).*'coco17' of 17 joints"):
        task.predict(task.init(jax.random.key(0)), batch(), flip_test=False)
    with pytest.raises(ValueError, match=r"size_wh=\(0, 32\)"):
        tasks.regression(net, skeleton=COCO17, size_wh=(0, 32))


@pytest.mark.parametrize(
    "option", [{"base": "l1"}, {"variant": "x"}, {"flow_init": "x"}, {"flow_ends": "x"}, {"loss": "x"}]
)
def test_unknown_options_of_the_likelihood_are_refused(option):
    [(name, value)] = option.items()
    with pytest.raises(ValueError, match=f"{name}='{value}': expected one of "):
        Likelihood(**option)


def test_a_subclass_of_a_net_that_we_ship_is_not_described_as_it():
    class Other(ResNet):
        pass

    net = PoseRegressor(Other(depth=18, width=4), RegressionHead(17))
    assert tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH).config["net"] is None


def test_a_config_with_holes_is_refused():
    with pytest.raises(ValueError, match="lacks net, skeleton, size_wh"):
        tasks.from_config({"family": "regression"})


def test_confidence_is_one_minus_sigma_and_one_where_sigma_is_untrained():
    data = batch()
    for loss, constant in (("rle", False), ("laplace", False), ("l1", True), ("l2", True)):
        task = make(Likelihood(loss=loss))
        outputs = task.predict(task.init(jax.random.key(0)), data)
        expected = np.ones((4, 17)) if constant else 1 - np.asarray(outputs["sigma"]).mean(-1)
        np.testing.assert_allclose(outputs["confidence"], expected, rtol=1e-6)


def test_a_config_gives_the_task_back():
    net = PoseRegressor(ResNet(depth=18, width=4, dtype=jnp.bfloat16), RegressionHead(17, kind="normalized"))
    likelihood = Likelihood(variant="paper", log_s=True, flow_hidden=(32, 32, 32, 32))
    task = tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH, likelihood=likelihood, preprocess="rle_official")
    config = json.loads(json.dumps(task.config))
    again = tasks.from_config(config)
    assert json.loads(json.dumps(again.config)) == config
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(
        lambda x: x.shape, jax.eval_shape(again.init, jax.random.key(0))
    )


def test_a_net_of_ones_own_is_asked_for():
    task = make()
    assert task.config["net"] is None
    with pytest.raises(ValueError, match="pass it as net="):
        tasks.from_config(task.config)
    assert tasks.from_config(task.config, net=Echo()).config == task.config
    with pytest.raises(ValueError, match="unknown task family 'heat'"):
        tasks.from_config({"family": "heat"})


def test_the_predictive_density_follows_the_training():
    variables = make().init(jax.random.key(0))

    def model(**options):
        return tasks.predictive_density(make(Likelihood(**options)).config, variables)

    assert model(loss="l1") is None and model(loss="basic") is None
    assert model(loss="laplace").base == "laplace" and model(loss="laplace").log_g is None
    e = jnp.asarray([[0.3, -1.2], [2.0, 0.1]])
    official, paper = model(variant="official"), model(variant="paper")
    np.testing.assert_allclose(density.log_prob(e, official), density.log_prob(-e, paper), rtol=1e-5)
    with_s = model(variant="paper", log_s=True)
    assert with_s.log_normalizer is not None
    expected = density.log_prob(e, paper) - jnp.abs(e).sum(-1) - 2 * jnp.log(2.0) + with_s.log_normalizer
    np.testing.assert_allclose(density.log_prob(e, with_s), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="the flow was left out"):
        tasks.predictive_density(make().config, {"params": {"net": {}}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": {"loss": "l3"}}, "loss='l3': expected one of rle, dle"),
        ({"likelihood": {"log_s": True}}, "Invalid log_s=True: expected loss='rle' and variant='paper'"),
        ({"preprocess": "caffe"}, "preprocess='caffe': expected one of imagenet, posenet, rle_official"),
        ({"outside": "drop"}, "outside='drop': expected 'keep' or 'mask'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        likelihood = Likelihood(**options.pop("likelihood", {}))
        make(likelihood, **options)


def test_preprocessing_is_the_published_one():
    image = np.asarray([[[10, 100, 200]]], np.uint8)
    np.testing.assert_allclose(
        tasks.IMAGENET(jnp.asarray(image))[0, 0],
        (image[0, 0] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        tasks.RLE_OFFICIAL(jnp.asarray(image))[0, 0], image[0, 0] / 255 - [0.406, 0.457, 0.480], rtol=1e-5, atol=1e-6
    )
