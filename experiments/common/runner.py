"""The shared part of every experiment: the loop, the evaluation and the pictures.

An experiment's page builds a task and passes it on; the code here does not depend on the task's loss.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import tqdm

from experiments.common.config import RunConfig, check_same_run, settings
from experiments.common.kinds import LAST_PICTURE, Kind, Load, Predictions, PyTree
from experiments.common.log import Log, evaluations, summary_line
from experiments.common.training import Training, build, steps_of
from jaxpose import buckets, checkpoint, parallel, tasks, train
from jaxpose.train import TrainState

log = logging.getLogger(__name__)
PREEMPTED = 75  # exit code of a run that was asked to stop and has saved its state: repeat the command (EX_TEMPFAIL)


def command(main: Callable[[], Any]) -> None:
    """Runs `main` as a program: errors that the user can correct end in one line (JAXPOSE_TRACEBACK=1 shows the traceback)."""
    try:
        main()
    except Exception as error:
        correctable = isinstance(error, (ValueError, OSError, ImportError)) and not os.environ.get("JAXPOSE_TRACEBACK")
        if jax.distributed.is_initialized():
            _end_at_once(error, correctable)
        if correctable:
            raise SystemExit(f"{type(error).__name__}: {error}") from None
        raise


def _end_at_once(error: Exception, correctable: bool) -> NoReturn:
    """Prints the error and exits at once: an orderly exit waits for other processes, which may be gone or wait for this one."""
    if correctable:
        message = f"{type(error).__name__}: {error}"
    elif isinstance(error, jax.errors.JaxRuntimeError):
        message = (
            f"process {jax.process_index()} of {jax.process_count()} stops: {str(error).splitlines()[0]:.300}\nIf another process "
            "died, start all of them again with the same command: they resume from the last checkpoint."
        )
    else:
        message = "".join(traceback.format_exception(error)).rstrip()
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    # A process that ends wakes its neighbours in the ring, but the end of process 0 kills the others before they report.
    time.sleep(5 if jax.process_index() == 0 else 0)
    os._exit(1)


def run(
    task: tasks.Task,
    config: RunConfig,
    kind: Kind,
    *,
    variables: PyTree | None = None,
    first: tuple[float, tasks.Task] | None = None,
) -> dict[str, float]:
    """Trains (or resumes), and writes the results to `config.out`.

    Args:
        task: the task to train.
        config: the flags.
        kind: the data.
        variables: host arrays that a fresh run starts from instead of `task.init`.
        first: (epochs, task): the task whose loss is trained over the same variables in the first epochs.

    Returns:
        The scores of the last evaluation.
    """
    _check_run(config, kind)
    if checkpoint.exists(config.out):
        config = config.resumed(checkpoint.read_config(config.out, step="latest").get("run") or {})
    samples = kind.count()
    training = build(task, config, samples=samples, mesh=kind.mesh, first=first)
    tested = config.test_settings().to_dict()
    stored = {"task": task.config, "inference": tested, "run": settings(config), "best": kind.best}
    with ExitStack() as stack:
        stack.enter_context(only_run_in(config.out))
        preemption = stack.enter_context(parallel.Preemption())
        folder = config.out / "checkpoints"
        checkpoints = stack.enter_context(checkpoint.Checkpoints(folder, keep=config.keep, best=kind.best))
        run_log = stack.enter_context(closing(Log(config.out)))
        state = restore_or_init(training, config, checkpoints, stored, variables)
        start = int(state.step)
        if start:
            stored = with_fitted_scale(stored, checkpoints.config(), config)
        # Only process 0 writes the log, and all processes must agree on the effect of --patience.
        past = parallel.from_first([*evaluations(run_log, until=start).items()])
        session = Session(
            training, config, kind, checkpoints, run_log, stored,
            total=steps_of(config.epochs, config, samples=samples),
            eval_steps=steps_of(config.eval_every, config, samples=samples),
            start=start, state=state, scores=past[-1][1] if past else {}, evaluations=dict(past),
        )  # fmt: skip
        if session.is_stale():  # an earlier start ended early
            session.total = session.start
        _announce(session, samples)
        loop(session, preemption)
        finish(session)
    return session.scores


def _check_run(config: RunConfig, kind: Kind) -> None:
    """Checks everything that can be rejected before compilation."""
    if checkpoint.exists(config.out) and not checkpoint.resumable(config.out):
        raise ValueError(
            f"{config.out} holds imported weights, which cannot be resumed: evaluate them with --eval-only {config.out}, or "
            f"start a run in another --out from them with --init {config.out}"
        )
    parallel.check_batch_size(config.batch_size, kind.mesh)
    kind.check()
    if config.plots:
        from jaxpose import view

        view.require()


def restore_or_init(
    training: Training,
    config: RunConfig,
    checkpoints: checkpoint.Checkpoints,
    stored: dict[str, Any],
    variables: PyTree | None,
) -> TrainState:
    """Returns the state of the newest checkpoint, or a fresh one if there is none.

    Args:
        training: the training, which defines the structure of a state.
        config: the flags, which must be those of the run that is resumed.
        checkpoints: the checkpoints of the run.
        stored: the config that this run would store with its weights.
        variables: host arrays that a fresh run starts from instead of `task.init`.
    """
    if checkpoints.latest() is None:
        return training.init_state(variables)
    check_same_run(type(config), checkpoints.config().get("run", {}), stored["run"], config.out)
    state = checkpoints.restore(training.abstract_state(), stored)
    log.info("resumed at step %d from %s", int(state.step), checkpoints.last_good)
    return state


def with_fitted_scale(stored: dict[str, Any], restored: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Returns the stored config of a resumed run with the factor of sigma that its last evaluation fitted.

    Without it, a checkpoint that is saved before the next evaluation would have the factor of the flags.

    Args:
        stored: the config that this run saves with its weights.
        restored: the config of the checkpoint that the run resumes from.
        config: the flags; only a run with --calibrate fits the factor.

    Returns:
        `stored`, or a copy with the factor of the checkpoint.
    """
    fitted = (restored.get("inference") or {}).get("sigma_scale")
    if fitted is None or not getattr(config, "calibrate", False):
        return stored
    return {**stored, "inference": {**stored["inference"], "sigma_scale": fitted}}


