"""HigherHRNet and SWAHR: counts, channel orders, options; and the reference's numbers through the weight importer."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import coco_debias, coco_hrnet, coco_rle, coco_swahr
from experiments.common import families
from jaxpose import weights
from jaxpose.nets import HigherHRNet, HRNet, layers
from jaxpose.skeleton import COCO17
from jaxpose.tasks.describe import build, describe
from tests.torch_states import sine_weights

KEY = jax.random.key(0)


def shapes(net, size=(64, 96)):
    return jax.eval_shape(lambda: net.init_with_output(KEY, jnp.zeros((2, *size, 3))))


@pytest.mark.parametrize(
    ("net", "count", "channels"),
    [
        (HigherHRNet(HRNet(32), 17), 28_645_331, (34, 17)),
        (HigherHRNet(HRNet(32), 17, scale=True), 28_649_309, (51, 34)),
        (HigherHRNet(HRNet(32), 17, scale=True, dilations=(1, 1, 2, 2)), 28_649_309, (51, 34)),
        (HigherHRNet(HRNet(48), 14, tags=False), None, (14, 14)),
    ],
)
def test_published_parameter_counts(net, count, channels):
    (coarse, fine), variables = shapes(net)
    assert coarse.shape == (2, 16, 24, channels[0]) and fine.shape == (2, 32, 48, channels[1])
    found = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert found == count if count else 63e6 < found < 64e6


class Stem(HRNet):
    """A backbone of one convolution that stands for HRNet where compile time matters."""

    def __call__(self, images, *, train=False):
        x = images[:, ::4, ::4]
        return jnp.concatenate([x] * (self.width // 3 + 1), -1)[..., : self.width]


def tiny(dilations=(1,), **options):
    images = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)
    return HigherHRNet(Stem(6), 5, dilations=dilations, **options), images


def positive(net, images):
    """Variables of the net that are all between 0.1 and 0.4."""
    shaped, rng = jax.eval_shape(net.init, KEY, images), np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.4, leaf.shape).astype(np.float32), shaped)


def test_alpha_starts_at_0_and_the_other_maps_do_not_see_it():
    net, images = tiny(scale=True)
    variables, apply = jax.jit(net.init)(KEY, images), jax.jit(net.apply)
    coarse, fine = net.split(apply(variables, images))
    assert list(coarse) == ["alpha", "heatmap", "tag"] and list(fine) == ["alpha", "heatmap"]
    assert not coarse["alpha"].any() and not fine["alpha"].any() and fine["heatmap"].any()
    bias = variables["params"]["conv_scale_layers_0_3"]["bias"]
    moved = jax.tree.map(lambda leaf: leaf, variables)
    moved["params"]["conv_scale_layers_0_3"]["bias"] = bias + 1
    again, fine_again = net.split(apply(moved, images))
    np.testing.assert_array_equal(again["alpha"], 1)
    for before, after in ((coarse["tag"], again["tag"]), (fine["heatmap"], fine_again["heatmap"])):
        np.testing.assert_array_equal(before, after)


def test_gradients_reach_every_parameter_and_statistics_move():
    net, images = tiny(scale=True)
    variables = positive(net, images)

    @jax.jit
    @jax.grad
    def gradient(params):
        maps, _ = net.apply({**variables, "params": params}, images, train=True, mutable="batch_stats")
        return sum(jnp.square(m - 1).mean() for m in maps)

    found = gradient(variables["params"])
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(found))


def test_dilation_widens_what_a_pixel_sees():
    seen = {}
    for dilations in ((1, 2), (2, 2)):
        net, images = tiny(dilations=dilations)
        dots = np.zeros(images.shape, np.float32)
        dots[0, 16, 24] = 1
        fine = np.asarray(jax.jit(net.apply)(positive(net, images), dots)[1])
        columns = np.flatnonzero(np.abs(fine[0] - fine[1]).sum((0, 2)))
        seen[dilations] = columns[-1] - columns[0]
    # Of a deconvolution 4 columns are reached, and on each side 1 more by a 3x3 convolution, 2 if dilated.
    assert seen == {(1, 2): 3 + 2 * (2 + 4), (2, 2): 3 + 2 * (4 + 4)}


def test_bfloat16_gives_float32_maps():
    net = HigherHRNet(HRNet(4, dtype=jnp.bfloat16), 3, scale=True, dtype=jnp.bfloat16)
    maps, variables = shapes(net, (64, 64))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((maps, variables))} == {"float32"}


@pytest.mark.parametrize("layout", ["higher_hrnet", "swahr"])
def test_layouts_name_every_tensor(layout):
    net = HigherHRNet(HRNet(4), 5, scale=layout == "swahr")
    tensors = weights.torch_tensors(shapes(net, (32, 32))[1], {"backbone.": ""})
    state = {name: np.full(shape, i, np.float32) for i, (name, (_, shape)) in enumerate(tensors.items())}
    expected = {"final_layers.0.weight": (10, 4, 1, 1), "final_layers.1.bias": (5,), "conv1.weight": (64, 3, 3, 3)}
    expected |= {"deconv_layers.0.0.0.weight": (14, 4, 4, 4), "deconv_layers.0.0.1.running_var": (4,)}
    expected |= {f"deconv_layers.0.{i}.0.conv2.weight": (4, 4, 3, 3) for i in (1, 4)}
    if layout == "swahr":
        expected |= {"conv_scale_layers.0.0.bias": (5,), "conv_scale_layers.1.1.weight": (5,)}
        expected |= {"conv_scale_layers.1.3.weight": (5, 1, 9, 9), "conv_scale_layers.1.0.weight": (5, 4, 1, 1)}
    assert {name: state[name].shape for name in expected} == expected
    found, variables = weights.from_torch({f"module.{name}": value for name, value in state.items()}, layout=layout)
    assert found == net
    kernel = variables["params"]["deconv_layers_0_2_0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0, 0, 0], state["deconv_layers.0.2.0.conv1.weight"][0, 0, 0, 0])
    if layout == "swahr":
        with pytest.raises(ValueError, match="layout='higher_hrnet'.*left over: conv_scale_layers"):
            weights.from_torch(state, layout="higher_hrnet")
    with pytest.raises(ValueError, match="final_layers have 9 and 5 maps"):
        weights.from_torch(state | {"final_layers.0.weight": np.ones((9, 4, 1, 1))}, layout=layout)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), [("higherhrnet_w32", "higher_hrnet"), ("swahr_w32", "swahr")])
def test_the_nets_match_the_reference(name, layout, golden, golden_json):
    reference, expected = golden_json("backbones"), golden("backbones")
    if name not in reference["models"]:
        pytest.skip(f"{name} is not in tests/golden: needs --golden DIR")
    model = reference["models"][name]
    net, variables = weights.from_torch(sine_weights(reference, model), layout=layout)
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == model["n_params"]
    y, x, c = np.mgrid[:128, :128, :3]
    image = (0.5 * np.sin(0.05 * (y + 1) * (c + 1)) + 0.5 * np.cos(0.03 * (x + 1))).astype(np.float32)[None]
    for k, maps in enumerate(jax.jit(net.apply)(variables, image)):
        found = np.asarray(maps)[0].transpose(2, 0, 1)
        want = expected[f"{name}.out{k}_sub"]
        np.testing.assert_allclose(found[:, ::2, ::2], want, atol=1e-4 * np.abs(want).max())
        scale = expected[f"{name}.out{k}_chan_std"].max()
        np.testing.assert_allclose(found.mean((1, 2)), expected[f"{name}.out{k}_chan_mean"], atol=1e-4 * scale)
        np.testing.assert_allclose(found.std((1, 2)), expected[f"{name}.out{k}_chan_std"], atol=1e-4 * scale)
        assert found.reshape(len(found), -1).argmax(1).tolist() == expected[f"{name}.out{k}_argmax"].tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HigherHRNet(HRNet(4), 0), "num_joints=0"),
        (lambda: HigherHRNet(HRNet(4), 5, dilations=(1, 0)), r"dilations=\(1, 0\)"),
        (
            lambda: HigherHRNet(HRNet(4), 5).split((jnp.zeros((1, 4, 4, 5)),) * 2),
            r"stage 0 .*\(1, 4, 4, 5\): expected 10",
        ),
    ],
)
def test_errors_name_what_was_given(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def starts(net, monkeypatch) -> dict[str, int]:
    """How many kernels of convolutions without bias start by each initializer; shapes alone are traced."""
    counts = {"he": 0, "narrow": 0}

    def counting(name):
        def initialize(key, shape, dtype):
            counts[name] += 1
            return jnp.zeros(shape, dtype)

        return initialize

    monkeypatch.setattr(layers, "KERNEL_INITS", {name: counting(name) for name in counts})
    jax.eval_shape(lambda x: net.init(jax.random.key(0), x), jnp.zeros((1, 64, 64, 3)))
    return counts


def test_the_convolutions_of_the_presets_start_as_in_the_published_code(monkeypatch):
    """QUIRK H6: init_weights of pose_hrnet.py and pose_higher_hrnet.py sets every convolution to N(0, 0.001^2)."""
    values = layers.initializer("narrow")(jax.random.key(0), (3, 3, 32, 32), jnp.float32)
    assert float(values.std()) == pytest.approx(0.001, rel=0.03)
    assert float(layers.initializer("he")(jax.random.key(0), (3, 3, 32, 32), jnp.float32).std()) > 0.08
    for preset in ("w32_512", "w48_640", "higher_w32_512", "higher_w48_640"):
        config = dataclasses.replace(coco_swahr.PRESETS[preset], width=4, size_wh=(64, 64))
        task = families.bottom_up_task(config, COCO17)
        assert task.net.kernel_init == task.net.backbone.kernel_init == "narrow"
    counts = starts(task.net, monkeypatch)
    assert counts["he"] == 0 and counts["narrow"] > 250
    old = starts(HigherHRNet(HRNet(4), 17), monkeypatch)
    assert old == {"he": counts["narrow"], "narrow": 0}
    nets = [coco_hrnet.PRESETS[name] for name in ("w32", "w48_384", "mmpose", "dark")] + [coco_rle.PRESETS["hrnet_w32"]]
    assert {config.kernel_init for config in nets + [coco_debias.PRESETS["hrnet_w32"]]} == {"narrow"}
    assert {coco_hrnet.PRESETS["tiny"].kernel_init, coco_swahr.PRESETS["tiny"].kernel_init} == {"he"}


def test_a_net_from_before_there_was_a_choice_has_the_description_that_it_had():
    net = HigherHRNet(HRNet(4), 17)
    assert "kernel_init" not in json.dumps(describe(net)) and build(describe(net)) == net
    narrow = HigherHRNet(HRNet(4, kernel_init="narrow"), 17, kernel_init="narrow")
    assert build(json.loads(json.dumps(describe(narrow)))) == narrow
    with pytest.raises(ValueError, match="kernel_init='wide': expected one of he, narrow"):
        HRNet(4, kernel_init="wide")
