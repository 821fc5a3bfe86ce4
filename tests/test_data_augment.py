import dataclasses

import numpy as np
import pytest
from scipy import stats

from jaxpose.data import augment
from jaxpose.data.augment import (
    HIGHER_HRNET,
    HRNET,
    MMPOSE,
    NONE,
    OFFICIAL,
    SWAHR_PAPER,
    WHOLE_LIGHT,
    WHOLE_NONE,
    Setting,
    WholeImage,
    draw,
    draw_whole,
    generator,
    named,
    named_whole,
    whole_generator,
)

UPPER = np.arange(17) < 11
BOX = np.array([100.0, 50.0, 60.0, 80.0])


def whole_body():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(0, 100, (17, 2)), np.full((17, 1), 2.0)], axis=1)


def draws(setting, count=4000, keypoints=None, **options):
    keypoints = np.zeros((17, 3)) if keypoints is None else keypoints
    return [
        draw(setting, generator(0, 0, i), box=BOX, keypoints=keypoints, upper=UPPER, **options) for i in range(count)
    ]


def rate_is(values, probability):
    """Within four standard deviations of a binomial."""
    return abs(np.mean(values) - probability) < 4 * np.sqrt(probability * (1 - probability) / len(values))


def test_none_changes_nothing():
    drawn = draw(NONE, None, box=BOX, keypoints=np.zeros((17, 3)), padding=1.1)
    assert not drawn.flip and drawn.box is BOX and drawn[2:] == (1.1, 1.0, 0.0)


@pytest.mark.parametrize(
    ("setting", "scale", "rotation", "turned"),
    [
        (OFFICIAL, stats.uniform(0.75, 0.5), stats.uniform(-45, 90), 0.5),
        (MMPOSE, stats.truncnorm(-1, 1, 1, 0.5), stats.truncnorm(-1, 1, 0, 80), 0.6),
    ],
)
def test_distributions(setting, scale, rotation, turned):
    drawn = draws(setting)
    assert stats.kstest([d.scale for d in drawn], scale.cdf).pvalue > 1e-3
    angles = np.array([d.rotation for d in drawn])
    assert rate_is(angles != 0, turned) and rate_is([d.flip for d in drawn], 0.5)
    assert stats.kstest(angles[angles != 0], rotation.cdf).pvalue > 1e-3


def test_hrnet_clips_a_normal():
    drawn = draws(HRNET)
    scale, angle = np.array([d.scale for d in drawn]), np.array([d.rotation for d in drawn])
    assert scale.min() == 0.65 and scale.max() == 1.35 and abs(angle).max() == 90.0
    assert rate_is(scale == 0.65, stats.norm.cdf(-1)) and rate_is(angle != 0, 0.6)
    assert rate_is(angle[angle != 0] == 90, stats.norm.cdf(-2))
    inside = scale[(scale > 0.65) & (scale < 1.35)]
    assert stats.kstest(inside, stats.truncnorm(-1, 1, 1, 0.35).cdf).pvalue > 1e-3


def test_shift_is_of_the_padded_box():
    moved = np.array([d.box for d in draws(MMPOSE)]) - BOX
    assert (moved[:, 2:] == 0).all()
    for axis, side in ((0, 60 * 1.25), (1, 80 * 1.25)):
        shifts = moved[moved[:, axis] != 0, axis] / side
        assert rate_is(moved[:, axis] != 0, 0.3) and abs(shifts).max() < 0.16
        assert stats.kstest(shifts, stats.truncnorm(-1, 1, 0, 0.16).cdf).pvalue > 1e-3
    assert all((d.box == BOX).all() for d in draws(OFFICIAL, 50))


def test_half_body_is_centred_on_the_mean_of_its_joints():
    keypoints = whole_body()
    halves = [d for d in draws(OFFICIAL, keypoints=keypoints) if not np.array_equal(d.box, BOX)]
    for d in halves:
        joints = keypoints[UPPER if d.box[2] == np.ptp(keypoints[UPPER, 0]) else ~UPPER, :2]
        np.testing.assert_allclose(d.box[:2] + d.box[2:] / 2, joints.mean(axis=0))
        np.testing.assert_allclose(d.box[2:], np.ptp(joints, axis=0))
        assert d.padding == 1.5
    assert rate_is(np.arange(4000) < len(halves), 0.3)


