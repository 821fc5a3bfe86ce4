"""Parameters and operations against published numbers."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxpose import cli, platforms, summary, tasks
from jaxpose.nets import HeatmapNet, LinearLifter, MobileNetV2, PoseRegressor, RegressionHead, ResNet
from jaxpose.nets.deconv import Deconv
from jaxpose.nets.layers import Conv
from jaxpose.skeleton import H36M17
from tests import tiny_run


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


def test_a_tpu_changes_no_count():
    net = HeatmapNet(ResNet(18, width=16, stages=2), 17, deconvs=(16,))
    with platforms.traced_for("tpu"):
        cost = summary.count(net, (64, 64))
    assert (cost.params, cost.multiply_adds, cost.sums) == (53_329, 7_458_816, 0)


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


GOLDEN = [  # net, options, size, published parameters in millions, and G multiply-adds: exact, at output size, in units of 2^30
    ("simple_baseline", {}, None, 34.0, None, 9.7, None),  # RLE table 5; its head is 5.7 of them
    ("simple_baseline", {"depth": 152}, (288, 384), 68.6, None, None, 35.5),  # HRNet 35.3
    ("hrnet", {}, None, 28.5, None, None, 7.1),  # HRNet table 1
    ("hrnet", {"width": 48}, (288, 384), 63.6, None, None, 32.9),
    ("integral", {"joints": 16, "depth": 18}, None, None, 2.8, None, None),  # Sun table 4
    ("integral", {"joints": 16}, None, None, 6.2, None, None),
    ("integral", {"joints": 16, "depth": 101}, None, None, 11.0, None, None),
    ("integral", {"joints": 16}, (128, 128), None, 1.5, None, None),  # Sun table 3
    ("integral", {"joints": 16, "deconvs": (256,) * 3}, (128, 128), None, 1.8, None, None),
    ("higher_hrnet", {}, None, 28.6, None, 47.9, None),  # SWAHR table 1
    ("swahr", {}, None, 28.6, None, 48.0, None),
    ("swahr", {"width": 48}, (640, 640), 63.8, None, 154.6, None),
]


@pytest.mark.parametrize(("net", "options", "size_wh", "millions", "exact", "at_output", "binary"), GOLDEN)
def test_published_costs(net, options, size_wh, millions, exact, at_output, binary):
    module, default_wh = summary.make(net, **options)
    cost = summary.count(module, size_wh or default_wh)
    assert millions is None or round(cost.params / 1e6, 1) == millions
    assert exact is None or abs(cost.multiply_adds / 1e9 - exact) < 0.06
    assert at_output is None or round(cost.as_published / 1e9, 1) == at_output
    assert binary is None or round(cost.as_published / 2**30, 1) == binary


def test_heads_of_table_5_and_stages_of_sun():
    backbone = summary.count(ResNet(depth=50), (192, 256))
    head = summary.count(summary.make("simple_baseline")[0], (192, 256)) - backbone
    assert round(head.as_published / 1e9, 1) in (5.6, 5.7) and round(head.params / 1e6, 1) == 10.5
    four = summary.count(*summary.make("integral", stages=4, joints=16))
    assert abs(four.multiply_adds / 1e9 - 18) < 0.55  # table 7: 18G


def test_a_transposed_convolution_is_counted_at_its_input_and_at_its_output():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, images):
            return Deconv(7)(images)

    cost = summary.count(Net(), (5, 4))
    assert cost.multiply_adds == 5 * 4 * 16 * 3 * 7 and cost.as_published == 10 * 8 * 16 * 3 * 7


def test_table_8_of_rle():
    """Parameters and operations of the nets in space; a multiply-add counts as one FLOP, the lifter's are of 64 poses."""
    backbone = ResNet(depth=50)
    direct = summary.count(PoseRegressor(backbone, RegressionHead(18, dim=3, kind="linear")), (256, 256))
    flows = summary.count_flow(dim=2).params + summary.count_flow(dim=3).params
    head = 54 * 2049
    assert direct.params - head == 23_618_678 and direct.params + flows == 23_838_440  # "23.8M" of all regressions
    assert direct.multiply_adds / 1e9 == pytest.approx(5.4, abs=0.07)
    volumes = summary.count(HeatmapNet(backbone, 18 * 64), (256, 256))
    assert volumes.params == 34_291_392 and round(volumes.as_published / 1e9, 1) == 14.1
    fc = summary.count_lifter(LinearLifter())
    assert fc.params == 4_291_632 and 64 * fc.multiply_adds / 1e9 == pytest.approx(0.275, abs=0.002)


@pytest.mark.parametrize("loss", ["l1", "rle"])
def test_the_net_of_a_lifter_is_counted(tmp_path, capsys, loss):
    net = LinearLifter(joints_in=17, joints_out=17, width=8, dim=6 if loss == "rle" else 3)
    task = tasks.lifting(net, skeleton=H36M17, loss=tasks.LiftLoss(loss=loss))
    summary.main(run=tiny_run.write(tmp_path / "run", task, variables=jax.jit(task.init)(jax.random.key(0))))
    text = capsys.readouterr().out
    assert "LinearLifter, input 1 frame of joints, 17 joints" in text
    assert f"{summary.count_lifter(net).params:,}" in text and ("55,332" in text) == (loss == "rle")


def test_the_net_of_a_run_is_counted(tmp_path, capsys):
    run = tiny_run.write(tmp_path / "run", tiny_run.regression_task())
    summary.main(run=run)
    text = capsys.readouterr().out
    expected = summary.count(tiny_run.regression_task().net, tiny_run.SIZE_WH)
    assert f"{expected.params:,}" in text and "PoseRegressor, input 24 x 32 px, 17 joints" in text and "53,784" in text
    with pytest.raises(ValueError, match="--depth has no effect with --run"):
        summary.main(run=run, depth=18)
    with pytest.raises(ValueError, match="--stages has no effect with --net hrnet"):
        summary.main(net="hrnet", stages=2)
    summary.main(net="simple_baseline", depth=18, size_wh=(32, 32), joints=5)
    assert "simple_baseline: ResNet-18, width 64, input 32 x 32 px, 5 joints" in capsys.readouterr().out


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
    columns = {line.split("  ")[0]: line.split()[-5:-1] for line in text.splitlines() if line.count(",") >= 1}
    # parameters, multiply-adds, the same at output size, plain sums: the pooling of 2 x 2 x 512 numbers is no multiply-add
    assert columns["head"] == [f"{512 * 56 + 56:,}", f"{512 * 56:,}", f"{512 * 56:,}", f"{512 * 2 * 2:,}"]


def test_the_command_line_has_every_flag(capsys):
    with pytest.raises(SystemExit):
        cli.main(["summary", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name in inspect.signature(summary.main).parameters)
    cli.main(["summary", "--depth", "18", "--size-wh", "96", "64", "--flow-hidden", "8", "8"])
    assert "ResNet-18, width 64, input 96 x 64 px" in capsys.readouterr().out
