"""Pairs of 2D and 3D poses: Human3.6M's cameras, the files of VideoPose3D and mmpose, drawn people, and bad input."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from jaxpose import bodies
from jaxpose.data import human36m, pairs
from jaxpose.data.formats import mmpose_3d, videopose3d
from jaxpose.data.synthetic import lifting
from jaxpose.skeleton import H36M17


@pytest.fixture(scope="module")
def world():
    """Sequences in world mm, by subject and action."""
    world = {subject: lifting.draw(subject, 6)[0] for subject in ("S1", "S9")}
    return {subject: {"Directions 1": joints[:2], "Walking": joints[2:]} for subject, joints in world.items()}


@pytest.fixture
def files(world, tmp_path):
    return videopose3d.write(tmp_path, world)


def test_the_cameras_are_the_published_ones(golden):
    g = golden("three_d/cameras")
    for i, subject in enumerate(human36m.SUBJECTS):
        for number in range(4):
            rotation, position, lens = human36m.camera(subject, number)
            np.testing.assert_allclose(rotation, g["table_R_w2c"][i, number], atol=1e-7)
            np.testing.assert_allclose(position, g["table_position_mm"][i, number], rtol=1e-9)
    for number, lens in enumerate(human36m.LENSES):
        np.testing.assert_allclose(lens.focal, g["table_f_px"][number], rtol=1e-9)
        np.testing.assert_allclose(lens.tangential, g["table_tangential_xml"][number], rtol=1e-9)
        np.testing.assert_allclose(lens.tangential[::-1], g["table_tangential_vp3d"][number], rtol=1e-9)
    assert list(human36m.SUBJECTS) == [f"S{number}" for number in g["table_subjects"]]
    assert [lens.name for lens in human36m.LENSES] == g["table_camera_ids"].tolist()
    which = g["subject_index"], g["camera_index"]
    for joints, subject, number, px in zip(g["world_mm"], *which, g["martinez_pixel"]):
        seen = human36m.seen_by(joints, human36m.SUBJECTS[subject], int(number))
        np.testing.assert_allclose(human36m.pixels(seen, human36m.LENSES[number]), px, atol=1e-3)


def test_cameras_stand_around_the_middle_and_see_it():
    for subject in human36m.SUBJECTS:
        for number, lens in enumerate(human36m.LENSES):
            rotation, position, _ = human36m.camera(subject, number)
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
            assert np.linalg.det(rotation) > 0 and 4000 < np.hypot(*position[:2]) < 5700 and 1400 < position[2] < 1700
            px = human36m.pixels(human36m.seen_by(np.array([0.0, 0.0, 900.0]), subject, number), lens)
            assert (abs(px - np.array(lens.size_wh) / 2) < 200).all()


def test_real_frames_project_onto_their_labels(data_dir):
    folder = data_dir("sample_h36m")
    read = mmpose_3d.read(folder / "test_h36m_body3d.npz")
    assert set(read.subject) == {"S1", "S5", "S7", "S8"} and "SittingDown" in read.action
    lenses = {lens.name: lens for lens in human36m.LENSES}
    content = np.load(folder / "test_h36m_body3d.npz")
    for name, space, px in zip(content["imgname"], content["S"], content["part"]):
        lens = lenses[name.split(".")[1][:8]]
        assert abs(human36m.pixels(1000 * space[:, :3], lens) - px[:, :2]).max() < 1e-3


def test_videopose3ds_files(world, files):
    train = videopose3d.read(*files, subjects=["S1"])
    assert len(train) == 6 * 4 and set(train.action) == {"Directions", "Walking"} and set(train.camera) == {
        lens.name for lens in human36m.LENSES
    }  # fmt: skip
    assert len(list(pairs.sequences(train))) == 8 and train.frame[:2].tolist() == [0, 1]
    expected = human36m.seen_by(world["S1"]["Directions 1"], "S1", 0)
    np.testing.assert_allclose(train.joints[:2], expected, atol=1e-2)
    np.testing.assert_allclose(train.px[:2], human36m.pixels(expected, human36m.LENSES[0]), atol=1e-3)
    both = videopose3d.read(*files, subjects=["S1", "S9"], every=2)
    assert len(both) == 2 * 4 * (1 + 2) and both.sequence.max() == 15
    assert both.frame[both.action == "Walking"].max() == 2


LEGS = [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]


def spoil(path, change):
    """Changes the dictionary of a file."""
    with np.load(path, allow_pickle=True) as file:
        content = {name: file[name].item() for name in file.files}
    name = next(name for name in content if name.startswith("positions"))
    change(content[name])
    np.savez(path, **{name: np.array(value, dtype=object) for name, value in content.items()})


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        (0, lambda d: d["S1"].update(Walking=1000 * d["S1"]["Walking"]), "looks like millimetres: expected metres"),
        (0, lambda d: d["S1"].update(Walking=d["S1"]["Walking"] / 1000), "looks like metres: expected mm|px beside"),
        (0, lambda d: d["S1"].update(Walking=100 * d["S1"]["Walking"]), "looks like centimetres: expected metres"),
        (0, lambda d: d["S1"].update(Walking=[[1, 2], [3]]), r"S1 Walking: \[\[1, 2\], \[3\]\] is no array of numbers"),
        (0, lambda d: d["S1"].update(Walking=d["S1"]["Walking"].astype(str)), "is no array of numbers"),
        (1, lambda d: d["S1"].update({k: [x[:, LEGS] for x in v] for k, v in d["S1"].items()}),
         "right_hip, right_knee, right_ankle: left and right are exchanged"),
        (1, lambda d: d["S1"].update({k: [v[1], *v[1:]] for k, v in d["S1"].items()}),
         "npz: S1, camera 54138969: the cameras project the joints in space .* px beside"),
        (0, lambda d: d["S1"].update(Walking=d["S1"]["Walking"][..., :2]), r"Walking: joints have shape .*\(T, 32, 3\)"),
        (0, lambda d: d["S1"]["Walking"].__setitem__((1, 0, 0), np.nan), "the joints of frame 1 are not finite"),
        (0, lambda d: d.pop("S1"), "no subject S1: it has S9"),
        (0, lambda d: d["S1"].update({k: v[:, ::-1] for k, v in d["S1"].items()}), "data_3d_h36m.npz and data_2d_h36m_gt.npz: "),
        (1, lambda d: d["S1"].update(Walking=d["S1"]["Walking"][:3]), "expected a list of 4 arrays"),
        (1, lambda d: d["S1"]["Walking"].__setitem__(2, d["S1"]["Walking"][2][:1]), "camera 2: 1 frames in 2D, 4 in 3D"),
        (1, lambda d: d["S1"]["Walking"][0].__setitem__((2, 4), np.nan), r"Walking camera 54138969 frame 2.*joint 4 \(left_hip\)"),
        (1, lambda d: d["S1"].update({k: [x[:, H36M17.flip_index, :] for x in v] for k, v in d["S1"].items()}),
         "data_2d_h36m_gt.npz: the joints in space lie .* px with left and right exchanged"),
        (1, lambda d: d["S1"].update({k: v[::-1] for k, v in d["S1"].items()}), "px beside their pixels"),
        (1, lambda d: d["S1"].update({k: [x[:, ::-1] for x in v] for k, v in d["S1"].items()}), "px beside their pixels"),
    ],
)  # fmt: skip
def test_bad_files_say_what_they_look_like(files, which, change, message):
    spoil(files[which], change)
    with pytest.raises(ValueError, match=message):
        videopose3d.read(*files, subjects=["S1"])


def test_missing_and_foreign_files(tmp_path, files):
    with pytest.raises(FileNotFoundError, match="data_2d_h36m_cpn.npz: no such file; in .*data_3d_h36m.npz"):
        videopose3d.find(tmp_path, keypoints="cpn")
    assert videopose3d.find(tmp_path) == files
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match="no positions_3d: it has a"):
        videopose3d.read(tmp_path / "other.npz", files[1], subjects=["S1"])


def mmpose_file(folder, n=3):
    joints = human36m.seen_by(lifting.draw("S1", n)[0], "S1", 1)
    lens = human36m.LENSES[1]
    one = np.ones((n, 17, 1))
    names = [f"S1/S1_WalkDog_1.{lens.name}/S1_WalkDog_1.{lens.name}_{5 * i + 1:06d}.jpg" for i in range(n)]
    arrays = {
        "imgname": np.array(names), "S": np.concatenate([joints / 1000, one], -1),
        "part": np.concatenate([human36m.pixels(joints, lens), one], -1),
    }  # fmt: skip
    np.savez(folder / "h36m_test.npz", **arrays)
    return folder / "h36m_test.npz", arrays


def test_mmposes_file_with_and_without_its_cameras(tmp_path):
    path, arrays = mmpose_file(tmp_path)
    plain = mmpose_3d.read(path)
    assert plain.action.tolist() == ["WalkDog"] * 3 and plain.frame.tolist() == [1, 6, 11]
    lens = human36m.LENSES[1]
    camera = {"f": np.array(lens.focal)[:, None], "c": np.array(lens.center)[:, None], "w": 1000, "h": 1000}
    (tmp_path / "cameras.pkl").write_bytes(pickle.dumps({("S1", lens.name): camera}))
    np.testing.assert_allclose(mmpose_3d.read(path).focal, plain.focal)
    (tmp_path / "cameras.pkl").write_bytes(pickle.dumps({("S1", lens.name): {**camera, "f": camera["f"] / 3}}))
    with pytest.raises(ValueError, match="px beside their pixels .*other cameras"):
        mmpose_3d.read(path)
    (tmp_path / "cameras.pkl").write_bytes(pickle.dumps({("S1", lens.name): {**camera, "f": [np.nan, 1.0]}}))
    with pytest.raises(ValueError, match=r"cameras\.pkl: the camera .* has f \[nan, 1\.0\] .* expected finite numbers"):
        mmpose_3d.read(path)
    with pytest.raises(FileNotFoundError, match="absent.npz does not exist: expected a file of mmpose"):
        mmpose_3d.read(tmp_path / "absent.npz")
    for damage in ({"f": ["a", "b"]}, {"w": "1000"}, {"c": [1.0]}):
        (tmp_path / "cameras.pkl").write_bytes(pickle.dumps({("S1", lens.name): {**camera, **damage}}))
        with pytest.raises(ValueError, match=r"cameras\.pkl: the camera .* has no f and c of two numbers"):
            mmpose_3d.read(path)
    (tmp_path / "cameras.pkl").unlink()
    np.savez(path, **{name: values[:0] for name, values in arrays.items()})
    with pytest.raises(ValueError, match=r"imgname has shape \(0,\)"):
        mmpose_3d.read(path)
    np.savez(path, **{**arrays, "S": 1000 * arrays["S"]})
    with pytest.raises(ValueError, match="looks like millimetres"):
        mmpose_3d.read(path)
    np.savez(path, **{**arrays, "imgname": np.array(["a.jpg"] * 3)})
    with pytest.raises(ValueError, match="neither Human3.6M nor MPI-INF-3DHP"):
        mmpose_3d.read(path)


def test_mpi_inf_3dhp(tmp_path):
    _, arrays = mmpose_file(tmp_path)
    order = [H36M17.joints.index(n) if n in H36M17.joints else 7 for n in mmpose_3d.MPI_INF_3DHP17.joints]
    arrays = {k: v[:, order] if v.ndim == 3 else v for k, v in arrays.items()}
    arrays["imgname"] = np.array(["S4_Seq2_Cam0_001033.jpg", "TS1_002001.jpg", "S4_Seq2_Cam0_001034.jpg"])
    np.savez(tmp_path / "3dhp.npz", **arrays)
    lens = human36m.LENSES[1]
    camera = {"f": np.array(lens.focal), "c": np.array(lens.center), "w": 2048, "h": 204}
    (tmp_path / "cameras.pkl").write_bytes(pickle.dumps({"S4_Seq2_Cam0": camera, "TS1": camera}))
    read = mmpose_3d.read(tmp_path / "3dhp.npz")
    assert read.skeleton.name == "mpi_inf_3dhp17" and read.skeleton.joints[read.root] == "pelvis"
    assert read.frame.tolist() == [1033, 1034, 2001] and read.size_wh[0].tolist() == [2048, 2048]
    assert read.skeleton.joints[read.skeleton.flip_index[8]] == "left_hip"


def test_the_other_convention_of_a_camera_is_named(world):
    rotation, position, _ = human36m.camera("S1", 0)
    offset = -rotation @ position
    joints = (world["S1"]["Walking"] - offset) @ rotation.T
    good = lifting.seen(world["S1"]["Walking"], ["stand"] * 4, "S1")
    bad = replace(good.take(np.arange(4)), joints=joints.astype(np.float32))
    with pytest.raises(ValueError, match="convention of a camera's position"):
        pairs.check(bad, what="poses")
    mixed = replace(good, joints=good.joints[:, ::-1])
    with pytest.raises(ValueError, match=r"the pelvis .* looks like another order of the joints than h36m17's"):
        pairs.check(mixed, what="poses")
    with pytest.raises(ValueError, match="looks like metres"):
        pairs.check(replace(good, joints=good.joints / 1000), what="poses")
    with pytest.raises(ValueError, match="expected people, in mm; were millimetres multiplied by 1000"):
        pairs.check(replace(good, joints=good.joints * 1000), what="poses")


def test_people_whose_left_is_right_are_told_by_their_knees():
    """Joints and pixels fit each other and the camera, so that nothing else tells it."""
    for subject in ("S1", "S9"):
        joints = lifting.draw(subject, 40)[0]
        bodies.check_knees(joints, H36M17, "drawn")
        for wrong in (joints[:, H36M17.flip_index], joints * [-1, 1, 1], joints[..., [0, 2, 1]]):
            with pytest.raises(
                ValueError, match="drawn: .* bent knees bend to the front: this looks like left for right"
            ):
                bodies.check_knees(wrong, H36M17, "drawn")


def test_windows_stay_in_their_sequence(files):
    train = videopose3d.read(*files, subjects=["S1"])
    rows = pairs.windows(train, 5)
    assert rows.shape == (24, 5) and (train.sequence[rows] == train.sequence[:, None]).all()
    first = int(np.flatnonzero(train.action == "Walking")[0])
    assert rows[first].tolist() == [first, first, first, first + 1, first + 2]
    assert rows[first + 3].tolist() == [first + 1, first + 2, first + 3, first + 3, first + 3]
    assert pairs.windows(train, 3, causal=True)[first + 1].tolist() == [first, first, first + 1]
    some = np.array([first, 3, first + 3])
    np.testing.assert_array_equal(pairs.windows(train, 5, rows=some), rows[some])


def test_drawn_people_are_the_same_every_time_and_held_out_ones_are_others(tmp_path):
    train, test = lifting.load(tmp_path, poses=5)
    assert len(train) == 5 * 5 * 4 and len(test) == 2 * 4 and set(test.subject) == {"S9", "S11"}
    again, _ = lifting.load(tmp_path, poses=5)
    np.testing.assert_array_equal(train.px, again.px)
    np.testing.assert_allclose(lifting.draw("S1", 5)[0], lifting.draw("S1", 5)[0])
    pairs.check(train, what="drawn")

    def thigh(part):
        return np.linalg.norm(part.joints[:, 1] - part.joints[:, 2], axis=-1)

    assert np.ptp(thigh(train.of_subjects(["S1"]))) < 0.1  # one person has one length, another person another
    assert abs(thigh(train.of_subjects(["S1"])).mean() - thigh(test.of_subjects(["S9"])).mean()) > 1
