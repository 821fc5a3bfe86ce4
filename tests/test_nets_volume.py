"""Volumes: the order of the channels, the soft-argmax in space, and both released heads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import heatmap, losses
from jaxpose.nets import HeatmapNet, MapHead, ResNet, VolumeRegressor
from jaxpose.nets.volume import volumes
from jaxpose.weights.fill import fill
from jaxpose.weights.volumes import integral_head


def bump(centre, size, width=1.0):
    """A Gaussian volume (D, h, w) about a centre (x, y, z)."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return np.exp(-squared / (2 * width**2))


def test_a_channel_is_joint_and_depth():
    joints = np.stack([bump((3, 5, 2), (4, 8, 6)), bump((1, 2, 1), (4, 8, 6))])  # (K, D, h, w)
    maps = np.moveaxis(joints.reshape(8, 8, 6), 0, -1)[None]
    volume = volumes(jnp.asarray(maps), 2)
    np.testing.assert_allclose(volume[0], np.moveaxis(joints, 0, -1), rtol=1e-6)
    with pytest.raises(ValueError, match="multiple of 3 joints"):
        volumes(jnp.asarray(maps), 3)


def test_the_compensated_soft_argmax_in_space_is_free_of_the_background():
    volume = jnp.asarray(bump((10, 6, 5), (16, 16, 16), 1.5))[..., None]
    plain, _ = heatmap.soft_argmax(volume, beta=10.0, ndim=3)
    exact, _ = heatmap.soft_argmax(volume, beta=10.0, ndim=3, compensate=True)
    np.testing.assert_allclose(exact[0], (10, 6, 5), atol=0.02)
    assert np.abs(np.asarray(plain[0]) - (10, 6, 5)).max() > 0.1


def test_parameters_as_published():
    net = VolumeRegressor(HeatmapNet(ResNet(depth=50), 18 * 64))
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))["params"]
    sigma = shapes.pop("sigma")
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 34_291_392 and sigma["kernel"].shape == (2048, 54)


def test_bins_are_checked():
    with pytest.raises(ValueError, match="bins=1"):
        VolumeRegressor(HeatmapNet(ResNet(depth=18, width=4), 18), bins=1)


@pytest.mark.reference
def test_released_heads_and_readouts(golden):
    case, integral = golden("three_d/metrics3d"), golden("integral")
    with jax.enable_x64(True):
        double = lambda x: jnp.asarray(x, jnp.float64)  # noqa: E731
        head, params, stats = MapHead(24, deconvs=(5, 5, 5)), {}, {}
        for i in range(3):
            w = case[f"int_head.features.{3 * i}.weight"]
            params[f"deconv_layers_{3 * i}"] = {"kernel": double(w).transpose(2, 3, 1, 0)}
            bn = {
                k: double(case[f"int_head.features.{3 * i + 1}.{k}"])
                for k in ("weight", "bias", "running_mean", "running_var")
            }
            params[f"deconv_layers_{3 * i + 1}"] = {"scale": bn["weight"], "bias": bn["bias"]}
            stats[f"deconv_layers_{3 * i + 1}"] = {"mean": bn["running_mean"], "var": bn["running_var"]}
        final = case["int_head.features.9.weight"]
        params["final_layer"] = {
            "kernel": double(final).transpose(2, 3, 1, 0),
            "bias": double(case["int_head.features.9.bias"]),
        }
        x = double(case["int_head_x"]).transpose(0, 2, 3, 1)
        template = jax.eval_shape(head.init, jax.random.key(0), x)
        assert jax.tree.map(np.shape, template["params"]) == jax.tree.map(np.shape, params)
        out = head.apply({"params": params, "batch_stats": stats}, x)
        np.testing.assert_allclose(out.transpose(0, 3, 1, 2), case["int_head_out"], rtol=1e-6, atol=1e-6)

        class Head(MapHead):
            def example_input(self):
                return jax.ShapeDtypeStruct(x.shape, x.dtype)

        prefix = "int_head."  # as a file's "head."
        state = {
            f"head.{n.removeprefix(prefix)}": case[n] for n in case.arrays.files if n.startswith(f"{prefix}features.")
        }
        state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
        names, deconvs, maps = integral_head(state)
        assert (deconvs, maps) == ((5, 5, 5), 24)
        imported = fill(Head(maps, deconvs=deconvs), state, names, "integral_3d")
        out = head.apply(imported, x).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(out, case["int_head_out"], rtol=1e-6, atol=1e-6)

        logits = double(integral["vol3d_logits"]).transpose(0, 2, 3, 1)
        size = np.array([10, 12, 8])
        xyz, _ = heatmap.soft_argmax(volumes(logits, 4), ndim=3)
        np.testing.assert_allclose(
            (xyz / size - 0.5).reshape(2, 12), integral["vol3d_coords_f64"], rtol=1e-9, atol=1e-12
        )

        maps = double(case["mppe_heatmaps"]).transpose(0, 2, 3, 1)
        seen = double(case["mppe_vis"])[..., 0] > 0
        has_depth = double(case["mppe_have_depth"])[:, None, :]

        def loss(maps):
            bins, _ = heatmap.soft_argmax(volumes(maps, 4), ndim=3)  # PoseNet counts pixels and bins
            error = losses.l1(bins, double(case["mppe_target"]), where=seen)
            error = jnp.concatenate([error[..., :2], error[..., 2:] * has_depth], -1).sum(-1) / 3
            return error.mean(), (bins, error)

        (_, (bins, error)), gradient = jax.value_and_grad(loss, has_aux=True)(maps)
        np.testing.assert_allclose(bins, case["mppe_coord"], rtol=1e-6)
        np.testing.assert_allclose(error, case["mppe_loss_per_joint"], rtol=1e-6, atol=1e-9)
        by_channel = np.abs(gradient).sum((1, 2))
        np.testing.assert_allclose(by_channel, case["mppe_dheatmaps_of_mean_absum"], rtol=1e-6, atol=1e-9)
