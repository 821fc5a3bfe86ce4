"""`jaxpose predict`: pictures, folders and videos in; overlays, COCO results and tables out."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from jaxpose import buckets, tasks
from jaxpose.checkpoint import find, read_config
from jaxpose.data import orientation
from jaxpose.data.boxes import BoxFile, number_of, touches
from jaxpose.data.reading import Exif
from jaxpose.evaluation import results
from jaxpose.evaluation.baselines import BASELINES, WHOLE_IMAGE
from jaxpose.files import local, read_json, write_json
from jaxpose.hands import Side
from jaxpose.interchange import Format
from jaxpose.predict import lift, media, scans
from jaxpose.predict.detector import warn_of_left_out
from jaxpose.predict.guarantee import Guarantee
from jaxpose.predict.inputs import Live, expand_inputs, is_video, limited
from jaxpose.predict.sequences import Options, Sequences
from jaxpose.predict.space import SPACE_COLUMNS, SpacePage, columns_of
from jaxpose.view.overlay import draw

logger = logging.getLogger(__name__)
AT_ONCE = 64_000_000  # pixels of pictures that are held in memory together
LIMITS = ("low_x", "high_x", "low_y", "high_y")
"""Further columns of poses.csv with --guarantee: the box around each region."""
BOX_COLUMNS = ("file", "frame", "image_id", "person", "person_score", "x", "y", "w", "h")
"""The columns of boxes.csv, which a detector of boxes gets instead of poses.csv."""
COLUMNS = (
    "file",
    "frame",
    "image_id",
    "person",
    "person_score",
    "joint",
    "x",
    "y",
    "confidence",
    "deviation_x",
    "deviation_y",
)


def main(
    checkpoint: tyro.conf.Positional[Path],
    inputs: tyro.conf.Positional[tuple[str, ...]],
    *,
    out: Path = Path("runs/predict"),
    boxes: Path | None = None,
    detector: Path | None = None,
    category: int = 1,
    min_box_score: float = 0.3,
    max_people: int | None = None,
    overlay: bool = True,
    draw_above: float | None = None,
    region: float | None = None,
    guarantee: bool = False,
    whole_pose: bool = False,
    flip_test: bool | None = None,
    batch_size: int | None = None,
    test_size: int | None = None,
    fit: Literal["short", "long"] | None = None,
    scales: tuple[float, ...] | None = None,
    max_pixels: int = media.MAX_PIXELS,
    recursive: bool = False,
    max_frames: int | None = None,
    formats: tuple[Format, ...] = (),
    within: float = 5.0,
    fps: float = 25.0,
    track: bool = False,
    people: int | None = None,
    exif: Exif | None = None,
    camera: tuple[float, ...] | None = None,
    root_depth: float | None = None,
    side: Side | None = None,
    images: Path | None = None,
    step: int | Literal["best", "latest"] = "best",
) -> None:
    """Predict poses of pictures and videos, or boundaries of scans, or lift joints to 3D.

    Writes into OUT: NAME_poses.jpg (.mp4 for a video) for every input; results.json, COCO result records; images.json,
    the pictures of their image ids, which pycocotools loads as a data set (it does not load an empty result list, []);
    poses.csv, a row for every joint (of a detector of boxes boxes.csv, a row for everybody). With --formats also the
    trajectories of every video, and of every folder of frames of one size: NAME_poses.npz (mean and covariance of every
    joint), NAME_poses_dlc.csv, NAME_poses.slp, NAME_poses.analysis.h5.

    With a run of experiments.oct_rle the inputs are scans, as pictures or as .mat files of the Duke DME data. It writes
    NAME_boundaries.png for every scan, with the bands of --region (0.9), and boundaries.csv, a row for every boundary and
    column.

    With a run of experiments.h36m_lifting the input is one result file of 2D joints, such as the results.json of another
    run's predict. It writes results_3d.json, joints in mm relative to the root, and space.html, poses that can be turned.

    Args:
        checkpoint: A run's folder, or an imported checkpoint; also in a bucket, gs://bucket/run.
        inputs: Pictures, videos, folders of them, and patterns such as "photos/*.jpg"; the number of a camera, such as
            0; the address of a stream, such as rtsp://camera/1.
        out: The folder for the output files.
        boxes: JSON of a detector, [{"file_name" or "image_id", "bbox": [x, y, w, h], "score", "category_id"}, ...], for
            a video with "frame", from 0; or a COCO data set, whose annotated boxes are taken. None: the whole picture
            is one person. Nets of whole images detect people themselves.
        detector: The run, or imported checkpoint, of a detector, which finds the people that are posed.
        category: Id of the persons in that JSON; boxes without category_id count too.
        min_box_score: Boxes with a lower score are left out, those of a JSON and of a detector.
        max_people: The number of slots of a detector for the people of a picture; None: that of its net, 100 for released ones.
        overlay: Draw the poses.
        draw_above: Joints with a lower confidence are not drawn; the output files have them all. None: 0.2, or 0.05 for the
            probabilities of a detector's maps.
        region: Also draw the region that holds each joint with this probability (nets with a likelihood).
        guarantee: Regions that hold their joints with that probability whether or not the density is right, from the scores
            of the run's calibration set (a run with --calibrate); guarantee.json states them and whether the pictures have
            drifted away from that set, and poses.csv has the limits of every region.
        whole_pose: With --guarantee: regions that hold all joints of a person at once with that probability.
        flip_test: Average with the mirrored picture, at twice the time; None: as the run was evaluated.
        batch_size: The number of crops, or whole images, at a time.
        test_size: For whole images: side of the net's input, a multiple of 64; None: as the run was evaluated.
        fit: For whole images: the side that test_size refers to; None: as the run was evaluated.
        scales: For whole images: scales whose heatmaps are averaged, 1 among them; None: as the run was evaluated.
        max_pixels: Pictures with more pixels are refused.
        recursive: Look into nested folders too.
        max_frames: Stop each camera and stream after this number of frames; None: when it ends, or with Ctrl-C.
        formats: Also write trajectories of videos and folders of frames: npz (mean, covariance and score of every joint,
            jaxpose.trajectories), dlc (the CSV of DeepLabCut), slp and h5 (SLEAP and its analysis file; they need the
            extra labels).
        within: The likelihood in those files is the probability that a joint's error is below this number of image pixels
            (nets with a likelihood; others write their confidence).
        fps: Frames per second of folders of frames; a video has its own.
        track: Give the persons of a video, or of a folder of frames, their identities before trajectories are written (the
            command track).
        people: The number of persons, if it is known; it implies --track.
        exif: Turn pictures as their EXIF orientation says (apply), or take the stored pixels (ignore); auto: turned,
            except for a COCO data set (--boxes), where image sizes and labelled poses decide; None: as the run was
            trained (its --exif).
        camera: For a run in space: f cx cy or fx fy cx cy in pixels of the pictures. None: the size of a person follows from the
            mean length of the training persons' limbs. Hands with depth have joints in space only with it.
        root_depth: For a run in space with --camera: the depth of the root (the wrist of a hand) in mm; the joints are coordinates of
            the camera then.
        side: For hands of a run with --one-side, the side of those whose box does not state it ("hand" in --boxes).
        images: With a lifter: COCO JSON with the sizes of the pictures and the names of the joints; None: images.json beside
            the result file.
        step: The checkpoint of the run to load.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = Options(formats=formats, radius=within, fps=fps, tracked=track or people is not None, people=people)
    level = tasks.from_config(read_config(checkpoint, step=step)["task"]).level
    of_people = {
        "boxes": boxes, "detector": detector, "max_people": max_people, "guarantee": guarantee, "whole_pose": whole_pose,
        "draw_above": draw_above, "test_size": test_size, "fit": fit, "scales": scales, "formats": formats, "track": track,
        "people": people, "max_frames": max_frames, "exif": exif, "camera": camera, "root_depth": root_depth, "side": side,
    }  # fmt: skip
    if level == "pair":
        _refuse_flags_of_people(**of_people, what="lifts joints of a result file")
        lift.run(checkpoint, inputs, out=out, images=images, region=region, step=step, flip_test=flip_test)
        return
    if images is not None:
        raise ValueError(f"--images {images}: it is for a lifter, which {checkpoint} is not; leave it out")
    if level == "scan":
        _refuse_flags_of_people(**of_people)
        scans.run(checkpoint, inputs, out=out, level=region, overlay=overlay, step=step, flip_test=flip_test)
        return
    local(out)
    inputs = tuple(str(buckets.here(entry, buckets.CACHE)) if buckets.is_url(entry) else entry for entry in inputs)
    files = expand_inputs(inputs, recursive=recursive)
    box_file = (
        None if boxes is None else BoxFile.read(boxes, category=category, min_score=min_box_score).matched(files, boxes)
    )
    from jaxpose import predict

    predictor = predict.load(
        checkpoint,
        step=step,
        flip_test=flip_test,
        batch_size=batch_size,
        test_size=test_size,
        fit=fit,
        scales=scales,
        max_pixels=max_pixels,
        min_score=min_box_score,
        max_people=max_people,
        camera=camera,
        root_depth=root_depth,
        side=side,
    )
    _check_against_net(
        predictor, checkpoint, boxes=boxes, formats=formats, region=region, guarantee=guarantee, whole_pose=whole_pose
    )
    if predictor.hand is not None and not predictor.in_space:
        logger.warning("pixels only: %s", predictor.hand.lacking(camera=None))
    finder = _finder(detector, predictor, checkpoint, boxes=boxes, min_score=min_box_score, max_people=max_people)
    if draw_above is None:
        draw_above = 0.05 if getattr(predictor.task.net, "keypoint_output", None) == "heatmap" else 0.2
    whole = "" if boxes is not None or finder is not None or predictor.finds_people else whole_pictures(checkpoint)
    if whole and guarantee:
        raise ValueError(f"--guarantee: it holds for boxes such as those of the calibration set. {whole}")
    if whole:
        logger.warning("%s", whole)
    guaranteed = Guarantee(checkpoint, predictor, level=region, whole_pose=whole_pose) if guarantee else None
    exif = exif_of_run(predictor.config) if exif is None else exif
    work = _Work(
        predictor, out, box_file, category=category, overlay=overlay, draw_above=draw_above, region=region, max_pixels=max_pixels,
        max_frames=max_frames, exif=exif, options=options, guarantee=guaranteed, finder=finder,
    )  # fmt: skip
    with work:
        work.run(files)
    _report(work, files, boxes=boxes, formats=formats)


