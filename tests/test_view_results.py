"""`jaxpose view results`: from two JSON files to sheets, the worst first; what is wrong is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxpose import cli
from jaxpose.evaluation import cases, report
from jaxpose.view import palette, tiles
from jaxpose.view import results as tool
from tests import tiny_coco, tiny_results

ROOT = Path(__file__).parents[1]


def shown(capsys, *arguments):
    cli.main(["view", "results", *map(str, arguments)])
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_sheets_and_list(tmp_path, capsys):
    truth, results, images = tiny_results.write(tmp_path)
    said = shown(capsys, truth, results, "--images", images, "--count", "3")
    kinds = {kind: said[kind] for kind in ("people", "results", "matched", "missed", "unmatched")}
    found, _ = cases.compare(truth, results)
    expected = report.from_results(truth, results)["matched"]
    assert kinds == {
        "people": 10, "results": 10, "matched": expected["pairs"], "missed": 10 - expected["pairs"],
        "unmatched": 10 - expected["pairs"],
    }  # fmt: skip
    assert said["images_missing"] == 0 and expected["pairs"] >= 5
    names = [Path(path).name for path in said["sheets"]]
    assert names == ["worst_1.png", "best_1.png", "missed_1.png", "unmatched_1.png"]
    assert Path(said["sheets"][0]).parent == tmp_path / "results"
    assert all(np.asarray(Image.open(path).convert("L")).std() > 10 for path in said["sheets"])
    lines = [json.loads(line) for line in (tmp_path / "results" / "cases.jsonl").read_text().splitlines()]
    similarities = [line["oks"] for line in lines if line["kind"] == "matched"]
    assert len(lines) == len(found) and similarities == sorted(similarities)
    worst = next(line for line in lines if line["kind"] == "matched")
    assert worst["EPE"] == pytest.approx(np.mean(list(worst["errors"].values())), abs=1e-3)


def test_the_titles_say_what_is_known(tmp_path, monkeypatch, capsys):
    truth, results, images = tiny_results.write(tmp_path)
    titles = {}
    monkeypatch.setattr(
        tool.figures, "tile_sheet", lambda pictures, texts, path, **_: titles.setdefault(path.name, texts)
    )
    shown(capsys, truth, results, "--images", images)
    found, _ = cases.compare(truth, results)
    worst = min((case for case in found if case.kind == "matched"), key=lambda case: case.oks)
    assert titles["worst_1.png"][0] == (
        f"OKS {worst.oks:.3f}   score {worst.score:.3f}\n"
        f"image {worst.image['id']}  person {worst.person['id']}  row {worst.row}"
    )
    assert titles["missed_1.png"][0].startswith("missed\nimage 100  person ")
    assert any(title.startswith("unmatched   score 0.550") for title in titles["unmatched_1.png"])


@pytest.mark.parametrize("side", ["truth", "prediction"])
def test_a_tile_shows_its_pose_where_it_is(side):
    """A joint at the centre of a known pixel, drawn there; and nothing of the other pose."""
    person = {"id": 1, "image_id": 1, "bbox": [0, 0, 23, 29], "keypoints": [5.0, 7.0, 2]}
    record = {"keypoints": [17.0, 21.0, 0.9], "score": 1.0}
    case = cases.Case("matched", {"id": 1}, person, record, 0, 0.5)
    tile = np.asarray(
        tiles.draw(case, None, limbs=[], **{"truth" if side == "prediction" else "prediction": False})
    ).astype(int)
    x0, y0, x1, _ = tiles.around(case, aspect=240 / 300)
    zoom = 240 / (x1 - x0)
    truth, found = palette.TILE_TRUTH.rgb, palette.TILE_PREDICTION.rgb
    ours, other = (truth, found) if side == "truth" else (found, truth)
    rows, columns = np.nonzero(abs(tile - ours).sum(-1) < 30)
    where = (5, 7) if side == "truth" else (17, 21)
    expected = [(where[0] - x0 + 0.5) * zoom - 0.5, (where[1] - y0 + 0.5) * zoom - 0.5]
    np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=0.6)
    assert (abs(tile - other).sum(-1) < 30).sum() == 0


def test_the_picture_lies_under_the_pose():
    """The pixel under a joint, cut out and enlarged, is where the joint is drawn; beyond the image it is grey."""
    picture = np.zeros((40, 30, 3), np.uint8)
    picture[12, 9] = 255
    case = cases.Case("missed", {"id": 1}, {"id": 1, "bbox": [-5, 2, 24, 30], "keypoints": [9.0, 12.0, 2]})
    tile = np.asarray(tiles.draw(case, Image.fromarray(picture), limbs=[], truth=False)).astype(int)
    x0, y0, x1, _ = tiles.around(case, aspect=240 / 300)
    zoom = 240 / (x1 - x0)
    light = np.where(tile.min(-1) > 180, 1.0, 0.0)
    rows, columns = np.nonzero(light)
    np.testing.assert_allclose(
        [columns.mean(), rows.mean()], [(9.5 - x0) * zoom - 0.5, (12.5 - y0) * zoom - 0.5], atol=1
    )
    assert (tile[:, : int(-x0 * zoom) - 1] == palette.NO_IMAGE.rgb).all() and x0 < -1


def test_a_picture_fits_into_its_limit():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 240, 3), dtype=np.uint8))
    assert len(tiles.data_uri(noise)) <= 40_000
    assert len(tiles.data_uri(noise, limit=2000)) <= 2000


def test_bad_input_is_one_line(tmp_path, capsys):
    truth, results, images = tiny_results.write(tmp_path)
    data = json.loads(truth.read_text())
    good = json.loads(results.read_text())

    def refused(words, *, results=results, truth=truth, images=images, more=()):
        with pytest.raises(SystemExit, match=words) as stop:
            cli.main(["view", "results", str(truth), str(results), "--images", str(images), *more])
        assert "\n" not in stop.value.code

    def other(name, content):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    refused("no result file .*nowhere.json", results=tmp_path / "nowhere.json")
    refused("no ground-truth file .*nowhere.json", truth=tmp_path / "nowhere.json")
    refused("--images .*nowhere is not a folder", images=tmp_path / "nowhere")
    refused("--count 0: expected 1 or more", more=("--count", "0"))
    short = [good[0] | {"keypoints": good[0]["keypoints"][:6]}]
    refused("result 0 has 2 keypoints, the ground truth's category has 17", results=other("s.json", json.dumps(short)))
    nan = json.dumps([good[0] | {"score": float("nan")}])
    refused("'score' holds nan, expected a finite Python number", results=other("n.json", nan))
    refused("is not JSON", results=other("cut.json", results.read_text()[:50]))
    (tmp_path / "empty").mkdir()
    refused(
        "none of the 5 images is in .*empty, the first is '00000..jpg' .No such file or directory.: .*--images",
        images=tmp_path / "empty",
        more=("--count", "99"),
    )
    # Without results, everybody is missed. One image that is missing is counted, and its tile is grey.
    bad = tiny_coco.damaged(tiny_coco.jpeg(tiny_coco.picture((40, 40))))
    (images / data["images"][1]["file_name"]).write_bytes(bad)
    said = shown(capsys, truth, other("none.json", "[]"), "--images", images)
    assert (said["missed"], said["results"], said["images_missing"]) == (10, 0, 1)
    assert [Path(path).name for path in said["sheets"]] == ["missed_1.png"]


def test_a_file_name_does_not_leave_the_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.jpg").write_bytes(tiny_coco.jpeg(tiny_coco.picture((40, 40))))
    (tmp_path / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    pictures = tiles.Pictures(tmp_path / "images")
    names = ["../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "a\0b", "", 7, None]
    assert all(pictures.get({"id": i, "file_name": name}) is None for i, name in enumerate(names))
    assert "leads out of the image folder" in pictures.missing["../secret.jpg"]
    (tmp_path / "images" / "own.jpg").write_bytes((tmp_path / "secret.jpg").read_bytes())
    assert pictures.get({"id": "own", "file_name": "own.jpg"}).size == (40, 40)


def test_neither_jax_nor_tensorflow_is_loaded(tmp_path):
    truth, results, images = tiny_results.write(tmp_path)
    code = f"""
import sys
sys.modules["jax"] = sys.modules["tensorflow"] = None  # an import of them fails
from jaxpose.view.results import results
from jaxpose.view.report import report
from pathlib import Path
import jaxpose.view.tools
results(Path({str(truth)!r}), Path({str(results)!r}), images=Path({str(images)!r}), count=1)
report(Path({str(truth)!r}), Path({str(results)!r}), images=Path({str(images)!r}), count=2)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "results.html").is_file()
