"""Pictures -> poses: the geometry of the evaluation, batches, uncertainty, bad input, and the command."""

from __future__ import annotations

import csv
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from pycocotools.coco import COCO

from jaxpose import cli, density, geometry, predict, tasks
from jaxpose.data import crops
from jaxpose.data.formats import coco
from jaxpose.data.pixels import warped
from jaxpose.predict import media
from jaxpose.skeleton import COCO17, Skeleton
from tests import tiny_coco, tiny_run

SIZE_WH = (24, 32)


class Echo(nn.Module):
    """Coordinates and sigma read off the means of twelve parts of the crop: every pixel counts, and it compiles at once."""

    @nn.compact
    def __call__(self, images, *, train=False):
        parts = images.reshape(len(images), 4, 8, 3, 8, 3).mean((2, 4)).reshape(len(images), -1)
        x = nn.Dense(17 * 4, kernel_init=nn.initializers.normal(0.05))(parts)
        mu, raw = jnp.split(x.reshape(-1, 17, 4), 2, -1)
        return mu, nn.sigmoid(raw - 1)


def echo(loss="rle", **options) -> predict.Predictor:
    task = tasks.regression(Echo(), skeleton=COCO17, size_wh=SIZE_WH, likelihood=tasks.Likelihood(loss))
    return predict.Predictor(task, weights(task), {"task": task.config}, **options)


def weights(task: tasks.Task, factor: float = 1.0):
    return jax.tree.map(lambda x: x * factor, task.init(jax.random.key(0)))


IMAGES = [tiny_coco.picture((97, 121)), tiny_coco.picture((160, 120), seed=1)]
BOXES = [[10, 20, 40, 60, 0.9], [-5, 30, 50, 40, 0.4], [30, 5, 300, 80, 0.7]]


@pytest.mark.parametrize("flip_test", [False, True])
def test_poses_are_those_of_the_evaluation(tmp_path, flip_test):
    folder = tiny_coco.write(tmp_path / "set")
    source = coco.read(*coco.find(folder, split="train"))
    predictor = echo(flip_test=flip_test)
    people = source.persons
    files = [folder / "train" / source.file_name(i) for i in people["image"]]
    sizes = source.images["size_wh"][people["image"]]
    poses = predictor(files, [[geometry.clip_box(p["box"], wh)] for p, wh in zip(people, sizes, strict=True)])
    assert len(poses) == len(source) == 10
    for i, found in enumerate(poses):
        sample = crops.sample(source, i, size_wh=SIZE_WH)
        batch = {"image": sample["image"][None]}
        expected = predictor.task.predict(weights(predictor.task), batch, flip_test=flip_test)
        xy = geometry.apply_affine(geometry.invert_affine(sample["affine"]), np.asarray(expected["xy"]))
        np.testing.assert_allclose(found.xy, xy, atol=0.02 * max(found.box[0, 2:]) / 24)
        np.testing.assert_allclose(found.confidence, expected["confidence"], atol=2e-3)
        assert found.score[0] == pytest.approx(1 + found.confidence.mean() + found.confidence.max())
        np.testing.assert_allclose(found.crop_area, sample["crop_area"], rtol=1e-5)


def test_a_batch_is_its_rows_whatever_its_size():
    alone = [echo(batch_size=1)(IMAGES[1], [box]) for box in BOXES]
    for size in (2, 3, 32):
        first, second, nobody, again = echo(batch_size=size)([*IMAGES, *IMAGES], [BOXES[:1], BOXES, [], BOXES[::-1]])
        assert [len(p) for p in (first, second, nobody, again)] == [1, 3, 0, 3]
        for row in range(3):
            np.testing.assert_allclose(second.xy[row], alone[row].xy[0], atol=1e-3)
            np.testing.assert_allclose(again.xy[::-1][row], alone[row].xy[0], atol=1e-3)
            np.testing.assert_allclose(second.sigma[row], alone[row].sigma[0], rtol=1e-4)
        np.testing.assert_array_equal(second.box_score, [0.9, 0.4, 0.7])
        assert nobody.xy.shape == (0, 17, 2) and nobody.deviation.shape == (0, 17, 2) and nobody.records(3) == []
        assert [c.shape[:2] for c in nobody.regions(0.5)] == [(0, 17)]
        assert np.abs(first.xy - alone[0].xy).max() > 0.1, "another picture, other poses"