def _check_against_net(
    predictor: Any, checkpoint: Path, *, boxes: Path | None, formats: tuple[Format, ...], region: float | None, guarantee: bool,
    whole_pose: bool,
) -> None:  # fmt: skip
    """Raises a ValueError if a flag asks for something that the net does not predict."""
    from jaxpose import predict

    if predictor.in_space and guarantee:
        raise ValueError("--guarantee: there are no guaranteed regions in space; give --region alone")
    if formats and not predictor.skeleton.num_joints:
        raise ValueError(f"--formats {' '.join(formats)}: the detector in {checkpoint} predicts no joints")
    if boxes is not None and predictor.finds_people:
        raise ValueError(f"--boxes {boxes}: the net in {checkpoint} finds the people itself; leave the boxes out")
    if region is not None and predictor.in_space:
        if predictor.space_density is None or not 0 < region < 1:
            raise ValueError(
                f"--region {region}: expected a level between 0 and 1, and a net with a likelihood in {checkpoint}"
            )
    elif region is not None:
        if predictor.density is None:
            raise ValueError(f"--region {region}: the net in {checkpoint} states no density of its error")
        predict.outlines(predictor.density, region)  # fails before anything is drawn if it cannot be drawn
    if (guarantee and region is None) or (whole_pose and not guarantee):
        raise ValueError(
            "--guarantee needs the level of --region, --whole-pose needs --guarantee: --region 0.9 --guarantee"
        )


