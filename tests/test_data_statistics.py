"""Means and deviations of joints: the reference code's numbers, the folded net, files, and bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose.data import human36m
from jaxpose.data.statistics import FIELDS, INPUT_JOINTS, OUTPUT_JOINTS, Statistics, folded
from jaxpose.data.synthetic import lifting
from jaxpose.nets import LinearLifter
from jaxpose.skeleton import H36M17

RAW17 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)


def pairs():
    world, kinds = lifting.draw("S1", 3)
    return lifting.seen(world, kinds, "S1")


def statistics():
    return Statistics.of(pairs())


def test_the_numbers_of_martinezs_code(golden):
    g = golden("three_d/metrics3d")
    assert [3 * RAW17[i] + k for i in OUTPUT_JOINTS for k in range(3)] == g["mart_use_3d"].tolist()
    assert [2 * RAW17[i] + k for i in INPUT_JOINTS for k in range(2)] == g["mart_use_2d"].tolist()
    joints = g["mart_pose96_mm"].reshape(-1, 32, 3)[:, RAW17]
    joints = joints - joints[:, :1]
    px = g["mart_pose64_px"].reshape(-1, 32, 2)[:, RAW17]

    class Poses:
        root = 0

        def __len__(self):
            return len(px)

    poses = Poses()
    poses.px, poses.joints = px, joints
    read = Statistics.of(poses)
    used = g["mart_use_3d"]
    np.testing.assert_allclose(read.mean_3d.ravel(), g["mart_mean"][used], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(read.std_3d.ravel(), g["mart_std"][used], rtol=1e-9)
    standard = read.standardize_joints(joints[:, OUTPUT_JOINTS])
    np.testing.assert_allclose(standard.reshape(len(px), -1), g["mart_normalised"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        read.standardize_px(px[:, INPUT_JOINTS]).reshape(len(px), -1), g["mart_normalised_2d"], rtol=1e-9, atol=1e-12
    )
    back = read.restore_joints(standard).reshape(len(px), -1)
    np.testing.assert_allclose(back, g["mart_back"][:, used], rtol=1e-6, atol=1e-4)  # through float32 there


def test_the_numbers_of_mmposes_code(golden):
    g = golden("three_d/metrics3d")
    read = Statistics(*(g[f"mmp_{name}"] for name in ("kmean", "kstd", "tmean", "tstd")))
    px, target, root = g["mmp_keypoints"], g["mmp_target"], g["mmp_root"]
    np.testing.assert_allclose(read.standardize_px(px)[0].reshape(-1, 1), g["mmp_label_in"], rtol=1e-5, atol=1e-6)
    relative = (target - target[:, :1])[:, 1:]
    np.testing.assert_allclose(target[:, 0], root, rtol=1e-6)
    np.testing.assert_allclose(read.standardize_joints(relative), g["mmp_label_out"], rtol=1e-5, atol=1e-5)
    back = read.restore_joints(g["mmp_label_out"].astype(float)) + root[:, None]
    np.testing.assert_allclose(back, g["mmp_decoded"][:, 1:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(root, g["mmp_decoded"][:, 0], rtol=1e-6)


def test_the_folded_net_reads_pixels_and_predicts_metres():
    numbers, data = statistics(), pairs()
    net = LinearLifter(width=4)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 16, 2)))
    px = data.px[:, list(INPUT_JOINTS)]
    apply = jax.jit(net.apply)
    standard = apply(variables, jnp.asarray(numbers.standardize_px(px), jnp.float32))
    np.testing.assert_allclose(
        1000 * np.asarray(apply(folded(variables, numbers), px)),
        numbers.restore_joints(np.asarray(standard)),
        atol=0.02,
    )
    with pytest.raises(ValueError, match="statistics are of 15 joints in pixels and 16 in space, the net reads 16"):
        folded(
            variables, Statistics(*(a[:15] for a in (numbers.mean_2d, numbers.std_2d)), numbers.mean_3d, numbers.std_3d)
        )


def test_a_file_gives_the_numbers_back(tmp_path):
    numbers = statistics()
    numbers.write(tmp_path / "a.npz")
    np.savez(tmp_path / "flat.npz", **{name: getattr(numbers, name).ravel() for name in FIELDS})
    for name in ("a.npz", "flat.npz"):
        again = Statistics.read(tmp_path / name)
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(again, field), getattr(numbers, field))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_2d": None}, "lacks mean_2d"),
        ({"std_3d": np.zeros((16, 3))}, r"std_3d is \[0.0, 0.0, 0.0\] for joint 0: expected deviations above 0"),
        ({"std_2d": np.full((16, 2), np.nan)}, "std_2d has shape"),
        ({"mean_3d": np.zeros((16, 2))}, r"mean_3d has shape \(16, 2\): expected"),
        ({"mean_3d": np.zeros((17, 3))}, "expected the same joints"),
    ],
)
def test_bad_files_are_named(tmp_path, change, message):
    arrays = {name: getattr(statistics(), name) for name in FIELDS} | change
    np.savez(tmp_path / "s.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=rf"s\.npz: .*{message}"):
        Statistics.read(tmp_path / "s.npz")


def test_what_is_no_file_of_statistics(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.npz does not exist: expected an .npz file with mean_2d"):
        Statistics.read(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("mean")
    with pytest.raises(ValueError, match="text.npz: .*expected an .npz file with mean_2d"):
        Statistics.read(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="no poses to compute"):
        Statistics.of(pairs().take(np.arange(0)))


def test_the_joints_are_those_of_human36m():
    assert "nose" not in {H36M17.joints[i] for i in INPUT_JOINTS} and len(INPUT_JOINTS) == 16
    assert "pelvis" not in {H36M17.joints[i] for i in OUTPUT_JOINTS} and len(human36m.TRAIN) == 5


def test_a_folder_with_human36m_gives_those_of_its_training_subjects(tmp_path):
    from jaxpose import importer
    from jaxpose.data.formats import mmpose_3d
    from tests.test_data_pairs import mmpose_file

    file, arrays = mmpose_file(tmp_path, 6)
    file.rename(tmp_path / "h36m_train.npz")
    read = importer.statistics_of(tmp_path)
    expected = Statistics.of(mmpose_3d.read(tmp_path / "h36m_train.npz"))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(read, name), getattr(expected, name))
    arrays["imgname"] = np.char.replace(np.char.replace(arrays["imgname"], "S1/", "S9/"), "S1_", "S9_")
    np.savez(tmp_path / "h36m_train.npz", **arrays)
    with pytest.raises(ValueError, match="no poses to compute"):
        importer.statistics_of(tmp_path)
    (tmp_path / "h36m_train.npz").unlink()
    with pytest.raises(FileNotFoundError, match="data_3d_h36m.npz: no such file"):
        importer.statistics_of(tmp_path)
