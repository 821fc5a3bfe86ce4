"""The rules of flags: every flag of every page has one, and they say what is checked and what a resumed run may change."""

from __future__ import annotations

import dataclasses
import importlib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import pytest

from experiments import coco_rle, coco_swahr, h36m_rle
from experiments.common import config, rules
from experiments.common.ablation import AblationConfig
from experiments.common.rules import AnyValue, Between, Fixed, MayChange, MayMove, Positive, Unsaid

ROOT = Path(__file__).parents[1]
PAGES = [importlib.import_module(f"experiments.{p.stem}") for p in sorted((ROOT / "experiments").glob("[a-z]*.py"))]


def configs() -> dict[str, type]:
    """The settings of every page by its name: those of its presets, or its class Config."""
    found = {}
    for page in PAGES:
        presets = getattr(page, "PRESETS", {})
        kinds = {type(preset) for preset in presets.values()} or {page.Config}
        found |= {f"{page.__name__}:{kind.__qualname__}": kind for kind in kinds}
    return found


def test_every_page_is_looked_at():
    assert len(PAGES) == 25 and len({name.partition(":")[0] for name in configs()}) == 25


@pytest.mark.parametrize("name", configs())
def test_every_flag_declares_its_rule(name):
    kind = configs()[name]
    assert rules.flags(kind).keys() == {field.name for field in fields(kind)}
    if issubclass(kind, (config.RunConfig, AblationConfig)):
        assert rules.resume_rules(kind).keys() == rules.flags(kind).keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_what_a_page_brings_passes_its_own_rules(page):
    for preset in getattr(page, "PRESETS", {}).values():
        rules.check(preset)
    if issubclass(getattr(page, "Config", object), AblationConfig):
        rules.check(page.Config())


