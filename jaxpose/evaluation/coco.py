"""Average precision and recall of result records, by pycocotools or the faster hotcoco, and CrowdPose's numbers."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from jaxpose import files, labels
from jaxpose.evaluation import results as result_records
from jaxpose.metrics import AREA_OF_BOX
from jaxpose.skeleton import Skeleton

__all__ = [
    "AREA_OF_BOX",
    "NAMES",
    "average_precision",
    "average_precision_by_category",
    "crowdpose_average_precision",
    "read_ground_truth",
]

NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""The ten COCO numbers, in COCO's order."""

GroundTruth = str | os.PathLike | Mapping[str, Any]
Engine = Literal["auto", "pycocotools", "hotcoco"]
Results = str | os.PathLike | Sequence[Mapping[str, Any]]


def average_precision(
    ground_truth: GroundTruth,
    results: Results,
    *,
    sigmas: ArrayLike | None = None,
    area: Literal["auto", "box"] = "auto",
    max_people: int = 20,
    category_id: int | None = None,
    image_ids: Iterable[int | str] | None = None,
    engine: Engine = "auto",
) -> dict[str, float]:
    """Computes the ten numbers of COCO's keypoint evaluation, as pycocotools does.

    Args:
        ground_truth: A COCO keypoint file, or its contents.
        results: A result file, or records (`jaxpose.evaluation.results`).
        sigmas: ``(K,)`` OKS sigmas; None for those of `Skeleton.from_coco_category`: the category's own ``sigmas``, else
            published ones for COCO, CrowdPose and MPII, a uniform value for other skeletons.
        area: The area of a person in the OKS and the size classes: "auto" is the annotated one, or 0.53 w h of the box if
            an annotation has none (or none that is positive and finite); "box" is 0.53 w h for all.
        max_people: The number of best results per image that count (20 in COCO), at least 1.
        category_id: Score this category only, and leave out the results of the file's other categories, as pycocotools
            does with ``params.catIds``. None takes all categories with keypoints, which must have the same joints; the
            numbers are then means over the categories, as in pycocotools.
        image_ids: Evaluate on these images only; without any image every number is -1.
        engine: "pycocotools"; "hotcoco", which gives the same numbers faster; "auto", hotcoco if it is installed.

    Returns:
        AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL as fractions; medium is an area of 32^2 to 96^2 pixels, large
        above. A number without ground truth is -1, as in pycocotools; without results the others are 0.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The ground truth is not a COCO keypoint file (the message says what is missing or of the wrong
            type), has repeated annotation ids, NaN among labelled keypoints, or a keypoint count that does not fit the
            category; or the results have images or categories that the ground truth does not have.

    >>> person = {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 50], "area": 1500, "keypoints": [10, 20, 2]}
    >>> truth = {"images": [{"id": 7}], "categories": [{"id": 1, "keypoints": ["nose"]}], "annotations": [person]}
    >>> results = [{"image_id": 7, "category_id": 1, "keypoints": [10.0, 20.0, 0.9], "score": 0.9}]
    >>> numbers = average_precision(truth, results, sigmas=[0.026])
    >>> round(numbers["AP"], 3), numbers["APL"]
    (1.0, -1.0)
    """
    numbers, _ = with_categories(
        ground_truth, results, sigmas=sigmas, area=area, max_people=max_people, category_id=category_id,
        image_ids=image_ids, engine=engine,
    )  # fmt: skip
    return numbers


def average_precision_by_category(
    ground_truth: GroundTruth, results: Results, *, sigmas: ArrayLike | None = None, engine: Engine = "auto"
) -> dict[str, dict[str, float]]:
    """Computes the ten numbers of every category that has keypoints, such as the species of AP-10K.

    Args:
        ground_truth, results, sigmas, engine: The same as in `average_precision`, whose numbers are the means of these
            over the categories with people.

    Returns:
        The numbers by the category's name, with its id if two have the same name.

    Raises:
        FileNotFoundError, ValueError: The same as for `average_precision`.

    >>> person = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [0, 0, 50, 50], "keypoints": [10, 20, 2]}
    >>> categories = [{"id": i, "name": name, "keypoints": ["nose"]} for i, name in ((2, "cow"), (3, "dog"))]
    >>> truth = {"images": [{"id": 7}], "categories": categories, "annotations": [person]}
    >>> results = [{"image_id": 7, "category_id": 2, "keypoints": [10.0, 20.0, 0.9], "score": 0.9}]
    >>> {name: round(n["AP"]) for name, n in average_precision_by_category(truth, results, sigmas=[0.1]).items()}
    {'cow': 1, 'dog': -1}
    """
    return with_categories(ground_truth, results, sigmas=sigmas, engine=engine)[1]


