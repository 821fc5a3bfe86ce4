"""ImageNet weights with Caffe2's names, Detectron2's R-50.pkl: the file as Python 2 wrote it, the net, and where it may start."""

from __future__ import annotations

import dataclasses
import pickle
import re
import struct
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import coco_keypoint_rcnn
from experiments.common import detectors, families
from jaxpose import importer, nets, tasks, weights
from jaxpose.nets.resnet import Block
from jaxpose.skeleton import COCO17

FOLDED = {"weight": "s", "bias": "b"}
WITH_STATISTICS = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


class Python2(pickle._Pickler):
    """Writes strings and bytes as Python 2 did, whose strings were bytes."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, text):
        data = text.encode("latin-1") if isinstance(text, str) else text
        short = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))) + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text


def caffe2_name(name: str, norm: dict[str, str]) -> str:
    """The name in Caffe2 of a tensor of torchvision's ResNet."""
    if name == "conv1.weight":
        return "conv1_w"
    if match := re.fullmatch(r"bn1\.(.*)", name):
        return f"res_conv1_bn_{norm[match[1]]}"
    stage, block, layer, leaf = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)\.(\w+)", name).groups()
    branch = "1" if layer.startswith("downsample") else f"2{'abc'[int(layer[-1]) - 1]}"
    is_norm = layer.startswith("bn") or layer == "downsample.1"
    return f"res{int(stage) + 1}_{block}_branch{branch}_" + (f"bn_{norm[leaf]}" if is_norm else "w")


@pytest.fixture(scope="module")
def torchs() -> dict[str, np.ndarray]:
    """A ResNet-50 of width 2 under torchvision's names, random."""
    rng, net = np.random.default_rng(0), nets.ResNet(depth=50, width=2)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    names = weights.torch_tensors(shapes, {})
    return {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, (_, shape) in names.items()}


def write(path, state, norm):
    """Writes the file; what it has besides the net is what Detectron2's has, or Detectron's."""
    more = {"conv1_b": np.ones(2), "fc1000_w": np.ones((5, 64)), "fc1000_b": np.ones(5), "conv1_w_momentum": np.ones(3)}
    named = {caffe2_name(k, norm): v for k, v in state.items() if k.rpartition(".")[2] in norm or v.ndim > 1}
    with path.open("wb") as file:
        Python2(file, protocol=2).dump(named | more)
    return path


@pytest.fixture(scope="module")
def folded(torchs, tmp_path_factory):
    """The file with scales and shifts alone, what it holds, and the variables of its net."""
    path = write(tmp_path_factory.mktemp("folded") / "R-50.pkl", torchs, FOLDED)
    state = weights.load_file(path)
    return path, state, weights.from_torch(state, layout="resnet_caffe2")[1]


def test_statistics_come_with_the_names_of_detectron2(torchs, tmp_path):
    state = weights.load_file(write(tmp_path / "R-50.pkl", torchs, WITH_STATISTICS))
    assert weights.layout_of(state) == "resnet_caffe2" and "res2_0_branch1_bn_running_var" in state
    net, variables = weights.from_torch(state, layout="resnet_caffe2")
    assert net == nets.ResNet(depth=50, width=2, stride_in_1x1=True)
    jax.tree.map(np.testing.assert_array_equal, variables, weights.from_torch(torchs, layout="resnet")[1])
    with pytest.raises(ValueError, match="layout resnet_caffe2: a backbone, not a pose net: .*--init"):
        importer.read(state, name="R-50.pkl")


def test_a_bottleneck_with_its_scale_and_shift_alone(folded):
    """The first block of conv3_x by NumPy: every convolution is followed by a scale and a shift, and the first 1x1 has the stride."""
    _, state, variables = folded
    x = np.random.default_rng(1).normal(0, 0.1, (2, 6, 6, 8)).astype(np.float32)

    def affine(y, of):
        return y * state[f"res3_0_branch{of}_bn_s"] + state[f"res3_0_branch{of}_bn_b"]

    def conv1x1(y, of):
        return y @ state[f"res3_0_branch{of}_w"][:, :, 0, 0].T

    strided = x[:, ::2, ::2]
    y = np.maximum(affine(conv1x1(strided, "2a"), "2a"), 0)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    y = np.maximum(affine(np.einsum("nyxcij,ocij->nyxo", windows, state["res3_0_branch2b_w"]), "2b"), 0)
    expected = np.maximum(affine(conv1x1(y, "2c"), "2c") + affine(conv1x1(strided, "1"), "1"), 0)

    block = Block(4, 2, True, jnp.float32, 1, stride_in_1x1=True)
    of_block = {name: tree["layer2_0"] for name, tree in variables.items()}
    np.testing.assert_allclose(block.apply(of_block, x, train=False), expected, rtol=1e-5)


def test_it_starts_a_net_of_detectron2s_rules_alone(folded, tmp_path):
    path, _, expected = folded
    config = dataclasses.replace(coco_keypoint_rcnn.PRESETS["heatmap_1x"], init=path, width=2)
    fresh = {
        "params": {"net": {"backbone": expected["params"], "fpn": 1.0}},
        "batch_stats": {"backbone": expected["batch_stats"]},
    }
    task = SimpleNamespace(init=lambda key: jax.tree.map(np.zeros_like, fresh))
    with mock.patch.object(weights, "load_file", wraps=weights.load_file) as load_file:
        variables = detectors.from_pretrained(task, config)
    assert load_file.call_count == 1, "a file of 100 MB is read once"
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["net"]["backbone"], expected["params"])
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"]["backbone"], expected["batch_stats"])
    assert variables["params"]["net"]["fpn"] == 0
    for changes in ({"variant": "torchvision"}, {"preprocess": "imagenet"}):
        with pytest.raises(
            ValueError, match=r"R-50\.pkl holds Detectron2's backbone.*give --variant detectron2 --prep"
        ):
            detectors.from_pretrained(task, dataclasses.replace(config, **changes))
    with pytest.raises(
        ValueError, match="stride in the first 1x1 convolution of a block, which this net has in the 3x3"
    ):
        families.backbone_of(families.BackboneConfig(init=path))
    detector = tmp_path / "rcnn.pkl"
    detector.write_bytes(pickle.dumps({"model": {"roi_heads.box_head.fc1.weight": np.ones((2, 2))}}))
    with pytest.raises(ValueError, match="holds no ResNet with Caffe2's names.*jaxpose import"):
        detectors.from_pretrained(task, dataclasses.replace(config, init=detector))


@pytest.mark.parametrize("is_run", [True, False])
def test_the_strides_of_a_detectors_backbone_are_checked_too(tmp_path, monkeypatch, is_run):
    net = nets.RCNN(nets.ResNet(50, width=2, stride_in_1x1=True), num_joints=17, variant="detectron2")
    task = tasks.detection(net, skeleton=COCO17, size_wh=(64, 64))
    monkeypatch.setattr(families.checkpoint, "restore_model", lambda path: ({}, {"task": task.config}))
    monkeypatch.setattr(weights, "load_file", lambda path: {})
    monkeypatch.setattr(weights, "from_torch", lambda state, layout: (net, {}))
    path = tmp_path if is_run else tmp_path / "rcnn.pkl"
    config = families.BackboneConfig(init=path, preprocess=task.preprocess)
    with pytest.raises(ValueError, match="stride in the first 1x1 convolution of a block"):
        families.backbone_of(config)
