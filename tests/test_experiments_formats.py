"""`--format` on the pages: what `jaxpose prepare` reads, a page reads."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from experiments import coco_rle, crowdpose_swahr, mpii_integral, mpii_rle
from experiments.common import config, kinds
from jaxpose import cli
from tests import test_data_formats_crowdpose, test_data_formats_mpii, tiny_coco

PAGES = sorted(path.stem for path in Path(coco_rle.__file__).parent.glob("*_*.py") if "PRESETS = {" in path.read_text())
FOLDERS = {
    "coco": (tiny_coco.write, "train"),
    "mpii": (test_data_formats_mpii.write, "valid"),
    "crowdpose": (test_data_formats_crowdpose.write, "test"),
}


def test_pages_find_the_format_and_those_of_a_format_expect_theirs():
    own = dict.fromkeys(("mpii_rle", "mpii_integral", "mpii_debias", "mpii_simple_baseline"), "mpii")
    own["crowdpose_swahr"] = "crowdpose"
    assert {"coco_rle", "coco_swahr", "coco_hrnet", *own} <= set(PAGES)
    for name in PAGES:
        presets = importlib.import_module(f"experiments.{name}").PRESETS
        assert {preset.format for preset in presets.values()} == {own.get(name, "auto")}, name


@pytest.mark.parametrize("name", FOLDERS)
def test_a_page_reads_the_folder_that_prepare_has_prepared(name, tmp_path, capsys):
    write, split = FOLDERS[name]
    folder, data_dir = write(tmp_path / name), tmp_path / "data"
    cli.main(["prepare", str(folder), "--format", name, "--split", split, "--data-dir", str(data_dir)])
    prepared = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    settings = dataclasses.replace(
        coco_rle.PRESETS["tiny"], data=folder, data_dir=data_dir, train_split=split, val_split=split
    )
    train, val = kinds.open_splits(settings)
    assert str(train.directory) == str(val.directory) == prepared["directory"]
    assert len(val) == prepared["persons"] and val.skeleton.num_joints == prepared["joints"]


def test_a_folder_of_no_format_or_of_another_is_an_error_that_says_so(tmp_path):
    folder = tiny_coco.write(tmp_path / "people")
    settings = dataclasses.replace(coco_rle.PRESETS["tiny"], data=folder, data_dir=tmp_path / "data", val_split="valid")
    with pytest.raises(
        FileNotFoundError, match=r"no annotations for split 'valid' in .*coco\); .*mpii\); .*crowdpose\)"
    ):
        kinds.open_splits(settings)
    with pytest.raises(FileNotFoundError, match="no MPII annotations for split 'train'"):
        kinds.open_splits(dataclasses.replace(settings, format="mpii", val_split="train"))


@pytest.mark.parametrize("page", [mpii_rle, mpii_integral, crowdpose_swahr])
def test_the_flag_chooses_the_format(page):
    words = {"name": "page", "default": "tiny", "description": ""}
    assert config.parse(page.PRESETS, **words, argv=["--format", "coco"]).format == "coco"
    with pytest.raises(SystemExit):
        config.parse(page.PRESETS, **words, argv=["--format", "voc"])
