"""Scoring result records: against pycocotools' and the published pipelines' numbers, and with bad files."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest

from jaxpose import metrics
from jaxpose.evaluation import (
    average_precision,
    average_precision_by_category,
    boxes,
    crowdpose_average_precision,
    nms,
    oks_nms,
    report,
    results,
    soft_oks_nms,
)
from jaxpose.evaluation.coco import NAMES, read_ground_truth
from jaxpose.skeleton import COCO17, CROWDPOSE14, DEFAULT_SIGMA

SPLITS = ("val2017", "train2017")


def make_truth(people=6, joints=4, seed=0, first_id=1):
    """A COCO file of a made-up animal: two per image, medium and large, visible, occluded and unlabelled joints."""
    rng = np.random.default_rng(seed)
    annotations = []
    for i in range(people):
        size = 60.0 if i % 2 else 200.0
        xy = rng.uniform(0, size, (joints, 2)) + 300 * (i % 2)
        visibility = np.array([2, 1, 2, 0])[np.arange(joints) % 4]
        xy[visibility == 0] = 0
        annotations.append(
            {
                "id": i + first_id,
                "image_id": 10 + i // 2,
                "category_id": 3,
                "bbox": [300.0 * (i % 2), 300.0 * (i % 2), size, size],
                "area": 0.6 * size**2,
                "iscrowd": 0,
                "num_keypoints": int((visibility > 0).sum()),
                "keypoints": np.column_stack([xy, visibility]).ravel().tolist(),
            }
        )
    return {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.jpg", "width": 640, "height": 640} for i in range((people + 1) // 2)
        ],
        "categories": [{"id": 3, "name": "cat", "keypoints": [f"joint{k}" for k in range(joints)]}],
        "annotations": annotations,
    }


def perfect_records(truth, *, shift=0.0, ids=False):
    """What a perfect model says, or one that is `shift` pixels off to the right."""
    people = truth["annotations"]
    keypoints = np.array([a["keypoints"] for a in people], float).reshape(len(people), -1, 3)
    return results.from_predictions(
        keypoints[..., :2] + [shift, 0],
        np.linspace(0.5, 0.9, len(people))[:, None] * np.ones(keypoints.shape[1]),
        image_id=[a["image_id"] for a in people],
        annotation_id=[a["id"] for a in people] if ids else None,
        category_id=3,
        box=[a["bbox"] for a in people],
        area=[a["area"] for a in people],
    )


# ------------------------------------------------------------------------------------------ non-maximum suppression


@pytest.mark.parametrize("variant", ["hrnet", "mmpose"])
@pytest.mark.parametrize(("name", "visibility"), [("novis", None), ("vis04", 0.4)])
def test_suppression_as_in_the_reference(golden, variant, name, visibility):
    g = golden("eval")
    poses, scores, areas = g["nms_kpts"], g["nms_scores"], g["nms_areas"]
    options = dict(sigmas=COCO17.sigmas, visibility_threshold=visibility, variant=variant)
    tolerance = 1e-12 if variant == "hrnet" else 1e-6  # mmpose computes the OKS in float32
    overlap = nms.pairwise_oks(poses, areas, **options)
    np.testing.assert_allclose(overlap, g[f"oks_{variant}_{name}"], atol=tolerance)
    for percent in (90, 50, 20):
        kept = oks_nms(poses, scores, areas, threshold=percent / 100, **options)
        np.testing.assert_array_equal(kept, g[f"nms_{variant}_{name}_t{percent}"])
        kept, lowered = soft_oks_nms(poses, scores, areas, threshold=percent / 100, **options)
        np.testing.assert_array_equal(kept, g[f"softnms_{variant}_{name}_t{percent}_keep"])
        np.testing.assert_allclose(lowered, g[f"softnms_{variant}_{name}_t{percent}_score"], atol=tolerance)


def test_decay_as_in_the_reference(golden):
    g, overlap, scores = golden("eval"), np.linspace(0, 1, 11), np.linspace(1, 0.5, 11)
    for decay, name in (("linear", "linear"), ("gaussian", "gauss")):
        lowered = nms.lower_scores(overlap, scores, threshold=0.3, decay=decay)
        np.testing.assert_allclose(lowered, g[f"rescore_{name}_t30"], rtol=1e-12)


def test_suppression_keeps_apart_what_is_apart():
    rng = np.random.default_rng(0)
    pose = rng.uniform(0, 100, (17, 3))
    poses = np.stack([pose, pose + [1, 0, 0], pose + [1000, 0, 0], pose])
    options = dict(sigmas=COCO17.sigmas)
    areas, scores = np.full(4, 1e4), np.array([0.5, 0.9, 0.1, 0.9])
    np.testing.assert_array_equal(oks_nms(poses, scores, areas, **options), [1, 2])
    kept, lowered = soft_oks_nms(poses, scores, areas, max_people=2, **options)
    np.testing.assert_array_equal(kept[:1], [1])
    assert len(kept) == 2 and lowered[0] == 0.9
    # With everybody visible the visibility threshold changes nothing; with nobody visible nothing overlaps.
    np.testing.assert_array_equal(oks_nms(poses, scores, areas, visibility_threshold=-1, **options), [1, 2])
    assert len(oks_nms(poses, scores, areas, visibility_threshold=1e4, **options)) == 4


def test_suppression_of_nothing():
    empty = np.zeros((0, 17, 3))
    assert oks_nms(empty, [], [], sigmas=COCO17.sigmas).shape == (0,)
    assert [len(a) for a in soft_oks_nms(empty, [], [], sigmas=COCO17.sigmas)] == [0, 0]


POSES = np.zeros((2, 17, 3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(poses=np.zeros((2, 17, 2))), r"\(N, K, 3\).*\(2, 17, 2\)"),
        (dict(scores=[[0.1], [0.2]]), r"scores must be \(2,\).*\(2, 1\)"),
        (dict(areas=[1.0]), r"areas must be \(2,\)"),
        (dict(areas=[1.0, -1.0]), "negative"),
        (dict(scores=[0.1, np.nan]), "scores must be finite"),
        (dict(sigmas=np.ones(14)), r"sigmas must be \(17,\).*\(14,\)"),
        (dict(poses=np.full((2, 17, 3), np.nan)), "pose 0"),
        (dict(threshold=0.0), "threshold"),
        (dict(variant="coco"), "'coco'"),
    ],
)
def test_bad_poses_are_named(changes, words):
    arguments = dict(poses=POSES, scores=[0.1, 0.2], areas=[1.0, 1.0], sigmas=COCO17.sigmas, threshold=0.9) | changes
    poses, scores, areas = (arguments.pop(k) for k in ("poses", "scores", "areas"))
    for suppression in (oks_nms, soft_oks_nms):
        with pytest.raises(ValueError, match=words):
            suppression(poses, scores, areas, **arguments)


# ------------------------------------------------------------------------------------------------- average precision


@pytest.mark.parametrize("split", SPLITS)
def test_average_precision_is_pycocotools(golden_path, golden_json, split):
    truth, found = golden_path(f"coco_gt_{split}.json"), golden_path(f"coco_results_{split}.json")
    numbers = average_precision(truth, found)
    assert tuple(numbers) == NAMES
    np.testing.assert_allclose(list(numbers.values()), golden_json("eval")[f"coco_{split}_stats"], atol=1e-10)


@pytest.mark.parametrize("split", SPLITS)
def test_rescoring_rules(golden_json, split):
    records, expected = golden_json(f"coco_results_{split}"), golden_json("eval")
    summed = [record["score"] for record in results.rescore(records, rule="box+mean+max")]
    np.testing.assert_allclose(summed, expected[f"coco_{split}_score_bbox_rle_formula"], atol=1e-12)
    boxes = [record["score"] for record in results.rescore(records, rule="box")]
    assert boxes == [record["bbox_score"] for record in records]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("soft", "name"), [(False, "oksnms"), (True, "softnms")])
def test_the_published_evaluation_from_end_to_end(golden_json, split, soft, name):
    """Rescore, suppress, score."""
    expected = golden_json("eval")[f"coco_{split}_official_{name}"]
    records = results.rescore(golden_json(f"coco_results_{split}"), rule="box*mean")
    kept = results.suppress(records, sigmas=COCO17.sigmas, threshold=0.9, soft=soft)
    assert len(kept) == expected["n_kept"]
    assert [record["image_id"] for record in kept] == expected["kept_image_ids"]
    np.testing.assert_allclose([record["score"] for record in kept], expected["kept_scores"], atol=1e-12)
    numbers = average_precision(golden_json(f"coco_gt_{split}"), kept)
    np.testing.assert_allclose(list(numbers.values()), list(expected["stats"].values()), atol=1e-10)


@pytest.mark.parametrize(
    ("truth", "found", "stats"),
    [
        ("crowdpose_gt_sample", "crowdpose_results_mmpose_sample", "crowdpose_mmpose_sample_stats"),
        ("crowdpose_synth_gt", "crowdpose_results_synth", "crowdpose_synth_stats"),
    ],
)
def test_crowdpose_numbers(golden_path, golden_json, truth, found, stats):
    numbers = crowdpose_average_precision(golden_path(f"{truth}.json"), golden_path(f"{found}.json"))
    names = ["AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard"]
    existing = [f"{name}_existing" for name in names[6:]]
    assert list(numbers) == names + existing
    np.testing.assert_allclose([numbers[name] for name in names], golden_json("eval")[stats], atol=1e-10)
    assert [round(numbers[name], 4) for name in existing] == [numbers[name] for name in names[6:]]


def make_crowd(crowd_index=(0.1, 0.5, 0.9)):
    truth = make_truth()
    for image, index in zip(truth["images"], crowd_index, strict=True):
        image["crowdIndex"] = index
    return truth


def crowd_classes(numbers, suffix=""):
    return [numbers[f"AP_{name}{suffix}"] for name in ("easy", "medium", "hard")]


def test_crowdpose_classes_with_and_without_placeholders():
    """A second category without annotations fills half of the array with -1; without results there are zeros."""
    truth = make_crowd()
    records = perfect_records(truth)
    records[2]["keypoints"] = [v + 500 for v in records[2]["keypoints"]]  # of the medium image: one of two is wrong
    alone = crowdpose_average_precision(truth, records)
    half = alone["AP_medium_existing"]
    assert 0 < half < 1 and half != round(half, 4)
    assert crowd_classes(alone) == [1.0, round(half, 4), 1.0]
    assert crowd_classes(alone, "_existing") == pytest.approx([1.0, half, 1.0])
    truth["categories"].append({"id": 1, "name": "dog"})
    both = crowdpose_average_precision(truth, records)
    assert crowd_classes(both) == [0.0, round((half - 1) / 2, 4), 0.0]
    changed = {"AP_easy", "AP_medium", "AP_hard"}
    assert {k: v for k, v in both.items() if k not in changed} == {k: v for k, v in alone.items() if k not in changed}


def test_crowdpose_class_borders_and_classes_without_persons():
    truth = make_crowd((0.2, 0.7999, 0.8))
    numbers = crowdpose_average_precision(truth, perfect_records(truth))
    assert crowd_classes(numbers) == [-1.0, 1.0, 1.0] and crowd_classes(numbers, "_existing")[0] == -1.0
    truth["annotations"] = truth["annotations"][:4]  # the hard image is there, nobody in it
    numbers = crowdpose_average_precision(truth, perfect_records(truth))
    assert crowd_classes(numbers) == [-1.0, 1.0, -1.0] and crowd_classes(numbers, "_existing")[2] == -1.0


def test_who_counts_in_crowdpose_is_what_the_file_says():
    """A person with labelled joints whose num_keypoints is 0 is ignored, missed or found; COCO's evaluation counts."""
    truth = make_crowd()
    records = perfect_records(truth)[1:]
    assert crowdpose_average_precision(truth, records)["AR"] == pytest.approx(5 / 6)
    truth["annotations"][0]["num_keypoints"] = 0
    assert crowdpose_average_precision(truth, records)["AR"] == pytest.approx(1)
    assert average_precision(truth, records)["AR"] == pytest.approx(5 / 6)
    numbers = crowdpose_average_precision(truth, perfect_records(truth))
    assert numbers["AP"] == pytest.approx(1) and numbers["AR"] == pytest.approx(1)
    del truth["annotations"][0]["num_keypoints"]
    assert crowdpose_average_precision(truth, records)["AR"] == pytest.approx(5 / 6)


