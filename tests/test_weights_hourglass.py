"""The stacked hourglass nets of two code bases: golden numbers, names, and the checkpoint of `jaxpose import`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import checkpoint, importer, tasks, weights
from jaxpose.nets import StackedHourglass
from tests.torch_states import sine_image, sine_weights

LAYOUTS = {"bearpaw_s2_b1_k16": "hourglass_bearpaw", "princeton_s2_d256_k16": "hourglass_princeton"}


def published(
    stem: str, *, width: int = 8, stacks: int = 2, joints: int = 16, unused: bool = True
) -> dict[str, np.ndarray]:
    """Returns a synthetic state dict with the published names, written from their description in the facts."""
    state, rng = {}, np.random.default_rng(len(stem))

    def conv(name, out, into, size=1):
        state[f"{name}.weight"] = rng.normal(0, (into * size**2) ** -0.5, (out, into, size, size)).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(0, 0.1, out).astype(np.float32)

    def bn(name, channels):
        for leaf, middle in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            state[f"{name}.{leaf}"] = rng.uniform(middle - 0.2, middle + 0.2, channels).astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.array(3)

    def block(name, into, out):
        inner, shortcut = (".conv", ".skip_layer.conv") if stem == "princeton" else ("", ".downsample.0")
        for i, (a, b, size) in enumerate(((into, out // 2, 1), (out // 2, out // 2, 3), (out // 2, out, 1)), 1):
            bn(f"{name}.bn{i}", a)
            conv(f"{name}.conv{i}{inner}", b, a, size)
        if into != out or (stem == "princeton" and unused):
            conv(f"{name}{shortcut}", out, into)

    quarter, half = width // 4, width // 2
    if stem == "bearpaw":
        conv("conv1", quarter, 3, 7)
        bn("bn1", quarter)
        for i, (a, b) in enumerate(((quarter, half), (half, width), (width, width)), 1):
            block(f"layer{i}.0", a, b)
    else:
        conv("pre.0.conv", quarter, 3, 7)
        bn("pre.0.bn", quarter)
        for i, a, b in ((1, quarter, half), (3, half, half), (4, half, width)):
            block(f"pre.{i}", a, b)
    for i in range(stacks):
        for level in range(4):
            inside = f"hgs.{i}.0" + ".low2" * (3 - level)
            for place, branch in enumerate(("up1", "low1", "low3", *(["low2"] if level == 0 else []))):
                block(f"{inside}.{branch}" if stem == "princeton" else f"hg.{i}.hg.{level}.{place}.0", width, width)
        after = {
            "bearpaw": (f"res.{i}.0", f"fc.{i}.0", f"fc.{i}.1", f"score.{i}", f"fc_.{i}", f"score_.{i}"),
            "princeton": (f"features.{i}.0", f"features.{i}.1.conv", f"features.{i}.1.bn", f"outs.{i}.conv",
                          f"merge_features.{i}.conv.conv", f"merge_preds.{i}.conv.conv"),
        }[stem]  # fmt: skip
        block(after[0], width, width)
        conv(after[1], width, width)
        bn(after[2], width)
        conv(after[3], joints, width)
        if i < stacks - 1:
            conv(after[4], width, width)
            conv(after[5], width, joints)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_released_nets_are_matched(name, golden, golden_json):
    reference, expected = golden_json("hands/hourglass")[name], golden("hands/hourglass")
    state = sine_weights(reference, reference)
    assert weights.layout_of(state) == LAYOUTS[name]
    net, variables = weights.from_torch(state, layout=LAYOUTS[name])
    assert (net.stacks, net.blocks, net.width, net.num_joints) == (2, 1, 256, 16)
    unused = sum(v.size for n, v in state.items() if "skip_layer" in n and not n.startswith(("pre.1", "pre.4")))
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == reference["n_params"] - unused
    image = sine_image()[:, :128, :128]
    maps = jax.jit(net.apply)(variables, image)
    assert len(maps) == 2
    for i, stack in enumerate(maps):
        want = expected[f"{name}.stack{i}"]
        np.testing.assert_allclose(np.asarray(stack)[0].transpose(2, 0, 1), want, atol=1e-4 * np.abs(want).max())


def by_hand(state: dict[str, np.ndarray], images: np.ndarray) -> list[np.ndarray]:
    """Returns princeton's maps, written with NumPy from the description of the net; one image (H, W, 3)."""

    def conv(name, x, stride=1):
        kernel, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        pad = kernel.shape[2] // 2
        padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], (0, 1))[::stride, ::stride]
        return np.einsum("hwcij,ocij->hwo", windows, kernel) + bias

    def bn_relu(name, x):
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return np.maximum((x - state[f"{name}.running_mean"]) * scale + state[f"{name}.bias"], 0)

    def block(name, x):
        y = x
        for i in (1, 2, 3):
            y = conv(f"{name}.conv{i}.conv", bn_relu(f"{name}.bn{i}", y))
        return y + (x if x.shape == y.shape else conv(f"{name}.skip_layer.conv", x))

    def pool(x):
        return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))

    def hourglass(name, x, level):
        low = block(f"{name}.low1", pool(x))
        low = hourglass(f"{name}.low2", low, level - 1) if level else block(f"{name}.low2", low)
        return block(f"{name}.up1", x) + block(f"{name}.low3", low).repeat(2, 0).repeat(2, 1)

    x = block("pre.1", bn_relu("pre.0.bn", conv("pre.0.conv", images, 2)))
    x, maps = block("pre.4", block("pre.3", pool(x))), []
    for i in range(2):
        y = block(f"features.{i}.0", hourglass(f"hgs.{i}.0", x, 3))
        y = bn_relu(f"features.{i}.1.bn", conv(f"features.{i}.1.conv", y))
        maps.append(conv(f"outs.{i}.conv", y))
        if i == 0:
            x = x + conv("merge_features.0.conv.conv", y) + conv("merge_preds.0.conv.conv", maps[0])
    return maps


