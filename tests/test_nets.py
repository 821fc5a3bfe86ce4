"""The nets: topology, batch normalisation as PyTorch defines it, and the heads' formulas. Golden numbers: test_weights_layouts.py."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpose.nets import HeatmapNet, HRNet, MobileNetV2, MultiStageNet, PoseRegressor, RegressionHead, ResNet
from jaxpose.nets.deconv import deconvolve
from jaxpose.nets.depthwise import convolve_depthwise
from jaxpose.nets.heads import unit
from jaxpose.nets.layers import BatchNorm, compute_dtype, convolve, max_pool
from jaxpose.nets.mobilenet import InvertedResidual

KEY = jax.random.key(0)
QUICK = {"xla_backend_optimization_level": 0}  # for nets that run once: compiling is what takes the time


def normal(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def shapes(net, size=(64, 48)):
    images = jnp.zeros((2, *size, 3))
    return jax.eval_shape(lambda: net.init_with_output(KEY, images))


@pytest.mark.parametrize(("depth", "expansion"), [(18, 1), (34, 1), (50, 4), (101, 4), (152, 4)])
def test_feature_maps(depth, expansion):
    net = ResNet(depth=depth, width=8)
    features, _ = shapes(net)
    assert features.shape == (2, 2, 2, 64 * expansion) and net.num_features == 64 * expansion
    assert shapes(net, (65, 31))[0].shape == (2, 3, 1, 64 * expansion)


def test_a_strided_stem_computes_nothing_at_stride_2():
    images = jnp.zeros((2, 64, 48, 3))
    pooled, strided = ResNet(18, width=8, stages=2), ResNet(18, width=8, stages=2, stem="strided")
    sizes = [jax.tree.map(jnp.shape, jax.eval_shape(net.init, KEY, images)) for net in (pooled, strided)]
    assert sizes[0] == sizes[1], "the same parameters"
    _, seen = jax.eval_shape(
        lambda: strided.apply(strided.init(KEY, images), images, capture_intermediates=True, mutable="intermediates")
    )
    assert seen["intermediates"]["conv1"]["__call__"][0].shape == (2, 16, 12, 8)
    assert shapes(strided)[0].shape == shapes(pooled)[0].shape == (2, 8, 6, 16)
    assert shapes(strided, (65, 31))[0].shape == shapes(pooled, (65, 31))[0].shape
    with pytest.raises(ValueError, match="stem='fast': expected 'pooled' or 'strided'"):
        ResNet(18, stem="fast")


def test_the_stride_of_a_bottleneck_is_on_its_3x3():
    """Of torchvision; the first bottleneck net had it on the first 1x1, with the same parameters."""
    images = jnp.zeros((1, 64, 64, 3))
    net = ResNet(depth=50, width=8)
    variables = jax.eval_shape(net.init, KEY, images)
    _, seen = jax.eval_shape(
        lambda v: net.apply(v, images, capture_intermediates=True, mutable="intermediates"), variables
    )
    block = seen["intermediates"]["layer2_0"]
    assert block["conv1"]["__call__"][0].shape == (1, 16, 16, 16)
    assert block["conv2"]["__call__"][0].shape == (1, 8, 8, 16)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_the_sum_it_stands_for(size, stride):
    x, kernel = np.asarray(normal(2, 7, 6, 3)), np.asarray(normal(size, size, 3, 4, seed=2))
    p = size // 2
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    want = sum(
        padded[:, i : i + 7 : stride, j : j + 6 : stride] @ kernel[i, j] for i in range(size) for j in range(size)
    )  # fmt: skip
    np.testing.assert_allclose(convolve(jnp.asarray(x), jnp.asarray(kernel), stride=stride), want, rtol=1e-4, atol=1e-4)


def test_max_pool_of_negative_values_ignores_the_padding():
    np.testing.assert_array_equal(max_pool(-jnp.ones((1, 5, 4, 2))), -np.ones((1, 3, 2, 2)))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 6), (6, 5)])
def test_max_pool_is_the_window_reduction_in_value_and_gradient(size):
    def of(pool):
        return lambda x: (pool(x), jax.grad(lambda x: jnp.square(pool(x)).sum())(x))

    def window(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    x = normal(2, *size, 3)
    for ours, reference in zip(of(max_pool)(x), of(window)(x), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-6)


def test_batch_norm_of_a_channel_far_from_zero_does_not_cancel():
    """E[x^2] - E[x]^2 of 1e4 +- 1 in float32 is off by whole units; once the running mean is near, ours is not."""
    x = normal(4, 8, 8, 2) + 1e4
    bn = BatchNorm()
    variables = bn.init(KEY, x, train=True)
    variables["batch_stats"]["mean"] = jnp.full(2, 1e4 - 3)
    out, _ = bn.apply(variables, x, train=True, mutable="batch_stats")
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(out, expected, atol=2e-3)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_is_pytorchs(groups):
    x = 3 + 2 * normal(4, 3, 2, 5)
    bn = BatchNorm(groups)
    variables = bn.init(KEY, x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(5))  # init leaves them alone
    y, update = bn.apply(variables, x, train=True, mutable="batch_stats")
    parts = np.asarray(x, np.float64).reshape(groups, -1, 5)
    mean, var = parts.mean(1, keepdims=True), parts.var(1, keepdims=True)
    np.testing.assert_allclose(y, ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape), atol=1e-5)
    stats = update["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean.mean(0)[0], rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * parts.var(1, ddof=1).mean(0), rtol=1e-5)
    still = bn.apply({"params": variables["params"], "batch_stats": stats}, x, train=False)
    want = (np.asarray(x) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(still, want, atol=1e-5)


@pytest.mark.parametrize(("batch", "message"), [(3, "batch of 3 .*batch_groups=2"), (2, "one value per channel")])
def test_batch_groups_have_to_suit_the_batch(batch, message):
    net = ResNet(depth=18, width=4, batch_groups=2)
    images = jnp.zeros((batch, 32, 32, 3))
    variables = jax.eval_shape(net.init, KEY, images)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda v: net.apply(v, images, train=True, mutable="batch_stats"), variables)


def test_bfloat16_keeps_float32_parameters_and_outputs():
    net = PoseRegressor(ResNet(depth=18, width=8, dtype=jnp.bfloat16), RegressionHead(5))
    (mu, sigma), variables = shapes(net)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert mu.dtype == sigma.dtype == jnp.float32
    assert jax.eval_shape(net.backbone.apply, {k: v["backbone"] for k, v in variables.items()}, jnp.zeros((1, 32, 32, 3))).dtype == (
        jnp.bfloat16
    )  # fmt: skip


def test_float64_is_kept():
    with jax.enable_x64(True):
        net = PoseRegressor(ResNet(depth=18, width=4), RegressionHead(5, kind="normalized"))
        variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float64), shapes(net)[1])
        mu, sigma = jax.eval_shape(net.apply, variables, jnp.zeros((1, 32, 32, 3), jnp.float64))
        assert mu.dtype == sigma.dtype == jnp.float64


def test_running_statistics_keep_their_dtype():
    """Float64 images through a float32 net: a step that changed the state's dtypes would be compiled again and again."""
    with jax.enable_x64(True):
        bn = BatchNorm()
        x = normal(4, 3, 3, 2).astype(jnp.float64)
        variables = bn.init(KEY, x, train=True)
        _, updated = bn.apply(variables, x, train=True, mutable="batch_stats")
        assert jax.tree.map(jnp.dtype, updated["batch_stats"]) == jax.tree.map(jnp.dtype, variables["batch_stats"])
        assert variables["batch_stats"]["mean"].dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, bool])
