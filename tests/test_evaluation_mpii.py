import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.io import savemat

from jaxpose import metrics
from jaxpose.evaluation import mpii, results

NAMES = ["rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor"]
NAMES += ["neck", "head", "rwri", "relb", "rsho", "lsho", "lelb", "lwri"]


def write_mat(path, *, joints, missing, boxes, names=NAMES, **other):
    """As MATLAB wrote gt_valid.mat: the names are a row of cells."""
    cells = np.empty((1, len(names)), object)
    cells[0] = names
    arrays = dict(dataset_joints=cells, jnt_missing=missing, pos_gt_src=joints, headboxes_src=boxes)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: value for name, value in (arrays | other).items() if value is not None})
    return path


@pytest.fixture(scope="module")
def published(golden, tmp_path_factory):
    """(truth read from a file, predictions counted from 0)."""
    g = golden("eval")
    path = tmp_path_factory.mktemp("mpii") / "gt_valid.mat"
    write_mat(path, joints=g["mpii_gt"], missing=g["mpii_missing"], boxes=g["mpii_headboxes"])
    return mpii.load_truth(path), g["mpii_pred0"]


def test_numbers_of_the_published_evaluation(published, golden_json):
    truth, pred = published
    official, extra = golden_json("eval")["mpii_official"], golden_json("eval")["mpii_extra"]
    assert len(truth) == 40 and "40 persons" in repr(truth)
    scores = mpii.pckh(truth, pred, np.arange(1, 41))
    expected = {f"PCKh@0.5_{name.lower()}": value for name, value in official.items() if not name.startswith("Mean")}
    expected |= {"PCKh@0.5": official["Mean"], "hrnet_mean_at_0.1": official["Mean@0.1"]}
    expected |= {"PCKh@0.1": extra["mean_at_0p10"], "AUC": extra["auc_0_to_0p5_51pts"]}
    assert set(scores) == set(expected)
    for name, value in expected.items():
        assert 100 * scores[name] == pytest.approx(value, rel=1e-9), name
    assert scores["PCKh@0.1"] < scores["hrnet_mean_at_0.1"] == pytest.approx(extra["mean_at_0p11"] / 100, rel=1e-9)
    without = mpii.pckh(truth, pred - 1, np.arange(1, 41))
    assert without["PCKh@0.5"] != scores["PCKh@0.5"]  # the pixel counts


def test_predictions_find_their_rows(published):
    truth, pred = published
    order = np.random.default_rng(0).permutation(40)
    assert mpii.pckh(truth, pred[order], order + 1) == mpii.pckh(truth, pred, np.arange(1, 41))
    assert mpii.pckh(truth, pred[order], np.arange(1, 41)) != mpii.pckh(truth, pred, np.arange(1, 41))


def test_curve(published):
    truth, pred = published
    curve, scores = mpii.pckh_curve(truth, pred, np.arange(1, 41)), mpii.pckh(truth, pred, np.arange(1, 41))
    assert set(curve) == {"threshold", "mean", *mpii.GROUPS}
    assert curve["threshold"][[0, 10, 11, 50]] == pytest.approx([0, 0.1, 0.11, 0.5])
    assert all(value.shape == (51,) for value in curve.values())
    assert all((np.diff(value) >= 0).all() for value in curve.values())
    assert curve["mean"].mean() == pytest.approx(scores["AUC"], rel=1e-12)
    assert curve["mean"][50] == scores["PCKh@0.5"] and curve["mean"][11] == scores["hrnet_mean_at_0.1"]
    for name in mpii.GROUPS:
        assert curve[name][50] == scores[f"PCKh@0.5_{name}"]


def small(people=3, *, head=(30.0, 40.0)) -> mpii.Truth:
    """Head size 30."""
    joints = np.random.default_rng(1).uniform(1, 200, (people, 16, 2))
    size = metrics.head_size(np.tile([[0.0, 0.0], head], (people, 1, 1)))
    return mpii.Truth(joints=joints, where=np.ones((people, 16), bool), head_size=size)


def test_thresholds_include_themselves():
    """3 of 30 pixels are exactly 0.1; 3.1 lie between it and HRNet's 0.11."""
    truth = mpii.Truth(np.full((1, 16, 2), 5.0), np.ones((1, 16), bool), np.array([30.0]))
    for distance, at_01, hrnet in ((3.0, 1, 1), (3.1, 0, 1), (3.4, 0, 0)):
        scores = mpii.pckh(truth, np.full((1, 16, 2), 4.0) + (distance, 0), [1])
        assert (scores["PCKh@0.1"], scores["hrnet_mean_at_0.1"], scores["PCKh@0.5"]) == (at_01, hrnet, 1)


