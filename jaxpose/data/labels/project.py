"""What a labelling project holds, whatever tool wrote it, and how that becomes COCO's layout.

Each module of this package reads one tool's files into a `Project`: pictures with their people, and for each kind of
person the joints in the project's own order. `contents` turns it into COCO files that the reader of
`jaxpose.data.formats.coco` checks and reads, so that nothing that comes later knows the tools. Standard library and
Pillow only.
"""

from __future__ import annotations

import heapq
import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from PIL import Image

from jaxpose import labels
from jaxpose.data.checks import Problems, bad_box, is_number, is_size
from jaxpose.data.names import ImageFiles
from jaxpose.data.reading import Notes

__all__ = [
    "Options", "Person", "Picture", "Pictures", "Project", "Skeleton", "contents", "in_order", "number", "one_kind", "order_of",
    "picture_size", "read_xml", "read_yaml",
]  # fmt: skip

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
HALF_PIXEL = 0.5
NOBODY = "{n} persons have no labelled joint: they are not trained on"
MOST_YAML = 10_000_000
"""Bytes of the largest YAML file that is read: those of the tools have some kilobytes."""


@dataclass(frozen=True)
class Options:
    """Choices in reading a project.

    Attributes:
        names: Names of the joints, in order. None: those of the project.
        category: Name of the kind of person to read, where a project has several whose joints differ.
        on_bad: "error" stops at the first entry that is wrong; "skip" leaves such entries out, counted and logged.
        box: The box of a person without one: "joints", the extent of the joints and a margin, or "picture", the whole picture, for
            pictures of one person each that are to be predicted without a detector.
    """

    names: tuple[str, ...] | None = None
    category: str | int | None = None
    on_bad: Literal["error", "skip"] = "error"
    box: Literal["joints", "picture"] = "joints"


@dataclass(frozen=True)
class Skeleton:
    """The joints of one kind of person.

    Attributes:
        joints: K names, in the project's order.
        edges: Pairs of names.
        extra: Further fields of a COCO category, such as flip_idx or flip_pairs.
    """

    joints: tuple[str, ...]
    edges: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Person:
    """One labelled person or animal in a picture.

    Attributes:
        joints: x, y in pixels and the visibility (1 occluded, 2 visible) of each labelled joint, by name.
        kind: The key of its skeleton; "" where nothing says it.
        box: x, y, width, height in pixels; None where the tool has no box.
        individual: The name by which the tool knows it again in other pictures.
    """

    joints: dict[str, tuple[float, float, int]]
    kind: str
    box: tuple[float, float, float, float] | None = None
    individual: str | None = None


@dataclass
class Picture:
    """A picture with labels.

    Attributes:
        name: File name within the project's image folder.
        size_wh: Width and height in pixels, as the tool states it, or else as the file has it.
        people: Who is labelled in it; nobody where the tool says that nobody is there.
        split: "train", "val", "test", or "" where the tool does not split.
        data: Returns the bytes of the picture, where it is kept inside the label file.
    """

    name: str
    size_wh: tuple[int, int]
    people: list[Person]
    split: str = ""
    data: Callable[[], bytes] | None = None


class Project:
    """What a labelling project holds.

    Args:
        path: The label file or the folder, for messages.
        root: The image folder.
        options: Choices in reading.

    Attributes:
        skeletons: The joints of each kind of person, by the kind's name.
        pictures: In the project's order.
        notes: What was left out or assumed.
        problems: What is wrong with single entries.
    """

    def __init__(self, path: Path, root: Path, options: Options):
        self.path, self.root, self.options = path, root, options
        self.skeletons: dict[str, Skeleton] = {}
        self.pictures: list[Picture] = []
        self.notes, self.problems = Notes(path), Problems(path, options.on_bad)
        self._names: set[str] = set()

    def add(self, picture: Picture, *, entry: str = "") -> None:
        """Adds a picture, unless it was added before: a picture that is labelled twice is wrong.

        Args:
            picture: The picture.
            entry: The entry of the label file, for the message.
        """
        if picture.name in self._names:
            where = f" ({entry})" if entry else ""
            self.problems.add("picture labelled twice", f"{picture.name!r} is labelled more than once{where}")
            return
        if not all(map(is_size, picture.size_wh)):
            self.problems.add(
                "picture without a size",
                f"{picture.name!r} has the size {picture.size_wh[0]}x{picture.size_wh[1]}: expected a positive width and height",
            )
            return
        if self.options.box == "picture" and len(picture.people) > 1:
            self.problems.add(
                "several persons in a whole picture",
                f"{picture.name!r} has {len(picture.people)} persons: --box picture is for pictures of one person each",
            )
            return
        if self.options.box == "picture":
            picture.people = [
                replace(one, box=one.box or (0.0, 0.0, *map(float, picture.size_wh))) for one in picture.people
            ]
        self._names.add(picture.name)
        self.pictures.append(picture)

    def missing(self, name: str) -> None:
        """Counts a labelled picture that is not there."""
        self.notes.add("{n} labelled pictures were left out, since their files are missing", repr(name))

    def unlabelled(self, name: str) -> None:
        """Counts a picture that nobody has labelled."""
        self.notes.add("{n} pictures were left out, since nothing is labelled in them", repr(name))


