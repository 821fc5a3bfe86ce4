"""Jitted steps from a task and the settings of a run: all that training needs before the data are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax
from jax.sharding import Mesh

from experiments.common.config import RunConfig
from experiments.common.kinds import Batch, PredictStep, PyTree
from jaxpose import tasks, train
from jaxpose.tasks.base import not_normalization

TrainStep = Callable[[train.TrainState, Batch], tuple[train.TrainState, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Training:
    """A task and an optimiser on a mesh: their initial state, and the jitted steps.

    Attributes:
        task: the task, which is trained, predicts and is stored.
        tx: the optimiser.
        mesh: the devices.
        seed: seeds the initialisation and the randomness on the devices.
        ema: decay of the moving average of the weights; None: there is none.
        train_step: the step of `task`.
        opening_step: the step of the task that comes first, over the same variables.
        opening: number of the last update that uses `opening_step`; 0: there is none.
        predict_step: predictions of `task`.
    """

    task: tasks.Task
    tx: optax.GradientTransformation
    mesh: Mesh
    seed: int
    ema: float | None
    train_step: TrainStep
    opening_step: TrainStep
    opening: int
    predict_step: PredictStep

    @classmethod
    def make(
        cls,
        task: tasks.Task,
        tx: optax.GradientTransformation,
        *,
        mesh: Mesh,
        seed: int,
        ema: float | None = None,
        ema_growth: float = 0.0,
        first: tuple[int, tasks.Task] | None = None,
        flip_test: bool = True,
    ) -> Training:
        """Creates the steps; nothing is compiled and no device is used.

        Args:
            task: the task to train.
            tx: the optimiser.
            mesh: the devices.
            seed: seeds the initialisation and the randomness on the devices.
            ema: decay of the moving average of the weights; None: there is none.
            ema_growth: the slowness with which the decay grows to `ema`, see `jaxpose.train.growing_decay`; 0: it is constant.
            first: (updates, task): the task whose loss is trained over the same variables in the first updates.
            flip_test: if True, average predictions with those of the mirrored image.
        """
        opening, opening_task = first or (0, task)
        decay = train.growing_decay(ema, growth=ema_growth) if ema is not None and ema_growth else ema
        options = {"mesh": mesh, "ema_decay": decay, "seed": seed}
        return cls(
            task, tx, mesh, seed, ema,
            train_step=train.make_train_step(task, tx, **options),
            opening_step=train.make_train_step(opening_task, tx, **options),
            opening=opening,
            predict_step=train.make_predict_step(task, mesh=mesh, flip_test=flip_test),
        )  # fmt: skip

    def init_state(self, variables: PyTree | None = None) -> train.TrainState:
        """Returns a fresh state on the mesh, from these variables (host arrays) if they are given."""
        key, ema = jax.random.key(self.seed), self.ema is not None
        return train.init_state(self.task, self.tx, key, mesh=self.mesh, ema=ema, variables=variables)

    def abstract_state(self) -> train.TrainState:
        """Returns shapes, dtypes and shardings of the state; see `jaxpose.train.abstract_state`."""
        return train.abstract_state(self.task, self.tx, mesh=self.mesh, ema=self.ema is not None)

    def step(self, number: int) -> TrainStep:
        """Returns the jitted function of update `number`, counted from 1."""
        return self.opening_step if number <= self.opening else self.train_step


def build(
    task: tasks.Task,
    config: RunConfig,
    *,
    samples: int,
    mesh: Mesh,
    first: tuple[float, tasks.Task] | None = None,
) -> Training:
    """Returns the training that the flags describe, without data or devices, so that it can also be compiled ahead of time.

    Args:
        task: the task to train.
        config: the flags.
        samples: number of samples of an epoch.
        mesh: the devices.
        first: (epochs, task): the task whose loss is trained over the same variables in the first epochs.
    """
    steps_per_epoch = samples / config.batch_size
    epochs, opening = first or (0, task)
    return Training.make(
        task, make_optimizer(config, steps_per_epoch, task), mesh=mesh, seed=config.seed, ema=config.ema,
        ema_growth=config.ema_growth, first=(round(epochs * steps_per_epoch), opening), flip_test=config.flips(),
    )  # fmt: skip


def steps_of(epochs: float, config: RunConfig, *, samples: int) -> int:
    """Returns the number of steps in `epochs` epochs, at least 1."""
    return max(round(epochs * (samples / config.batch_size)), 1)


def make_optimizer(
    config: RunConfig, steps_per_epoch: float, task: tasks.Task | None = None
) -> optax.GradientTransformation:
    """Returns the optimiser of the flags, with its learning rate, clipping and accumulation.

    Args:
        config: the flags.
        steps_per_epoch: number of batches of an epoch.
        task: the task that is trained; with a method `decays` it says which parameters --weight-decay applies to.
    """
    rate = config.learning_rate
    if config.base_batch_size is not None:
        rate = train.scaled_learning_rate(rate, batch_size=config.batch_size, base_batch_size=config.base_batch_size)
    schedule = make_schedule(config, rate, steps_per_epoch / config.accumulate)
    return train.optimizer(
        schedule, clip_norm=config.clip_norm, clip_each=config.clip_each, accumulate=config.accumulate,
        factor=config.decay == "plateau", momentum=config.momentum if config.optimizer == "sgd" else None,
        weight_decay=config.weight_decay, decays=getattr(task, "decays", None) or not_normalization,
    )  # fmt: skip


def make_schedule(config: RunConfig, rate: float, updates_per_epoch: float) -> optax.Schedule:
    """Returns the learning rate as a function of the optimiser's step."""
    warmup = {
        "warmup_steps": config.warmup_steps + round(config.warmup_epochs * updates_per_epoch),
        "warmup_start": config.warmup_start,
    }
    if config.decay == "linear":
        return train.linear_decay(rate, steps=max(round(config.epochs * updates_per_epoch), 1), **warmup)
    if config.decay == "exponential":
        return train.exponential_decay(rate, factor=config.exponential, every=updates_per_epoch, **warmup)
    if config.decay == "plateau":  # the factor of the evaluations is in the optimiser's state
        return train.multi_step(rate, boundaries=[], **warmup)
    boundaries = sorted({round(m * updates_per_epoch) for m in config.milestones})
    return train.multi_step(rate, boundaries=boundaries, **warmup)
