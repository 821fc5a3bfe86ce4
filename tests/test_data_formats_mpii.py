import copy
import dataclasses
import json

import numpy as np
import pytest

from jaxpose import cli, geometry
from jaxpose.data import builder, crops
from jaxpose.data.formats import coco, mpii
from jaxpose.evaluation import mpii as evaluation
from jaxpose.skeleton import COCO17, MPII16
from tests import tiny_coco

SIZES = {"b.jpg": (161, 120), "a.jpg": (97, 121), "c.jpg": (120, 160)}
# (image, centre, scale): two persons in b.jpg, apart in the list; the last reaches far out of its image.
PEOPLE = [
    ("b.jpg", (80.0, 55.0), 0.4),
    ("a.jpg", (40.0, 60.5), 0.313),
    ("b.jpg", (30.0, 40.0), 0.27),
    ("c.jpg", (3.0, 150.0), 0.71),
]


def entry(image, center, scale, *, seed=0) -> dict:
    """As HRNet's JSON has it: pixels from 1, (-1, -1) where a joint is not labelled."""
    rng = np.random.default_rng(seed)
    joints = np.round(np.add(center, rng.uniform(-80, 80, (16, 2)) * scale), 4)
    visible = (np.arange(16) != 3 + seed).astype(int)
    joints[visible == 0] = -1
    return {
        "joints_vis": visible.tolist(),
        "joints": joints.tolist(),
        "image": image,
        "scale": scale,
        "center": list(center),
    }


def content() -> list:
    return [entry(*person, seed=i) for i, person in enumerate(PEOPLE)]


def write(folder, data=None, *, name="annot/valid.json", images="images"):
    for path in (folder / images, (folder / name).parent):
        path.mkdir(parents=True, exist_ok=True)
    for i, (image, size) in enumerate(SIZES.items()):
        (folder / images / image).write_bytes(tiny_coco.jpeg(tiny_coco.picture(size, seed=i)))
    (folder / name).write_text(json.dumps(content() if data is None else data))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("mpii"))


@pytest.fixture(scope="module")
def source(folder):
    return mpii.read(*mpii.find(folder, "valid"))


def prepare(folder, data_dir, *, split="valid", **options):
    return builder.prepare(folder, split=split, data_dir=data_dir, reader=mpii, progress=False, **options)


def hrnet_affine(center, scale, size=256) -> np.ndarray:
    """The published crop: three point pairs, the centre, the point above it, and the corner that the two make."""
    center = np.array([center[0], center[1] + 15 * scale]) - 1
    width = scale * 1.25 * 200
    up, aside = np.array([0, -0.5]), np.array([-0.5, -0.5])
    src = np.stack([center, center + width * up, center + width * aside])
    dst = size / 2 + size * np.stack([np.zeros(2), up, aside])
    return np.linalg.solve(np.c_[src, np.ones(3)], dst).T


def test_entries_become_persons_of_their_images(folder, source):
    assert source.skeleton == MPII16 and source.category_id == 1 and not source.skipped
    assert [source.file_name(i) for i in range(3)] == ["b.jpg", "a.jpg", "c.jpg"]  # in the order of their first entry
    np.testing.assert_array_equal(source.images["size_wh"], list(SIZES.values()))
    assert source.persons["image"].tolist() == [0, 0, 1, 2]
    assert source.persons["annotation_id"].tolist() == [1, 3, 2, 4]  # the place in the list, from 1
    for row in source.persons:
        given = content()[row["annotation_id"] - 1]
        labelled = np.array(given["joints_vis"]) == 1
        np.testing.assert_array_equal(row["keypoints"][:, 2], 2 * labelled)
        np.testing.assert_allclose(row["keypoints"][labelled, :2], np.array(given["joints"])[labelled] - 1, rtol=1e-6)
        assert (row["keypoints"][~labelled] == 0).all()
        side = 200 * given["scale"]
        assert row["area"] == pytest.approx(0.53 * side**2)
        np.testing.assert_allclose(row["box"][2:], side, rtol=1e-6)
    assert len(source.at_level("image").record(0)["persons"]) == 2


