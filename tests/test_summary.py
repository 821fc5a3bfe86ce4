"""Parameters and operations against published numbers."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxpose import cli, summary
from jaxpose.nets import MobileNetV2, PoseRegressor, RegressionHead, ResNet
from jaxpose.nets.layers import Conv


@pytest.mark.parametrize(
    ("depth", "params", "multiply_adds_224"),
    [  # torchvision's, less the classifier (513,000 and 2,049,000 parameters, 512,000 and 2,048,000 multiply-adds)
        (18, 11_176_512, 1_814_073_344 - 512_000),
        (34, 21_797_672 - 513_000, None),
        (50, 23_508_032, 4_089_184_256 - 2_048_000),
        (101, 44_549_160 - 2_049_000, None),
        (152, 58_143_808, None),
    ],
)
def test_published_counts(depth, params, multiply_adds_224):
    cost = summary.count(ResNet(depth=depth), (224, 224))
    assert cost.params == params
    assert multiply_adds_224 is None or cost.multiply_adds == multiply_adds_224
    assert cost.sums == 0


def test_published_counts_of_mobilenet():
    """3.5 million parameters and 300 million multiply-adds with a classifier of 1280 x 1000: table 4 of its paper."""
    cost = summary.count(MobileNetV2(), (224, 224))
    assert cost == summary.Cost(params=2_223_872, multiply_adds=299_494_272)
    assert round((cost.params + 1_281_000) / 1e6, 1) == 3.5 and round(cost.multiply_adds / 1e6 + 1.28, -1) == 300


def test_table_5():
    backbone = summary.count(ResNet(depth=50), (192, 256))
    total = summary.count(PoseRegressor(ResNet(depth=50), RegressionHead(17)), (192, 256))
    assert round(total.params / 1e6, 1) == 23.6
    assert round(total.operations / 1e9, 1) == 4.0
    head = total - backbone
    assert head == summary.Cost(params=2048 * 68 + 68, multiply_adds=2048 * 68, sums=2048 * 8 * 6)
    assert round(head.operations / 1e9, 4) == 0.0002


@pytest.mark.parametrize(
    ("hidden", "thousands", "millions"),
    [((64,) * 2, 53.8, 1.8), ((128,) * 2, 205.8, 6.9), ((256,) * 2, 804.8, 27.3), ((32,) * 4, 40.0, 1.3), ((64,) * 4, 153.6, 5.2)],
)  # fmt: skip
def test_table_11(hidden, thousands, millions):
    cost = summary.count_flow(hidden=hidden)
    # The paper cuts 804,888 to 804.8K.
    assert abs(cost.params / 1e3 - thousands) < 0.1
    widths = (2, *hidden, 2)
    assert cost.multiply_adds == 12 * sum(a * b for a, b in zip(widths, widths[1:], strict=False))
    assert round(17 * (cost.params + cost.multiply_adds) / 1e6, 1) == millions


def test_strided_convolutions_and_products():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(7)(Conv(5, 3, 2)(images))

    cost = summary.count(Net(), (9, 6))
    assert cost == summary.Cost(params=27 * 5 + 5 * 7 + 7, multiply_adds=3 * 5 * (27 * 5 + 5 * 7))


def test_sums_are_counted():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(1)(jnp.sum(images, (1, 2)))

    assert summary.count(Net(), (4, 5)) == summary.Cost(params=4, multiply_adds=3, sums=60)


def test_size_is_checked():
    with pytest.raises(ValueError, match=r"size_wh=\(192, 0\)"):
        summary.count(ResNet(depth=18), (192, 0))


def test_the_table(capsys):
    summary.main(depth=18, size_wh=(48, 64), joints=14, flow_hidden=(8,), flow_layers=2)
    text = capsys.readouterr().out
    assert "11,176,512" in text and f"{512 * 56 + 56:,}" in text and "14 joints" in text
    columns = {line.split("  ")[0]: line.split()[-4:-1] for line in text.splitlines() if line.count(",") >= 1}
    # parameters, multiply-adds, plain sums: the pooling of 2 x 2 x 512 numbers is no multiply-add
    assert columns["head"] == [f"{512 * 56 + 56:,}", f"{512 * 56:,}", f"{512 * 2 * 2:,}"]


def test_the_command_line_has_every_flag(capsys):
    with pytest.raises(SystemExit):
        cli.main(["summary", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name in inspect.signature(summary.main).parameters)
    cli.main(["summary", "--depth", "18", "--size-wh", "96", "64", "--flow-hidden", "8", "8"])
    assert "ResNet-18, width 64, input 96 x 64 px" in capsys.readouterr().out
