"""R-CNNs beside executed torchvision and Detectron2, and what does not depend on weights: names, slots, chunks, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import nets, weights
from jaxpose.weights.detectors import as_torchvision, rcnn
from tests import golden_detection as reference

SMALL = {
    "num_joints": 2, "fpn_features": 8, "box_features": (8, 8), "keypoint_convs": (8,), "pre_nms": 12, "post_nms": 10,
    "max_detections": 4, "min_score": 0.05,
}  # fmt: skip


def filled(net):
    """Random variables of a net, without compiling its initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables = jax.tree.map(
        lambda leaf: rng.normal(0, 1, leaf.shape).astype(np.float32) / np.sqrt(np.prod(leaf.shape[:-1])), shapes
    )
    return variables | {"batch_stats": jax.tree.map(np.ones_like, variables["batch_stats"])}


@pytest.fixture(scope="module")
def small():
    """A small net with random weights, and its outputs for two images, one of which is smaller than its padding."""
    net = nets.RCNN(nets.ResNet(depth=18, width=4), **SMALL)
    images = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    size_hw = jnp.array([[64, 64], [40, 24]])
    variables = filled(net)
    detect = jax.jit(lambda size_hw: net.apply(variables, images, size_hw, method=net.detect))
    return net, variables, images, detect, detect(size_hw)


def test_outputs_are_inside_their_image_and_nothing_else_is_valid(small):
    net, variables, images, _, outputs = small
    assert outputs["boxes"].shape == (2, 4, 4) and outputs["keypoints"].shape == (2, 4, 2, 2)
    assert bool((outputs["boxes"][1] <= jnp.array([24, 40, 24, 40])).all()) and bool(outputs["valid"][1].any())
    invalid = ~outputs["valid"]
    for name in ("boxes", "scores", "labels", "keypoints", "keypoint_scores"):
        assert not np.asarray(outputs[name])[invalid].any(), name
    assert np.isfinite(jax.tree.leaves(outputs)[0]).all()
    assert (np.diff(outputs["scores"], axis=1) <= 0).all()
    assert (outputs["candidates"] >= outputs["valid"].sum(1)).all()
    called = jax.eval_shape(lambda: net.apply(variables, images, train=False))
    assert set(called) == {"boxes", "scores", "labels", "valid", "keypoints", "keypoint_scores"}


def test_heads_in_chunks_are_the_heads_on_all_regions_by_matrices(small):
    net, variables, images, _, outputs = small

    def direct(box):
        levels = net.apply(variables, images, method=net.features)
        regions = net.apply(variables, levels, box, cells=14, method=net.pool)
        read = lambda module, x, b: module.read_joints(module.keypoint_head(x), b)  # noqa: E731
        return net.apply(variables, regions.reshape(-1, 14, 14, 8), box.reshape(-1, 4), method=read)

    expected = jax.jit(direct)(outputs["boxes"])
    where = np.asarray(outputs["valid"]).ravel()
    for name in ("keypoints", "keypoint_scores"):
        ours, theirs = outputs[name].reshape(8, *outputs[name].shape[2:]), expected[name]
        np.testing.assert_allclose(ours[where], theirs[where], atol=1e-4)


def test_an_image_without_room_has_no_boxes(small):
    _, _, _, detect, _ = small
    outputs = detect(jnp.array([[0, 0], [1, 1]]))
    assert not outputs["valid"][0].any() and np.isfinite(outputs["boxes"]).all()


def test_more_boxes_than_slots_are_counted(small):
    net = small[0]
    proposals = {
        "boxes": jnp.arange(6.0)[None, :, None] * 10 + jnp.array([0, 0, 8.0, 8.0]),
        "valid": jnp.ones((1, 6), bool),
    }
    logits, deltas = jnp.tile(jnp.array([0.0, 5.0]), (1, 6, 1)), jnp.zeros((1, 6, 2, 4))
    rows = jax.jit(net.select)(logits, deltas, proposals, jnp.array([[100, 100]]))
    assert rows["valid"].sum() == 4 and rows["candidates"].tolist() == [6]


