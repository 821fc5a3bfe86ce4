"""Which pictures to label next."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from jaxpose import suggest
from jaxpose.predict import media
from tests import tiny_run

RNG = np.random.default_rng(0)


def test_the_least_certain_comes_first_and_every_item_once():
    uncertainty, features = RNG.random(30), RNG.normal(size=(30, 4))
    order = suggest.choose(uncertainty, features, count=100)
    assert order[0] == uncertainty.argmax()
    assert sorted(order) == list(range(30))


def test_copies_of_one_frame_are_not_all_chosen():
    """Ten copies of the most uncertain frame and five others: four choices are four different frames."""
    features = np.concatenate([np.zeros((10, 2)), RNG.normal(size=(5, 2)) * 3 + 5])
    uncertainty = np.concatenate([np.full(10, 0.9), np.full(5, 0.5)])
    order = suggest.choose(uncertainty, features, count=4)
    assert (order < 10).sum() == 1


def test_of_equally_distant_items_the_less_certain_is_chosen():
    features = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert suggest.choose([0.9, 0.1, 0.5], features, count=2).tolist() == [0, 2]


def test_only_the_order_of_the_uncertainties_counts():
    uncertainty, features = RNG.random(20), RNG.normal(size=(20, 3))
    expected = suggest.choose(uncertainty, features, count=8)
    np.testing.assert_array_equal(suggest.choose(np.exp(9 * uncertainty), features, count=8), expected)


@pytest.mark.parametrize(
    ("uncertainty", "features", "count", "message"),
    [
        ([0.1], [[0.0], [1.0]], 1, "expected uncertainty"),
        ([np.nan], [[0.0]], 1, "must be finite"),
        ([0.1], [[0.0]], 0, "count=0"),
    ],
)
def test_bad_arguments(uncertainty, features, count, message):
    with pytest.raises(ValueError, match=message):
        suggest.choose(uncertainty, features, count=count)


def test_nothing_to_choose_from():
    assert suggest.choose([], np.zeros((0, 3)), count=5).tolist() == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run.write(tmp_path_factory.mktemp("run"), tiny_run.regression_task())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        Image.fromarray(RNG.integers(0, 255, (60, 50, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def test_the_list_of_a_folder(run, pictures, tmp_path, capsys):
    suggest.main(run, (str(pictures),), count=3, out=tmp_path / "next.json")
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "next.json").read_text())
    assert len(lines) == len(rows) == 3
    assert len({row["file"] for row in rows}) == 3
    assert rows[0]["uncertainty"] >= max(row["uncertainty"] for row in rows)
    assert all(row["file"] in line for row, line in zip(rows, lines, strict=True))


def test_pictures_without_a_box_are_left_out(run, pictures, tmp_path, capsys):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"file_name": "2.png", "bbox": [5, 5, 20, 30], "score": 1.0}]))
    suggest.main(run, (str(pictures),), boxes=boxes)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [str(pictures / "2.png")]
    boxes.write_text(json.dumps([{"file_name": "other.png", "bbox": [5, 5, 20, 30], "score": 1.0}]))
    with pytest.raises(ValueError, match="no person to look at"):
        suggest.main(run, (str(pictures),), boxes=boxes)


def test_boxes_of_another_category(run, pictures, tmp_path, capsys):
    boxes = tmp_path / "boxes.json"
    mice = [{"file_name": f"{i}.png", "bbox": [5, 5, 20, 30], "score": 0.2 + 0.5 * i, "category_id": 7} for i in (0, 1)]
    boxes.write_text(json.dumps(mice))
    with pytest.raises(ValueError, match=r"categories \['7'\], --category is 1"):
        suggest.main(run, (str(pictures),), boxes=boxes)
    suggest.main(run, (str(pictures),), boxes=boxes, category=7, min_box_score=0.5)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [str(pictures / "1.png")]


@pytest.mark.parametrize("name", ["0", "rtsp://camera/1"])
def test_cameras_and_streams_are_refused(run, name):
    with pytest.raises(ValueError, match=f"{name} is a camera or a stream"):
        suggest.main(run, (name,))


def test_a_video_is_known_by_its_content(run, tmp_path, capsys):
    with media.VideoWriter(tmp_path / "clip.mp4", size_wh=(48, 64), rate=5) as writer:
        for level in (0, 80, 160):
            writer.write(np.full((64, 48, 3), level, np.uint8))
    clip = (tmp_path / "clip.mp4").rename(tmp_path / "clip.dat")
    suggest.main(run, (str(clip),), every=2)
    assert sorted("frame 2" in line for line in capsys.readouterr().out.splitlines()) == [False, True]


def test_pictures_are_turned_as_those_of_the_training_were(tmp_path, monkeypatch, capsys):
    exif, shapes, features = Image.Exif(), [], suggest._features
    exif[0x0112] = 6
    Image.fromarray(RNG.integers(0, 255, (60, 50, 3), np.uint8)).save(tmp_path / "photo.jpg", exif=exif)
    monkeypatch.setattr(suggest, "_features", lambda image, poses: shapes.append(image.shape) or features(image, poses))
    for name in ("auto", "ignore"):
        suggest.main(
            tiny_run.write(tmp_path / name, tiny_run.regression_task(), run={"exif": name}),
            (str(tmp_path / "photo.jpg"),),
        )
    assert shapes == [(50, 60, 3), (60, 50, 3)] and capsys.readouterr().out.count("photo.jpg") == 2


def test_nets_of_whole_images_are_refused(tmp_path, pictures):
    run = tiny_run.write(tmp_path / "people", tiny_run.bottom_up_task())
    with pytest.raises(ValueError, match="net of whole images"):
        suggest.main(run, (str(pictures),))
    with pytest.raises(ValueError, match="--count 0"):
        suggest.main(run, (str(pictures),), count=0)
