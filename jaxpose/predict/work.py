"""The work of `jaxpose predict` on pictures and videos: input after input into overlays, result records and tables."""

from __future__ import annotations

import csv
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from jaxpose.data import orientation
from jaxpose.data.boxes import BoxFile, number_of, touches
from jaxpose.evaluation import results
from jaxpose.files import write_json
from jaxpose.hands import Side
from jaxpose.predict import media
from jaxpose.predict.detector import warn_of_left_out
from jaxpose.predict.inputs import Live, is_video, limited
from jaxpose.predict.sequences import Sequences
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


class Work:
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
        self.empty: list[str] = []
        """The pictures and frames in which there are no people."""
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
        names = [_name(file, frame if is_video(file) else None) for file, _, frame in items]
        if self.predictor.detector is not None:
            return self.predictor.detected(images, names)
        if self.predictor.finds_people:
            return self.predictor.in_whole(images, names)
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
        if not len(poses):
            self.empty.append(_name(file, frame))
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

    def __enter__(self) -> Work:
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


def _name(file: Path | Live, frame: int | None) -> str:
    """Returns the name of a picture, or of the frame of a video, in messages."""
    return str(file) if frame is None else f"{file}, frame {frame}"


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
