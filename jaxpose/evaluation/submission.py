"""The files that the servers of COCO and MPII take, made from a result file, and the command `jaxpose submit`.

    jaxpose submit RESULTS.json person_keypoints_test-dev2017_NAME_results.zip --annotations image_info_test-dev2017.json
    jaxpose submit RESULTS.json pred.mat --annotations MPII/annot/test.json
    jaxpose submit RESULTS.json pred_keypoints_mpii.mat --annotations MPII/annot/test.json --release mpii_human_pose_v1_u12_1.mat

COCO
    A ZIP archive ``person_keypoints_SPLIT_NAME_results.zip`` with one JSON of the same name: a list of image_id, category_id
    (1), keypoints (51 numbers) and score, at most 20 per image.
MPII
    ``pred.mat`` holds ``preds`` ``(N, 16, 2)``, pixels counted from 1, one row per entry of test.json: what HRNet's code
    writes. The server takes the annotations themselves with the predictions filled in, so ``pred_keypoints_mpii.mat`` needs
    them (``--release``): a structure array ``pred``, ``annolist`` of the test images, in which the ``annopoints.point`` of
    every single person have x, y and id.

A file is read back after it was written, and must hold the same numbers. Without JAX.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxpose import files, matlab
from jaxpose.evaluation import results
from jaxpose.skeleton import COCO17, MPII16

__all__ = [
    "coco_records",
    "main",
    "mpii_predictions",
    "read_mat",
    "read_zip",
    "write_mat",
    "write_release",
    "write_zip",
]

MAX_PEOPLE = 20
KEYS = ("image_id", "category_id", "keypoints", "score")
ARCHIVE = re.compile(r"person_keypoints_(?P<split>(?:test|val)[A-Za-z-]*20\d\d)_(?P<name>.+)_results")
FROM_ONE = 1.0  # MATLAB counts pixels from 1
FARTHEST = (
    20.0  # pixels per scale between the centre in test.json and the position in the release: a tenth of the person
)


# ----------------------------------------------------------------------------------------------------------------- COCO


def coco_records(
    records: Iterable[Mapping[str, Any]], *, image_ids: Iterable[int] | None = None, max_people: int = MAX_PEOPLE
) -> list[dict[str, Any]]:
    """Returns the records as COCO's server takes them: its four keys, and the best-scored persons of each image.

    Args:
        records: Records of `jaxpose.evaluation.results`.
        image_ids: The ids of the split's images; None does not check them.
        max_people: The largest number of persons per image.

    Raises:
        ValueError: A record is not a person of COCO (category 1, 17 keypoints, finite numbers, a whole image_id), or belongs
            to no image of the split.

    >>> person = {"image_id": 7, "category_id": 1, "keypoints": [1.0, 2.0, 0.5] * 17, "score": 0.3, "box": [0, 0, 9, 9]}
    >>> [sorted(record) for record in coco_records([person])]
    [['category_id', 'image_id', 'keypoints', 'score']]
    """
    records = list(records)
    results.check(records, num_joints=COCO17.num_joints)
    of_split = None if image_ids is None else set(image_ids)
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for i, record in enumerate(records):
        if record["category_id"] != 1:
            raise ValueError(f"result {i} has category_id {record['category_id']!r}: COCO's persons have 1")
        image = record["image_id"]
        if not isinstance(image, int) or isinstance(image, bool):
            raise ValueError(f"result {i} has image_id {image!r}: COCO's ids are whole numbers")
        if of_split is not None and image not in of_split:
            raise ValueError(
                f"result {i} is of image {image}, which is not among the {len(of_split)} images of the split"
            )
        by_image.setdefault(image, []).append(record)
    best = (sorted(group, key=lambda record: -record["score"])[:max_people] for group in by_image.values())
    return [{key: record[key] for key in KEYS} for group in best for record in group]


def write_zip(records: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes records of `coco_records` as the archive that COCO's server takes.

    Raises:
        ValueError: The name is not one that the server takes.

    >>> write_zip([], "results.zip")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: results.zip: COCO's server takes person_keypoints_SPLIT_NAME_results.zip, such as ...
    """
    path = Path(path)
    if path.suffix != ".zip" or not ARCHIVE.fullmatch(path.stem):
        raise ValueError(
            f"{path}: COCO's server takes person_keypoints_SPLIT_NAME_results.zip, such as "
            "person_keypoints_test-dev2017_mine_results.zip: rename it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.json", json.dumps(list(records), allow_nan=False))


