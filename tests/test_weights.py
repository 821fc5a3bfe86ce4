"""State dicts -> variables: every tensor lands in its place. (How files are read: test_torch_file.)"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import weights
from jaxpose.flow import RealNVP
from jaxpose.nets import HeatmapNet, HRNet

RNG = np.random.default_rng(0)


def resnet18(width: int, prefix: str = "") -> dict[str, np.ndarray]:
    """A made-up state dict with torchvision's names, written out from its documentation."""
    state = {}

    def conv(name, *shape):
        state[f"{prefix}{name}.weight"] = RNG.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)

    def bn(name, channels):
        for leaf, middle in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            state[f"{prefix}{name}.{leaf}"] = RNG.uniform(middle - 0.2, middle + 0.2, channels).astype(np.float32)
        state[f"{prefix}{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", width, 3, 7, 7)
    bn("bn1", width)
    before = width
    for stage in range(4):
        c = width * 2**stage
        for i in range(2):
            conv(f"layer{stage + 1}.{i}.conv1", c, before, 3, 3)
            bn(f"layer{stage + 1}.{i}.bn1", c)
            conv(f"layer{stage + 1}.{i}.conv2", c, c, 3, 3)
            bn(f"layer{stage + 1}.{i}.bn2", c)
            if before != c:
                conv(f"layer{stage + 1}.{i}.downsample.0", c, before, 1, 1)
                bn(f"layer{stage + 1}.{i}.downsample.1", c)
            before = c
    return state


MOBILENET_LAYERS = {1: (16, 1), 2: (24, 2), 3: (32, 3), 4: (64, 4), 5: (96, 3), 6: (160, 3), 7: (320, 1)}


def mobilenet(style: str, prefix: str = "", divide: int = 4) -> dict[str, np.ndarray]:
    """A made-up MobileNetV2 with the channels of width 1 / `divide` that the published rounding gives, and the names of
    torchvision or of mmpose, written out from their documentation."""
    state = {}

    def unit(conv, bn, *shape):
        state[f"{prefix}{conv}.weight"] = RNG.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        for leaf, middle in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            state[f"{prefix}{bn}.{leaf}"] = RNG.uniform(middle - 0.2, middle + 0.2, shape[0]).astype(np.float32)
        state[f"{prefix}{bn}.num_batches_tracked"] = np.array(7)

    def outer(place, number, *shape):
        torchvision = (f"features.{place}.0", f"features.{place}.1")
        unit(*(torchvision if style == "torchvision" else (f"conv{number}.conv", f"conv{number}.bn")), *shape)

    width_4 = {16: 8, 24: 8, 32: 8, 64: 16, 96: 24, 160: 40, 320: 80}  # width 0.25
    channels = {c: width_4[c] if divide == 4 else c for c in width_4}
    outer(0, 1, channels[32], 3, 3, 3)
    before, place = channels[32], 0
    for layer, (c, blocks) in MOBILENET_LAYERS.items():
        for i in range(blocks):
            place += 1
            hidden = before * (1 if layer == 1 else 6)
            shapes = [(hidden, before, 1, 1)] * (layer > 1) + [(hidden, 1, 3, 3), (channels[c], hidden, 1, 1)]
            for j, shape in enumerate(shapes):
                if style == "mmpose":
                    unit(f"layer{layer}.{i}.conv.{j}.conv", f"layer{layer}.{i}.conv.{j}.bn", *shape)
                elif j < len(shapes) - 1:
                    unit(f"features.{place}.conv.{j}.0", f"features.{place}.conv.{j}.1", *shape)
                else:
                    unit(f"features.{place}.conv.{j}", f"features.{place}.conv.{j + 1}", *shape)
            before = channels[c]
    outer(18, 2, 1280, before, 1, 1)
    return state


