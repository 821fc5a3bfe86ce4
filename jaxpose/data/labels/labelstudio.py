"""Label Studio's exports, JSON and JSON-MIN.

A list of tasks, each with the picture's address and annotations, of which the last submitted one counts. A keypoint is
percent of the picture's original width and height. Keypoints belong to one person where they have the same parent
(``parentID``) or are linked by relations, usually to a rectangle, which is the person's box; without either, a picture
shows one person. JSON-MIN holds no links, so its pictures show one person each.

The export does not list the joints. Their order is that of the labelling configuration, where it lies beside the export
as an XML file, else that in which they were labelled. Nothing says whether a joint is hidden.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from jaxpose.data.formats import layout
from jaxpose.data.labels.project import (
    IMAGE_SUFFIXES,
    Options,
    Person,
    Picture,
    Pictures,
    Project,
    in_order,
    number,
    picture_size,
    read_xml,
)
from jaxpose.files import read_json

CONTENT = "Label Studio's export, JSON or JSON-MIN (a list of tasks with annotations)"
KIND = "person"
UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the names of uploaded files."""
PERCENT_TOLERANCE = 1e-6
NOT_REGIONS = ("relation", "choices", "textarea", "rating", "taxonomy", "number", "datetime", "pairwise", "ranker")


def recognises(path: Path) -> bool:
    """Whether a path is such an export, or a folder with one."""
    return bool(_exports(path))


def _exports(path: Path) -> list[Path]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.suffix.lower() == ".json" else []
    return [file for file in files if _is_export(file)]


def _is_export(file: Path) -> bool:
    text = layout.edges(file)
    whole = any(f'"{key}"' in text for key in ("annotations", "completions")) and '"data"' in text
    return text.startswith("[") and (whole or '"keypointlabels"' in text)


def read(path: Path, options: Options) -> Project:
    """Reads an export.

    Args:
        path: The JSON, or the folder that holds it.
        options: Choices in reading.

    Raises:
        FileNotFoundError: No export, or several.
        ValueError: The file is wrong, and where.
    """
    files = _exports(path) if path.is_dir() else [path]
    if len(files) != 1:
        raise FileNotFoundError(
            f"{path} has {len(files)} exports of Label Studio ({', '.join(f.name for f in files) or 'none'}): name one"
        )
    file = files[0]
    tasks = read_json(file, "export of Label Studio")
    if not isinstance(tasks, list) or not tasks:
        raise ValueError(f"{file} holds no tasks: expected a list, as Label Studio exports it (JSON)")
    project = Project(file, file.parent, options)
    pictures = Pictures(file.parent, project)
    for task in _latest(tasks, project):
        _add_task(task, project, pictures)
    in_order(project, default=KIND, listed=_configured(file.parent))
    return project


def _configured(folder: Path) -> list[str] | None:
    """The joints that a labelling configuration in the folder lists."""
    for file in sorted(folder.glob("*.xml")):
        try:
            tags = [tag for tag in read_xml(file).iter() if isinstance(tag.tag, str)]
        except ValueError:
            continue
        names = [
            value
            for tag in tags
            if tag.tag.lower() == "keypointlabels"
            for inner in tag
            if (value := inner.get("alias") or inner.get("value"))
        ]
        if names:
            return list(dict.fromkeys(names))
    return None


def _latest(tasks: Iterable[Any], project: Project) -> list[Mapping[str, Any]]:
    """The tasks; of rows of JSON-MIN for one picture, which are its annotations, the last submitted one."""
    rows: dict[Any, list[tuple[str, int, Mapping[str, Any]]]] = defaultdict(list)
    for i, task in enumerate(tasks):
        if not isinstance(task, Mapping):
            project.problems.add("task not an object", f"task {i + 1} is not an object with a picture and annotations")
            continue
        whole = "data" in task or "annotations" in task or "completions" in task
        rows[i if whole else (_address(task), str(task.get("id")))].append((_time(task), i, task))
    for several in rows.values():
        if len(several) > 1:
            project.notes.add(
                "{n} pictures have several annotations: the last submitted one was read", _address(several[0][2]) or ""
            )
    return [max(several, key=lambda row: row[:2])[2] for several in rows.values()]


def _time(value: Mapping[str, Any]) -> str:
    return str(value.get("updated_at") or value.get("created_at") or "")


def _address(data: Mapping[str, Any]) -> str | None:
    """The address of the picture among a task's data."""
    texts = [data[key] for key in ("image", "img", "url", "picture") if isinstance(data.get(key), str)]
    texts += [v for v in data.values() if isinstance(v, str) and _path_of(v).lower().endswith(IMAGE_SUFFIXES)]
    return texts[0] if texts else None


