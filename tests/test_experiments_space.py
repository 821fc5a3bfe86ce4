"""The pages in space: a run from data to MPJPE, its files, mixed batches, and the published evaluation."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from experiments import h36m_integral, h36m_rle
from experiments.common import space as kind
from jaxpose import cli, metrics
from jaxpose.data import crops, mixing, space
from jaxpose.evaluation import poses_3d
from jaxpose.skeleton import COCO17, H36M17, H36M18, MPII16
from tests import test_data_space, tiny_coco

QUICK = (
    "--preset", "own", "--width", "4", "--resnet-stages", "1", "--size-wh", "32", "32", "--batch-size", "4", "--epochs", "2",
    "--eval-every", "2", "--milestones", "1", "--log-every", "1", "--no-plots", "--no-flip-test", "--likelihood.loss", "gaussian",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    test_data_space.write(folder / "data")
    common = ("--data", str(folder / "data"), "--val-split", "train", "--data-dir", str(folder / "prepared"))
    scores = h36m_rle.main([*QUICK, *common, "--withhold", "0.5", "--out", str(folder / "run")])
    return folder, common, scores


def test_a_run_on_own_data_ends_in_mpjpe(run, capsys):
    folder, _, scores = run
    assert {"MPJPE", "PA-MPJPE", "MPJPE_mean_pose", "skill", "error_z", "calibration_error"} <= scores.keys()
    assert (
        0 < scores["PA-MPJPE"] < scores["MPJPE"] and scores["skill"] == 1 - scores["MPJPE"] / scores["MPJPE_mean_pose"]
    )
    (results,) = [p for p in (folder / "run" / "results").glob("step_*.json") if "report" not in p.name]
    cli.main(["evaluate", str(folder / "run" / "truth_3d.json"), str(results)])
    printed = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert printed["MPJPE"] == pytest.approx(scores["MPJPE"], abs=0.01)
    stored = json.loads((folder / "run" / "mean_pose.json").read_text())["mean"]
    assert np.shape(stored) == (17, 3) and not np.any(np.array(stored)[0, 2])


def test_an_evaluation_gives_the_same_numbers_and_writes_a_page(run):
    folder, common, scores = run
    again = h36m_rle.main(["--eval-only", str(folder / "run"), *common, "--out", str(folder / "again")])
    for name in ("MPJPE", "PA-MPJPE", "MPJPE_mean_pose"):
        assert again[name] == pytest.approx(scores[name], rel=1e-4), name
    page = (folder / "again" / "report.html").read_text()
    assert "data-scene" in page and "ellipsoids" in page and "which counts with error 0" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--also", "x", "--withhold", "0.5"], "leave one of them out"),
        (["--likelihood.loss", "basic"], "in space there are two flows"),
    ],
)  # fmt: skip
def test_flags_that_contradict_each_other(flags, message):
    with pytest.raises(ValueError, match=message):
        h36m_rle.PAGE.settings(["--preset", "own", *flags])


def test_presets_cover_persons_as_their_codes_do():
    expected = {"official": 1.0, "paper": 1.0, "direct": 0.0, "own": 0.0, "tiny": 0.0}
    assert {name: config.augmentation().occlusion for name, config in h36m_rle.PRESETS.items()} == expected
    expected = dict.fromkeys(("tiny", "official", "compensated"), 0.0) | {"posenet": 0.5}
    assert {name: config.augmentation().occlusion for name, config in h36m_integral.PRESETS.items()} == expected
    official = h36m_rle.PRESETS["official"].augmentation()
    assert official.name == "rle_3d" and official.truncate_colour and official.colour == 0.2


def test_data_in_the_plane_are_refused(tmp_path):
    tiny_coco.write(tmp_path / "plane")
    with pytest.raises(ValueError, match="has no joints in space: expected 'keypoints_3d'"):
        h36m_rle.main(
            [*QUICK, "--data", str(tmp_path / "plane"), "--data-dir", str(tmp_path / "p"), "--out", str(tmp_path / "o")]
        )


def test_a_mixed_batch_is_a_function_of_seed_and_step(tmp_path):
    source = test_data_space.read(tmp_path)
    both = mixing.mixed(*mixing.split(source, part=0.75, seed=1), share=0.25)
    assert both.mix == (3, 0.25) and len(both) == 4 and both.persons["has_depth"].all(1).sum() == 3
    steps = range(6)
    whole = [
        mixing.mixed_indices(range(8 * t, 8 * t + 8), batch_size=8, num_samples=4, mix=both.mix, seed=5) for t in steps
    ]
    for indices, _ in whole:
        assert (indices < 3).sum() == 2 and (indices < 3)[[3, 7]].all()
    late = mixing.mixed_indices(range(36, 40), batch_size=8, num_samples=4, mix=both.mix, seed=5)
    np.testing.assert_array_equal(late[0], whole[4][0][4:])  # a process's slice, from any step
    first = np.concatenate([indices[indices < 3] for indices, _ in whole])
    assert sorted(first[:3]) == sorted(first[3:6]) == [0, 1, 2]  # its own epochs
    plan = crops.plan(both, [0, 3], size_wh=(32, 32))
    assert plan["has_depth"][0].all() and not plan["has_depth"][1].any()
    with pytest.raises(ValueError, match="share=1"):
        mixing.mixed(source, source, share=1.0)
    with pytest.raises(ValueError, match="so that a batch holds both"):
        mixing.mixed_indices(range(4), batch_size=4, num_samples=4, mix=(2, 0.1), seed=5)


@pytest.mark.parametrize("visibility", ["labelled", "official"])
def test_joints_of_another_skeleton_are_matched_by_name(tmp_path, visibility):
    from jaxpose.data.formats import mpii
    from tests import test_data_formats_mpii

    folder = test_data_formats_mpii.write(tmp_path)
    source = mpii.read(*mpii.find(folder, "valid"))
    other = mixing.mapped(source, H36M18, enlarged=1.25, visibility=visibility)
    released = [6, 2, 1, 0, 3, 4, 5, -1, 8, -1, 9, 13, 14, 15, 12, 11, 10, 7]  # the map of the released code
    keypoints = source.persons["keypoints"]
    for k, place in enumerate(released):
        if place < 0:
            assert not other.persons["keypoints"][:, k].any()
        else:
            np.testing.assert_array_equal(other.persons["keypoints"][:, k, :2], keypoints[:, place, :2])
            expected = np.maximum(keypoints[:, place, 2], 1) if visibility == "official" else keypoints[:, place, 2]
            np.testing.assert_array_equal(other.persons["keypoints"][:, k, 2], expected)
    np.testing.assert_allclose(other.persons["box"][:, 2:], 1.25 * source.persons["box"][:, 2:], rtol=1e-6)
    assert space.has_space(other) and not other.persons["has_depth"].any()
    with pytest.raises(ValueError, match="has none of the joints"):
        mixing.mapped(source, __import__("jaxpose.skeleton", fromlist=["RHD21"]).RHD21)


def test_what_errors_count():
    full = kind.Evaluated.of(H36M18, (0,))
    assert full.skeleton.joints == H36M17.joints and full.root == 0 and full.handling == "aligned"
    hips = kind.Evaluated.of(COCO17, (11, 12))
    assert hips.root == 17 and hips.handling == "left_out" and hips.skeleton.num_joints == 18
    points = np.random.default_rng(0).normal(size=(2, 17, 3))
    np.testing.assert_allclose(hips.joints(points)[:, 17], points[:, 11:13].mean(1))
    assert kind.Evaluated.of(MPII16, (6,)).skeleton.num_joints == 16


@pytest.mark.reference
def test_published_evaluation(golden, tmp_path):
    """RLE's way from net outputs to millimetres, and its MPJPE and PA-MPJPE."""
    case = golden("three_d/rle_h36m")
    source = test_data_space._golden_source(case, tmp_path)
    plan = crops.plan(source, range(7), size_wh=(256, 256), padding=1.0)
    from jaxpose import inference

    xy = inference.to_image((case["eval_pred_jts"][..., :2] + 0.5) * 256, plan["affine"].astype(float))
    depth = case["eval_pred_jts"][..., 2] * 2000
    np.testing.assert_allclose(xy, case["eval_uvd"][..., :2], rtol=1e-5, atol=2e-3)
    points = kind.in_camera(xy, depth, root=source.persons["root"], camera=source.persons["camera"])
    points, target = points[:, :17], source.persons["joints_3d"][:, :17]
    np.testing.assert_allclose(points - points[:, :1], case["eval_joint_cam_rel"], atol=0.02)
    scores = poses_3d.scores(points, target)
    np.testing.assert_allclose(scores["MPJPE"], case["eval_total_mpjpe"], rtol=1e-5)
    np.testing.assert_allclose(scores["PA-MPJPE"], case["eval_pa_mpjpe"], rtol=1e-5)
    np.testing.assert_allclose(target - target[:, :1], case["eval_gt_rel"], atol=1e-3)
    pred = points - points[:, :1]
    aligned = metrics.procrustes_align(pred, target - target[:, :1])
    np.testing.assert_allclose(aligned, case["eval_pa_aligned"], atol=0.02)
    by_axis = np.abs(pred - (target - target[:, :1])).mean((0, 1))
    printed = dict(re.findall(r"(tot|x|y|z): ([0-9.]+)", str(case["eval_summary"])))
    assert float(printed["tot"]) == pytest.approx(scores["MPJPE"], abs=1e-3)
    assert by_axis.tolist() == pytest.approx([float(printed[axis]) for axis in "xyz"], abs=0.01)
    actions = [name.split("_act_")[1][:2] for name in case["ann_file_name"].tolist()]
    actions = [a for a, i in zip(actions, case["ann_image_id"]) if i in case["label_image_id"]]
    by_action = poses_3d.scores(points, target, action=actions)["actions"]
    names = re.findall(r"(\w+): (nan|[0-9.]+)", str(case["eval_actions"]))
    expected = {f"{i + 2:02d}": float(value) for i, (_, value) in enumerate(names) if value != "nan"}
    assert {a: errors["MPJPE"] for a, errors in by_action.items()} == pytest.approx(expected, abs=0.01)


def test_occlusion_is_analysed_in_mm(run, capsys):
    from experiments import analyse

    folder, _, scores = run
    result = analyse.main(
        [str(folder / "run"), "--data", str(folder / "data"), "--split", "train", "--count", "0", "--patch", "16", "--stride", "16",
         "--batch-size", "4", "--no-plots", "--data-dir", str(folder / "prepared")]
    )  # fmt: skip
    whole = [of for of in result["occlusion"]["relations"].values() if of["labels"]]
    total = sum(of["labels"] * of["EPE_whole"] for of in whole) / sum(of["labels"] for of in whole)
    assert result["unit"] == "mm" and "EPE, mm; rows" in capsys.readouterr().out
    assert total == pytest.approx(scores["MPJPE"], rel=0.05)
