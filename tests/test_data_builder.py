import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxpose.data import builder, coco
from jaxpose.skeleton import COCO17
from tests import tiny_coco


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("people"), tiny_coco.content(12))


@pytest.fixture
def own_folder(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "people")


def prepare(folder, data_dir, **options):
    return builder.prepare(folder, data_dir=data_dir, progress=False, **options)


def assert_same_records(a, b):
    for level in ("person", "image"):
        a, b = a.at_level(level), b.at_level(level)
        assert len(a) == len(b)
        for i in range(len(a)):
            for (key, left), right in zip(a.record(i).items(), b.record(i).values(), strict=True):
                np.testing.assert_array_equal(left, right, err_msg=key) if key != "segmentations" else None
                assert key != "segmentations" or left == right


def test_prepared_records_are_those_of_the_folder(folder, tmp_path):
    source = prepare(folder, tmp_path)
    direct = coco.read(*coco.find(folder, "train"))
    assert len(source) == 24 and source.skeleton == COCO17 and source.category_id == 1
    assert_same_records(source, direct)
    for table in ("persons", "images"):
        np.testing.assert_array_equal(getattr(source, table), getattr(direct, table))
        assert isinstance(getattr(source, table), np.memmap)  # memory does not grow with the data
    assert source.ground_truth() == json.loads(json.dumps(direct.ground_truth()))
    assert source.jpeg(5) == (folder / "train" / "000005.jpg").read_bytes() == direct.jpeg(5)
    assert_same_records(builder.open(tmp_path, "train"), direct)
    assert builder.open(tmp_path, "train", level="image").level == "image"


def test_others_can_read_it_with_tfds_alone(folder, tmp_path):
    prepared = prepare(folder, tmp_path, num_shards=3)
    assert len(list(prepared.directory.glob("*.array_record-*"))) == 3
    records = tfds.builder_from_directory(prepared.directory).as_data_source("train")
    assert len(records) == 12 and records[4]["image"].shape == (99, 101, 3)
    assert_same_records(prepared, coco.read(*coco.find(folder, "train")))


def test_order_is_kept_when_tfds_sorts_on_disk(folder, tmp_path, monkeypatch):
    """What it does above a gigabyte: bucket by bucket, so the records have to be spread over the buckets."""
    pytest.importorskip("tensorflow")
    from tensorflow_datasets.core import shuffle

    buckets = set()
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 5000)
    add = shuffle._Bucket.add
    monkeypatch.setattr(shuffle._Bucket, "add", lambda self, *record: buckets.add(self._path) or add(self, *record))
    assert_same_records(prepare(folder, tmp_path), coco.read(*coco.find(folder, "train")))
    assert len(buckets) == 12


def test_reading_from_threads(folder, tmp_path):
    source = prepare(folder, tmp_path)
    expected = [source.jpeg(i) for i in range(12)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.jpeg, list(range(12)) * 20)) == expected * 20


def stamp(source):
    return (source.directory / "source.json").stat().st_mtime_ns


def test_prepared_once_and_again_when_the_source_changed(own_folder, tmp_path, caplog):
    data_dir = tmp_path / "data"
    first = stamp(prepare(own_folder, data_dir))
    assert stamp(prepare(own_folder, data_dir)) == first
    data = json.loads((own_folder / "annotations" / "train.json").read_text())
    data["annotations"] = data["annotations"][1:]
    tiny_coco.write(own_folder, data)
    source = prepare(own_folder, data_dir)
    assert len(source) == 23 and stamp(source) > first
    assert "people-train is prepared again: the annotation JSON changed\n" in caplog.text
    again = stamp(source)
    assert stamp(prepare(own_folder, data_dir, on_bad="skip")) > again  # another option: beside it
    assert stamp(prepare(own_folder, data_dir)) == again
    assert stamp(prepare(own_folder, data_dir, force=True)) > again
    names = sorted(p.name for p in source.directory.parent.iterdir())
    assert names == ["1.1.1", "1.1.2"]  # of what was there before the last one only is kept


def test_the_skeleton_of_the_file_is_no_other_option(own_folder, tmp_path):
    first = prepare(own_folder, tmp_path / "data")
    assert prepare(own_folder, tmp_path / "data", skeleton=COCO17).directory == first.directory
    other = dataclasses.replace(COCO17, sigmas=(0.1,) * 17)
    second = prepare(own_folder, tmp_path / "data", skeleton=other)
    assert second.directory != first.directory and second.skeleton == other
    assert prepare(own_folder, tmp_path / "data").directory == first.directory


