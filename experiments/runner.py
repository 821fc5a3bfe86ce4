"""What every experiment shares: the settings of a run, the data, the loop, the evaluation and the pictures.

An experiment's page builds a task and hands it over; here nothing knows which loss is inside.
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
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
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

import jax
import numpy as np
import tqdm
import tyro

# Models before data: with TensorFlow imported first, distrax imports more of it than it needs.
from jaxpose import checkpoint, parallel, tasks, train
from jaxpose.data import builder, synthetic
from jaxpose.data.formats import coco, layout
from jaxpose.skeleton import Skeleton

log = logging.getLogger("jaxpose")
ConfigT = TypeVar("ConfigT", bound="RunConfig")
PREEMPTED = 75  # exit code of a run that was asked to stop, and saved: start the same command again (EX_TEMPFAIL)
LAST_PICTURE = "plots/predictions.png"  # drawn last: where it is, all are


@dataclass(frozen=True)
class RunConfig:
    """Settings that every experiment has. FAMILIES: of the tasks that it is for, see `jaxpose.tasks.from_config`."""

    FAMILIES: ClassVar[tuple[str, ...]] = ()

    out: Path | None = None
    """Folder of the run: log, checkpoints, results, pictures. The same folder again resumes the run. None: runs/ and the
    experiment's name, or the folder that --eval-only names."""
    data: Path | None = None
    """COCO-format folder (images and annotations); none: the embedded synthetic people."""
    train_split: str = "train"
    """Name of the training split: COCO's train2017 is found under "train"."""
    val_split: str = "val"
    """Name of the evaluation split."""
    data_dir: Path = Path("runs/data")
    """Where prepared data sets are kept (TFDS, array_record); they are prepared once."""
    on_bad: Literal["error", "skip"] = "error"
    """What becomes of a bad sample (truncated image, NaN, box outside): stop, or skip it, counted and logged."""
    verify: bool = False
    """Decode every image completely while preparing: finds damage inside a file, and takes several times as long."""
    synthetic_images: int = 2000
    """How many synthetic images to draw, a tenth of them for evaluation."""

    size_wh: tuple[int, int] = (192, 256)
    """Input width and height."""
    batch_size: int = 256
    """Global batch size, over all devices and processes."""
    epochs: float = 270
    """Passes over the training persons."""
    learning_rate: float = 1e-3
    """Adam's learning rate for this global batch size."""
    base_batch_size: int | None = None
    """Scale the learning rate by batch_size / base_batch_size; none: never scaled."""
    decay: Literal["milestones", "linear"] = "milestones"
    """How the learning rate falls: by 0.1 at --milestones, or in a line to 0 at the end of the last epoch."""
    milestones: tuple[float, ...] = (170, 200)
    """Epochs after which the learning rate is multiplied by 0.1."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    warmup_epochs: float = 0
    """Epochs of it, besides."""
    warmup_start: float = 0.001
    """Part of the learning rate that the warm-up starts from."""
    clip_norm: float | None = None
    """Largest global norm of the gradient."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one update."""
    ema: float | None = None
    """Decay of the moving average of the weights that is evaluated; none: no average."""
    seed: int = 0
    """Seed of the initialisation, the order of the data, and the augmentation."""

    eval_every: float = 10
    """Epochs between evaluations, each followed by a checkpoint."""
    checkpoint_every: int = 0
    """Also save a checkpoint every so many steps; 0: only at evaluations."""
    keep: int = 2
    """How many of the last checkpoints are kept; the best one is kept besides."""
    flip_test: bool = True
    """Average with the prediction on the mirrored crop."""
    eval_only: Path | None = None
    """Evaluate this checkpoint (a run's folder) and stop."""
    plots: bool = True
    """Draw curves, density, calibration and predictions at the end (needs matplotlib)."""

    log_every: int = 20
    """Steps between lines of the log."""
    workers: int | None = None
    """Threads of the input pipeline; none: one per core."""
    fsdp: int = 1
    """Neighbouring devices that share one copy of the optimiser's state; 1: each has its own."""
    multihost: bool = False
    """Join the other processes of a TPU pod or SLURM job (JAX finds them)."""
    coordinator: str | None = None
    """host:port of process 0, where JAX cannot find the processes itself; needs the two below."""
    num_processes: int | None = None
    """With --coordinator: how many processes there are."""
    process_id: int | None = None
    """With --coordinator: which of them this is, from 0."""

    def flips(self) -> bool:
        """Whether the prediction is averaged with that of the mirrored image."""
        return self.flip_test

    def as_trained(self, stored: Mapping[str, Any]) -> RunConfig:
        """These settings for the evaluation of a run that `stored` describes: what only the run knows comes from there."""
        return dataclasses.replace(self, size_wh=tuple(stored["task"]["size_wh"]))


