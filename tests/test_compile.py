"""The training step of a small net, compiled for a slice of a TPU that is not here, and what its program holds."""

import json
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest

from benchmarks import tpu_step
from jaxpose import compile, train
from tests import tiny_run

needs_cuda = pytest.mark.skipif(
    not find_spec("jax_cuda13_plugin"), reason='needs the compiler of GPUs: pip install "jaxpose[gpu-compile]"'
)
needs_libtpu = pytest.mark.skipif(not find_spec("libtpu"), reason='needs libtpu: pip install "jaxpose[tpu-compile]"')
BATCH = 16


@pytest.fixture(scope="module")
def tx():
    return train.optimizer(train.multi_step(1e-3, boundaries=[]))


def state_bytes(task, tx):
    state = jax.eval_shape(
        lambda key: (task.init(key), tx.init(task.init(key)["params"])), jax.eval_shape(lambda: jax.random.key(0))
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


@needs_libtpu
@pytest.mark.parametrize("topology, depth", [("v5e:2x2", 50), ("v4:2x2x1", 18)])
def test_the_program_of_a_training_step(topology, depth, tx):
    task = tiny_run.regression_task(depth)
    report = compile.for_topology(task, tx, topology=topology, batch_size=BATCH)
    assert report.devices == (8 if topology.startswith("v4") else 4)  # two cores of a v4 chip
    # Gradients, and the statistics of BatchNorm: nothing else, and above all no activations of other chips.
    assert {c.kind for c in report.collectives} == {"all-reduce"}
    weights = sum(x.size for x in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))["params"]))
    sent = sum(c.bytes for c in report.collectives)
    assert 2 * weights < sent < 8 * weights, "gradients in bfloat16 or float32, and little more"
    assert report.float64 == 0 and report.host_calls == 0
    assert report.memory.donated >= state_bytes(task, tx), "the new state takes the place of the old one"
    assert report.memory.outputs < 64 * 2**10, "the metrics are all that is new"
    assert 0 < report.memory.total < 2**30 and report.memory.fits
    assert report.cycles == sum(report.by_kind.values()) == sum(report.by_module.values()) > 0
    assert any(module.startswith("PoseRegressor/backbone") for module in report.by_module)
    assert report.flops > 0 and report.bytes > 0 and report.padding > 0
    assert "M cycles" in str(report) and json.loads(json.dumps(report.to_dict()))["memory"]["fits"]


@needs_libtpu
def test_the_command_prints_a_line_and_a_table(capsys, tmp_path):
    options = tpu_step.Options(
        preset="tiny",
        flags="--depth 18 --width 4 --resnet-stages 1 --size-wh 24 32",
        batch=4,
        topology=("v5e:1x1",),
        step=("predict",),
        out=tmp_path / "lines.jsonl",
    )
    (line,) = tpu_step.main(options)
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[0]) == json.loads((tmp_path / "lines.jsonl").read_text()) == line
    assert line["devices"] == 1 and line["collectives"] == [] and "| operation | kind |" in printed


@needs_libtpu
@pytest.mark.parametrize("topology", ["v9:2x2", "v5e:3x5"])
def test_no_such_slice(topology):
    with pytest.raises(ValueError, match=f"topology='{topology}' is no slice that libtpu knows"):
        compile.topology_devices(topology)


def test_mistakes_are_named(monkeypatch, tx):
    with pytest.raises(ValueError, match="topology='tpu': expected a generation and a shape"):
        compile.topology_devices("tpu")
    with pytest.raises(ValueError, match="--page nothing: expected one of"):
        tpu_step.page_of("nothing")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'libtpu, is not installed: pip install "jaxpose\[tpu-compile\]"'):
        compile.for_topology(tiny_run.regression_task(), tx, topology="v5e:2x2", batch_size=8)
    with pytest.raises(ImportError, match=r'CUDA plugin, is not installed: pip install "jaxpose\[gpu-compile\]"'):
        compile.topology_devices("h100:8")
    for topology in ("h100", "h100:0", "h100:2x2x2", "h900:8"):
        with pytest.raises(ValueError, match=f"topology='{topology}': expected a generation and a shape.*h100:8"):
            compile.topology_devices(topology)


def test_a_task_without_images_needs_the_shapes_of_its_batch():
    class Lifting:
        family = "lifting"

    with pytest.raises(ValueError, match=r"family 'lifting' are not known here: give them, for_topology\(batch="):
        compile.example_batch(Lifting(), 8)


@pytest.mark.parametrize("level", ["regression", "bottom_up"])
def test_an_example_batch_trains(level):
    task = getattr(tiny_run, f"{level}_task")()
    batch = compile.example_batch(task, 2)
    loss, _ = jax.eval_shape(
        lambda key, batch: task.loss(task.init(key), batch, key=key), jax.eval_shape(lambda: jax.random.key(0)), batch
    )
    assert loss.shape == ()


@pytest.mark.parametrize("most, expected", [(100, 96), (8, 8), (37, 32), (5000, 4096)])
def test_the_largest_batch_by_bisection(most, expected):
    tried = []
    memory = compile.Memory(1, 1, 1, 1, 1, None)

    def compiled(batch_size):
        assert batch_size % 4 == 0
        tried.append(batch_size // 4)
        if batch_size // 4 > most:
            raise compile.DoesNotFit("too large")
        return compile.Report(
            "", 4, batch_size, "train", 0, 0, 0, 0, None, memory, (), (), {}, {}, {}, 0, 0, 0, 0, 0, 0
        )

    report, too_large = compile.largest_batch(compiled, devices=4, start=32)
    assert report.batch_size == 4 * expected and len(tried) < 12
    assert too_large is None if most > 4096 else most < too_large <= expected + 8


def test_a_net_that_does_not_fit_at_all():
    def compiled(batch_size):
        raise compile.DoesNotFit("too large")

    with pytest.raises(ValueError, match="not even 8 images a device fit"):
        compile.largest_batch(compiled, devices=1, start=64)


HLO = """
%body (p: f32[8]) -> f32[8] {
  %c = f32[8]{0:T(128)} copy(%p), metadata={op_name="jit(step)/jvp(Net)/while/body/x"}
  %s = f32[8]{0:T(128)} fusion(%c), calls=%sum, metadata={op_name="jit(step)/jvp(Net)/while/body/f/y"}, "estimated_cycles":"10"
  ROOT %g = (f32[8], f32[16]) all-gather-start(%s)
}
%sum (p: f32[8]) -> f32[8] {
  ROOT %r = f32[] reduce(%p, %p)
}
%less (p: s32[]) -> pred[] {
  %six = s32[]{:T(128)} constant(6)
  ROOT %l = pred[]{:T(512)} compare(%p, %six), direction=LT
}
%twice (p: f32[8]) -> f32[8] {
  %t = f32[8]{0:T(128)} fusion(%p), calls=%sum, metadata={op_name="jit(step)/jvp(Net)/g/y"}, "estimated_cycles":"100"
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%p), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %v = f32[8]{0} while(%w), condition=%less, body=%twice
  %x = f64[2]{0} custom-call(%w), custom_call_target="xla_ffi_python_cpu_callback"
  ROOT %k = bf16[2,8,100]{2,1,0:T(8,128)(2,1)} fusion(%w), calls=%sum, metadata={op_name="jit(step)/transpose(jvp(Net))/f/z"}, "estimated_cycles":"7"
}
"""  # noqa: E501


def test_reading_a_program():
    report = compile.read_program(HLO)
    assert (
        report.cycles == 657
        and report.by_module == {"Net/g": 600, "Net/f": 57}
        and report.by_kind == {"reduction": 657}
    )
    assert [(c.kind, c.count, c.bytes, c.overlapped, c.largest) for c in report.collectives] == [
        ("all-gather", 5, 5 * 64, 5, "f32[16]")
    ]
    assert report.copies == 5 and report.copied == 5 * 32
    assert report.float64 == 1 and report.host_calls == 1
    assert [(op.name, op.backward, op.cycles) for op in report.largest[1:3]] == [("s", False, 50), ("k", True, 7)]
    assert report.largest[2].padded == 2 * 8 * 128 * 2
    assert jnp.dtype("bfloat16").itemsize == compile.ITEM_BYTES["bf16"]


GPU_HLO = """
HloModule jit_step, is_scheduled=true
%sum (p: f32[8]) -> f32[8] {
  ROOT %r = f32[] reduce(%p, %p)
}
%product (p: bf16[8,16]) -> bf16[8,16] {
  ROOT %d = bf16[8,16]{1,0} dot(%p, %p)
}
ENTRY %main (p: bf16[8,16]) -> bf16[8,16] {
  %p = bf16[8,16]{1,0} parameter(0)
  %v = (bf16[8,16]{1,0}, u8[0]{0}) custom-call(%p, %p), custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(Net)/conv/x"}
  %y = bf16[8,16]{1,0} get-tuple-element(%v), index=0
  %first = f32[16]{0} all-reduce-start(%y), to_apply=%sum
  %g = bf16[8,16]{1,0} fusion(%y), kind=kCustom, calls=%product, metadata={op_name="jit(step)/transpose(jvp(Net))/head/dot"}
  %first_end = f32[16]{0} all-reduce-done(%first)
  %second = f32[4]{0} all-reduce-start(%g), to_apply=%sum
  %second_end = f32[4]{0} all-reduce-done(%second)
  ROOT %k = bf16[8,16]{0,1} copy(%g)
}
"""  # noqa: E501


def test_reading_a_program_of_a_gpu():
    report = compile.read_program(GPU_HLO)
    assert report.kernels == {"collective": 2, "convolution": 1, "product": 1, "copy": 1} and report.cycles == 0
    (reduced,) = report.collectives
    assert (reduced.count, reduced.bytes, reduced.overlapped, reduced.hidden) == (2, 64 + 16, 2, 64)
    array = 8 * 16 * 2
    assert report.by_kind == {
        "convolution": 3 * array,
        "product": 2 * array,
        "copy": 2 * array,
        "collective": array + 64 + array + 16,
    }
    assert report.bytes == sum(report.by_kind.values()) and report.copies == 1 and report.copied == array
    assert "M cycles | %" not in str(report) and "| kind | MB | % |" in str(report)


def test_traffic_with_the_memory_of_the_device():
    report = compile.read_program("""
ENTRY %main (p: bf16[100]) -> bf16[100] {
  %p = f32[100]{0:T(128)} parameter(0)
  %s = (f32[100]{0:T(128)S(1)}, f32[100]{0:T(128)}, u32[]) copy-start(%p)
  %d = f32[100]{0:T(128)S(1)} copy-done(%s)
  %a = f32[100]{0:T(128)S(1)} fusion(%d), calls=%f, "estimated_cycles":"10"
  ROOT %b = f32[100]{0:T(128)} fusion(%a), calls=%f, "estimated_cycles":"10"
}
""")
    assert report.hbm == 2 * 128 * 4, "the copy into the core and the result; what stays inside costs nothing"
    assert report.bytes == 4 * 100 * 4


@needs_cuda
@pytest.mark.slow
def test_the_program_of_a_training_step_on_gpus(tx):
    task = tiny_run.regression_task()
    report = compile.for_topology(task, tx, topology="h100:8", batch_size=2 * BATCH)
    assert report.devices == 8 and report.kernels["convolution"] > 0 and report.flops > 0 and report.bytes > 0
    assert {c.kind for c in report.collectives} == {"all-reduce"}
    assert report.float64 == 0 and report.host_calls == 0 and report.memory.donated >= state_bytes(task, tx)
    assert report.memory.fits and report.milliseconds is None
