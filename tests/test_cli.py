"""The console script: its help, its tools, and errors without a traceback."""

from __future__ import annotations

import json

import pytest

from jaxpose import cli
from tests import tiny_coco


def test_help_lists_the_tools(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(tool in text for tool in ("summary", "prepare", "synthetic", "import"))


def test_synthetic_then_prepare(tmp_path, capsys):
    cli.main(["synthetic", str(tmp_path / "people"), "--train", "3", "--val", "1"])
    capsys.readouterr()
    cli.main(["prepare", str(tmp_path / "people"), "--data-dir", str(tmp_path / "data")])
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert said["split"] == "train" and said["joints"] == 17 and said["persons"] >= 1 and said["skipped"] == 0


def prepared(capsys, *arguments):
    cli.main(["prepare", *map(str, arguments)])
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_prepare_passes_its_options_on(tmp_path, capsys):
    folder = tiny_coco.write(tmp_path / "set")
    data = json.loads((folder / "annotations" / "train.json").read_text())
    data["categories"].append({"id": 2, "name": "mouse", "keypoints": ["snout", "tail"]})
    (folder / "other.json").write_text(json.dumps(data))
    files = ("--annotations", folder / "other.json", "--images", folder / "train", "--data-dir", tmp_path / "data")
    with pytest.raises(SystemExit, match="several categories.*jaxpose prepare --category"):
        cli.main(["prepare", *map(str, files)])
    by_name = prepared(capsys, *files, "--category", "person", "--name", "mine")
    assert by_name["persons"] == 10 and "mine-train-" in by_name["directory"]
    assert prepared(capsys, *files, "--category", "1")["persons"] == 10
    assert prepared(capsys, *files, "--category", "mouse")["joints"] == 2
    again = prepared(capsys, *files, "--category", "person", "--name", "mine", "--force")
    assert again["directory"] != by_name["directory"]


@pytest.mark.parametrize(
    "words",
    [["synthetic", "gs://bucket/people"], ["prepare", "set", "--data-dir=gs://bucket/x"], ["summary", "s3://b/run"]],
)
def test_a_url_is_refused_and_makes_no_folder(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"jaxpose: (gs|s3)://.* is a URL, not a path: mount the bucket"):
        cli.main(words)
    assert list(tmp_path.iterdir()) == []


def test_prepare_verifies_and_counts_what_it_skips(tmp_path, capsys):
    folder = tiny_coco.write(tmp_path / "set")
    path = folder / "train" / "000001.jpg"
    path.write_bytes(tiny_coco.damaged(path.read_bytes()))
    options = (folder, "--data-dir", tmp_path / "data")
    assert prepared(capsys, *options)["skipped"] == 0
    with pytest.raises(SystemExit, match="000001.jpg.*--on-bad skip"):
        cli.main(["prepare", *map(str, options), "--verify"])
    for _ in range(2):  # the second time it is there already
        assert prepared(capsys, *options, "--verify", "--on-bad", "skip")["skipped"] == 1


def test_any_error_of_a_file_is_one_line(tmp_path):
    folder = tiny_coco.write(tmp_path / "set")
    (tmp_path / "data").write_text("a file, where a folder is to be")
    with pytest.raises(SystemExit, match="^jaxpose: .*data") as stop:
        cli.main(["prepare", str(folder), "--data-dir", str(tmp_path / "data")])
    assert "\n" not in stop.value.code
    with pytest.raises(SystemExit, match="--annotations.*--images"):
        cli.main(["prepare", "--data-dir", str(tmp_path / "elsewhere")])


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="jaxpose: .*nowhere"):
        cli.main(["prepare", str(tmp_path / "nowhere"), "--data-dir", str(tmp_path)])