@dataclass
class Session:
    """A run in progress: what it trains, where it is stored, and its current state.

    Attributes:
        training: the jitted steps.
        config: the flags.
        kind: the data.
        checkpoints: the folder that states are saved in.
        log: the log that events are written to.
        stored: the config that is saved with the weights.
        total: number of the last step.
        eval_steps: number of steps from one evaluation to the next.
        start: number of the step that it resumes from.
        state: the newest state.
        scores: the scores of the newest evaluation, {} before the first.
        evaluations: the scores of all evaluations up to the newest state, by step; the same on every process.
        predictions: the predictions of the newest evaluation; None before the first of this session.
    """

    training: Training
    config: RunConfig
    kind: Kind
    checkpoints: checkpoint.Checkpoints
    log: Log
    stored: dict[str, Any]
    total: int
    eval_steps: int
    start: int
    state: TrainState
    scores: dict[str, float]
    evaluations: dict[int, dict[str, float]]
    predictions: Predictions | None = None

    def predict(self) -> None:
        """Predicts the evaluation samples with the newest weights."""
        self.predictions = self.kind.predict(self.training.predict_step, self.training.task, self.state.eval_variables)

    def evaluate(self, step: int) -> None:
        """Scores the newest weights; if that fails, the state is saved first."""
        try:
            self.predict()
            self.scores = self.kind.score(
                self.predictions,
                self.training.task,
                self.state.eval_variables,
                name=f"step_{step}",
                last=step == self.total,
            )
        except Exception:
            self.save()
            raise
        self.evaluations[step] = self.scores
        if "sigma_scale" in self.scores:  # fitted in this evaluation, for these weights
            tested = {**self.stored["inference"], "sigma_scale": self.scores["sigma_scale"]}
            self.stored = {**self.stored, "inference": tested}
        self.log.write("eval", step, **self.scores)
        self.lower_rate()
        log.info("step %d: %s", step, summary_line(self.scores, self.kind.headline))

    def lower_rate(self) -> None:
        """With --decay plateau, sets the factor of the learning rate that the evaluations so far ask for."""
        if self.config.decay != "plateau":
            return
        scores = [scores[self.kind.best] for _, scores in sorted(self.evaluations.items()) if self.kind.best in scores]
        drops = [train.drops_of_plateau(past, patience=self.config.plateau) for past in (scores[:-1], scores)]
        if drops[0] != drops[1]:
            self.state = train.with_rate_factor(self.state, 0.1 ** drops[1])
            log.info(
                "no better %s in %d evaluations: the learning rate is multiplied by %g (--decay plateau)",
                self.kind.best, self.config.plateau, 0.1 ** drops[1],
            )  # fmt: skip

    def is_stale(self) -> bool:
        """Returns whether the best evaluation is as old as --patience allows."""
        if self.config.patience is None:
            return False
        best = [scores[self.kind.best] for scores in self.evaluations.values() if self.kind.best in scores]
        return bool(best) and len(best) - 1 - best.index(max(best)) >= self.config.patience

    def end_early(self, step: int) -> None:
        """Makes this step the last one, and evaluates it as such."""
        log.info(
            "step %d is the last one: no better %s in %d evaluations (--patience)",
            step,
            self.kind.best,
            self.config.patience,
        )
        self.total = step
        self.evaluate(step)

    def save(self, metrics: dict[str, float] | None = None) -> None:
        """Starts saving the newest state, with the scores of its evaluation if there was one."""
        self.checkpoints.save(self.state, self.stored, metrics=metrics)

    def check_finite(self) -> None:
        """Raises an error if a loss or a gradient was not finite."""
        train.check_finite(self.state, self.checkpoints.last_good)

    def stop(self, step: int) -> NoReturn:
        """Saves the state, unless it is saved already, and ends the process with `PREEMPTED`."""
        self.check_finite()
        self.checkpoints.wait()
        if self.checkpoints.latest() != step:
            self.save()
            self.checkpoints.wait()
        log.info("asked to stop after step %d: start the same command again to resume from there", step)
        raise SystemExit(PREEMPTED)


