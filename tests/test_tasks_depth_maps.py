"""Joints in 2.5D: pixel and depth under the same weights, losses, flip test, the stored task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpose import heatmap, tasks
from jaxpose.skeleton import RHD21
from jaxpose.tasks import DepthLoss, JointLoss, MapLoss, Readout

SIZE, K = (32, 32), 21


class Fixed(nn.Module):
    """Maps that are parameters, whatever the image."""

    @nn.compact
    def __call__(self, images, *, train):
        maps = self.param("maps", nn.initializers.normal(0.3), (1, 8, 8, 2 * K))
        return jnp.broadcast_to(maps, (len(images), 8, 8, 2 * K))


COMPENSATED = Readout("soft_argmax", beta=10.0, compensate=True)


def make(read=COMPENSATED, **options):
    return tasks.depth_maps(Fixed(), skeleton=RHD21, size_wh=SIZE, read=read, **options)


def batch(seed=0, count=2):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.zeros((count, 32, 32, 3), jnp.uint8),
        "joints": jnp.asarray(rng.uniform(2, 29, (count, K, 2)), jnp.float32),
        "visibility": jnp.full((count, K), 2, jnp.int8),
        "depth": jnp.asarray(rng.normal(0, 2, (count, K)), jnp.float32),
        "depth_where": jnp.ones((count, K), bool),
    }


def with_maps(maps):
    return {"params": {"net": {"maps": jnp.asarray(maps, jnp.float32)}}, "batch_stats": {}}


@pytest.mark.parametrize("compensate", [False, True])
def test_depth_is_the_mean_under_the_weights_of_the_pixel(compensate):
    rng = np.random.default_rng(0)
    xy = rng.uniform(2, 5, (3, 2))
    maps = np.asarray(heatmap.gaussian(jnp.asarray(xy), (8, 8), sigma=1.0), np.float64)
    depth = rng.normal(0, 2, (8, 8, 3))
    weights = np.expm1(10 * maps) if compensate else np.exp(10 * maps)
    weights /= weights.sum((0, 1))
    xy, mean, _ = heatmap.soft_argmax_depth(maps, depth, beta=10.0, compensate=compensate)
    np.testing.assert_allclose(mean, (weights * depth).sum((0, 1)), rtol=2e-5)
    np.testing.assert_array_equal(xy, heatmap.soft_argmax(maps, beta=10.0, compensate=compensate)[0])


def test_the_background_pulls_a_plain_depth_and_not_a_compensated_one():
    maps = heatmap.gaussian(jnp.array([[16.0, 16.0]]), (64, 64), sigma=1.0)
    depth = jnp.where(maps > 1e-4, 2.0, -2.0)
    plain, compensated = (
        float(heatmap.soft_argmax_depth(maps, depth, beta=5.0, compensate=c)[1][0]) for c in (False, True)
    )
    assert plain < 0.5 and compensated == pytest.approx(2.0, abs=2e-3)


def test_a_depth_stays_within_its_map_and_a_flat_map_gives_zero():
    rng = np.random.default_rng(0)
    maps, depth = rng.normal(0, 1, (100, 8, 8, 1)), rng.normal(0, 1, (100, 8, 8, 1))
    for floor in (1e-3, 0.1):
        _, mean, _ = heatmap.soft_argmax_depth(maps, depth, beta=3.0, compensate=True, floor=floor)
        assert ((mean >= depth.min((1, 2)) - 1e-5) & (mean <= depth.max((1, 2)) + 1e-5)).all()
    assert float(heatmap.soft_argmax_depth(np.zeros((8, 8, 1)), depth[0], compensate=True)[1][0]) == 0
    with pytest.raises(ValueError, match="logits and depth must have one shape"):
        heatmap.soft_argmax_depth(maps, depth[..., :4, :])


def test_maps_of_the_labels_are_predicted_back():
    example = batch(count=1)
    xy = np.asarray(example["joints"][0]) / 4
    maps = np.asarray(heatmap.gaussian(jnp.asarray(xy), (8, 8), sigma=0.8))
    depths = np.broadcast_to(np.asarray(example["depth"][0]), (8, 8, K))
    outputs = make().predict(with_maps(np.concatenate([maps, depths], -1)[None]), example, flip_test=False)
    np.testing.assert_allclose(outputs["depth"], example["depth"], atol=1e-4)
    assert np.abs(outputs["xy"] - example["joints"]).max() < 2.0  # the Gaussian is cut by the border of a small map
    assert set(outputs) == set(make().outputs)


def test_the_loss_ignores_what_is_not_known():
    task, example = make(maps=MapLoss("mse", sigma=1.0)), batch()
    variables = task.init(jax.random.key(0))

    @jax.jit
    def loss(variables, batch):
        return jax.value_and_grad(lambda v: task.loss(v, batch, key=jax.random.key(1))[0])(variables)

    is_known = np.ones((2, K), bool)
    is_known[0], is_known[1, 3] = False, False
    garbage = {**example, "depth_where": jnp.asarray(is_known), "depth": jnp.where(is_known, example["depth"], jnp.nan)}
    value, gradient = loss(variables, garbage)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    zeros = {**garbage, "depth": jnp.where(is_known, example["depth"], 0.0)}
    assert float(loss(variables, zeros)[0]) == float(value)
    without = float(loss(variables, {**example, "depth_where": jnp.zeros((2, K), bool)})[0])
    flat = {k: v for k, v in example.items() if not k.startswith("depth")}
    assert float(loss(variables, flat)[0]) == pytest.approx(without, rel=1e-6)
    assert without < float(loss(variables, example)[0])


def test_the_flip_test_mirrors_pixels_and_not_depths():
    class Seen(nn.Module):
        """A bump and a depth at the brightest pixel of each image."""

        def __call__(self, images, *, train):
            grey = images.mean(-1, keepdims=True)
            grey = (grey - grey.min()) / (grey.max() - grey.min())
            return jnp.concatenate([jnp.repeat(grey, K, -1), jnp.repeat(3.0 * grey, K, -1)], -1)

    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[0, 10, 5] = 255
    task = tasks.depth_maps(Seen(), skeleton=RHD21, size_wh=SIZE, read=COMPENSATED)
    outputs = task.predict({"params": {"net": {}}, "batch_stats": {}}, {"image": jnp.asarray(images)})
    np.testing.assert_allclose(outputs["xy"][0, 0], [5.0, 10.0], atol=1e-3)
    np.testing.assert_allclose(outputs["depth"], 3.0, atol=1e-4)


def test_a_stored_task_is_the_same_and_a_peak_has_no_depth():
    from jaxpose.nets import HeatmapNet, ResNet

    net = HeatmapNet(ResNet(depth=18, width=4), 2 * K, deconvs=(8,))
    task = tasks.depth_maps(net, skeleton=RHD21, size_wh=SIZE, depth=DepthLoss("smooth_l1", weight=0.3))
    again = tasks.from_config(task.config)
    assert again.config == task.config and type(again) is tasks.DepthMaps and again.depth_loss == task.depth_loss
    assert isinstance(task, tasks.ImageTask)
    with pytest.raises(ValueError, match="read.decode='argmax': a depth is the mean of its map"):
        make(read=Readout())
    with pytest.raises(ValueError, match="no loss to train with"):
        make(joints=JointLoss())
    with pytest.raises(ValueError, match=r"expected \(1, h, w, 42\)"):
        short = tasks.depth_maps(HeatmapNet(ResNet(depth=18, width=4), K, deconvs=()), skeleton=RHD21, size_wh=SIZE)
        jax.eval_shape(lambda: short.predict(short.init(jax.random.key(0)), {"image": jnp.zeros((1, 32, 32, 3))}))
