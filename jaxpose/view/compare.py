"""`jaxpose view compare`: draws several runs side by side, as figures of the papers do, and what their methods imply.

The figures, by name:

    bias             the bias of soft-argmax against the place of the mode and beta, in closed form (Gu 2021, figure 1)
    centre           the distances of the labelled joints of --data from the centre of their crops (Gu 2021, figure 2)
    sub_benchmarks   the runs' EPE by size, number of joints and occlusion (Gu 2021, figure 5), from their last evaluations
    pckh             the runs' PCKh curves (Sun 2018, figure 3), from their last evaluations and the gt_valid.mat of --data
    truncation       what the runs predict from a part of a person of --data (Li 2021, figure 5)
    targets          one joint's target of fixed and of adaptive width (Luo 2021, figure 1), of bottom-up runs with scale maps
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import tyro

from jaxpose import buckets, files
from jaxpose.data.formats import Choice
from jaxpose.view.figures import base
from jaxpose.view.figures import compare as drawings

if TYPE_CHECKING:
    from jaxpose.data.source import Source

__all__ = ["compare"]

Figure = Literal["bias", "centre", "sub_benchmarks", "pckh", "truncation", "targets"]
PARTS = ((0, 0, 1, 1 / 2), (0, 0, 1, 2 / 3), (0, 0, 1 / 2, 1))  # of the box: x, y, w, h
PICTURE_WH = (192, 256)
GREY = 128
ENOUGH = 1 / 2  # share of the joints that a person of the truncation must have labelled
BETWEEN = 96  # side of a picture of a target, in pixels of the image that the net sees


class NotDrawn(ValueError):
    """A figure cannot be drawn from what was given; the message says what is missing."""


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    *,
    data: Path | None = None,
    split: str = "val",
    format: Choice = "auto",
    figures: tuple[Figure, ...] = (),
    betas: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0),
    count: int = 6,
    step: Literal["best", "latest"] = "best",
    out: Path = Path("compared"),
) -> None:
    """Draw several runs side by side: bias, distances, sub-benchmarks, PCKh, truncation, target widths.

    Figures that need something that was not given are left out, with the reason.

    Args:
        runs: folders of runs, also in buckets (gs://bucket/run), whose results are copied into runs/cache.
        data: image folder and annotations, for the figures of people.
        split: split of the data.
        format: format of the annotations; auto: detected from the content.
        figures: figures to draw: bias (no run needed), centre (--data), sub_benchmarks (runs), pckh (runs and --data of MPII),
            truncation (runs and --data), targets (bottom-up runs with scale maps, and --data); none: all that are possible.
        betas: inverse temperatures of the bias.
        count: number of persons of a picture.
        step: checkpoint of the runs to load.
        out: folder of the pictures.
    """
    if count < 1:
        raise ValueError(f"--count {count}: expected 1 or more")
    base.require()
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs a lot
    files.local(out)
    with ExitStack() as stack:
        runs = tuple(_here(run, stack) for run in runs)
        data = None if data is None else buckets.here(data, buckets.CACHE)
        _draw(Job(runs, data, split, format, betas, count, step, out), figures)


def _here(run: Path, stack: ExitStack) -> Path:
    """Returns the folder of a run, of one in a bucket a copy of its results, which stands for it as long as `stack` is open."""
    url = buckets.url_of(run)
    if url is None:
        if not run.is_dir():
            raise FileNotFoundError(f"{run} is not the folder of a run")
        return run
    folder = buckets.local_copy(url, buckets.CACHE)
    with buckets.naming(url):
        reports = list((buckets.place(url) / "results").glob("*.json"))
        if reports:
            buckets.fetch(url, folder, where=lambda name: name.startswith("results/"), progress=False)
        elif not buckets.place(url).is_dir():
            raise FileNotFoundError(f"{url} is not the folder of a run")
        for report in reports:  # the last evaluation is the newest report
            time = report.stat().mtime
            os.utime(folder / "results" / report.name, (time, time))
    stack.enter_context(buckets.mirrored(folder, url))  # so that the checkpoints are read where they are
    return folder


def _draw(job: Job, figures: tuple[Figure, ...]) -> None:
    """Draws the figures, all that are possible if none is named, and prints their files and what was left out."""
    draw: dict[Figure, Callable[[], Path]] = {name: getattr(job, name) for name in get_args(Figure)}
    pictures, left_out = {}, {}
    for name in figures or get_args(Figure):
        try:
            pictures[name] = str(draw[name]())
        except NotDrawn as error:
            if figures:
                raise
            left_out[name] = str(error)
    print(json.dumps({"pictures": pictures, "left_out": left_out}))


@dataclass(frozen=True)
class Job:
    """The arguments of `compare`; one method per figure, which draws it or raises `NotDrawn`."""

    runs: tuple[Path, ...]
    data: Path | None
    split: str
    format: Choice
    betas: tuple[float, ...]
    count: int
    step: Literal["best", "latest"]
    out: Path

    def bias(self) -> Path:
        return drawings.bias(self.out / "bias.png", betas=self.betas)

    def centre(self) -> Path:
        distance = centre_distances(self.source, size_wh=PICTURE_WH)
        if not distance.size:
            raise NotDrawn(f"split {self.split!r} of {self.data} has no labelled joint")
        return drawings.centre_distances(distance, self.out / "centre.png", title=f"{self.data} {self.split}")

    def sub_benchmarks(self) -> Path:
        reports = {name: files.read_json(path, "report of an evaluation") for name, path in self.reports.items()}
        for name, report in reports.items():
            if not isinstance(report, dict) or not set(drawings.SUB_BENCHMARKS) <= set(report):
                raise NotDrawn(
                    f"{self.reports[name]} has no errors in pixels by size and occlusion, as runs that predict joints in pictures "
                    "write them: compare such runs alone"
                )
        return drawings.sub_benchmarks(reports, self.out / "sub_benchmarks.png")

    def pckh(self) -> Path:
        from jaxpose.evaluation import mpii, results

        if self.data is None:
            raise NotDrawn("PCKh needs the head boxes of MPII: give its folder with --data")
        try:
            truth = mpii.load_truth(mpii.find_truth(self.data, self.split))
        except FileNotFoundError as error:
            raise NotDrawn(str(error)) from None
        curves = {}
        for name, report in self.reports.items():
            path = report.with_name(report.name.removesuffix("_report.json") + ".json")
            try:
                records = results.read(path, num_joints=16)
                xy = np.array([r["keypoints"] for r in records], np.float64).reshape(len(records), 16, 3)[..., :2]
                curves[name] = mpii.pckh_curve(truth, xy, [r["annotation_id"] for r in records])
            except KeyError:
                raise NotDrawn(f"{path} has no 'annotation_id', which says whose pose each is") from None
            except (ValueError, FileNotFoundError) as error:  # of another data set, skeleton or kind of run
                raise NotDrawn(str(error)) from None
        return drawings.pckh_curves(curves, self.out / "pckh.png")

    def truncation(self) -> Path:
        from jaxpose import geometry
        from jaxpose.data import crops

        nets = {name: net for name, net in self.nets.items() if net[0].level == "person"}
        if not nets:
            raise NotDrawn("truncation needs runs of nets that take one person, and --data")
        persons = truncated(self.source, self.count)
        if not persons:
            raise NotDrawn(f"no person of {self.data} has labelled joints outside of the parts")
        options = {"size_wh": PICTURE_WH, "padding": 1.25}
        whole = [crops.sample(self.source, i, **options) for i, _ in persons]
        poses = {}
        for name, (task, variables, settings) in nets.items():
            hidden = [
                hidden_crop(self.source, i, part, size_wh=task.size_wh, padding=settings.padding) for i, part in persons
            ]
            xy = predict(task, variables, [sample["image"] for sample in hidden])
            in_image = [
                geometry.apply_affine(geometry.invert_affine(s["affine"]), p) for s, p in zip(hidden, xy, strict=True)
            ]
            poses[name] = [
                np.asarray(geometry.apply_affine(w["affine"], p)) for w, p in zip(whole, in_image, strict=True)
            ]
        boxes = [
            corners(part_of(self.source, i, part), w["affine"]) for (i, part), w in zip(persons, whole, strict=True)
        ]
        truth = [np.where(w["visibility"][:, None] > 0, w["joints"], np.nan) for w in whole]
        pictures = [w["image"] for w in whole]
        path = self.out / "truncation.png"
        return drawings.truncation(pictures, boxes, poses, self.source.skeleton, path, truth=truth)

    def targets(self) -> Path:
        nets = {name: net for name, net in self.nets.items() if net[0].level == "image" and net[0].learns_scale}
        if not nets:
            raise NotDrawn(
                "targets of adaptive width need a bottom-up run with scale maps (targets scale_adaptive), and --data"
            )
        people = []
        for name, (task, variables, settings) in nets.items():
            some = adapted_targets(task, variables, self.source, side=settings.side(task.size_wh), count=self.count)
            people += [person | {"title": f"{name}\n{person['title']}"} for person in some]
        if not people:
            raise NotDrawn(f"no person of {self.data} has a labelled joint inside its image")
        return drawings.target_widths(people, self.out / "targets.png")

    @cached_property
    def names(self) -> dict[str, Path]:
        """The runs by the name of their folder, or by their path where two have one name."""
        twice = len({run.resolve().name for run in self.runs}) < len(self.runs)
        return {str(run) if twice else run.resolve().name: run for run in self.runs}

    @cached_property
    def reports(self) -> dict[str, Path]:
        """The report of the last evaluation of every run."""
        if not self.runs:
            raise NotDrawn("give the folders of runs")
        newest = {}
        for name, run in self.names.items():
            written = sorted((run / "results").glob("*_report.json"), key=lambda path: path.stat().st_mtime)
            if not written:
                raise NotDrawn(f"{run} has no report of an evaluation on annotated boxes (results/*_report.json)")
            newest[name] = written[-1]
        return newest

    @cached_property
    def nets(self) -> dict[str, tuple[Any, Any, Any]]:
        """Task, variables and test settings of every run."""
        from jaxpose import checkpoint, inference, tasks

        if not self.runs or self.data is None:
            raise NotDrawn("give the folders of runs, and --data")
        nets = {}
        for name, run in self.names.items():
            variables, stored = checkpoint.restore_model(run, step=self.step)
            nets[name] = (tasks.from_config(stored["task"]), variables, inference.from_checkpoint(stored))
        joints = {name: net[0].skeleton.joints for name, net in nets.items()}
        first = next(iter(joints.values()))
        if other := [name for name, names in joints.items() if names != first]:
            raise NotDrawn(f"{next(iter(joints))} and {other[0]} have different joints, so they are not drawn together")
        return nets

    @cached_property
    def source(self) -> Source:
        """The persons of --data."""
        from jaxpose.data import formats

        if self.data is None:
            raise NotDrawn("give images and annotations with --data")
        reader = formats.choose(self.format, self.data, self.split)
        skeleton = next(iter(self.nets.values()))[0].skeleton if self.runs else None
        return reader.read(*reader.find(self.data, self.split), split=self.split, skeleton=skeleton)


def centre_distances(source: Source, *, size_wh: tuple[int, int]) -> np.ndarray:
    """Computes the distances of labelled joints from the centre of their crops, divided by half the crop's diagonal.

    Args:
        source: the persons.
        size_wh: size of the crops; their shape matters.

    Returns:
        ``(N,)`` distances of the N labelled joints.
    """
    from jaxpose.data import crops

    if not len(source.persons):
        return np.zeros(0)
    planned = crops.plan(source, np.arange(len(source.persons)), size_wh=size_wh)
    centre = (np.asarray(size_wh, np.float64) - 1) / 2
    distance = np.linalg.norm(planned["joints"][..., :2] - centre, axis=-1) / np.linalg.norm(centre)
    return distance[planned["visibility"] > 0]


def part_of(source: Source, index: int, part: tuple[float, float, float, float]) -> np.ndarray:
    """Returns a part of a person's box, x, y, w, h in image pixels."""
    x, y, w, h = source.persons["box"][index].astype(np.float64)
    return np.array([x + w * part[0], y + h * part[1], w * part[2], h * part[3]])


def truncated(source: Source, count: int) -> list[tuple[int, tuple[float, float, float, float]]]:
    """Selects persons with many labelled joints, and a part of each that leaves some of them out.

    Args:
        source: the persons.
        count: largest number of persons.

    Returns:
        Rows of persons with parts of their boxes, evenly spread over the data.
    """
    rows = []
    for index, keypoints in enumerate(source.persons["keypoints"]):
        part = PARTS[len(rows) % len(PARTS)]
        labelled = keypoints[:, 2] > 0
        x, y, w, h = part_of(source, index, part)
        is_inside = ((keypoints[:, :2] >= (x, y)) & (keypoints[:, :2] < (x + w, y + h))).all(1) & labelled
        if labelled.mean() >= ENOUGH and 2 <= is_inside.sum() <= labelled.sum() - 2:
            rows.append((index, part))
    if len(rows) <= count:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def hidden_crop(
    source: Source, index: int, part: tuple[float, float, float, float], *, size_wh: tuple[int, int], padding: float
) -> dict[str, Any]:
    """Returns the crop of a part of a person's box, as in the evaluation, with everything outside of the part painted grey."""
    from jaxpose.data import crops

    other = copy.copy(source)
    other.persons, other.clip_boxes = source.persons[index : index + 1].copy(), False
    other.persons["box"][0] = part_of(source, index, part)
    sample = crops.sample(other, 0, size_wh=size_wh, padding=padding)
    x, y, w, h = corners(other.persons["box"][0], sample["affine"])
    rows, columns = np.mgrid[: size_wh[1], : size_wh[0]]
    is_seen = (columns >= x) & (columns < x + w) & (rows >= y) & (rows < y + h)
    return sample | {"image": np.where(is_seen[..., None], sample["image"], np.uint8(GREY))}


def corners(box: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Returns a box (x, y, w, h) in the pixels that an affine without rotation maps to."""
    low, high = ((affine[:, :2] @ point + affine[:, 2]) for point in (box[:2], box[:2] + box[2:]))
    return np.concatenate([low, high - low])


def predict(task: Any, variables: Any, images: list[np.ndarray]) -> np.ndarray:
    """Predicts the joints of crops, without the flip test: ``(N, K, 2)`` in their pixels."""
    import jax

    step = jax.jit(lambda variables, batch: task.predict(variables, {"image": batch}, flip_test=False)["xy"])
    return np.asarray(step(variables, np.stack(images)))


def adapted_targets(task: Any, variables: Any, source: Source, *, side: int, count: int) -> list[dict[str, Any]]:
    """Returns the targets of one joint of persons from small to large, of fixed width and as the net's alpha scales it.

    Args:
        task: a task that learns the scale.
        variables: its weights.
        source: the persons.
        side: side of the square that an image is fitted to.
        count: number of persons.

    Returns:
        Per person: image, fixed, adaptive, title, as `jaxpose.view.figures.compare.target_widths` takes them.
    """
    import jax

    from jaxpose import geometry, heatmap
    from jaxpose.data import whole_images

    persons = source.persons
    usable = np.flatnonzero((persons["keypoints"][..., 2] > 0).any(1))
    usable = usable[np.argsort(np.sqrt(persons["area"][usable]), kind="stable")]
    rows = usable[np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)] if len(usable) else []
    images = source.at_level("image")
    run_net = jax.jit(lambda variables, batch: task.run_net(variables, batch, train=False)[0][-1]["alpha"])
    order = {"second": 2, "exact": None}[task.people_loss.order]
    people = []
    for row in rows:
        person = persons[row]
        square = whole_images.eval_sample(images, int(person["image"]), size=side, fit="long")
        joint = int(np.flatnonzero(person["keypoints"][:, 2] > 0)[0])
        at = np.asarray(geometry.apply_affine(square["affine"], person["keypoints"][joint, :2]))
        alpha = np.asarray(run_net(variables, square["image"][None]))[0, ..., joint]
        stride = square["image"].shape[1] / alpha.shape[1]
        fixed = heatmap.people(at[None, None] / stride, np.ones((1, 1)), alpha.shape, sigma=task.people_loss.sigma)
        adaptive = heatmap.scale_adaptive(fixed, alpha[..., None], order=order, exponent=task.people_loss.exponent)
        title = f"{source.skeleton.joints[joint]}, {np.sqrt(person['area']):.0f} px"
        people.append(_around(square["image"], at, stride, fixed[..., 0], adaptive[..., 0]) | {"title": title})
    return people


def _around(image: np.ndarray, at: np.ndarray, stride: float, fixed: Any, adaptive: Any) -> dict[str, np.ndarray]:
    """Cuts the picture and both targets, enlarged to its pixels, around a place."""
    x, y = (
        int(np.clip(round(float(v)) - BETWEEN // 2, 0, max(n - BETWEEN, 0)))
        for v, n in zip(at, image.shape[1::-1], strict=True)
    )
    window = (slice(y, y + BETWEEN), slice(x, x + BETWEEN))
    columns = np.arange(image.shape[1]) / stride
    rows = np.arange(image.shape[0]) / stride

    def enlarged(values: Any) -> np.ndarray:
        values = np.asarray(values, np.float64)
        across = np.array([np.interp(columns, np.arange(values.shape[1]), line) for line in values])
        return np.array([np.interp(rows, np.arange(values.shape[0]), line) for line in across.T]).T[window]

    return {"image": image[window], "fixed": enlarged(fixed), "adaptive": enlarged(adaptive)}