@pytest.mark.parametrize(
    ("setting", "upper", "lower", "chance", "upper_chance"),
    [
        # hrnet rule: a normal below 0.5 takes the upper half if it has more than 2 joints, else the lower if that has, else the upper
        (OFFICIAL, 5, 5, 0.3, stats.norm.cdf(0.5)),
        (OFFICIAL, 2, 4, 0.3, 0.0),
        (OFFICIAL, 4, 2, 0.3, 1.0),
        (OFFICIAL, 2, 2, 0.3, 1.0),
        (OFFICIAL, 2, 1, 0.0, None),  # more than 3 joints needed
        (OFFICIAL, 3, 1, 0.3, 1.0),
        (HRNET, 4, 4, 0.0, None),  # more than 8
        (HRNET, 5, 4, 0.3, stats.norm.cdf(0.5)),
        (MMPOSE, 5, 4, 0.3, 0.7),
        (MMPOSE, 4, 4, 0.0, None),
        (MMPOSE, 1, 6, 0.0, None),
        (MMPOSE, 8, 2, 0.3, 1.0),  # the lower half needs 3
        (MMPOSE, 7, 2, 0.3, 1.0),
    ],
)
def test_which_half(setting, upper, lower, chance, upper_chance):
    setting = dataclasses.replace(setting, shift=0.0)
    keypoints = whole_body()
    keypoints[:, 2] = [2] * upper + [0] * (11 - upper) + [1] * lower + [0] * (6 - lower)
    keypoints[keypoints[:, 2] == 0, :2] = np.nan  # never looked at
    labelled = keypoints[:, 2] > 0
    drawn = draws(setting, 1500, keypoints=keypoints)
    halves = [d for d in drawn if not np.array_equal(d.box, BOX)]
    assert rate_is(np.arange(1500) < len(halves), chance) if chance else not halves
    if halves:
        width = np.ptp(keypoints[UPPER & labelled, 0])
        took_upper = [d.box[2] == width for d in halves]
        assert rate_is(took_upper, upper_chance) if 0 < upper_chance < 1 else set(took_upper) == {bool(upper_chance)}


def test_half_body_needs_a_skeleton_with_halves_and_joints_apart():
    keypoints = whole_body()
    for options in ({"upper": None}, {"upper": np.zeros(17, bool)}):
        drawn = [draw(OFFICIAL, generator(0, 0, i), box=BOX, keypoints=keypoints, **options) for i in range(100)]
        assert all(d.box is BOX for d in drawn)
    keypoints[:, :2] = 7.0
    assert all(d.box is BOX for d in draws(OFFICIAL, 200, keypoints=keypoints))


def test_a_draw_is_a_function_of_seed_epoch_and_annotation():
    def values(*key):
        d = draw(MMPOSE, generator(*key), box=BOX, keypoints=whole_body(), upper=UPPER)
        return (d.flip, *d.box, d.padding, d.scale, d.rotation)

    keys = [(s, e, a) for s in (0, 1, -1, 2**63) for e in (0, 1, 2) for a in (0, 1, 1000, 2**40, -5)]
    assert all(values(*key) == values(*key) for key in keys)
    assert len({values(*key) for key in keys}) == len(keys)


def test_annotations_next_to_each_other_are_not_correlated():
    uniform = np.array([generator(3, 0, i).random(4) for i in range(2000)])
    assert abs(np.corrcoef(uniform[:-1].T, uniform[1:].T)[:4, 4:]).max() < 4 / np.sqrt(2000)
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3


def test_named():
    assert [named(n) for n in ("none", "official", "hrnet", "mmpose")] == [NONE, OFFICIAL, HRNET, MMPOSE]
    assert named(dataclasses.replace(HRNET, flip=0.0)).flip == 0
    with pytest.raises(ValueError, match="no augmentation 'strong'.*'none', .*'official', 'hrnet', 'mmpose'"):
        named("strong")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip": 1.5}, "flip is a probability"),
        ({"scale": 1.0}, "scale must be"),
        ({"distribution": "cauchy"}, "distribution must be"),
    ],
)
def test_a_setting_checks_its_numbers(values, message):
    with pytest.raises(ValueError, match=message):
        Setting("mine", **values)


def test_published_numbers():
    """The numbers of the three code bases, copied by hand: the table of the module."""
    assert (OFFICIAL.half_body.min_joints, HRNET.half_body.min_joints, MMPOSE.half_body.min_joints) == (4, 9, 9)
    assert {s.half_body.padding for s in (OFFICIAL, HRNET, MMPOSE)} == {1.5}
    assert augment.MMPOSE.shift == 0.16 and augment.HRNET.scale == 0.35


# ----------------------------------------------------------------------------------------------------- whole images