def test_unlabelled_joints_and_persons():
    truth = small()
    truth.where[1] = False  # nobody: needs no prediction
    truth.where[:, 9] = False  # no head anywhere
    truth.joints[~truth.where] = np.nan
    xy = np.where(truth.where[..., None], truth.joints - 1, 1e6)
    scores = mpii.pckh(truth, xy[[0, 2]], [1, 3])
    assert scores["PCKh@0.5"] == scores["PCKh@0.5_hip"] == scores["AUC"] == 1 and "PCKh@0.5_head" not in scores
    assert scores == mpii.pckh(truth, xy, [1, 2, 3])
    assert np.isnan(mpii.pckh_curve(truth, xy, [1, 2, 3])["head"]).all()


def test_pelvis_and_thorax_stay_out_of_the_mean():
    truth = small()
    xy = truth.joints - 1
    xy[:, 6:8] += 1000
    assert mpii.pckh(truth, xy, [1, 2, 3])["PCKh@0.5"] == 1


def test_persons_without_a_prediction():
    truth = small()
    xy = truth.joints[:2] - 1
    with pytest.raises(ValueError, match=r"1 of 3 labelled persons .*annotation_id 2\).*OKS-NMS.*on_missing='wrong'"):
        mpii.pckh(truth, xy, [1, 3])
    scores = mpii.pckh(truth, truth.joints[[0, 2]] - 1, [1, 3], on_missing="wrong")
    for name in ("PCKh@0.5", "AUC", "PCKh@0.5_knee"):
        assert scores[name] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(xy=np.zeros((3, 17, 2))), r"xy must be \(P, 16, 2\).*\(3, 17, 2\)"),
        (dict(annotation_id=[1, 2]), r"annotation_id \(P,\), got \(3, 16, 2\) and \(2,\)"),
        (dict(annotation_id=[1.0, 2.0, 3.0]), "whole numbers, got float64"),
        (dict(annotation_id=[0, 1, 2]), "annotation_id 0 is not in .* 3 persons, counted from 1"),
        (dict(annotation_id=[1, 2, 4]), "annotation_id 4 is not in"),
        (dict(annotation_id=[1, 2, 2]), "annotation_id 2 occurs 2 times"),
        (dict(xy=np.full((3, 16, 2), np.nan)), "prediction of annotation_id 1 is not finite"),
        (dict(on_missing="skip"), "on_missing must be 'error' or 'wrong', got 'skip'"),
    ],
)
def test_predictions_that_do_not_fit(change, words):
    arguments = dict(xy=np.zeros((3, 16, 2)), annotation_id=[1, 2, 3]) | change
    with pytest.raises(ValueError, match=words):
        mpii.pckh(small(), **arguments)
    with pytest.raises(ValueError, match=words):
        mpii.pckh_curve(small(), **arguments)


def records(xy, ids):
    return results.from_predictions(
        xy, np.ones(xy.shape[:2]), image_id=np.ones(len(xy), int), annotation_id=np.asarray(ids)
    )


def test_result_records():
    truth = small()
    found = records(truth.joints - 1, [1, 2, 3])
    assert mpii.from_results(truth, found)["PCKh@0.5"] == 1
    worse = records(truth.joints[:1] + 500, [1])
    assert mpii.from_results(truth, worse + found)["PCKh@0.5"] == pytest.approx(2 / 3)  # equal scores: the first
    worse[0]["score"] = 0.1
    assert mpii.from_results(truth, worse + found)["PCKh@0.5"] == 1
    with pytest.raises(ValueError, match="1 of 3 labelled persons"):
        mpii.from_results(truth, found[1:])
    assert mpii.from_results(truth, found[1:], on_missing="wrong")["PCKh@0.5"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="record 0 has no annotation_id"):
        mpii.from_results(truth, [{k: v for k, v in found[0].items() if k != "annotation_id"}])
    with pytest.raises(ValueError, match="record 0 has 6 numbers"):
        mpii.from_results(truth, [found[0] | {"keypoints": [1.0] * 6}])


