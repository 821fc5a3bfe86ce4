"""CVAT's XML: "CVAT for images 1.1" and "CVAT for video 1.1".

People are skeletons, whose points come in any order, or bare points: those of one ``group_id`` are one person, and a
points shape with several points is a person by itself. The box of the same group is the person's. ``outside`` is not
labelled, ``occluded`` is hidden. The order of joints is that of the labels in the file's ``meta``, the edges are those
of the skeleton's drawing.

Pictures lie in ``images/``, where CVAT's export has them, or beside the XML; those of a video are its frames, with
their numbers in their names (``frame_000012.png``), as the export with images has them. A project's subsets Train,
Validation and Test are splits.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, fromstring

from jaxpose.data.labels.project import (
    Options,
    Person,
    Picture,
    Pictures,
    Project,
    Skeleton,
    number,
    one_kind,
    picture_files,
    picture_size,
    read_xml,
)  # fmt: skip

CONTENT = "CVAT's XML (CVAT for images 1.1, or for video 1.1), or a folder with one"
KIND = "person"
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
PLACES = ("images", "images/default", "images/Train", "images/Validation", "")
Joint = tuple[str, tuple[float, float, int]]


def recognises(path: Path) -> bool:
    """Whether a path is such an XML, or a folder with one."""
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path] if path.suffix.lower() == ".xml" else []
    return [file for file in files if b"<annotations" in file.open("rb").read(1 << 12).replace(b"\0", b"")]


def read(path: Path, options: Options) -> Project:
    """Reads an export.

    Args:
        path: The XML, or the folder that holds it.
        options: Choices in reading.

    Raises:
        FileNotFoundError: No such XML, or several.
        ValueError: The file is wrong, and where; it has a DOCTYPE.
    """
    files = _files(path) if path.is_dir() else [path]
    if len(files) != 1:
        raise FileNotFoundError(
            f"{path} has {len(files)} files of CVAT ({', '.join(f.name for f in files) or 'none'}): name one"
        )
    file = files[0]
    tree = read_xml(file)
    if tree.tag != "annotations":
        raise ValueError(f"{file} begins with <{tree.tag}>: expected <annotations>, as CVAT exports it")
    images, tracks = tree.findall("image"), tree.findall("track")
    if not images and not tracks:
        raise ValueError(
            f"{file} has no <image> and no <track>: export it from CVAT as CVAT for images 1.1, or for video 1.1"
        )
    project = Project(file, file.parent, options)
    reader = _Reader(project, tree)
    if images:
        reader.read_images(images)
    if tracks:
        reader.read_tracks(tracks, tree)
    reader.finish()
    return project


class _Reader:
    """Reads the people of an XML file."""

    def __init__(self, project: Project, tree: Element):
        self.project, self.file = project, project.path
        self.skeletons = _skeletons(tree)
        self.bare = _bare_labels(tree)
        self.box_labels: set[str] = set()

    def read_images(self, images: Sequence[Element]) -> None:
        """Reads the <image> elements of an XML of images."""
        names = [image.get("name", "") for image in images]
        self.project.root = _root(self.file.parent, names)
        pictures = Pictures(self.project.root, self.project)
        for image, name in zip(images, names, strict=True):
            people = self._people(list(image), f"image {name!r}")
            if people is None:
                continue
            if not people:
                self.project.unlabelled(name)
                continue
            subset = image.get("subset", "")
            file = pictures.find(name, anywhere=True)
            if file is None:
                self.project.missing(name)
                continue
            split = SPLITS.get(subset.lower(), "")
            self.project.add(Picture(file, _size(image), people, split=split), entry=f"image id {image.get('id')}")
        if len({picture.split for picture in self.project.pictures}) > 1:
            for picture in self.project.pictures:
                picture.split = picture.split or "train"

    def read_tracks(self, tracks: Sequence[Element], tree: Element) -> None:
        """Reads the <track> elements of an XML of a video: the shapes of each frame are those of a picture."""
        frames: dict[int, list[tuple[Element, str | None]]] = defaultdict(list)
        interpolated = 0
        for track in tracks:
            for shape in track:
                frame = number(shape.get("frame"))
                if frame is None or frame < 0 or frame != int(frame):
                    message = (
                        f"track {track.get('id')} has a shape at frame {shape.get('frame')!r}: expected a whole number"
                    )
                    self.project.problems.add("frame without a number", message)
                    continue
                if shape.get("outside") != "1":
                    interpolated += shape.get("keyframe") == "0"
                    shape.set("label", shape.get("label") or track.get("label") or "")
                    if shape.get("group_id") is None and track.get("group_id") is not None:
                        shape.set("group_id", track.get("group_id"))
                    frames[int(frame)].append((shape, track.get("id")))
        if interpolated:
            self.project.notes.say(
                f"{interpolated} shapes are no keyframes: CVAT interpolated them, and they are read as labels"
            )
        size = tree.find(".//meta//original_size")
        stated = None if size is None else tuple(int(number(size.findtext(side)) or 0) for side in ("width", "height"))
        files = _frames(self.file.parent)
        for frame, shapes in sorted(frames.items()):
            people = self._people(
                [shape for shape, _ in shapes], f"frame {frame}", tracks=[track for _, track in shapes]
            )
            if not people:
                continue
            paths = files.get(frame, ())
            if len(paths) > 1:
                message = f"frame {frame} is {', '.join(map(str, paths[:2]))}: expected the pictures of one video; export task by task"
                self.project.problems.add("picture of a frame ambiguous", message)
                continue
            if not paths:
                self.project.missing(f"images/frame_{frame:06d}.png")
                continue
            name = paths[0].relative_to(self.project.root).as_posix()
            if stated is None:
                stated = picture_size(paths[0])
            self.project.add(Picture(name, stated, people), entry=f"frame {frame}")

    def finish(self) -> None:
        """Sets the skeletons of the kinds that occur."""
        project, names = self.project, self.project.options.names
        for kind, skeleton in self.skeletons.items():
            project.skeletons[kind] = skeleton if names is None else Skeleton(names, skeleton.edges)
        bare = [name for name in self.bare if name not in self.box_labels]
        for kind in one_kind(project, default=KIND):
            if kind not in project.skeletons:
                project.skeletons[kind] = Skeleton(tuple(names or bare))
                if names is None and not bare and project.pictures:  # without pictures, that is what is said
                    raise ValueError(
                        f"{self.file} does not list the joints of {kind!r} (meta, labels), and its points come in any order: give all "
                        "names in order with --names"
                    )

    def _people(
        self, shapes: Sequence[Element], where: str, *, tracks: Sequence[str | None] = ()
    ) -> list[Person] | None:
        """The people of a picture; None where a shape is wrong."""
        people: list[Person] = []
        groups: dict[str, list[Joint]] = defaultdict(list)
        skeletons: dict[str, list[Person]] = defaultdict(list)
        boxes: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = defaultdict(list)
        for i, shape in enumerate(shapes):
            individual = tracks[i] if i < len(tracks) else None
            group, label = shape.get("group_id") or "0", shape.get("label", "")
            if shape.tag == "skeleton":
                joints = self._joints(shape, where)
                if joints is None:
                    return None
                people.append(Person(joints, label, individual=individual))
                if group != "0":
                    skeletons[group].append(people[-1])
            elif shape.tag == "points" and ";" in shape.get("points", ""):
                person = self._ordered(shape, where)
                if person is None:
                    return None
                person.individual = individual
                people.append(person)
            elif shape.tag == "points":
                joint = _point(shape)
                if joint is None:
                    self._wrong_point(shape, where)
                    return None
                if joint[2]:
                    groups[group].append((label, joint))
            elif shape.tag == "box":
                corners = [number(shape.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")]
                self.box_labels.add(label)
                if None not in corners:
                    x, y, right, bottom = corners
                    boxes[group].append((label, (x, y, right - x, bottom - y)))
            else:
                self.project.notes.add(
                    "{n} shapes are neither skeletons, points nor boxes, and were left out", f"{shape.tag} of {where}"
                )
        for group, members in skeletons.items():
            if len(members) == len(boxes.get(group, ())) == 1:
                members[0].box = boxes.pop(group)[0][1]
        grouped = self._grouped(groups, boxes, where)
        return None if grouped is None else people + grouped

    def _joints(self, skeleton: Element, where: str) -> dict[str, tuple[float, float, int]] | None:
        """The joints of a skeleton by name."""
        joints: dict[str, tuple[float, float, int]] = {}
        seen: set[str] = set()
        for points in skeleton.findall("points"):
            name, joint = points.get("label", ""), _point(points)
            if joint is None:
                self._wrong_point(points, where)
                return None
            if name in seen:
                self.project.problems.add("joint twice", f"{where} has a skeleton with two points {name!r}")
                return None
            seen.add(name)
            if joint[2]:
                joints[name] = joint
        return joints

    def _ordered(self, shape: Element, where: str) -> Person | None:
        """The person of a points shape with several points, which have no names of their own."""
        names = self.project.options.names
        texts = shape.get("points", "").split(";")
        if names is None:
            raise ValueError(
                f"{self.file}: {where} has a points shape of {len(texts)} points, which have no names: give them in order with --names"
            )
        points = [[number(v) for v in text.split(",")] for text in texts]
        if len(points) != len(names) or any(len(p) != 2 or None in p for p in points):
            self.project.problems.add(
                "wrong number of points",
                f"{where} has a points shape of {len(points)} points: expected {len(names)} x,y (--names)",
            )
            return None
        v = 1 if shape.get("occluded") == "1" else 2
        return Person({n: (x, y, v) for n, (x, y) in zip(names, points, strict=True)}, shape.get("label") or KIND)

    def _wrong_point(self, points: Element, where: str) -> None:
        message = f"{where} has a point {points.get('label')!r} at {points.get('points', '')[:50]!r}: expected two numbers x,y"
        self.project.problems.add("point wrong", message)

    def _grouped(self, groups: Mapping[str, list[Joint]], boxes: Mapping[str, list], where: str) -> list[Person] | None:
        """A person for each group of bare points. Without groups all points of a picture are one person."""
        people = []
        for group, joints in groups.items():
            name, count = Counter(name for name, _ in joints).most_common(1)[0]
            if count > 1:
                self.project.problems.add(
                    "people not told apart",
                    f"{where} has {count} points {name!r} " + (f"in group {group}" if group != "0" else "without a group")
                    + ": group the points of each person in CVAT (G)",
                )  # fmt: skip
                return None
            own = boxes.get(group, [])
            kind, box = own[0] if len(own) == 1 else ("", None)
            people.append(Person(dict(joints), kind, box=box))
        for group, own in boxes.items():
            if group not in groups and self.bare:
                people += [Person({}, kind, box=box) for kind, box in own]
        return people


def _point(points: Element) -> tuple[float, float, int] | None:
    """x, y and the visibility of a point; (0, 0, 0) outside, None where it is wrong."""
    if points.get("outside") == "1":
        return 0.0, 0.0, 0
    xy = [number(v) for v in points.get("points", "").split(",")]
    if len(xy) != 2 or None in xy:
        return None
    return xy[0], xy[1], 1 if points.get("occluded") == "1" else 2


def _size(image: Element) -> tuple[int, int]:
    width, height = (number(image.get(side)) or 0 for side in ("width", "height"))
    return int(width), int(height)


def _labels(tree: Element) -> Iterator[Element]:
    """The labels that the file's meta lists."""
    meta = tree.find("meta")
    return iter(()) if meta is None else meta.iter("label")


