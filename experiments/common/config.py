"""The settings of every experiment: the flags, how they are parsed, and which values and combinations are valid."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from experiments.common import rules
from experiments.common.rules import (
    AllPositive,
    AnyPath,
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
from jaxpose import buckets, checkpoint, files, tasks
from jaxpose.data import labels as tools
from jaxpose.data.formats import Choice
from jaxpose.data.reading import Reading
from jaxpose.inference import Settings, from_checkpoint

ConfigT = TypeVar("ConfigT", bound="RunConfig")


@dataclass(frozen=True)
class RunConfig:
    """Settings of every experiment. LEVEL is the kind of one sample of its tasks, see `jaxpose.tasks.Task`."""

    LEVEL: ClassVar[tasks.Level]

    out: Annotated[Path | None, AnyPath, MayChange] = None
    """Folder of the run: log, checkpoints, results, pictures. Giving the same folder again resumes the run. None: runs/ and the
    experiment's name, or the folder that --eval-only names. May be in a bucket: gs://bucket/run."""
    data: Annotated[Path | None, AnyPath, MayMove] = None
    """Folder with images and annotations, or the name of a data set that `jaxpose prepare` wrote to --data-dir; none:
    the embedded synthetic people."""
    labels: Annotated[Path | None, LocalPath, MayMove] = None
    """Project of a labelling tool instead of --data: DeepLabCut, Lightning Pose, SLEAP (.slp), YOLO pose, Label Studio's export,
    CVAT's XML, labelme, COCO. A project without a split is split by video, or by picture, with a fifth for evaluation."""
    labels_format: Annotated[tools.Choice, AnyValue, Fixed, Unsaid("auto")] = "auto"
    """The tool that wrote --labels; auto: detected from the content."""
    names: Annotated[tuple[str, ...] | None, AnyValue, Fixed, Unsaid(None)] = None
    """With --labels: names of the joints in order, if the project does not list them, or to change the order."""
    corner: Annotated[bool, AnyValue, Fixed, Unsaid(False)] = False
    """With --labels: subtract half a pixel, for tools that count pixels from the corner of the first one instead of its centre."""
    box: Annotated[Literal["joints", "picture"], AnyValue, Fixed, Unsaid("joints")] = "joints"
    """With --labels: the box of a person without one: the extent of the joints and a margin, or the whole picture, if it holds one
    person and is to be predicted without a detector."""
    annotations: Annotated[Path | None, LocalPath, MayMove] = None
    """Annotation file to train on (with --eval-only: to evaluate on), if it is not in the usual place in --data."""
    images: Annotated[Path | None, LocalPath, MayMove] = None
    """Image folder of --annotations; none: searched in --data, or next to the file."""
    val_annotations: Annotated[Path | None, LocalPath, MayChange] = None
    """Annotation file to evaluate on, if it is not in the usual place in --data."""
    val_images: Annotated[Path | None, LocalPath, MayChange] = None
    """Image folder of --val-annotations; none: that of --images, or searched in --data or next to the file."""
    val_fraction: Annotated[
        float, Between(0, 1, "a part of the images, from 0 to below 1", open_high=True), Fixed, Unsaid(0.0)
    ] = 0.0
    """Evaluate on this part of the training images, and train on the others; the file names decide, so the split is repeatable."""
    format: Annotated[Choice, AnyValue, Fixed] = "auto"
    """Format of the annotations, as for `jaxpose prepare`; auto: detected from the content."""
    category: Annotated[int | str | None, AnyValue, Fixed, Unsaid(None)] = None
    """Name or id of the category, or "all"; none: the one with keypoints, or all categories with the same joints."""
    flip_pairs: Annotated[tuple[str, ...] | None, AnyValue, Fixed, Unsaid(None)] = None
    """Pairs of left and right joints, such as left_ear:right_ear, or "none"; not given: those of the category or of the names."""
    sigmas: Annotated[tuple[float, ...] | None, AllPositive, MayChange] = None
    """OKS sigmas, one per joint, or one for all; none: those of the category or of the names."""
    visible_above: Annotated[float | None, AnyValue, Fixed, Unsaid(None)] = None
    """A joint is labelled if its visibility is above this value, as for confidences; none: above 0."""
    exif: Annotated[Literal["auto", "apply", "ignore"], AnyValue, Fixed, Unsaid("auto", also=("ignore",))] = "auto"
    """Rotate images according to their EXIF orientation, or use the stored pixels; auto: decided by annotated sizes and poses."""
    follow_links: Annotated[Literal["files", "all", "none"], AnyValue, MayChange] = "files"
    """Symbolic links out of the image folder to follow: those of image files, of folders too, or none."""
    reorder_joints: Annotated[bool, AnyValue, Fixed, Unsaid(False)] = False
    """Reorder the joints of the evaluation file by name to match the training file (or the checkpoint)."""
    train_split: Annotated[str, AnyValue, Fixed] = "train"
    """Name of the training split; COCO's train2017 is called "train". Several are joined by +: train+val."""
    val_split: Annotated[str, AnyValue, MayChange] = "val"
    """Name of the evaluation split."""
    data_dir: Annotated[Path, AnyPath, MayChange] = Path("runs/data")
    """Folder of prepared data sets (TFDS, array_record); each is prepared once."""
    cache: Annotated[Path, LocalPath, MayChange] = buckets.CACHE
    """Folder of this machine for copies of what --out, --data, --data-dir and --init have in a bucket (gs://, s3://)."""
    on_bad: Annotated[Literal["error", "skip"], AnyValue, MayChange] = "error"
    """Action for a bad sample (truncated image, NaN, box outside): stop, or skip it, counted and logged."""
    verify: Annotated[bool, AnyValue, MayChange] = False
    """Decode every image completely during preparation: detects damage inside a file, but takes several times as long."""
    synthetic_images: Annotated[int, AtLeast(2, "one to train on, one to evaluate on"), Fixed] = 2000
    """Number of synthetic images to draw, a tenth of them for evaluation."""

    size_wh: Annotated[tuple[int, int], Size, Fixed] = (192, 256)
    """Input width and height."""
    batch_size: Annotated[int, Positive, Fixed] = 256
    """Global batch size, over all devices and processes."""
    epochs: Annotated[float, Positive, MayChange] = 270
    """Passes over the training persons."""
    learning_rate: Annotated[float, Positive, Fixed] = 1e-3
    """The optimiser's learning rate for this global batch size."""
    optimizer: Annotated[Literal["adam", "sgd"], AnyValue, Fixed, Unsaid("adam")] = "adam"
    """Adam, or SGD with momentum."""
    momentum: Annotated[float, Between(0, 1, "a decay from 0 to below 1", open_high=True), Fixed, Unsaid(0.9)] = 0.9
    """With --optimizer sgd: the momentum."""
    weight_decay: Annotated[float, AtLeast(0), Fixed, Unsaid(0.0)] = 0.0
    """Factor of the weights that is added to their gradient; weights that are frozen, and those of BatchNorm, are left out."""
    base_batch_size: Annotated[int | None, Positive, Fixed] = None
    """Scale the learning rate by batch_size / base_batch_size; none: no scaling."""
    decay: Annotated[Literal["milestones", "linear", "plateau", "exponential"], AnyValue, Fixed] = "milestones"
    """Decay of the learning rate: by 0.1 at --milestones, linearly to 0 at the end of the last epoch, by 0.1 twice, each time that
    the evaluations stop improving (--plateau), or by a factor after every epoch (--exponential)."""
    exponential: Annotated[float, Between(0, 1, "a factor above 0, at most 1", open_low=True), Fixed, Unsaid(0.95)] = (
        0.95
    )
    """With --decay exponential: the factor of the learning rate after every epoch."""
    plateau: Annotated[int, Positive, Fixed, Unsaid(3)] = 3
    """With --decay plateau: number of evaluations without a better score after which the rate is multiplied by 0.1."""
    milestones: Annotated[tuple[float, ...], Increasing, MayChange] = (170, 200)
    """Epochs after which the learning rate is multiplied by 0.1."""
    warmup_steps: Annotated[int, AtLeast(0), Fixed] = 0
    """Steps of linear warm-up."""
    warmup_epochs: Annotated[float, AtLeast(0), Fixed] = 0
    """Epochs of linear warm-up, added to --warmup-steps."""
    warmup_start: Annotated[float, Between(0, 1, "a part of the learning rate, above 0", open_low=True), Fixed] = 0.001
    """Part of the learning rate at the start of the warm-up."""
    clip_norm: Annotated[float | None, Positive, Fixed] = None
    """Largest norm of the gradient."""
    clip_each: Annotated[bool, AnyValue, Fixed, Unsaid(False)] = False
    """With --clip-norm: bound the norm of each tensor by itself, as RLE's code does in space, instead of all together (QUIRK R18)."""
    accumulate: Annotated[int, Positive, Fixed] = 1
    """Batches whose gradients are averaged into one update."""
    ema: Annotated[
        float | None, Between(0, 1, "a decay between 0 and 1, or None", open_low=True, open_high=True), Fixed
    ] = None
    """Decay of the moving average of the weights that is evaluated; none: no average."""
    ema_growth: Annotated[float, AtLeast(0), MayChange] = 9.0
    """Until it reaches --ema, the decay of step t is t / (t + this value), so that the average forgets the initial weights quickly;
    0: --ema from the first step on, as in runs that were started before this flag existed."""
    seed: Annotated[int, AnyValue, Fixed] = 0
    """Seed of the initialisation, the order of the data, and the augmentation."""

    eval_every: Annotated[float, Positive, MayChange] = 10
    """Epochs between evaluations, each followed by a checkpoint."""
    checkpoint_every: Annotated[int, AtLeast(0), MayChange] = 0
    """Also save a checkpoint every this many steps; 0: only at evaluations."""
    keep: Annotated[int, Positive, MayChange] = 2
    """Number of latest checkpoints to keep; the best one is kept in addition."""
    flip_test: Annotated[bool, AnyValue, MayChange] = True
    """Average with the prediction for the mirrored crop."""
    patience: Annotated[int | None, Positive, MayChange] = None
    """Stop when the best evaluation is this many evaluations old; none: train to the end."""
    eval_only: Annotated[Path | None, AnyPath, MayChange] = None
    """Evaluate this checkpoint (a run's folder) and stop."""
    plots: Annotated[bool, AnyValue, MayChange] = True
    """Draw curves, density, calibration and predictions at the end (needs matplotlib)."""

    log_every: Annotated[int, Positive, MayChange] = 20
    """Steps between lines of the log."""
    workers: Annotated[int | None, Positive, MayChange] = None
    """Threads of the input pipeline; none: one per core."""
    fsdp: Annotated[int, Positive, MayChange] = 1
    """Number of neighbouring devices that share one copy of the optimiser's state; 1: each has its own."""
    multihost: Annotated[bool, AnyValue, MayChange] = False
    """Join the other processes of a TPU pod or SLURM job (JAX detects them)."""
    coordinator: Annotated[str | None, AnyValue, MayChange] = None
    """host:port of process 0, for clusters where JAX cannot detect the processes; needs the two flags below."""
    num_processes: Annotated[int | None, Positive, MayChange] = None
    """With --coordinator: number of processes."""
    process_id: Annotated[int | None, AtLeast(0), MayChange] = None
    """With --coordinator: index of this process, from 0."""

    def check(self) -> None:
        """Raises a ValueError if flags contradict each other."""
        if self.decay == "linear" and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"--warmup-epochs {self.warmup_epochs}: expected 0 or more, and below --epochs with --decay linear"
            )
        places = ("data", "annotations", "images", "val_annotations", "val_images")
        given = [f"--{name.replace('_', '-')}" for name in places if getattr(self, name) is not None]
        if self.labels is not None and given:
            raise ValueError(f"--labels {self.labels} names labels and pictures: leave out {', '.join(given)}")
        if self.labels is None:
            tools.check_alone(names=self.names, corner=self.corner, labels_format=self.labels_format, box=self.box)
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

    def idle(self) -> dict[str, str]:
        """Returns the flags, or groups of flags, that have no effect beside the others, each with the flag that would make it count.

        A flag of these that is given by hand is refused (`refuse_idle`); one that a preset or a stored run sets is not.
        """
        flags = {}
        if self.optimizer != "sgd":
            flags["momentum"] = "--optimizer sgd"
        if self.decay != "milestones":
            flags["milestones"] = "--decay milestones"
        if self.decay != "plateau":
            flags["plateau"] = "--decay plateau"
        if self.decay != "exponential":
            flags["exponential"] = "--decay exponential"
        if not self.warmup_steps and not self.warmup_epochs:
            flags["warmup_start"] = "--warmup-steps or --warmup-epochs"
        if self.ema is None:
            flags["ema_growth"] = "--ema"
        if self.clip_norm is None:
            flags["clip_each"] = "--clip-norm"
        return flags

    @classmethod
    def resume_rules(cls, run: Mapping[str, Any]) -> Mapping[str, Resume]:
        """Returns how each flag of a resumed run may differ; the slope of a linear decay depends on the number of epochs."""
        return rules.resume_rules(cls) | ({"epochs": Fixed} if run.get("decay") == "linear" else {})

    def reading(self, part: Literal["train", "val"]) -> Reading:
        """Returns the settings for reading label files and images of one part of the data."""
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
        """Returns these settings for resuming a run with the stored settings `run`, which override those that a run cannot change."""
        return dataclasses.replace(self, ema_growth=run.get("ema_growth", 0.0))

    def flips(self) -> bool:
        """Returns whether predictions are averaged with those of the mirrored image."""
        return self.flip_test

    def test_settings(self) -> Settings:
        """Returns the test settings of the net, as the run's checkpoints store them."""
        values = {name: getattr(self, name) for name in _tested(self)} | {"flip_test": self.flips()}
        # None is a value of --nms alone; elsewhere it stands for the default.
        return Settings(**{name: value for name, value in values.items() if value is not None or name == "nms"})

    def as_trained(self, stored: Mapping[str, Any]) -> Self:
        """Returns the settings that evaluate a stored run as it was evaluated during training.

        Args:
            stored: the config of the run's checkpoint; settings that it lacks are taken from here.
        """
        size_wh = getattr(tasks.from_config(stored["task"]), "size_wh", self.size_wh)  # a task need not read pictures
        config = dataclasses.replace(self, size_wh=size_wh)
        settings = from_checkpoint(stored, default=config.test_settings())
        run = stored.get("run") or {}
        # A run on drawn pictures is evaluated on those that it held out.
        names = ("synthetic_images", "seed") if run.get("data") is None else ()
        data = {name: run[name] for name in names if name in run}
        return dataclasses.replace(config, **data, **{name: getattr(settings, name) for name in _tested(self)})


