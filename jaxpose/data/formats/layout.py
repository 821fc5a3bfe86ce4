"""Where the two files of a split lie, the annotation JSON and the image folder: what the readers of all formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jaxpose.files import local

__all__ = ["images_of", "locate", "only_one"]


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
    """The annotation JSON and the image folder of a split, each as given or as its function finds it.

    Args:
        folder: of the data set.
        split: its name.
        annotations, images: the JSON or the image folder, where it is not to be looked for.
        annotation_file: of (folder, split).
        image_folder: of (folder, split, annotation JSON).
        holds: what to name, for the message where `folder` is none.

    Raises:
        FileNotFoundError: `folder` is no folder; or what the two functions raise.

    >>> beside = dict(annotation_file=lambda folder, split: folder / f"{split}.json", image_folder=images_of)
    >>> [str(path) for path in locate(".", "val", annotations="my.json", images="pictures", holds="it", **beside)]
    ['my.json', 'pictures']
    """
    folder = local(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: name the folder {holds}")
    annotations = annotation_file(folder, split) if annotations is None else Path(annotations)
    return annotations, image_folder(folder, split, annotations) if images is None else Path(images)


def only_one(
    found: Sequence[Path],
    *,
    split: str,
    place: Path,
    looked_for: Iterable[str],
    listed: Sequence[Path],
    kind: str = "annotations",
) -> Path:
    """The one annotation file that was found.

    Args:
        found: the files that fit.
        split: for which they are.
        place: that holds them: names in messages are relative to it.
        looked_for: the names that would have fitted.
        listed: folders of which to name the JSON files that are there.
        kind: of annotations, with the format's name.

    Raises:
        FileNotFoundError: none (what was looked for and what is there), or several.

    >>> only_one([Path("a.json")], split="val", place=Path(), looked_for=["a.json"], listed=[]).name
    'a.json'
    """
    if len(found) == 1:
        return found[0]
    advice = "(annotations=..., or jaxpose prepare --annotations)"
    if found:
        there = ", ".join(str(path.relative_to(place)) for path in found)
        raise FileNotFoundError(f"{place} holds several files for split {split!r} ({there}): give one {advice}")
    present = [str(path.relative_to(place)) for folder in listed for path in sorted(folder.glob("*.json"))]
    raise FileNotFoundError(
        f"no {kind} for split {split!r} in {place}: looked for {', '.join(looked_for)}; there is "
        f"{', '.join(present) or 'no JSON file'}. Rename the file, or give its path {advice}"
    )


def images_of(folder: Path, split: str, annotations: Path) -> Path:
    """``images/`` of all splits; or the data set's folder itself, where the JSON lies in it.

    Raises:
        FileNotFoundError: neither.

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