def _path_of(address: str) -> str:
    """The path that an address of a picture names."""
    try:
        parts = urlsplit(address) if re.match(r"[a-z0-9]+://|/data/", address) else None
    except ValueError:  # such as http://[x: no file has that name
        parts = None
    if parts is None:
        return address
    local = parse_qs(parts.query).get("d")
    return local[0] if local else unquote(parts.path)


def _file_of(address: str, pictures: Pictures) -> str | None:
    """The file of a picture's address. Uploads may lie there under their own names or under Label Studio's."""
    path = _path_of(address)
    file_name = pictures.find(path.lstrip("/"), anywhere=True)
    if file_name is not None or "d=" in address:
        return file_name
    base = path.rpartition("/")[2]
    flat = "/upload/" in address or "://" in address
    names = [base, UPLOAD.sub("", base)] if flat else [UPLOAD.sub("", path)]
    return next((file for name in names if (file := pictures.find(name, anywhere=True))), None)


def _add_task(task: Mapping[str, Any], project: Project, pictures: Pictures) -> None:
    """One task's picture and people."""
    data = task.get("data") if isinstance(task.get("data"), Mapping) else task
    address = _address(data)
    where = f"task {task.get('id', '?')}"
    if address is None:
        project.problems.add(
            "task without a picture", f"{where} names no picture: expected its address in 'data', such as 'image'"
        )
        return
    results = _results(task, project, address)
    if results is None:
        return
    people, size = _people(results, project, f"{where} ({address!r})")
    if people is None:
        return
    file_name = _file_of(address, pictures)
    if file_name is None:
        project.missing(address)
        return
    if size is None:  # nobody is there
        size = picture_size(project.root / file_name)
    project.add(Picture(file_name, size, people), entry=where)


def _results(task: Mapping[str, Any], project: Project, address: str) -> list[Mapping[str, Any]] | None:
    """The results of the annotation that counts; None where there is none."""
    whole = [key for key in ("annotations", "completions") if isinstance(task.get(key), list)]
    if not whole and "data" not in task:
        return _minimal(task)
    annotations = [a for key in whole for a in task[key] if isinstance(a, Mapping)]
    valid = [a for a in annotations if not a.get("was_cancelled") and isinstance(a.get("result"), list)]
    if not valid:
        if annotations:
            project.notes.add("{n} pictures were left out, since their annotations are cancelled", repr(address))
        else:
            project.unlabelled(address)
        return None
    if len(valid) > 1:
        project.notes.add("{n} pictures have several annotations: the last submitted one was read", repr(address))
    last = max(range(len(valid)), key=lambda i: (_time(valid[i]), i))
    return [result for result in valid[last]["result"] if isinstance(result, Mapping)]


