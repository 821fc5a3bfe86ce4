"""Label files and pictures as they are found in the wild: read in the one way that fits, with a word; or refused with it."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jaxpose.data import builder, formats
from jaxpose.data.boxes import with_detections
from jaxpose.data.formats import coco, coco_wholebody
from jaxpose.data.orientation import TURNS, Tagged, decide
from jaxpose.data.pixels import decode_picture, load_jpeg
from jaxpose.data.reading import Reading
from jaxpose.predict import media
from jaxpose.skeleton import COCO17, COCO_WHOLEBODY133
from tests import tiny_coco


@pytest.fixture
def data():
    return tiny_coco.content()


@pytest.fixture
def read(tmp_path):
    """Writes a folder with a JSON of the given contents, and reads it."""

    def write_and_read(data, **options):
        folder = tiny_coco.write(tmp_path / "set", tiny_coco.content())
        path = folder / "annotations" / "train.json"
        path.write_text(json.dumps(data))
        return coco.read(path, folder / "train", **options)

    return write_and_read


def people_of(data):
    return [a for a in data["annotations"] if a["id"] < 9000]


# --------------------------------------------------------------------------------------------------------- annotations


def test_nested_keypoints_are_read(read, data, caplog):
    plain = read(data).persons
    for person in data["annotations"]:
        person["keypoints"] = np.reshape(person["keypoints"], (-1, 3)).tolist()
    np.testing.assert_array_equal(read(data).persons, plain)
    assert caplog.text.count("nested lists of x, y, visibility triples") == 1 and "of 12 annotations" in caplog.text


def test_pairs_without_visibility_are_visible(read, data, caplog):
    person = people_of(data)[0]
    person["keypoints"] = [[10.0, 20.0], [None, None], *[[5.0 + k, 6.0] for k in range(15)]]
    row = read(data).persons["keypoints"][0]
    assert row[0].tolist() == [10, 20, 2] and row[1].tolist() == [0, 0, 0] and (row[2:, 2] == 2).all()
    assert "a pair is a visible joint" in caplog.text


def test_ragged_keypoints_are_refused(read, data):
    people_of(data)[0]["keypoints"] = [[1, 2, 2]] * 16 + [[1, 2]]
    with pytest.raises(ValueError, match="has 17 numbers, but .* needs 51"):
        read(data)


def test_confidences_are_visibilities(read, data, caplog):
    people = people_of(data)
    for person in people:
        person["keypoints"][2::3] = [0.0, 0.05, 0.7, 1.0, *[2] * 13]
        person["keypoints"] = [v if v is not None else 0 for v in person["keypoints"]]
    found = read(data).persons["keypoints"][..., 2]
    assert (found == [0, 2, 2, 1, *[2] * 13]).all()
    assert "10 annotations have visibilities between 0 and 1" in caplog.text and "--visible-above" in caplog.text
    caplog.clear()
    found = read(data, reading=Reading(visible_above=0.5)).persons["keypoints"]
    assert (found[..., 2] == [0, 0, 2, 1, *[2] * 13]).all() and (found[:, 1] == 0).all() and caplog.text == ""
    only_visible = read(data, reading=Reading(visible_above=1)).persons["keypoints"][..., 2]
    assert (only_visible == [0, 0, 0, 0, *[2] * 13]).all()


@pytest.mark.parametrize("one", [1, 1.0])
def test_the_surest_confidence_is_visible(read, data, one):
    for person in people_of(data):
        person["keypoints"][2::3] = [0.0, 0.05, one, *[0.7] * 14]
    assert (read(data).persons["keypoints"][..., 2] == [0, 2, 2, *[2] * 14]).all()
    for person in people_of(data):
        person["keypoints"][2::3] = [0, one] * 8 + [0]  # no fraction: COCO's flags
    assert (read(data).persons["keypoints"][..., 2] == [0, 1] * 8 + [0]).all()


@pytest.mark.parametrize("value", [3, -0.5, 1.5, "2", None, float("nan")])
def test_other_visibilities_are_refused(read, data, value):
    people_of(data)[0]["keypoints"][2] = value
    with pytest.raises(ValueError, match="visibility is not 0, 1 or 2, nor a confidence.*--visible-above"):
        read(data)


def test_boxes_are_made_from_joints(read, data, caplog):
    people = people_of(data)
    people[0]["keypoints"] = [20.0, 30.0, 2, 40.0, 70.0, 1] + [0] * 45
    people[1]["keypoints"] = [50.0, 60.0, 2] + [0] * 48
    for person in data["annotations"]:
        del person["bbox"]
    del people[0]["area"]
    source = read(data)
    assert source.persons["box"][0].tolist() == [16, 26, 28, 48]
    assert source.persons["box"][1].tolist() == [46, 56, 8, 8]  # one joint has no extent
    assert source.persons["area"][0] == pytest.approx(0.53 * 28 * 48)
    assert "10 persons have no 'bbox'" in caplog.text and len(source) == 10
    assert all("bbox" in a for a in source.ground_truth()["annotations"])
    skipped = read(data, on_bad="skip")
    assert len(skipped) == 0 and "every person was left out (10 box" in skipped.nobody


def test_nobody_is_an_error_when_prepared(tmp_path, data):
    for person in data["annotations"]:
        person.pop("bbox")
    folder = tiny_coco.write(tmp_path / "set", data)
    with pytest.raises(ValueError, match="train.json: every person was left out .*Nothing was prepared"):
        builder.prepare(folder, data_dir=tmp_path / "data", on_bad="skip", progress=False)
    for person in data["annotations"]:
        person |= {"bbox": [1, 1, 30, 30], "category_id": 0}
    (folder / "annotations" / "train.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"no annotation is of 'person' \(id 1\); those there are of category_id 0"):
        builder.prepare(folder, data_dir=tmp_path / "data", progress=False)
    assert not list((tmp_path / "data").rglob("persons.npy"))


def test_an_unlabelled_person_needs_no_box(read, data):
    data["annotations"][-2] = {"id": 9000, "image_id": 100, "category_id": 1, "keypoints": []}
    assert len(read(data)) == 10


def test_ids_and_sizes_as_text_and_floats(read, data):
    plain = read(data)
    for entry in data["images"]:
        entry |= {"id": str(entry["id"]), "width": float(entry["width"]), "height": str(entry["height"])}
    for person in data["annotations"]:
        person |= {"id": float(person["id"]), "image_id": str(person["image_id"]), "category_id": "1"}
    data["categories"][0] = {**data["categories"][0], "id": 1.0}
    source = read(data)
    np.testing.assert_array_equal(source.persons, plain.persons)
    np.testing.assert_array_equal(source.images, plain.images)
    assert {a["image_id"] for a in source.ground_truth()["annotations"]} == {entry["id"] for entry in source.entries}
    assert all(type(entry["id"]) is int and type(entry["width"]) is int for entry in source.entries)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_of_json(tmp_path, data, encoding):
    folder = tiny_coco.write(tmp_path / "set", data)
    (folder / "annotations" / "train.json").write_text(json.dumps(data), encoding=encoding)
    assert len(coco.read(*coco.find(folder, "train"))) == 10


# ---------------------------------------------------------------------------------------------------------- categories


def test_joints_without_names_are_numbered(read, data, caplog):
    data["categories"] = [{"id": 1, "name": "face", "keypoints": []}]
    source = read(data)
    assert source.skeleton.joints[-1] == "joint_16" and len(source) == 10
    assert "the annotations have 17 joints each" in caplog.text and "names" in caplog.text
    assert source.ground_truth()["categories"][0]["keypoints"] == list(source.skeleton.joints)


def test_a_skeleton_to_draw_stops_nobody(read, data, caplog):
    names = ["snout", *(f"paw{i}" for i in range(16))]
    for edges, words in (([[0, 1]], "counts from 0"), ([["snout", "paw0"]], ""), (7, "no limbs are drawn")):
        caplog.clear()
        data["categories"] = [{"id": 1, "name": "mouse", "keypoints": names, "skeleton": edges}]
        assert read(data).skeleton.limbs == (((0, 1),) if edges != 7 else ()) and words in caplog.text


def test_pairs_and_sigmas_are_given(read, data, caplog):
    names = ["snout", "eyeA", "eyeB", *(f"legL{i}" for i in range(14))]
    data["categories"] = [{"id": 1, "name": "fly", "keypoints": names}]
    assert read(data).skeleton.flip_pairs == () and "14 of 17 joints look like left or right" in caplog.text
    caplog.clear()
    source = read(data, reading=Reading(flip_pairs=("eyeA:eyeB",), sigmas=(0.2,)))
    assert source.skeleton.flip_pairs == ((1, 2),) and source.skeleton.sigmas == (0.2,) * 17 and caplog.text == ""
    with pytest.raises(ValueError, match="--flip-pairs.*'eyeA:eyeC' is not two joints"):
        read(data, reading=Reading(flip_pairs=("eyeA:eyeC",)))
    with pytest.raises(ValueError, match="17 joints, 2 sigmas"):
        read(data, reading=Reading(sigmas=(0.1, 0.2)))


def species(data):
    """Five of the persons are of another category with the same joints."""
    data["categories"] = [{**tiny_coco.CATEGORY, "name": "cat"}, {**tiny_coco.CATEGORY, "id": 4, "name": "dog"}]
    for person in data["annotations"][:5]:
        person["category_id"] = 4
    return data


def test_categories_with_the_same_joints_are_read_together(read, data, tmp_path):
    data = species(data)
    source = read(data)
    assert len(source) == 10 and source.category_ids == (1, 4)
    assert source.categories_of(source.persons["annotation_id"]).tolist() == [4] * 5 + [1] * 5
    assert (
        len(read(data, category="all")) == 10 and len(read(data, category="dog")) == len(read(data, category="4")) == 5
    )
    assert read(data, category=1).categories_of([1000, 1006]).tolist() == [1, 1]
    prepared = builder.prepare(tmp_path / "set", data_dir=tmp_path / "data", progress=False)
    assert prepared.category_ids == (1, 4) and prepared.categories_of([1000, 1006]).tolist() == [4, 1]
    assert [c["name"] for c in prepared.ground_truth()["categories"]] == ["cat", "dog"]
    boxes = [{"image_id": 100, "category_id": c, "bbox": [1, 1, 30, 30], "score": 0.5} for c in (4, 1, 9)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    detected = with_detections(prepared, tmp_path / "boxes.json")
    assert detected.categories_of(detected.persons["annotation_id"]).tolist() == [4, 1]


def test_all_categories_must_have_the_same_joints(read, data):
    data["categories"].append({"id": 4, "name": "dog", "keypoints": ["nose"]})
    for category in (None, "all"):
        with pytest.raises(ValueError, match=r"'person' \(id 1\), 'dog' \(id 4\), whose joints differ.*--category"):
            read(data, category=category)


def test_joints_in_another_order(read, data):
    order = np.random.default_rng(0).permutation(17)
    plain = read(data).persons["keypoints"]
    data["categories"] = [{**tiny_coco.CATEGORY, "keypoints": [COCO17.joints[k] for k in order]}]
    for person in data["annotations"]:
        person["keypoints"] = np.reshape(person["keypoints"], (-1, 3))[order].ravel().tolist()
    with pytest.raises(ValueError, match="the same joints in another order.*--reorder-joints"):
        read(data, skeleton=COCO17)
    source = read(data, skeleton=COCO17, reading=Reading(reorder_joints=True))
    np.testing.assert_array_equal(source.persons["keypoints"], plain)
    assert source.ground_truth()["categories"][0]["keypoints"] == list(COCO17.joints)
    data["categories"][0]["keypoints"][3] = "tail"
    with pytest.raises(ValueError, match="give data with the joints of the skeleton"):
        read(data, skeleton=COCO17, reading=Reading(reorder_joints=True))


# ------------------------------------------------------------------------------------------------------- a whole file


def crowd_of(count=24):
    """A file of many persons, whose joints lie well inside their boxes in images of 640x480."""
    rng = np.random.default_rng(1)
    people = []
    for i in range(count):
        x, y, w, h = *rng.uniform(50, 200, 2), *rng.uniform(60, 220, 2)
        xy = rng.uniform(0.1, 0.9, (17, 2)) * (w, h) + (x, y)
        joints = np.column_stack([xy, np.full(17, 2)]).ravel().tolist()
        people.append({"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [x, y, w, h], "keypoints": joints})
    image = {"id": 1, "file_name": "1.jpg", "width": 640, "height": 480}
    return {"images": [image], "annotations": people, "categories": [tiny_coco.CATEGORY]}


def spoiled(count, spoil):
    data = crowd_of(count)
    for person in data["annotations"]:
        box, joints = np.array(person["bbox"]), np.reshape(person["keypoints"], (-1, 3))
        box, joints[:, :2] = spoil(box, joints[:, :2])
        person |= {"bbox": box.tolist(), "keypoints": joints.ravel().tolist()}
    return data


WHOLE = {
    "corners": (
        lambda b, j: (np.concatenate([b[:2], b[:2] + b[2:]]) + [150, 60, 150, 60], j + [150, 60]),
        "are x1, y1",
    ),
    "fractions": (lambda b, j: (b, j / [640, 480]), "between -1 and 1.*multiply x by the image's width"),
    "box of fractions": (
        lambda b, j: (b / [640, 480, 640, 480], j),
        "no extent inside the image of 640x480 pixels: are these fractions",
    ),
    "of a larger image": (lambda b, j: (b, j * 8 + 700), "outside their image.*another size"),
    "of other persons": (lambda b, j: (b, (j + [320, 0]) % [640, 480]), "outside their person's box"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_fault_of_the_whole_file(tmp_path, kind, caplog):
    (tmp_path / "1.jpg").write_bytes(tiny_coco.jpeg(tiny_coco.picture((640, 480))))
    path = tmp_path / "train.json"
    spoil, words = WHOLE[kind]
    path.write_text(json.dumps(crowd_of()))
    assert len(coco.read(path, tmp_path)) == 24 and caplog.text == "", "a sound file is not complained of"
    path.write_text(json.dumps(spoiled(24, spoil)))
    if kind != "of other persons":
        with pytest.raises(ValueError, match=rf"train.json: .*{words if kind != 'corners' else 'are that'}"):
            coco.read(path, tmp_path)
    path.write_text(json.dumps(spoiled(5, spoil)))
    if kind in ("fractions", "box of fractions"):
        with pytest.raises(ValueError, match=words):
            coco.read(path, tmp_path)
    else:
        coco.read(path, tmp_path)
        assert caplog.text.count("WARNING") == 1 and all(
            word in caplog.text for word in words.split(".*")[:1] if kind != "corners"
        )


# --------------------------------------------------------------------------------------------------------- file names


def named(tmp_path, file, name, **options):
    """Reads a data set of one image, stored as `file`, that the JSON calls `name`."""
    folder = tmp_path / "images"
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(tiny_coco.jpeg(tiny_coco.picture((40, 30))))
    image = {"id": 1, "file_name": name, "width": 40, "height": 30}
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 20, 20], "keypoints": [9, 9, 2] * 17}
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"images": [image], "annotations": [person], "categories": [tiny_coco.CATEGORY]}))
    return coco.read(path, folder, **options)


@pytest.mark.parametrize(
    ("file", "name", "how"),
    [
        (unicodedata.normalize("NFD", "Zoë.jpg"), unicodedata.normalize("NFC", "Zoë.jpg"), "Unicode form"),
        ("a b.jpg", "a%20b.jpg", "percent-encoded"),
        ("A.JPG", "a.jpg", "case"),
        ("a.jpg", "train/images/a.jpg", "without a leading folder"),
        ("sub/a.jpg", "images/sub/a.jpg", "without a leading folder"),
        ("Zoë b.JPG", "data/Zo%C3%AB%20b.jpg", "without a leading folder"),
        ("sub/a.jpg", "a.jpg", "in a folder within"),
    ],
)
def test_a_file_is_found_under_nearly_its_name(tmp_path, file, name, how, caplog):
    source = named(tmp_path, file, name)
    assert source.record(0)["jpeg"] and caplog.text.count("WARNING") == 1
    assert "1 image files were found" in caplog.text and how in caplog.text
    assert source.ground_truth()["images"][0]["file_name"] == source.file_name(0) == file


def test_an_absolute_name_within_the_folder(tmp_path):
    assert named(tmp_path, "a.jpg", str(tmp_path / "images" / "a.jpg")).file_name(0) == "a.jpg"
    (tmp_path / "b.jpg").write_bytes((tmp_path / "images" / "a.jpg").read_bytes())
    with pytest.raises(ValueError, match="leads out of the image folder"):
        named(tmp_path, "a.jpg", str(tmp_path / "b.jpg"))


def test_a_doubtful_name_is_hinted_at(tmp_path):
    (tmp_path / "images").mkdir()
    for other in ("one/x.jpg", "two/x.jpg", "picture1.jpg"):
        (tmp_path / "images" / other).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / other).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="there are 2 files of nearly this name, such as 'one/x.jpg'"):
        named(tmp_path, "a.jpg", "x.jpg")
    with pytest.raises(FileNotFoundError, match="did you mean 'picture1.jpg'"):
        named(tmp_path, "a.jpg", "picture2.jpg")
    with pytest.raises(FileNotFoundError, match="the image folder is .*images, which holds 4 files such as"):
        named(tmp_path, "a.jpg", "IMG_0001.png")


def test_two_names_of_one_file_are_refused(read, data):
    data["images"][1] |= {"file_name": "x/000002.jpg", "width": 133, "height": 90}
    data["images"][2] |= {"file_name": "y/000002.jpg"}
    with pytest.raises(ValueError, match="'x/000002.jpg' and 'y/000002.jpg' both lead to the file '000002.jpg'"):
        read(data)


# --------------------------------------------------------------------------------------------------------- orientation


def tagged(pixels, tag, kind="JPEG"):
    """A file that shows `pixels` when it is turned as its tag says."""
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(tag, tag)
    stored = Image.fromarray(pixels)
    stored = stored if tag == 1 else stored.transpose(TURNS[back])
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = tag
    stored.save(out, kind, exif=exif, **({"quality": 98, "subsampling": 0} if kind == "JPEG" else {}))
    return out.getvalue()


@pytest.mark.parametrize("size", [(64, 48), (48, 48)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_training_and_prediction_turn_a_picture_alike(tmp_path, tag, kind, size):
    pixels = tiny_coco.picture(size)
    path = tmp_path / "x.picture"
    path.write_bytes(tagged(pixels, tag, kind))
    for upright in (True, False):
        trained = np.asarray(decode_picture(load_jpeg(path, upright=upright), path).convert("RGB"), int)
        predicted = media.picture(path, upright=upright).astype(int)
        assert trained.shape == predicted.shape and np.abs(trained - predicted).mean() < 3
    assert np.abs(media.picture(path).astype(int) - pixels).mean() < 3


def oriented(tmp_path, tags, *, turned, size=(64, 96), exif="auto"):
    """A data set whose labels are those of the turned picture, or of the stored one; people stand upright when turned."""
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    images, people = [], []
    y = np.linspace(10, size[1] - 10, 17)
    xy = np.column_stack([np.full(17, size[0] / 3), y])  # nose at the top, ankles at the bottom
    for i, tag in enumerate(tags):
        (folder / f"{i}.jpg").write_bytes(tagged(tiny_coco.picture(size, seed=i), tag))
        shown, wh = xy, size
        if not turned and tag != 1:
            w, h = size
            x0, y0 = xy[:, 0], xy[:, 1]
            shown = np.column_stack({2: (w - x0, y0), 3: (w - x0, h - y0), 4: (x0, h - y0), 5: (y0, x0), 6: (y0, w - x0),
                                     7: (h - y0, w - x0), 8: (h - y0, x0)}[tag])  # fmt: skip
            wh = size[::-1] if tag > 4 else size
        images.append({"id": i, "file_name": f"{i}.jpg", "width": wh[0], "height": wh[1]})
        joints = np.column_stack([shown, np.full(17, 2)]).ravel().tolist()
        box = [*(shown.min(0) - 5).tolist(), *(np.ptp(shown, axis=0) + 10).tolist()]
        people.append({"id": i + 1, "image_id": i, "category_id": 1, "bbox": box, "keypoints": joints})
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [tiny_coco.CATEGORY]}))
    return coco.read(path, folder, reading=Reading(exif=exif))


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize(
    ("tags", "size", "why"),
    [
        ((1, 3, 3, 4), (64, 96), "stand upright"),  # the size is the same
        ((6, 8, 1), (64, 96), "annotated sizes say so"),
        ((5, 7, 2, 3), (64, 96), "annotated sizes say so"),  # the others follow those that tell
        ((6, 8, 5, 7), (80, 80), "stand upright"),  # square
    ],
)
def test_which_picture_was_labelled_is_found_out(tmp_path, tags, size, why, turned, caplog):
    source = oriented(tmp_path, tags, turned=turned, size=size)
    with caplog.at_level(logging.WARNING):
        first = source.record(0)["jpeg"]
    assert source.turned == (frozenset(i for i, tag in enumerate(tags) if tag != 1) if turned else frozenset())
    count = sum(tag != 1 for tag in tags)
    assert f"{count} of {len(tags)} images have an EXIF orientation" in caplog.text and why in caplog.text
    assert "--exif" in caplog.text and caplog.text.count("WARNING") == 1
    shown = np.asarray(decode_picture(first, "0.jpg"), int)
    assert shown.shape[:2] == (source.entries[0]["height"], source.entries[0]["width"])
    if turned or tags[0] == 1:
        assert np.abs(shown - tiny_coco.picture(size, seed=0)).mean() < 4


def test_what_cannot_be_told_is_shown_as_viewers_do(tmp_path, caplog):
    source = oriented(tmp_path, (2, 2), turned=True)
    assert source.turned == {0, 1} and "sizes and poses cannot tell" in caplog.text
    assert oriented(tmp_path, (2, 2), turned=True, exif="ignore").turned == frozenset()
    assert oriented(tmp_path, (3, 3), turned=False, exif="apply").turned == {0, 1}
    with pytest.raises(ValueError, match=r"0.jpg is 64x96 pixels, its annotations say 96x64.*turned"):
        oriented(tmp_path, (6, 6), turned=False, exif="apply").record(0)
    caplog.clear()
    assert oriented(tmp_path, (1, 1), turned=True).turned == frozenset() and caplog.text == ""


def test_mixed_sizes_are_read_one_by_one():
    sizes = np.array([[64, 96], [96, 64], [64, 96], [50, 50]])
    found = {0: Tagged(6, (96, 64)), 1: Tagged(6, (96, 64)), 2: Tagged(8, (96, 64)), 3: Tagged(3, (50, 50))}
    turn, line = decide(found, sizes=sizes, persons=np.zeros(0), skeleton=COCO17)
    assert turn == {0, 2, 3} and "of 2 and the contrary of 1" in line


def test_a_tag_that_is_nonsense_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(tiny_coco.picture((40, 30))).save(tmp_path / "x.jpg", exif=exif)
    data = (tmp_path / "x.jpg").read_bytes()
    assert load_jpeg(tmp_path / "x.jpg", upright=True) == data
    (tmp_path / "y.jpg").write_bytes(data.replace(b"Exif\0\0MM", b"Exif\0\0??"))
    load_jpeg(tmp_path / "y.jpg", upright=True)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_in_training_too(tmp_path, mode):
    pixels = np.dstack([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)])
    pixels[:, 16:] = [60, 60, 60, 255]
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = picture.convert("RGB").quantize(8)
        picture.info["transparency"] = picture.getpixel((0, 0))
        picture.save(tmp_path / "x.png", transparency=picture.getpixel((0, 0)))
    else:
        picture.convert(mode).save(tmp_path / "x.png")
    found = np.asarray(decode_picture(load_jpeg(tmp_path / "x.png"), "x.png"), int)
    assert found[:, :12].min() > 250 and np.abs(found[:, 20:] - 60).max() < 6
    assert np.abs(found - media.picture(tmp_path / "x.png")).mean() < 2


# ------------------------------------------------------------------------------------- layouts, parts, whole body


def test_annotations_beside_the_images(tmp_path, data):
    """Roboflow's export."""
    made = tiny_coco.write(tmp_path / "made", data)
    for split, name in (("train", "_annotations.coco.json"), ("valid", "labels.json")):
        (tmp_path / "set" / split).mkdir(parents=True)
        for path in (made / "train").iterdir():
            (tmp_path / "set" / split / path.name).write_bytes(path.read_bytes())
        (tmp_path / "set" / split / name).write_text(json.dumps(data))
    for split, folder in (("train", "train"), ("val", "valid"), ("valid", "valid")):
        annotations, images = coco.find(tmp_path / "set", split)
        assert images == tmp_path / "set" / folder == annotations.parent
        assert len(coco.read(annotations, images)) == 10
        assert formats.guess(tmp_path / "set", split) == "coco"
    with pytest.raises(FileNotFoundError, match="no annotations for split 'test'"):
        coco.find(tmp_path / "set", "test")


