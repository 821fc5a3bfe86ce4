"""Settings that follow the data: facts of the labels, choices with reasons, steps for a time budget."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.common import auto
from jaxpose.data.source import person_dtype
from jaxpose.skeleton import Skeleton

MOUSE = Skeleton(
    name="mouse", joints=("snout", "left_ear", "right_ear", "tail"), flip_pairs=((1, 2),), limbs=(), sigmas=(0.05,) * 4
)
POSE = np.array([[0.0, -60.0], [-15.0, -40.0], [15.0, -40.0], [0.0, 60.0]])  # upright, snout up


def source(angles, *, labelled=None, skeleton=MOUSE, pose=POSE, scale=None):
    """Persons of one pose, turned by these degrees, each in an image of its own and in a box 20 pixels larger."""
    count = len(angles)
    turn = np.radians(np.asarray(angles, float))
    matrix = np.moveaxis(np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]), -1, 0)
    size = np.ones(count) if scale is None else scale
    xy = size[:, None, None] * np.einsum("nij,kj->nki", matrix, pose) + 200
    visibility = np.full((count, len(pose)), 2) if labelled is None else np.where(labelled, 2, 0)
    persons = np.zeros(count, person_dtype(len(pose)))
    persons["image"] = np.arange(count)
    persons["keypoints"] = np.concatenate([np.where(visibility[..., None] > 0, xy, 0), visibility[..., None]], -1)
    low, high = xy.min(1) - 20, xy.max(1) + 20
    persons["box"] = np.concatenate([low, high - low], -1)
    return SimpleNamespace(persons=persons, skeleton=skeleton)


def values(choices):
    return {choice.name: choice.value for choice in choices}


def test_animals_seen_from_above_are_turned_full_circle_in_a_square():
    facts = auto.measure(source(np.random.default_rng(0).uniform(-180, 180, 90)))
    chosen = values(auto.choose(facts))
    assert facts.turned > 0.3
    assert chosen["own.rotation"] == 180 and chosen["own.rotation_probability"] == 1
    assert chosen["size_wh"][0] == chosen["size_wh"][1]


def test_upright_bodies_stay_upright():
    facts = auto.measure(source(np.random.default_rng(0).normal(0, 8, 90)))
    chosen = values(auto.choose(facts))
    assert facts.turned == 0 and facts.angle == pytest.approx(16, abs=4)
    assert 15 <= chosen["own.rotation"] <= 20
    assert chosen["size_wh"] == (96, 128)  # boxes of about 80x170 pixels


def test_the_usual_direction_may_be_any():
    facts = auto.measure(source(173 + np.random.default_rng(0).normal(0, 8, 60)))
    assert facts.turned == 0


@pytest.mark.parametrize("pairs", [((1, 2),), ()])
def test_only_known_pairs_are_mirrored(pairs):
    facts = auto.measure(source(np.zeros(20), skeleton=dataclasses.replace(MOUSE, flip_pairs=pairs)))
    chosen = {choice.name: choice for choice in auto.choose(facts)}
    assert chosen["own.flip"].value == (0.5 if pairs else 0) and chosen["flip_test"].value is bool(pairs)
    assert ("pairs are known" in chosen["own.flip"].reason) is True


def test_sizes_vary_more_scale_more():
    rng = np.random.default_rng(0)
    even, spread = (source(np.zeros(60), scale=np.exp(rng.normal(0, s, 60))) for s in (0.0, 0.8))
    spread.persons["box"][:] = [50, 50, 300, 300]
    even.persons["box"][:] = [50, 50, 300, 300]
    small, large = (values(auto.choose(auto.measure(s)))["own.scale"] for s in (even, spread))
    assert small == 0.15 and large == 0.35


def test_a_set_of_three_frames_one_joint_or_no_label_of_a_joint():
    one = Skeleton(name="dot", joints=("dot",), flip_pairs=(), limbs=(), sigmas=(0.05,))
    dots = source(np.zeros(3), skeleton=one, pose=np.zeros((1, 2)))
    few = source(np.zeros(3))
    never = source(np.zeros(30), labelled=np.tile([True, True, True, False], (30, 1)))
    for case, count in ((dots, 3), (few, 3), (never, 30)):
        facts = auto.measure(case)
        chosen = values(auto.choose(facts))
        assert facts.persons == count
        assert min(chosen["size_wh"]) >= 64 and all(side % 32 == 0 for side in chosen["size_wh"])
        assert np.isfinite([chosen["own.rotation"], chosen["own.scale"], chosen["auxiliary.weight"]]).all()
        assert auto.steps_for(facts, seconds=60, step_seconds=0.1)[0] == 600
    assert auto.measure(dots).turned is None and auto.measure(never).never == ("tail",)


def test_joints_outside_their_boxes_are_counted():
    case = source(np.zeros(10))
    case.persons["box"][:, 3] /= 2
    assert 0.2 < auto.measure(case).outside < 0.6


def test_nobody_is_refused():
    facts = dataclasses.replace(auto.measure(source(np.zeros(3))), persons=0)
    with pytest.raises(ValueError, match="nobody to train on"):
        auto.choose(facts)


@pytest.mark.parametrize(
    ("persons", "seconds", "step", "expected"),
    [(100, 1e6, 0.1, 2400), (100, 60, 0.1, 600), (10_000, 1e6, 0.1, 6000), (100, 1, 10.0, 100)],
)
def test_steps(persons, seconds, step, expected):
    facts = dataclasses.replace(auto.measure(source(np.zeros(3))), persons=persons)
    steps, reason = auto.steps_for(facts, seconds=seconds, step_seconds=step)
    assert steps == expected and reason


@dataclasses.dataclass(frozen=True)
class Inner:
    flip: float = 0.3
    scale: float = 0.0


@dataclasses.dataclass(frozen=True)
class Outer:
    size_wh: tuple[int, int] = (1, 1)
    own: Inner = Inner()


def test_what_was_given_by_hand_stays():
    choices = [
        auto.Choice("size_wh", (96, 96), "a"),
        auto.Choice("own.flip", 0.5, "b"),
        auto.Choice("own.scale", 0.2, "c"),
    ]
    config, taken = auto.apply(Outer(), choices, by_hand={"own.flip"})
    assert config == Outer((96, 96), Inner(0.3, 0.2))
    assert [choice.name for choice in taken] == ["size_wh", "own.scale"]
    text = auto.explained(taken)
    assert "--size-wh 96 96" in text and "--own.scale 0.2" in text and text.endswith("c")


def test_what_follows_from_the_size_of_the_maps_follows_from_flags_given_by_hand():
    facts = auto.measure(source(np.zeros(20)))
    chosen = {c.name: c for c in auto.choose(facts, given={"size_wh": (64, 32)})}
    assert chosen["auxiliary.weight"].value == facts.joints * 16 * 8 and chosen["deconvs"].reason == "maps of 16x8"
    weight = lambda **given: values(auto.choose(facts, given={"size_wh": (64, 64), **given}))["auxiliary.weight"]  # noqa: E731
    assert weight() == facts.joints * 16**2
    assert weight(deconvs=()) == weight(resnet_stages=1, deconvs=(8,)) / 64 == facts.joints * 4**2
    assert weight(backbone="hrnet") == facts.joints * 16**2
    assert values(auto.choose(facts, given={"backbone": "hrnet"}))["deconvs"] == ()


def test_detections_are_judged_by_average_precision():
    facts = auto.measure(source(np.zeros(20)))
    chosen = values(auto.choose(facts, detections=True))
    assert chosen["best"] == "AP" and chosen["calibrate"] is False
    chosen = values(auto.choose(facts))
    assert "best" not in chosen and chosen["calibrate"] is True


def test_the_reason_names_no_time_where_time_does_not_count():
    facts = auto.measure(source(np.zeros(20)))
    steps, reason = auto.steps_for(facts, seconds=float("inf"), step_seconds=0.0)
    assert steps == 2080 and reason == "what 20 persons need"
