"""From a paper's file to a result JSON: layouts by name, what each code base does around its net, the walk through the pages."""

from __future__ import annotations

import json
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools.coco import COCO

from experiments import (
    coco_hrnet,
    coco_integral,
    coco_rle,
    coco_simple_baseline,
    coco_swahr,
    mpii_integral,
    mpii_rle,
)
from experiments.common import families
from jaxpose import checkpoint, cli, importer, tasks, weights
from jaxpose.nets import HigherHRNet, HRNet
from jaxpose.nets import hrnet as hrnet_module
from jaxpose.skeleton import COCO17, CROWDPOSE14, H36M17, MPII16
from tests import test_data_formats_mpii, tiny_coco
from tests.torch_states import (
    flow,
    heatmap_head,
    linear,
    mmpose,
    mobilenet,
    official,
    resnet18,
    sine_image,
    sine_weights,
)  # fmt: skip

SIZE = (64, 96)  # of the narrow nets below
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(autouse=True)
def shallow(request, monkeypatch):
    """HRNets of one module a stage and one block a branch, which compile in seconds: names and shapes say no more than width."""
    if "golden" not in request.fixturenames:
        monkeypatch.setattr(hrnet_module, "MODULES", (1, 1, 1))
        monkeypatch.setattr(hrnet_module, "BLOCKS", 1)


def drawn(net, names) -> dict[str, np.ndarray]:
    """Random tensors under the published names."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    state = {}
    for name, (_, shape) in weights.torch_tensors(shapes, names).items():
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
        value = rng.normal(0, fan_in**-0.5, shape) if len(shape) > 1 else rng.uniform(0.5, 1.0, shape)
        state[name] = value.astype(np.float32)
    return state


@cache
def bottom_up() -> dict[str, np.ndarray]:
    state = drawn(HigherHRNet(HRNet(4), 17), {"backbone.": ""})
    state["final_layers.1.bias"] += 0.3  # somebody is found
    return state


def hrnet() -> dict[str, np.ndarray]:
    rng, state = np.random.default_rng(1), {}
    state["final_layer.weight"] = rng.normal(0, 1, (17, 4, 1, 1)).astype(np.float32)
    state["final_layer.bias"] = np.full(17, 30, np.float32)
    return state | {k: v for k, v in bottom_up().items() if not k.startswith(("final_layers.", "deconv_layers."))}


def swahr() -> dict[str, np.ndarray]:
    rng, state = np.random.default_rng(1), dict(bottom_up())
    for name in ("conv_scale_layers.0.", "conv_scale_layers.1."):
        state |= {f"{name}0.weight": rng.normal(0, 1, (17, 4, 1, 1)), f"{name}0.bias": rng.normal(0, 1, 17)}
        state |= {
            f"{name}1.{leaf}": rng.uniform(0.5, 1, 17) for leaf in ("weight", "bias", "running_mean", "running_var")
        }
        state |= {f"{name}3.weight": rng.normal(0, 0.1, (17, 1, 9, 9)), f"{name}3.bias": rng.normal(0, 0.1, 17)}
    return {name: value.astype(np.float32) for name, value in state.items()}


def calm(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With a flow that is near the identity, as a trained one is: a density that quadrature finds."""
    return {name: 0.1 * v if weights.FLOW_TENSOR.fullmatch(name) else v for name, v in state.items()}


def rle_head() -> dict[str, np.ndarray]:
    """On MobileNetV2's features, which are large: sigma must not be 0."""
    return {name: 0.03 * value for name, value in linear("head.fc", 68, 1280).items()}


def rle_official() -> dict[str, np.ndarray]:
    return calm(official())


