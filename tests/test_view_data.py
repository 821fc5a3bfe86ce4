"""`jaxpose view data`: what it draws is what the pipelines feed the nets with."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from jaxpose import cli
from jaxpose.data import crops, masks, whole_images
from jaxpose.data.formats import coco
from jaxpose.skeleton import COCO17
from jaxpose.view import data as tool
from jaxpose.view import figures, palette
from tests import test_data_formats_crowdpose, tiny_coco


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def source(folder):
    return coco.read(*coco.find(folder, "train"))


def drawn(monkeypatch, capsys, *arguments):
    """What the sheets would show."""
    samples = []

    def keep(part, skeleton, path, **_):
        samples.extend(part)
        return path

    monkeypatch.setattr(tool.figures, "annotations", keep)
    cli.main(["view", "data", *map(str, arguments)])
    return samples, json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize("epoch", [0, 2])
def test_crops_are_the_first_that_training_sees(folder, source, epoch, monkeypatch, capsys):
    flags = ["--augment", "official", "--size-wh", "24", "32", "--count", "6", "--seed", "3", "--epoch", epoch]
    samples, said = drawn(monkeypatch, capsys, folder, "--split", "train", *flags)
    assert len(samples) == said["shown"] == 6 and said["persons"] == 10
    steps = dict(start_step=10 * epoch, stop_step=10 * epoch + 6)  # of one person each
    batches = crops.train_batches(source, size_wh=(24, 32), batch_size=1, augment="official", seed=3, **steps)
    for sample, batch in zip(samples, batches, strict=True):
        np.testing.assert_array_equal(sample["image"], batch["image"][0])
        np.testing.assert_array_equal(sample["joints"], batch["joints"])
        np.testing.assert_array_equal(sample["visibility"], batch["visibility"])
        assert str(batch["annotation_id"][0]) in sample["title"]


def test_whole_images_are_the_first_that_training_sees(folder, source, monkeypatch, capsys):
    flags = ["--whole", "--augment", "higher_hrnet", "--size-wh", "64", "64", "--seed", "1", "--epoch", "1"]
    samples, _ = drawn(monkeypatch, capsys, folder, "--split", "train", *flags)
    batches = whole_images.train_batches(source, size_wh=(64, 64), batch_size=5, seed=1, start_step=1, stop_step=2)
    (batch,) = list(batches)
    assert len(samples) == 5
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(sample["image"], batch["image"][i])
        np.testing.assert_array_equal(~sample["shaded"][::2, 1::2], batch["mask_2"][i])
        there = (batch["visibility"][i] > 0).any(-1)
        np.testing.assert_array_equal(sample["joints"], batch["joints"][i][there])


def test_annotations_are_shown_as_they_are(folder, source, monkeypatch, capsys):
    samples, said = drawn(monkeypatch, capsys, folder, "--split", "train")
    assert [said[k] for k in ("images", "shown", "skipped")] == [5, 5, 0]
    by_name = {sample["title"].split("\n")[0]: sample for sample in samples}
    assert sorted(by_name) == [source.file_name(i) for i in range(5)]
    for i in range(5):
        record, sample = source.image(i), by_name[source.file_name(i)]
        np.testing.assert_array_equal(sample["joints"], record["persons"]["keypoints"][..., :2])
        np.testing.assert_array_equal(sample["boxes"], record["persons"]["box"])
        np.testing.assert_array_equal(sample["shaded"], ~masks.valid_mask(record))
        assert sample["image"].shape == (*record["size_wh"][::-1], 3)
    assert by_name["000000.jpg"]["title"].endswith("people 2, not labelled 2") and by_name["000000.jpg"]["shaded"].any()


def test_sheets_are_written_and_named_by_what_they_show(folder, tmp_path, capsys):
    monkey = pytest.MonkeyPatch()
    monkey.setitem(tool.PAGE, "labels", (3, 3))
    for flags, names in (
        (["--count", "5"], ["train_labels_1.png", "train_labels_2.png"]),
        (["--count", "2", "--whole"], ["train_whole_none_1.png"]),
        (["--count", "2", "--augment", "none"], ["train_crops_none_1.png"]),
    ):
        cli.main(["view", "data", str(folder), "--split", "train", "--out", str(tmp_path / "out"), *flags])
        said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert said["sheets"] == [str(tmp_path / "out" / name) for name in names]
        assert all(np.asarray(Image.open(path).convert("L")).std() > 10 for path in said["sheets"])
    monkey.undo()


def test_other_formats_and_bad_input(folder, tmp_path, monkeypatch, capsys):
    crowd = test_data_formats_crowdpose.write(tmp_path / "crowd")
    samples, said = drawn(monkeypatch, capsys, crowd, "--split", "test", "--format", "crowdpose")
    assert said["shown"] == len(samples) > 0 and samples[0]["joints"].shape[-2:] == (14, 2)
    for flags, words in (
        ([folder, "--split", "nothing"], "no annotations for split 'nothing'"),
        ([tmp_path / "nowhere"], "nowhere is not a folder"),
        ([folder, "--split", "train", "--augment", "wild"], "wild"),
        ([folder, "--split", "train", "--count", "0"], "--count 0"),
        ([folder, "--split", "train", "--whole", "--size-wh", "63", "64"], "strides"),
    ):
        with pytest.raises(SystemExit, match=words) as stop:
            cli.main(["view", "data", *map(str, flags)])
        assert "\n" not in stop.value.code


def test_left_and_right_have_their_colours(tmp_path):
    """A mirrored crop whose labels were not exchanged shows orange where blue belongs."""
    image = np.full((60, 40, 3), 255, np.uint8)
    joints = np.zeros((1, 17, 2))
    joints[0] = [
        (10 if "left" in name else 30 if "right" in name else 20, 2 + 3 * k) for k, name in enumerate(COCO17.joints)
    ]
    sample = {"image": image, "joints": joints, "visibility": np.full((1, 17), 2), "title": "$x"}
    picture = np.asarray(Image.open(figures.annotations([sample], COCO17, tmp_path / "a.png")).convert("RGB")).astype(
        int
    )

    def middle(color):
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        return np.nonzero(abs(picture - rgb).sum(-1) < 40)[1].mean() / picture.shape[1]

    assert middle(palette.LEFT) < 0.45 < 0.55 < middle(palette.RIGHT)
