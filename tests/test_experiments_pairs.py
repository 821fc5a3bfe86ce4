"""Pairs of poses as data of a run: batches that do not depend on the number of processes, and flags without meaning."""

import dataclasses
import pickle

import jax
import numpy as np
import pytest

from experiments import h36m_lifting
from experiments.common import pose_pairs
from experiments.common.config import check_same_run, settings
from jaxpose import parallel
from jaxpose.data import human36m
from jaxpose.data.formats import mpi_inf_3dhp
from jaxpose.data.synthetic import lifting
from jaxpose.skeleton import H36M17
from tests import test_data_formats_mpi_inf_3dhp

CONFIG = dataclasses.replace(
    h36m_lifting.PRESETS["tiny"], batch_size=8, net="videopose3d", widths=(3,), width=4, poses=5
)


def test_the_global_batch_is_the_same_for_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "global_batch", lambda batch, mesh: batch)
    train, val = lifting.load(tmp_path, poses=5)
    kind = pose_pairs.PosePairs(CONFIG, train, val, None)

    def second_batch(index: int, count: int) -> dict[str, np.ndarray]:
        monkeypatch.setattr(jax, "process_index", lambda: index)
        monkeypatch.setattr(jax, "process_count", lambda: count)
        return next(kind.train_batches(start_step=1, total=2))

    whole, halves = second_batch(0, 1), [second_batch(i, 2) for i in range(2)]
    assert whole["px"].shape == (8, 3, 17, 2)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([half[name] for half in halves]))


def test_a_run_stores_its_subjects_and_one_with_the_former_defaults_is_the_same(tmp_path):
    kind = pose_pairs.load(dataclasses.replace(CONFIG, data_dir=tmp_path))
    config, kind = pose_pairs.settle(CONFIG, kind, h36m_lifting.PAGE.make)
    now = settings(config)
    assert (now["train_subjects"], now["val_subjects"]) == (list(human36m.TRAIN), list(human36m.TEST))
    assert h36m_lifting.PAGE.settle is pose_pairs.settle
    before = now | {"train_subjects": ["S1", "S5", "S6", "S7", "S8"], "val_subjects": ["S9", "S11"]}
    check_same_run(h36m_lifting.Config, before, now, tmp_path)
    with pytest.raises(ValueError, match="train-subjects"):
        check_same_run(h36m_lifting.Config, before, now | {"train_subjects": ["S1"]}, tmp_path)


def test_an_evaluation_refuses_subjects_that_the_run_was_trained_on():
    task, _ = h36m_lifting.PAGE.make(CONFIG, H36M17)
    stored = {"task": task.config, "run": {"data": "h36m", "train_subjects": ["S1", "S5"]}}
    config = dataclasses.replace(CONFIG, data="h36m", val_subjects=("S5",)).as_trained(stored)
    with pytest.raises(ValueError, match="--train-subjects S1 S5 --val-subjects S5: S5 is in both"):
        config.with_subjects()
    assert dataclasses.replace(config, val_subjects=None).with_subjects().val_subjects == human36m.TEST
    assert CONFIG.as_trained({"task": task.config}).train_subjects is None


def test_mmposes_files_of_mpi_inf_3dhp_are_opened(tmp_path):
    joints, px = test_data_formats_mpi_inf_3dhp.poses()
    one = np.ones((len(px), 17, 1))
    arrays = {"part": np.concatenate([px, one], -1), "S": np.concatenate([joints / 1000, one], -1)}
    lens = test_data_formats_mpi_inf_3dhp.LENS
    for name, key, split in (("train", "S4_Seq2_Cam0", "train"), ("test_valid", "TS1", "test")):
        names = np.array([f"{key}_{i + 1:06d}.jpg" for i in range(len(px))])
        np.savez(tmp_path / f"mpi_inf_3dhp_{name}.npz", imgname=names, **arrays)
        camera = {"f": lens["focal"], "c": lens["center"], "w": 2048, "h": 2048}
        (tmp_path / f"cameras_{split}.pkl").write_bytes(pickle.dumps({key: camera}))
    config = dataclasses.replace(CONFIG, data=tmp_path)
    assert config.with_subjects().val_subjects == mpi_inf_3dhp.TEST
    kind = pose_pairs.load(config)
    assert kind.train.subject.tolist() == ["S4"] * 4 and kind.val.subject.tolist() == ["TS1"] * 4
    (tmp_path / "cameras_test.pkl").unlink()
    with pytest.raises(ValueError, match=r"the camera of 'TS1_000001.jpg' is unknown: .*cameras\.pkl does not have it"):
        pose_pairs.load(config)


def test_flags_that_mmposes_files_would_ignore_are_refused(tmp_path):
    (tmp_path / "h36m_train.npz").touch()
    for flag, value in (("keypoints", "cpn_ft_h36m_dbb"), ("every", 5), ("val_every", 64)):
        config = dataclasses.replace(CONFIG, data=tmp_path, **{flag: value})
        with pytest.raises(ValueError, match=rf"--{flag.replace('_', '-')} {value}: .*no meaning"):
            pose_pairs.load(config)
