"""Hands in 2.5D: labels in space, one side, the methods of the page, a small run from pictures to millimetres."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import rhd_integral
from experiments.common import hands as kind
from jaxpose import cli, density, hands
from jaxpose.data import crops, synthetic
from jaxpose.data.formats import rhd
from jaxpose.data.synthetic import hands as drawn
from jaxpose.evaluation import hands as evaluation
from jaxpose.skeleton import RHD21
from tests import tiny_rhd

TINY = (
    "--batch-size", "8", "--width", "4", "--resnet-stages", "1", "--deconvs", "8", "--size-wh", "32", "32", "--log-every", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return rhd.read(*rhd.find(tiny_rhd.write(tmp_path_factory.mktemp("rhd")), "train"))


def test_labels_in_space_are_found_by_annotation(source):
    labels = kind.InSpace.of(source, sides=True)
    ids = source.persons["annotation_id"]
    rows = labels.rows(np.array([*ids[::-1], -1]))
    assert rows.tolist() == [*range(len(ids))][::-1] + [0]
    assert labels.is_known.all() and labels.is_right.tolist() == [True, False, True, False, True]
    np.testing.assert_allclose(labels.depth, hands.relative_depth(labels.xyz, bone=hands.PALM), atol=1e-6)
    sizes = kind.Sizes.of(labels.xyz, bone=hands.KEY_BONE)
    assert sizes.bone_mm == pytest.approx(36.0, abs=1e-3) and sizes.depth_range[0] < 0.5 / 0.036 < sizes.depth_range[1]


def test_fingers_from_base_to_tip_are_seen(source):
    labels = kind.InSpace.of(source)
    assert not labels.runs_base_to_tip
    assert dataclasses.replace(labels, xyz=hands.reversed_fingers(labels.xyz)).runs_base_to_tip
    assert not dataclasses.replace(labels, xyz=np.full_like(labels.xyz, np.nan)).runs_base_to_tip


def test_wrong_labels_in_space_are_named(source, monkeypatch, caplog):
    xyz = np.array(source.ground_truth()["annotations"][0]["keypoints_3d"]).reshape(21, 3)
    for change, message in (
        (
            {"keypoints_3d": (xyz / 1000).ravel()},
            "annotation 1: the hand in .* mm large: these look like metres; multiply them by 1000",
        ),
        (
            {"keypoints_3d": (xyz / 10).ravel()},
            "annotation 1: the hand in .* these look like centimetres; multiply them by 10",
        ),
        ({"keypoints_3d": (xyz * 1000).ravel()}, "annotation 1: the hand in .* m large: these look like millimetres"),
        ({"keypoints_3d": (xyz * 10).ravel()}, "annotation 1: the hand in .* m large: .* a joint is misplaced"),
        ({"keypoints_3d": (xyz - [0, 0, 2000]).ravel()}, "annotation 1: joints in space behind the camera"),
        ({"camera": [1.0, 2.0]}, "annotation 1: expected 'keypoints_3d', 63 numbers in millimetres"),
        ({"keypoints_3d": [1.0] * 60}, "annotation 1: expected 'keypoints_3d'"),
        ({"keypoints_3d": [5.0] * 63}, "annotation 1: the bone between the joints middle1 and middle2 has length 0.0"),
        ({"hand": "both"}, "annotation 1 has no 'hand', left or right, which --one-side needs"),
        (
            {"keypoints_3d": (xyz * [-1, 1, 1]).ravel()},
            "annotation 1: 'camera' projects 'keypoints_3d' .* its x points to the left",
        ),
        ({"keypoints_3d": (xyz * [1, -1, 1]).ravel()}, "annotation 1: .* its y points up: negate it"),
        ({"keypoints_3d": hands.reversed_fingers(xyz).ravel()}, "annotation 1: .*reversed_fingers turns them"),
        ({"camera": [48.0, 48.0, 110.0, 110.0]}, "annotation 1: .* 'camera' is in the order cx, cy, fx, fy"),
        ({"camera": [220.0, 220.0, 96.0, 96.0]}, "annotation 1: .* 'camera' is that of a picture 2 times as wide"),
        (
            {"keypoints_3d": xyz[::-1].ravel()},
            "annotation 1: .* the order of the joints is wrong, or they are of another picture",
        ),
    ):
        truth = source.ground_truth()
        truth["annotations"][0] = truth["annotations"][0] | change
        with monkeypatch.context() as patch:
            patch.setattr(source, "ground_truth", lambda truth=truth: truth)
            with pytest.raises(ValueError, match=message):
                kind.InSpace.of(source, bone=hands.KEY_BONE, sides=True)
            if "--one-side" not in message:
                labels = kind.InSpace.of(source, bone=hands.KEY_BONE, on_bad="skip")
                assert (
                    labels.is_known.tolist() == [False] + [True] * 4 and "the place in space of 1 hands" in caplog.text
                )
    truth = source.ground_truth()
    truth["annotations"][0] = truth["annotations"][0] | {"keypoints_3d": None}
    monkeypatch.setattr(source, "ground_truth", lambda: truth)
    labels = kind.InSpace.of(source)
    assert labels.is_known.tolist() == [False] + [True] * 4 and (labels.depth[0] == 0).all()


def test_wrong_labels_in_space_of_the_evaluation_stop_a_run_before_it_trains(tmp_path):
    def change(split, entries):
        if split == "evaluation":
            entries[1]["xyz"] *= 1000

    folder = tiny_rhd.write(tmp_path, change=change)
    config = rhd_integral.PAGE.settings(
        [*TINY, "--data", str(folder), "--data-dir", str(tmp_path / "p"), "--out", str(tmp_path / "o")]
    )
    with pytest.raises(ValueError, match="the hand in 'keypoints_3d' is .* m large"):
        kind.load(config)


def test_a_mirrored_row_maps_back_to_its_picture(source):
    rows = [crops.sample(source, i, size_wh=(32, 32)) for i in range(3)]
    batch = {name: np.stack([row[name] for row in rows]) for name in ("image", "joints", "affine", "annotation_id")}
    flipped = kind.mirrored(batch, np.array([True, False, True]), width=32)
    for i, is_mirrored in enumerate((True, False, True)):
        expected = batch["image"][i][:, ::-1] if is_mirrored else batch["image"][i]
        np.testing.assert_array_equal(flipped["image"][i], expected)
        for name in ("joints", "affine"):
            assert (not np.array_equal(flipped[name][i], batch[name][i])) == is_mirrored
        linear, shift = flipped["affine"][i][:, :2], flipped["affine"][i][:, 2]
        back = np.linalg.solve(linear, (flipped["joints"][i] - shift).T).T
        ours = source.persons[i]["keypoints"]
        labelled = ours[:, 2] > 0
        np.testing.assert_allclose(back[labelled], ours[labelled, :2], atol=1e-3)


# What each method trains, first and then, and whether it compensates.
METHODS = {
    "plain": (None, "none", False),
    "aug": ("mse", "none", False),
    "debias": (None, "none", True),
    "ours": ("mse", "none", True),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_those_of_table_5(method):
    first, then, compensates = METHODS[method]
    preset = rhd_integral.PRESETS["resnet50"]
    config = dataclasses.replace(preset, depth=18, width=4, size_wh=(64, 64), method=method)
    task, before = rhd_integral.make(rhd_integral.with_method(config), RHD21)
    assert task.config["family"] == "depth_maps" and task.config["maps"]["kind"] == then
    assert task.config["read"]["compensate"] == compensates and task.config["read"]["beta"] == 10.0
    assert (before is None) == (first is None)
    if first:
        assert before[1].config["maps"]["kind"] == first and before[0] == preset.first_epochs
    assert task.config["joints"]["kind"] == "l1" and task.config["depth"]["kind"] == "l1"


@pytest.mark.parametrize("head", ["rle", "l1"])
def test_other_heads_regress_pixels(head):
    config = dataclasses.replace(rhd_integral.PRESETS["tiny"], depth=18, width=4, head=head)
    task, before = rhd_integral.make(rhd_integral.with_method(config), RHD21)
    assert task.config["likelihood"]["loss"] == head and before is None and task.skeleton == RHD21


@pytest.mark.parametrize(("head", "bone", "extent"), [("rle_3d", "palm", 5.0), ("l1_3d", "finger", 13.0)])
def test_heads_in_space_regress_depth_in_key_bones(head, bone, extent):
    config = dataclasses.replace(rhd_integral.PRESETS["tiny"], depth=18, width=4, head=head, bone=bone)
    task, before = rhd_integral.make(rhd_integral.with_method(config), RHD21)
    assert task.config["family"] == "regression_3d" and before is None and config.depth_form() == "coordinate"
    assert task.config["likelihood"]["loss"] == head.removesuffix("_3d")
    assert task.config["depth"] | {"relative": True} == {
        "extent": extent, "root": (0,), "relative": True, "bone_length": None, "unit": "bone",
    }  # fmt: skip
    # A hand of 190 mm from the wrist to a fingertip, along the depth, is inside of -0.5 to 0.5.
    hand = 1000 * hands.example_hand()
    assert 190 / hands.bone_length(hand, bone=hands.NAMED_BONES[bone]) < 0.5 * extent


def test_a_stored_run_is_evaluated_with_its_bone_and_side():
    preset = rhd_integral.PRESETS["tiny"]
    task, _ = rhd_integral.make(rhd_integral.with_method(dataclasses.replace(preset, width=4)), RHD21)
    stored = {"task": task.config, "run": {"bone": "finger", "one_side": True}}
    config = preset.as_trained(stored)
    assert config.bone == "finger" and config.one_side and not config.flips()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "plain", "--first-epochs", "3"], "--first-epochs 3.0 has no effect with --method plain"),
        (["--method", "ours", "--maps.kind", "js"], "--maps.kind js: --method ours decides this, mse"),
        (["--method", "plain", "--read.compensate"], "--read.compensate True: --method plain decides this, False"),
        (["--head", "rle", "--method", "plain"], "--method plain has no effect with --head rle"),
        (["--head", "l1", "--depths.weight", "2"], "--depths.weight 2.0 has no effect with --head l1"),
        (["--head", "l1_3d", "--depths.weight", "2"], "--depths.weight 2.0 has no effect with --head l1_3d"),
        (["--head", "l1_3d", "--variant", "paper"], "--variant has no effect without --head rle or rle_3d"),
        (["--head", "rle_3d", "--calibrate"], "--calibrate has no effect without a --head in the plane"),
    ],
)
def test_a_flag_that_is_decided_or_unused_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        rhd_integral.PAGE.settings(flags)


def test_one_side_is_not_mirrored_at_random():
    config = dataclasses.replace(rhd_integral.PRESETS["tiny"], one_side=True)
    assert config.augmentation().flip == 0 and not config.flips()
    assert rhd_integral.PRESETS["tiny"].augmentation().flip == 0.5 and rhd_integral.PRESETS["tiny"].flips()


def test_drawn_hands_are_projected_by_their_camera_and_have_a_probable_shape():
    for index in range(12):
        image, (hand,) = drawn.render(3, index, size_wh=(64, 64))
        xyz = np.reshape(hand["keypoints_3d"], (21, 3))
        focal, center = np.reshape(hand["camera"], (2, 2))
        keypoints = np.reshape(hand["keypoints"], (21, 3))
        np.testing.assert_allclose(xyz[:, :2] / xyz[:, 2:] * focal + center, keypoints[:, :2], atol=1e-3)
        assert (keypoints[:, 2] > 0).sum() >= 16 and (keypoints[:, 2] == 2).any() and image.std() > 5
        ratio = hands.bone_lengths(xyz) / hands.bone_length(xyz) / hands.PROPORTIONS
        assert (np.abs(np.log(ratio)) < 0.4).all()
        again, _ = drawn.render(3, index, size_wh=(64, 64))
        np.testing.assert_array_equal(image, again)


def test_a_folder_of_hands_is_reused_and_another_one_refused(tmp_path):
    options = {"train": 3, "val": 1, "size_wh": (48, 48), "workers": 1, "progress": False}
    folder = synthetic.write_hands(tmp_path / "hands", **options)
    content = json.loads((folder / "annotations" / "train.json").read_text())
    assert [p["hand"] in ("left", "right") for p in content["annotations"]] == [True] * 3
    assert synthetic.write_hands(folder, **options) == folder
    with pytest.raises(ValueError, match="holds another synthetic data set"):
        synthetic.write_hands(folder, **options | {"seed": 4})
    with pytest.raises(ValueError, match="train and val must be 1 or more"):
        synthetic.write_hands(tmp_path / "none", train=0, val=1)


def test_data_without_joints_in_space_are_refused_for_depth(tmp_path):
    folder = synthetic.write_hands(tmp_path / "hands", train=2, val=1, size_wh=(48, 48), workers=1, progress=False)
    for path in (folder / "annotations").iterdir():
        content = json.loads(path.read_text())
        for person in content["annotations"]:
            del person["keypoints_3d"]
        path.write_text(json.dumps(content))
    flags = ["--data", str(folder), "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *TINY]
    with pytest.raises(ValueError, match="no hand has 'keypoints_3d' and 'camera', so that there is no depth to learn"):
        rhd_integral.main(flags)


def test_detected_boxes_are_refused():
    with pytest.raises(ValueError, match="--detections boxes.json: hands are evaluated on the boxes of their labels"):
        kind.load(dataclasses.replace(rhd_integral.PRESETS["tiny"], detections=Path("boxes.json")))


def test_hands_in_space_are_a_page(source, tmp_path):
    labels = kind.InSpace.of(source)
    relative = labels.xyz - labels.xyz[:, :1]
    predictions = {
        "relative": np.where(np.arange(5)[:, None, None] == 2, np.nan, relative + 1.0), "relative_truth": relative,
        "image_id": labels.ids // 2, "annotation_id": labels.ids,
    }  # fmt: skip
    kind.write_page(tmp_path / "page.html", predictions, sides=labels)
    text = (tmp_path / "page.html").read_text()
    assert "picture 1, left hand" in text and "picture 4, right hand" in text and "picture 2" not in text
    assert "Ellipsoids" not in text
    model = density.Model(log_g=None, base="laplace", dim=3)
    kind.write_page(
        tmp_path / "page.html", predictions | {"relative_sigma": relative * 0 + 5.0}, sides=labels, model=model
    )
    assert "Ellipsoids: regions of 90%" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_from_rhd_to_millimetres(tmp_path):
    """A few steps on hands in RHD's own layout, right ones mirrored, scored in the picture and in space."""
    folder = tiny_rhd.write(tmp_path)
    flags = ["--data", str(folder), "--data-dir", str(tmp_path / "data"), *TINY, "--one-side", "--no-plots"]
    run = tmp_path / "run"
    scores = rhd_integral.main([*flags, "--out", str(run), "--epochs", "4", "--first-epochs", "2", "--ema", "None"])
    assert {"EPE_px", "AUC_0_30px", "AUC_mmpose", "EPE_mm", "AUC_20_50mm", "absolute_EPE_mm"} <= set(scores)
    assert all(np.isfinite(value) for name, value in scores.items() if name[:3] in ("EPE", "AUC"))
    sizes = json.loads((run / "hands.json").read_text())
    assert sizes["bone_mm"] == pytest.approx(36.0 * 2.59, abs=0.01)
    (path,) = (run / "results").glob("*_3d.json")
    records = json.loads(path.read_text())
    assert len(records) == 3 and all(len(record["keypoints_3d"]) == 63 for record in records)
    (truth,) = (tmp_path / "data").glob("*/*-val-*/*/ground_truth.json")
    of_file = evaluation.score(truth, path)
    assert of_file == pytest.approx({name: scores[name] for name in of_file}, abs=0.01) and len(of_file) == 7
    evaluated = rhd_integral.main(["--eval-only", str(run), *flags])
    for name in ("EPE_px", "EPE_mm", "absolute_EPE_mm"):
        assert evaluated[name] == pytest.approx(scores[name], rel=1e-3)


