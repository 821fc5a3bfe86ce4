"""Ultralytics' YOLO pose: a ``data.yaml``, and one text file a picture with one line a person.

A line is the class, the box (centre, width, height) and x, y and, with ``kpt_shape: [K, 3]``, the visibility of every
joint: fractions of the picture's width and height. With ``[K, 2]`` a joint at 0, 0 is not labelled. The label file of
``images/train/a.png`` is ``labels/train/a.txt``; a picture without one shows nobody. Fractions are of the picture as
viewers show it, turned by its EXIF orientation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpose import sides
from jaxpose.data.labels.project import (
    Options,
    Person,
    Picture,
    Project,
    Skeleton,
    chunks,
    number,
    picture_files,
    picture_size,
    read_yaml,
)  # fmt: skip

CONTENT = "a YOLO pose data.yaml (kpt_shape, names, train, val), or the folder that holds it"
SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
TOLERANCE = 1e-3
"""By how much a fraction may lie outside 0 to 1: tools write six decimals, and joints at the border are rounded outwards."""


def recognises(path: Path) -> bool:
    """Whether a path is a data.yaml, or a folder with one."""
    return bool(_yamls(path))


def _yamls(path: Path) -> list[Path]:
    """The YAML files that describe a data set."""
    suffixes = (".yaml", ".yml")
    files = [path] if path.suffix.lower() in suffixes else []
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())
    descriptions = []
    for file in files:
        try:
            value = read_yaml(file)
        except ValueError:
            if file.name == "data.yaml":
                descriptions.append(file)  # read says what is wrong with it
            continue
        if "kpt_shape" in value or ("names" in value and SPLITS.keys() & value.keys()):
            descriptions.append(file)
    return descriptions


def read(path: Path, options: Options) -> Project:
    """Reads a data set.

    Args:
        path: The data.yaml, or the folder that holds it.
        options: Choices in reading; names are needed where the file has no ``kpt_names``.

    Raises:
        FileNotFoundError: No data.yaml, or a split without pictures.
        ValueError: A file is wrong, and where.
    """
    files = _yamls(path)
    if len(files) != 1:
        raise FileNotFoundError(
            f"{path} has {len(files)} YAML files of a YOLO data set ({', '.join(f.name for f in files) or 'none'}): name one"
        )
    file = files[0]
    config = read_yaml(file)
    count, dims = _shape(file, config)
    classes = _classes(file, config)
    home = _home(file, config)
    absent: list[str] = []
    lists = {
        split: _pictures(file, config, key, home, absent)
        for key, split in SPLITS.items()
        if config.get(key) not in (None, "", "null")
    }
    if not lists:
        raise ValueError(f"{file} names no pictures: expected 'train' or 'val', a folder of pictures")
    everything = [picture for pictures in lists.values() for picture in pictures]
    root = _common(home, everything)
    project = Project(file, root, options)
    for entry in absent:
        project.notes.add("{n} folders of test pictures are missing", repr(entry))
    joints = _joint_names(file, config, classes, count, options)
    extra = _flips(file, config, count, next(iter(joints.values())))
    for number_, kind in classes.items():
        project.skeletons[kind] = Skeleton(tuple(joints[number_]), extra=extra)
    seen: set[Path] = set()
    for split, pictures in lists.items():
        for picture in pictures:
            if picture in seen:
                project.notes.add("{n} pictures are in several splits, and were read once", repr(picture.name))
                continue
            seen.add(picture)
            _add(project, picture, split, classes, joints, dims)
    _count_pictureless(project, everything)
    return project


def _shape(file: Path, config: dict[str, Any]) -> tuple[int, int]:
    """K and the numbers of a joint, 2 or 3."""
    shape = config.get("kpt_shape")
    if shape is None:
        raise ValueError(
            f"{file} has no kpt_shape, so that it is no data set of poses: expected kpt_shape: [K, 3] or [K, 2]"
        )
    numbers = (
        [int(v) if isinstance(v, str) and re.fullmatch("[0-9]{1,4}", v) else 0 for v in shape]
        if isinstance(shape, list)
        else []
    )
    if len(numbers) != 2 or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise ValueError(f"{file}: kpt_shape is {str(shape)[:100]}: expected [K, 3] or [K, 2], K the number of joints")
    return numbers[0], numbers[1]


def _listing(value: Any) -> dict[int, Any] | None:
    """A list, or a mapping from numbers, as a mapping from numbers; None for anything else."""
    if isinstance(value, list):
        return dict(enumerate(value))
    if isinstance(value, dict) and all(re.fullmatch("[0-9]{1,6}", str(key)) for key in value):
        return {int(key): entry for key, entry in value.items()}
    return None


def _classes(file: Path, config: dict[str, Any]) -> dict[int, str]:
    classes = _listing(config.get("names"))
    if not classes or not all(isinstance(name, str) for name in classes.values()):
        raise ValueError(
            f"{file}: 'names' is not a list of class names: expected such as names: [mouse] or names: {{0: mouse}}"
        )
    return classes


def _home(file: Path, config: dict[str, Any]) -> Path:
    """The folder that the pictures' folders are named from: that of the file, or `path` where it is there."""
    named = config.get("path")
    folder = (file.parent / named) if isinstance(named, str) and named else file.parent
    return folder if folder.is_dir() else file.parent


