"""A flag that is accepted is used or refused: every flag of every page, without a training."""

from __future__ import annotations

import dataclasses
import importlib
import json
import operator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from experiments.common.config import RunConfig, refuse_idle
from jaxpose.skeleton import COCO17

ROOT = Path(__file__).parents[1]
PAGES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if "PRESETS = {" in p.read_text())
# Flags that say where data, results and other processes are; they are read by the runner and the data, and have no second value here.
ELSEWHERE = {"by_hand", "eval_only", "minutes", "init", "init_layout", "detections", "templates"}


GENERAL = {field.name for field in dataclasses.fields(RunConfig)}  # every method has them alike


def page(name: str):
    return importlib.import_module(f"experiments.{name}").PAGE


def leaves(settings_: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """{flag: (value, type)} of a dataclass of settings, those of nested ones with a point."""
    found = {}
    hints = get_type_hints(type(settings_))
    for field in dataclasses.fields(settings_):
        value = getattr(settings_, field.name)
        if dataclasses.is_dataclass(value):
            found |= leaves(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = (value, hints[field.name])
    return found


def others(value: Any, hint: Any) -> list[Any]:
    """Further values of that type, of which at least one can be had."""
    options = [a for a in (get_args(hint) if get_origin(hint) is not Literal else (hint,)) if a is not NoneType] or [
        hint
    ]
    literals = [x for o in options if get_origin(o) is Literal for x in get_args(o)]
    if literals:
        return [x for x in literals if x != value]
    if isinstance(value, bool) or bool in options:
        return [not value]
    if isinstance(value, tuple) and any(isinstance(x, str) for x in value):
        return [value[:-1]]
    if isinstance(value, tuple):
        return [tuple(x + 1 for x in value), tuple(32 * (x // 32 + 1) for x in value), value[:-1], (8, 8), (8,)]
    if isinstance(value, float) or (value is None and float in options):
        return [(value or 0.0) * 0.5 + 0.05, (value or 0.0) + 1.0]
    if isinstance(value, int) or (value is None and int in options):
        return [(value or 0) + 1, 64 * ((value or 0) // 64 + 1), (value or 0) + 2]
    if value is None and tuple in [get_origin(o) for o in options]:
        return [(8,), (8, 8), (0.1,) * 17]
    return ["another"]


def changed(config: RunConfig, name: str, value: Any) -> RunConfig:
    """The config as if the flag had been given by hand."""
    *groups, last = name.split(".")
    if groups:
        value = dataclasses.replace(getattr(config, groups[0]), **{last: value})
    config = dataclasses.replace(config, **{(groups or [last])[0]: value})
    return dataclasses.replace(config, by_hand=(name,)) if hasattr(config, "by_hand") else config


def tasks_of(here: Any, config: RunConfig) -> str:
    """The description of the tasks that the adjusted settings give."""
    task, first = here.make(config, COCO17)
    return json.dumps([task.config, first and (first[0], first[1].config)])


def fates(here: Any, preset: RunConfig, name: str, value: Any, hint: Any, before: str) -> set[str]:
    """What becomes of further values of a flag: "refused", "reaches the task", "reaches the run" or "dropped".

    Args:
        here: the page.
        preset: the settings that the flag is added to.
        name: the flag.
        value: its value in the adjusted settings.
        hint: its type.
        before: the tasks without the flag.
    """
    found = set()
    for other in others(value, hint):
        if other == value:
            continue
        try:
            config = here.adjust(changed(preset, name, other))
            refuse_idle(config, {name})
            after = tasks_of(here, config)
        except ValueError:
            found.add("refused")
            continue
        if after != before:
            return found | {"reaches the task"}
        found.add("reaches the run" if value_of(config, name) == other else "dropped")
    return found


def value_of(config: RunConfig, name: str) -> Any:
    """The value of a flag, of a nested one too."""
    return operator.attrgetter(name)(config)


def of_the_task(name: str, config: RunConfig) -> bool:
    """Whether a flag describes the task, which every field of the pages' own classes does that the data and the runner do not read."""
    from experiments.common import boxed_images, hands, persons, scans, space, whole_images

    kinds = (
        RunConfig,
        persons.PersonConfig,
        hands.HandData,
        scans.ScanData,
        space.SpaceDataConfig,
        whole_images.ImageConfig,
        boxed_images.BoxedImageConfig,
    )
    data = {f.name for kind in kinds for f in dataclasses.fields(kind)}
    data |= {"poses", "mirror", "root"}  # of pairs of poses
    data |= {"flatten", "compensate", "crops"}  # of scans
    data |= {"clusters"}  # of the poses of the training data
    return name.partition(".")[0] not in data | ELSEWHERE or name == "size_wh"


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_reaches_the_run_or_is_refused(name):
    here = page(name)
    presets = [preset for key, preset in here.presets.items() if key in ("tiny", "hrnet_w32", "auxiliary", "w32")]
    methods = get_args(get_type_hints(type(presets[0])).get("method"))
    presets = [dataclasses.replace(presets[0], method=method) for method in methods] or presets
    for preset in presets:
        adjusted = here.adjust(preset)
        before = tasks_of(here, adjusted)
        for flag, (value, hint) in leaves(adjusted).items():
            if flag in ELSEWHERE or flag == "method" or (methods and preset is not presets[0] and flag in GENERAL):
                continue
            found = fates(here, preset, flag, value, hint, before)
            assert found and "dropped" not in found, f"--{flag} of {name}, {preset}"
            if of_the_task(flag, preset):
                reaches = "reaches the task" in found or found == {"refused"}
                assert reaches, f"--{flag} of {name} does not reach the task: {found}, {preset}"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("coco_rle", ["--preset", "official", "--beta", "10"], "--beta has no effect without --head integral"),
        ("coco_rle", ["--preset", "official", "--own.scale", "0.3"], "--own.scale has no effect without --augment own"),
        ("coco_rle", ["--preset", "official", "--likelihood.loss", "l1", "--likelihood.base", "gaussian"],
         "--likelihood.base has no effect without --likelihood.loss rle"),
        ("coco_rle", ["--preset", "tiny", "--skips"], "--skips has no effect without a --head of maps"),
        ("coco_rle", ["--preset", "hrnet_w32", "--depth", "101"], "--depth has no effect without --backbone resnet"),
        ("coco_hrnet", ["--preset", "w32", "--read.kernel", "17"], "--read.kernel has no effect without --read.decode dark or udp"),
        ("coco_simple_baseline", ["--preset", "official", "--maps.radius", "3"], "--maps.radius has no effect without --maps.kind"),
        ("coco_swahr", ["--preset", "higher_w32_512", "--loss.gamma", "1"], "--loss.gamma has no effect without --loss.weighting"),
        ("coco_swahr", ["--preset", "w32_512", "--milestones", "3"], "--milestones has no effect without --decay milestones"),
    ],
)  # fmt: skip
def test_a_flag_without_effect_is_refused(name, flags, message):
    with pytest.raises(ValueError, match=message):
        page(name).settings(flags)


def test_what_goes_together_is_taken_and_a_preset_may_hold_what_is_idle():
    here = page("coco_rle")
    assert here.settings(["--preset", "hrnet_w32", "--beta", "10", "--compensate"]).beta == 10
    assert here.settings(["--preset", "official", "--augment", "own", "--own.scale", "0.3"]).own.scale == 0.3
    for name in PAGES:
        for preset in page(name).presets:
            page(name).settings(["--preset", preset])
