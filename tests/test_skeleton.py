"""The skeletons of the public data sets, and one from anybody's COCO category."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxpose import skeleton as skeletons
from jaxpose.skeleton import (
    COCO17,
    COCO_WHOLEBODY133,
    CROWDPOSE14,
    H36M17,
    H36M18,
    MPII16,
    RHD21,
    Skeleton,
    root_joints,
)

SHIPPED = [COCO17, CROWDPOSE14, MPII16, H36M17, H36M18, RHD21]
MOUSE = {
    "name": "mouse",
    "keypoints": ["snout", "leftear", "rightear", "tailbase"],
    "skeleton": [[1, 2], [1, 3], [2, 4], [3, 4]],
}


def make(**changes):
    fields = dict(name="s", joints=("a", "b", "c"), flip_pairs=((0, 1),), limbs=((0, 2),), sigmas=(0.1, 0.1, 0.1))
    return Skeleton(**{**fields, **changes})


@pytest.mark.parametrize("skeleton", SHIPPED, ids=lambda s: s.name)
def test_shipped_skeletons_hold_together(skeleton):
    assert skeleton.num_joints == int(skeleton.name[-2:])
    index = skeleton.flip_index
    assert index.dtype == np.int32
    np.testing.assert_array_equal(index[index], np.arange(skeleton.num_joints))
    for joint, mirrored in zip(skeleton.joints, index, strict=True):
        swapped = joint.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        assert skeleton.joints[mirrored] == swapped
    assert {joint for limb in skeleton.limbs for joint in limb} == set(range(skeleton.num_joints))
    mirrored_limbs = {frozenset((int(index[a]), int(index[b]))) for a, b in skeleton.limbs}
    assert mirrored_limbs == {frozenset(limb) for limb in skeleton.limbs}
    assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton
    assert hash(skeleton) == hash(Skeleton.from_dict(skeleton.to_dict()))


def test_orders_and_sigmas():
    assert COCO17.joints[:5] == ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
    assert (COCO17.sigmas[0], COCO17.sigmas[11], COCO17.sigmas[16]) == (0.026, 0.107, 0.089)
    assert CROWDPOSE14.flip_index.tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13]
    assert CROWDPOSE14.sigmas[-2:] == (0.079, 0.079)
    assert MPII16.joints[9] == "head_top" and MPII16.joints[6:8] == ("pelvis", "thorax")
    assert sum(MPII16.sigmas) == pytest.approx(1.288)
    assert H36M17.joints[14:] == ("right_shoulder", "right_elbow", "right_wrist")
    assert RHD21.joints[:6] == ("wrist", "thumb4", "thumb3", "thumb2", "thumb1", "forefinger4")
    assert RHD21.flip_index.tolist() == list(range(21))
    assert COCO17.upper == tuple(range(11))


def test_root_is_the_pelvis_the_hips_or_a_given_joint():
    assert H36M18.joints[17] == "thorax" and H36M18.joints[:17] == H36M17.joints
    assert (root_joints(H36M18), root_joints(MPII16), root_joints(COCO17)) == ((0,), (6,), (11, 12))
    assert root_joints(make(), ["c", "a"]) == (2, 0)
    with pytest.raises(ValueError, match="has no joint that depth can be relative to"):
        root_joints(make())
    with pytest.raises(ValueError, match="root 'z' is not a joint"):
        root_joints(make(), ["z"])


def test_mpii_names_are_those_of_its_ground_truth(golden):
    """The reference's short names are rank, rkne, ...; its file has 'head' for the top of the head."""
    short = {"upper_neck": "neck", "head_top": "head", "pelvis": "pelv", "thorax": "thor"}
    ours = [short.get(joint, joint[0] + joint.split("_")[-1][:3]) for joint in MPII16.joints]
    assert ours == [str(name) for name in golden("eval")["mpii_joint_names"]]


def test_flip_index_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        COCO17.flip_index[0] = 3


def test_coco_category_gives_coco17():
    category = {
        "name": "person",
        "keypoints": list(COCO17.joints),
        "skeleton": [[a + 1, b + 1] for a, b in COCO17.limbs],
    }
    assert Skeleton.from_coco_category(category) == COCO17
    other = Skeleton.from_coco_category(category, sigmas=[0.1] * 17)
    assert other.sigmas == (0.1,) * 17 and other.limbs == COCO17.limbs


