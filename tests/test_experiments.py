"""Every experiment's tiny run, the way a user starts it; resuming after a kill; evaluating a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import soak
from experiments import ablation_rle, coco_rle
from experiments.common import persons, runner
from experiments.common.config import check_same_run, parse
from experiments.common.log import Log
from jaxpose import checkpoint, parallel
from tests import tiny_coco, tiny_run
from tests.test_parallel import free_port

ROOT = Path(__file__).parents[1]
TINY = (
    "--preset",
    "tiny",
    "--synthetic-images",
    "24",
    "--width",
    "4",
    "--size-wh",
    "24",
    "32",
    "--batch-size",
    "8",
    "--log-every",
    "2",
)
# A net that compiles quickly: every process of a cluster compiles all of it. Its flow has arrays that --fsdp splits.
TINIER = ("--resnet-stages", "1", "--likelihood.flow-layers", "2", "--no-flip-test", "--no-plots")

IN_A_CLUSTER = """
import sys
from pathlib import Path
from experiments.common import runner
from jaxpose import checkpoint, parallel

def main():
    number, coordinator, locked, out = sys.argv[1:]
    parallel.start_multihost(coordinator=coordinator, num_processes=2, process_id=int(number))
    try:
        parallel.on_first(lambda: 1 / 0)
    except (ValueError, ZeroDivisionError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    try:
        with runner.only_run_in(Path(locked)):
            print("not held", file=sys.stderr)
    except ValueError as error:
        print(f"ValueError: {error}", file=sys.stderr, flush=True)
    with runner.only_run_in(Path(out)):
        checkpoint.Checkpoints(Path(out) / "checkpoints")

runner.command(main)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def command(out: Path, prepared: Path, *options: str) -> list[str]:
    return ["--out", str(out), "--data-dir", str(prepared), *TINY, *options]


def params(out: Path):
    return checkpoint.restore_model(out, step="latest")


@pytest.mark.slow
def test_the_main_job_trains_resumes_evaluates_and_draws(tmp_path, prepared, capsys, caplog, monkeypatch):
    out = tmp_path / "run"
    scores = coco_rle.main(command(out, prepared, "--epochs", "2", "--eval-every", "1"))
    for key in ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL", "EPE", "calibration_error"):
        assert np.isfinite(scores[key]), key
    events = Log(out).events()
    assert {e["event"] for e in events} == {"train", "eval", "end"}
    assert all(np.isfinite(e["loss"]) and e["images_per_s"] > 0 for e in events if e["event"] == "train")
    for name in ("curves", "density", "calibration", "predictions"):
        assert (out / "plots" / f"{name}.png").stat().st_size > 5000
    page = (out / "report.html").read_text()
    assert f"run: step_{events[-1]['step']}" in page and "calibration" in page and page.count("<figure") > 0
    assert list((out / "tensorboard").iterdir())
    _, stored = params(out)
    assert stored["metrics"]["AP"] == pytest.approx(scores["AP"])

    # The same command again has nothing left to do; --eval-only gives the numbers of the run.
    again = coco_rle.main(command(out, prepared, "--epochs", "2", "--eval-every", "1"))
    assert again["AP"] == pytest.approx(scores["AP"])
    capsys.readouterr()
    evaluated = coco_rle.main([*command(out, prepared)[2:], "--eval-only", str(out)])
    best = max((e for e in events if e["event"] == "eval"), key=lambda e: (e["AP"], e["step"]))
    assert evaluated["AP"] == pytest.approx(best["AP"], abs=1e-9)
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert line["AP"] == pytest.approx(best["AP"], abs=1e-9)
    assert Path(line["results"]) == out / "results" / f"eval_{line['checkpoint_step']}_val.json", (
        "in the run that it evaluates"
    )
    results = json.loads(Path(line["results"]).read_text())
    assert results and {"image_id", "category_id", "keypoints", "score"} <= set(results[0])

    # Boxes that are off by up to a third give other, named results.
    coco_rle.main([*command(out, prepared)[2:], "--eval-only", str(out / "checkpoints"), "--box-jitter", "0.3"])
    jittered = json.loads((out / "results" / f"eval_{line['checkpoint_step']}_val_jitter.json").read_text())
    assert len(jittered) > 0 and jittered != results

    # A run that was killed before its pictures draws them when it is started again, also without its log and its page.
    (out / "plots" / "predictions.png").unlink()
    log = (out / "log.jsonl").read_text()
    (out / "log.jsonl").unlink()
    monkeypatch.setattr(persons.Persons, "report", lambda *arguments: 1 / 0)
    coco_rle.main(command(out, prepared, "--epochs", "2", "--eval-every", "1"))
    assert (out / "plots" / "predictions.png").stat().st_size > 5000
    assert "but without its report.html: ZeroDivisionError" in caplog.text and "without its plots" not in caplog.text
    (out / "log.jsonl").write_text(log)
    assert [e["event"] for e in Log(out).events()].count("end") == 1

    # Other settings are another run.
    with pytest.raises(ValueError, match=r"--seed was 0, is 5"):
        coco_rle.main(command(out, prepared, "--epochs", "3", "--seed", "5"))
    with pytest.raises(ValueError, match=r"--clip-norm was 10.0, is None"):
        coco_rle.main(command(out, prepared, "--epochs", "3", "--clip-norm", "None"))


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_ends_with_the_bits_of_one_that_was_not(capsys):
    options = soak.Options(kills=3, epochs=12, checkpoint_every=3, seed=1)
    line = soak.main(options)
    assert line["kills"] == 3 and line["steps"] > 20 and line["runs_compared_bit_by_bit"] >= 1
    assert sum(line["ends"].values()) == 3 and any(", save," in end for end in line["ends"])


def test_the_soak_knows_what_is_under_way(tmp_path):
    assert not soak.saving(tmp_path) and not soak.preparing(tmp_path)
    for name in ("run/checkpoints/3", "data/synthetic_24_0", "data/coco_keypoints/a/1.0.0"):
        (tmp_path / name).mkdir(parents=True)
    assert not soak.saving(tmp_path) and not soak.preparing(tmp_path)
    (tmp_path / "run/checkpoints/6.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "data/coco_keypoints/a/incomplete.x_1.0.0").mkdir()
    assert soak.saving(tmp_path) and soak.preparing(tmp_path)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_and_says_so_and_no_second_one_starts_beside_it(tmp_path, prepared):
    options = ("--epochs", "4000", "--eval-every", "4000", "--no-plots")
    run = subprocess.Popen(
        [sys.executable, "-m", "experiments.coco_rle", *command(tmp_path, prepared, *options)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.time() + 200
    while not (tmp_path / "log.jsonl").exists() and run.poll() is None and time.time() < deadline:
        time.sleep(0.05)
    with pytest.raises(ValueError, match=rf"another run trains into {tmp_path} \(process {run.pid} on "):
        coco_rle.main(command(tmp_path, prepared, *options))
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=200)
    assert run.returncode == runner.PREEMPTED == 75, errors[-3000:]
    _, stored = params(tmp_path)
    assert f"asked to stop after step {stored['step']}: start the same command again" in errors


def start_cluster(options: list[str], processes: int, *, devices: int = 1) -> list[subprocess.Popen]:
    """The main job in several processes, with so many devices each."""
    cluster = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(processes), "--process-id"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    # All of them compile: were some to find the program in a cache, they would wait for the others, and Gloo waits 30 seconds.
    alike = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "experiments.coco_rle", *options, *cluster, str(i)], cwd=ROOT, text=True,
            env={**os.environ, **alike}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for i in range(processes)
    ]  # fmt: skip


def errors_of(processes: list[subprocess.Popen]) -> list[str]:
    """What they wrote to the error stream, when they have ended."""
    return [process.communicate(timeout=300)[1] for process in processes]


@pytest.mark.slow
def test_four_processes_go_on_from_one_and_one_from_four(tmp_path, prepared):
    def options(out, epochs):
        return command(tmp_path / out, prepared, *TINIER, "--epochs", epochs, "--eval-every", "2")

    coco_rle.main(options("alone", "6"))
    coco_rle.main(options("both", "2"))
    four = start_cluster([*options("both", "4"), "--fsdp", "4"], 4, devices=2)
    errors = errors_of(four)
    assert [process.returncode for process in four] == [0] * 4, errors[0][-3000:]
    assert "resumed at step" in errors[0] and "8 devices" in errors[0] and "4 processes" in errors[0]
    whole, held = map(
        float, re.search(r"optimiser's state of ([\d.]+) MB each device holds ([\d.]+)", errors[0]).groups()
    )
    assert held < 0.75 * whole
    of_four = max((tmp_path / "both" / "results").glob("step_*[0-9].json"), key=lambda path: path.stat().st_mtime)
    records = json.loads(of_four.read_text())
    assert len(records) % 8, "the last batch is ragged"

    # One process evaluates what four have saved: the same people in the same order.
    last = str(checkpoint.restore_model(tmp_path / "both", step="latest")[1]["step"])
    for folder in (tmp_path / "both" / "checkpoints").iterdir():
        if folder.name != last:
            shutil.rmtree(folder)
    coco_rle.main([*options("both", "4")[2:], "--eval-only", str(tmp_path / "both")])
    [of_one] = (tmp_path / "both" / "results").glob("eval_*_val.json")
    again = json.loads(of_one.read_text())
    ids = ("image_id", "category_id", "id")
    assert [[r.get(k) for k in ids] for r in again] == [[r.get(k) for k in ids] for r in records]
    for key in ("keypoints", "score"):
        np.testing.assert_allclose([r[key] for r in again], [r[key] for r in records], rtol=1e-4, atol=1e-3)

    coco_rle.main(options("both", "6"))
    here, there = (
        {e["step"]: e["loss"] for e in Log(tmp_path / out).events() if e["event"] == "train"} for out in ("both", "alone")
    )  # fmt: skip
    assert there.keys() <= here.keys() and len(there) > 10
    np.testing.assert_allclose([here[step] for step in there], list(there.values()), rtol=1e-3)


@pytest.mark.slow
def test_processes_stop_together_when_one_is_asked_to_and_when_one_dies(tmp_path, prepared):
    options = command(tmp_path / "run", prepared, *TINIER, "--epochs", "4000", "--eval-every", "4000")

    def start(processes):
        log, deadline = tmp_path / "run" / "log.jsonl", time.time() + 200
        before = log.stat().st_size if log.exists() else 0
        started = start_cluster(options, processes)
        while not (log.exists() and log.stat().st_size > before) and time.time() < deadline:
            time.sleep(0.05)
        return started

    both = start(2)
    both[1].send_signal(signal.SIGTERM)
    errors = errors_of(both)
    assert [process.returncode for process in both] == [runner.PREEMPTED] * 2, errors[0][-3000:]
    saved = params(tmp_path / "run")[1]["step"]
    assert all(f"asked to stop after step {saved}" in text for text in errors)

    *survivors, victim = start(4)
    victim.kill()
    died = time.monotonic()
    errors = errors_of(survivors)
    assert time.monotonic() - died < 60
    victim.communicate()
    assert [process.returncode for process in survivors] == [1] * 3, "JAX ends those that wait for the dead by SIGABRT"
    assert f"resumed at step {saved}" in errors[0]
    for i, text in enumerate(errors):
        assert f"process {i} of 4 stops: " in text and "start all of them again with the same command" in text


@pytest.mark.slow
def test_the_ablation_prints_its_table(tmp_path, capsys):
    rows = ("l1", "laplace", "dle", "rle", "rle_paper_log_s")
    options = ["--out", str(tmp_path), "--rows", *rows, "--seeds", "0", "--steps", "4", "--images", "15", "--copies",
               "1", "--batch-size", "8", "--width", "4", "--size-wh", "24", "32", "--evaluations", "2"]  # fmt: skip
    runs = ablation_rle.main(options)
    assert [run["row"] for run in runs] == list(rows)
    for run in runs:
        assert len(run["curve"]) == 2 and np.isfinite(run["oracle_NLL"]) and np.isfinite(run["EPE"])
        assert ("NLL" in run) == (run["row"] != "l1")
    printed = capsys.readouterr().out
    assert "| rle_paper_log_s | 1 | 0 |" in printed
    assert (tmp_path / "curves.png").stat().st_size > 5000

    assert ablation_rle.main(options) == runs, "the same command again trains nothing"


def test_an_unknown_preset_or_row_names_the_known_ones(tmp_path):
    with pytest.raises(SystemExit, match="--preset none: expected one of tiny, official, mmpose"):
        coco_rle.main(["--preset", "none"])
    with pytest.raises(SystemExit, match="--rows l3: expected some of l1, l2"):
        ablation_rle.main(["--rows", "l3", "--out", str(tmp_path)])


def test_help_explains_the_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        coco_rle.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--likelihood.variant" in text and "Global batch size" in text and "--preset" in text


@pytest.mark.parametrize("preset", coco_rle.PRESETS)
def test_presets_parse_and_overrides_win(preset):
    config = parse(
        coco_rle.PRESETS,
        name="coco_rle",
        default="tiny",
        description="",
        argv=["--preset", preset, "--learning-rate", "0.5"],
    )
    assert config.learning_rate == 0.5 and config.out == Path("runs/coco_rle")
    assert config.size_wh == coco_rle.PRESETS[preset].size_wh


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--log-every", "0"], "--log-every 0: expected a positive number"),
        (["--eval-every", "0"], "--eval-every 0.0: expected a positive number"),
        (["--epochs", "-3"], "--epochs -3.0: expected a positive number"),
        (["--synthetic-images", "1"], "--synthetic-images 1: expected 2 or more"),
        (["--milestones", "9", "3"], r"--milestones \(9.0, 3.0\): expected epochs that increase"),
        (["--nms", "0"], "--nms 0.0: expected an OKS above 0"),
        (["--ema", "1"], "--ema 1.0: expected a decay between 0 and 1"),
        (["--box-jitter", "15"], "--box-jitter 15.0: expected a part of the box"),
        (
            ["--annotations", "gs://bucket/a.json"],
            "--annotations gs:/bucket/a.json is a URL, not a path: mount the bucket",
        ),
        (["--data-dir", "hdfs://host/data"], "--data-dir hdfs:/host/data is a URL, not a path: mount the bucket"),
        (["--out", "az://bucket/run"], "--out az:/bucket/run is a URL"),
        (["--eval-only", "https://host/run"], "--eval-only https:/host/run is a URL"),
    ],
)
def test_flags_are_checked_at_the_door(flags, message):
    with pytest.raises(ValueError, match=message):
        coco_rle.main(flags)