def test_a_source_of_the_same_name_stays_whole(folder, tmp_path):
    """/a/people and /b/people, prepared into the same place; opened, but no record read before."""
    one = shutil.copytree(folder, tmp_path / "a" / "people")
    two = tiny_coco.write(tmp_path / "b" / "people", tiny_coco.content(12, seed=1))
    for i in range(12):
        size = tiny_coco.KINDS[i % 5]["size"]
        (two / "train" / f"{i:06d}.jpg").write_bytes(tiny_coco.jpeg(tiny_coco.picture(size, seed=50 + i)))
    first = prepare(one, tmp_path / "data")
    second = prepare(two, tmp_path / "data")
    assert first.directory != second.directory and first.name == second.name == "people-train"
    assert_same_records(first, coco.read(*coco.find(one, "train")))
    assert_same_records(second, coco.read(*coco.find(two, "train")))
    with pytest.raises(ValueError, match="several data sets with a split 'train'"):
        builder.open(tmp_path / "data", "train", name="people")
    assert builder.open(tmp_path / "data", "train", name=second.directory.parent.name).jpeg(0) == second.jpeg(0)


def test_an_open_source_outlives_a_preparation(own_folder, tmp_path):
    """It reads what it was opened on; after one more it finds its files gone, and never those of another."""
    expected = coco.read(*coco.find(own_folder, "train"))
    held = prepare(own_folder, tmp_path / "data")
    pictures = [expected.jpeg(i) for i in range(12)]
    for i in range(12):
        size = tiny_coco.KINDS[i % 5]["size"]
        (own_folder / "train" / f"{i:06d}.jpg").write_bytes(tiny_coco.jpeg(tiny_coco.picture(size, seed=50 + i)))
    prepare(own_folder, tmp_path / "data", force=True)
    unread = builder.PreparedSource(held.directory)
    assert [held.jpeg(i) for i in range(12)] == pictures
    assert held.ground_truth() == json.loads(json.dumps(expected.ground_truth()))
    prepare(own_folder, tmp_path / "data", force=True)
    with pytest.raises(Exception, match="No such file|not found|not exist|open"):
        unread.jpeg(0)


def test_what_was_skipped_is_looked_at_again(own_folder, tmp_path, caplog):
    path, data_dir = own_folder / "train" / "000003.jpg", tmp_path / "data"
    whole = path.read_bytes()
    path.write_bytes(b"<html>")
    first = prepare(own_folder, data_dir, on_bad="skip")
    assert len(first) == 22
    caplog.clear()
    assert stamp(prepare(own_folder, data_dir, on_bad="skip")) == stamp(first)
    assert "people-train: left out 1 (image not readable) when it was prepared" in caplog.text
    caplog.clear()
    builder.open(data_dir, "train")
    assert "left out 1 (image not readable)" in caplog.text
    path.write_bytes(whole)
    assert len(prepare(own_folder, data_dir, on_bad="skip")) == 24
    assert "prepared again: something was left out and the image files changed" in caplog.text
    caplog.clear()
    os.utime(path)  # with nothing left out, times do not matter
    prepare(own_folder, data_dir, on_bad="skip")
    assert not caplog.text


def test_several_data_sets_in_one_place(own_folder, tmp_path):
    data_dir = tmp_path / "data"
    with pytest.raises(FileNotFoundError, match="no prepared data set.*there is none; prepare it first"):
        builder.open(data_dir, "train")
    prepare(own_folder, data_dir)
    tiny_coco.write(own_folder, tiny_coco.content(3), split="val")
    assert len(prepare(own_folder, data_dir, split="val").images) == 3
    assert len(builder.open(data_dir, "train").images) == 12
    with pytest.raises(FileNotFoundError, match=r"there is people-train-\w{8}, people-val-\w{8};"):
        builder.open(data_dir, "test")
    prepare(own_folder, data_dir, name="others")
    with pytest.raises(ValueError, match=r"several data sets.*\['others-train-\w{8}', 'people-train-\w{8}'\].*name="):
        builder.open(data_dir, "train")
    assert builder.open(data_dir, "train", name="others").name == "others-train"


def test_explicit_files(folder, tmp_path):
    files = {"annotations": folder / "annotations" / "train.json", "images": folder / "train"}
    assert len(prepare(None, tmp_path, **files)) == 24
    with pytest.raises(ValueError, match="give the folder"):
        prepare(None, tmp_path, images=files["images"])
    with pytest.raises(FileNotFoundError, match=r"absent\.json does not exist"):
        prepare(None, tmp_path, annotations=folder / "absent.json", images=folder / "train")


def test_only_annotated_images(own_folder, tmp_path):
    data = tiny_coco.content(4)
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != 103]
    tiny_coco.write(own_folder, data)
    source = prepare(own_folder, tmp_path / "data", only_annotated=True)
    assert source.images["image_id"].tolist() == [100, 106, 109] and len(source) == 6
    assert [source.record(i)["image_id"] for i in range(6)] == [100, 100, 106, 106, 109, 109]
    assert [image["id"] for image in source.ground_truth()["images"]] == [100, 106, 109]
    everything = prepare(own_folder, tmp_path / "data", name="all")
    assert len(everything.images) == 4
    assert_same_records(everything, coco.read(*coco.find(own_folder, "train")))  # one image has no persons