def _report(work: _Work, files: Sequence[Path | Live], *, boxes: Path | None, formats: tuple[Format, ...]) -> None:
    """Prints what was predicted, as JSON; raises a ValueError that names the inputs that failed."""
    counts = {
        "pictures": len(work.images),
        "people": len(work.records),
        "failed": len(work.failed),
        "out": str(work.out),
    }
    print(json.dumps(counts | ({"trajectories": [str(path) for path in work.trajectories]} if formats else {})))
    if work.boxes is not None and (unused := work.boxes.unused(work.images)):
        logger.warning("%s: boxes of %d pictures that are not among the inputs", boxes, unused)
    if work.failed:
        examples = "; ".join(work.failed[:3]) + (f"; and {len(work.failed) - 3} more" if len(work.failed) > 3 else "")
        raise ValueError(f"{len(work.failed)} problems with {len(files)} inputs, the rest is in {work.out}: {examples}")


def _finder(
    detector: Path | None, predictor, checkpoint: Path, *, boxes: Path | None, min_score: float, max_people: int | None
):
    """Returns the `Detector` of --detector, or None; raises a ValueError where it does not fit the other flags."""
    if detector is None:
        if max_people is not None and predictor.detector is None:
            raise ValueError(f"--max-people {max_people}: the slots of a detector, and there is none (--detector)")
        return None
    if boxes is not None:
        raise ValueError(f"--detector {detector} --boxes {boxes}: both say where people are; give one of them")
    if predictor.finds_people:
        raise ValueError(
            f"--detector {detector}: the net in {checkpoint} finds the people itself; leave the detector out"
        )
    from jaxpose.predict import detector as detectors

    return detectors.load(detector, min_score=min_score, max_people=max_people)


