"""Every person and every record once, paired as the report pairs them."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpose.evaluation import cases, report

SIGMAS = [0.1, 0.1]


def person(number, xy, *, image=1, visibility=(2, 1), **more):
    keypoints = [float(v) for (x, y), seen in zip(xy, visibility, strict=True) for v in (x, y, seen)]
    box = [xy[0][0] - 10, xy[0][1] - 10, 40, 90]
    return {"id": number, "image_id": image, "bbox": box, "area": 1600, "keypoints": keypoints} | more


def record(xy, *, image=1, score=0.5, **more):
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": [v for x, y in xy for v in (x, y, 0.9)],
        "score": score,
    } | more


A, B, C = ((20, 20), (25, 60)), ((120, 20), (125, 60)), ((220, 20), (225, 60))
TRUTH = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "categories": [{"id": 1, "name": "thing", "keypoints": ["top", "bottom"]}],
    "annotations": [
        person(11, A),
        person(12, B),
        person(13, C, image=2),
        person(14, C, iscrowd=1),
        person(15, ((0, 0), (0, 0)), image=2, visibility=(0, 0)),
    ],
}


def moved(pose, by):
    return tuple((x + by, y) for x, y in pose)


def test_who_is_found_missed_and_found_besides():
    results = [record(moved(C, 2), score=0.2), record(moved(A, 3), score=0.9), record(moved(A, 1), score=0.4),
               record(moved(C, 40), image=2, score=0.8)]  # fmt: skip
    found, truth = cases.compare(TRUTH, results, sigmas=SIGMAS)
    told = [(case.kind, case.person and case.person["id"], case.row, case.image["id"]) for case in found]
    assert told == [
        ("matched", 11, 1, 1),  # the better score takes the person, though the other is nearer
        ("missed", 12, None, 1),
        ("missed", 13, None, 2),
        ("unmatched", None, 3, 2),
        ("unmatched", None, 2, 1),
        ("unmatched", None, 0, 1),
    ]
    pair = found[0]
    np.testing.assert_allclose(pair.errors, [3, 3])
    assert pair.oks == pytest.approx(np.exp(-9 / (2 * 0.2**2 * 1600)), rel=1e-9)
    assert (pair.score, pair.size, pair.occluded) == (0.9, 60.0, 0.5)
    assert [case.excused for case in found[3:]] == [False, False, True], "the last lies on a crowd"
    assert found[1].errors is None and found[1].score is None and found[5].occluded is None
    assert report.of_cases(found, truth, sigmas=SIGMAS)["matched"] == {"people": 3, "results": 4, "pairs": 1}


def test_annotation_ids_pair_whatever_the_distance():
    results = [record(moved(B, 500), annotation_id=12, score=0.3), record(B, annotation_id=12, score=0.1),
               record(C, annotation_id=14, score=0.9)]  # fmt: skip
    found, _ = cases.compare(TRUTH, results, sigmas=SIGMAS)
    assert [(case.kind, case.row) for case in found if case.record is not None] == [
        ("matched", 0),
        ("unmatched", 2),
        ("unmatched", 1),
    ]
    assert found[0].oks == 0 and found[0].errors[0] == 500
    with pytest.raises(ValueError, match="annotation_id 13, which the ground truth does not have in that image"):
        cases.compare(TRUTH, [record(C, annotation_id=13)], sigmas=SIGMAS)


@pytest.mark.parametrize("seed", range(3))
def test_everybody_once(seed):
    rng = np.random.default_rng(seed)
    people = [person(i, rng.uniform(0, 200, (2, 2)).tolist(), image=int(rng.integers(1, 3))) for i in range(8)]
    records = [record(rng.uniform(0, 200, (2, 2)).tolist(), image=int(rng.integers(1, 3)), score=float(rng.random()))
               for _ in range(11)]  # fmt: skip
    found, truth = cases.compare(TRUTH | {"annotations": people}, records, sigmas=SIGMAS, min_oks=0.01)
    assert sorted(case.person["id"] for case in found if case.person is not None) == list(range(8))
    assert sorted(case.row for case in found if case.record is not None) == list(range(11))
    assert all(case.oks >= 0.01 for case in found if case.kind == "matched")
    same = report.from_results(TRUTH | {"annotations": people}, records, sigmas=SIGMAS, min_oks=0.01)
    assert same == report.of_cases(found, truth, sigmas=SIGMAS)
