"""The task of pose anchors: what is trained and predicted, and the published losses and poses of executed code."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxpose import nets, tasks
from jaxpose.detection import point_sets
from jaxpose.nets.layers import Conv
from jaxpose.nets.pointset import Stage
from jaxpose.skeleton import COCO17
from jaxpose.tasks.point_sets import heatmap_loss, heatmap_targets, in_image
from tests import tiny_run, torch_states

TAPS = (0, 7, 8, 9, 10, 13, 14, 15, 16)  # the published ones


class Halves(nn.Module):
    """A backbone that is quick to compile: a convolution for each of four strides."""

    @nn.compact
    def __call__(self, images, *, train, every_stage):
        maps = [nn.avg_pool(images, (4, 4), (4, 4))]
        for i in range(4):
            maps.append(nn.relu(Conv(8, 3, 2 if i else 1, name=f"conv{i}")(maps[-1])))
        return maps[1:]


def batch(people: int = 3, labelled: bool = True):
    """Two images with people, of whom the second image has only one, and another that is outside."""
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 20, (2, people, 1, 2)), rng.uniform(10, 40, (2, people, 1, 2))
    visibility = np.full((2, people, 17), 2)
    visibility[1, 1:] = 0
    joints = corner + size * rng.uniform(size=(2, people, 17, 2))
    joints[0, -1] += 1000
    joints = np.where(visibility[..., None] > 0, joints, np.nan)
    return {
        "image": rng.integers(0, 256, (2, 64, 64, 3), np.uint8),
        "joints": joints.astype(np.float32),
        "visibility": visibility * labelled,
    }


@pytest.fixture(scope="module")
def trained():
    """A task with RLE and heatmaps, its variables, and its loss, metrics and gradient as a jitted function of a batch."""
    task = tiny_run.point_sets_task(heatmaps=True, backbone=Halves())
    variables = jax.eval_shape(task.init, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(drawn, variables)

    @jax.jit
    def step(params, data):
        def loss(params):
            return task.loss({**variables, "params": params}, data, key=jax.random.key(0))

        return jax.value_and_grad(loss, has_aux=True)(params)

    return task, variables, step


def drawn(path, leaf):
    """Weights as a net has them at first, without compiling its initialisation."""
    rng = np.random.default_rng(int(np.prod(leaf.shape)))
    if path[-1].key in ("scale", "var"):
        return np.ones(leaf.shape, np.float32)
    deviation = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.0
    return rng.normal(0, deviation, leaf.shape).astype(np.float32)


@cache
def predict(task):
    return jax.jit(task.predict)


def test_every_term_reaches_the_weights_and_garbage_does_not(trained):
    _, variables, step = trained
    (loss, (_, metrics)), grad = step(variables["params"], batch())
    assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
    assert {"flow", "first_flow"} <= set(grad)
    norms = {name: sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(part)) for name, part in grad.items()}
    norms |= {name: sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(part)) for name, part in grad["net"].items()}
    assert set(norms) == {
        "net", "flow", "first_flow", "backbone", "pyramid", "stage1", "stage2", "heatmap", "map_offset"
    } and all(norms.values())  # fmt: skip
    # In the second stage the nine best anchors of each of the three people decide.
    assert 0 < metrics["matched_2"] <= 9 * 3 / 2 and metrics["untrained_2"] >= 0
    (empty, _), grad = step(variables["params"], batch(labelled=False))
    assert np.isfinite(empty) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
    assert not any(np.abs(leaf).any() for leaf in jax.tree.leaves([grad["flow"], grad["first_flow"]]))


def test_two_pictures_are_learnt(trained):
    _, variables, step = trained
    params, tx = variables["params"], optax.adam(5e-3)
    state, update, history = tx.init(params), jax.jit(tx.update), []
    for _ in range(60):
        (loss, (_, metrics)), grad = step(params, batch())
        history.append({"loss": float(loss), **{name: float(value) for name, value in metrics.items()}})
        change, state = update(grad, state)
        params = optax.apply_updates(params, change)
    first, last = history[0], history[-1]
    assert last["loss"] < first["loss"] - 5
    for name in ("score_loss_1", "score_loss_2", "map_loss"):
        assert last[name] < 0.6 * first[name], name
    assert last["joint_loss_2"] < first["joint_loss_2"] - 5


def test_the_people_come_best_first_and_the_rest_is_empty(trained):
    task, variables, _ = trained
    predicted = predict(task)(task.inference_variables(variables), batch())
    assert set(predicted) == set(task.outputs) and task.density(variables) is None
    valid = np.asarray(predicted["valid"])
    assert predicted["poses"].shape == (2, 5, 17, 3) and valid.any()
    assert (np.diff(predicted["scores"], axis=1) <= 0).all() and (np.diff(valid.astype(int), axis=1) <= 0).all()
    for name in ("poses", "scores", "regressed"):
        assert not np.asarray(predicted[name])[~valid].any(), name
    poses = np.asarray(predicted["poses"])
    assert (poses[..., :2] >= 0).all() and (poses[..., :2] <= 63).all()
    assert (np.asarray(predicted["candidates"]) >= valid.sum(1)).all()
    assert (poses[..., :2] != np.asarray(predicted["regressed"])).any(), "joints are moved to peaks"


def test_damaged_weights_do_not_look_like_an_empty_picture(trained):
    task, variables, _ = trained
    damaged = jax.tree.map(lambda x: np.full_like(x, np.nan), variables)
    predicted = jax.device_get(predict(task)(task.inference_variables(damaged), batch()))
    with pytest.raises(ValueError, match="its weights are damaged"):
        task.people(predicted, stride=1.0)


def test_without_peaks_the_joints_are_regressed_and_have_regions():
    task = tiny_run.point_sets_task(rescore="score*confidence")
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(task.init, jax.random.key(0)))
    predicted = jax.eval_shape(task.predict, task.inference_variables(variables), batch())
    assert predicted["sigma"].shape == (2, 5, 17, 2) and task.density(variables).dim == 2
    assert "sigma" not in tiny_run.point_sets_task("l1").outputs
    assert set(jax.eval_shape(tiny_run.point_sets_task("l1").init, jax.random.key(0))["params"]) == {"net"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny_run.point_sets_task("basic"), "loss='basic'"),
        (lambda: tiny_run.point_sets_task(refine="heatmap"), "the net has no heatmaps"),
        (lambda: tasks.AnchorLoss(low=0.9), "similarities in 0..1, in order"),
        (lambda: tasks.AnchorLoss(positives=0), "positives=0"),
        (lambda: tasks.ReadPoses(reach=0.0), "reach=0.0"),
        (lambda: tasks.ReadPoses(nms=0.0), "nms=0.0"),
        (lambda: nets.PointSetNet(nets.ResNet(18), 3, templates=[[[0, 0]]], taps=(0,)), "poses of 3 joints"),
        (lambda: nets.PointSetNet(nets.ResNet(18), 1, templates=[[[0, 0]]], taps=(1,)), r"taps=\(1,\)"),
    ],
)
def test_what_does_not_fit_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_hrnet_has_the_published_pyramid():
    net = nets.PointSetNet(nets.HRNet(4), 17, templates=[[[0.0, k / 17] for k in range(17)]], taps=TAPS, features=8, groups=2,
                           convs=1)  # fmt: skip
    outputs = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 96, 3)))
    assert [x.shape for x in outputs["logits"]] == [(1, 8 * 12 + 4 * 6 + 2 * 3)] * 2
    assert outputs["heatmap"].shape == (1, 16, 24, 17)


def test_people_whose_middle_is_outside_are_left_out():
    joints = jnp.array([[[0.0, 0.0], [8.0, 8.0]], [[-9.0, 0.0], [3.0, 3.0]], [[5.0, 5.0], [99.0, 5.0]]])
    labelled = jnp.array([[True, True], [True, True], [True, False]])
    assert in_image(joints, labelled, jnp.array([10, 10])).tolist() == [True, False, True]
    assert in_image(joints, ~jnp.ones((3, 2), bool), jnp.array([10, 10])).tolist() == [False] * 3


# ------------------------------------------------------------------------------------------------ the executed published code


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def stages(g):
    """The outputs of both stages as the net returns them, from the published head's maps."""
    template = g("detection/psa_anchors")["mean_pose"][None]
    head = g("detection/psa_head")
    levels = [head[f"feature{i}_f32"] for i in range(3)]
    anchors, scale = point_sets.pyramid(template, maps_hw=[level.shape[2:] for level in levels], strides=[8, 16, 32])

    def flat(name, *shape):
        maps = [np.moveaxis(head[f"{name}{i}"], 1, -1).reshape(2, -1, *shape) for i in range(3)]
        return jnp.asarray(np.concatenate(maps, 1), jnp.float64)

    second = np.concatenate([head[f"stage2_anchor{i}"] for i in range(3)], 1).reshape(2, -1, 17, 2)
    outputs = {
        "scale": scale, "anchors": [anchors, jnp.asarray(second, jnp.float64)],
        "logits": [flat(f"stage{s}_cls") for s in (1, 2)], "deltas": [flat(f"stage{s}_reg", 17, 2) for s in (1, 2)],
    }  # fmt: skip
    return head, levels, outputs


