"""The step, the schedules, and what happens when the loss is no number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpose import parallel, train
from jaxpose.tasks import PoseTask, Task

ROOT = Path(__file__).parents[1]


class Line:
    """Fit y = w x: small enough to compute by hand. A `Task` of its own, which reads no image and has no joints."""

    family, level, outputs, config = "line", "person", ("y",), {"family": "line"}

    def init(self, key):
        return {"params": {"w": jax.random.normal(key)}, "batch_stats": {}}

    def loss(self, variables, batch, *, key):
        error = batch["x"] * variables["params"]["w"] - batch["y"]
        return (error**2).sum() / error.shape[0], ({}, {"key": jax.random.uniform(key)})

    def predict(self, variables, batch, *, flip_test=True):
        return {"y": batch["x"] * variables["params"]["w"]}

    def density(self, variables, *, required=False):
        return None


def line_task() -> Task:
    return Line()


def test_what_is_no_image_task_satisfies_the_protocol():
    assert isinstance(Line(), Task) and not isinstance(Line(), PoseTask)


@pytest.fixture
def mesh():
    return parallel.make_mesh()


def batch(seed: int, mesh, count: int = 8):
    x = np.random.default_rng(seed).normal(size=count).astype(np.float32)
    return parallel.global_batch({"x": x, "y": 3 * x}, mesh)


def test_training_finds_the_line(mesh):
    task, tx = line_task(), train.optimizer(train.multi_step(0.1, boundaries=[150]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
    step = train.make_train_step(task, tx, mesh=mesh)
    for t in range(200):
        state, metrics = step(state, batch(t, mesh))
    assert float(state.variables["params"]["w"]) == pytest.approx(3, abs=1e-3)
    assert int(state.step) == 200 and int(state.first_bad) == train.NO_STEP
    assert float(metrics["loss"]) < 1e-5


def test_the_step_transfers_nothing_implicitly(mesh):
    task, tx = line_task(), train.optimizer(train.multi_step(0.1, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
    step = train.make_train_step(task, tx, mesh=mesh)
    with jax.transfer_guard("disallow"):
        state, _ = step(state, batch(0, mesh))


def test_randomness_depends_on_seed_and_step_only(mesh):
    task, tx = line_task(), train.optimizer(train.multi_step(0.1, boundaries=[]))
    keys = {}
    for seed in (0, 0, 1):
        state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
        step = train.make_train_step(task, tx, mesh=mesh, seed=seed)
        drawn = []
        for t in range(2):
            state, metrics = step(state, batch(t, mesh))
            drawn.append(float(metrics["key"]))
        assert keys.setdefault(seed, drawn) == drawn
        assert drawn[0] != drawn[1]
    assert keys[0] != keys[1]


def test_a_non_finite_loss_names_its_step_and_the_last_good_checkpoint(mesh):
    task, tx = line_task(), train.optimizer(train.multi_step(0.1, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
    step = train.make_train_step(task, tx, mesh=mesh)
    for update in range(1, 6):
        bad = {"x": np.full(8, np.inf if update == 4 else 1.0, np.float32), "y": np.ones(8, np.float32)}
        state, _ = step(state, parallel.global_batch(bad, mesh))
        if int(state.step) < 4:  # updates are counted from 1, here as in the names of checkpoints
            train.check_finite(state)
    assert int(state.first_bad) == 4
    with pytest.raises(train.NonFiniteLoss, match=r"at step 4; the last good checkpoint is some/where/3"):
        train.check_finite(state, "some/where/3")


def test_accumulation_of_two_halves_is_the_whole_batch(mesh):
    task = line_task()
    whole = batch(0, mesh, count=16)
    halves = [jax.tree.map(lambda x, i=i: jax.device_get(x)[i * 8 : i * 8 + 8], whole) for i in range(2)]
    finals = []
    for accumulate, batches in ((1, [whole]), (2, [parallel.global_batch(half, mesh) for half in halves])):
        tx = train.optimizer(train.multi_step(0.1, boundaries=[]), accumulate=accumulate)
        state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
        step = train.make_train_step(task, tx, mesh=mesh)
        for b in batches:
            state, _ = step(state, b)
        finals.append(float(state.variables["params"]["w"]))
    assert finals[0] == pytest.approx(finals[1], rel=1e-6)


def test_the_moving_average_is_what_gets_evaluated(mesh):
    task, tx = line_task(), train.optimizer(train.multi_step(0.1, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh, ema=True)
    step = train.make_train_step(task, tx, mesh=mesh, ema_decay=0.5)
    expected = float(state.variables["params"]["w"])
    for t in range(3):
        state, _ = step(state, batch(t, mesh))
        expected = 0.5 * expected + 0.5 * float(state.variables["params"]["w"])
    assert float(state.eval_variables["params"]["w"]) == pytest.approx(expected, rel=1e-6)


def test_the_growing_average_forgets_the_initial_weights_at_once(mesh):
    task, tx = line_task(), train.optimizer(train.multi_step(0.1, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh, ema=True)
    plain = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
    step = train.make_train_step(task, tx, mesh=mesh, ema_decay=train.growing_decay(0.2))
    plain_step = train.make_train_step(task, tx, mesh=mesh)
    expected = 0.0
    for t, decay in enumerate([0.0, 1 / 10, 2 / 11, 0.2, 0.2]):
        state, metrics = step(state, batch(t, mesh))
        plain, plain_metrics = plain_step(plain, batch(t, mesh))
        now = float(state.variables["params"]["w"])
        expected = decay * expected + (1 - decay) * now
        assert float(state.eval_variables["params"]["w"]) == pytest.approx(expected, rel=1e-6)
        if t == 0:
            assert float(state.eval_variables["params"]["w"]) == now
        assert float(metrics["loss"]) == float(plain_metrics["loss"])  # to the bit: the average changes no training


def weights_of_the_average(decays):
    """(n + 1,) float64: of the initial weights and of those after each step, in the average after n steps."""
    decays = np.asarray(decays, np.float64)
    later = np.append(np.cumprod(decays[::-1])[::-1], 1.0)  # later[i]: the product of the decays from i on
    return np.append(later[0], (1 - decays) * later[1:])


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(1, 3000),
    decay=st.floats(0.01, 0.9999),
    growth=st.floats(0.5, 50.0),
    value=st.floats(-1e3, 1e3, width=32),
)
def test_a_growing_decay_averages_any_number_of_steps(steps, decay, growth, value):
    decays = np.asarray(jax.vmap(train.growing_decay(decay, growth=growth))(jnp.arange(steps)))
    assert decays.shape == (steps,) and decays[0] == 0
    assert np.all(np.diff(decays) >= 0) and decays[-1] <= np.float32(decay)
    weight = weights_of_the_average(decays)
    assert weight[0] == 0 and np.all(weight >= 0)
    assert weight.sum() == pytest.approx(1, abs=1e-9)
    assert (weight[1:] * value).sum() == pytest.approx(value, rel=1e-9)  # a constant sequence, from the first step on
    assert weight @ np.arange(steps + 1) >= steps * growth / (growth + 1) - 1  # it is about the last steps


@pytest.mark.parametrize("decay", [0.9, 0.998])
def test_over_a_long_run_a_growing_decay_is_the_constant_one(decay):
    steps = round(15 / (1 - decay)) + round(9 * decay / (1 - decay))
    growing = weights_of_the_average(jax.vmap(train.growing_decay(decay))(jnp.arange(steps)))
    constant = weights_of_the_average(np.full(steps, np.float32(decay)))
    np.testing.assert_allclose(growing, constant, atol=1e-6)


@pytest.mark.parametrize(
    ("decay", "growth", "message"), [(1.0, 9, "ema_decay=1.0"), (0.9, 0, "growth=0 must be positive")]
)
def test_a_growing_decay_of_nothing_is_refused(decay, growth, message):
    with pytest.raises(ValueError, match=message):
        train.growing_decay(decay, growth=growth)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_state_and_step_agree_on_the_moving_average(mesh, ema_decay):
    task, tx = line_task(), train.optimizer(train.multi_step(0.1, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh, ema=ema_decay is None)
    step = train.make_train_step(task, tx, mesh=mesh, ema_decay=ema_decay)
    made = "with a" if ema_decay is None else "without a"
    with pytest.raises(ValueError, match=f"ema_decay={ema_decay}, but the state was made {made} moving average"):
        step(state, batch(0, mesh))


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(mesh, decay):
    tx = train.optimizer(train.multi_step(0.1, boundaries=[]))
    with pytest.raises(ValueError, match=rf"ema_decay={decay} must lie in \(0, 1\)"):
        train.make_train_step(line_task(), tx, mesh=mesh, ema_decay=decay)


def test_clipping_bounds_the_update():
    tx = train.optimizer(optax.constant_schedule(1.0), clip_norm=1e-12)
    params = {"w": jnp.ones(3)}
    # Adam divides by |g| + eps = 1e-8: a gradient clipped to 1e-12 moves the weights by about 1e-4 only.
    updates, _ = tx.update({"w": jnp.full(3, 1e6)}, tx.init(params), params)
    assert float(jnp.abs(updates["w"]).max()) < 1e-3


def test_each_tensor_may_be_clipped_by_itself():
    gradient = {"large": jnp.array([[3.0, 4.0], [0.0, 12.0]]), "small": jnp.array([0.6, 0.8]), "zero": jnp.zeros(3)}
    updates, _ = train._clip_each(6.5).update(gradient, optax.EmptyState())
    np.testing.assert_allclose(updates["large"], np.array([[1.5, 2.0], [0.0, 6.0]]), rtol=1e-6)
    for name in ("small", "zero"):
        np.testing.assert_array_equal(updates[name], gradient[name])
    # Both tensors are moved by Adam as if each had been given alone; with one norm for all, the small one shrinks to nothing.
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    gradient = {"a": jnp.full(2, 1e20), "b": jnp.full(2, 1e-3)}
    moved = {}
    for each in (True, False):
        tx = train.optimizer(optax.constant_schedule(1.0), clip_norm=1.0, clip_each=each)
        moved[each] = tx.update(gradient, tx.init(params), params)[0]
    assert float(jnp.abs(moved[True]["b"]).min()) > 0.9 and float(jnp.abs(moved[False]["b"]).max()) < 1e-3


def test_sgd_is_that_of_pytorch():
    """v = m v + (g + d w), w = w - rate v; what is not decayed moves by its gradient alone."""
    decays = lambda params: {"kernel": True, "frozen": False}  # noqa: E731
    tx = train.optimizer(optax.constant_schedule(0.1), momentum=0.9, weight_decay=0.5, decays=decays)
    params = {"kernel": jnp.array(2.0), "frozen": jnp.array(2.0)}
    state, velocity, weight = tx.init(params), 0.0, 2.0
    for gradient in (1.0, -0.5):
        updates, state = tx.update({"kernel": jnp.array(gradient), "frozen": jnp.array(0.0)}, state, params)
        params = optax.apply_updates(params, updates)
        velocity = 0.9 * velocity + gradient + 0.5 * weight
        weight -= 0.1 * velocity
        assert float(params["kernel"]) == pytest.approx(weight) and float(params["frozen"]) == 2.0
    with pytest.raises(ValueError, match="weight_decay=-1 must be 0 or more"):
        train.optimizer(optax.constant_schedule(0.1), weight_decay=-1)


def test_the_published_schedules():
    official = train.multi_step(1e-3, boundaries=[170, 200])
    assert [float(official(t)) for t in (0, 169, 170, 199, 200)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
    mmpose = train.multi_step(1e-3, boundaries=[2000], warmup_steps=500)
    assert float(mmpose(0)) == pytest.approx(1e-6, rel=1e-4) and float(mmpose(500)) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train.multi_step(0.0, boundaries=[]), "learning_rate=0.0 must be positive"),
        (lambda: train.multi_step(1.0, boundaries=[5, 3]), r"boundaries=\[5, 3\] must increase"),
        (lambda: train.multi_step(1.0, boundaries=[5, 5]), r"boundaries=\[5, 5\] must increase: each step once"),
        (lambda: train.multi_step(1.0, boundaries=[], warmup_steps=-5), "warmup_steps=-5 must be 0"),
        (lambda: train.optimizer(optax.constant_schedule(1.0), accumulate=0), "accumulate=0 must be at least 1"),
        (lambda: train.optimizer(optax.constant_schedule(1.0), clip_norm=-1.0), "clip_norm=-1.0 must be positive"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Wide(Line):
    """A net with one array that the axis `fsdp` splits and one that it does not."""

    def init(self, key):
        params = {"w": jax.random.normal(key, (64, 128)), "b": jnp.zeros(128)}
        return {"params": params, "batch_stats": {"mean": jnp.zeros(128)}}

    def loss(self, variables, batch, *, key):
        out = batch["x"] @ variables["params"]["w"] + variables["params"]["b"]
        return (out**2).mean(), ({"batch_stats": {"mean": out.mean(0)}}, {})


def same_places(abstract, real) -> bool:
    """Whether shapes, dtypes and shardings are those of the arrays."""
    jax.tree.map(lambda a, b: None, abstract, real)  # the same tree
    pairs = zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True)
    return all(
        (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        and a.sharding.is_equivalent_to(b.sharding, b.ndim)
        for a, b in pairs
    )


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_abstract_state_is_the_real_one_without_its_numbers(mesh, ema, accumulate):
    task = Wide()
    tx = train.optimizer(train.multi_step(0.1, boundaries=[5]), clip_norm=1.0, accumulate=accumulate)
    arrays = len(jax.live_arrays())
    abstract = train.abstract_state(task, tx, mesh=mesh, ema=ema)
    assert len(jax.live_arrays()) <= arrays, "no array is made on any device"
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(abstract))
    assert same_places(abstract, train.init_state(task, tx, jax.random.key(0), mesh=mesh, ema=ema))


def test_a_step_is_compiled_from_the_abstract_state(mesh):
    task, tx = Wide(), train.optimizer(train.multi_step(0.1, boundaries=[]))
    step = train.make_train_step(task, tx, mesh=mesh)
    rows = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=parallel.batch_sharding(mesh))
    compiled = step.lower(train.abstract_state(task, tx, mesh=mesh), {"x": rows}).compile()
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
    batch = parallel.global_batch({"x": np.ones((8, 64), np.float32)}, mesh)
    ahead, _ = compiled(jax.tree.map(jnp.copy, state), batch)
    jax.tree.map(np.testing.assert_array_equal, ahead, step(state, batch)[0])


EIGHT_DEVICES = """
import jax
from jaxpose import parallel, train
from tests.test_train import Wide, same_places