def test_compute_dtype_is_floating(dtype):
    with pytest.raises(ValueError, match="floating type"):
        compute_dtype(dtype)


@pytest.mark.parametrize("dim", [2, 3])
def test_linear_head(dim):
    features = normal(3, 2, 4, 16)
    head = RegressionHead(5, dim=dim, kind="linear")
    variables = jax.tree.map(lambda p: normal(*p.shape), head.init(KEY, features))
    mu, sigma = head.apply(variables, features)
    fc = variables["params"]["fc"]
    out = (np.asarray(features).mean((1, 2)) @ fc["kernel"] + fc["bias"]).reshape(3, 5, 2, dim)
    np.testing.assert_allclose(mu, out[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(sigma, 1 / (1 + np.exp(-out[:, :, 1])), atol=1e-5)


def test_the_norm_of_the_normalized_head_is_guarded():
    head = RegressionHead(5, kind="normalized")
    variables = head.init(KEY, jnp.ones((1, 2, 2, 16)))

    def mu(features):
        return head.apply(variables, features)[0]

    zero = jnp.zeros((1, 2, 2, 16))
    np.testing.assert_allclose(mu(zero).ravel(), variables["params"]["coord"]["bias"], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda f: mu(f).sum())(zero)).all()
    f = normal(1, 2, 2, 16)
    np.testing.assert_allclose(mu(1e3 * f), mu(f), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_vectors_of_any_length(scale):
    f = normal(4, 8)
    np.testing.assert_allclose(jnp.linalg.norm(unit(scale * f), axis=-1), 1, rtol=1e-6)
    jacobian = jax.jacrev(unit)(f[0])
    u = np.asarray(unit(f[0]))
    want = (np.eye(8) - np.outer(u, u)) / np.linalg.norm(f[0])
    np.testing.assert_allclose(jacobian, want, atol=1e-5)


@pytest.mark.parametrize(("kind", "sigma"), [("linear", "fc"), ("normalized", "sigma")])
def test_sigma_bias_moves_sigma_only(kind, sigma):
    features = normal(1, 2, 2, 16)
    (mu, _), plain = RegressionHead(5, kind=kind, weight_init="mmpose").init_with_output(KEY, features)
    (moved_mu, start), moved = RegressionHead(5, kind=kind, weight_init="mmpose", sigma_bias=-1.0).init_with_output(
        KEY, features
    )
    np.testing.assert_array_equal(mu, moved_mu)
    np.testing.assert_allclose(start, 1 / (1 + np.e), atol=0.02)
    assert not np.array_equal(plain["params"][sigma]["bias"], moved["params"][sigma]["bias"])


def test_initial_weights():
    features = jnp.zeros((1, 1, 1, 400))
    official = RegressionHead(50, kind="normalized").init(KEY, features)["params"]
    for layer in official.values():
        bound = 0.01 * np.sqrt(6 / (400 + 100))
        assert 0.99 * bound < np.abs(layer["kernel"]).max() <= bound * (1 + 1e-6)
        assert 0.8 / 20 < np.abs(layer["bias"]).max() <= 1 / 20
    mmpose = RegressionHead(50, kind="linear").init(KEY, features)["params"]["fc"]
    assert not mmpose["bias"].any()
    np.testing.assert_allclose(mmpose["kernel"].std(), 0.01, rtol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(depth=20), "depth=20: expected one of 18, 34, 50, 101, 152"),
        (lambda: ResNet(width=0), "width=0"),
        (lambda: ResNet(batch_groups=0), "batch_groups=0"),
        (lambda: MobileNetV2(width=0.0), "width=0.0: expected a positive multiplier"),
        (lambda: MobileNetV2(width=float("nan")), "width=nan"),
        (lambda: MobileNetV2(batch_groups=0), "batch_groups=0"),
        (lambda: MobileNetV2().init(KEY, jnp.zeros((2, 3, 64, 48))), r"\(2, 3, 64, 48\): expected \(B, H, W, 3\)"),
        (lambda: MultiStageNet(17, depth=20), "depth=20: expected one of"),
        (lambda: MultiStageNet(0), "num_joints=0"),
        (lambda: MultiStageNet(17, stages=5), "stages=5: expected 1 to 4"),
        (lambda: MultiStageNet(17, deconvs=(8,)), r"deconvs=\(8,\): expected channels of two"),
        (lambda: MultiStageNet(17).init(KEY, jnp.zeros((1, 48, 64, 3))), r"\(1, 48, 64, 3\): MultiStageNet takes"),
        (lambda: RegressionHead(0), "num_joints=0"),
        (lambda: RegressionHead(17, dim=4), "dim=4"),
        (lambda: RegressionHead(17, kind="conv"), "kind='conv'"),
        (lambda: RegressionHead(17, weight_init="zeros"), "weight_init='zeros'"),
        (lambda: RegressionHead(17).init(KEY, jnp.zeros((2, 64))), r"\(2, 64\): expected \(B, h, w, C\)"),
        (
            lambda: ResNet(depth=18, width=4).init(KEY, jnp.zeros((2, 3, 64, 48))),
            r"\(2, 3, 64, 48\): expected \(B, H, W, 3\)",
        ),
        (lambda: ResNet(depth=18, width=4).init(KEY, jnp.zeros((2, 0, 48, 3))), r"\(2, 0, 48, 3\)"),
    ],
)
def test_errors_name_what_was_given(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_deconvolution_is_the_transpose_of_the_convolution():
    """<y, deconv(x)> = <conv(y), x>, with the 4x4 convolution of stride 2 and padding 1 that has the same kernel."""
    x, y, kernel = normal(2, 5, 4, 3), normal(2, 10, 8, 6, seed=2), normal(4, 4, 6, 3, seed=3)
    down = jax.lax.conv_general_dilated(
        y, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )  # fmt: skip
    np.testing.assert_allclose((y * deconvolve(x, kernel)).sum(), (down * x).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (HeatmapNet(ResNet(50), 17), 33_999_697),
        (HeatmapNet(HRNet(32), 17, deconvs=()), 28_536_113),
        (HeatmapNet(HRNet(48), 17, deconvs=()), 63_595_745),
    ],
)
def test_published_parameter_counts_of_heatmap_nets(net, count):
    maps, variables = shapes(net, (64, 96))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
    assert maps.shape == (2, 16, 24, 17)