def _pictures(file: Path, config: dict[str, Any], key: str, home: Path, absent: list[str]) -> list[Path]:
    """The picture files of a split: of a folder, of a text file that lists them, or of several of these.

    Test pictures need not be there, as they are not in many downloads: what is missing is added to `absent`.
    """
    entries = config[key] if isinstance(config[key], list) else [config[key]]
    pictures: list[Path] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise ValueError(f"{file}: {key!r} is not a folder of pictures or a list of folders")
        inner = re.sub(r"^(\.\./)+", "", entry)  # Roboflow writes ../train/images for train/images
        places = [home / entry, file.parent / entry, home / inner, file.parent / inner]
        place = next((p for p in places if p.is_dir() or p.is_file()), None)  # no device, which may never end
        if place is None and key == "test":
            absent.append(entry)
            continue
        if place is None:
            raise FileNotFoundError(f"{file}: {key!r} is {entry!r}, which is not in {home}: correct the path")
        if place.is_dir():
            pictures += picture_files(place)
            continue
        for line in place.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.strip():
                candidate = place.parent / line.strip()
                pictures.append(candidate if candidate.exists() else home / line.strip())
    return pictures


def _common(home: Path, pictures: Sequence[Path]) -> Path:
    """The folder that file names are relative to: the data set's, or one above it that holds all pictures."""
    home = _absolute(home)
    for picture in pictures:
        while not _absolute(picture).is_relative_to(home) and home != home.parent:
            home = home.parent
    return home


def _absolute(path: Path) -> Path:
    """The path without ``..``; links stay, since label files lie beside the links."""
    return Path(os.path.abspath(path))


def _joint_names(
    file: Path, config: dict[str, Any], classes: dict[int, str], count: int, options: Options
) -> dict[int, list[str]]:
    """The joints of every class."""
    if options.names is not None:
        if len(options.names) != count:
            raise ValueError(
                f"--names has {len(options.names)} names, {file} has {count} joints (kpt_shape): expected as many"
            )
        return dict.fromkeys(classes, list(options.names))
    named = config.get("kpt_names")
    flat = isinstance(named, list) and all(isinstance(name, str) for name in named)
    by_class = dict.fromkeys(classes, named) if flat else _listing(named)
    if not by_class:
        raise ValueError(
            f"{file} does not name the {count} joints: give them in order, --names nose left_ear right_ear ... ({count} names), or add "
            "kpt_names"
        )
    if len(by_class) == 1:
        by_class = dict.fromkeys(classes, next(iter(by_class.values())))
    for number_ in classes:
        names = by_class.get(number_)
        if not isinstance(names, list) or len(names) != count or len({str(n) for n in names}) != count:
            raise ValueError(f"{file}: kpt_names of class {number_} are not {count} different names (kpt_shape)")
    return {number_: [str(name) for name in by_class[number_]] for number_ in classes}


