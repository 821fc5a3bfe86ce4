"""A trained net as one file that runs without this package: StableHLO, ONNX, a TensorFlow SavedModel, or TFLite.

    jaxpose export runs/rle --out exported                        # model.stablehlo and model.json
    jaxpose export runs/rle --out exported --format onnx          # model.onnx
    jaxpose export runs/rle --out exported --format tflite --batch 1

The file takes crops (B, H, W, 3) uint8, RGB, and returns what `Task.predict` returns. Normalisation, net and decoding
are inside, and so are the weights, as constants, so a file cannot be paired with another's weights. RLE's flow is left
out, because prediction does not need it. StableHLO is read with JAX alone:

    from jax import export
    model = export.deserialize(open("exported/model.stablehlo", "rb").read())
    model.call(crops)["xy"]                                       # any batch size; on a CPU, a GPU or a TPU

`model.json` describes names, shapes and units of inputs and outputs, the joints, and how a crop is cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import export as jax_export

from jaxpose import checkpoint, files, tasks
from jaxpose.inference import Settings, from_checkpoint
from jaxpose.nets.depthwise import for_any_platform
from jaxpose.platforms import traced_for

PyTree = Any
Batch = int | Literal["symbolic"]
Format = Literal["stablehlo", "onnx", "savedmodel", "tflite"]
FILES = {
    "stablehlo": "model.stablehlo",
    "onnx": "model.onnx",
    "savedmodel": "model.savedmodel",
    "tflite": "model.tflite",
}
PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # fraction of the largest entry of an output, if float32 is multiplied as such: on a CPU
ROUNDED = 1e-2  # the same if an accelerator rounds the factors, to 8 bits on a TPU

UNITS = {
    "image": "RGB, 0 to 255",
    "xy": "pixels of the input, x to the right and y down",
    "confidence": "higher means more certain; 1 - mean sigma of a regression, or the peak of a heatmap (or what its decoding gives)",
    "sigma": 'learned scale of x and y, as fractions of the input\'s size; times sigma_scale of "inference" it is calibrated',
    "heatmap": "near 1 at a joint",
    "poses": "x and y in pixels of the input, and the joint's confidence in 0..1; a row per person, best first",
    "scores": "score of each person in 0..1",
    "valid": "True for the rows that are people",
    "candidates": "number of people that there were for the rows",
    "regressed": "pixels of the input, before joints were moved to peaks of heatmaps",
    "tag": "no unit: similar values within a person; the last axis is the mirror image's, with the flip test",
}
COORDINATES = "(0, 0) is the centre of the top-left pixel of the input, (W - 1, H - 1) that of the bottom-right one"
TOP_DOWN = (
    "one person, RGB: the box about its centre, its shorter side widened to the input's aspect ratio, both sides times {padding:g}, "
    "warped bilinearly (jaxpose.geometry.box_to_affine); the inverse affine takes xy back to the image"
)
DETECTOR = (
    "a whole image, RGB, scaled to fit the input, the rest on the right and below filled with {fill}; boxes there are possible, so cut "
    "them at the border of the image"
)
WHOLE = "a whole image, RGB, scaled and padded to the input's size"
BOTTOM_UP = f"{WHOLE}; jaxpose.tasks.find_people makes people of the maps"


def serving_function(
    task: tasks.ImageTask, variables: PyTree, *, flip_test: bool = False
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Returns what an exported file computes, a function of images alone: crops (B, H, W, 3) uint8 -> outputs by name.

    Top-down tasks return xy (B, K, 2) and confidence (B, K), those with a learned scale also sigma (B, K, 2); bottom-up
    tasks return heatmap (B, h, w, K) and tag (B, h, w, K, T); those of pose anchors what `PointSets.predict` returns; detectors
    boxes (B, D, 4), scores, labels and valid (B, D), and joints.

    >>> from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
    >>> from jaxpose.skeleton import COCO17
    >>> net = PoseRegressor(ResNet(depth=18, width=4), RegressionHead(17))
    >>> task = tasks.regression(net, skeleton=COCO17, size_wh=(32, 48))
    >>> function = serving_function(task, jax.jit(task.init)(jax.random.key(0)))
    >>> {name: x.shape for name, x in jax.eval_shape(function, jnp.zeros((2, 48, 32, 3), jnp.uint8)).items()}
    {'confidence': (2, 17), 'sigma': (2, 17, 2), 'xy': (2, 17, 2)}
    """

    def predict(image: jax.Array) -> dict[str, jax.Array]:
        outputs = task.predict(variables, {"image": image}, flip_test=flip_test)
        return {name: outputs[name] for name in task.public_outputs}

    return predict