@pytest.mark.parametrize("setting", [HIGHER_HRNET, SWAHR_PAPER, WHOLE_LIGHT])
@pytest.mark.parametrize("size_wh", [(640, 427), (300, 500)])
def test_whole_image_distributions(setting, size_wh):
    drawn = [draw_whole(setting, whole_generator(0, 0, i), size_wh=size_wh) for i in range(3000)]
    lower, upper = setting.scale
    sides = np.array([d.side for d in drawn])
    assert stats.kstest(sides / min(size_wh), stats.uniform(lower, upper - lower).cdf).pvalue > 1e-3
    turns = stats.uniform(-setting.rotation, 2 * setting.rotation)  # always turned
    assert stats.kstest([d.rotation for d in drawn], turns.cdf).pvalue > 1e-3
    flips = [d.flip for d in drawn]
    assert not any(flips) if setting is WHOLE_LIGHT else rate_is(flips, 0.5)
    moved = np.array([d.centre for d in drawn]) - np.array(size_wh) / 2
    assert (moved == np.round(moved)).all() and (abs(moved) <= setting.shift * sides[:, None]).all()
    spread = moved / (setting.shift * sides[:, None])
    assert abs(spread).max() > 0.98
    for axis in (0, 1):
        assert stats.kstest(spread[:, axis], stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(np.c_[moved, sides, [d.rotation for d in drawn]].T) - np.eye(4)).max() < 4 / np.sqrt(3000)


def test_whole_image_none_is_the_square_of_the_short_side():
    d = draw_whole(WHOLE_NONE, whole_generator(0, 0, 1), size_wh=(640, 427))
    assert not d.flip and d.centre.tolist() == [320, 213.5] and d.side == 427 and d.rotation == 0


def test_a_whole_image_draw_is_a_function_of_seed_epoch_and_image():
    def values(*key):
        d = draw_whole(HIGHER_HRNET, whole_generator(*key), size_wh=(640, 427))
        return (d.flip, *d.centre, d.side, d.rotation)

    keys = [(s, e, a) for s in (0, 1, -1) for e in (0, 1, 2) for a in (0, 1, 2**40, -5)]
    assert all(values(*key) == values(*key) for key in keys)
    assert len({values(*key) for key in keys}) == len(keys)
    assert whole_generator(0, 0, 1).random() != generator(0, 0, 1).random()


def test_named_whole_and_its_published_numbers():
    names = ("none", "light", "higher_hrnet", "swahr_paper")
    assert [named_whole(n) for n in names] == [WHOLE_NONE, WHOLE_LIGHT, HIGHER_HRNET, SWAHR_PAPER]
    assert (HIGHER_HRNET.scale, SWAHR_PAPER.scale) == ((0.75, 1.5), (0.75, 1.25))
    assert (HIGHER_HRNET.rotation, HIGHER_HRNET.shift, HIGHER_HRNET.flip) == (30, 40 / 200, 0.5)
    assert named_whole(dataclasses.replace(HIGHER_HRNET, flip=0.0)).flip == 0
    for wrong in ("official", OFFICIAL):
        with pytest.raises(ValueError, match="of whole images: choose one of .*'higher_hrnet', 'swahr_paper'"):
            named_whole(wrong)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip": -0.1}, "flip is a probability"),
        ({"scale": (1.5, 0.75)}, "the lower first"),
        ({"scale": (0.0, 1.0)}, "two positive numbers"),
        ({"scale": 0.25}, "two positive numbers"),
        ({"rotation": -30.0}, "rotation must be 0 or more"),
        ({"shift": -0.2}, "shift must be 0 or more"),
    ],
)
def test_a_whole_image_setting_checks_its_numbers(values, message):
    with pytest.raises(ValueError, match=message):
        WholeImage("mine", **values)


def test_colour_factors_are_uniform_and_a_function_of_seed_epoch_and_annotation():
    """By channel in 1 +- 0.2, as common/utility/augment.py of the integral regression code; QUIRK I6."""
    options = {"seed": 3, "epochs": np.arange(2000) % 7, "ids": np.arange(2000)}
    factors = augment.colour_factors(0.2, **options)
    assert factors.shape == (2000, 3) and factors.dtype == np.float32
    assert 0.8 <= factors.min() < 0.802 and 1.198 < factors.max() <= 1.2
    assert stats.kstest(factors.ravel(), stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.1
    np.testing.assert_array_equal(augment.colour_factors(0.2, **options), factors)
    np.testing.assert_array_equal(augment.colour_factors(0.2, seed=3, epochs=[5], ids=[5])[0], factors[5])
    for changed in ({"seed": 4}, {"epochs": options["epochs"] + 1}, {"ids": options["ids"] + 2000}):
        assert not np.isclose(augment.colour_factors(0.2, **{**options, **changed}), factors).all(-1).any()
    assert augment.named("mpii").colour == 0 and augment.MPII.rotation == 30
    with pytest.raises(ValueError, match="colour must be in"):
        dataclasses.replace(augment.NONE, colour=1.0)