def linear(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
    return {
        f"{name}.weight": RNG.normal(0, 1, (rows, columns)).astype(np.float32),
        f"{name}.bias": RNG.normal(0, 1, rows).astype(np.float32),
    }


def flow(prefix: str, dim: int = 2, hidden: int = 8) -> dict[str, np.ndarray]:
    masks = {2: [[0, 1], [1, 0]], 3: [[0, 0, 1], [1, 1, 0]]}[dim]
    state = {f"{prefix}.mask": np.array(masks * 3, np.float32), f"{prefix}.loc": np.zeros(dim)}
    for net in "st":
        for i in range(6):
            for j, (rows, columns) in {0: (hidden, dim), 2: (hidden, hidden), 4: (dim, hidden)}.items():
                state |= linear(f"{prefix}.{net}.{i}.{j}", rows, columns)
    return state


def official(dim: int = 2) -> dict[str, np.ndarray]:
    sigma, flows = ("fc_sigma.linear", flow("flow")) if dim == 2 else ("fc_sigma", flow("flow2d") | flow("flow3d", 3))
    return resnet18(8, "preact.") | linear("fc_coord.linear", 17 * dim, 64) | linear(sigma, 17 * dim, 64) | flows


def mmpose(head: str = "head", loss: str = "loss_module") -> dict[str, np.ndarray]:
    return resnet18(8, "backbone.") | linear(f"{head}.fc", 17 * 4, 64) | flow(f"{head}.{loss}.flow_model")


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


def sine_weights(reference: dict, model: dict) -> dict[str, np.ndarray]:
    """The rule of the golden files' README."""
    state = {}
    for t, (name, shape) in enumerate(model["state"]):
        i = np.arange(np.prod(shape, dtype=np.int64))
        s = np.sin(reference["A"] * (i + 1) + reference["B"] * (t + 1) + 0.5 * ((i + 1) ** 2 % 9973)).reshape(shape)
        if len(shape) >= 2:
            value = model["conv_scale"] / np.sqrt(np.prod(shape[1:])) * s
        elif name.endswith("running_var"):
            value = 1 + 0.1 * np.abs(s)
        elif name.endswith(("running_mean", "bias")):
            value = 0.1 * s
        else:
            value = 1 + 0.1 * s
        state[name] = value.astype(np.float32)
    return state


def sine_image() -> np.ndarray:
    y, x, c = np.mgrid[:256, :192, :3]
    return (0.5 * np.sin(0.05 * (y + 1) * (c + 1)) + 0.5 * np.cos(0.03 * (x + 1))).astype(np.float32)[None]


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


@pytest.mark.parametrize(
    ("prefix", "case", "dim"), [("flow2d", "flow2d", 2), ("m3d.flow3d", "flow3d", 3), ("flow3d", "flow3d", 3)]
)
def test_the_official_flows_match_the_reference(golden, prefix, case, dim):
    g = golden("rle_official")
    with jax.enable_x64(True):
        state = {k: g[k].astype(np.float64) for k in g.keys() if k.startswith(("flow2d.", "m3d."))}
        variables = weights.flow_from_torch(state, prefix=prefix)
        log_prob = RealNVP(dim=dim).apply(variables, g[f"{case}_x"].astype(np.float64))
        np.testing.assert_allclose(log_prob, g[f"{case}_logprob_f64"], rtol=1e-10, atol=1e-10)


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


@pytest.mark.parametrize("wrapper", weights.WRAPPERS)
def test_wrappers_and_prefix(wrapper):
    state = resnet18(4) | linear("fc", 10, 32)
    _, want = weights.from_torch(state, layout="resnet")
    wrapped = {"epoch": 3, wrapper: {f"module.{name}": value for name, value in state.items()}}
    _, got = weights.from_torch(wrapped, layout="resnet")
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_half_precision_becomes_float32():
    state = {k: jnp.asarray(v, jnp.bfloat16) for k, v in resnet18(4).items()}
    _, variables = weights.from_torch(state, layout="resnet")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


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


def heatmap_head(prefix: str, channels: int) -> dict[str, np.ndarray]:
    state = {}
    for i, (inputs, outputs) in enumerate([(channels, 8), (8, 6)]):
        state[f"{prefix}deconv_layers.{3 * i}.weight"] = RNG.normal(0, 0.1, (inputs, outputs, 4, 4)).astype(np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{prefix}deconv_layers.{3 * i + 1}.{leaf}"] = RNG.uniform(0.5, 1, outputs).astype(np.float32)
    state[f"{prefix}final_layer.weight"] = RNG.normal(0, 1, (17, 6, 1, 1)).astype(np.float32)
    state[f"{prefix}final_layer.bias"] = RNG.normal(0, 1, 17).astype(np.float32)
    return state


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
    with pytest.raises(ValueError, match="'hourglass'.*'resnet', 'mobilenet_v2', 'hrnet_backbone', 'rle_official'"):
        weights.from_torch({}, layout="hourglass")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.1.bn2.bias"), r"ResNet-18 of width 4: missing: layer2\.1\.bn2\.bias$"),
        (lambda s: s.update({"layer9.extra": np.ones(3)}), "left over: layer9.extra$"),
        (lambda s: s.update({"bn1.bias": np.ones(5)}), r"shape: bn1.bias \(5,\) instead of \(4,\)$"),
        (lambda s: s.update({"layer3.1.conv1.weight": np.ones((16, 16, 1, 1))}), r"\(16, 16, 1, 1\) instead of"),
        (lambda s: s.update({"layer1.2.conv1.weight": np.ones(1)}), r"\(3, 2, 2, 2\) basic blocks: no ResNet of 18"),
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


def test_flow_is_found_under_any_prefix():
    state = mmpose()
    params = weights.flow_from_torch({"state_dict": state})["params"]
    assert len(params) == 36
    np.testing.assert_array_equal(params["t5_2"]["kernel"], state["head.loss_module.flow_model.t.5.4.weight"].T)
    np.testing.assert_array_equal(params["s0_1"]["bias"], state["head.loss_module.flow_model.s.0.2.bias"])
    bare = {k.removeprefix("head.loss_module.flow_model."): v for k, v in state.items() if "flow_model" in k}
    jax.tree.map(np.testing.assert_array_equal, weights.flow_from_torch(bare)["params"], params)
    assert RealNVP(hidden=(8, 8)).apply({"params": params}, jnp.zeros((3, 2))).shape == (3,)


def test_one_of_several_flows():
    state = official(dim=3)
    with pytest.raises(ValueError, match="flow2d.*flow3d.*prefix="):
        weights.flow_from_torch(state)
    assert weights.flow_from_torch(state, prefix="flow2d")["params"]["s0_0"]["kernel"].shape == (2, 8)
    assert weights.flow_from_torch(state, prefix="flow3d")["params"]["s0_0"]["kernel"].shape == (3, 8)
    with pytest.raises(ValueError, match="prefix='flow4d'.*none"):
        weights.flow_from_torch(state, prefix="flow4d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("flow.t.3.2.bias"), "missing t3_1 bias"),
        (lambda s: s.update({"flow.s.2.4.weight": np.ones((2, 9))}), r"s2_2: kernel .*\(9, 2\).* expected \(\(8, 2\)"),
        (lambda s: s.update({"flow.s.2.1.weight": np.ones((2, 9))}), "even places"),
        (lambda s: s.update({"flow.mask": s["flow.mask"][:, ::-1]}), "expected the published"),
        (lambda s: s.update({"flow.mask": s["flow.mask"][:4]}), "expected the published.*each of the 6 couplings"),
        (lambda s: s.update({"flow.mask": np.array(1)}), "flow.mask is 1: expected the published"),
        (lambda s: s["flow.s.1.2.bias"].fill(np.nan), r"not finite: flow\.s\.1\.2\.bias;"),
        (
            lambda s: s.update({"flow.t.0.0.weight": s["flow.t.0.0.weight"].astype(np.int8)}),
            r"not floating-point: flow\.t\.0\.0\.weight;",
        ),
        (lambda s: s.clear(), "expected a flow, found none"),
    ],
)
def test_flows_are_checked(change, message):
    state = flow("flow")
    change(state)
    with pytest.raises(ValueError, match=message):
        weights.flow_from_torch(state)


# Files


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".tar"])
@pytest.mark.parametrize("new", [True, False])
def test_torch_files(tmp_path, suffix, new):
    torch = pytest.importorskip("torch")
    state = {"module.a": torch.arange(6.0).reshape(2, 3), "module.b": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / f"net{suffix}"
    torch.save({"epoch": 3, "state_dict": state}, path, _use_new_zipfile_serialization=new)
    got = weights.load_file(path)
    assert list(got) == ["a", "b"] and got["b"].dtype == np.float32
    np.testing.assert_array_equal(got["a"], np.arange(6.0).reshape(2, 3))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"net{suffix}: not a complete file"):
        weights.load_file(path)


