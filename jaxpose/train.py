"""The training state, the training step, and the schedules of the published recipes.

A task (`jaxpose.tasks`) defines the loss; this module turns a loss into an update. The step is one jitted function over a
mesh: the state is donated and replicated (the optimiser's if the mesh has no `fsdp` groups), the batch is split over the
devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding

from jaxpose import parallel, platforms

if TYPE_CHECKING:
    from jaxpose.tasks import Task

PyTree = Any
NO_STEP = -1


class TrainState(struct.PyTreeNode):
    """The complete state of a run.

    Attributes:
        step: The number of updates so far, int32 scalar.
        variables: {"params", "batch_stats"} of the task, flow included.
        opt_state: The state of the optax transformation.
        ema: The exponential moving average of `variables`, or None.
        first_bad: The first update, counted from 1 as in logs and checkpoints, whose loss or gradient was not finite; -1
            while all were finite.
    """

    step: jax.Array
    variables: PyTree
    opt_state: PyTree
    ema: PyTree | None
    first_bad: jax.Array

    @property
    def eval_variables(self) -> PyTree:
        """The variables to evaluate and publish: the moving average if there is one."""
        return self.variables if self.ema is None else self.ema


class NonFiniteLoss(ArithmeticError):
    """The loss was NaN or infinite."""


def multi_step(
    learning_rate: float,
    *,
    boundaries: Sequence[int],
    factor: float = 0.1,
    warmup_steps: int = 0,
    warmup_start: float = 0.001,
) -> optax.Schedule:
    """Learning rate x `factor` at each boundary, after a linear warm-up from `warmup_start` x the rate.

    The official RLE configuration has no warm-up; mmpose's warms up over 500 steps from 0.001 x the rate.
    Boundaries and warm-up are counted in steps from the start of training.

    Raises:
        ValueError: The rate is not positive, the boundaries do not increase, or the warm-up is negative.

    >>> rate = multi_step(1e-3, boundaries=[100], warmup_steps=10)
    >>> [round(float(rate(t)), 7) for t in (0, 10, 99, 100)]
    [1e-06, 0.001, 0.001, 0.0001]
    """
    if learning_rate <= 0:
        raise ValueError(f"learning_rate={learning_rate} must be positive")
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"boundaries={list(boundaries)} must increase: each step once, in order")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps} must be 0 (no warm-up) or more")
    decay = optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, factor))
    if not warmup_steps:
        return decay
    ramp = optax.linear_schedule(warmup_start, 1.0, warmup_steps)
    return lambda step: decay(step) * ramp(step)


def linear_decay(
    learning_rate: float, *, steps: int, warmup_steps: int = 0, warmup_start: float = 0.1
) -> optax.Schedule:
    """Learning rate that falls linearly to 0 at `steps`, after a linear warm-up from `warmup_start` x the rate: SWAHR's.

    Raises:
        ValueError: The rate is not positive, or the warm-up is not shorter than the training.

    >>> rate = linear_decay(1e-3, steps=30, warmup_steps=10)
    >>> [round(float(rate(t)), 7) for t in (0, 10, 20, 30)]
    [0.0001, 0.001, 0.0005, 0.0]
    """
    if learning_rate <= 0:
        raise ValueError(f"learning_rate={learning_rate} must be positive")
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} must be 0 or more and below the {steps} steps of the training: warm up for fewer "
            "(--warmup-steps), or train for more epochs"
        )
    ramp = optax.linear_schedule(warmup_start * learning_rate, learning_rate, warmup_steps)
    fall = optax.linear_schedule(learning_rate, 0.0, steps - warmup_steps)
    return optax.join_schedules([ramp, fall], [warmup_steps])


def exponential_decay(
    learning_rate: float, *, factor: float, every: float, warmup_steps: int = 0, warmup_start: float = 0.001
) -> optax.Schedule:
    """Learning rate x `factor` after every `every` steps, in steps, after a linear warm-up from `warmup_start` x the rate.

    Lifters are trained so, with 0.95 after every epoch (Pavllo et al. 2019, Zeng et al. 2020).

    Raises:
        ValueError: The rate is not positive, the factor not in (0, 1], or `every` is below one step.

    >>> rate = exponential_decay(1e-3, factor=0.5, every=10)
    >>> [round(float(rate(t)), 7) for t in (0, 9, 10, 25)]
    [0.001, 0.001, 0.0005, 0.00025]
    """
    if learning_rate <= 0:
        raise ValueError(f"learning_rate={learning_rate} must be positive")
    if not 0 < factor <= 1 or every <= 0:
        raise ValueError(f"factor={factor}, every={every}: expected a factor in (0, 1] and a positive number of steps")
    ramp = optax.linear_schedule(warmup_start, 1.0, warmup_steps) if warmup_steps else lambda step: 1.0
    return lambda step: learning_rate * factor ** jnp.floor(step / every) * ramp(step)


def growing_decay(decay: float, *, growth: float = 9.0) -> optax.Schedule:
    """Decay of a moving average without bias from the start: min(decay, t / (t + growth)) at step t, from 0.

    With a constant decay an average that starts at the initial weights still holds decay**n of them after n steps: 41 %
    after 450 steps at 0.998. Here step 0 replaces them, so they weigh nothing from then on, and until t / (t + growth)
    reaches `decay` the average covers about the last 1 / (growth + 1) of the steps (polynomial-decay averaging, Shamir
    and Zhang 2013, arXiv 1212.1824: their eta is `growth` - 1). After growth * decay / (1 - decay) steps (4,491 at
    0.998) the update is that of the constant decay.

    It is a function of the step alone, so a checkpoint stores nothing more for it.

    Args:
        decay: The limit, in (0, 1).
        growth: How slowly the decay grows; a larger value gives a shorter average.

    Raises:
        ValueError: The decay is outside (0, 1), or the growth is not positive.

    >>> decay = growing_decay(0.998)
    >>> [round(float(decay(t)), 3) for t in (0, 1, 9, 91, 5000)]
    [0.0, 0.1, 0.5, 0.91, 0.998]
    """
    _check_decay(decay)
    if not growth > 0:
        raise ValueError(f"growth={growth} must be positive, such as 9")
    return lambda step: jnp.minimum(decay, step / (step + growth))


def _check_decay(decay: float) -> None:
    if not 0 < decay < 1:
        raise ValueError(f"ema_decay={decay} must lie in (0, 1), such as 0.999; None keeps no average")


class RateFactor(NamedTuple):
    """State of the optimiser that `optimizer` makes with `factor=True`.

    Attributes:
        rate_factor: The factor of the learning rate, float32 scalar.
    """

    rate_factor: jax.Array


def _scale_by_stored_factor() -> optax.GradientTransformation:
    """Multiplies updates by a number in the state, which `with_rate_factor` changes between steps."""

    def update(updates: PyTree, state: RateFactor, params: PyTree | None = None) -> tuple[PyTree, RateFactor]:
        return jax.tree.map(lambda x: x * state.rate_factor.astype(x.dtype), updates), state

    return optax.GradientTransformation(lambda params: RateFactor(jnp.ones((), jnp.float32)), update)


def with_rate_factor(state: TrainState, factor: float) -> TrainState:
    """Returns the state with another factor of the learning rate; its optimiser was made with `factor=True`.

    Args:
        state: The state.
        factor: The factor, relative to the schedule: 0.1 for a tenth.

    Raises:
        ValueError: The optimiser has no such factor, or the factor is not positive.

    >>> tx = optimizer(optax.constant_schedule(1e-3), factor=True)
    >>> nothing = jnp.zeros((), jnp.int32)
    >>> state = TrainState(nothing, {}, tx.init({"w": jnp.zeros(2)}), None, nothing)
    >>> state = with_rate_factor(state, 0.1)
    >>> [round(float(x), 3) for x in jax.tree.leaves(state.opt_state) if x.dtype == jnp.float32 and x.ndim == 0]
    [0.1]
    """
    if not factor > 0:
        raise ValueError(f"factor={factor} must be positive, such as 0.1")
    changed: list[RateFactor] = []

    def replaced(node: Any) -> Any:
        if not isinstance(node, RateFactor):
            return node
        changed.append(RateFactor(jax.device_put(jnp.float32(factor), node.rate_factor.sharding)))
        return changed[-1]

    opt_state = jax.tree.map(replaced, state.opt_state, is_leaf=lambda node: isinstance(node, RateFactor))
    if not changed:
        raise ValueError("the optimiser has no factor of its rate: make it by optimizer(schedule, factor=True)")
    return state.replace(opt_state=opt_state)


def drops_of_plateau(scores: Sequence[float], *, patience: int, most: int = 2) -> int:
    """Counts how often the rate is lowered because a score stopped improving.

    The rate is lowered after `patience` evaluations in a row without a new best score; counting starts anew then.

    Args:
        scores: The scores of the evaluations so far; larger is better.
        patience: The number of evaluations without a better score.
        most: The largest count: 2 is from 1e-3 to 1e-5, as Sun 2018 does.

    >>> drops_of_plateau([0.1, 0.3, 0.2, 0.3, 0.4, 0.4, 0.2], patience=2)
    2
    """
    best, since, drops = float("-inf"), 0, 0
    for score in scores:
        best, since = (score, 0) if score > best else (best, since + 1)
        if since >= patience:
            drops, since = drops + 1, 0
    return min(drops, most)


def optimizer(
    schedule: optax.Schedule,
    *,
    clip_norm: float | None = None,
    clip_each: bool = False,
    accumulate: int = 1,
    factor: bool = False,
    momentum: float | None = None,
    weight_decay: float = 0.0,
    decays: Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformation:
    """Adam as most published recipes use it, or SGD with momentum, with optional clipping and accumulation.

    Args:
        schedule: The learning rate by update.
        clip_norm: The largest norm of the gradient, or None.
        clip_each: Bound the norm of each tensor's gradient by itself, as the released RLE code does in space; otherwise that of all of
            them together.
        accumulate: The number of batches whose gradients are averaged into one update. The schedule counts updates.
        factor: Keep a factor of the rate in the state, which `with_rate_factor` changes between steps.
        momentum: The momentum of SGD, as PyTorch's: the rate multiplies the accumulated gradient. None: Adam.
        weight_decay: The factor of the parameters that is added to their gradient, after the clipping.
        decays: Function from the parameters to whether each is decayed; None: all are. Parameters that are not trained must not be.

    >>> tx = optimizer(optax.constant_schedule(1e-3), clip_norm=1.0, accumulate=2)
    """
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate} must be at least 1")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm={clip_norm} must be positive, or None for no clipping")
    clip = []
    if clip_norm is not None:
        clip = [_clip_each(clip_norm) if clip_each else optax.clip_by_global_norm(clip_norm)]
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay={weight_decay} must be 0 or more")
    decay = [optax.add_decayed_weights(weight_decay, decays)] if weight_decay else []
    stored = [_scale_by_stored_factor()] if factor else []
    rule = optax.adam(schedule) if momentum is None else optax.sgd(schedule, momentum)
    tx = optax.chain(*clip, *decay, rule, *stored)
    return optax.MultiSteps(tx, accumulate) if accumulate > 1 else tx


def _clip_each(limit: float) -> optax.GradientTransformation:
    """Scales each tensor whose norm is above the limit down to it."""

    def clipped(gradient: jax.Array) -> jax.Array:
        norm = jnp.linalg.norm(gradient.ravel())
        return gradient * jnp.where(norm > limit, limit / jnp.maximum(norm, limit), 1.0).astype(gradient.dtype)

    return optax.stateless(lambda updates, _: jax.tree.map(clipped, updates))


def init_state(
    task: Task,
    tx: optax.GradientTransformation,
    key: jax.Array,
    *,
    mesh: Mesh,
    ema: bool = False,
    variables: PyTree | None = None,
) -> TrainState:
    """Makes an initial state on the mesh.

    Args:
        task: Initialises the variables.
        tx: The optimiser.
        key: Seeds the initialisation.
        mesh: The mesh of the state, which is whole on every device, except for the optimiser's, split over the axis
            `fsdp`.
        ema: Keep a moving average, for a step that is made with an `ema_decay`.
        variables: Host arrays to start from instead.
    """
    fresh = _fresh_state(task, tx, mesh=mesh, ema=ema)
    return jax.jit(fresh, out_shardings=_shardings(mesh))(key, variables)


def abstract_state(task: Task, tx: optax.GradientTransformation, *, mesh: Mesh, ema: bool = False) -> TrainState:
    """Returns shapes, dtypes and shardings of the state that `init_state` makes, as `jax.ShapeDtypeStruct`.

    Nothing is computed and no device is touched, so the devices of the mesh need not be attached (those of
    `jax.experimental.topologies` are enough). A step can be lowered and compiled from it, and a checkpoint restored
    into it.

    Args:
        task: Initialises the variables.
        tx: The optimiser.
        mesh: The mesh on which the state would lie.
        ema: Include a moving average.

    >>> class Task:
    ...     def init(self, key):
    ...         return {"params": {"w": jax.random.normal(key, (64, 128))}, "batch_stats": {}}
    >>> state = abstract_state(Task(), optimizer(optax.constant_schedule(1e-3)), mesh=parallel.make_mesh())
    >>> weights, moments = state.variables["params"]["w"], state.opt_state[0][0].mu["w"]
    >>> weights.shape, tuple(weights.sharding.spec), tuple(moments.sharding.spec)
    ((64, 128), (), (None, 'fsdp'))
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(_fresh_state(task, tx, mesh=mesh, ema=ema), key, None)
    whole = parallel.replicated(mesh)

    def laid_out(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding, weak_type=x.weak_type)

    placed = jax.tree.map(lambda x: laid_out(x, whole), state)
    return placed.replace(
        opt_state=jax.tree.map(lambda x: laid_out(x, parallel.state_sharding(x, mesh)), state.opt_state)
    )