def head3(prefix: str = "", joints: int = 17) -> dict[str, np.ndarray]:
    """Three deconvolutions, as published, and a 1x1 convolution."""
    rng = np.random.default_rng(1)
    state = {}
    for i, inputs in enumerate((32, 8, 8)):
        state[f"{prefix}deconv_layers.{3 * i}.weight"] = rng.normal(0, 0.1, (inputs, 8, 4, 4)).astype(np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{prefix}deconv_layers.{3 * i + 1}.{leaf}"] = rng.uniform(0.5, 1, 8).astype(np.float32)
    state[f"{prefix}final_layer.weight"] = rng.normal(0, 1, (joints, 8, 1, 1)).astype(np.float32)
    state[f"{prefix}final_layer.bias"] = np.full(joints, 30, np.float32)  # peaks above 0, which are searched
    return state


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def as_mmpose(state):
    return {("head." if name.startswith("final_layer.") else "backbone.") + name: v for name, v in state.items()}


def integral() -> dict[str, np.ndarray]:
    axes = {"head.linspace_x": np.zeros((1, 1, 1, 16)), "head.linspace_y": np.zeros((1, 1, 24, 1))}
    return resnet18(4, "backbone.") | head3("head.simplebaseline_head.") | axes


def volumes(prefix: str, maps: int) -> dict[str, np.ndarray]:
    """The head of integral regression's code ("head.features.9.") or of PoseNet ("head.final_layer.")."""
    state = {n: v if "final" in n else 0.5 * v for n, v in head3("head.", joints=maps).items()}
    state["head.final_layer.bias"] = np.random.default_rng(2).normal(0, 1, maps).astype(np.float32)
    if prefix == "head.final_layer.":
        return state
    renames = (("head.deconv_layers.", "head.features."), ("head.final_layer.", prefix))
    for old, new in renames:
        state = {n.replace(old, new): v for n, v in state.items()}
    return state


# Pose nets: layout, a state dict as its code base saves it.
POSE = {
    "integral_3d": lambda: resnet18(4, "backbone.") | volumes("head.features.9.", 18 * 8),
    "posenet_3d": lambda: resnet18(4, "backbone.") | volumes("head.final_layer.", 18 * 32),
    "rle_official": rle_official,
    "rle_mmpose": lambda: calm(mmpose()),
    "rle_mmpose 0.x": lambda: mmpose("keypoint_head", "loss"),
    "rle_mmpose mobilenet": lambda: (
        mobilenet("mmpose", "backbone.") | rle_head() | calm(flow("head.loss_module.flow_model"))
    ),
    "simple_baseline": lambda: resnet18(4) | head3(),
    "simple_baseline_mmpose": lambda: resnet18(4, "backbone.") | head3("head."),
    "simple_baseline_mmpose 0.x": lambda: resnet18(4, "backbone.") | head3("keypoint_head."),
    "simple_baseline_mmpose mobilenet": lambda: mobilenet("mmpose", "backbone.") | heatmap_head("head.", 1280),
    "simple_baseline_mmpose integral": integral,
    "hrnet": hrnet,
    "hrnet_mmpose": lambda: as_mmpose(hrnet()),
    "higher_hrnet": bottom_up,
    "swahr": swahr,
}
BACKBONES = {
    "resnet": lambda: resnet18(4) | linear("fc", 10, 32),
    "mobilenet_v2": lambda: mobilenet("torchvision"),
    "hrnet_backbone": lambda: (
        {name: v for name, v in hrnet().items() if not name.startswith("final_layer")}
        | {"incre_modules.0.0.conv1.weight": np.ones(1), "final_layer.0.weight": np.ones(1), "classifier.bias": np.ones(1)}
    ),
}  # fmt: skip


def save(path, state, *, wrapper: str | None = "state_dict"):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    torch.save(tensors if wrapper is None else {wrapper: tensors, "epoch": 3}, path)
    return path


def run_import(capsys, path, out, *options: str) -> dict:
    cli.main(["import", str(path), "--out", str(out), *options])
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def restored(out):
    """(variables, config, predict) of what was imported."""
    variables, config = checkpoint.restore_model(out)
    task = tasks.from_config(config["task"])

    def predict(image, flip_test=False):
        step = jax.jit(lambda v, x: task.predict(v, {"image": x}, flip_test=flip_test))
        return jax.tree.map(np.array, step(variables, image))

    return variables, config, predict


def assert_same(variables, plain):
    """A task's variables are those of the net."""
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["net"], plain["params"])
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], plain["batch_stats"])


def pictures(size_wh=SIZE, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (batch, *size_wh[::-1], 3), dtype=np.uint8)


# Layouts by name


@pytest.mark.parametrize("name", [*POSE, *BACKBONES])
@pytest.mark.parametrize("wrapped", [False, True])
def test_layouts_are_found_by_their_names(name, wrapped):
    state = (POSE | BACKBONES)[name]()
    state = {"network": prefixed(state, "module.")} if wrapped else state
    assert weights.layout_of(state) == name.split()[0]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"encoder.0.weight": 0},
            r"names of no layout: encoder\.0\.weight\. None has a name of one of the layouts .*rle_official",
        ),
        (
            {"net.preact.conv1.weight": 0, "net.fc_sigma.linear.weight": 0},
            r"names of no layout: .*\. The nearest layout, rle_official, also needs names that begin with: fc_coord",
        ),
        ({}, "names of no layout"),
        ({"head.features.9.weight": 0, "backbone.conv1.weight": 0}, "Sun's Integral code, whose heads give volumes"),
        ({"keypoint_head.final_layers.0.weight": 0}, "mmpose 0.x's HigherHRNet: take the authors' file"),
        (official() | mmpose(), "names of several layouts: rle_official, rle_mmpose; choose one with layout="),
    ],
)
def test_names_of_no_and_of_several_layouts(state, message):
    with pytest.raises(ValueError, match=message):
        weights.layout_of(state)


# What is imported


def test_official_rle_predicts_as_its_code_does(tmp_path, capsys):
    """RGB in 0..1 less means in the order of BGR, no deviation; the exact mirror; 1 - sigma; the flow comes along."""
    state = rle_official()
    said = run_import(capsys, save(tmp_path / "net_96x64.pth", state, wrapper=None), tmp_path / "run",
                      "--size-wh", "64", "96")  # fmt: skip
    assert said["layout"] == "rle_official" and said["preprocess"] == "rle_official" and said["flow"] is True
    assert said["joints"] == 17 and said["family"] == "regression" and said["skeleton"] == "coco17"
    assert said["command"] == f"python -m experiments.coco_rle --eval-only {tmp_path / 'run'} --data DIR"
    variables, config, predict = restored(tmp_path / "run")
    assert config["inference"]["nms_annotated"] is False, "as validate_gt of the authors' code, QUIRK R21"
    assert config["imported"] == {
        "file": "net_96x64.pth", "layout": "rle_official", "tensors": len(state), "sha256": config["imported"]["sha256"]
    }  # fmt: skip
    assert re.fullmatch("[0-9a-f]{64}", config["imported"]["sha256"]) and config["task"]["outside"] == "keep"

    net, plain = weights.from_torch(state, layout="rle_official")
    assert said["parameters"] == sum(v.size for v in jax.tree.leaves(plain["params"]))
    apply = jax.jit(net.apply)
    image = pictures()
    prepared = lambda x: (x / np.float32(255) - np.array([0.406, 0.457, 0.480], np.float32)).astype(np.float32)  # noqa: E731
    mu, sigma = map(np.array, apply(plain, prepared(image)))
    found = predict(image)
    np.testing.assert_allclose(found["xy"], (mu + 0.5) * SIZE, atol=2e-3)
    np.testing.assert_allclose(found["confidence"], (1 - sigma).mean(-1), atol=1e-5)
    mirrored, _ = map(np.array, apply(plain, prepared(image[:, :, ::-1])))
    mirrored = mirrored[:, COCO17.flip_index] * [-1, 1] - [1 / 64, 0]
    found = predict(image, flip_test=True)
    np.testing.assert_allclose(found["xy"], ((mu + mirrored) / 2 + 0.5) * SIZE, atol=2e-3)

    density = tasks.predictive_density(config["task"], variables)
    flow_alone = weights.flow_from_torch(state)
    points = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    likelihood = tasks.Likelihood(**config["task"]["likelihood"])
    assert likelihood.flow_hidden == (8, 8) and likelihood.flow_layers == 6 and likelihood.variant == "official"
    expected = likelihood.flow().apply(flow_alone, points, method="log_prob")
    np.testing.assert_allclose(density.log_g(points), expected, rtol=1e-5)


