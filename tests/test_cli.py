"""The console script: its help, its tools, and errors without a traceback."""

from __future__ import annotations

import json

import pytest

from jaxpose import cli


def test_help_lists_the_tools(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(tool in text for tool in ("summary", "prepare", "synthetic"))


def test_synthetic_then_prepare(tmp_path, capsys):
    cli.main(["synthetic", str(tmp_path / "people"), "--train", "3", "--val", "1"])
    capsys.readouterr()
    cli.main(["prepare", str(tmp_path / "people"), "--data-dir", str(tmp_path / "data")])
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert said["split"] == "train" and said["joints"] == 17 and said["persons"] >= 1


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="jaxpose: .*nowhere"):
        cli.main(["prepare", str(tmp_path / "nowhere"), "--data-dir", str(tmp_path)])
