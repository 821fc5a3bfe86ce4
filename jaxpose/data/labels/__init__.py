"""Labels of other tools: one module a tool, which finds out whether a path is its own and reads it.

    converted = labels.convert("openfield-Ada-2026-03-04", "runs/data/labels/openfield")
    source = coco.read(*converted.files["train"])

`convert` writes a project as a folder in COCO's layout, whose pictures stay where they are, and everything else goes on
from there: the checks, left and right, EXIF, the split, the evaluation. A new tool is one module here with the
functions of `Reader`, and its name in `Format`.

Coordinates are what the files say. DeepLabCut and SLEAP count pixels from the centre of the first one, as this package
does; CVAT, labelme, Label Studio and YOLO count from its corner, which ``corner=True`` corrects by half a pixel.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from jaxpose import files
from jaxpose.data.labels.project import Options, Picture, Project, contents, shifted

__all__ = ["Choice", "Converted", "Format", "Reader", "convert", "folder_for", "guess", "link", "read"]

Format = Literal["deeplabcut", "sleap", "yolo", "labelstudio", "cvat", "labelme", "coco"]
"""The tools: names of modules of this package. Lightning Pose's folders are read as DeepLabCut's."""
Choice = Format | Literal["auto"]
"""What a flag `--labels-format` takes: a tool, or "auto" for the one that the content shows."""
SUBFOLDERS = 20
"""Where a folder is no project, this many of its subfolders are looked at for one."""
UNSPLIT = "train"
"""The split of projects whose tool does not split."""
PLAIN = ("data", "annotations", "labels", "config", "export", "default")
"""Names of label files that say less than that of their folder."""


class Reader(Protocol):
    """What a module offers to make its tool's files known."""

    __name__: str
    CONTENT: str
    """What is read, to end the sentence "this format is ..." in messages."""

    def recognises(self, path: Path) -> bool:
        """Whether a path is of this tool, told from its content in a time that does not grow with it.

        Args:
            path: A file or a folder that exists.
        """

    def read(self, path: Path, options: Options) -> Project:
        """Reads a project.

        Args:
            path: A file or a folder.
            options: Choices in reading.

        Raises:
            FileNotFoundError, ValueError: A file is missing or wrong; names the file, the entry and what to do.
        """


@dataclass(frozen=True)
class Converted:
    """A project in COCO's layout.

    Attributes:
        format: The tool.
        folder: The folder that was written, which `--data` and `jaxpose prepare` take.
        files: The annotation JSON and the image folder of each split; a project that its tool does not split is all
            "train".
        pictures: How many pictures there are.
        persons: How many persons with at least one labelled joint.
        labelled: How many labels each joint has, in the order of the joints.
        left_out: What was left out or assumed, and how often.
    """

    format: Format
    folder: Path
    files: Mapping[str, tuple[Path, Path]]
    pictures: int
    persons: int
    labelled: Mapping[str, int]
    left_out: Mapping[str, int]

    @property
    def is_split(self) -> bool:
        """Whether the tool itself holds pictures out."""
        return {"train", "val"} <= set(self.files)

    @property
    def to_split(self) -> Path:
        """The annotation JSON whose pictures can be divided, where the tool does not."""
        return self.files[UNSPLIT if UNSPLIT in self.files else next(iter(self.files))][0]

    def of_split(self, split: str, *, divided: bool = False) -> tuple[Path, Path]:
        """The annotation JSON and the image folder of a split.

        Args:
            split: Its name; "valid" is "val".
            divided: A part of the pictures of a project without this split is taken later on: return all of them.

        Raises:
            FileNotFoundError: The tool has no such split.
        """
        name = "val" if split == "valid" else split
        if name not in self.files and divided and UNSPLIT in self.files:
            name = UNSPLIT
        if name not in self.files:
            raise FileNotFoundError(
                f"the project has no split {split!r}, only {', '.join(self.files)}: give one of these, or hold a part of the pictures "
                "out with --val-fraction 0.2"
            )
        return self.files[name]

    def to_dict(self) -> dict[str, Any]:
        """The counts, as JSON holds them."""
        counts = {"format": self.format, "folder": str(self.folder), "pictures": self.pictures, "persons": self.persons}
        return counts | {"labelled": dict(self.labelled), "left_out": dict(self.left_out)}

    def __str__(self) -> str:
        joints = ", ".join(f"{name} {count}" for name, count in self.labelled.items())
        return f"{self.format}: {self.pictures} pictures, {self.persons} persons; labelled joints: {joints}"


