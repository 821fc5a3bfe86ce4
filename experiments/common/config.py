"""The settings that every experiment has: the flags, how they are parsed, and what may be given."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from experiments.common import rules
from experiments.common.rules import (
    AllPositive,
    AnyValue,
    AtLeast,
    Between,
    Fixed,
    Increasing,
    LocalPath,
    MayChange,
    MayMove,
    Positive,
    Resume,
    Size,
    Unsaid,
)
from jaxpose import checkpoint, files, tasks
from jaxpose.data import labels as tools
from jaxpose.data.formats import Choice
from jaxpose.data.reading import Reading
from jaxpose.inference import Settings, from_checkpoint

ConfigT = TypeVar("ConfigT", bound="RunConfig")


@dataclass(frozen=True)
class RunConfig:
    """Settings that every experiment has. LEVEL: what one sample of its tasks is, see `jaxpose.tasks.Task`."""

    LEVEL: ClassVar[tasks.Level]

    out: Annotated[Path | None, LocalPath, MayChange] = None
    """Folder of the run: log, checkpoints, results, pictures. The same folder again resumes the run. None: runs/ and the
    experiment's name, or the folder that --eval-only names."""
    data: Annotated[Path | None, LocalPath, MayMove] = None
    """Folder with images and annotations, or the name of a data set that `jaxpose prepare` wrote to --data-dir; none:
    the embedded synthetic people."""
    labels: Annotated[Path | None, LocalPath, MayMove] = None
    """In place of --data a project of a labelling tool: DeepLabCut, Lightning Pose, SLEAP (.slp), YOLO pose, Label Studio's export,
    CVAT's XML, labelme, COCO. What its tool does not split is split by video, or by picture, a fifth to evaluate on."""
    labels_format: Annotated[tools.Choice, AnyValue, Fixed, Unsaid("auto")] = "auto"
    """The tool of --labels; auto: the one that the content shows."""
    names: Annotated[tuple[str, ...] | None, AnyValue, Fixed, Unsaid(None)] = None
    """With --labels: names of the joints in order, where the project does not list them, or another order."""
    corner: Annotated[bool, AnyValue, Fixed, Unsaid(False)] = False
    """With --labels: the tool counts pixels from the corner of the first one, not its centre, so half a pixel is subtracted."""
    annotations: Annotated[Path | None, LocalPath, MayMove] = None
    """Annotation file to train on (with --eval-only: to evaluate on), where it is not found in --data."""
    images: Annotated[Path | None, LocalPath, MayMove] = None
    """Its image folder; none: found in --data, or beside the file."""
    val_annotations: Annotated[Path | None, LocalPath, MayChange] = None
    """Annotation file to evaluate on, where it is not found in --data."""
    val_images: Annotated[Path | None, LocalPath, MayChange] = None
    """Its image folder; none: that of --images, or found in --data or beside the file."""
    val_fraction: Annotated[
        float, Between(0, 1, "a part of the images, from 0 to below 1", open_high=True), Fixed, Unsaid(0.0)
    ] = 0.0
    """Evaluate on this part of the training images, and train on the others; drawn from their file names, so it is always the same."""
    format: Annotated[Choice, AnyValue, Fixed] = "auto"
    """Format of the annotations, as `jaxpose prepare` has it; auto: the one that their content shows."""
    category: Annotated[int | str | None, AnyValue, Fixed, Unsaid(None)] = None
    """Name or id of the category, or "all"; none: the one with keypoints, or all that have the same joints."""
    flip_pairs: Annotated[tuple[str, ...] | None, AnyValue, Fixed, Unsaid(None)] = None
    """Pairs of left and right joints, such as left_ear:right_ear, or "none"; none given: those of the category or of the names."""
    sigmas: Annotated[tuple[float, ...] | None, AllPositive, MayChange] = None
    """OKS sigmas, one for each joint, or one for all; none: those of the category or of the names."""
    visible_above: Annotated[float | None, AnyValue, Fixed, Unsaid(None)] = None
    """A joint is labelled where its visibility is above this, as for confidences; none: above 0."""
    exif: Annotated[Literal["auto", "apply", "ignore"], AnyValue, Fixed, Unsaid("auto", also=("ignore",))] = "auto"
    """Turn pictures as their EXIF orientation says, or take the stored pixels; auto: as annotated sizes and poses show."""
    follow_links: Annotated[Literal["files", "all", "none"], AnyValue, MayChange] = "files"
    """Symbolic links out of the image folder that are followed: those of image files, of folders too, or none."""
    reorder_joints: Annotated[bool, AnyValue, Fixed, Unsaid(False)] = False
    """Bring the joints of the evaluation file into the order of the training file (or of the checkpoint), by their names."""
    train_split: Annotated[str, AnyValue, Fixed] = "train"
    """Name of the training split: COCO's train2017 is found under "train"."""
    val_split: Annotated[str, AnyValue, MayChange] = "val"
    """Name of the evaluation split."""
    data_dir: Annotated[Path, LocalPath, MayChange] = Path("runs/data")
    """Where prepared data sets are kept (TFDS, array_record); they are prepared once."""
    on_bad: Annotated[Literal["error", "skip"], AnyValue, MayChange] = "error"
    """What becomes of a bad sample (truncated image, NaN, box outside): stop, or skip it, counted and logged."""
    verify: Annotated[bool, AnyValue, MayChange] = False
    """Decode every image completely while preparing: finds damage inside a file, and takes several times as long."""
    synthetic_images: Annotated[int, AtLeast(2, "one to train on, one to evaluate on"), Fixed] = 2000
    """How many synthetic images to draw, a tenth of them for evaluation."""

    size_wh: Annotated[tuple[int, int], Size, Fixed] = (192, 256)
    """Input width and height."""
    batch_size: Annotated[int, Positive, Fixed] = 256
    """Global batch size, over all devices and processes."""
    epochs: Annotated[float, Positive, MayChange] = 270
    """Passes over the training persons."""
    learning_rate: Annotated[float, Positive, Fixed] = 1e-3
    """Adam's learning rate for this global batch size."""
    base_batch_size: Annotated[int | None, Positive, Fixed] = None
    """Scale the learning rate by batch_size / base_batch_size; none: never scaled."""
    decay: Annotated[Literal["milestones", "linear"], AnyValue, Fixed] = "milestones"
    """How the learning rate falls: by 0.1 at --milestones, or in a line to 0 at the end of the last epoch."""
    milestones: Annotated[tuple[float, ...], Increasing, MayChange] = (170, 200)
    """Epochs after which the learning rate is multiplied by 0.1."""
    warmup_steps: Annotated[int, AtLeast(0), Fixed] = 0
    """Steps of linear warm-up."""
    warmup_epochs: Annotated[float, AtLeast(0), Fixed] = 0
    """Epochs of it, besides."""
    warmup_start: Annotated[float, Between(0, 1, "a part of the learning rate, above 0", open_low=True), Fixed] = 0.001
    """Part of the learning rate that the warm-up starts from."""
    clip_norm: Annotated[float | None, Positive, Fixed] = None
    """Largest global norm of the gradient."""
    accumulate: Annotated[int, Positive, Fixed] = 1
    """Batches whose gradients are averaged into one update."""
    ema: Annotated[
        float | None, Between(0, 1, "a decay between 0 and 1, or None", open_low=True, open_high=True), Fixed
    ] = None
    """Decay of the moving average of the weights that is evaluated; none: no average."""
    ema_growth: Annotated[float, AtLeast(0), MayChange] = 9.0
    """Until it reaches --ema the decay of step t is t / (t + this), so that the average forgets the initial weights at once; 0:
    --ema from the first step on, as in runs that were started before there was a choice."""
    seed: Annotated[int, AnyValue, Fixed] = 0
    """Seed of the initialisation, the order of the data, and the augmentation."""

    eval_every: Annotated[float, Positive, MayChange] = 10
    """Epochs between evaluations, each followed by a checkpoint."""
    checkpoint_every: Annotated[int, AtLeast(0), MayChange] = 0
    """Also save a checkpoint every so many steps; 0: only at evaluations."""
    keep: Annotated[int, Positive, MayChange] = 2
    """How many of the last checkpoints are kept; the best one is kept besides."""
    flip_test: Annotated[bool, AnyValue, MayChange] = True
    """Average with the prediction on the mirrored crop."""
    patience: Annotated[int | None, Positive, MayChange] = None
    """Stop when the best evaluation is this many evaluations old; none: train to the end."""
    eval_only: Annotated[Path | None, LocalPath, MayChange] = None
    """Evaluate this checkpoint (a run's folder) and stop."""
    plots: Annotated[bool, AnyValue, MayChange] = True
    """Draw curves, density, calibration and predictions at the end (needs matplotlib)."""

    log_every: Annotated[int, Positive, MayChange] = 20
    """Steps between lines of the log."""
    workers: Annotated[int | None, Positive, MayChange] = None
    """Threads of the input pipeline; none: one per core."""
    fsdp: Annotated[int, Positive, MayChange] = 1
    """Neighbouring devices that share one copy of the optimiser's state; 1: each has its own."""
    multihost: Annotated[bool, AnyValue, MayChange] = False
    """Join the other processes of a TPU pod or SLURM job (JAX finds them)."""
    coordinator: Annotated[str | None, AnyValue, MayChange] = None
    """host:port of process 0, where JAX cannot find the processes itself; needs the two below."""
    num_processes: Annotated[int | None, Positive, MayChange] = None
    """With --coordinator: how many processes there are."""
    process_id: Annotated[int | None, AtLeast(0), MayChange] = None
    """With --coordinator: which of them this is, from 0."""

    def check(self) -> None:
        """Raises a ValueError where flags do not go together."""
        if self.decay == "linear" and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"--warmup-epochs {self.warmup_epochs}: expected 0 or more, and below --epochs where the rate falls in a line"
            )
        places = ("data", "annotations", "images", "val_annotations", "val_images")
        given = [f"--{name.replace('_', '-')}" for name in places if getattr(self, name) is not None]
        if self.labels is not None and given:
            raise ValueError(f"--labels {self.labels} names labels and pictures: leave out {', '.join(given)}")
        if self.labels is None and (self.names is not None or self.corner or self.labels_format != "auto"):
            raise ValueError("--names, --corner and --labels-format belong to --labels: give the project")
        own_val = self.val_annotations is not None or self.val_images is not None
        if self.val_fraction and own_val:
            raise ValueError(
                "--val-fraction takes a part of the training images: leave out --val-annotations and --val-images"
            )
        evaluates = self.val_annotations is not None or self.val_fraction or self.eval_only
        if self.annotations is not None and self.data is None and not evaluates:
            raise ValueError(
                f"--annotations {self.annotations}: what to evaluate on is missing: give --val-annotations, or --val-fraction 0.1"
            )

    @classmethod
    def resume_rules(cls, run: Mapping[str, Any]) -> Mapping[str, Resume]:
        """How each flag of a resumed run may differ; the slope of a linear decay follows from its end."""
        return rules.resume_rules(cls) | ({"epochs": Fixed} if run.get("decay") == "linear" else {})

    def reading(self, part: Literal["train", "val"]) -> Reading:
        """How label files and pictures of one part of the data are read."""
        return Reading(
            flip_pairs=self.flip_pairs,
            sigmas=self.sigmas,
            visible_above=self.visible_above,
            exif=self.exif,
            follow_links=self.follow_links,
            reorder_joints=self.reorder_joints,
            part=part if self.val_fraction else None,
            val_fraction=self.val_fraction,
        )

    def resumed(self, run: Mapping[str, Any]) -> RunConfig:
        """These settings for going on with a run whose stored ones are `run`: what a run cannot change comes from there."""
        return dataclasses.replace(self, ema_growth=run.get("ema_growth", 0.0))

    def flips(self) -> bool:
        """Whether the prediction is averaged with that of the mirrored image."""
        return self.flip_test

    def test_settings(self) -> Settings:
        """How the net of this run is tested, as its checkpoints store it."""
        values = {name: getattr(self, name) for name in _tested(self)} | {"flip_test": self.flips()}
        # None is a value of --nms alone; elsewhere it stands for the default.
        return Settings(**{name: value for name, value in values.items() if value is not None or name == "nms"})

    def as_trained(self, stored: Mapping[str, Any]) -> Self:
        """Returns the settings that evaluate a stored run as it was evaluated while it was trained.

        Args:
            stored: the config of the run's checkpoint. What it does not state is as here.
        """
        config = dataclasses.replace(self, size_wh=tasks.from_config(stored["task"]).size_wh)
        settings = from_checkpoint(stored, default=config.test_settings())
        return dataclasses.replace(config, **{name: getattr(settings, name) for name in _tested(self)})