def test_classes_suppress_themselves_alone():
    net = nets.RCNN(nets.ResNet(depth=18, width=4), **SMALL | {"num_classes": 3, "variant": "detectron2"})
    box = jnp.array([[[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.5]]])
    logits = jnp.log(jnp.array([[[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]]]))
    proposals = {"boxes": box, "valid": jnp.ones((1, 2), bool)}
    rows = jax.jit(net.select)(logits, jnp.zeros((1, 2, 2, 4)), proposals, jnp.array([[20, 20]]))
    assert rows["labels"][0, :2].tolist() == [0, 1] and rows["valid"].tolist() == [[True, True, False, False]]
    np.testing.assert_allclose(rows["scores"][0, :2], [0.5, 0.35], rtol=1e-5)


def test_bad_settings_are_refused():
    backbone = nets.ResNet(depth=18, width=4)
    for options, text in (
        ({"variant": "mmdet"}, "variant"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"keypoint_output": "x"}, "keypoint_output"),
    ):
        with pytest.raises(ValueError, match=text):
            nets.RCNN(backbone, **options)


def states():
    """A small R-CNN's state dict under the names of torchvision, of its old versions, and of Detectron2."""
    net = nets.RCNN(
        nets.ResNet(depth=18, width=4),
        **{k: SMALL[k] for k in ("num_joints", "fpn_features", "box_features", "keypoint_convs")},
    )
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    full = {
        "backbone.body.conv1.weight": np.zeros((4, 3, 7, 7)),
        **{f"backbone.body.layer{i}.{j}.conv1.weight": np.zeros(1) for i in (1, 2, 3, 4) for j in (0, 1)},
    }
    shapes = {
        "roi_heads.box_predictor.cls_score.weight": (2, 8), "backbone.fpn.inner_blocks.0.0.weight": (8, 4, 1, 1),
        "rpn.head.conv.0.0.weight": (8, 8, 3, 3), "roi_heads.box_head.fc6.weight": (8, 392), "roi_heads.box_head.fc7.weight": (8, 8),
        "roi_heads.keypoint_head.0.weight": (8, 8, 3, 3), "roi_heads.keypoint_predictor.kps_score_lowres.weight": (8, 2, 4, 4),
    }  # fmt: skip
    names = rcnn(full | {n: np.zeros(s) for n, s in shapes.items()}, variant="torchvision", bn_eps=0.0)[1]
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(np.float32)
        for name, (_, shape) in weights.torch_tensors(variables, names).items()
    }


