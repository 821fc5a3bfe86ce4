"""Settings that follow from the data: what `--preset auto` chooses for a labelled set, and why.

`measure` reads the labels alone, and `choose` derives settings from them, each with a reason in words; both are pure functions.
`steps_for` derives the number of steps for a time budget from the time of one step. The choices go into an ordinary config
(`settle`), which is printed, stored and can be edited: the same config gives the same run on any machine.

The numbers come from the measurements of docs/few_frames.md.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.common import rules
from experiments.common.config import from_settings, settings
from experiments.common.training import build, steps_of
from jaxpose import checkpoint, files
from jaxpose.data.source import Source
from jaxpose.inference import Settings

log = logging.getLogger(__name__)
STARTED = time.monotonic()  # approximately the start of this program
CONFIG, REASONS = "config.json", "reasons.json"  # in the folder of a run
# The net's maps have stride 4. Input sizes are multiples of 32, so that every stage divides them.
STAGES, DECONVS = 3, (32, 32)
BY_NET = ("size_wh", "backbone", "resnet_stages", "deconvs")  # flags that decide the size of the maps
PADDING = Settings.padding  # factor on a box
SIDES = (96, 128, 160)  # possible lengths of the input's longer side
PER_INPUT_PIXEL = 1.6  # image pixels per input pixel above which a larger input is worth its time
LONG = 0.3  # as a part of the box: joints this far apart show how a body is turned
TURNED = 60.0  # degrees from the usual direction, beyond which a body counts as turned
BATCH = 32
FEW_JOINTS = 5  # least number of bodies to estimate a direction from
MIN_STEPS = 100  # lower bound, even if there is less time


@dataclass(frozen=True)
class Facts:
    """Statistics of the labels of a training set.

    Attributes:
        persons, images: their numbers.
        joints: the number of joints, K; `pairs`: the number of left-right pairs among them.
        labelled: the share of the joints that is labelled.
        never: names of the joints that are never labelled.
        box_wh: median width and height of the boxes, image pixels.
        turned: the share of bodies more than 60 degrees from the usual direction; None if no two joints show a direction.
        angle: angle in degrees from the usual direction that 95 % of the bodies do not exceed; None likewise.
        spread: standard deviation of the logarithm of a pose's extent in its box.
        outside: the share of the labelled joints outside their box.
    """

    persons: int
    images: int
    joints: int
    pairs: int
    labelled: float
    never: tuple[str, ...]
    box_wh: tuple[float, float]
    turned: float | None
    angle: float | None
    spread: float
    outside: float


@dataclass(frozen=True)
class Choice:
    """One setting: the name of a flag's field ("own.flip" for a nested one), its value, and the reason in words."""

    name: str
    value: Any
    reason: str


def measure(source: Source) -> Facts:
    """Returns the statistics of a source of persons from its tables; no image is read."""
    persons, skeleton = source.persons, source.skeleton
    keypoints, boxes = persons["keypoints"].astype(np.float64), persons["box"].astype(np.float64)
    xy, labelled = keypoints[..., :2], keypoints[..., 2] > 0
    corner, size = boxes[:, None, :2], np.maximum(boxes[:, None, 2:], 1e-6)
    places = np.where(labelled[..., None], (xy - corner) / size, 0.5)
    outside = ((places < 0) | (places > 1)).any(-1)
    directions = usual_direction(xy, labelled, boxes)
    return Facts(
        persons=len(persons),
        images=len(np.unique(persons["image"])),
        joints=skeleton.num_joints,
        pairs=len(skeleton.flip_pairs),
        labelled=float(labelled.mean()) if labelled.size else 0.0,
        never=tuple(name for name, some in zip(skeleton.joints, labelled.any(0), strict=True) if not some),
        box_wh=tuple(float(v) for v in np.median(boxes[:, 2:], axis=0)),
        turned=None if directions is None else float((np.abs(directions) > TURNED).mean()),
        angle=None if directions is None else float(np.quantile(np.abs(directions), 0.95)),
        spread=_spread(xy, labelled, boxes),
        outside=float(outside[labelled].mean()) if labelled.any() else 0.0,
    )


