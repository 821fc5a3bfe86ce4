"""The bottom-up pages from flags to result JSON: training, evaluation at one and more scales, resuming, CrowdPose, bad flags."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ablation_swahr, coco_rle, coco_swahr, crowdpose_swahr
from experiments.common import families, training, whole_images
from experiments.common.config import parse
from experiments.common.log import Log
from experiments.common.whole_images import WholeImages
from jaxpose import cli, geometry, heatmap, parallel, train
from jaxpose.data import synthetic
from jaxpose.data.formats import coco
from jaxpose.evaluation import average_precision, results, submission
from jaxpose.nets import HigherHRNet, HRNet, Upsampled
from jaxpose.skeleton import COCO17
from jaxpose.tasks import describe
from tests import test_data_formats_crowdpose, tiny_coco

SMALL = ["--size-wh", "64", "64", "--width", "4", "--deconvs", "8", "--dilations", "1", "--batch-size", "8",
         "--log-every", "1", "--warmup-epochs", "0", "--ema", "None"]  # fmt: skip


def config_of(*flags: str, preset: str = "tiny"):
    flags = ["--preset", preset, *flags]
    return parse(coco_swahr.PRESETS, name="coco_swahr", default="tiny", description="", argv=flags)


@pytest.mark.parametrize(("preset", "scale"), [("w32_512", True), ("w48_640", True), ("higher_w32_512", False)])
def test_published_presets_make_higher_hrnet(preset, scale):
    net = describe.build(families.bottom_up_task(config_of(preset=preset), COCO17).config["net"])
    width = int(preset.removeprefix("higher_")[1:3])
    assert net == HigherHRNet(HRNet(width, kernel_init="narrow"), 17, scale=scale, kernel_init="narrow")


def test_the_published_schedule():
    """SWAHR's: from 0.1 of the rate over 3 epochs, then in a line to 0; HigherHRNet's steps."""
    config = config_of(preset="w32_512")
    rate = training.make_schedule(config, config.learning_rate, 100.0)
    found = [float(rate(t)) for t in (0, 300, 15150, 30000)]
    np.testing.assert_allclose(found, [2e-4, 2e-3, 1e-3, 0], atol=1e-9)
    config = config_of(preset="higher_w32_512")
    rate = training.make_schedule(config, config.learning_rate, 100.0)
    np.testing.assert_allclose([float(rate(t)) for t in (0, 19999, 20001, 26001)], [1e-3, 1e-3, 1e-4, 1e-5], rtol=1e-5)
    with pytest.raises(ValueError, match="warmup_steps=30 must be 0 or more and below the 30 steps"):
        train.linear_decay(1e-3, steps=30, warmup_steps=30)


def test_a_resnet_gets_deconvolutions():
    net = describe.build(families.bottom_up_task(config_of("--depth", "34"), COCO17).config["net"])
    assert isinstance(net.backbone, Upsampled) and net.backbone.backbone.depth == 34


@pytest.mark.parametrize(("flags", "message"), [
    (["--test-size", "100"], "--test-size 100: expected a multiple of 64"),
    (["--size-wh", "96", "96"], r"--test-size 96 .the smaller of --size-wh .96, 96..: expected a multiple of 64"),
    (["--scales", "0.5"], r"--scales \(0.5,\): "),
    (["--scales", "0.3", "1"], r"--scales \(0.3, 1.0\): scales must be multiples of half the smallest"),
    (["--epochs", "0.4"], "--warmup-epochs 0.5: expected 0 or more, and below --epochs"),
    (["--deconvs", "8", "8"], r"the net's maps have strides .2.0, 1.0.: expected 4 and 2"),
    (["--test-batch-size", "0"], "--test-batch-size 0: expected a positive number"),
    (["--warmup-start", "0"], "--warmup-start 0.0: expected a part of the learning rate"),
])  # fmt: skip
def test_flags_are_checked_at_the_door(flags, message, tmp_path, prepared):
    with pytest.raises(ValueError, match=message):
        coco_swahr.main(["--out", str(tmp_path), "--data-dir", str(prepared), "--synthetic-images", "24", "--width", "4", "--no-plots",
                     *flags])  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, prepared):
    """A run of two epochs, its flags and its scores. One process draws: what waits for the others must not happen there."""
    out = tmp_path_factory.mktemp("swahr")
    flags = ["--data-dir", str(prepared), "--synthetic-images", "24", *SMALL]
    draw = WholeImages.draw

    def alone(*args):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("gather", "gather_host", "barrier"):
                patch.setattr(parallel, name, lambda *_: pytest.fail("the other processes are not there"))
            draw(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeImages, "draw", alone)
        scores = coco_swahr.main(["--out", str(out), *flags, "--epochs", "2", "--people.detection-threshold", "0.001"])
    return out, flags, scores


@pytest.mark.slow
def test_a_run_leaves_numbers_and_pictures(trained):
    out, _, scores = trained
    events = Log(out).events()
    first = next(e for e in events if e["event"] == "train")
    assert {"map_loss", "scale_loss", "pull", "push"} <= set(first) and np.isfinite(first["loss"])
    assert {"AP", "people_per_image", "scale_pearson"} <= set(scores)
    found = results.read(out / "results" / f"step_{events[-1]['step']}.json", num_joints=17)
    assert found and {"image_id", "category_id", "keypoints", "score"} <= set(found[0])
    assert "terms of the loss" in (out / "report.html").read_text()
    for picture in ("curves", "scale_maps", "scale_against_size", "predictions"):
        assert (out / "plots" / f"{picture}.png").stat().st_size > 3000


@pytest.mark.slow
def test_the_checkpoint_is_evaluated_by_host_and_device_and_at_scales(trained, capsys):
    out, flags, scores = trained
    flags = ["--eval-only", str(out), *flags, "--no-plots"]
    one = coco_swahr.main(flags)
    assert one["AR"] == pytest.approx(scores["AR"]) and one["people_per_image"] == scores["people_per_image"]
    device = coco_swahr.main([*flags, "--group-on", "device"])
    assert device["people_per_image"] == pytest.approx(one["people_per_image"], abs=0.5)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["flip_test"] is False, (
        "as the run, which mirrored nothing"
    )
    coco_swahr.main([*flags, "--scales", "0.5", "1", "--fit", "long", "--flip-test", "True"])
    written = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert written["results"].endswith("_scales_0.5_1.json") and written["flip_test"] is True
    assert len(results.read(written["results"])) > 0


@pytest.mark.slow
def test_whole_images_of_test_dev_go_into_the_archive_for_its_server(trained, tmp_path, capsys, caplog):
    """Tables 1 and 2 of SWAHR: a split without labels and without boxes, predicted and packed."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "test2017").mkdir()
    images = [{"id": 11 + i, "file_name": f"{i}.jpg", "width": 96, "height": 64} for i in range(2)]
    for image in images:
        (folder / "test2017" / image["file_name"]).write_bytes(tiny_coco.jpeg(tiny_coco.picture((96, 64))))
    info = folder / "annotations" / "image_info_test-dev2017.json"
    info.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "person"}]}))
    flags = ["--data", str(folder), "--data-dir", str(tmp_path / "data"), "--val-split", "test-dev"]
    assert coco_swahr.main(["--eval-only", str(trained[0]), *flags, "--no-plots"]) == {}
    assert "jaxpose submit packs them" in caplog.text
    records = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    people = results.read(records, num_joints=17)
    out = tmp_path / "person_keypoints_test-dev2017_mine_results.zip"
    cli.main(["submit", records, str(out), "--annotations", str(info)])
    facts = json.loads(capsys.readouterr().out)
    assert facts["persons"] + facts["left_out"] == len(people) > 0
    assert {person["image_id"] for person in submission.read_zip(out)} == {person["image_id"] for person in people}