@dataclass(frozen=True)
class Methodical(RunConfig):
    """Settings of a page whose --method chooses several other flags, which may also be given by hand.

    A flag that is given by hand and that the method also chooses is honoured or refused, never dropped: `decided` refuses,
    `chosen` honours. The names are stored with the run, so that --config repeats it.
    """

    by_hand: Annotated[tyro.conf.Suppress[tuple[str, ...]], AnyValue, MayChange] = dataclasses.field(
        default=(), compare=False
    )
    """Names of the flags that were given by hand."""

    def decided(self, by: str, **values: Any) -> None:
        """Raises a ValueError where a flag was given by hand whose value something else decides.

        Args:
            by: the flag that decides, with its value: "--method I1".
            **values: what it decides by the name of the flag, with "__" for the point: read__decode="argmax". `UNUSED` stands
                for a flag, or for all flags of a group, that has no effect then.
        """
        for name, value in values.items():
            flag = name.replace("__", ".")
            for given in (g for g in self.by_hand if g == flag or g.startswith(flag + ".")):
                now = self
                for part in given.split("."):
                    now = getattr(now, part)
                if value is UNUSED:
                    raise ValueError(f"--{given.replace('_', '-')} {now} has no effect with {by}: leave it out")
                if now != value:
                    raise ValueError(f"--{given.replace('_', '-')} {now}: {by} decides this, {value}; leave it out")

    def chosen(self, group: str, default: Any) -> Any:
        """`default`, a group of settings such as MapLoss, with those of its fields that were given by hand."""
        given = [name.removeprefix(f"{group}.") for name in self.by_hand if name.startswith(f"{group}.")]
        return dataclasses.replace(default, **{name: getattr(getattr(self, group), name) for name in given})


