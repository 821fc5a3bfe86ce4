"""Thirty steps of the pages on MPII, CrowdPose and whole images give the losses that an earlier version recorded.

The pages on COCO's persons are in `test_same_training_persons.py`, so that two workers share them.
"""

from __future__ import annotations

import pytest

from tests import same_training

pytestmark = pytest.mark.slow
PAGES = [page for page in same_training.PAGES if not page.startswith("coco_") or page == "coco_swahr"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which the pages find one another's synthetic people."""
    return tmp_path_factory.mktemp("training")


@pytest.mark.parametrize("page", PAGES)
def test_thirty_steps_give_the_losses_of_before(page, folder):
    same_training.check(page, folder)
