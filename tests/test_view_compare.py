"""`jaxpose view compare`: the closed form of the bias, what each figure is given, and what is left out."""

from __future__ import annotations

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import cli, heatmap, tasks
from jaxpose.data.formats import coco, mpii
from jaxpose.data.synthetic import write_dataset, write_mpii
from jaxpose.evaluation import mpii as evaluation
from jaxpose.evaluation import report, results
from jaxpose.nets import HigherHRNet, ResNet, Upsampled
from jaxpose.skeleton import COCO17
from jaxpose.view import compare as tool
from jaxpose.view.figures import compare as drawings
from tests import tiny_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("people")
    people = write_dataset(place / "coco", train=1, val=5, seed=3, workers=1, progress=False)
    return people, write_mpii(people, place / "mpii")


def told(capsys, *flags) -> dict:
    cli.main(["view", "compare", *map(str, flags)])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("beta", [1.0, 5.0, 10.0, 20.0])
@pytest.mark.parametrize(("size", "sigma"), [(64, 2.0), (48, 3.0)])
def test_the_bias_in_closed_form_is_that_of_soft_argmax(beta, size, sigma):
    place = np.linspace(0.25 * size, 0.75 * size, 7).round()  # between pixels a narrow bump has an error of its own
    xy = jnp.asarray(np.stack([place, np.full(7, (size - 1) / 2)], -1), jnp.float32)[:, None]
    maps = heatmap.gaussian(xy, (size, size), sigma=sigma, method="unbiased")
    measured = np.asarray(heatmap.soft_argmax(maps, beta=beta)[0])[:, 0, 0] - place
    closed = drawings.soft_argmax_bias(place, size, beta=beta, sigma=sigma)
    np.testing.assert_allclose(closed, measured, atol=0.02, rtol=0.005)


def test_the_bias_vanishes_in_the_middle_and_falls_with_beta():
    assert drawings.soft_argmax_bias(31.5, 64, beta=1.0) == 0
    biases = [abs(drawings.soft_argmax_bias(10.0, 64, beta=beta)) for beta in (1e-6, 1.0, 5.0, 10.0, 20.0, 600.0)]
    assert biases == sorted(biases, reverse=True) and biases[0] == pytest.approx(21.5, rel=1e-4) and biases[-1] < 1e-12
    for wrong in ({"beta": 0}, {"beta": 601}, {"beta": 1, "sigma": 0}):
        with pytest.raises(ValueError, match="expected positive numbers"):
            drawings.soft_argmax_bias(1.0, 64, **wrong)


def test_distances_are_parts_of_half_the_diagonal(folders):
    source = coco.read(*coco.find(folders[0], "val"))
    source.persons = source.persons[:1].copy()
    source.clip_boxes = False
    x, y, w, h = source.persons["box"][0] = (20, 10, 60, 80)  # 3:4, so the crop is this box, 1.25 times as large
    source.persons["keypoints"][0] = 0
    middle = (x + w / 2, y + h / 2)
    for k, (dx, dy) in enumerate([(0, 0), (w / 2, 0), (w / 2 * 1.25, h / 2 * 1.25)]):
        source.persons["keypoints"][0, k] = (middle[0] + dx, middle[1] + dy, 2)
    distance = tool.centre_distances(source, size_wh=(192, 256))
    np.testing.assert_allclose(distance, [0, 0.6 / 1.25, 1], atol=0.01)
    source.persons = source.persons[:0]
    assert not len(tool.centre_distances(source, size_wh=(192, 256)))


