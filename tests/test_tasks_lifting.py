"""The family of lifters: normalisations of the published codes, losses, mirrored poses, and what does not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import tasks
from jaxpose.data import human36m
from jaxpose.data.synthetic import lifting as synthetic
from jaxpose.nets import LinearLifter, SRNet, TemporalLifter
from jaxpose.skeleton import H36M17
from jaxpose.tasks.lifting import View, joints_of, mirrored, read_pixels, target_of
from tests.test_nets_lifting import state_of, x64  # noqa: F401

FC = LinearLifter(joints_in=17, joints_out=17, width=8, dropout=0.0)
FC_SIGMA = FC.clone(dim=6)
RLE = tasks.LiftLoss(loss="rle", flow_layers=2, flow_hidden=(4,))


def batch(n=4, frames=1):
    world, kinds = synthetic.draw("S1", max(n // 4, 1))
    pairs = synthetic.seen(world, kinds, "S1").take(np.arange(n))
    rows = np.repeat(np.arange(n)[:, None], frames, 1)
    arrays = {
        "px": pairs.px[rows], "joints": pairs.joints, "root": pairs.joints[rows, 0], "focal": pairs.focal,
        "center": pairs.center, "size_wh": pairs.size_wh,
    }  # fmt: skip
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def view_of(b):
    return View(b["focal"], b["center"], b["size_wh"], b["root"][:, 0])


def test_normalisations_of_the_reference_code(golden, x64):  # noqa: F811
    g = golden("three_d/metrics3d")
    joints, px, inner = 1000 * g["srn_camera_m"], g["srn_pixel"], g["srn_intrinsic9"]
    n = len(joints)
    of = [np.tile(np.asarray(a, float), (n, 1)) for a in (inner[:2], inner[2:4], g["srn_wh"])]
    view = View(*map(jnp.asarray, of), jnp.asarray(joints[:, 0]))
    close = lambda a, b, **o: np.testing.assert_allclose(a, b, **{"rtol": 1e-6, "atol": 1e-9, **o})  # noqa: E731
    close(read_pixels(px, view, norm="base"), g["srn_base_2d"])
    for norm in ("proj", "weak_proj", "lcn"):
        target = target_of(joints, view, norm=norm)
        close(target, g[f"srn_{norm}_3d"])
        close(read_pixels(px, view, norm=norm), g[f"srn_{norm}_2d"])
        close(joints_of(target, view, norm=norm) / 1000, g[f"srn_{norm}_back_m"], atol=1e-7)
        ratio = np.asarray(view.depth_ratio)[..., 0] + (norm == "lcn")
        box = 2 / (2000 * np.asarray(view.depth_ratio)[..., 0])
        close(np.concatenate([ratio, box], -1), g[f"srn_{norm}_params"][:, 0, :2])
        close(view.root_px[:, 0], g[f"srn_{norm}_params"][:, 0, 2:4])
        close(view.root[:, 2], g[f"srn_{norm}_params"][:, 0, 4])


def test_lcn_mirrors_what_the_net_reads_and_predicts_as_the_reference_code(golden, x64):  # noqa: F811
    g = golden("three_d/metrics3d")
    n = len(g["srn_pixel"])
    inner = np.tile(g["srn_intrinsic9"], (n, 1))
    b = {
        "px": g["srn_pixel"][:, None], "joints": 1000 * g["srn_camera_m"], "root": 1000 * g["srn_camera_m"][:, :1],
        "focal": inner[:, :2], "center": inner[:, 2:4], "size_wh": np.tile(g["srn_wh"], (n, 1)),
    }  # fmt: skip

    class Input(SRNet):
        def lift(self, x, *, train):
            xy = x.reshape(*x.shape[:2], 17, 2)
            return jnp.concatenate([xy, jnp.zeros((*xy.shape[:3], 1))], -1)

    task = tasks.lifting(Input(add_input=True), skeleton=H36M17, norm="lcn")
    variables, swap = {"params": {"net": {}}, "batch_stats": {}}, list(H36M17.flip_index)
    other = mirrored(b, H36M17, norm="lcn")
    seen = task.apply_net(variables, other, train=False)[0][..., :2]
    np.testing.assert_allclose(seen, g["srn_lcn_2d"][:, swap] * [-1, 1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(task.target(other), g["srn_lcn_3d"][:, swap] * [-1, 1, 1], rtol=1e-6, atol=1e-9)
    # A training step with mirrored rows has the same loss and error as the mirrored arrays of the code.
    some = {**b, "mirrored": np.arange(n) % 2 == 0}
    loss, (_, values) = task.loss(variables, some, key=jax.random.key(0))
    plain, (_, expected) = task.loss(variables, b, key=jax.random.key(0))
    assert loss == pytest.approx(float(plain)) and values["mpjpe"] == pytest.approx(float(expected["mpjpe"]))


@pytest.mark.parametrize("norm", ["base", "proj", "lcn"])
def test_normalisations_are_undone(norm):
    b = batch(8)
    view = view_of(b)
    back = joints_of(target_of(b["joints"], view, norm=norm), view, norm=norm)
    np.testing.assert_allclose(back, b["joints"] - b["joints"][:, :1], atol=0.05)  # float32 at 5 m


def test_weak_perspective_loses_what_the_docstring_says():
    b = batch(8)
    view = view_of(b)
    back = joints_of(target_of(b["joints"], view, norm="weak_proj"), view, norm="weak_proj")
    error = np.linalg.norm(back - (b["joints"] - b["joints"][:, :1]), axis=-1)
    assert 1 < error.max() < 300


def test_readings_of_rle_on_the_reference_numbers(golden, golden_json, x64):  # noqa: F811
    from jaxpose import weights

    g, j = golden("three_d/lifting"), golden_json("three_d/lifting")
    state = state_of(j["states"], {**j, "conv_scale": j["flow_scale"]}, "flow3d")
    variables = {"params": {"flow": weights.flow_from_torch(state)["params"]}}
    target = jnp.asarray(g["liftrle_gt"])
    mu, sigma = jnp.asarray(g["liftrle_mu"]), jax.nn.sigmoid(jnp.asarray(g["liftrle_logits"])) + 1e-9
    flow = tasks.LiftLoss(loss="rle").flow()
    log_prob = flow.apply({"params": variables["params"]["flow"]}, (mu - target) / sigma, method="log_prob")
    np.testing.assert_allclose(log_prob, g["liftrle_logphi"][..., 0], rtol=1e-6, atol=1e-9)

    def loss(mu, logits, reading):
        task = tasks.lifting(FC_SIGMA, skeleton=H36M17, loss=tasks.LiftLoss(loss="rle", reading=reading))
        mu, sigma = task.split(jnp.concatenate([mu, logits], -1))
        return task.per_joint_loss(variables, mu, sigma, target, where=jnp.ones(mu.shape[:2], bool)).sum() / len(mu)

    for reading, name in (("official", "liftrle_official3d"), ("srnet", "liftrle")):
        inputs = jnp.asarray(g["liftrle_mu"]), jnp.asarray(g["liftrle_logits"])
        value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)(*inputs, reading)
        assert value == pytest.approx(float(g[f"{name}_loss"]), rel=1e-6)
        for gradient, part in zip(gradients, ("dmu", "dlogits")):
            np.testing.assert_allclose(gradient, g[f"{name}_{part}"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("net", "options"),
    [
        (FC, {}),
        (FC, {"relative": True, "loss": tasks.LiftLoss(loss="l1")}),
        (FC_SIGMA, {"loss": RLE}),
        (TemporalLifter(widths=(3,), width=8, dropout=0.0), {"loss": tasks.LiftLoss(loss="mpjpe")}),
        (SRNet(groups=1, widths=(1,), width=16, add_input=True), {"norm": "lcn"}),
    ],
    ids=["l2", "l1", "rle", "mpjpe", "lcn"],
)
def test_a_task_trains_predicts_and_is_rebuilt(net, options):
    task = tasks.lifting(net, skeleton=H36M17, **options)
    assert isinstance(task, tasks.PoseTask) and task.level == "pair"
    again = tasks.from_config(task.config)
    assert again.config == task.config and type(again.net) is type(net)
    b = batch(4, frames=task.frames)
    variables = jax.jit(task.init)(jax.random.key(0))
    outputs = jax.eval_shape(lambda v: task.predict(v, b), variables)
    assert set(outputs) == set(task.outputs) and outputs["joints"].shape == (4, 17, 3)
    (value, (collections, values)), gradient = jax.jit(
        jax.value_and_grad(lambda p: task.loss({**variables, "params": p}, b, key=jax.random.key(1)), has_aux=True)
    )(variables["params"])
    assert np.isfinite(value) and np.isfinite(values["mpjpe"]) and "batch_stats" in collections
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_the_root_has_no_likelihood():
    """Neither its position nor its sigma changes the loss: at a target of 0 sigma would shrink without end."""
    task = tasks.lifting(FC_SIGMA, skeleton=H36M17, loss=RLE)
    assert not bool(task.is_trained[0]) and int(task.is_trained.sum()) == 16
    variables = jax.jit(task.init)(jax.random.key(0))
    b = batch(4)
    target = target_of(b["joints"], view_of(b), norm="base")
    where = jnp.broadcast_to(task.is_trained, (4, 17))

    def loss(mu, sigma):
        return task.per_joint_loss(variables, mu, sigma, target, where=where).sum()

    mu, sigma = jnp.asarray(target) + 0.1, jnp.full((4, 17, 3), 0.1)
    grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
    by_mu, by_sigma = grad(mu.at[:, 0].set(jnp.nan), sigma.at[:, 0].set(1e-30))
    assert not by_mu[:, 0].any() and not by_sigma[:, 0].any() and by_mu[:, 1:].all() and np.isfinite(by_sigma).all()
    assert task.to_mm(mu, view_of(b))[:, 0].any() == False  # noqa: E712


def test_losses_are_means_as_published():
    b = batch(4)
    target = target_of(b["joints"], view_of(b), norm="base")
    mu = jnp.asarray(target) + jnp.array([0.3, 0.4, 0.0])
    where = jnp.ones((4, 17), bool)
    for name, expected in (("l2", 0.25 / 3), ("l1", 0.7 / 3), ("mpjpe", 0.5)):
        task = tasks.lifting(FC, skeleton=H36M17, loss=tasks.LiftLoss(loss=name))
        values = task.per_joint_loss({}, mu, None, target, where=where)
        assert values.mean() / (1 if name == "mpjpe" else 3) == pytest.approx(expected, rel=1e-4)


def test_mirroring_a_pose_mirrors_its_projection():
    b = batch(4)
    other = mirrored(b, H36M17)
    rays = other["joints"][..., :2] / other["joints"][..., 2:]
    px = rays * other["focal"][:, None] + other["center"][:, None]
    assert np.abs(px - other["px"][:, 0]).max() < 8  # the lens, which is not mirrored
    of_numpy = mirrored(
        {name: np.asarray(values) for name, values in b.items()}, H36M17
    )  # as a prediction without jit has it
    for name in b:
        np.testing.assert_array_equal(of_numpy[name], other[name])
    twice = mirrored(other, H36M17)
    for name in b:
        np.testing.assert_allclose(twice[name], b[name], atol=1e-3)
    task = tasks.lifting(FC, skeleton=H36M17)
    variables = jax.jit(task.init)(jax.random.key(0))
    predict = jax.jit(lambda v, x: task.predict(v, x)["joints"])
    both = predict(variables, b), predict(variables, mirrored(b, H36M17))
    swapped = both[1][:, list(H36M17.flip_index)] * np.array([-1, 1, 1])
    np.testing.assert_allclose(both[0], swapped, atol=0.5)  # the flip test makes a net symmetric


def test_some_joints_in_and_out():
    """Martinez's net reads 16 of the 17 joints and predicts all but the root."""
    inputs, outputs = tuple(i for i in range(17) if i != 9), tuple(range(1, 17))
    net = LinearLifter(width=8)
    task = tasks.lifting(net, skeleton=H36M17, input_joints=inputs, output_joints=outputs)
    variables = jax.jit(task.init)(jax.random.key(0))
    joints = jax.jit(lambda v, b: task.predict(v, b, flip_test=False)["joints"])(variables, batch(4))
    assert joints.shape == (4, 17, 3) and not joints[:, 0].any() and joints[:, 1:].any()
    assert tasks.from_config(task.config).input_joints == inputs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tasks.lifting(FC, skeleton=H36M17, loss=RLE), "dim=3 numbers per joint: rle needs 6"),
        (lambda: tasks.lifting(FC_SIGMA, skeleton=H36M17), "dim=6 numbers per joint: l2 needs 3"),
        (lambda: tasks.lifting(SRNet(width=64), skeleton=H36M17, norm="lcn"), "add_input=True"),
        (lambda: tasks.lifting(FC, skeleton=H36M17, norm="pixels"), "norm='pixels'"),
        (lambda: tasks.lifting(FC, skeleton=H36M17, root=17), "root=17"),
        (lambda: tasks.LiftLoss(reading="exact"), "reading='exact'"),
        (lambda: tasks.from_config({"family": "lifting", "net": None}), "lacks skeleton, norm, loss"),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_normalisation_asks_for_the_root():
    task = tasks.lifting(FC, skeleton=H36M17, norm="proj")
    b = {name: value for name, value in batch(4).items() if name != "root"}
    with pytest.raises(ValueError, match="norm='proj' needs the root in space"):
        task.view(b)


def test_cameras_of_the_test_are_those_of_human36m():
    assert tuple(batch(1)["size_wh"][0]) == human36m.LENSES[0].size_wh
