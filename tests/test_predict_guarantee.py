"""`jaxpose predict --region 0.9 --guarantee`: the stored scores of a run, and whether new pictures are like its calibration set."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxpose import cli, density
from jaxpose.files import write_json
from jaxpose.inference import Settings
from jaxpose.predict.guarantee import Guarantee
from jaxpose.predict.poses import Poses
from jaxpose.skeleton import COCO17
from tests import tiny_coco, tiny_run

TESTED = Settings()
LAPLACE = density.Model(log_g=None, base="laplace")


def calibration(*, people: int = 50, joints: int = 17, factor: float = 2.0, **changes) -> dict:
    """What a run stores: scores of a net that is `factor` times too sure, whose sigma is 0.05 of the crop."""
    rng = np.random.default_rng(0)
    sigma = 0.05 * np.exp(rng.normal(scale=0.1, size=(people, joints, 2)))
    scores = density.conformal(0 * sigma, sigma, factor * sigma * rng.laplace(size=sigma.shape), LAPLACE)
    return {"persons": people, "flip_test": True, "sigma_scale": 1.0, "scores": scores.to_dict()} | changes


@pytest.fixture
def guarantee(tmp_path):
    """(**stored) -> the guarantee of a run with these scores, at the level 0.9."""

    def build(*, level=0.9, whole_pose=False, settings=TESTED, **stored):
        (tmp_path / "checkpoints" / "7").mkdir(parents=True, exist_ok=True)
        write_json(tmp_path / "results" / "step_7_conformal.json", calibration(**stored), allow_nan=True)
        predictor = SimpleNamespace(
            density=LAPLACE, config={"step": 7}, skeleton=COCO17, flip_test=settings.flip_test, settings=settings
        )
        return Guarantee(tmp_path, predictor, level=level, whole_pose=whole_pose)

    return build


def poses(people: int, *, sigma: float = 0.05, seed: int = 1) -> Poses:
    """In crops of 100 x 100 pixels."""
    rng = np.random.default_rng(seed)
    spread = 100 * sigma * np.exp(rng.normal(scale=0.1, size=(people, 17, 2)))
    area = np.full(people, 1e4)
    return Poses(np.full((people, 17, 2), 50.0), np.ones((people, 17)), np.ones(people), COCO17, sigma=spread,
                 crop_area=area, density=LAPLACE)  # fmt: skip


def test_regions_are_as_large_as_the_calibration_set_asks(guarantee):
    one, whole = guarantee(), guarantee(whole_pose=True)
    raw = density.region(LAPLACE, 0.9).extent()[0, 1]
    limits, wider = (some.limits(poses(1))[0] for some in (one, whole))
    half = (limits[..., 1] - limits[..., 0]) / 2 / poses(1).sigma[0]
    assert np.median(half) / raw == pytest.approx(2.0, rel=0.25), "the net is twice too sure"
    assert (wider[..., 1] - wider[..., 0] > limits[..., 1] - limits[..., 0]).all()
    where = np.zeros((1, 17), bool)
    where[0, 3] = True
    (curve,) = one.curves(poses(1), where)
    np.testing.assert_allclose([curve.min(0), curve.max(0)], limits[3].T, atol=0.7)


def test_drift_is_noticed(guarantee):
    same, other = guarantee(), guarantee()
    same.add(poses(60))
    other.add(poses(60, sigma=0.08))
    assert not same.drift()["drifted"] and same.drift()["factor"] == pytest.approx(1, abs=0.05)
    assert other.drift()["drifted"] and other.drift()["factor"] == pytest.approx(1.6, abs=0.1)
    assert len(same.sentences()) == 2 and "exchangeable with the 50" in same.sentences()[0]
    assert "chose the checkpoint" in same.sentences()[1] and "1.6" in other.sentences()[2]
    few = guarantee()
    few.add(poses(2, sigma=0.08))
    assert not few.drift()["drifted"], "two people are too few to tell"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"people": 8}, "8 labels .* are too few .* needs 9"),
        ({"level": 0.99, "whole_pose": True}, "50 labels .* are too few .* needs 99"),
        ({"flip_test": False}, "flip_test False, poses are predicted with True"),
        ({"sigma_scale": 2.0}, "sigma_scale 2.0, poses are predicted with 1.0"),
        ({"joints": 3}, "3 joints, the net has 17"),
        ({"scores": 3}, "cannot be used"),
        ({"scores": {"joints": [{}] * 17}}, "step_7_conformal.json cannot be used"),
        ({"persons": None}, "step_7_conformal.json cannot be used"),
        ({"sigma_scale": float("nan")}, "sigma_scale nan, poses are predicted with 1.0"),
    ],
)
def test_scores_that_do_not_serve(guarantee, options, message):
    with pytest.raises(ValueError, match=message):
        guarantee(**options)


def test_a_run_without_scores_says_how_to_get_them(guarantee, tmp_path):
    guarantee()
    (tmp_path / "results" / "step_7_conformal.json").unlink()
    predictor = SimpleNamespace(density=LAPLACE, config={"step": 7}, skeleton=COCO17)
    with pytest.raises(ValueError, match="--eval-only .* --calibrate"):
        Guarantee(tmp_path, predictor, level=0.9)
    with pytest.raises(ValueError, match="states no density"):
        Guarantee(tmp_path, SimpleNamespace(density=None), level=0.9)


def test_the_command(tmp_path, capsys):
    run = tiny_run.write(tmp_path / "run", tiny_run.regression_task(), inference=Settings())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(tiny_coco.jpeg(tiny_coco.picture((60, 80))))
    flags = ["predict", str(run), str(tmp_path / "photos"), "--out", str(tmp_path / "o"), "--guarantee"]
    with pytest.raises(SystemExit, match="needs the level of --region"):
        cli.main(flags)
    write_json(run / "results" / "step_0_conformal.json", calibration(), allow_nan=True)
    with pytest.raises(SystemExit, match="holds for boxes such as those of the calibration set. without --boxes"):
        cli.main([*flags, "--region", "0.9"])
    write_json(run / "baselines.json", {"box_share": 0.9})
    cli.main([*flags, "--region", "0.9"])
    stated = json.loads((tmp_path / "o" / "guarantee.json").read_text())
    assert stated["level"] == 0.9 and stated["poses"] == 1 and set(stated["log_thresholds"]) == set(COCO17.joints)
    with open(tmp_path / "o" / "poses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["low_x"]) < float(row["x"]) < float(row["high_x"]) for row in rows) and len(rows) == 17