def detectron2_name(name: str) -> str:
    """Today's name in torchvision, as Detectron2 has it."""
    parts = name.split(".")
    if name.startswith("backbone.body.layer"):
        kind = {"bn1": "conv1.norm", "bn2": "conv2.norm", "conv1": "conv1", "conv2": "conv2"}.get(
            parts[4]
        ) or "shortcut" + ".norm" * (parts[5] == "1")
        return f"backbone.bottom_up.res{int(parts[2][-1]) + 1}.{parts[3]}.{kind}.{parts[-1]}"
    if name.startswith("backbone.fpn"):
        return f"backbone.fpn_{'lateral' if 'inner' in name else 'output'}{int(parts[3]) + 2}.{parts[-1]}"
    for theirs, ours in (
        ("backbone.body.bn1", "backbone.bottom_up.stem.conv1.norm"), ("backbone.body.conv1", "backbone.bottom_up.stem.conv1"),
        ("rpn.head.conv.0.0", "proposal_generator.rpn_head.conv"),
        ("rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
        ("rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"), ("roi_heads.box_head.fc6", "roi_heads.box_head.fc1"),
        ("roi_heads.box_head.fc7", "roi_heads.box_head.fc2"), ("roi_heads.keypoint_head.0", "roi_heads.keypoint_head.conv_fcn1"),
        ("roi_heads.keypoint_predictor.kps_score_lowres", "roi_heads.keypoint_head.score_lowres"),
    ):  # fmt: skip
        name = name.replace(theirs, ours)
    return name


def test_old_names_and_those_of_detectron2_give_the_same_net():
    state = states()
    assert weights.layout_of(state) == "keypoint_rcnn"
    net, variables = weights.from_torch(state, layout="keypoint_rcnn")
    assert (net.num_joints, net.backbone.bn_eps, net.fpn_features, net.keypoint_convs) == (2, 0.0, 8, (8,))
    fc = variables["params"]["box_head"]["fc_0"]["kernel"].reshape(7, 7, 8, 8)  # y, x, channel
    np.testing.assert_array_equal(fc[1, 2, 3], state["roi_heads.box_head.fc6.weight"][:, 3 * 49 + 1 * 7 + 2])
    old = {name.replace("blocks.0.0", "blocks.0").replace("conv.0.0", "conv"): value for name, value in state.items()}
    assert old.keys() != state.keys()
    masks = {"roi_heads.mask_head.0.0.weight": np.zeros((8, 8, 3, 3), np.float32)}
    other = {f"module.{name}": value for name, value in (old | masks).items()}
    assert weights.layout_of(other) == "keypoint_rcnn"
    _, theirs = weights.from_torch(other, layout="keypoint_rcnn")
    jax.tree.map(np.testing.assert_array_equal, variables, theirs)
    theirs = {detectron2_name(name): value for name, value in state.items()}
    assert as_torchvision(theirs).keys() == state.keys()
    # Detectron2 has no box for the background, so that its last layer is smaller.
    theirs["roi_heads.box_predictor.bbox_pred.weight"] = state["roi_heads.box_predictor.bbox_pred.weight"][:4]
    theirs["roi_heads.box_predictor.bbox_pred.bias"] = state["roi_heads.box_predictor.bbox_pred.bias"][:4]
    assert weights.layout_of(theirs) == "detectron2_rcnn"
    net, variables = weights.from_torch(theirs, layout="detectron2_rcnn")
    assert net.backbone.stride_in_1x1 and net.backbone.bn_eps == 1e-5 and net.person_label == 0
    boxes_only = {name: value for name, value in state.items() if "keypoint" not in name}
    assert weights.layout_of(boxes_only) == "faster_rcnn"
    assert weights.from_torch(boxes_only, layout="faster_rcnn")[0].num_joints == 0


def test_tensors_that_are_missing_are_named():
    state = states()
    del state["rpn.head.bbox_pred.bias"]
    with pytest.raises(ValueError, match=r"missing: rpn\.head\.bbox_pred\.bias"):
        weights.from_torch(state, layout="keypoint_rcnn")


# ---------------------------------------------------------------------------------------------------------------------
# Executed reference code
# ---------------------------------------------------------------------------------------------------------------------


def check_torchvision(outputs, g, prefix: str, images: int, scale_hw, *, atol: float, joints_atol: float):
    for i in range(images):
        get = lambda name, i=i: g[f"{prefix}{name}{i}"]  # noqa: E731
        proposals, count = get("proposals"), len(get("scores"))
        assert outputs["proposal_valid"][i].sum() == len(get("proposal_scores"))
        np.testing.assert_allclose(outputs["proposals"][i][: len(proposals)], proposals, atol=atol)
        logits = get("class_logits")
        np.testing.assert_allclose(outputs["class_logits"][i][: len(logits)], logits, atol=atol)
        np.testing.assert_allclose(outputs["boxes"][i][:count] * scale_hw[i][[1, 0, 1, 0]], get("boxes"), atol=atol)
        np.testing.assert_allclose(outputs["scores"][i][:count], get("scores"), atol=1e-4)
        np.testing.assert_array_equal(outputs["labels"][i][:count], get("labels"))
        if "keypoints" in outputs:
            xy = outputs["keypoints"][i][:count] * scale_hw[i][[1, 0]]
            np.testing.assert_allclose(xy, get("keypoints")[..., :2], atol=joints_atol)
            np.testing.assert_allclose(outputs["keypoint_scores"][i][:count], get("keypoints_scores"), atol=1e-4)


def test_golden_keypoint_rcnn_tiny(golden, golden_json):
    g, facts = golden("detection/tv_tiny_eval"), golden_json("detection/tv_tiny")
    state = reference.weights(facts["tiny_state"], facts["tiny_scales"], facts["AB"])
    net, variables = weights.from_torch(state, layout=weights.layout_of(state))
    backbone = net.backbone.clone(bn_eps=1e-5)
    net = net.clone(backbone=backbone, pre_nms=200, post_nms=100, max_detections=12)
    images = reference.torchvision_batch([g["image0_u8"], g["image1_u8"]], g["input_hw"], g["padded_hw"])
    outputs = jax.device_get(
        jax.jit(lambda *args: net.apply(*args, method=net.detect))(variables, images, g["input_hw"])
    )
    assert outputs["valid"].sum(1).tolist() == [12, 6]
    scale = [np.array(g[f"image{i}_u8"].shape[:2]) / g["input_hw"][i] for i in range(2)]
    check_torchvision(outputs, g, "", 2, scale, atol=1e-3, joints_atol=1e-3)


def test_golden_detectron2_tiny(golden, golden_json):
    g, facts = golden("detection/d2_tiny"), golden_json("detection/d2_tiny")
    state = reference.weights(facts["tiny_state"], facts["tiny_scales"], facts["AB"])
    state["backbone.bottom_up.stem.conv1.weight"] /= np.float32(facts["tiny_stem_divisor"])
    net, variables = weights.from_torch(state, layout=weights.layout_of(state))
    net = net.clone(pre_nms=200, post_nms=100, max_detections=12)
    images = [g[f"input{i}_rgb_u8"] for i in range(2)]
    batch, size_hw = np.zeros((2, 192, 192, 3), np.float32), np.array([image.shape[:2] for image in images])
    for i, image in enumerate(images):
        batch[i, : len(image), : image.shape[1]] = image[..., ::-1] - np.array([103.530, 116.280, 123.675])
    outputs = jax.device_get(jax.jit(lambda *args: net.apply(*args, method=net.detect))(variables, batch, size_hw))
    for i in range(2):
        assert outputs["proposal_valid"][i].all() and outputs["valid"][i].all()
        np.testing.assert_allclose(outputs["proposals"][i], g[f"proposals{i}"], atol=1e-3)
        np.testing.assert_allclose(outputs["class_logits"][i], g[f"class_logits{i}"], atol=1e-3)
        np.testing.assert_allclose(outputs["boxes"][i], g[f"pre_boxes{i}"], atol=1e-3)
        np.testing.assert_allclose(outputs["scores"][i], g[f"pre_scores{i}"], atol=1e-4)
        np.testing.assert_allclose(outputs["keypoints"][i], g[f"pre_keypoints{i}"][..., :2], atol=2e-3)
        np.testing.assert_allclose(outputs["keypoint_scores"][i], g[f"pre_keypoints{i}"][..., 2], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keypointrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"])
def test_golden_torchvision_full_width(golden, golden_json, name):
    g, facts = golden("detection/tv_full_eval"), golden_json("detection/tv_full")
    entries = [entry for entry in facts[f"{name}_state"] if not entry[0].endswith("num_batches_tracked")]
    state = reference.weights(entries, facts[f"{name}_scales"], facts["AB"])
    layout = {"keypointrcnn_resnet50_fpn": "keypoint_rcnn", "fasterrcnn_resnet50_fpn": "faster_rcnn"}.get(
        name, "faster_rcnn_v2"
    )
    assert weights.layout_of(state) == layout
    net, variables = weights.from_torch(state, layout=layout)
    size_hw = g[f"{name}.input_hw"]
    images = [g[f"image{i}_u8"] for i in range(len(size_hw))]
    batch = reference.torchvision_batch(images, size_hw, g[f"{name}.padded_hw"])
    outputs = jax.device_get(jax.jit(lambda *args: net.apply(*args, method=net.detect))(variables, batch, size_hw))
    scale = [np.array(image.shape[:2]) / size for image, size in zip(images, size_hw, strict=True)]
    check_torchvision(outputs, g, f"{name}.", len(images), scale, atol=5e-3, joints_atol=5e-3)


def test_golden_frozen_batch_norm(golden):
    from jaxpose.nets.layers import BatchNorm

    g = golden("detection/frozen_bn")
    with jax.enable_x64(True):
        variables = {
            "params": {"scale": g["weight"].astype(float), "bias": g["bias"].astype(float)},
            "batch_stats": {"mean": g["running_mean"].astype(float), "var": g["running_var"].astype(float)},
        }
        for eps, key in ((0.0, "y_eps_0"), (1e-5, "y_eps_1e-5")):
            y = BatchNorm(eps=eps, dtype=jnp.float64).apply(variables, np.moveaxis(g["x"], 1, -1), train=False)
            np.testing.assert_allclose(np.moveaxis(y, -1, 1), g[key], rtol=1e-12, atol=1e-10)