def test_the_crop_is_the_published_one(folder, tmp_path, source):
    """Directly, prepared, opened again, and cut out of the image's border: these boxes are not clipped."""
    prepared = prepare(folder, tmp_path)
    for each in (source, prepared, builder.open(tmp_path, "valid"), prepared.at_level("image").at_level("person")):
        assert each.clip_boxes is False
        batch = crops.plan(each, range(4), size_wh=(256, 256))
        for affine, identifier in zip(batch["affine"], batch["annotation_id"], strict=True):
            _, center, scale = PEOPLE[identifier - 1]
            np.testing.assert_allclose(affine, hrnet_affine(center, scale), rtol=1e-5, atol=1e-3)
            np.testing.assert_allclose(
                affine,
                geometry.center_to_affine(np.add(center, (-1, 15 * scale - 1)), 250 * scale, (256, 256)),
                atol=1e-3,
            )
    clipped = copy.copy(source)
    clipped.clip_boxes = True
    batch = crops.plan(clipped, [3], size_wh=(256, 256))
    assert abs(batch["affine"][0] - hrnet_affine(*PEOPLE[3][1:])).max() > 1  # the test can tell


def test_predictions_in_the_crop_go_back_to_the_annotated_pixels(source):
    batch = crops.plan(source, range(4), size_wh=(256, 256))
    back = geometry.apply_affine(geometry.invert_affine(batch["affine"]), batch["joints"])
    for xy, identifier in zip(back, batch["annotation_id"], strict=True):
        labelled = np.array(content()[identifier - 1]["joints_vis"]) == 1
        annotated = np.array(content()[identifier - 1]["joints"])
        np.testing.assert_allclose(xy[labelled] + 1, annotated[labelled], atol=1e-3)


def test_joints_vis_alone_decides(tmp_path):
    data = content()[:1]
    data[0]["joints"][0], data[0]["joints_vis"][0] = [0.0, 0.0], 1
    data[0]["joints"][1], data[0]["joints_vis"][1] = [-1.0, 7.0], 1.0
    data[0]["joints"][2], data[0]["joints_vis"][2] = [50.0, float("nan")], 0
    keypoints = mpii.read(*mpii.find(write(tmp_path, data), "valid")).persons["keypoints"][0]
    assert keypoints[:3].tolist() == [[-1, -1, 2], [-2, 6, 2], [0, 0, 0]]


def test_in_cocos_format(source, tmp_path, folder):
    truth = source.ground_truth()
    assert truth["categories"][0]["keypoints"] == list(MPII16.joints)
    (tmp_path / "coco.json").write_text(json.dumps(truth))
    again = coco.read(tmp_path / "coco.json", folder / "images")
    assert again.skeleton == MPII16 and again.clip_boxes
    np.testing.assert_array_equal(again.persons, source.persons)
    assert prepare(folder, tmp_path / "data").ground_truth() == json.loads(json.dumps(truth))


@pytest.mark.parametrize(
    ("name", "images", "split"),
    [
        ("annot/valid.json", "images", "val"),
        ("annot/train.json", "images", "train"),
        ("annotations/mpii_val.json", "images", "valid"),
        ("annotations/mpii_trainval.json", "images", "trainval"),
        ("test_mpii.json", ".", "test_mpii"),
        ("test_mpii.json", ".", "test"),
        ("mpii_val.json", "images", "valid"),
    ],
)
def test_layouts(tmp_path, name, images, split):
    write(tmp_path, name=name, images=images)
    assert mpii.find(tmp_path, split) == (tmp_path / name, tmp_path / images)
    assert len(mpii.read(*mpii.find(tmp_path, split))) == 4


def test_what_is_not_found(tmp_path):
    write(tmp_path, name="annot/train.json")
    with pytest.raises(
        FileNotFoundError, match=r"looked for annot/val\.json, .*mpii_valid.*; there is annot/train\.json"
    ):
        mpii.find(tmp_path, "val")
    write(tmp_path, name="train.json")
    with pytest.raises(FileNotFoundError, match=r"several files for split 'train' \(annot/train\.json, train\.json\)"):
        mpii.find(tmp_path, "train")
    given = {"annotations": tmp_path / "train.json", "images": tmp_path}
    assert mpii.find(tmp_path, "train", **given) == (tmp_path / "train.json", tmp_path)
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(FileNotFoundError, match=r"annot/train\.json has no image folder: looked for .*images"):
        mpii.find(tmp_path, "train", annotations=tmp_path / "annot" / "train.json")
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        mpii.find(tmp_path / "absent", "train")
    with pytest.raises(FileNotFoundError, match=r"gone\.json does not exist"):
        mpii.read(tmp_path / "gone.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"images is not a folder"):
        mpii.read(tmp_path / "train.json", tmp_path / "images")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiny_coco.content(1), "annotations.*'images'.*COCO's format.*without --format mpii"),
        ({"a": 1}, r"an object with the keys \['a'\]"),
        ([], r"holds \[\]"),
        ([{"image_id": 1, "keypoints": []}], r"its first entry has the keys \['image_id', 'keypoints'\]"),
        ([3], "its first entry has 3"),
    ],
)
def test_a_file_that_is_not_mpii(tmp_path, data, words):
    with pytest.raises(ValueError, match=rf"valid\.json is not an MPII annotation file \(that is a list.*{words}"):
        mpii.read(*mpii.find(write(tmp_path, data), "valid"), on_bad="skip")


