"""State dicts -> nets and variables: every tensor lands in its place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import weights
from jaxpose.nets import HeatmapNet, HRNet
from jaxpose.weights import layouts
from tests.torch_states import (
    RNG,
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


def images(batch: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, 64, 48, 3))


def pooled(state: dict[str, np.ndarray], prefix: str) -> np.ndarray:
    """(B, C) through the backbone alone, which the golden numbers check."""
    net, variables = weights.from_torch(
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}, layout="resnet"
    )
    return np.asarray(jax.jit(net.apply)(variables, images())).mean((1, 2))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Golden numbers


def compare_backbone(name, golden, golden_json, dtype, tolerance):
    reference, expected = golden_json("backbones"), golden("backbones")
    if name not in reference["models"]:
        pytest.skip(f"{name} is not in tests/golden: needs --golden DIR")
    state = {k: v.astype(dtype) for k, v in sine_weights(reference, reference["models"][name]).items()}
    net, variables = weights.from_torch(state, layout="resnet")
    assert (net.depth, net.width) == (int(name.removeprefix("resnet")), 64)
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == reference["models"][name]["n_params"]
    features = np.asarray(jax.jit(net.apply)(variables, sine_image().astype(dtype)))[0]
    assert features.dtype == dtype
    want = expected[f"{name}.pooled"]
    np.testing.assert_allclose(features.mean((0, 1)), want, rtol=0, atol=tolerance * np.abs(want).max())
    want = expected[f"{name}.feat_sub"].transpose(1, 2, 0)  # stored in float32
    np.testing.assert_allclose(features[..., ::16], want, rtol=0, atol=max(tolerance, 1e-6) * np.abs(want).max())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", pytest.param("resnet152", marks=pytest.mark.slow)])
def test_backbones_match_the_reference(name, golden, golden_json):
    compare_backbone(name, golden, golden_json, np.float32, 1e-4)


def test_a_backbone_matches_in_double_precision(golden, golden_json):
    with jax.enable_x64(True):
        compare_backbone("resnet18", golden, golden_json, np.float64, 1e-10)


HEATMAP_NETS = {"simplebaseline_res50": "simple_baseline", "hrnet_w32": "hrnet", "hrnet_w48": "hrnet"}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEATMAP_NETS)
def test_heatmap_nets_match_the_reference(name, golden, golden_json):
    reference, expected = golden_json("backbones"), golden("backbones")
    if name not in reference["models"]:
        pytest.skip(f"{name} is not in tests/golden: needs --golden DIR")
    model, layout = reference["models"][name], HEATMAP_NETS[name]
    state = sine_weights(reference, model)
    net, variables = weights.from_torch(state, layout=layout)
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == model["n_params"]
    maps = np.asarray(jax.jit(net.apply)(variables, sine_image()))[0].transpose(2, 0, 1)
    assert maps.shape == (17, 64, 48)
    scale = np.abs(expected[f"{name}.out0_chan_mean"]).max() + expected[f"{name}.out0_chan_std"].max()
    np.testing.assert_allclose(maps.mean((1, 2)), expected[f"{name}.out0_chan_mean"].ravel(), atol=1e-4 * scale)
    np.testing.assert_allclose(maps.std((1, 2)), expected[f"{name}.out0_chan_std"].ravel(), atol=1e-4 * scale)
    assert maps.reshape(17, -1).argmax(1).tolist() == expected[f"{name}.out0_argmax"].ravel().tolist()
    if expected.full or f"{name}.out0_sub" in expected:
        want = expected[f"{name}.out0_sub"].reshape(17, 32, 24)
        np.testing.assert_allclose(maps[:, ::2, ::2], want, atol=1e-4 * np.abs(want).max())

    # mmpose saves the same tensors under other names.
    is_head = ("deconv_layers.", "final_layer.")
    renamed = {("keypoint_head." if k.startswith(is_head) else "backbone.") + k: v for k, v in state.items()}
    _, again = weights.from_torch({"state_dict": renamed}, layout=f"{layout}_mmpose")
    jax.tree.map(np.testing.assert_array_equal, variables, again)


@pytest.mark.parametrize("x64", [True, False])
def test_the_official_head_matches_the_reference(golden, x64):
    g = golden("rle_official")
    head = {"fc_coord.linear.weight": g["head_coord_w"], "fc_coord.linear.bias": g["head_coord_b"],
            "fc_sigma.linear.weight": g["head_sigma_w"], "fc_sigma.linear.bias": g["head_sigma_b"]}  # fmt: skip
    with jax.enable_x64(x64):
        dtype, tolerance = (np.float64, 1e-12) if x64 else (np.float32, 1e-6)
        state = {k: v.astype(dtype) for k, v in (resnet18(4, "preact.") | head).items()}
        net, variables = weights.from_torch(state, layout="rle_official")
        features = jnp.asarray(g["head_feat"], dtype)[:, None, None]
        mu, sigma = net.head.apply({"params": variables["params"]["head"]}, features)
        np.testing.assert_allclose(mu, g["head_pred_f64"], atol=tolerance)
        np.testing.assert_allclose(sigma, g["head_sigma_f64"], atol=tolerance)
        np.testing.assert_allclose((1 - sigma).mean(-1, keepdims=True), g["head_score_f64"], atol=tolerance)


# Layouts


def test_official_layout():
    state = official()
    net, variables = weights.from_torch(state, layout="rle_official")
    assert (net.backbone.depth, net.backbone.width, net.head.kind) == (18, 8, "normalized")
    mu, sigma = jax.jit(net.apply)(variables, images())
    f = pooled(state, "preact.")
    unit = f / np.linalg.norm(f, axis=-1, keepdims=True)
    want = unit @ state["fc_coord.linear.weight"].T + state["fc_coord.linear.bias"]
    np.testing.assert_allclose(mu, want.reshape(2, 17, 2), atol=1e-5)
    want = sigmoid(f @ state["fc_sigma.linear.weight"].T + state["fc_sigma.linear.bias"])
    np.testing.assert_allclose(sigma, want.reshape(2, 17, 2), atol=1e-5)


def test_official_3d_layout():
    state = official(dim=3)
    net, variables = weights.from_torch(state, layout="rle_official")
    mu, sigma = jax.jit(net.apply)(variables, images())
    assert mu.shape == (2, 17, 3)
    want = sigmoid(pooled(state, "preact.") @ state["fc_sigma.weight"].T + state["fc_sigma.bias"])
    np.testing.assert_allclose(sigma, want.reshape(2, 17, 3), atol=1e-5)


@pytest.mark.parametrize("names", [("head", "loss_module"), ("head", "loss"), ("keypoint_head", "loss")])
def test_mmpose_layouts(names):
    state = mmpose(*names)
    net, variables = weights.from_torch(state, layout="rle_mmpose")
    mu, sigma = jax.jit(net.apply)(variables, images())
    out = pooled(state, "backbone.") @ state[f"{names[0]}.fc.weight"].T + state[f"{names[0]}.fc.bias"]
    out = out.reshape(2, 17, 4)
    np.testing.assert_allclose(mu, out[..., :2] - 0.5, atol=1e-5)  # x / W -> x / W - 0.5
    np.testing.assert_allclose(sigma, sigmoid(out[..., 2:]), atol=1e-5)


def plain_mobilenet(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """What a torchvision state dict computes, in PyTorch's functions, one after the other: (B, H, W, 3) -> (B, h, w, C)."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    t = {name: torch.tensor(value) for name, value in state.items()}

    def unit(x, conv, bn, stride=1, active=True):
        w = t[f"{conv}.weight"]
        x = f.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2, groups=x.shape[1] // w.shape[1])
        x = f.batch_norm(x, *(t[f"{bn}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")))
        return f.relu6(x) if active else x

    y = unit(torch.tensor(x).permute(0, 3, 1, 2), "features.0.0", "features.0.1", 2)
    for place in range(1, 18):
        n, z = f"features.{place}.conv", y
        if place > 1:
            z = unit(z, f"{n}.0.0", f"{n}.0.1")
        last = 1 if place == 1 else 2
        z = unit(z, f"{n}.{last - 1}.0", f"{n}.{last - 1}.1", 2 if place in (2, 4, 7, 14) else 1)
        z = unit(z, f"{n}.{last}", f"{n}.{last + 1}", active=False)
        y = y + z if place not in (2, 4, 7, 14) and y.shape == z.shape else z
    return unit(y, "features.18.0", "features.18.1").permute(0, 2, 3, 1).numpy()