def test_mmposes_rle_predicts_as_its_code_does(tmp_path, capsys):
    state = mmpose()
    said = run_import(capsys, save(tmp_path / "net.pth", state), tmp_path / "run", "--size-wh", "64", "96")
    assert said["layout"] == "rle_mmpose" and said["preprocess"] == "imagenet"
    variables, config, predict = restored(tmp_path / "run")
    assert config["task"]["likelihood"]["variant"] == "mmpose" and config["task"]["outside"] == "mask"
    net, plain = weights.from_torch(state, layout="rle_mmpose")
    image = pictures()
    mu, sigma = jax.jit(net.apply)(plain, ((image - np.float32(MEAN)) / np.float32(STD)).astype(np.float32))
    found = predict(image)
    np.testing.assert_allclose(found["xy"], (np.array(mu) + 0.5) * SIZE, atol=2e-3)
    np.testing.assert_allclose(found["confidence"], (1 - np.array(sigma)).mean(-1), atol=1e-5)


@pytest.mark.parametrize("layout", ["simple_baseline", "simple_baseline_mmpose"])
def test_heatmaps_are_read_as_their_code_does(tmp_path, capsys, layout):
    """The authors' net sees BGR with the statistics of RGB; a map pixel is 4 of the input; a quarter to the higher side."""
    state = POSE[layout]()
    said = run_import(capsys, save(tmp_path / "net.pth.tar", state), tmp_path / "run", "--size-wh", "64", "96")
    assert said["layout"] == layout and said["decode"] == "argmax"
    variables, config, predict = restored(tmp_path / "run")
    border = {"simple_baseline": "hrnet", "simple_baseline_mmpose": "mmpose"}[layout]
    assert config["task"]["read"]["border"] == border and config["task"]["maps"]["sigma"] == 2
    net, plain = weights.from_torch(state, layout=layout)
    image = pictures()
    seen = image[..., ::-1] if layout == "simple_baseline" else image
    maps = np.array(jax.jit(net.apply)(plain, ((seen - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)))
    found = predict(image)
    np.testing.assert_allclose(found["confidence"], maps.max((1, 2)), rtol=1e-4)
    y, x = np.divmod(maps.reshape(2, -1, 17).argmax(1), maps.shape[2])
    np.testing.assert_allclose(found["xy"] / 4, np.stack([x, y], -1), atol=0.25 + 1e-6)


def test_integral_models_of_mmpose_are_read_by_soft_argmax(tmp_path, capsys):
    path = save(tmp_path / "ipr_res50_debias-8xb64-210e_coco.pth", integral())
    said = run_import(capsys, path, tmp_path / "run")
    assert said["size_wh"] == [64, 96] and said["size_from"] == "head.linspace", "its axes have 1/4 of the input"
    assert said["decode"] == "soft_argmax" and said["beta"] == 10 and "coco_integral" in said["command"]
    _, _, predict = restored(tmp_path / "run")
    net, plain = weights.from_torch(integral_state := weights.load_file(path), layout="simple_baseline_mmpose")
    image = pictures()
    maps = np.array(jax.jit(net.apply)(plain, ((image - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)))
    p = np.exp(10.0 * maps - (10.0 * maps).max((1, 2), keepdims=True))
    p /= p.sum((1, 2), keepdims=True)
    expected = np.stack([(p.sum(1) * np.arange(16)[:, None]).sum(1), (p.sum(2) * np.arange(24)[:, None]).sum(1)], -1)
    found = predict(image)
    np.testing.assert_allclose(found["xy"] / 4, expected, atol=2e-3)
    assert np.all(found["confidence"] == 1)
    for options, beta in (({}, 1), ({"beta": 3.0}, 3), ({"name": "ipr_debias_x.pth"}, 10)):
        _, _, facts = importer.read(integral_state, **options)
        assert facts["beta"] == beta
    _, _, facts = importer.read(integral_state, decode="argmax")
    assert facts["decode"] == "argmax"


@pytest.mark.parametrize("decode", ["dark", "udp"])
def test_dark_and_udp_are_chosen_by_flag(decode):
    state = POSE["simple_baseline_mmpose"]()
    task, _, _ = importer.read(state, name="td-hm_res50_dark-8xb64-210e_coco-384x288.pth", decode=decode)
    with pytest.raises(ValueError, match=f"w32_{decode}-8.*Give --decode {decode}, or --decode argmax"):
        importer.read(state, name=f"td-hm_hrnet-w32_{decode}-8xb64-210e_coco-256x192.pth")
    read, maps = task.config["read"], task.config["maps"]
    assert (read["decode"], read["kernel"], maps["sigma"]) == (decode, 17, 3)
    assert maps["target"] == {"dark": "unbiased", "udp": "udp"}[decode] and task.config["size_wh"] == [288, 384]


@pytest.mark.parametrize(("layout", "targets"), [("higher_hrnet", "fixed"), ("swahr", "scale_adaptive")])
def test_bottom_up_nets_have_their_loss_and_every_tensor(layout, targets, monkeypatch):
    state, asked = POSE[layout](), []
    size = importer.input_size
    monkeypatch.setattr(
        importer, "input_size", lambda *args, **options: asked.append(options) or size(*args, **options)
    )
    task, variables, facts = importer.read(state, name=f"pose_{layout}_w32_640.pth.tar")
    assert (facts["layout"], facts["size_wh"], facts["size_from"]) == (layout, [640, 640], "file name")
    assert asked[0]["width"] == 4, "on which the default depends"
    assert facts["family"] == "bottom_up" and importer.page(layout, skeleton=facts["skeleton"]) == "coco_swahr"
    assert task.config["loss"]["targets"] == targets and task.config["people"]["detection_threshold"] == 0.1
    bias = variables["params"]["net"]["final_layers_1"]["bias"]
    np.testing.assert_array_equal(bias, state["final_layers.1.bias"])
    wide = importer.published_task(HigherHRNet(HRNet(32), 17, scale=targets != "fixed"), layout=layout, skeleton=COCO17,
                                   size_wh=(512, 512))  # fmt: skip
    assert wide.config["people"]["detection_threshold"] == (0.12 if layout == "swahr" else 0.1)


def test_an_imported_bottom_up_run_is_tested_with_its_mirror_image():
    task = importer.published_task(
        HigherHRNet(HRNet(4), 14), layout="higher_hrnet", skeleton=CROWDPOSE14, size_wh=(512, 512)
    )
    assert importer.page("higher_hrnet", skeleton=CROWDPOSE14.name) == "crowdpose_swahr"
    config = coco_swahr.PRESETS["tiny"]
    stored = {"task": task.config, "inference": importer.published_settings(task).to_dict()}
    trained = config.as_trained(stored)
    assert trained.flips() is True and config.flips() is False and trained.size_wh == (512, 512)


def test_hrnet_sees_rgb_and_every_tensor_arrives():
    state = hrnet()
    task, variables, facts = importer.read(state, name="pose_hrnet_w48_384x288.pth")
    assert (facts["preprocess"], facts["size_wh"]) == ("imagenet", [288, 384])
    blue_first, _, own = importer.read(state, name="mine_128x96.pth", preprocess="simple_baseline")
    assert blue_first.preprocess == own["preprocess"] == "simple_baseline" and own["size_wh"] == [96, 128]
    assert importer.page("hrnet", skeleton=facts["skeleton"], decode=facts["decode"]) == "coco_hrnet"
    assert task.config["maps"]["sigma"] == 3 and task.config["read"]["border"] == "hrnet"
    assert_same(variables, weights.from_torch(state, layout="hrnet")[1])


@pytest.mark.parametrize("variant", ["rle_mmpose mobilenet", "rle_mmpose 0.x", "simple_baseline_mmpose 0.x"])
def test_other_versions_are_imported(variant, tmp_path, capsys):
    said = run_import(capsys, save(tmp_path / "net.pth", POSE[variant]()), tmp_path / "run", "--size-wh", "64", "64")
    assert said["layout"] == variant.split()[0]
    _, config = checkpoint.restore_model(tmp_path / "run")
    net, _ = weights.from_torch(POSE[variant](), layout=said["layout"])
    assert tasks.describe.build(config["task"]["net"]) == net


def test_rle_without_its_flow_predicts_but_has_no_density(tmp_path, capsys):
    state = {name: value for name, value in official().items() if not name.startswith("flow")}
    said = run_import(capsys, save(tmp_path / "net.pth", state), tmp_path / "run")
    assert said["flow"] is False and said["size_wh"] == [192, 256] and said["size_from"] == "default"
    variables, config = checkpoint.restore_model(tmp_path / "run")
    task = tasks.from_config(config["task"])
    assert "flow" not in variables["params"]
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), "run")
    assert tasks.predictive_density(task.config, variables, required=False) is None