def test_the_same_data_in_another_place_is_the_same_run(tmp_path):
    stored = {"data": "/a/coco", "seed": 0, "epochs": 3.0, "ema": None}
    check_same_run(coco_rle.Config, stored, stored | {"data": "/b/coco", "epochs": 9.0, "new_flag": 1}, tmp_path)
    for change in ({"data": "/a/mouse"}, {"data": None}, {"ema": 0.9}):
        with pytest.raises(ValueError, match=f"--{next(iter(change))} was"):
            check_same_run(coco_rle.Config, stored, stored | change, tmp_path)


def test_pixels_made_in_another_way_are_another_run(tmp_path):
    for stored in ({}, {"decode": None}, {"decode": "exact"}):
        for same in ({}, {"decode": None}, {"decode": "exact"}):
            check_same_run(coco_rle.Config, stored, same, tmp_path)
        with pytest.raises(ValueError, match="--decode was exact, is scaled"):
            check_same_run(coco_rle.Config, stored, {"decode": "scaled"}, tmp_path)
    check_same_run(coco_rle.Config, {"decode": "scaled"}, {"decode": "scaled"}, tmp_path)
    with pytest.raises(ValueError, match="--decode was scaled, is exact"):
        check_same_run(coco_rle.Config, {"decode": "scaled"}, {"decode": None}, tmp_path)