def torchvision_to_mmpose(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors in the same order under mmpose's names."""
    theirs = mobilenet("mmpose", "backbone.")
    return dict(zip(theirs, state.values(), strict=True))


def test_mobilenet_layouts():
    """One state dict: torchvision's names against PyTorch's functions; mmpose's RLE and heatmap models have the same."""
    state = mobilenet("torchvision")
    classifier = linear("classifier.1", 10, 1280)
    net, variables = weights.from_torch({"state_dict": state | classifier}, layout="mobilenet_v2")
    assert net.width == 0.25 and net.num_features == 1280
    features = np.asarray(jax.jit(net.apply)(variables, images()))
    want = plain_mobilenet(state, np.asarray(images()))
    assert want.std() > 0.1
    np.testing.assert_allclose(features, want, atol=1e-4)

    named = torchvision_to_mmpose(state)
    fc = {name: 0.03 * value for name, value in linear("head.fc", 4 * 17, 1280).items()}
    rle = named | fc | flow("head.loss_module.flow_model")
    net, ours = weights.from_torch({"state_dict": rle}, layout="rle_mmpose")
    jax.tree.map(np.testing.assert_array_equal, ours["params"]["backbone"], variables["params"])
    jax.tree.map(np.testing.assert_array_equal, ours["batch_stats"]["backbone"], variables["batch_stats"])
    mu, sigma = net.head.apply({"params": ours["params"]["head"]}, features)
    out = (features.mean((1, 2)) @ rle["head.fc.weight"].T + rle["head.fc.bias"]).reshape(2, 17, 4)
    np.testing.assert_allclose(mu, out[..., :2] - 0.5, atol=1e-4)
    np.testing.assert_allclose(sigma, sigmoid(out[..., 2:]), atol=1e-5)

    net, ours = weights.from_torch(named | heatmap_head("head.", 1280), layout="simple_baseline_mmpose")
    jax.tree.map(np.testing.assert_array_equal, ours["params"]["backbone"], variables["params"])
    assert net.deconvs == (8, 6)


def test_the_width_of_a_published_mobilenet():
    state = {
        name: np.broadcast_to(np.float32(1), value.shape) for name, value in mobilenet("torchvision", divide=1).items()
    }
    net, _ = weights.from_torch(state, layout="mobilenet_v2")
    assert (
        net.width == 1.0
        and sum(v.size for n, v in state.items() if not n.split(".")[-1].startswith(("run", "num"))) == 2_223_872
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("features.5.conv.1.1.bias"),
            r"MobileNetV2 of width 0\.25: missing: features\.5\.conv\.1\.1\.bias$",
        ),
        (lambda s: s.pop("features.18.0.weight"), r"MobileNetV2 of width 0\.25: missing: features\.18\.0\.weight$"),
        (lambda s: s.pop("features.0.0.weight"), r"missing: features\.0\.0\.weight; .*right layout"),
        (lambda s: s.update({"features.1.conv.3.bias": np.ones(8)}), r"left over: features\.1\.conv\.3\.bias$"),
        (
            lambda s: s.update({"features.2.conv.1.0.weight": np.ones((48, 48, 3, 3))}),
            r"\(48, 48, 3, 3\) instead of \(48, 1, 3, 3\)$",
        ),
        (
            lambda s: s.update({"features.4.conv.2.weight": np.ones((9, 48, 1, 1))}),
            r"width 0\.25: shape: .*\(9, 48, 1, 1\) instead of",
        ),
    ],
)
def test_every_tensor_of_a_mobilenet_is_accounted_for(change, message):
    state = mobilenet("torchvision")
    change(state)
    with pytest.raises(ValueError, match=message):
        weights.from_torch(state, layout="mobilenet_v2")