@dataclass(frozen=True)
class Methodical(RunConfig):
    """Settings of a page whose --method chooses several other flags, which may also be given by hand.

    A flag that is given by hand and that the method also chooses is honoured or refused, never dropped: `decided` refuses,
    `apply_flags` honours. The names are stored with the run, so that --config repeats it.
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

    def apply_flags(self, group: str, default: Any) -> Any:
        """Returns `default`, a group of settings such as MapLoss, with those of its fields that were given by hand."""
        given = [name.removeprefix(f"{group}.") for name in self.by_hand if name.startswith(f"{group}.")]
        return dataclasses.replace(default, **{name: getattr(getattr(self, group), name) for name in given})


UNUSED = object()
AUTO = "auto"  # the preset for a user's own data, on pages that have it


def parse(
    presets: Mapping[str, ConfigT], *, name: str, default: str, description: str, argv: list[str] | None = None
) -> ConfigT:
    """Parses the command line: `--preset NAME` selects the defaults, and every other flag overrides one of them.

    `--config FILE` takes the defaults from a file that a run wrote (config.json). On a page with the preset "auto" it is the default
    if --data, --labels or --annotations is given without --preset and --config.

    With `--eval-only RUN` the run's checkpoint gives the defaults of the test settings, so that the net is tested as during training;
    flags override these too. The checkpoint's config is read as a file, without using a device.

    Args:
        presets: the defaults by name.
        name: name of the experiment: a run without --out goes to runs/NAME.
        default: the preset of a command line that names none.
        description: text of --help.
        argv: the command line; None: that of the program.
    """

    @dataclass(frozen=True)
    class Defaults:
        preset: Annotated[str | None, AnyValue] = None
        config: Annotated[Path | None, LocalPath] = None
        eval_only: Annotated[Path | None, AnyPath] = None

    words = list(sys.argv[1:] if argv is None else argv)
    defaults, rest = tyro.cli(Defaults, args=words, return_unknown_args=True, add_help=False)
    given = given_flags(rest)
    if defaults.preset is not None and defaults.preset not in presets:
        raise SystemExit(f"--preset {defaults.preset}: expected one of {', '.join(presets)}")
    if defaults.preset is not None and defaults.config is not None:
        raise ValueError(
            f"--preset {defaults.preset} --config {defaults.config}: both give the defaults; leave one out"
        )
    follows = AUTO in presets and bool(given & {"data", "labels", "annotations"}) and defaults.eval_only is None
    named = defaults.preset or (AUTO if follows else default)
    preset = presets[named]
    rules.check(defaults)
    if defaults.config is not None:
        preset = read_settings(type(preset), defaults.config)
    if defaults.eval_only is not None:
        preset = dataclasses.replace(preset, eval_only=defaults.eval_only)
        preset = preset.as_trained(checkpoint.read_config(defaults.eval_only))
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
    """Returns the fields of a config that are test settings of a net."""
    return [field.name for field in dataclasses.fields(Settings) if hasattr(config, field.name)]


def given_flags(words: Sequence[str]) -> set[str]:
    """Returns the names of the fields whose flags occur in a command line.

    >>> sorted(given_flags(["--size-wh", "96", "96", "--no-flip-test", "--own.flip=0.5", "-3"]))
    ['flip_test', 'own.flip', 'size_wh']
    """
    names = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    return {name.removeprefix("no_").replace(".no_", ".") for name in names}


def read_settings(kind: type[ConfigT], path: Path) -> ConfigT:
    """Reads a config that `settings` returned from a file, except --out.

    Raises:
        FileNotFoundError, ValueError: the file does not exist or holds no JSON object; flags or values are invalid for the page.
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
        values: values by field, as JSON holds them; missing ones are taken from `default`.
        default: the config to start from; None: a config without flags.

    Raises:
        ValueError: a name is not a field.

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
    """Converts a JSON value to the type of its field."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None:
        return None
    if dataclasses.is_dataclass(options[0]):
        return from_settings(options[0], value)
    if Path in options:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def check_same_run(kind: type[RunConfig], stored: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raises a ValueError if the settings make a different run from the one in `out`.

    Args:
        kind: class of the settings; its fields declare what a resumed run may change.
        stored: the settings that the run was started with, as its checkpoint has them.
        now: the settings to resume with, as `settings` returns them.
        out: folder of the run, named in the message.
    """
    different = rules.changes(kind, stored, now, allowed=kind.resume_rules(now))
    if not different:
        return
    others = rules.changes(kind, stored, now, allowed={})  # a run of another default differs in more than one flag

    def listed(names: Collection[str]) -> str:
        return "; ".join(f"--{k.replace('_', '-')} was {others[k][0]}, is {others[k][1]}" for k in names)

    may_change = [name for name in others if name not in different and name not in ("out", "by_hand")]
    raise ValueError(
        f"{out} holds a run with different settings: {listed(different)}. Give the same ones, or another --out."
        + (f" Different too, though a resumed run may change them: {listed(may_change)}." if may_change else "")
    )


def settings(config: RunConfig) -> dict[str, Any]:
    """Returns the config as values that JSON can hold."""
    # What a bucket has goes by its URL, whatever the copy on this machine is called.
    return json.loads(json.dumps(dataclasses.asdict(config), default=lambda value: str(buckets.origin(value))))


def refuse_idle(config: RunConfig, given: Collection[str]) -> None:
    """Raises a ValueError where a flag that was given by hand has no effect beside the others.

    A run that only evaluates takes its net from the checkpoint, and one with --minutes leaves choices to the data: neither is checked.

    Args:
        config: the settings of the run.
        given: names of the flags that were given by hand.
    """
    if config.eval_only is not None or getattr(config, "minutes", None) is not None:
        return
    for idle, needs in config.idle().items():
        for name in sorted(given):
            if name == idle or name.startswith(idle + "."):
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} has no effect without {needs}: leave it out, or give that too")