def test_the_way_of_decoding_reaches_the_batches_and_a_run_is_evaluated_in_its_own(tmp_path):
    from jaxpose.data import crops
    from jaxpose.data.formats import coco

    source = coco.read(*coco.find(tiny_coco.write(tmp_path, tiny_coco.content(4)), "train"))
    config = dataclasses.replace(coco_rle.PRESETS["tiny"], size_wh=(12, 16), batch_size=8, augment="none")
    mesh, images = parallel.make_mesh(), {}

    def kind(config):
        return persons.Persons(config, source, source, None, mesh)

    for decode in (None, "exact", "scaled"):
        batches = kind(dataclasses.replace(config, decode=decode)).train_batches(start_step=0, total=1)
        images[decode] = np.asarray(next(batches)["image"])
        expected = crops.train_batches(source, size_wh=(12, 16), batch_size=8, augment="none", decode=decode or "exact")
        np.testing.assert_array_equal(images[decode], next(expected)["image"])
    assert (images["scaled"] != images["exact"]).any()

    task = tiny_run.regression_task().config | {"size_wh": [12, 16]}
    stored = {"task": task, "run": {"decode": "scaled"}}
    trained = config.as_trained(stored)
    assert (trained.decoding(), kind(trained).variant()) == ("scaled", "_scaled")
    assert config.as_trained(stored | {"run": {}}).decoding() == "exact"
    run = tiny_run.write(tmp_path / "run", tiny_run.regression_task(), run={"decode": "scaled"})
    for flags, decode in (([], "scaled"), (["--decode", "exact"], "exact")):
        config = coco_rle.PAGE.parse(["--eval-only", str(run), *flags])
        assert config.decoding() == decode, "what is given by hand wins"