def test_crowdpose_areas_are_those_of_the_boxes():
    truth = make_crowd()
    numbers = crowdpose_average_precision(truth, perfect_records(truth, shift=5.0))
    for person in truth["annotations"]:
        person["area"] = 1e6
    assert crowdpose_average_precision(truth, perfect_records(truth, shift=5.0)) == numbers
    assert numbers["AP"] == average_precision(truth, perfect_records(truth, shift=5.0), area="box")["AP"] < 1


def test_perfect_predictions_have_precision_one():
    truth = make_truth()
    before = copy.deepcopy(truth)
    numbers = average_precision(truth, perfect_records(truth))
    assert all(value == pytest.approx(1.0) for value in numbers.values())
    assert truth == before


def test_precision_follows_the_oks_thresholds():
    """All joints off so far that every OKS is 0.72: right at 0.50, 0.55, ..., 0.70, wrong from 0.75 on."""
    truth = make_truth()
    truth["annotations"] = truth["annotations"][::2]  # of one size
    shift = np.sqrt(-np.log(0.72) * 2 * (0.6 * 200**2) * (2 * DEFAULT_SIGMA) ** 2)
    numbers = average_precision(truth, perfect_records(truth, shift=shift))
    assert numbers["AP50"] == pytest.approx(1) and numbers["AP75"] == 0
    assert numbers["AP"] == pytest.approx(0.5) and numbers["AR"] == pytest.approx(0.5)
    assert numbers["APM"] == -1 and numbers["APL"] == pytest.approx(0.5)
    # A sharper sigma makes the same prediction wrong, a blunter one right.
    assert average_precision(truth, perfect_records(truth, shift=shift), sigmas=np.full(4, 0.01))["AP"] == 0
    assert average_precision(truth, perfect_records(truth, shift=shift), sigmas=np.full(4, 1.0))["AP"] == pytest.approx(
        1
    )


