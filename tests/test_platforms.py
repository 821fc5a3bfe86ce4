"""Layers with two forms: the form of a TPU has the values and gradients of the others, and is traced where it is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import parallel, platforms, train
from jaxpose.nets import hrnet, layers, resnet


def of(platform, f, *args):
    """Value and gradients of a sum with random weights, in the form of a platform."""

    def weighted(*args):
        y = f(*args)
        return (y * jax.random.normal(jax.random.key(7), y.shape)).sum(), y

    with platforms.traced_for(platform):
        (_, y), grads = jax.value_and_grad(weighted, argnums=tuple(range(len(args))), has_aux=True)(*args)
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


@pytest.mark.parametrize("size, n", [(1, 2), (3, 2), (3, 4), (7, 2)])
def test_a_convolution_of_a_folded_map(size, n):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 3, 8, 5)).astype(np.float32), rng.normal(size=(size, size, 5, 4)).astype(np.float32)

    def on_folded(x, kernel):
        return layers.unfolded(layers.convolve(layers.folded(x, n), layers.fold_kernel(kernel, n)), n)

    for plain, folded in zip(of("tpu", layers.convolve, x, kernel), of("tpu", on_folded, x, kernel), strict=True):
        np.testing.assert_allclose(folded, plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_block_on_a_folded_map(bottleneck):
    """Values, gradients and running statistics, with the same parameters, in training and evaluation."""
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 16)).astype(np.float32)
    plain, folded = (resnet.Block(4 if bottleneck else 16, 1, bottleneck, jnp.float32, 2, fold=n) for n in (1, 2))
    variables = plain.init(jax.random.key(0), x, train=False)
    shapes = jax.eval_shape(lambda key: folded.init(key, layers.folded(x, 2), train=False), jax.random.key(0))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)

    def trained(net, n):
        def f(params, x):
            variables_ = variables | {"params": params}
            y, new = net.apply(variables_, layers.folded(x, n), train=True, mutable=["batch_stats"])
            return jnp.square(layers.unfolded(y, n) - 1).sum(), (y.reshape(x.shape), new)

        return jax.value_and_grad(f, argnums=(0, 1), has_aux=True)(variables["params"], x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), trained(plain, 1), trained(folded, 2)
    )
    y = folded.apply(variables, layers.folded(x, 2), train=False).reshape(x.shape)
    np.testing.assert_allclose(y, plain.apply(variables, x, train=False), rtol=1e-5, atol=1e-5)


def test_branches_of_an_hrnet_are_folded_on_a_tpu_alone():
    net = hrnet.Exchange(1, jnp.float32, 1)
    rng = np.random.default_rng(0)
    branches = [jnp.asarray(rng.normal(size=(2, 8 // s, 16 // s, 4 * s)), jnp.float32) for s in (1, 2)]
    variables = net.init(jax.random.key(0), branches, train=False)
    outputs, programs = {}, {}
    for platform in ("cpu", "tpu"):
        with platforms.traced_for(platform):
            f = jax.jit(lambda variables, branches: net.apply(variables, branches, train=False)[0])
            outputs[platform] = f(variables, branches)
            programs[platform] = str(jax.make_jaxpr(f)(variables, branches))
    np.testing.assert_allclose(outputs["tpu"], outputs["cpu"], rtol=1e-4, atol=1e-4)
    assert "3,3,64,64" in programs["tpu"] and "3,3,64,64" not in programs["cpu"], "16 pixels of 4, 8 of 8 channels"
