"""CrowdPose: its layouts, what becomes of its fields, and from the folder to its numbers."""

import dataclasses
import json

import numpy as np
import pytest

from jaxpose import cli, metrics
from jaxpose.data import builder
from jaxpose.data.formats import crowdpose
from jaxpose.evaluation import average_precision, crowdpose_average_precision, results
from jaxpose.skeleton import COCO17, CROWDPOSE14
from tests import tiny_coco

SIZES = [(97, 121), (161, 120), (120, 160)]
CROWD_INDEX = (0.05, 0.5, 0.8)
JOINTS = [*CROWDPOSE14.joints[:12], "head", "neck"]  # as published, with COCO's edges
CATEGORY = {"id": 1, "name": "person", "keypoints": JOINTS, "skeleton": [[16, 14], [14, 12], [17, 15]]}


def content() -> dict:
    """Two persons an image. num_keypoints leaves head and neck out; person 4 has nothing else labelled."""
    rng = np.random.default_rng(0)
    images, people = [], []
    for i, ((width, height), crowd_index) in enumerate(zip(SIZES, CROWD_INDEX, strict=True)):
        images.append(
            {"id": 100000 + i, "file_name": f"{100000 + i}.jpg", "width": width, "height": height}
            | {"crowdIndex": crowd_index}
        )
        for _ in range(2):
            number = len(people) + 1
            visibility = rng.integers(0, 3, 14)
            visibility[12:] = 1
            visibility[:12] *= number != 4
            visibility[number] = 2 * (number != 4)
            xy = rng.uniform(10, 90, (14, 2)).round(1)
            keypoints = np.column_stack([xy, visibility]) * (visibility > 0)[:, None]
            people.append(
                {
                    "id": number,
                    "image_id": images[-1]["id"],
                    "category_id": 1,
                    "bbox": [10.0, 10.0, 40.0 + 2 * number, 80.0],
                    "iscrowd": 0,
                    "num_keypoints": int((visibility[:12] > 0).sum()),
                    "keypoints": keypoints.ravel().tolist(),
                }
            )
    return {"images": images, "annotations": people, "categories": [CATEGORY]}


def write(folder, data=None, *, name="json/crowdpose_test.json", images="images"):
    for path in (folder / images, (folder / name).parent):
        path.mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(SIZES):
        (folder / images / f"{100000 + i}.jpg").write_bytes(tiny_coco.jpeg(tiny_coco.picture(size, seed=i)))
    (folder / name).write_text(json.dumps(content() if data is None else data))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("crowd"))


def prepare(folder, data_dir, *, split="test", **options):
    return builder.prepare(folder, split=split, data_dir=data_dir, reader=crowdpose, progress=False, **options)


def perfect_records(truth, *, category_id=1):
    """Every labelled person, found where it is."""
    people = [a for a in truth["annotations"] if any(v > 0 for v in a["keypoints"][2::3])]
    keypoints = np.array([a["keypoints"] for a in people], float).reshape(len(people), -1, 3)
    return results.from_predictions(
        keypoints[..., :2],
        np.full(keypoints.shape[:2], 0.9),
        image_id=[a["image_id"] for a in people],
        category_id=category_id,
        box=[a["bbox"] for a in people],
        area=[a["area"] for a in people],
    )


@pytest.mark.parametrize(
    ("name", "images", "split"),
    [
        ("json/crowdpose_train.json", "images", "train"),
        ("json/crowdpose_trainval.json", "images", "trainval"),
        ("annotations/mmpose_crowdpose_val.json", "images", "val"),
        ("annotations/crowdpose_val.json", "images", "val"),
        ("crowdpose_test.json", "images", "test"),
        ("test_crowdpose.json", ".", "test"),
        ("test_crowdpose.json", ".", "test_crowdpose"),
        ("mini.json", ".", "mini"),
    ],
)
def test_layouts(tmp_path, name, images, split):
    write(tmp_path, name=name, images=images)
    (tmp_path / "test_crowdpose_det_AP_40.json").write_text("[]")  # boxes
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / "mmpose_crowdpose_other.json").write_text("{}")
    assert crowdpose.find(tmp_path, split) == (tmp_path / name, tmp_path / images)
    assert len(crowdpose.read(*crowdpose.find(tmp_path, split))) == 6


def test_a_split_is_a_word_of_the_name(tmp_path):
    for split in ("train", "val", "trainval", "test"):
        write(tmp_path, name=f"json/crowdpose_{split}.json")
    for split in ("train", "val", "trainval", "test"):
        assert crowdpose.find(tmp_path, split)[0].name == f"crowdpose_{split}.json"


def test_what_is_not_found(tmp_path):
    write(tmp_path, name="json/crowdpose_train.json")
    with pytest.raises(
        FileNotFoundError,
        match=r"no CrowdPose annotations for split 'val'.*looked for json/crowdpose_val\.json, "
        r"annotations/mmpose_crowdpose_val\.json, .*; there is json/crowdpose_train\.json\. Rename",
    ):
        crowdpose.find(tmp_path, "val")
    write(tmp_path, name="annotations/mmpose_crowdpose_train.json")
    several = (
        r"several files for split 'train' \(json/crowdpose_train\.json, annotations/mmpose_crowdpose_train\.json\)"
    )
    with pytest.raises(FileNotFoundError, match=several):
        crowdpose.find(tmp_path, "train")
    given = tmp_path / "json" / "crowdpose_train.json"
    assert crowdpose.find(tmp_path, "train", annotations=given) == (given, tmp_path / "images")
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(FileNotFoundError, match=r"crowdpose_train\.json has no image folder: looked for .*images"):
        crowdpose.find(tmp_path, "train", annotations=given)
    with pytest.raises(FileNotFoundError, match=r"absent is not a folder.*CrowdPose"):
        crowdpose.find(tmp_path / "absent", "train")