def usual_direction(xy: np.ndarray, labelled: np.ndarray, boxes: np.ndarray) -> np.ndarray | None:
    """Returns the angle in degrees of each body from the usual direction, by the pair of joints whose direction varies least.

    Args:
        xy: (N, K, 2) in image pixels; labelled: (N, K); boxes: (N, 4) xywh.

    Returns:
        (M,) angles in (-180, 180] of the M bodies with both joints; None if no pair is labelled on five bodies and far enough apart.

    >>> xy = np.array([[[0.0, 0.0], [0.0, 9.0]]] * 6)  # six upright bodies
    >>> usual_direction(xy, np.ones((6, 2), bool), np.array([[0, 0, 9, 9]] * 6)).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    best, angles = -1.0, None
    side = np.maximum(boxes[:, 2:].max(-1), 1e-6)
    for a in range(xy.shape[1]):
        for b in range(a + 1, xy.shape[1]):
            both = labelled[:, a] & labelled[:, b]
            vector = (xy[both, b] - xy[both, a]) / side[both, None]
            length = np.linalg.norm(vector, axis=-1)
            if len(length) < FEW_JOINTS or length.mean() < LONG:
                continue
            unit = (vector[:, 0] + 1j * vector[:, 1]) / np.maximum(length, 1e-9)
            mean = unit.mean()
            if abs(mean) > best:
                best, angles = abs(mean), np.degrees(np.angle(unit * np.conj(mean)))
    return angles


def _spread(xy: np.ndarray, labelled: np.ndarray, boxes: np.ndarray) -> float:
    """Returns how much the extent of poses varies within their boxes, among bodies with most joints labelled."""
    most = labelled.sum(1) >= max(0.7 * labelled.shape[1], 2)
    if most.sum() < 2:
        return 0.0
    far, near = (np.where(labelled[most][..., None], xy[most], fill) for fill in (-np.inf, np.inf))
    extent = (far.max(1) - near.min(1)).max(-1) / np.maximum(boxes[most][:, 2:].max(-1), 1e-6)
    return float(np.std(np.log(np.maximum(extent, 0.05))))


def choose(
    facts: Facts, *, largest: int = SIDES[-1], given: Mapping[str, Any] | None = None, detections: bool = False
) -> list[Choice]:
    """Chooses the settings for a training set, except the number of steps.

    Args:
        facts: statistics of the labels.
        largest: longest side of the input that there is time for.
        given: values of the flags in `BY_NET` that were given by hand; other settings follow from them.
        detections: True if the run is evaluated on the boxes of a detector.

    Raises:
        ValueError: there are no persons to train on.
    """
    if facts.persons < 1:
        raise ValueError("nobody to train on: no person of the training split has a labelled joint")
    given = given or {}
    size = tuple(given.get("size_wh") or input_size(facts, largest=largest))
    deconvs = () if given.get("backbone") == "hrnet" else DECONVS
    maps = map_size(size, given={"deconvs": deconvs, **given})
    return [
        Choice("size_wh", size, _why_size(facts, size)),
        *_augmentation(facts),
        Choice("backbone", "resnet", "a small net trains within minutes"),
        Choice("depth", 18, "the same"),
        Choice("width", 16, "the same"),
        Choice("resnet_stages", STAGES, "stride 16 is enough for crops this small"),
        Choice("deconvs", deconvs, f"maps of {maps[0]}x{maps[1]}"),
        Choice("head", "peak", "peaks of heatmaps need a fraction of the steps of a pooled head"),
        Choice("auxiliary.kind", "mse", "trains the maps"),
        Choice("auxiliary.target", "unbiased", "peaks between pixels"),
        Choice("auxiliary.sigma", 1.5, "of maps this small"),
        Choice(
            "auxiliary.weight",
            float(facts.joints * maps[0] * maps[1]),
            "half the squared error, summed over joints and pixels",
        ),
        Choice("sigma_bias", -1.0, "sigma starts small"),
        Choice("batch_size", BATCH, "enough for the statistics of BatchNorm"),
        Choice("learning_rate", 3e-3, "Adam's, with a net this small"),
        Choice("decay", "linear", "to 0 at the end, so every step counts"),
        Choice("clip_norm", 100.0, "only a gradient that explodes is cut"),
        Choice("ema", 0.98, "the average of about 50 steps"),
        *_judged(detections),
    ]


def _judged(detections: bool) -> list[Choice]:
    """Chooses how evaluations are used: skill and the factor of sigma need the boxes of the labels."""
    if detections:
        reason = "with --detections there is no error on the boxes of the labels"
        return [Choice("best", "AP", reason), Choice("calibrate", False, reason)]
    return [Choice("calibrate", True, "the width of the predicted regions comes from held-out frames")]


def map_size(size_wh: tuple[int, int], *, given: Mapping[str, Any]) -> tuple[int, int]:
    """Returns width and height of the heatmaps for an input of this size.

    Args:
        size_wh: width and height of the input.
        given: flags of `BY_NET`; missing ones have the values of `choose`.

    >>> map_size((96, 128), given={}), map_size((96, 128), given={"deconvs": ()})
    ((24, 32), (6, 8))
    """
    deconvs = given.get("deconvs", DECONVS)
    if given.get("backbone") == "hrnet":
        stride, doublings = 4, 0
    else:
        stages = 4 if given.get("backbone") == "mobilenet_v2" else given.get("resnet_stages", STAGES)
        stride, doublings = 2 ** (stages + 1), 3 if deconvs is None else len(deconvs)
    width, height = (-(-side // stride) * 2**doublings for side in size_wh)
    return width, height


def input_size(facts: Facts, *, largest: int = SIDES[-1]) -> tuple[int, int]:
    """Returns width and height of the input, multiples of 32: square if bodies lie in all directions, else half way between the
    median box's shape and a square, since other bodies have other shapes.

    >>> upright = Facts(100, 100, 17, 8, 1.0, (), (60.0, 130.0), 0.0, 10.0, 0.1, 0.0)
    >>> input_size(upright), input_size(dataclasses.replace(upright, turned=0.2))
    ((96, 128), (128, 128))
    """
    width, height = facts.box_wh
    wanted = PADDING * max(width, height) / PER_INPUT_PIXEL
    side = min(min((s for s in SIDES if s >= wanted), default=SIDES[-1]), largest)
    if seen_from_above(facts):
        return side, side
    aspect = float(np.sqrt(np.clip(width / max(height, 1e-6), 0.25, 4.0)))
    short = int(32 * max(2, round(side * min(aspect, 1 / aspect) / 32)))
    return (short, side) if aspect < 1 else (side, short)


def seen_from_above(facts: Facts) -> bool:
    """Returns whether bodies lie in all directions: more than one in twenty is far from the usual one."""
    return facts.turned is not None and facts.turned > 0.05


def _why_size(facts: Facts, size: tuple[int, int]) -> str:
    width, height = facts.box_wh
    zoom = PADDING * max(width / size[0], height / size[1])
    shape = "square, since the bodies are turned" if seen_from_above(facts) else "half way to a square"
    return f"boxes are {width:.0f}x{height:.0f} px: {shape}, {zoom:.1f} image px to an input px"


def _augmentation(facts: Facts) -> list[Choice]:
    if facts.pairs:
        flip = (0.5, f"{facts.pairs} left-right pairs are known by name")
    else:
        flip = (0.0, "no left-right pairs are known, and a mirror would exchange what only the labels tell apart")
    if facts.turned is None:
        rotation = (20.0, "no two joints tell how bodies are turned")
    elif seen_from_above(facts):
        rotation = (
            180.0,
            f"{facts.turned:.0%} of the bodies are more than {TURNED:.0f} degrees from the usual direction",
        )
    else:
        limit = float(np.clip(round(facts.angle), 15, 45))
        rotation = (limit, f"95% of the bodies are within {facts.angle:.0f} degrees of the usual direction")
    scale = float(np.clip(round(0.15 + facts.spread, 2), 0.15, 0.35))
    return [
        Choice("augment", "own", "the numbers below"),
        Choice("own.flip", *flip),
        Choice("flip_test", bool(facts.pairs), "as training" if facts.pairs else "no mirror in training either"),
        Choice("own.rotation", rotation[0], rotation[1].replace("% ", " % ")),
        Choice("own.rotation_probability", 1.0 if seen_from_above(facts) else 0.6, "upright ones stay in the majority"
               if not seen_from_above(facts) else "every direction is as likely"),
        Choice("own.scale", scale, f"the extent of poses in their boxes varies by {facts.spread:.2f} (log)"),
        Choice("own.shift", 0.1, "boxes of a detector are never exact"),
        Choice("own.shift_probability", 1.0, "the same"),
    ]  # fmt: skip


def wanted_steps(facts: Facts) -> int:
    """Returns the number of steps beyond which a set of this size improves little: 2,000, plus 4 per person, at most 6,000.

    >>> upright = Facts(100, 100, 17, 8, 1.0, (), (60.0, 130.0), 0.0, 10.0, 0.1, 0.0)
    >>> wanted_steps(upright), wanted_steps(dataclasses.replace(upright, persons=5000))
    (2400, 6000)
    """
    return min(2000 + 4 * facts.persons, 6000)


def steps_for(facts: Facts, *, seconds: float, step_seconds: float) -> tuple[int, str]:
    """Returns the number of steps and the reason: what the set needs, or what the time allows.

    Args:
        seconds: time left for training; infinity if time does not matter.
        step_seconds: measured time of one step.

    >>> upright = Facts(100, 100, 17, 8, 1.0, (), (60.0, 130.0), 0.0, 10.0, 0.1, 0.0)
    >>> steps_for(upright, seconds=100, step_seconds=0.1)[0], steps_for(upright, seconds=1000, step_seconds=0.1)[0]
    (1000, 2400)
    """
    wanted = wanted_steps(facts)
    if seconds == float("inf"):
        return wanted, f"what {facts.persons} persons need"
    possible = max(int(min(seconds / max(step_seconds, 1e-9), 1e9)), MIN_STEPS)
    if wanted <= possible:
        return wanted, f"what {facts.persons} persons need; the time would allow {possible:,}"
    return possible, f"what the time allows, at {step_seconds:.3f} s a step ({wanted:,} would be better: --minutes)"


ENOUGH = 0.6  # share of the wanted steps below which a smaller input is better
PROBE_STEPS, PROBE_SECONDS = 12, 4.0
EVALUATIONS = 6
RESERVE = 20.0  # seconds for the page and the pictures, in addition to a compilation


def settle(config: Any, kind: Any, make: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """Completes a config with --minutes and its data: chooses everything that was left open, prints and stores it.

    A run that is resumed keeps the settings that it was started with. Otherwise the step is compiled and timed for some seconds; the
    result is an ordinary config without --minutes, stored as config.json in the run's folder, with the reasons in reasons.json.

    Args:
        config: the flags; returned unchanged if they have no --minutes.
        kind: the data, an `experiments.common.persons.Persons`.
        make: function (flags, skeleton) -> the task, and the task that comes first.
    """
    if config.minutes is None:
        return config, kind
    if checkpoint.exists(config.out):
        config = as_started(config)
        rules.check(config)
        return config, dataclasses.replace(kind, config=config, best=config.best)
    kind.check()
    facts = measure(kind.train)
    config, choices = _with_steps(config, kind, make, facts)
    config = dataclasses.replace(config, minutes=None, by_hand=())
    rules.check(config)
    if jax.process_index() == 0:
        log.info("%d persons in %d images, %d joints: the settings follow from the data (--preset auto)", facts.persons,
                 facts.images, facts.joints)  # fmt: skip
        log.info("%s", explained(choices))
        config.out.mkdir(parents=True, exist_ok=True)
        values = {name: value for name, value in settings(config).items() if name not in ("out", "minutes", "by_hand")}
        files.write_json(config.out / CONFIG, values, indent=1)
        files.write_json(config.out / REASONS, stored(choices), indent=1)
        log.info("edit %s and start it with --config to change them", config.out / CONFIG)
    return config, dataclasses.replace(kind, config=config, best=config.best)


def as_started(config: Any) -> Any:
    """Returns the settings of the run in --out, except the flags that were given by hand.

    A setting that the run does not contain, because it was started before the flag existed, has the flag's default, not the value of
    the preset "auto".

    Args:
        config: the flags, with the names of those given by hand in `by_hand`; "own.flip" replaces that number alone.
    """
    stored = checkpoint.read_config(config.out, step="latest")
    names = {field.name for field in dataclasses.fields(config)} - {"minutes", "by_hand"}
    given = {name for name in config.by_hand if "." not in name} | {"out", "data", "labels", "data_dir"}
    run = {name: value for name, value in (stored.get("run") or {}).items() if name in names - given}
    if "best" not in run and stored.get("best") in ("AP", "skill"):
        run["best"] = stored["best"]
    now = settings(config)
    for name in config.by_hand:
        if "." in name and name.partition(".")[0] in names - given:
            run = _with_nested(run, now, name.split("."))
    default = dataclasses.replace(type(config)(), **{name: getattr(config, name) for name in names & given})
    return from_settings(type(config), run, default=default)


def _with_nested(values: Mapping[str, Any], given: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Returns the values with the value at this path taken from `given`; the dictionaries on the way are copied."""
    name, *inner = path
    if inner and isinstance(values.get(name), Mapping) and isinstance(given[name], Mapping):
        return {**values, name: _with_nested(values[name], given[name], inner)}
    return {**values, name: given[name]}