def test_a_part_of_the_images_is_held_out(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 4, "height": 4} for i in range(200)]
    for image in images:
        (tmp_path / image["file_name"]).write_bytes(b"")
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [tiny_coco.CATEGORY]}))
    parts = {part: Reading(part=part, val_fraction=0.2) for part in ("train", "val")}
    ids = {part: set(coco.read(path, tmp_path, reading=r).images["image_id"]) for part, r in parts.items()}
    assert ids["train"] | ids["val"] == set(range(200)) and not ids["train"] & ids["val"]
    assert 20 < len(ids["val"]) < 60
    path.write_text(json.dumps({"images": images[::-1][:100], "annotations": [], "categories": [tiny_coco.CATEGORY]}))
    again = set(coco.read(path, tmp_path, reading=parts["val"]).images["image_id"])
    assert again == ids["val"] & set(range(100, 200)), "whatever else is in the file"


@pytest.mark.parametrize("fraction", [0.02, 0.98])
def test_neither_part_is_without_a_labelled_image(tmp_path, fraction):
    """All draws of these fall on one side; the images without labels do not count."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(5)]
    person = {"category_id": 1, "bbox": [0, 0, 9, 9], "keypoints": [3, 3, 2] * 17}
    people = [{**person, "id": i, "image_id": i} for i in range(3)]
    people.append({**person, "id": 3, "image_id": 3, "keypoints": [0, 0, 0] * 17})
    for image in images:
        (tmp_path / image["file_name"]).write_bytes(b"")
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [tiny_coco.CATEGORY]}))
    for _ in range(2):  # the same ones again
        train, val = (
            coco.read(path, tmp_path, reading=Reading(part=part, val_fraction=fraction)) for part in ("train", "val")
        )
        ids = [set(source.images["image_id"].tolist()) for source in (train, val)]
        assert ids[0] | ids[1] == set(range(5)) and not ids[0] & ids[1]
        assert sorted((len(train), len(val))) == [1, 2] and len(val) == (1 if fraction < 0.5 else 2)
    path.write_text(json.dumps({"images": images, "annotations": people[:1], "categories": [tiny_coco.CATEGORY]}))
    with pytest.raises(ValueError, match="has 1 labelled image: --val-fraction .* needs at least two"):
        coco.read(path, tmp_path, reading=Reading(part="val", val_fraction=fraction))


def test_sigmas_and_pairs_count_with_a_skeleton_too(read, data):
    """A checkpoint's skeleton, which is not the one that the file names."""
    skeleton = dataclasses.replace(COCO17, sigmas=(0.1,) * 17)
    source = read(data, skeleton=skeleton, reading=Reading(sigmas=(0.3,), flip_pairs=("nose:left_eye",)))
    assert source.skeleton.sigmas == (0.3,) * 17 and source.skeleton.flip_pairs == ((0, 1),)
    assert read(data, skeleton=skeleton, reading=Reading(exif="ignore")).skeleton == skeleton


