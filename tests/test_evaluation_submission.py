"""The files for the servers of COCO and MPII, read back as their servers read them."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from jaxpose import cli
from jaxpose.evaluation import submission

NAME = "person_keypoints_test-dev2017_mine_results"


def person(image=7, score=0.5, joints=17, **other):
    keypoints = [v for k in range(joints) for v in (10.0 + k, 20.0 + 2 * k, 0.5)]
    return {"image_id": image, "category_id": 1, "keypoints": keypoints, "score": score, "box": [0, 0, 1, 1]} | other


def test_the_archive_has_one_file_of_its_own_name_with_the_20_best_of_each_image(tmp_path, capsys):
    people = [person(score=i / 100) for i in range(30)] + [person(image=9)]
    (tmp_path / "results.json").write_text(json.dumps(people))
    (tmp_path / "images.json").write_text(json.dumps({"images": [{"id": 7}, {"id": 9}, {"id": 11}]}))
    out = tmp_path / f"{NAME}.zip"
    cli.main(["submit", str(tmp_path / "results.json"), str(out), "--annotations", str(tmp_path / "images.json")])
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"file": str(out), "persons": 21, "images": 2, "left_out": 10}
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == [f"{NAME}.json"]
        content = json.loads(archive.read(f"{NAME}.json"))
    assert content == submission.read_zip(out)
    assert sorted(p["score"] for p in content if p["image_id"] == 7) == [i / 100 for i in range(10, 30)]
    assert {frozenset(p) for p in content} == {frozenset(("image_id", "category_id", "keypoints", "score"))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 3}, "category_id 3: COCO's persons have 1"),
        ({"image_id": "7"}, "image_id '7'"),
        ({"image_id": 8}, "image 8, which is not among the 1 images"),
        ({"keypoints": [0.0] * 48}, "16 keypoints"),
        ({"score": float("nan")}, "'score' holds nan"),
    ],
)
def test_a_record_that_the_server_of_coco_would_refuse_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        submission.coco_records([person() | change], image_ids=[7])


@pytest.mark.parametrize("name", ["results.zip", "person_keypoints_dev_mine_results.zip", f"{NAME}.json"])
def test_an_archive_has_the_name_that_the_server_wants(name, tmp_path):
    with pytest.raises(ValueError, match="COCO's server takes person_keypoints_SPLIT_NAME_results.zip"):
        submission.write_zip([], tmp_path / name)


def test_an_archive_that_breaks_a_rule_is_refused_when_it_is_read(tmp_path):
    out = tmp_path / f"{NAME}.zip"
    for content, message in (
        ([person()], "other keys"),
        ([{k: person()[k] for k in submission.KEYS}] * 21, "more than 20"),
    ):
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(f"{NAME}.json", json.dumps(content))
        with pytest.raises(ValueError, match=message):
            submission.read_zip(out)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("more.json", "[]")
    with pytest.raises(ValueError, match="alone"):
        submission.read_zip(out)
    out.write_text("no archive")
    with pytest.raises(ValueError, match="is not a ZIP archive"):
        submission.read_zip(out)


# ----------------------------------------------------------------------------------------------------------------- MPII


def cell(values) -> np.ndarray:
    out = np.empty((len(values), 1), object)
    out[:, 0] = values
    return out


def struct(*rows) -> np.ndarray:
    """A structure array of MATLAB, one row per dictionary."""
    out = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        for name, value in row.items():
            out[name][0, i] = value
    return out


def write_release(path):
    """Four images as MPII's annotations have them: one to train on, one without persons, and two of the test set."""
    points = struct({"point": struct({"x": 1.0, "y": 2.0, "id": 3.0, "is_visible": 1.0})})
    labelled = struct({"scale": 1.0, "objpos": struct({"x": 5.0, "y": 6.0}), "annopoints": points})
    test = [{"scale": 2.0, "objpos": struct({"x": x, "y": 50.0})} for x in (40.0, 90.0, 140.0)]
    images = struct(
        {"image": struct({"name": "train.jpg"}), "annorect": labelled},
        {"image": struct({"name": "empty.jpg"}), "annorect": np.zeros((0, 0))},
        {"image": struct({"name": "b.jpg"}), "annorect": struct(*test)},
        {"image": struct({"name": "a.jpg"}), "annorect": struct(test[0])},
    )
    single = cell([np.array([[1]]), np.zeros((0, 0)), np.array([[1], [3]]), np.array([[1]])])
    release = {"annolist": images, "img_train": np.array([[1, 0, 0, 0]]), "single_person": single}
    savemat(path, {"RELEASE": release})
    return path