def test_a_file_that_is_no_json(tmp_path):
    path = write(tmp_path) / "annot" / "valid.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"valid\.json is not a JSON file.*complete"):
        mpii.read(*mpii.find(tmp_path, "valid"))


def test_mpii_read_as_coco_says_how_to_read_it(folder):
    with pytest.raises(ValueError, match="a list.*jaxpose prepare --format mpii"):
        coco.read(folder / "annot" / "valid.json", folder / "images")


NAN = float("nan")
BAD_PERSONS = {
    "entry incomplete": lambda e: e.pop("scale"),
    "centre or scale unusable": lambda e: e.update(center=[NAN, 4.0]),
    "centre or scale unusable 0": lambda e: e.update(scale=0),
    "centre or scale unusable inf": lambda e: e.update(scale=float("inf")),
    "centre or scale unusable -1": lambda e: e.update(center=[-1, -1]),
    "wrong number of joints": lambda e: e["joints"].pop(),
    "wrong number of joints vis": lambda e: e.update(joints_vis=[1] * 17),
    "wrong number of joints none": lambda e: e.pop("joints_vis"),
    "joints_vis not 0 or 1": lambda e: e["joints_vis"].__setitem__(4, 2),
    "coordinate not finite": lambda e: e["joints"].__setitem__(0, [NAN, 1.0]),
    "coordinate not finite 3": lambda e: e["joints"].__setitem__(0, [1.0, 1.0, 1.0]),
    "box outside the image or empty": lambda e: e.update(center=[900.0, 20.0]),
    "file name unusable": lambda e: e.update(image=7),
}


@pytest.mark.parametrize("kind", BAD_PERSONS)
def test_a_bad_person(tmp_path, kind):
    data = content()
    BAD_PERSONS[kind](data[2])
    files = mpii.find(write(tmp_path, data), "valid")
    with pytest.raises(ValueError, match=r"valid\.json: .*(entry 2|annotation 3).*--on-bad skip"):
        mpii.read(*files)
    source = mpii.read(*files, on_bad="skip")
    assert source.persons["annotation_id"].tolist() == [1, 2, 4] and len(source.images) == 3
    assert [kind.startswith(reason) for reason in source.skipped.elements()] == [True]


@pytest.mark.parametrize(
    ("reason", "error", "words"),
    [
        ("image file absent", FileNotFoundError, r"b\.jpg.*which is not in .*images"),
        ("image not readable", ValueError, r"b\.jpg cannot be read"),
        ("file name outside the folder", ValueError, r"leads out of the image folder"),
    ],
)
def test_a_bad_image(tmp_path, reason, error, words):
    data = content()
    write(tmp_path, data)
    if reason == "image file absent":
        (tmp_path / "images" / "b.jpg").unlink()
    elif reason == "image not readable":
        (tmp_path / "images" / "b.jpg").write_bytes(b"<html>")
    else:
        for i in (0, 2):
            data[i]["image"] = "../images/b.jpg"
        write(tmp_path, data)
    files = mpii.find(tmp_path, "valid")
    with pytest.raises(error, match=words):
        mpii.read(*files)
    source = mpii.read(*files, on_bad="skip")
    assert source.skipped == {reason: 1}  # its two persons go with it
    assert source.persons["annotation_id"].tolist() == [2, 4]
    assert [source.file_name(i) for i in range(2)] == ["a.jpg", "c.jpg"]


def test_an_image_that_ends_early_is_found_when_preparing(tmp_path):
    """Its header is whole: `read` takes it, preparing does not, as for COCO."""
    path = write(tmp_path / "mpii") / "images" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        prepare(tmp_path / "mpii", tmp_path / "data")
    source = prepare(tmp_path / "mpii", tmp_path / "data", on_bad="skip")
    assert source.skipped == {"image not readable": 1} and source.persons["annotation_id"].tolist() == [1, 3, 4]


def test_a_test_set_without_joints(tmp_path, caplog):
    data = [{key: e[key] for key in ("image", "center", "scale")} for e in content()]
    source = mpii.read(*mpii.find(write(tmp_path, data), "valid"))
    assert len(source) == 0 and len(source.image(0)["persons"]) == 2
    assert "none of its 4 entries has joints" in caplog.text