# Skeletons, sizes and what is refused


def with_joints(joints: int):
    return resnet18(4) | head3(joints=joints)


def test_joints_are_told_by_their_number_or_by_a_flag(tmp_path, capsys):
    task, _, facts = importer.read(with_joints(16))
    assert task.config["skeleton"] == MPII16.to_dict() and facts["size_wh"] == [256, 256]
    assert importer.page("simple_baseline", skeleton=facts["skeleton"], decode=facts["decode"]) == "mpii_integral"
    assert importer.read(with_joints(14))[2]["skeleton"] == "crowdpose14"
    with pytest.raises(
        ValueError, match="21 joints, no skeleton is known for so many: give --skeleton .*--annotations"
    ):
        importer.read(with_joints(21))
    with pytest.raises(ValueError, match="17 joints, skeleton crowdpose14 has 14"):
        importer.read(with_joints(17), skeleton=CROWDPOSE14)
    mouse = {"id": 1, "name": "mouse", "keypoints": ["snout", "left_ear", "right_ear"]}
    content = tiny_coco.content() | {"annotations": [], "categories": [mouse]}
    (tmp_path / "mouse.json").write_text(json.dumps(content))
    path = save(tmp_path / "mouse.pth", with_joints(3))
    said = run_import(capsys, path, tmp_path / "run", "--annotations", str(tmp_path / "mouse.json"))
    assert said["skeleton"] == "mouse"
    assert checkpoint.restore_model(tmp_path / "run")[1]["task"]["skeleton"]["flip_pairs"] == [[1, 2]]


