"""How hiding parts of a person affects a trained net: occlusion, truncation, and whether its confidence reflects the error.

  python -m experiments.analyse runs/coco_rle --data coco --count 500
  python -m experiments.analyse runs/coco_rle --data coco --patch 40 --stride 20 --out runs/analysis

For nets that take one person (regression and heatmaps), on annotated boxes. The results are printed, written to
OUT/analysis.json, and drawn:

  as it is     EPE by joint, size and occlusion, and the correlation of confidence and OKS (tables 1 of Gu 2021, 4 of Li 2021)
  occlusion    a square is painted over the crop: centred on every labelled joint in turn, as in tables 15 and 16 of Li 2021
               (rows: the covered part, columns: the joint with the error), and moved over the whole crop. A joint is covered
               itself, or another labelled joint is, or only background. The printed table pools left and right.
  truncation   the box is replaced by a part of itself, and everything outside of it is painted over, as in figure 5 of Li
               2021 (which feeds only the content of the box); errors of the joints inside and outside of that part

Errors of occlusion and truncation are in pixels of the whole person's crop, so that people of all sizes have the same weight,
and parts can be compared with the whole. A heatmap cannot show a joint outside of the crop; a regression can.

For a run in space (h36m_rle, h36m_integral) the errors of occlusion are in mm, relative to the root, with its true depth, of the joints
that are labelled in space, as in tables 15 and 16; there is no truncation.

Output for `coco_rle --preset tiny --epochs 20 --milestones 14 18 --synthetic-images 1000` (crops of 72x96 px, a short training:
the figures illustrate the page, not the accuracy of RLE) with --count 0 --patch 16 --stride 16, in 10 s on two cores:

                         labels  EPE, whole   confidence, whole
  covered: itself         11083   8.60  7.02       0.566  0.601
  covered: another        64784   7.92  7.62       0.542  0.557
  covered: background     60244   7.53  7.51       0.562  0.563
  upper half, inside       1903  10.63  7.44       0.450  0.591
  upper half, outside      1022  29.01  7.73       0.340  0.511
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
import tyro

from experiments.common import runner
from experiments.common.rules import AnyValue, AtLeast, LocalPath, Positive, check
from experiments.common.space import in_camera
from jaxpose import checkpoint, files, geometry, inference, metrics, tasks
from jaxpose.data import builder, crops, formats, space
from jaxpose.data.source import Source
from jaxpose.evaluation import report
from jaxpose.inference import Settings
from jaxpose.skeleton import Skeleton

FILLS = {"grey": (128, 128, 128), "mean": (124, 116, 104), "black": (0, 0, 0)}
PARTS = {  # x, y, w, h as parts of the box; left and right refer to the picture
    "upper half": (0, 0, 1, 1 / 2),
    "lower half": (0, 1 / 2, 1, 1 / 2),
    "upper two thirds": (0, 0, 1, 2 / 3),
    "left half": (0, 0, 1 / 2, 1),
    "right half": (1 / 2, 0, 1 / 2, 1),
}
RELATIONS = ("itself", "another", "background")


@dataclass(frozen=True)
class Config:
    """Occlusion, truncation and confidence of a trained net."""

    checkpoint: Annotated[Path, tyro.conf.Positional, LocalPath]
    """A run's folder."""
    data: Annotated[Path, LocalPath]
    """Folder with images and annotations."""
    split: Annotated[str, AnyValue] = "val"
    """Name of the split."""
    count: Annotated[int, AtLeast(0)] = 200
    """Number of persons, evenly spread over the split; 0: all."""
    out: Annotated[Path | None, LocalPath] = None
    """Folder for analysis.json and the pictures; none: analysis in the run's folder."""
    format: Annotated[formats.Choice, AnyValue] = "coco"
    """Format of the annotations, as for `jaxpose prepare`."""
    data_dir: Annotated[Path, LocalPath] = Path("runs/data")
    """Folder of prepared data sets."""
    patch: Annotated[int, AtLeast(1)] = 40
    """Side of the square, in pixels of the crop."""
    stride: Annotated[int, AtLeast(1)] = 40
    """Distance from one position of the moving square to the next, in pixels of the crop."""
    fill: Annotated[Literal["grey", "mean", "black"], AnyValue] = "grey"
    """Colour of the painted area: grey as in the paper, or the mean of ImageNet."""
    flip_test: Annotated[bool, AnyValue] = False
    """Average with the prediction for the mirrored crop."""
    batch_size: Annotated[int, AtLeast(1)] = 32
    """Number of crops per batch."""
    workers: Annotated[int | None, Positive] = None
    """Threads of the input pipeline; none: one per core."""
    plots: Annotated[bool, AnyValue] = True
    """Draw the table of the occlusion (needs matplotlib)."""


