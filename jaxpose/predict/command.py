"""`jaxpose predict`: pictures, folders and videos in; overlays, COCO results and tables out."""

from __future__ import annotations

import csv
import glob
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tqdm
import tyro

from jaxpose.data.boxes import BoxFile, number_of, touches
from jaxpose.evaluation import results
from jaxpose.files import write_json
from jaxpose.predict import media
from jaxpose.skeleton import Skeleton
from jaxpose.view.overlay import draw

if TYPE_CHECKING:
    from jaxpose.predict import Poses, Predictor

logger = logging.getLogger(__name__)
AT_ONCE = 64_000_000  # pixels of pictures that are held in memory together
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
    category: int = 1,
    min_box_score: float = 0.3,
    overlay: bool = True,
    draw_above: float = 0.2,
    region: float | None = None,
    flip_test: bool | None = None,
    batch_size: int | None = None,
    test_size: int | None = None,
    fit: Literal["short", "long"] | None = None,
    scales: tuple[float, ...] | None = None,
    max_pixels: int = media.MAX_PIXELS,
    step: int | Literal["best", "latest"] = "best",
) -> None:
    """Predict the poses of the people in pictures and videos.

    Writes into OUT: NAME_poses.jpg (of a video .mp4) per input; results.json, COCO result records; images.json, the pictures that
    their image ids stand for, which pycocotools loads as a data set (it does not load results of nobody, []); poses.csv, a row per
    joint. What is not given is as the run was evaluated.

    Args:
        checkpoint: a run's folder, or an imported checkpoint.
        inputs: pictures, videos, folders of them, and patterns such as "photos/*.jpg".
        out: folder for what is written.
        boxes: JSON of a detector, [{"file_name" or "image_id", "bbox": [x, y, w, h], "score", "category_id"}, ...], of a video with
            "frame", from 0; or a COCO data set, whose annotated boxes are taken. None: the whole picture is one person. Nets of
            whole images find people themselves.
        category: id of the persons in that JSON; boxes without category_id count too.
        min_box_score: boxes with a lower score are left out.
        overlay: draw the poses.
        draw_above: joints of a lower confidence are not drawn; the files have them all.
        region: also draw the region that holds each joint with this probability (of nets with a likelihood).
        flip_test: average with the mirrored picture, at twice the time.
        batch_size: crops or whole images per call of the net.
        test_size: side of a whole image in input pixels, a multiple of 64.
        fit: which side of a whole image that is.
        scales: scales of a whole image whose heatmaps are averaged, 1 among them.
        max_pixels: larger pictures are refused.
        step: which checkpoint of the run.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    files = list_inputs(inputs)
    box_file = None if boxes is None else BoxFile.read(boxes, category=category, min_score=min_box_score)
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
    )
    if box_file is not None and predictor.finds_people:
        raise ValueError(f"--boxes {boxes}: the net in {checkpoint} finds the people itself; leave the boxes out")
    if region is not None:
        if predictor.density is None:
            raise ValueError(f"--region {region}: the net in {checkpoint} states no density of its error")
        predict.outlines(predictor.density, region)  # whether it can be drawn, before anything is
    overlays = _Overlays(predictor.skeleton, draw_above, region, with_boxes=box_file is not None) if overlay else None
    with _results_in(out, files, box_file, skeleton=predictor.skeleton, category=category) as tables:
        job = _Job(predictor, tables, _targets(files, out), box_file, overlays, max_pixels)
        job.run(files)
    line = {"pictures": len(tables.images), "people": len(tables.records), "failed": len(job.failed), "out": str(out)}
    print(json.dumps(line))
    if box_file is not None and (unused := box_file.unused(tables.images)):
        logger.warning("%s: boxes of %d pictures that are not among the inputs", boxes, unused)
    if job.failed:
        first = "; ".join(job.failed[:3]) + (f"; and {len(job.failed) - 3} more" if len(job.failed) > 3 else "")
        raise ValueError(f"{len(job.failed)} problems with {len(files)} inputs, the rest is in {out}: {first}")


def list_inputs(inputs: Iterable[str]) -> list[Path]:
    """Lists the picture and video files that names stand for, each once.

    Args:
        inputs: names of files, of folders (without their subfolders), and patterns.

    Raises:
        FileNotFoundError: a name stands for no file.
        ValueError: no name is given.

    >>> list_inputs(["absent.jpg"])
    Traceback (most recent call last):
    ...
    FileNotFoundError: absent.jpg: no such file, and no folder or pattern with pictures or videos in it
    """
    files: dict[Path, None] = {}
    kinds = media.PICTURES | media.VIDEOS
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            some = sorted(p for p in path.iterdir() if p.suffix.lower() in kinds and p.is_file())
        elif path.exists():
            some = [path]
        else:
            some = sorted(Path(p) for p in glob.glob(name, recursive=True) if Path(p).suffix.lower() in kinds)
        if not some:
            raise FileNotFoundError(f"{name}: no such file, and no folder or pattern with pictures or videos in it")
        files |= dict.fromkeys(some)
    if not files:
        raise ValueError("no inputs: name pictures, videos or folders after the checkpoint")
    return list(files)


@dataclass(frozen=True)
class _Overlays:
    """How poses are drawn: joints above a confidence, the regions of a probability, and boxes where they were given."""

    skeleton: Skeleton
    draw_above: float
    region: float | None
    with_boxes: bool

    def draw(self, image: np.ndarray, poses: Poses) -> np.ndarray:
        visible = poses.confidence > self.draw_above
        curves = []
        if self.region is not None:
            curves = [curve for part in poses.regions(self.region) for curve in part[visible]]
        box = poses.box if self.with_boxes else None
        return draw(image, poses.xy, visible, self.skeleton, outlines=curves, box=box)


@dataclass
class _Tables:
    """What was predicted: COCO's records and images, and the rows of poses.csv.

    Attributes:
        writer: of poses.csv.
        joints: names of the joints.
        ids: image ids of the pictures.
        free_ids: image ids that are left, for the frames of videos.
        images: COCO's images.
        records: COCO's result records.
    """

    writer: Any
    joints: Sequence[str]
    ids: Mapping[Path, int]
    free_ids: Iterator[int]
    images: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, file: Path, image: np.ndarray, poses: Poses, *, frame: int | None = None) -> None:
        """Adds the poses of a picture, or of a frame of a video."""
        image_id = self.ids[file] if frame is None else next(self.free_ids)
        origin = {"file_name": str(file)} | ({} if frame is None else {"frame": frame})
        self.images.append({"id": image_id, **origin, "width": image.shape[1], "height": image.shape[0]})
        self.records += [record | origin for record in poses.records(image_id)]
        deviation = poses.deviation
        for p in range(len(poses)):
            person = [str(file), "" if frame is None else frame, image_id, p, round(float(poses.score[p]), 6)]
            for k, joint in enumerate(self.joints):
                spread = ("", "") if deviation is None else deviation[p, k].round(3).tolist()
                numbers = [*poses.xy[p, k].round(3).tolist(), round(float(poses.confidence[p, k]), 6), *spread]
                self.writer.writerow([*person, joint, *numbers])


@contextmanager
def _results_in(
    out: Path, files: list[Path], boxes: BoxFile | None, *, skeleton: Skeleton, category: int
) -> Iterator[_Tables]:
    """Writes results.json, images.json and poses.csv at the end, also after an error, of what was predicted until then.

    Each file is the old one or the complete new one; where nothing was predicted, those of an earlier run stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    partial = out / ".poses.csv.partial"
    ids, free_ids = _image_ids(files, boxes)
    # Names of files may be bytes that are no text.
    with open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as table:
        tables = _Tables(csv.writer(table), skeleton.joints, ids, free_ids)
        tables.writer.writerow(COLUMNS)
        try:
            yield tables
        finally:
            table.close()
            if tables.images:
                partial.replace(out / "poses.csv")
                results.write([record | {"category_id": category} for record in tables.records], out / "results.json")
                categories = [skeleton.to_coco_category(category_id=category)]
                write_json(out / "images.json", {"images": tables.images, "annotations": [], "categories": categories})
            else:
                partial.unlink()


