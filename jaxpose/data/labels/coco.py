"""COCO's JSON, which needs no conversion: it is taken as it is, with its pictures where the file or the layout says.

"COCO Keypoints 1.0" of CVAT and the exports of many tools are such files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxpose.data.formats import coco, layout
from jaxpose.data.labels.project import Options, Project
from jaxpose.files import read_json

CONTENT = "a JSON in COCO's format, or a folder in one of its layouts"


def recognises(path: Path) -> bool:
    """Whether a path is such a JSON, or a folder with one."""
    if path.is_file():
        return path.suffix.lower() == ".json" and _is_coco(path)
    return bool(_splits(path)) or len(_jsons(path)) > 0


def _is_coco(file: Path) -> bool:
    text = layout.edges(file)
    return (
        text.startswith("{") and '"images"' in text and any(f'"{key}"' in text for key in ("annotations", "categories"))
    )


def _splits(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The JSON and the image folder of each split of a layout."""
    paths_by_split = {}
    for split in ("train", "val", "test"):
        try:
            paths = coco.find(folder, split)
        except FileNotFoundError:
            continue
        if _is_coco(paths[0]):
            paths_by_split[split] = paths
    return paths_by_split


def _jsons(folder: Path) -> list[Path]:
    return [f for f in (*sorted(folder.glob("*.json")), *sorted(folder.glob("annotations/*.json"))) if _is_coco(f)]


def read(path: Path, options: Options) -> CocoProject:
    """Finds the files of a set.

    Args:
        path: The JSON, or the folder.
        options: Choices in reading; names must be those of the file, if any are given.

    Raises:
        FileNotFoundError: No JSON, or no pictures.
        ValueError: Several JSON files and no layout of splits; other joints than the names given.
    """
    splits = _splits(path) if path.is_dir() else {}
    if not splits:
        files = [path] if path.is_file() else _jsons(path)
        if len(files) != 1:
            raise ValueError(
                f"{path} has {len(files)} JSON files of COCO's format ({', '.join(f.name for f in files)}): name one"
            )
        content = read_json(files[0], "annotation file (--labels)")
        images = content.get("images") if isinstance(content, dict) else None
        names = [str(image.get("file_name")) for image in images or () if isinstance(image, dict)]
        if not names:
            raise ValueError(f"{files[0]} names no pictures: expected COCO's 'images', with annotations and categories")
        splits = {"": (files[0], layout.pictures_of(files[0], names))}
    project = CocoProject(path, next(iter(splits.values()))[1], options)
    for split, (file, images) in splits.items():
        content = read_json(file, "annotation file (--labels)")
        project.add_file(split, file, content, images)
    return project


class CocoProject(Project):
    """A set that is in COCO's format already."""

    def __init__(self, path: Path, root: Path, options: Options):
        super().__init__(path, root, options)
        self.files: dict[str, dict[str, Any]] = {}
        self.roots: dict[str, Path] = {}

    def add_file(self, split: str, file: Path, content: Any, images: Path) -> None:
        """Adds the JSON of a split.

        Raises:
            ValueError: It is not COCO's; its joints are not the names given.
        """
        if not isinstance(content, dict) or not all(
            isinstance(content.get(k), list) for k in ("images", "annotations")
        ):
            raise ValueError(
                f"{file} is not in COCO's format: expected the lists 'images', 'annotations' and 'categories'"
            )
        names = self.options.names
        for category in content.get("categories") or () if names is not None else ():
            own = category.get("keypoints") if isinstance(category, dict) else None
            if isinstance(own, list) and own and own != list(names):
                raise ValueError(
                    f"{file} names the joints of {category.get('name')!r} itself ({', '.join(map(str, own))}): leave out --names"
                )
        if names is not None:
            content = content | {
                "categories": [
                    c | {"keypoints": list(names)} if isinstance(c, dict) else c
                    for c in content.get("categories") or ()
                ]
            }
        self.files[split], self.roots[split] = content, images