def test_a_missing_reader_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    (tmp_path / "net.safetensors").touch()
    with pytest.raises(ImportError, match=r"pip install 'jaxpose\[torch\]'"):
        weights.load_file(tmp_path / "net.safetensors")


def test_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "net.safetensors"
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.ones(2, np.float16),
        "c": np.asarray(jnp.ones(2, jnp.bfloat16)),
    }
    numpy.save_file(arrays, path)
    got = weights.load_file(path)
    assert {name: value.dtype.name for name, value in got.items()} == {"a": "float64", "b": "float32", "c": "float32"}
    np.testing.assert_array_equal(got["a"], arrays["a"])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"net\.safetensors: not a complete"):
        weights.load_file(path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        weights.load_file(tmp_path / "nothing.pth")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ValueError, match=r"net\.onnx: unknown kind of file '\.onnx', expected one of \.pth"):
        weights.load_file(tmp_path / "net.onnx")
    torch = pytest.importorskip("torch")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth: holds a list"):
        weights.load_file(tmp_path / "list.pth")
    torch.save({"a": torch.ones(2), "epoch": "three"}, tmp_path / "mixed.pth")
    with pytest.raises(ValueError, match=r"mixed.pth: not arrays of numbers: epoch"):
        weights.load_file(tmp_path / "mixed.pth")
