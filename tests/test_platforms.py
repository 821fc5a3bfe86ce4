"""Layers with two forms: the form of a TPU has the values and gradients of the others, and is traced where it is asked for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import parallel, platforms, train
from jaxpose.nets import deconv, depthwise, folding, hrnet, layers, moments, resnet


def of(platform, f, *args):
    """Value and gradients of a sum with random weights, in the form of a platform."""

    def weighted(*args):
        y = f(*args)
        return (y * jax.random.normal(jax.random.key(7), y.shape)).sum(), y

    with platforms.traced_for(platform):
        (_, y), grads = jax.jit(jax.value_and_grad(weighted, argnums=tuple(range(len(args))), has_aux=True))(*args)
    return [y, *grads]


@pytest.mark.parametrize("stride, shape", [(1, (2, 5, 4, 6)), (2, (2, 5, 4, 6)), (2, (1, 4, 7, 3))])
def test_both_forms_of_a_1x1_convolution(stride, shape):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=shape).astype(np.float32), rng.normal(size=(1, 1, shape[-1], 8)).astype(np.float32)

    def f(x, kernel):
        return layers.convolve(x, kernel, stride=stride)

    for cpu, tpu in zip(of("cpu", f, x, kernel), of("tpu", f, x, kernel), strict=True):
        np.testing.assert_allclose(cpu, tpu, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 2)])
def test_both_forms_of_the_max_pool(size):
    x = (
        np.random.default_rng(1).permutation(2 * 3 * size[0] * size[1]).reshape(2, *size, 3).astype(np.float32)
    )  # no ties
    for cpu, tpu in zip(of("cpu", layers.max_pool, x), of("tpu", layers.max_pool, x), strict=True):
        np.testing.assert_allclose(cpu, tpu, rtol=1e-6)


def test_shared_maxima_keep_the_sum_of_the_gradient():
    x = np.zeros((1, 4, 4, 1), np.float32)
    both = [of(platform, layers.max_pool, x)[1] for platform in ("cpu", "tpu")]
    np.testing.assert_allclose(both[0].sum(), both[1].sum(), rtol=1e-5)


def primitives(platform, f, *args):
    with platforms.traced_for(platform):
        return {str(eqn.primitive) for eqn in jax.make_jaxpr(f)(*args).eqns}


def test_a_platform_gets_its_own_form():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 3))
    assert "dot_general" in primitives("cpu", lambda x: layers.convolve(x, kernel), x)
    assert "dot_general" in primitives("gpu", lambda x: layers.convolve(x, kernel), x)
    assert "conv_general_dilated" in primitives("tpu", lambda x: layers.convolve(x, kernel), x)
    assert platforms.platform() == jax.default_backend()


def test_a_step_is_traced_for_its_mesh():
    seen = []

    class Task:
        def init(self, key):
            return {"params": {"w": jnp.ones(2)}, "batch_stats": {}}

        def loss(self, variables, batch, *, key):
            seen.append(platforms.platform())
            return (variables["params"]["w"] * batch["x"]).sum(), ({}, {})

        def predict(self, variables, batch, *, flip_test):
            seen.append(platforms.platform())
            return batch["x"]

    tx, mesh = train.optimizer(lambda step: 1e-3), parallel.make_mesh()
    batch = {"x": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
    with platforms.traced_for("gpu"):
        train.make_train_step(Task(), tx, mesh=mesh).lower(train.abstract_state(Task(), tx, mesh=mesh), batch)
        train.make_predict_step(Task(), mesh=mesh).lower({}, batch)
    assert set(seen) == {"cpu"}


@pytest.mark.parametrize(
    "size, n, stride",
    [(1, 2, 1), (3, 2, 1), (3, 4, 1), (7, 2, 1), (1, 2, 2), (3, 2, 2), (3, 4, 2), (7, 8, 2), (7, 4, 4)],
)
def test_a_convolution_of_a_folded_map(size, n, stride):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 16, 5), (size, size, 5, 4)))

    def plain(x, kernel):
        return layers.convolve(x, kernel, stride=stride)

    def on_folded(x, kernel):
        y = folding.convolve_folded(folding.folded(x, n), kernel, n, stride=stride)
        return folding.unfolded(y, n // stride)

    for expected, ours in zip(of("tpu", plain, x, kernel), of("tpu", on_folded, x, kernel), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("height", [5, 6])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_pooling_of_a_folded_map(n, height):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 1, size=(2, height, 16, 3)).astype(np.float32)  # no two equal: one gradient
    order = np.r_[0:n:2, 1:n:2]

    def on_folded(x):
        pixels = folding.folded(x, n).reshape(2, height, 16 // n, n, 3)[..., order, :]
        pooled = folding.max_pool_of_folded(pixels.reshape(2, height, 16 // n, 3 * n), n)
        return folding.unfolded(pooled, n // 2)

    (expected, by_x), (ours, by_ours) = of("cpu", layers.max_pool, x), of("tpu", on_folded, x)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(by_ours, by_x, rtol=1e-6)
    x[0, 2, 5] = np.nan
    ours, expected = on_folded(x), layers.max_pool(x)
    np.testing.assert_array_equal(ours[1], expected[1], "another image")
    assert np.isnan(ours[np.isnan(expected)]).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n", [4, 8])
def test_a_convolution_with_the_even_pixels_first(n, stride):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 16, 3), (3, 3, 3, 4)))
    usual, ours = (
        folding.convolve_folded(folding.folded(x, n), kernel, n, stride=stride, even_first=even_first)
        for even_first in (False, True)
    )
    n = n // stride
    usual, ours = (y.reshape(*y.shape[:3], n, 4) for y in (usual, ours))
    np.testing.assert_array_equal(ours, usual[..., np.r_[0:n:2, 1:n:2], :])


@pytest.mark.parametrize("times, fold, result", [(2, 1, 1), (2, 1, 2), (2, 2, 4), (4, 1, 2), (8, 2, 4), (2, 2, 2)])
def test_columns_of_a_folded_map_are_repeated(times, fold, result):
    x = np.arange(2 * 3 * 8 * 5).reshape(2, 3, 8, 5)
    ours = folding.repeat_columns(folding.folded(x, fold), times, fold=fold, result=result)
    np.testing.assert_array_equal(folding.unfolded(ours, result), np.repeat(x, times, 2))


@pytest.mark.parametrize(
    "bottleneck, stride, in_1x1",
    [(False, 1, False), (False, 2, False), (True, 1, False), (True, 2, False), (True, 2, True)],
)
def test_a_block_folds_its_map_on_a_tpu_alone(bottleneck, stride, in_1x1):
    """Values, gradients and running statistics, with the same parameters, in training and evaluation."""
    x = np.random.default_rng(0).normal(size=(4, 6, 8, 8)).astype(np.float32)
    net = resnet.Block(64, stride, bottleneck, jnp.float32, 2, stride_in_1x1=in_1x1)
    variables = net.init(jax.random.key(0), x, train=False)

    def trained(params, x):
        y, new = net.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.square(y - 1).sum(), (y, new, net.apply(variables, x, train=False))

    results, programs = {}, {}
    for name in ("cpu", "tpu"):
        with platforms.traced_for(name):
            f = jax.jit(jax.value_and_grad(trained, argnums=(0, 1), has_aux=True))
            results[name], programs[name] = f(variables["params"], x), str(jax.make_jaxpr(f)(variables["params"], x))
            shapes = jax.eval_shape(lambda key: net.init(key, x, train=False), jax.random.key(0))
        assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), results["tpu"], results["cpu"])
    kernel = "[3,3,128,128]" if stride == 1 or (bottleneck and in_1x1) else "[3,2,"
    assert kernel in programs["tpu"] and kernel not in programs["cpu"]


@pytest.mark.parametrize("fold", [1, 2])
def test_normalisation_by_the_moments_of_the_input(fold):
    """Values, gradients and running statistics are those of a convolution and its normalisation, in float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = rng.normal(size=(4, 5, 6, 8)) + 1, rng.normal(size=(1, 1, 8, 32))
        plain, folded = (layers.BatchNorm(dtype=jnp.float64, fold=n) for n in (1, fold))
        variables = plain.init(jax.random.key(0), np.zeros((4, 5, 6, 32)), train=False)
        params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), variables["params"])

        def of_map(x, kernel, params):
            y = layers.convolve(x, kernel)
            y, new = plain.apply(variables | {"params": params}, y, train=True, mutable=["batch_stats"])
            return jnp.concatenate([y.ravel(), *(a.ravel() for a in jax.tree.leaves(new))])

        def by_moments(x, kernel, params):
            y, new = folded.apply(
                variables | {"params": params}, folding.folded(x, fold), kernel, mutable=["batch_stats"],
                method="of_convolution",
            )  # fmt: skip
            return jnp.concatenate([y.ravel(), *(a.ravel() for a in jax.tree.leaves(new))])

        results = zip(of("tpu", of_map, x, kernel, params), of("tpu", by_moments, x, kernel, params), strict=True)
        for expected, ours in results:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, expected)