def reader(format: Format) -> Reader:
    """Returns the module that reads a tool's files.

    Args:
        format: One of `Format`.

    Raises:
        ValueError: No such format.

    >>> reader("cvat").CONTENT
    "CVAT's XML (CVAT for images 1.1, or for video 1.1), or a folder with one"
    """
    if format not in get_args(Format):
        raise ValueError(f"labels format {format!r}: expected one of {', '.join(get_args(Format))}")
    return importlib.import_module(f"{__name__}.{format}")


def guess(path: str | Path) -> Format:
    """Finds the tool that wrote a file or a folder, by its content.

    Args:
        path: A file or a folder.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: No tool's content, or that of several.

    >>> guess("no_such_project")
    Traceback (most recent call last):
    FileNotFoundError: no_such_project does not exist: give the project's folder or its label file (--labels)
    """
    path = files.local(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give the project's folder or its label file (--labels)")
    formats = [name for name in get_args(Format) if reader(name).recognises(path)]
    if len(formats) == 1:
        return formats[0]
    if formats:
        raise ValueError(
            f"{path} holds labels of several formats ({', '.join(formats)}): choose one with --labels-format, or name its file"
        )
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path} is empty: give the project's folder or its label file (--labels)")
    inside = [child for child in sorted(path.iterdir()) if child.is_dir()][:SUBFOLDERS] if path.is_dir() else []
    for child in inside:
        for name in get_args(Format):
            if reader(name).recognises(child):
                raise ValueError(f"{path} holds the {name} project {child.name}: give --labels {child}")
    if path.suffix.lower() == ".json":
        files.read_json(path, "label file (--labels)")  # says where a file that is cut off or wrong stops being JSON
    contents_by_name = "; ".join(f"{name}: {reader(name).CONTENT}" for name in get_args(Format))
    raise ValueError(f"{path} is in no format of labels that is known. Read are {contents_by_name}")


def read(path: str | Path, *, format: Choice = "auto", options: Options | None = None) -> tuple[Format, Project]:
    """Reads a project.

    Args:
        path: A file or a folder.
        format: One of `Format`, or "auto".
        options: Choices in reading.

    Raises:
        FileNotFoundError, ValueError: As `guess` and the tool's reader.
    """
    options = Options() if options is None else options
    name = guess(path) if format == "auto" else format
    path = files.local(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give the project's folder or its label file (--labels)")
    if options.names is not None and (len(set(options.names)) != len(options.names) or not all(options.names)):
        raise ValueError(f"--names {' '.join(options.names)}: expected names of joints, each once")
    return name, reader(name).read(path, options)


def check_alone(
    *, names: tuple[str, ...] | None, corner: bool, labels_format: Choice, box: Literal["joints", "picture"]
) -> None:
    """Raises a ValueError if a flag is given that only belongs to --labels, for commands that are given none.

    >>> check_alone(names=None, corner=True, labels_format="auto", box="joints")
    Traceback (most recent call last):
    ValueError: --names, --corner, --box and --labels-format belong to --labels: give the project
    """
    if names is not None or corner or labels_format != "auto" or box != "joints":
        raise ValueError("--names, --corner, --box and --labels-format belong to --labels: give the project")


def folder_for(path: str | Path, data_dir: str | Path, *, format: Choice = "auto", options: Options | None = None,
               corner: bool = False) -> Path:  # fmt: skip
    """The folder within `data_dir` that a project with these choices is converted into: always the same one.

    Args:
        path: A file or a folder.
        data_dir: Where prepared data sets are kept.
        format: As in `convert`.
        options: As in `convert`.
        corner: As in `convert`.

    >>> folder_for("sets/mouse/data.yaml", "runs/data").name.rpartition("-")[0]
    'mouse'
    """
    path = files.local(path)
    resolved = path.resolve()
    plain = path.suffix and (path.stem in PLAIN or path.stem.startswith("CollectedData"))
    name = resolved.parent.name if plain else resolved.name if path.is_dir() else resolved.name.partition(".")[0]
    choices = repr((str(resolved), format, options or Options(), corner))
    digest = hashlib.sha256(choices.encode(errors="surrogateescape")).hexdigest()[:8]
    return Path(data_dir) / "labels" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name) or 'labels'}-{digest}"


