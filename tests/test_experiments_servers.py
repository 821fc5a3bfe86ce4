"""From a run to the archive for COCO's server: a split without labels, a detector's boxes, and `jaxpose submit`."""

from __future__ import annotations

import json

import pytest

from experiments import coco_rle
from jaxpose import cli
from jaxpose.evaluation import submission
from tests import tiny_coco, tiny_run


def test_coco_test_dev_from_a_run_to_the_archive(tmp_path, capsys, caplog):
    run = tiny_run.write(tmp_path / "run", tiny_run.regression_task())
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "test2017").mkdir()
    images = [{"id": 11 + i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(2)]
    for image in images:
        (folder / "test2017" / image["file_name"]).write_bytes(tiny_coco.jpeg(tiny_coco.picture((64, 48))))
    info = folder / "annotations" / "image_info_test-dev2017.json"
    info.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "person"}]}))
    boxes = [
        {"image_id": 11, "category_id": 1, "bbox": [i, i, 20 + i, 24], "score": 0.9 - 0.01 * i} for i in range(23)
    ] + [{"image_id": 12, "category_id": 3, "bbox": [0, 0, 20, 20], "score": 0.9}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    flags = ["--data", str(folder), "--data-dir", str(tmp_path / "data"), "--batch-size", "8", "--nms", "None"]
    scores = coco_rle.main(["--eval-only", str(run), *flags, "--val-split", "test-dev",
                            "--detections", str(tmp_path / "boxes.json")])  # fmt: skip
    assert scores == {} and "jaxpose submit packs them" in caplog.text
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    out = tmp_path / "person_keypoints_test-dev2017_mine_results.zip"
    cli.main(["submit", results, str(out), "--annotations", str(info)])
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"file": str(out), "persons": 20, "images": 1, "left_out": 3}
    assert {person["image_id"] for person in submission.read_zip(out)} == {11}


@pytest.mark.parametrize(
    ("preset", "loss", "variant"),
    [("l1", "l1", "official"), ("l2", "l2", "official"), ("dle", "dle", "paper"), ("gaussian", "gaussian", "official"),
     ("laplace", "laplace", "official"), ("rle_gaussian", "rle", "mmpose")],
)  # fmt: skip
def test_the_rows_of_tables_1_and_7_are_the_official_recipe_with_another_loss(preset, loss, variant):
    here, official = coco_rle.PRESETS[preset], coco_rle.PRESETS["official"]
    assert (here.likelihood.loss, here.likelihood.variant) == (loss, variant)
    assert here.likelihood.base == ("gaussian" if preset == "rle_gaussian" else "laplace")
    assert {name for name, value in vars(here).items() if value != getattr(official, name)} == {"likelihood"}