@pytest.mark.parametrize(("group_on", "fit", "project", "scales"), [
    ("host", "short", True, (1.0,)), ("device", "short", False, (1.0,)), ("host", "long", False, (0.5, 1.0)),
])  # fmt: skip
def test_maps_of_the_truth_give_the_truth_back(group_on, fit, project, scales, prepared, monkeypatch):
    """Everything behind the net: sizes, padding rows, order, grouping, coordinates, records and AP."""
    folder = synthetic.write_dataset(prepared / "truth", train=1, val=9, seed=3)
    source = coco.read(*coco.find(folder, "val")).at_level("image")
    flags = ["--test-size", "256", "--test-batch-size", "4", "--fit", fit, "--group-on", group_on]
    config = config_of(*flags, "--scales", *map(str, scales), "--people.project" if project else "--people.no-project")
    batches, served = WholeImages.eval_batches, []

    def watched(*args, **options):
        for batch in batches(*args, **options):
            served.append(batch)
            yield batch

    def truth(variables, views):
        """Gaussians and a tag a person, as a perfect net would give them."""
        batch, stride = served[-1], 1 if project else 2
        h, w = (side // stride for side in batch["image"].shape[1:3])
        assert set(views) == {"image" if s == 1 else f"image_{s:g}" for s in scales}
        maps = {"heatmap": np.zeros((4, h, w, 17), np.float32), "tag": np.zeros((4, h, w, 17, 1), np.float32)}
        for row, index in enumerate(batch["index"]):
            for number, person in enumerate(source.persons[source.persons["image"] == index]):
                joints = geometry.apply_affine(batch["affine"][row], person["keypoints"][:, :2]) / stride
                drawn = np.asarray(heatmap.gaussian(joints, (h, w), sigma=4.0 / stride, method="unbiased"))
                drawn = drawn * (person["keypoints"][:, 2] > 0)
                maps["tag"][row, ..., 0] = np.where(
                    drawn > maps["heatmap"][row], 5.0 * number, maps["tag"][row, ..., 0]
                )
                maps["heatmap"][row] = np.maximum(maps["heatmap"][row], drawn)
        return jax.tree.map(jnp.asarray, maps)

    monkeypatch.setattr(WholeImages, "eval_batches", watched)
    task = families.bottom_up_task(config, COCO17)
    kind = WholeImages(config, None, source, source.ground_truth_json, parallel.make_mesh())
    found = kind.predict(truth, task, None)
    assert found["image_id"].tolist() == source.images["image_id"].tolist()
    labelled = np.bincount(source.persons["image"], minlength=9)
    assert found["valid"].sum(1).tolist() == labelled.tolist()
    records = whole_images.records_of(found, category_id=1)
    assert average_precision(source.ground_truth_json, records)["AP"] > 0.9


@pytest.mark.slow
def test_a_run_is_evaluated_by_the_page_that_trained_it(trained, prepared):
    out, flags, _ = trained
    message = "holds a task of the family 'bottom_up', this page evaluates regression and heatmaps"
    with pytest.raises(ValueError, match=message):
        coco_rle.main(["--eval-only", str(out), "--data-dir", str(prepared), "--synthetic-images", "24"])


@pytest.mark.slow
def test_a_linear_decay_is_not_resumed_with_other_epochs(trained):
    out, flags, _ = trained
    with pytest.raises(ValueError, match="--epochs was 2.0, is 3.0"):
        coco_swahr.main(["--out", str(out), *flags, "--epochs", "3", "--people.detection-threshold", "0.001"])


@pytest.mark.slow
def test_crowdpose_from_its_own_layout_to_its_own_numbers(tmp_path):
    with pytest.raises(ValueError, match="--data: name CrowdPose's folder"):
        crowdpose_swahr.main(["--out", str(tmp_path)])
    folder = test_data_formats_crowdpose.write(tmp_path / "crowd")
    flags = ["--data", str(folder), "--data-dir", str(tmp_path / "data"), *SMALL, "--train-split", "test"]
    flags += ["--loss.targets", "box", "--no-plots"]
    scores = crowdpose_swahr.main([*flags, "--out", str(tmp_path / "run"), "--epochs", "2"])
    assert {"AP", "AP_easy", "AP_medium", "AP_hard", "AP_hard_existing", "people_per_image"} <= set(scores)


@pytest.mark.slow
def test_images_with_crowds_alone_and_without_anybody_are_trained_on(tmp_path, caplog):
    """All images: three with people, one of them with more than there is room for, one with a crowd alone, one with nobody."""
    folder = tmp_path / "crowds"
    tiny_coco.write(folder, split="train")
    path, _ = coco.find(folder, "train")
    data = json.loads(path.read_text())
    first, empty, crowded = (data["images"][i]["id"] for i in (0, -2, -1))
    kept = [a for a in data["annotations"] if a["image_id"] not in (empty, crowded)]
    crowd = dict(kept[0], id=10**6, image_id=crowded, iscrowd=1, num_keypoints=0)
    crowd |= {"keypoints": [0] * len(crowd["keypoints"]), "segmentation": [[5, 5, 40, 5, 40, 40, 5, 40]]}
    more = [dict(a, id=2 * 10**6 + i) for i, a in enumerate(kept) if a["image_id"] == first]
    data["annotations"] = [*kept, crowd, *more]
    path.write_text(json.dumps(data))
    flags = ["--data", str(folder), "--val-split", "train", "--data-dir", str(tmp_path / "data"), *SMALL, "--no-plots"]
    flags += ["--choose", "all", "--out", str(tmp_path / "run"), "--epochs", "4"]
    scores = coco_swahr.main([*flags, "--batch-size", "2", "--padded-people", "1"])
    events = [e for e in Log(tmp_path / "run").events() if e["event"] == "train"]
    assert all(np.isfinite(e["loss"]) for e in events) and np.isfinite(scores["AP"])
    assert "have more than max_people=1 labelled persons" in caplog.text


@pytest.mark.slow
def test_the_ablation_prints_its_table_and_trains_only_what_is_missing(tmp_path, capsys):
    options = ["--out", str(tmp_path), "--rows", "sahr", "shr", "--seeds", "0", "--steps", "4", "--images", "15", "--copies", "1",
               "--width", "4", "--deconvs", "8", "--dilations", "1", "--size-wh", "64", "64", "--evaluations", "2"]  # fmt: skip
    runs = ablation_swahr.main(options)
    assert [run["row"] for run in runs] == ["sahr", "shr"]
    assert all(len(run["curve"]) == 2 and np.isfinite(run["loss"]) and run["diverged"] < 0 for run in runs)
    assert "pearson" in runs[0] and "pearson" not in runs[1]
    assert "| shr | 1 | 0 |" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert ablation_swahr.main(options) == runs


def test_results_keep_the_people_and_their_scores():
    poses = np.zeros((2, 3, 17, 3))
    poses[0, 0] = (5.0, 6.0, 0.5)
    predictions = {
        "poses": poses, "scores": np.array([[0.5, 0, 0], [0, 0, 0]]), "image_id": np.array([7, 9]),
        "valid": np.array([[True, False, False], [False] * 3]),
    }  # fmt: skip
    (record,) = whole_images.records_of(predictions, category_id=1)
    assert record["image_id"] == 7 and record["score"] == 0.5 and record["keypoints"][:3] == [5.0, 6.0, 0.5]
