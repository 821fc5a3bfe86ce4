"""`jaxpose predict`: pictures, videos and boxes in; overlays, results and tables out."""

from __future__ import annotations

import csv
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from jaxpose import cli, interchange, predict, trajectories
from jaxpose.predict import media
from jaxpose.skeleton import COCO17
from tests import tiny_coco, tiny_run
from tests.test_predict import weights


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


def test_whole_pictures_are_said_to_be_boxes(run, photos, tmp_path, caplog):
    flags = ["predict", str(run), str(photos / "grey.png"), "--out", str(tmp_path / "out"), "--no-overlay"]
    cli.main(flags)
    assert "this net was trained on boxes around one person each" in caplog.text
    for share, warned in ((0.23, True), (0.9, False)):
        caplog.clear()
        (run / "baselines.json").write_text(json.dumps({"box_share": share}))
        cli.main(flags)
        assert ("trained on boxes that span 23 % of the picture" in caplog.text) == warned
    (run / "baselines.json").unlink()


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
        ({"images": [], "annotations": [{"image_id": 1}]}, "not a COCO data set"),
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


def test_labelled_poses_tell_what_equal_sizes_do_not(run, tmp_path, capsys):
    """Of a picture that is stored upside down only the labels know whether they are of the stored or of the turned one."""
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path / "photo.jpg"
    Image.fromarray(tiny_coco.picture((120, 80))).save(path, exif=exif)
    predictor, box = predict.load(run), [[20, 10, 39, 49]]  # as the evaluation of COCO cleans a box of 40x50
    stored, turned = predictor(media.picture(path, upright=False), box), predictor(media.picture(path), box)
    assert np.abs(stored.xy - turned.xy).max() > 1e-3
    names = list(COCO17.joints)
    for bottom, expected in ((15, stored), (55, turned)):  # the ankle lies above the nose, or below it
        pose = {"nose": (30, 35, 2), "left_ankle": (30, bottom, 2)}
        person = {"image_id": 7, "bbox": [20, 10, 40, 50], "category_id": 1}
        truth = {
            "images": [{"id": 7, "file_name": "photo.jpg", "width": 120, "height": 80}],
            "annotations": [person | {"keypoints": [v for joint in names for v in pose.get(joint, (0, 0, 0))]}],
            "categories": [{"id": 1, "name": "person", "keypoints": names}],
        }
        command(capsys, run, path, "--boxes", boxes_file(tmp_path, truth), "--out", tmp_path / "o", "--no-overlay")
        (record,) = json.loads((tmp_path / "o" / "results.json").read_text())
        np.testing.assert_allclose(record["keypoints"][::3], expected.xy[0, :, 0], atol=2e-2)


def test_pictures_are_turned_as_those_of_the_training_were(tmp_path, capsys):
    run = tiny_run.write(tmp_path / "run", tiny_run.regression_task(), run={"exif": "ignore"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tiny_coco.picture((120, 80))).save(tmp_path / "photo.jpg", exif=exif)
    for flags, size in (([], (120, 80)), (["--exif", "auto"], (80, 120))):
        command(capsys, run, tmp_path / "photo.jpg", "--out", tmp_path / "o", "--no-overlay", *flags)
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


def test_trajectories_of_a_video_and_of_a_folder_of_frames(run, tmp_path, capsys):
    frames = [np.roll(tiny_coco.picture((64, 48)), 3 * i, 1) for i in range(4)]
    with media.VideoWriter(tmp_path / "walk.mp4", size_wh=(64, 48), rate=20) as writer:
        for frame in frames:
            writer.write(frame)
    for i, frame in enumerate(frames):
        media.save_picture(frame, tmp_path / "walk" / f"img{i:03}.png")
    boxes = [{"file_name": "walk.mp4", "frame": i, "bbox": [8, 4, 24, 40]} for i in (0, 0, 1, 3)]
    boxes += [{"file_name": f"img{i:03}.png", "bbox": [8, 4, 24, 40]} for i in range(4)]
    said = command(
        capsys, run, tmp_path / "walk.mp4", tmp_path / "walk", "--out", tmp_path / "o", "--no-overlay", "--fps", "10",
        "--within", "7", "--boxes", boxes_file(tmp_path, boxes), "--formats", "npz", "dlc",
    )  # fmt: skip
    assert [path.rsplit("/", 1)[1] for path in said["trajectories"]] == [
        "walk_poses.npz", "walk_poses_dlc.csv", "walk_poses_2.npz", "walk_poses_2_dlc.csv",
    ]  # fmt: skip
    folder, video = (trajectories.read(tmp_path / "o" / f"walk_poses{extra}.npz") for extra in ("", "_2"))
    assert video.mean.shape == (4, 2, 17, 2) and video.present.sum(1).tolist() == [2, 1, 0, 1]
    assert folder.mean.shape == (4, 1, 17, 2) and folder.present.all()
    assert (folder.fps, video.fps, folder.radius, video.size_wh) == (10.0, pytest.approx(20), 7.0, (64, 48))
    with open(tmp_path / "o" / "poses.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].endswith("img002.png")]
    table = np.array([[float(row[name]) for name in ("x", "y", "deviation_x", "deviation_y")] for row in rows])
    np.testing.assert_allclose(folder.mean[2, 0], table[:, :2], atol=1e-3)
    deviation = np.sqrt(np.diagonal(folder.covariance[2, 0], axis1=-2, axis2=-1))
    np.testing.assert_allclose(deviation, table[:, 2:], atol=1e-3)
    assert 0 < folder.score.min() < folder.score.max() < 1
    read = interchange.read_dlc(tmp_path / "o" / "walk_poses_2_dlc.csv", fps=20.0, size_wh=(64, 48))
    np.testing.assert_allclose(read.mean, video.mean, atol=1e-4)
    np.testing.assert_allclose(read.score, video.score, atol=1e-4)
