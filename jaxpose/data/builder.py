"""A keypoint set of any label format as a TFDS data set (`array_record`), prepared once and read by index.

    source = prepare("path/to/coco", data_dir="prepared", split="train")     # or open("prepared", "train") later on
    source.record(3)

Each image is one record with the JPEG bytes of its file, in the order of the labels. Beside the records lie
``persons.npy`` and ``images.npy`` (the tables of `jaxpose.data.source.Source`, memory-mapped, so that the memory of a
reader does not grow with the data), ``ground_truth.json`` (the annotations for the evaluation, without segmentations, so
that the original folder is no longer needed) and ``source.json`` (where the data came from). All of it is written into
TFDS's incomplete folder, which is renamed at the end: an interrupted preparation is never read.

Every source (its paths) with every choice of options has a folder of its own, ``NAME-SPLIT-HASH``. If the source changed,
preparing it again writes a new version beside the old one, which stays until the preparation after that, because other
processes may be reading it.

Damage to the files is detected. When the data set is opened: a shard that is missing, empty, cut off or of another
length, and a change in the tables or the ground truth (their checksums are in ``source.json``). When a record is read:
a byte that changed within its shard (array_record keeps checksums of all that it reads). Each raises
`jaxpose.data.source.DamagedData`, with the names of the file and of the folder to remove.

Opening a prepared data set writes nothing: its folder may be read-only, or a mounted bucket. URLs (``gs://``) are
refused, because the tables are memory-mapped, which needs a path.

``tfds.builder_from_directory(source.directory)`` reads the same records without this library. TensorFlow is only needed
to prepare more than a gigabyte (TFDS then sorts on disk, through TensorFlow's file functions).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import inspect
import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from os import walk
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tqdm import tqdm

from jaxpose import files
from jaxpose.data.checks import Problems
from jaxpose.data.formats import Reader, coco
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.data.source import DamagedData, Source, person_dtype
from jaxpose.skeleton import COCO17, CROWDPOSE14, H36M17, H36M18, MPII16, RHD21, Skeleton

__all__ = ["CocoKeypoints", "CocoKeypointsConfig", "PreparedSource", "open", "prepare"]

LAYOUT = "1.1"  # the layout of the prepared files
VERSION = f"{LAYOUT}.0"  # the first preparation; the last number counts the preparations
READING = 2  # the rules for reading label files; earlier rules had other pairs of left and right, and no sigmas
KEY_SPACE = 2**128  # the key space of TFDS's shuffler
FILES = ("persons.npy", "images.npy", "ground_truth.json", "source.json", "dataset_info.json", "features.json")

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
    reader: Reader = coco,
    reading: Reading = AS_IT_FITS,
) -> PreparedSource:
    """Prepares a split of a folder, unless that was done before, and opens it.

    It is prepared again when the source changed: different annotations (by content), a different number of images, or, if
    something was left out before, an image file of a different size or time. Changed pixels alone are not noticed: pass
    ``force=True``. Different options make another data set beside it. Two processes that prepare the same data wait for
    each other. Memory: the annotations, and TFDS's buffer of a gigabyte.

    Args:
        folder: The data set's folder, in a layout that the reader's `find` knows; None if `annotations` and `images`
            are given.
        data_dir: The folder of prepared data sets; one folder serves many.
        split: The name of the split.
        annotations: The label file; None lets `find` look for it.
        images: The image folder; None lets `find` look for it.
        name: The name of the data set within `data_dir`; None takes the folder's.
        skeleton: The same as in the reader's `read`; the skeleton of the labels is equivalent to None.
        category: The same as in the reader's `read`.
        on_bad: The same as in the reader's `read`. With "skip", images that cannot be read are left out too, with their
            persons, also from the ground truth of the evaluation.
        only_annotated: Leave out images without any person that has keypoints (half of COCO's training images).
        verify: Decode every image completely; by default only its header, its size and its end are checked.
        progress: Show a progress bar.
        force: Prepare again in any case.
        num_shards: The number of files; None selects it by size.
        reader: The module that reads the format (`jaxpose.data.formats.reader`).
        reading: Choices in reading the files, such as the pairs of left and right.

    Raises:
        FileNotFoundError: A file or folder does not exist.
        ValueError: The same as for the reader's `read` and `jaxpose.data.pixels.load_jpeg`, naming the file and what to
            do; every person was left out, or has another category; a path is a URL. `jaxpose.data.source.DamagedData`:
            the prepared data are damaged.
        OSError: The data have to be prepared, and `data_dir` cannot be written to.
    """
    data_dir = files.local(data_dir)
    annotations, images = _located(reader, folder, split, annotations=annotations, images=images)
    current = fingerprint(annotations, images)
    if skeleton is not None and skeleton == reader.own_skeleton(annotations, category=category):
        skeleton = None
    options = {"category": category, "on_bad": on_bad, "only_annotated": only_annotated, "verify": verify}
    options |= {"split": split, "skeleton": skeleton and skeleton.to_dict()}
    if reading != AS_IT_FITS:
        options["reading"] = reading.to_dict()
    if (reader_name := _lasting_name(reader)) != _lasting_name(coco):
        options["reader"] = reader_name
    name = f"{_clean(name or Path(folder or images).resolve().name)}-{_clean(split)}"
    home = data_dir / CocoKeypoints.name / f"{name}-{_variant(annotations, images, options)}"
    if not force and not _changes(home, current, images):
        return _opened(_newest(home))
    with _lock(data_dir, home.name):
        changes = [] if force else _changes(home, current, images)
        if not force and not changes:  # another process has done it meanwhile
            return _opened(_newest(home))
        source = reader.read(
            annotations,
            images,
            split=split,
            skeleton=skeleton,
            category=category,
            on_bad=on_bad,
            **_choices(reader, reading),
        )
        if source.nobody:
            raise ValueError(f"{annotations}: {source.nobody}. Nothing was prepared")
        if _newest(home) is not None:
            logger.warning("%s is prepared again: %s", name, " and ".join(changes) or "as asked for")
        config = CocoKeypointsConfig(name=home.name, version=_make_room(home), split=split, source=source)
        config.annotations, config.images = annotations, images
        config.fingerprint, config.image_files = current, _image_files(images)
        config.on_bad, config.only_annotated, config.verify = on_bad, only_annotated, verify
        config.progress = progress
        _write(config, data_dir, num_shards)
    return PreparedSource(_newest(home))


def _choices(reader: Reader, reading: Reading) -> dict[str, Reading]:
    """Returns the argument `reading` of a reader; defaults are omitted, so that a reader need not support them."""
    if reading == AS_IT_FITS:
        return {}
    if "reading" not in inspect.signature(reader.read).parameters:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in reading.to_dict())
        raise ValueError(
            f"the format {reader.__name__.rpartition('.')[2]} does not support these choices: leave out {flags}"
        )
    return {"reading": reading}


def _located(
    reader: Reader, folder: str | Path | None, split: str, *, annotations: str | Path | None, images: str | Path | None
) -> tuple[Path, Path]:
    """Returns the label file and the image folder of a split, each as given or as the reader finds it."""
    if annotations is None or images is None:
        if folder is None:
            raise ValueError(
                "give the folder of the data set, or both the annotation JSON (annotations=..., or --annotations) and the "
                "image folder (images=..., or --images)"
            )
        annotations, images = reader.find(folder, split, annotations=annotations, images=images)
    return files.local(annotations), files.local(images)


def open(
    data_dir: str | Path, split: str, *, name: str | None = None, level: Literal["person", "image"] = "person"
) -> PreparedSource:
    """Opens a prepared split, by person (top-down) or by image (bottom-up).

    Args:
        data_dir: The `data_dir` given to `prepare`.
        split: The split given to `prepare`.
        name: The name of the data set, or of its folder (``NAME-SPLIT-HASH``) if it was prepared with several choices of
            options; None if `data_dir` holds one data set with this split.
        level: The kind of record: "person" or "image".

    Raises:
        FileNotFoundError: No such data set is prepared there (an interrupted preparation does not count).
        ValueError: Several data sets have this split, or the path is a URL. `jaxpose.data.source.DamagedData`: the
            prepared data are damaged.
    """
    root = files.local(data_dir) / CocoKeypoints.name
    prepared = {home.name: place for home in sorted(root.glob("*-*-*")) if (place := _newest(home))}
    wanted = f"{_clean(name) if name else '*'}-{_clean(split)}"
    names = [name] if name in prepared else [folder for folder in prepared if fnmatch(folder, f"{wanted}-*")]
    if not names:
        raise FileNotFoundError(
            f"no prepared data set {wanted!r} in {data_dir}: there is {', '.join(prepared) or 'none'}; prepare it first "
            "(jaxpose prepare, or jaxpose.data.builder.prepare)"
        )
    if len(names) > 1:
        raise ValueError(f"{data_dir} holds several data sets with a split {split!r}: {names}; choose one (name=)")
    return _opened(prepared[names[0]]).at_level(level)


class PreparedSource(Source):
    """A prepared data set. Records are read by index, from any thread; none is held in memory.

    Args:
        directory: The folder of the TFDS data set, which becomes an attribute beside those of
            `jaxpose.data.source.Source`.

    Raises:
        FileNotFoundError: The folder holds no prepared data.
        DamagedData: The data are damaged.
    """

    def __init__(self, directory: str | Path):
        self.directory = files.local(directory)
        missing = [name for name in FILES if not (self.directory / name).is_file()]
        if len(missing) == len(FILES):
            raise FileNotFoundError(f"{directory} is not a prepared data set: name one, or prepare it")
        if missing:
            raise _damaged(self.directory / missing[0], "it is missing")
        facts = _facts(self.directory)
        self.name = self.directory.parent.name.rpartition("-")[0]  # without the hash
        try:
            self.skipped = Counter(facts["skipped"])
            self.clip_boxes = facts.get("clip_boxes", True)  # older preparations without this entry are COCO's
            self.skeleton, self.category_id = Skeleton.from_dict(facts["skeleton"]), facts["category_id"]
            self.category_ids = tuple(facts.get("category_ids", (self.category_id,)))
            checksums = dict(facts.get("checksums", {}))  # older preparations have none
        except Exception as error:  # damage raises many exception types
            raise _damaged(self.directory / "source.json", str(error)) from None
        for name, expected in checksums.items():
            if files.sha256(self.directory / name) != expected:
                raise _damaged(self.directory / name, "its checksum is not that of the preparation")
        self.persons, self.images = (_table(self.directory / name) for name in ("persons.npy", "images.npy"))
        self.ground_truth_json = self.directory / "ground_truth.json"
        self.features = _features(self.skeleton.num_joints)
        try:
            builder = tfds.builder_from_directory(self.directory)
            split = builder.info.splits[facts["split"]]
            self._raw = builder.as_data_source(
                split=facts["split"], deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except Exception as error:  # TFDS, protocol buffers and JSON raise many exception types
            where = self.directory / "dataset_info.json"
            raise _damaged(where, f"it, or features.json beside it, cannot be read: {error}") from None
        self._shards = [Path(path) for path in split.filepaths]
        self._ends = np.cumsum(split.shard_lengths)
        for shard, count in zip(self._shards, split.shard_lengths, strict=True):
            _check_shard(shard, count)
        if self._ends[-1] != len(self.images):
            raise _damaged(
                self.directory / "images.npy", f"it lists {len(self.images)} images, the shards {self._ends[-1]}"
            )

    def image(self, index: int) -> dict[str, Any]:
        record = self._record(index, self.features)
        return {"jpeg": record["image"]} | self._labels(index, record)

    def labels(self, index: int) -> dict[str, Any]:
        return self._labels(index, self._record(index, self.features))

    def _labels(self, index: int, record: dict[str, Any]) -> dict[str, Any]:
        people = record["persons"]
        table = np.zeros(len(people["annotation_id"]), person_dtype(self.skeleton.num_joints))
        for column in set(people) - {"segmentation"} if len(table) else ():
            table[column] = people[column]
        table["image"], table["score"] = index, 1.0
        return {
            "file_name": record["file_name"].decode(),
            "image_id": int(record["image_id"]),
            "size_wh": (int(record["width"]), int(record["height"])),
            "persons": table,
            "segmentations": [json.loads(text) for text in people["segmentation"]],
        }

    def jpeg(self, index: int, *, verify: bool = False) -> bytes:
        # This takes a fifth of the time of the whole record: features that are not requested are not parsed.
        return self._record(index, _IMAGE_ONLY)["image"]

    def _record(self, index: int, features: tfds.features.FeaturesDict) -> dict[str, Any]:
        """Returns some features of an image's record.

        Raises:
            DamagedData: A checksum of the shard is wrong, it cannot be read, or it holds other images.
        """
        try:
            raw = self._raw[index]
        except RuntimeError as error:  # array_record raises it for any damage
            raise _damaged(self._shard(index), str(error)) from None
        try:
            record = features.deserialize_example_np(raw, decoders=_UNDECODED)
        except Exception as error:
            raise _damaged(self._shard(index), f"record {index} cannot be read: {error}") from None
        if record["image_id"] != self.images["image_id"][index]:
            reason = f"record {index} is image {record['image_id']}, not {self.images['image_id'][index]}"
            raise _damaged(self._shard(index), f"it belongs to another data set: {reason}")
        return record

    def _shard(self, index: int) -> Path:
        return self._shards[int(np.searchsorted(self._ends, index, side="right"))]


@dataclass(kw_only=True)
class CocoKeypointsConfig(tfds.core.BuilderConfig):
    """One split of one folder, from which `CocoKeypoints` generates its records."""

    split: str = "train"
    source: Source | None = None
    annotations: Path | None = None
    images: Path | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    image_files: str = ""
    on_bad: str = "error"
    only_annotated: bool = False
    verify: bool = False
    progress: bool = False


class CocoKeypoints(tfds.core.GeneratorBasedBuilder):
    """Any COCO-format keypoint set. Use `prepare`, which gives it its config."""

    VERSION = tfds.core.Version(VERSION)
    code_path = None  # there are no checksums beside this file; TFDS would need importlib_resources to look for them

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images and persons of a COCO-format keypoint annotation file.",
            features=_features(self.builder_config.source.skeleton.num_joints),
            disable_shuffling=True,  # persons.npy refers to the order of the JSON
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {self.builder_config.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        source, problems = config.source, Problems(config.images, config.on_bad)
        labelled = set(source.persons["image"].tolist())
        selected = [i for i in range(len(source.images)) if i in labelled or not config.only_annotated]
        written = []
        for i in tqdm(selected, desc=f"preparing {config.name}", unit="image", disable=not config.progress):
            jpeg = _read_jpeg(source, i, problems, verify=config.verify)
            if jpeg is not None:
                # TFDS sorts by key in a thousand buckets over 128 bits; spread keys fill them evenly and in order.
                yield len(written) * (KEY_SPACE // len(selected)), _example(source, i, jpeg)
                written.append(i)
        problems.report()
        _write_sidecars(Path(self.data_path), config, written, source.skipped + problems.counts)


def _features(joints: int) -> tfds.features.FeaturesDict:
    """Returns the features of a record: an image with its persons."""
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
    return tfds.features.FeaturesDict(features)


_UNDECODED = {"image": tfds.decode.SkipDecoding()}
_IMAGE_ONLY = tfds.features.FeaturesDict({"image": tfds.features.Image(encoding_format="jpeg"), "image_id": np.int64})


def _read_jpeg(source: Source, index: int, problems: Problems, *, verify: bool) -> bytes | None:
    """Returns the JPEG file of an image, or None for one that cannot be read and may be left out."""
    try:
        return source.jpeg(index, verify=verify)
    except (ValueError, OSError) as error:
        problems.add("image not readable", str(error), error=type(error))
        return None


def _example(source: Source, index: int, jpeg: bytes) -> dict[str, Any]:
    """Returns the record of an image, as `_features` describes it."""
    labels = source.labels(index)
    columns = ("annotation_id", "box", "keypoints", "area", "crowd")
    persons = [
        {column: row[column] for column in columns} | {"segmentation": json.dumps(segmentation)}
        for row, segmentation in zip(labels["persons"], labels["segmentations"], strict=True)
    ]
    width, height = labels["size_wh"]
    return {
        "image": io.BytesIO(jpeg),
        "file_name": labels["file_name"],
        "image_id": labels["image_id"],
        "width": width,
        "height": height,
        "persons": persons,
    }


def _write_sidecars(place: Path, config: CocoKeypointsConfig, written: list[int], skipped: Counter) -> None:
    """Writes the tables and the ground truth of the images that were written, which are numbered anew."""
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
        "image_files": config.image_files,
        "annotations": str(config.annotations),
        "split": config.split,
        "reading": READING,
        "category_id": source.category_id,
        "category_ids": list(source.category_ids or (source.category_id,)),
        "skeleton": source.skeleton.to_dict(),
        "skipped": dict(skipped),
        "clip_boxes": source.clip_boxes,
        "checksums": {name: files.sha256(place / name) for name in ("persons.npy", "images.npy", "ground_truth.json")},
    }
    (place / "source.json").write_text(json.dumps(facts | {"digest": _digest(facts)}, indent=1))


def fingerprint(annotations: Path, images: Path) -> dict[str, Any]:
    """Returns the properties of a source that show a change; in some formats the annotations are a folder."""
    for path, fits in ((annotations, Path.exists), (images, Path.is_dir)):
        if not fits(path):
            raise FileNotFoundError(f"{path} does not exist: name the annotation JSON and the image folder")
    with os.scandir(images) as entries:
        count = sum(1 for _ in entries)
    return {"the annotation JSON": files.sha256(annotations), "the number of image files": count}


def _image_files(images: Path) -> str:
    """Returns a digest of the names, sizes and times of the image files."""
    digest = hashlib.sha256()
    for folder, _, names in sorted(walk(images)):
        for path in (os.path.join(folder, name) for name in sorted(names)):
            with contextlib.suppress(OSError):  # a broken link
                facts = os.stat(path)
                digest.update(
                    f"{os.path.relpath(path, images)}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode(
                        errors="surrogateescape"
                    )
                )
    return digest.hexdigest()


def _variant(annotations: Path, images: Path, options: dict[str, Any]) -> str:
    """Returns a short hash of the place of a source and of the options, not of its contents."""
    parts = [str(annotations.resolve()), str(images.resolve()), options]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode(errors="surrogateescape")).hexdigest()[:8]


def _write(config: CocoKeypointsConfig, data_dir: Path, num_shards: int | None) -> None:
    settings = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=num_shards)
    with (
        _silence_tfds(),
        tempfile.TemporaryDirectory() as downloads,
    ):  # nothing is downloaded, but TFDS wants a folder for it
        builder = CocoKeypoints(data_dir=data_dir, config=config, file_format="array_record")
        builder.download_and_prepare(download_dir=downloads, download_config=settings)


@contextlib.contextmanager
def _silence_tfds() -> Iterator[None]:
    """Hides TFDS's own messages and progress bars, which do not know the number of images."""
    absl, bars = logging.getLogger("absl"), tfds.core.utils.tqdm_utils
    level, bars_were_active = absl.level, getattr(bars, "_active", True)
    absl.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # "Downloading and preparing dataset Unknown size"
            yield
    finally:
        absl.setLevel(level)
        bars.display_progress_bar(bars_were_active)


def _facts(place: Path) -> dict[str, Any]:
    """Returns the contents of source.json.

    Raises:
        DamagedData: The file is missing, is not JSON, lacks an entry, or was changed.
    """
    path = place / "source.json"
    try:
        facts = files.read_json(path, "description of prepared data")
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except ValueError as error:
        raise _damaged(path, f"it is not a JSON file: {str(error).removeprefix(f'{path} ')}") from None
    missing = {"fingerprint", "image_files", "split", "category_id", "skeleton", "skipped"}
    missing -= set(facts) if isinstance(facts, dict) else set()
    if missing:
        raise _damaged(path, f"it has no {sorted(missing)}")
    digest = facts.pop("digest", None)
    if digest != (_digest(facts) if "checksums" in facts or digest else None):  # older ones have neither
        raise _damaged(path, "its digest is not that of the preparation")
    return facts


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _table(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise _damaged(path, f"it is not a table: {error}") from None


def _check_shard(path: Path, count: int) -> None:
    """Checks that a shard exists and is complete, by the index at its end (0.1 ms)."""
    if not path.is_file():
        raise _damaged(path, "it is missing")
    try:
        reader = array_record_module.ArrayRecordReader(str(path), options="readahead_buffer_size:0")
        try:
            num_records = reader.num_records()
        finally:
            reader.close()
    except RuntimeError as error:
        raise _damaged(path, str(error)) from None
    if num_records != count:
        raise _damaged(path, f"it has {num_records} records, not {count}")


def _damaged(path: Path, what: str) -> DamagedData:
    versions = path.parent.parent
    folder = versions if versions.parent.name == CocoKeypoints.name else path.parent  # a copy can be anywhere
    return DamagedData(
        f"{path} is damaged ({(what.splitlines() or [''])[0]:.200}): remove the folder {folder} and prepare the data again "
        "(start the same command again, or jaxpose prepare; jaxpose prepare --force with the same options needs nothing removed)"
    )


def _number(place: Path) -> int:
    return int(place.name.rpartition(".")[2])


def _newest(home: Path) -> Path | None:
    """Returns the last preparation. A missing file in it means damage, because a folder gets its name when it is complete."""
    return max(home.glob(f"{LAYOUT}.[0-9]*"), key=_number, default=None)


def _changes(home: Path, current: dict[str, Any], images: Path) -> list[str]:
    """Returns the reasons to prepare the data; empty if the prepared data are current."""
    place = _newest(home)
    if place is None:
        return ["it is not prepared"]
    facts = _facts(place)
    changed = [f"{what} changed" for what, value in current.items() if facts["fingerprint"].get(what) != value]
    if facts.get("reading", 1) < READING and not _is_public(facts["skeleton"]):
        changed.append("its left and right joints and its sigmas were read by older rules")
    # The files are examined only if it may help: there are 118,000 of them in COCO.
    if not changed and facts["skipped"] and facts["image_files"] != _image_files(images):
        changed.append("something was left out and the image files changed")
    return changed


def _is_public(skeleton: dict[str, Any]) -> bool:
    """Tells whether a skeleton is one of `jaxpose.skeleton`, which is used whatever the category says."""
    return Skeleton.from_dict(skeleton) in (COCO17, CROWDPOSE14, MPII16, H36M17, H36M18, RHD21)


def _opened(place: Path) -> PreparedSource:
    source = PreparedSource(place)
    for kind, count in source.skipped.items():
        logger.warning("%s: left out %d (%s) when it was prepared", source.name, count, kind)
    return source


def _make_room(home: Path) -> str:
    """Returns the version to write, and removes all older ones but the last, which other processes may be reading."""
    _remove_leftovers(home)
    versions, newest = list(home.glob(f"{LAYOUT}.[0-9]*")), _newest(home)
    for old in versions:
        if old != newest:
            # Renamed first, so that a half-removed one never looks complete, whenever this is killed.
            shutil.rmtree(old.rename(old.with_name(f"incomplete.old_{old.name}")))
    return f"{LAYOUT}.{max(map(_number, versions), default=-1) + 1}"


def _remove_leftovers(home: Path) -> None:
    """Removes the remains of killed preparations. The lock is held, so that no process is writing there."""
    for path in home.glob("incomplete.*"):
        logger.warning("removing %s, which an interrupted preparation left", path)
        shutil.rmtree(path)


@contextlib.contextmanager
def _lock(data_dir: Path, config_name: str) -> Iterator[None]:
    """Lets one process prepare at a time. The lock ends with the process, however that ends."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / f".{config_name}.lock").open("w")
    except OSError as error:
        raise type(error)(
            f"{config_name} has to be prepared, but {data_dir} cannot be written to ({error}): give another folder "
            "(data_dir=..., or --data-dir)"
        ) from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems cannot lock
            logger.warning("%s cannot be locked (%s): let only one process prepare data there", data_dir, error)
        yield


def _lasting_name(reader: Reader) -> str:
    """Returns the name of a format's module in the hash of a folder.

    It is the name from before the formats had a package of their own, so that data prepared then are still found.
    """
    return reader.__name__.replace("jaxpose.data.formats.", "jaxpose.data.")


def _clean(name: str) -> str:
    """Returns a valid folder name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "data"