def test_nothing_but_the_part_reaches_the_net(folders):
    source = coco.read(*coco.find(folders[0], "val"))
    part = (0, 0, 1, 1 / 2)
    sample = tool.hidden_crop(source, 0, part, size_wh=(48, 64), padding=1.25)
    x, y, w, h = tool.corners(tool.part_of(source, 0, part), sample["affine"])
    grey = (sample["image"] == tool.GREY).all(-1)
    rows, columns = np.mgrid[:64, :48]
    outside = (columns < x) | (columns >= x + w) | (rows < y) | (rows >= y + h)
    assert grey[outside].all() and grey[~outside].mean() < 0.2 and 0.2 < outside.mean() < 0.8
    persons = tool.truncated(source, 2)
    assert len(persons) == 2 and {part for _, part in persons} <= set(tool.PARTS)
    for index, part in persons:
        keypoints = source.persons["keypoints"][index]
        x, y, w, h = tool.part_of(source, index, part)
        inside = ((keypoints[:, :2] >= (x, y)) & (keypoints[:, :2] < (x + w, y + h))).all(1)[keypoints[:, 2] > 0]
        assert 2 <= inside.sum() <= len(inside) - 2


def evaluated(folder, source, *, error: float, name="step_3"):
    """Writes the report and the result file of a run that is wrong by this many pixels everywhere."""
    persons = source.persons
    xy = persons["keypoints"][..., :2] + np.array([error, 0.0])
    arrays = {"xy": xy, "confidence": np.ones(xy.shape[:2]), "joints": persons["keypoints"][..., :2],
              "visibility": persons["keypoints"][..., 2], "box": persons["box"], "area": persons["area"]}  # fmt: skip
    details = report.details(arrays, sigmas=source.skeleton.sigmas)
    (folder / "results").mkdir(parents=True)
    (folder / "results" / f"{name}_report.json").write_text(json.dumps(details))
    records = results.from_predictions(xy, np.ones(xy.shape[:2]), image_id=np.ones(len(xy), int),
                                       annotation_id=persons["annotation_id"])  # fmt: skip
    results.write(records, folder / "results" / f"{name}.json")
    return folder


def test_bars_and_curves_are_those_of_the_runs(folders, tmp_path, capsys, monkeypatch):
    source = mpii.read(*mpii.find(folders[1], "valid"))
    runs = [evaluated(tmp_path / name, source, error=error) for name, error in (("a", 2.0), ("b", 5.0))]
    given = {}
    for name in ("sub_benchmarks", "pckh_curves"):
        draw = getattr(drawings, name)
        monkeypatch.setattr(
            drawings,
            name,
            lambda values, path, name=name, draw=draw: given.update({name: values}) or draw(values, path),
        )
    facts = told(capsys, *runs, "--data", folders[1], "--split", "valid", "--figures", "sub_benchmarks", "pckh", "bias",
                 "--out", tmp_path / "out")  # fmt: skip
    assert set(facts["pictures"]) == {"sub_benchmarks", "pckh", "bias"} and not facts["left_out"]
    assert all(os.path.getsize(path) > 5000 for path in facts["pictures"].values())
    everywhere = {run: values["size_by_joints"]["all"]["all"]["EPE"] for run, values in given["sub_benchmarks"].items()}
    assert everywhere == pytest.approx({"a": 2.0, "b": 5.0}, abs=1e-4)
    truth = evaluation.load_truth(evaluation.find_truth(folders[1], "valid"))
    xy = source.persons["keypoints"][..., :2] + np.array([5.0, 0.0])
    expected = evaluation.pckh_curve(truth, np.round(xy, 3), source.persons["annotation_id"])
    np.testing.assert_allclose(given["pckh_curves"]["b"]["mean"], expected["mean"])
    other = tmp_path / "space"
    (other / "results").mkdir(parents=True)
    (other / "results" / "step_1_report.json").write_text(json.dumps({"MPJPE": 50.0}))
    (other / "results" / "step_1.json").write_text(json.dumps([{"image_id": 1, "keypoints_3d": [0.0] * 48}]))
    for name, words in (
        ("sub_benchmarks", "space/.*_report.json has no errors in pixels"),
        ("pckh", "space/.*step_1.json"),
    ):
        with pytest.raises(SystemExit, match=words):
            told(capsys, *runs, other, "--data", folders[1], "--split", "valid", "--figures", name)
    newer = runs[0] / "results" / "step_9_report.json"
    newer.write_text((runs[1] / "results" / "step_3_report.json").read_text())
    os.utime(newer, (2e9, 2e9))
    told(capsys, *runs, "--figures", "sub_benchmarks", "--out", tmp_path / "out")
    assert given["sub_benchmarks"]["a"]["summary"]["EPE"] == pytest.approx(5.0, abs=1e-4)


