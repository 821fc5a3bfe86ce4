"""The settings that every experiment has: the flags, how they are parsed, and what may be given."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import tyro

from jaxpose import checkpoint, files

ConfigT = TypeVar("ConfigT", bound="RunConfig")


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


def check_paths(config: Any) -> None:
    """Raise a ValueError that names the flag of a path that is a URL."""
    for name, value in vars(config).items():
        if isinstance(value, Path):
            try:
                files.local(value)
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


def settings(config: RunConfig) -> dict[str, Any]:
    """The config as JSON-able values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))