def _fresh_state(
    task: Task, tx: optax.GradientTransformation, *, mesh: Mesh, ema: bool
) -> Callable[[jax.Array, PyTree | None], TrainState]:
    """Returns the function (key, variables to start from or None) -> state, to be jitted or evaluated by shape."""

    def fresh(key: jax.Array, given: PyTree | None) -> TrainState:
        variables = task.init(key) if given is None else given
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables=variables,
            opt_state=parallel.split_state(tx.init(variables["params"]), mesh),
            # A copy, because the step donates the state and one buffer cannot be given away twice.
            ema=jax.tree.map(jnp.copy, variables) if ema else None,
            first_bad=jnp.full((), NO_STEP, jnp.int32),
        )

    return fresh


def _shardings(mesh: Mesh) -> TrainState:
    """Returns the shardings of a state: whole on every device, except for the optimiser's (`parallel.split_state`)."""
    whole = parallel.replicated(mesh)
    return TrainState(step=whole, variables=whole, opt_state=None, ema=whole, first_bad=whole)


def make_train_step(
    task: Task,
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh,
    ema_decay: float | optax.Schedule | None = None,
    seed: int = 0,
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, jax.Array]]]:
    """Makes the jitted function (state, global batch) -> (state, metrics); the state is donated.

    The key of step t is `fold_in(key(seed), t)`: randomness on the device depends on (seed, t) only, like the data.

    Args:
        task: Defines the loss.
        tx: The optimiser.
        mesh: The mesh over which batches are split.
        ema_decay: The decay of the moving average, for a state made with `ema=True`; None for one without. A number in
            (0, 1) applies to every step, from the initial weights on; a schedule gives the decay by step, as
            `growing_decay` does, which forgets the initial weights.
        seed: Seeds the randomness on the device.

    Raises:
        ValueError: The decay is outside (0, 1); in the first call, the state has an average and there is no decay, or the
            reverse.
    """
    if ema_decay is not None and not callable(ema_decay):
        _check_decay(ema_decay)
    platform = mesh.devices.flat[0].platform

    def step(state: TrainState, batch: PyTree):
        if (state.ema is None) != (ema_decay is None):
            raise ValueError(
                f"the step has ema_decay={ema_decay}, but the state was made "
                f"{'without' if state.ema is None else 'with'} a moving average: give init_state ema=True and the "
                "step an ema_decay, or neither"
            )
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_fn(params):
            with platforms.traced_for(platform):
                return task.loss({**state.variables, "params": params}, batch, key=key)

        (loss, (new_collections, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.variables["params"])
        grads = parallel.make_whole(grads, mesh)
        updates, opt_state = tx.update(grads, state.opt_state, state.variables["params"])
        opt_state = parallel.split_state(opt_state, mesh)
        params = optax.apply_updates(state.variables["params"], updates)
        variables = {**state.variables, **new_collections, "params": params}
        ema = state.ema
        if ema is not None:
            decay = ema_decay(state.step) if callable(ema_decay) else ema_decay
            ema = optax.incremental_update(variables, ema, 1.0 - decay)
        good = jnp.isfinite(loss) & jnp.isfinite(optax.global_norm(grads))
        first_bad = jnp.where((state.first_bad == NO_STEP) & ~good, state.step + 1, state.first_bad)
        new_state = TrainState(state.step + 1, variables, opt_state, ema, first_bad)
        return new_state, {"loss": loss, "grad_norm": optax.global_norm(grads), **metrics}

    state, whole, rows = _shardings(mesh), parallel.replicated(mesh), parallel.batch_sharding(mesh)
    return jax.jit(step, in_shardings=(state, rows), out_shardings=(state, whole), donate_argnums=0)


def make_predict_step(task: Task, *, mesh: Mesh, flip_test: bool = True) -> Callable[[PyTree, PyTree], PyTree]:
    """Makes the jitted function (variables, global batch) -> predictions, split over the devices like the batch."""

    def predict(variables, batch):
        with platforms.traced_for(mesh.devices.flat[0].platform):
            return task.predict(variables, batch, flip_test=flip_test)

    whole, rows = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    return jax.jit(predict, in_shardings=(whole, rows), out_shardings=rows)


def check_finite(state: TrainState, last_good: str | None = None) -> None:
    """Raises `NonFiniteLoss` if any step so far had a non-finite loss or gradient (one scalar is fetched).

    The message counts updates from 1, as logs and checkpoints do: checkpoint 2 is the state after update 2.
    """
    first_bad = int(jax.device_get(state.first_bad))
    if first_bad != NO_STEP:
        where = f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint yet"
        raise NonFiniteLoss(
            f"the loss or its gradient was not finite at step {first_bad}; {where}. "
            "Lower the learning rate, clip the gradient (clip_norm), or look at that batch's labels."
        )


def count_parameters(params: PyTree) -> int:
    """Returns the number of scalars in a tree of arrays.

    >>> count_parameters({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
    9
    """
    return sum(x.size for x in jax.tree.leaves(params))


def scaled_learning_rate(learning_rate: float, *, batch_size: int, base_batch_size: int) -> float:
    """Applies the linear scaling rule, which is used only if a run asks for it.

    >>> scaled_learning_rate(1e-3, batch_size=512, base_batch_size=256)
    0.002
    """
    return learning_rate * batch_size / base_batch_size