def _announce(session: Session, samples: int) -> None:
    """Logs the size of the run."""
    mesh, state, config = session.training.mesh, session.state, session.config
    log.info(
        "%s parameters, %d %s, %d steps from step %d, %d devices of kind %s, %d processes",
        f"{train.count_parameters(state.variables['params']):,}", samples, session.kind.samples, session.total,
        session.start, mesh.size, mesh.devices.flat[0].device_kind, jax.process_count(),
    )  # fmt: skip
    if config.fsdp > 1:
        held, whole = parallel.device_bytes(state.opt_state)
        log.info(
            "of the optimiser's state of %.1f MB each device holds %.1f MB (--fsdp %d)",
            whole / 1e6, held / 1e6, config.fsdp,
        )  # fmt: skip


def loop(session: Session, preemption: parallel.Preemption) -> None:
    """Trains up to the last step, logs, evaluates and saves on the way, and stops on request."""
    config, total = session.config, session.total
    batches = session.kind.train_batches(start_step=session.start, total=total)
    per_second = f"{session.kind.samples.split()[0]}/s"  # "crops of scans" are counted as crops
    bar = tqdm.tqdm(total=total, initial=session.start, unit="step", disable=jax.process_index() != 0, smoothing=0.05)
    clock, images = time.perf_counter(), 0
    for step, batch in zip(range(session.start + 1, total + 1), batches, strict=False):
        # All transfers to the device are explicit (`parallel.global_batch`).
        with jax.transfer_guard("disallow"):
            session.state, metrics = session.training.step(step)(session.state, batch)
        bar.update()
        session.checkpoints.poll()
        images += config.batch_size
        if step % config.log_every == 0 or step == total:
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            session.check_finite()
            rate = images / (time.perf_counter() - clock)
            session.log.write("train", step, images_per_s=rate, **values)
            best = {session.kind.best: session.scores.get(session.kind.best, "-")}
            bar.set_postfix({"loss": f"{values['loss']:.2f}", **best, per_second: f"{rate:.0f}"})
            clock, images = time.perf_counter(), 0
        is_eval = step % session.eval_steps == 0 or step == total
        if is_eval or (config.checkpoint_every and step % config.checkpoint_every == 0):
            session.check_finite()
            if is_eval:
                session.evaluate(step)
            session.save(session.scores if is_eval else None)
            clock = time.perf_counter()
            if is_eval and step < total and session.is_stale():
                session.end_early(step)
                break
        if preemption.reached(step) and step < total:
            session.stop(step)
    bar.close()
    session.checkpoints.wait()


