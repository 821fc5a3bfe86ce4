import copy
import json
import logging
import os

import numpy as np
import pytest

from jaxpose import metrics
from jaxpose.data.formats import coco
from jaxpose.data.reading import Reading
from jaxpose.skeleton import COCO17, CROWDPOSE14, MPII16
from tests import tiny_coco


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def data():
    return tiny_coco.content()


def read(folder, data=None, **options):
    """Reads the folder, with another JSON beside its images."""
    path = folder / "annotations" / "train.json"
    if data is not None:
        path = folder / "annotations" / f"changed_{os.getpid()}.json"
        path.write_text(json.dumps(data))
    return coco.read(path, folder / "train", **options)


# ------------------------------------------------------------------------------------------------------------ find


@pytest.mark.parametrize(
    ("annotation", "images", "split"),
    [
        ("person_keypoints_train2017.json", "train2017", "train"),
        ("person_keypoints_val2017.json", "images/val2017", "val"),
        ("person_keypoints_train2014.json", "train2014", "train"),
        ("person_keypoints_train.json", "train", "train"),
        ("val.json", "val", "val"),
        ("val.json", "images/val", "val"),
        ("image_info_test-dev2017.json", "test2017", "test-dev"),
        ("image_info_test2017.json", "test2017", "test"),
    ],
)
def test_find_knows_the_layouts(tmp_path, annotation, images, split):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / annotation).write_text("{}")
    (tmp_path / images).mkdir(parents=True)
    assert coco.find(tmp_path, split) == (tmp_path / "annotations" / annotation, tmp_path / images)


def test_find_takes_either_path(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text("{}")
    (tmp_path / "train").mkdir()
    found = tmp_path / "annotations" / "train.json", tmp_path / "train"
    assert coco.find(tmp_path, "train", images="elsewhere") == (found[0], coco.Path("elsewhere"))
    assert coco.find(tmp_path, "train", annotations="my.json") == (coco.Path("my.json"), found[1])


def test_find_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        coco.find(tmp_path / "nowhere", "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"split 'train'.*there is val\.json"):
        coco.find(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="no image folder beside it.*images"):
        coco.find(tmp_path, "val")
    for year in (2014, 2017):
        (tmp_path / "annotations" / f"person_keypoints_val{year}.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="several files.*2014.*2017"):
        coco.find(tmp_path, "val")


# ------------------------------------------------------------------------------------------------------------ read


def test_read(folder, data):
    source = read(folder)
    assert len(source) == len(source.persons) == 10 and len(source.images) == 5 and source.skeleton == COCO17
    assert source.images["image_id"].tolist() == [entry["id"] for entry in data["images"]]
    assert not np.isin([9000, 9001], source.persons["annotation_id"]).any()  # the unlabelled person and the crowd
    record, person = source.record(3), data["annotations"][3]
    assert record["annotation_id"] == person["id"] and record["image_id"] == person["image_id"]
    np.testing.assert_array_equal(record["box"], np.float32(person["bbox"]))
    np.testing.assert_array_equal(record["keypoints"], np.float32(person["keypoints"]).reshape(17, 3))
    assert record["score"] == 1 and record["area"] == np.float32(person["area"])
    assert record["jpeg"] == (folder / "train" / record["file_name"]).read_bytes()
    with pytest.raises(IndexError, match="record 10 of a source with 10"):
        source.record(10)


def test_image_level_keeps_crowds_and_unlabelled_persons(folder, data):
    source = read(folder).at_level("image")
    assert len(source) == 5
    record = source.record(0)
    assert record["persons"]["annotation_id"].tolist() == [1000, 1001, 9000, 9001]
    assert record["persons"]["crowd"].tolist() == [False, False, False, True]
    assert record["segmentations"] == [
        a["segmentation"] for a in data["annotations"] if a["image_id"] == record["image_id"]
    ]
    with pytest.raises(ValueError, match="'person' or 'image', got 'pixel'"):
        source.at_level("pixel")


def test_what_is_left_out_is_filled_in(folder, data):
    person = data["annotations"][0]
    for key in ("area", "iscrowd", "num_keypoints"):
        del person[key]
    data["annotations"][1]["area"] = 0
    data["annotations"][2]["extra"] = {"joints_3d": [1, 2]}
    source = read(folder, data)
    area = metrics.AREA_OF_BOX * person["bbox"][2] * person["bbox"][3]
    assert source.persons["area"][0] == pytest.approx(area) and source.persons["area"][1] > 0
    truth = source.ground_truth()["annotations"]
    assert truth[0]["area"] == pytest.approx(area) and truth[0]["iscrowd"] == 0
    assert truth[0]["num_keypoints"] == sum(v > 0 for v in person["keypoints"][2::3])
    assert next(a for a in truth if a["id"] == 1002)["extra"] == {"joints_3d": [1, 2]} and not any(
        "segmentation" in a for a in truth
    )


def test_what_unlabelled_joints_hold_does_not_matter(folder, data):
    keypoints = data["annotations"][0]["keypoints"]
    keypoints[0:3] = [float("nan"), 1e9, 0]
    row = read(folder, data).persons["keypoints"][0]
    assert (row[0] == 0).all() and np.isfinite(row).all()


def test_other_categories_are_left_alone(folder, data):
    data["categories"].append({"id": 2, "name": "dog"})
    data["annotations"].append({"id": 7, "image_id": 100, "category_id": 2, "bbox": [0, 0, 5, 5]})
    assert len(read(folder, data)) == 10
    data["categories"].append({"id": 3, "name": "mouse", "keypoints": ["snout", "tail"]})
    with pytest.raises(
        ValueError, match=r"several categories with keypoints, 'person' \(id 1\), 'mouse' \(id 3\).*category="
    ):
        read(folder, data)
    assert len(read(folder, data, category="person")) == len(read(folder, data, category=1)) == 10
    assert read(folder, data, category="mouse").skeleton.joints == ("snout", "tail")
    with pytest.raises(ValueError, match="no category 'cat' with keypoints"):
        read(folder, data, category="cat")


def test_image_info_without_annotations(folder, data):
    data = {"images": data["images"], "categories": [{"id": 1, "name": "person"}]}
    with pytest.raises(ValueError, match="not a keypoint file.*skeleton="):
        read(folder, data)
    source = read(folder, data, skeleton=COCO17)
    assert len(source) == 0 and len(source.images) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "holds a list, not an object.*detections and results"),
        ('{"a": 1}', r"no list 'images'; its keys are \['a'\]"),
        ('{"images": [1]}', "no list 'categories'"),
        ('{"images": [], "categories": []}', "names no images"),
        ('{"images": [1], "categories": [], "annotations": 3}', "'annotations' is not a list"),
        (
            '{"images": [1], "categories": [{"id": 1, "name": "person"}]}',
            "no category with a list 'keypoints'.*person_keypoints",
        ),
    ],
)
def test_no_coco_file(tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"file\.json.*{message}"):
        coco.read(path, tmp_path)