@pytest.mark.parametrize("skeleton", SHIPPED, ids=lambda skeleton: skeleton.name)
def test_a_category_gives_its_skeleton_back(skeleton):
    category = skeleton.to_coco_category(category_id=7, name="person")
    assert Skeleton.from_coco_category(category) == skeleton
    assert (category["id"], category["name"]) == (7, "person") and skeleton.to_coco_category()["name"] == skeleton.name
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in skeleton.limbs]
    assert json.loads(json.dumps(category)) == category


def test_an_own_skeleton_passes_through_a_category():
    mouse = Skeleton("mouse", ("snout", "left_ear", "right_ear"), ((1, 2),), ((0, 1), (0, 2)), (0.05,) * 3)
    assert Skeleton.from_coco_category(mouse.to_coco_category()) == mouse


def test_published_crowdpose_category_carries_cocos_edges():
    names = [*CROWDPOSE14.joints[:12], "head", "neck"]
    category = {"name": "person", "keypoints": names, "skeleton": [[16, 14], [14, 12], [17, 15]]}
    assert Skeleton.from_coco_category(category) == CROWDPOSE14


def test_files_of_the_golden_folder(golden_json):
    assert Skeleton.from_coco_category(golden_json("coco_gt_val2017")["categories"][0]) == COCO17
    assert Skeleton.from_coco_category(golden_json("crowdpose_gt_sample")["categories"][0]) == CROWDPOSE14


def test_category_of_another_animal():
    skeleton = Skeleton.from_coco_category(MOUSE)
    assert skeleton.name == "mouse" and skeleton.joints == tuple(MOUSE["keypoints"])
    assert skeleton.flip_index.tolist() == [0, 2, 1, 3]
    assert skeleton.limbs == ((0, 1), (0, 2), (1, 3), (2, 3))
    assert skeleton.sigmas == (skeletons.DEFAULT_SIGMA,) * 4
    assert Skeleton.from_coco_category(MOUSE, sigmas=0.03).sigmas == (0.03,) * 4


def test_the_real_mouse_file(data_dir):
    with open(data_dir("openfield") / "annotations" / "val.json") as file:
        assert Skeleton.from_coco_category(json.load(file)["categories"][0]).flip_index.tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_ear", "right_ear"),
        ("leftear", "rightear"),
        ("LeftEar", "RightEar"),
        ("LEFT_EAR", "RIGHT_EAR"),
        ("ear_left", "ear_right"),
        ("earLeft", "earRight"),
        ("l_ear", "r_ear"),
        ("L_Ear", "R_Ear"),
        ("ear.L", "ear.R"),
        ("ear_l", "ear_r"),
        ("ear_l_1", "ear_r_1"),
        ("front-l-paw", "front-r-paw"),
        ("L1", "R1"),
        ("LShoulder", "RShoulder"),
        ("lShoulder", "rShoulder"),
        ("earL", "earR"),
        ("left eye", "right eye"),
    ],
)
def test_left_and_right_are_found_in_names(left, right):
    for names in ([right, "nose", left], [left, right, "nose"]):
        skeleton = Skeleton.from_coco_category({"keypoints": names})
        assert skeleton.joints[skeleton.flip_index[names.index(left)]] == right
        assert skeleton.flip_index[names.index("nose")] == names.index("nose")


@pytest.mark.parametrize("names", [["lsho", "rsho", "lhip", "rhip"], ["Lsho", "Rsho", "Lhip", "Rhip"]])
def test_a_bare_prefix_counts_where_it_is_no_chance(names):
    assert Skeleton.from_coco_category({"keypoints": [*names, "nose"]}).flip_pairs == ((0, 1), (2, 3))
    assert Skeleton.from_coco_category({"keypoints": ["lump", "rump"]}).flip_pairs == ()
    marked = ["lump", "left_ear", "right_ear", "rump"]
    assert Skeleton.from_coco_category({"keypoints": marked}).flip_pairs == ((1, 2),)


@pytest.mark.parametrize("sigma", [1, np.float32(0.05), np.float64(0.05), np.int64(1)])
def test_one_sigma_of_any_number_type(sigma):
    assert Skeleton.from_coco_category(MOUSE, sigmas=sigma).sigmas == (float(sigma),) * 4