@pytest.mark.parametrize("shift, wide", [(0.3, 1.0), (3.0, 1.0), (0.0, 0.1)])
def test_normalisation_by_moments_in_half_precision(shift, wide):
    """The normalised map has mean 0 and variance 1, as nearly as in the ordinary form, and gradients are as good.

    `wide` is the size of what channels do not share: they are hard to tell apart if it is small, and the weights take differences.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 16, 16, 1)) + wide * rng.normal(size=(16, 16, 16, 32)) + shift
    x, kernel = np.maximum(x, 0), rng.normal(size=(1, 1, 32, 128)).astype(np.float32)
    kernel -= kernel.mean(2, keepdims=True) if wide < 1 else 0
    x = np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))
    norm = layers.BatchNorm(dtype=jnp.bfloat16)
    variables = norm.init(jax.random.key(0), np.zeros((4, 5, 6, 128)), train=False)

    def of_map(x, kernel):
        y = layers.convolve(x, kernel.astype(x.dtype))
        return norm.apply(variables, y, train=True, mutable=["batch_stats"])[0]

    def by_moments(x, kernel):
        return norm.apply(variables, x, kernel, mutable=["batch_stats"], method="of_convolution")[0]

    exact = of("tpu", of_map, x, np.asarray(jnp.asarray(kernel, jnp.bfloat16).astype(jnp.float32)))
    errors = {}
    for f in (of_map, by_moments):
        y, *gradients = of("tpu", f, jnp.asarray(x, jnp.bfloat16), kernel)
        assert y.dtype == gradients[0].dtype == jnp.bfloat16 and gradients[1].dtype == jnp.float32
        y = np.asarray(y, np.float64)
        error = [np.abs(y.mean((0, 1, 2))).max(), np.abs(y.var((0, 1, 2)) - 1).max()]
        error += [
            np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b) for a, b in zip(gradients, exact[1:])
        ]
        errors[f] = np.array(error)
    assert (errors[by_moments] < 1.5 * errors[of_map] + 1e-3).all(), errors


def test_the_variance_is_not_negative(monkeypatch):
    x, kernel = jnp.ones((3, 5, 7, 1)), jnp.ones((1, 1, 1, 4))
    monkeypatch.setattr(moments, "_sums", lambda x: (jnp.full((1, 1), x.size * 0.999), jnp.full(1, 1.0 * x.size)))
    mean, variance = moments.statistics_of_convolution(x, kernel, 1)
    np.testing.assert_allclose(mean, 1)
    assert (variance == 0).all(), "where rounding left less than 0"


def test_moments_are_refused_for_groups_and_larger_kernels():
    for groups, side in ((2, 1), (1, 3)):
        x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((side, side, 3, 12))
        with pytest.raises(ValueError, match="expected a kernel 1x1 and one group"):
            layers.BatchNorm(groups).init(jax.random.key(0), x, kernel, method="of_convolution")


@pytest.mark.parametrize("groups, dtype, expected", [(1, "bfloat16", 2), (2, "bfloat16", 0), (1, "float32", 0)])
def test_a_bottleneck_takes_moments_on_a_tpu_alone(groups, dtype, expected):
    """For conv3 and the shortcut's convolution, in training, in half precision, with the same parameters."""
    x = jnp.ones((4, 6, 8, 16), dtype)
    net = resnet.Block(16, 1, True, jnp.dtype(dtype), groups)
    init = partial(net.init, jax.random.key(0), x)
    variables = init(train=False)

    def custom_gradients(platform, train):
        """The sums of the input and the convolution with a factor are functions with gradients of their own."""
        with platforms.traced_for(platform):
            steps = jax.make_jaxpr(lambda x: net.apply(variables, x, train=train, mutable=["batch_stats"]))(x).eqns
        return sum(str(step.primitive) == "custom_vjp_call" for step in steps)

    assert custom_gradients("tpu", True) == 2 * expected
    assert custom_gradients("cpu", True) == custom_gradients("gpu", True) == custom_gradients("tpu", False) == 0
    with platforms.traced_for("tpu"):
        assert jax.tree.map(jnp.shape, init(train=True)) == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize("stem", ["pooled", "strided"])
