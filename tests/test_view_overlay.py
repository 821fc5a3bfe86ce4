"""Poses drawn on pictures, and one palette for the three drawing libraries."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpose import density, predict
from jaxpose.skeleton import COCO17
from jaxpose.view import overlay, palette


def test_only_shown_joints_are_drawn_and_strange_numbers_break_nothing():
    black = np.zeros((80, 80, 3), np.uint8)
    xy = np.full((1, 17, 2), 70.0)
    xy[0, 0] = 20, 30
    shown = np.zeros((1, 17), bool)
    assert not overlay.draw(black, xy, shown, COCO17).any()
    shown[0, 0] = True
    drawn = overlay.draw(black, xy, shown, COCO17)
    y, x = np.nonzero(drawn.any(-1))
    assert abs(x.mean() - 20) < 0.6 and abs(y.mean() - 30) < 0.6 and drawn[60:, 60:].sum() == 0
    assert not black.any(), "the picture itself is left alone"
    xy[0, 1:4] = (np.nan, 5), (1e12, -1e12), (np.inf, 3)
    assert overlay.draw(black, xy, ~shown, COCO17, box=np.array([[-1e9, 0, 2e9, 50]])).shape == black.shape


def test_people_have_the_colours_of_the_figures_and_nobody_is_green():
    pytest.importorskip("cv2")
    people, width = len(palette.PEOPLE) + 1, 40
    xy = np.stack([np.full((17, 2), (20 + width * i, 20)) for i in range(people)]).astype(float)
    xy[:, 0] += 12  # some extent, so that dots are large
    picture = overlay.draw(np.zeros((44, width * people, 3), np.uint8), xy, np.ones((people, 17), bool), COCO17)
    colors = [tuple(picture[20, 20 + width * i].tolist()) for i in range(people)]
    assert colors == [color.rgb for color in (*palette.PEOPLE, palette.PEOPLE[0])]
    assert palette.TRUTH not in palette.PEOPLE and len(set(palette.PEOPLE)) == len(palette.PEOPLE)
    greenest = max(color.rgb[1] - max(color.rgb[0], color.rgb[2]) for color in palette.PEOPLE)
    assert greenest < 0 < palette.TRUTH.rgb[1] - max(palette.TRUTH.rgb[0], palette.TRUTH.rgb[2])


@pytest.mark.parametrize("name", [name for name in dir(palette) if name.isupper() and name != "PEOPLE"])
def test_a_colour_is_six_hexadecimal_digits(name):
    color = getattr(palette, name)
    assert isinstance(color, palette.Color) and "#{:02x}{:02x}{:02x}".format(*color.rgb) == color


def test_outlines_are_those_of_predict():
    assert predict.outlines is overlay.outlines
    pytest.importorskip("contourpy")
    (curve,) = overlay.outlines(density.Model(log_g=None, base="gaussian"), 0.9)
    np.testing.assert_allclose(np.linalg.norm(curve, axis=-1), np.sqrt(2 * np.log(10)), atol=0.02)
