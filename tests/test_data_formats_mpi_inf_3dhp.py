"""MPI-INF-3DHP as its authors give it out: files that the test writes, and what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from jaxpose import cameras
from jaxpose.data.formats import mpi_inf_3dhp
from jaxpose.data.formats.mmpose_3d import MPI_INF_3DHP17
from tests import tiny_space

FRAMES, LENS = 4, {"focal": np.array([1500.0, 1495.0]), "center": np.array([1024.0, 1051.0])}
# The joints of the standing body in the order of MPI-INF-3DHP's test set.
ORDER = (10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, 9)


def poses():
    """Bodies (F, 17, 3) in mm in the axes of a camera, and their pixels."""
    joints, _ = tiny_space.in_camera(FRAMES)
    joints = joints[:, ORDER]
    return joints, cameras.project(joints, focal=LENS["focal"], center=LENS["center"])


def raw(values):
    """The 28 joints (F, 28 * size) of annot.mat, of which 17 are those of the test set."""
    full = np.zeros((len(values), 28, values.shape[-1]))
    full[:, mpi_inf_3dhp.JOINTS] = values
    return full.reshape(len(values), -1)


def annot(count=14, **change):
    joints, px = poses()
    cells = {"annot2": raw(px), "annot3": raw(joints), "univ_annot3": raw(1.1 * joints)}
    content = {}
    for name, values in cells.items():
        content[name] = np.empty((count, 1), object)
        for i in range(count):
            content[name][i, 0] = values
    return content | change


def calibration(count=14, *, intrinsic="1500 0 1024 0 0 1495 1051 0 0 0 1 0 0 0 0 1"):
    blocks = ["Skeletool Camera Calibration File V1.0"]
    for i in range(count):
        blocks += [
            f"name          {i}", "  sensor      10 10", "  size        2048 2048", "  animated    0",
            f"  intrinsic   {intrinsic} ", "  extrinsic   1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1 ", "  radial      0",
        ]  # fmt: skip
    return "\n".join(blocks) + "\n"


def write(folder, *, subject="S2", mat=None, text=None):
    place = folder / "train" / subject / "Seq1"
    place.mkdir(parents=True, exist_ok=True)
    savemat(place / "annot.mat", annot() if mat is None else mat)
    (place / "camera.calibration").write_text(calibration() if text is None else text)
    return folder


def write_test(folder, name="TS1", **change):
    h5py = pytest.importorskip("h5py")
    joints, px = poses()
    place = folder / "test" / name
    place.mkdir(parents=True, exist_ok=True)
    valid = np.array([1, 0, 1, 1.0])[:, None]
    arrays = {
        "annot2": px[:, None],
        "annot3": joints[:, None],
        "univ_annot3": joints[:, None],
        "valid_frame": valid,
    } | change
    with h5py.File(place / "annot_data.mat", "w") as file:
        for key, values in arrays.items():
            if values is not None:
                file[key] = values
    return folder


def test_the_training_set(tmp_path):
    write(tmp_path)
    assert mpi_inf_3dhp.is_folder(tmp_path) and mpi_inf_3dhp.is_folder(tmp_path / "train")
    assert not mpi_inf_3dhp.is_folder(tmp_path / "train" / "S2")
    joints, px = poses()
    read = mpi_inf_3dhp.read_train(tmp_path, subjects=["S2"], cameras=(0, 8))
    assert len(read) == 2 * FRAMES and set(read.camera) == {"Seq1_0", "Seq1_8"} and set(read.subject) == {"S2"}
    assert read.skeleton == MPI_INF_3DHP17 and read.skeleton.joints[read.root] == "pelvis"
    np.testing.assert_allclose(read.joints[:FRAMES], joints, rtol=1e-5)
    np.testing.assert_allclose(read.px[FRAMES:], px, rtol=1e-5)
    assert read.focal[0].tolist() == LENS["focal"].tolist() and read.size_wh[0].tolist() == [2048, 2048]
    assert read.frame.tolist() == 2 * [1, 2, 3, 4] and read.sequence.tolist() == 4 * [0] + 4 * [1]
    every = mpi_inf_3dhp.read_train(tmp_path / "train", subjects=["S2"], cameras=(4,), every=3)
    assert every.frame.tolist() == [1, 4]


def test_the_test_set(tmp_path):
    write_test(tmp_path)
    joints, px = poses()
    read = mpi_inf_3dhp.read_test(tmp_path, sequences=["TS1"])
    assert read.frame.tolist() == [1, 3, 4] and read.subject.tolist() == ["TS1"] * 3
    np.testing.assert_allclose(read.joints, joints[[0, 2, 3]], rtol=1e-5)
    np.testing.assert_allclose(read.focal, np.tile(LENS["focal"], (3, 1)), rtol=1e-4)  # fitted to the labels
    np.testing.assert_allclose(read.center, np.tile(LENS["center"], (3, 1)), atol=0.5)
    assert len(mpi_inf_3dhp.read_test(tmp_path, sequences=["TS1"], valid_only=False)) == FRAMES
    write_test(tmp_path, "TS5")
    assert mpi_inf_3dhp.read_test(tmp_path, sequences=["TS5"]).size_wh[0].tolist() == [1920, 1080]


def cells(name, change):
    content = annot()
    for i in range(len(content[name])):
        content[name][i, 0] = change(content[name][i, 0])
    return content


@pytest.mark.parametrize(
    ("mat", "text", "message"),
    [
        (lambda: {"annot3": annot()["annot3"]}, None, r"annot\.mat: no annot2: it has annot3"),
        (lambda: cells("annot2", lambda a: a[:, :50]), None, r"annot2 of camera 0 has shape \(4, 50\): expected \(F, 56\)"),
        (lambda: cells("annot3", lambda a: a[:2]), None, "camera 0 has 4 frames in annot2 and 2 in annot3"),
        (lambda: annot(1), None, "annot2: no cell of camera 1; it has 1 entries"),
        (lambda: annot(annot2=np.zeros((4, 56))), None, "annot2: no cell of camera 0"),
        (lambda: cells("annot3", lambda a: a / 1000), None, "looks like metres"),
        (lambda: cells("annot3", lambda a: a * np.nan), None, "expected finite numbers"),
        (lambda: cells("annot3", lambda a: a.reshape(4, 28, 3)[:, ::-1].reshape(4, -1)), None, "looks like another order"),
        (lambda: cells("annot3", lambda a: a + 300), None, "px beside their pixels"),
        (None, "name 0\n size 2048 2048\n", "camera 0 has 2 numbers in size and 0 in intrinsic: expected"),
        (None, "name 0\n size 2048 wide\n", "expected numbers after 'size'"),
        (None, "", r"camera\.calibration: no camera; expected blocks"),
        (None, calibration(1), "no camera 1; it has 0"),
        (None, calibration(intrinsic="0 0 1 0 0 0 1 0 0 0 1 0 0 0 0 1"), "focal lengths above 0"),
    ],
)  # fmt: skip
def test_bad_files_of_the_training_set(tmp_path, mat, text, message):
    write(tmp_path, mat=None if mat is None else mat(), text=text)
    with pytest.raises(ValueError, match=message):
        mpi_inf_3dhp.read_train(tmp_path, subjects=["S2"], cameras=(0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annot3": None}, r"annot_data\.mat: no annot3: it has annot2"),
        (
            {"annot2": np.zeros((4, 1, 16, 2))},
            r"annot2 has shape \(4, 1, 16, 2\) and there are 4 frames: expected \(4, 1, 17, 2\)",
        ),
        ({"valid_frame": np.zeros((4, 1))}, "no frame has a valid_frame of 1"),
        (
            {"annot3": np.zeros((4, 1, 17, 3))},
            "people are at the depth 0 mm, behind the camera: this looks like the other convention",
        ),
    ],
)
def test_bad_files_of_the_test_set(tmp_path, change, message):
    write_test(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        mpi_inf_3dhp.read_test(tmp_path, sequences=["TS1"])


def test_missing_and_foreign_files(tmp_path):
    write(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no S3/Seq\*/annot\.mat; it has S2"):
        mpi_inf_3dhp.read_train(tmp_path, subjects=["S3"])
    with pytest.raises(FileNotFoundError, match="no TS1/annot_data.mat; it has no sequence"):
        mpi_inf_3dhp.read_test(tmp_path, sequences=["TS1"])
    (tmp_path / "train" / "S2" / "Seq1" / "camera.calibration").unlink()
    with pytest.raises(FileNotFoundError, match="camera.calibration does not exist: expected the cameras"):
        mpi_inf_3dhp.read_train(tmp_path, subjects=["S2"])
    pytest.importorskip("h5py")
    place = tmp_path / "test" / "TS1"
    place.mkdir(parents=True)
    (place / "annot_data.mat").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"annot_data\.mat: .*expected the annot_data\.mat of MPI-INF-3DHP's test set"):
        mpi_inf_3dhp.read_test(tmp_path, sequences=["TS1"])


def test_the_page_opens_the_folder(tmp_path):
    from experiments import h36m_lifting
    from experiments.common import pose_pairs

    write_test(write(write(tmp_path), subject="S8"))
    config = h36m_lifting.Config(data=tmp_path, train_subjects=("S2",), val_subjects=("TS1",))
    train, val = pose_pairs._open(config)
    assert len(train) == 8 * FRAMES and len(val) == 3
    train, val = pose_pairs._open(h36m_lifting.Config(data=tmp_path, train_subjects=("S2",), val_subjects=("S8",)))
    assert set(train.subject) == {"S2"} and set(val.subject) == {"S8"}
    task, _ = pose_pairs.make_tasks(config, train.skeleton)
    assert task.root == train.root == 14
    with pytest.raises(ValueError, match="its groups are those of h36m17's joints, the data have mpi_inf_3dhp17's"):
        pose_pairs.make_tasks(h36m_lifting.Config(net="srnet", width=64), train.skeleton)
    with pytest.raises(FileNotFoundError, match=r"no S1/Seq"):
        pose_pairs._open(h36m_lifting.Config(data=tmp_path))
    with pytest.raises(ValueError, match="--keypoints cpn: .* holds MPI-INF-3DHP"):
        pose_pairs._open(h36m_lifting.Config(data=tmp_path, keypoints="cpn"))


def test_subjects_that_are_given_are_those_that_are_read(tmp_path, caplog):
    """Human3.6M's five names are names of MPI-INF-3DHP too: only flags that are not given stand for its published split."""
    from experiments import h36m_lifting
    from experiments.common import pose_pairs
    from jaxpose.data import human36m

    for subject in human36m.TRAIN:
        write(tmp_path, subject=subject)
    flags = ["--preset", "fc", "--data", str(tmp_path), "--val-subjects", "S2", "S3"]
    with pytest.raises(ValueError, match="--train-subjects S1 S2 S3 .* --val-subjects S2 S3: S2 is in both"):
        h36m_lifting.PAGE.settings(flags)
    write(tmp_path)
    config = h36m_lifting.PAGE.settings([*flags[:-1], "--train-subjects", *human36m.TRAIN])
    with caplog.at_level("INFO"):
        kind = pose_pairs.load(config)
    assert set(kind.train.subject) == set(human36m.TRAIN) and set(kind.val.subject) == {"S2"}
    assert "subjects: trained on S1 S5 S6 S7 S8, evaluated on S2" in caplog.text
    config = h36m_lifting.PAGE.settings(flags[:4])
    assert (config.train_subjects, config.val_subjects) == (None, None)
    assert config.with_subjects().train_subjects == mpi_inf_3dhp.TRAIN
    assert config.with_subjects().val_subjects == mpi_inf_3dhp.TEST