UNUSED = object()
AUTO = "auto"  # the preset of pages that have one, for data without another


def parse(
    presets: Mapping[str, ConfigT], *, name: str, default: str, description: str, argv: list[str] | None = None
) -> ConfigT:
    """Command line -> config: `--preset NAME` chooses the defaults, every other flag overrides one of them.

    `--config FILE` takes the defaults from a file that a run wrote (config.json). A page with the preset "auto" takes it where --data,
    --labels or --annotations is given and neither of them is.

    With `--eval-only RUN` the run's checkpoint is the default of how the net is tested, so that it is tested as it was while it was
    trained; flags override that too. The checkpoint's config is read as a file: no device is touched here.

    Args:
        presets: the defaults by name.
        name: name of the experiment: a run without --out goes to runs/NAME.
        default: the preset that is taken where none is named.
        description: text of --help.
        argv: the command line; None stands for that of the program.
    """

    @dataclass(frozen=True)
    class Defaults:
        preset: Annotated[str | None, AnyValue] = None
        config: Annotated[Path | None, LocalPath] = None
        eval_only: Annotated[Path | None, LocalPath] = None

    words = list(sys.argv[1:] if argv is None else argv)
    chosen, rest = tyro.cli(Defaults, args=words, return_unknown_args=True, add_help=False)
    given = given_flags(rest)
    if chosen.preset is not None and chosen.preset not in presets:
        raise SystemExit(f"--preset {chosen.preset}: expected one of {', '.join(presets)}")
    if chosen.preset is not None and chosen.config is not None:
        raise ValueError(f"--preset {chosen.preset} --config {chosen.config}: both give the defaults; leave one out")
    follows = AUTO in presets and bool(given & {"data", "labels", "annotations"}) and chosen.eval_only is None
    named = chosen.preset or (AUTO if follows else default)
    preset = presets[named]
    rules.check(chosen)
    if chosen.config is not None:
        preset = read_settings(type(preset), chosen.config)
    if chosen.eval_only is not None:
        preset = dataclasses.replace(preset, eval_only=chosen.eval_only)
        preset = preset.as_trained(checkpoint.read_config(chosen.eval_only))
    config = tyro.cli(
        type(preset), default=preset, args=rest,
        description=f"{description}\n\n--preset {{{','.join(presets)}}} chooses the defaults below "
        f"(shown: {named}), --config FILE takes them from the config.json of a run.",
    )  # fmt: skip
    rules.check(config)
    if getattr(config, "minutes", None) is not None:
        if {"minutes", "epochs"} <= given:
            raise ValueError(
                f"--minutes {config.minutes:g} --epochs {config.epochs:g}: both say how long the run is; leave one out"
            )
        config = dataclasses.replace(config, by_hand=tuple(sorted(given)))
    if isinstance(config, Methodical):
        config = dataclasses.replace(config, by_hand=tuple(sorted({*preset.by_hand, *given})))
    if config.out is None:
        folder = checkpoint.find(config.eval_only) if config.eval_only else Path("runs") / name
        config = dataclasses.replace(config, out=folder.parent if folder.name == "checkpoints" else folder)
    return config