def read_zip(path: str | Path) -> list[dict[str, Any]]:
    """Reads an archive of `write_zip` and checks it against the server's rules.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The archive breaks a rule: its name, its only member, the keys, or the number of persons per image.

    >>> read_zip("person_keypoints_test-dev2017_mine_results.zip")
    Traceback (most recent call last):
    FileNotFoundError: person_keypoints_test-dev2017_mine_results.zip does not exist
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if not ARCHIVE.fullmatch(path.stem):
        raise ValueError(f"{path}: COCO's server takes person_keypoints_SPLIT_NAME_results.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() != [f"{path.stem}.json"]:
                raise ValueError(f"{path} holds {archive.namelist()}: expected {path.stem}.json alone")
            records = json.loads(archive.read(f"{path.stem}.json"))
    except (zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a ZIP archive with a JSON: {error}") from None
    persons = Counter(record["image_id"] for record in coco_records(records, max_people=len(records)))
    if any(set(record) != set(KEYS) for record in records) or max(persons.values(), default=0) > MAX_PEOPLE:
        raise ValueError(f"{path} has other keys than {KEYS}, or more than {MAX_PEOPLE} persons in an image")
    return records


# ----------------------------------------------------------------------------------------------------------------- MPII


def mpii_predictions(records: Iterable[Mapping[str, Any]], people: int) -> np.ndarray:
    """Returns the predictions of a split in the order of its entries.

    Args:
        records: Records of `jaxpose.evaluation.results` with an annotation_id, the entry's place counted from 1. Of several for
            one person the best-scored counts.
        people: The number of entries N.

    Returns:
        ``(N, 16, 2)`` pixels counted from 1.

    Raises:
        ValueError: A record has no annotation_id, another number of joints, or a person that the split does not have; or a
            person has no prediction.

    >>> mpii_predictions([{"annotation_id": 1, "score": 1.0, "keypoints": [3.0, 4.0, 0.5] * 16}], 1)[0, 0]
    array([4., 5.])
    """
    xy, best = np.full((people, MPII16.num_joints, 2), np.nan), np.full(people, -np.inf)
    for row, record in enumerate(records):
        if "annotation_id" not in record:
            raise ValueError(
                f"record {row} has no annotation_id: MPII's predictions are made on the boxes of its annotations"
            )
        number, keypoints = record["annotation_id"], record["keypoints"]
        if len(keypoints) != 3 * MPII16.num_joints:
            raise ValueError(f"record {row} has {len(keypoints)} numbers in 'keypoints', MPII needs 48")
        if not 1 <= number <= people:
            raise ValueError(f"record {row} is of person {number}: the annotations have {people} persons")
        if record["score"] > best[number - 1]:
            best[number - 1] = record["score"]
            xy[number - 1] = np.reshape(keypoints, (-1, 3))[:, :2] + FROM_ONE
    absent = np.flatnonzero(np.isnan(xy).any((1, 2)))
    if len(absent):
        raise ValueError(
            f"{len(absent)} of {people} persons have no finite prediction (the first: entry {absent[0] + 1}): predict the "
            "whole split, without OKS-NMS and without leaving out samples"
        )
    return xy


def write_mat(xy: np.ndarray, path: str | Path) -> None:
    """Writes predictions ``(N, 16, 2)``, counted from 1, as ``preds`` of a MATLAB file, as HRNet's code does."""
    from scipy.io import savemat  # it comes with jax; imported here so that COCO does not need it

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"preds": np.asarray(xy, np.float64)})


