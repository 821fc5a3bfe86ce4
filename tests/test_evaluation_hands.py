"""Errors of hands: hand3d's evaluation, per joint first, and the grids of published areas."""

import json

import numpy as np
import pytest

from jaxpose import hands as geometry
from jaxpose import metrics
from jaxpose.evaluation import command, hands
from tests import tiny_rhd


def hand_set(seed=0):
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 40, (12, 21, 3))
    where = rng.random((12, 21)) < 0.7
    where[:, 5] = False
    return target + rng.laplace(0, 12, target.shape), target, where


def by_hand(error, where, thresholds):
    """The definition, joint by joint."""
    rows = []
    for k in range(error.shape[1]):
        e = error[where[:, k], k]
        if len(e):
            curve = [np.mean(e <= t) for t in thresholds]
            rows.append((e.mean(), np.median(e), np.trapezoid(curve, thresholds) / (thresholds[-1] - thresholds[0])))
    return np.mean(rows, axis=0)


def test_statistics_are_of_each_joint_first():
    pred, target, where = hand_set()
    target[~where] = np.nan
    error = metrics.distance(pred, target, where=where)
    for thresholds in (hands.PIXELS, hands.MILLIMETRES):
        result = hands.joint_errors(error, thresholds=thresholds, where=where)
        np.testing.assert_allclose(
            (result.mean, result.median, result.auc), by_hand(error, where, thresholds), atol=1e-12
        )
    assert result.mean != pytest.approx(error[where].mean(), abs=1e-6), "the mean over samples is another number"


def test_a_joint_that_is_never_visible_is_left_out_and_an_empty_set_is_nan():
    result = hands.joint_errors([[1.0, 99.0]], thresholds=[0.0, 2.0], where=[[True, False]])
    assert result.mean == 1.0
    nothing = hands.joint_errors([[1.0]], thresholds=[0.0, 2.0], where=[[False]])
    assert np.isnan([nothing.mean, nothing.median, nothing.auc, *nothing.curve]).all()


def test_an_error_that_is_not_finite_names_its_hand():
    with pytest.raises(ValueError, match="the error of hand 1, joint 0 is not finite"):
        hands.joint_errors([[1.0], [np.nan]], thresholds=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"where must be \(1, 1\)"):
        hands.joint_errors([[1.0]], thresholds=[0.0, 1.0], where=[True])
    with pytest.raises(ValueError, match=r"errors must be \(N, K\)"):
        hands.joint_errors([1.0], thresholds=[0.0, 1.0])


def test_mmposes_area_is_smaller_by_half_a_step_and_a_little():
    """Facts 1.2: 1 - (EPE + 0.75) / 30 for errors below 28.5 pixels."""
    rng = np.random.default_rng(1)
    error = rng.uniform(0, 20, (4000, 21))
    target = np.zeros((4000, 21, 2))
    pred = np.stack([error, np.zeros_like(error)], axis=-1)
    scores = hands.scores_2d(pred, target)
    assert scores["AUC_mmpose"] == pytest.approx(1 - (scores["EPE_px"] + 0.75) / 30, abs=2e-3)
    assert scores["AUC_0_30px"] == pytest.approx(1 - scores["EPE_px"] / 30, abs=2e-3)


def test_root_relative_hands_have_the_true_scale():
    pred, target, _ = hand_set()
    bone = np.linspace(30, 45, 12)
    a, b = hands.root_relative(target / bone[:, None, None] + 5.0, target, bone=bone)
    np.testing.assert_allclose(a, b, atol=1e-9)
    assert hands.scores_3d(a, b)["EPE_mm"] < 1e-9
    np.testing.assert_allclose(hands.absolute(target / 35.0, bone=35.0), target)


def test_hands_match_hand3ds_evaluation(golden_path):
    golden = np.load(golden_path("hands/hands.npz"))
    error = np.linalg.norm(golden["m2_pred"] - golden["m2_gt"], axis=-1)
    relative = golden["m3_gt"] - golden["m3_gt"][:, :1]
    in_space = np.linalg.norm(golden["m3_pred_rel"] - relative, axis=-1)
    for tag, errors, where in (
        ("m2_0_30px_20", error, golden["m2_vis"]),
        ("m3_0_50mm_20", in_space, None),
        ("m3_0_50mm_100", in_space, None),
        ("m3_20_50mm_100", in_space, None),
    ):
        result = hands.joint_errors(errors, thresholds=golden[f"{tag}_thresholds"], where=where)
        for value, name in (
            (result.mean, "epe_mean"),
            (result.median, "epe_median"),
            (result.auc, "auc"),
            (result.curve, "curve"),
        ):
            np.testing.assert_allclose(value, golden[f"{tag}_{name}"], atol=1e-9, rtol=0, err_msg=f"{tag} {name}")
    scores = hands.scores_2d(golden["m2_pred"], golden["m2_gt"], where=golden["m2_vis"])
    assert scores["AUC_0_30px"] == pytest.approx(float(golden["m2_0_30px_20_auc"]), abs=1e-9)
    scores = hands.scores_3d(1000 * golden["m3_pred_rel"], 1000 * relative)
    assert scores["EPE_mm"] == pytest.approx(1000 * float(golden["m3_20_50mm_100_epe_mean"]), abs=1e-9)
    assert scores["AUC_20_50mm"] == pytest.approx(float(golden["m3_20_50mm_100_auc"]), abs=1e-9)
    assert scores["AUC_0_50mm"] == pytest.approx(float(golden["m3_0_50mm_20_auc"]), abs=1e-9)
    assert scores["AUC_hand3d_20mm"] == pytest.approx(float(golden["m3_slice8_auc"]), abs=1e-9)


