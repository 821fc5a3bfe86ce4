"""SLEAP's ``.slp`` and ``.pkg.slp`` files, through sleap-io (the extra ``labels``).

The order of joints, the edges and the symmetries are those of the skeleton in the file. A point that is not visible but
has a place is occluded. Predicted instances are left out. Pictures that lie beside the file are read there; those
inside it, or frames of a video that sleap-io can open, are written out. Pixels count from the centre of the first one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from jaxpose.data.labels.project import Options, Person, Picture, Pictures, Project, Skeleton, picture_size, png

CONTENT = "SLEAP's labels (.slp or .pkg.slp), or a folder with one such file"
KIND = "animal"


def recognises(path: Path) -> bool:
    """Whether a path is such a file, or a folder with one."""
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.slp"))
    return [path] if path.suffix.lower() == ".slp" else []


def read(path: Path, options: Options) -> Project:
    """Reads the labels of a file.

    Args:
        path: The file, or the folder that holds it.
        options: Choices in reading.

    Raises:
        ImportError: sleap-io is not installed.
        FileNotFoundError: No such file, or several.
        ValueError: It is none of SLEAP's files; a frame is wrong, and which.
    """
    files = _files(path)
    if len(files) != 1:
        raise FileNotFoundError(
            f"{path} has {len(files)} .slp files ({', '.join(f.name for f in files) or 'none'}): name one"
        )
    file = files[0]
    content = _load(file)
    project = Project(file, file.parent.resolve(), options)
    kinds = _kinds(content, project)
    frames = list(content.labeled_frames)
    if not frames:
        raise ValueError(f"{file} has no labelled frame: label some in SLEAP first")
    _set_root(project, frames)
    pictures, stems = Pictures(project.root, project), _stems(frames)
    for frame in frames:
        _add(project, pictures, frame, kinds, stems)
    return project


def _load(file: Path) -> Any:
    try:
        import sleap_io
    except ImportError:
        raise ImportError(
            f"{file} is read through sleap-io, which is not installed: pip install 'jaxpose[labels]'"
        ) from None
    try:
        content = sleap_io.load_slp(str(file))
        for video in content.videos:  # a video that was moved together with the file
            beside = file.parent / re.split(r"[/\\]", video.filename)[-1] if isinstance(video.filename, str) else file
            if beside != file and beside.is_file() and not os.path.exists(video.filename):
                video.replace_filename(str(beside))
        return content
    except Exception as error:  # HDF5 and JSON raise many types
        raise ValueError(
            f"{file} cannot be read as a SLEAP file ({type(error).__name__}: {str(error)[:200]}): save it again"
        ) from None


def _kinds(content: Any, project: Project) -> dict[int, str]:
    """The kind of person of each skeleton, by the identity of the object."""
    kinds: dict[int, str] = {}
    for skeleton in content.skeletons:
        names = tuple(str(node.name) for node in skeleton.nodes)
        base = str(skeleton.name or KIND)
        kind = base if base not in project.skeletons else f"{base} {len(kinds) + 1}"
        pairs = [
            sorted(map(str, (node.name for node in symmetry.nodes)), key=names.index)
            for symmetry in skeleton.symmetries
        ]
        edges = tuple((str(edge.source.name), str(edge.destination.name)) for edge in skeleton.edges)
        joints = project.options.names or names
        extra = {"flip_pairs": sorted(pairs)} if pairs and project.options.names is None else {}
        project.skeletons[kind] = Skeleton(tuple(joints), edges, extra)
        kinds[id(skeleton)] = kind
    return kinds


def _named(frame: Any) -> str | None:
    """The picture's own file name, where the video is a list of pictures."""
    video = frame.video
    for candidate in (video, getattr(video, "source_video", None)):
        names = getattr(candidate, "filename", None)
        if isinstance(names, (list, tuple)) and 0 <= frame.frame_idx < len(names):
            return str(names[frame.frame_idx])
    return None


def _is_embedded(frame: Any) -> bool:
    return bool(getattr(getattr(frame.video, "backend", None), "has_embedded_images", False))