@pytest.mark.parametrize(
    "names", [["left_ear", "nose"], ["nose", "tail"], ["right_ear", "ear"], ["limb", "leg"], ["left_ear", "right_eye"]]
)
def test_joints_without_a_partner_stay(names):
    assert Skeleton.from_coco_category({"keypoints": names}).flip_pairs == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(joints=("a", "b", "a")), r"repeated: \['a'\]"),
        (dict(joints=()), "non-empty"),
        (dict(joints=("a", "", "c")), "non-empty"),
        (dict(joints=("a", 1, "c")), "non-empty"),
        (dict(joints="abc"), "list of names, got 'abc'"),
        (dict(joints=3), "list of names, got 3"),
        (dict(sigmas=0.1), "list of numbers, one per joint, got 0.1"),
        (dict(sigmas=(0.1, None, 0.1)), "list of numbers"),
        (dict(sigmas=(0.1, 0.1)), "3 joints, 2 sigmas"),
        (dict(sigmas=(0.1, 0.1, 0.0)), "positive"),
        (dict(sigmas=(0.1, 0.1, float("nan"))), "finite"),
        (dict(flip_pairs=((0, 3),)), r"flip_pairs.*0\.\.2.*\(0, 3\)"),
        (dict(flip_pairs=((0, 1), (1, 2))), "one flip pair"),
        (dict(flip_pairs=((1, 1),)), "two different joints"),
        (dict(flip_pairs=(0, 1)), "index pairs"),
        (dict(limbs=((-1, 2),)), "limbs"),
        (dict(upper=(5,)), "upper"),
    ],
)
def test_bad_skeletons_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


@pytest.mark.parametrize(
    ("category", "words"),
    [
        ({"name": "person", "id": 1}, r"only the keys \['id', 'name'\]"),
        ({"keypoints": []}, r"keypoints=\[\]"),
        ({"keypoints": "nose"}, "nose"),
        ({"keypoints": ["a", "a"]}, "repeated"),
        ({"keypoints": [1, 2, 3]}, r"'keypoints': joints must be non-empty names, got \[1, 2, 3\]"),
        ({"keypoints": ["a", None]}, "non-empty names"),
        ({"keypoints": 3}, "keypoints=3"),
        ({"keypoints": ["a", "b"], "skeleton": 5}, "index pairs"),
        (["nose"], r"a dictionary; got \['nose'\]"),
        ({"keypoints": ["a", "b"], "skeleton": [[0, 1]]}, r"from 1 to 2.*\[0, 1\]"),
        ({"keypoints": ["a", "b"], "skeleton": [[1, 3]]}, r"\[1, 3\]"),
    ],
)
def test_bad_categories_are_named(category, words):
    with pytest.raises(ValueError, match=words):
        Skeleton.from_coco_category(category)


@pytest.mark.parametrize(
    ("edges", "limbs", "words"),
    [
        ([[0, 1], [0, 2]], ((0, 1), (0, 2)), "counts from 0"),
        ([["snout", "leftear"], ["snout", "rightear"]], ((0, 1), (0, 2)), ""),
        ([["1", 2.0], [1, 3]], ((0, 1), (0, 2)), ""),
        ([[1, 2], [1, 1], [2, 9], ["snout", "tail"]], ((0, 1),), "3 of 4 edges"),
        ([[0, 1], [1, 4]], ((0, 3),), "1 of 2 edges"),  # 0 and K: counted from 1, with one that is wrong
        ([[float("nan"), 1], [None, 2]], (), "2 of 2 edges"),
        (5, (), "not a list of pairs"),
        ([[1, 2, 3]], (), "not a list of pairs"),
        (None, (), ""),
    ],
)
def test_a_skeleton_to_draw_is_repaired(edges, limbs, words):
    """It is for drawing only: no training should end for it. What was taken is said in one line."""
    notes = []
    assert Skeleton.from_coco_category(MOUSE | {"skeleton": edges}, notes=notes).limbs == limbs
    assert len(notes) == (words != "") and all(words in note for note in notes)