def _with_steps(config: Any, kind: Any, make: Callable, facts: Facts) -> tuple[Any, list[Choice]]:
    """Returns the completed config: size and number of steps follow from the time of a step on this machine."""
    options = {
        "given": {name: getattr(config, name) for name in BY_NET if name in config.by_hand},
        "detections": config.detections is not None,
    }
    config, choices = apply(config, choose(facts, **options), by_hand=config.by_hand)
    if "epochs" in config.by_hand:
        return _with_rest(config, choices, steps_of(config.epochs, config, samples=facts.persons))
    compile_seconds, step_seconds = 0.0, 0.0
    seconds = float("inf")
    if jax.process_count() == 1:  # several processes would measure different times
        compile_seconds, step_seconds = probe(config, kind, make)
        seconds = seconds_left(config, facts, len(kind.val), compile_seconds=compile_seconds, step_seconds=step_seconds)
    else:
        log.warning(
            "--minutes %g does not count with %d processes: the number of steps is what the persons need; give --epochs for another",
            config.minutes, jax.process_count(),
        )  # fmt: skip
    side = max(config.size_wh)
    smaller = [s for s in SIDES if s < side]
    while "size_wh" not in config.by_hand and smaller and seconds < ENOUGH * wanted_steps(facts) * step_seconds:
        before = config.size_wh
        config, choices = apply(config, choose(facts, largest=smaller.pop(), **options), by_hand=config.by_hand)
        step_seconds *= config.size_wh[0] * config.size_wh[1] / (before[0] * before[1])
    steps, reason = steps_for(facts, seconds=seconds, step_seconds=step_seconds)
    epochs = steps * config.batch_size / facts.persons
    choices.append(Choice("epochs", epochs, f"{steps:,} steps: {reason}"))
    return _with_rest(dataclasses.replace(config, epochs=epochs), choices, steps)