def whole_pictures(checkpoint: Path) -> str:
    """Returns a sentence if a net that was trained on crops will see whole pictures; "" if its training boxes were as large.

    Args:
        checkpoint: A run's folder, or an imported checkpoint.
    """
    path = find(checkpoint).parent / BASELINES
    share = read_json(path, "baselines of a run").get("box_share") if path.is_file() else None
    if share is not None and share >= WHOLE_IMAGE:
        return ""
    boxes = "boxes around one person each" if share is None else f"boxes that span {share:.0%} of the picture (median)"
    return (
        f"without --boxes each whole picture is taken for the box of one person, but this net was trained on {boxes}: "
        "expect large errors where a person fills less than that of its box"
    ).replace("%", " %")


def exif_of_run(config: Mapping[str, Any]) -> Exif:
    """Returns the --exif of the checkpoint's run; auto for imported checkpoints and for runs from before the flag."""
    exif = (config.get("run") or {}).get("exif", "auto")
    if exif == "ignore":
        logger.warning("pictures are not turned as their EXIF data say: the run was trained with --exif ignore")
    return exif


def _refuse_flags_of_people(*, what: str = "predicts boundaries in scans", **given: Any) -> None:
    """Raises a ValueError if a flag was given that has no meaning for scans, or for joints."""
    for name, value in given.items():
        if value:
            raise ValueError(
                f"--{name.replace('_', '-')}: it is for people in pictures, and this run {what}; leave it out"
            )