def test_an_annotation_with_id_zero_can_be_found():
    """pycocotools writes a match down as the annotation's id, so 0 would read as none."""
    truth = make_truth(first_id=0)
    assert average_precision(truth, perfect_records(truth))["AP"] == pytest.approx(1)


def test_no_results_give_zeros():
    numbers = average_precision(make_truth(), [])
    assert list(numbers.values()) == [0.0] * 10


def test_no_ground_truth_of_a_size_gives_minus_one():
    truth = make_truth(people=2)
    truth["annotations"] = truth["annotations"][:1]
    numbers = average_precision(truth, perfect_records(truth))
    assert numbers["APL"] == pytest.approx(1) and numbers["APM"] == numbers["ARM"] == -1
    assert list(average_precision(truth | {"annotations": []}, []).values()) == [-1.0] * 10


def test_duplicates_cost_precision_and_the_score_orders():
    truth = make_truth()
    records = perfect_records(truth)
    worse = [{**record, "keypoints": [v + 40 for v in record["keypoints"]]} for record in records]
    low = average_precision(truth, records + [{**record, "score": 0.01} for record in worse])["AP"]
    high = average_precision(truth, records + [{**record, "score": 9.0} for record in worse])["AP"]
    assert high < low == pytest.approx(1)


def test_only_the_best_people_of_an_image_count():
    truth = make_truth()
    assert average_precision(truth, perfect_records(truth), max_people=1)["AR"] == pytest.approx(0.5)


def test_areas_come_from_the_annotation_or_the_box():
    truth, records = make_truth(), perfect_records(make_truth(), shift=11.5)
    annotated = average_precision(truth, records)
    from_box = average_precision(truth, records, area="box")
    without = copy.deepcopy(truth)
    for annotation in without["annotations"]:
        del annotation["area"]
    assert average_precision(without, records) == from_box
    assert from_box["AP"] < annotated["AP"]  # 0.53 of the box is less than the 0.6 that was annotated
    by_hand = copy.deepcopy(truth)
    for annotation in by_hand["annotations"]:
        annotation["area"] = 0.53 * annotation["bbox"][2] * annotation["bbox"][3]
    assert average_precision(by_hand, records) == from_box


def test_part_of_the_images():
    truth = make_truth()
    records = [record for record in perfect_records(truth) if record["image_id"] == 11]
    assert average_precision(truth, records)["AR"] == pytest.approx(1 / 3)
    assert average_precision(truth, records, image_ids=[11])["AR"] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"\[99\]"):
        average_precision(truth, records, image_ids=[99])


def test_crowds_and_unlabelled_people_are_ignored():
    truth = make_truth()
    crowd = copy.deepcopy(truth["annotations"][0]) | {"id": 100, "iscrowd": 1, "bbox": [400, 0, 60, 60]}
    blank = {"id": 101, "image_id": 10, "category_id": 3, "bbox": [0, 400, 90, 90], "keypoints": None}
    truth["annotations"] += [crowd, blank]
    records = perfect_records(truth | {"annotations": truth["annotations"][:6]})
    on_blank = {**records[0], "keypoints": [20.0, 440.0, 1.0] * 4, "score": 5.0}
    numbers = average_precision(truth, [*records, on_blank])
    assert numbers["AP"] == pytest.approx(1)


def species():
    """Three species with the same joints, the third without anybody; who is predicted as perfect, and who is not at all."""
    truth = make_truth()
    truth["categories"] = [
        truth["categories"][0] | {"id": i, "name": name} for i, name in ((3, "cat"), (5, "dog"), (4, "cow"))
    ]
    for annotation in truth["annotations"][:2]:
        annotation["category_id"] = 5
    records = perfect_records(truth)
    for record, annotation in zip(records, truth["annotations"], strict=True):
        record["category_id"] = annotation["category_id"]
    return truth, records


def test_categories_with_the_same_joints_are_scored_together():
    """As pycocotools counts: the mean over the categories that have somebody."""
    truth, records = species()
    assert average_precision(truth, records)["AP"] == pytest.approx(1)
    cats = [record for record in records if record["category_id"] == 3]
    by_category = average_precision_by_category(truth, cats)
    assert list(by_category) == ["cat", "cow", "dog"]
    assert (
        by_category["cat"]["AP"] == pytest.approx(1)
        and by_category["dog"]["AP"] == 0
        and by_category["cow"]["AP"] == -1
    )
    assert average_precision(truth, cats)["AP"] == pytest.approx(0.5)
    as_cats = [record | {"category_id": 3} for record in records]
    assert average_precision(truth, as_cats)["AP"] < 0.6, "a dog that is taken for a cat is no dog"
    assert report.from_results(truth, records)["summary"]["EPE"] < 1e-3
    truth["categories"][0]["sigmas"] = [0.1] * 4
    with pytest.raises(ValueError, match="different 'sigmas'.*--sigmas"):
        average_precision(truth, records)
    truth["categories"][1]["name"] = "cat"
    assert list(average_precision_by_category(truth, records, sigmas=[0.1] * 4)) == ["cat (3)", "cow", "cat (5)"]
    del truth["annotations"][0]["category_id"]
    with pytest.raises(ValueError, match=r"annotation 1 has no 'category_id', of the ids \[3, 4, 5\]"):
        average_precision(truth, records, sigmas=[0.1] * 4)


