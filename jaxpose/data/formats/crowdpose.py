"""CrowdPose: reads and checks COCO's format with 14 joints, a crowd index for every image and no areas.

    source = crowdpose.read(*crowdpose.find("path/to/crowdpose", "test"))                    # as it is, or prepared once:
    source = builder.prepare("path/to/crowdpose", split="test", data_dir="prepared", reader=crowdpose)

Reading is `jaxpose.data.formats.coco.read`, with these differences:

joints
    The 14 of `jaxpose.skeleton.CROWDPOSE14`; its category entries name COCO's edges, so they are not used.
area
    It is not annotated: `jaxpose.metrics.AREA_OF_BOX` of the box is taken, which is CrowdPose's own constant.
crowdIndex
    A property of an image: how much its persons overlap. It stays in the ground truth (``images``), where
    `jaxpose.evaluation.crowdpose_average_precision` uses it to find the easy, medium and hard images.
num_keypoints
    Stays as in the file, unlike COCO's: it does not count every labelled joint (in the samples at hand not head and
    neck), and the published evaluation leaves out the persons where it is 0. Training uses the labelled joints.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Literal

from jaxpose.data.checks import is_number
from jaxpose.data.formats import coco, layout
from jaxpose.data.reading import AS_IT_FITS, Reading
from jaxpose.files import read_json
from jaxpose.skeleton import CROWDPOSE14, Skeleton

__all__ = ["CONTENT", "find", "ground_truth", "own_skeleton", "read", "recognises"]

CONTENT = "as COCO's, with a 'crowdIndex' for every image"

PLACES = ("json", "annotations", "")  # subfolders of the data set's folder

logger = logging.getLogger(__name__)


def find(
    folder: str | Path, split: str, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Locates the annotation JSON and the image folder of a split.

    Layouts, with S the split: ``json/crowdpose_S.json`` with ``images/`` (HigherHRNet, SWAHR);
    ``annotations/mmpose_crowdpose_S.json`` with ``images/`` (mmpose); and in these folders or the data set's own any
    JSON among the words of whose name are "crowdpose" and S, but not "det" (detected boxes), as ``S_crowdpose.json``,
    or that is called ``S.json``. The images may also lie beside a JSON in the folder itself.

    Args:
        folder: The data set's folder.
        split: The name of the split: "train", "val", "trainval", "test", or the name of a JSON, without its ending.
        annotations: The JSON; None looks for it.
        images: The image folder; None looks for it.

    Returns:
        (path of the JSON, path of the image folder).

    Raises:
        FileNotFoundError: One of the two is missing; the message names what was looked for and what is there.

    >>> find("no_such_folder", "test")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder of CrowdPose, that holds json/ (or annotations/)
        and images/
    """
    return layout.locate(
        folder,
        split,
        annotations=annotations,
        images=images,
        annotation_file=_annotation_file,
        image_folder=layout.images_of,
        holds="of CrowdPose, that holds json/ (or annotations/) and images/",
    )


def own_skeleton(annotations: str | Path, *, category: str | int | None = None) -> Skeleton:
    """Returns the skeleton that `read` takes by default: `jaxpose.skeleton.CROWDPOSE14`, whatever the file.

    >>> own_skeleton("json/crowdpose_test.json").num_joints
    14
    """
    return CROWDPOSE14


def recognises(annotations: str | Path) -> bool:
    """Tells whether a file is a JSON object with crowd indices.

    Args:
        annotations: The JSON, which exists.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "crowdpose_test.json"
    >>> _ = path.write_text('{"images": [{"id": 1, "crowdIndex": 0.5}], "annotations": []}')
    >>> recognises(path)
    True
    """
    text = layout.edges(annotations)
    return text.startswith("{") and '"crowdIndex"' in text


def ground_truth(annotations: str | Path, images: str | Path, *, split: str | None = None) -> Path:
    """Returns the annotation JSON, which the evaluation reads; no image has to exist.

    >>> str(ground_truth("json/crowdpose_test.json", "images"))
    'json/crowdpose_test.json'
    """
    return Path(annotations)


def read(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    skeleton: Skeleton | None = None,
    category: str | int | None = None,
    on_bad: Literal["error", "skip"] = "error",
    reading: Reading = AS_IT_FITS,
) -> coco.CocoFolder:
    """Reads and checks a CrowdPose annotation file, as `jaxpose.data.formats.coco.read` and the module's docstring say.

    Args:
        annotations: The JSON.
        images: The folder that its file names are relative to.
        split: The name of the split; ignored, because the file holds one split.
        skeleton: A skeleton of CrowdPose's joints, for sigmas different from those of `jaxpose.skeleton.CROWDPOSE14`.
        category: The name or id of the category, if the file has several with keypoints.
        on_bad: "error", or "skip" to leave a bad image or person out, counted and logged.
        reading: Choices in reading the files.

    Raises:
        FileNotFoundError, ValueError: The same as for `jaxpose.data.formats.coco.read`, or the joints are not
            CrowdPose's.

    >>> read("json/crowdpose_test.json", "no_such_folder")
    Traceback (most recent call last):
    FileNotFoundError: no_such_folder is not a folder: name the folder that holds the images of json/crowdpose_test.json
    """
    source = coco.read(
        annotations, images, skeleton=skeleton or CROWDPOSE14, category=category, on_bad=on_bad, reading=reading
    )
    unknown = sum(not is_number(entry.get("crowdIndex")) for entry in source.entries)
    if unknown:
        logger.warning(
            "%s: %d of %d images have no number 'crowdIndex': CrowdPose's evaluation will not know which are easy, medium "
            "and hard",
            annotations,
            unknown,
            len(source.entries),
        )
    _keep_stated_keypoints(source)
    return source


def _annotation_file(folder: Path, split: str) -> Path:
    fitting = [path for name in PLACES for path in sorted((folder / name).glob("*.json")) if _fits(path.stem, split)]
    return layout.only_one(
        fitting,
        split=split,
        place=folder,
        looked_for=(
            f"json/crowdpose_{split}.json",
            f"annotations/mmpose_crowdpose_{split}.json",
            f"a JSON file in either or beside them that is named after crowdpose and {split}",
        ),
        listed=[folder / name for name in PLACES],
        kind="CrowdPose annotations",
    )


def _fits(stem: str, split: str) -> bool:
    words = re.split(r"[\W_]+", stem)
    return stem == split or ({"crowdpose", split} <= set(words) and "det" not in words)


def _keep_stated_keypoints(source: coco.CocoFolder) -> None:
    """Restores the file's own num_keypoints, which `coco.read` replaces by the number of labelled joints."""
    people = read_json(source.annotations, "annotation JSON").get("annotations", [])
    stated = {
        person["id"]: person["num_keypoints"] for person in people if isinstance(person, dict) and _states(person)
    }
    for group in source.people:
        for person in group:
            person["num_keypoints"] = stated.get(person["id"], person["num_keypoints"])


def _states(person: dict) -> bool:
    number = person.get("num_keypoints")
    return isinstance(person.get("id"), int) and isinstance(number, int) and 0 <= number <= CROWDPOSE14.num_joints