class Sums:
    """Means over labels of error and confidence, with those of the same labels when nothing is hidden."""

    NAMES = ("EPE", "EPE_whole", "confidence", "confidence_whole")

    def __init__(self, num_joints: int):
        self.count, self.totals = np.zeros(num_joints), np.zeros((4, num_joints))

    def add(self, hidden: dict[str, np.ndarray], whole: dict[str, np.ndarray], where: np.ndarray) -> None:
        values = (hidden["error"], whole["error"], hidden["confidence"], whole["confidence"])
        self.count += where.sum(0)
        self.totals += np.stack([np.where(where, v, 0).sum(0) for v in values])

    def mean(self, joints: Any = slice(None)) -> dict[str, Any]:
        """Returns, over some joints, the number of labels and the four means (None without labels)."""
        count = int(self.count[joints].sum())
        means = self.totals[:, joints].sum(1) / max(count, 1)
        return {"labels": count} | {n: float(m) if count else None for n, m in zip(self.NAMES, means, strict=True)}


def paint(images: jax.Array, low: jax.Array, high: jax.Array, fill: Sequence[int], *, inside: bool = True) -> jax.Array:
    """Fills the pixels of images (B, H, W, 3) from low to below high (B, 2), x and y; inside=False: all other pixels.

    >>> paint(jnp.zeros((1, 2, 3, 1), jnp.uint8), jnp.array([[1, 0]]), jnp.array([[3, 1]]), (7,))[0, :, :, 0].tolist()
    [[0, 7, 7], [0, 0, 0]]
    """
    y, x = (jnp.arange(n) for n in images.shape[1:3])
    across, down = ((p >= low[:, i : i + 1]) & (p < high[:, i : i + 1]) for i, p in enumerate((x, y)))
    hit = (down[:, :, None] & across[:, None, :]) == inside
    return jnp.where(hit[..., None], jnp.asarray(fill, images.dtype), images)