def whole_body(data):
    for person in people_of(data):
        x, y, w, h = person["bbox"]
        for field, count in (("foot_kpts", 6), ("face_kpts", 68), ("lefthand_kpts", 21), ("righthand_kpts", 21)):
            third = 2 if field == "foot_kpts" else 0.25
            person[field] = [v for i in range(count) for v in (x + w * i / count, y + h / 2, third)]
    return data


def test_whole_body_is_read_from_its_fields(tmp_path, data, caplog):
    folder = tiny_coco.write(tmp_path / "set", whole_body(data), name="coco_wholebody_train_v1.0.json")
    path, images = coco_wholebody.find(folder, "train")
    source = coco_wholebody.read(path, images)
    assert source.skeleton == COCO_WHOLEBODY133 and source.persons["keypoints"].shape == (10, 133, 3)
    person = people_of(data)[0]
    row = source.persons["keypoints"][0]
    np.testing.assert_allclose(row[:17].ravel(), np.float32(person["keypoints"]))
    np.testing.assert_allclose(row[23:91, 0], np.float32(person["face_kpts"][::3]), rtol=1e-6)
    assert (row[17:23, 2] == 2).all() and (row[23:, 2] == 2).all()
    assert "taken as confidences" in caplog.text
    del person["lefthand_kpts"]
    path.write_text(json.dumps(data))
    assert (coco_wholebody.read(path, images).persons["keypoints"][0, 91:112] == 0).all()
    caplog.clear()
    assert coco.read(path, images).skeleton == COCO17
    assert "foot_kpts, face_kpts" in caplog.text and "--format coco_wholebody reads all 133" in caplog.text
    person["face_kpts"] = [1, 2, 2]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="needs 399"):
        coco_wholebody.read(path, images)
    path.write_text(json.dumps(tiny_coco.content()))
    with pytest.raises(ValueError, match="not a COCO-WholeBody file.*--format coco"):
        coco_wholebody.read(path, images)


def test_a_set_prepared_by_older_rules_is_prepared_again(tmp_path, data, caplog):
    """Its pairs of left and right may be others; those of COCO's joints are not."""
    names = ["eyeL", "eyeR", *(f"leg{side}{i}" for side in "LR" for i in range(7)), "tail"]
    for category, again in (({"id": 1, "name": "fly", "keypoints": names}, True), (tiny_coco.CATEGORY, False)):
        data["categories"] = [category]
        folder = tiny_coco.write(tmp_path / category["name"], data)
        source = builder.prepare(folder, data_dir=tmp_path / "data", progress=False)
        path = source.directory / "source.json"
        facts = json.loads(path.read_text())
        assert facts.pop("reading") == builder.READING
        facts.pop("digest")
        path.write_text(json.dumps(facts | {"digest": builder._digest(facts)}))
        caplog.clear()
        builder.prepare(folder, data_dir=tmp_path / "data", progress=False)
        assert ("read by older rules" in caplog.text) is again