def test_golden_head(golden, golden_json, double):
    head, levels, outputs = stages(golden)
    facts = golden_json("detection/psa")
    state = torch_states.sine_state(facts["head_parameters"], facts["AB"], scale_of=lambda name: facts["conv_scale"])
    maps = [jnp.asarray(np.moveaxis(level, 1, -1), jnp.float64) for level in levels]
    stage = Stage(17, TAPS, 1, 32, 2, 8, False, 0.5, jnp.float64)
    apply = jax.jit(lambda params, anchors: stage.apply({"params": params}, maps, anchors))
    for number in (0, 1):

        def get(name, number=number):
            factor = 0.25 if "conv_reg_list" in name else 1.0
            return np.float64(state[f"{number}.{name}"] * np.float32(factor))

        def norm(name):
            return {"scale": get(f"{name}.weight"), "bias": get(f"{name}.bias")}

        params = {}
        for ours, theirs, output in (("score", "cls", "logit"), ("pose", "reg", "delta")):
            for i in range(2):
                kernel = get(f"pre_{theirs}_convs.{i}.conv.weight").transpose(2, 3, 1, 0)
                params |= {
                    f"{ours}_conv_{i}": {"kernel": kernel},
                    f"{ours}_norm_{i}": norm(f"pre_{theirs}_convs.{i}.gn"),
                }
            taps = get(f"shape_align_conv_list_{theirs}.0.0.weight").transpose(2, 3, 1, 0).reshape(9, 32, 32)
            params |= {f"{ours}_taps": {"kernel": taps}, f"{ours}_norm_taps": norm(f"norm_list_{theirs}.0.0")}
            kernel = get(f"conv_{theirs}_list.0.0.weight")[:, :, 0, 0].T
            params[output] = {"kernel": kernel, "bias": get(f"conv_{theirs}_list.0.0.bias")}
        refined = apply(params, outputs["anchors"][number])
        for name in ("logits", "deltas"):
            np.testing.assert_allclose(refined[name], outputs[name][number], atol=2e-6)