@pytest.mark.parametrize(
    ("name", "joints", "message"),
    [
        (
            "td-hm_res101_8xb64-210e_aic-256x192-79b35445_20200826.pth",
            14,
            "joints of aic, .*number, 14, .*--annotations",
        ),
        ("res50_ap10k_256x256.pth", 17, "joints of ap10k, as its name says.*give --skeleton"),
        ("td-hm_res50_8xb64-20e_posetrack18-256x192.pth", 17, "joints of posetrack"),
        ("res50_h36m_256x256.pth", 17, "joints of h36m"),
        ("td-hm_res50_8xb64-210e_mhp-256x192.pth", 16, "joints of mhp"),
        ("res50_jhmdb_sub1_256x256.pth", 15, "joints of jhmdb"),
        ("res50_AnimalPose_256x256.pth", 20, "joints of animalpose"),
        ("pose_resnet_50_caffe_256x192.pth.tar", 17, "Caffe's style, as its name says.*first 1x1 convolution"),
    ],
)
def test_names_that_tell_of_other_joints_or_of_another_net_are_asked_about(name, joints, message):
    with pytest.raises(ValueError, match=f"{re.escape(name)}: .*{message}"):
        importer.read(with_joints(joints), name=name)


def test_a_flag_answers_for_the_name():
    _, _, facts = importer.read(with_joints(17), name="res50_h36m_256x256.pth", skeleton=H36M17)
    assert facts["skeleton"] == "h36m17"
    for name in ("mosaic_256x192.pth", "td-hm_res50_8xb64-210e_coco-256x192.pth", "crowdpose.pth", "mpii_res50.pth"):
        assert not importer.OTHER_JOINTS.search(name)


@pytest.mark.parametrize(
    ("name", "layout", "skeleton", "width", "size_wh", "origin"),
    [
        ("pose_higher_hrnet_w48.pth", "higher_hrnet", COCO17, 48, (640, 640), "default"),
        ("swahr.pth", "swahr", CROWDPOSE14, 48, (640, 640), "default"),
        ("swahr.pth", "swahr", COCO17, 32, (512, 512), "default"),
        ("higher_w48_512.pth", "higher_hrnet", COCO17, 48, (512, 512), "file name"),
        ("pose_hrnet_w48_384.pth", "hrnet", COCO17, 48, (288, 384), "file name"),
        ("pose_hrnet-384", "hrnet", COCO17, 48, (288, 384), "file name"),
        ("pose_resnet_384.pth", "simple_baseline", MPII16, 64, (384, 384), "file name"),
        ("pose_hrnet_w384_3840-384a.pth", "hrnet", COCO17, 48, (192, 256), "default"),
        ("pose_384_256x192.pth", "hrnet", COCO17, 48, (192, 256), "file name"),
        ("mine_3x64_32x4d_96x72.pth", "hrnet", COCO17, 48, (72, 96), "file name"),
    ],
)
def test_the_inputs_size_is_told_by_name_or_by_width(name, layout, skeleton, width, size_wh, origin):
    assert importer.input_size(name, layout=layout, skeleton=skeleton, width=width) == (size_wh, origin)


def test_whatever_is_wrong_inside_names_the_file(tmp_path):
    state = integral()
    del state["head.linspace_y"]
    for broken, message in (
        (state, r"net\.pth: not a net that can be read \(KeyError: 'head.linspace_y'\)"),
        (resnet18(4), r"net\.pth: layout resnet: a backbone"),
        (
            bottom_up() | {"deconv_layers.0.999999999.conv1.weight": np.ones(1)},
            r"net\.pth: .*999999999 blocks: expected at most 32",
        ),
        (with_joints(17) | {"deconv_layers.999999999.weight": np.ones(1)}, r"net\.pth: .*left over"),
        (official() | {"flow.s.999999999.0.weight": np.ones(1)}, r"net\.pth: flow of 1000000000 couplings .*: missing"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["import", str(save(tmp_path / "net.pth", broken)), "--out", str(tmp_path / "run")])


def test_a_net_in_space_comes_with_both_flows(tmp_path, capsys):
    """The configuration is named 256x192, and its input is 256x256."""
    path = save(tmp_path / "h36m_256x192_rle.pth", official(3))
    cli.main(["import", str(path), "--out", str(tmp_path / "run")])
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "regression_3d" and report["flow"] is True and report["size_wh"] == [256, 256]
    assert "experiments.h36m_rle --eval-only" in report["command"] and report["preprocess"] == "rle_official_3d"
    variables, config = checkpoint.restore_model(tmp_path / "run")
    task = tasks.from_config(config["task"])
    assert config["inference"]["padding"] == 1.0 and task.outside == "mask" and task.skeleton.name == "h36m17"
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), tmp_path)
    from experiments import h36m_rle

    settings = h36m_rle.PAGE.settings(["--eval-only", str(tmp_path / "run")])
    assert settings.padding == 1.0 and settings.size_wh == (256, 256) and settings.root == ("pelvis",)