def test_integral_models_of_mmpose_are_heatmap_nets():
    backbone, head = resnet18(4, "backbone."), heatmap_head("", 32)
    axes = {"head.linspace_x": np.zeros((1, 1, 1, 8)), "head.linspace_y": np.zeros((1, 1, 8, 1))}
    inner = {f"head.simplebaseline_head.{name}": value for name, value in head.items()}
    net, variables = weights.from_torch({"state_dict": backbone | inner | axes}, layout="simple_baseline_mmpose")
    authors = {name.removeprefix("backbone."): value for name, value in backbone.items()} | head
    plain, expected = weights.from_torch(authors, layout="simple_baseline")
    assert net == plain
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert jax.eval_shape(net.apply, variables, images()).shape == (2, 8, 8, 17)

    with pytest.raises(ValueError, match=r"left over: head\.linspace_z$"):
        weights.from_torch(backbone | inner | {"head.linspace_z": np.ones(3)}, layout="simple_baseline_mmpose")
    with pytest.raises(ValueError, match=r"missing: head\.deconv_layers\.1\.bias$"):
        lacking = {name: v for name, v in inner.items() if not name.endswith("deconv_layers.1.bias")}
        weights.from_torch(backbone | lacking | axes, layout="simple_baseline_mmpose")
    both = {"head.final_layer.bias": np.ones(17)}
    with pytest.raises(ValueError, match=r"both under head\.simplebaseline_head\. and head\.: .*final_layer\.bias"):
        weights.from_torch(backbone | inner | both, layout="simple_baseline_mmpose")


