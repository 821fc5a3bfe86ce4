"""A COCO-format keypoint set as a TFDS data set (`array_record`), prepared once and read by index.

    source = prepare("path/to/coco", data_dir="prepared", split="train")     # or open("prepared", "train") later on
    source.record(3)

An image is one record, its JPEG bytes as they are in the file; the order is that of the JSON. Beside the records lie
``persons.npy`` and ``images.npy`` (the tables of `jaxpose.data.coco.Source`, memory-mapped, so that the memory a reader
needs does not grow with the data), ``ground_truth.json`` (the annotations for the evaluation, without segmentations:
the original folder is needed no more) and ``source.json`` (where it came from). All of it is written into TFDS's
incomplete folder and renamed when it is done: an interrupted preparation is never read.

``tfds.builder_from_directory(source.directory)`` reads the same records without this library. TensorFlow is not needed,
but to prepare more than a gigabyte (TFDS then sorts on disk, through TensorFlow's file functions).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxpose.data import coco
from jaxpose.skeleton import Skeleton

__all__ = ["CocoKeypoints", "CocoKeypointsConfig", "PreparedSource", "open", "prepare"]

VERSION = "1.0.0"
KEY_SPACE = 2**128  # of TFDS's shuffler
SIDECARS = ("persons.npy", "images.npy", "ground_truth.json", "source.json")

logger = logging.getLogger(__name__)


def prepare(
    folder: str | Path | None,
    *,
    data_dir: str | Path,
    split: str = "train",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    name: str | None = None,
    skeleton: Skeleton | None = None,
    category: str | int | None = None,
    on_bad: Literal["error", "skip"] = "error",
    only_annotated: bool = False,
    verify: bool = False,
    progress: bool = True,
    force: bool = False,
    num_shards: int | None = None,
) -> PreparedSource:
    """Prepare a split of a COCO-format folder, unless that is done already, and open it.

    It is done again when the source changed: another annotation JSON (by content), another number of images, or other
    options here. Changed pixels alone are not noticed: pass ``force=True``. Two processes that prepare the same thing
    wait for each other. Memory: the JSON, and TFDS's buffer of a gigabyte.

    Args:
        folder: that holds ``annotations/`` and the images, in a layout of `jaxpose.data.coco.find`; None where
            `annotations` and `images` are given.
        data_dir: where prepared data sets live; one folder serves many.
        split: of the folder.
        annotations, images: the JSON and the image folder, where `find` is not to look for them.
        name: of the data set within `data_dir`; None: the folder's.
        skeleton, category, on_bad: as in `jaxpose.data.coco.read`. With ``on_bad="skip"`` images that cannot be read
            are left out too, with their persons, and so from the ground truth of the evaluation.
        only_annotated: leave out the images without any person that has keypoints (half of COCO's training images).
        verify: decode every image completely. Otherwise: its header, its size, and that the file is not cut off.
        progress: show a progress bar.
        force: prepare again in any case.
        num_shards: number of files; None: by size.

    Raises:
        FileNotFoundError, ValueError: as `find`, `read` and `load_jpeg`, naming the file and what to do.
    """
    if annotations is None or images is None:
        if folder is None:
            raise ValueError("give the folder of the data set, or both annotations= and images=")
        annotations, images = coco.find(folder, split, annotations=annotations, images=images)
    annotations, images = Path(annotations), Path(images)
    name = _clean(name or Path(folder or images).resolve().name)
    options = {"category": category, "on_bad": on_bad, "only_annotated": only_annotated, "verify": verify}
    current = fingerprint(annotations, images, options | {"skeleton": skeleton and skeleton.to_dict()})
    config = CocoKeypointsConfig(name=f"{name}-{_clean(split)}", split=split, progress=progress, fingerprint=current)
    place = _place(data_dir, config.name)
    if force or not _is_current(place, current):
        with _lock(Path(data_dir), config.name):
            _remove_leftovers(place)
            if force or not _is_current(place, current):  # someone else may have done it meanwhile
                config.source = coco.read(annotations, images, skeleton=skeleton, category=category, on_bad=on_bad)
                config.on_bad, config.only_annotated, config.verify = on_bad, only_annotated, verify
                _move_away(place)
                _write(config, Path(data_dir), num_shards)
    return PreparedSource(place)


def open(
    data_dir: str | Path, split: str, *, name: str | None = None, level: Literal["person", "image"] = "person"
) -> PreparedSource:
    """A prepared split, by person (top-down) or by image (bottom-up).

    Args:
        data_dir: as given to `prepare`.
        split: as given to `prepare`.
        name: of the data set; None where `data_dir` holds one with this split.
        level: what a record is.

    Raises:
        FileNotFoundError: nothing of that name is prepared there (a preparation that was interrupted does not count).
        ValueError: several data sets have this split: name one.
    """
    root = Path(data_dir) / CocoKeypoints.name
    pattern = f"{_clean(name) if name else '*'}-{_clean(split)}"
    found = [place for place in sorted(root.glob(f"{pattern}/{VERSION}")) if _is_complete(place)]
    if not found:
        there = sorted({path.parent.name for path in root.glob(f"*/{VERSION}") if _is_complete(path)})
        raise FileNotFoundError(
            f"no prepared data set {pattern!r} in {data_dir}: there is {', '.join(there) or 'none'}; prepare it first "
            "(jaxpose prepare, or jaxpose.data.builder.prepare)"
        )
    if len(found) > 1:
        names = [path.parent.name.removesuffix(f"-{_clean(split)}") for path in found]
        raise ValueError(f"{data_dir} holds several data sets with a split {split!r}: {names}; choose one (name=)")
    return PreparedSource(found[0]).at_level(level)


class PreparedSource(coco.Source):
    """A prepared data set. Reads records by index, from any thread; holds no record in memory.

    Attributes, besides those of `jaxpose.data.coco.Source`:
        directory: of the TFDS data set.
        skipped: how many images or persons were left out, by reason.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        if not _is_complete(self.directory):
            raise FileNotFoundError(f"{directory} is no completely prepared data set: prepare it again")
        facts = json.loads((self.directory / "source.json").read_text())
        self.name, self.skipped = self.directory.parent.name, Counter(facts["skipped"])
        self.skeleton, self.category_id = Skeleton.from_dict(facts["skeleton"]), facts["category_id"]
        self.persons = np.load(self.directory / "persons.npy", mmap_mode="r")
        self.images = np.load(self.directory / "images.npy", mmap_mode="r")
        self.ground_truth_json = self.directory / "ground_truth.json"
        builder = tfds.builder_from_directory(self.directory)
        self.features = builder.info.features
        self._raw = builder.as_data_source(
            split=facts["split"], deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )

    def image(self, index: int) -> dict[str, Any]:
        record = self.features.deserialize_example_np(self._raw[index], decoders=_UNDECODED)
        people = record["persons"]
        table = np.zeros(len(people["annotation_id"]), coco.person_dtype(self.skeleton.num_joints))
        for field in set(people) - {"segmentation"} if len(table) else ():
            table[field] = people[field]
        table["image"], table["score"] = index, 1.0
        return {
            "jpeg": record["image"],
            "file_name": record["file_name"].decode(),
            "image_id": int(record["image_id"]),
            "size_wh": (int(record["width"]), int(record["height"])),
            "persons": table,
            "segmentations": [json.loads(text) for text in people["segmentation"]],
        }

    def jpeg(self, index: int) -> bytes:
        # A fifth of the time that the whole record takes: the features that are not asked for are not looked at.
        return _IMAGE_ONLY.deserialize_example_np(self._raw[index], decoders=_UNDECODED)["image"]


@dataclass(kw_only=True)
class CocoKeypointsConfig(tfds.core.BuilderConfig):
    """One split of one folder: what `CocoKeypoints` generates its records from."""

    split: str = "train"
    source: coco.CocoFolder | None = None
    fingerprint: str = ""
    on_bad: str = "error"
    only_annotated: bool = False
    verify: bool = False
    progress: bool = False


class CocoKeypoints(tfds.core.GeneratorBasedBuilder):
    """Any COCO-format keypoint set. Use `prepare`, which gives it its config."""

    VERSION = tfds.core.Version(VERSION)
    code_path = None  # there are no checksums to look for beside this file; TFDS would need importlib_resources for it

    def _info(self) -> tfds.core.DatasetInfo:
        joints = self.builder_config.source.skeleton.num_joints
        person = {
            "annotation_id": np.int64,
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "keypoints": tfds.features.Tensor(shape=(joints, 3), dtype=np.float32),
            "area": np.float32,
            "crowd": np.bool_,
            "segmentation": tfds.features.Text(),
        }
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "file_name": tfds.features.Text(),
            "image_id": np.int64,
            "width": np.int32,
            "height": np.int32,
            "persons": tfds.features.Sequence(person),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images and persons of a COCO-format keypoint annotation file.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # records in the order of the JSON: what persons.npy points at
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {self.builder_config.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        source, problems = config.source, coco.Problems(config.source.folder, config.on_bad)
        labelled = set(source.persons["image"].tolist())
        chosen = [i for i in range(len(source.images)) if i in labelled or not config.only_annotated]
        written = []
        for i in tqdm(chosen, desc=f"preparing {config.name}", unit="image", disable=not config.progress):
            jpeg = _readable(source, i, problems, verify=config.verify)
            if jpeg is not None:
                # TFDS sorts by key in a thousand buckets over 128 bits: spread, the keys fill them evenly and in order.
                yield len(written) * (KEY_SPACE // len(chosen)), _example(source, i, jpeg)
                written.append(i)
        problems.report()
        _write_sidecars(Path(self.data_path), config, written, source.skipped + problems.counts)


_UNDECODED = {"image": tfds.decode.SkipDecoding()}
_IMAGE_ONLY = tfds.features.FeaturesDict({"image": tfds.features.Image(encoding_format="jpeg")})


def _readable(source: coco.CocoFolder, index: int, problems: coco.Problems, *, verify: bool) -> bytes | None:
    width, height = (int(v) for v in source.images["size_wh"][index])
    path = source.folder / source.file_name(index)
    try:
        return coco.load_jpeg(path, size_wh=(width, height), verify=verify)
    except (ValueError, OSError) as error:
        problems.add("image not readable", str(error), error=type(error))
        return None


def _example(source: coco.CocoFolder, index: int, jpeg: bytes) -> dict[str, Any]:
    entry, people = source.entries[index], source.people[index]
    table = coco.person_table([people], source.skeleton.num_joints)
    fields = ("annotation_id", "box", "keypoints", "area", "crowd")
    persons = [
        {field: row[field] for field in fields} | {"segmentation": json.dumps(person.get("segmentation"))}
        for row, person in zip(table, people, strict=True)
    ]
    return {
        "image": io.BytesIO(jpeg),
        "file_name": entry["file_name"],
        "image_id": entry["id"],
        "width": entry["width"],
        "height": entry["height"],
        "persons": persons,
    }


def _write_sidecars(place: Path, config: CocoKeypointsConfig, written: list[int], skipped: Counter) -> None:
    """The tables and the ground truth of the images written, which are numbered anew."""
    source = config.source
    number = np.full(len(source.images), -1, np.int32)
    number[written] = np.arange(len(written), dtype=np.int32)
    persons = source.persons.copy()
    persons["image"] = number[persons["image"]]
    np.save(place / "persons.npy", persons[persons["image"] >= 0])
    np.save(place / "images.npy", source.images[written])
    truth = source.ground_truth(image_ids=set(source.images["image_id"][written].tolist()))
    (place / "ground_truth.json").write_text(json.dumps(truth))
    facts = {
        "fingerprint": config.fingerprint,
        "annotations": str(source.annotations),
        "split": config.split,
        "category_id": source.category_id,
        "skeleton": source.skeleton.to_dict(),
        "skipped": dict(skipped),
    }
    (place / "source.json").write_text(json.dumps(facts, indent=1))


def fingerprint(annotations: Path, images: Path, options: dict[str, Any]) -> str:
    """Of a source: the JSON's size and SHA-256, the number of files in the image folder, and the options."""
    for path, kind in ((annotations, Path.is_file), (images, Path.is_dir)):
        if not kind(path):
            raise FileNotFoundError(f"{path} does not exist: name the annotation JSON and the image folder")
    digest = hashlib.sha256()
    with annotations.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    with os.scandir(images) as entries:
        count = sum(1 for _ in entries)
    return json.dumps([annotations.stat().st_size, digest.hexdigest(), count, options], sort_keys=True)


def _write(config: CocoKeypointsConfig, data_dir: Path, num_shards: int | None) -> None:
    settings = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=num_shards)
    with _quiet(), tempfile.TemporaryDirectory() as downloads:  # nothing is downloaded, but TFDS wants a folder for it
        builder = CocoKeypoints(data_dir=data_dir, config=config, file_format="array_record")
        builder.download_and_prepare(download_dir=downloads, download_config=settings)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's own messages and bars: it does not know how many images there are, ours does."""
    absl, bars = logging.getLogger("absl"), tfds.core.utils.tqdm_utils
    level, shown = absl.level, getattr(bars, "_active", True)
    absl.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # "Downloading and preparing dataset Unknown size"
            yield
    finally:
        absl.setLevel(level)
        bars.display_progress_bar(shown)


def _place(data_dir: str | Path, config_name: str) -> Path:
    return Path(data_dir) / CocoKeypoints.name / config_name / VERSION


def _is_complete(place: Path) -> bool:
    return all((place / name).is_file() for name in (*SIDECARS, "dataset_info.json", "features.json"))


def _is_current(place: Path, expected: str) -> bool:
    if not _is_complete(place):
        return False
    return json.loads((place / "source.json").read_text())["fingerprint"] == expected


def _move_away(place: Path) -> None:
    """Remove a prepared data set. Renamed first: half of it must not look like a whole one, whenever this is killed."""
    if place.exists():
        logger.warning("%s was prepared from another source or with other options: it is prepared again", place)
        old = place.with_name(f"incomplete.old_{place.name}")
        place.rename(old)
        shutil.rmtree(old)


def _remove_leftovers(place: Path) -> None:
    """What killed preparations left. The lock is held: nobody is writing them."""
    for path in place.parent.glob("incomplete.*"):
        logger.warning("removing %s, which an interrupted preparation left", path)
        shutil.rmtree(path)


@contextlib.contextmanager
def _lock(data_dir: Path, config_name: str) -> Iterator[None]:
    """One process at a time. The lock goes with the process, however that ends."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / f".{config_name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems
            logger.warning("%s cannot be locked (%s): let only one process prepare data there", data_dir, error)
        yield


def _clean(name: str) -> str:
    """A name that can be a folder's."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "data"
