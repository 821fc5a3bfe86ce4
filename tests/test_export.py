"""Exported nets: they load without this package and predict what the checkpoint does."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpose import checkpoint, cli, export, files, parallel, tasks, train
from jaxpose.nets import RCNN, HeatmapNet, HigherHRNet, MobileNetV2, PoseRegressor, RegressionHead, ResNet, Upsampled
from jaxpose.nets.depthwise import convolve_depthwise, for_any_platform
from jaxpose.skeleton import COCO17
from tests import tiny_run

SIZE_WH = (32, 64)
BACKBONE = ResNet(depth=18, width=4, stages=2)  # quick to trace, stride 8
WITHOUT_JAXPOSE = """
import sys
import numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    model = export.deserialize(file.read())
crops = np.load(sys.argv[2])
found = {f"{name}_{n}": np.asarray(x) for n in (1, 3) for name, x in model.call(crops[:n]).items()}
np.savez(sys.argv[3], **found)
assert not {"jaxpose", "flax"} & set(sys.modules), "the file needs this package"
"""


def lively(variables, seed: int = 0):
    """Weights under which features, and with them predictions, differ from image to image."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        deviation = (2 / np.prod(x.shape[:-1])) ** 0.5 if x.ndim > 1 else 0.1
        return rng.normal(0, deviation, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


def regression(net=None, **options):
    net = PoseRegressor(BACKBONE, RegressionHead(17, kind="normalized")) if net is None else net
    return tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH, **options)


def heatmaps(decode: str):
    net = HeatmapNet(BACKBONE, 17, deconvs=(8,))
    return tasks.heatmaps(net, skeleton=COCO17, size_wh=SIZE_WH, read=tasks.Readout(decode))


def bottom_up():
    net = HigherHRNet(Upsampled(ResNet(depth=18, width=4, stages=2), (8,)), 17, dilations=(1,))
    return tasks.bottom_up(net, skeleton=COCO17, size_wh=(64, 64))


def initial(task):
    return lively(jax.eval_shape(task.init, jax.random.key(0)))