def finish(session: Session) -> None:
    """Writes the end into the log, and on process 0 the report and the pictures."""
    config, kind, total = session.config, session.kind, session.total
    if session.start < total:
        session.log.write("end", total, **session.scores)
        best = [(scores.get(kind.best, float("-inf")), step) for step, scores in session.evaluations.items()]
        if best and max(best)[0] > session.scores.get(kind.best, float("inf")):
            log.info("step %d had the best %s: predict, export and --eval-only use it", max(best)[1], kind.best)
    # A run that was killed between its last checkpoint and its pictures draws them when it is started again.
    missing = session.start == total and jax.process_count() == 1 and not (config.out / LAST_PICTURE).exists()
    if not config.plots or jax.process_index() != 0 or (session.predictions is None and not missing):
        return
    with optional("report.html", config.out):
        kind.report(f"step_{total}")
    with optional("plots", config.out):
        if session.predictions is None:
            session.predict()
        variables = jax.device_get(session.state.eval_variables)
        kind.draw(session.predictions, session.training.task, variables, session.log.events())
        log.info("pictures are in %s", config.out / "plots")


@contextmanager
def optional(what: str, out: Path) -> Iterator[None]:
    """Turns a failure of the block into a warning: what is drawn at the end of a run is not part of its training."""
    try:
        yield
    except Exception as error:
        log.warning(
            "the run in %s is complete, but without its %s: %s: %s (JAXPOSE_TRACEBACK=1 shows where)",
            out, what, type(error).__name__, error, exc_info=bool(os.environ.get("JAXPOSE_TRACEBACK")),
        )  # fmt: skip


@contextmanager
def only_run_in(out: Path) -> Iterator[None]:
    """Locks the folder of a run against a second one. The lock ends with the process, even if it is killed.

    Raises:
        ValueError: another process trains in the folder.
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
        except OSError as error:  # some network file systems do not support locks
            log.warning("%s cannot be locked (%s): do not start a second run in it", out, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def evaluate_only(config: RunConfig, *, load: Load) -> dict[str, Any]:
    """Evaluates `config.eval_only` on any number of devices; the checkpoint gives the task, and `load` the data."""
    variables, stored = checkpoint.restore_model(config.eval_only)
    task = tasks.from_config(stored["task"])
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), config.eval_only)
    if task.level != config.LEVEL:
        raise ValueError(
            f"--eval-only {config.eval_only} holds a task of the family {task.family!r}, this page evaluates "
            f"{' and '.join(tasks.families_of(config.LEVEL))}: use the page that trained it"
        )
    if config.size_wh != getattr(task, "size_wh", config.size_wh):  # a task need not read pictures
        raise ValueError(
            f"--size-wh {config.size_wh}: the net in {config.eval_only} was trained at {task.size_wh}; leave the flag out"
        )
    kind = load(config, skeleton=task.skeleton)
    parallel.check_batch_size(config.batch_size, kind.mesh)
    predict_fn = train.make_predict_step(task, mesh=kind.mesh, flip_test=config.flips())
    predictions = kind.predict(predict_fn, task, parallel.replicate(variables, kind.mesh))
    name = f"eval_{stored['step']}_{config.val_split}{kind.variant()}"
    scores = kind.score(predictions, task, variables, name=name)
    if jax.process_index() == 0:
        where = str(buckets.origin(config.out / "results" / f"{name}.json"))
        print(json.dumps({"checkpoint_step": stored["step"], "results": where, "flip_test": config.flips(), **scores}))
    return scores


def start(config: RunConfig) -> None:
    """Sets up logging, and the connection to other processes if there are any; call it before a device is used."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for package in ("jaxpose", "experiments"):  # modules log under their own names
        logging.getLogger(package).setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax and TFDS log a lot
    if config.multihost or config.coordinator:
        parallel.start_multihost(
            coordinator=config.coordinator, num_processes=config.num_processes, process_id=config.process_id
        )