def _with_rest(config: Any, choices: list[Choice], steps: int) -> tuple[Any, list[Choice]]:
    """Chooses the settings that follow from the number of steps."""
    rest = [
        Choice("warmup_steps", min(100, steps // 10), "a tenth of the steps, 100 at most"),
        Choice("eval_every", config.epochs / EVALUATIONS, f"{EVALUATIONS} evaluations, of which the best is kept"),
    ]
    if config.decay == "linear" and {"milestones"} & set(config.by_hand):
        rest.append(Choice("decay", "milestones", "--milestones were given"))
    config, taken = apply(config, rest, by_hand=config.by_hand)
    return config, choices + taken


def probe(config: Any, kind: Any, make: Callable) -> tuple[float, float]:
    """Measures, with the real batches, the seconds until the first step is done and the seconds of each later one."""
    task, first = make(config, kind.skeleton)
    kind = dataclasses.replace(kind, config=config)
    training = build(task, config, samples=kind.count(), mesh=kind.mesh, first=first)
    state = training.init_state()
    jax.block_until_ready(state)
    clock = time.perf_counter()
    times = []
    for number, batch in enumerate(kind.train_batches(start_step=0, total=PROBE_STEPS), start=1):
        state, _ = training.step(number)(state, batch)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - clock)
        clock = time.perf_counter()
        if sum(times[1:]) > PROBE_SECONDS:
            break
    return times[0], float(np.mean(times[2:] or times[-1:]))


def seconds_left(config: Any, facts: Facts, evaluated: int, *, compile_seconds: float, step_seconds: float) -> float:
    """Returns what is left of --minutes for training, after the elapsed time, a second compilation, evaluations and the report."""
    one = (
        evaluated / config.batch_size * step_seconds + 2.0
    )  # a prediction with the mirror image costs about a step, and the scores
    spent = time.monotonic() - STARTED + 1.5 * compile_seconds + EVALUATIONS * one + RESERVE
    return max(60 * config.minutes - spent, 0.0)


def apply(config: Any, choices: Sequence[Choice], *, by_hand: Collection[str]) -> tuple[Any, list[Choice]]:
    """Returns the config with these settings, and the settings that were applied: flags given by hand stay.

    Args:
        config: a dataclass that may contain dataclasses ("own.flip" is the field flip of its field own).
        by_hand: names of the fields that the user gave.
    """
    taken = [choice for choice in choices if choice.name not in by_hand]
    nested: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for choice in taken:
        outer, _, inner = choice.name.partition(".")
        if inner:
            nested.setdefault(outer, {})[inner] = choice.value
        else:
            plain[outer] = choice.value
    parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in nested.items()}
    return dataclasses.replace(config, **plain, **parts), taken


def explained(choices: Sequence[Choice]) -> str:
    """Formats the choices as lines, each with the flag that would set it by hand."""
    rows = [(f"--{choice.name.replace('_', '-')} {_as_flag(choice.value)}", choice.reason) for choice in choices]
    wide = max((len(flag) for flag, _ in rows), default=0)
    return "\n".join(f"  {flag.ljust(wide)}  {reason}" for flag, reason in rows)


def _as_flag(value: Any) -> str:
    return (
        " ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def stored(choices: Sequence[Choice]) -> list[Mapping[str, Any]]:
    """Returns the choices as values that JSON can hold."""
    return [{"name": c.name, "value": c.value, "reason": c.reason} for c in choices]
