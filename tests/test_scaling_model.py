"""benchmarks/step_program.py, scaling_model.py, scaling_check.py: what is read off programs, the formulas, and a tiny run."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scaling_check, scaling_model, step_program
from benchmarks.scaling_model import CHIPS, Options, all_reduce_s, predict
from benchmarks.step_program import Collective, StepOptions, Work
from jaxpose import summary, tasks
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
from jaxpose.skeleton import COCO17

ROOT = Path(__file__).parents[1]
TINY = ["--depth", "18", "--width", "16", "--size-wh", "192", "256", "--batch", "2"]
REDUCED = [Collective("all-reduce", {"statistics": 512}, waited_for=True)] * 20
REDUCED += [Collective("all-reduce", {"gradient": 4 * 10**6})]
WORK = Work(params=10**6, flops=1e9, bytes=1e8, bytes_of_step=1e7, collectives=REDUCED)

LOOP = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[3,5])) -> (s32[], f32[3,5]) {
  %p = (s32[], f32[3,5]{1,0}) parameter(0)
  %x = f32[3,5]{1,0} get-tuple-element(%p), index=1
  %in_loop = f32[3,5]{1,0} all-reduce(%x), to_apply=%add, metadata={op_name="jit(step)/transpose(jvp(Flow))/while/body/dot_general"}
  ROOT %t = (s32[], f32[3,5]{1,0}) tuple(%p, %in_loop)
}

ENTRY %main_spmd (q: bf16[7]) -> f32[7] {
  %q = bf16[7]{0} parameter(0)
  %first = (f32[1,7]{1,0}, f32[1,7]{1,0}, f32[2]{0}) all-reduce(%q, %q, %q), to_apply=%add, metadata={op_name="MERGED" stack=1}
  %w = (s32[], f32[3,5]{1,0}) while(%first), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %apart = bf16[7]{0} all-reduce-start(%q), to_apply=%add, metadata={op_name="jit(step)/transpose(jvp(Net))/bn1/reduce_sum"}
  ROOT %last = f32[] all-reduce(%w), to_apply=%add, metadata={op_name="jit(step)/jvp()/reduce_sum"}
}
""".replace(
    "MERGED",
    "jit(step)/(jvp(Net)/bn1/bn1._mean/reduce_sum:jvp(Net)/bn1/reduce_sum:transpose(jvp(Net))/head/reduce_sum)",
)


def test_collectives_are_read_with_their_loops_roles_and_order():
    found, chain = step_program.collectives(LOOP, {"bn1"})
    assert [(c.bytes, c.times, c.waited_for) for c in found] == [
        ({"gradient": 60}, 6, False),
        ({"statistics": 56, "gradient": 8}, 1, True),
        ({"statistics' gradient": 14}, 1, True),
        ({"other": 4}, 1, False),
    ]
    assert chain == 1 + 6 + 1  # `apart` waits for nobody
    assert step_program.totals(found)["collectives"] == 9
    assert [c.buffers for c in found] == [1, 3, 1, 1]


def test_the_ring_by_hand():
    v5e, h100 = (dataclasses.replace(CHIPS[name], start=1.0, hop=0.1, outer_hop=0.01) for name in ("v5e", "h100"))
    assert all_reduce_s(8e9, 1, v5e) == 0
    # 2 chips: one of four links. 16 chips: two lines of 4. 128: a line of 8 and a ring of 16. 256: two rings.
    assert all_reduce_s(8e9, 2, v5e, latency=0) == pytest.approx(8e9 / 50e9)
    assert all_reduce_s(8e9, 16, v5e) == pytest.approx(2 * 15 / 16 * 8e9 / 100e9 + 1 + 0.1 * 8)
    assert all_reduce_s(8e9, 128, v5e, latency=0) == pytest.approx(2 * 127 / 128 * 8e9 / 150e9)
    assert all_reduce_s(8e9, 256, v5e, share=0.5, latency=0) == pytest.approx(4 * 255 / 256 * 8e9 / 200e9)
    # 32 chips: 4 nodes of 8, up and down a tree of 3 levels inside and of 2 between them.
    moved = 2 * 7 / 8 * 8e9 / 450e9 + 2 * 3 / 4 * 1e9 / 50e9
    assert all_reduce_s(8e9, 32, h100) == pytest.approx(moved + 1 + 0.1 * 6 + 0.01 * 4)


@pytest.mark.parametrize("chip", CHIPS)
def test_one_chip_is_the_measure_and_more_are_slower(chip):
    parts = [predict(WORK, CHIPS[chip], n, 32, Options()) for n in (1, 2, 4, 8, 64, 256, 1024)]
    alone = parts[0]["compute_s"]
    assert (
        alone > 0 and parts[0]["step_s"] == pytest.approx(alone) and parts[0]["step_overlap_s"] == pytest.approx(alone)
    )
    for before, after in zip(parts, parts[1:], strict=False):
        assert before["compute_s"] == after["compute_s"] < after["step_overlap_s"] <= after["step_s"]
        assert before["step_s"] < after["step_s"] and before["statistics_s"] < after["statistics_s"]


