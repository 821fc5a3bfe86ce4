"""Nets that lift 2D joints: the numbers of the published codes, shapes, counts of parameters, and their layouts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import losses, weights
from jaxpose.nets import LinearLifter, SRNet, TemporalLifter
from jaxpose.nets.lifting import SRNET_GROUPS, split_sizes
from jaxpose.train import count_parameters


def state_of(states, settings, name):
    """The weights of a golden net, by the rule of the golden folder."""
    state = {}
    a = settings["A_martinez"] if name == "martinez_full" else settings["A"]
    for t, (key, shape) in enumerate(states[name]):
        i = np.arange(1, np.prod(shape, dtype=int) + 1)
        s = np.sin(a * i + settings["B"] * (t + 1) + 0.5 * (i**2 % 9973))
        if len(shape) > 1:
            value = settings["conv_scale"] / np.sqrt(np.prod(shape[1:])) * s
        elif key.endswith("running_var"):
            value = 1 + 0.1 * abs(s)
        elif key.endswith(("running_mean", "bias")):
            value = 0.1 * s
        else:
            value = 1 + 0.1 * s
        state[key] = value.astype(np.float32).astype(np.float64).reshape(shape)
    return state


def stored(g, name):
    return {k.removeprefix(f"{name}."): np.asarray(g[k], np.float64) for k in g.keys() if k.startswith(f"{name}.")}


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(a), b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def apply(net, variables, xy, **options):
    xy = jnp.asarray(xy, jnp.float64)
    if options.get("train"):
        net = net.clone(dropout=0.0)
        return jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))(variables, xy)
    return jax.jit(net.apply)(variables, xy)


def test_martinez(golden, golden_json, x64):
    g, j = golden("three_d/lifting"), golden_json("three_d/lifting")
    net, variables = weights.from_torch(stored(g, "martinez_small"), layout="martinez")
    assert (net.joints_in, net.joints_out, net.width, net.blocks) == (16, 16, 24, 2)
    xy = g["martinez_x"].reshape(6, 16, 2)
    close(apply(net, variables, xy).reshape(6, 48), g["martinez_small_eval"])
    out, after = apply(net, variables, xy, train=True)
    close(out.reshape(6, 48), g["martinez_small_train"])
    assert jnp.square(out.reshape(6, 48) - g["martinez_y"]).mean() == pytest.approx(float(g["martinez_small_mse"]))
    expected = weights.from_torch(stored(g, "martinez_small") | stored(g, "martinez_small_after"), layout="martinez")[1]
    jax.tree.map(close, after["batch_stats"]["batch_norm1"], expected["batch_stats"]["batch_norm1"])

    def loss(params):
        out, _ = net.clone(dropout=0.0).apply(
            {**variables, "params": params}, jnp.asarray(xy, jnp.float64), train=True, mutable=["batch_stats"]
        )
        return jnp.square(out.reshape(6, 48) - g["martinez_y"]).mean()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    close(gradient["w2"]["bias"], g["martinez_small_grad_w2_bias"])
    norms = np.array([float(jnp.linalg.norm(leaf.ravel())) for leaf in jax.tree.leaves(gradient)])
    # The position of every name in the file, in the place of its weights: which tensor is which.
    state = stored(g, "martinez_small")
    numbers = {k: np.full(np.shape(state[k]), float(i)) for i, k in enumerate(g["martinez_small_grad_names"].tolist())}
    tree = weights.from_torch(state | numbers, layout="martinez")[1]["params"]
    order = jax.tree.leaves(jax.tree.map(lambda leaf: int(np.ravel(leaf)[0]), tree))
    close(norms, g["martinez_small_grad_norm"][order])
    whole = np.sqrt((norms**2).sum())
    np.testing.assert_allclose(
        norms * min(1, 1 / whole), g["martinez_small_clipped_grad_norm"][order], rtol=1e-5, atol=1e-12
    )
    full, variables = weights.from_torch(state_of(j["states"], j, "martinez_full"), layout="martinez")
    close(apply(full, variables, xy).reshape(6, 48), g["martinez_full_eval"])


def test_videopose3d(golden, x64):
    g = golden("three_d/lifting")
    xy = g["vp3d_x"]
    net, variables = weights.from_torch(stored(g, "vp3d_small"), layout="videopose3d")
    causal = net.clone(causal=True)
    close(apply(net, variables, xy), g["vp3d_small_eval"])
    close(apply(causal, variables, xy), g["vp3d_small_eval_causal"])
    close(apply(net, variables, xy[:, :9]), g["vp3d_small_strided_eval"])
    close(apply(causal, variables, xy[:, :9]), g["vp3d_small_strided_eval_causal"])

    def loss(params):
        out = net.clone(dropout=0.0).apply(
            {**variables, "params": params}, jnp.asarray(xy, jnp.float64), train=True, mutable=["batch_stats"]
        )[0]
        return jnp.linalg.norm(out - g["vp3d_target"], axis=-1).mean(), out

    (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    close(out, g["vp3d_small_train"])
    assert value == pytest.approx(float(g["vp3d_small_train_mpjpe_loss"]))
    close(gradient["shrink"]["bias"], g["vp3d_small_grad_shrink_bias"])
    norm = jnp.linalg.norm(gradient["expand_conv"]["kernel"].ravel())
    assert norm == pytest.approx(float(g["vp3d_small_grad_expand_norm"]))
    one, variables = weights.from_torch(stored(g, "vp3d_one"), layout="videopose3d")
    assert one.widths == (1, 1, 1)
    close(apply(one, variables, xy), g["vp3d_one_eval"])


@pytest.mark.parametrize(
    "name", ["g5_mul_111", "g5_add_1111", "g5_cat_1111", "g5_none_111", "g3_mul_111", "g5_mul_33_dilated"]
)
def test_srnet(golden, golden_json, x64, name):
    g, j = golden("three_d/lifting"), golden_json("three_d/lifting")
    net, variables = weights.from_torch(state_of(j["states"], j, f"srnet_{name}"), layout="srnet")
    assert count_parameters(variables["params"]) == j["counts"][f"srnet_{name}"]
    xy = g["srnet_x11" if "33" in name else "srnet_x"]
    close(apply(net, variables, xy), g[f"srnet_{name}"])
    if name == "g5_mul_111":
        close(apply(net.clone(add_input=True), variables, xy), g["srnet_g5_mul_111_lcn"])
        close(apply(net, variables, xy, train=True)[0], g["srnet_g5_mul_111_train"])
        close(apply(net, variables, xy[:, 0]), g["srnet_g5_mul_111"][:, 0])
    if "33" in name:
        close(apply(net, variables, xy[:, :9]), g["srnet_g5_mul_33_strided"])


def test_groups_and_gates_of_srnet(golden):
    g = golden("three_d/lifting")
    assert split_sizes([len(group) for group in SRNET_GROUPS[5]], 1024) == g["srnet_group_out_channels"].tolist()
    net = SRNet(width=64)
    assert net._outputs == g["srnet_final_out_channels"].tolist()
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 17, 2)))["params"]
    gates = [leaf for path, leaf in jax.tree.leaves_with_path(params) if "m_conv" in jax.tree_util.keystr(path)]
    assert gates and not any(np.any(gate) for gate in gates) and not g["srnet_init_gate_conv_absmax"].any()
    assert losses.l1(g["srnet_l1_pred"], g["srnet_l1_target"]).mean() == pytest.approx(float(g["srnet_l1"]), rel=1e-6)


def test_fully_connected_net_of_srnets_code(golden, x64):
    g = golden("three_d/lifting")
    net, variables = weights.from_torch(stored(g, "srnet_fc_small"), layout="srnet")
    assert net.slope == 0.01
    close(apply(net, variables, g["srnet_x"]), g["srnet_fc_small_eval"])


def parameters(net):
    return count_parameters(jax.eval_shape(net.init, jax.random.key(0), net.example_input())["params"])


def test_counts_of_parameters():
    """Those of the published nets (the second column: 17 joints with a sigma for every coordinate)."""
    assert parameters(LinearLifter()) == 4_291_632
    assert parameters(LinearLifter(joints_in=17, joints_out=17, dim=6)) == 4_349_030
    assert parameters(TemporalLifter(widths=(1, 1, 1))) == 4_291_635
    assert parameters(TemporalLifter()) == 16_952_371
    assert parameters(SRNet()) == 899_029
    assert parameters(SRNet(recombine="add", widths=(1,) * 4)) == 1_334_347
    assert parameters(SRNet(recombine="concat", widths=(1,) * 4)) == 1_341_579
    assert parameters(SRNet(recombine="none")) == 878_291
    assert parameters(SRNet(groups=3)) == 1_483_634
    assert parameters(SRNet(widths=(3,) * 5)) == 3_612_067


def plain_srnet(variables, xy, groups, recombine):
    """One frame in NumPy, written from the description of the net."""
    p, s = variables["params"], variables["batch_stats"]

    def norm(x, name, at=None):
        scale, stats = (p[name], s[name]) if at is None else (p[at][name], s[at][name])
        return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * scale["scale"] + scale["bias"]

    def layer(parts, name):
        outs = []
        for i, part in enumerate(parts):
            others = groups > 1 and np.concatenate(parts[:i] + parts[i + 1 :], -1)
            if recombine != "none" and groups > 1:
                gate = others @ p[name][f"m_conv_{i}"]["kernel"][0] + p[name][f"m_conv_{i}"]["bias"]
                leaky = np.maximum(gate, 0.01 * gate)
                if recombine == "multiply":
                    part = part / (1 + np.exp(-norm(gate, f"layers_bn_{i}", name)))
                elif recombine == "add":
                    part = part + leaky
                else:
                    part = np.concatenate([part, leaky], -1)
            outs.append(part @ p[name][f"group_conv_{i}"]["kernel"][0])
        return outs

    def activate(parts, name):
        x = norm(np.concatenate(parts, -1), name)
        return np.split(np.maximum(x, 0.01 * x), np.cumsum([part.shape[-1] for part in parts])[:-1], -1)

    flat = xy.reshape(len(xy), -1)
    parts = activate(layer([flat[:, list(c)] for c in SRNET_GROUPS[groups]], "expand_conv"), "expand_bn")
    deep = activate(layer(parts, "layers_conv_0"), "layers_bn_0")
    deep = activate(layer(deep, "layers_conv_1"), "layers_bn_1")
    out = layer([a + b for a, b in zip(parts, deep)], "final_layer")
    joints = [part[:, : part.shape[1] // 3 * 3].reshape(len(xy), -1, 3)[:, bool(i) :] for i, part in enumerate(out)]
    return np.concatenate(joints, 1)


@pytest.mark.parametrize(
    ("groups", "recombine"), [(1, "multiply"), (2, "add"), (3, "concat"), (5, "multiply"), (5, "none")]
)
def test_srnet_is_its_description(groups, recombine):
    net = SRNet(groups=groups, recombine=recombine, widths=(1, 1), width=40)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), net.example_input())
    variables = jax.tree.map(lambda a: rng.uniform(0.2, 1.0, a.shape).astype(np.float32), shapes)
    xy = rng.normal(size=(3, 17, 2)).astype(np.float32)
    out = jax.jit(net.apply)(variables, xy)
    assert out.shape == (3, 17, 3)
    np.testing.assert_allclose(out, plain_srnet(variables, xy, groups, recombine), rtol=2e-4)


def test_a_temporal_net_sees_its_receptive_field_only():
    net = TemporalLifter(joints_in=2, joints_out=1, widths=(3, 3), width=16)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 9, 2, 2)))
    xy = np.random.default_rng(0).normal(size=(1, 11, 2, 2)).astype(np.float32)
    apply = jax.jit(net.apply)
    whole = apply(variables, xy)
    np.testing.assert_allclose(apply(variables, xy[:, 1:10]), whole[:, 1:2], atol=1e-5)
    changed = apply(variables, np.concatenate([xy[:, :1] + 9, xy[:, 1:]], 1))
    assert (changed[:, 1:] == whole[:, 1:]).all() and (changed[:, 0] != whole[:, 0]).any()
    with pytest.raises(ValueError, match="8 frames: the net needs 9"):
        net.apply(variables, xy[:, :8])


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_srnet_with_scales_has_its_joints_in_order(groups):
    net = SRNet(groups=groups, width=64, dim=6)
    out = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((2, 17, 2)))
    assert out.shape == (2, 17, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SRNet(groups=4), "groups=4: expected 1, 2, 3, 5"),
        (lambda: SRNet(recombine="mean"), "recombine='mean'"),
        (lambda: SRNet(widths=(3, 5)), "equal widths"),
        (lambda: SRNet(widths=(3, 3), add_input=True), "more frames"),
        (lambda: TemporalLifter(widths=(2,)), "odd numbers"),
        (lambda: LinearLifter(dim=2), "dim=2"),
        (lambda: LinearLifter().init(jax.random.key(0), jnp.zeros((1, 17, 2))), r"\(B, 16, 2\)"),
        (lambda: weights.from_torch({"w1.weight": np.zeros((4, 3))}, layout="martinez"), "w2.weight"),
        (lambda: weights.from_torch({"w1.weight": np.zeros((4, 3)), "w2.weight": np.zeros((3, 4))}, layout="martinez"),
         "3 columns: expected a multiple of 2"),
        (lambda: weights.from_torch({"a": np.zeros(1)}, layout="srnet"), "expand_conv.group_conv.0.weight"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["w1.weight", "linear_stages.0.w1.weight", "w2.weight"], "martinez"),
        (["expand_conv.weight", "expand_bn.weight", "shrink.weight"], "videopose3d"),
        (["expand_conv.group_conv.0.weight", "expand_bn.weight", "final_layer.group_conv.0.weight"], "srnet"),
    ],
)
def test_layouts_are_told_apart_by_names(names, layout):
    assert weights.layout_of(dict.fromkeys(names, 0)) == layout
    assert weights.layout_of({"epoch": 3, "model_pos": dict.fromkeys(names, np.zeros(1))}) == layout