def test_one_of_several_categories():
    truth, records = species()
    assert average_precision(truth, records, category_id=5)["AP"] == pytest.approx(1)
    assert average_precision(truth, [r for r in records if r["category_id"] == 3], category_id=5)["AP"] == 0
    with pytest.raises(ValueError, match="the results have category_id 9"):
        average_precision(truth, [records[0] | {"category_id": 9}], category_id=5)


def test_the_sigmas_of_the_category_are_taken():
    truth = make_truth()
    records = perfect_records(truth, shift=9.0)
    wide = truth | {"categories": [truth["categories"][0] | {"sigmas": [0.2] * 4}]}
    assert average_precision(wide, records) == average_precision(truth, records, sigmas=[0.2] * 4)
    assert average_precision(wide, records)["AP"] > average_precision(truth, records)["AP"]
    assert average_precision(wide, records, sigmas=[DEFAULT_SIGMA] * 4) == average_precision(truth, records)
    with pytest.raises(ValueError, match="4 joints, 1 sigmas"):
        average_precision(truth | {"categories": [truth["categories"][0] | {"sigmas": [0.2]}]}, records)


def test_files_are_read_as_in_training():
    """Nested keypoints, joints without names, no boxes, ids as text: what prepare reads, the evaluation reads alike."""
    truth = make_truth()
    records, expected = perfect_records(truth), average_precision(truth, perfect_records(truth))
    nested = copy.deepcopy(truth)
    nested["categories"][0]["keypoints"] = []
    for annotation in nested["annotations"]:
        annotation["keypoints"] = np.reshape(annotation["keypoints"], (-1, 3)).tolist()
    assert average_precision(nested, records) == expected
    without = copy.deepcopy(truth)
    for annotation in without["annotations"]:
        del annotation["bbox"]
    assert average_precision(without, records) == expected
    for annotation in without["annotations"]:
        del annotation["area"]
    assert average_precision(without, records)["AP"] == pytest.approx(1)
    text = copy.deepcopy(truth)
    for entry in text["images"] + text["annotations"] + text["categories"]:
        entry |= {key: str(entry[key]) for key in ("id", "image_id", "category_id") if key in entry}
    assert average_precision(text, records) == expected
    text["categories"][0]["id"] = 3
    assert average_precision(text, records) == expected


def test_extra_fields_of_a_record_do_not_change_the_numbers(golden_json):
    """A 'bbox' in the first record makes pycocotools' own reader take the list for box detections."""
    truth, records = golden_json("coco_gt_val2017"), golden_json("coco_results_val2017")
    plain = average_precision(truth, records)
    assert average_precision(truth, [{**record, "bbox": [0, 0, 1, 1]} for record in records]) == plain


def test_nothing_is_printed(capfd):
    truth = make_truth()
    average_precision(truth, perfect_records(truth))
    assert capfd.readouterr() == ("", "")


def test_several_categories():
    truth = make_truth()
    truth["categories"].append({"id": 4, "name": "dog", "keypoints": ["nose"]})
    truth["annotations"].append(
        {"id": 50, "image_id": 10, "category_id": 4, "bbox": [0, 0, 9, 9], "keypoints": [1, 1, 2]}
    )
    records = perfect_records(make_truth())
    with pytest.raises(ValueError, match=r"category_id must say.*\[3, 4\]"):
        average_precision(truth, records)
    assert average_precision(truth, records, category_id=3)["AP"] == pytest.approx(1)
    with pytest.raises(ValueError, match="no category with id 9"):
        average_precision(truth, records, category_id=9)


def test_sigmas_belong_to_the_skeleton(golden_json):
    truth, records = golden_json("coco_gt_val2017"), golden_json("coco_results_val2017")
    assert average_precision(truth, records) == average_precision(truth, records, sigmas=COCO17.sigmas)
    assert average_precision(truth, records) != average_precision(truth, records, sigmas=np.full(17, 0.05))
    crowd, found = golden_json("crowdpose_synth_gt"), golden_json("crowdpose_results_synth")
    assert crowdpose_average_precision(crowd, found) == crowdpose_average_precision(
        crowd, found, sigmas=CROWDPOSE14.sigmas
    )


# --------------------------------------------------------------------------------------------------- result records


def test_person_scores():
    confidence = np.array([[0.1, 0.5, 0.9], [0.1, 0.1, 0.2]])
    box = np.array([0.5, 0.8])
    np.testing.assert_allclose(results.person_score(confidence, box), [0.5 + 0.5 + 0.9, 0.8 + 0.4 / 3 + 0.2])
    np.testing.assert_allclose(results.person_score(confidence, box, rule="box*mean"), [0.5 * 0.7, 0.0])
    np.testing.assert_allclose(results.person_score(confidence, box, rule="box"), box)
    np.testing.assert_allclose(results.person_score(confidence, box, rule="mean"), np.mean(confidence, -1))


def test_records_hold_what_was_predicted():
    rng = np.random.default_rng(0)
    xy, confidence = rng.uniform(0, 640, (3, 5, 2)).astype(np.float32), rng.random((3, 5)).astype(np.float32)
    records = results.from_predictions(
        xy, confidence, image_id=np.array([7, 7, 9]), box_score=np.float32([0.5, 0.6, 0.7]), box=np.ones((3, 4)),
        area=[1, 2, 3], annotation_id=np.array([4, 5, 6]), category_id=2, rescore="box",
    )  # fmt: skip
    assert [record["image_id"] for record in records] == [7, 7, 9]
    keypoints = np.reshape([record["keypoints"] for record in records], (3, 5, 3))
    np.testing.assert_allclose(keypoints[..., :2], xy, atol=6e-4)
    np.testing.assert_allclose(keypoints[..., 2], confidence, atol=1e-6)
    assert [record["score"] for record in records] == [0.5, 0.6, 0.7] == [record["bbox_score"] for record in records]
    assert records[2] | {"keypoints": None} == {
        "image_id": 9, "category_id": 2, "keypoints": None, "score": 0.7, "bbox_score": 0.7, "box": [1.0] * 4,
        "area": 3.0, "annotation_id": 6,
    }  # fmt: skip
    assert json.loads(json.dumps(records)) == records
    assert results.from_predictions(np.zeros((0, 5, 2)), np.zeros((0, 5)), image_id=[]) == []


def test_ground_truth_boxes_have_score_one():
    record = results.from_predictions(np.zeros((1, 2, 2)), [[0.2, 0.4]], image_id=[1])[0]
    assert record["bbox_score"] == 1 and record["score"] == pytest.approx(1 + 0.3 + 0.4)
    assert not {"box", "bbox", "area", "annotation_id"} & set(record)