# MobileNetV2


@pytest.mark.parametrize(("width", "params", "features"), [(1.0, 2_223_872, 1280), (1.4, 6_108_776 - 1_793_000, 1792)])
def test_published_parameter_counts_of_mobilenet(width, params, features):
    """Without the classifier to 1000 classes: 3,504,872 parameters at width 1 with it."""
    net = MobileNetV2(width)
    maps, variables = shapes(net, (65, 31))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == params
    assert maps.shape == (2, 3, 1, features) and net.num_features == features


@pytest.mark.parametrize("size", [(7, 6), (8, 5), (1, 2)])
@pytest.mark.parametrize(("width", "stride"), [(3, 1), (3, 2), (9, 1)])
def test_depthwise_convolution_is_the_grouped_one_in_value_and_gradient(size, width, stride):
    x, kernel, pad = normal(2, *size, 5), normal(width, width, 1, 5, seed=2), width // 2

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=5,
        )  # fmt: skip

    def of(convolution):
        def everything(x, kernel):
            y, back = jax.vjp(convolution, x, kernel)
            return y, *back(jnp.cos(y))

        return jax.jit(everything)(x, kernel)

    ours = of(lambda x, kernel: convolve_depthwise(x, kernel, stride=stride))
    eager = convolve_depthwise(np.asarray(x), np.asarray(kernel), stride=stride)  # as a checkpoint gives them
    np.testing.assert_allclose(eager, ours[0], rtol=1e-4, atol=1e-4)
    for a, b in zip(ours, of(grouped), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("expansion", "features", "stride"), [(6, 8, 1), (6, 16, 2), (1, 16, 1)])