def test_volumes_predict_as_integral_regressions_code_does(tmp_path, capsys):
    """The softmax over all cells of a joint's volume, and the expected cell."""
    state = POSE["integral_3d"]()
    path = save(tmp_path / "model_best.pth.tar", prefixed(state, "module."), wrapper="network")
    report = run_import(capsys, path, tmp_path / "run", "--size-wh", "32", "64")
    assert (report["layout"], report["family"], report["joints"], report["bins"]) == (
        "integral_3d",
        "regression_3d",
        18,
        8,
    )
    assert "experiments.h36m_integral --eval-only" in report["command"] and report["skeleton"] == "h36m18"
    variables, config = checkpoint.restore_model(tmp_path / "run")
    task = tasks.from_config(config["task"])
    assert config["inference"]["padding"] == 1.0 and task.outside == "keep"
    assert task.likelihood.loss == "l1" and task.depth == tasks.Depth(relative=False)
    net, plain = weights.from_torch(state, layout="integral_3d")
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["net"]["net"], plain["params"])

    @jax.jit
    def both(image):
        normalised = (image.astype(jnp.float32) - jnp.asarray(MEAN)) / jnp.asarray(STD)
        return net.apply(plain, normalised), task.predict(variables, {"image": image}, flip_test=False)

    maps, outputs = jax.tree.map(lambda x: np.array(x, np.float64), both(pictures((32, 64))))
    cells = maps.reshape(2, 16, 8, 18, 8)  # B, h, w, K, D: a channel is joint * D + depth
    prob = np.exp(cells - cells.max((1, 2, 4), keepdims=True))
    prob /= prob.sum((1, 2, 4), keepdims=True)
    x, y, z = (np.einsum(f"bhwkd,{axis}->bk", prob, np.arange(n)) for axis, n in (("w", 8), ("h", 16), ("d", 8)))
    np.testing.assert_allclose(outputs["xy"], np.stack([4 * x, 4 * y], -1), atol=0.02)
    np.testing.assert_allclose(outputs["depth"], 2000 * (z / 8 - 0.5), atol=1)
    assert (outputs["confidence"] == 1).all() and np.ptp(outputs["depth"]) > 20


def test_posenet_is_told_by_its_number_of_maps(tmp_path, capsys):
    """The names are those of mmpose's SimpleBaseline; the weights are those that integral regression's names give."""
    maps = 17 * 34
    state = resnet18(4, "backbone.") | volumes("head.final_layer.", maps)
    path = save(tmp_path / "snapshot_24.pth.tar", prefixed(state, "module."), wrapper="network")
    report = run_import(capsys, path, tmp_path / "run", "--size-wh", "64", "64")
    assert (report["layout"], report["skeleton"], report["bins"], report["preprocess"]) == (
        "posenet_3d",
        "h36m17",
        34,
        "posenet",
    )
    variables, config = checkpoint.restore_model(tmp_path / "run")
    assert config["inference"]["padding"] == 1.25 and tasks.from_config(config["task"]).outside == "mask"
    same = resnet18(4, "backbone.") | volumes("head.features.9.", maps)
    _, plain = weights.from_torch(same, layout="integral_3d")
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["net"]["net"], plain["params"])
    # QUIRK V10: numbers of 0..1 on values of 0..255.
    normalised = tasks.PREPROCESS["posenet"](jnp.array([[[255.0, 0.485, 0]]]))
    np.testing.assert_allclose(normalised[0, 0], ((255 - 0.485) / 0.229, 0.029 / 0.224, -0.406 / 0.225), rtol=1e-5)
    assert weights.layout_of(state) == "posenet_3d"
    assert weights.layout_of(resnet18(4, "backbone.") | volumes("head.final_layer.", 511)) == "simple_baseline_mmpose"


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: POSE["integral_3d"](), {"decode": "dark"}, "layout integral_3d, whose maps are volumes"),
        (lambda: POSE["integral_3d"](), {"skeleton": COCO17}, "144 maps, no multiple of 17 of coco17 joints"),
        (lambda: resnet18(4, "backbone.") | volumes("head.features.9.", 18), {}, "18 maps, one a joint"),
        (BACKBONES["resnet"], {}, "layout resnet: a backbone, not a pose net: .*--init"),
        (BACKBONES["mobilenet_v2"], {}, "layout mobilenet_v2: a backbone"),
        (BACKBONES["hrnet_backbone"], {}, "layout hrnet_backbone: a backbone"),
        (lambda: official(3), {"decode": "dark"}, "--decode and --beta: for heatmaps"),
        (lambda: official(3), {"skeleton": CROWDPOSE14}, "the net has 17 joints in space"),
        (official, {"decode": "dark"}, "--decode dark: for heatmaps of persons, this is layout rle_official"),
        (
            bottom_up,
            {"decode": "udp"},
            "--decode udp: for heatmaps of persons, this is layout higher_hrnet",
        ),
        (official, {"beta": 10.0}, "--beta 10.0: for mmpose's integral models"),
        (official, {"layout": "rle_mmpose"}, "missing: head.fc.weight"),
        (hrnet, {"size_wh": (100, 100)}, "HRNet takes heights and widths that 32 divides"),
        (lambda: resnet18(4) | head3(), {"size_wh": (100, 130)}, r"size_wh|maps"),
    ],
)
def test_what_cannot_be_imported_is_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        importer.read(make(), **options)