def images(task, number: int) -> np.ndarray:
    """Squares of 16 pixels, which differ from image to image even after pooling."""
    width, height = task.config["size_wh"]
    coarse = np.random.default_rng(number).integers(0, 256, (number, height // 16, width // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, 1).repeat(16, 2)


def save(folder, task):
    state = train.init_state(task, train.optimizer(0.1), jax.random.key(0), mesh=parallel.make_mesh())
    state = state.replace(variables=jax.tree.map(jnp.asarray, lively(state.variables)))
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.save(state, {"task": task.config, "run": {}}, metrics={"AP": 0.5})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run") / "checkpoints", regression())


def expected(run, crops, *, flip_test=False):
    variables, config = checkpoint.restore_model(run, flow=False)
    task = tasks.from_config(config["task"])
    found = jax.jit(lambda image: task.predict(variables, {"image": image}, flip_test=flip_test))(crops)
    assert np.ptp(found["xy"], axis=0).max() > 1 or len(crops) == 1, "the same for every image: nothing to compare"
    return jax.device_get(found)


def assert_close(found, wanted):
    for name in found:
        scale = float(np.abs(wanted[name]).max())
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5 * scale, err_msg=name)


def test_stablehlo_runs_with_jax_alone(run, tmp_path, capsys):
    cli.main(["export", str(run), "--out", str(tmp_path / "out")])
    line = json.loads(capsys.readouterr().out)
    file, crops = tmp_path / "out" / "model.stablehlo", images(regression(), 3)
    assert line["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    np.save(tmp_path / "crops.npy", crops)
    paths = [str(p) for p in (file, tmp_path / "crops.npy", tmp_path / "found.npz")]
    done = subprocess.run([sys.executable, "-c", WITHOUT_JAXPOSE, *paths], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    for n in (1, 3):
        wanted = expected(run, crops[:n])
        assert_close({name: found[f"{name}_{n}"] for name in ("xy", "confidence", "sigma")}, wanted)


def test_the_description(run, tmp_path):
    found = export.export(run, out=tmp_path, batch=2, flip_test=True, platforms=("cpu",))
    assert found == json.loads((tmp_path / "model.json").read_text())
    assert found["inputs"][0] | {"unit": ""} == {"name": "image", "shape": [2, 64, 32, 3], "dtype": "uint8", "unit": ""}
    assert {x["name"]: x["shape"] for x in found["outputs"]} == {
        "xy": [2, 17, 2], "confidence": [2, 17], "sigma": [2, 17, 2]
    }  # fmt: skip
    assert found["skeleton"]["joints"] == list(COCO17.joints) and found["checkpoint"]["metrics"] == {"AP": 0.5}
    assert found["bytes"] == (tmp_path / "model.stablehlo").stat().st_size and max(found["difference"].values()) < 1e-4
    crops = images(regression(), 2)
    assert_close(export.load(tmp_path / "model.stablehlo")(crops), expected(run, crops, flip_test=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.stablehlo"]


def test_the_unit_of_a_depth_is_that_of_the_family():
    head = RegressionHead(17, kind="normalized", dim=3)
    space = tasks.regression_3d(PoseRegressor(BACKBONE, head), skeleton=COCO17, size_wh=SIZE_WH)
    net = HeatmapNet(BACKBONE, 34, deconvs=(8,))
    hand = tasks.depth_maps(net, skeleton=COCO17, size_wh=SIZE_WH, read=tasks.Readout("soft_argmax"))
    for task, unit in ((space, "mm, relative to the root"), (hand, "lengths of the key bone")):
        outputs = {x["name"]: x for x in export.describe(task, initial(task))["outputs"]}
        assert outputs["depth"]["shape"] == ["b", 17] and outputs["depth"]["unit"].startswith(unit)


CASES = {
    "basic": lambda: regression(likelihood=tasks.Likelihood(loss="basic")),
    "mobilenet, l1": lambda: regression(
        PoseRegressor(MobileNetV2(width=0.1), RegressionHead(17)), likelihood=tasks.Likelihood(loss="l1")
    ),
    "argmax": lambda: heatmaps("argmax"),
    "dark": lambda: heatmaps("dark"),
    "soft_argmax": lambda: heatmaps("soft_argmax"),
    "bottom_up": bottom_up,
    "point_sets": tiny_run.point_sets_task,
}


@pytest.mark.parametrize("case", CASES)
def test_every_family_takes_any_number_of_images(case):
    """Lowering for all platforms, with a symbolic batch; run where it costs little."""
    task, flip_test = CASES[case](), case != "mobilenet, l1"
    variables = initial(task)
    exported = export.lower(task, variables, flip_test=flip_test)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    described = export.describe(task, variables, flip_test=flip_test)["outputs"]
    names = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert {x["name"]: tuple(x["shape"][1:]) for x in described} == {k: x.shape[1:] for k, x in names.items()}
    assert {x["name"] for x in described} == {
        "bottom_up": {"heatmap", "tag"}, "basic": {"xy", "confidence", "sigma"},
        "point_sets": {"poses", "scores", "valid", "candidates", "regressed", "sigma"},
    }.get(case, {"xy", "confidence"})  # fmt: skip
    if case in ("argmax", "basic", "bottom_up", "point_sets"):
        crops = images(task, 3)
        wanted = jax.jit(export.serving_function(task, variables, flip_test=True))(crops)
        assert_close(jax_export_round_trip(exported).call(crops), wanted)


def test_a_detector_takes_a_number_of_images_and_is_stablehlo_alone(tmp_path):
    """`jaxpose export` of one was run by hand, and equal to the bit; here it is lowered, which takes a tenth of the time."""
    net = RCNN(ResNet(depth=18, width=2), num_joints=17, fpn_features=2, box_features=(2,), keypoint_convs=(2,), max_detections=3,
               keypoint_output="rle", pre_nms=4, post_nms=4, variant="detectron2")  # fmt: skip
    task = tasks.detection(net, skeleton=COCO17, size_wh=(64, 32), preprocess="detectron2")
    variables = task.inference_variables(jax.jit(task.init)(jax.random.key(0)))
    exported = export.lower(task, variables, batch=2)
    described = export.describe(task, variables, batch=2)
    names = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert {x["name"]: tuple(x["shape"]) for x in described["outputs"]} == {k: x.shape for k, x in names.items()}
    assert names["boxes"].shape == (2, 3, 4) and names["keypoint_sigma"].shape == (2, 3, 17, 2)
    assert "filled with RGB (124, 116, 104)" in described["image"] and exported.in_avals[0].shape == (2, 32, 64, 3)
    with pytest.raises(ValueError, match="give a number of images, such as --batch 1"):
        export.lower(task, variables)
    run = tiny_run.write(tmp_path / "run", task, variables=variables)
    for format, reason in (("tflite", "TensorFlow does not run"), ("onnx", "jax2onnx does not convert")):
        with (
            mock.patch.object(export, "require"),  # the converters need not be installed
            pytest.raises(ValueError, match=f"--format {format}: {reason} the loops of a detector"),
        ):
            export.export(run, out=tmp_path / "out", format=format, batch=1)


def jax_export_round_trip(exported):
    return jax.export.deserialize(exported.serialize())


onnx = pytest.mark.skipif(not (find_spec("jax2onnx") and find_spec("onnxruntime")), reason="needs the extra `export`")


@onnx
@pytest.mark.parametrize("case", ["rle", "soft_argmax"])
def test_onnx(case, run, tmp_path):
    """The file takes any number of images under the name `image`, in a runtime that knows nothing of JAX."""
    task = regression() if case == "rle" else heatmaps("soft_argmax")
    run = run if case == "rle" else save(tmp_path / "run", task)
    export.export(run, out=tmp_path / "out", format="onnx")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.json", "model.onnx"]
    weights = sum(x.nbytes for x in jax.tree.leaves(initial(task)["params"]["net"]))
    assert (tmp_path / "out" / "model.onnx").stat().st_size > weights, "the weights are inside"
    model = export.load(tmp_path / "out" / "model.onnx")
    for n in (1, 3):
        crops = images(task, n)
        found = model(crops)
        assert set(found) == {"xy", "confidence"} | ({"sigma"} if case == "rle" else set())
        assert_close(found, expected(run, crops))


@pytest.mark.parametrize("fault", ["another number", "another sigma", "does not run"])
def test_a_file_that_predicts_otherwise_is_not_left_in_place(fault, run, tmp_path, monkeypatch):
    """So ended DARK's blur in ONNX, converted for one image while any number was asked for."""
    (tmp_path / "model.json").write_text("{}")
    whole = export.load

    def broken(path):
        if fault == "does not run":
            return lambda images: whole(path)(images) if len(images) == 1 else 1 / 0
        wrong, by = ("xy", 1) if fault == "another number" else ("sigma", 2e-4)
        return lambda images: {name: x + by * (name == wrong) for name, x in whole(path)(images).items()}

    monkeypatch.setattr(export, "load", broken)
    message = {
        "another number": "a different xy than the checkpoint, by 1 of",
        "another sigma": "a different sigma than the checkpoint, by 0.0002 of",
        "does not run": "--batch 1",
    }[fault]
    with pytest.raises(ValueError, match=message):
        export.export(run, out=tmp_path, platforms=("cpu",), force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"] and (tmp_path / "model.json").read_text() == "{}"


def test_depthwise_convolutions_for_formats_without_platforms():
    """ONNX has no choice by platform; what is traced for it computes the same."""
    x, kernel = (np.random.default_rng(0).normal(size=s).astype(np.float32) for s in ((2, 5, 4, 3), (3, 3, 1, 3)))
    usual = str(jax.make_jaxpr(convolve_depthwise)(x, kernel))
    with for_any_platform():
        traced = jax.make_jaxpr(lambda x, kernel: convolve_depthwise(x, kernel))(x, kernel)
    assert "platform_index" in usual and "platform_index" not in str(traced)
    (found,) = jax.core.eval_jaxpr(traced.jaxpr, traced.consts, x, kernel)
    np.testing.assert_allclose(found, convolve_depthwise(x, kernel), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs TensorFlow")
@pytest.mark.parametrize(("format", "batch"), [("savedmodel", "symbolic"), ("tflite", 2)])
def test_tensorflow(format, batch, run, tmp_path):
    found = export.export(run, out=tmp_path, format=format, batch=batch)
    assert found["sha256"] == files.sha256(tmp_path / found["file"]) and found["bytes"] > 1000
    crops = images(regression(), 2)
    assert_close(export.load(tmp_path / found["file"])(crops), expected(run, crops))


class Own(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        mu, sigma = (nn.Dense(34, name=name)(x.mean((1, 2))).reshape(-1, 17, 2) for name in ("mu", "sigma"))
        return mu, nn.sigmoid(sigma)


def test_a_net_of_your_own(tmp_path):
    run = save(tmp_path / "run", regression(Own()))
    with pytest.raises(ValueError, match="pass it as net="):
        export.export(run, out=tmp_path / "out")
    assert export.export(run, out=tmp_path / "out", net=Own())["difference"]["xy"] < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_wh": (0, 64)}, "size_wh"),
        ({"batch": 0}, "batch=0"),
        ({"format": "torch"}, "format='torch'"),
        ({"format": "tflite"}, "--batch 1"),
        ({"platforms": ("gpu",)}, "platforms="),
        ({"step": 7}, "no checkpoint 7"),
    ],
)
def test_bad_options(run, tmp_path, options, message):
    if options.get("format") == "tflite" and not find_spec("tensorflow"):
        pytest.skip("needs TensorFlow")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export.export(run, out=tmp_path / "out", **options)
    assert not list(tmp_path.rglob("model*"))


def test_sizes_that_the_nets_do_not_take(tmp_path):
    with pytest.raises(ValueError, match="multiples of 64"):
        export.export(save(tmp_path / "people", bottom_up()), out=tmp_path / "out", size_wh=(96, 64))
    with pytest.raises(ValueError, match="choose a size_wh"):
        export.export(save(tmp_path / "maps", heatmaps("argmax")), out=tmp_path / "out", size_wh=(36, 64))


def test_bad_folders_are_one_line(run, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    for arguments, message in (
        ([str(tmp_path), "--out", str(tmp_path / "out")], "holds no checkpoint"),
        ([str(run), "--out", str(tmp_path)], "--force"),
        ([str(run), "--out", str(tmp_path / "model.json")], "is a file"),
    ):
        with pytest.raises(SystemExit, match=textwrap.dedent(message)) as error:
            cli.main(["export", *arguments])
        assert "\n" not in str(error.value)
    export.export(run, out=tmp_path, force=True, platforms=("cpu",))
    assert json.loads((tmp_path / "model.json").read_text())["file"] == "model.stablehlo"


def test_a_missing_converter_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"jaxpose\[export\]"):
        export.require("onnx")
