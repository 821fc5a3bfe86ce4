"""What every experiment shares: the loop, the evaluation and the pictures.

An experiment's page builds a task and hands it over; here nothing knows which loss is inside.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jax
import optax
import tqdm

from experiments.common.config import RunConfig, check_same_run, settings
from experiments.common.kinds import LAST_PICTURE, Kind, Load, PyTree
from experiments.common.log import Log, last_scores, summary_line
from jaxpose import checkpoint, parallel, tasks, train
from jaxpose.skeleton import Skeleton

log = logging.getLogger("jaxpose")
PREEMPTED = 75  # exit code of a run that was asked to stop, and saved: start the same command again (EX_TEMPFAIL)


def command(main: Callable[[], Any]) -> None:
    """Run `main` as a program: what the user can mend ends in one line (JAXPOSE_TRACEBACK=1 shows where it was found)."""
    try:
        main()
    except Exception as error:
        mendable = isinstance(error, (ValueError, OSError, ImportError)) and not os.environ.get("JAXPOSE_TRACEBACK")
        if jax.distributed.is_initialized():
            _end_at_once(error, mendable)
        if mendable:
            raise SystemExit(f"{type(error).__name__}: {error}") from None
        raise


def _end_at_once(error: Exception, mendable: bool) -> NoReturn:
    """Say why and end: an orderly end waits for the other processes, which may be gone, or wait for this one."""
    if mendable:
        shown = f"{type(error).__name__}: {error}"
    elif isinstance(error, jax.errors.JaxRuntimeError):
        shown = (
            f"process {jax.process_index()} of {jax.process_count()} stops: {str(error).splitlines()[0]:.300}\nIf another process "
            "died, start all of them again with the same command: they go on from the last checkpoint."
        )
    else:
        shown = "".join(traceback.format_exception(error)).rstrip()
    print(shown, file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Each that ends wakes its neighbours in the ring, but the end of process 0 kills the others before they have said why.
    time.sleep(5 if jax.process_index() == 0 else 0)
    os._exit(1)


def run(
    task: tasks.Task,
    config: RunConfig,
    kind: Kind,
    *,
    variables: PyTree | None = None,
    first: tuple[float, tasks.Task] | None = None,
) -> dict[str, Any]:
    """Train (or resume, or only evaluate), and leave the results in `config.out`.

    Args:
      variables: start from these instead of `task.init`.
      first: (epochs, task): the first so many epochs are trained with this task's loss, over the same variables.

    Returns:
      the metrics of the last evaluation.
    """
    if checkpoint.exists(config.out) and not checkpoint.resumable(config.out):
        raise ValueError(
            f"{config.out} holds imported weights, which no run can resume: evaluate them with --eval-only {config.out}, or "
            f"start another --out from them with --init {config.out}"
        )
    mesh = kind.mesh
    parallel.check_batch_size(config.batch_size, mesh)
    kind.check()
    samples = kind.count()
    if config.plots:
        from jaxpose import view

        view.require()
    steps_per_epoch = samples / config.batch_size
    total = max(round(config.epochs * steps_per_epoch), 1)
    eval_steps = max(round(config.eval_every * steps_per_epoch), 1)

    rate = config.learning_rate
    if config.base_batch_size is not None:
        rate = train.scaled_learning_rate(rate, batch_size=config.batch_size, base_batch_size=config.base_batch_size)
    schedule = make_schedule(config, rate, steps_per_epoch / config.accumulate)
    tx = train.optimizer(schedule, clip_norm=config.clip_norm, accumulate=config.accumulate)
    state = train.init_state(
        task, tx, jax.random.key(config.seed), mesh=mesh, ema=config.ema is not None, variables=variables
    )
    step_fn = train.make_train_step(task, tx, mesh=mesh, ema_decay=config.ema, seed=config.seed)
    epochs, opening = first or (0, task)
    boundary = round(epochs * steps_per_epoch)
    opening_fn = train.make_train_step(opening, tx, mesh=mesh, ema_decay=config.ema, seed=config.seed)
    predict_fn = train.make_predict_step(task, mesh=mesh, flip_test=config.flips())

    stored = {"task": task.config, "run": settings(config), "best": kind.best}
    with ExitStack() as stack:
        stack.enter_context(only_run_in(config.out))
        preemption = stack.enter_context(parallel.Preemption())
        folder = config.out / "checkpoints"
        checkpoints = stack.enter_context(checkpoint.Checkpoints(folder, keep=config.keep, best=kind.best))
        run_log = stack.enter_context(closing(Log(config.out)))
        if checkpoints.latest() is not None:
            check_same_run(type(config), checkpoints.config().get("run", {}), stored["run"], config.out)
            state = checkpoints.restore(state, stored)
            log.info("resumed at step %d from %s", int(state.step), checkpoints.last_good)
        start = int(state.step)
        scores, predictions = last_scores(run_log), None
        log.info(
            "%s parameters, %d %s, %d steps from step %d, %d devices of kind %s, %d processes",
            f"{train.count_parameters(state.variables['params']):,}", samples, kind.samples, total, start,
            mesh.size, mesh.devices.flat[0].device_kind, jax.process_count(),
        )  # fmt: skip
        if config.fsdp > 1:
            held, whole = parallel.device_bytes(state.opt_state)
            log.info(
                "of the optimiser's state of %.1f MB each device holds %.1f (--fsdp %d)",
                whole / 1e6,
                held / 1e6,
                config.fsdp,
            )
        batches = kind.train_batches(start_step=start, total=total)
        bar = tqdm.tqdm(total=total, initial=start, unit="step", disable=jax.process_index() != 0, smoothing=0.05)
        clock, images = time.perf_counter(), 0
        for step, batch in zip(range(start + 1, total + 1), batches, strict=False):
            # Everything that crosses to the device does so by name (`parallel.global_batch`).
            with jax.transfer_guard("disallow"):
                state, metrics = (opening_fn if step <= boundary else step_fn)(state, batch)
            bar.update()
            checkpoints.poll()
            images += config.batch_size
            if step % config.log_every == 0 or step == total:
                values = {k: float(v) for k, v in jax.device_get(metrics).items()}
                train.check_finite(state, checkpoints.last_good)
                seconds = time.perf_counter() - clock
                run_log.write("train", step, images_per_s=images / seconds, **values)
                bar.set_postfix(loss=f"{values['loss']:.2f}", AP=scores.get("AP", "-"), img_s=f"{images / seconds:.0f}")
                clock, images = time.perf_counter(), 0
            is_eval = step % eval_steps == 0 or step == total
            if is_eval or (config.checkpoint_every and step % config.checkpoint_every == 0):
                train.check_finite(state, checkpoints.last_good)
                if is_eval:
                    try:
                        predictions = kind.predict(predict_fn, task, state.eval_variables)
                        scores = kind.score(
                            predictions, task, state.eval_variables, name=f"step_{step}", last=step == total
                        )
                    except Exception:
                        checkpoints.save(state, stored)  # an evaluation that fails costs no training
                        raise
                    run_log.write("eval", step, **scores)
                    log.info("step %d: %s", step, summary_line(scores))
                checkpoints.save(state, stored, metrics=scores if is_eval else None)
                clock = time.perf_counter()
            if preemption.reached(step) and step < total:
                train.check_finite(state, checkpoints.last_good)
                checkpoints.wait()
                if checkpoints.latest() != step:
                    checkpoints.save(state, stored)
                    checkpoints.wait()
                log.info("asked to stop after step %d: start the same command again to go on from there", step)
                raise SystemExit(PREEMPTED)
        bar.close()
        checkpoints.wait()
        if start < total:
            run_log.write("end", total, **scores)
        # A run that was killed between its last checkpoint and its pictures draws them when it is started again.
        missing = start == total and jax.process_count() == 1 and not (config.out / LAST_PICTURE).exists()
        if config.plots and jax.process_index() == 0 and (predictions is not None or missing):
            with optional("report.html", config.out):
                kind.report(f"step_{total}")
            with optional("plots", config.out):
                if predictions is None:
                    predictions = kind.predict(predict_fn, task, state.eval_variables)
                kind.draw(predictions, task, jax.device_get(state.eval_variables), run_log.events())
                log.info("pictures are in %s", config.out / "plots")
    return scores


@contextmanager
def optional(what: str, out: Path) -> Iterator[None]:
    """A failure in here is a warning: what is drawn at the end of a run is no part of its training."""
    try:
        yield
    except Exception as error:
        log.warning(
            "the run in %s is complete, but without its %s: %s: %s (JAXPOSE_TRACEBACK=1 shows where)",
            out, what, type(error).__name__, error, exc_info=bool(os.environ.get("JAXPOSE_TRACEBACK")),
        )  # fmt: skip


@contextmanager
def only_run_in(out: Path) -> Iterator[None]:
    """Hold the folder of a run against a second one. The lock ends with the process, however that ends.

    Raises:
      ValueError: another process trains into it.
    """
    with ExitStack() as stack:
        parallel.on_first(lambda: stack.enter_context(_locked(out)))
        yield


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"another run trains into {out} ({file.read().strip()}): wait for it, or give another --out"
            ) from None
        except OSError as error:  # some network file systems know no locks
            log.warning("%s cannot be locked (%s): start no second run in it", out, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def make_schedule(config: RunConfig, rate: float, updates_per_epoch: float) -> optax.Schedule:
    """Step of the optimiser -> learning rate."""
    warmup = {
        "warmup_steps": config.warmup_steps + round(config.warmup_epochs * updates_per_epoch),
        "warmup_start": config.warmup_start,
    }
    if config.decay == "linear":
        return train.linear_decay(rate, steps=max(round(config.epochs * updates_per_epoch), 1), **warmup)
    boundaries = sorted({round(m * updates_per_epoch) for m in config.milestones})
    return train.multi_step(rate, boundaries=boundaries, **warmup)


def evaluate_only(config: RunConfig, *, load: Load) -> dict[str, Any]:
    """Evaluate `config.eval_only` on any number of devices; the task comes out of the checkpoint, the data out of `load`."""
    variables, stored = checkpoint.restore_model(config.eval_only)
    task = tasks.from_config(stored["task"])
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), config.eval_only)
    if stored["task"]["family"] not in config.FAMILIES:
        raise ValueError(
            f"--eval-only {config.eval_only} holds a task of the family {stored['task']['family']!r}, this page evaluates "
            f"{' and '.join(config.FAMILIES)}: use the page that trained it"
        )
    config = config.as_trained(stored)
    kind = load(config, skeleton=Skeleton.from_dict(stored["task"]["skeleton"]))
    parallel.check_batch_size(config.batch_size, kind.mesh)
    predict_fn = train.make_predict_step(task, mesh=kind.mesh, flip_test=config.flips())
    predictions = kind.predict(predict_fn, task, parallel.replicate(variables, kind.mesh))
    name = f"eval_{stored['step']}_{config.val_split}{kind.variant()}"
    scores = kind.score(predictions, task, variables, name=name)
    if jax.process_index() == 0:
        where = str(config.out / "results" / f"{name}.json")
        print(json.dumps({"checkpoint_step": stored["step"], "results": where, "flip_test": config.flips(), **scores}))
    return scores


def start(config: RunConfig) -> None:
    """Logging, and the other processes where there are any; call it before anything touches a device."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax and TFDS tell much
    if config.multihost or config.coordinator:
        parallel.start_multihost(
            coordinator=config.coordinator, num_processes=config.num_processes, process_id=config.process_id
        )
