"""The settings with which a net is tested, and the loop that tests it.

`Settings` says how a net is tested: with which views of an image, from which pixels, and how a person is scored. A
checkpoint stores its settings under "inference", beside the task. A page that trains writes them; evaluation,
prediction, pictures and export read them with `from_checkpoint`, so that one net gives the same numbers everywhere.

`run` is the loop of every evaluation, arrays in and arrays out: it runs a step on each batch, gathers the rows of all
processes, cuts the padding rows of the last batch, and concatenates the rest. `batches` stacks and pads samples that
are not in batches yet, `to_image` maps points back to the image, and `people` does all of it for nets of whole images.

A batch is a dictionary of arrays with rows in front. Its images are "image" and, at other scales, "image_0.5" and the
like; "valid" (B,) is False for rows of padding, which come last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpose import geometry, parallel
from jaxpose.files import is_number

PyTree = Any
Rows = dict[str, np.ndarray]
Decode = Literal["exact", "scaled"]
Rescore = Literal["box+mean+max", "box*mean", "mean", "box"]
Fit = Literal["short", "long"]

GRID = 64  # the side of a test image is a multiple of this
# True for augmentations of whole images that mirror. Runs from before there were settings name their augmentation
# instead.
MIRRORS = {"none": False, "light": False, "higher_hrnet": True, "swahr_paper": True}


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= GRID and value % GRID == 0


@dataclass(frozen=True)
class Settings:
    """The settings with which a net is tested.

    Attributes:
        flip_test: Average with the prediction on the mirrored image.
        padding: The factor on a person's box.
        decode: "exact" decodes JPEGs in full, "scaled" at 1/2, 1/4 or 1/8 if a crop is no larger.
        rescore: The rule that combines the score of the box and the confidences of the joints into a person's score; see
            `jaxpose.evaluation.results.person_score`.
        nms: The OKS above which the weaker of two poses is dropped; None keeps every pose.
        nms_annotated: Suppress also where the boxes are those of the labels, as in HRNet's code; RLE's does not (QUIRK R21).
        soft_nms: Decay the scores of overlapping poses instead of dropping them.
        test_size: The side of a whole image in input pixels, a multiple of 64; None stands for the shorter side of the
            training images.
        fit: The side of a whole image that `test_size` refers to, "short" or "long".
        scales: The scales of a whole image whose heatmaps are averaged, 1 among them.
        sigma_scale: The factor on the predicted sigma of a likelihood, fitted on held-out frames (`jaxpose.calibration`).

    Raises:
        ValueError: A value is outside its range or of another type.

    >>> Settings(rescore="box").nms
    0.9
    >>> Settings(test_size=100)
    Traceback (most recent call last):
    ...
    ValueError: test_size=100: expected a multiple of 64, or None for the shorter side of the training images
    """

    flip_test: bool = True
    padding: float = 1.25
    decode: Decode = "exact"
    rescore: Rescore = "box+mean+max"
    nms: float | None = 0.9
    nms_annotated: bool = True
    soft_nms: bool = False
    test_size: int | None = None
    fit: Fit = "short"
    scales: tuple[float, ...] = (1.0,)
    sigma_scale: float = 1.0

    def __post_init__(self):
        for name, choices in (("decode", Decode), ("rescore", Rescore), ("fit", Fit)):
            self._check(name, getattr(self, name) in get_args(choices), f"one of {', '.join(get_args(choices))}")
        for name in ("flip_test", "soft_nms", "nms_annotated"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        self._check("padding", is_number(self.padding) and self.padding > 0, "a positive factor on the box")
        scale_holds = is_number(self.sigma_scale) and self.sigma_scale > 0
        self._check("sigma_scale", scale_holds, "a positive factor on sigma")
        nms_holds = self.nms is None or (is_number(self.nms) and 0 < self.nms <= 1)
        self._check("nms", nms_holds, "an OKS above 0, at most 1, or None")
        side_holds = self.test_size is None or _is_side(self.test_size)
        self._check(
            "test_size", side_holds, f"a multiple of {GRID}, or None for the shorter side of the training images"
        )
        scales_hold = isinstance(self.scales, tuple) and all(is_number(s) and s > 0 for s in self.scales)
        self._check("scales", scales_hold and 1 in self.scales, "positive numbers, 1 among them")

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def side(self, size_wh: tuple[int, int]) -> int:
        """Returns the side of a whole image at test, for a net that was trained on images of size `size_wh`.

        Raises:
            ValueError: `test_size` is None and the shorter side of the training images is not a multiple of 64.

        >>> Settings().side((512, 640)), Settings(test_size=256).side((512, 640))
        (512, 256)
        """
        side = min(size_wh) if self.test_size is None else self.test_size
        if not _is_side(side):
            raise ValueError(
                f"test_size={side}, the shorter side of the training images {tuple(size_wh)}: expected a multiple of {GRID}; "
                "give another test_size"
            )
        return side

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON-able values.

        >>> Settings.from_dict(Settings(scales=(0.5, 1.0)).to_dict()).scales
        (0.5, 1.0)
        """
        return {**dataclasses.asdict(self), "scales": list(self.scales)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Builds settings from the result of `to_dict`; fields that are absent take their defaults.

        Raises:
            ValueError: There are fields that this version does not know, by name, or a value is outside its range.

        >>> Settings.from_dict({"nms": None, "tiles": 4})
        Traceback (most recent call last):
        ...
        ValueError: the settings of inference hold tiles, which this version of jaxpose does not know: install a newer one
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"the settings of inference are {values!r:.80}: expected names with their values")
        unknown = [str(name) for name in values if name not in _names(cls)]
        if unknown:
            raise ValueError(
                f"the settings of inference hold {', '.join(unknown)}, which this version of jaxpose does not know: "
                "install a newer one"
            )
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def published(task: Any) -> Settings:
    """Returns the settings with which the papers test nets of a task's family: mirrored images, and OKS-NMS for boxes.

    Args:
        task: An image task; its `rescore` and its `level` are read.

    >>> from types import SimpleNamespace
    >>> published(SimpleNamespace(level="image", rescore="box")).nms is None
    True
    """
    return Settings(rescore=task.rescore, nms=0.9 if task.level == "person" else None)


