"""RealNVP against the released flows, its own inverse, its Jacobian and its integral."""

import functools
import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import density, flow
from jaxpose.losses import base_log_prob
from tests import golden_flow

TABLE_6 = {(64, 64): 53_784, (128, 128): 205_848, (256, 256): 804_888, (32,) * 4: 39_960, (64,) * 4: 153_624}


def log_prob(net, variables):
    return lambda x: net.apply(variables, x, method="log_prob")


@pytest.fixture(scope="module")
def net2d():
    net = flow.RealNVP()
    return net, jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 2)))


@pytest.mark.parametrize("bits, tolerance", [(64, 1e-9), (32, 1e-4)])
@pytest.mark.parametrize("dim, prefix", [(2, "flow2d."), (3, "m3d.flow3d.")])
def test_the_official_flow_is_matched(golden, dim, prefix, bits, tolerance):
    arrays = golden("rle_official")
    with jax.enable_x64(bits == 64):
        dtype = jnp.float64 if bits == 64 else jnp.float32
        net = flow.RealNVP(dim=dim)
        variables = golden_flow.variables(arrays, prefix, dtype)
        x, z = (jnp.asarray(arrays[f"flow{dim}d_{name}"], dtype) for name in ("x", "fwd_z"))

        @jax.jit
        def everything(variables, x, z):
            latent, log_det = net.apply(variables, x, method="inverse")
            return {
                "z": latent,
                "logdet": log_det,
                "logprob": log_prob(net, variables)(x),
                "dlogprob_dx": jax.grad(lambda x: log_prob(net, variables)(x).sum())(x),
                "fwd_x": net.apply(variables, z, method="forward"),
            }

        for name, value in everything(variables, x, z).items():
            expected = arrays[f"flow{dim}d_{name}_f{bits}"]
            assert value.dtype == dtype
            np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def test_it_is_the_distrax_chain_of_its_couplings(golden):
    """The scan over couplings computes what distrax.Chain of MaskedCoupling computes, parameter by parameter."""
    params = golden_flow.variables(golden("rle_official"), "m3d.flow3d.")["params"]

    def perceptron(x, kind, i):
        for j in (0, 1):
            x = jax.nn.leaky_relu(x @ params[f"{kind}{i}_{j}"]["kernel"] + params[f"{kind}{i}_{j}"]["bias"])
        return x @ params[f"{kind}{i}_2"]["kernel"] + params[f"{kind}{i}_2"]["bias"]

    def coupling(i):
        mask = jnp.array([[0, 0, 1], [1, 1, 0]][i % 2], bool)
        return distrax.MaskedCoupling(
            mask,
            lambda x: (perceptron(x, "t", i), jnp.tanh(perceptron(x, "s", i))),
            lambda p: distrax.ScalarAffine(shift=p[0], log_scale=p[1]),
        )

    # Chain applies its last element first, and sampling starts with coupling 0.
    chain = distrax.Chain([coupling(i) for i in reversed(range(6))])
    plain = distrax.Transformed(distrax.MultivariateNormalDiag(jnp.zeros(3)), chain)
    x = jax.random.normal(jax.random.key(0), (40, 3)) * 2
    found = log_prob(flow.RealNVP(dim=3), {"params": params})

    def total(f):
        return jax.jit(jax.value_and_grad(lambda x: f(x).sum()))(x)

    (value, slope), (expected, expected_slope) = total(found), total(plain.log_prob)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dim, layers, ends", [(2, 6, "code"), (3, 6, "code"), (2, 3, "paper")])
def test_inverse_and_log_determinant(dim, layers, ends):
    net = flow.RealNVP(dim=dim, layers=layers, hidden=(16, 16), ends=ends)
    with jax.enable_x64(True):
        x = 1.5 * jax.random.normal(jax.random.key(1), (20, dim))
        variables = jax.jit(net.init)(jax.random.key(0), x)
        variables = jax.tree.map(lambda p: 2 * p.astype(jnp.float64), variables)  # away from the identity

        @jax.jit
        def everything(x):
            z, log_det = net.apply(variables, x, method="inverse")
            jacobian = jax.vmap(jax.jacfwd(lambda x: net.apply(variables, x, method="inverse")[0]))(x)
            return z, log_det, net.apply(variables, z, method="forward"), jacobian, net.apply(variables, x)

        z, log_det, back, jacobian, log_density = everything(x)
        np.testing.assert_allclose(back, x, atol=1e-10)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-10)
        normal = -0.5 * (z**2).sum(-1) - dim / 2 * math.log(2 * math.pi)
        np.testing.assert_allclose(log_density, normal + log_det, atol=1e-10)
        assert np.abs(log_det).max() > 0.1