def test_the_net_computes_what_its_description_says():
    state = published("princeton")
    assert weights.layout_of(state) == "hourglass_princeton"
    net, variables = weights.from_torch(
        {"module." + name: value for name, value in state.items()}, layout="hourglass_princeton"
    )
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    for ours, theirs in zip(jax.jit(net.apply)(variables, images), by_hand(state, images[0]), strict=True):
        np.testing.assert_allclose(ours[0], theirs, atol=2e-5 * np.abs(theirs).max())


def test_names_of_bearpaw_and_what_does_not_fit():
    state = published("bearpaw")
    assert weights.layout_of({"state_dict": state}) == "hourglass_bearpaw"
    net, variables = weights.from_torch(state, layout="hourglass_bearpaw")
    assert (net.stem, net.stacks, net.width) == ("bearpaw", 2, 8)
    kernel = state["hg.1.hg.0.3.0.conv2.weight"].transpose(2, 3, 1, 0)  # the innermost block
    np.testing.assert_array_equal(variables["params"]["hg1_0_low2_0"]["conv2"]["kernel"], kernel)
    np.testing.assert_array_equal(variables["params"]["merge0_maps"]["bias"], state["score_.0.bias"])
    with pytest.raises(ValueError, match="missing: hg.1.hg.2.1.0.conv3.bias"):
        weights.from_torch(
            {k: v for k, v in state.items() if k != "hg.1.hg.2.1.0.conv3.bias"}, layout="hourglass_bearpaw"
        )
    with pytest.raises(ValueError, match="left over: extra.weight"):
        weights.from_torch(state | {"extra.weight": np.zeros(3)}, layout="hourglass_bearpaw")


@pytest.mark.parametrize("stem, count", [("bearpaw", 3_586_960), ("princeton", 4_364_048)])
def test_parameters_of_a_published_stack(stem, count):
    net = StackedHourglass(16, stacks=1, stem=stem)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    total = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    if stem == "princeton":  # the published number counts shortcuts that are never used
        total += 14 * (256 * 256 + 256) + 128 * 128 + 128
    assert total == count


@pytest.mark.parametrize("stem", ["bearpaw", "princeton"])
def test_import_makes_a_checkpoint_of_the_heatmap_family(stem, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    state = {name: value for name, value in published(stem).items() if "num_batches" not in name}
    numpy.save_file(state, tmp_path / "hg.safetensors")
    importer.main(tmp_path / "hg.safetensors", out=tmp_path / "run")
    variables, config = checkpoint.restore_model(tmp_path / "run")
    task = tasks.from_config(config["task"])
    assert task.family == "heatmaps" and task.size_wh == (256, 256) and task.skeleton.name == "mpii16"
    assert task.preprocess == {"bearpaw": "bearpaw", "princeton": "unit"}[stem]
    assert task.readout.offset == 0.5
    peak = np.zeros((1, 64, 64, 16), np.float32)
    peak[:, 20, 30] = 1.0
    np.testing.assert_allclose(
        task.codec.decode(jnp.asarray(peak), size_wh=(256, 256))[0][0, 0], [122, 82]
    )  # 4 (30.5, 20.5)
    mirrored = task.codec.mirror(jnp.asarray(peak), flip_index=task.flip_index)
    np.testing.assert_array_equal(mirrored[0, 20, 33], 1)  # 63 - 30, not moved
    maps = task.net.apply(
        {"params": variables["params"]["net"], "batch_stats": variables["batch_stats"]}, jnp.zeros((1, 64, 64, 3))
    )
    assert [m.shape for m in maps] == [(1, 16, 16, 16)] * 2


def test_what_the_net_refuses():
    with pytest.raises(
        ValueError, match=r"images have shape \(1, 96, 64, 3\): expected heights and widths that 64 divides"
    ):
        StackedHourglass(16, width=8).init(jax.random.key(0), jnp.zeros((1, 96, 64, 3)))
    with pytest.raises(ValueError, match="width=12: expected a multiple of 8"):
        StackedHourglass(16, width=12)
    with pytest.raises(ValueError, match="stacks=0"):
        StackedHourglass(16, stacks=0)
