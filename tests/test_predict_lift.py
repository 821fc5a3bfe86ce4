"""`jaxpose predict` with a lifter: from a result file of joints in pixels to joints in mm, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpose import cli, tasks
from jaxpose.data import human36m
from jaxpose.data.synthetic import lifting as synthetic
from jaxpose.evaluation import poses_3d, results
from jaxpose.files import write_json
from jaxpose.nets import LinearLifter, TemporalLifter
from jaxpose.predict import lift, predictor
from jaxpose.skeleton import COCO17, H36M17
from tests import tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    net = LinearLifter(joints_in=17, joints_out=17, width=8)
    task = tasks.lifting(net, skeleton=H36M17, relative=True)
    return tiny_run.write(tmp_path_factory.mktemp("lifter"), task, variables=jax.jit(task.init)(jax.random.key(0)))


def people(n=3):
    joints = human36m.seen_by(synthetic.draw("S9", n)[0], "S9", 0)
    return human36m.pixels(joints, human36m.LENSES[0])


def write(folder, xy, *, skeleton=H36M17, ids=None):
    """A result file and its images.json."""
    ids = np.arange(len(xy)) if ids is None else np.array(ids)
    results.write(results.from_predictions(xy, np.ones(xy.shape[:2]), image_id=ids), folder / "results.json")
    pictures = [{"id": int(i), "file_name": f"{i}.jpg", "width": 1000, "height": 1002} for i in np.unique(ids)]
    content = {"images": pictures, "annotations": [], "categories": [skeleton.to_coco_category(category_id=1)]}
    write_json(folder / "images.json", content)
    return folder / "results.json"


def test_a_result_file_is_lifted(run, tmp_path, capsys):
    xy = people()
    file = write(tmp_path, xy, ids=[4, 7, 7])
    cli.main(["predict", str(run), str(file), "--out", str(tmp_path / "out")])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["poses"] == 3 and printed["unit"] == "mm" and printed["relative_to"] == "pelvis"
    records = json.loads((tmp_path / "out" / "results_3d.json").read_text())
    assert [(r["image_id"], r["person"]) for r in records] == [(4, 0), (7, 0), (7, 1)]
    lifter = lift.load(run)
    expected = lifter(np.float32(np.round(xy, 3)), np.tile([1000, 1002], (3, 1)))
    np.testing.assert_allclose(np.reshape([r["keypoints_3d"] for r in records], (3, 17, 3)), expected, atol=0.01)
    assert expected.any() and not expected[:, 0].any()  # the pelvis, although this net predicts it
    assert (tmp_path / "out" / "space.html").stat().st_size > 1000
    # Other names in another order are put in place by name.
    order = np.random.default_rng(0).permutation(17)
    from dataclasses import replace

    shuffled = replace(H36M17, joints=tuple(H36M17.joints[i] for i in order), flip_pairs=(), limbs=(), upper=())
    again = lift.joints_of(results.read(write(tmp_path, xy[:, order], skeleton=shuffled)), file, None, H36M17)[0]
    np.testing.assert_allclose(again, xy, atol=1e-3)


def test_joints_in_fractions_of_the_picture_are_refused(run, tmp_path):
    file = write(tmp_path, people(2) / 1000)
    with pytest.raises(SystemExit, match="these look like fractions of the picture; expected pixels"):
        cli.main(["predict", str(run), str(file), "--out", str(tmp_path / "out")])


def test_a_lifter_with_a_likelihood_draws_its_regions(tmp_path, capsys):
    net = LinearLifter(joints_in=17, joints_out=17, width=8, dim=6)
    task = tasks.lifting(net, skeleton=H36M17, loss=tasks.LiftLoss(loss="rle", flow_layers=2, flow_hidden=(4,)))
    variables = jax.jit(task.init)(jax.random.key(0))
    flow = jax.tree.map(lambda leaf: 0 * leaf, variables["params"]["flow"])
    variables["params"]["flow"] = flow
    run = tiny_run.write(tmp_path / "run", task, variables=variables)
    xy = people(2)
    file, out = write(tmp_path, xy), tmp_path / "out"
    cli.main(["predict", str(run), str(file), "--out", str(out), "--region", "0.9"])
    page = (out / "space.html").read_text()
    assert "Ellipsoids: regions of 90%" in page and page.count("ellipsoids&quot;") == 2
    lifter = lift.load(run)
    poses = lifter.poses(np.float32(xy), np.tile([1000, 1002], (2, 1)))
    np.testing.assert_array_equal(poses.joints, lifter(np.float32(xy), np.tile([1000, 1002], (2, 1))))
    assert (
        np.isnan(poses.sigma[:, 0]).all() and 300 < poses.sigma[:, 1:].mean() < 700
    )  # mm: an untrained sigma is half a metre
    matrices = poses.ellipsoids(0.9)
    assert np.isnan(matrices[:, 0]).all()
    # G is normal: the half axis is the sigma of the joint times that of the region, along every axis the same but for sigma.
    ratio = np.sqrt(np.diagonal(matrices[:, 1:], axis1=-2, axis2=-1)) / poses.sigma[:, 1:]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.05)
    capsys.readouterr()
    for level, message in (("1.5", "expected a probability between 0 and 1"), ("0", "expected a probability")):
        with pytest.raises((SystemExit, ValueError), match=message):
            cli.main(["predict", str(run), str(file), "--out", str(out), "--region", level])


def test_doubtful_joints_are_warned_of_and_several_people_of_a_picture_cannot_be_scored(run, tmp_path, caplog):
    file = write(tmp_path, people(2), ids=[4, 4])
    records = json.loads(file.read_text())
    records[1]["keypoints"][5] = 0.01
    write_json(file, records)
    cli.main(["predict", str(run), str(file), "--out", str(tmp_path / "out")])
    assert "1 of 2 poses have joints with a confidence below 0.1" in caplog.text
    with pytest.raises(ValueError, match=r"result 1 has the image_id 4: .*several people of a picture need an id each"):
        poses_3d.read(tmp_path / "out" / "results_3d.json", num_joints=17)


def test_cocos_joints_become_human36ms(run, tmp_path):
    xy = np.random.default_rng(0).uniform(0, 1000, (2, 17, 2))
    file = write(tmp_path, xy, skeleton=COCO17)
    joints, _ = lift.joints_of(results.read(file), file, None, H36M17)
    at = dict(zip(H36M17.joints, joints[0]))
    of = dict(zip(COCO17.joints, np.round(xy[0], 3)))
    for name in set(at) & set(of):
        np.testing.assert_allclose(at[name], of[name])
    np.testing.assert_allclose(at["pelvis"], (of["left_hip"] + of["right_hip"]) / 2)
    np.testing.assert_allclose(at["torso"], (at["pelvis"] + at["neck"]) / 2)


def test_a_temporal_net_reads_neighbouring_pictures(tmp_path):
    task = tasks.lifting(TemporalLifter(widths=(3,), width=8), skeleton=H36M17)
    xy = people(4)
    records = results.from_predictions(xy, np.ones((4, 17)), image_id=[30, 10, 20, 40])
    frames = lift.frames_of(xy, records, task, tmp_path / "r.json")
    np.testing.assert_array_equal(frames[2], xy[[1, 2, 0]])
    np.testing.assert_array_equal(frames[1], xy[[1, 1, 2]])
    twice = results.from_predictions(xy, np.ones((4, 17)), image_id=[1, 1, 2, 3])
    with pytest.raises(ValueError, match="several people in a picture; this net reads 3 frames"):
        lift.frames_of(xy, twice, task, tmp_path / "r.json")
    of_videos = [record | {"file_name": f"{i // 2}.mp4", "frame": i % 2} for i, record in enumerate(records)]
    with pytest.raises(ValueError, match=r"poses of 2 videos \(0\.mp4, 1\.mp4\); this net reads 3 frames in a row"):
        lift.frames_of(xy, of_videos, task, tmp_path / "r.json")


def no_images(folder):
    (folder / "images.json").unlink()


def other_ids(folder):
    write(folder, people(), ids=[1, 2, 3])
    content = json.loads((folder / "images.json").read_text())
    write_json(folder / "images.json", {**content, "images": content["images"][:1]})


def one_of_16_joints(folder):
    records = json.loads((folder / "results.json").read_text())
    write_json(folder / "results.json", [records[0], {**records[1], "keypoints": records[1]["keypoints"][:48]}])


def no_width(folder):
    content = json.loads((folder / "images.json").read_text())
    content["images"][0]["width"] = 0
    write_json(folder / "images.json", content)


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (no_images, [], "images.json: no such file; a lifter needs the sizes"),
        (other_ids, [], "images.json: no size of image 2, which .* \\(2 in all\\)"),
        (lambda f: write(f, people()[:, :16]), [], "its category names 17 joints, the results have 16"),
        (one_of_16_joints, [], r"results.json: result 1 has 16 joints, the first one has 17: expected as many in each"),
        (no_width, [], r"images.json: image 0 has the width and height \(0, \d+\): expected sizes in pixels"),
        (lambda f: write_json(f / "results.json", []), [], "no results to lift"),
        (lambda f: None, ["--boxes", "b.json"], "--boxes: it is for people in pictures, and this run lifts joints"),
        (
            lambda f: None,
            ["--camera", "9", "5", "5"],
            "--camera: it is for people in pictures, and this run lifts joints",
        ),
        (lambda f: None, ["--draw-above", "0.1"], "--draw-above: it is for people in pictures"),
        (lambda f: None, ["--images", "none.json"], "none.json: no such file"),
        (lambda f: None, ["--region", "0.9"], r"states no density of its error \(it was trained with --loss.loss l2\)"),
    ],
)
def test_what_is_missing_is_said(run, tmp_path, change, flags, message):
    file = write(tmp_path, people())
    change(tmp_path)
    with pytest.raises((SystemExit, ValueError, FileNotFoundError), match=message):
        cli.main(["predict", str(run), str(file), "--out", str(tmp_path / "out"), *flags])


def test_a_lifter_takes_no_pictures_and_other_tools_take_no_lifter(run, tmp_path):
    with pytest.raises((SystemExit, ValueError), match="expected one result file of 2D joints"):
        cli.main(["predict", str(run), "photo.jpg", "--out", str(tmp_path)])
    with pytest.raises(ValueError, match="lifts joints to 3D and reads no pictures"):
        predictor.load(run)
    needy = tasks.lifting(LinearLifter(joints_in=17, joints_out=17, width=8), skeleton=H36M17, norm="proj")
    with pytest.raises(ValueError, match="--norm proj, which needs the depth of the root"):
        lift.Lifter(needy, {"params": {}}, flip_test=False)


def test_a_published_lifter_is_imported_and_lifts(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from jaxpose import weights

    net = TemporalLifter(widths=(1, 1), width=8)
    shapes = jax.eval_shape(net.init, jax.random.key(0), net.example_input())
    names = {f"layers_{part}_{i}.": f"layers_{part}.{i}." for i in range(2) for part in ("conv", "bn")}
    rng = np.random.default_rng(0)
    tensors = {
        name: torch.tensor(rng.uniform(0.5, 1.0, shape), dtype=torch.float32)
        for name, (_, shape) in weights.torch_tensors(shapes, names).items()
    }
    torch.save({"epoch": 80, "model_pos": tensors}, tmp_path / "pretrained_h36m.bin")
    cli.main(["import", str(tmp_path / "pretrained_h36m.bin"), "--out", str(tmp_path / "run")])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["layout"] == "videopose3d" and printed["frames"] == 1 and "h36m_lifting" in printed["command"]
    cli.main(["predict", str(tmp_path / "run"), str(write(tmp_path, people())), "--out", str(tmp_path / "out")])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["poses"] == 3


def test_martinezs_file_says_what_it_lacks():
    from jaxpose import importer

    names = ("w1.weight", "linear_stages.0.w1.weight", "w2.weight")
    state = {name: np.zeros((2, 2)) for name in names}
    with pytest.raises(ValueError, match="w2.weight has 2 rows: expected a multiple of 3"):
        importer.read_lifter(state)
    state = martinez_state(joints=17)
    with pytest.raises(
        ValueError, match="standardised by means and deviations that the file does not hold; give --stats, the"
    ):
        importer.read_lifter(state)
    with pytest.raises(
        ValueError, match="the net has 17 joints in and 16 out: expected the 16 of h36m17 without the nose"
    ):
        importer.read_lifter(state, stats=Path("statistics.npz"))


def martinez_state(joints=16):
    """The tensors of a net of width 3 with one block."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (3, 2 * joints), "linear_stages.0.w1": (3, 3), "linear_stages.0.w2": (3, 3), "w2": (48, 3)}
    state = {f"{name}.weight": rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": rng.normal(0, 0.3, shape[0]) for name, shape in shapes.items()}
    for name in ("batch_norm1", "linear_stages.0.batch_norm1", "linear_stages.0.batch_norm2"):
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = rng.uniform(0.5, 1.0, 3)
    return {name: array.astype(np.float32) for name, array in state.items()}


def test_martinezs_file_is_imported_with_the_statistics_of_its_training(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from jaxpose.data import statistics
    from jaxpose.data.synthetic import lifting

    world, kinds = lifting.draw("S1", 2)
    numbers = statistics.Statistics.of(lifting.seen(world, kinds, "S1"))
    numbers.write(tmp_path / "statistics.npz")
    state = martinez_state()
    torch.save({"state_dict": {name: torch.tensor(array) for name, array in state.items()}}, tmp_path / "gt.pth.tar")
    command = ["import", str(tmp_path / "gt.pth.tar"), "--out", str(tmp_path / "run"), "--stats"]
    with pytest.raises((FileNotFoundError, SystemExit)):
        cli.main([*command, str(tmp_path / "absent.npz")])
    cli.main([*command, str(tmp_path / "statistics.npz")])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["layout"] == "martinez" and printed["joints"] == 17
    lifter = lift.load(tmp_path / "run")
    assert lifter.task.norm == "raw" and not lifter.flip_test
    px = np.full((1, 17, 2), 480.0) + np.arange(17)[None, :, None]
    joints = lifter(px, np.array([[1000, 1002]]))
    relu = lambda x: np.maximum(x, 0)  # noqa: E731

    def layer(x, linear, norm):
        s = {part: state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
        x = x @ state[f"{linear}.weight"].T + state[f"{linear}.bias"]
        return relu((x - s["running_mean"]) / np.sqrt(s["running_var"] + 1e-5) * s["weight"] + s["bias"])

    x = layer(numbers.standardize_px(px[:, list(statistics.INPUT_JOINTS)]).reshape(1, -1), "w1", "batch_norm1")
    y = layer(x, "linear_stages.0.w1", "linear_stages.0.batch_norm1")
    x = x + layer(y, "linear_stages.0.w2", "linear_stages.0.batch_norm2")
    expected = numbers.restore_joints((x @ state["w2.weight"].T + state["w2.bias"]).reshape(1, 16, 3))
    np.testing.assert_allclose(joints[:, 1:], expected, atol=0.02)
    assert not joints[:, 0].any()