def _tested(config: RunConfig) -> list[str]:
    """The fields of a config that say how a net is tested."""
    return [field.name for field in dataclasses.fields(Settings) if hasattr(config, field.name)]


def given_flags(words: Sequence[str]) -> set[str]:
    """Names of the fields whose flags stand among the words of a command line.

    >>> sorted(given_flags(["--size-wh", "96", "96", "--no-flip-test", "--own.flip=0.5", "-3"]))
    ['flip_test', 'own.flip', 'size_wh']
    """
    names = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    return {name.removeprefix("no_").replace(".no_", ".") for name in names}


def read_settings(kind: type[ConfigT], path: Path) -> ConfigT:
    """The config that `settings` gave and that a file holds; --out is not taken from it.

    Raises:
        FileNotFoundError, ValueError: no such file, no JSON object, flags that the page does not have, values that it does not take.
    """
    values = files.read_json(path, "file of settings (--config)")
    if not isinstance(values, dict):
        raise ValueError(
            f"--config {path} holds a {type(values).__name__}: expected the names of flags with their values"
        )
    try:
        config = from_settings(kind, {k: v for k, v in values.items() if k != "out"})
    except (TypeError, ValueError) as error:
        raise ValueError(f"--config {path}: {error}") from None
    rules.check(config)
    return config