def test_joints_without_names_are_numbered():
    notes = []
    skeleton = Skeleton.from_coco_category({"keypoints": []}, num_joints=3, notes=notes)
    assert skeleton.joints == ("joint_0", "joint_1", "joint_2") and skeleton.flip_pairs == ()
    assert "3 joints each" in notes[0] and "names" in notes[0] and "mirroring exchanges nothing" in notes[1]
    assert len(Skeleton.from_coco_category({}, num_joints=68, notes=notes).flip_pairs) == 29
    assert "taken for a face" in notes[-1]


def test_what_the_category_says_comes_first():
    category = MOUSE | {"sigmas": [0.1, 0.2, 0.2, 0.3], "flip_pairs": [["snout", "tailbase"]]}
    skeleton = Skeleton.from_coco_category(category)
    assert skeleton.sigmas == (0.1, 0.2, 0.2, 0.3) and skeleton.flip_pairs == ((0, 3),)
    given = Skeleton.from_coco_category(category, sigmas=0.4, flip_pairs=["leftear:rightear"])
    assert given.sigmas == (0.4,) * 4 and given.flip_pairs == ((1, 2),)
    person = {"keypoints": list(COCO17.joints), "sigmas": [0.1] * 17, "flip_pairs": []}
    assert Skeleton.from_coco_category(person).sigmas == (0.1,) * 17
    assert Skeleton.from_coco_category(person).flip_pairs == ()
    assert Skeleton.from_coco_category(MOUSE | {"sigmas": []}).sigmas == (skeletons.DEFAULT_SIGMA,) * 4
    with pytest.raises(ValueError, match="4 joints, 2 sigmas"):
        Skeleton.from_coco_category(MOUSE | {"sigmas": [0.1, 0.1]})
    with pytest.raises(ValueError, match="list of numbers"):
        Skeleton.from_coco_category(MOUSE | {"sigmas": "small"})


def test_sided_joints_without_a_partner_are_told():
    notes = []
    names = ["eyeL", "eyeR", "forelegL1", "hindlegR1", "nose"]
    assert Skeleton.from_coco_category({"keypoints": names}, notes=notes).flip_pairs == ((0, 1),)
    assert len(notes) == 1 and "2 of 5 joints" in notes[0] and "'forelegL1', 'hindlegR1'" in notes[0]
    notes.clear()
    Skeleton.from_coco_category({"keypoints": names, "flip_pairs": [[0, 1], [2, 3]]}, notes=notes)
    assert notes == []  # whoever gives the pairs has thought of the rest


def test_whole_body():
    """133 joints in the order of its authors: body, feet, face, left hand, right hand."""
    body = COCO_WHOLEBODY133
    assert body.num_joints == 133 and body.joints[:17] == COCO17.joints and body.sigmas[:17] == COCO17.sigmas
    assert body.joints[17:24] == (
        "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel", "face-0",
    )  # fmt: skip
    assert (body.joints[91], body.joints[95], body.joints[111], body.joints[112]) == (
        "left_hand_root", "left_thumb4", "left_pinky_finger4", "right_hand_root",
    )  # fmt: skip
    index = body.flip_index
    np.testing.assert_array_equal(index[index], np.arange(133))
    assert (index[17], index[23], index[31], index[91]) == (20, 39, 31, 112)
    limbs = {frozenset(limb) for limb in body.limbs}
    assert {frozenset((int(index[a]), int(index[b]))) for a, b in body.limbs} == limbs
    assert set().union(*limbs) == set(range(133))
    assert (body.sigmas[17], body.sigmas[23], body.sigmas[90], body.sigmas[132]) == (0.068, 0.042, 0.008, 0.031)
    assert Skeleton.from_coco_category({"keypoints": list(body.joints)}) == body


def test_wrong_number_of_sigmas_names_both():
    with pytest.raises(ValueError, match="4 joints, 3 sigmas"):
        Skeleton.from_coco_category(MOUSE, sigmas=[0.1] * 3)


def test_unknown_description_is_named():
    with pytest.raises(ValueError, match=r"missing \['sigmas'\], unknown \['sigma'\]"):
        values = COCO17.to_dict()
        values["sigma"] = values.pop("sigmas")
        Skeleton.from_dict(values)


def test_no_jax_is_loaded():
    code = "import sys, jaxpose.skeleton; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