class Pictures:
    """The picture files of a project, found by the names that the label file gives them.

    Args:
        root: The folder that they are in, also within folders of its own.
        project: Notes how a file was found.
    """

    def __init__(self, root: Path, project: Project):
        self.root, self.files, self.notes = root, ImageFiles(root), project.notes
        self._tails: dict[str, list[str]] | None = None

    def find(self, name: str, *, anywhere: bool = False) -> str | None:
        r"""Returns the name of a file within the root, or None.

        Args:
            name: As the label file has it, with / or \ between folders.
            anywhere: Look for the whole name below any folder of the root too.
        """
        name = name.replace("\\", "/")
        try:
            file, how = self.files.find(name)
        except (ValueError, FileNotFoundError):
            return self._below(name) if anywhere else None
        if how:
            self.notes.add(f"{{n}} picture files were found {how}", f"{name!r} as {file!r}")
        return file

    def _below(self, name: str) -> str | None:
        """The only file whose name ends in a whole name."""
        if self._tails is None:
            self._tails = defaultdict(list)
            for path in picture_files(self.root):
                self._tails[path.name].append(path.relative_to(self.root).as_posix())
        tail = name.lstrip("/")
        fitting = [file for file in self._tails.get(tail.rpartition("/")[2], []) if f"/{file}".endswith(f"/{tail}")]
        return fitting[0] if len(fitting) == 1 else None


def picture_files(folder: Path) -> list[Path]:
    """The picture files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def picture_size(path: str | Path, *, upright: bool = False) -> tuple[int, int]:
    """Returns the width and height of a picture file, of which the header alone is read.

    Args:
        path: The file.
        upright: As viewers show it, turned as its EXIF orientation says.

    Raises:
        ValueError: It is no picture, or a damaged one.
    """
    try:
        with Image.open(path) as image:
            turned = upright and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}): replace it, or take its labels out of the project"
        ) from None


def png(pixels: Any) -> bytes:
    """The pixels of a picture, (h, w), (h, w, 1) or (h, w, 3), as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------------- order of joints


def order_of(sequences: Iterable[Sequence[str]]) -> list[str]:
    """The order of joints that the orders within single persons show, for tools that have no list of joints.

    A joint comes before another where it does so in more persons than the other way round; what no person decides is
    ordered by the first appearance. The result depends on the labels alone.

    >>> order_of([["nose", "right_ear"], ["nose", "left_ear", "right_ear", "tail"]])
    ['nose', 'left_ear', 'right_ear', 'tail']
    """
    rank: dict[str, int] = {}
    before: Counter[tuple[str, str]] = Counter()
    for sequence in dict.fromkeys(map(tuple, sequences)):
        for i, first in enumerate(sequence):
            rank.setdefault(first, len(rank))
            before.update((first, second) for second in sequence[i + 1 :])
    after: dict[str, list[str]] = defaultdict(list)
    open_before = dict.fromkeys(rank, 0)
    for (first, second), count in before.items():
        if count > before[second, first]:
            after[first].append(second)
            open_before[second] += 1
    free = [(rank[name], name) for name, count in open_before.items() if not count]
    heapq.heapify(free)
    order: list[str] = []
    while len(order) < len(rank):
        if not free:  # the persons go round in a circle: the earliest joint that is left goes next
            name = min((n for n in rank if n not in order), key=lambda n: (open_before[n], rank[n]))
        else:
            name = heapq.heappop(free)[1]
        order.append(name)
        open_before[name] = -1
        for second in after[name]:
            open_before[second] -= 1
            if open_before[second] == 0:
                heapq.heappush(free, (rank[second], second))
    return order


def one_kind(project: Project, *, default: str) -> list[str]:
    """Names the kind of people of whom nothing says it (""): that of the others' boxes, where these are of one kind only.

    Args:
        project: With all its pictures; kinds with a skeleton of their own are no kinds of boxes.
        default: The kind, where there is no other or there are several.

    Returns:
        All kinds, at least one.
    """
    people = [person for picture in project.pictures for person in picture.people]
    others = list(
        dict.fromkeys(person.kind for person in people if person.kind and person.kind not in project.skeletons)
    )
    for person in people:
        person.kind = person.kind or (others[0] if len(others) == 1 else default)
    return list(dict.fromkeys(person.kind for person in people)) or [default]