def test_persons_and_their_area(folder):
    source = crowdpose.read(*crowdpose.find(folder, "test"))
    assert source.skeleton == CROWDPOSE14 and len(source) == 6 and source.clip_boxes
    for row, given in zip(source.persons, content()["annotations"], strict=True):
        np.testing.assert_allclose(row["keypoints"].ravel(), given["keypoints"], rtol=1e-6)
        assert row["area"] == pytest.approx(0.53 * given["bbox"][2] * given["bbox"][3])


def test_the_prepared_ground_truth_keeps_what_the_evaluation_reads(folder, tmp_path):
    given = content()
    source = prepare(folder, tmp_path)
    truth = source.ground_truth()
    assert [image["crowdIndex"] for image in truth["images"]] == list(CROWD_INDEX)
    assert [a["num_keypoints"] for a in truth["annotations"]] == [a["num_keypoints"] for a in given["annotations"]]
    assert truth["annotations"][3]["num_keypoints"] == 0 and len(source) == 6  # labelled all the same
    assert builder.open(tmp_path, "test").skeleton == CROWDPOSE14
    records = [record for record in perfect_records(truth) if record["image_id"] != 100000]
    numbers = crowdpose_average_precision(source.ground_truth_json, records)
    assert numbers == crowdpose_average_precision(folder / "json" / "crowdpose_test.json", records)
    assert [numbers[f"AP_{name}"] for name in ("easy", "medium", "hard")] == [0.0, 1.0, 1.0]
    found = [r for r in records if r["keypoints"][36:38] != given["annotations"][3]["keypoints"][36:38]]
    assert len(found) == len(records) - 1
    # The person whose num_keypoints is 0 may be missed here, not in COCO's evaluation.
    assert crowdpose_average_precision(source.ground_truth_json, found)["AR"] == pytest.approx(3 / 5)
    assert average_precision(source.ground_truth_json, found)["AR"] == pytest.approx(3 / 6)


def test_a_count_that_is_none_is_counted(tmp_path):
    data = content()
    people = data["annotations"]
    del people[0]["num_keypoints"]
    people[1]["num_keypoints"], people[2]["num_keypoints"] = "many", -3
    truth = crowdpose.read(*crowdpose.find(write(tmp_path, data), "test")).ground_truth()
    for person in truth["annotations"][:3]:
        assert person["num_keypoints"] == sum(v > 0 for v in person["keypoints"][2::3])


def test_another_format_is_named(tmp_path, folder):
    write(tmp_path, tiny_coco.content(3))
    with pytest.raises(ValueError, match=r"skeleton given .*'crowdpose14'.*this file's category 'person' has \['nose'"):
        crowdpose.read(*crowdpose.find(tmp_path, "test"))
    with pytest.raises(ValueError, match="skeleton given .*'coco17'"):
        crowdpose.read(*crowdpose.find(folder, "test"), skeleton=COCO17)
    blunt = dataclasses.replace(CROWDPOSE14, sigmas=(0.1,) * 14)
    assert crowdpose.read(*crowdpose.find(folder, "test"), skeleton=blunt).skeleton == blunt


def test_images_without_a_crowd_index_are_read_and_said(tmp_path, caplog):
    data = content()
    del data["images"][1]["crowdIndex"]
    assert len(crowdpose.read(*crowdpose.find(write(tmp_path, data), "test"))) == 6
    assert "1 of 3 images have no number 'crowdIndex'" in caplog.text


def test_a_bad_person_is_left_out(tmp_path):
    data = content()
    data["annotations"][2]["keypoints"].pop()
    files = crowdpose.find(write(tmp_path, data), "test")
    with pytest.raises(ValueError, match="annotation 3 .*'crowdpose14' with 14 joints needs 42"):
        crowdpose.read(*files)
    source = crowdpose.read(*files, on_bad="skip")
    assert source.persons["annotation_id"].tolist() == [1, 2, 4, 5, 6] and sum(source.skipped.values()) == 1


def test_prepare_on_the_command_line(folder, tmp_path, capsys):
    cli.main(["prepare", str(folder), "--split", "test", "--data-dir", str(tmp_path), "--format", "crowdpose"])
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert said["persons"] == 6 and said["joints"] == 14 and said["skipped"] == 0


def test_the_published_sample(data_dir, tmp_path):
    """Two images of the middle class, five persons, one of them without labels."""
    folder = data_dir("sample_crowdpose")
    assert crowdpose.find(folder, "test") == (folder / "test_crowdpose.json", folder)
    source = prepare(folder, tmp_path)
    truth = source.ground_truth()
    assert source.skeleton == CROWDPOSE14 and len(source) == 4 and len(source.images) == 2
    assert [image["crowdIndex"] for image in truth["images"]] == [0.33, 0.39]
    assert [a["num_keypoints"] for a in truth["annotations"]] == [5, 0, 10, 12, 12]
    # What the published count counts: labelled joints without head and neck.
    labelled = [sum(v > 0 for v in a["keypoints"][2:36:3]) for a in truth["annotations"]]
    assert labelled == [a["num_keypoints"] for a in truth["annotations"]]
    assert all(
        row["area"] == pytest.approx(metrics.AREA_OF_BOX * row["box"][2] * row["box"][3]) for row in source.persons
    )
    numbers = crowdpose_average_precision(source.ground_truth_json, perfect_records(truth))
    assert numbers.pop("AP_easy") == numbers.pop("AP_hard") == -1
    assert numbers.pop("AP_easy_existing") == numbers.pop("AP_hard_existing") == -1
    assert numbers["AP_medium"] == 1 and list(numbers.values()) == pytest.approx([1.0] * len(numbers))
