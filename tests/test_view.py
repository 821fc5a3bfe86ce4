"""Pictures are drawn, and show what they are given."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxpose import density, view
from jaxpose.skeleton import COCO17, CROWDPOSE14
from jaxpose.view import palette


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def near(picture, color, *, within=60):
    """How many pixels have a colour, "#rrggbb"."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((abs(picture - wanted).sum(-1) < within).sum())


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
        view.calibration(levels, {"all": levels - 0.1, "occluded": [None] * len(levels)}, tmp_path / "calibration.png"),
    ):
        assert np.asarray(Image.open(path).convert("L")).std() > 5


def test_the_drawn_density_is_the_models_in_its_own_deviations(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(density, "log_prob", lambda e, model: seen.append(e) or -np.abs(e).sum(-1) - 2 * np.log(2))
    monkeypatch.setattr(density, "moments", lambda model: density.Moments(np.zeros(2), np.diag([2.0, 8.0]), 1.0))
    view.learned_density(density.Model(log_g=None, base="laplace"), tmp_path / "d.png", bound=2.0, points=21)
    assert seen[0].shape == (21, 21, 2)
    np.testing.assert_allclose(seen[0].max((0, 1)), 2 * np.sqrt([2.0, 8.0]), rtol=1e-6)


def test_the_panels_of_the_density_do_not_overlap_and_no_curves_look_alike(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("jaxpose.view.figures.run.save", lambda figure, path: figures.append(figure))
    view.learned_density(density.Model(log_g=None, base="laplace"), tmp_path / "density.png", points=21)
    [figure] = figures
    figure.canvas.draw()
    panels = [axis.get_tightbbox() for axis in figure.axes]  # with labels and title
    assert all(left.x1 <= right.x0 for left, right in zip(panels, panels[1:]))
    assert panels[0].x0 >= 0 and panels[-1].x1 <= figure.bbox.x1 and max(p.y1 for p in panels) <= figure.bbox.y1
    lines = figure.axes[3].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 4


@pytest.mark.filterwarnings("error")
def test_people_of_whole_images(tmp_path, monkeypatch):
    """Images of different sizes, with two found, nobody found, and one; joints of confidence 0 may hold anything."""
    rng = np.random.default_rng(0)
    images = [np.full((h, w, 3), 255, np.uint8) for h, w in ((90, 120), (120, 80), (60, 60))]
    poses = [np.concatenate([rng.uniform(10, 55, (n, 14, 2)), np.ones((n, 14, 1))], -1) for n in (2, 0, 1)]
    poses[2][0, :5] = (np.nan, np.nan, 0)
    truth = [rng.uniform(10, 55, (n, 14, 3)) for n in (1, 2, 0)]
    labelled = [np.ones((n, 14), bool) for n in (1, 2, 0)]
    labelled[1][1] = False  # somebody without labels
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, text, **_: titles.append(text))
    plain = pixels(view.people(images, poses, CROWDPOSE14, tmp_path / "plain.png", columns=2))
    assert titles == ["detected 2", "detected 0", "detected 1"]
    assert near(plain, palette.TRUTH) == 0
    assert near(plain, palette.PEOPLE[0]) > 100 and near(plain, palette.PEOPLE[1]) > 100
    options = dict(truth=truth, labelled=labelled, scores=[np.full(n, 0.5) for n in (2, 0, 1)], columns=2)
    both = pixels(view.people(images, poses, CROWDPOSE14, tmp_path / "a" / "both.png", **options))
    assert titles[3:] == ["detected 2, labelled 1", "detected 0, labelled 1", "detected 1, labelled 0"]
    assert near(both, palette.TRUTH) > 100
    poses = [pose * (1, 1, 0) for pose in poses]
    hidden = pixels(view.people(images, poses, CROWDPOSE14, tmp_path / "hidden.png"))
    assert near(hidden, palette.PEOPLE[0]) == near(hidden, palette.PEOPLE[1]) == 0


@pytest.mark.filterwarnings("error")
def test_scale_maps_beside_their_images(tmp_path):
    """Red where the factor is small, blue where it is large, white at 1, alike in all images."""
    images = [np.full((60, 80, 3), 128, np.uint8), np.full((80, 60, 3), 128, np.uint8)]
    small, one, large = np.full((15, 20), 0.5), np.ones((20, 15)), np.full((20, 15), 1.5)
    joints = [np.array([[[20.0, 20.0, 2.0], [-900.0, 0.0, 0.0]]]), np.zeros((0, 2, 3))]
    red, blue = "#67001f", "#053061"  # the ends of the colour map

    def drawn(name, *maps, **options):
        return pixels(view.scale_maps(images, maps, tmp_path / name, names=["$a$ $", "b"], **options))

    first, second = drawn("ends.png", small, large), drawn("middle.png", small, one)
    assert near(first, red) > 2000 and near(first, blue) > 2000
    assert near(second, red) > 2000 and near(second, blue) < near(first, blue) / 4  # the colour bar has some
    assert near(first, palette.TRUTH) == 0 and near(drawn("dots.png", small, large, joints=joints), palette.TRUTH) > 5
    for maps in ((one, one), (one.astype(np.float32), large)):
        drawn("flat.png", *maps, columns=1)


@pytest.mark.filterwarnings("error")
def test_scale_against_size(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, text, **_: titles.append(text))
    size = np.linspace(20, 300, 50)
    picture = pixels(view.scale_against_size(size, 0.7 + size / 400, tmp_path / "a" / "size.png", r=0.1239))
    assert (picture[..., 2] > picture[..., 0] + 40).sum() > 100
    view.scale_against_size(size[:0], size[:0], tmp_path / "none.png", r=float("nan"))
    assert "r = 0.124" in titles[0] and "50 people" in titles[0] and "r undefined" in titles[1]


IMAGES = [np.zeros((8, 8, 3), np.uint8)] * 2
POSES = [np.zeros((1, 17, 3))] * 2
MAPS = np.ones((2, 4, 4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: view.people([], [], COCO17, path), "no images"),
        (
            lambda path: view.people(IMAGES, POSES[:1], COCO17, path),
            "poses must have one entry for each of the 2.*got 1",
        ),
        (lambda path: view.people(IMAGES, POSES, COCO17, path, truth=POSES[:1]), "truth must have one entry"),
        (
            lambda path: view.people(IMAGES, POSES, CROWDPOSE14, path),
            r"poses\[0\] is \(1, 17, 3\), expected \(P, 14, 3\)",
        ),
        (lambda path: view.people(IMAGES, np.zeros((2, 1, 17, 2)), COCO17, path), r"expected \(P, 17, 3\)"),
        (lambda path: view.scale_maps(IMAGES, MAPS[:1], path), "factors must have one entry for each of the 2"),
        (lambda path: view.scale_maps(IMAGES, MAPS[:, None], path), r"factors\[0\] is \(1, 4, 4\), expected \(h, w\)"),
        (lambda path: view.scale_maps(IMAGES, MAPS / 0, path), r"factors\[0\] has 16 values that are not finite"),
        (lambda path: view.scale_maps(IMAGES, MAPS, path, names="a"), "names must have one entry"),
        (lambda path: view.scale_against_size(np.ones(3), np.ones(2), path, r=0.0), r"\(3,\) and \(2,\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_cannot_be_drawn_is_named(tmp_path, call, words):
    with pytest.raises(ValueError, match=words):
        call(tmp_path / "picture.png")