task, tx = Wide(), train.optimizer(train.multi_step(0.1, boundaries=[]))
mesh = parallel.make_mesh(fsdp=4)
abstract = train.abstract_state(task, tx, mesh=mesh, ema=True)
split = [x.sharding.spec for x in jax.tree.leaves(abstract) if not x.sharding.is_fully_replicated]
print(mesh.size, len(split), same_places(abstract, train.init_state(task, tx, jax.random.key(0), mesh=mesh, ema=True)))
"""


def test_the_abstract_state_is_split_over_eight_devices_as_the_real_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", EIGHT_DEVICES], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.stdout.split() == ["8", "2", "True"], run.stderr[-3000:]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_factor_of_the_rate_is_part_of_the_state(mesh, accumulate):
    tx = train.optimizer(optax.constant_schedule(1e-2), clip_norm=1.0, accumulate=accumulate, factor=True)
    state = train.init_state(line_task(), tx, jax.random.key(0), mesh=mesh)
    step = train.make_train_step(line_task(), tx, mesh=mesh)
    moved = []
    for factor in (1.0, 0.1):
        state = train.with_rate_factor(state, factor)
        before = float(state.variables["params"]["w"])
        for _ in range(accumulate):
            state, _ = step(state, batch(0, mesh))
        moved.append(abs(float(state.variables["params"]["w"]) - before))
    assert moved[0] == pytest.approx(1e-2, rel=1e-3) and moved[1] == pytest.approx(1e-3, rel=1e-2)  # Adam's first steps
    without = train.init_state(
        line_task(), train.optimizer(optax.constant_schedule(1e-2)), jax.random.key(0), mesh=mesh
    )
    with pytest.raises(ValueError, match="the optimiser has no factor of its rate"):
        train.with_rate_factor(without, 0.1)
    with pytest.raises(ValueError, match="factor=0 must be positive"):
        train.with_rate_factor(state, 0)


@pytest.mark.parametrize(
    ("scores", "drops"),
    [([], 0), ([1, 2, 3], 0), ([3, 2, 1], 1), ([3, 2, 3], 1), ([3, 2, 4, 3], 0), ([3, 2, 2, 1, 1], 2), ([3] * 20, 2)],
)
def test_the_rate_falls_at_each_plateau_and_twice_at_most(scores, drops):
    assert train.drops_of_plateau(scores, patience=2) == drops


@pytest.mark.reference
def test_martinezs_rate_falls_a_little_at_every_step(golden):
    """0.96 in 100,000 steps, gradually: as `--decay exponential` with a period of one step, in float64."""
    case = golden("three_d/lifting")
    with jax.enable_x64(True):
        rate = train.exponential_decay(1e-3, factor=0.96**1e-5, every=1)
        rates = [float(rate(step)) for step in case["martinez_lr_steps"].tolist()]
    np.testing.assert_allclose(rates, case["martinez_lr"], rtol=1e-9)