def hand_files(tmp_path, *, truth=None, records=None, count=4):
    """Labels of hands, and predictions of them 0.9 times as large with noise; `truth` and `records` may change them."""
    rng = np.random.default_rng(0)
    target = np.stack([1000 * tiny_rhd.in_space(seed) for seed in range(count)])
    pred = 0.9 * target + rng.normal(0, 4, target.shape)
    px = np.concatenate([target[..., :2] / target[..., 2:] * 110 + 48, np.full((count, 21, 1), 2)], -1)
    people = [
        {"id": 7 + i, "image_id": 1, "keypoints": xy.ravel().tolist(), "keypoints_3d": xyz.ravel().tolist(), "camera": [110, 48, 48]}
        for i, (xyz, xy) in enumerate(zip(target, px, strict=True))
    ]  # fmt: skip
    people.append({"id": 90, "image_id": 2, "keypoints": [5, 5, 2] * 21})
    length = 0.9 * float(geometry.bone_length(target[0], bone=geometry.PALM))
    results = [
        {"image_id": 1, "annotation_id": 7 + i, "keypoints_3d": xyz.ravel().tolist(), "bone": "palm", "bone_mm": length}
        for i, xyz in enumerate(pred)
    ]
    paths = tmp_path / "labels.json", tmp_path / "step_1_3d.json"
    for path, content, change in zip(paths, ({"annotations": people}, results[::-1]), (truth, records), strict=True):
        path.write_text(json.dumps(content if change is None else change(content)))
    return paths, pred, target, length


def test_a_file_of_hands_in_space_is_scored(tmp_path, capsys):
    paths, pred, target, length = hand_files(tmp_path)
    command.main(*paths)
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    bone = geometry.bone_length(target, bone=geometry.PALM)
    expected = hands.scores_3d(*hands.root_relative(pred / length, target, bone=bone))
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert scores["absolute_EPE_mm"] == pytest.approx(np.linalg.norm(pred - target, axis=-1).mean())
    depth = ((pred - pred[:, :1]) / length - (target - target[:, :1]) / bone[:, None, None])[:, 1:, 2]
    assert scores["depth_mm"] == pytest.approx((np.abs(depth) * bone[:, None]).mean())
    with pytest.raises(ValueError, match="holds hands in space, which take no options"):
        command.main(*paths, errors=True)


def test_hands_without_the_length_of_their_bone_have_an_absolute_error_alone(tmp_path):
    keys = ("annotation_id", "keypoints_3d")
    paths, *_ = hand_files(tmp_path, records=lambda rows: [{k: row[k] for k in keys} for row in rows])
    assert list(hands.score(*paths)) == ["absolute_EPE_mm"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"records": lambda r: r[1:]}, "1 labelled hands have no result, the first is annotation 10"),
        ({"records": lambda r: [*r, r[0] | {"annotation_id": 90}]}, "1 results have no label in space in .* annotation 90"),
        ({"records": lambda r: [*r, r[0]]}, "result 4 has the annotation_id 10: expected the id of the hand's annotation"),
        ({"records": lambda r: [{"image_id": 1, "keypoints_3d": []}]}, 'labels with "kind": "poses_3d"'),
        ({"records": lambda r: [r[0] | {"keypoints_3d": [1.0] * 60}]}, "result 0 .annotation 10.: expected 'keypoints_3d', 63"),
        ({"records": lambda r: [r[0] | {"bone_mm": 0}]}, "a positive 'bone_mm' or none"),
        ({"records": lambda r: [r[0] | {"bone": "toe"}, *r[1:]]}, "is palm, toe: expected one of palm, finger for all"),
        ({"truth": lambda t: {"annotations": t["annotations"][-1:]}}, "no annotation has 'keypoints_3d'"),
        ({"truth": lambda t: {"annotations": [t["annotations"][0] | {"camera": None}]}}, "annotation 7: expected 'keypoints_3d', 63"),
        ({"truth": lambda t: {"annotations": [t["annotations"][0] | {"camera": [110, 90, 48]}]}}, "annotation 7: 'camera' projects"),
        ({"truth": lambda t: []}, "expected COCO JSON"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_named(tmp_path, change, message):
    paths, *_ = hand_files(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        command.main(*paths)


def test_a_label_without_a_joint_in_the_picture_needs_no_result(tmp_path):
    def unseen(truth):
        people = truth["annotations"]
        return {"annotations": [*people, people[0] | {"id": 50, "keypoints": [0, 0, 0] * 21}]}

    paths, *_ = hand_files(tmp_path, truth=unseen)
    assert hands.score(*paths)["EPE_mm"] > 0
