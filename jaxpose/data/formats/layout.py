"""Functions that locate the annotation JSON and the image folder of a split, shared by the readers of all formats."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jaxpose.files import local

__all__ = ["NoAnnotations", "edges", "folder_of", "images_of", "locate", "only_one", "pictures_of"]

EDGE = 1 << 16  # the number of bytes from which a format is recognised
SOME = 5  # the number of pictures that must exist for a folder to be the one that a JSON means


class NoAnnotations(FileNotFoundError):
    """There is no annotation file of a split, or there are several.

    Attributes:
        looked_for: The paths that would have fitted.
        several: True if several files fit.

    >>> NoAnnotations("no annotations", looked_for=[Path("annot/val.json")]).several
    False
    """

    def __init__(self, message: str, *, looked_for: Iterable[Path], several: bool = False):
        super().__init__(message)
        self.looked_for, self.several = list(looked_for), several


def folder_of(folder: str | Path | None, *, holds: str) -> Path:
    """Returns the path of a data set's folder.

    Args:
        folder: The folder.
        holds: The expected contents of the folder, to complete the message if it does not exist.

    Raises:
        FileNotFoundError: The path is not a folder.
        ValueError: The path is a URL.

    >>> folder_of(".", holds="that holds annotations/")
    PosixPath('.')
    """
    if folder is None or not (path := local(folder)).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: name the folder {holds}")
    return path


def edges(path: str | Path) -> str:
    """Returns the text at the beginning and at the end of a JSON file, which contains the keys of its entries.

    Every list at the top level of a file of labels begins or ends there, however long the lists are, if at most one long
    list comes before it and at most one after it. So the format can be recognised without reading gigabytes.

    Args:
        path: The file, in UTF-8, UTF-16 or UTF-32.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "labels.json"
    >>> _ = path.write_text('{"images": []}')
    >>> edges(path)
    '{"images": []}'
    """
    with Path(path).open("rb") as file:
        head, size = file.read(EDGE), file.seek(0, os.SEEK_END)
        file.seek(max(EDGE, size - EDGE) // 4 * 4)  # aligned with characters of four bytes
        tail = file.read()
    return (head + tail).decode(json.detect_encoding(head), errors="replace").lstrip("\ufeff \t\r\n")


def locate(
    folder: str | Path,
    split: str,
    *,
    annotations: str | Path | None,
    images: str | Path | None,
    annotation_file: Callable[[Path, str], Path],
    image_folder: Callable[[Path, str, Path], Path],
    holds: str,
) -> tuple[Path, Path]:
    """Locates the annotation JSON and the image folder of a split; each is given, or located by its function.

    Args:
        folder: The data set's folder.
        split: The name of the split.
        annotations: The JSON; None looks for it.
        images: The image folder; None looks for it.
        annotation_file: Locates the JSON, given (folder, split).
        image_folder: Locates the image folder, given (folder, split, annotation JSON).
        holds: The expected contents of the folder, to complete the message if it does not exist.

    Raises:
        FileNotFoundError: `folder` is not a folder, or one of the two functions raised it.

    >>> beside = dict(annotation_file=lambda folder, split: folder / f"{split}.json", image_folder=images_of)
    >>> [str(path) for path in locate(".", "val", annotations="my.json", images="pictures", holds="it", **beside)]
    ['my.json', 'pictures']
    """
    folder = folder_of(folder, holds=holds)
    annotations = annotation_file(folder, split) if annotations is None else Path(annotations)
    return annotations, image_folder(folder, split, annotations) if images is None else Path(images)


def only_one(
    candidates: Sequence[Path],
    *,
    split: str,
    place: Path,
    looked_for: Iterable[str],
    listed: Sequence[Path],
    kind: str = "annotations",
) -> Path:
    """Returns the annotation file, if there is exactly one.

    Args:
        candidates: The files that fit.
        split: The name of the split.
        place: The folder that holds them; names in messages are relative to it.
        looked_for: The names that would have fitted.
        listed: The folders whose JSON files are named in messages.
        kind: The kind of annotations, with the format's name.

    Raises:
        NoAnnotations: There is no such file (the message names what was looked for and what is there), or there are
            several.

    >>> only_one([Path("a.json")], split="val", place=Path(), looked_for=["a.json"], listed=[]).name
    'a.json'
    """
    if len(candidates) == 1:
        return candidates[0]
    advice = "(annotations=..., or jaxpose prepare --annotations)"
    looked_for = list(looked_for)
    if candidates:
        names = ", ".join(str(path.relative_to(place)) for path in candidates)
        message = f"{place} holds several files for split {split!r} ({names}): give one {advice}"
        raise NoAnnotations(
            message, looked_for=[Path(os.path.normpath(place / name)) for name in looked_for], several=True
        )
    present = [str(path.relative_to(place)) for folder in listed for path in sorted(folder.glob("*.json"))]
    raise NoAnnotations(
        f"no {kind} for split {split!r} in {place}: looked for {', '.join(looked_for)}; there is "
        f"{', '.join(present) or 'no JSON file'}. Rename the file, or give its path {advice}",
        looked_for=[Path(os.path.normpath(place / name)) for name in looked_for],
    )


def images_of(folder: Path, split: str, annotations: Path) -> Path:
    """Returns ``images/``, which holds the images of all splits, or the data set's folder itself if the JSON lies in it.

    Args:
        folder: The data set's folder.
        split: The name of the split, which does not matter.
        annotations: The JSON.

    Raises:
        FileNotFoundError: Neither holds the images.

    >>> str(images_of(Path("no_such_folder"), "val", Path("no_such_folder/val.json")))
    'no_such_folder'
    """
    if (folder / "images").is_dir():
        return folder / "images"
    if annotations.parent.resolve() == folder.resolve():
        return folder
    raise FileNotFoundError(
        f"{annotations} has no image folder: looked for {folder / 'images'}; rename the folder, or give its path "
        "(images=..., or jaxpose prepare --images)"
    )


def pictures_of(annotations: Path, names: Sequence[str]) -> Path:
    """Returns the folder that the file names of an annotation file are relative to, among those near it.

    Args:
        annotations: the JSON.
        names: the file names in it, of which the first few are looked for.

    Raises:
        FileNotFoundError: no folder holds them.

    >>> pictures_of(Path("no_such_folder/labels.json"), [])
    PosixPath('no_such_folder')
    """
    home = annotations.parent
    roots = [
        home,
        home / "images",
        home / annotations.stem,
        home.parent,
        home.parent / "images",
        home.parent / annotations.stem,
    ]
    for root in roots:
        if all((root / name).is_file() for name in names[:SOME]):
            return root
    looked = ", ".join(str(root) for root in dict.fromkeys(roots))
    raise FileNotFoundError(f"{annotations} names {names[0]}, which is in none of {looked}")