def test_skeleton_and_category(folder, tmp_path):
    files = mpii.find(folder, "valid")
    other = dataclasses.replace(MPII16, sigmas=(0.1,) * 16)
    assert mpii.read(*files, skeleton=other, category="person").skeleton == other
    with pytest.raises(ValueError, match="skeleton given .*'coco17'.*this file's category"):
        mpii.read(*files, skeleton=COCO17)
    with pytest.raises(ValueError, match="category 'dog'.*persons only"):
        mpii.read(*files, category="dog")
    first = prepare(folder, tmp_path)
    assert prepare(folder, tmp_path, skeleton=MPII16).directory == first.directory
    assert prepare(folder, tmp_path, skeleton=other).skeleton == other


def test_prepare_on_the_command_line(folder, tmp_path, capsys):
    command = ["prepare", str(folder), "--split", "valid", "--data-dir", str(tmp_path)]
    with pytest.raises(SystemExit, match="no annotations for split 'valid'"):
        cli.main(command)
    cli.main([*command, "--format", "mpii"])
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert said["persons"] == 4 and said["joints"] == 16 and said["skipped"] == 0
    assert not builder.open(tmp_path, "valid").clip_boxes


def test_a_set_prepared_in_one_format_is_not_opened_as_another(tmp_path):
    folder = tiny_coco.write(tmp_path / "people")
    files = {"annotations": folder / "annotations" / "train.json", "images": folder / "train"}
    builder.prepare(None, data_dir=tmp_path / "data", progress=False, **files)
    with pytest.raises(ValueError, match="not an MPII annotation file"):
        prepare(None, tmp_path / "data", split="train", **files)


def test_perfect_predictions_score_1(folder, tmp_path):
    """From the JSON over the crop to PCKh: the pixel that is subtracted is the pixel that is added."""
    source = prepare(folder, tmp_path)
    batch = crops.plan(source, range(4), size_wh=(256, 256))
    xy = geometry.apply_affine(geometry.invert_affine(batch["affine"]), batch["joints"])
    labels, where = (np.array([e[key] for e in content()]) for key in ("joints", "joints_vis"))
    truth = evaluation.Truth(joints=labels, where=where == 1, head_size=np.full(4, 10.0))
    curve = evaluation.pckh_curve(truth, xy, batch["annotation_id"])
    assert curve["mean"][0] < 1 and (curve["mean"][1:] == 1).all()  # within a tenth of a pixel
    shifted = evaluation.pckh_curve(truth, xy + (1, 0), batch["annotation_id"])["mean"]
    assert (shifted[:9] == 0).all() and shifted[12] == 1


def test_what_was_prepared_before_boxes_could_stay_whole_is_cocos(tmp_path):
    prepared = builder.prepare(tiny_coco.write(tmp_path / "people"), data_dir=tmp_path / "data", progress=False)
    assert prepared.clip_boxes
    path = prepared.directory / "source.json"
    facts = json.loads(path.read_text())
    assert facts.pop("clip_boxes") is True and facts.pop("digest") and facts.pop("checksums")
    path.write_text(json.dumps(facts))
    assert builder.open(tmp_path / "data", "train").clip_boxes


def test_real_sample(data_dir, tmp_path):
    folder = data_dir("sample_mpii")
    prepared = prepare(folder, tmp_path, split="test_mpii", verify=True)
    assert len(prepared) == 5 and len(prepared.images) == 5
    given = json.loads((folder / "test_mpii.json").read_text())
    batch = crops.plan(prepared, range(5), size_wh=(256, 256))
    for i, identifier in enumerate(batch["annotation_id"]):
        entry = given[identifier - 1]
        np.testing.assert_allclose(batch["affine"][i], hrnet_affine(entry["center"], entry["scale"]), atol=1e-3)
        x, y, w, h = batch["box"][i].astype(float)
        np.testing.assert_allclose(batch["affine"][i] @ (x + w / 2, y + h / 2, 1), (128, 128), atol=1e-3)
        labelled = batch["visibility"][i] > 0
        np.testing.assert_array_equal(labelled, np.array(entry["joints_vis"]) == 1)
        inside = batch["joints"][i][labelled]
        assert (inside > 0).all() and (inside < 255).all()  # the crop holds the person
    crop = crops.sample(prepared, 0, size_wh=(256, 256))["image"]
    assert crop.shape == (256, 256, 3) and crop.std() > 10
    with pytest.raises(ValueError, match=r"test_mpii_trb\.json is not an MPII.*COCO's format"):
        mpii.read(folder / "test_mpii_trb.json", folder)