def test_writing_and_reading(tmp_path):
    truth = make_truth()
    records, path = perfect_records(truth, ids=True), tmp_path / "new" / "results.json"
    results.write(records, path)
    assert results.read(path) == records
    assert average_precision(truth, path) == average_precision(truth, records)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_pycocotools_reads_the_file_itself(tmp_path):
    """What the COCO server does: loadRes on the file, evaluate, summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, path = make_truth(), tmp_path / "results.json"
    records = perfect_records(truth, shift=7.0)
    results.write(records, path)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    coco = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(path)), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.full(4, DEFAULT_SIGMA)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    np.testing.assert_allclose(list(average_precision(truth, records).values()), evaluation.stats, atol=1e-12)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    records, path = perfect_records(make_truth()), tmp_path / "results.json"
    results.write(records, path)
    old = path.read_bytes()

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", disk_full)
    with pytest.raises(OSError, match="No space"):
        results.write(records[:1], path)
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_suppression_within_images_only():
    truth = make_truth()
    records = perfect_records(truth)
    doubled = records + [{**record, "score": record["score"] - 0.1} for record in records]
    kept = results.suppress(doubled, sigmas=np.full(4, 0.1))
    assert sorted(map(str, kept)) == sorted(map(str, records))
    assert [record["image_id"] for record in kept] == [10, 10, 11, 11, 12, 12]
    moved = [{**record, "image_id": 100 + i} for i, record in enumerate(doubled)]
    assert len(results.suppress(moved, sigmas=np.full(4, 0.1))) == 12
    assert results.suppress([], sigmas=np.full(4, 0.1)) == []


GOOD = {"image_id": 1, "category_id": 3, "keypoints": [1.0, 2.0, 0.5], "score": 0.5}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: results.from_predictions(np.ones((2, 3)), np.ones(2), image_id=[1, 2]), r"\(N, K, 2\)"),
        (lambda: results.from_predictions(np.ones((2, 3, 2)), np.ones((2, 1)), image_id=[1, 2]), r"\(2, 3\).*\(2, 1\)"),
        (lambda: results.from_predictions(np.ones((2, 3, 2)), np.ones((2, 3)), image_id=[1]), "image_id"),
        (
            lambda: results.from_predictions(np.full((2, 3, 2), np.nan), np.ones((2, 3)), image_id=[7, 8]),
            "xy of person 0 .image 7. is not finite",
        ),
        (
            lambda: results.from_predictions(np.ones((2, 3, 2)), np.full((2, 3), np.inf), image_id=[7, 8]),
            "confidence of person 0",
        ),
        (lambda: results.person_score([0.1], 1.0, rule="sum"), "'sum'"),
        (lambda: results.person_score([[0.1]], 1.0), r"\(1, 1\) and \(\)"),
        (lambda: results.rescore([GOOD], rule="box"), "no 'bbox_score'"),
        (lambda: results.suppress([GOOD], sigmas=[0.1]), "no 'area'"),
        (lambda: results.check({"image_id": 1}), "list"),
        (lambda: results.check([1]), "dictionary"),
        (lambda: results.check([{k: v for k, v in GOOD.items() if k != "score"}]), "result 0 has no 'score'"),
        (lambda: results.check([GOOD, {**GOOD, "keypoints": [1.0, 2.0]}]), "result 1: 'keypoints'"),
        (lambda: results.check([GOOD], num_joints=17), "1 keypoints.*17"),
        (lambda: results.check([{**GOOD, "score": float("nan")}]), "'score' holds nan"),
        (lambda: results.check([{**GOOD, "keypoints": [1.0, float("inf"), 0.5]}]), "'keypoints' holds inf"),
        (lambda: results.check([{**GOOD, "keypoints": [1.0, "2", 0.5]}]), "'keypoints' holds '2'"),
        (lambda: results.check([{**GOOD, "keypoints": [1.0, 10**400, 0.5]}]), "'keypoints' holds 1000"),
        (lambda: results.check([GOOD, {**GOOD, "image_id": [1]}]), r"result 1: 'image_id' .*, got \[1\]"),
        (lambda: results.check([{**GOOD, "category_id": None}]), "'category_id' .*, got None"),
        (lambda: results.check([{**GOOD, "annotation_id": [5]}]), r"'annotation_id' .*, got \[5\]"),
    ],
)
def test_bad_records_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --------------------------------------------------------------------------------------------------------- bad files


def test_missing_files_are_named(tmp_path):
    truth = make_truth()
    with pytest.raises(FileNotFoundError, match="gone.json"):
        average_precision(tmp_path / "gone.json", [])
    with pytest.raises(FileNotFoundError, match="lost.json"):
        average_precision(truth, str(tmp_path / "lost.json"))


@pytest.mark.parametrize(("content", "words"), [("{", "not JSON"), ("[]", "not an object"), ("{}", "no 'images'")])
def test_files_that_are_no_ground_truth(tmp_path, content, words):
    path = tmp_path / "truth.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"truth.json.*{words}"):
        average_precision(path, [])


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not JSON"), ("{}", "must be a list"), ('[{"image_id": 1}]', "no 'category_id'")]
)
def test_files_that_are_no_results(tmp_path, content, words):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"results.json.*{words}"):
        average_precision(make_truth(), path)


def changed(**changes):
    truth = make_truth()
    truth["annotations"][1] |= changes
    return truth


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ({k: v for k, v in make_truth().items() if k != "annotations"}, "no 'annotations'"),
        (make_truth() | {"categories": [{"id": 3, "name": "cat"}]}, "no category names its 'keypoints'"),
        (make_truth() | {"images": [{"file_name": "0.jpg"}]}, "entry 0 of 'images' has no 'id'"),
        (changed(keypoints=[1, 2, 2]), "annotation 2 has 1 keypoints, its category has 4"),
        (changed(keypoints=[float("nan"), 2, 2] * 4), "annotation 2 has a labelled keypoint that is not finite"),
        (changed(bbox=[0, 0, float("nan"), 1]), "annotation 2: 'bbox'"),
        (changed(image_id=77), "annotation 2 belongs to image 77"),
        (changed(image_id=[0]), r"annotation 2 belongs to image \[0\]"),
        (changed(id=1), "annotation id 1 occurs more than once"),
        (changed(id=None), "id of entry 1 of 'annotations' must be a whole number, got None"),
        (changed(bbox=None), "annotation 2: 'bbox' must be four finite numbers, got None"),
        (changed(bbox=[0, 0, 10**400, 1]), "annotation 2: 'bbox'"),
        (changed(iscrowd="0"), "annotation 2: 'iscrowd' must be 0 or 1, got '0'"),
        (changed(keypoints="abc"), "annotation 2: 'keypoints' must be a list of numbers, got 'abc'"),
        (changed(keypoints=[1, 2, None] * 4), "annotation 2: a visibility is not a number"),
        (changed(keypoints=["x", 2, 2] * 4), "annotation 2 has a labelled keypoint that is not finite"),
        (make_truth() | {"images": [1, 2]}, "entry 0 of 'images' is 1, expected an object"),
        (make_truth() | {"images": [{"id": [1]}]}, r"id of entry 0 of 'images' must be a whole number, got \[1\]"),
        (make_truth() | {"annotations": None}, "'annotations' is a NoneType, expected a list"),
        (make_truth() | {"annotations": [3]}, "entry 0 of 'annotations' is 3"),
        (make_truth() | {"categories": {"id": 1}}, "'categories' is a dict, expected a list"),
        (make_truth() | {"categories": [{"id": 3, "keypoints": 4}]}, "list of joint names, got 4"),
    ],
)
def test_bad_ground_truth_is_named(truth, words):
    with pytest.raises(ValueError, match=words):
        average_precision(truth, [])


def test_unlabelled_keypoints_may_hold_anything():
    truth = make_truth()
    for annotation in truth["annotations"]:
        annotation["keypoints"][9:11] = [float("nan"), float("inf")]
    assert average_precision(truth, perfect_records(make_truth()))["AP"] == pytest.approx(1)
    assert report.from_results(truth, perfect_records(make_truth()))["summary"]["EPE"] < 1e-3


def test_results_that_do_not_belong_to_the_ground_truth():
    truth = make_truth()
    records = perfect_records(truth)
    with pytest.raises(ValueError, match=r"2 images of the results.*\(3 images\): image_id 98, 99"):
        average_precision(truth, records + [{**records[0], "image_id": i} for i in (99, 98)])
    with pytest.raises(ValueError, match="category_id 1, the persons of the ground truth 3"):
        average_precision(truth, [{**records[0], "category_id": 1}])
    with pytest.raises(ValueError, match="5 keypoints.*4"):
        average_precision(truth, [{**records[0], "keypoints": [0.0] * 15}])
    with pytest.raises(ValueError, match="'keypoints' holds nan"):
        average_precision(truth, [{**records[0], "keypoints": [float("nan")] * 12}])


def test_bad_options():
    truth = make_truth()
    records = perfect_records(truth)
    with pytest.raises(ValueError, match=r"4 keypoints.*\(17,\)"):
        average_precision(truth, records, sigmas=COCO17.sigmas)
    with pytest.raises(ValueError, match="positive"):
        average_precision(truth, records, sigmas=[0.1, 0.1, 0.1, 0.0])
    with pytest.raises(ValueError, match="'mask'"):
        average_precision(truth, records, area="mask")
    for max_people in (0, -1):
        with pytest.raises(ValueError, match=f"max_people must be at least 1, got {max_people}"):
            average_precision(truth, records, max_people=max_people)
    with pytest.raises(ValueError, match="crowdIndex"):
        crowdpose_average_precision(truth, records)
    with pytest.raises(ValueError, match="number 'crowdIndex' for every image .*; image .* has 'much'"):
        crowded = [image | {"crowdIndex": "much"} for image in truth["images"]]
        crowdpose_average_precision(truth | {"images": crowded}, records)


@pytest.mark.parametrize("area", [0, -5, float("nan"), float("inf"), "big", None])
def test_an_area_that_is_none_comes_from_the_box(area):
    truth, without = make_truth(), make_truth()
    for annotation in truth["annotations"]:
        annotation["area"] = area
    for annotation in without["annotations"]:
        annotation.pop("area", None)
    records = perfect_records(make_truth(), shift=3.0)
    assert average_precision(truth, records) == average_precision(without, records)
    assert report.from_results(truth, records) == report.from_results(without, records)


def test_num_keypoints_are_counted():
    truth = make_truth()
    for annotation in truth["annotations"]:
        annotation["num_keypoints"] = 0
    assert average_precision(truth, perfect_records(truth))["AP"] == pytest.approx(1)


def test_ground_truth_is_completed():
    truth = make_truth()
    for key in ("num_keypoints", "iscrowd", "area"):
        del truth["annotations"][0][key]
    first = read_ground_truth(truth)["annotations"][0]
    assert first["num_keypoints"] == 3 and first["iscrowd"] == 0 and "area" not in first


# ------------------------------------------------------------------------------------------------------------ report


@pytest.fixture
def people():
    """Predictions off by a known distance: the person's index + 1 in x, for joints of every visibility."""
    rng = np.random.default_rng(0)
    visibility = np.zeros((4, 12), int)
    visibility[0, :3] = 2  # 3 joints, none occluded, box 40
    visibility[1, :8] = [2] * 4 + [1] * 4  # 8 joints, half occluded, box 64
    visibility[2, :12] = [2] * 3 + [1] * 9  # 12 joints, three quarters occluded, box 200
    joints = rng.uniform(0, 100, (4, 12, 2))
    joints[visibility == 0] = np.nan
    side = np.array([40.0, 64.0, 200.0, 90.0])
    return dict(
        xy=np.where(visibility[..., None] > 0, joints, 1e6) + np.arange(1.0, 5)[:, None, None] * [1, 0],
        confidence=np.array([0.9, 0.8, 0.7, 0.1])[:, None] * np.ones(12),
        joints=joints,
        visibility=visibility,
        box=np.column_stack([np.zeros((4, 2)), side, side]),
        area=side**2,
    )


