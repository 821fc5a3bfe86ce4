"""From a checkpoint to a `Predictor`, and from pictures to `Poses`."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn

from jaxpose import checkpoint, geometry, inference, tasks
from jaxpose.data.boxes import check_boxes
from jaxpose.data.pixels import warped
from jaxpose.data.whole_images import views
from jaxpose.evaluation import results
from jaxpose.hands import Side
from jaxpose.predict import hands as hands_in_space
from jaxpose.predict import media
from jaxpose.predict.detector import Detector, log_left_out, warn_of_left_out
from jaxpose.predict.poses import Poses
from jaxpose.predict.space import SpacePoses, check_camera, placed

logger = logging.getLogger(__name__)


class Predictor:
    """Predicts the poses of pictures; made by `load`. Programs are compiled once per shape and reused.

    Attributes:
        task: The task of the checkpoint.
        config: The values that the checkpoint stores beside the weights.
        settings: `jaxpose.inference.Settings`, the prediction settings of the checkpoint, changed by the arguments.
        skeleton: The skeleton of the poses.
        finds_people: True if the net detects people itself, so that boxes are not needed.
        in_space: True if the poses have joints in space.
        hand: `jaxpose.predict.hands.HandSpace` of a net that predicts depths of hands; None for others.
        flip_test: True if predictions are averaged with those of the mirrored picture.
        is_one_sided: True for a net of hands of one side (--one-side), which sees the mirror images of right hands.
        side: For such a net, the side of the hands whose side a call does not state; None: left, with a warning.
    """

    def __init__(
        self,
        task: tasks.ImageTask,
        variables: Any,
        config: dict[str, Any],
        *,
        flip_test: bool | None = None,
        batch_size: int | None = None,
        test_size: int | None = None,
        fit: Literal["short", "long"] | None = None,
        scales: Sequence[float] | None = None,
        max_pixels: int = media.MAX_PIXELS,
        min_score: float = 0.0,
        max_people: int | None = None,
        device: jax.Device | None = None,
        camera: Sequence[float] | None = None,
        root_depth: float | None = None,
        hand: hands_in_space.HandSpace | None = None,
        side: Side | None = None,
    ):
        self.task, self.config = task, config
        self.skeleton, self.size_wh = task.skeleton, task.size_wh
        self.finds_people = task.level in ("image", "detection")
        self.is_one_sided, self.side = bool((config.get("run") or {}).get("one_side")), side
        if side is not None and not self.is_one_sided:
            raise ValueError(
                f"--side {side}: the net was not trained with --one-side, and takes hands of both sides as they are; leave it out"
            )
        if self.is_one_sided and flip_test:
            raise ValueError(
                "flip_test=True: the net was trained with --one-side, and never saw the mirror image that it would be averaged with: "
                "leave it out"
            )
        given = {"flip_test": False if self.is_one_sided else flip_test, "test_size": test_size, "fit": fit}
        if scales is not None:
            given["scales"] = tuple(float(scale) for scale in scales)
        self.settings = dataclasses.replace(
            inference.from_checkpoint(config, default=inference.published(task)),
            **{k: v for k, v in given.items() if v is not None},
        )
        self.flip_test, self.max_pixels, self.min_score = self.settings.flip_test, max_pixels, min_score
        self.batch_size = (4 if self.finds_people else 32) if batch_size is None else batch_size
        self.view_options = {}
        self.device = device or jax.local_devices()[0]
        self.density = task.density(variables)
        in_millimetres = isinstance(task, tasks.Regression3D) and task.depth.unit == "mm"
        self.in_space = in_millimetres or hand is not None
        if not self.in_space and (camera is not None or root_depth is not None):
            raise ValueError("--camera and --root-depth: the net predicts no joints in space; leave them out")
        self.camera, self.root_depth = check_camera(camera, root_depth), root_depth
        if hand is not None and (lacking := hand.lacking(camera=self.camera, root_depth=root_depth)):
            if camera is not None:
                raise ValueError(f"--camera {' '.join(map(str, camera))}: {lacking}")
            self.in_space = False
        self.hand = hand
        self.space_density, self.density = (self.density, None) if self.in_space else (None, self.density)
        if (
            self.density is not None and self.density.dim == 3
        ):  # hands without a camera: the pixels alone have no density
            self.density = None
        self.detector, self._has_warned = None, False
        if task.level == "detection":
            if test_size is not None or fit is not None or scales is not None:
                raise ValueError(
                    "test_size, fit and scales are for nets of whole images; this net is a detector of boxes"
                )
            options = {"min_score": min_score, "max_people": max_people, "device": self.device}
            self.detector = Detector(task, variables, batch_size=batch_size, **options)
            self.flip_test, self.batch_size = False, self.detector.batch_size
            return
        if self.finds_people:
            size = self.settings.side(self.size_wh)
            self.view_options = {"size": size, "fit": self.settings.fit, "scales": self.settings.scales}
        if self.batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected a positive number")
        flip_test = self.flip_test
        if self.finds_people:  # one program per shape of picture; all share the weights
            program = jax.jit(lambda weights, batch: task.predict(weights, batch, flip_test=flip_test))
            self._predict = partial(program, jax.device_put(variables, self.device))
        else:
            # The weights are constants of the program, which lays out its convolutions for them: 10 % of the time of
            # one crop on a processor.
            weights = jax.device_get(variables)
            self._predict = jax.jit(lambda batch: task.predict(weights, batch, flip_test=flip_test))

    def __call__(self, images: Any, boxes: Any = None, *, sides: Any = None) -> Poses | list[Poses]:
        """Returns the poses of one picture, or of each picture in a list.

        Args:
            images: A path, a PIL image, an array (h, w[, 3]) RGB uint8 (see `jaxpose.predict.media.picture`), or a list
                of these.
            boxes: For one picture (P, 4) x, y, w, h in pixels, or (P, 5) with a score; None takes the whole picture.
                For a list of pictures, a list of these. A picture with an empty list has no poses.
            sides: For a net of hands of one side: "left", "right" or None (`side`) for each box, a list for one picture,
                for a list of pictures a list of these; None: all have `side`. Other nets do not read it.

        Returns:
            Poses, or a list of them.

        Raises:
            ValueError: A picture is invalid (`jaxpose.predict.media.picture`); boxes have another shape, are not
                finite, empty, or outside the picture; boxes are given for a net that detects people itself; weights are
                not finite.
            FileNotFoundError: A file does not exist.
        """
        if not isinstance(images, (list, tuple)):
            return self([images], [boxes], sides=None if sides is None else [sides])[0]
        boxes = [None] * len(images) if boxes is None else boxes
        sides = [None] * len(images) if sides is None else sides
        if len(boxes) != len(images):
            raise ValueError(
                f"{len(images)} images and {len(boxes)} entries of boxes: expected one entry per image, None or (P, 4)"
            )
        if self.finds_people and any(entry is not None for entry in boxes):
            raise ValueError("this net finds the people itself: leave boxes out")
        poses: list[Poses] = []
        for start in range(0, len(images), self.batch_size):  # decoded when needed
            batch = slice(start, start + self.batch_size)
            pictures = [media.picture(image, max_pixels=self.max_pixels) for image in images[batch]]
            names = [_name(*pair) for pair in zip(images[batch], pictures, strict=True)]
            if self.detector is not None:
                poses += self.detected(pictures, names)
            elif self.finds_people:
                poses += self.in_whole(pictures, names)
            else:
                poses += self._in_boxes(pictures, boxes[batch], sides[batch], first=start)
        return poses

    def detected(self, pictures: list[np.ndarray], names: Sequence[Any]) -> list[Poses]:
        """Returns the people that a detector finds in decoded pictures (h, w, 3).

        Args:
            pictures: The pictures.
            names: What a warning calls each of them, if it has more people than slots.
        """
        people = self.detector(pictures)
        warn_of_left_out(people, names)
        return [
            Poses(
                each.xy, each.confidence, each.score, self.skeleton, box=each.box, box_score=each.score,
                sigma=each.sigma, density=self.density,
            )
            for each in people
        ]  # fmt: skip

    def _in_boxes(
        self, pictures: list[np.ndarray], boxes: Sequence[Any], sides: Sequence[Any], *, first: int
    ) -> list[Poses]:
        checked = [
            check_boxes(entry, picture.shape[1::-1], image=i)
            for i, (picture, entry) in enumerate(zip(pictures, boxes), start=first)
        ]
        box, score = (
            (np.concatenate([entry[j] for entry in checked]) for j in (0, 1)) if checked else (np.zeros((0, 4)), ())
        )
        owner = np.repeat(np.arange(len(pictures)), [len(entry[0]) for entry in checked])
        padding = self.settings.padding
        affine = geometry.box_to_affine(box, self.size_wh, padding=padding)
        mirror = self._mirrored(sides, [len(entry[0]) for entry in checked], first=first)
        crops = (
            {"image": warped(pictures[i], a, self.size_wh)[:, ::step]}
            for i, a, step in zip(owner, affine, np.where(mirror, -1, 1), strict=True)
        )
        affine = np.where(mirror[:, None, None], _mirror_crop(affine, width=self.size_wh[0]), affine)
        outputs = inference.run(self._step, self._batches(crops), gather=False)
        joints = (len(box), self.skeleton.num_joints)
        xy = inference.to_image(outputs.get("xy", np.zeros((*joints, 2))).astype(np.float64), affine)
        confidence = outputs.get("confidence", np.zeros(joints)).astype(np.float64)
        _check_finite(xy, confidence)
        sigma = None
        if self.density is not None:
            unit = self.settings.sigma_scale * self._sides_of_crop(affine)
            sigma = outputs.get("sigma", np.zeros((*joints, 2))) * unit
        space = self._in_space(xy, outputs, affine) if self.in_space else None
        area = geometry.fit_box(box, aspect=self.size_wh[0] / self.size_wh[1], padding=padding)[:, 2:].prod(-1)
        total = results.person_score(confidence, score, rule=self.settings.rescore)
        return [
            Poses(
                xy[rows], confidence[rows], total[rows], self.skeleton, box=box[rows], box_score=score[rows],
                crop_area=area[rows], sigma=None if sigma is None else sigma[rows], density=self.density,
                space=None if space is None else dataclasses.replace(
                    space, joints=space.joints[rows], sigma=None if space.sigma is None else space.sigma[rows]
                ),
            )
            for rows in (owner == i for i in range(len(pictures)))
        ]  # fmt: skip

    def _sides_of_crop(self, affine: np.ndarray) -> np.ndarray:
        """Returns the sides of crops (P, 1, 2) in pixels of the picture; the width of a mirrored crop is negative."""
        return np.array(self.size_wh) / np.diagonal(affine[:, :, :2], axis1=1, axis2=2)[:, None]

    def _mirrored(self, sides: Sequence[Any], counts: Sequence[int], *, first: int) -> np.ndarray:
        """Returns the boxes, (P,) bool, whose crops a net of hands of one side sees mirrored: those of right hands."""
        if not self.is_one_sided:
            return np.zeros(sum(counts), bool)
        every = []
        for i, (entry, count) in enumerate(zip(sides, counts, strict=True), start=first):
            entry = [None] * count if entry is None else list(entry)
            if len(entry) != count or not set(entry) <= {"left", "right", None}:
                raise ValueError(
                    f"sides of image {i} are {entry}: expected 'left', 'right' or None for each of {count} boxes"
                )
            every += [self.side if side is None else side for side in entry]
        if None in every and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the net was trained with --one-side and sees right hands mirrored: hands whose side is not stated are taken for left "
                "ones; give --side right or left, or 'hand' in the entries of --boxes"
            )
        return np.array([side == "right" for side in every], bool)

    def _in_space(self, xy: np.ndarray, outputs: Mapping[str, np.ndarray], affine: np.ndarray) -> SpacePoses:
        """Returns the joints in space of the people with these pixels of their pictures."""
        joints = (len(xy), self.skeleton.num_joints)
        depth = outputs.get("depth", np.zeros(joints)).astype(np.float64)
        _check_finite(depth)
        if self.hand is not None:
            sigma = None
            if self.space_density is not None:
                unit = np.concatenate(
                    [self._sides_of_crop(affine), np.full((len(xy), 1, 1), self.task.depth.extent)], -1
                )
                sigma = outputs.get("sigma", np.zeros((*joints, 3))) * unit * self.settings.sigma_scale
            return self.hand.placed(
                xy, depth, camera=self.camera, root_depth=self.root_depth, sigma=sigma, model=self.space_density
            )
        settings = self.task.depth
        points, pixel, is_absolute = placed(
            xy, depth, skeleton=self.skeleton, root=settings.root, bone_length=settings.bone_length, camera=self.camera,
            root_depth=self.root_depth,
        )  # fmt: skip
        if self.space_density is None:
            return SpacePoses(points, is_absolute)
        sides = np.array(self.size_wh) / affine[:, :1, None, 0] * pixel[..., None]  # of the crop in mm, at each joint
        unit = np.concatenate([sides, np.full((*joints, 1), settings.extent)], -1) * self.settings.sigma_scale
        sigma = outputs.get("sigma", np.zeros((*joints, 3))) * unit
        return SpacePoses(points, is_absolute, sigma, self.space_density)

    def in_whole(self, pictures: list[np.ndarray], names: Sequence[Any]) -> list[Poses]:
        """Returns the people that a net of whole images finds in decoded pictures (h, w, 3).

        Args:
            pictures: The pictures.
            names: What a warning calls each of them, if it has more people than slots.

        Raises:
            ValueError: The net's outputs are not finite.
        """

        def group(maps: Mapping[str, np.ndarray], *, stride: float) -> dict[str, np.ndarray]:
            _check_finite(*maps.values())
            return self.task.people(maps, stride=stride)

        same_shape = defaultdict(list)
        for i, picture in enumerate(pictures):
            images, affine = views(picture, **self.view_options)
            same_shape[images["image"].shape].append({**images, "affine": affine, "index": i})
        batches = chain.from_iterable(self._batches(samples) for samples in same_shape.values())
        sizes = np.array([picture.shape[1::-1] for picture in pictures])
        people = inference.people(self._step, batches, group, gather=False, size_wh=sizes) if pictures else {}
        self._warn_of_slots(people, names)
        scaled = {"sigma": self.settings.sigma_scale} if "sigma" in people and self.density is not None else {}
        poses = []
        for i in range(len(pictures)):
            rows = people["valid"][i]
            if "candidates" in people:  # the scores of anchors, like those of a detector's boxes
                rows = rows & (people["scores"][i] >= self.min_score)
            joints, score = (people[name][i][rows].astype(np.float64) for name in ("poses", "scores"))
            sigma = {name: people[name][i][rows] * factor for name, factor in scaled.items()}
            poses.append(
                Poses(
                    joints[..., :2], joints[..., 2], score, self.skeleton, box_score=score, density=self.density if sigma else None,
                    **sigma,
                )
            )  # fmt: skip
        return poses

    def _warn_of_slots(self, people: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        """Logs the pictures with more people than slots, so that nobody is left out silently."""
        for name, count, valid in zip(names, people.get("candidates", ()), people.get("valid", ())):
            if count > valid.sum():
                advice = "--people.max-people of the training allows more"
                log_left_out(name, count=count, slots=valid.sum(), advice=advice)

    def _batches(self, samples: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, np.ndarray]]:
        return inference.batches(samples, size=self.batch_size, smallest=1)

    def _step(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return self._predict(jax.device_put(inference.views(batch), self.device))


def load(
    directory: str | Path,
    *,
    step: int | Literal["best", "latest"] = "best",
    net: nn.Module | None = None,
    flip_test: bool | None = None,
    batch_size: int | None = None,
    test_size: int | None = None,
    fit: Literal["short", "long"] | None = None,
    scales: Sequence[float] | None = None,
    max_pixels: int = media.MAX_PIXELS,
    min_score: float = 0.0,
    max_people: int | None = None,
    device: jax.Device | None = None,
    camera: Sequence[float] | None = None,
    root_depth: float | None = None,
    side: Side | None = None,
) -> Predictor:
    """Builds a predictor from a run's folder or an imported checkpoint. It needs OpenCV (the extra `data`), not TensorFlow.

    Settings that are not given are those of the checkpoint's evaluation (`jaxpose.inference.from_checkpoint`), with two
    exceptions: poses are not suppressed (`jaxpose.evaluation.results.suppress` does that), and pictures are always
    decoded in full.

    Args:
        directory: The run's folder, or its checkpoints folder.
        step: The checkpoint to load; see `checkpoint.restore_model`.
        net: The net, if the checkpoint was trained with one that is not this package's.
        flip_test: Average with the mirrored picture, at twice the time.
        batch_size: The number of crops or whole images per call of the net; None stands for 32 or 4.
        test_size: The side of a whole image in input pixels, a multiple of 64.
        fit: The side of a whole image that `test_size` refers to; "long" needs one program for all shapes.
        scales: The scales of a whole image whose heatmaps are averaged, 1 among them.
        max_pixels: The largest number of pixels of a picture; larger ones raise an error.
        min_score: For detectors of boxes and nets of pose anchors: people with a lower score are left out.
        max_people: For detectors of boxes: the number of slots of a picture; None stands for that of the net.
        device: The device that the net runs on; None stands for the first local device.
        camera: For a 3D run, or hands with depth, f, cx, cy or fx, fy, cx, cy in pixels of the pictures; None: unknown
            (`jaxpose.predict.space`, `jaxpose.predict.hands`).
        root_depth: For such a run with a camera, the depth of the root in mm; None: unknown.
        side: For hands of a run with --one-side, "left" or "right", the side of those whose side a call does not state.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The checkpoint is damaged or does not fit its net, or an argument is out of range.
    """
    variables, config = checkpoint.restore_model(directory, step=step)
    task = tasks.from_config(config["task"], net=net)
    tasks.check_poses(task, directory, detectors=True)
    checkpoint.check_shapes(variables, jax.eval_shape(task.init, jax.random.key(0)), directory)
    return Predictor(
        task, variables, config, flip_test=flip_test, batch_size=batch_size, test_size=test_size, fit=fit, scales=scales,
        max_pixels=max_pixels, min_score=min_score, max_people=max_people, device=device, camera=camera, root_depth=root_depth,
        hand=hands_in_space.read(directory, task, config), side=side,
    )  # fmt: skip


def _mirror_crop(affine: np.ndarray, *, width: int) -> np.ndarray:
    """Returns affines (P, 2, 3) to the pixels of the mirrored crop, x' = width - 1 - x."""
    return np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]]) @ np.concatenate(
        [affine, np.broadcast_to([[[0.0, 0.0, 1.0]]], (len(affine), 1, 3))], axis=1
    )


def _name(source: Any, picture: np.ndarray) -> str:
    named = isinstance(source, (str, Path))
    return str(source) if named else f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels"


def _check_finite(*outputs: np.ndarray) -> None:
    if not all(np.isfinite(values).all() for values in outputs):
        raise ValueError("the net's outputs are not finite: its weights are damaged, or its training diverged")
