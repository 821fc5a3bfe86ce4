"""What users and data on disk know the modules of `jaxpose.data` by, from before their files moved."""

import importlib
import types

import pytest

from jaxpose.data import builder


@pytest.mark.parametrize(
    "former, name",
    [
        ("coco", "formats.coco.read"),
        ("coco", "source.DamagedData"),
        ("coco", "boxes.with_detections"),
        ("coco", "pixels.load_jpeg"),
        ("mpii", "formats.mpii.find"),
        ("crowdpose", "formats.crowdpose.read"),
        ("pipeline", "crops.train_batches"),
        ("pipeline", "feed.sample_indices"),
        ("images", "whole_images.eval_batches"),
    ],
)
def test_former_names_are_the_present_ones(former, name):
    module, _, attribute = name.rpartition(".")
    present = getattr(importlib.import_module(f"jaxpose.data.{module}"), attribute)
    assert getattr(importlib.import_module(f"jaxpose.data.{former}"), attribute) is present


@pytest.mark.parametrize(
    "former, name",
    [("torch_file", "weights.torch_file.load"), ("media", "predict.media.picture"), ("media", "view.overlay.draw")],
)
def test_former_names_outside_of_the_data_package(former, name):
    module, _, attribute = name.rpartition(".")
    present = getattr(importlib.import_module(f"jaxpose.{module}"), attribute)
    assert getattr(importlib.import_module(f"jaxpose.{former}"), attribute) is present


@pytest.mark.parametrize("name", ["coco", "mpii", "crowdpose"])
def test_a_folder_prepared_before_the_move_keeps_its_name(name):
    """The reader's name is part of the hash in a prepared folder's name, so it may not follow the file."""
    for place in ("jaxpose.data.formats", "jaxpose.data"):
        assert builder._lasting_name(importlib.import_module(f"{place}.{name}")) == f"jaxpose.data.{name}"
    assert builder._lasting_name(types.ModuleType("my_formats.mice")) == "my_formats.mice"