def in_order(project: Project, *, default: str, listed: Sequence[str] | None = None) -> None:
    """Sets the skeletons of a project whose people are read, for tools whose label files need not list the joints.

    Args:
        project: With all its pictures; each kind gets the same joints.
        default: The kind of person of which nothing says the kind.
        listed: The joints that the project lists somewhere; None: there is no list.
    """
    kinds = one_kind(project, default=default)
    people = [person for picture in project.pictures for person in picture.people]
    if project.options.names is not None:
        joints = list(project.options.names)
    elif listed:
        joints = [name for name in listed if name not in kinds]  # a rectangle's label is no joint
    else:
        joints = order_of([list(person.joints) for person in people])
        project.notes.say(
            f"the file does not list the joints: they are ordered as they were labelled, {', '.join(joints)} (--names gives "
            "another order)"
        )
    for kind in kinds:
        project.skeletons[kind] = Skeleton(tuple(joints))


# --------------------------------------------------------------------------------------------------------- COCO's layout


def contents(project: Project) -> dict[str, dict[str, Any]]:
    """The project as the contents of COCO files, by split ("" where the tool does not split).

    Boxes that the tool does not have are the extent of the labelled joints, enlarged on each side by a part
    (`jaxpose.labels.MARGIN`) of its longer side, and cut at the picture's border.

    Args:
        project: As a module of this package read it.

    Raises:
        ValueError: There is no picture, or nobody is labelled; joints that the skeleton does not have.
    """
    kinds = _used_kinds(project)
    ids = {kind: number for number, kind in enumerate(kinds, start=1)}
    categories = [_category(project.skeletons[kind], kind, number) for kind, number in ids.items()]
    files: dict[str, dict[str, Any]] = {}
    boxes_made = people_count = 0
    for image_id, picture in enumerate(project.pictures, start=1):
        of = files.setdefault(picture.split, {"images": [], "annotations": [], "categories": categories})
        width, height = picture.size_wh
        of["images"].append({"id": image_id, "file_name": picture.name, "width": width, "height": height})
        for person in picture.people:
            if person.kind not in ids:
                project.notes.add(NOBODY, repr(picture.name))
                continue
            if (keypoints := _keypoints(project, picture, person)) is None:
                continue
            labelled = sum(v > 0 for v in keypoints[2::3])
            box = person.box or labels.box_around(keypoints, picture.size_wh)
            if bad := bad_box([*box], picture.size_wh, strict=labelled > 0):
                origin = "" if person.box else "the extent of its joints, as "
                project.problems.add(bad[0], f"a person in {picture.name!r}: {origin}{bad[1]}")
                continue
            people_count += 1
            boxes_made += person.box is None
            annotation = {
                "id": people_count, "image_id": image_id, "category_id": ids[person.kind], "bbox": list(box),
                "keypoints": keypoints, "num_keypoints": labelled, "iscrowd": 0,
            }  # fmt: skip
            of["annotations"].append(
                annotation if person.individual is None else annotation | {"individual": person.individual}
            )
    if boxes_made:
        project.notes.say(
            f"{boxes_made} of {people_count} persons have no box: it is the extent of their joints and {100 * labels.MARGIN:.0f} % of "
            "its longer side more on each side"
        )
    _check_anybody(project, files)
    return files


def _used_kinds(project: Project) -> list[str]:
    """The kinds of person that occur, of which --category may choose one."""
    counts = Counter(person.kind for picture in project.pictures for person in picture.people if person.joints)
    return [kind for kind in project.skeletons if counts[kind]] or list(project.skeletons)


def _check_anybody(project: Project, files: dict[str, dict[str, Any]]) -> None:
    """Raises an error where nothing is left to train on, with what was left out."""
    if any(annotation["num_keypoints"] for content in files.values() for annotation in content["annotations"]):
        return
    reasons = [kind.replace("{n}", str(count)) for kind, count in project.notes.counts.items()]
    reasons += [
        f"{count} left out ({kind}), such as: {project.problems.examples[kind][0]}"
        for kind, count in project.problems.counts.items()
    ]
    examples = [text for texts in project.notes.examples.values() for text in texts][:2]
    raise ValueError(
        f"{project.path} holds no labelled person whose picture is there: {'; '.join(reasons) or 'it is empty'}"
        + (f", for example {', '.join(examples)}" if examples else "")
    )


