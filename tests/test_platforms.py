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
    """Behind the convolution that brings its pixels into order."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, height, 16, 3), (3, 3, 3, 4)))

    def plain(x, kernel):
        return layers.max_pool(jax.nn.relu(layers.convolve(x, kernel)))

    def on_folded(x, kernel):
        y = folding.convolve_folded(folding.folded(x, n), kernel, n, even_first=True)
        return folding.unfolded(folding.max_pool_of_folded(jax.nn.relu(y), n), n // 2)

    for expected, ours in zip(of("tpu", plain, x, kernel), of("tpu", on_folded, x, kernel), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)


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


@pytest.mark.parametrize("stride", [1, 2])
def test_a_widening_convolution_is_normalised_by_the_moments_of_its_input_on_a_tpu_alone(stride):
    """Values, gradients and running statistics of a bottleneck, in float64."""
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(4, 6, 8, 16)) + 3
        net = resnet.Block(32, stride, True, jnp.float64, 1)
        variables = net.init(jax.random.key(0), x, train=False)

        def trained(params, x):
            y, new = net.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.square(y - 1).sum(), (y, new)

        results, programs = {}, {}
        for name in ("cpu", "tpu"):
            with platforms.traced_for(name):
                f = jax.jit(jax.value_and_grad(trained, argnums=(0, 1), has_aux=True))
                results[name], programs[name] = (
                    f(variables["params"], x),
                    str(jax.make_jaxpr(f)(variables["params"], x)),
                )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), results["tpu"], results["cpu"]
        )
        assert "custom_vjp_call" not in programs["cpu"] and "f64[1,1,128,128]" in programs["tpu"], "4 pixels of 32"


@pytest.mark.parametrize("fold", [1, 2])
def test_statistics_of_a_product(fold):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 5, 6, 8), (1, 1, 8, 32)))
    x = np.maximum(x + 0.3, 0)

    def by_moments(x, kernel):
        return jnp.stack(moments.of_product(folding.folded(x, fold), kernel, fold))

    def plain(x, kernel):
        y = layers.convolve(x, kernel)
        return jnp.stack([y.mean((0, 1, 2)), y.var((0, 1, 2))])[:, None, None, None]

    for expected, ours in zip(of("tpu", plain, x, kernel), of("tpu", by_moments, x, kernel), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    _, variance = moments.of_product(jnp.full((2, 2, 2, 1), 1e3), jnp.ones((1, 1, 1, 4)), 1)
    assert (variance >= 0).all(), "rounding"


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