def lower(
    task: tasks.ImageTask,
    variables: PyTree,
    *,
    batch: Batch = "symbolic",
    flip_test: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> jax_export.Exported:
    """Lowers `serving_function` to StableHLO, with the weights as constants; `.serialize()` returns the bytes.

    Args:
        task: The task, whose `size_wh` is the size of the images.
        variables: The variables of the task, such as NumPy arrays.
        batch: The number of images per call; "symbolic" accepts any number.
        flip_test: Average with the mirrored images, as evaluation does, at twice the time.
        platforms: The platforms to lower for, all in one file.

    Raises:
        ValueError: The batch is below 1, a platform is unknown, or a part of the net cannot be exported.

    >>> from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
    >>> from jaxpose.skeleton import COCO17
    >>> net = PoseRegressor(ResNet(depth=18, width=4), RegressionHead(17))
    >>> task = tasks.regression(net, skeleton=COCO17, size_wh=(32, 48))
    >>> exported = lower(task, jax.jit(task.init)(jax.random.key(0)))
    >>> exported.in_avals, exported.platforms
    ((ShapedArray(uint8[b,48,32,3]),), ('cpu', 'cuda', 'tpu'))
    """
    if not platforms or not set(platforms) <= {*PLATFORMS, "rocm"}:
        raise ValueError(f"platforms={tuple(platforms)}: expected some of {', '.join(PLATFORMS)}, rocm")
    if task.level == "detection" and batch == "symbolic":
        raise ValueError(
            "a detector is exported for a fixed number of images: give a number of images, such as --batch 1"
        )
    image = jax.ShapeDtypeStruct(_shape(task, batch), jnp.uint8)
    function = jax.jit(serving_function(task, variables, flip_test=flip_test))
    forms = "tpu" if set(platforms) == {"tpu"} else "cpu"  # not those of the machine that exports
    try:
        with traced_for(forms):
            return jax_export.export(function, platforms=tuple(platforms))(image)
    except _untraceable() as error:
        raise ValueError(_advice(error, batch)) from error


def _untraceable() -> tuple[type[Exception], ...]:
    """Returns the errors that a net which needs to know its batch raises if the batch is a symbol."""
    return (jax.core.InconclusiveDimensionOperation, TypeError, NotImplementedError)


def _advice(error: Exception, batch: Batch) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    remedy = ": give a number of images, such as --batch 1" if batch == "symbolic" else ""
    return f"this net cannot be exported in this way ({reason:.200}){remedy}"


def _shape(task: tasks.ImageTask, batch: Batch) -> tuple[Any, ...]:
    width, height = task.size_wh
    if batch == "symbolic":
        return (*jax_export.symbolic_shape("b"), height, width, 3)
    if batch < 1:
        raise ValueError(f"batch={batch}: expected a positive number of images, or 'symbolic' for any number")
    return (batch, height, width, 3)


def export(
    directory: str | Path,
    *,
    out: str | Path,
    format: Format = "stablehlo",
    batch: Batch = "symbolic",
    flip_test: bool = False,
    size_wh: tuple[int, int] | None = None,
    step: int | Literal["best", "latest"] = "best",
    platforms: Sequence[str] = PLATFORMS,
    force: bool = False,
    net: nn.Module | None = None,
) -> dict[str, Any]:
    """Writes a checkpoint's net to out/model.* and its description to out/model.json.

    The file is read back and compared with the checkpoint's own predictions before it is moved into place: every output
    may differ by 1e-4 of its largest entry.

    Args:
        directory: A run's folder, or its checkpoints folder.
        out: The folder for the files.
        format: "stablehlo", "onnx" (extra `export`), "savedmodel" or "tflite" (extra `data`; TFLite needs a number as
            batch).
        batch, flip_test, platforms: The same as for `lower`; platforms apply to StableHLO only, a SavedModel is for the
            CPU and the GPU.
        size_wh: The size of the input, if it differs from that of the training. Top-down nets are trained for theirs; a
            bottom-up net takes any that 64 divides.
        step: The checkpoint to export.
        force: Replace existing files.
        net: The net, if it is not one of this package.

    Returns:
        The description.

    Raises:
        ValueError: An option does not fit; a net of your own is not given as `net`; or the file does not predict what the
            checkpoint does.
        FileExistsError: `out` already holds a model.
        FileNotFoundError: There is no checkpoint.
        ImportError: The format needs a package that is not installed.
    """
    if format == "tflite" and batch == "symbolic":
        raise ValueError("TFLite takes a fixed number of images: give --batch 1")
    out = Path(out)
    previous_files = _previous_files(out, force=force)
    variables, config = checkpoint.restore_model(directory, step=step)
    tasks.check_poses(tasks.from_config(config["task"], net=net), directory, detectors=True)
    task = _task(config["task"], size_wh, net)
    if task.level == "detection" and format in ("onnx", "savedmodel", "tflite"):
        converter = "jax2onnx does not convert" if format == "onnx" else "TensorFlow does not run"
        raise ValueError(
            f"--format {format}: {converter} the loops of a detector, whose length depends on the picture; give --format stablehlo "
            "--batch 1"
        )
    require(format)  # only now: nobody installs a converter for a net that it does not convert
    variables = task.inference_variables(variables)
    _check_net(task, variables, flip_test, directory)

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export", dir=out) as folder:
        path = Path(folder) / FILES[format]
        options = dict(batch=batch, flip_test=flip_test, platforms=platforms)
        start = time.perf_counter()
        _write(task, variables, path, format, **options)
        seconds = time.perf_counter() - start
        difference = _compare(task, variables, path, format, **options)
        description = describe(
            task, variables, format=format, batch=batch, flip_test=flip_test, inference=from_checkpoint(config)
        )
        description |= {
            "bytes": _size(path),
            "sha256": files.sha256(path),
            "seconds": round(seconds, 1),
            "difference": difference,
        }
        description["checkpoint"] = {"step": config["step"], "metrics": config["metrics"]}
        if format == "stablehlo":
            description["platforms"] = list(platforms)
        files.write_json(Path(folder) / "model.json", description, indent=1, allow_nan=True)
        for previous in previous_files:
            shutil.rmtree(previous) if previous.is_dir() else previous.unlink()
        for name in (FILES[format], "model.json"):
            os.replace(Path(folder) / name, out / name)
    return files.read_json(out / "model.json", "description of the model")


def require(format: str) -> None:
    """Raises an error unless this format can be written here.

    Raises:
        ValueError: The format is unknown; the message lists the known ones.
        ImportError: A package is missing; the message names it.

    >>> require("torch")
    Traceback (most recent call last):
    ...
    ValueError: format='torch': expected one of stablehlo, onnx, savedmodel, tflite
    """
    if format not in FILES:
        raise ValueError(f"format={format!r}: expected one of {', '.join(FILES)}")
    try:
        if format == "onnx":
            import jax2onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        elif format in ("savedmodel", "tflite"):
            import tensorflow  # noqa: F401
    except ImportError as error:
        extra = "export" if format == "onnx" else "data"
        raise ImportError(f"--format {format} needs {error.name}: pip install 'jaxpose[{extra}]'") from error


def describe(
    task: tasks.ImageTask,
    variables: PyTree,
    *,
    format: Format = "stablehlo",
    batch: Batch = "symbolic",
    flip_test: bool = False,
    inference: Settings | None = None,
) -> dict[str, Any]:
    """Returns the description in model.json: inputs, outputs, joints, coordinates, and test settings (`inference`).

    >>> from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
    >>> from jaxpose.skeleton import COCO17
    >>> net = PoseRegressor(ResNet(depth=18, width=4), RegressionHead(17))
    >>> task = tasks.regression(net, skeleton=COCO17, size_wh=(32, 48))
    >>> [x["shape"] for x in describe(task, jax.jit(task.init)(jax.random.key(0)))["outputs"]]
    [['b', 17], ['b', 17, 2], ['b', 17, 2]]
    """
    width, height = task.size_wh
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    outputs = jax.eval_shape(serving_function(task, variables, flip_test=flip_test), image)
    first = "b" if batch == "symbolic" else batch

    units = UNITS | getattr(task, "units", {})

    def entry(name: str, array: jax.ShapeDtypeStruct) -> dict[str, Any]:
        return {"name": name, "shape": [first, *array.shape[1:]], "dtype": array.dtype.name, "unit": units[name]}

    inference = inference or Settings()
    return {
        "format": format,
        "file": FILES[format],
        "inputs": [entry("image", image)],
        "outputs": [entry(name, array) for name, array in outputs.items()],
        "family": task.family,
        "skeleton": task.skeleton.to_dict(),
        "size_wh": [width, height],
        "flip_test": flip_test,
        "coordinates": COORDINATES,
        "image": _image_text(task, padding=inference.padding),
        "inference": inference.to_dict(),
        "preprocess": f"inside the file ({task.preprocess}): give raw pixels",
        "versions": {name: metadata.version(name) for name in ("jax", "flax")},
    }


def _image_text(task: tasks.ImageTask, *, padding: float) -> str:
    """Returns the description of the input."""
    if task.level == "detection":
        mean = tasks.base.preprocessor(task.preprocess)
        fill = mean.mean[::-1] if mean.bgr else mean.mean  # it is 0 after the normalisation, as the padding in training
        return DETECTOR.format(fill=f"RGB {tuple(round(value) for value in fill)}")
    if task.level == "image":
        return BOTTOM_UP if "heatmap" in task.outputs else WHOLE
    return TOP_DOWN.format(padding=padding)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def _task(config: dict[str, Any], size_wh: tuple[int, int] | None, net: nn.Module | None) -> tasks.ImageTask:
    task = tasks.from_config(config, net=net)
    sides = task.size_wh if size_wh is None else tuple(size_wh)
    if any(side % task.size_multiple for side in sides):
        raise ValueError(
            f"size_wh={sides}: this net takes multiples of {task.size_multiple}; choose some with --size-wh, such as "
            f"--size-wh {' '.join(str(-(-side // task.size_multiple) * task.size_multiple) for side in sides)}"
        )
    return dataclasses.replace(task, size_wh=sides)


def _check_net(task: tasks.ImageTask, variables: PyTree, flip_test: bool, directory: str | Path) -> None:
    """Raises an error if the weights do not fit the net, or the input's size does not suit it."""
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), directory)
    jax.eval_shape(
        serving_function(task, variables, flip_test=flip_test), jax.ShapeDtypeStruct(_shape(task, 1), jnp.uint8)
    )


