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

from jaxpose.data import builder
from jaxpose.data.formats import coco
from jaxpose.data.source import DamagedData
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
        from jaxpose.data import builder
        from jaxpose.data.formats import coco
        folder, data_dir, slow = sys.argv[1:]
        def load(*args, read=coco.load_jpeg, **options):
            if slow == "slow":
                print("reading", flush=True, file=sys.__stdout__)
                time.sleep(0.5)
            return read(*args, **options)
        coco.load_jpeg = load
        source = builder.prepare(folder, data_dir=data_dir, progress=False)
        source.record(0), source.at_level("image").record(1), source.ground_truth()
        from jaxpose.data import crops
        crops.sample(source, 0, size_wh=(48, 64), augment="official")
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


def test_another_folder_is_not_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a prepared data set"):
        builder.PreparedSource(tmp_path)


# ------------------------------------------------------------------------------------------------- damage and places


@pytest.fixture(scope="module")
def three_shards(folder, tmp_path_factory):
    return prepare(folder, tmp_path_factory.mktemp("sharded"), num_shards=3).directory


@pytest.fixture
def sharded(three_shards, tmp_path):
    """A copy to damage: the folder of its files."""
    shutil.copytree(three_shards.parents[2], tmp_path / "data")
    return tmp_path / "data" / three_shards.relative_to(three_shards.parents[2])


def shard_of(place, number=1):
    return sorted(place.glob("*.array_record-*"))[number]