def test_an_inverted_residual_is_pytorchs(expansion, features, stride):
    torch = pytest.importorskip("torch")
    x = normal(2, 7, 6, 8)
    block = InvertedResidual(features, stride, expansion, jnp.float32, 1)
    variables = block.init(KEY, x, train=True)
    variables["params"] = jax.tree.map(lambda p: p + 0.1 * normal(*p.shape, seed=3), variables["params"])

    hidden = 8 * expansion
    parts = {"expand": (8, hidden, 1, 1, 1), "depthwise": (hidden, hidden, 3, stride, hidden),
             "project": (hidden, features, 1, 1, 1)}  # fmt: skip
    layers = []
    for part, (inputs, outputs, size, step, groups) in list(parts.items())[expansion == 1 :]:
        conv = torch.nn.Conv2d(inputs, outputs, size, step, padding=size // 2, groups=groups, bias=False)
        bn = torch.nn.BatchNorm2d(outputs)
        own = {name: np.array(leaf) for name, leaf in variables["params"][f"{part}_bn"].items()}
        conv.weight.data = torch.tensor(np.array(variables["params"][f"{part}_conv"]["kernel"]).transpose(3, 2, 0, 1))
        bn.weight.data, bn.bias.data = torch.tensor(own["scale"]), torch.tensor(own["bias"])
        layers += [conv, bn, *([] if part == "project" else [torch.nn.ReLU6()])]
    net = torch.nn.Sequential(*layers).train()
    planes = torch.tensor(np.array(x).transpose(0, 3, 1, 2))
    want = net(planes) + (planes if stride == 1 and features == 8 else 0)

    got, updated = block.apply(variables, x, train=True, mutable="batch_stats")
    np.testing.assert_allclose(got, want.detach().numpy().transpose(0, 2, 3, 1), atol=1e-4)
    want_var = layers[-1].running_var.numpy()
    np.testing.assert_allclose(updated["batch_stats"]["project_bn"]["var"], want_var, rtol=1e-4)


def test_a_stride_of_2_has_no_shortcut_even_where_one_pixel_stays_one():
    x = normal(2, 1, 1, 8)
    block = InvertedResidual(8, 2, 1, jnp.float32, 1)
    variables = block.init(KEY, x, train=False)
    variables["params"]["project_bn"]["scale"] = jnp.zeros(8)
    assert not block.apply(variables, x, train=False).any()


def test_mobilenet_in_bfloat16():
    net = PoseRegressor(MobileNetV2(0.1, dtype=jnp.bfloat16), RegressionHead(3))
    (mu, _), variables = shapes(net)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"} and mu.dtype == jnp.float32
    features = jax.eval_shape(
        net.backbone.apply, {k: v["backbone"] for k, v in variables.items()}, normal(1, 32, 32, 3)
    )
    assert features.dtype == jnp.bfloat16

    block, wide = (InvertedResidual(8, 1, 6, dtype, 1) for dtype in (jnp.bfloat16, jnp.float32))
    x = normal(2, 6, 5, 8)
    variables = block.init(KEY, x, train=True)

    def run(block, params):
        return block.apply({**variables, "params": params}, x.astype(block.dtype), train=True, mutable="batch_stats")[0]

    np.testing.assert_allclose(
        run(block, variables["params"]).astype(jnp.float32), run(wide, variables["params"]), atol=0.1
    )
    gradient = jax.jit(jax.grad(lambda p: jnp.square(run(block, p) - 1).mean().astype(jnp.float32)))(
        variables["params"]
    )
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in leaves)