def write_release(
    xy: np.ndarray, entries: Sequence[Mapping[str, Any]], release: str | Path, path: str | Path
) -> np.ndarray:
    """Writes predictions as MPII's server takes them: its annotations of the test images, with joints filled in.

    Args:
        xy: ``(N, 16, 2)`` pixels counted from 1.
        entries: The N entries of test.json: image, center, scale.
        release: MPII's annotations, ``mpii_human_pose_v1_u12_1.mat``.
        path: The file to write.

    Returns:
        ``(M,)`` the entry of each single person of the release, in its order: `read_mat` returns ``xy`` in that order.

    Raises:
        FileNotFoundError: The release does not exist.
        ValueError: The release is another file, or a single person of its test images is no entry, within a tenth of a person.
    """
    from scipy.io import savemat

    annolist, single = _test_images(Path(release))
    of_image: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        of_image.setdefault(entry["image"], []).append(i)
    order = []
    for image, rows in zip(annolist, single, strict=True):
        name, persons = _text(image["image"]), _without_joints(image["annorect"])
        for row in rows:
            entry = _entry_at(persons[0, row], name, of_image.get(name, []), entries, Path(release))
            of_image[name].remove(entry)
            order.append(entry)
            persons["annopoints"][0, row] = _points(xy[entry])
        image["annorect"] = persons
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"pred": annolist[None]}, do_compression=True)
    return np.array(order, np.int64)


def read_mat(path: str | Path) -> np.ndarray:
    """Reads the predictions of either file: ``(N, 16, 2)``, counted from 1, in the order of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It holds neither ``preds`` nor ``pred``, or a person without MPII's 16 joints.

    >>> read_mat("pred.mat")
    Traceback (most recent call last):
    FileNotFoundError: pred.mat does not exist: expected the pred.mat that this command writes
    """
    arrays = matlab.load(path, "the pred.mat that this command writes")
    if "preds" in arrays:
        return np.asarray(arrays["preds"], np.float64)
    if "pred" not in arrays:
        raise ValueError(f"{path} holds {sorted(k for k in arrays if k[0] != '_')}: expected preds or pred")
    people = []
    for image in arrays["pred"].ravel():
        persons = image["annorect"]
        for points in persons["annopoints"].ravel() if "annopoints" in (persons.dtype.names or ()) else ():
            if not points.size:
                continue
            point = points["point"][0, 0].ravel()
            ids = [int(p["id"].item()) for p in point]
            if sorted(ids) != list(range(MPII16.num_joints)):
                raise ValueError(f"{path}: a person of {_text(image['image'])} has the joints {ids}: expected 0 to 15")
            xy = np.array([[p["x"].item(), p["y"].item()] for p in point], np.float64)
            people.append(xy[np.argsort(ids)])
    return np.array(people).reshape(-1, MPII16.num_joints, 2)


def _test_images(release: Path) -> tuple[np.ndarray, list[list[int]]]:
    """Returns the annotations of the test images, and for each the rows of its single persons, counted from 0."""
    try:
        root = matlab.load(release, "MPII's annotation file (mpii_human_pose_v1_u12_1.mat)")["RELEASE"][0, 0]
        annolist, train = root["annolist"].ravel(), root["img_train"].ravel()
        single = root["single_person"].ravel()
        test = np.flatnonzero(train == 0)
        rows = [[int(row) - 1 for row in np.ravel(single[i])] for i in test]
        if not len(test) or len({len(annolist), len(train), len(single)}) != 1:
            raise ValueError("no test images")
        return annolist[test], rows
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{release} is not MPII's release ({error}): give mpii_human_pose_v1_u12_1.mat, with RELEASE.annolist, img_train and "
            "single_person"
        ) from None


def _entry_at(
    person: np.void, image: str, candidates: list[int], entries: Sequence[Mapping[str, Any]], release: Path
) -> int:
    """Returns the entry, among the candidates, whose centre is the position of a person of the release."""
    position = person["objpos"][0, 0] if person["objpos"].size else None
    if position is not None:
        at = np.array([position["x"].item(), position["y"].item()], np.float64)
        distance = [np.hypot(*(np.array(entries[i]["center"], np.float64) - at)) for i in candidates]
        if distance and min(distance) <= FARTHEST * entries[candidates[int(np.argmin(distance))]]["scale"]:
            return candidates[int(np.argmin(distance))]
    raise ValueError(
        f"{release} has a single person in the test image {image!r} that is no entry of the annotations: MPII's server wants "
        "all of them; are these the annotations of the test split, and of all of it?"
    )


