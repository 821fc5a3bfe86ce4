"""labelme: one JSON a picture, with points whose ``group_id`` is the person.

A rectangle with the same group is the person's box. Points without a group are one person. Pictures lie beside their
JSON, or inside it (``imageData``). The order of joints is that of ``labels.txt``, labelme's list of labels, where it
lies beside the files; else that in which they were labelled. Nothing says whether a joint is hidden, but for a flag of
the point called occluded.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxpose.data.formats import layout
from jaxpose.data.labels.project import IMAGE_SUFFIXES, Options, Person, Picture, Project, in_order, number
from jaxpose.files import read_json

CONTENT = "labelme's files (a folder with one JSON of shapes a picture), or one of them"
KIND = "person"
LISTS = ("labels.txt", "label.txt")
HIDDEN = ("occluded", "hidden", "invisible")


def recognises(path: Path) -> bool:
    """Whether a path is a JSON of labelme, or a folder with such files."""
    return any(_is_labelme(file) for file in _jsons(path)[:20])


def _jsons(path: Path) -> list[Path]:
    """The JSON files of a folder, of its folders where it has none itself, or the file."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    return sorted(path.glob("*.json")) or sorted(path.glob("*/*.json"))


def _is_labelme(file: Path) -> bool:
    text = layout.edges(file)
    return text.startswith("{") and '"shapes"' in text and '"imagePath"' in text


def read(path: Path, options: Options) -> Project:
    """Reads a folder of labelme's files.

    Args:
        path: The folder, or one file.
        options: Choices in reading.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is wrong, and where.
    """
    files = [file for file in _jsons(path) if _is_labelme(file)]
    if not files:
        raise FileNotFoundError(f"{path} has no JSON of labelme: expected one a picture, with 'shapes' and 'imagePath'")
    folder = path if path.is_dir() else path.parent
    entries = [(file, read_json(file, "file of labelme")) for file in files]
    places = {file: _place(file, entry, folder) for file, entry in entries}
    outside = any(place is not None and not place.is_relative_to(folder.resolve()) for place in places.values())
    project = Project(path, folder.resolve().parent if outside else folder.resolve(), options)
    for file, entry in entries:
        _add(project, file, entry, places[file], folder)
    in_order(project, default=KIND, listed=_listed(folder))
    return project


def _listed(folder: Path) -> list[str] | None:
    """The labels of labelme's list, without its own words and without those of rectangles, which are no joints."""
    file = next((folder / name for name in LISTS if (folder / name).is_file()), None)
    if file is None:
        return None
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    return [line for line in dict.fromkeys(lines) if line and not line.startswith("_")]


def _place(file: Path, entry: Any, folder: Path) -> Path | None:
    """The picture of a file: where the file says, within the folder or one beside it, or of its own name."""
    name = entry.get("imagePath") if isinstance(entry, Mapping) else None
    named = [file.parent / name.replace("\\", "/")] if isinstance(name, str) and name and "\0" not in name else []
    if named:
        named.append(file.parent / named[0].name)
    for path in [*named, *(file.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)]:
        if path.is_file() and path.resolve().is_relative_to(folder.resolve().parent):
            return path.resolve()
    return None


def _add(project: Project, file: Path, entry: Any, place: Path | None, folder: Path) -> None:
    """One picture with its people; a picture inside the file is named as the file is within the folder."""
    shapes = entry.get("shapes") if isinstance(entry, Mapping) else None
    if not isinstance(shapes, list):
        project.problems.add("no shapes", f"{file} has no list 'shapes'")
        return
    size = [number(entry.get(key)) for key in ("imageWidth", "imageHeight")]
    if not all(side and side > 0 and side == int(side) for side in size):
        project.problems.add(
            "picture without a size",
            f"{file}: imageWidth and imageHeight are {entry.get('imageWidth')!r:.20} and {entry.get('imageHeight')!r:.20}: expected "
            "the picture's positive width and height",
        )
        return
    people = _people(project, file, shapes)
    if people is None:
        return
    name, data = (
        (place.relative_to(project.root).as_posix(), None)
        if place
        else (file.relative_to(folder).with_suffix(".png").as_posix(), _embedded(file, entry))
    )
    if place is None and data is None:
        project.missing(str(entry.get("imagePath")))
        return
    project.add(Picture(name, (int(size[0]), int(size[1])), people, data=data), entry=str(file))


def _embedded(file: Path, entry: Mapping[str, Any]) -> Callable[[], bytes] | None:
    """The picture inside a file."""
    text = entry.get("imageData")
    if not isinstance(text, str) or not text:
        return None

    def decode() -> bytes:
        try:
            return base64.b64decode(text, validate=False)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{file}: imageData is not base64 ({error}): label the picture again") from None

    return decode


def _people(project: Project, file: Path, shapes: list[Any]) -> list[Person] | None:
    """The people of a picture; None where a shape is wrong."""
    points: dict[Any, list[tuple[str, tuple[float, float, int]]]] = defaultdict(list)
    boxes: dict[Any, list[tuple[str, tuple[float, float, float, float]]]] = defaultdict(list)
    for i, shape in enumerate(shapes):
        kind = shape.get("shape_type", "polygon") if isinstance(shape, Mapping) else None
        if kind not in ("point", "rectangle"):
            project.notes.add(
                "{n} shapes are neither points nor rectangles, and were left out", f"{kind!r} of {file.name}"
            )
            continue
        corners = shape.get("points") if isinstance(shape.get("points"), list) else []
        wanted = 1 if kind == "point" else 2
        pairs = [[number(v) for v in p] if isinstance(p, list) and len(p) == 2 else [None] for p in corners]
        if len(pairs) == 4 and kind == "rectangle":  # some versions write the four corners
            pairs = (
                [[f(p[0] for p in pairs), f(p[-1] for p in pairs)] for f in (min, max)]
                if None not in sum(pairs, [])
                else []
            )
        if len(pairs) != wanted or any(None in pair for pair in pairs) or not isinstance(shape.get("label"), str):
            project.problems.add(
                "shape wrong", f"{file}: shape {i + 1} is not a labelled {kind} of {wanted} x, y: {str(corners)[:100]}"
            )
            return None
        group = shape.get("group_id")
        if not isinstance(group, (int, str, type(None))):
            project.problems.add(
                "group wrong",
                f"{file}: shape {i + 1} has the group_id {str(group)[:50]}: expected a whole number or null",
            )
            return None
        if kind == "point":
            flags = shape.get("flags") if isinstance(shape.get("flags"), Mapping) else {}
            hidden = any(flags.get(word) is True for word in HIDDEN)
            points[group].append((shape["label"], (pairs[0][0], pairs[0][1], 1 if hidden else 2)))
        else:
            (ax, ay), (bx, by) = pairs
            boxes[group].append((shape["label"], (min(ax, bx), min(ay, by), abs(bx - ax), abs(by - ay))))
    return _grouped(project, file, points, boxes)


def _grouped(
    project: Project, file: Path, points: Mapping[Any, list], boxes: Mapping[Any, list]
) -> list[Person] | None:
    """A person for each group."""
    people = []
    for group in dict.fromkeys([*points, *boxes]):
        joints, own = points.get(group, []), boxes.get(group, [])
        name, count = Counter(name for name, _ in joints).most_common(1)[0] if joints else ("", 0)
        if count > 1:
            project.problems.add(
                "people not told apart",
                f"{file}: the group {group} has {count} points {name!r}: give the points of each person a group_id of their own",
            )
            return None
        if len(own) > 1 and joints:
            project.notes.add(
                "{n} groups have several rectangles, none of which was taken for the box", f"{group} of {file.name}"
            )
            own = []
        for kind, box in own[:1] if joints else own:
            people.append(Person(dict(joints), kind, box=box))
        if not own:
            people.append(Person(dict(joints), ""))
    return people