def test_the_papers_nets_end_in_the_leaky_relu_of_their_other_layers():
    """Of one coupling, y = m x + (1 - m) (x exp(s) + t), with s and t read off the parameters; appendix A."""
    x = jax.random.normal(jax.random.key(1), (30, 2))
    net = flow.RealNVP(layers=1, hidden=(4,), ends="paper")
    variables = net.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda p: 3 * p, variables)  # away from the identity
    given, ends = jnp.array([[0.0, 1.0]]) * x, {}
    for kind in "st":
        first, last = (variables["params"][f"{kind}0_{j}"] for j in (0, 1))
        hidden = jax.nn.leaky_relu(given @ first["kernel"] + first["bias"])
        ends[kind] = jax.nn.leaky_relu(hidden @ last["kernel"] + last["bias"])[:, 0]
    expected = x.at[:, 0].set(x[:, 0] * jnp.exp(ends["s"]) + ends["t"])
    np.testing.assert_allclose(net.apply(variables, x, method="forward"), expected, rtol=1e-5, atol=1e-6)
    as_code = flow.RealNVP(layers=1, hidden=(4,)).apply(variables, x, method="forward")
    assert np.abs(as_code - expected).max() > 0.1
    with pytest.raises(ValueError, match="ends='x' is unknown, expected one of"):
        flow.RealNVP(ends="x").init(jax.random.key(0), x)


@pytest.mark.parametrize("hidden, count", TABLE_6.items(), ids=str)
def test_parameter_counts_of_table_11(hidden, count):
    net = flow.RealNVP(hidden=hidden)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 2)), method="log_prob"))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_parameter_count_in_3d():
    shapes = jax.eval_shape(lambda: flow.RealNVP(dim=3).init(jax.random.key(0), jnp.zeros((1, 3))))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 55_332


def test_parameter_tree_is_the_documented_one(net2d):
    params = net2d[1]["params"]
    assert set(params) == {f"{kind}{i}_{j}" for kind in "st" for i in range(6) for j in range(3)}
    assert params["s0_0"]["kernel"].shape == (2, 64) and params["t5_2"]["bias"].shape == (2,)


@pytest.mark.parametrize("scheme", ["torch", "xavier"])
def test_initialisations(scheme):
    params = jax.jit(flow.RealNVP(scheme=scheme).init)(jax.random.key(3), jnp.zeros((1, 2)))["params"]
    for name, layer in params.items():
        n_in, n_out = layer["kernel"].shape
        bound = 1 / math.sqrt(n_in) if scheme == "torch" else 0.01 * math.sqrt(6 / (n_in + n_out))
        largest = np.abs(layer["kernel"]).max()
        assert 0.8 * bound < largest <= bound, name
        assert np.abs(layer["bias"]).max() <= 1 / math.sqrt(n_in)
    kernels = [np.asarray(params[f"s{i}_1"]["kernel"]) for i in range(6)]
    assert not np.allclose(kernels[0], kernels[1])  # each layer has its own draw


def test_xavier_starts_close_to_the_identity():
    net = flow.RealNVP(scheme="xavier")
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 2)))
    z = jax.random.normal(jax.random.key(1), (500, 2))
    stretched = net.apply(variables, z, method="forward")
    assert np.corrcoef(stretched[:, 0], z[:, 0])[0, 1] > 0.99


@pytest.mark.parametrize("dim", [2, 3])
def test_samples_follow_the_density(dim):
    net = flow.RealNVP(dim=dim, layers=4, hidden=(16, 16))
    variables = jax.jit(net.init)(jax.random.key(5), jnp.zeros((1, dim)))
    samples = np.asarray(net.apply(variables, jax.random.key(0), (100, 200), method="sample")).reshape(-1, dim)
    assert samples.shape == (20_000, dim)
    stated = density.moments(density.Model(log_g=log_prob(net, variables), dim=dim))
    assert stated.mass == pytest.approx(1, abs=1e-3)
    error = 4 * stated.standard_deviation / math.sqrt(20_000)
    assert (np.abs(samples.mean(0) - stated.mean) < error).all()
    np.testing.assert_allclose(np.cov(samples.T), stated.covariance, atol=0.08)


def test_a_key_gives_the_same_sample(net2d):
    net, variables = net2d
    draw = [net.apply(variables, jax.random.key(k), 5, method="sample") for k in (0, 0, 1)]
    assert draw[0].shape == (5, 2)
    np.testing.assert_array_equal(draw[0], draw[1])
    assert not np.allclose(draw[0], draw[2])


def test_dtypes(net2d):
    net, variables = net2d
    assert net.apply(variables, jnp.zeros((3, 2), jnp.bfloat16)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert net.apply(variables, jnp.zeros((3, 2), jnp.float64)).dtype == jnp.float64
        assert net.apply(variables, jax.random.key(0), 3, method="sample").dtype == jnp.float32
        wide = jax.tree.map(lambda p: p.astype(jnp.float64), variables)
        assert net.apply(wide, jax.random.key(0), 3, method="sample").dtype == jnp.float64


def test_the_input_is_checked_once(net2d, monkeypatch):
    calls, check = [], flow.RealNVP._check
    monkeypatch.setattr(flow.RealNVP, "_check", lambda self, x: calls.append(x.shape) or check(self, x))
    net2d[0].apply(net2d[1], jnp.zeros((3, 2)), method="log_prob")
    assert calls == [(3, 2)]


def test_any_batch_shape_and_vmap_agree(net2d):
    net, variables = net2d
    x = jax.random.normal(jax.random.key(0), (4, 5, 2))
    flat = net.apply(variables, x.reshape(-1, 2))
    np.testing.assert_allclose(net.apply(variables, x).reshape(-1), flat, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.vmap(log_prob(net, variables)))(x).reshape(-1), flat, rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dim": 4}, "dim=4"),
        ({"layers": 0}, "layers=0"),
        ({"hidden": ()}, "hidden=()"),
        ({"scheme": "orthogonal"}, "'orthogonal'"),
    ],
)
def test_bad_sizes(options, message):
    net = flow.RealNVP(**options)
    with pytest.raises(ValueError) as error:
        net.init(jax.random.key(0), jnp.zeros((1, net.dim)))
    assert message in str(error.value)