def from_checkpoint(config: Mapping[str, Any], *, default: Settings = Settings()) -> Settings:
    """Reads the test settings of a checkpoint.

    Checkpoints from before there were settings store the flags of their run instead ("run"); imported ones store none.

    Args:
        config: The config from `checkpoint.restore_model` or `checkpoint.read_config`.
        default: The values of settings that the checkpoint does not state.

    Raises:
        ValueError: This version does not know a stored setting, or it is outside its range.

    >>> from_checkpoint({"run": {"flip_test": False, "rescore": "box", "epochs": 3}}).rescore
    'box'
    >>> from_checkpoint({"run": {}}, default=Settings(rescore="box*mean")).rescore
    'box*mean'
    """
    if "inference" in config:
        return Settings.from_dict(config["inference"])
    run = config.get("run") or {}
    stated = {name: run[name] for name in _names(Settings) if name in run}
    if run:  # of such a version, which always suppressed on annotated boxes
        stated.setdefault("nms_annotated", True)
    for name in ("flip_test", "decode", "test_size"):  # None: not stated
        if stated.get(name) is None:
            stated.pop(name, None)
    if "flip_test" not in stated and run.get("augment") in MIRRORS:
        # A net is tested with the mirror image if it was trained with it.
        stated["flip_test"] = MIRRORS[run["augment"]]
    return dataclasses.replace(default, **{k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()})