def test_nothing_is_overwritten_and_nothing_is_half_made(tmp_path, capsys, monkeypatch):
    path = save(tmp_path / "net.pth", official())
    run_import(capsys, path, tmp_path / "run")
    with pytest.raises(SystemExit, match="jaxpose: .*run holds a checkpoint already: name another --out, or remove it"):
        cli.main(["import", str(path), "--out", str(tmp_path / "run")])
    with pytest.raises(FileExistsError, match="holds a checkpoint already"):
        checkpoint.write_model(tmp_path / "run", {}, {"task": {}})
    with pytest.raises(SystemExit, match="jaxpose: .*nothing.pth: no such file"):
        cli.main(["import", str(tmp_path / "nothing.pth"), "--out", str(tmp_path / "x")])
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SystemExit, match="jaxpose: .*net.pth: not a complete file of torch.save"):
        cli.main(["import", str(path), "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
    monkeypatch.chdir(tmp_path)
    cli.main(["import", str(save(tmp_path / "pose_x_256x192.pth.tar", official()))])
    assert checkpoint.exists(tmp_path / "runs" / "pose_x_256x192")


# The walk: a file, `jaxpose import`, a page with --eval-only, a result JSON


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("people"), split="val")


def walk(name, page, folder, prepared, out, capsys, *, options=(), flags=(), joints=None) -> tuple[dict, dict]:
    path = save(out / "net.pth", POSE[name]() if joints is None else with_joints(joints))
    said = run_import(capsys, path, out / "run", *options)
    assert said["command"].split()[2] == page.__name__
    page.main(["--eval-only", str(out / "run"), "--data", str(folder), "--data-dir", str(prepared), "--no-plots",
               "--batch-size", "8", *flags])  # fmt: skip
    scores = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert scores["checkpoint_step"] == 0 and scores["flip_test"] is True
    return said, scores


def loads(scores, folder):
    truth = COCO(folder / "annotations" / "val.json")
    assert len(truth.loadRes(scores["results"]).getAnnIds()) > 0


def test_a_regression_walks_from_file_to_result(people, prepared, tmp_path, capsys):
    _, scores = walk("rle_official", coco_rle, people, prepared, tmp_path, capsys, options=("--size-wh", "64", "64"))
    loads(scores, people)
    assert np.isfinite(scores["EPE"]) and np.isfinite(scores["calibration_error"])


def test_heatmaps_walk_from_file_to_result_and_on_as_a_pretrained_backbone(people, prepared, tmp_path, capsys):
    options = ("--size-wh", "64", "64")
    _, scores = walk("simple_baseline", coco_simple_baseline, people, prepared, tmp_path, capsys, options=options)
    loads(scores, people)
    assert np.isfinite(scores["EPE"])

    config = families.BackboneConfig(init=tmp_path / "run", preprocess="simple_baseline")
    found = families.backbone_of(config)
    _, plain = weights.from_torch(weights.load_file(tmp_path / "net.pth"), layout="simple_baseline")
    jax.tree.map(np.testing.assert_array_equal, found["params"], plain["params"]["backbone"])
    with pytest.raises(ValueError, match="trained with --preprocess simple_baseline, this run has imagenet"):
        families.backbone_of(families.BackboneConfig(init=tmp_path / "run"))


def test_bottom_up_walks_from_file_to_result(people, prepared, tmp_path, capsys):
    _, scores = walk(
        "swahr", coco_swahr, people, prepared, tmp_path, capsys, options=("--size-wh", "64", "64"),
        flags=("--test-batch-size", "2", "--fit", "long"),
    )  # fmt: skip
    loads(scores, people)
    assert scores["people_per_image"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("rle_mmpose mobilenet", coco_rle),
        ("simple_baseline_mmpose", coco_simple_baseline),
        ("simple_baseline_mmpose integral", coco_integral),
        ("hrnet_mmpose", coco_hrnet),
    ],
)
def test_the_others_walk_from_file_to_result(name, page, people, prepared, tmp_path, capsys):
    options = () if "integral" in name else ("--size-wh", "64", "64")
    _, scores = walk(name, page, people, prepared, tmp_path, capsys, options=options)
    loads(scores, people)
    assert np.isfinite(scores["EPE"])


@pytest.mark.slow
def test_mpiis_joints_walk_to_its_page(prepared, tmp_path, capsys):
    folder = test_data_formats_mpii.write(tmp_path / "mpii")
    _, scores = walk("simple_baseline", mpii_integral, folder, prepared, tmp_path, capsys, joints=16)
    assert np.isfinite(scores["EPE"])
    (tmp_path / "rle").mkdir()
    state = resnet18(4, "preact.") | linear("fc_coord.linear", 32, 32) | linear("fc_sigma.linear", 32, 32)
    said = run_import(capsys, save(tmp_path / "rle" / "net.pth", state), tmp_path / "rle" / "run")
    assert said["command"].split()[2] == "experiments.mpii_rle"
    scores = mpii_rle.main(["--eval-only", str(tmp_path / "rle" / "run"), "--data", str(folder), "--data-dir",
                            str(prepared), "--no-plots", "--batch-size", "8"])  # fmt: skip
    assert np.isfinite(scores["EPE"]) and "calibration_error" not in scores, "without a flow"


def test_imported_weights_are_not_resumed(people, prepared, tmp_path, capsys):
    run_import(capsys, save(tmp_path / "net.pth", official()), tmp_path / "run", "--size-wh", "64", "64")
    with pytest.raises(ValueError, match="run holds imported weights, which cannot be resumed: .*--init"):
        coco_rle.main(["--out", str(tmp_path / "run"), "--data", str(people), "--train-split", "val", "--data-dir",
                       str(prepared), "--no-plots", "--batch-size", "8", "--width", "8"])  # fmt: skip


# What training scripts leave


def test_a_checkpoint_of_a_training_script_is_imported_as_the_net_in_it(tmp_path, capsys):
    """PyTorch Lightning around a compiled net, with its average beside it."""
    state = POSE["simple_baseline"]()
    averaged = {name: np.asarray(value, np.float32) * np.float32(0.5) for name, value in state.items()}
    torch = pytest.importorskip("torch")
    tensors = [
        {f"model._orig_mod.{name}": torch.from_numpy(np.array(value)) for name, value in each.items()}
        for each in (state, averaged)
    ]
    beside = {"criterion.weight": torch.ones(17)}
    path = tmp_path / "last_256x192.ckpt"
    torch.save(
        {"state_dict": tensors[0] | beside, "ema": tensors[1] | beside, "epoch": 3, "pytorch-lightning_version": "2.5"},
        path,
    )
    said = run_import(capsys, path, tmp_path / "run")
    assert said["layout"] == "simple_baseline" and said["size_wh"] == [192, 256]
    assert importer.stem(path) == "last_256x192"
    assert_same(restored(tmp_path / "run")[0], weights.from_torch(state, layout="simple_baseline")[1])
    run_import(capsys, path, tmp_path / "ema", "--part", "ema")
    assert_same(restored(tmp_path / "ema")[0], weights.from_torch(averaged, layout="simple_baseline")[1])