ENTRIES = [
    {"image": "a.jpg", "center": [40.4, 50.0], "scale": 2.0},
    {"image": "b.jpg", "center": [140.0, 50.2], "scale": 2.0},
    {"image": "b.jpg", "center": [40.0, 50.0], "scale": 2.0},
]


def records() -> list[dict]:
    return [
        person(joints=16, annotation_id=i + 1)
        | {"keypoints": [v for k in range(16) for v in (100.0 * i + k, 0.25 * k, 0.5)]}
        for i in range(3)
    ]


@pytest.fixture
def written(tmp_path):
    (tmp_path / "results.json").write_text(
        json.dumps(records()[::-1] + [person(joints=16, annotation_id=1, score=0.1)])
    )
    (tmp_path / "test.json").write_text(json.dumps(ENTRIES))
    return tmp_path


def test_the_array_has_a_row_per_entry_counted_from_1(written, capsys):
    out = written / "pred.mat"
    cli.main(["submit", str(written / "results.json"), str(out), "--annotations", str(written / "test.json")])
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "persons": 3, "array": "preds"}
    preds = loadmat(out)["preds"]
    assert preds.shape == (3, 16, 2)
    np.testing.assert_array_equal(preds[:, 5], [[100 * i + 6, 2.25] for i in range(3)])
    np.testing.assert_array_equal(submission.read_mat(out), preds)


def test_the_server_of_mpii_gets_its_own_annotations_of_the_test_images_with_the_joints_of_single_persons(
    written, capsys
):
    release, out = write_release(written / "release.mat"), written / "pred_keypoints_mpii.mat"
    cli.main(["submit", str(written / "results.json"), str(out), "--annotations", str(written / "test.json"),
              "--release", str(release)])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["array"] == "pred"
    pred = loadmat(out, struct_as_record=False, squeeze_me=True)["pred"]
    assert [image.image.name for image in pred] == ["empty.jpg", "b.jpg", "a.jpg"]
    first, middle, last = pred[1].annorect
    for person_of_release, entry in ((first, 2), (last, 1), (pred[2].annorect, 0)):
        points = person_of_release.annopoints.point
        assert [p.id for p in points] == list(range(16))
        np.testing.assert_array_equal(
            [(p.x, p.y) for p in points], [(100 * entry + k + 1, 0.25 * k + 1) for k in range(16)]
        )
    assert np.size(middle.annopoints) == 0 and middle.objpos.x == 90 and middle.scale == 2
    np.testing.assert_array_equal(submission.read_mat(out)[:, 0, 0], [201, 101, 1])


def test_a_person_of_the_release_without_a_prediction_is_named(written):
    release = write_release(written / "release.mat")
    for entries in (ENTRIES[:2], [ENTRIES[0], {**ENTRIES[1], "center": [240.0, 50.0]}, ENTRIES[2]]):
        with pytest.raises(ValueError, match="single person in the test image 'b.jpg' that is no entry"):
            submission.write_release(np.zeros((3, 16, 2)), entries, release, written / "out.mat")
    savemat(written / "other.mat", {"preds": np.zeros(3)})
    with pytest.raises(ValueError, match="is not MPII's release"):
        submission.write_release(np.zeros((3, 16, 2)), ENTRIES, written / "other.mat", written / "out.mat")
    with pytest.raises(ValueError, match="is not a MATLAB file"):
        submission.write_release(np.zeros((3, 16, 2)), ENTRIES, written / "test.json", written / "out.mat")
    with pytest.raises(ValueError, match="holds .'other'.: expected preds or pred"):
        savemat(written / "other.mat", {"other": np.zeros(3)})
        submission.read_mat(written / "other.mat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:2], "1 of 3 persons have no finite prediction .the first: entry 3."),
        (lambda r: [*r, r[0] | {"annotation_id": 4}], "person 4: the annotations have 3 persons"),
        (lambda r: [{k: v for k, v in r[0].items() if k != "annotation_id"}], "has no annotation_id"),
        (lambda r: [person(annotation_id=1)], "51 numbers"),
    ],
)
def test_predictions_that_do_not_fit_mpiis_annotations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        submission.mpii_predictions(change(records()), 3)


@pytest.mark.parametrize(
    ("out", "flags", "message"),
    [
        ("pred.mat", [], "MPII's file has a row per entry of its test.json"),
        (f"{NAME}.zip", ["--release", "r.mat"], "--release r.mat is for MPII"),
        ("pred.txt", [], "ends in .zip for COCO's server, or in .mat for MPII's"),
        (f"{NAME}.zip", ["--annotations", "test.json"], "lists no images"),
    ],
)
def test_a_command_line_without_sense_is_refused(written, out, flags, message, monkeypatch):
    monkeypatch.chdir(written)
    with pytest.raises(SystemExit, match=message):
        cli.main(["submit", "results.json", out, *flags])