def _previous_files(out: Path, *, force: bool) -> list[Path]:
    """Returns the files of a model that are already in the folder; `force` replaces them.

    Raises:
        FileExistsError: There are some and `force` is false, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: name a folder as out")
    previous = [out / name for name in (*FILES.values(), "model.json") if (out / name).exists()]
    if previous and not force:
        names = ", ".join(path.name for path in previous)
        raise FileExistsError(f"{out} holds {names}: name another folder, or replace it with --force")
    return previous


def _write(
    task: tasks.ImageTask,
    variables: PyTree,
    path: Path,
    format: Format,
    *,
    batch: Batch,
    flip_test: bool,
    platforms: Sequence[str],
) -> None:
    """Writes the model in one format."""
    match format:
        case "stablehlo":
            exported = lower(task, variables, batch=batch, flip_test=flip_test, platforms=platforms)
            path.write_bytes(exported.serialize())
        case "onnx":
            _write_onnx(task, variables, path, batch=batch, flip_test=flip_test)
        case "savedmodel":
            _write_savedmodel(task, variables, path, batch=batch, flip_test=flip_test)
        case "tflite":
            _write_tflite(task, variables, path, batch=batch, flip_test=flip_test)


def _write_onnx(task: tasks.ImageTask, variables: PyTree, path: Path, *, batch: Batch, flip_test: bool) -> None:
    import onnx
    from jax2onnx import to_onnx

    function = serving_function(task, variables, flip_test=flip_test)
    shape = ("b" if batch == "symbolic" else batch, *_shape(task, 1)[1:])
    names = list(jax.eval_shape(function, jax.ShapeDtypeStruct(_shape(task, 1), jnp.uint8)))
    image = jax.ShapeDtypeStruct(shape, jnp.uint8)

    def in_order(image: jax.Array) -> list[jax.Array]:
        outputs = function(image)
        return [outputs[name] for name in names]

    try:
        with for_any_platform():
            model = to_onnx(in_order, [image], input_names=["image"], output_names=names)
    except _untraceable() as error:
        raise ValueError(_advice(error, batch)) from error
    onnx.save_model(model, path)  # the converter itself would put large weights into a second file


def _write_savedmodel(task: tasks.ImageTask, variables: PyTree, path: Path, *, batch: Batch, flip_test: bool) -> None:
    import tensorflow as tf
    from jax.experimental import jax2tf

    any_batch = batch == "symbolic"
    shapes = ["(b, ...)"] if any_batch else None
    function = jax2tf.convert(
        serving_function(task, variables, flip_test=flip_test), polymorphic_shapes=shapes, with_gradient=False,
        native_serialization_platforms=("cpu", "cuda"),
    )  # fmt: skip
    image = tf.TensorSpec([None if any_batch else batch, *_shape(task, 1)[1:]], tf.uint8, name="image")
    module = tf.Module()
    module.predict = tf.function(function, autograph=False, input_signature=[image])
    with traced_for("cpu"):
        signature = module.predict.get_concrete_function()
    tf.saved_model.save(module, str(path), signatures=signature)


def _write_tflite(task: tasks.ImageTask, variables: PyTree, path: Path, *, batch: int, flip_test: bool) -> None:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        _write_savedmodel(task, variables, Path(folder), batch=batch, flip_test=flip_test)
        try:
            path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
        except Exception as error:  # the converter has an exception type of its own
            raise ValueError(f"{_advice(error, batch)}: use --format onnx or stablehlo") from error


def load(path: str | Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads an exported file as a function: crops (B, H, W, 3) uint8 -> outputs by name, NumPy arrays.

    Args:
        path: The path of model.stablehlo, model.onnx, model.savedmodel or model.tflite.

    Raises:
        ValueError: The file is of another kind.
        ImportError: The format needs a package that is not installed.

    >>> load("model.pt")
    Traceback (most recent call last):
    ...
    ValueError: model.pt: expected a file written by `jaxpose export`, named model.stablehlo, .onnx, .savedmodel or
        .tflite
    """
    path = Path(path)
    format = path.suffix.removeprefix(".")
    if format not in FILES:
        raise ValueError(
            f"{path}: expected a file written by `jaxpose export`, named model.stablehlo, .onnx, .savedmodel or .tflite"
        )
    require(format)
    if format == "stablehlo":
        model = jax_export.deserialize(path.read_bytes())
        return lambda images: jax.device_get(model.call(images))
    if format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda images: dict(zip(names, session.run(None, {"image": images}), strict=True))
    import tensorflow as tf

    if format == "tflite":
        runner = tf.lite.Interpreter(str(path)).get_signature_runner()
        return lambda images: runner(image=images)
    module = tf.saved_model.load(str(path))
    return lambda images: {name: x.numpy() for name, x in module.predict(tf.constant(images)).items()}