def _without_joints(persons: np.ndarray) -> np.ndarray:
    """Returns a copy of the structure array ``annorect`` with an empty annopoints for every person."""
    names = [name for name in persons.dtype.names or () if name != "annopoints"]
    copy = np.empty(persons.shape, [(name, object) for name in (*names, "annopoints")])
    for name in names:
        copy[name] = persons[name]
    for at in np.ndindex(copy.shape):
        copy["annopoints"][at] = np.zeros((0, 0))
    return copy


def _points(xy: np.ndarray) -> np.ndarray:
    """Returns the structure ``annopoints`` of a person."""
    point = np.empty((1, len(xy)), [("x", object), ("y", object), ("id", object)])
    for joint, (x, y) in enumerate(xy):
        point[0, joint] = (np.array([[x]]), np.array([[y]]), np.array([[float(joint)]]))
    points = np.empty((1, 1), [("point", object)])
    points[0, 0] = (point,)
    return points


def _text(image: np.ndarray) -> str:
    return str(image["name"][0, 0].item())


# -------------------------------------------------------------------------------------------------------------- command


def main(
    records: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    *,
    annotations: Path | None = None,
    release: Path | None = None,
) -> None:
    """Pack a result file as the server of COCO (.zip) or MPII (.mat) takes it, and check it by reading it back.

    Args:
        records: Result file, as --eval-only writes it for a split without labels.
        out: File to write: person_keypoints_test-dev2017_NAME_results.zip for COCO, pred.mat or pred_keypoints_mpii.mat for
            MPII.
        annotations: COCO's image_info_test-dev2017.json, to check the images; for MPII, which needs it, test.json.
        release: MPII's mpii_human_pose_v1_u12_1.mat, for the file that its server takes; without it, the array preds.
    """
    people = results.read(records)
    if out.suffix == ".zip":
        if release is not None:
            raise ValueError(f"--release {release} is for MPII, and {out} is for COCO: leave it out")
        facts = _submit_coco(people, out, annotations)
    elif out.suffix == ".mat":
        facts = _submit_mpii(people, out, annotations, release)
    else:
        raise ValueError(f"{out}: give a name that ends in .zip for COCO's server, or in .mat for MPII's")
    print(json.dumps({"file": str(out), **facts}))


def _submit_coco(people: list[dict[str, Any]], out: Path, annotations: Path | None) -> dict[str, Any]:
    ids = None
    if annotations is not None:
        content = files.read_json(annotations, "list of images")
        if not isinstance(content, dict) or "images" not in content:
            raise ValueError(f"{annotations} lists no images: give COCO's image_info_test-dev2017.json")
        ids = [image["id"] for image in content["images"]]
    best = coco_records(people, image_ids=ids)
    write_zip(best, out)
    if read_zip(out) != best:
        raise ValueError(f"{out} does not hold what was written: is the disk full?")
    return {
        "persons": len(best),
        "images": len({record["image_id"] for record in best}),
        "left_out": len(people) - len(best),
    }


def _submit_mpii(
    people: list[dict[str, Any]], out: Path, annotations: Path | None, release: Path | None
) -> dict[str, Any]:
    if annotations is None:
        raise ValueError(f"{out}: MPII's file has a row per entry of its test.json: give it with --annotations")
    entries = files.read_json(annotations, "annotation JSON")
    if not isinstance(entries, list):
        raise ValueError(f"{annotations} is not a list of entries: give MPII's test.json")
    xy = mpii_predictions(people, len(entries))
    if release is None:
        write_mat(xy, out)
    else:
        xy = xy[write_release(xy, entries, release, out)]
    if not np.array_equal(read_mat(out), xy):
        raise ValueError(f"{out} does not hold what was written: is the disk full?")
    return {"persons": len(xy), "array": "preds" if release is None else "pred"}