@pytest.mark.parametrize(
    ("given", "message"),
    [({"chips": (1, 6)}, r"chips=\[6\]: expected powers of two"), ({"chips": (0,)}, r"chips=\[0\]"),
     ({"chip": ("v4",), "chips": (8192,)}, "a slice of v4 has up to 4096"), ({"batch": (0,)}, "batch=.*more than 0"),
     ({"attainable": 0.0}, "attainable=0.0"), ({"devices": (1,)}, "expected 2 to 8")],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_predicted_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        scaling_model.main(Options(**given))


def test_a_branch_is_followed_and_a_loop_without_an_end_refused():
    program = """
%taken (p: f32[4]) -> f32[4] {{
  ROOT %a = f32[4]{{0}} all-reduce(%p), metadata={{op_name="jit(step)/transpose(jvp(Net))/conv1/dot_general"}}
}}
%other (p: f32[4]) -> f32[4] {{
  ROOT %b = f32[4]{{0}} negate(%p)
}}
ENTRY %main (p: f32[4]) -> f32[4] {{
  ROOT %c = f32[4]{{0}} {}
}}"""
    branches = "conditional(%i, %p, %p), branch_computations={%other, %taken}"
    for calls in (branches, "conditional(%i, %p, %p), true_computation=%taken, false_computation=%other"):
        found, chain = step_program.collectives(program.format(calls), set())
        assert len(found) == chain == 1
    with pytest.raises(RuntimeError, match="the loop c has collectives"):
        step_program.collectives(program.format("while(%p), condition=%other, body=%taken"), set())


def test_compute_is_the_slower_of_flops_and_memory_at_the_attainable_share():
    chip = CHIPS["h100"]
    memory = predict(WORK, chip, 1, 32, Options(attainable=0.25))
    assert memory["bound"] == "memory" and memory["compute_s"] == pytest.approx((32e8 + 1e7) / 3350e9 / 0.25)
    busy = predict(dataclasses.replace(WORK, flops=1e12), chip, 1, 32, Options(dtype="float32", attainable=1))
    assert busy["bound"] == "FLOPs" and busy["compute_s"] == pytest.approx(32e12 / 494e12)


def test_weak_and_strong_scaling():
    weak = scaling_model.rows_of(WORK, Options(batch=(8, 64), chip=("h100",), chips=(1, 4, 16)))
    assert [(r["batch_per_chip"], r["chips"], r["global_batch"]) for r in weak] == [
        (8, 1, 8), (8, 4, 32), (8, 16, 128), (64, 1, 64), (64, 4, 256), (64, 16, 1024)
    ]  # fmt: skip
    assert weak[0]["efficiency"] == weak[3]["efficiency"] == 1
    assert weak[2]["efficiency"] < weak[1]["efficiency"] and weak[2]["efficiency"] < weak[5]["efficiency"] < 1
    # 16 chips stand in two hosts, 8 in each.
    assert weak[2]["samples_per_s_per_host"] == pytest.approx(weak[2]["images_per_s_overlap"] / 2, rel=1e-3)
    assert weak[2]["cores_per_host"] == -(-weak[2]["samples_per_s_per_host"] // 477)
    strong = scaling_model.rows_of(WORK, Options(global_batch=32, chip=("h100",), chips=(1, 4, 5, 64)))
    assert [(r["chips"], r["batch_per_chip"]) for r in strong] == [
        (1, 32),
        (4, 8),
    ]  # neither 32 / 5 nor 32 / 64 is a batch
    assert strong[1]["efficiency"] == pytest.approx(strong[0]["step_ms"] / strong[1]["step_ms"] / 4, rel=1e-3)


def test_traffic_is_what_the_layers_read_and_write(monkeypatch):
    """Of a ResNet of one stage, 4 channels, 32x32 pixels, by hand."""
    net = PoseRegressor(ResNet(depth=18, width=4, stages=1), RegressionHead(17))
    task = tasks.regression(net, skeleton=COCO17, size_wh=(32, 32), likelihood=tasks.Likelihood(loss="l1"))
    monkeypatch.setattr(step_program, "task_of", lambda options: (net, task))
    each, fixed = step_program.traffic_of(Options(size_wh=(32, 32), dtype="float32"))
    stem, block_map = 16 * 16 * 4, 8 * 8 * 4
    convolutions = 2 * (32 * 32 * 3 + stem) + 4 * 3 * 2 * block_map  # nobody asks for the gradient by the image
    assert each == pytest.approx(4 * (convolutions + 8 * (stem + 4 * block_map)), rel=0.02)  # the head: 1 %
    weights = summary.count(net, (32, 32)).params
    assert 28 * weights < fixed < 28 * weights + 3 * 4 * weights + 8


def run(*arguments: str) -> list[dict]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "benchmarks.scaling_model", *arguments], env=environment, cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\n|") > 3
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_a_tiny_run_accounts_for_every_byte():
    program, *rows = run(*TINY, "--devices", "2", "8", "--chip", "h100", "v4", "--chips", "1", "8", "64")
    assert program["compiled_for"] == [2, 8] and program["kinds"] == ["all-reduce"]
    channels = sum(
        w * n for w, n in zip((16, 32, 64, 128), (1 + 4, 5, 5, 5), strict=True)
    )  # of ResNet-18's 20 BatchNorms
    sizes = program["bytes"]
    assert sizes["statistics"] == sizes["statistics' gradient"] == 2 * 4 * channels
    assert sizes["gradient"] + sizes["statistics' gradient"] == 4 * program["params"]
    # The 3 blocks whose shortcut has a BatchNorm may merge its all-reduce with another, forward and backward.
    assert 2 * (20 - 3) <= program["waited_for"] <= 2 * 20 and program["waited_for"] < program["chain"] + 8
    assert program["flops_over_analytic"] == pytest.approx(1, abs=0.1) and program["xla_bytes_over_ours"] > 1
    assert [(r["chip"], r["chips"]) for r in rows] == [(c, n) for c in ("h100", "v4") for n in (1, 8, 64)]
    assert rows[0]["efficiency"] == 1 and rows[2]["efficiency"] < rows[1]["efficiency"] < 1


def test_the_check_predicts_with_the_fitted_latency_and_bandwidth(monkeypatch):
    latency, slope = 2e-4, 1e-9
    times = [latency + slope * 4 * size for size in scaling_check.SIZES]
    two = {"step_s": 0.02, "step_median_s": 0.03, "all_reduce_s": times}
    runs = {1: {"step_s": 0.01, "all_reduce_s": []}, 2: two}
    [line] = scaling_check.check_communication(WORK, runs, Options(), on_cpu=False)
    added = 20 * (latency + slope * 512) + latency + slope * 4e6
    assert line["latency_us"] == pytest.approx(200) and line["predicted_ms"] == pytest.approx(
        10 + 1e3 * added, rel=1e-3
    )
    assert line["predicted_over_measured"] == pytest.approx((0.01 + added) / 0.02, rel=1e-3)
    assert line["added_predicted_over_measured"] == pytest.approx(added / 0.01, rel=1e-3)
    # On CPUs every array of an all-reduce is a message, and a step that is as quick as the compute says nothing.
    many = dataclasses.replace(WORK, collectives=[dataclasses.replace(c, buffers=3) for c in REDUCED])
    monkeypatch.setattr(scaling_check, "cores", lambda: 1)
    [line] = scaling_check.check_communication(many, runs, Options(), on_cpu=True)
    assert line["buffers"] == 63 and line["added_predicted_over_measured"] is None
    assert line["predicted_ms"] == pytest.approx(20 + 1e3 * (added + 2 * 21 * latency), rel=1e-3)


@pytest.mark.slow
def test_two_processes_measure_all_reduces_and_a_step(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = StepOptions(depth=18, width=4, size_wh=(32, 64), dtype="float32", batch=(2,))
    found = scaling_check.on_loopback(2, options, 1)
    assert found["step_s"] > 0 and len(found["all_reduce_s"]) == len(scaling_check.SIZES)
    assert 0 < found["all_reduce_s"][0] < found["all_reduce_s"][-1]


def test_compute_by_the_compiler_of_the_tpu(tmp_path):
    line = {"step": "train", "topology": "v5e:2x2", "devices": 4, "batch_size": 256, "milliseconds": 40.0,
            "collectives": [{"kind": "all-reduce", "count": 7, "bytes": 20 * 512 + 2 * 10**6}]}  # fmt: skip
    path = tmp_path / "tpu.jsonl"
    predict, v4 = line | {"step": "predict", "milliseconds": 1.0}, line | {"topology": "v4:2x2x1", "devices": 8}
    path.write_text("".join(json.dumps(each) + "\n" for each in (line, predict, v4)))
    assert list(scaling_model.compiled_lines(path)) == [("v5e", 64), ("v4", 64)], "images per chip; a v4 has two cores"
    options = Options(batch=(64, 32), chip=("v5e", "h100"), chips=(1, 64), compiled=path)
    rows = {(r["chip"], r["chips"], r["batch_per_chip"]): r for r in scaling_model.rows_of(WORK, options)}
    plain = {(r["chip"], r["chips"], r["batch_per_chip"]): r
             for r in scaling_model.rows_of(WORK, dataclasses.replace(options, compiled=None))}  # fmt: skip
    row = rows["v5e", 64, 64]
    assert row["bound"] == "compiler" and row["compute_ms"] == 40.0
    assert row["gradients_ms"] == pytest.approx(plain["v5e", 64, 64]["gradients_ms"] / 2, rel=1e-3), "half the bytes"
    each = sum(c.times for c in WORK.collectives)
    assert row["statistics_ms"] == pytest.approx(plain["v5e", 64, 64]["statistics_ms"] * 7 / each, rel=1e-3), "merged"
    assert row["efficiency"] == pytest.approx(40.0 / row["step_ms"], rel=1e-3)
    for other in (("v5e", 64, 32), ("h100", 64, 64)):
        assert rows[other] == plain[other]
    path.write_text("")
    with pytest.raises(ValueError, match="has no training step: write it with python -m benchmarks.tpu_step --out"):
        scaling_model.rows_of(WORK, options)