def test_a_prefix_hides_neither_the_flow_nor_the_axes_of_an_integral_model():
    _, variables, facts = importer.read({f"pose.{name}": value for name, value in rle_official().items()})
    assert facts["flow"] and "flow" in variables["params"]
    _, _, facts = importer.read({f"model.net.{name}": value for name, value in integral().items()})
    assert facts["decode"] == "soft_argmax" and facts["size_from"] == "head.linspace"


def test_weights_of_a_diverged_run_are_refused_by_the_command(tmp_path):
    state = POSE["simple_baseline"]()
    state["final_layer.bias"] = np.full(17, np.nan, np.float32)
    with pytest.raises(SystemExit, match=r"net\.pth: not finite: final_layer\.bias;"):
        cli.main(["import", str(save(tmp_path / "net.pth", state)), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_the_reason_why_annotations_give_no_skeleton_is_told(tmp_path, capsys):
    path = save(tmp_path / "net_64x64.pth", with_joints(3))
    category = {"id": 1, "name": "mouse", "keypoints": ["nose", "left_ear", "right_ear"]}
    content = {"images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}], "annotations": []}
    annotations, command = tmp_path / "mice.json", ["import", str(path), "--annotations", str(tmp_path / "mice.json")]
    rat = category | {"id": 2, "name": "rat", "keypoints": ["nose", "left_paw", "right_paw"]}
    for categories, message in (
        (
            [category, rat],
            r"several categories .*'mouse' \(id 1\), 'rat' \(id 2\), whose joints differ: choose one",
        ),
        ([category | {"keypoints": ["nose", "nose", "ear"]}], r"mice\.json: .*nose"),
        ([{"id": 1, "name": "mouse"}], "no category with a list 'keypoints'"),
    ):
        annotations.write_text(json.dumps(content | {"categories": categories}))
        with pytest.raises(SystemExit, match=f"--annotations .*{message}"):
            cli.main([*command, "--out", str(tmp_path / "run")])
    annotations.write_text(json.dumps(content | {"categories": [category, rat]}))
    said = run_import(capsys, path, tmp_path / "run", "--annotations", str(annotations), "--category", "rat")
    assert said["skeleton"] == "rat"
    # Categories of the same joints are trained together, so that there is nothing to choose.
    annotations.write_text(json.dumps(content | {"categories": [category, rat | {"keypoints": category["keypoints"]}]}))
    assert run_import(capsys, path, tmp_path / "both", "--annotations", str(annotations))["skeleton"]
    with pytest.raises(SystemExit, match="--category rat: it selects a category of --annotations"):
        cli.main(["import", str(path), "--out", str(tmp_path / "x"), "--category", "rat"])


# Golden numbers


GOLDEN = {"simplebaseline_res50": "simple_baseline", "swahr_w32": "swahr"}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_published_nets_come_through_a_file(name, golden, golden_json, tmp_path, capsys):
    """Every tensor through torch.save, `jaxpose import` and the checkpoint: what test_weights_layouts compares with the reference."""
    reference, expected = golden_json("backbones"), golden("backbones")
    if not expected.full:
        pytest.skip("hundreds of MB through a file: needs --golden DIR")
    state = sine_weights(reference, reference["models"][name])
    said = run_import(capsys, save(tmp_path / f"pose_{name}_256x192.pth", state), tmp_path / "run")
    assert said["layout"] == GOLDEN[name] and said["parameters"] == reference["models"][name]["n_params"]
    variables, config = checkpoint.restore_model(tmp_path / "run")
    _, plain = weights.from_torch(state, layout=GOLDEN[name])
    assert_same(variables, plain)
    if name != "simplebaseline_res50":
        return
    # The image that becomes the reference's input: BGR, before the statistics.
    image = (sine_image() * np.float32(STD) + np.float32(MEAN))[..., ::-1]
    found = jax.jit(lambda v, x: tasks.from_config(config["task"]).predict(v, {"image": x}, flip_test=False))(
        variables, image
    )
    y, x = np.divmod(expected[f"{name}.out0_argmax"].ravel(), 48)
    np.testing.assert_allclose(found["xy"][0] / 4, np.stack([x, y], -1), atol=0.25 + 1e-6)


def test_the_official_heads_golden_numbers_come_through_a_file(golden, tmp_path, capsys):
    g = golden("rle_official")
    head = {"fc_coord.linear.weight": g["head_coord_w"], "fc_coord.linear.bias": g["head_coord_b"],
            "fc_sigma.linear.weight": g["head_sigma_w"], "fc_sigma.linear.bias": g["head_sigma_b"]}  # fmt: skip
    flows = {k.replace("flow2d.", "flow."): g[k] for k in g.keys() if k.startswith("flow2d.")}
    path = save(tmp_path / "net.pth", resnet18(4, "preact.") | head | flows)
    run_import(capsys, path, tmp_path / "run", "--size-wh", "64", "64")
    variables, config, _ = restored(tmp_path / "run")
    net = tasks.describe.build(config["task"]["net"])
    mu, sigma = net.head.apply({"params": variables["params"]["net"]["head"]}, g["head_feat"][:, None, None])
    np.testing.assert_allclose(mu, g["head_pred_f64"], atol=1e-6)
    np.testing.assert_allclose(sigma, g["head_sigma_f64"], atol=1e-6)
    log_g = tasks.predictive_density(config["task"], variables).log_g
    np.testing.assert_allclose(log_g(g["flow2d_x"].astype(np.float32)), g["flow2d_logprob_f64"], rtol=1e-4, atol=1e-4)