def covered(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns which points (B, K, 2) have their pixel from low to below high (B, 2).

    >>> covered(np.array([[[0.6, 0.0], [2.0, 0.0]]]), np.array([[1, 0]]), np.array([[2, 1]])).tolist()
    [[True, False]]
    """
    pixel = np.round(points)
    return np.all((pixel >= low[:, None]) & (pixel < high[:, None]), axis=-1)


def grid(size_wh: Sequence[int], patch: int, stride: int) -> list[tuple[int, int]]:
    """Returns top-left corners (x, y) of squares that cover an image, the last ones flush with its border.

    >>> grid((5, 3), 3, 2)
    [(0, 0), (2, 0)]
    """
    columns, rows = (sorted({*range(0, n - patch, stride), n - patch}) for n in size_wh)
    return [(x, y) for y in rows for x in columns]


def in_millimetres(task: tasks.Task) -> bool:
    """Returns whether a task predicts joints in space whose errors are in mm; depths in units of a hand's bone are not."""
    return isinstance(task, tasks.Regression3D) and task.depth.unit == "mm"


class CropPredictor:
    """Cuts the crops of a source, and predicts on them with an area painted over."""

    def __init__(self, task: tasks.Task, variables: Any, config: Config, *, settings: Settings | None = None):
        self.size_wh, self.settings = task.size_wh, settings or Settings()
        self.config, fill = config, FILLS[config.fill]
        self.root = task.depth.root if in_millimetres(task) else None

        def predict(images: jax.Array, low: jax.Array, high: jax.Array, inside: bool) -> tuple[jax.Array, ...]:
            hidden = paint(images, low, high, fill, inside=inside)
            outputs = task.predict(variables, {"image": hidden}, flip_test=config.flip_test)
            return outputs["xy"], outputs["confidence"], outputs.get("depth", outputs["confidence"])

        self._predict = jax.jit(predict, static_argnames="inside")

    def batches(self, source: Source) -> Iterator[dict[str, np.ndarray]]:
        batch_size = min(self.config.batch_size, len(source))
        batches = crops.eval_batches(
            source, size_wh=self.size_wh, batch_size=batch_size, threads=self.config.workers,
            padding=self.settings.padding, decode=self.settings.decode,
        )  # fmt: skip
        for batch in batches:
            yield {**batch, "joints": batch["joints"][..., :2], "depth": batch["joints"][..., 2:]}

    def predict(
        self, batch: dict[str, np.ndarray], low: np.ndarray, high: np.ndarray, *, inside: bool = True
    ) -> dict[str, np.ndarray]:
        """Returns xy, confidence, and error in pixels of this crop, or in mm in space."""
        xy, confidence, depth = jax.device_get(self._predict(batch["image"], low, high, inside))
        labelled = labels(batch)
        if self.root is not None:
            error = self.millimetres(batch, xy, depth)
            return {"xy": xy, "confidence": confidence, "error": np.where(labelled, error, 0.0)}
        return {"xy": xy, "confidence": confidence, "error": metrics.distance(xy, batch["joints"], where=labelled)}

    def millimetres(self, batch: dict[str, np.ndarray], xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Returns the distances (B, K) of joints in space from their labels, both relative to the root."""
        labelled = batch["has_depth"].all(1)[:, None, None]
        camera, root = np.nan_to_num(batch["camera"], nan=1.0), np.nan_to_num(batch["root"], nan=1.0)
        poses = [
            in_camera(inference.to_image(px, batch["affine"]), z, root=root, camera=camera)
            for px, z in ((xy, depth), (batch["joints"], batch["depth"][..., 0]))
        ]
        relative = [points - points[:, list(self.root)].mean(1, keepdims=True) for points in poses]
        return np.linalg.norm(np.where(labelled, relative[0] - relative[1], 0.0), axis=-1)

    def whole(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the prediction with nothing painted over."""
        nothing = np.zeros((len(batch["image"]), 2), np.int32)
        return self.predict(batch, nothing, nothing)


def labels(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Returns (B, K): True for a labelled joint in a row that is not padding; in space of a person that is known completely."""
    labelled = (batch["visibility"] > 0) & batch["valid"][:, None]
    return labelled & batch["has_depth"].all(1, keepdims=True) if "has_depth" in batch else labelled


def as_it_is(
    batches: list[dict[str, np.ndarray]], outputs_whole: list[dict[str, np.ndarray]], skeleton: Skeleton
) -> dict[str, Any]:
    """Returns `jaxpose.evaluation.report.details` in image pixels, with the correlation per joint."""
    names = ("joints", "visibility", "box", "area", "affine", "valid")
    rows = inference.merged(
        {n: b[n] for n in names} | outputs for b, outputs in zip(batches, outputs_whole, strict=True)
    )
    rows |= {name: inference.to_image(rows[name], rows["affine"]) for name in ("joints", "xy")}
    details = report.details(rows, sigmas=skeleton.sigmas, names=skeleton.joints)
    single = np.stack([
        metrics.oks(rows["xy"][:, k : k + 1], rows["joints"][:, k : k + 1], area=rows["area"],
                    sigmas=skeleton.sigmas[k : k + 1], where=rows["visibility"][:, k : k + 1] > 0)
        for k in range(skeleton.num_joints)
    ], 1)  # fmt: skip
    where = rows["visibility"] > 0
    pearson = metrics.pearson(rows["confidence"].ravel(), single.ravel(), where=where.ravel())
    details["summary"] |= {"pearson_joints": float(pearson)} if np.isfinite(pearson) else {}
    return details


def occlusion(
    predictor: CropPredictor,
    batches: list[dict[str, np.ndarray]],
    outputs_whole: list[dict[str, np.ndarray]],
    skeleton: Skeleton,
) -> dict[str, Any]:
    """Returns the errors by relation and the table, see the docstring of this module."""
    joints, patch = skeleton.num_joints, predictor.config.patch
    by_relation = {relation: Sums(joints) for relation in RELATIONS}
    by_covered = [Sums(joints) for _ in range(joints)]
    corners = grid(predictor.size_wh, patch, predictor.config.stride)
    bar = tqdm.tqdm(total=len(batches) * (joints + len(corners)), desc="occlusion", unit="batch")
    for batch, whole in zip(batches, outputs_whole, strict=True):
        labelled = labels(batch)
        in_crop = np.all((batch["joints"] >= 0) & (batch["joints"] <= np.array(predictor.size_wh) - 1), -1)
        for place in [*range(joints), *corners]:
            bar.update()
            if isinstance(place, int):  # centred on a joint
                low = np.round(batch["joints"][:, place]).astype(np.int32) - patch // 2
                used = labelled & (labelled & in_crop)[:, place, None]
            else:
                low, used = np.tile(np.array(place, np.int32), (len(labelled), 1)), labelled
            if not used.any():
                continue
            high = low + patch
            hidden = predictor.predict(batch, low, high)
            hit = covered(batch["joints"], low, high) & labelled
            some = hit.any(1, keepdims=True)
            for relation, where in zip(RELATIONS, (hit, some & ~hit, ~some & np.ones_like(hit)), strict=True):
                by_relation[relation].add(hidden, whole, used & where)
            if isinstance(place, int):
                by_covered[place].add(hidden, whole, used)
    bar.close()
    groups = merged(skeleton.joints)
    return {
        "patch": patch,
        "relations": {relation: sums.mean() for relation, sums in by_relation.items()},
        "per_joint": {
            name: {relation: by_relation[relation].mean([k]) for relation in RELATIONS}
            for k, name in enumerate(skeleton.joints)
        },
        "covered": {
            row: {column: _pooled([by_covered[k] for k in ks], columns) for column, columns in groups.items()}
            for row, ks in groups.items()
        },
    }


def _pooled(sums: list[Sums], joints: list[int]) -> dict[str, Any]:
    total = Sums(len(sums[0].count))
    total.count, total.totals = sum(s.count for s in sums), sum(s.totals for s in sums)
    return total.mean(joints)


def merged(names: Sequence[str]) -> dict[str, list[int]]:
    """Returns the indices of joints by name, left and right together.

    >>> merged(["nose", "left_eye", "right_eye"])
    {'nose': [0], 'eye': [1, 2]}
    """
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        groups.setdefault(name.removeprefix("left_").removeprefix("right_"), []).append(k)
    return groups


def truncation(
    predictor: CropPredictor,
    source: Source,
    batches: list[dict[str, np.ndarray]],
    outputs_whole: list[dict[str, np.ndarray]],
) -> dict[str, Any]:
    """Returns the errors of the joints inside and outside of every part of the box."""
    result = {}
    for name, part in tqdm.tqdm(PARTS.items(), desc="truncation", unit="part"):
        cut = with_parts(source, part)
        inside, outside = Sums(source.skeleton.num_joints), Sums(source.skeleton.num_joints)
        for before, whole, batch in zip(batches, outputs_whole, predictor.batches(cut), strict=True):
            box = batch["box"].astype(np.float64)
            corners = np.stack([box[:, :2], box[:, :2] + box[:, 2:]], 1)
            corners = geometry.apply_affine(batch["affine"].astype(np.float64), corners)
            low, high = np.round(corners[:, 0]).astype(np.int32), np.round(corners[:, 1]).astype(np.int32)
            hidden = predictor.predict(batch, low, high, inside=False)
            # Pixels of the part's crop are smaller than those of the whole person's.
            hidden["error"] *= (before["affine"][:, 0, 0] / batch["affine"][:, 0, 0])[:, None]
            is_inside = covered(batch["joints"], low, high)
            inside.add(hidden, whole, labels(batch) & is_inside)
            outside.add(hidden, whole, labels(batch) & ~is_inside)
        result[name] = {"inside": inside.mean(), "outside": outside.mean()}
    return result


def with_parts(source: Source, part: tuple[float, float, float, float]) -> Source:
    """Returns the same persons with parts of their boxes: x, y, w, h in widths and heights of the box."""
    other = copy.copy(source)
    other.persons = source.persons.copy()
    boxes = source.persons["box"].astype(np.float64)
    if source.clip_boxes:
        boxes = geometry.clip_box(boxes, source.images[source.persons["image"]]["size_wh"].astype(np.float64))
    x, y, w, h = part
    other.persons["box"] = np.concatenate([boxes[:, :2] + boxes[:, 2:] * (x, y), boxes[:, 2:] * (w, h)], 1)
    other.clip_boxes = False
    return other


def select_persons(source: Source, count: int) -> Source:
    """Returns `count` persons, evenly spread; 0: all."""
    if count == 0 or count >= len(source):
        return source
    other = copy.copy(source)
    other.persons = source.persons[np.linspace(0, len(source) - 1, count).round().astype(int)]
    return other


def analyse(config: Config) -> dict[str, Any]:
    """Runs all analyses and returns values that JSON can hold."""
    check(config)
    variables, stored = checkpoint.restore_model(config.checkpoint)
    task = tasks.from_config(stored["task"])
    if task.level != "person":
        expected = " or ".join(tasks.families_of("person"))
        raise ValueError(f"{config.checkpoint} holds a task of the family {task.family!r}: expected {expected}")
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), config.checkpoint)
    if config.patch > min(task.size_wh):
        raise ValueError(f"--patch {config.patch}: expected at most the size of the crop, {list(task.size_wh)}")
    in_space = in_millimetres(task)
    format = "coco_3d" if in_space and config.format == "coco" else config.format
    reader = formats.choose(format, config.data, config.split)
    source = builder.prepare(
        config.data, split=config.split, data_dir=config.data_dir, skeleton=task.skeleton, reader=reader
    )
    if in_space and not space.has_space(source):
        raise ValueError(
            f"{config.data} has no joints in space, which the net in {config.checkpoint} predicts: give --format"
        )
    source = source if in_space else space.flattened(source)
    if len(source) == 0:
        raise ValueError(f"split {config.split!r} of {config.data} has no person with labelled keypoints")
    source = select_persons(source, config.count)
    predictor = CropPredictor(task, variables, config, settings=inference.from_checkpoint(stored))
    batches = list(predictor.batches(source))
    outputs_whole = [predictor.whole(batch) for batch in batches]
    return {
        "checkpoint": {"folder": str(config.checkpoint), "step": stored["step"], "family": task.family},
        "settings": json.loads(json.dumps(vars(config), default=str)),
        "as_it_is": as_it_is(batches, outputs_whole, source.skeleton),
        "occlusion": occlusion(predictor, batches, outputs_whole, source.skeleton),
        "truncation": {} if in_space else truncation(predictor, source, batches, outputs_whole),
        "unit": "mm" if in_space else "crop px",
    }


def text(result: dict[str, Any]) -> str:
    """Formats the results for printing."""
    rows = {("covered: " + name): row for name, row in result["occlusion"]["relations"].items()}
    for part, sides in result["truncation"].items():
        rows |= {f"{part}, {side}": row for side, row in sides.items()}
    lines = [
        report.text(result["as_it_is"]),
        "",
        f"{'':28}{'labels':>8}{'EPE':>9}{'whole':>9}{'confidence':>12}{'whole':>8}",
    ]
    for name, row in rows.items():
        values = [row[key] for key in Sums.NAMES]
        cells = ["-" if v is None else f"{v:.{d}f}" for v, d in zip(values, (2, 2, 3, 3), strict=True)]
        lines.append(
            f"{name:28}{row['labels']:>8}" + "".join(f"{s:>{n}}" for s, n in zip(cells, (9, 9, 12, 8), strict=True))
        )
    table = result["occlusion"]["covered"]
    lines += ["", f"EPE, {result['unit']}; rows: the covered part, columns: the joint with the error"]
    lines.append(f"{'':12}" + "".join(f"{column[:9]:>10}" for column in table))
    for name, row in table.items():
        cells = ["-" if cell["EPE"] is None else f"{cell['EPE']:.2f}" for cell in row.values()]
        lines.append(f"{name[:11]:12}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws how much error and confidence of a joint (column) change if a part (row) is covered."""
    from jaxpose import view

    view.require()
    import matplotlib.pyplot as plt

    table = result["occlusion"]["covered"]
    names = list(table)
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5))
    for axis, key, title in ((axes[0], "EPE", f"EPE ({result['unit']})"), (axes[1], "confidence", "confidence")):
        change = [
            [np.nan if c["EPE"] is None else c[key] - c[f"{key}_whole"] for c in table[row].values()] for row in names
        ]
        largest = np.nanmax(np.abs(change)) if np.isfinite(change).any() else 1.0
        image = axis.imshow(change, cmap="coolwarm", vmin=-largest, vmax=largest)
        axis.set(
            title=f"change of {title}",
            xlabel="joint",
            ylabel="covered part",
            xticks=range(len(names)),
            yticks=range(len(names)),
        )
        axis.set_xticklabels(names, rotation=60, ha="right")
        axis.set_yticklabels(names)
        figure.colorbar(image, ax=axis)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    config = tyro.cli(Config, args=argv, description=__doc__)
    result = analyse(config)
    out = config.checkpoint / "analysis" if config.out is None else config.out
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "analysis.json", result, indent=1, allow_nan=True)
    print(text(result))
    if config.plots and find_spec("matplotlib"):
        draw(result, out / "occlusion.png")
    print(f"\nwritten to {out}")
    return result


if __name__ == "__main__":
    runner.command(main)