@dataclass
class _Job:
    """Predicts inputs one after the other.

    Attributes:
        predictor: of the poses.
        tables: take the poses.
        targets: file of the overlay of each input.
        boxes: of the pictures; None: the predictor needs none.
        overlays: draw the poses; None: they are not drawn.
        max_pixels: larger pictures are refused.
        failed: what could not be done, a message each.
    """

    predictor: Predictor
    tables: _Tables
    targets: Mapping[Path, Path]
    boxes: BoxFile | None
    overlays: _Overlays | None
    max_pixels: int
    failed: list[str] = field(default_factory=list)

    def run(self, files: list[Path]) -> None:
        """Predicts pictures in groups, then videos."""
        videos = [file for file in files if file.suffix.lower() in media.VIDEOS]
        with tqdm.tqdm(total=len(files), unit="file") as bar:
            for group in self._read(_counted(bar, (file for file in files if file.suffix.lower() not in media.VIDEOS))):
                poses_of_group = self._predict([(file, image, 0) for file, image in group])
                for (file, image), poses in zip(group, poses_of_group, strict=True):
                    if self.overlays is not None:
                        media.save_picture(self.overlays.draw(image, poses), self.targets[file])
                    self.tables.add(file, image, poses)
            for file in videos:
                try:
                    self._predict_video(media.video(file))
                except (ValueError, OSError) as error:
                    self.failed.append(str(error))
                bar.update()

    def _read(self, files: Iterable[Path]) -> Iterator[list[tuple[Path, np.ndarray]]]:
        """Reads pictures, as many at a time as memory allows; those that cannot be read are noted."""
        group, pixels = [], 0
        for file in files:
            # The boxes of a data set are those of the pixels as they are stored.
            upright = self.boxes is None or self.boxes.id_of(file) is None
            try:
                image = media.picture(file, max_pixels=self.max_pixels, upright=upright)
            except (
                Exception
            ) as error:  # decoders raise many exception types, and the other pictures are to be predicted
                is_named = isinstance(error, (ValueError, OSError)) and str(file) in str(error)
                self.failed.append(str(error) if is_named else f"{file}: {type(error).__name__}: {error}")
                continue
            group.append((file, image))
            pixels += image.shape[0] * image.shape[1]
            if pixels > AT_ONCE or len(group) >= self.predictor.batch_size:
                yield group
                group, pixels = [], 0
        if group:
            yield group

    def _predict(self, items: list[tuple[Path, np.ndarray, int]]) -> list[Poses]:
        """Poses of (file, image, frame)."""
        images = [image for _, image, _ in items]
        if self.boxes is None:
            return self.predictor(images)
        return self.predictor(images, [self._boxes(*item) for item in items])

    def _boxes(self, file: Path, image: np.ndarray, frame: int) -> list[tuple[float, ...]]:
        """The boxes of a picture that lie on it; the others are noted."""
        height, width = image.shape[:2]
        boxes = []
        for row in self.boxes.of(file, frame):
            if min(row[2:4]) > 0 and touches(row[:4], (width, height)):
                boxes.append(row)
            else:
                self.failed.append(f"{file}: box {list(row[:4])} is empty or outside the {width}x{height} pixels")
        return boxes

    def _predict_video(self, video: media.Video) -> None:
        frames = tqdm.tqdm(video, total=video.frames or None, unit="frame", desc=video.path.name, leave=False)
        at_once = max(1, min(self.predictor.batch_size, AT_ONCE // (video.size_wh[0] * video.size_wh[1])))
        count = 0
        with ExitStack() as stack:
            writer = None
            if self.overlays is not None:
                target = self.targets[video.path]
                writer = stack.enter_context(media.VideoWriter(target, size_wh=video.size_wh, rate=video.rate))
            for chunk in _batched(enumerate(frames), at_once):
                poses_of_chunk = self._predict([(video.path, image, i) for i, image in chunk])
                for (i, image), poses in zip(chunk, poses_of_chunk, strict=True):
                    if writer is not None:
                        writer.write(self.overlays.draw(image, poses))
                    self.tables.add(video.path, image, poses, frame=i)
                    count += 1
        if count + video.rate < video.frames:  # some containers know their length only: within a second it is whole
            self.failed.append(
                f"video {video.path} says {video.frames} frames, {count} could be read: it is truncated or damaged"
            )


def _image_ids(files: list[Path], boxes: BoxFile | None) -> tuple[dict[Path, int], Iterator[int]]:
    """Image ids of the inputs, and the ids that are free.

    The id is that of the data set that the boxes are of; else the number that the name is, as COCO's are; else the next free one.
    """
    taken = set(boxes.ids.values()) if boxes else set()
    first = {boxes.id_of(file): file for file in reversed(files)} if boxes else {}
    ids = {file: number for number, file in first.items() if number is not None}
    for file in files:
        number = number_of(file.stem)
        if file not in ids and number is not None and number not in taken:
            ids[file] = number
            taken.add(number)
    free_ids = (i for i in itertools.count(1) if i not in taken)
    return {file: ids[file] if file in ids else next(free_ids) for file in files}, free_ids


def _targets(files: list[Path], out: Path) -> dict[Path, Path]:
    """Where each overlay goes: by the name of its input, with a number where two have the same or an input has that name."""
    targets: dict[Path, Path] = {}
    taken = {file.resolve() for file in files}
    for file in files:
        suffix = ".mp4" if file.suffix.lower() in media.VIDEOS else ".jpg"
        extras = itertools.chain([""], (f"_{i}" for i in itertools.count(2)))
        places = ((out / f"{file.stem}{extra}_poses{suffix}").resolve() for extra in extras)
        targets[file] = next(place for place in places if place not in taken)
        taken.add(targets[file])
    return targets


def _counted(bar: tqdm.tqdm, files: Iterable[Path]) -> Iterator[Path]:
    """The same files; each moves the bar when it is taken."""
    for file in files:
        bar.update()
        yield file


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk
