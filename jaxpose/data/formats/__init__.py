"""Label formats: one module per format, which finds, reads and checks the files of a data set.

    reader = formats.choose("auto", folder, split="train")        # or formats.reader("coco")
    source = reader.read(*reader.find(folder, "train"))

A new format is one module in this folder that implements `Reader`, and its name in `Format`. Nothing else knows the
formats by name: commands and pages take `Format | Literal["auto"]` and pass it to `choose`.

``coco`` reads COCO's JSON with any skeleton, ``mpii`` MPII's JSON of HRNet and mmpose, ``crowdpose`` CrowdPose's,
``coco_wholebody`` the 133 joints of COCO-WholeBody, ``rhd`` the hands of RHD as it is distributed, ``rhd_mmpose`` mmpose's
JSON of them, ``coco_3d`` COCO's with joints in space, ``human36m`` Human3.6M's of the single-stage codes. ``layout`` holds
shared functions that locate files.
"""

from __future__ import annotations

import importlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from jaxpose.data.formats import layout
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.data.source import Source
from jaxpose.skeleton import Skeleton

__all__ = ["Choice", "Format", "Reader", "choose", "guess", "reader"]

Format = Literal["coco", "mpii", "crowdpose", "coco_wholebody", "rhd", "rhd_mmpose", "coco_3d", "human36m"]
"""The formats, named like the modules of this package."""
Choice = Format | Literal["auto"]
"""Values of a flag `--format`: a format, or "auto" for the one that the files show."""

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """The interface of a module that reads a format.

    Two paths identify a split: `annotations`, the file of its labels (or a folder, if a format has one file per image or
    per video), and `images`, the folder that its file names are relative to (or the label file again, if that holds the
    images). The conversion of labels to persons is up to the format: `read` returns any `Source`.
    """

    __name__: str
    CONTENT: str
    """The content of a label file of this format, to complete the sentence "this format is ..." in messages."""

    def find(
        self, folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
    ) -> tuple[Path, Path]:
        """Locates the labels and the images of a split.

        A format whose files hold all splits returns the same paths for each; `read` gets the name of the split too.

        Args:
            folder: The data set's folder.
            split: The name of the split.
            annotations: The labels; None looks for them.
            images: The image folder; None looks for it.

        Returns:
            (annotations, images).

        Raises:
            FileNotFoundError: One of the two is missing or ambiguous; the message names what was looked for and what is
                there. Missing labels are a `jaxpose.data.formats.layout.NoAnnotations`.
        """

    def recognises(self, annotations: str | Path) -> bool:
        """Tells whether labels have this format, from their content, in a time that does not grow with it.

        At most one format recognises a file. A damaged file may be recognised; `read` reports what is wrong with it.

        Args:
            annotations: Labels that exist.
        """

    def own_skeleton(self, annotations: str | Path, *, category: str | int | None = None) -> Skeleton | None:
        """Returns the skeleton that `read` takes by default, or None if there is none in the labels.

        Args:
            annotations: The labels.
            category: The name or id of the category, if there are several.
        """

    def read(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        split: str | None = None,
        skeleton: Skeleton | None = None,
        category: str | int | None = None,
        on_bad: Literal["error", "skip"] = "error",
        reading: Reading = AS_IT_FITS,
    ) -> Source:
        """Reads and checks the labels of a split.

        Args:
            annotations: The labels.
            images: The image folder.
            split: The name of the split, for formats whose labels hold all of them; others ignore it.
            skeleton: The skeleton to use; None takes that of the labels.
            category: The name or id of the category, if there are several.
            on_bad: "error", or "skip" to leave a bad image or person out, counted in `Source.skipped` and logged.
            reading: Choices in reading the files, such as the pairs of left and right.

        Raises:
            FileNotFoundError, ValueError: A file is missing or wrong; the message names the file, the entry and what to
                do.
        """

    def ground_truth(self, annotations: str | Path, images: str | Path, *, split: str | None = None) -> Any:
        """Returns the labels as `jaxpose.evaluation` reads them: the path of a COCO file, or its contents.

        Args:
            annotations: The labels.
            images: The image folder.
            split: The same as in `read`.
        """


def reader(format: Format) -> Reader:
    """Returns the module that reads a format.

    Args:
        format: One of `Format`.

    Raises:
        ValueError: There is no such format.

    >>> reader("mpii").own_skeleton("annot/valid.json").name
    'mpii16'
    """
    if format not in get_args(Format):
        raise ValueError(f"format {format!r}: expected one of {', '.join(get_args(Format))}")
    return importlib.import_module(f"{__name__}.{format}")


def choose(format: Choice, folder: str | Path | None, split: str, *, annotations: str | Path | None = None) -> Reader:
    """Returns the reader of the given format, or with "auto" that of the format which the files show.

    A format detected by "auto" is logged, unless it is COCO's.

    Args:
        format: One of `Format`, or "auto".
        folder, split, annotations: The same as in `guess`.

    Raises:
        FileNotFoundError, ValueError: The same as for `reader` and `guess`.
    """
    if format != "auto":
        return reader(format)
    name = guess(folder, split, annotations=annotations)
    if name != "coco":
        _log_format(str(annotations or folder), name)
    return reader(name)


@lru_cache(maxsize=64)  # a run opens its folder several times
def _log_format(path: str, name: str) -> None:
    logger.warning("%s: read as %s (format, or --format, chooses another)", path, name)


def guess(folder: str | Path | None, split: str, *, annotations: str | Path | None = None) -> Format:
    """Detects the format of a folder: the one that locates labels of the split there and recognises their content.

    Args:
        folder: The data set's folder; None if `annotations` is given.
        split: The name of the split.
        annotations: The labels; None looks for them.

    Returns:
        The name of the format.

    Raises:
        FileNotFoundError: There are no labels of the split in any format's layout; the message names what was looked for.
        ValueError: No format recognises the labels, or there are labels of several formats.

    >>> guess("no_such_folder", "train")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the annotations and the images
    """
    candidates: dict[str, Path] = {}
    missing: dict[str, layout.NoAnnotations] = {}
    for name in get_args(Format):
        try:
            candidates[name] = _labels_of(name, folder, split, annotations)
        except layout.NoAnnotations as error:
            missing[name] = error
    formats = [name for name, path in candidates.items() if reader(name).recognises(path)]
    if len(formats) == 1:
        return formats[0]
    advice = "give the format (format=..., or --format)"
    if formats:
        named = ", ".join(f"{name} ({candidates[name]})" for name in formats)
        raise ValueError(f"split {split!r} of {folder} has annotations in several formats, {named}: {advice}")
    if candidates:
        paths = ", ".join(dict.fromkeys(map(str, candidates.values())))
        if empty := [path for path in candidates.values() if path.is_file() and not path.stat().st_size]:
            raise ValueError(
                f"{empty[0]} is empty: expected the annotations of split {split!r}; copy or download it again"
            )
        for path in dict.fromkeys(candidates.values()):
            if (
                path.suffix == ".json"
                and path.is_file()
                and (end := layout.edges(path).rstrip()[-20:])[-1:] not in ("}", "]")
            ):
                raise ValueError(
                    f"{path} is cut off: a JSON file ends with }} or ], this one with {end!r}; copy or download it again"
                )
        expected = (
            candidates if len(candidates) == 1 else get_args(Format)
        )  # one: the file has the name of this format's
        contents = "; ".join(f"{name} is {reader(name).CONTENT}" for name in expected)
        raise ValueError(f"{paths} is in no known format ({contents}): convert it, or {advice}")
    several = [error for error in missing.values() if error.several]
    if several:
        raise several[0]
    folder = Path(folder)
    layouts: dict[tuple[Path, ...], str] = {}  # formats with the same layouts are listed once
    for name, error in sorted(missing.items(), key=lambda item: not item[0].startswith("rhd")):  # those of persons last
        layouts.setdefault(tuple(error.looked_for), name)
    looked_for = "; ".join(
        f"{', '.join(str(path.relative_to(folder)) for path in paths)} ({name})" for paths, name in layouts.items()
    )
    raise FileNotFoundError(
        f"no annotations for split {split!r} in {folder}: looked for {looked_for}; there is "
        f"{', '.join(_json_files(folder)) or 'no JSON file'}. Rename the file, or give its path "
        "(annotations=..., or jaxpose prepare --annotations)"
    )


def _labels_of(name: Format, folder: str | Path | None, split: str, annotations: str | Path | None) -> Path:
    """Returns the path where a format's reader locates the labels of a split, without looking for the images."""
    if annotations is not None:
        path = Path(annotations)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: name the annotation file")
        return path
    folder = layout.folder_of(folder, holds="that holds the annotations and the images")
    return reader(name).find(folder, split, images=folder)[0]


def _json_files(folder: Path) -> list[str]:
    """Returns the names of the JSON files in a folder and its subfolders, for messages."""
    return [
        str(path.relative_to(folder)) for pattern in ("*.json", "*/*.json") for path in sorted(folder.glob(pattern))
    ]