def test_only_a_few_programs_are_compiled():
    predictor = echo(batch_size=4)
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        predictor(IMAGES[0], [BOXES[0]] * count)
    assert predictor._predict._cache_size() == 3  # of 1, 2 and 4


def test_the_pose_moves_with_the_picture():
    image = np.zeros((200, 220, 3), np.uint8)
    image[60:140, 70:150] = tiny_coco.picture((80, 80))
    moved = np.roll(image, (17, -23), (0, 1))
    predictor = echo()
    there, here = predictor(moved, [[65, 80, 40, 60]]), predictor(image, [[88, 63, 40, 60]])
    np.testing.assert_allclose(there.xy, here.xy + (-23, 17), atol=1e-3)
    np.testing.assert_allclose(there.deviation, here.deviation, rtol=1e-5)


def test_without_boxes_the_whole_picture_is_the_box():
    predictor = echo()
    whole, boxed = predictor(IMAGES[0]), predictor(IMAGES[0], [[0, 0, 97, 121]])
    np.testing.assert_array_equal(whole.xy, boxed.xy)
    assert len(whole) == 1 and whole.box.tolist() == [[0, 0, 97, 121]]


def test_the_deviation_and_the_regions_are_those_of_the_density_in_pixels():
    predictor = echo("gaussian")  # sigma is the deviation of a fraction of the crop; a region is an ellipse
    poses = predictor(IMAGES[0], BOXES[:1])
    model = predictor.density
    np.testing.assert_allclose(density.moments(model).standard_deviation, 1, atol=1e-3)
    crop_wh = geometry.fit_box(poses.box, aspect=24 / 32, padding=1.25)[0, 2:]
    pixels = np.array(BOXES[0][:4], float)
    crop = geometry.box_to_affine(pixels, SIZE_WH)
    image = warped(IMAGES[0], crop, SIZE_WH)
    outputs = predictor.task.predict(weights(predictor.task), {"image": image[None]}, flip_test=True)
    np.testing.assert_allclose(poses.deviation[0], outputs["sigma"][0] * crop_wh, rtol=2e-3)
    (curve,) = poses.regions(0.5)
    radius = np.linalg.norm((curve - poses.xy[:, :, None]) / poses.sigma[:, :, None], axis=-1)
    np.testing.assert_allclose(radius, np.sqrt(2 * np.log(2)), rtol=0.02)
    assert np.ptp(curve[0, 3, :, 0]) == pytest.approx(2 * 1.177 * poses.sigma[0, 3, 0], rel=0.02)
    assert curve.shape[:2] == (1, 17)


def test_a_net_without_a_density_says_so():
    poses = echo("l1")(IMAGES[0])
    assert poses.deviation is None and poses.confidence.tolist() == [[1.0] * 17]
    with pytest.raises(ValueError, match="no density"):
        poses.regions(0.5)


@pytest.mark.parametrize(
    "boxes, message",
    [
        ([1, 2, 3, 4], r"boxes of image 0 are \(4,\): expected \(P, 4\)"),
        ([[1, 2, 3]], r"are \(1, 3\)"),
        ([["a", 2, 3, 4]], "expected .P, 4."),
        ([[1, 2, 0, 4]], "positive width and height"),
        ([[1, 2, 30, -4]], "positive width and height"),
        ([[np.nan, 2, 3, 4]], "finite"),
        ([[1, 2, 3, 4, np.inf]], "finite"),
        ([[500, 2, 3, 4]], "outside the image of 97x121"),
        ([[-9, 2, 8, 4]], "outside the image"),
    ],
)
def test_bad_boxes(boxes, message):
    with pytest.raises(ValueError, match=message):
        echo()(IMAGES[0], boxes)


def test_other_bad_calls():
    with pytest.raises(ValueError, match="2 images and 1 entries of boxes"):
        echo()(IMAGES, [BOXES])
    with pytest.raises(ValueError, match="batch_size=-1"):
        echo(batch_size=-1)
    task = echo().task
    broken = predict.Predictor(task, weights(task, jnp.nan), {"task": task.config})
    with pytest.raises(ValueError, match="not finite.*damaged"):
        broken(IMAGES[0])
    assert echo()([], []) == []


# ------------------------------------------------------------------------------------------------- people found by the net

DOTS = Skeleton(
    name="dots", joints=("left_dot", "right_dot"), flip_pairs=((0, 1),), limbs=((0, 1),), sigmas=(0.1, 0.1), upper=()
)