def parse(
    presets: Mapping[str, ConfigT], *, name: str, default: str, description: str, argv: list[str] | None = None
) -> ConfigT:
    """Command line -> config: `--preset NAME` chooses the defaults, every other flag overrides one of them.

    `name` of the experiment: a run without --out goes to runs/NAME.
    """

    @dataclass(frozen=True)
    class Preset:
        preset: str = default

    chosen, rest = tyro.cli(Preset, args=argv, return_unknown_args=True, add_help=False)
    if chosen.preset not in presets:
        raise SystemExit(f"--preset {chosen.preset}: expected one of {', '.join(presets)}")
    config = tyro.cli(
        type(presets[chosen.preset]), default=presets[chosen.preset], args=rest,
        description=f"{description}\n\n--preset {{{','.join(presets)}}} chooses the defaults below "
        f"(shown: {chosen.preset}).",
    )  # fmt: skip
    check_paths(config)
    if config.out is None:
        folder = checkpoint.find(config.eval_only) if config.eval_only else Path("runs") / name
        config = dataclasses.replace(config, out=folder.parent if folder.name == "checkpoints" else folder)
    check(config)
    return config


def command(main) -> None:
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


def check_paths(config: Any) -> None:
    """Raise a ValueError that names the flag of a path that is a URL."""
    for name, value in vars(config).items():
        if isinstance(value, Path):
            try:
                layout.local(value)
            except ValueError as error:
                raise ValueError(f"--{name.replace('_', '-')} {error}") from None


def check(config: RunConfig) -> None:
    """Raise a ValueError that names the flag, what it was given and what it takes."""
    positive = ("batch_size", "test_batch_size", "padded_people",
                "epochs", "eval_every", "learning_rate", "log_every", "keep", "accumulate", "clip_norm",
                "base_batch_size", "workers")  # fmt: skip
    rules = {name: (lambda x: x > 0, "a positive number") for name in positive}
    rules |= {name: (lambda x: x >= 0, "0 or more") for name in ("warmup_steps", "checkpoint_every")}
    rules |= {
        "size_wh": (lambda x: min(x) > 0, "a positive width and height"),
        "synthetic_images": (lambda x: x >= 2, "2 or more: one to train on, one to evaluate on"),
        "milestones": (lambda x: all(a < b for a, b in itertools.pairwise((0, *x))), "epochs that increase"),
        "warmup_epochs": (
            lambda x: x >= 0 and (config.decay != "linear" or x < config.epochs),
            "0 or more, and below --epochs where the rate falls in a line",
        ),
        "warmup_start": (lambda x: 0 < x <= 1, "a part of the learning rate, above 0"),
        "ema": (lambda x: 0 < x < 1, "a decay between 0 and 1, or None"),
        "nms": (lambda x: 0 < x <= 1, "an OKS above 0, at most 1, or None"),
        "box_jitter": (lambda x: 0 <= x < 1, "a part of the box, from 0 to below 1"),
    }
    for name, (holds, expected) in rules.items():
        value = getattr(config, name, None)  # some belong to one kind of experiment
        if value is not None and not holds(value):
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected {expected}")


@dataclass(frozen=True)
class Data:
    """What to train on (None where a run only evaluates), what to evaluate on, and its ground truth (None: there is none).

    `walk` is the module that makes batches, predictions, scores and pictures of it: `experiments.persons` for crops of
    persons, `experiments.images` for whole images. `own_scores` gives the numbers of a data set's own evaluation, beside
    COCO's for persons and in their place for whole images: (predictions, config) -> {name: number}. `best` is the number by
    which the best checkpoint is kept.
    """

    train: Any
    val: Any
    ground_truth: Path | None
    walk: Any
    own_scores: Callable[[Mapping[str, np.ndarray], RunConfig], dict[str, float]] | None = None
    best: str = "AP"