def from_settings(kind: type[ConfigT], values: Mapping[str, Any], *, default: ConfigT | None = None) -> ConfigT:
    """The inverse of `settings`.

    Args:
        kind: class of the settings.
        values: JSON-able values by field; those that are missing are `default`'s.
        default: None: a config without flags.

    Raises:
        ValueError: a name that is no field.

    >>> from_settings(RunConfig, {"size_wh": [64, 96], "data": "mouse"}).size_wh
    (64, 96)
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"there is no flag {', '.join('--' + name.replace('_', '-') for name in unknown)}")
    hints = get_type_hints(kind)
    default = kind() if default is None else default
    return dataclasses.replace(default, **{name: _typed(value, hints[name]) for name, value in values.items()})


def _typed(value: Any, hint: Any) -> Any:
    """A JSON value as the type of its field."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None:
        return None
    if dataclasses.is_dataclass(options[0]):
        return from_settings(options[0], value)
    if Path in options:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def check_same_run(kind: type[RunConfig], stored: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raises a ValueError where the settings make another run than the one in `out`.

    Args:
        kind: class of the settings, whose fields say what a resumed run may change.
        stored: the settings that the run was started with, as its checkpoint has them.
        now: the settings to resume with, from `settings`.
        out: folder of the run, for the message.
    """
    different = rules.changes(kind, stored, now, allowed=kind.resume_rules(now))
    if different:
        flags = "; ".join(f"--{k.replace('_', '-')} was {was}, is {new}" for k, (was, new) in different.items())
        raise ValueError(f"{out} holds a run with other settings: {flags}. Give the same ones, or another --out.")


def settings(config: RunConfig) -> dict[str, Any]:
    """The config as JSON-able values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))
