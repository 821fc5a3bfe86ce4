"""Left and right in the names of joints, and in what a category says of them."""

from __future__ import annotations

import pytest

from jaxpose import sides
from jaxpose.skeleton import COCO17, COCO_WHOLEBODY133, CROWDPOSE14, H36M17, MPII16, RHD21


def named(names):
    pairs, unpaired = sides.pairs_from_names(names)
    return {(names[a], names[b]) for a, b in pairs}, set(unpaired)


@pytest.mark.parametrize(
    "pairs",
    [
        [("eyeL", "eyeR"), ("forelegL1", "forelegR1"), ("forelegL2", "forelegR2"), ("midlegL1", "midlegR1")],
        [("FL_paw", "FR_paw"), ("HL_paw", "HR_paw")],
        [("FL_paw", "FR_paw")],
        [("FLpaw", "FRpaw"), ("pawHL", "pawHR")],
        [("LF", "RF"), ("LR", "RR")],
        [("FL", "FR"), ("RL", "RR")],
        [("ul", "ur"), ("ll", "lr")],
        [("paw1LH1", "paw1RH1"), ("paw2LF1", "paw2RF1")],
        [("fl_paw", "fr_paw"), ("bl_paw", "br_paw")],
        [("Left_eye", "right_eye"), ("left_ear", "RIGHT_EAR")],
        [("left_eye ", "right_eye"), (" left_ear", "right_ear")],
        [("left front paw", "right_front_paw"), ("earleft", "ear-right")],
        [("L_F_elbow", "R_F_elbow"), ("L_B_elbow", "R_B_elbow")],
        [("Eye_Left", "Eye_Right"), ("Shoulder_Left", "Shoulder_Right")],
        [("eyel", "eyer"), ("forelegl1", "forelegr1")],
        [("LSHO", "RSHO"), ("LHIP", "RHIP")],
        [("lateral_left_elbow", "lateral_right_elbow"), ("medial_left_elbow", "medial_right_elbow")],
        [("bright_left", "bright_right")],
        [("左眼", "右眼")],
        [("ｌeft_eye", "right_eye")],  # a full-width letter
    ],
)
def test_sides_are_paired(pairs):
    for order in (1, -1):
        names = [name for pair in pairs[::order] for name in pair[::order]] + ["nose", "tailbase"]
        assert named(names) == (set(pairs), set())


@pytest.mark.parametrize(
    ("names", "unpaired"),
    [
        (["lump", "rump"], set()),
        (["heel", "heer"], set()),
        (["lug", "rug", "nose"], set()),
        (["cleft", "bright", "upright"], set()),
        (["left_ear", "right_eye"], {"left_ear", "right_eye"}),
        (["legL1", "legR2", "nose"], {"legL1", "legR2"}),
        (["FL_paw", "tail"], {"FL_paw"}),
        (["LL", "LR", "RL", "RR"], {"LL", "LR", "RL", "RR"}),  # rear, or right? each has two possible partners
        (["left_eye", "Left_Eye", "LEFT_EYE", "right_eye", "RIGHT_EYE "], {"Left_Eye"}),
        (["a1", "a2", "a3"], set()),
    ],
)
def test_chance_and_doubt_pair_nothing(names, unpaired):
    pairs, said = named(names)
    assert all("eye" in name.casefold() for pair in pairs for name in pair) and len(pairs) in (0, 2)
    assert said == unpaired


@pytest.mark.parametrize("skeleton", [COCO17, CROWDPOSE14, MPII16, H36M17, RHD21], ids=lambda s: s.name)
def test_the_names_of_public_skeletons_give_their_pairs(skeleton):
    pairs, unpaired = sides.pairs_from_names(skeleton.joints)
    assert set(map(frozenset, pairs)) == set(map(frozenset, skeleton.flip_pairs)) and unpaired == ()


