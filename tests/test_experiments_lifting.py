"""The page h36m_lifting: its nets, its batches, a run from drawn people to its files, and the evaluation of that run."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import h36m_lifting
from experiments.common import persons, pose_pairs
from jaxpose import density, nets, tasks
from jaxpose.data.formats import videopose3d
from jaxpose.data.synthetic import lifting as synthetic
from jaxpose.evaluation import poses_3d
from jaxpose.skeleton import H36M17
from jaxpose.train import exponential_decay
from tests import test_data_pairs

TINY = (
    "--poses",
    "5",
    "--width",
    "8",
    "--batch-size",
    "16",
    "--epochs",
    "1",
    "--eval-every",
    "1",
    "--warmup-steps",
    "0",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    synthetic.load(folder, poses=5)
    return folder


def test_presets_make_their_nets():
    by_preset = {name: pose_pairs.make_tasks(config, H36M17)[0] for name, config in h36m_lifting.PRESETS.items()}
    assert isinstance(by_preset["fc"].net, nets.LinearLifter) and by_preset["fc"].net.dropout == 0.5
    assert by_preset["fc_rle"].net.dim == 6 and by_preset["fc_rle"].loss_settings.loss == "rle"
    assert isinstance(by_preset["srnet"].net, nets.SRNet) and by_preset["srnet"].net.groups == 5
    assert by_preset["videopose3d"].frames == 243 and by_preset["videopose3d"].loss_settings.loss == "mpjpe"
    for task in by_preset.values():
        assert tasks.from_config(task.config).config == task.config
    rate = exponential_decay(1e-3, factor=0.95, every=10)
    assert float(rate(9)) == pytest.approx(1e-3) and float(rate(10)) == pytest.approx(0.95e-3)


def kind(data_dir, **changes):
    config = replace(h36m_lifting.PRESETS["tiny"], poses=5, batch_size=16, data_dir=data_dir, **changes)
    return pose_pairs.load(config)


def test_a_batch_depends_on_the_seed_and_the_step_alone(data_dir):
    pairs = kind(data_dir)
    first = [jax.device_get(b) for b in pairs.train_batches(start_step=0, total=8)]
    again = [jax.device_get(b) for b in pairs.train_batches(start_step=5, total=8)]
    for a, b in zip(first[5:], again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    other = next(iter(kind(data_dir, seed=1).train_batches(start_step=0, total=1)))
    assert (np.asarray(other["px"]) != first[0]["px"]).any()
    # Half of the poses are mirrored: their projections stay those of the mirrored pixels.
    plain = next(iter(kind(data_dir, mirror=False).train_batches(start_step=0, total=1)))
    same = (np.asarray(plain["px"]) == first[0]["px"]).all(axis=(1, 2, 3))
    assert 0 < same.sum() < 16
    b = first[0]
    rays = b["joints"][..., :2] / b["joints"][..., 2:]
    assert np.abs(rays * b["focal"][:, None] + b["center"][:, None] - b["px"][:, 0]).max() < 12  # the lens


def test_perfect_and_mean_predictions(data_dir, tmp_path):
    pairs = kind(data_dir, out=tmp_path)
    truth = pose_pairs.truth_of(pairs.val).joints
    task, _ = pose_pairs.make_tasks(pairs.config, H36M17)
    scores = pairs.score({"joints": truth}, task, None, name="step_1", last=False)
    assert scores["MPJPE"] == 0 and scores["skill"] == 1 and scores["3DPCK"] == 1
    assert 0 < scores["MPJPE_linear"] < scores["MPJPE_mean_pose"] < 400
    mean = np.broadcast_to(pairs._guesses["MPJPE_mean_pose"], truth.shape)
    assert pairs.score({"joints": mean}, task, None, name="step_1", last=False)["skill"] == pytest.approx(0, abs=1e-9)


def test_a_run_and_its_evaluation(data_dir, tmp_path, capsys):
    out = tmp_path / "run"
    scores = h36m_lifting.main([*TINY, "--data-dir", str(data_dir), "--out", str(out), "--no-plots"])
    step = next((out / "results").glob("step_*_report.json"))
    files = out / "results" / "truth.json", step.with_name(step.name.replace("_report", ""))
    assert poses_3d.score(*files)["MPJPE"] == pytest.approx(scores["MPJPE"], abs=1e-2)
    capsys.readouterr()
    again = h36m_lifting.main(["--eval-only", str(out), "--poses", "5", "--data-dir", str(data_dir)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["MPJPE"] == pytest.approx(scores["MPJPE"], rel=1e-5)
    assert again["MPJPE_mean_pose"] == pytest.approx(scores["MPJPE_mean_pose"], rel=1e-6)
    page = pose_pairs.load(replace(h36m_lifting.PRESETS["tiny"], poses=5, data_dir=data_dir, out=out))
    page.report(files[1].stem)
    assert "Lifted poses" in (out / "report.html").read_text()


def test_a_run_with_rle_says_how_calibrated_it_is_in_space(data_dir, tmp_path):
    """Regions of the labels' own distribution hold as many joints as they say; the root, whose target is 0, does not count."""
    pairs = kind(data_dir, out=tmp_path, loss=tasks.LiftLoss(loss="rle", flow_layers=2, flow_hidden=(4,)))
    task, _ = pose_pairs.make_tasks(pairs.config, H36M17)
    count, variables = len(pairs.val), jax.jit(task.init)(jax.random.key(0))
    flow = jax.tree.map(lambda leaf: 0 * leaf, variables["params"]["flow"])  # G is the normal distribution
    truth = pose_pairs.truth_of(pairs.val).joints
    rng = np.random.default_rng(0)
    sigma = np.float32(rng.uniform(0.02, 0.1, truth.shape))
    model = task.density({"params": {"flow": flow}})
    # Of the official reading's density the standardised error is drawn on a grid, by the density itself.
    axis = np.linspace(-8, 8, 33)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    log_p = np.asarray(density.log_prob(grid.astype(np.float32), model), np.float64)
    p = np.exp(log_p - log_p.max())
    error = grid[rng.choice(len(grid), truth.shape[:-1], p=p / p.sum())] + rng.uniform(-0.25, 0.25, truth.shape)
    predictions = {"joints": truth, "mu": np.float32(truth / 1000 - sigma * error), "sigma": sigma}
    predictions["mu"][:, pairs.val.root], predictions["sigma"][:, pairs.val.root] = np.nan, np.nan
    report = pairs.density_report(predictions, task, model)["all"]
    assert report["count"] == count * 16
    np.testing.assert_allclose(report["coverage"], report["levels"], atol=0.13)  # three deviations of 128 joints
    wide = pairs.density_report(predictions | {"sigma": 5 * sigma}, task, model)["all"]
    assert wide["calibration_error"] > 0.15 > 3 * report["calibration_error"]
    scores = pairs.score(predictions, task, {"params": {"flow": flow}}, name="step_1")
    assert scores["calibration_error"] == report["calibration_error"] and "calibration_error" in pairs.headline
    stored = json.loads((tmp_path / "results" / "step_1_report.json").read_text())["density"]
    assert stored["all"]["levels"] == list(persons.LEVELS)
    pairs.report("step_1")
    page = (tmp_path / "report.html").read_text()
    assert "ellipsoids" in page and "regions of 90%" in page