def test_report_groups(people):
    found = report.details(people, sigmas=np.full(12, 0.1), names=[f"j{k}" for k in range(12)])
    summary = found["summary"]
    total = 1 * 3 + 2 * 8 + 3 * 12
    assert (summary["people"], summary["joints"]) == (3, 23)  # the fourth has no labels
    assert summary["EPE"] == pytest.approx(total / 23)
    assert summary["EPE_visible"] == pytest.approx((1 * 3 + 2 * 4 + 3 * 3) / 10)
    assert summary["EPE_occluded"] == pytest.approx((2 * 4 + 3 * 9) / 13)
    similarity = np.exp(-(np.array([1, 2, 3]) ** 2) / (2 * np.array([40.0, 64, 200]) ** 2 * 0.2**2))
    assert summary["OKS"] == pytest.approx(similarity.mean())
    assert summary["pearson"] == pytest.approx(np.corrcoef([0.9, 0.8, 0.7], similarity)[0, 1])
    # 5 % of the longer sides 40, 64 and 200 is 2, 3.2 and 10 pixels, the errors are 1, 2 and 3
    assert summary["PCK@0.05"] == 1 and summary["PCK@0.1"] == 1
    shrunk = people | {"box": people["box"] * [1, 1, 0.45, 0.4]}
    assert report.details(shrunk, sigmas=np.full(12, 0.1))["summary"]["PCK@0.05"] == pytest.approx(12 / 23)
    assert report.details(shrunk, sigmas=np.full(12, 0.1))["summary"]["PCK@0.1"] == 1
    sizes, occlusion = found["size_by_joints"], found["occlusion_by_joints"]
    assert sizes["32^2 to 64^2"]["1-5 joints"] == {"people": 1, "joints": 3, "EPE": pytest.approx(1)}
    assert sizes["64^2 to 96^2"]["6-10 joints"]["EPE"] == pytest.approx(2)  # 64 belongs to the upper bin
    assert sizes["from 128^2"]["11+ joints"]["joints"] == 12
    assert sizes["below 32^2"]["all"] == {"people": 0, "joints": 0, "EPE": None}
    assert occlusion["below 10% occluded"]["all"]["EPE"] == pytest.approx(1)
    assert occlusion["10% to 50% occluded"]["all"]["EPE"] == pytest.approx(2)  # exactly half
    assert occlusion["above 50% occluded"]["all"]["EPE"] == pytest.approx(3)
    for table in (sizes, occlusion):
        assert table["all"]["all"]["EPE"] == pytest.approx(total / 23)
        assert sum(table[row]["all"]["joints"] for row in table if row != "all") == 23
        assert sum(table["all"][column]["people"] for column in table["all"] if column != "all") == 3
    assert found["per_joint"]["j0"] == {"count": 3, "EPE": pytest.approx(2)}
    assert found["per_joint"]["j11"] == {"count": 1, "EPE": pytest.approx(3)}
    assert json.loads(json.dumps(found)) == found
    assert "10% to 50% occluded" in report.text(found)