def test_several_shards_are_one_data_set(folder, sharded):
    source = builder.open(sharded.parents[2], "train")
    assert len(list(sharded.glob("*.array_record-*"))) == 3
    assert_same_records(source, coco.read(*coco.find(folder, "train")))
    assert [source._shard(i) for i in (0, 3, 4, 7, 8, 11)] == [shard_of(sharded, i) for i in (0, 0, 1, 1, 2, 2)]


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def flipped(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


DAMAGES = {
    "a shard missing": ("*-00001-of-00003", lambda path: path.unlink(), "it is missing"),
    "a shard empty": ("*-00001-of-00003", lambda path: cut(path, 0), "at least 64KB"),
    "a shard cut off": ("*-00001-of-00003", lambda path: cut(path, 70_000), "mismatch"),
    "the end of a shard changed": ("*-00001-of-00003", lambda path: flipped(path, 2**16 + 70), "mismatch"),
    "a shard of zeros": ("*-00001-of-00003", lambda path: path.write_bytes(bytes(2**17)), "mismatch"),
    "another shard": (
        "*-00001-of-00003",
        lambda path: shutil.copy(shard_of(path.parent, 0), path),
        "record . is image 1.., not 1..",
    ),
    "dataset_info.json": ("dataset_info.json", lambda path: cut(path, 100), "cannot be read"),
    "source.json": ("source.json", lambda path: cut(path, 300), "not a JSON file"),
    "source.json without": ("source.json", lambda path: path.write_text("{}"), "it has no"),
    "source.json a number": ("source.json", lambda path: path.write_text("3"), "it has no"),
    "source.json of another": (
        "source.json",
        lambda path: path.write_text(path.read_text().replace('"nose"', '"nase"')),
        "digest",
    ),
} | {
    f"{name} {kind}": (name, damage, "its checksum is not that of the preparation")
    for name in ("persons.npy", "images.npy", "ground_truth.json")
    for kind, damage in {
        "cut off": lambda path: cut(path, path.stat().st_size // 2),
        "empty": lambda path: cut(path, 0),
        "changed": lambda path: flipped(path, path.stat().st_size - 3),
    }.items()
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_the_file_and_what_to_do(folder, sharded, damage):
    name, change, reason = DAMAGES[damage]
    (path,) = sharded.glob(name)
    change(path)
    data_dir, message = sharded.parents[2], rf"{path.name} is damaged \(.*{reason}.*remove the folder {sharded.parent} "
    late = damage == "another shard"  # seen by who reads the record
    for opened in (lambda: builder.open(data_dir, "train"), lambda: prepare(folder, data_dir)):
        with pytest.raises(DamagedData, match=message):
            source = opened()
            assert late
            source.at_level("image").record(5)
    assert len(prepare(folder, data_dir, force=True)) == 24  # needs nothing removed


@pytest.mark.parametrize("name", builder.FILES)
def test_no_older_version_is_taken_for_a_newer_one_that_lacks_a_file(own_folder, tmp_path, name):
    before = prepare(own_folder, tmp_path)
    after = prepare(own_folder, tmp_path, force=True)
    assert before.directory != after.directory and before.directory.exists()
    (after.directory / name).unlink()
    for opened in (lambda: builder.open(tmp_path, "train"), lambda: prepare(own_folder, tmp_path)):
        with pytest.raises(DamagedData, match=rf"{after.directory.name}/{name} is damaged \(it is missing\)"):
            opened()
    assert len(prepare(own_folder, tmp_path, force=True)) == 24


def test_a_damaged_copy_names_no_folder_above_it(sharded, tmp_path):
    copy = shutil.copytree(sharded, tmp_path / "elsewhere")
    cut(copy / "persons.npy", 100)
    with pytest.raises(DamagedData, match=rf"remove the folder {copy} and"):
        builder.PreparedSource(copy)


def test_no_changed_byte_of_source_json_is_believed(sharded):
    path = sharded / "source.json"
    text, facts = path.read_bytes(), json.loads(path.read_text())
    for place in range(0, len(text), 7):
        for bit in (0x01, 0x40):
            path.write_bytes(text[:place] + bytes([text[place] ^ bit]) + text[place + 1 :])
            try:
                builder.PreparedSource(sharded)
                assert json.loads(path.read_bytes()) == facts, "a space for a space"
            except DamagedData as error:
                assert "source.json is damaged" in str(error)


@pytest.mark.parametrize("changes", [{"skeleton": 3}, {"skipped": 3}, {"split": 3}, {"skeleton": {}}], ids=str)
def test_facts_from_before_there_was_a_digest_are_looked_at(sharded, changes):
    facts = json.loads((sharded / "source.json").read_text()) | changes
    del facts["digest"], facts["checksums"]
    (sharded / "source.json").write_text(json.dumps(facts))
    with pytest.raises(DamagedData, match="is damaged"):
        builder.PreparedSource(sharded)


def test_a_changed_features_json_changes_no_record(sharded):
    expected, path = builder.PreparedSource(sharded).at_level("image").record(5), sharded / "features.json"
    text = path.read_bytes()
    for place in range(3, len(text), 29):
        flipped(path, place)
        try:
            found = builder.PreparedSource(sharded).at_level("image").record(5)
            assert found["jpeg"] == expected["jpeg"] and (found["persons"] == expected["persons"]).all()
        except DamagedData as error:
            assert "features.json" in str(error)
        path.write_bytes(text)


def test_tables_from_before_there_were_checksums_are_looked_at(folder, sharded):
    facts = json.loads((sharded / "source.json").read_text())
    assert set(facts.pop("checksums")) == {"persons.npy", "images.npy", "ground_truth.json"} and facts.pop("digest")
    (sharded / "source.json").write_text(json.dumps(facts))
    assert len(builder.open(sharded.parents[2], "train")) == 24
    images = np.load(sharded / "images.npy")
    for content, reason in ((images[:-1], "lists 11 images, the shards 12"), (None, "it is not a table")):
        np.save(sharded / "images.npy", content) if content is not None else cut(sharded / "images.npy", 90)
        with pytest.raises(DamagedData, match=rf"images\.npy is damaged \(.*{reason}"):
            builder.open(sharded.parents[2], "train")


def test_no_changed_byte_of_a_shard_gives_other_pixels(sharded):
    """Of every part of the file: either it is found out, or it stood between the records, and they are the same."""
    whole = builder.PreparedSource(sharded)
    expected, path = [whole.jpeg(i) for i in range(4, 8)], shard_of(sharded)
    data, found = path.read_bytes(), []
    used = len(data[: 2**16].rstrip(b"\0"))  # padding follows, up to 64 KB; then the index of the records
    places = [*range(0, 240, 9), *range(240, used, 499), used - 1, *range(2**16, len(data.rstrip(b"\0")), 11)]
    for place in places:
        flipped(path, place)
        try:
            source = builder.PreparedSource(sharded)
            assert [source.jpeg(i) for i in range(4, 8)] == expected
        except DamagedData:
            found.append(place)
        path.write_bytes(data)
    assert set(range(240, used, 499)) <= set(found) and len(found) > len(places) / 2


@pytest.mark.parametrize("batches", ["train", "eval", "whole train", "whole eval"])
def test_a_damaged_shard_ends_the_batches(sharded, batches):
    from jaxpose.data import crops, whole_images

    source = builder.PreparedSource(sharded)
    flipped(shard_of(sharded), 200)  # while it is open
    make = {
        "train": lambda: crops.train_batches(source, size_wh=(24, 32), batch_size=4),
        "eval": lambda: iter(crops.eval_batches(source, size_wh=(24, 32), batch_size=4)),
        "whole train": lambda: whole_images.train_batches(source, size_wh=(32, 32), batch_size=4),
        "whole eval": lambda: iter(whole_images.eval_batches(source, size=64, batch_size=4)),
    }[batches]()
    with pytest.raises(DamagedData, match=r"-00001-of-00003 is damaged .* prepare --force") as caught:
        for _ in range(8):
            next(make)
    assert "--on-bad skip" not in str(caught.value)  # that would not help


def test_a_read_only_folder_is_opened_and_not_written_to(folder, sharded, monkeypatch):
    """Who runs the tests may be allowed everything: so the lock must not be asked for either."""
    from jaxpose.data import crops

    data_dir = sharded.parents[2]
    shutil.rmtree(data_dir / "downloads", ignore_errors=True)
    paths = [data_dir, *data_dir.rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(builder, "_lock", None)
    try:
        for source in (builder.open(data_dir, "train"), prepare(folder, data_dir)):
            next(crops.train_batches(source, size_wh=(24, 32), batch_size=4))
            assert source.ground_truth()["images"]
        assert {path: path.stat().st_mtime_ns for path in (data_dir, *data_dir.rglob("*"))} == before
    finally:
        for path in paths:
            path.chmod(0o755)


def test_what_cannot_be_written_names_the_folder(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"people\d+-train-.* has to be prepared, but .*file/data cannot be written to .*--data-dir"
    ):
        prepare(folder, tmp_path / "file" / "data")


def test_a_url_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: prepare(folder, "gs://bucket/data"),
        lambda: prepare("s3://bucket/coco", tmp_path),
        lambda: builder.open("gs://bucket/data", "train"),
        lambda: builder.PreparedSource("gs://bucket/data/1.1.0"),
    ):
        with pytest.raises(ValueError, match=r"(gs|s3):/.* is a URL, not a path: mount the bucket"):
            use()
    assert list(tmp_path.iterdir()) == []


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