def test_golden_losses_and_poses(golden, double):
    head, _, outputs = stages(golden)
    task = tasks.point_sets(
        tiny_run.point_sets_task("l1").net, skeleton=COCO17, size_wh=(224, 160), people=tasks.ReadPoses(refine="none")
    )
    truth = np.zeros((2, 3, 17, 3))
    for i in (0, 1):
        truth[i, : len(head[f"gt_keypoints{i}"])] = head[f"gt_keypoints{i}"]
    labels = truth[..., :2], jnp.asarray(truth[..., 2] > 0)
    values = jax.jit(lambda outputs: [task.stage_loss({}, outputs, stage, *labels)[:2] for stage in (0, 1)])(outputs)
    for stage, (score, joints) in enumerate(values):
        np.testing.assert_allclose(score, head[f"stage{stage + 1}_loss_cls"].sum(), rtol=1e-6)
        np.testing.assert_allclose(10 * joints, head[f"stage{stage + 1}_loss_reg"].sum(), rtol=1e-6)
    first = np.asarray(outputs["anchors"][0] + outputs["deltas"][0] * np.asarray(outputs["scale"])[:, None, None])
    np.testing.assert_allclose(np.clip(first, 0, [223, 159]), outputs["anchors"][1], atol=1e-3)


def test_golden_heatmaps(golden, double):
    g = golden("detection/psa_ops")
    target, positive = np.moveaxis(g["heat_target"], 1, -1), g["heat_offset_weight"]
    offset = np.moveaxis(g["heat_offset"].reshape(2, 17, 2, 40, 56), (1, 2), (3, 4))
    # The joints, from the cells that have an offset: a person for each of them is as good as the people.
    weight = np.moveaxis(positive.reshape(2, 17, 2, 40, 56)[:, :, 0], 1, -1) > 0
    most = weight.sum((1, 2)).max()
    joints, labelled = np.zeros((2, most, 17, 2)), np.zeros((2, most, 17), bool)
    for b, k in np.ndindex(2, 17):
        y, x = np.nonzero(weight[b, :, :, k])
        joints[b, : len(y), k] = np.stack([x, y], -1) + offset[b, y, x, k]
        labelled[b, : len(y), k] = True
    targets = jax.jit(heatmap_targets, static_argnums=2)(jnp.asarray(joints), jnp.asarray(labelled), (40, 56))
    np.testing.assert_allclose(targets, target, atol=1e-6)
    p = np.clip(np.moveaxis(np.float64(g["heat_pred"]), 1, -1), 1e-4, 1 - 1e-4)
    logits = jnp.log(p / (1 - p))
    loss = jax.jit(lambda offset: heatmap_loss(logits, offset, jnp.asarray(joints) * 4, jnp.asarray(labelled)))
    np.testing.assert_allclose(2 * loss(jnp.asarray(offset)), g["heat_l2"], rtol=1e-4)
    # Published: 0.05 * 10 times the mean error, here 0.1 in x and in y; and 0.05 times the sum over the 4 images of a device.
    more = float(loss(jnp.asarray(offset) + 0.1) - loss(jnp.asarray(offset)))
    assert tasks.AnchorLoss().maps * more == pytest.approx(0.05 * 10 * 0.2, rel=1e-3)
    assert tasks.AnchorLoss().maps == pytest.approx(0.05 * 4)
