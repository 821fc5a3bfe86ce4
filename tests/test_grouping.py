"""Grouping: the published parser's groups on its golden cases, a plain-loop restatement on made-up scenes, and odd input."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import grouping
from jaxpose.grouping import assignment
from tests import plain_grouping


def golden_case(golden, golden_json, name):
    cases = {case["name"]: case for case in golden_json("grouping")}
    if name not in cases:
        pytest.skip(f"case {name} is not in tests/golden: needs --golden DIR")
    case, arrays = cases[name], golden("grouping")
    heatmaps, tags = arrays[f"{name}_det"].transpose(1, 2, 0), arrays[f"{name}_tag"]
    tags = (tags if tags.ndim == 4 else tags[..., None]).transpose(1, 2, 0, 3)
    options = {
        "max_people": case["max_num_people"],
        "detection_threshold": case["detection_threshold"],
        "tag_threshold": case["tag_threshold"],
        "use_detection_value": case["use_detection_val"],
        "ignore_too_much": case["ignore_too_much"],
    }
    return arrays, heatmaps, tags, options, case["joint_order"]


ORDER = (3, 0, 4, 1, 2)  # of the scenes; together with their size one compiled program


def on_device(heatmaps, tags, **options):
    """`group_batch` of one image, without the padding."""
    if heatmaps.shape[-1] == 5:
        options = {"joint_order": ORDER, **options}
    poses, scores, valid = (np.asarray(a)[0] for a in grouping.group_batch(heatmaps[None], tags[None], **options))
    assert not poses[~valid].any() and not scores[~valid].any() and (np.sort(valid)[::-1] == valid).all()
    return poses[valid], scores[valid]


@pytest.mark.parametrize("name", "abcdefgh")
def test_groups_of_the_published_parser(golden, golden_json, name):
    arrays, heatmaps, tags, options, order = golden_case(golden, golden_json, name)
    for adjust, refine in itertools.product((0, 1), (0, 1)):
        poses, scores = grouping.group(heatmaps, tags, **options, adjust=bool(adjust), refine=bool(refine))
        np.testing.assert_array_equal(poses, arrays[f"{name}_adj{adjust}_ref{refine}_poses"])
        np.testing.assert_allclose(scores, arrays[f"{name}_adj{adjust}_ref{refine}_scores"], rtol=1e-6)
        if adjust == refine:
            found = on_device(heatmaps, tags, **options, adjust=bool(adjust), refine=bool(refine))
            np.testing.assert_array_equal(found[0], poses)
            np.testing.assert_allclose(found[1], scores, rtol=1e-6)
    plain, _ = plain_grouping.group(heatmaps, tags, **options, joint_order=order)
    np.testing.assert_allclose(plain, arrays[f"{name}_adj1_ref1_poses"], atol=1e-6)
    again, _ = grouping.group(heatmaps, tags, **options, joint_order=order)
    np.testing.assert_array_equal(again, poses)  # None is the published order

    xy, values = grouping.peaks(
        heatmaps, max_people=options["max_people"], detection_threshold=options["detection_threshold"]
    )
    listed = arrays[f"{name}_topk_loc"]
    np.testing.assert_array_equal(xy[:, : listed.shape[1]], listed)
    expected = np.where(listed[..., 0] >= 0, arrays[f"{name}_topk_val"], 0)
    np.testing.assert_array_equal(values[:, : listed.shape[1]], expected)
    # The published list is cut at max_people, and so is ours.
    counted = np.minimum(arrays[f"{name}_topk_count_above_thr"], options["max_people"])
    np.testing.assert_array_equal((xy[..., 0] >= 0).sum(1), counted)


SCENES = {
    "apart": {"people": 3},
    "close, so that costs tie": {"people": 6, "apart": 0.4, "spurious": 4},
    "many spurious peaks": {"people": 2, "spurious": 15, "noise": 0.04},
    "two tags": {"people": 5, "tags": 2, "apart": 1.0},
    "more peaks than people": {"people": 7, "spurious": 5, "apart": 1.5, "missing": 0.5},
}


@pytest.mark.parametrize("name", SCENES)
def test_scenes_against_plain_loops(name):
    for seed in range(6):
        heatmaps, tags = plain_grouping.scene(seed, **SCENES[name])
        for options in ({}, {"refine": False, "adjust": False}):
            poses, scores = grouping.group(heatmaps, tags, joint_order=ORDER, **options)
            plain, plain_scores = plain_grouping.group(heatmaps, tags, joint_order=ORDER, **options)
            np.testing.assert_allclose(poses, plain, atol=1e-6)
            np.testing.assert_allclose(scores, plain_scores, rtol=1e-5)
            if not options:
                found, found_scores = on_device(heatmaps, tags, **options)
                np.testing.assert_array_equal(found, poses[:30])
                np.testing.assert_allclose(found_scores, scores[:30], rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"use_detection_value": False}, {"ignore_too_much": True, "max_people": 3, "adjust": False}]
)
def test_options_against_plain_loops(options):
    # Of distances on a line many sums are equal but for rounding: in the plane they are not.
    tags = 2 if "use_detection_value" in options else 1
    batch = [plain_grouping.scene(i, people=5, spurious=3, apart=1.5, noise=0.02, tags=tags) for i in range(4)]
    heatmaps, tags = (np.stack(arrays) for arrays in zip(*batch))
    poses, _, valid = grouping.group_batch(heatmaps, tags, detection_threshold=0.15, **options)
    for i, scene in enumerate(batch):
        expected, _ = grouping.group(*scene, detection_threshold=0.15, **options)
        plain, _ = plain_grouping.group(*scene, detection_threshold=0.15, joint_order=range(5), **options)
        np.testing.assert_allclose(expected, plain, atol=1e-6)
        most = options.get("max_people", 30)
        np.testing.assert_array_equal(np.asarray(poses[i])[np.asarray(valid[i])], expected[:most])


def test_the_device_assigns_as_scipy_does_equal_costs_too():
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(0)
    m = n = 7
    assign = jax.jit(jax.vmap(assignment.assign))
    rows, columns, cost = [], [], []
    for _ in range(300):
        a = rng.integers(1, m + 1)
        b = rng.integers(a, n + 1)
        rows.append(np.arange(m) < a)
        columns.append(np.arange(n) < b)
        cost.append(rng.integers(0, rng.choice([2, 4, 50]), (m, n, 2)))
    found = assign(jnp.asarray(cost), jnp.asarray(rows), jnp.asarray(columns))
    for got, c, row, column in zip(np.asarray(found), cost, rows, columns):
        a, b = row.sum(), column.sum()
        one_number = c[:a, :b, 0] * 1000 + c[:a, :b, 1]
        assert got[:a].tolist() == linear_sum_assignment(one_number)[1].tolist() and (got[a:] == -1).all()


def empty(size=32, joints=5):
    return np.zeros((size, size, joints), np.float32), np.zeros((size, size, joints, 1), np.float32)


def test_no_peaks_no_people():
    for poses, scores in (grouping.group(*empty()), on_device(*empty())):
        assert poses.shape == (0, 5, 4) and scores.shape == (0,)


def test_equal_maps_are_one_person():
    """Every pixel is a peak, and all have one tag: the last peak that is looked at stays, as published."""
    heatmaps, tags = empty()
    heatmaps += 0.5
    poses, scores = grouping.group(heatmaps, tags)
    plain, _ = plain_grouping.group(heatmaps, tags, joint_order=ORDER)
    np.testing.assert_array_equal(poses, plain)
    assert len(poses) == 1 and scores[0] == pytest.approx(0.5)
    np.testing.assert_array_equal(on_device(heatmaps, tags)[0], poses)


def test_more_peaks_than_max_people():
    heatmaps, tags = empty()
    for i, (y, x) in enumerate(itertools.product(range(2, 32, 5), repeat=2)):  # 36 peaks a joint
        heatmaps[y, x], tags[y, x] = 0.2 + 0.01 * i, 3.0 * i
    poses, _ = grouping.group(heatmaps, tags)
    assert len(poses) == 30 and (poses[..., 2] > 0).all() and poses[..., 2].min() == pytest.approx(0.26)
    np.testing.assert_array_equal(on_device(heatmaps, tags)[0], poses)
    # Others in one joint: they cannot be matched, and are listed by themselves beyond max_people.
    tags[..., 1, :] += 1000
    poses, _ = grouping.group(heatmaps, tags, refine=False)
    assert len(poses) == 60 and ((poses[..., 2] > 0).sum(1) == [4] * 30 + [1] * 30).all()
    np.testing.assert_array_equal(on_device(heatmaps, tags)[0], grouping.group(heatmaps, tags)[0][:30])


def test_maps_that_are_not_finite():
    heatmaps, tags = plain_grouping.scene(0, spurious=0)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"heatmaps has 1 values that are not finite, the first at \[3, 4, 1\]"):
            broken = heatmaps.copy()
            broken[3, 4, 1] = bad
            grouping.group(broken, tags)
    with pytest.raises(ValueError, match="tags has .* not finite"):
        grouping.group(heatmaps, np.full_like(tags, np.nan))
    assert not len(on_device(np.full_like(heatmaps, np.nan), tags)[0])


def test_an_image_does_not_depend_on_its_batch():
    scenes = [plain_grouping.scene(seed, people=seed) for seed in range(4)]
    heatmaps, tags = (np.stack(arrays) for arrays in zip(*scenes))
    poses, scores, valid = grouping.group_batch(heatmaps, tags)
    assert poses.shape == (4, 30, 5, 4) and scores.shape == valid.shape == (4, 30)
    turned = grouping.group_batch(heatmaps[::-1], tags[::-1])
    np.testing.assert_array_equal(turned[0][::-1], poses)
    for i, scene in enumerate(scenes):
        np.testing.assert_array_equal(poses[i][valid[i]], grouping.group(*scene)[0])


def test_float64_and_half_precision():
    heatmaps, tags = plain_grouping.scene(1)
    poses, _ = grouping.group(heatmaps, tags)
    double, _ = grouping.group(heatmaps.astype(np.float64), tags.astype(np.float64))
    assert poses.dtype == np.float32 and double.dtype == np.float64
    np.testing.assert_allclose(double, poses, atol=1e-6)
    half = (jnp.asarray(a, jnp.bfloat16) for a in (heatmaps, tags))
    assert on_device(*half)[0].dtype == np.float32


BAD = [
    ({"max_people": 0}, "max_people=0"),
    ({"detection_threshold": -0.1}, "detection_threshold=-0.1: expected 0 or more"),
    ({"tag_threshold": 0.0}, "tag_threshold=0.0"),
    ({"joint_order": (0, 1, 1)}, r"joint_order=\(0, 1, 1\): expected each of the joints 0 to 4 once"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_are_checked(options, message):
    heatmaps, tags = empty()
    for call in (
        functools.partial(grouping.group, heatmaps, tags),
        functools.partial(grouping.group_batch, heatmaps[None], tags[None]),
    ):
        with pytest.raises(ValueError, match=message):
            call(**options)


def test_shapes_are_checked():
    heatmaps, tags = empty()
    with pytest.raises(ValueError, match=r"\(32, 32, 5\), tags \(32, 32, 5\): expected \(h, w, K\) and"):
        grouping.group(heatmaps, tags[..., 0])
    with pytest.raises(ValueError, match="at least one tag"):
        grouping.group(heatmaps, tags[..., :0])
    with pytest.raises(ValueError, match=r"\(32, 32, 5\), tags .*: expected \(B, h, w, K\)"):
        grouping.group_batch(heatmaps, tags)
    with pytest.raises(ValueError, match=r"heatmaps \(32, 32\)"):
        grouping.peaks(heatmaps[..., 0])