def _category(skeleton: Skeleton, kind: str, number: int) -> dict[str, Any]:
    index = {name: i for i, name in enumerate(skeleton.joints, start=1)}
    edges = [[index[a], index[b]] for a, b in skeleton.edges if a in index and b in index and a != b]
    return {"id": number, "name": kind, "keypoints": list(skeleton.joints), "skeleton": edges, **skeleton.extra}


def _keypoints(project: Project, picture: Picture, person: Person) -> list[float] | None:
    """x, y, visibility of all joints; None for a person that is left out."""
    joints = project.skeletons[person.kind].joints
    unknown = [name for name in person.joints if name not in joints]
    if unknown:
        project.problems.add(
            "unknown joint",
            f"{picture.name!r} has a joint {unknown[0]!r}, which is not one of {', '.join(joints)}; give all names in order with "
            "--names, or rename it",
        )
    flat: list[float] = []
    for name in joints:
        x, y, v = person.joints.get(name, (0, 0, 0))
        if not is_number(x) or not is_number(y):
            project.problems.add(
                "coordinate not finite", f"joint {name!r} in {picture.name!r} is at {x}, {y}: expected finite numbers"
            )
            x, y, v = 0, 0, 0
        flat += (x, y, v)
    if any(flat[2::3]):
        return flat
    project.notes.add(NOBODY, repr(picture.name))
    return flat if person.box is not None else None  # with a box it masks its place in whole pictures


def shifted(content: dict[str, Any]) -> dict[str, Any]:
    """The contents of a COCO file with half a pixel subtracted from joints and boxes."""
    annotations = []
    for annotation in content.get("annotations", []):
        if not isinstance(annotation, dict):  # the reader says what is wrong with it
            annotations.append(annotation)
            continue
        keypoints, box = labels.flat(annotation.get("keypoints")), annotation.get("bbox")
        if isinstance(keypoints, list):
            moved = [
                v - HALF_PIXEL
                if i % 3 < 2 and is_number(v) and any(keypoints[3 * (i // 3) + 2 : 3 * (i // 3) + 3])
                else v
                for i, v in enumerate(keypoints)
            ]
            annotation = annotation | {"keypoints": moved}
        if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
            annotation = annotation | {"bbox": [box[0] - HALF_PIXEL, box[1] - HALF_PIXEL, *box[2:]]}
        annotations.append(annotation)
    return content | {"annotations": annotations}


# ------------------------------------------------------------------------------------------------------ numbers and files


def number(text: Any) -> float | None:
    """The finite number that a value is or a text writes, or None.

    >>> number("1.5"), number(2), number("nan"), number("1_0"), number(True), number(None)
    (1.5, 2.0, None, None, None, None)
    """
    if isinstance(text, str):
        try:
            text = None if "_" in text else float(text)
        except ValueError:
            return None
    return float(text) if is_number(text) and math.isfinite(text) else None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, whose scalars are all texts; nothing in the file is executed or expanded.

    Raises:
        ValueError: It is too large, also by aliases of aliases, no YAML, or no mapping.
    """
    import yaml  # flax and orbax need it too

    if path.stat().st_size > MOST_YAML:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: expected the settings of a labelling project")
    try:
        # BaseLoader makes texts, lists and dictionaries only, and does not expand merge keys.
        value = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a YAML file: {' '.join(str(error).split())[:300]}; correct it") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no names with values: expected the settings of a labelling project")
    if _written_out(value, {}) > MOST_YAML:
        raise ValueError(f"{path} has aliases of aliases, which would be {MOST_YAML} values or more: write them out")
    return value


def _written_out(value: Any, counts: dict[int, int]) -> int:
    """The number of values in nested lists and mappings without aliases; `counts` holds those of the shared ones."""
    if not isinstance(value, (list, dict)):
        return 1
    if id(value) not in counts:
        inner = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_written_out(entry, counts) for entry in inner)
    return counts[id(value)]


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds a tree of a document without declarations of its own, which could expand to any size."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which could declare entities")


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file without a DOCTYPE: a file that declares entities of its own is refused.

    Raises:
        ValueError: It is no XML, or has a DOCTYPE.
    """
    try:
        parser = ElementTree.XMLParser(target=_NoDoctype())
        return ElementTree.parse(path, parser).getroot()
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise ValueError(
            f"{path} is not an XML file that is read here: {error}; export it again from the labelling tool"
        ) from None


def chunks(values: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    """Consecutive parts of a sequence, of `count` values each."""
    return (values[i : i + count] for i in range(0, len(values), count))
