"""A net is tested in one way: while it is trained, by --eval-only, and by `jaxpose predict`; and flags given by hand override."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import coco_rle, coco_swahr
from experiments.common import persons
from jaxpose import checkpoint, geometry, predict
from jaxpose.data.formats import coco
from jaxpose.evaluation import results
from jaxpose.inference import Settings, from_checkpoint
from jaxpose.skeleton import COCO17
from tests import tiny_run

PERSONS = ["--preset", "tiny", "--synthetic-images", "24", "--width", "4", "--size-wh", "24", "32", "--resnet-stages", "1",
           "--batch-size", "8", "--likelihood.loss", "laplace", "--ema", "None", "--epochs", "1", "--no-plots"]  # fmt: skip
IMAGES = ["--synthetic-images", "24", "--width", "4", "--size-wh", "64", "64", "--deconvs", "8", "--dilations", "1",
          "--batch-size", "8", "--warmup-epochs", "0", "--ema", "None", "--epochs", "1", "--no-plots",
          "--people.detection-threshold", "0.001"]  # fmt: skip


def config_of(page, run, *flags):
    return page.PAGE.parse(["--eval-only", str(run), *flags])


def without_settings(run):
    """Makes the checkpoints those of a version that stored no settings."""
    for folder in (run / "checkpoints").iterdir():
        config = folder / "config" / "metadata"
        stored = json.loads(config.read_text())
        assert stored.pop("inference")
        stored["run"].pop("padding", None)
        config.write_text(json.dumps(stored))
        (folder / checkpoint.CHECKSUMS).unlink()


def records_of(folder, name):
    (path,) = (path for path in (folder / "results").glob(f"{name}.json") if "_report" not in path.name)
    return results.read(path, num_joints=17)


def pictures_of(prepared):
    """The images of the synthetic evaluation split, and their source."""
    (folder,) = prepared.glob("synthetic_24_*")
    source = coco.read(*coco.find(folder, "val"))
    return [folder / "val" / source.file_name(i) for i in range(len(source.images))], source


@pytest.mark.slow
def test_persons_are_tested_in_one_way(tmp_path):
    out, prepared = tmp_path / "run", tmp_path / "data"
    flags = ["--data-dir", str(prepared), "--no-flip-test", "--rescore", "box", "--nms", "None", "--padding", "1.5"]
    scores = coco_rle.main(["--out", str(out), *flags, *PERSONS])
    expected = Settings(flip_test=False, rescore="box", nms=None, padding=1.5)
    assert from_checkpoint(checkpoint.read_config(out)) == expected
    trained = records_of(out, "step_*")
    assert {record["score"] for record in trained} == {1.0}, "the score of the box, which is annotated"

    evaluation = ["--eval-only", str(out), "--data-dir", str(prepared), "--synthetic-images", "24", "--batch-size", "8"]
    assert coco_rle.main(evaluation) == scores
    assert records_of(out, "eval_*_val") == trained

    pictures, source = pictures_of(prepared)
    predictor = predict.load(out)
    assert predictor.settings == expected
    sizes = source.images["size_wh"].astype(np.float64)
    boxes = [
        geometry.clip_box(source.persons["box"][source.persons["image"] == i].astype(np.float64), sizes[i])
        for i in range(len(pictures))
    ]
    owners = source.images["image_id"].tolist()
    predicted = [r for i, poses in zip(owners, predictor(pictures, boxes), strict=True) for r in poses.records(i)]
    trained, predicted = (sorted(rows, key=lambda row: row["image_id"]) for rows in (trained, predicted))
    assert [(r["image_id"], r["score"]) for r in trained] == [(r["image_id"], r["score"]) for r in predicted]
    joints = [np.array([r["keypoints"] for r in records]) for records in (trained, predicted)]
    np.testing.assert_allclose(*joints, atol=0.02)
    flipped = [p.xy for p in predict.load(out, flip_test=True)(pictures, boxes)]
    assert np.abs(np.concatenate(flipped) - np.concatenate([p.xy for p in predictor(pictures, boxes)])).max() > 0.1

    without_settings(out)
    old = config_of(coco_rle, out)
    assert old.test_settings() == dataclasses.replace(expected, padding=1.25) == predict.load(out).settings


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["light", "higher_hrnet"])
def test_whole_images_are_tested_in_one_way(tmp_path, augment):
    out, prepared = tmp_path / "run", tmp_path / "data"
    flags = [
        "--data-dir",
        str(prepared),
        "--augment",
        augment,
        "--test-size",
        "128",
        "--fit",
        "long",
        "--scales",
        "1",
        "2",
    ]
    scores = coco_swahr.main(["--out", str(out), *flags, *IMAGES])
    expected = Settings(
        rescore="box", nms=None, flip_test=augment != "light", test_size=128, fit="long", scales=(1.0, 2.0)
    )
    assert from_checkpoint(checkpoint.read_config(out)) == expected
    trained = records_of(out, "step_*")

    evaluation = ["--eval-only", str(out), "--data-dir", str(prepared), "--synthetic-images", "24"]
    assert coco_swahr.main(evaluation) == scores
    assert records_of(out, "eval_*_val_scales_1_2") == trained and len(trained) > 0

    pictures, source = pictures_of(prepared)
    predictor = predict.load(out)
    assert predictor.settings == expected
    people = dict(zip(source.images["image_id"].tolist(), predictor(pictures), strict=True))
    assert sum(map(len, people.values())) == len(trained)
    for i, poses in people.items():
        of_image = [record for record in trained if record["image_id"] == i]
        np.testing.assert_allclose([r["score"] for r in of_image], poses.score, atol=1e-4)
        joints = np.reshape([r["keypoints"] for r in of_image], (len(poses), 17, 3))
        np.testing.assert_allclose(joints[..., :2], poses.xy, atol=0.02)

    without_settings(out)
    assert config_of(coco_swahr, out).test_settings() == expected == predict.load(out).settings


# ------------------------------------------------------------------------------------------------------------- the flags


def test_flags_given_by_hand_override_what_the_checkpoint_says(tmp_path):
    stored = Settings(flip_test=False, padding=1.5, decode="scaled", rescore="box", nms=None, soft_nms=True)
    run = tiny_run.write(tmp_path / "persons", tiny_run.regression_task(), inference=stored)
    assert config_of(coco_rle, run).test_settings() == stored
    assert config_of(coco_rle, run).size_wh == tiny_run.SIZE_WH
    assert config_of(coco_rle, run, "--preset", "official").test_settings() == stored, "whatever the preset says"
    flags = [
        "--flip-test",
        "--padding",
        "1.1",
        "--decode",
        "exact",
        "--rescore",
        "box*mean",
        "--nms",
        "0.5",
        "--no-soft-nms",
    ]
    assert config_of(coco_rle, run, *flags).test_settings() == Settings(padding=1.1, rescore="box*mean", nms=0.5)

    stored = Settings(flip_test=True, test_size=128, fit="long", scales=(0.5, 1.0), rescore="box", nms=None)
    run = tiny_run.write(tmp_path / "images", tiny_run.bottom_up_task(), inference=stored)
    config = config_of(coco_swahr, run)
    assert config.test_settings() == stored and config.side() == 128
    flags = ["--flip-test", "False", "--test-size", "64", "--fit", "short", "--scales", "1"]
    config = config_of(coco_swahr, run, *flags)
    assert (config.flips(), config.side(), config.fit, config.scales) == (False, 64, "short", (1.0,))


def test_what_a_checkpoint_does_not_say_is_as_the_page_has_it(tmp_path):
    run = tiny_run.write(tmp_path / "old", tiny_run.heatmap_task(), run={"flip_test": False})
    preset = coco_rle.PRESETS["tiny"]
    assert config_of(coco_rle, run).test_settings() == dataclasses.replace(preset.test_settings(), flip_test=False)
    run = tiny_run.write(tmp_path / "imported", tiny_run.bottom_up_task(), run={"augment": "higher_hrnet"})
    config = config_of(coco_swahr, run)
    assert config.flips() and config.side() == 64 and not coco_swahr.PRESETS["tiny"].flips()


def test_a_run_on_drawn_people_is_evaluated_on_those_that_it_held_out(tmp_path):
    task = tiny_run.regression_task()
    run = tiny_run.write(tmp_path / "drawn", task, run={"data": None, "synthetic_images": 30, "seed": 3})
    config = config_of(coco_rle, run)
    assert (config.synthetic_images, config.seed) == (30, 3)
    assert config_of(coco_rle, run, "--synthetic-images", "40").synthetic_images == 40, "what is given by hand wins"
    of_files = tiny_run.write(tmp_path / "files", task, run={"data": "COCO", "synthetic_images": 30, "seed": 3})
    assert config_of(coco_rle, of_files).synthetic_images == coco_rle.PRESETS["tiny"].synthetic_images


def test_a_checkpoint_that_cannot_be_evaluated_is_named_before_anything_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        config_of(coco_rle, tmp_path / "nowhere")
    run = tiny_run.write(tmp_path / "newer", tiny_run.regression_task(), inference=Settings())
    config = run / "checkpoints" / "0" / "config" / "metadata"
    config.write_text(config.read_text().replace('"decode"', '"tiles"'))
    (run / "checkpoints" / "0" / checkpoint.CHECKSUMS).unlink()
    with pytest.raises(ValueError, match="hold tiles, which this version of jaxpose does not know"):
        config_of(coco_rle, run)
    run = tiny_run.write(tmp_path / "run", tiny_run.regression_task(), inference=Settings())
    with pytest.raises(ValueError, match=r"--size-wh .48, 64.: the net in .*run was trained at .24, 32."):
        coco_rle.main(["--eval-only", str(run), "--size-wh", "48", "64"])


# ------------------------------------------------------------------------------------------------------------- suppression


@pytest.mark.parametrize(("flags", "kept"), [
    ({}, 1), ({"nms_annotated": False}, 2), ({"nms_annotated": False, "detections": Path("boxes.json")}, 1), ({"nms": None}, 2),
])  # fmt: skip
def test_annotated_boxes_are_suppressed_unless_the_code_of_the_page_does_not(flags, kept):
    """QUIRK R21: `validate` of rlepose/trainer.py suppresses, `validate_gt` does not."""
    config = dataclasses.replace(coco_rle.PRESETS["tiny"], **flags)
    val = SimpleNamespace(skeleton=COCO17, categories_of=lambda ids: np.ones(len(ids), int))
    xy = np.random.default_rng(0).uniform(0, 100, (17, 2))
    predictions = {
        "xy": np.stack([xy, xy + 0.1]), "confidence": np.full((2, 17), 0.9), "image_id": np.array([3, 3]),
        "box": np.array([[0.0, 0.0, 100.0, 100.0]] * 2), "score": np.ones(2), "crop_area": np.full(2, 1e4),
        "annotation_id": np.array([1, 2]),
    }  # fmt: skip
    assert len(persons.Persons.records(SimpleNamespace(config=config, val=val), predictions)) == kept