def test_wrong_dimension_shows_the_shape(net2d):
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(\.\.\., 2\)"):
        net2d[0].apply(net2d[1], jnp.zeros((5, 3)))


def test_log_normalizer_of_known_integrals():
    def standard(x):
        return -0.5 * (x**2).sum(-1) - x.shape[-1] / 2 * math.log(2 * math.pi)

    for dim in (2, 3):
        gaussian = flow.log_normalizer(standard, "gaussian", dim=dim, points=40)
        assert float(gaussian) == pytest.approx(dim * math.log(2 * math.sqrt(math.pi)), abs=1e-4)
        # The integral of exp(-|x|)/2 N(x; 0, 1) is exp(1/2) Phi(-1).
        laplace = flow.log_normalizer(standard, "laplace", dim=dim, points=40)
        assert float(laplace) == pytest.approx(
            -dim * math.log(math.exp(0.5) * 0.5 * math.erfc(1 / math.sqrt(2))), abs=1e-4
        )


def test_log_normalizer_is_differentiable():
    def log_s(scale):
        return flow.log_normalizer(lambda x: -0.5 * (x**2).sum(-1) / scale**2 - 2 * jnp.log(scale), "laplace")

    with jax.enable_x64(True):
        slope = jax.grad(log_s)(0.7)
        assert float(slope) == pytest.approx(float(log_s(0.7001) - log_s(0.6999)) / 2e-4, rel=1e-5)


@pytest.mark.parametrize("base", ["laplace", "gaussian"])
@pytest.mark.parametrize("file, prefix", [("rle_official", "flow2d."), ("rle_mmpose", "flow.")])
def test_log_normalizer_converges_for_the_released_flows(golden, base, file, prefix):
    """Doubling bound or resolution at the density's setting moves log Z by less than 1e-4; training's is close."""
    variables = golden_flow.variables(golden(file), prefix)
    log_g = jax.jit(log_prob(flow.RealNVP(), variables))
    fine = density.log_normalizer(log_g, base)
    wide = density.log_normalizer(log_g, base, bound=2 * density.BOUND)
    finer = density.log_normalizer(log_g, base, points=2 * density.POINTS[2])
    assert abs(wide - fine) < 1e-4 and abs(finer - fine) < 1e-4
    assert abs(flow.log_normalizer(log_g, base) - fine) < 0.01


@pytest.mark.parametrize("log_normalizer", [flow.log_normalizer, density.log_normalizer])
@pytest.mark.parametrize(
    "options, message",
    [({"bound": 0.0}, "bound=0.0"), ({"points": 1}, "points=1"), ({"dim": 4}, "dim=4"), ({"dim": 0}, "dim=0")],
)
def test_log_normalizer_checks_its_grid(log_normalizer, options, message):
    with pytest.raises(ValueError, match=message):
        log_normalizer(lambda x: x.sum(-1), "laplace", **options)


@pytest.mark.parametrize("base", ["laplace", "gaussian"])
def test_log_s_over_the_latent_is_that_over_the_plane(base):
    net = flow.RealNVP()
    for seed in range(3):
        variables = net.init(jax.random.key(seed), jnp.zeros((1, 2)))
        forward = functools.partial(net.apply, variables, method="forward")
        plane = density.log_normalizer(lambda e, v=variables: net.apply(v, e, method="log_prob"), base, bound=20.0)
        for points, tolerance in ((48, 5e-3), (200, 1e-3)):  # Q's kink, across which the nodes go, is what limits it
            latent = flow.log_normalizer_latent(forward, base, points=points)
            np.testing.assert_allclose(latent, plane, atol=tolerance)


def test_a_narrow_flow_cannot_hide_between_the_nodes_of_the_latent():
    """G = N(m, 1e-6 I) between the nodes of the plane: there log s looks like 100 and more; it is -log Q(m)."""
    m, r = jnp.array([0.3, -0.2]), 1e-3

    def log_g(e):
        return -0.5 * jnp.square((e - m) / r).sum(-1) - jnp.log(2 * jnp.pi * r**2)

    truth = -base_log_prob(m, base="laplace").sum()
    np.testing.assert_allclose(flow.log_normalizer_latent(lambda z: m + r * z, "laplace"), truth, atol=1e-3)
    assert abs(flow.log_normalizer(log_g, "laplace") - truth) > 1