def _compare(
    task: tasks.ImageTask,
    variables: PyTree,
    path: Path,
    format: Format,
    *,
    batch: Batch,
    flip_test: bool,
    platforms: Sequence[str],
) -> dict[str, float] | None:
    """Returns the largest difference from the checkpoint's predictions, by output; None if the file cannot run here.

    It may be at most TOLERANCE of the largest entry of that output, whatever its unit; on the CPU, if the file runs
    there.

    Raises:
        ValueError: The difference is larger, or the file does not run.
    """
    device = jax.devices()[0]
    if format != "stablehlo" or "cpu" in platforms:
        with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave it out
            device = jax.devices("cpu")[0]
    here = {"gpu": "cuda"}.get(device.platform, device.platform)
    if format == "stablehlo" and here not in platforms:
        return None
    with jax.default_device(device):
        return _differences(
            task,
            variables,
            path,
            format,
            batch=batch,
            flip_test=flip_test,
            tolerance=TOLERANCE if here == "cpu" else ROUNDED,
        )


def _differences(
    task: tasks.ImageTask,
    variables: PyTree,
    path: Path,
    format: Format,
    *,
    batch: Batch,
    flip_test: bool,
    tolerance: float,
) -> dict[str, float]:
    model, predict = load(path), jax.jit(serving_function(task, variables, flip_test=flip_test))
    rng, differences = np.random.default_rng(0), {}
    for size in (1, 3) if batch == "symbolic" else (batch,):
        images = rng.integers(0, 256, (size, *_shape(task, 1)[1:]), dtype=np.uint8)
        try:
            outputs = model(images)
        except Exception as error:  # every runtime has its own exception types
            raise ValueError(f"{format} does not run with {size} images: " + _advice(error, batch)) from error
        for name, expected in jax.device_get(predict(images)).items():
            difference = float(np.abs(outputs[name].astype(np.float64) - expected).max())  # some are truth values
            differences[name] = max(difference, differences.get(name, 0.0))
            largest = float(np.abs(expected).max())
            if not difference <= tolerance * largest:
                raise ValueError(
                    f"{format} gives a different {name} than the checkpoint, by {difference:.3g} of {largest:.3g} for {size} images: "
                    "use another format"
                )
    return differences