def with_categories(
    ground_truth: GroundTruth,
    results: Results,
    *,
    sigmas: ArrayLike | None = None,
    area: Literal["auto", "box"] = "auto",
    max_people: int = 20,
    category_id: int | None = None,
    image_ids: Iterable[int | str] | None = None,
    engine: Engine = "auto",
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns the numbers of `average_precision` and of `average_precision_by_category`, from one evaluation."""
    truth, records = load(ground_truth, results, category_id=category_id)
    coco_eval = _evaluate(
        truth, records, sigmas=sigmas, area=area, max_people=max_people, image_ids=image_ids, engine=engine
    )
    names = [str(category.get("name", category["id"])) for category in truth["categories"]]
    names = [
        name if names.count(name) == 1 else f"{name} ({category['id']})"
        for name, category in zip(names, truth["categories"], strict=True)
    ]
    return _ten_numbers(coco_eval, slice(None)), {name: _ten_numbers(coco_eval, [i]) for i, name in enumerate(names)}


def _ten_numbers(coco_eval: Any, categories: slice | list[int]) -> dict[str, float]:
    """Returns COCO's numbers over some of the evaluated categories, in the order of their ids."""
    precision, recall = coco_eval.eval["precision"], coco_eval.eval["recall"]  # (T, R, C, A, 1), (T, C, A, 1)
    precision, recall = precision[:, :, categories], recall[:, categories]
    every, half, three_quarters = slice(None), 0, 5  # indices of the thresholds 0.50, 0.55, ..., 0.95
    all_sizes, medium, large = 0, 1, 2
    pick = [(every, all_sizes), (half, all_sizes), (three_quarters, all_sizes), (every, medium), (every, large)]
    numbers = [_mean(array[t, ..., size, :]) for array in (precision, recall) for t, size in pick]
    return dict(zip(NAMES, numbers, strict=True))


def crowdpose_average_precision(
    ground_truth: GroundTruth, results: Results, *, sigmas: ArrayLike | None = None, engine: Engine = "auto"
) -> dict[str, float]:
    """Computes CrowdPose's nine numbers as its published API does, and those of its classes without placeholders.

    The published rules, where they differ from COCO's: a person's area is 0.53 w h of the box, whatever is annotated,
    and there are no size classes. A person counts unless the file's ``num_keypoints`` is 0 (COCO's: unless no joint is
    labelled); if the file does not state it, its labelled joints are counted. Images are easy with a ``crowdIndex`` below
    0.2, hard from 0.8 on, medium between.

    The API's AP of a class is the mean of its whole precision array, rounded to 4 decimals, including the -1 of entries
    without ground truth; AP and AR are means of the existing entries, unrounded. The array holds -1 for every category of
    the file without persons in that class. CrowdPose publishes a file whose only category is the persons, so there a
    class has either no -1 or nothing else, and the two ways of counting differ by the rounding alone. A file with a
    second category without annotations gets (AP - 1) / 2 for each class from the API.

    Args:
        ground_truth: A COCO keypoint file, or its contents, with a ``crowdIndex`` for every image.
        results: A result file, or records (`jaxpose.evaluation.results`).
        sigmas: ``(K,)`` OKS sigmas; None for those of `Skeleton.from_coco_category`.
        engine: The same as in `average_precision`.

    Returns:
        AP, AP50, AP75, AR, AR50, AR75 (over all images); AP_easy, AP_medium, AP_hard, as the API computes them;
        AP_easy_existing, AP_medium_existing, AP_hard_existing, the same over existing entries, unrounded. A number
        without any person is -1.

    Raises:
        FileNotFoundError, ValueError: The same as for `average_precision`, or an image has no numeric ``crowdIndex``.

    Source: CrowdPose (Li et al. 2019) and the evaluation code published with it.

    >>> person = {"id": 1, "image_id": 7, "bbox": [0, 0, 50, 50], "keypoints": [10, 20, 2]}
    >>> truth = {"images": [{"id": 7, "crowdIndex": 0.9}], "categories": [{"id": 1, "keypoints": ["neck"]}]}
    >>> results = [{"image_id": 7, "category_id": 1, "keypoints": [10.0, 20.0, 0.9], "score": 0.9}]
    >>> numbers = crowdpose_average_precision(truth | {"annotations": [person]}, results, sigmas=[0.079])
    >>> numbers["AP_easy"], numbers["AP_hard"], round(numbers["AP_hard_existing"], 9)
    (-1.0, 1.0, 1.0)
    """
    truth, records = load(ground_truth, results)
    missing = [image for image in truth["images"] if not files.is_number(image.get("crowdIndex"))]
    if missing:
        got = f"image {missing[0]['id']} has {missing[0].get('crowdIndex', 'none')!r:.100}"
        raise ValueError(f"Expected a number 'crowdIndex' for every image of a CrowdPose file; {got}")
    options = dict(sigmas=sigmas, area="box", max_people=20, crowdpose=True, engine=engine)
    coco_eval = _evaluate(truth, records, image_ids=None, **options)
    numbers = {
        name + suffix: _mean(coco_eval.eval[array][thresholds, ..., 0, :])
        for name, array in (("AP", "precision"), ("AR", "recall"))
        for suffix, thresholds in (("", slice(None)), ("50", 0), ("75", 5))
    }
    existing = {}
    for name, low, high in (("easy", -math.inf, 0.2), ("medium", 0.2, 0.8), ("hard", 0.8, math.inf)):
        image_ids = [image["id"] for image in truth["images"] if low <= image["crowdIndex"] < high]
        part = _evaluate(truth, records, image_ids=image_ids, **options).eval["precision"][..., 0, :]
        numbers[f"AP_{name}"] = round(float(np.mean(part)), 4)
        existing[f"AP_{name}_existing"] = _mean(part)
    return numbers | existing


def read_ground_truth(ground_truth: GroundTruth, *, category_id: int | None = None) -> dict[str, Any]:
    """Reads the images, the keypoint categories and their annotations, checked and completed.

    A category with an empty list of ``keypoints`` gets numbered names, if the annotations show how many; nested keypoints
    are flattened; an annotation without ``bbox`` gets one around its joints (`jaxpose.labels`).

    Returns:
        images, annotations (of the categories; each with id, image_id, category_id, keypoints (0 where unlabelled),
        num_keypoints (counted), iscrowd, bbox, a positive area if one is annotated, and stated_keypoints, the file's own
        num_keypoints), ``category``: the first one, ``categories``: all of them, which have the same joints, in the order
        of their ids, and ``category_ids``: the ids of all categories of the file.
    """
    name = "the ground truth"
    if not isinstance(ground_truth, Mapping):
        name = os.fspath(ground_truth)
        ground_truth = files.read_json(name, "ground-truth file")
        if not isinstance(ground_truth, Mapping):
            kind = type(ground_truth).__name__
            raise ValueError(f"{name} is not a COCO keypoint file: it holds a {kind}, not an object")
    missing = [key for key in ("images", "annotations", "categories") if key not in ground_truth]
    if missing:
        raise ValueError(f"{name} is not a COCO keypoint file: it has no {missing[0]!r}; keys {sorted(ground_truth)}")
    for key in ("images", "annotations", "categories"):
        _check_entries(ground_truth[key], key, name)
    categories = _keypoint_categories(ground_truth, category_id, name)
    wanted = {category["id"] for category in categories}
    default = categories[0]["id"] if len(categories) == 1 else None
    images = {image["id"]: image for image in ground_truth["images"]}
    num_joints = len(categories[0]["keypoints"])
    annotations = []
    spelling = {labels.whole(number): number for number in wanted}
    for annotation in ground_truth["annotations"]:
        category = annotation.get("category_id", default)
        if isinstance(category, str) and category not in wanted:  # "1", where the category is 1
            category = spelling.get(labels.whole(category), category)
        if result_records.is_id(category) and category in wanted:
            annotations.append(_annotation(annotation, num_joints, images, name) | {"category_id": category})
        elif category is None:
            raise ValueError(f"{name}: annotation {annotation['id']} has no 'category_id', of the ids {sorted(wanted)}")
    repeated = [number for number, count in Counter(a["id"] for a in annotations).items() if count > 1]
    if repeated:
        raise ValueError(f"{name}: annotation id {repeated[0]!r} occurs more than once; correct the file")
    return {
        "images": list(ground_truth["images"]),
        "annotations": annotations,
        "category": categories[0],
        "categories": categories,
        "category_ids": _in_order({entry["id"] for entry in ground_truth["categories"]}),
    }


def _check_entries(entries: Any, key: str, name: str) -> None:
    if not isinstance(entries, Sequence):
        kind = type(entries).__name__
        raise ValueError(f"{name} is not a COCO keypoint file: {key!r} is a {kind}, expected a list")
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"{name} is not a COCO keypoint file: entry {i} of {key!r} is {entry!r:.100}, expected an object"
            )
        if "id" not in entry:
            raise ValueError(f"{name} is not a COCO keypoint file: entry {i} of {key!r} has no 'id': {entry!r:.200}")
        if not result_records.is_id(entry["id"]):
            raise ValueError(f"{name}: the id of entry {i} of {key!r} must be a whole number, got {entry['id']!r:.100}")