def open_splits(config: RunConfig, *, skeleton: Skeleton | None = None, reader: Any = coco) -> tuple[Any, Any]:
    """(training source, None where a run only evaluates; evaluation source): drawn, found and prepared as the config says.

    Process 0 works, the others wait and then read. `skeleton` is that of a checkpoint: the data must have it, and data
    without annotations get it. `reader` knows the folder's format: `jaxpose.data.formats.coco` or `jaxpose.data.formats.mpii`.
    """
    parallel.on_first(lambda: _open_splits(config, skeleton, reader))
    return _open_splits(config, skeleton, reader)


def _open_splits(config: RunConfig, skeleton: Skeleton | None, reader: Any) -> tuple[Any, Any]:
    folder = config.data
    if folder is None:
        val = max(config.synthetic_images // 10, 1)
        name = f"synthetic_{config.synthetic_images}_{config.seed}"
        folder = synthetic.write_dataset(
            config.data_dir / name, train=config.synthetic_images - val, val=val, seed=config.seed
        )

    def open_split(split: str):
        return builder.prepare(folder, split=split, data_dir=config.data_dir, on_bad=config.on_bad,
                               verify=config.verify, skeleton=skeleton, reader=reader)  # fmt: skip

    val = open_split(config.val_split)
    return None if config.eval_only else open_split(config.train_split), val


class Log:
    """Events of a run, on process 0: one JSON line each, TensorBoard, and the progress bar's text."""

    def __init__(self, out: Path):
        self.path = out / "log.jsonl"
        self.active = jax.process_index() == 0
        self.board = None
        if self.active:
            from tensorboardX import SummaryWriter

            out.mkdir(parents=True, exist_ok=True)
            self.board = SummaryWriter(str(out / "tensorboard"))

    def write(self, event: str, step: int, **values: Any) -> None:
        if not self.active:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps({"event": event, "step": step, "time": round(time.time(), 3), **values}) + "\n")
        for key, value in values.items():
            if isinstance(value, (int, float)):
                self.board.add_scalar(f"{event}/{key}", value, step)

    def events(self) -> list[dict[str, Any]]:
        """All events so far; a resumed run's repeated steps are counted once, the later one."""
        last: dict[tuple[str, int], dict[str, Any]] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:  # the line that a killed run was writing
                continue
            last[event["event"], event["step"]] = event
        return sorted(last.values(), key=lambda event: event["step"])

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def run(
    task: tasks.Task,
    config: RunConfig,
    data: Data,
    *,
    variables: Any = None,
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
    mesh = parallel.make_mesh(fsdp=config.fsdp)
    parallel.check_batch_size(config.batch_size, mesh)
    data.walk.check(config, data)
    samples = data.walk.count(config, data)
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

    stored = {"task": task.config, "run": settings(config), "best": data.best}
    with ExitStack() as stack:
        stack.enter_context(only_run_in(config.out))
        preemption = stack.enter_context(parallel.Preemption())
        folder = config.out / "checkpoints"
        checkpoints = stack.enter_context(checkpoint.Checkpoints(folder, keep=config.keep, best=data.best))
        run_log = stack.enter_context(closing(Log(config.out)))
        if checkpoints.latest() is not None:
            check_same_run(checkpoints.config().get("run", {}), stored["run"], config.out)
            state = checkpoints.restore(state, stored)
            log.info("resumed at step %d from %s", int(state.step), checkpoints.last_good)
        start = int(state.step)
        scores, predictions = last_scores(run_log), None
        log.info(
            "%s parameters, %d %s, %d steps from step %d, %d devices of kind %s, %d processes",
            f"{train.count_parameters(state.variables['params']):,}", samples, data.walk.SAMPLES, total, start,
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
        batches = data.walk.train_batches(data.train, config, mesh, start_step=start, total=total)
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
                        predictions = data.walk.predict(predict_fn, state.eval_variables, data.val, task, config, mesh)
                        scores = data.walk.score(
                            predictions, task, state.eval_variables, config, data,
                            name=f"step_{step}", last=step == total,
                        )  # fmt: skip
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
                report(config, data, total)
            with optional("plots", config.out):
                if predictions is None:
                    predictions = data.walk.predict(predict_fn, state.eval_variables, data.val, task, config, mesh)
                data.walk.draw(predictions, task, jax.device_get(state.eval_variables), config, data, run_log.events())
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


def report(config: RunConfig, data: Data, step: int) -> None:
    """The page of the evaluation at that step, out/report.html, where there are annotations and its result file."""
    from jaxpose.view import report as page
    from jaxpose.view import tiles

    found = config.out / "results" / f"step_{step}.json"
    if data.ground_truth is not None and found.exists():
        page.of_run(config.out, results=found, ground_truth=data.ground_truth, images=tiles.of_source(data.val),
                    skeleton=data.val.skeleton, category_id=data.val.category_id)  # fmt: skip


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


def make_schedule(config: RunConfig, rate: float, updates_per_epoch: float):
    """Step of the optimiser -> learning rate."""
    warmup = {
        "warmup_steps": config.warmup_steps + round(config.warmup_epochs * updates_per_epoch),
        "warmup_start": config.warmup_start,
    }
    if config.decay == "linear":
        return train.linear_decay(rate, steps=max(round(config.epochs * updates_per_epoch), 1), **warmup)
    boundaries = sorted({round(m * updates_per_epoch) for m in config.milestones})
    return train.multi_step(rate, boundaries=boundaries, **warmup)


# What a resumed run may change. The rest makes the batches or the optimiser: with another value it would be another run.
MAY_CHANGE = {
    "out", "data_dir", "on_bad", "verify", "detections", "box_jitter", "val_split", "epochs", "milestones", "eval_every",
    "checkpoint_every", "keep", "flip_test", "rescore", "nms", "soft_nms", "test_size", "test_batch_size", "fit", "scales", "group_on",
    "eval_only", "plots", "log_every", "workers", "fsdp", "multihost", "coordinator", "num_processes", "process_id", "init",
    "init_layout",
}  # fmt: skip


# What a setting is where it is None, or where the run was started before there was a choice.
UNSAID = {"decode": "exact"}


def check_same_run(stored: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Refuse to resume with settings that make another run of it; the data may lie in another place."""
    may_change = MAY_CHANGE - ({"epochs"} if now.get("decay") == "linear" else set())  # its slope follows from the end
    stored, now = (
        dict(run) | {k: v for k, v in UNSAID.items() if k in now and run.get(k) is None} for run in (stored, now)
    )
    different = [k for k in now if k not in may_change and k in stored and stored[k] != now[k]]
    if "data" in different and all(isinstance(d["data"], str) for d in (stored, now)):
        if Path(stored["data"]).name == Path(now["data"]).name:
            different.remove("data")
    if different:
        shown = "; ".join(f"--{k.replace('_', '-')} was {stored[k]}, is {now[k]}" for k in different)
        raise ValueError(f"{out} holds a run with other settings: {shown}. Give the same ones, or another --out.")


def evaluate_only(config: RunConfig, *, load: Callable[..., Data]) -> dict[str, Any]:
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
    data = load(config, skeleton=Skeleton.from_dict(stored["task"]["skeleton"]))
    mesh = parallel.make_mesh()
    parallel.check_batch_size(config.batch_size, mesh)
    predict_fn = train.make_predict_step(task, mesh=mesh, flip_test=config.flips())
    predictions = data.walk.predict(predict_fn, parallel.replicate(variables, mesh), data.val, task, config, mesh)
    name = f"eval_{stored['step']}_{config.val_split}{data.walk.variant(config)}"
    scores = data.walk.score(predictions, task, variables, config, data, name=name)
    if jax.process_index() == 0:
        where = str(config.out / "results" / f"{name}.json")
        print(json.dumps({"checkpoint_step": stored["step"], "results": where, "flip_test": config.flips(), **scores}))
    return scores


def settings(config: RunConfig) -> dict[str, Any]:
    """The config as JSON-able values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def last_scores(run_log: Log) -> dict[str, float]:
    """The scores of the newest evaluation in the log, {} before the first."""
    evals = [e for e in run_log.events() if e["event"] == "eval"]
    return {k: v for k, v in evals[-1].items() if k not in ("event", "step", "time")} if evals else {}


def summary_line(scores: Mapping[str, float]) -> str:
    """The numbers that one looks at first."""
    shown = ("PCKh@0.5", "PCKh@0.1", "AUC", "AP", "AP50", "AP75", "AR", "AP_easy", "AP_medium", "AP_hard", "people_per_image",
             "scale_pearson", "EPE", "pearson", "calibration_error")  # fmt: skip
    return "  ".join(f"{k} {scores[k]:.3f}" for k in shown if k in scores)


def start(config: RunConfig) -> None:
    """Logging, and the other processes where there are any; call it before anything touches a device."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax and TFDS tell much
    if config.multihost or config.coordinator:
        parallel.start_multihost(
            coordinator=config.coordinator, num_processes=config.num_processes, process_id=config.process_id
        )
