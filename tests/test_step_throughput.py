"""The tiny run of benchmarks/step_throughput.py."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks import step_throughput


@pytest.mark.slow
def test_lines_have_what_they_claim(capsys):
    options = step_throughput.Options(
        batch=(2, 4), depth=18, width=4, size_wh=(24, 32), repeats=2, peak_tflops=1.0, rival=False
    )
    step_throughput.main(options)
    lines = [json.loads(line) for line in capsys.readouterr().out.strip().splitlines()]
    assert [(line["side"], line["batch"]) for line in lines] == [
        ("jaxpose", 2), ("jaxpose, L1", 2), ("jaxpose", 4), ("jaxpose, L1", 4)
    ]  # fmt: skip
    for line in lines:
        assert line["images_per_s"] == pytest.approx(line["batch"] / line["median_s"], rel=1e-2)
    assert all(0 < line["mfu"] < 1 and line["compile_s"] > 0 and "loss_share" in line for line in lines[::2])


def test_the_rival_hrnet_is_ours():
    torch_step = pytest.importorskip("benchmarks.peers.torch_step")
    net = torch_step.HRNet(32, 17)
    assert sum(p.numel() for p in net.parameters()) == 28_536_113  # published, and test_nets.py's for ours
    assert sum(p.numel() for p in torch_step.HRNet(48, 17).parameters()) == 63_595_745


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("net", ["resnet", "hrnet"])
def test_the_rival_learns(net, amp):
    torch_step = pytest.importorskip("benchmarks.peers.torch_step")
    step = torch_step.Step(
        net=net, depth=18, branch=4, batch=2, height=64, width=64, joints=17, channels_last=True, amp=amp
    )
    losses = [step() for _ in range(9)]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]


def test_sides_of_the_rival(monkeypatch):
    torch_step = pytest.importorskip("benchmarks.peers.torch_step")
    monkeypatch.setattr(torch_step, "Step", lambda **given: given)
    sides = step_throughput.rivals(step_throughput.Options(dtype="bfloat16", torch_compile=True), 4)
    assert list(sides) == ["torch, NCHW", "torch, channels_last", "torch, compiled"]
    assert all(side["amp"] and side["device"] == "cpu" and side["batch"] == 4 for side in sides.values())
    assert sides["torch, compiled"]["compiled"] and "compiled" not in sides["torch, NCHW"]
    assert not step_throughput.rivals(step_throughput.Options(width=8), 4)  # the rival's ResNet is as wide as published
    with pytest.raises(ValueError, match="nothing to time"):
        step_throughput.measure(step_throughput.Options(width=8, ours=False), 4)
