"""Pairs of poses as data of a run: batches that do not depend on the number of processes, and flags without meaning."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import h36m_lifting
from experiments.common import pose_pairs
from jaxpose import parallel
from jaxpose.data.synthetic import lifting

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


def test_flags_that_mmposes_files_would_ignore_are_refused(tmp_path):
    (tmp_path / "h36m_train.npz").touch()
    for flag, value in (("keypoints", "cpn_ft_h36m_dbb"), ("every", 5), ("val_every", 64)):
        config = dataclasses.replace(CONFIG, data=tmp_path, **{flag: value})
        with pytest.raises(ValueError, match=rf"--{flag.replace('_', '-')} {value}: .*no meaning"):
            pose_pairs.load(config)
