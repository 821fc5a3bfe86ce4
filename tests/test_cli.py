"""The console script: its help, its tools, and errors without a traceback."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxpose import cli
from tests import tiny_coco, tiny_results

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "flax", "distrax", "orbax", "tensorflow", "tensorflow_datasets", "matplotlib")


def python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, **options
    )


def loaded(*words) -> list[str]:
    """The heavy modules that a command has loaded when it ends."""
    code = f"""
import sys
from jaxpose import cli
try:
    cli.main({[str(word) for word in words]!r})
except SystemExit as stop:
    assert stop.code == 0, stop.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1].replace("'", '"'))


def test_help_lists_the_tools(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(tool in text for tool in ("summary", "prepare", "synthetic", "import"))
    assert all(f"• {command} " in text for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_row_of_the_table_says_what_the_command_says_of_itself(command):
    function = cli.load(command)
    assert cli.COMMANDS[command][1] == inspect.getdoc(function).splitlines()[0]


def test_what_needs_no_jax_loads_none(tmp_path):
    truth, results, images = tiny_results.write(tmp_path)
    assert loaded("--help") == []
    assert loaded("evaluate", truth, results) == []
    assert loaded("view", "--help") == []
    assert loaded("view", "results", truth, results, "--images", images, "--count", 1) in ([], ["matplotlib"])
    assert loaded("view", "report", truth, results, "--images", images, "--count", 1) == []


def test_the_report_of_a_run_loads_no_jax(tmp_path):
    _, results, _ = tiny_results.write(tmp_path / "data")
    run = tmp_path / "run"
    (run / "results").mkdir(parents=True)
    results.rename(run / "results" / "step_2.json")
    assert loaded("view", "report", run, "--data", tmp_path / "data", "--split", "train", "--count", 1) == []
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("word", "nearest"), [("evalute", "evaluate"), ("predictions", "predict"), ("exprot", "export"), ("vieww", "view")]
)
def test_an_unknown_command_is_answered_with_the_nearest(word, nearest, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([word, "--flag"])
    assert stop.value.code == 2
    answer = capsys.readouterr().err
    assert answer.startswith(f"jaxpose: there is no command {word!r}. Did you mean {nearest!r}? The commands are ")
    assert answer.count("\n") == 1


def test_a_command_line_without_a_command_is_refused(capsys):
    for words in ([], ["--frobnicate"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2 and "evaluate" in capsys.readouterr().err


def test_evaluate_is_the_evaluation_module(tmp_path, capsys):
    truth, results, _ = tiny_results.write(tmp_path)
    words = [str(truth), str(results), "--errors"]
    cli.main(["evaluate", *words])
    output = capsys.readouterr().out
    assert {"AP", "errors"} <= set(json.loads(output.splitlines()[-1]))
    code = f"import sys, runpy; sys.argv[1:] = {words!r}; runpy.run_module('jaxpose.evaluation', run_name='__main__')"
    assert python(code).stdout == output
    with pytest.raises(SystemExit, match="^jaxpose: no result file found: .*nowhere.json does not exist"):
        cli.main(["evaluate", str(truth), str(tmp_path / "nowhere.json")])


def test_the_completion_of_a_shell_knows_the_flags_of_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--tyro-print-completion", "bash"])
    assert not stop.value.code
    script = capsys.readouterr().out
    assert all(flag in script for flag in ("--crowdpose", "--boxes", "--force", "--augment", "--flow-hidden"))


def test_synthetic_then_prepare(tmp_path, capsys):
    cli.main(["synthetic", str(tmp_path / "people"), "--train", "3", "--val", "1", "--label-noise", "2",
              "--person-sizes", "0.3", "1.5"])  # fmt: skip
    written = json.loads((tmp_path / "people" / "synthetic.json").read_text())
    assert written["label_noise"] == 2 and written["person_sizes"] == [0.3, 1.5]
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
    mouse = {"id": 7, "image_id": 100, "category_id": 2, "bbox": [1, 1, 30, 30], "keypoints": [5, 5, 2, 20, 20, 2]}
    data["annotations"].append(mouse)
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
    [["synthetic", "gs://bucket/people"], ["prepare", "set", "--data-dir=hdfs://host/x"], ["summary", "s3://b/run"]],
)
def test_a_url_is_refused_and_makes_no_folder(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"jaxpose: (gs|s3|hdfs)://?.* is a URL, not a path: mount the bucket"):
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