def convert(
    path: str | Path,
    folder: str | Path,
    *,
    format: Choice = "auto",
    options: Options | None = None,
    corner: bool = False,
) -> Converted:
    """Writes a project as a folder in COCO's layout: ``annotations/SPLIT.json``, and SPLIT, a link to the pictures.

    Pictures that the label file holds itself are written to ``pictures/``. What was left out is logged, and counted in
    the result. The same project gives the same files, which are not written again where they are there.

    Args:
        path: A file or a folder of a labelling tool.
        folder: The folder to write.
        format: The tool; "auto" finds it by the content.
        options: Choices in reading.
        corner: The tool counts pixels from the corner of the first one: subtract half a pixel from joints and boxes.

    Returns:
        Where everything is, and how much.

    Raises:
        FileNotFoundError, ValueError, ImportError: A file is missing or wrong, or nobody is labelled; names the file,
            the entry and what to do.
    """
    name, project = read(path, format=format, options=options)
    if name == "coco" and options is not None and options.box == "picture":
        raise ValueError(
            f"--box picture: {path} is COCO JSON, whose boxes are its own; give each person the bbox [0, 0, W, H] there"
        )
    folder = files.local(folder)
    roots = dict(getattr(project, "roots", {}))
    by_split = dict(getattr(project, "files", {})) or contents(project)
    embedded = [picture for picture in project.pictures if picture.data is not None]
    root = _write_pictures(project, folder / "pictures") if embedded else project.root
    places: dict[str, tuple[Path, Path]] = {}
    for split, content in by_split.items():
        target = folder / "annotations" / f"{split or UNSPLIT}.json"
        _write_if_new(target, files.to_json(shifted(content) if corner else content, target))
        place = folder / (split or UNSPLIT)
        link(place, roots.get(split, root))
        places[split or UNSPLIT] = (target, place)
    for stale in set((folder / "annotations").glob("*.json")) - {file for file, _ in places.values()}:
        stale.unlink(missing_ok=True)
    project.problems.report()
    project.notes.report()
    return Converted(name, folder, places, *_counts(by_split.values()), left_out=_left_out(project))


def _counts(contents_of_splits: Any) -> tuple[int, int, dict[str, int]]:
    """Pictures, persons with a labelled joint, and labels of each joint."""
    from jaxpose import labels as rules

    pictures = persons = 0
    counts: Counter[str] = Counter()
    for content in contents_of_splits:
        pictures += len(content["images"])
        categories = {str(c.get("id")): _joints(c) for c in content.get("categories") or () if isinstance(c, dict)}
        for joints in categories.values():
            counts.update(dict.fromkeys(joints, 0))
        for annotation in content["annotations"]:
            keypoints = rules.flat(annotation.get("keypoints")) if isinstance(annotation, dict) else None
            seen = (
                [isinstance(v, (int, float)) and v > 0 for v in keypoints[2::3]] if isinstance(keypoints, list) else []
            )
            persons += any(seen)
            joints = categories.get(str(annotation.get("category_id")), ()) if isinstance(annotation, dict) else ()
            counts.update(name for name, labelled in zip(joints, seen, strict=False) if labelled)
    return pictures, persons, dict(counts)


def _joints(category: dict[str, Any]) -> list[str]:
    """The joints of a category of a COCO file, which may hold anything: its reader refuses what is wrong."""
    keypoints = category.get("keypoints")
    return [str(name) for name in keypoints] if isinstance(keypoints, list) else []


def _left_out(project: Project) -> dict[str, int]:
    """What was left out or assumed, and how often."""
    notes = {kind.replace("{n}", "N"): count for kind, count in project.notes.counts.items()}
    return notes | {f"left out: {kind}": count for kind, count in project.problems.counts.items()}


def _write_if_new(path: Path, content: bytes) -> None:
    """Writes a file, unless it holds this already: other processes of a run may be reading it."""
    if not (path.is_file() and path.read_bytes() == content):
        files.write_whole(path, content)


def link(place: Path, target: Path) -> None:
    """Makes a link to a folder or a file, unless it is there.

    Args:
        place: The link.
        target: What it leads to.

    Raises:
        ValueError: Something other than a link is in its place.
    """
    target = target.resolve()
    if place.is_symlink():
        if Path(os.readlink(place)) == target:
            return
        place.unlink()
    elif place.exists():
        raise ValueError(
            f"{place} is in the way: a link to {target} belongs there; remove it, or convert into another folder"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target, target_is_directory=target.is_dir())


def _write_pictures(project: Project, folder: Path) -> Path:
    """Writes the pictures that a label file holds itself, and links to the others; not again where that was done from this file."""
    stamp = folder.with_name("pictures.sha256")
    digest = files.sha256(project.path)
    done = stamp.is_file() and stamp.read_text() == digest
    for picture in project.pictures:
        target = folder / picture.name
        if not target.resolve().is_relative_to(folder.resolve()) and not target.is_symlink():
            raise ValueError(f"{project.path} names a picture {picture.name!r}, which would be written out of {folder}")
        if picture.data is None:
            link(target, project.root / picture.name)
        elif not (done and target.is_file()):
            files.write_whole(target, _checked(picture, project))
    files.write_whole(stamp, digest.encode())
    return folder


def _checked(picture: Picture, project: Project) -> bytes:
    """The bytes of a picture that a label file holds."""
    data = picture.data()
    if not data:
        raise ValueError(f"{project.path} holds an empty picture {picture.name!r}: export it again")
    return data
