"""The residual U-Net and the heads that read the columns of a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import tasks
from jaxpose.nets import ColumnRegressor, ColumnSoftmax, ResUNet
from jaxpose.nets.resunet import upsample


def test_upsampling_keeps_the_corners_and_is_linear_between_them():
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 2)).astype(np.float32)
    y = np.asarray(upsample(jnp.asarray(x)))
    rows = np.apply_along_axis(lambda v: np.interp(np.linspace(0, 2, 6), np.arange(3), v), 1, x)
    want = np.apply_along_axis(lambda v: np.interp(np.linspace(0, 3, 8), np.arange(4), v), 2, rows)
    np.testing.assert_allclose(y, want, atol=1e-6)
    np.testing.assert_array_equal(upsample(jnp.ones((1, 1, 1, 3))), np.ones((1, 2, 2, 3)))


def test_a_column_is_read_by_a_layer_that_all_columns_share():
    net = ColumnRegressor(ResUNet(width=4, levels=1), 3, sigma_bias=-1.0)
    images = jax.random.normal(jax.random.key(0), (1, 8, 5))
    variables = net.init(jax.random.key(1), images)
    assert variables["params"]["kernel"].shape == (8, 4, 6)
    mu, sigma = net.apply(variables, images)
    features = np.asarray(ResUNet(width=4, levels=1).apply(
        {"params": variables["params"]["backbone"], "batch_stats": variables["batch_stats"]["backbone"]}, images
    ))  # fmt: skip
    raw = features[0, :, 2].ravel() @ np.asarray(variables["params"]["kernel"]).reshape(-1, 6) / np.sqrt(32)
    np.testing.assert_allclose(mu[0, 2], raw[:3], atol=1e-5)
    np.testing.assert_allclose(sigma, np.full((1, 5, 3), 1 / (1 + np.e)), atol=1e-6)  # raw[3:] is 0 at the start
    assert np.abs(raw[3:]).max() == 0 and np.abs(raw[:3]).max() > 0
    wider, _ = net.apply(variables, jnp.concatenate([images, images], 2))
    assert wider.shape == (1, 10, 3)


def test_the_softmax_head_gives_mean_and_deviation_of_each_column():
    net = ColumnSoftmax(ResUNet(width=4, levels=1), 2)
    images = jax.random.normal(jax.random.key(0), (2, 8, 3))
    variables = net.init(jax.random.key(1), images)
    mu, sigma, logits = net.apply(variables, images, with_maps=True)
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = np.arange(8)[:, None, None]
    mean = (q * rows).sum(1)
    np.testing.assert_allclose((np.asarray(mu) + 0.5) * 8, mean, atol=1e-4)
    np.testing.assert_allclose(np.asarray(sigma) * 8, np.sqrt((q * rows**2).sum(1) - mean**2), atol=1e-3)


@pytest.mark.parametrize("net", [ColumnRegressor(ResUNet(8, 3), 8, -1.0), ColumnSoftmax(ResUNet(8, 3), 8)])
def test_a_checkpoint_can_rebuild_them(net):
    assert tasks.describe.build(tasks.describe.describe(net)) == net


def test_the_published_size():
    net = ColumnRegressor(ResUNet(), 8)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 224, 16)))
    assert np.prod(shapes["params"]["kernel"].shape) == 229_376 == 64 * 224 * 16
    assert jax.eval_shape(net.apply, shapes, jnp.zeros((1, 224, 768)))[0].shape == (1, 768, 8)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"scans of shape \(1, 10, 8\): .* multiples of 4"):
        ResUNet(levels=3).init(jax.random.key(0), jnp.zeros((1, 10, 8)))
    with pytest.raises(ValueError, match="width=0"):
        ResUNet(width=0)