def test_runs_are_truncated_side_by_side_and_what_is_missing_is_said(folders, tmp_path, capsys, monkeypatch):
    runs = [tiny_run.write(tmp_path / name / "run", tiny_run.regression_task()) for name in ("a", "b")]
    given = []
    draw = drawings.truncation
    monkeypatch.setattr(drawings, "truncation", lambda *a, **b: given.append(a) or draw(*a, **b))
    facts = told(capsys, *runs, "--data", folders[0], "--count", "2", "--out", tmp_path / "out")
    assert set(facts["pictures"]) == {"bias", "centre", "truncation"}
    assert set(facts["left_out"]) == {"sub_benchmarks", "pckh", "targets"}
    assert "no report of an evaluation" in facts["left_out"]["sub_benchmarks"]
    pictures, boxes, poses, *_ = given[0]
    assert len(pictures) == len(boxes) == 2 and list(poses) == [str(run) for run in runs]  # two folders of one name
    np.testing.assert_array_equal(*poses.values())  # the same untrained net twice
    assert np.isfinite(next(iter(poses.values()))).all()


def test_targets_of_a_net_that_adapts_them(folders, tmp_path, capsys, monkeypatch):
    net = HigherHRNet(Upsampled(ResNet(depth=18, width=4, stages=2), (4,)), 17, scale=True)
    loss = tasks.PeopleLoss("scale_adaptive", order="exact", exponent="std")
    task = tasks.bottom_up(net, skeleton=COCO17, size_wh=(64, 64), loss=loss)
    run = tiny_run.write(tmp_path / "run", task)
    monkeypatch.setattr(
        tasks.BottomUp, "run_net",
        lambda self, variables, images, *, train: (({"alpha": jnp.full((1, 32, 32, 17), 0.5)},), {}),
    )  # fmt: skip
    given = []
    draw = drawings.target_widths
    monkeypatch.setattr(drawings, "target_widths", lambda people, path: given.extend(people) or draw(people, path))
    monkeypatch.setattr(tool, "BETWEEN", 48)
    facts = told(capsys, run, "--data", folders[0], "--count", "2", "--figures", "targets", "--out", tmp_path / "out")
    assert list(facts["pictures"]) == ["targets"] and len(given) == 2
    for person in given:
        assert person["image"].shape == (48, 48, 3) and person["fixed"].shape == person["adaptive"].shape == (48, 48)
        assert person["fixed"].max() > 0.8
        where = person["fixed"] > 0.05  # exact powers: H^(1 + alpha)^2, between pixels of the map nearly so
        ratio = np.log(person["adaptive"][where].clip(1e-6)) / np.log(person["fixed"][where].clip(1e-6, 0.999))
        assert np.median(ratio) == pytest.approx(1.5**2, rel=0.15)


def test_what_cannot_be_drawn_is_refused_in_one_line(folders, tmp_path):
    run = tiny_run.write(tmp_path / "run", tiny_run.regression_task())
    for flags, words in (
        (["--count", "0"], "--count 0: expected 1 or more"),
        ([tmp_path / "nowhere"], "nowhere is not the folder of a run"),
        (["--figures", "centre"], "give images and annotations with --data"),
        (["--figures", "truncation"], "give the folders of runs, and --data"),
        ([run, "--figures", "sub_benchmarks"], "has no report of an evaluation"),
        ([run, "--data", folders[0], "--figures", "targets"], "need a bottom-up run with scale maps"),
        ([run, "--data", folders[0], "--figures", "pckh"], "no PCKh without the head sizes"),
        ([run, "--data", folders[1], "--split", "valid", "--figures", "truncation"], "coco17"),
    ):
        with pytest.raises(SystemExit, match=words) as stop:
            cli.main(["view", "compare", *map(str, flags), "--out", str(tmp_path / "out")])
        assert "\n" not in stop.value.code
