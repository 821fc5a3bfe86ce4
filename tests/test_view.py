"""Pictures are drawn, and show what they are given."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jaxpose import density, view
from jaxpose.skeleton import COCO17


def test_the_sheet_shows_prediction_and_truth(tmp_path):
    images = np.full((3, 64, 48, 3), 255, np.uint8)
    xy = np.random.default_rng(0).uniform(10, 40, (3, 17, 2))
    confidence = np.full((3, 17), 0.5)
    plain = view.sheet(images, xy, confidence, COCO17, tmp_path / "plain.png", columns=3)
    both = view.sheet(
        images, xy, confidence, COCO17, tmp_path / "a" / "both.png", columns=3,
        truth=xy + 3, labelled=np.ones((3, 17), bool), deviation_px=np.full((3, 17, 2), 4.0),
    )  # fmt: skip
    a, b = (np.asarray(Image.open(path).convert("RGB")) for path in (plain, both))
    assert a.shape == b.shape
    green = lambda p: ((p[..., 1] > p[..., 0].astype(int) + 40) & (p[..., 1] > p[..., 2].astype(int) + 40)).sum()  # noqa: E731
    assert green(a) == 0 and green(b) > 50


def test_curves_density_and_calibration(tmp_path):
    events = [{"event": "train", "step": t, "loss": 1 / (t + 1), "epe": 5.0} for t in range(5)]
    events += [{"event": "eval", "step": 4, "AP": 0.5}]
    levels = np.asarray([0.5, 0.9])
    for path in (
        view.curves(events, tmp_path / "curves.png"),
        view.learned_density(density.Model(log_g=None, base="laplace"), tmp_path / "density.png", points=41),
        view.calibration(levels, {"all": levels - 0.1}, tmp_path / "calibration.png"),
    ):
        assert np.asarray(Image.open(path).convert("L")).std() > 5


def test_the_drawn_density_is_the_models_in_its_own_deviations(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(view.density, "log_prob", lambda e, model: seen.append(e) or -np.abs(e).sum(-1) - 2 * np.log(2))
    monkeypatch.setattr(view.density, "moments", lambda model: density.Moments(np.zeros(2), np.diag([2.0, 8.0]), 1.0))
    view.learned_density(density.Model(log_g=None, base="laplace"), tmp_path / "d.png", bound=2.0, points=21)
    assert seen[0].shape == (21, 21, 2)
    np.testing.assert_allclose(seen[0].max((0, 1)), 2 * np.sqrt([2.0, 8.0]), rtol=1e-6)