def test_the_density_in_space_is_reported_without_the_wrist_and_unknown_hands(source):
    hand = kind.Hands(rhd_integral.PRESETS["tiny"], None, source, None, None)
    labels = hand.val_space
    labels.is_known[1] = False
    target = np.concatenate([np.zeros((5, 21, 2)), labels.depth[..., None] / 5], -1)
    predictions = {
        "mu": target, "sigma": np.full((5, 21, 3), 0.1), "target": target, "visibility": np.full((5, 21), 2),
        "annotation_id": labels.ids,
    }  # fmt: skip
    report = hand.density_report(predictions, density.Model(log_g=None, base="gaussian", dim=3))["all"]
    assert report["count"] == 4 * 20 and report["coverage"] == [1.0] * len(report["levels"])


@pytest.mark.slow
def test_depth_is_regressed_on_both_hands_of_every_picture(tmp_path):
    """A step of --head l1_3d: every hand is scored in the picture and in space."""
    folder = tiny_rhd.write(tmp_path)
    flags = ["--data", str(folder), "--data-dir", str(tmp_path / "data"), *TINY[:6], *TINY[8:], "--category", "both"]
    run = tmp_path / "run"
    scores = rhd_integral.main(
        [*flags, "--head", "l1_3d", "--out", str(run), "--epochs", "1", "--ema", "None", "--no-plots"]
    )
    assert all(np.isfinite(scores[name]) for name in ("EPE_px", "depth_mm", "EPE_mm", "absolute_EPE_mm"))
    (path,) = (run / "results").glob("*_3d.json")
    (truth,) = (tmp_path / "data").glob("*/*-val-*/*/ground_truth.json")
    of_file = evaluation.score(truth, path)
    assert len(json.loads(path.read_text())) == len(json.loads(truth.read_text())["annotations"]) > 3
    assert of_file == pytest.approx({name: scores[name] for name in of_file}, abs=0.01)
    # The page draws the cases of both hands, and says so if it is asked for the dominant ones.
    words = ["view", "report", str(run), "--data", str(folder), "--format", "rhd", "--out", str(tmp_path / "page.html")]
    with pytest.raises(SystemExit, match="give --category as the run had it"):
        cli.main(words)
    cli.main([*words, "--category", "both"])
    assert (tmp_path / "page.html").stat().st_size > 10_000