def _set_root(project: Project, frames: list[Any]) -> None:
    """Takes the folder above all pictures for the root, where they are where the file says."""
    names = {name for frame in frames if not _is_embedded(frame) and (name := _named(frame))}
    places = [os.path.realpath(project.root / name) for name in names]
    if places and all(map(os.path.isfile, places)):
        project.root = Path(os.path.commonpath([str(project.root), *map(os.path.dirname, places)]))


def _add(project: Project, pictures: Pictures, frame: Any, kinds: dict[int, str], stems: dict[str, str]) -> None:
    """One frame with its people."""
    import sleap_io

    people, predicted = [], 0
    for instance in frame.instances:
        if isinstance(instance, sleap_io.PredictedInstance):
            predicted += 1
            continue
        people.append(_person(instance, kinds[id(instance.skeleton)]))
    name, size, data = _picture(project, pictures, frame, stems)
    for _ in range(predicted):
        project.notes.add("{n} predicted instances were left out: they are no labels", repr(name))
    if not any(person.joints for person in people):
        project.unlabelled(name)
    elif size is None:
        project.missing(name)
    else:
        project.add(Picture(name, size, people, data=data), entry=f"frame {frame.frame_idx}")


def _person(instance: Any, kind: str) -> Person:
    xy = instance.numpy(invisible_as_nan=False)
    visible = instance.points["visible"]
    names = [str(node.name) for node in instance.skeleton.nodes]
    joints = {
        name: (float(x), float(y), 2 if seen else 1)
        for name, (x, y), seen in zip(names, xy[:, :2], visible, strict=True)
        if x == x and y == y  # NaN: not labelled
    }
    return Person(joints, kind, individual=str(instance.track.name) if instance.track is not None else None)


def _picture(
    project: Project, pictures: Pictures, frame: Any, stems: dict[str, str]
) -> tuple[str, tuple[int, int] | None, Callable[[], bytes] | None]:
    """The picture's name, its size (None where it is missing) and, where it is not a file, its bytes."""
    named = _named(frame)
    if named is not None and not _is_embedded(frame):
        inside = os.path.relpath(os.path.realpath(project.root / named), project.root)
        file_name = (
            inside
            if not inside.startswith("..") and (project.root / inside).is_file()
            else pictures.find(named, anywhere=True)
        )
        if file_name is None:
            base = named.replace("\\", "/").rpartition("/")[2]
            file_name = pictures.find(base)
        if file_name is not None:
            return file_name, picture_size(project.root / file_name), None
        return named, None, None
    stem = stems[_origin(frame)]
    name = f"{stem}.png" if named is not None else f"{stem}/frame_{frame.frame_idx:06d}.png"
    try:
        pixels = frame.image
    except Exception:  # the video is missing, or no plugin reads it: many types
        pixels = None
    if pixels is None:
        return f"frame {frame.frame_idx} of {_video_name(frame)}", None, None
    return name, (int(pixels.shape[1]), int(pixels.shape[0])), lambda: png(frame.image)


def _video_name(frame: Any) -> str:
    video = getattr(frame.video, "source_video", None) or frame.video
    names = video.filename
    return str(names[0] if isinstance(names, (list, tuple)) and names else names)


def _origin(frame: Any) -> str:
    """The path of the picture that a frame was, or of its video."""
    return _named(frame) or _video_name(frame)


def _stems(frames: list[Any]) -> dict[str, str]:
    """Names without suffixes for the pictures and videos of the frames: their own, with as many folders as tell them apart."""
    origins = {origin: PurePosixPath(origin.replace("\\", "/")) for origin in map(_origin, frames)}
    for depth in range(1, 4):
        names = {
            origin: "/".join([*(part for part in path.parts[-depth:-1] if part not in ("/", "..", ".")), path.stem])
            for origin, path in origins.items()
        }
        if len(set(names.values())) == len(names):
            return names
    return {origin: f"{path.stem}_{i}" for i, (origin, path) in enumerate(origins.items())}