def views(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the images of a batch: "image", and "image_0.5" and the like for each further scale.

    >>> list(views({"image": 0, "image_0.5": 1, "image_id": 2, "valid": 3}))
    ['image', 'image_0.5']
    """
    return {k: v for k, v in batch.items() if k == "image" or (k.startswith("image_") and k != "image_id")}


def batches(samples: Iterable[Mapping[str, Any]], *, size: int, smallest: int | None = None) -> Iterator[Rows]:
    """Stacks samples into batches, the last one padded with copies of its last sample.

    Args:
        samples: Dictionaries of arrays, each name with one shape. They are taken when their batch is requested.
        size: The number of rows of a batch.
        smallest: The last batch has as many rows as the smallest power of two times `smallest` that holds its samples,
            at most `size`, so that few programs are compiled and little is computed in vain; None pads it to `size`.

    Yields:
        The stacked arrays, and "valid" (rows,) bool: False for padding.

    >>> [b["valid"].tolist() for b in batches(({"image": np.zeros(2)} for _ in range(7)), size=4, smallest=1)]
    [[True, True, True, True], [True, True, True, False]]
    """
    if size < 1:
        raise ValueError(f"size={size}: expected a positive number of rows")
    pending: list[Mapping[str, Any]] = []
    for sample in samples:
        pending.append(sample)
        if len(pending) == size:
            yield _padded(pending, size)
            pending = []
    if pending:
        rows = size
        if smallest is not None:
            doublings = math.ceil(math.log2(max(len(pending) / smallest, 1)))
            rows = min(smallest * 2**doublings, size)
        yield _padded(pending, rows)


def on_mesh(
    predict: Callable[[PyTree, PyTree], PyTree], variables: PyTree, mesh: Mesh, *, inputs: Iterable[str] | None = None
) -> Callable[[Mapping[str, np.ndarray]], PyTree]:
    """Builds a step for `run` from a function of variables and a global batch (`train.make_predict_step`).

    Args:
        predict: (variables, global batch) -> dictionary of global arrays.
        variables: The variables for `predict`, on the devices of the mesh.
        mesh: The mesh over which the rows of a batch are split.
        inputs: The names of the entries that `predict` sees; None stands for the images (`views`).
    """

    def step(batch: Mapping[str, np.ndarray]) -> PyTree:
        local = views(batch) if inputs is None else {name: batch[name] for name in inputs}
        return predict(variables, parallel.global_batch(local, mesh))

    return step


def run(
    step: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]],
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    gather: bool = True,
) -> Rows:
    """Predicts every sample once: runs each batch, gathers its rows, cuts the padding, and concatenates.

    Args:
        step: batch -> dictionary of arrays with the batch's rows in front: global JAX arrays, or NumPy arrays of the
            rows of this process.
        batches: The rows of this process, the same number and shapes of batches on every process. "valid" marks the
            rows that are samples; without it all are.
        gather: Gather the rows of all processes, in the order of the global batch; False leaves each process its own.

    Returns:
        The outputs of `step` and the entries of the batches except their images, a row for each sample; {} for no
        batches.

    >>> halves = run(lambda batch: {"half": batch["image"] / 2}, batches(({"image": np.float32(i)} for i in range(3)), size=2))
    >>> halves["half"].tolist(), halves["valid"].tolist()
    ([0.0, 0.5, 1.0], [True, True, True])
    """

    def parts() -> Iterator[tuple[Rows, np.ndarray | None]]:
        for batch in batches:
            outputs = step(batch)
            entries = {name: rows for name, rows in batch.items() if name not in views(batch)}
            if gather:
                outputs, entries = _gathered(outputs), parallel.gather_host(entries)
            yield {**entries, **jax.device_get(outputs)}, entries.get("valid")

    return _concatenated(parts())


def merged(parts: Iterable[Mapping[str, np.ndarray]]) -> Rows:
    """Concatenates batches of outputs without their rows of padding.

    >>> merged([{"x": np.arange(2), "valid": np.array([True, False])}, {"x": np.arange(2), "valid": np.ones(2, bool)}])["x"]
    array([0, 0, 1])
    """
    return _concatenated((part, part.get("valid")) for part in parts)


def to_image(xy: np.ndarray, affine: np.ndarray, *, where: np.ndarray | None = None) -> np.ndarray:
    """Maps points from input pixels back to image pixels.

    Args:
        xy: (B, ..., 2) input pixels.
        affine: (B, 2, 3), image pixels -> input pixels.
        where: (B, ..., 1) or (B, ..., 2) bool: masked points become 0; None maps all.

    Returns:
        (B, ..., 2) image pixels.

    >>> to_image(np.array([[[4.0, 6.0]]]), np.array([[[2.0, 0, 0], [0, 2, 0]]])).tolist()
    [[[2.0, 3.0]]]
    """
    points = geometry.apply_affine(geometry.invert_affine(affine), xy)
    return points if where is None else np.where(where, points, 0.0)


def people(
    step: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]],
    batches: Iterable[Mapping[str, np.ndarray]],
    group: Callable[..., Mapping[str, Any]],
    *,
    on_device: bool = False,
    gather: bool = True,
    size_wh: np.ndarray | None = None,
) -> Rows:
    """Detects the people of whole images.

    Args:
        step: batch -> maps, as for `run`.
        batches: The batches of an evaluation of whole images in `jaxpose.data`: images, "affine" (B, 2, 3), "index" (B,),
            "valid" (B,).
        group: (maps, stride=input pixels per map pixel) -> "poses" (B, P, K, 3): x and y in input pixels and the
            joint's score, 0 for a missing joint; "scores" (B, P); "valid" (B, P). A net that predicts people instead of
            maps has a stride of 1, and may also have "regressed" (B, P, K, 2), other estimates of the same joints, and
            "sigma" (B, P, K, 2), the scale of each coordinate, in input pixels.
        on_device: Call `group` with `device=True` on the global maps; False groups the rows of this process on its host.
        gather: The same as for `run`.
        size_wh: (N, 2) width and height of every image, by "index". Joints that a net regresses are then moved to the nearest
            pixel of their image: an input that the image does not fill has padding, on which they may lie, and a joint in the image is
            always nearer to that pixel. Peaks of maps stay where they are. None: all stay.

    Returns:
        The result of `group`, with the poses in image pixels (float64), and the entries of the batches except images
        and affines, in the order of "index".
    """

    def grouped(batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        maps = step(batch)
        stride = batch["image"].shape[2] / maps["heatmap"].shape[2] if "heatmap" in maps else 1.0
        if on_device:
            return group(maps, stride=stride, device=True)
        count = int(batch["valid"].sum())  # grouping takes time, so padding is left out
        some = group({name: rows[:count] for name, rows in parallel.local_rows(maps).items()}, stride=stride)
        return {name: _grown(rows, len(batch["valid"])) for name, rows in some.items()}

    rows_by_name = run(grouped, batches, gather=gather)
    affine, poses = rows_by_name.pop("affine").astype(np.float64), rows_by_name["poses"]
    xy = to_image(poses[..., :2].astype(np.float64), affine, where=poses[..., 2:] > 0)
    if "regressed" in rows_by_name:
        where = rows_by_name["valid"][..., None, None]
        regressed = to_image(rows_by_name["regressed"].astype(np.float64), affine, where=where)
        if size_wh is not None:
            last = np.asarray(size_wh)[rows_by_name["index"]][:, None, None] - 1
            xy, regressed = np.clip(xy, 0, last), np.clip(regressed, 0, last)
        rows_by_name["regressed"] = regressed
    rows_by_name["poses"] = np.concatenate([xy, poses[..., 2:]], -1)
    if "sigma" in rows_by_name:
        rows_by_name["sigma"] = rows_by_name["sigma"] / affine[:, None, None, [0, 1], [0, 1]]
    order = np.argsort(rows_by_name["index"])  # the batches come by shape
    return {name: rows[order] for name, rows in rows_by_name.items()}


def _padded(samples: list[Mapping[str, Any]], rows: int) -> Rows:
    filled = samples + samples[-1:] * (rows - len(samples))
    stacked = {name: np.stack([sample[name] for sample in filled]) for name in samples[0]}
    return stacked | {"valid": np.arange(rows) < len(samples)}


def _gathered(outputs: Mapping[str, Any]) -> Rows:
    """Returns rows of all processes: JAX arrays are global ones, NumPy arrays hold the rows of this process."""
    if jax.process_count() == 1:
        return jax.device_get(outputs)
    return {
        name: parallel.gather(rows) if isinstance(rows, jax.Array) else parallel.gather_host(rows)
        for name, rows in outputs.items()
    }


def _concatenated(parts: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray | None]]) -> Rows:
    chunks = [
        {name: np.asarray(rows) if valid is None else rows[valid] for name, rows in part.items()}
        for part, valid in parts
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]} if chunks else {}


def _grown(rows: np.ndarray, count: int) -> np.ndarray:
    """Appends zeros to rows, up to `count` in total."""
    if len(rows) == count:
        return rows
    return np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])