def test_missing_files(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"absent\.json does not exist"):
        coco.read(tmp_path / "absent.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        coco.read(folder / "annotations" / "train.json", tmp_path / "nowhere")


def test_skeleton_that_does_not_fit(folder, data):
    data["categories"][0] = {**tiny_coco.CATEGORY, "keypoints": [f"joint{i % 16}" for i in range(17)]}
    with pytest.raises(ValueError, match=r"changed_.*repeated: \['joint0'\].*skeleton="):
        read(folder, data)
    with pytest.raises(ValueError, match=r"skeleton given .*checkpoint.* is 'mpii16' with 16 joints \['right_ankle'.*"
                                         r"this file's category 'person' has \['nose'"):  # fmt: skip
        read(folder, skeleton=MPII16)


def test_joints_have_the_names_and_the_order_of_the_skeleton(folder, data):
    data["categories"][0] = {**tiny_coco.CATEGORY, "keypoints": list(reversed(COCO17.joints))}
    with pytest.raises(ValueError, match=r"'coco17' with 17 joints \['nose'.*has \['right_ankle'"):
        read(folder, data, skeleton=COCO17)
    assert read(folder, skeleton=COCO17).skeleton == COCO17
    head = [{"top_head": "head"}.get(joint, joint) for joint in CROWDPOSE14.joints]  # as the published files have it
    crowd = {"id": 1, "name": "person", "keypoints": head}
    path = folder / "annotations" / "head.json"
    path.write_text(json.dumps({"images": data["images"], "categories": [crowd]}))
    assert coco.read(path, folder / "train", skeleton=CROWDPOSE14).skeleton == CROWDPOSE14


def test_own_skeleton(folder, data):
    path = folder / "annotations" / "train.json"
    assert coco.own_skeleton(path) == COCO17
    path = folder / "annotations" / "without.json"
    path.write_text(json.dumps(data | {"categories": [{"id": 1, "name": "person"}]}))
    assert coco.own_skeleton(path) is None


def test_joints_without_left_and_right_are_logged_once(folder, data, caplog):
    data["categories"][0] = {"id": 1, "name": "thing", "keypoints": [f"joint{i}" for i in range(17)]}
    assert read(folder, data).skeleton.flip_pairs == ()
    assert caplog.text.count("mirroring exchanges nothing") == 1 and "joint16" in caplog.text
    caplog.clear()
    read(folder)
    assert not caplog.text


def test_annotations_of_other_categories_only_are_logged(folder, data, caplog):
    for annotation in data["annotations"]:
        annotation["category_id"] = 7
    assert len(read(folder, data)) == 0
    assert "no annotation is of category 'person' with id 1; those there are of 7" in caplog.text


def test_num_keypoints_are_counted(folder, data):
    counted = [a["num_keypoints"] for a in read(folder, data).ground_truth()["annotations"]]
    for annotation in data["annotations"]:
        annotation["num_keypoints"] = 0
    assert [a["num_keypoints"] for a in read(folder, data).ground_truth()["annotations"]] == counted and max(
        counted
    ) > 0


def test_an_area_that_is_none_comes_from_the_box(folder, data):
    x, y, w, h = data["annotations"][0]["bbox"]
    for area in (0, -3, float("nan"), float("inf"), 1e40, 10**400, "12", None, True):
        data["annotations"][0]["area"] = area
        assert read(folder, data).persons["area"][0] == pytest.approx(metrics.AREA_OF_BOX * w * h)


def change(data, **values):
    data["annotations"][4].update(values)


def box(*values):
    return lambda data: change(data, bbox=list(values))


def keypoint(index, value):
    def do(data):
        data["annotations"][4]["keypoints"][0:3] = [10.0, 10.0, 2]
        data["annotations"][4]["keypoints"][index] = value

    return do


def name(value):
    return lambda data: data["images"][2].update(file_name=value)


BAD_PERSONS = {
    "too few keypoints": (lambda d: change(d, keypoints=[1.0, 2.0, 2] * 16), "48 numbers.*17 joints needs 51"),
    "nan": (keypoint(0, float("nan")), "coordinate that is not a finite number"),
    "infinite": (keypoint(1, float("inf")), "coordinate that is not a finite number"),
    "visibility": (keypoint(2, 3), "visibility is not 0, 1 or 2"),
    "box outside": (box(500, 10, 30, 30), "no extent inside the image of 133x90"),
    "box of zero size": (box(10, 10, 0, 30), "no extent inside"),
    "negative box": (box(10, 10, -5, 30), "no extent inside"),
    "nan box": (box(10, float("nan"), 5, 30), "four finite numbers"),
    "short box": (box(10, 10, 5), "four finite numbers"),
    "unknown image": (lambda d: change(d, image_id=77), "image 77, which the file does not list"),
    "repeated id": (lambda d: change(d, id=1000), "annotation id 1000 occurs more than once"),
    "no image": (lambda d: d["annotations"][4].pop("image_id"), "no 'image_id'"),
    "list as image": (lambda d: change(d, image_id=[106]), r"belongs to image \[106\], which"),
    "text as image": (lambda d: change(d, image_id="106"), "belongs to image '106', which"),
    "list as id": (lambda d: change(d, id=[1]), "no whole-number 'id'"),
    "huge id": (lambda d: change(d, id=2**70), "no whole-number 'id'"),
    "huge number in box": (box(0, 0, 10**400, 1), "four finite numbers"),
    "box beyond float32": (box(0, 0, 1e39, 1), "four finite numbers"),
    "box whose area is beyond float32": (box(0, 0, 1e30, 1e30), "four finite numbers"),
    "beyond float32": (keypoint(0, 1e39), "coordinate that is not a finite number"),
    "keypoints as text": (lambda d: change(d, keypoints="abc"), "has 'abc', but"),
    "iscrowd as text": (lambda d: change(d, iscrowd="0"), "'iscrowd' must be 0 or 1, got '0'"),
}
BAD_IMAGES = {
    "absent": (name("absent.jpg"), "'absent.jpg', which is not in", FileNotFoundError),
    "parent": (name("../train/000002.jpg"), "leads out of the image folder", ValueError),
    "hidden parent": (name("x/../../000002.jpg"), "leads out of the image folder", ValueError),
    "absolute": (name("/etc/hostname"), "leads out of the image folder", ValueError),
    "backslash": (name("train\\000002.jpg"), "has a backslash: write /", ValueError),
    "null": (name(None), "file name None, which is not the name of a file", ValueError),
    "huge width": (lambda d: d["images"][2].update(width=2**40), "whole numbers", ValueError),
    "no name": (lambda d: d["images"][2].pop("file_name"), "no 'file_name'", ValueError),
    "no width": (lambda d: d["images"][2].update(width=None), "whole numbers", ValueError),
    "repeated id": (lambda d: d["images"][2].update(id=100), "image id 100 occurs more than once", ValueError),
}


@pytest.mark.parametrize("case", BAD_PERSONS)
def test_bad_person(folder, data, case, caplog):
    spoil, message = BAD_PERSONS[case]
    spoil(data)
    with pytest.raises(ValueError, match=message) as error:
        read(folder, data)
    assert "changed_" in str(error.value) and "on_bad='skip'" in str(error.value)  # names the file and the way out
    with caplog.at_level(logging.WARNING):
        source = read(folder, data, on_bad="skip")
    assert len(source) == 9 and 1004 not in source.persons["annotation_id"] and sum(source.skipped.values()) == 1
    assert "left out 1" in caplog.text


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_image(folder, data, case):
    spoil, message, kind = BAD_IMAGES[case]
    spoil(data)
    if case == "repeated id":  # else its persons belong to no image
        data["annotations"] = [a for a in data["annotations"] if a["image_id"] != 106]
    if case == "no width":
        data["images"][2]["id"] = 106
    with pytest.raises(kind, match=message):
        read(folder, data)
    source = read(folder, data, on_bad="skip")
    assert len(source.images) == 4 and len(source) == 8 and sum(source.skipped.values()) == 1


def test_symbolic_link_out_of_the_folder(tmp_path, data, caplog):
    folder = tiny_coco.write(tmp_path / "set", data)
    inside, outside = folder / "train" / "000002.jpg", tmp_path / "elsewhere.jpg"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(ValueError, match="leads out of the image folder .*--follow-links files"):
        read(folder, reading=Reading(follow_links="none"))
    assert len(read(folder)) == 10  # a link of the file itself was set by somebody who meant it
    assert "1 image files are reached through links that lead out" in caplog.text
    inside.unlink()
    (folder / "train" / "kept.jpg").write_bytes(outside.read_bytes())
    inside.symlink_to("kept.jpg")  # within the folder: fine
    assert len(read(folder)) == 10
    moved = tmp_path / "real"
    (folder / "train").rename(moved)
    (folder / "train").symlink_to(moved)  # the folder itself may be a link
    assert len(read(folder)) == 10
    (tmp_path / "more").mkdir()
    (moved / "000003.jpg").rename(tmp_path / "more" / "000003.jpg")
    (moved / "sub").symlink_to(tmp_path / "more")  # a folder within it may not, unless asked for
    data["images"][3]["file_name"] = "sub/000003.jpg"
    with pytest.raises(ValueError, match="leads out of the image folder .*--follow-links all"):
        read(folder, data)
    assert len(read(folder, data, reading=Reading(follow_links="all"))) == 10


def test_a_bad_box_of_a_crowd_is_nobodys_box(folder, data):
    data["annotations"][-1]["bbox"] = [5, 5, 0, 0]
    assert len(read(folder, data)) == 10


def test_on_bad_is_one_of_two(folder):
    with pytest.raises(ValueError, match="'error' or 'skip', got 'ignore'"):
        read(folder, on_bad="ignore")


# ------------------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("name", "split", "persons", "images", "joints"),
    [
        ("coco_mini", "train", 68, 30, 17),
        ("coco_mini", "val", 44, 30, 17),
        ("openfield", "train", 93, 93, 4),
        ("openfield", "val", 23, 23, 4),
    ],
)
def test_real_data(data_dir, name, split, persons, images, joints):
    source = coco.read(*coco.find(data_dir(name), split))
    assert (len(source), len(source.images), source.skeleton.num_joints) == (persons, images, joints)
    assert all(source.jpeg(i).startswith(b"\xff\xd8") for i in range(images))


def test_evaluation_reads_the_ground_truth(folder, data):
    from pycocotools.coco import COCO

    api = COCO()
    api.dataset = copy.deepcopy(read(folder, data).ground_truth())
    api.createIndex()
    assert len(api.getAnnIds()) == 12 and len(api.getImgIds()) == 5 and api.getCatIds() == [1]
