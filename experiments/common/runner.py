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
from jaxpose import checkpoint, parallel, tasks, train
from jaxpose.train import TrainState

log = logging.getLogger(__name__)
PREEMPTED = 75  # exit code of a run that was asked to stop, and saved: start the same command again (EX_TEMPFAIL)


def command(main: Callable[[], Any]) -> None:
    """Run `main` as a program: what the user can correct ends in one line (JAXPOSE_TRACEBACK=1 shows where it was found)."""
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
    """Say why and end: an orderly end waits for the other processes, which may be gone, or wait for this one."""
    if correctable:
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
) -> dict[str, float]:
    """Train (or resume), and leave the results in `config.out`.

    Args:
        task: what is trained.
        config: the flags.
        kind: the data.
        variables: host arrays that a fresh run starts from instead of `task.init`.
        first: (epochs, task): that many epochs come first, with this task's loss over the same variables.

    Returns:
        the scores of the last evaluation.
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
        # Process 0 alone writes the log, and all must decide alike what --patience means.
        past = parallel.from_first([*evaluations(run_log, until=start).items()])
        session = Session(
            training, config, kind, checkpoints, run_log, stored,
            total=steps_of(config.epochs, config, samples=samples),
            eval_steps=steps_of(config.eval_every, config, samples=samples),
            start=start, state=state, scores=past[-1][1] if past else {}, evaluations=dict(past),
        )  # fmt: skip
        if session.is_stale():  # it ended early before
            session.total = session.start
        _announce(session, samples)
        loop(session, preemption)
        finish(session)
    return session.scores


def _check_run(config: RunConfig, kind: Kind) -> None:
    """What can be refused before anything is compiled."""
    if checkpoint.exists(config.out) and not checkpoint.resumable(config.out):
        raise ValueError(
            f"{config.out} holds imported weights, which no run can resume: evaluate them with --eval-only {config.out}, or "
            f"start another --out from them with --init {config.out}"
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
    """The state of the newest checkpoint, or a fresh one where there is none.

    Args:
        training: says what a state looks like.
        config: the flags, which must be those of the run that is resumed.
        checkpoints: those of the run.
        stored: what this run would store beside its weights.
        variables: host arrays that a fresh run starts from instead of `task.init`.
    """
    if checkpoints.latest() is None:
        return training.init_state(variables)
    check_same_run(type(config), checkpoints.config().get("run", {}), stored["run"], config.out)
    state = checkpoints.restore(training.abstract_state(), stored)
    log.info("resumed at step %d from %s", int(state.step), checkpoints.last_good)
    return state


def with_fitted_scale(stored: dict[str, Any], restored: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """What is saved beside the weights of a resumed run, with the factor of sigma that its last evaluation fitted.

    Without it a checkpoint that is saved before the next evaluation would have the factor of the flags.

    Args:
        stored: what this run saves beside its weights.
        restored: what the checkpoint has that the run goes on from.
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
    """A run under way: what it trains, where it is kept, and how far it has come.

    Attributes:
        training: the jitted steps.
        config: the flags.
        kind: the data.
        checkpoints: where states are saved.
        log: where events are written.
        stored: what is saved beside the weights.
        total: number of the last step.
        eval_steps: steps from one evaluation to the next.
        start: number of the step that it goes on from.
        state: the newest state.
        scores: those of the newest evaluation, {} before the first.
        evaluations: the scores of all evaluations up to the newest state, by step; the same on every process.
        predictions: those of the newest evaluation; None before the first of this session.
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
        """Predict the evaluation samples with the newest weights."""
        self.predictions = self.kind.predict(self.training.predict_step, self.training.task, self.state.eval_variables)

    def evaluate(self, step: int) -> None:
        """Score the newest weights; a failure costs no training."""
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
        log.info("step %d: %s", step, summary_line(self.scores, self.kind.headline))

    def is_stale(self) -> bool:
        """Whether the best evaluation is as old as --patience says."""
        if self.config.patience is None:
            return False
        best = [scores[self.kind.best] for scores in self.evaluations.values() if self.kind.best in scores]
        return bool(best) and len(best) - 1 - best.index(max(best)) >= self.config.patience

    def end_early(self, step: int) -> None:
        """Make this step the last one, and evaluate it as such."""
        log.info(
            "step %d is the last one: no better %s in %d evaluations (--patience)",
            step,
            self.kind.best,
            self.config.patience,
        )
        self.total = step
        self.evaluate(step)

    def save(self, metrics: dict[str, float] | None = None) -> None:
        """Start saving the newest state, with the scores of its evaluation if there was one."""
        self.checkpoints.save(self.state, self.stored, metrics=metrics)

    def check_finite(self) -> None:
        """Stop where a loss or a gradient was not finite."""
        train.check_finite(self.state, self.checkpoints.last_good)

    def stop(self, step: int) -> NoReturn:
        """Save the state, unless it is saved, and end the process with `PREEMPTED`."""
        self.check_finite()
        self.checkpoints.wait()
        if self.checkpoints.latest() != step:
            self.save()
            self.checkpoints.wait()
        log.info("asked to stop after step %d: start the same command again to go on from there", step)
        raise SystemExit(PREEMPTED)


def _announce(session: Session, samples: int) -> None:
    """Log how large the run is."""
    mesh, state, config = session.training.mesh, session.state, session.config
    log.info(
        "%s parameters, %d %s, %d steps from step %d, %d devices of kind %s, %d processes",
        f"{train.count_parameters(state.variables['params']):,}", samples, session.kind.samples, session.total,
        session.start, mesh.size, mesh.devices.flat[0].device_kind, jax.process_count(),
    )  # fmt: skip
    if config.fsdp > 1:
        held, whole = parallel.device_bytes(state.opt_state)
        log.info(
            "of the optimiser's state of %.1f MB each device holds %.1f (--fsdp %d)",
            whole / 1e6, held / 1e6, config.fsdp,
        )  # fmt: skip


def loop(session: Session, preemption: parallel.Preemption) -> None:
    """Train up to the last step: log, evaluate and save on the way, and stop where that is asked for."""
    config, total = session.config, session.total
    batches = session.kind.train_batches(start_step=session.start, total=total)
    bar = tqdm.tqdm(total=total, initial=session.start, unit="step", disable=jax.process_index() != 0, smoothing=0.05)
    clock, images = time.perf_counter(), 0
    for step, batch in zip(range(session.start + 1, total + 1), batches, strict=False):
        # Everything that crosses to the device does so by name (`parallel.global_batch`).
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
            bar.set_postfix({"loss": f"{values['loss']:.2f}", **best, "img_s": f"{rate:.0f}"})
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
    """Write the end into the log, and the report and the pictures on process 0."""
    config, kind, total = session.config, session.kind, session.total
    if session.start < total:
        session.log.write("end", total, **session.scores)
        best = [(scores.get(kind.best, float("-inf")), step) for step, scores in session.evaluations.items()]
        if best and max(best)[0] > session.scores.get(kind.best, float("inf")):
            log.info("step %d had the best %s: predict, export and --eval-only take that one", max(best)[1], kind.best)
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


def evaluate_only(config: RunConfig, *, load: Load) -> dict[str, Any]:
    """Evaluate `config.eval_only` on any number of devices; the task comes out of the checkpoint, the data out of `load`."""
    variables, stored = checkpoint.restore_model(config.eval_only)
    task = tasks.from_config(stored["task"])
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), config.eval_only)
    if task.level != config.LEVEL:
        raise ValueError(
            f"--eval-only {config.eval_only} holds a task of the family {task.family!r}, this page evaluates "
            f"{' and '.join(tasks.families_of(config.LEVEL))}: use the page that trained it"
        )
    if config.size_wh != task.size_wh:
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
        where = str(config.out / "results" / f"{name}.json")
        print(json.dumps({"checkpoint_step": stored["step"], "results": where, "flip_test": config.flips(), **scores}))
    return scores


def start(config: RunConfig) -> None:
    """Logging, and the other processes where there are any; call it before anything touches a device."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for package in ("jaxpose", "experiments"):  # modules log under their own names
        logging.getLogger(package).setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax and TFDS tell much
    if config.multihost or config.coordinator:
        parallel.start_multihost(
            coordinator=config.coordinator, num_processes=config.num_processes, process_id=config.process_id
        )
