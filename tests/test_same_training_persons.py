"""Thirty steps of the pages on persons of COCO give the losses that an earlier version recorded (`tests/same_training.py`).

The other pages are in `test_same_training_others.py`, so that two workers share them.
"""

from __future__ import annotations

import pytest

from tests import same_training

pytestmark = pytest.mark.slow
PAGES = [page for page in same_training.PAGES if page.startswith("coco_") and page != "coco_swahr"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which the pages find one another's synthetic people."""
    return tmp_path_factory.mktemp("training")


@pytest.mark.parametrize("page", PAGES)
def test_thirty_steps_give_the_losses_of_before(page, folder):
    same_training.check(page, folder)