# What is refused


def test_hrnets_classifier_gives_its_backbone():
    """ImageNet's HRNet goes on where pose nets stop: more fusions in the last module, and a classifier."""
    net = HeatmapNet(HRNet(4), 5, deconvs=())
    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    state = {
        name: RNG.normal(size=shape).astype(np.float32)
        for name, (_, shape) in weights.torch_tensors(shapes, {"backbone.": ""}).items()
    }
    _, pose = weights.from_torch(state, layout="hrnet")
    state.pop("final_layer.bias")
    more = ("stage4.2.fuse_layers.1.0.0.0.weight", "incre_modules.0.0.conv1.weight", "downsamp_modules.0.0.weight",
            "final_layer.1.weight", "classifier.bias")  # fmt: skip
    found, variables = weights.from_torch(state | {name: np.zeros(3) for name in more}, layout="hrnet_backbone")
    assert found == HRNet(4)
    for collection in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, variables[collection], pose[collection]["backbone"])
    with pytest.raises(ValueError, match="missing: stage2.0.branches.0.0.conv1.weight"):
        weights.from_torch({k: v for k, v in state.items() if k != "stage2.0.branches.0.0.conv1.weight"},
                           layout="hrnet_backbone")  # fmt: skip


def test_unknown_layout():
    with pytest.raises(
        ValueError, match="'hourglass'.*'resnet', 'resnet_caffe2', 'mobilenet_v2', 'hrnet_backbone', 'rle_official'"
    ):
        weights.from_torch({}, layout="hourglass")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.1.bn2.bias"), r"ResNet-18 of width 4: missing: layer2\.1\.bn2\.bias$"),
        (lambda s: s.update({"layer9.extra": np.ones(3)}), "left over: layer9.extra$"),
        (lambda s: s.update({"bn1.bias": np.ones(5)}), r"shape: bn1.bias \(5,\) instead of \(4,\)$"),
        (lambda s: s.update({"layer3.1.conv1.weight": np.ones((16, 16, 1, 1))}), r"\(16, 16, 1, 1\) instead of"),
        (
            lambda s: s.update({"layer1.2.conv1.weight": np.ones(1)}),
            r"\(3, 2, 2, 2\) basic blocks: expected those of a ResNet, 18",
        ),
        (lambda s: s.pop("conv1.weight"), "missing: conv1.weight; the state dict has .*right layout"),
        (lambda s: s.update({"conv1.weight": np.ones(4)}), r"conv1.weight has shape \(4,\): expected 4 axes"),
        (lambda s: s.update({"bn1.bias": "words"}), "not arrays of numbers: bn1.bias"),
    ],
)
def test_every_tensor_is_accounted_for(change, message):
    state = resnet18(4)
    change(state)
    with pytest.raises(ValueError, match=message):
        weights.from_torch(state, layout="resnet")


def test_heads_are_checked():
    with pytest.raises(ValueError, match="fc_coord.linear.weight has 33 rows: expected a multiple of 2"):
        weights.from_torch(official() | linear("fc_coord.linear", 33, 64), layout="rle_official")
    with pytest.raises(ValueError, match=r"fc_sigma.linear.weight \(32, 64\) instead of \(34, 64\)"):
        weights.from_torch(official() | linear("fc_sigma.linear", 32, 64), layout="rle_official")
    with pytest.raises(ValueError, match="missing: head.fc.weight"):
        weights.from_torch(official(), layout="rle_mmpose")
    with pytest.raises(ValueError, match="expected {name: array}"):
        weights.from_torch([np.ones(3)], layout="resnet")


# The rows


def test_the_page_of_the_package_names_every_layout():
    assert [row.name for row in layouts.ROWS if f'"{row.name}"' not in weights.__doc__] == []


def test_every_row_of_a_pose_net_says_what_the_importer_makes_of_it():
    from jaxpose import importer

    for row in layouts.ROWS:
        assert row.family is None or row.family in importer.FAMILIES and row.pages[""] and row.settings["preprocess"]
    assert {row.name for row in layouts.ROWS if row.family is None} == {
        "resnet", "resnet_caffe2", "mobilenet_v2", "hrnet_backbone", "martinez", "videopose3d", "srnet",
    }  # fmt: skip