def _minimal(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The regions of a row of JSON-MIN, as results without ids."""
    results = []
    for entries in task.values():
        for entry in entries if isinstance(entries, list) else ():
            for kind in ("keypointlabels", "rectanglelabels"):
                if isinstance(entry, Mapping) and kind in entry:
                    size = {key: entry.get(key) for key in ("original_width", "original_height")}
                    results.append({"type": kind, "value": entry, **size})
    return results


def _people(
    results: list[Mapping[str, Any]], project: Project, where: str
) -> tuple[list[Person] | None, tuple[int, int] | None]:
    """The people of a picture and its size, (None, None) where something in it is wrong."""
    points: list[tuple[Any, str, tuple[float, float, int]]] = []
    boxes: dict[Any, tuple[str, tuple[float, float, float, float]]] = {}
    links: list[tuple[Any, Any]] = []
    size = None
    for i, result in enumerate(results):
        kind, key = result.get("type"), _key(result.get("id"), f"#{i}")
        if kind == "relation":
            links.append((_key(result.get("from_id")), _key(result.get("to_id"))))
        if kind not in ("keypointlabels", "rectanglelabels"):
            if kind not in NOT_REGIONS:
                project.notes.add(
                    "{n} regions are neither keypoints nor rectangles, and were left out", f"{kind!r} of {where}"
                )
            continue
        region = _region(result, project, where)
        if region is None:
            return None, None
        size, name, values = region
        if result.get("parentID") is not None:
            links.append((key, _key(result["parentID"])))
        if kind == "rectanglelabels":
            boxes[key] = (name or "", values)
        elif name:
            points.append((key, name, (*values[:2], 2)))
        else:
            project.notes.add("{n} keypoints have no name, and were left out", where)
    return _grouped(points, boxes, links, project, where), size


def _key(value: Any, default: str = "") -> str:
    """An id as a text; the default where it is none."""
    return str(value) if isinstance(value, (str, int)) else default


def _region(
    result: Mapping[str, Any], project: Project, where: str
) -> tuple[tuple[int, int], str | None, tuple[float, ...]] | None:
    """The picture's size, the label and x, y, or x, y, width, height, in pixels; None where something is wrong."""
    value = result.get("value") if isinstance(result.get("value"), Mapping) else {}
    rectangle = result.get("type") == "rectanglelabels"
    size = [number(result.get(key)) for key in ("original_width", "original_height")]
    if not all(side and side > 0 and side == int(side) for side in size):
        project.problems.add(
            "picture without a size",
            f"{where}: original_width and original_height are {result.get('original_width')!r:.20} and "
            f"{result.get('original_height')!r:.20}: expected the picture's positive width and height, of which x and y are percent",
        )
        return None
    if number(result.get("image_rotation") or 0) != 0:
        project.problems.add(
            "picture turned while labelling",
            f"{where} was turned by {result.get('image_rotation')!r:.20} degrees while it was labelled: turn the file, label it again",
        )
        return None
    numbers = [number(value.get(key)) for key in (("x", "y", "width", "height") if rectangle else ("x", "y"))]
    within = all(v is not None and -PERCENT_TOLERANCE <= v <= 100 + PERCENT_TOLERANCE for v in numbers)
    if not within:
        position = ", ".join(f"{value.get(key)!r:.30}" for key in ("x", "y"))
        project.problems.add(
            "not percent", f"{where} has a region at {position}: expected percent of the picture, from 0 to 100"
        )
        return None
    names = value.get("rectanglelabels" if rectangle else "keypointlabels")
    name = str(names[0]) if isinstance(names, list) and len(names) == 1 else None
    if isinstance(names, list) and len(names) > 1:
        project.problems.add("several names", f"{where} has a region with {len(names)} names: expected one")
        return None
    width, height = int(size[0]), int(size[1])
    pixels = [v / 100 * side for v, side in zip(numbers, (width, height) * 2, strict=False)]
    if rectangle:
        pixels = _upright(pixels, number(value.get("rotation") or 0) or 0.0)
    return (width, height), name, tuple(pixels)


def _upright(box: list[float], degrees: float) -> list[float]:
    """The upright box around one that is turned clockwise about its top left corner."""
    if degrees % 360 == 0:
        return box
    x, y, width, height = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x + a * cos - b * sin, y + a * sin + b * cos) for a in (0, width) for b in (0, height)]
    xs, ys = zip(*corners, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _grouped(
    points: list[tuple[Any, str, tuple[float, float, int]]],
    boxes: Mapping[Any, tuple[str, tuple[float, ...]]],
    links: Iterable[tuple[Any, Any]],
    project: Project,
    where: str,
) -> list[Person] | None:
    """The people: what is linked, directly or through others, is one; without any link all keypoints are one."""
    leader: dict[Any, Any] = {}

    def head(key: Any) -> Any:
        while (above := leader.get(key, key)) != key:
            key = above
        return key

    for first, second in links:
        if first and second:
            leader[head(first)] = head(second)
    members: dict[Any, list[tuple[str, tuple[float, float, int]]]] = {head(key): [] for key in boxes}
    for key, name, values in points:
        members.setdefault(head(key), []).append((name, values))
    boxes_of: dict[Any, list[tuple[str, tuple[float, ...]]]] = defaultdict(list)
    for key, box in boxes.items():
        boxes_of[head(key)].append(box)
    linked = {key for key in members if len(members[key]) > 1 or (members[key] and boxes_of[key])}
    if not linked and points:
        members = {KIND: [(name, values) for _, name, values in points]}
        boxes_of = {KIND: list(boxes.values())} if len(boxes) == 1 else {KIND: []}
        linked = {KIND}
    people = []
    for key, joints in members.items():
        if joints and key not in linked:
            project.notes.add(
                "{n} keypoints are linked to no person, and were left out", f"{joints[0][0]!r} of {where}"
            )
            continue
        if (person := _person(joints, boxes_of[key], project, where)) is None:
            return None
        people.append(person)
    return people


def _person(
    joints: list[tuple[str, tuple[float, float, int]]],
    boxes: list[tuple[str, tuple[float, ...]]],
    project: Project,
    where: str,
) -> Person | None:
    """A person of linked keypoints; None where they are of several."""
    name, count = Counter(name for name, _ in joints).most_common(1)[0] if joints else ("", 0)
    if count > 1 or len(boxes) > 1:
        what = f"{count} keypoints {name!r}" if count > 1 else f"{len(boxes)} rectangles"
        project.problems.add(
            "people not told apart",
            f"{where}: {what} would belong to one person: link the keypoints of each person to its rectangle (a relation, or as its "
            "children) and export JSON, not JSON-MIN, which leaves the links out",
        )
        return None
    kind, box = boxes[0] if boxes else ("", None)
    return Person(dict(joints), kind, box=box)
