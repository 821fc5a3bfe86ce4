"""Synthetic state dicts under the published names, for the tests of weights and of the importer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

RNG = np.random.default_rng(0)


def generator(name: str) -> np.random.Generator:
    """Returns a generator seeded by a name, so that a state dict does not depend on the tests that ran before."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def resnet18(width: int, prefix: str = "") -> dict[str, np.ndarray]:
    """Returns a synthetic state dict with torchvision's names, written from its documentation."""
    state, rng = {}, generator(f"resnet18 {width} {prefix}")

    def conv(name, *shape):
        state[f"{prefix}{name}.weight"] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)

    def bn(name, channels):
        for leaf, middle in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            state[f"{prefix}{name}.{leaf}"] = rng.uniform(middle - 0.2, middle + 0.2, channels).astype(np.float32)
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
    """Returns a synthetic MobileNetV2 with the channels of width 1 / `divide` by the published rounding, and the names of
    torchvision or of mmpose, written from their documentation."""
    state, rng = {}, generator(f"mobilenet {style} {prefix} {divide}")

    def unit(conv, bn, *shape):
        state[f"{prefix}{conv}.weight"] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        for leaf, middle in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            state[f"{prefix}{bn}.{leaf}"] = rng.uniform(middle - 0.2, middle + 0.2, shape[0]).astype(np.float32)
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
    rng = generator(name)
    return {
        f"{name}.weight": rng.normal(0, 1, (rows, columns)).astype(np.float32),
        f"{name}.bias": rng.normal(0, 1, rows).astype(np.float32),
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


def heatmap_head(prefix: str, channels: int) -> dict[str, np.ndarray]:
    state, rng = {}, generator(f"heatmap_head {prefix} {channels}")
    for i, (inputs, outputs) in enumerate([(channels, 8), (8, 6)]):
        state[f"{prefix}deconv_layers.{3 * i}.weight"] = rng.normal(0, 0.1, (inputs, outputs, 4, 4)).astype(np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{prefix}deconv_layers.{3 * i + 1}.{leaf}"] = rng.uniform(0.5, 1, outputs).astype(np.float32)
    state[f"{prefix}final_layer.weight"] = rng.normal(0, 1, (17, 6, 1, 1)).astype(np.float32)
    state[f"{prefix}final_layer.bias"] = rng.normal(0, 1, 17).astype(np.float32)
    return state


# The golden files' weights and image


def sine_weights(reference: dict, model: dict) -> dict[str, np.ndarray]:
    """Returns weights by the rule of the golden files' README."""
    return sine_state(model["state"], (reference["A"], reference["B"]), scale_of=lambda name: model["conv_scale"])


def sine_state(entries: Iterable, ab: Sequence[float], *, scale_of: Callable[[str], float]) -> dict[str, np.ndarray]:
    """Returns {name: float32 array} of pairs (name, shape), by the rule of the golden files' READMEs.

    Args:
        entries: The pairs.
        ab: The rule's frequencies A and B.
        scale_of: Function from the name of a kernel to its scale.
    """
    state = {}
    for t, (name, shape) in enumerate(entries):
        i = np.arange(1, int(np.prod(shape, dtype=np.int64)) + 1)
        s = np.sin(ab[0] * i + ab[1] * (t + 1) + 0.5 * (i**2 % 9973)).reshape(shape)
        if len(shape) >= 2:
            value = scale_of(name) / np.sqrt(np.prod(shape[1:])) * s
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