def _skeletons(tree: Element) -> dict[str, Skeleton]:
    """The joints and edges of every skeleton in meta."""
    parts: dict[str, list[str]] = {}
    drawings: dict[str, str] = {}
    for label in _labels(tree):
        name, parent = label.findtext("name") or "", label.findtext("parent")
        if label.findtext("type") == "skeleton":
            parts.setdefault(name, [])
            drawings[name] = label.findtext("svg") or ""
        elif parent:
            of = parts.setdefault(parent, [])
            if name not in of:
                of.append(name)
    return {
        name: Skeleton(tuple(joints), _edges(drawings.get(name, ""), joints))
        for name, joints in parts.items()
        if joints
    }


def _edges(svg: str, joints: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The edges of a skeleton's drawing, whose nodes count from 1."""
    if "<!" in svg:  # no declarations
        return ()
    try:
        drawing = fromstring(f"<svg>{svg}</svg>")
    except ParseError:
        return ()
    nodes = {
        node.get("data-node-id"): node.get("data-label-name") for node in drawing.iter() if node.get("data-node-id")
    }

    def joint(node: str | None) -> str | None:
        if nodes.get(node):
            return nodes[node]
        return (
            joints[int(node) - 1]
            if node and re.fullmatch("[1-9][0-9]{0,3}", node) and int(node) <= len(joints)
            else None
        )

    lines = [(joint(line.get("data-node-from")), joint(line.get("data-node-to"))) for line in drawing.iter("line")]
    return tuple((a, b) for a, b in lines if a in joints and b in joints)


def _bare_labels(tree: Element) -> list[str]:
    """The labels of bare points, in the order of meta: those of points, where labels say what they are of."""
    labels = [label for label in _labels(tree) if not label.findtext("parent") and label.findtext("type") != "skeleton"]
    types = [label.findtext("type") or "any" for label in labels]
    wanted = ("points",) if "points" in types else ("points", "any")
    return list(
        dict.fromkeys(label.findtext("name") or "" for label, kind in zip(labels, types, strict=True) if kind in wanted)
    )


def _root(folder: Path, names: Sequence[str]) -> Path:
    """The folder that the pictures' names are relative to."""
    for place in PLACES:
        if any(
            (folder / place / name).is_file()
            for name in names[:50]
            if name and ".." not in name and not name.startswith("/")
        ):
            return folder / place
    return folder


def _frames(folder: Path) -> dict[int, list[Path]]:
    """The frames of a video among the pictures of a folder, by the numbers that their names end in."""
    frames: dict[int, list[Path]] = defaultdict(list)
    place = next((folder / name for name in ("images", "frames") if (folder / name).is_dir()), folder)
    for path in picture_files(place):
        if match := re.search(r"([0-9]+)$", path.stem):
            frames[int(match.group(1)[-15:])].append(path)
    return frames