class Dots(tasks.BottomUp):
    """Red is the heatmap of the left dot, green of the right one, blue the tag; two pixels make one of the map."""

    def predict(self, variables, batch, *, flip_test=True):
        images = batch["image"].astype(jnp.float32)
        coarse = images.reshape(len(images), images.shape[1] // 2, 2, images.shape[2] // 2, 2, 3).mean((2, 4)) / 255
        tag = jnp.broadcast_to(coarse[..., 2:] * 10, coarse[..., :2].shape)
        return {"heatmap": coarse[..., :2], "tag": tag[..., None]}


def dots_task() -> tasks.BottomUp:
    search = tasks.FindPeople(max_people=5, detection_threshold=0.3, refine=False)
    return Dots(None, skeleton=DOTS, size_wh=(64, 64), search=search)  # a net that nothing asks


def with_people(size_wh, people) -> np.ndarray:
    """A picture with two soft dots for each person, 20 pixels apart; blue tells people apart."""
    x, y = np.meshgrid(np.arange(size_wh[0]), np.arange(size_wh[1]))
    image = np.zeros((size_wh[1], size_wh[0], 3))
    for number, (px, py) in enumerate(people):
        for joint in (0, 1):
            near = (x - px - 20 * joint) ** 2 + (y - py) ** 2
            image[..., joint] = np.maximum(image[..., joint], 250 * np.exp(-near / 32))
            image[..., 2][near < 100] = 80 + 120 * number
    return image.astype(np.uint8)


def test_people_come_back_in_the_pixels_of_pictures_of_any_size():
    task = dots_task()
    predictor = predict.Predictor(task, {}, {"task": task.config}, flip_test=False, batch_size=2, test_size=128)
    sizes, people = (
        [(128, 128), (256, 192), (150, 260), (128, 128), (128, 128)],
        [[(30, 40), (80, 90)], [(60, 100), (180, 50)], [(40, 200)], [], [(90, 20)]],
    )
    poses = predictor([with_people(wh, there) for wh, there in zip(sizes, people, strict=True)])
    assert [len(p) for p in poses] == [2, 2, 1, 0, 1]
    for found, there, size in zip(poses, people, sizes, strict=True):
        found_xy = found.xy[np.argsort(found.xy[:, 0, 0])]
        for xy, (px, py) in zip(found_xy, sorted(there), strict=True):
            np.testing.assert_allclose(xy, [(px, py), (px + 20, py)], atol=1.5 * max(1, min(size) / 128))
        assert found.box is None and (np.diff(found.score) <= 0).all()
    with pytest.raises(ValueError, match="finds the people itself"):
        predictor(IMAGES[0], [BOXES[0]])


def test_a_checkpoint_of_whole_images_loads_and_flips_as_it_was_trained(tmp_path):
    task = tiny_run.bottom_up_task()
    for augment, flips in (("light", False), ("higher_hrnet", True)):
        predictor = predict.load(
            tiny_run.write(tmp_path / augment, task, run={"augment": augment, "flip_test": None}), test_size=64
        )
        assert predictor.finds_people and predictor.flip_test is flips
    (poses,) = predictor([np.zeros((80, 70, 3), np.uint8)])
    assert poses.xy.shape[1:] == (17, 2) and poses.deviation is None


# ------------------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run.write(tmp_path_factory.mktemp("run"), tiny_run.regression_task(), run={"rescore": "box*mean"})


@pytest.fixture
def photos(tmp_path):
    """Five kinds of pictures, and in another folder what is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rgb = Image.fromarray(tiny_coco.picture((60, 80)))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "000000000042.jpg", exif=exif)
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("RGBA").save(folder / "clear.png")
    Image.fromarray(np.asarray(rgb)[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    rgb.save(folder / "UPPER.JPG")
    (folder / "notes.txt").write_text("no picture")
    return folder


def command(capsys, *arguments) -> dict:
    cli.main(["predict", *map(str, arguments)])
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_a_folder_of_photographs(run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    said = command(capsys, run, photos, "--out", out, "--region", "0.5")
    assert said == {"pictures": 5, "people": 5, "failed": 0, "out": str(out)}
    assert sorted(p.name for p in out.glob("*_poses.jpg")) == sorted(
        f"{p.stem}_poses.jpg" for p in photos.iterdir() if p.suffix != ".txt"
    )
    truth = COCO(str(out / "images.json"))
    loaded = truth.loadRes(str(out / "results.json"))
    assert len(loaded.anns) == 5 and 42 in truth.imgs and len(truth.imgs) == 5
    assert truth.imgs[42]["width"] == 80 and truth.imgs[42]["height"] == 60, "turned"
    with open(out / "poses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 17 and rows[0]["joint"] == "nose" and float(rows[0]["deviation_x"]) > 0
    first = json.loads((out / "results.json").read_text())[0]
    mine = [r for r in rows if r["image_id"] == str(first["image_id"])]
    np.testing.assert_allclose([float(r["x"]) for r in mine], first["keypoints"][::3], atol=2e-3)
    poses = predict.load(run)(photos / "grey.png")
    of_grey = [r for r in json.loads((out / "results.json").read_text()) if r["file_name"].endswith("grey.png")]
    np.testing.assert_allclose(of_grey[0]["keypoints"][::3], poses.xy[0, :, 0], atol=2e-3)
    assert of_grey[0]["score"] == pytest.approx(poses.score[0], abs=1e-5) and poses.score[0] < 1, (
        "box*mean, as the run has it"
    )


def test_files_patterns_and_twice_the_same_name(run, photos, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "grey.png").write_bytes((photos / "grey.png").read_bytes())
    said = command(capsys, run, photos / "grey.png", photos / "*.png", tmp_path / "more" / "grey.png", "--out", tmp_path / "o",
                   "--draw-above", "0.9")  # fmt: skip
    assert said["pictures"] == 4
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert names == {
        "poses.csv",
        "results.json",
        "images.json",
        "grey_poses.jpg",
        "grey_2_poses.jpg",
        "clear_poses.jpg",
        "deep_poses.jpg",
    }


def test_bad_files_are_named_and_the_others_are_kept(run, photos, tmp_path, capsys):
    (photos / "text.jpg").write_text("not an image")
    (photos / "cut.jpg").write_bytes((photos / "UPPER.JPG").read_bytes()[:-200])
    Image.new("1", (20_000, 12_000)).save(photos / "huge.png")
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", str(run), str(photos), "--out", str(tmp_path / "o"), "--no-overlay"])
    message = str(stop.value)
    assert message.startswith("jaxpose: 3 problems with 8 inputs") and "text.jpg" in message and "huge.png" in message
    assert len(json.loads((tmp_path / "o" / "results.json").read_text())) == 5


@pytest.mark.parametrize("name", ["absent.jpg", "*.gif", "empty"])
def test_inputs_that_stand_for_nothing(run, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no such file, and no folder or pattern"):
        cli.main(["predict", str(run), str(tmp_path / name)])


def test_no_inputs_and_no_checkpoint(run, photos, tmp_path):
    with pytest.raises(SystemExit, match="no inputs"):
        cli.main(["predict", str(run)])
    with pytest.raises(SystemExit, match="absent does not exist"):
        cli.main(["predict", str(tmp_path / "absent"), str(photos)])
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        cli.main(["predict", str(photos), str(photos)])


def boxes_file(tmp_path, content):
    path = tmp_path / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_boxes_of_a_detector_by_name_by_stem_and_by_number(run, photos, tmp_path, capsys):
    box = {"bbox": [5, 5, 30, 50], "score": 0.8, "category_id": 1}
    entries = [
        box | {"image_id": 42},
        box | {"file_name": "grey.png"},
        box | {"image_id": "grey", "score": 0.5},
        box | {"image_id": 42, "score": 0.1},
        box | {"file_name": "deep.png", "category_id": 3},
        box | {"image_id": 999},
        {"file_name": str(photos / "UPPER.JPG"), "bbox": [1, 1, 20, 20]},
    ]
    path = boxes_file(tmp_path, entries)
    said = command(capsys, run, photos, "--boxes", path, "--out", tmp_path / "o")
    assert said["people"] == 3 and said["pictures"] == 5
    records = json.loads((tmp_path / "o" / "results.json").read_text())
    assert sorted(r["bbox_score"] for r in records) == [0.8, 0.8, 1.0], "the first name that has boxes counts"
    said = command(
        capsys, run, photos, "--boxes", path, "--out", tmp_path / "o", "--min-box-score", "0", "--category", "3"
    )
    assert said["people"] == 2


def test_boxes_and_ids_of_a_coco_data_set(run, tmp_path, capsys):
    folder = tiny_coco.write(tmp_path / "set")
    annotations = folder / "annotations" / "train.json"
    said = command(capsys, run, folder / "train", "--boxes", annotations, "--out", tmp_path / "o")
    data = json.loads(annotations.read_text())
    ids = {image["file_name"]: image["id"] for image in data["images"]}
    records = json.loads((tmp_path / "o" / "results.json").read_text())
    assert said["people"] == len(records) == sum(not a["iscrowd"] for a in data["annotations"])
    assert all(ids[r["file_name"].rsplit("/", 1)[1]] == r["image_id"] for r in records)
    COCO(str(annotations)).loadRes(str(tmp_path / "o" / "results.json"))


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not JSON"),
        ("3", "expected a list of boxes"),
        ({"images": []}, "expected a list of boxes"),
        ({"images": [], "annotations": [{"image_id": 1}]}, "no COCO data set"),
        ([3], "expected .*bbox"),
        ([{"image_id": 1}], "expected .*bbox"),
        ([{"image_id": 1, "bbox": [1, 2, 3]}], "expected x, y, w, h"),
        ([{"image_id": 1, "bbox": [1, 2, 3, "x"]}], "expected x, y, w, h"),
        ([{"image_id": [1], "bbox": [1, 2, 3, 4]}], "expected a name or number"),
        ([{"image_id": 1, "bbox": [-1e300, -1e300, 1e301, 1e301]}], "1,000,000 pixels at most"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 10**400]}], "1,000,000 pixels at most"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 7}], r"categories \['7'\], --category is 1"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.01}], "1 have a score below --min-box-score 0.3"),
    ],
)
def test_bad_box_files(run, photos, tmp_path, content, message):
    with pytest.raises(SystemExit, match=message):
        cli.main(
            [
                "predict",
                str(run),
                str(photos),
                "--boxes",
                str(boxes_file(tmp_path, content)),
                "--out",
                str(tmp_path / "o"),
            ]
        )


def test_a_box_outside_its_picture_is_named_and_the_others_count(run, photos, tmp_path):
    path = boxes_file(
        tmp_path, [{"file_name": "grey.png", "bbox": b} for b in ([500, 0, 9, 9], [5, 5, 0, 9], [5, 5, 30, 40])]
    )
    with pytest.raises(
        SystemExit, match=r"2 problems with 1 inputs.*box \[500.0, 0.0, 9.0, 9.0\] is empty or outside the 60x80"
    ):
        cli.main(["predict", str(run), str(photos / "grey.png"), "--boxes", str(path), "--out", str(tmp_path / "o")])
    assert len(json.loads((tmp_path / "o" / "results.json").read_text())) == 1


def test_a_video_of_a_hundred_frames(run, tmp_path, capsys):
    with media.VideoWriter(tmp_path / "walk.mp4", size_wh=(64, 48), rate=20) as writer:
        for i in range(100):
            writer.write(np.roll(tiny_coco.picture((64, 48)), i, 1))
    boxes = boxes_file(
        tmp_path, [{"file_name": "walk.mp4", "frame": i, "bbox": [8, 4, 24, 40]} for i in range(0, 100, 2)]
    )
    said = command(capsys, run, tmp_path / "walk.mp4", "--out", tmp_path / "o", "--boxes", boxes)
    assert said == {"pictures": 100, "people": 50, "failed": 0, "out": str(tmp_path / "o")}
    drawn = media.video(tmp_path / "o" / "walk_poses.mp4")
    assert len(list(drawn)) == 100 and drawn.rate == pytest.approx(20)
    records = json.loads((tmp_path / "o" / "results.json").read_text())
    assert [r["frame"] for r in records] == list(range(0, 100, 2)) and len({r["image_id"] for r in records}) == 50
    COCO(str(tmp_path / "o" / "images.json")).loadRes(str(tmp_path / "o" / "results.json"))

    cut = tmp_path / "cut.mp4"
    cut.write_bytes((tmp_path / "walk.mp4").read_bytes()[:2000])
    with pytest.raises(SystemExit, match="cut.mp4 cannot be read"):
        cli.main(["predict", str(run), str(cut), "--out", str(tmp_path / "o")])


def test_ids_of_a_data_set_win_over_numbers_in_names(run, tmp_path, capsys):
    for name in ("a/7.jpg", "a/5.jpg", "12.jpg", "foo.jpg"):
        (tmp_path / "im" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "im" / name).write_bytes(tiny_coco.jpeg(tiny_coco.picture((60, 80))))
    names = {"a/7.jpg": 5, "a/5.jpg": 7, "foo.jpg": 12}
    truth = {
        "images": [{"id": i, "file_name": name, "width": 60, "height": 80} for name, i in names.items()],
        "annotations": [{"image_id": i, "bbox": [5 + i, 5, 30, 40], "category_id": 1} for i in names.values()],
    }
    files = [tmp_path / "im" / "a", tmp_path / "im" / "12.jpg", tmp_path / "im" / "foo.jpg"]
    said = command(capsys, run, *files, "--boxes", boxes_file(tmp_path, truth), "--out", tmp_path / "o", "--no-overlay")
    assert said["people"] == 3
    images = json.loads((tmp_path / "o" / "images.json").read_text())["images"]
    found = {str(image["file_name"]).split("/im/")[1]: image["id"] for image in images}
    assert found == names | {"12.jpg": 1}
    for record in json.loads((tmp_path / "o" / "results.json").read_text()):
        assert record["box"][0] == 5 + record["image_id"], "each has the box of its own picture"


def test_boxes_of_a_data_set_are_of_the_stored_pixels(run, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tiny_coco.picture((120, 80))).save(tmp_path / "turned.jpg", exif=exif)
    truth = {
        "images": [{"id": 7, "file_name": "turned.jpg", "width": 120, "height": 80}],
        "annotations": [{"image_id": 7, "bbox": [85, 10, 30, 40], "category_id": 1}],
    }
    for boxes, size in ((["--boxes", boxes_file(tmp_path, truth)], (120, 80)), ([], (80, 120))):
        assert command(capsys, run, tmp_path / "turned.jpg", *boxes, "--out", tmp_path / "o")["people"] == 1
        (image,) = json.loads((tmp_path / "o" / "images.json").read_text())["images"]
        assert (image["width"], image["height"]) == size


def test_strange_metadata_and_names_and_inputs_in_the_output_folder(run, tmp_path, capsys):
    entries = struct.pack("<HHIi", 0x0100, 9, 1, -5) + struct.pack(
        "<HHII", 0x0112, 3, 1, 6
    )  # a width that is signed; turned
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    strange = tmp_path / b"caf\xe9.jpg".decode(errors="surrogateescape")
    Image.fromarray(tiny_coco.picture((60, 80))).save(strange, exif=exif)
    mine = tmp_path / "a_poses.jpg"
    for path in (tmp_path / "a.jpg", mine):
        path.write_bytes(tiny_coco.jpeg(tiny_coco.picture((60, 80))))
    before = mine.read_bytes()
    assert command(capsys, run, tmp_path, "--out", tmp_path)["pictures"] == 3
    assert mine.read_bytes() == before and (tmp_path / "a_2_poses.jpg").exists()
    assert (tmp_path / "poses.csv").read_bytes().count(b"caf\xe9.jpg") == 17
    assert media.picture(strange).shape == (60, 80, 3)


def test_a_run_that_does_nothing_keeps_the_results_of_the_one_before(run, photos, tmp_path, capsys):
    command(capsys, run, photos / "grey.png", "--out", tmp_path / "o")
    broken = tiny_run.write(tmp_path / "broken", task := tiny_run.regression_task(), variables=weights(task, jnp.nan))
    with pytest.raises(SystemExit, match="not finite"):
        cli.main(["predict", str(broken), str(photos / "grey.png"), "--out", str(tmp_path / "o")])
    assert len(json.loads((tmp_path / "o" / "results.json").read_text())) == 1
    assert not list((tmp_path / "o").glob(".*"))


def test_weights_without_their_flow_predict_without_a_density(tmp_path):
    task = tiny_run.regression_task()
    variables = task.init(jax.random.key(0))
    del variables["params"]["flow"]
    poses = predict.load(tiny_run.write(tmp_path, task, variables=variables))(IMAGES[0])
    assert poses.deviation is None and poses.xy.shape == (1, 17, 2)


@pytest.mark.parametrize("size", [0, 100, -64])
def test_sizes_of_whole_images_are_multiples_of_64(size):
    task = dots_task()
    with pytest.raises(ValueError, match="expected a multiple of 64"):
        predict.Predictor(task, {}, {"task": task.config}, flip_test=False, test_size=size)