def test_report_of_files_by_annotation_id_and_by_oks():
    truth = make_truth()
    records = perfect_records(truth, shift=2.0, ids=True)
    by_id = report.from_results(truth, records)
    assert by_id["matched"] == {"people": 6, "results": 6, "pairs": 6}
    assert by_id["summary"]["EPE"] == pytest.approx(2.0, abs=1e-3)
    stray = {**records[0], "keypoints": [5000.0, 5000.0, 0.1] * 4, "score": 9.0}
    anonymous = [{k: v for k, v in r.items() if k != "annotation_id"} for r in [*records[::-1], stray]]
    by_oks = report.from_results(truth, anonymous)
    assert by_oks["matched"] == {"people": 6, "results": 7, "pairs": 6}
    assert by_oks["summary"] == pytest.approx(by_id["summary"])
    # A second, lower-scored result for a person is not counted.
    again = {**records[0], "score": 0.0, "keypoints": [0.0, 0.0, 0.1] * 4}
    assert report.from_results(truth, [*records, again])["summary"] == pytest.approx(by_id["summary"])
    with pytest.raises(ValueError, match="annotation_id 2.*not have in that image"):
        report.from_results(truth, [{**records[5], "annotation_id": 2}])


def test_report_agrees_with_the_metrics(golden_json):
    truth = golden_json("coco_gt_val2017")
    people = [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    label = np.reshape([a["keypoints"] for a in people], (-1, 17, 3)).astype(float)
    rng = np.random.default_rng(0)
    xy, confidence = label[..., :2] + rng.normal(size=label[..., :2].shape), rng.random(label.shape[:2])
    records = results.from_predictions(
        xy, confidence, image_id=[a["image_id"] for a in people], annotation_id=[a["id"] for a in people]
    )
    summary = report.from_results(truth, records)["summary"]
    where, area = label[..., 2] > 0, np.array([a["area"] for a in people])
    similarity = metrics.oks(xy, label[..., :2], area=area, sigmas=COCO17.sigmas, where=where)
    assert summary["people"] == len(people)
    assert summary["EPE"] == pytest.approx(metrics.epe(xy, label[..., :2], where=where), rel=1e-3)
    assert summary["pearson"] == pytest.approx(metrics.pearson(confidence.mean(axis=1), similarity), abs=1e-3)


def test_report_of_nothing():
    found = report.from_results(make_truth(), [])
    assert found["summary"] == {"people": 0, "joints": 0}
    assert found["matched"]["pairs"] == 0 and "0 of 6 people" in report.text(found)


def test_constant_confidence_has_no_correlation(people):
    people["confidence"] = np.ones((4, 12))
    assert "pearson" not in report.details(people, sigmas=np.full(12, 0.1))["summary"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(area=np.ones((4, 1))), r"area must be \(4,\).*\(4, 1\)"),
        (dict(confidence=np.ones((4, 1))), r"confidence must be \(4, 12\)"),
        (dict(xy=np.full((4, 12, 2), np.nan)), "xy of prediction 0"),
    ],
)
def test_bad_predictions_are_named(people, changes, words):
    with pytest.raises(ValueError, match=words):
        report.details(people | changes, sigmas=np.full(12, 0.1))
    with pytest.raises(ValueError, match="'box'"):
        report.details({k: v for k, v in people.items() if k != "box"}, sigmas=np.full(12, 0.1))
    with pytest.raises(ValueError, match="12 joint names, got 3"):
        report.details(people, sigmas=np.full(12, 0.1), names=["a", "b", "c"])


# ------------------------------------------------------------------------------------------------------ command line


def command(*arguments, without=("jax", "flax", "tensorflow", "matplotlib")):
    """Run the command with modules that cannot be imported."""
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({without!r}))\n"
        f"sys.argv[1:] = {[str(a) for a in arguments]!r}\n"
        "runpy.run_module('jaxpose.evaluation', run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_command_scores_a_file_without_jax_or_tensorflow(tmp_path):
    truth = make_truth()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    records = perfect_records(truth, shift=7.0)
    results.write(records, tmp_path / "results.json")
    files = (tmp_path / "truth.json", tmp_path / "results.json")
    done = command(*files)
    assert done.returncode == 0, done.stderr
    header, values, line = done.stdout.strip().splitlines()
    assert header.split() == list(NAMES)
    expected = average_precision(truth, records)
    np.testing.assert_allclose([float(v) for v in values.split()], list(expected.values()), atol=5.1e-5)
    assert json.loads(line) == expected

    done = command(*files, "--sigmas", 0.5, 0.5, 0.5, 0.5, "--errors")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.strip().splitlines()[-1])
    assert last["AP"] == pytest.approx(1) and last["errors"]["summary"]["EPE"] == pytest.approx(7, abs=1e-3)
    assert "from 128^2" in done.stdout