def test_numbered_faces():
    for first in (0, 1):
        pairs, _ = sides.pairs_from_names([f"kpt-{first + i}" for i in range(68)])
        assert {(0, 16), (36, 45), (48, 54), (65, 67)} <= set(pairs) and len(pairs) == 29
    face = {(a - 23, b - 23) for a, b in COCO_WHOLEBODY133.flip_pairs if 23 <= a < 91}
    assert face == set(pairs)
    pairs, _ = sides.pairs_from_names([str(i) for i in range(98)])
    assert {(0, 32), (38, 50), (60, 72), (96, 97)} <= set(pairs) and len(pairs) == 44
    for other in ([str(i) for i in range(67)], [str(2 * i) for i in range(68)], [f"a{i}b" for i in range(68)]):
        assert sides.pairs_from_names(other) == ((), ())


NAMES = ["nose", "ear_a", "ear_b", "paw_left", "paw_right"]


@pytest.mark.parametrize(
    "entry",
    [
        {"flip_pairs": [["ear_a", "ear_b"], ["paw_left", "paw_right"]]},
        {"flip_pairs": [[1, 2], [3, 4]]},
        {"flip_pairs": [[2, 3], [4, 5]]},  # 5 of 5 joints: counted from 1
        {"swap": ["", "ear_b", "ear_a", "paw_right", "paw_left"]},
        {"swap": {"ear_a": "ear_b", "paw_left": "paw_right", "nose": ""}},
        {"flip_idx": [0, 2, 1, 4, 3]},
        {"flip_idx": [1, 3, 2, 5, 4]},
    ],
)
def test_pairs_that_the_category_gives(entry):
    assert sides.pairs_from_entry(entry, NAMES) == ((1, 2), (3, 4))


def test_indices_count_from_one_only_where_the_names_say_so():
    assert sides.parse_pairs([[1, 2]], ["left", "right", "nose"]) == ((0, 1),)
    assert sides.parse_pairs([[1, 2]], ["nose", "left", "right", "tail"]) == ((1, 2),)
    assert sides.parse_pairs([[1, 2]], ["a", "b", "c", "d"]) == ((1, 2),)


def test_pairs_as_texts():
    assert sides.parse_pairs(["ear_a:ear_b", "paw_left, paw_right"], NAMES) == ((1, 2), (3, 4))
    assert sides.parse_pairs(["1:2"], NAMES) == ((1, 2),)
    assert sides.parse_pairs(["a:1:a:2"], ["a:1", "a:2"]) == ((0, 1),)
    assert sides.parse_pairs(["none"], NAMES) == () == sides.parse_pairs([], NAMES)
    assert sides.pairs_from_entry({"flip_pairs": []}, ["left", "right"]) == ()
    assert sides.pairs_from_entry({"swap": [], "flip_idx": None}, ["left", "right"]) is None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"flip_pairs": 5}, "list of pairs"),
        ({"flip_pairs": "ear_a:ear_b"}, "list of pairs"),
        ({"flip_pairs": [["ear_a", "eer_b"]]}, "eer_b.*the joints are"),
        ({"flip_pairs": [["ear_a"]]}, "not a pair"),
        ({"flip_pairs": [[1, 2, 3]]}, "not a pair"),
        ({"flip_pairs": [[1, 1]]}, "two different joints"),
        ({"flip_pairs": [[1, 9]]}, "two different joints of 5"),
        ({"flip_pairs": [[1, 2], [2, 3]]}, r"one partner, but \['ear_b'\]"),
        ({"flip_pairs": [[True, 2]]}, "not a pair"),
        ({"swap": ["", "ear_b"]}, "each of the 5 joints"),
        ({"swap": {"ear_a": "ear_c"}}, "'ear_c'"),
        ({"swap": {"ear_a": "ear_b", "ear_b": "nose"}}, "'ear_b' with 'nose'"),
        ({"flip_idx": [0, 2, 1]}, "each of the 5 joints"),
        ({"flip_idx": [1, 2, 0, 3, 4]}, "partner in turn"),
        ({"flip_idx": [0, 0, 1, 3, 4]}, "partner in turn"),
        ({"flip_idx": 3}, "each of the 5 joints"),
    ],
)
def test_wrong_pairs_are_named(entry, words):
    with pytest.raises(ValueError, match=words):
        sides.pairs_from_entry(entry, NAMES)