def _keypoint_categories(ground_truth: Mapping[str, Any], category_id: int | None, name: str) -> list[dict[str, Any]]:
    """Returns the requested category, or all that have keypoints if these are the same joints."""
    named = [_with_names(category, ground_truth["annotations"]) for category in ground_truth["categories"]]
    selected = [c for c in named if c.get("keypoints") and category_id in (None, c["id"])]
    wanted = "" if category_id is None else f" with id {category_id}"
    if not selected:
        raise ValueError(f"{name} is not a COCO keypoint file: no category{wanted} names its 'keypoints'")
    for joints in (category["keypoints"] for category in selected):
        if not isinstance(joints, Sequence) or not all(isinstance(joint, str) for joint in joints):
            raise ValueError(f"{name}: 'keypoints' of the category must be a list of joint names, got {joints!r:.100}")
    if any(list(category["keypoints"]) != list(selected[0]["keypoints"]) for category in selected):
        raise ValueError(
            f"{name}: category_id must say which category is meant, of the ids {[c.get('id') for c in selected]}: they have "
            "different joints"
        )
    return sorted(selected, key=lambda category: (isinstance(category["id"], str), category["id"]))


def _with_names(category: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the category, with numbered joints if its list of joints is empty and the annotations have some."""
    if category.get("keypoints") == []:
        count = labels.joint_count(a for a in annotations if a.get("category_id", category["id"]) == category["id"])
        return {**category, "keypoints": [f"joint_{i}" for i in range(count)]}
    return dict(category)


def _annotation(annotation: Mapping[str, Any], num_joints: int, images: Mapping, name: str) -> dict[str, Any]:
    """Returns one person with everything that the evaluation reads; a person without labels has zeros."""
    label = f"{name}: annotation {annotation['id']}"
    if "image_id" not in annotation:
        raise ValueError(f"{label} has no 'image_id'")
    if not result_records.is_id(annotation["image_id"]) or annotation["image_id"] not in images:
        raise ValueError(f"{label} belongs to image {annotation['image_id']!r:.100}, which is not among 'images'")
    joints = labels.flat(annotation.get("keypoints") or [0] * (3 * num_joints))
    keypoints = _keypoints(joints, num_joints, label)
    if "bbox" not in annotation:
        image = images[annotation["image_id"]]
        size = (image.get("width"), image.get("height"))
        box = labels.box_around(keypoints, size if all(map(files.is_number, size)) else None) or [0, 0, 0, 0]
        annotation = {**annotation, "bbox": box}
    box, crowd, area = annotation["bbox"], annotation.get("iscrowd") or 0, annotation.get("area")
    if not _are_numbers(box) or len(box) != 4:
        raise ValueError(f"{label}: 'bbox' must be four finite numbers, got {box!r:.100}")
    if crowd not in (0, 1):
        raise ValueError(f"{label}: 'iscrowd' must be 0 or 1, got {crowd!r:.100}")
    completed = {
        "id": annotation["id"],
        "image_id": annotation["image_id"],
        "keypoints": keypoints,
        "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        "iscrowd": int(crowd),
        "bbox": box,
    }
    if files.is_number(area) and area > 0:
        completed["area"] = area
    if files.is_number(annotation.get("num_keypoints")):
        completed["stated_keypoints"] = annotation["num_keypoints"]
    return completed


def _keypoints(keypoints: Any, num_joints: int, label: str) -> list[float]:
    """Checks keypoints and replaces unlabelled joints by 0."""
    if not isinstance(keypoints, Sequence) or isinstance(keypoints, str):
        raise ValueError(f"{label}: 'keypoints' must be a list of numbers, got {keypoints!r:.100}")
    if len(keypoints) != 3 * num_joints:
        raise ValueError(f"{label} has {len(keypoints) / 3:g} keypoints, its category has {num_joints}")
    if not _are_numbers(keypoints[2::3]):
        raise ValueError(f"{label}: a visibility is not a number: {keypoints[2::3]!r:.200}")
    checked = [value if keypoints[3 * (i // 3) + 2] > 0 else 0 for i, value in enumerate(keypoints)]
    if not _are_numbers(checked):
        raise ValueError(f"{label} has a labelled keypoint that is not finite: {keypoints!r:.200}")
    return checked


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and all(files.is_number(value) for value in values)


def area_of(annotation: Mapping[str, Any], *, rule: Literal["auto", "box"] = "auto") -> float:
    """Returns the area of a person of `read_ground_truth`, as `average_precision` describes."""
    if rule not in ("auto", "box"):
        raise ValueError(f"area must be 'auto' or 'box', got {rule!r}")
    if rule == "auto" and "area" in annotation:
        return float(annotation["area"])
    return AREA_OF_BOX * annotation["bbox"][2] * annotation["bbox"][3]


def load(ground_truth: GroundTruth, results: Results, *, category_id: int | None = None) -> tuple[dict[str, Any], list]:
    """Returns the ground truth of `read_ground_truth` and the records, each checked and compared with the other."""
    truth = read_ground_truth(ground_truth, category_id=category_id)
    num_joints = len(truth["category"]["keypoints"])
    if isinstance(results, (str, os.PathLike)):
        records = result_records.read(results, num_joints=num_joints)
    else:
        records = list(results)
        result_records.check(records, num_joints=num_joints)
    file = f"{results}: " if isinstance(results, (str, os.PathLike)) else ""
    existing = {image["id"] for image in truth["images"]}
    records = _same_ids(records, "image_id", existing)
    unknown = sorted({record["image_id"] for record in records} - existing, key=str)
    if unknown:
        raise ValueError(
            f"{file}{len(unknown)} images of the results are not in the ground truth ({len(existing)} images): "
            f"image_id {', '.join(map(repr, unknown[:5]))}{', ...' if len(unknown) > 5 else ''}"
        )
    wanted = {category["id"] for category in truth["categories"]}
    records = _same_ids(records, "category_id", set(truth["category_ids"]))
    if category_id is not None:  # results of the other categories are not wanted
        records = [record for record in records if record["category_id"] not in set(truth["category_ids"]) - wanted]
    others = sorted({record["category_id"] for record in records} - wanted, key=str)
    if others:
        persons = repr(truth["category"]["id"]) if len(wanted) == 1 else f"one of {_in_order(wanted)}"
        raise ValueError(f"{file}the results have category_id {others[0]!r}, the persons of the ground truth {persons}")
    return truth, records


def _same_ids(records: list, key: str, existing: set) -> list:
    """Returns the records with the ids as the ground truth writes them, if one writes 7 and the other "7"."""
    if all(record[key] in existing for record in records):
        return records
    spelling = {labels.whole(name): name for name in existing}
    return [
        record if record[key] in existing else {**record, key: spelling.get(labels.whole(record[key]), record[key])}
        for record in records
    ]


def _evaluate(truth, records, *, sigmas, area, max_people, image_ids, engine, crowdpose=False):
    """Returns a COCOeval after evaluate() and accumulate(), without printing its output.

    With `crowdpose` it follows CrowdPose's API: the file's num_keypoints, and all categories of the file.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    if max_people < 1:
        raise ValueError(f"max_people must be at least 1, got {max_people}")
    existing = {image["id"] for image in truth["images"]}
    wanted = existing if image_ids is None else _known_images(image_ids, existing)
    # pycocotools writes into its input, hence the copies. All ids are renumbered in order: pycocotools takes a match
    # with the annotation of id 0 for no match, and hotcoco accepts no names and no negative or large numbers.
    number = {name: i for i, name in enumerate(_in_order(existing), start=1)}
    evaluated = truth["category_ids"] if crowdpose else [category["id"] for category in truth["categories"]]
    categories = {name: i for i, name in enumerate(evaluated, start=1)}
    annotations = [
        {
            **a,
            "id": i,
            "image_id": number[a["image_id"]],
            "category_id": categories[a["category_id"]],
            "area": area_of(a, rule=area),
            "num_keypoints": a.get("stated_keypoints", a["num_keypoints"]) if crowdpose else a["num_keypoints"],
        }
        for i, a in enumerate(truth["annotations"], start=1)
    ]
    detections = [
        _detection(record, i, image_id=number[record["image_id"]], category_id=categories[record["category_id"]])
        for i, record in enumerate(records, start=1)
    ]
    shared = {
        "images": [{"id": number[image["id"]]} for image in truth["images"]],
        "categories": [{"id": i, "name": str(name)} for name, i in categories.items()],
    }
    datasets = [{**shared, "annotations": a} for a in (annotations, detections)]
    with contextlib.redirect_stdout(io.StringIO()):
        fast = engine == "hotcoco" or (engine == "auto" and find_spec("hotcoco") is not None)
        fast &= len(wanted) > 0  # hotcoco takes an empty list for all images
        coco_eval = (_hotcoco if fast else _pycocotools)(*datasets)
        coco_eval.params.kpt_oks_sigmas = category_sigmas(sigmas, *truth["categories"])
        coco_eval.params.maxDets = [max_people]
        coco_eval.params.imgIds = sorted(number[name] for name in wanted)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


def _pycocotools(*datasets: dict[str, Any]):
    """Returns a COCOeval over ground truth and detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = [COCO(), COCO()]
    for side, dataset in zip(sides, datasets, strict=True):
        side.dataset = dataset
        side.createIndex()
    return COCOeval(*sides, "keypoints")


def _hotcoco(*datasets: dict[str, Any]):
    """Does the same as `_pycocotools`, with equal numbers, which a test checks."""
    try:
        from hotcoco import COCO, COCOeval
    except ImportError as error:
        raise ImportError("engine='hotcoco': pip install 'jaxpose[fast]'") from error
    return COCOeval(*(COCO(dataset) for dataset in datasets), "keypoints")


def _detection(record: Mapping[str, Any], identifier: int, *, image_id: int, category_id: int) -> dict[str, Any]:
    """Returns a record as pycocotools' loadRes makes it: its area is that of the joints' bounding box."""
    x, y = record["keypoints"][0::3], record["keypoints"][1::3]
    return {
        "id": identifier,
        "image_id": image_id,
        "category_id": category_id,
        "keypoints": record["keypoints"],
        "score": record["score"],
        "area": (max(x) - min(x)) * (max(y) - min(y)),
    }


def category_sigmas(sigmas: ArrayLike | None, category: Mapping[str, Any], *others: Mapping[str, Any]) -> np.ndarray:
    """Returns the given sigmas ``(K,)``, checked, or the categories' own, or those that belong to their joints' names.

    Raises:
        ValueError: The sigmas are not K positive numbers, or the categories have different sigmas of their own.
    """
    if sigmas is None:
        keys = ("keypoints", "sigmas")
        own = {Skeleton.from_coco_category({k: c[k] for k in keys if k in c}).sigmas for c in (category, *others)}
        if len(own) > 1:
            raise ValueError(
                "the categories have different 'sigmas': give those to use (sigmas=, or --sigmas), or one category"
            )
        (sigmas,) = own
    sigmas, num_joints = np.asarray(sigmas, np.float64), len(category["keypoints"])
    if sigmas.shape != (num_joints,):
        raise ValueError(f"the category has {num_joints} keypoints, so as many sigmas are needed, got {sigmas.shape}")
    if not (np.isfinite(sigmas) & (sigmas > 0)).all():
        raise ValueError(f"sigmas must be positive and finite, got {sigmas.tolist()}")
    return sigmas


def _known_images(image_ids: Iterable[int | str], existing: set[int | str]) -> set[int | str]:
    wanted = set(image_ids)
    if wanted - existing:
        raise ValueError(
            f"image_ids names images that the ground truth does not have: {_in_order(wanted - existing)[:5]}"
        )
    return wanted


def _in_order(ids: Iterable[int | str]) -> list[int | str]:
    """Sorts numbers by size, then names alphabetically."""
    return sorted(ids, key=lambda name: (isinstance(name, str), name))


def _mean(values: np.ndarray) -> float:
    """Averages the existing values: pycocotools writes -1 where there is no ground truth."""
    existing = values[values > -1]
    return float(existing.mean()) if existing.size else -1.0