def test_a_net_that_gives_maps(stem):
    net = deconv.HeatmapNet(resnet.ResNet(18, width=16, stages=1, stem=stem), 3, deconvs=())
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    variables = net.init(jax.random.key(0), images)

    def f(params, images):
        maps, new = net.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.concatenate([x.ravel() for x in [maps, *jax.tree.leaves(new)]])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        *(of(platform, f, variables["params"], images) for platform in ("tpu", "cpu")),
    )


@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (9, 1)])
def test_both_forms_of_a_depthwise_convolution(size, stride):
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=(2, 5, 16, 17)).astype(np.float32),
        rng.normal(size=(size, size, 1, 17)).astype(np.float32),
    )

    def f(x, kernel):
        return depthwise.convolve_depthwise(x, kernel, stride=stride)

    for cpu, tpu in zip(of("cpu", f, x, kernel), of("tpu", f, x, kernel), strict=True):
        np.testing.assert_allclose(cpu, tpu, rtol=1e-4, atol=1e-4)
    with platforms.traced_for("tpu"):
        program = str(jax.make_jaxpr(f)(x, kernel))
    assert ",68," in program and "feature_group_count=17" not in program, "4 pixels of 17 channels"


def test_both_forms_of_a_deconvolution():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 4, 3)).astype(np.float32), rng.normal(size=(4, 4, 6, 3)).astype(np.float32)
    for cpu, tpu in zip(*(of(name, deconv.deconvolve, x, kernel) for name in ("cpu", "tpu")), strict=True):
        np.testing.assert_allclose(cpu, tpu, rtol=1e-5, atol=1e-5)
    with platforms.traced_for("tpu"):
        assert "lhs_dilation=(2, 2)" in str(jax.make_jaxpr(deconv.deconvolve)(x, kernel))


def test_branches_of_an_hrnet_are_folded_on_a_tpu_alone():
    net = hrnet.Exchange(4, jnp.float32, 1)
    rng = np.random.default_rng(0)
    branches = [jnp.asarray(rng.normal(size=(2, 8 // s, 32 // s, 16 * s)), jnp.float32) for s in (1, 2, 4, 8)]
    variables = jax.jit(partial(net.init, train=False))(jax.random.key(0), branches)
    outputs, programs = {}, {}
    for platform in ("cpu", "tpu"):
        with platforms.traced_for(platform):
            f = jax.jit(lambda variables, branches: net.apply(variables, branches, train=False))
            outputs[platform] = f(variables, branches)
            programs[platform] = str(jax.make_jaxpr(f)(variables, branches))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), outputs["tpu"], outputs["cpu"])
    assert "[3,3,16,16]" in programs["cpu"] and "[3,3,128,128]" in programs["tpu"], (
        "8 pixels of 16 channels in the blocks"
    )
    assert "[3,2,128,128]" in programs["tpu"] and "[3,2," not in programs["cpu"], "and in the exchange, to 4 of 32"