# The names that a script gives the net


def names_of(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 0)


BASELINE = ("conv1.weight", "layer4.0.conv1.weight", "deconv_layers.0.weight", "final_layer.weight", "final_layer.bias")


@pytest.mark.parametrize("prefix", ["model.", "net.", "pose_net.", "lit.model.net."])
def test_the_name_of_the_net_in_a_lightning_module_is_taken_off(prefix):
    state = names_of(*(prefix + name for name in BASELINE))
    assert layouts.net_of({"state_dict": state}) == ("simple_baseline", names_of(*BASELINE))
    assert layouts.net_of(state | {"n_averaged": 3}, layout="simple_baseline")[1] == names_of(*BASELINE)
    assert layouts.net_of(names_of(*(f"{prefix}_orig_mod.{name}" for name in BASELINE)))[0] == "simple_baseline"


def test_what_stands_beside_the_net_is_left_out_with_a_warning(caplog):
    state = names_of(*(f"model.{name}" for name in BASELINE), "criterion.weight", "val_ap.total")
    assert layouts.net_of(state)[1] == names_of(*BASELINE)
    assert "the net is under model.: left out 2 other tensors: criterion.weight, val_ap.total" in caplog.text


def test_several_nets_are_asked_about():
    state = names_of(*(f"{net}.{name}" for net in ("student", "teacher") for name in BASELINE))
    with pytest.raises(ValueError, match=r"several nets, under student, teacher: choose one .*--part student"):
        layouts.net_of(state)


def test_a_backbone_of_another_net_is_not_the_net():
    """A ResNet under a name beside a head of one's own: nobody said that the head may be dropped."""
    state = names_of("encoder.conv1.weight", "encoder.layer4.0.conv1.weight", "head.weight")
    with pytest.raises(ValueError, match="names of no layout: encoder.conv1.weight"):
        layouts.net_of(state)
    assert layouts.net_of({name: 0 for name in state if name != "head.weight"})[0] == "resnet"
    # Within a pose net it is no net either.
    assert layouts.layout_of(official()) == "rle_official"


UNREAD = {  # by how the names of their checkpoints look
    "ViTPose": ("backbone.patch_embed.proj.weight", "backbone.blocks.0.attn.qkv.weight", "keypoint_head.final_layer.weight"),
    "ViTPose ": ("backbone.embeddings.patch_embeddings.projection.weight", "backbone.encoder.layer.0.attention.attention.key.bias"),
    "a Swin transformer": ("backbone.patch_embed.projection.weight", "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"),
    "RTMPose": ("backbone.stem.0.conv.weight", "head.final_layer.weight", "head.gau.uv.weight", "head.cls_x.weight"),
    "SimCC": ("backbone.conv1.weight", "head.cls_x.weight"),
    "DEKR": ("conv1.weight", "conv2.weight", "transition1.0.0.weight", "stage4.0.a", "offset_feature_layers.0.0.conv1.weight"),
    "YOLO pose": ("model.0.conv.weight", "model.2.cv1.conv.weight", "model.22.cv4.0.0.conv.weight"),
    "AlphaPose's FastPose": ("preact.conv1.weight", "preact.layer4.0.conv1.weight", "duc1.conv.weight"),
    "OpenPifPaf": ("base_net.conv1.weight", "head_nets.0.conv.weight"),
    "OpenPose": ("model.0.0.weight", "initial_stage.trunk.0.0.weight"),
    "TokenPose": ("pre_feature.conv1.weight", "transformer.keypoint_token"),
    "HRFormer": ("backbone.stage2.0.branches.0.0.attn.attn.q.weight", "keypoint_head.final_layer.weight"),
    "a stacked hourglass": ("conv1.weight", "hg.0.hg.0.0.0.conv1.weight", "score.0.weight"),
    "Mask R-CNN or Keypoint R-CNN": ("backbone.body.conv1.weight", "roi_heads.keypoint_head.0.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_nets_that_are_not_read_are_named(name, prefix):
    state = {"state_dict": names_of(*(prefix + each for each in UNREAD[name]))}
    with pytest.raises(ValueError, match=f"this looks like {name.strip()}.*, which is not read"):
        layouts.layout_of(state)
    with pytest.raises(ValueError, match=f"this looks like {name.strip()}.*, which is not read"):
        weights.from_torch(state, layout="simple_baseline_mmpose")