class _Work:
    """Processes inputs one after another and collects their outputs."""

    def __init__(
        self, predictor, out: Path, boxes: BoxFile | None, *, category, overlay, draw_above, region, max_pixels,
        max_frames, exif, options, guarantee, finder
    ):  # fmt: skip
        self.predictor, self.out, self.boxes, self.category = predictor, out, boxes, category
        self.overlay, self.draw_above, self.region, self.max_pixels = overlay, draw_above, region, max_pixels
        self.max_frames, self.exif, self.guarantee, self.finder = max_frames, exif, guarantee, finder
        self.draws_boxes = bool(boxes) or finder is not None or predictor.detector is not None
        self.records: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.sequences = Sequences(out, options, predictor.skeleton)
        self.space = SpacePage(predictor.skeleton, level=region) if predictor.in_space else None
        self.trajectories: list[Path] = []

    def run(self, files: list[Path | Live]) -> None:
        import tqdm

        self.ids, self.targets = self._ids(files), _targets(files, self.out)
        pictures = [f for f in files if not is_video(f)]
        self.stored = self._stored(pictures)
        self.places = _places(pictures)
        with tqdm.tqdm(total=len(files), unit="file") as bar:
            for group in self._groups(pictures, bar):
                everyone = self._poses([(file, image, 0) for file, image in group])
                for (file, image), poses in zip(group, everyone, strict=True):
                    if self.overlay:
                        media.save_picture(self._draw(image, poses), self.targets[file])
                    self._keep(file, image, poses)
                    folder, frame = self.places[file]
                    name, size = f"{folder.resolve().name or 'frames'}_poses", image.shape[1::-1]
                    self.sequences.add(str(folder), poses, name=name, frame=frame, size_wh=size)
            for file in (f for f in files if is_video(f)):
                try:
                    self._video(media.stream(file.source, file) if isinstance(file, Live) else media.video(file))
                except (ValueError, OSError) as error:
                    self.failed.append(str(error))
                bar.update()

    def _groups(self, files: list[Path], bar) -> Iterator[list[tuple[Path, np.ndarray]]]:
        """Yields pictures, as many at a time as memory allows; unreadable ones are noted."""
        group, pixels = [], 0
        for file in files:
            bar.update()
            try:
                image = media.picture(file, max_pixels=self.max_pixels, upright=file not in self.stored)
            except Exception as error:  # decoders raise many types, and the other pictures still have to be done
                named = isinstance(error, (ValueError, OSError)) and str(file) in str(error)
                self.failed.append(str(error) if named else f"{file}: {type(error).__name__}: {error}")
                continue
            group.append((file, image))
            pixels += image.shape[0] * image.shape[1]
            if pixels > AT_ONCE or len(group) >= self.predictor.batch_size:
                yield group
                group, pixels = [], 0
        if group:
            yield group

    def _stored(self, files: list[Path]) -> set[Path]:
        """Returns the pictures that are not turned by EXIF: those of a data set whose boxes refer to the stored pixels."""
        if self.exif != "auto":
            return set(files) if self.exif == "ignore" else set()
        sizes = {file: size for file in files if self.boxes and (size := self.boxes.size_of(file)) is not None}
        if not sizes:
            return set()
        skeleton, pictures = self.predictor.skeleton, list(sizes)
        tagged = orientation.scan(pictures)
        turned, line = orientation.decide(
            tagged,
            sizes=np.array(list(sizes.values())),
            persons=self.boxes.persons_in(pictures, skeleton.joints),
            skeleton=skeleton,
        )
        if line:
            logger.warning("--boxes: %s", line)
        return {pictures[i] for i in tagged if i not in turned}

    def _poses(self, items: list[tuple[Path, np.ndarray, int]]) -> list[Any]:
        images = [image for _, image, _ in items]
        names = [f"{file}, frame {frame}" if is_video(file) else str(file) for file, _, frame in items]
        if self.predictor.detector is not None:
            return self.predictor.detected(images, names)
        if self.finder is not None:
            people = self.finder(images)
            warn_of_left_out(people, names)
            return self.predictor(images, [each.scored_boxes for each in people])
        if self.boxes is None:
            return self.predictor(images)
        boxes, sides = zip(*(self._boxes(*item) for item in items), strict=True)
        return self.predictor(images, boxes, sides=sides)

    def _boxes(self, file: Path, image: np.ndarray, frame: int) -> tuple[list[tuple[float, ...]], list[Side | None]]:
        """Returns the boxes of a picture that overlap it, and the sides of their hands; the others are noted."""
        height, width = image.shape[:2]
        rows, sides = [], []
        for row, side in zip(self.boxes.of(file, frame), self.boxes.sides_of(file, frame), strict=True):
            if min(row[2:4]) > 0 and touches(row[:4], (width, height)):
                rows.append(row)
                sides.append(side)
            else:
                self.failed.append(f"{file}: box {list(row[:4])} is empty or outside the {width}x{height} pixels")
        return rows, sides

    def _video(self, video: media.Video) -> None:
        import tqdm

        live = video.opened is not None
        frames = limited(video, self.max_frames) if live else video
        frames = tqdm.tqdm(
            frames,
            total=video.frames or (self.max_frames if live else None) or None,
            unit="frame",
            desc=video.path.name,
            leave=False,
        )
        at_once = max(1, min(self.predictor.batch_size, AT_ONCE // (video.size_wh[0] * video.size_wh[1])))
        done, target = 0, self.targets[video.path]
        with ExitStack() as stack:
            writer = None
            if self.overlay:
                writer = stack.enter_context(media.VideoWriter(target, size_wh=video.size_wh, rate=video.rate))
            for chunk in _batched(enumerate(frames), at_once):
                everyone = self._poses([(video.path, image, i) for i, image in chunk])
                for (i, image), poses in zip(chunk, everyone, strict=True):
                    if writer is not None:
                        writer.write(self._draw(image, poses))
                    self._keep(video.path, image, poses, frame=i)
                    self.sequences.add(
                        str(video.path), poses, name=target.stem, frame=i, size_wh=video.size_wh, fps=video.rate
                    )
                    done += 1
        if done + video.rate < video.frames:  # some containers know only their length: a missing second is tolerated
            self.failed.append(
                f"video {video.path} has {video.frames} frames by its header, {done} could be read: it is truncated or damaged"
            )

    def _draw(self, image: np.ndarray, poses) -> np.ndarray:
        is_drawn = poses.confidence > self.draw_above
        curves = []
        if self.guarantee is not None:
            curves = self.guarantee.curves(poses, is_drawn)
        elif self.region is not None and self.predictor.density is not None:
            curves = [curve for part in poses.regions(self.region) for curve in part[is_drawn]]
        return draw(
            image,
            poses.xy,
            is_drawn,
            self.predictor.skeleton,
            outlines=curves,
            box=poses.box if self.draws_boxes else None,
        )

    def _keep(self, file: Path, image: np.ndarray, poses, *, frame: int | None = None) -> None:
        image_id = self.ids[file] if frame is None else next(self.free)
        where = {"file_name": str(file)} | ({} if frame is None else {"frame": frame})
        self.images.append({"id": image_id, **where, "width": image.shape[1], "height": image.shape[0]})
        self.records += [record | where for record in poses.records(image_id)]
        if not self.predictor.skeleton.num_joints:
            for p, box in enumerate(poses.box.round(3).tolist()):
                score = round(float(poses.score[p]), 6)
                self.rows.writerow([str(file), "" if frame is None else frame, image_id, p, score, *box])
            return
        deviation = poses.deviation
        in_space = np.zeros((len(poses), len(self.predictor.skeleton.joints), 0))
        if self.space is not None:
            self.space.add(f"{file.name if frame is None else f'{file.name} frame {frame}'}", poses.space)
            in_space = columns_of(poses.space)
        limits = np.zeros((len(poses), len(self.predictor.skeleton.joints), 0))
        if self.guarantee is not None:
            self.guarantee.add(poses)
            limits = self.guarantee.limits(poses).reshape(*limits.shape[:2], 4)
        for p in range(len(poses)):
            person = [str(file), "" if frame is None else frame, image_id, p, round(float(poses.score[p]), 6)]
            for k, joint in enumerate(self.predictor.skeleton.joints):
                spread = ("", "") if deviation is None else deviation[p, k].round(3).tolist()
                numbers = [*poses.xy[p, k].round(3).tolist(), round(float(poses.confidence[p, k]), 6), *spread]
                self.rows.writerow(
                    [*person, joint, *numbers, *limits[p, k].round(3).tolist(), *in_space[p, k].round(3).tolist()]
                )

    def _ids(self, files: list[Path]) -> dict[Path, int]:
        """Returns the ids of the boxes' data set; else the number in a name, as in COCO's; else the next free number."""
        taken = set(self.boxes.ids.values()) if self.boxes else set()
        first = {self.boxes.id_of(file): file for file in reversed(files)} if self.boxes else {}
        ids = {file: number for number, file in first.items() if number is not None}
        for file in files:
            number = None if isinstance(file, Live) else number_of(file.stem)
            if file not in ids and number is not None and number not in taken:
                ids[file] = number
                taken.add(number)
        self.free = (i for i in itertools.count(1) if i not in taken)
        return {file: ids[file] if file in ids else next(self.free) for file in files}

    def __enter__(self) -> _Work:
        self.out.mkdir(parents=True, exist_ok=True)
        has_joints = self.predictor.skeleton.num_joints > 0
        self.csv = "poses.csv" if has_joints else "boxes.csv"
        columns = (COLUMNS if self.guarantee is None else COLUMNS + LIMITS) if has_joints else BOX_COLUMNS
        self.partial = self.out / f".{self.csv}.partial"
        # File names may contain bytes that are not text.
        self.table = open(self.partial, "w", newline="", encoding="utf-8", errors="surrogateescape")
        self.rows = csv.writer(self.table)
        self.rows.writerow(columns + (() if self.space is None else SPACE_COLUMNS))
        return self

    def __exit__(self, kind, value, traceback) -> None:
        """Writes results.json, images.json and poses.csv of the inputs so far, even after an error; each file atomically."""
        self.table.close()
        if not self.images:  # nothing was done: the files of an earlier run stay
            self.partial.unlink()
            return
        self.partial.replace(self.out / self.csv)
        records = [record | {"category_id": self.category} for record in self.records]
        if self.predictor.skeleton.num_joints:
            results.write(records, self.out / "results.json")
        else:
            write_json(self.out / "results.json", records)
        joints = self.predictor.skeleton
        kind = joints.to_coco_category(category_id=self.category)
        images = {"images": self.images, "annotations": [], "categories": [kind]}
        write_json(self.out / "images.json", images)
        if self.guarantee is not None:
            self.guarantee.write(self.out / "guarantee.json")
        if self.space is not None:
            self.space.write(self.out / "space.html")
        self.trajectories = self.sequences.write()
        self.failed += self.sequences.failed


def _targets(files: list[Path], out: Path) -> dict[Path, Path]:
    """Returns the path of each overlay: by the name of its input, with a number if the name is taken."""
    targets: dict[Path, Path] = {}
    taken = {file.resolve() for file in files}
    for file in files:
        suffix = ".mp4" if is_video(file) else ".jpg"
        extras = itertools.chain([""], (f"_{i}" for i in itertools.count(2)))
        places = ((out / f"{file.stem}{extra}_poses{suffix}").resolve() for extra in extras)
        targets[file] = next(place for place in places if place not in taken)
        taken.add(targets[file])
    return targets


def _places(pictures: list[Path]) -> dict[Path, tuple[Path, int]]:
    """The folder of each picture and its number among the pictures of that folder: frame_9.png comes before frame_10.png."""
    counts: Counter[Path] = Counter()
    places = {}
    for picture in sorted(pictures, key=lambda path: (_natural(path.name), path)):
        places[picture] = picture.parent, counts[picture.parent]
        counts[picture.parent] += 1
    return places


def _natural(name: str) -> list[str | int]:
    """The key by which names sort as people count: texts and numbers in turn."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))]


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk
