"""Checkpoints: exact, partial, of the right model, and nothing lost when the disk is full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import checkpoint, parallel, train
from tests.test_train import batch, line_task

CONFIG = {"task": {"family": "line", "size_wh": (4, 3), "net": {"width": 1}}, "run": {"seed": 0}}


@pytest.fixture
def mesh():
    return parallel.make_mesh()


def trained(mesh, steps: int, *, ema: bool = False):
    task, tx = line_task(), train.optimizer(train.multi_step(0.1, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh, ema=ema)
    step = train.make_train_step(task, tx, mesh=mesh, ema_decay=0.9 if ema else None)
    for t in range(steps):
        state, _ = step(state, batch(t, mesh))
    return state, step


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("ema", [False, True])
def test_a_resumed_run_is_bit_identical(tmp_path, mesh, ema):
    state, step = trained(mesh, 3, ema=ema)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, CONFIG)
    fresh, _ = trained(mesh, 0, ema=ema)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        resumed = checkpoints.restore(fresh, CONFIG)
    assert_same(resumed, state)
    for t in range(3, 6):
        resumed, _ = step(resumed, batch(t, mesh))
    uninterrupted, _ = trained(mesh, 6, ema=ema)
    assert_same(resumed, uninterrupted)


def test_the_last_two_and_the_best_are_kept(tmp_path, mesh):
    state, _ = trained(mesh, 0)
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, ap in ((1, 0.1), (2, 0.5), (3, 0.2), (4, None), (5, 0.3)):
            metrics = None if ap is None else {"AP": ap}
            checkpoints.save(state.replace(step=jnp.asarray(step, jnp.int32)), CONFIG, metrics=metrics)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert sorted(checkpoints.manager.all_steps()) == [2, 4, 5]
        assert checkpoints.latest() == 5
    assert checkpoint.restore_model(tmp_path)[1]["step"] == 2
    assert checkpoint.restore_model(tmp_path, step="latest")[1]["step"] == 5
    assert checkpoint.restore_model(tmp_path, step=4)[1]["metrics"] == {}
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 3; it has \[2, 4, 5\]"):
        checkpoint.restore_model(tmp_path, step=3)


def test_weights_alone_are_restored_but_not_resumed(tmp_path, mesh):
    variables = {"params": {"net": {"w": jnp.arange(3.0)}}, "batch_stats": {}}
    checkpoint.write_model(tmp_path / "imported", variables, CONFIG)
    found, config = checkpoint.restore_model(tmp_path / "imported")
    assert_same(found, variables)
    assert config["step"] == 0 and config["metrics"] == {} and config["run"] == {"seed": 0}
    assert checkpoint.exists(tmp_path / "imported") and not checkpoint.resumable(tmp_path / "imported")
    with pytest.raises(FileExistsError, match="imported holds a checkpoint already: name another folder, or remove it"):
        checkpoint.write_model(tmp_path / "imported", variables, CONFIG)
    with checkpoint.Checkpoints(tmp_path / "trained" / "checkpoints") as checkpoints:
        checkpoints.save(trained(mesh, 0)[0], CONFIG)
    assert checkpoint.resumable(tmp_path / "trained")


def test_the_config_is_read_without_a_device(tmp_path, mesh):
    with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints", keep=9) as checkpoints:
        for step, metrics in {1: {"AP": 0.2}, 2: {"AP": 0.9}, 3: {}}.items():
            state = trained(mesh, 0)[0].replace(step=jnp.asarray(step, jnp.int32))
            checkpoints.save(state, CONFIG | {"inference": {"nms": None}}, metrics=metrics)
    for step in ("best", "latest", 1):
        assert (
            checkpoint.read_config(tmp_path / "run", step=step)
            == checkpoint.restore_model(tmp_path / "run", step=step)[1]
        )
    code = "import sys; from jaxpose import checkpoint as c; print(c.read_config(sys.argv[1])['step'], 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True,
                          env=os.environ | {"JAX_PLATFORMS": "nowhere"})  # fmt: skip
    assert done.stdout.split() == ["2", "False"], done.stderr
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 7; it has \[1, 2, 3\]"):
        checkpoint.read_config(tmp_path / "run", step=7)
    config = tmp_path / "run" / "checkpoints" / "2" / "config" / "metadata"
    config.write_text(config.read_text().replace("null", "0.25"))
    with pytest.raises(ValueError, match="config/metadata is not what was written"):
        checkpoint.read_config(tmp_path / "run")


def test_the_flow_is_optional_at_load(tmp_path, mesh):
    state, _ = trained(mesh, 0)
    variables = {"params": {"net": {"w": jnp.ones(2)}, "flow": {"a": jnp.zeros(3)}}, "batch_stats": {"m": jnp.ones(1)}}
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state.replace(variables=variables), CONFIG)
    whole, config = checkpoint.restore_model(tmp_path)
    assert_same(whole, variables)
    assert isinstance(whole["params"]["net"]["w"], np.ndarray) and config["run"] == {"seed": 0}
    bare, _ = checkpoint.restore_model(tmp_path, flow=False)
    assert set(bare["params"]) == {"net"}


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path, mesh):
    state, _ = trained(mesh, 1)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, CONFIG)
        checkpoints.wait()
        other = {"task": {"family": "line", "size_wh": [4, 3], "net": {"width": 2}}}
        with pytest.raises(ValueError, match=r"another model: net.width is 1 there, 2 here"):
            checkpoints.restore(state, other)


@pytest.mark.parametrize("kept", [False, True])
def test_a_checkpoint_with_or_without_an_average_is_refused_where_the_run_is_otherwise(tmp_path, mesh, kept):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trained(mesh, 1, ema=kept)[0], CONFIG)
        checkpoints.wait()
        with pytest.raises(ValueError, match="does not fit: it was trained with another optimiser"):
            checkpoints.restore(trained(mesh, 1, ema=not kept)[0], CONFIG)


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path, mesh):
    with checkpoint.Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(trained(mesh, 1)[0], CONFIG)
    (tmp_path / "foreign" / "7").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"foreign/7 is not a complete checkpoint"):
        checkpoint.restore_model(tmp_path / "foreign")
    for part in ("model", "config"):
        copy = tmp_path / f"without_{part}"
        shutil.copytree(tmp_path / "run", copy)
        shutil.rmtree(copy / "1" / part)
        with pytest.raises(ValueError, match=rf"without_{part}/1.* is not a complete checkpoint"):
            checkpoint.restore_model(copy)
    copy = tmp_path / "cut"
    shutil.copytree(tmp_path / "run", copy)
    for file in (copy / "1" / "config").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(ValueError, match=r"cut/1 is not a complete checkpoint"):
        checkpoint.restore_model(copy)


def test_weights_that_do_not_fit_the_config_are_named():
    there = {"params": {"net": {"w": np.zeros((2, 3))}}, "batch_stats": {}}
    expected = {"params": {"net": {"w": np.zeros((2, 3)), "b": np.zeros(3)}, "flow": {"s": np.zeros(1)}}}
    with pytest.raises(ValueError, match=r"\['b'\] is absent, expected \(3,\)"):
        checkpoint.check_shapes(there, expected, "run")
    del expected["params"]["net"]["b"]
    checkpoint.check_shapes(there, expected, "run")  # a flow that was left out is no fault


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        checkpoint.restore_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.restore_model(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="weights.pth is a file; expected the folder of a run: jaxpose import"):
        checkpoint.restore_model(tmp_path / "weights.pth")


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error_and_keeps_the_checkpoint_before(tmp_path):
    # A limit on the size of one file makes every larger write fail, as a full disk does.
    script = textwrap.dedent("""
        import resource, signal, sys
        import jax, numpy as np
        from jaxpose import checkpoint, parallel, train
        from tests.test_checkpoint import CONFIG, trained
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        mesh = parallel.make_mesh()
        state, _ = trained(mesh, 2)
        with checkpoint.Checkpoints(sys.argv[1]) as checkpoints:
            checkpoints.save(state, CONFIG)
            checkpoints.wait()
            noise = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
            big = state.replace(step=state.step + 1, variables={"params": {"w": parallel.replicate(noise, mesh)}})
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            try:
                checkpoints.save(big, CONFIG)
                checkpoints.wait()
            except OSError as error:
                print("OSError:", error)
    """)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"OSError: could not write checkpoint 3 to {tmp_path}" in done.stdout
    assert f"resumes from {tmp_path}/2" in done.stdout
    assert checkpoint.restore_model(tmp_path)[1]["step"] == 2


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def largest(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


@pytest.mark.parametrize("harm", ["a flipped bit", "a missing file", "a cut file", "broken checksums"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, mesh, harm, caplog):
    first, step = trained(mesh, 1)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(first, CONFIG, metrics={"AP": 0.1})
        checkpoints.save(trained(mesh, 2)[0], CONFIG, metrics={"AP": 0.2})
    victim = largest(tmp_path / "2" / "model")
    match harm:
        case "a flipped bit":
            flip(victim)
        case "a missing file":
            victim.unlink()
        case "a cut file":
            victim.write_bytes(victim.read_bytes()[:-1])
        case _:
            (tmp_path / "2" / checkpoint.CHECKSUMS).write_text("{")
    with pytest.raises(ValueError, match=r"/2 is not a complete checkpoint"):
        checkpoint.restore_model(tmp_path)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1 and "checkpoint 2" in caplog.text and "2.damaged" in caplog.text
        resumed = checkpoints.restore(trained(mesh, 0)[0], CONFIG)
        assert_same(resumed, first)
        resumed, _ = step(resumed, batch(1, mesh))
        checkpoints.save(resumed, CONFIG)  # the step is free again
    assert_same(checkpoint.restore_model(tmp_path, step=2)[0], trained(mesh, 2)[0].variables)
    assert (tmp_path / "2.damaged").is_dir()


def test_where_every_checkpoint_is_damaged_nothing_starts_anew(tmp_path, mesh):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trained(mesh, 1)[0], CONFIG)
    flip(largest(tmp_path / "1"))
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged \(1: .* is not what was written"):
        checkpoint.Checkpoints(tmp_path)
    assert (tmp_path / "1").is_dir()


def test_a_save_has_its_checksums_soon_and_a_damaged_one_without_them_is_found_by_restoring(tmp_path, mesh, caplog):
    first, step = trained(mesh, 1)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for state in (first, trained(mesh, 2)[0]):
            checkpoints.save(state, CONFIG)
        checkpoints.manager.wait_until_finished()
        checkpoints.poll()
        assert (tmp_path / "2" / checkpoint.CHECKSUMS).exists()
    (tmp_path / "2" / checkpoint.CHECKSUMS).unlink()  # as if it had been killed before
    flip(largest(tmp_path / "2" / "train"))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 2
        assert_same(checkpoints.restore(trained(mesh, 0)[0], CONFIG), first)
        assert checkpoints.latest() == 1 and "checkpoint 2" in caplog.text and (tmp_path / "2.damaged").is_dir()


def test_settings_that_do_not_fit_set_nothing_aside(tmp_path, mesh):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for steps in (1, 2):
            checkpoints.save(trained(mesh, steps)[0], CONFIG)
    for known in (True, False):
        if not known:
            for file in tmp_path.glob(f"*/{checkpoint.CHECKSUMS}"):
                file.unlink()
        with (
            checkpoint.Checkpoints(tmp_path) as checkpoints,
            pytest.raises(ValueError, match="checkpoint 2 .* does not fit"),
        ):
            checkpoints.restore(trained(mesh, 0, ema=True)[0], CONFIG)
        assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["1", "2"]


def test_a_copy_without_what_training_needs_can_be_evaluated_and_one_broken_step_hides_no_other(tmp_path, mesh):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for steps in (1, 2):
            checkpoints.save(trained(mesh, steps)[0], CONFIG, metrics={"AP": 1 / steps})
    shutil.rmtree(tmp_path / "2" / "train")
    assert checkpoint.restore_model(tmp_path, step=2)[1]["step"] == 2
    shutil.rmtree(tmp_path / "1" / "config")  # as orbax leaves a step that it was deleting
    assert checkpoint.restore_model(tmp_path)[1]["step"] == 2
    with pytest.raises(ValueError, match="/1 is not a complete checkpoint"):
        checkpoint.restore_model(tmp_path, step=1)