def arrays(people=2, **change):
    rng = np.random.default_rng(0)
    boxes = np.tile(np.array([[0.0, 0.0], [30.0, 40.0]])[..., None], (1, 1, people))
    given = dict(joints=rng.uniform(1, 99, (16, 2, people)), missing=np.zeros((16, people)), boxes=boxes)
    return given | change


def test_a_file_of_one_person(tmp_path):
    given = arrays(1)
    given |= {"joints": given["joints"][..., 0], "boxes": given["boxes"][..., 0]}
    truth = mpii.load_truth(write_mat(tmp_path / "gt.mat", **given))
    assert truth.joints.shape == (1, 16, 2) and truth.head_size.tolist() == [30]
    np.testing.assert_array_equal(truth.joints[0], given["joints"])


def test_a_person_without_labels_needs_no_head(tmp_path):
    given = arrays()
    given["missing"][:, 1], given["boxes"][:, :, 1], given["joints"][:, :, 1] = 1, np.nan, np.nan
    truth = mpii.load_truth(write_mat(tmp_path / "gt.mat", **given, names=NAMES))
    assert mpii.pckh(truth, truth.joints[:1] - 1, [1])["PCKh@0.5"] == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (arrays(jnt_missing=None), r"no array 'jnt_missing' \(16, N\): it holds \['dataset_joints', 'headboxes_src'"),
        (arrays(missing=np.zeros((16, 3))), r"expected pos_gt_src \(16, 2, N\).*got .*jnt_missing \(16, 3\)"),
        (arrays(missing=np.ones((16, 2))), "no joint is labelled"),
        (arrays(boxes=np.zeros((2, 2, 2))), "person 0 has labelled joints.*head box is empty"),
        (arrays(joints=np.full((16, 2, 2), np.nan)), "person 0 .*not finite"),
        (arrays(names=NAMES[::-1]), "dataset_joints, got .*'lwri'"),
        (arrays(names=NAMES[:15]), "among 16 dataset_joints"),
    ],
)
def test_a_bad_file(tmp_path, given, words):
    with pytest.raises(ValueError, match=rf"gt_valid\.mat.*{words}"):
        mpii.load_truth(write_mat(tmp_path / "gt_valid.mat", **given))


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gt_valid\.mat does not exist"):
        mpii.load_truth(tmp_path / "gt_valid.mat")
    for content in (b"", b"no MATLAB", b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\x00\x02IM" + bytes(600)):
        (tmp_path / "gt_valid.mat").write_bytes(content)
        with pytest.raises(ValueError, match=r"gt_valid\.mat is (not a MATLAB file|a MATLAB file of version 7\.3)"):
            mpii.load_truth(tmp_path / "gt_valid.mat")


@pytest.mark.parametrize(
    ("place", "split"),
    [
        ("annot/gt_valid.mat", "valid"),
        ("annot/gt_valid.mat", "val"),
        ("annotations/mpii_gt_val.mat", "valid"),
        ("gt_valid.mat", "val"),
        ("gt_test_mpii.mat", "test_mpii"),
    ],
)
def test_finding_the_file(tmp_path, place, split):
    with pytest.raises(FileNotFoundError, match=rf"none of annot/gt_{split}\.mat.*end-point error .*EPE.*can still"):
        mpii.find_truth(tmp_path, split)
    write_mat(tmp_path / place, **arrays())
    assert mpii.find_truth(tmp_path, split) == tmp_path / place


def test_on_the_command_line_without_jax(tmp_path):
    write_mat(tmp_path / "gt_valid.mat", **arrays())
    truth = mpii.load_truth(tmp_path / "gt_valid.mat")
    results.write(records(truth.joints - 1, [1, 2]), tmp_path / "results.json")

    def command(*options):
        code = "import sys, runpy; sys.modules.update(dict.fromkeys(['jax', 'flax', 'tensorflow'])); sys.argv[1:] = "
        code += repr([str(tmp_path / "gt_valid.mat"), str(tmp_path / "results.json"), *options])
        code += "; runpy.run_module('jaxpose.evaluation', run_name='__main__')"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    done = command()
    assert done.returncode == 0, done.stderr
    header, values, line = done.stdout.strip().splitlines()
    assert json.loads(line)["PCKh@0.5"] == 1 and header.split() == list(json.loads(line))
    assert len(values.split()) == len(header.split())
    done = command("--errors")
    assert done.returncode == 1 and "PCKh, which takes no options" in done.stderr