@pytest.mark.parametrize("kind", ["cut", "other size", "not an image", "damaged"])
def test_bad_image(own_folder, tmp_path, kind, caplog):
    path, data_dir = own_folder / "train" / "000003.jpg", tmp_path / "data"
    whole = path.read_bytes()
    contents = {
        "cut": whole[: len(whole) // 2],
        "other size": tiny_coco.jpeg(tiny_coco.picture((50, 50))),
        "not an image": b"<html>",
        "damaged": tiny_coco.damaged(whole),
    }
    path.write_bytes(contents[kind])
    with pytest.raises(ValueError, match=r"000003\.jpg.*on_bad='skip'"):
        prepare(own_folder, data_dir, verify=True)
    with pytest.raises(FileNotFoundError):
        builder.open(data_dir, "train")
    source = prepare(own_folder, data_dir, verify=True, on_bad="skip")
    assert len(source.images) == 11 and len(source) == 22 and source.skipped == {"image not readable": 1}
    assert "left out 1" in caplog.text and "000003.jpg" in caplog.text
    assert 109 not in [image["id"] for image in source.ground_truth()["images"]]
    kept = [i for i in range(24) if i not in (6, 7)]
    path.write_bytes(whole)
    direct = coco.read(*coco.find(own_folder, "train"))
    for i, j in enumerate(kept):  # the persons still point at their images
        assert source.record(i)["jpeg"] == direct.record(j)["jpeg"]
        assert source.record(i)["annotation_id"] == direct.record(j)["annotation_id"]


def test_a_killed_preparation_is_never_read(own_folder, tmp_path):
    """SIGKILL amid the images; then the same call again, without TensorFlow in the process."""
    program = """
        import sys, time
        from jaxpose.data import builder, coco
        folder, data_dir, slow = sys.argv[1:]
        def load(*args, read=coco.load_jpeg, **options):
            if slow == "slow":
                print("reading", flush=True, file=sys.__stdout__)
                time.sleep(0.5)
            return read(*args, **options)
        coco.load_jpeg = load
        source = builder.prepare(folder, data_dir=data_dir, progress=False)
        source.record(0), source.at_level("image").record(1), source.ground_truth()
        from jaxpose.data import pipeline
        pipeline.sample(source, 0, size_wh=(48, 64), augment="official")
        print(len(source), "tensorflow" in sys.modules)
    """
    data_dir = tmp_path / "data"
    command = [sys.executable, "-c", textwrap.dedent(program), str(own_folder), str(data_dir)]
    killed = subprocess.Popen([*command, "slow"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "reading\n" and killed.stdout.readline() == "reading\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    left = list(data_dir.rglob("incomplete.*"))
    assert left and not list(data_dir.rglob(f"*/{builder.VERSION}"))
    with pytest.raises(FileNotFoundError, match="no prepared data set"):
        builder.open(data_dir, "train")
    done = subprocess.run([*command, "fast"], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "24 False\n"
    assert not list(data_dir.rglob("incomplete.*"))
    assert_same_records(builder.open(data_dir, "train"), coco.read(*coco.find(own_folder, "train")))


def test_half_a_data_set_is_not_opened(folder, tmp_path):
    source = prepare(folder, tmp_path)
    (source.directory / "persons.npy").unlink()
    with pytest.raises(FileNotFoundError, match="no prepared data set"):
        builder.open(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="no completely prepared data set"):
        builder.PreparedSource(source.directory)
    assert len(prepare(folder, tmp_path)) == 24


def test_a_second_process_waits(folder, tmp_path):
    import fcntl
    import threading

    name = prepare(folder, tmp_path).directory.parent.name
    shutil.rmtree(tmp_path / builder.CocoKeypoints.name)
    with (tmp_path / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = []
        thread = threading.Thread(target=lambda: done.append(prepare(folder, tmp_path)))
        thread.start()
        time.sleep(0.5)
        assert not done
        fcntl.flock(lock, fcntl.LOCK_UN)
        thread.join(timeout=30)
    assert len(done[0]) == 24


def test_quiet_but_for_the_bar(folder, tmp_path, capfd):
    prepare(folder, tmp_path)
    assert capfd.readouterr() == ("", "")
    builder.prepare(folder, data_dir=tmp_path, force=True)
    out, bar = capfd.readouterr()
    assert out == "" and "12/12" in bar and "image/s" in bar


@pytest.mark.parametrize(
    ("name", "split", "persons"), [("coco_mini", "train", 68), ("coco_mini", "val", 44), ("openfield", "train", 93)]
)
def test_real_data(data_dir, tmp_path, name, split, persons):
    source = prepare(data_dir(name), tmp_path, split=split, verify=True)
    assert len(source) == persons
    assert_same_records(source, coco.read(*coco.find(data_dir(name), split)))
    assert os.path.getsize(source.ground_truth_json) <= os.path.getsize(coco.find(data_dir(name), split)[0])
