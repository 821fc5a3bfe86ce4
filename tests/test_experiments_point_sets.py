"""The page of pose anchors: from flags to people of a picture, and what it says about flags and data that do not go together."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import coco_pointset_anchor
from experiments.common import point_sets
from experiments.common.config import parse
from jaxpose import checkpoint, inference, predict, tasks
from jaxpose.data import whole_images
from jaxpose.skeleton import COCO17, Skeleton

TINY = ["--synthetic-images", "24", "--width", "4", "--features", "4", "--groups", "2", "--convs", "0",
        "--size-wh", "64", "64", "--batch-size", "4", "--log-every", "1", "--warmup-steps", "1", "--ema", "None",
        "--training.positives", "8", "--likelihood.flow-layers", "2", "--likelihood.flow-hidden", "4", "--fit", "long"]  # fmt: skip


def config_of(*flags: str, preset: str = "tiny"):
    flags = ["--preset", preset, *flags]
    return parse(coco_pointset_anchor.PRESETS, name="coco_pointset_anchor", default="tiny", description="", argv=flags)


def kind_of(keypoints: np.ndarray, config, skeleton: Skeleton = COCO17):
    @dataclasses.dataclass(frozen=True)
    class Kind:
        config: object
        train = SimpleNamespace(persons={"keypoints": keypoints}, name="labels")

        def check(self):
            pass

    Kind.skeleton = skeleton
    return Kind(config)


def test_presets_make_their_nets():
    joints = {"w32_640": (32, False), "w48_640": (48, False), "rle_w32_640": (32, True), "rle_w48_640": (48, True)}
    for preset, (width, sigma) in joints.items():
        net = tasks.describe.build(point_sets.task(config_of(preset=preset), COCO17).config["net"])
        assert (net.backbone.width, net.sigma, net.features, net.convs, net.prior, net.heatmaps) == (
            width, sigma, 256, 4, 0.5, True
        )  # fmt: skip
        assert net.taps == (0, 7, 8, 9, 10, 13, 14, 15, 16)
    assert point_sets.task(config_of(), COCO17).has_regions
    assert not point_sets.task(config_of(preset="rle_w32_640"), COCO17).has_regions


def test_the_anchors_are_those_of_the_labels():
    rng = np.random.default_rng(0)
    shape = rng.uniform(-0.5, 0.5, (17, 2))
    keypoints = np.concatenate(
        [shape * rng.uniform(20, 60, (9, 1, 1)) + rng.uniform(0, 99, (9, 1, 2)), np.full((9, 17, 1), 2.0)], -1
    )
    config, kind = point_sets.settle(config_of(), kind_of(keypoints, config_of()), point_sets.make)
    (template, *others) = json.loads(config.templates)
    assert not others, "one shape has one cluster"
    np.testing.assert_allclose(np.linalg.norm(np.ptp(template, 0)), 1, atol=1e-3)
    np.testing.assert_allclose(np.mean([template[11], template[12]], 0), 0, atol=1e-4)
    assert kind.config == config and point_sets.task(config, COCO17).net.templates[0][3] == tuple(template[3])
    with pytest.raises(ValueError, match="--anchors 2 --clusters 1: expected at most"):
        few = config_of("--clusters", "1")
        point_sets.settle(few, kind_of(keypoints, few), point_sets.make)
    nobody = np.zeros((2, 17, 3))
    with pytest.raises(ValueError, match="labels: the anchors are mean poses of its people, but none of the 2 poses"):
        point_sets.settle(config_of(), kind_of(nobody, config_of()), point_sets.make)


def test_a_resumed_run_keeps_its_anchors(tmp_path, monkeypatch):
    config = dataclasses.replace(config_of(), out=tmp_path)
    stored = json.dumps([[[0.0, 0.1 * k] for k in range(17)]])
    monkeypatch.setattr(point_sets.checkpoint, "exists", lambda out: out == tmp_path)
    monkeypatch.setattr(point_sets.checkpoint, "read_config", lambda out, step: {"run": {"templates": stored}})
    resumed, kind = point_sets.settle(config, kind_of(np.zeros((2, 17, 3)), config), point_sets.make)
    assert resumed.templates == stored and kind.config == resumed


def test_another_skeleton_has_taps_of_its_own():
    stick = Skeleton(name="stick", joints=("a", "b", "c"), flip_pairs=(), limbs=(), sigmas=(0.1,) * 3)
    assert point_sets.taps(stick) == (0, 1, 2)


@pytest.mark.parametrize(("flags", "message"), [
    (["--people.refine", "heatmap"], "--no-heatmaps: there are no peaks"),
    (["--resnet-stages", "3"], "--resnet-stages 3: pose anchors need maps of strides 8, 16 and 32"),
    (["--features", "10"], "--features 10 --groups 8: expected channels that the groups divide"),
    (["--size-wh", "100", "96"], "size_wh=.100, 96.: expected multiples of 32"),
])  # fmt: skip
def test_what_does_not_go_together_is_told(flags, message):
    with pytest.raises(ValueError, match=message):
        point_sets.task(config_of(*flags), COCO17)


@pytest.mark.parametrize(("flags", "message"), [
    (["--people.reach", "0.1"], "--people.reach has no effect without --heatmaps"),
    (["--heatmaps", "--people.reach", "0.1"], "--people.reach has no effect without --people.refine heatmap"),
    (["--flip-test", "True"], "--flip-test has no effect without a net that is tested with mirrored images"),
    (["--preset", "tiny_l1", "--people.rescore", "score*confidence"], "--people.rescore has no effect without"),
    (["--preset", "tiny_l1", "--likelihood.flow-ends", "paper"], "--likelihood.flow-ends has no effect without"),
])  # fmt: skip
def test_a_flag_without_effect_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        coco_pointset_anchor.PAGE.settings(flags)


def test_joints_before_they_moved_and_their_scales_are_in_pixels_of_the_picture():
    """A picture of 128x64 in an input of 64x32: the affine halves it and moves it by 3 and 5."""
    affine = np.array([[[0.5, 0.0, 3.0], [0.0, 0.5, 5.0]]])
    joints = np.array([[[[8.0, 10.0]], [[0.0, 0.0]]]])
    outputs = {
        "poses": np.concatenate([joints, [[[[0.9]], [[0.0]]]]], -1), "regressed": joints + [[[[1.0, 0.0]], [[0.0, 0.0]]]],
        "sigma": np.ones((1, 2, 1, 2)), "scores": np.array([[0.9, 0.0]]), "valid": np.array([[True, False]]),
    }  # fmt: skip
    batch = {"image": np.zeros((1, 32, 64, 3)), "affine": affine, "index": np.array([0]), "valid": np.array([True])}
    people = inference.people(
        lambda batch: jax.tree.map(jnp.asarray, outputs), [batch], lambda maps, stride: maps, gather=False
    )
    np.testing.assert_allclose(people["poses"][0, 0, 0], [10.0, 10.0, 0.9], rtol=1e-6)
    np.testing.assert_allclose(people["regressed"][0], [[[12.0, 10.0]], [[0.0, 0.0]]])
    np.testing.assert_allclose(people["sigma"], 2.0)


@pytest.mark.parametrize("wide", [True, False])
def test_joints_on_the_padding_of_a_picture_are_moved_into_it(wide):
    """A picture of 40x20 or 20x40, with padding at its long sides or at its upper and lower ones, in an input of 64x64."""
    size_wh = np.array([[40, 20] if wide else [20, 40]])
    image = np.zeros((*size_wh[0, ::-1], 3), np.uint8)
    inputs, affine = whole_images.views(image, size=64, fit="long")
    xy = np.array([[[[0.0, 0.0], [63.0, 63.0], [32.0, 32.0]]]])
    outputs = {"poses": np.concatenate([xy, np.ones((1, 1, 3, 1))], -1), "regressed": xy, "scores": np.ones((1, 1)),
               "valid": np.ones((1, 1), bool)}  # fmt: skip
    batch = {"image": inputs["image"][None], "affine": affine[None], "index": np.array([0]), "valid": np.array([True])}
    outputs = jax.tree.map(jnp.asarray, outputs)
    options = {"step": lambda batch: outputs, "batches": [batch], "group": lambda maps, stride: maps, "gather": False}
    free, people = inference.people(**options), inference.people(**options, size_wh=size_wh)
    beyond = free["poses"][0, 0, :, :2]
    assert beyond[0, int(wide)] < -5 and beyond[1, int(wide)] > size_wh[0, int(wide)] + 5, "the input has padding"
    for moved in (people["poses"][0, 0, :, :2], people["regressed"][0, 0]):
        np.testing.assert_array_equal(moved, np.clip(beyond, 0, size_wh[0] - 1))
    np.testing.assert_array_equal(people["poses"][0, 0, 2], free["poses"][0, 0, 2])
    maps = {name: values for name, values in outputs.items() if name != "regressed"}
    of_maps = inference.people(**options | {"step": lambda batch: maps}, size_wh=size_wh)
    np.testing.assert_array_equal(of_maps["poses"], free["poses"])


@pytest.mark.slow
def test_from_training_to_the_people_of_a_picture(tmp_path):
    flags = [*TINY, "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    scores = coco_pointset_anchor.main([*flags, "--epochs", "0.4"])
    assert 0 <= scores["AP"] <= 1 and scores["people_per_image"] > 0
    assert (tmp_path / "run" / "plots" / "predictions.png").stat().st_size > 5000
    _, stored = checkpoint.restore_model(tmp_path / "run")
    assert len(stored["task"]["net"]["templates"][0]) == 17
    assert json.loads(stored["run"]["templates"]) == stored["task"]["net"]["templates"]

    picture = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    predictor = predict.load(tmp_path / "run")
    poses = predictor(picture)
    assert poses.sigma.shape == (len(poses), 17, 2) and len(poses) and predictor.density is not None
    assert np.isfinite(poses.deviation).all() and (poses.deviation > 0).all()
    low, high = poses.xy.min((0, 1)), poses.xy.max((0, 1))
    assert (low >= -40).all() and (high <= 120).all(), "in pixels of the picture"
    # The scale of a coordinate in the picture is that in the input, over the zoom of 64 / 80.
    wider = predictor(np.repeat(np.repeat(picture, 2, 0), 2, 1))
    assert wider.sigma.max() > poses.sigma.max()
    assert len(predict.load(tmp_path / "run", min_score=0.999)(picture)) == 0
    with pytest.raises(ValueError, match="leave boxes out"):
        predictor(picture, [[0, 0, 9, 9]])