# The multi-stage net


@pytest.mark.parametrize(("depth", "stages"), [(50, 1), (50, 2), (50, 4), (18, 2)])
def test_stages_are_heatmap_nets_that_share_conv1_to_conv3(depth, stages):
    net = MultiStageNet(17, stages=stages, depth=depth)
    maps, variables = shapes(net, (64, 96))
    assert [m.shape for m in maps] == [(2, 8, 12, 17)] * stages
    plain = shapes(HeatmapNet(ResNet(depth), 17, deconvs=(256, 256)), (64, 96))[1]["params"]

    def size(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    shared = {name: leaf for name, leaf in plain["backbone"].items() if not name.startswith(("layer3", "layer4"))}
    # The first block of a later conv4 has 17 more inputs, for its first convolution and for its shortcut.
    wider = 17 * (256 + 1024) if depth == 50 else 17 * (9 * 256 + 256)
    assert size(variables["params"]) == size(plain) + (stages - 1) * (size(plain) - size(shared) + wider)


def test_one_stage_computes_what_the_heatmap_net_does():
    net = MultiStageNet(5, stages=1, depth=18, width=2, deconvs=(4, 4))
    plain = HeatmapNet(ResNet(18, width=2), 5, deconvs=(4, 4))
    x = normal(2, 64, 32, 3)
    leaves, tree = jax.tree.flatten(shapes(net, (64, 32))[1])
    draws = [0.1 + jnp.abs(0.3 * normal(*leaf.shape, seed=i)) for i, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(tree, draws)

    def regrouped(tree):
        """The names of the heatmap net."""
        stage = {name: leaf for name, leaf in tree["stage1"].items() if name.startswith("layer")}
        head = {name: leaf for name, leaf in tree["stage1"].items() if name not in stage}
        return {"backbone": {name: leaf for name, leaf in tree.items() if name != "stage1"} | stage} | head

    (maps,) = jax.jit(net.apply, compiler_options=QUICK)(variables, x)
    np.testing.assert_allclose(
        maps,
        jax.jit(plain.apply, compiler_options=QUICK)({k: regrouped(v) for k, v in variables.items()}, x),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_stage_sees_the_maps_of_the_one_before_only():
    net = MultiStageNet(5, stages=2, depth=18, width=2, deconvs=(4, 4), dtype=jnp.bfloat16)
    x = normal(2, 64, 64, 3)
    maps, variables = shapes(net, (64, 64))
    assert all(m.dtype == jnp.float32 for m in maps)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert variables["params"]["stage2"]["layer3_0"]["conv1"]["kernel"].shape == (3, 3, 4 + 5, 8)
    leaves, tree = jax.tree.flatten(variables["params"])
    params = jax.tree.unflatten(tree, [0.3 * normal(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])

    @partial(jax.jit, compiler_options=QUICK)
    def gradients(params):
        def maps(params):
            start = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables["batch_stats"])
            images = {"params": params, "batch_stats": start}
            return net.apply(images, x, train=True, mutable="batch_stats")[0]

        values, back = jax.vjp(maps, params)
        none = [jnp.zeros_like(m) for m in values]
        return back((values[0], none[1])), back((none[0], values[1]))

    for s, (gradient,) in enumerate(gradients(params), start=1):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        reached = {name for name, g in gradient.items() if any(np.asarray(leaf).any() for leaf in jax.tree.leaves(g))}
        assert {name for name in reached if name.startswith("stage")} == {f"stage{i}" for i in range(1, s + 1)}
        assert {"conv1", "layer2_1"} <= reached


def test_hrnet_takes_sizes_that_32_divides():
    with pytest.raises(ValueError, match=r"\(1, 48, 64, 3\): HRNet takes"):
        HRNet(width=4).init(KEY, jnp.zeros((1, 48, 64, 3)))


def test_a_heatmap_net_has_finite_gradients_and_moves_its_statistics():
    class Stem(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return BatchNorm()(convolve(x, jnp.ones((3, 3, 3, 4)) * 0.1, stride=2), train=train)

    net = HeatmapNet(Stem(), 3, deconvs=(4, 5))
    x = normal(2, 8, 6, 3)
    variables = net.init(KEY, x)

    @jax.jit
    def loss(params):
        maps, updated = net.apply({**variables, "params": params}, x, train=True, mutable="batch_stats")
        return jnp.square(maps - 1).mean(), updated["batch_stats"]

    gradient, statistics = jax.grad(loss, has_aux=True)(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), statistics, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_skips_add_the_map_of_the_same_resolution():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 64, 3)), jnp.float32)
    backbone = ResNet(18, width=2, stages=3)
    plain, skipping = (HeatmapNet(backbone, 3, deconvs=(4, 5), skips=skips) for skips in (False, True))
    variables = skipping.init(jax.random.key(0), images)
    assert (
        plain.apply(without_skips(variables), images).shape == skipping.apply(variables, images).shape == (2, 8, 16, 3)
    )
    for layer in ("skip_layers_1", "skip_layers_3"):  # each of the two maps counts, and is added
        changed = jax.tree.map(lambda leaf: leaf, variables)
        changed["params"][layer]["scale"] = jnp.full_like(changed["params"][layer]["scale"], 3.0)
        assert jnp.abs(skipping.apply(changed, images) - skipping.apply(variables, images)).max() > 1e-6
        variables["params"][layer]["scale"] = jnp.zeros_like(variables["params"][layer]["scale"])
    np.testing.assert_array_equal(skipping.apply(variables, images), plain.apply(without_skips(variables), images))


def without_skips(variables):
    """The variables of the net without skips."""
    return {name: {k: v for k, v in tree.items() if "skip" not in k} for name, tree in variables.items()}


def test_skips_need_the_maps_of_a_resnet():
    for backbone, stages in ((ResNet(18, stages=2), 2), (HRNet(4), 0)):
        with pytest.raises(
            ValueError, match=rf"more stages than deconvolutions.*{type(backbone).__name__} has {stages}"
        ):
            HeatmapNet(backbone, 3, deconvs=(4, 4), skips=True)
    net = HeatmapNet(ResNet(18, width=2, stages=3), 3, deconvs=(4, 4), skips=True)
    with pytest.raises(ValueError, match="multiples of 32"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 40, 32, 3)))
