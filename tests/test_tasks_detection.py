"""The losses of an R-CNN beside executed torchvision, and what training must not depend on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import compile, nets, tasks, weights
from jaxpose.detection import matching
from jaxpose.nets.rcnn import KeypointHead
from jaxpose.skeleton import Skeleton
from jaxpose.tasks.detection_loss import (
    RegionLoss,
    _keypoint_head,
    class_and_box,
    coordinate_loss,
    region_losses,
    sample_regions,
    trainable,
)
from tests import golden_detection as reference
from tests import golden_flow

PAIR = Skeleton(name="pair", joints=("a", "b"), flip_pairs=(), limbs=((0, 1),), sigmas=(0.1, 0.1), upper=())
SETTINGS = RegionLoss(pre_nms=8, post_nms=8, anchors=16, regions=8)


def falling(batch_size):
    """Priorities with which a sampler keeps the first entries."""
    return lambda what, count: jnp.broadcast_to(-jnp.arange(count) / count, (batch_size, count))


@pytest.fixture(scope="module")
def small():
    """A small net with RLE, its variables, a batch of two images with one person and with none, and loss and gradient."""
    net = nets.RCNN(
        nets.ResNet(depth=18, width=4), num_joints=2, fpn_features=4, box_features=(4,), keypoint_convs=(4,), keypoint_output="rle",
        anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
    )  # fmt: skip
    task = tasks.detection(net, skeleton=PAIR, size_wh=(32, 32), resize=tasks.Resize(32, 64), training=SETTINGS)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(np.ones_like, variables["batch_stats"])
    box = np.array([[[4, 4, 24, 28], [np.nan] * 4], [[np.nan] * 4] * 2], np.float32)
    keypoints = np.full((2, 2, 2, 3), np.nan, np.float32)
    keypoints[0, 0] = [[10, 10, 2], [100, 10, 2]]  # the second one outside
    batch = {
        "image": rng.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32), "size_hw": np.array([[32, 32], [20, 32]]),
        "boxes": box, "people": np.array([[True, False], [False, False]]), "keypoints": keypoints, "image_id": np.array([3, 5]),
    }  # fmt: skip
    step = jax.jit(jax.value_and_grad(lambda v, b, k: task.loss(v, b, key=k), has_aux=True))
    return task, variables, batch, step


def test_padding_of_labels_is_not_seen(small):
    task, variables, batch, step = small
    (total, (_, metrics)), gradient = step(variables, batch, jax.random.key(0))
    assert set(metrics) == {f"{name}_loss" for name in ("proposal_score", "proposal_box", "class", "box", "joints")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((total, metrics, gradient)))
    other = batch | {
        "boxes": np.nan_to_num(batch["boxes"], nan=7.0),
        "keypoints": np.nan_to_num(batch["keypoints"], nan=9.0),
    }
    np.testing.assert_array_equal(step(variables, other, jax.random.key(0))[0][0], total)
    params = gradient["params"]["net"]
    frozen = params["backbone"]["conv1"], params["backbone"]["layer1_0"], params["backbone"]["layer4_0"]["bn1"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(frozen))
    trained = (
        params["backbone"]["layer4_0"]["conv1"],
        params["rpn"],
        params["keypoint_head"]["joints"],
        gradient["params"]["flow"],
    )
    assert all(any(np.any(leaf) for leaf in jax.tree.leaves(part)) for part in trained)


def test_a_batch_without_people_trains_the_background_alone(small):
    task, variables, batch, step = small
    nobody = batch | {"people": np.zeros((2, 2), bool)}
    (total, (_, metrics)), gradient = step(variables, nobody, jax.random.key(0))
    assert float(metrics["joints_loss"]) == float(metrics["box_loss"]) == 0 and float(metrics["class_loss"]) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((total, gradient)))


def test_what_is_sampled_depends_on_the_image_and_not_on_its_place(small):
    task, variables, batch, step = small
    swapped = {name: values[::-1] for name, values in batch.items()}
    keys = [jax.random.key(number) for number in (1, 1, 2)]
    first, second, third = (
        step(variables, each, key)[0][1][1]["proposal_score_loss"]
        for each, key in zip((batch, swapped, batch), keys, strict=True)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert third != first


def test_the_labelled_boxes_are_regions_and_come_first():
    proposals = {
        "boxes": jnp.array([[[50.0, 50, 60, 60], [0, 0, 9, 10], [0, 0, 1, 1]]]),
        "valid": jnp.array([[True, True, False]]),
    }
    truth, people = jnp.array([[[0.0, 0, 10, 10], [0, 0, 0, 0]]]), jnp.array([[True, False]])
    regions = sample_regions(
        proposals, truth, people, settings=RegionLoss(regions=4, foreground=0.5), priority=falling(1)
    )
    assert regions["positive"].tolist() == [[True, True, False, False]] and regions["valid"].tolist() == [
        [True, True, True, False]
    ]
    assert regions["box"][0, :3].tolist() == [[0, 0, 9, 10], [0, 0, 10, 10], [50, 50, 60, 60]]


def test_settings_are_checked_and_stored(small):
    task = small[0]
    assert tasks.from_config(task.config).config == task.config and task.config["likelihood"]["loss"] == "rle"
    for options in ({"foreground": 0.0}, {"freeze_at": 6}, {"proposal_low": 0.8}):
        with pytest.raises(ValueError, match=next(iter(options))):
            RegionLoss(**options)


def test_a_step_for_a_topology_is_compiled_for_such_a_batch(small):
    task, _, batch, _ = small
    example = compile.example_batch(task, 2)
    assert set(example) == set(batch)
    for name, values in batch.items():
        shape, kind = example[name].shape, example[name].dtype.kind
        assert len(shape) == values.ndim and shape[2:] == values.shape[2:], name
        assert kind == values.dtype.kind or name == "image", name
    assert example["image"].shape == batch["image"].shape and example["boxes"].shape == (2, compile.steps.PEOPLE, 4)


def test_a_head_that_is_computed_again_has_the_same_values(small):
    task, variables, *_ = small
    net, weights_of_net = task.net, {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}
    regions = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4, 4)), jnp.float32)

    def total(regions, remat):
        head = _keypoint_head(RegionLoss(remat=remat))
        return jnp.square(net.apply(weights_of_net, regions, method=head)).sum()

    stored, again = (jax.value_and_grad(total)(regions, remat) for remat in (False, True))
    assert stored[0] == again[0] and np.any(again[1])
    np.testing.assert_array_equal(stored[1], again[1])
    assert [("remat" in str(jax.make_jaxpr(partial(total, remat=remat))(regions))) for remat in (False, True)] == [
        False,
        True,
    ]


def test_golden_training(golden, golden_json):
    g, facts = golden("detection/tv_tiny_train"), golden_json("detection/tv_tiny")
    state = reference.weights(facts["tiny_state"], facts["tiny_scales"], facts["AB"])
    net, variables = weights.from_torch(state, layout="keypoint_rcnn")
    net = net.clone(backbone=net.backbone.clone(bn_eps=1e-5))
    size_hw = np.array([[128, 186], [174, 128]])
    pictures = [g["image0_u8"], g["image1_u8"]]
    images = reference.torchvision_batch(pictures, size_hw, np.array([192, 192]))
    box, people, keypoints = (
        np.zeros((2, 4, 4), np.float32),
        np.zeros((2, 4), bool),
        np.zeros((2, 4, 17, 3), np.float32),
    )
    for i, picture in enumerate(pictures):
        ratio = (size_hw[i] / picture.shape[:2])[::-1].astype(np.float32)
        count = len(g[f"gt_boxes{i}"])
        people[i, :count] = True
        box[i, :count] = g[f"gt_boxes{i}"] * np.tile(ratio, 2)
        keypoints[i, :count] = g[f"gt_keypoints{i}"] * np.append(ratio, 1)
    batch = {"size_hw": size_hw, "boxes": box, "people": people, "keypoints": keypoints}
    settings = RegionLoss(pre_nms=300, post_nms=150, anchors=64, regions=64, freeze_at=0)

    def total(params, order):
        weights = {"params": trainable(params, freeze_at=0, train_bn=False), "batch_stats": variables["batch_stats"]}
        options = {"settings": settings, "priority": falling(2), "mutable": ["batch_stats"]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matching, "sample", in_order(order))
            terms, _ = net.apply(weights, images, batch, method=region_losses, **options)
        return sum(terms.values()), terms

    step = jax.jit(jax.grad(total, has_aux=True))
    for rule, order in (("first", np.arange(ENTRIES)), ("hash", np.arange(1, ENTRIES + 1) * 2654435761 % 2**32)):
        gradient, terms = step(variables["params"], np.argsort(np.argsort(order, kind="stable")))
        check_torchvision(rule, gradient, terms, g, facts)


ENTRIES = 10_000  # more than the anchors of a picture


def in_order(order):
    """A sampler that takes the positives, and the negatives, whose places in their lists come first in `order`."""
    sample = matching.sample

    def ordered(positive, negative, **options):
        place = jnp.where(positive, positive.cumsum(-1), negative.cumsum(-1)) - 1
        return sample(positive, negative, **options | {"priority": -order[place] / ENTRIES})

    return ordered


def check_torchvision(rule, gradient, terms, g, facts):
    names = {
        "class": "classifier", "box": "box_reg", "joints": "keypoint", "proposal_score": "objectness", "proposal_box": "rpn_box_reg",
    }  # fmt: skip
    for ours, theirs in names.items():
        np.testing.assert_allclose(terms[ours], g[f"{rule}_loss_{theirs}"], rtol=2e-4, err_msg=f"{rule} {ours}")
    logits = gradient["rpn"]["logits"]["kernel"]
    np.testing.assert_allclose(logits[0, 0].T, g[f"{rule}_grad_rpn_cls"][:, :, 0, 0], atol=2e-4)
    np.testing.assert_allclose(gradient["box_head"]["scores"]["kernel"].T, g[f"{rule}_grad_box_cls"], atol=2e-4)
    np.testing.assert_allclose(gradient["fpn"]["lateral_0"]["bias"], g[f"{rule}_grad_fpn_inner0_bias"], atol=2e-4)
    assert np.abs(gradient["keypoint_head"]["deconv"]["bias"]).max() < 1e-5  # the softmax does not see it
    first = facts["grad_names"].index("backbone.body.conv1.weight")
    np.testing.assert_allclose(
        np.linalg.norm(gradient["backbone"]["conv1"]["kernel"]), g[f"{rule}_grad_norm"][first], rtol=1e-3
    )


def test_golden_losses_of_boxes(golden):
    """Classes and boxes of given outputs, as torchvision and (beta 0 and 1/2) Detectron2 compute them, and the gradient."""
    g = golden("detection/box_losses")
    label, count = g["labels"], len(g["labels"])

    def terms(outputs, beta):
        rows = {"label": label, "target": g["regression_targets"], "positive": label > 0, "where": np.ones(count, bool)}
        return class_and_box(outputs[0], outputs[1].reshape(count, -1, 4), **rows, beta=beta)

    outputs = (g["class_logits"], g["box_regression"])
    with jax.enable_x64(True):
        values = terms(outputs, 1 / 9)
        np.testing.assert_allclose(values["class"], g["tv_loss_classifier"], rtol=1e-12)
        np.testing.assert_allclose(values["box"], g["tv_loss_box_reg"], rtol=1e-12)
        for beta, name in ((0.0, "0"), (0.5, "50"), (1 / 9, "11")):
            np.testing.assert_allclose(terms(outputs, beta)["box"], g[f"d2_loss_box_reg_beta{name}"], rtol=1e-12)
        gradient = jax.grad(lambda outputs: sum(terms(outputs, 1 / 9).values()))(outputs)
    for ours, theirs in zip(gradient, ("dlogits", "dreg"), strict=True):
        np.testing.assert_allclose(ours, g[theirs], atol=1e-12)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_golden_coordinates_of_regions(golden, variant):
    """RLE in the frame of a region: head, targets under both masks, loss per joint, gradient, decoded joints."""
    g, flows = golden("detection/rle_roi_composed"), golden("rle_official")
    likelihood, box = tasks.Likelihood(variant=variant), g["boxes"].astype(np.float64)
    head = KeypointHead(17, (32, 32), "rle", dtype=jnp.float64)
    convs = {f"conv_{i}": {"kernel": g[f"conv{i}_w"].transpose(2, 3, 1, 0), "bias": g[f"conv{i}_b"]} for i in range(2)}
    params = convs | {"joints": {"kernel": g["fc_w"].T, "bias": g["fc_b"]}}
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        raw = head.apply({"params": params}, jnp.asarray(g["features"].transpose(0, 2, 3, 1), jnp.float64))
        np.testing.assert_allclose(raw, g["raw"], atol=1e-10)
        flow = partial(likelihood.flow().apply, golden_flow.variables(flows, "flow2d.", jnp.float64))
        inside = matching.keypoint_targets(g["keypoints"].astype(np.float64), box)[1]
        np.testing.assert_array_equal(inside, g["where_inside"])
        for name, where in (("visible", g["keypoints"][..., 2] > 0), ("inside", inside)):
            loss, gradient = jax.value_and_grad(coordinate_loss)(
                raw, g["keypoints"], box, where=where, likelihood=likelihood, flow=flow
            )
            np.testing.assert_allclose(loss, g[f"{variant}_{name}_loss_per_joint"], rtol=1e-10)
            if variant == "official":
                np.testing.assert_allclose(gradient, g[f"official_{name}_draw"], atol=1e-10)
        joints = nets.RCNN(nets.ResNet(depth=18), num_joints=17, keypoint_output="rle").read_joints(raw, box)
        np.testing.assert_allclose(joints["keypoints"], g["decoded_xy"], atol=1e-9)
        np.testing.assert_allclose(joints["keypoint_confidence"], g["confidence"], atol=1e-10)


def test_golden_training_of_detectron2(golden, golden_json):
    g, facts = golden("detection/d2_tiny"), golden_json("detection/d2_tiny")
    state = reference.weights(facts["tiny_state"], facts["tiny_scales"], facts["AB"])
    state["backbone.bottom_up.stem.conv1.weight"] /= np.float32(facts["tiny_stem_divisor"])
    net, variables = weights.from_torch(state, layout="detectron2_rcnn")
    images, size_hw = np.zeros((2, 192, 192, 3), np.float32), []
    box, people, keypoints = (
        np.zeros((2, 4, 4), np.float32),
        np.zeros((2, 4), bool),
        np.zeros((2, 4, 17, 3), np.float32),
    )
    for i in range(2):
        picture, count = g[f"input{i}_rgb_u8"], len(g[f"gt_boxes{i}"])
        images[i, : len(picture), : picture.shape[1]] = picture[..., ::-1] - np.array([103.530, 116.280, 123.675])
        size_hw.append(picture.shape[:2])
        people[i, :count], box[i, :count], keypoints[i, :count] = True, g[f"gt_boxes{i}"], g[f"gt_keypoints{i}"]
    batch = {"size_hw": np.array(size_hw), "boxes": box, "people": people, "keypoints": keypoints}
    settings = RegionLoss(pre_nms=300, post_nms=150, anchors=64, regions=64)
    options = {"settings": settings, "priority": falling(2), "method": region_losses, "mutable": ["batch_stats"]}
    terms, _ = jax.jit(lambda variables: net.apply(variables, images, batch, **options))(variables)
    names = {
        "class": "cls",
        "box": "box_reg",
        "joints": "keypoint",
        "proposal_score": "rpn_cls",
        "proposal_box": "rpn_loc",
    }
    for ours, theirs in names.items():
        np.testing.assert_allclose(terms[ours], g[f"first_loss_{theirs}"], rtol=1e-5, err_msg=ours)