def main(
    checkpoint: Path,
    /,
    *,
    out: Path,
    format: Format = "stablehlo",
    batch: Batch = "symbolic",
    flip_test: bool = False,
    size_wh: tuple[int, int] | None = None,
    step: int | Literal["best", "latest"] = "best",
    platforms: tuple[str, ...] = PLATFORMS,
    force: bool = False,
) -> None:
    """Write a trained net to one file that runs without this package.

    Args:
        checkpoint: A run's folder, or its checkpoints folder.
        out: Folder for model.* and model.json.
        format: stablehlo (read with JAX alone), onnx (extra export), savedmodel or tflite (extra data; tflite with
            --batch 1).
        batch: Number of images per call; symbolic accepts any number.
        flip_test: Average with the mirrored images, as evaluation does, at twice the time.
        size_wh: Width and height of the input in px, if they differ from those of the training.
        step: The checkpoint to export: a number, best or latest.
        platforms: The platforms that StableHLO is lowered for.
        force: Replace an existing model.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs a lot
    description = export(
        checkpoint, out=out, format=format, batch=batch, flip_test=flip_test, size_wh=size_wh, step=step,
        platforms=platforms, force=force,
    )  # fmt: skip
    keys = ("file", "bytes", "sha256", "seconds", "difference")
    print(json.dumps({"out": str(out)} | {key: description[key] for key in keys}))