def _flips(file: Path, config: dict[str, Any], count: int, names: Sequence[str]) -> dict[str, Any]:
    """The pairs of left and right, where flip_idx gives them."""
    given = config.get("flip_idx")
    if given is None:
        return {}
    numbers = (
        [int(v) for v in given if isinstance(v, str) and re.fullmatch("[0-9]{1,4}", v)]
        if isinstance(given, list)
        else []
    )
    if sorted(numbers) != list(range(count)):
        raise ValueError(f"{file}: flip_idx is not the numbers 0 to {count - 1}, each once (kpt_shape)")
    try:
        sides.pairs_from_entry({"flip_idx": numbers}, names)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return {"flip_idx": numbers}


def label_file(picture: Path) -> Path:
    """The label file of a picture: in the last folder ``images`` of its path, ``labels`` in its place; else beside the picture.

    >>> str(label_file(Path("set/images/train/a.png"))), str(label_file(Path("set/a.png")))
    ('set/labels/train/a.txt', 'set/a.txt')
    """
    parts = list(picture.parts)
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _add(
    project: Project, picture: Path, split: str, classes: dict[int, str], joints: dict[int, list[str]], dims: int
) -> None:
    """One picture with its people."""
    name = _absolute(picture).relative_to(project.root).as_posix()
    if not picture.is_file():
        project.missing(name)
        return
    file = label_file(picture)
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines() if file.is_file() else []
    if not file.is_file():
        project.notes.add("{n} pictures have no label file: they show nobody", repr(name))
    size = picture_size(picture, upright=True)
    people = [
        person
        for i, line in enumerate(lines, start=1)
        if line.strip() and (person := _person(project, f"{file}, line {i}", line.split(), classes, joints, dims, size))
    ]
    project.add(Picture(name, size, people, split=split))


def _person(
    project: Project, where: str, words: list[str], classes: dict[int, str], joints: dict[int, list[str]], dims: int,
    size: tuple[int, int],
) -> Person | None:  # fmt: skip
    """The person of a line; None where it is wrong."""
    count = len(next(iter(joints.values())))
    values = [number(word) for word in words]
    if len(values) != 5 + dims * count:
        project.problems.add(
            "wrong number of values",
            f"{where} has {len(values)} values: expected {5 + dims * count}, a class, a box and {count} joints of {dims} (kpt_shape)",
        )
        return None
    if any(value is None for value in values):
        project.problems.add(
            "value not a number", f"{where} has a value that is not a finite number: {' '.join(words)[:200]}"
        )
        return None
    if values[0] not in classes:
        project.problems.add(
            "unknown class", f"{where} is of class {words[0]}: expected one of {', '.join(map(str, classes))}"
        )
        return None
    kind = int(values[0])
    x, y, width, height = values[1:5]
    labelled: dict[str, tuple[float, float, int]] = {}
    fractions = [x, y, width, height]
    for name, joint in zip(joints[kind], chunks(values[5:], dims), strict=True):
        visibility = joint[2] if dims == 3 else 2 * any(joint)
        if visibility not in (0, 1, 2):
            project.problems.add(
                "visibility not 0, 1, 2", f"{where} has the visibility {visibility:g}: expected 0, 1 or 2"
            )
            return None
        if visibility:
            fractions += joint[:2]
            labelled[name] = (joint[0] * size[0], joint[1] * size[1], int(visibility))
    outside = [value for value in fractions if not -TOLERANCE <= value <= 1 + TOLERANCE]
    if outside:
        project.problems.add(
            "not fractions", f"{where} has the value {outside[0]:g}: expected fractions of the picture, from 0 to 1"
        )
        return None
    box = ((x - width / 2) * size[0], (y - height / 2) * size[1], width * size[0], height * size[1])
    return Person(labelled, classes[kind], box=box)


def _count_pictureless(project: Project, pictures: Sequence[Path]) -> None:
    """Counts label files, in folders called labels, without a picture."""
    label_files = {label_file(_absolute(picture)) for picture in pictures}
    folders = {file.parent for file in label_files if "labels" in file.parts}
    if not pictures:
        folders = {file.parent for file in project.root.rglob("*.txt") if "labels" in file.parts}
    for folder in sorted(folders):
        for file in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
            if file not in label_files and file.name != "classes.txt":
                project.missing(f"the picture of {file.relative_to(project.root).as_posix()}")
