"""`jaxpose new`: how a labelled set is split, and what the command says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxpose import new
from jaxpose.data.formats import coco


def write_set(folder: Path, names: list[str], *, place: str = "labels.json", images: str = ".") -> Path:
    """A COCO-format JSON of one labelled picture for each name."""
    for name in names:
        path = folder / images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path)
    content = {
        "images": [{"id": i, "file_name": name, "width": 8, "height": 8} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 8, 8], "keypoints": [3, 3, 2], "num_keypoints": 1}
            for i in range(len(names))
        ],
        "categories": [{"id": 1, "name": "dot", "keypoints": ["dot"], "skeleton": []}],
    }
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_text(json.dumps(content))
    return folder / place


@pytest.mark.parametrize("images", [".", "images", "labels"])
def test_one_file_is_split_and_can_be_read(tmp_path, images):
    write_set(tmp_path / "set", [f"{i:04d}.png" for i in range(10)], images=images)
    folder, message = new.with_splits(tmp_path / "set", tmp_path / "run" / "data", share=0.2, seed=0)
    assert message == "8 pictures to train on, 2 held out by picture (no videos are told apart by the names)"
    parts = {split: coco.read(*coco.find(folder, split)) for split in ("train", "val")}
    assert len(parts["train"]) == 8 and len(parts["val"]) == 2
    names = [{part.file_name(i) for i in range(len(part))} for part in parts.values()]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 10
    again, _ = new.with_splits(tmp_path / "set", tmp_path / "run" / "data", share=0.2, seed=0)  # over what is there
    assert (again / "annotations" / "val.json").read_text() == (folder / "annotations" / "val.json").read_text()


def test_a_split_folder_is_taken_as_it_is(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        write_set(tmp_path, [f"{i}.png" for i in range(count)], place=f"annotations/{split}.json", images=split)
    folder, message = new.with_splits(tmp_path, tmp_path / "data", share=0.2, seed=0)
    assert folder == tmp_path and "4 pictures to train on, 2 held out" in message


def test_a_video_is_never_parted():
    names = [f"day{d}_cam{c}_frame{i:05d}.jpg" for d in range(3) for c in range(2) for i in range(12)]
    for seed in range(5):
        held_out, how = new.choose_held_out(names, share=0.2, seed=seed)
        videos = {name.rpartition("_")[0] for name in held_out}
        assert how.startswith("by video (6 ")
        assert len(held_out) == 12 * len(videos) and 12 <= len(held_out) <= 24


def test_a_video_that_is_too_large_is_not_held_out():
    """One clip with most of the frames; and clips that are all larger than the share, of which the shortest is taken."""
    for sizes, largest in (((80, 10, 10), 20), ((40, 50, 60), 40)):
        names = [f"clip{chr(97 + v)}_frame{i:05d}.jpg" for v, size in enumerate(sizes) for i in range(size)]
        for seed in range(6):
            held_out, how = new.choose_held_out(names, share=0.2, seed=seed)
            assert 10 <= len(held_out) <= largest and how.startswith("by video (3 ")


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:012d}.jpg" for i in range(9)],
        [f"img{i}.jpg" for i in range(9)],
        [f"person{chr(97 + i)}.jpg" for i in range(9)],
    ],
)
def test_names_that_tell_no_videos_are_split_by_picture(names):
    held_out, how = new.choose_held_out(names, share=0.3, seed=1)
    assert len(held_out) == 3 and how.startswith("by picture")


def test_two_pictures_are_enough_and_one_is_not(tmp_path):
    path = write_set(tmp_path / "a", ["1.png", "2.png"])
    assert new.with_splits(path, tmp_path / "a_data", share=0.2, seed=0)[1].startswith(
        "1 pictures to train on, 1 held out"
    )
    path = write_set(tmp_path / "b", ["1.png"])
    with pytest.raises(ValueError, match="has 1 labelled pictures"):
        new.with_splits(path, tmp_path / "b_data", share=0.2, seed=0)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: give a folder"):
        new.with_splits(tmp_path / "no", tmp_path / "data", share=0.2, seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no JSON"):
        new.with_splits(tmp_path / "empty", tmp_path / "data", share=0.2, seed=0)
    path = write_set(tmp_path / "set", ["1.png", "2.png"])
    path.with_name("other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds labels.json, other.json: name one of them"):
        new.with_splits(tmp_path / "set", tmp_path / "data", share=0.2, seed=0)
    (tmp_path / "set" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match="names 1.png, which is in none of"):
        new.with_splits(path, tmp_path / "data", share=0.2, seed=0)
    path.write_text("[]")
    with pytest.raises(ValueError, match="not a COCO-format annotation file"):
        new.with_splits(path, tmp_path / "data", share=0.2, seed=0)


def test_the_command_trains_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    path = write_set(tmp_path / "set", [f"{i}.png" for i in range(5)])
    calls = []

    class Done:
        returncode = 0

    monkeypatch.setattr(new.subprocess, "run", lambda command: calls.append(command) or Done())
    new.main("dots", data=path, out=tmp_path / "run", minutes=2)
    words = calls[0]
    assert words[1:5] == ["-m", "experiments.coco_rle", "--preset", "auto"]
    assert (
        words[words.index("--data") + 1] == str(tmp_path / "run" / "data")
        and words[words.index("--minutes") + 1] == "2"
    )
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("4 pictures to train on, 1 held out", "jaxpose predict", "jaxpose suggest", "--init")
    )
    Done.returncode = 75
    with pytest.raises(SystemExit, match="75"):
        new.main("dots", data=path, out=tmp_path / "run")
    with pytest.raises(ValueError, match="--minutes 0"):
        new.main("dots", data=path, minutes=0)


@pytest.mark.parametrize(("share", "boxes"), [(None, True), (0.3, True), (0.9, False)])
def test_prediction_is_said_to_need_boxes_where_it_does(tmp_path, share, boxes):
    if share is not None:
        (tmp_path / "baselines.json").write_text(json.dumps({"box_share": share}))
    assert ("PICTURES/ --boxes BOXES.json" in new.next_steps(tmp_path, tmp_path / "data")) == boxes