def test_mistakes_end_in_one_line(monkeypatch):
    def main():
        raise FileNotFoundError("nowhere does not exist: name a folder")

    with pytest.raises(SystemExit, match="FileNotFoundError: nowhere does not exist: name a folder"):
        runner.command(main)
    monkeypatch.setenv("JAXPOSE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        runner.command(main)


@pytest.mark.slow
def test_what_process_0_finds_ends_every_process_at_once(tmp_path):
    locked, out = tmp_path / "locked", tmp_path / "damaged"
    (out / "checkpoints" / "3").mkdir(parents=True)
    (out / "checkpoints" / "3" / checkpoint.CHECKSUMS).write_text('{"weights": [1, 2]}')
    cluster = [f"127.0.0.1:{free_port()}", str(locked), str(out)]
    with runner.only_run_in(locked):
        both = [
            subprocess.Popen([sys.executable, "-c", IN_A_CLUSTER, str(i), *cluster], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": str(ROOT)})
            for i in (0, 1)
        ]  # fmt: skip
        errors = [process.communicate(timeout=120)[1] for process in both]
    for said in (
        "ZeroDivisionError: division by zero$",
        rf"ValueError: another run trains into {locked} \(process {os.getpid()} on ",
        rf"ValueError: every checkpoint in {out / 'checkpoints'} is damaged \(3: weights is missing\)",
    ):
        assert re.search(f"^{said}", errors[0], re.M), errors[0][-3000:]
        assert re.search(f"^ValueError: process 0 stops: {said}", errors[1], re.M), errors[1][-3000:]
    assert [process.returncode for process in both] == [1, 1], "JAX ends one that waits for the dead by SIGABRT"
    assert not any(text in "".join(errors) for text in ("start all of them again", "Traceback", "not held"))


def test_one_of_several_processes_ends_without_waiting_for_the_others(monkeypatch, capsys):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(runner.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(runner.os, "_exit", leave)
    for main, said in (
        (lambda: int("one"), r"ValueError: invalid literal[^\n]*\n"),
        (lambda: 1 / 0, r"Traceback [\s\S]*\nZeroDivisionError: division by zero\n"),
    ):
        with pytest.raises(SystemExit, match="1"):
            runner.command(main)
        assert re.fullmatch(said, capsys.readouterr().err)


def test_pictures_that_fail_cost_no_training(tmp_path, caplog):
    with runner.optional("plots", tmp_path):
        raise IndexError("list index out of range")
    [warning] = caplog.records
    assert warning.levelname == "WARNING" and not warning.exc_info
    assert "is complete, but without its plots: IndexError: list index out of range" in warning.getMessage()


def test_runs_from_before_a_setting_count_as_done_with_its_default():
    config = ablation_rle.Config()
    values = ablation_rle.settings(config, "rle")
    assert not {"label_noise", "person_sizes"} & set(values) and "flow_ends" not in values["likelihood"]
    for other in ({"label_noise": 2.0}, {"person_sizes": (0.2, 1.0)}):
        same = {name: list(value) if isinstance(value, tuple) else value for name, value in other.items()}
        assert ablation_rle.settings(dataclasses.replace(config, **other), "rle") == values | same


def test_rows_that_changed_and_broken_lines_are_trained_again(tmp_path, monkeypatch):
    config = ablation_rle.Config(out=tmp_path)
    run = {"row": "rle", "seed": 0, "AP": 0.5}
    line = json.dumps({**run, "settings": ablation_rle.settings(config, "rle")})
    (tmp_path / "runs.jsonl").write_text(json.dumps(run) + "\n" + line + "\n" + line[: len(line) // 2])
    assert list(ablation_rle.done(tmp_path / "runs.jsonl", config)) == [("rle", 0)]
    for other in ({"label_noise": 2.0}, {"steps": 7}):
        assert not ablation_rle.done(tmp_path / "runs.jsonl", dataclasses.replace(config, **other))
    changed = dataclasses.replace(ablation_rle.ROWS["rle"], sigma_bias=0.5)
    monkeypatch.setitem(ablation_rle.ROWS, "rle", changed)
    assert not ablation_rle.done(tmp_path / "runs.jsonl", config)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        coco_rle.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