def test_a_flag_without_a_rule_is_refused():
    @dataclass(frozen=True)
    class Silent(coco_rle.Config):
        new: int = 1

    @dataclass(frozen=True)
    class Twice:
        new: Annotated[int, Positive, AnyValue] = 1

    @dataclass(frozen=True)
    class Half(coco_rle.Config):
        new: Annotated[int, Positive] = 1

    with pytest.raises(TypeError, match=r"Silent\.new declares no rule"):
        rules.check(Silent())
    with pytest.raises(TypeError, match=r"Twice\.new declares more than one rule"):
        rules.check(Twice())
    rules.check(Half())
    with pytest.raises(TypeError, match="Half: say of new whether a resumed run may change it"):
        config.check_same_run(Half, {}, {}, Path("run"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"deconvs": (8, 0)}, "--deconvs (8, 0): expected positive numbers"),
    ({"size_wh": (0, 4)}, "--size-wh (0, 4): expected a positive width and height"),
    ({"warmup_start": 0}, "--warmup-start 0: expected a part of the learning rate, above 0"),
    ({"fsdp": 0}, "--fsdp 0: expected a positive number"),
    ({"init": Path("https://host/a.pth")}, "--init https:/host/a.pth is a URL, not a path"),
    ({"nms": 1.1}, "--nms 1.1: expected an OKS above 0, at most 1, or None"),
])  # fmt: skip
def test_the_message_names_flag_value_and_what_is_taken(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rules.check(dataclasses.replace(coco_rle.PRESETS["tiny"], **changes))


def test_none_is_left_to_the_type():
    rules.check(dataclasses.replace(coco_rle.PRESETS["tiny"], nms=None, ema=None, clip_norm=None))


def test_what_depends_on_two_flags_is_checked_by_their_owner():
    run = coco_swahr.PRESETS["tiny"]
    with pytest.raises(ValueError, match="--warmup-epochs 12: expected 0 or more, and below --epochs"):
        rules.check(dataclasses.replace(run, warmup_epochs=12))
    rules.check(dataclasses.replace(run, warmup_epochs=12, decay="milestones"))
    assert coco_swahr.Config.resume_rules({"decay": "linear"})["epochs"] is Fixed
    assert coco_swahr.Config.resume_rules({"decay": "milestones"})["epochs"] is MayChange


@dataclass(frozen=True)
class Run:
    """One flag of each kind."""

    seed: Annotated[int, AnyValue, Fixed] = 0
    share: Annotated[float, Between(0, 1, "a share"), MayChange] = 0.5
    data: Annotated[Path | None, rules.LocalPath, MayMove] = None
    decode: Annotated[Literal["exact", "scaled"] | None, AnyValue, Fixed, Unsaid("exact")] = None


@pytest.mark.parametrize(("stored", "now", "different"), [
    ({"seed": 0, "share": 0.5}, {"seed": 0, "share": 0.1}, {}),
    ({"seed": 0}, {"seed": 1}, {"seed": (0, 1)}),
    ({}, {"seed": 1}, {}),
    ({"data": "/a/coco"}, {"data": "/b/coco"}, {}),
    ({"data": "/a/coco"}, {"data": "/b/mpii"}, {"data": ("/a/coco", "/b/mpii")}),
    ({"data": "/a/coco"}, {"data": None}, {"data": ("/a/coco", None)}),
    ({}, {"decode": "exact"}, {}),
    ({}, {"decode": "scaled"}, {"decode": ("exact", "scaled")}),
    ({"decode": None}, {"decode": None}, {}),
    ({"decode": "scaled"}, {"decode": None}, {"decode": ("scaled", "exact")}),
])  # fmt: skip
def test_which_changes_make_another_run(stored, now, different):
    assert rules.changes(Run, stored, now, allowed=rules.resume_rules(Run)) == different


def test_what_a_resumed_run_may_change():
    """The published commands rest on it: a run is resumed with more epochs, evaluated in another way, on other machines."""
    free = {name for name, resume in rules.resume_rules(coco_swahr.Config).items() if resume is not Fixed}
    free |= {name for name, resume in rules.resume_rules(coco_rle.Config).items() if resume is not Fixed}
    assert free == {
        "out", "data", "data_dir", "cache", "on_bad", "verify", "detections", "box_jitter", "val_split", "epochs", "milestones",
        "eval_every", "checkpoint_every", "keep", "flip_test", "rescore", "nms", "soft_nms", "test_size", "test_batch_size",
        "fit", "scales", "group_on", "eval_only", "plots", "log_every", "workers", "fsdp", "multihost", "coordinator",
        "num_processes", "process_id", "init", "init_layout", "annotations", "images", "val_annotations", "val_images", "sigmas",
        "follow_links", "labels", "nms_annotated",
        "ema_growth", "patience", "sigma_scale", "calibrate", "minutes", "by_hand",
    }  # fmt: skip


@pytest.mark.parametrize(("flag", "value"), [
    ("val_fraction", 0.1), ("flip_pairs", ["a:b"]), ("category", "mouse"), ("visible_above", 0.5), ("reorder_joints", True),
    ("exif", "apply"),
])  # fmt: skip
def test_a_run_from_before_a_flag_had_its_default(flag, value):
    now = config.settings(coco_rle.Config())
    before = {name: old for name, old in now.items() if name != flag}
    config.check_same_run(coco_rle.Config, before, now, Path("run"))
    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} was "):
        config.check_same_run(coco_rle.Config, before, now | {flag: value}, Path("run"))
    if flag == "exif":  # the stored pixels are what it took
        config.check_same_run(coco_rle.Config, before, now | {flag: "ignore"}, Path("run"))


def test_flags_that_may_change_are_listed_where_others_may_not():
    """A run of a preset's earlier numbers: its --augment alone would resume it with the schedule of today's."""
    before = config.settings(h36m_rle.PAGE.settings(["--augment", "light", "--flip-test", "--epochs", "30"]))
    now = h36m_rle.PAGE.settings([])
    with pytest.raises(
        ValueError, match="--augment was light, is unmirrored. .*may change them: .*--epochs was 30.0, is 20"
    ):
        config.check_same_run(type(now), before, config.settings(now), Path("run"))