def test_videopose3ds_folder_is_opened(tmp_path):
    world = {subject: {"Walking": synthetic.draw(subject, 3)[0]} for subject in ("S1", "S9")}
    videopose3d.write(tmp_path, world)
    config = replace(
        h36m_lifting.PRESETS["fc"], data=tmp_path, train_subjects=("S1",), val_subjects=("S9",), val_every=2
    )
    pairs = pose_pairs.load(config)
    assert len(pairs.train) == 12 and len(pairs.val) == 8 and pairs.val.frame.tolist() == [0, 2] * 4
    with pytest.raises(ValueError, match="no subject S5"):
        pose_pairs.load(replace(config, train_subjects=("S5",)))


def test_subjects_that_mmposes_file_lacks_are_named(tmp_path, caplog):
    path, _ = test_data_pairs.mmpose_file(tmp_path)
    assert len(pose_pairs._of_subjects(path, ("S1", "S9"), "--val-subjects")) == 3
    assert "--val-subjects S1 S9: " in caplog.text and "has no pose of S9; it has S1" in caplog.text
    with pytest.raises(ValueError, match="--val-subjects S9: .* has no pose of S9; it has S1"):
        pose_pairs._of_subjects(path, ("S9",), "--val-subjects")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "photos"], "--images photos: this page reads joints"),
        (["--groups", "3"], "--groups has no effect without --net srnet"),
        (["--loss.reading", "paper"], "--loss.reading has no effect without --loss.loss rle"),
        (["--every", "5"], "--every has no effect without --data"),
        (["--norm", "proj"], "--relative --norm proj"),
        (["--preset", "srnet", "--data", "d", "--val-subjects", "S1"], "S1 is in both"),
        (["--preset", "srnet", "--data", "d", "--widths", "2"], "odd numbers"),
        (["--preset", "fc", "--data", "d", "--norm", "lcn"], "only --net srnet does"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        config = h36m_lifting.PAGE.settings(flags)
        pose_pairs.make_tasks(config, H36M17)


def test_windows_and_mirrors_are_those_of_the_reference_code(golden):
    """VideoPose3D's generator of chunks: one frame out, five in, edges repeated, every chunk also mirrored."""
    from jaxpose.data import pairs as data

    g = golden("three_d/lifting")
    xy, joints = (np.concatenate([g[f"chunk_seq0_{d}"], g[f"chunk_seq1_{d}"]]) for d in ("2d", "3d"))
    sequence = np.repeat([0, 1], [len(g["chunk_seq0_2d"]), len(g["chunk_seq1_2d"])])
    zeros, names = np.zeros((len(xy), 2), np.float32), np.full(len(xy), "")
    source = data.Pairs(
        px=xy, joints=joints, focal=zeros, center=zeros, size_wh=zeros, sequence=sequence, frame=np.arange(len(xy)),
        subject=names, action=names, camera=names, skeleton=H36M17,
    )  # fmt: skip
    starts = {0: 0, 1: int(np.argmax(sequence))}
    index = np.array([starts[int(s)] + int(start) for s, start, _, _ in g["chunk_pairs"]])
    batch = pose_pairs.arrays(source, index, data.windows(source, 5)[index])
    batch = pose_pairs.mirror(batch, g["chunk_pairs"][:, 3] > 0, H36M17)
    np.testing.assert_allclose(batch["px"], g["chunk_batch_2d"], atol=1e-6)
    np.testing.assert_allclose(batch["joints"][:, None], g["chunk_batch_3d"], atol=1e-6)