def test_command_shows_every_category(tmp_path):
    truth, records = species()
    for name, content in (("truth.json", truth), ("results.json", records)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-16")
    done = command(tmp_path / "truth.json", tmp_path / "results.json")
    assert done.returncode == 0, done.stderr
    *_, cat, cow, dog, line = done.stdout.strip().splitlines()
    assert cat.endswith("  cat") and dog.split()[0] == "1.0000" and cow.split()[0] == "-1.0000"
    assert json.loads(line)["categories"]["dog"]["AP"] == pytest.approx(1)


def test_command_says_what_is_wrong(tmp_path):
    (tmp_path / "truth.json").write_text("{}")
    done = command(tmp_path / "truth.json", tmp_path / "results.json")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "no 'images'" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "truth.json").write_text(json.dumps(make_truth()))
    done = command(tmp_path / "truth.json", tmp_path / "results.json")
    assert done.returncode == 1 and "results.json" in done.stderr
    for flag, value in (("--area", "box"), ("--max-people", 5), ("--category-id", 3)):
        done = command(tmp_path / "truth.json", tmp_path / "results.json", "--crowdpose", flag, value)
        assert done.returncode == 1 and done.stderr.startswith("error: --crowdpose has its own rules")


def crowded(seed: int) -> tuple[dict, list]:
    """Images with nobody, with crowds, with unlabelled people and people without area; results with ties and strangers."""
    rng = np.random.default_rng(seed)
    people, records = [], []
    for image in range(1, 13):
        for _ in range(rng.integers(0, 5)):
            xy, scale = rng.uniform(0, 300, (17, 2)), rng.choice([20.0, 60.0, 150.0])
            labelled = rng.random(17) < rng.choice([0.0, 0.2, 0.9])
            keypoints = np.where(labelled[:, None], np.column_stack([xy, np.full(17, 2)]), 0)
            person = {
                "id": len(people),
                "image_id": image,
                "category_id": 1,
                "bbox": [0, 0, scale, scale],
                "iscrowd": 0,
            }
            person |= (
                {"keypoints": keypoints.ravel().tolist(), "area": scale**2} if rng.random() < 0.8 else {"iscrowd": 1}
            )
            people.append(person)
            for _ in range(rng.integers(0, 4)):
                found = xy + rng.normal(0, rng.choice([0.5, 4, 30]), (17, 2))
                keypoints = np.column_stack([found, rng.random(17)]).ravel().tolist()
                records.append(
                    {"image_id": image, "category_id": 1, "keypoints": keypoints, "score": float(rng.integers(9)) / 8}
                )
    images = [{"id": i, "crowdIndex": rng.random()} for i in range(1, 15)]
    categories = [{"id": 1, "keypoints": list(COCO17.joints)}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": people, "categories": categories}, records


RENAMED = (  # in the same order: equal scores are counted in the images'
    lambda i: i,
    lambda i: f"name {i:04}",
    lambda i: i - 100,
    lambda i: 2**64 + i,
    lambda i: i if i < 7 else f"name {i:04}",
)


@pytest.mark.parametrize("seed", range(12))
def test_hotcoco_gives_the_numbers_of_pycocotools(seed):
    pytest.importorskip("hotcoco")
    truth, records = crowded(seed)
    records = records if seed else []
    count = {"max_people": 3, "image_ids": [1, 2, 3, 5, 8]} if seed % 3 == 2 else {}
    usual = average_precision(truth, records, **count, sigmas=COCO17.sigmas, engine="pycocotools")
    rename = RENAMED[seed % len(RENAMED)]
    truth = truth | {
        "images": [image | {"id": rename(image["id"])} for image in truth["images"]],
        "categories": [category | {"id": rename(category["id"])} for category in truth["categories"]],
        "annotations": [
            person | {key: rename(person[key]) for key in ("id", "image_id", "category_id")}
            for person in truth["annotations"]
        ],
    }
    records = [r | {key: rename(r[key]) for key in ("image_id", "category_id")} for r in records]
    count |= {"image_ids": list(map(rename, count["image_ids"]))} if count else {}

    def numbers(engine):
        options = {"sigmas": COCO17.sigmas, "engine": engine}
        crowdpose = crowdpose_average_precision(truth, records, **options)
        return average_precision(truth, records, **count, **options) | {
            f"crowdpose {k}": v for k, v in crowdpose.items()
        }

    exact = numbers("pycocotools")
    assert numbers("hotcoco") == exact == numbers("auto")
    assert {key: exact[key] for key in usual} == usual, "a number is no matter of names"
    assert seed == 0 or exact["AP"] > 0
    for engine in ("pycocotools", "hotcoco", "auto"):
        nobody = average_precision(truth, records, image_ids=[], sigmas=COCO17.sigmas, engine=engine)
        assert set(nobody.values()) == {-1.0}


def test_an_unknown_engine():
    with pytest.raises(ValueError, match="engine must be one of auto, pycocotools, hotcoco, got 'matlab'"):
        average_precision(*crowded(1), engine="matlab")


def test_boxes_are_scored_as_pycocotools_does():
    """A hit at IoU 0.8, a miss, and a box inside a crowd, which is neither right nor wrong."""
    person = {"image_id": 7, "category_id": 1, "keypoints": [10, 20, 2], "iscrowd": 0}
    annotations = [
        {**person, "id": 1, "bbox": [0, 0, 50, 50], "area": 1500},
        {**person, "id": 2, "bbox": [200, 0, 100, 100], "area": 9000, "iscrowd": 1, "keypoints": [0, 0, 0]},
        {**person, "id": 3, "bbox": [60, 0, 20, 20], "area": 300, "keypoints": [0, 0, 0]},
    ]
    truth = {"images": [{"id": 7}], "categories": [{"id": 1, "keypoints": ["nose"]}], "annotations": annotations}
    records = [
        {"image_id": 7, "box": [0, 0, 50, 40], "score": 0.9},
        {"image_id": 7, "box": [210, 10, 20, 20], "score": 0.8},
        {"image_id": 7, "box": [60, 0, 20, 20], "score": 0.7},
    ]
    numbers = boxes.average_precision(truth, records)
    assert numbers["AP50"] == pytest.approx(1.0) and numbers["AP75"] == pytest.approx(1.0)
    assert numbers["AR100"] == pytest.approx((7 + 10) / 20), "seven thresholds up to 0.8, and all ten"
    assert boxes.average_precision(truth, [])["AP"] == 0
    with pytest.raises(ValueError, match="image_id 8 of the boxes"):
        boxes.average_precision(truth, [{"image_id": 8, "box": [0, 0, 1, 1], "score": 1.0}])
    with pytest.raises(ValueError, match="image 9 of image_ids: expected images of the ground truth, which has 1"):
        boxes.average_precision(truth, records, image_ids=[7, 9])
