"""Left and right: the joints that a mirror exchanges, from the names of the joints or from entries of a data set.

Training with mirrored images and the flip test both exchange left and right joints. A pair that is not recognised turns
every mirrored left joint into a wrong right one, so `pairs_from_names` recognises the ways in which public data sets mark
the side, and also returns the joints that look sided and have no partner. Standard library only.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["pairs_from_entry", "pairs_from_names", "parse_pairs"]

Pair = tuple[int, int]
Reading = tuple[str, tuple[str, ...]]  # the side, "L" or "R", and the name without it

WORDS = (("left", "right"), ("lft", "rgt"), ("左", "右"))
TOKEN = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\dA-Za-z_]+")
FORE_AND_HIND = re.compile(r"[FHBMLR][LR]|[LR][FHBM]")  # FL, HR, LF, ...: looks like a side even without a partner


def pairs_from_names(names: Sequence[str]) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Finds the pairs of left and right joints by their names.

    A side is a word (``left_ear``, ``earRight``), a letter of its own (``l_ear``, ``ear.L``, ``LEar``, ``forelegL1``),
    a part of two or three letters (``FL_paw`` and ``FR_paw``, ``paw_LH``), or the first or last letter of a name, which
    counts if at least two pairs have such names (``lshoulder``; ``lump`` and ``rump`` alone are chance). Upper and lower
    case, blanks at the ends and separators may differ. A name with two possible partners is in no pair. Sixty-eight
    or ninety-eight numbered joints are those of iBUG's and WFLW's faces.

    Args:
        names: The K names of joints.

    Returns:
        The index pairs (left, right), sorted; and the names that look sided but are in no pair.

    >>> pairs_from_names(["eyeL", "eyeR", "Left_ear", "right_ear ", "nose", "FL_paw"])
    (((0, 1), (2, 3)), ('FL_paw',))
    """
    pairs: list[Pair] = []
    for read, least in ((_words, 1), (_letters, 1), (_capital_parts, 1), (_small_parts, 2), (_first, 2), (_last, 2)):
        at_this_level: list[Pair] = []
        for simplify in (str, str.casefold, _only_letters):
            taken = {joint for pair in pairs + at_this_level for joint in pair}
            rest = {i: _clean(name) for i, name in enumerate(names) if i not in taken}
            at_this_level += _match(rest, read, simplify)
        pairs += at_this_level if len(at_this_level) >= least else []
    if not pairs:
        pairs = _numbered_face(names)
    paired = {joint for pair in pairs for joint in pair}
    unpaired = tuple(name for i, name in enumerate(names) if i not in paired and _looks_sided(_clean(name)))
    return tuple(sorted(pairs)), unpaired


def is_numbered(names: Sequence[str]) -> bool:
    """Tells whether the names are numbers after one common prefix, such as kpt-0, kpt-1, so that they have no sides.

    >>> is_numbered(["kpt-0", "kpt-1"]), is_numbered(["nose", "ear1"])
    (True, False)
    """
    return _numbers(names) is not None


def pairs_from_entry(entry: Mapping[str, Any], names: Sequence[str]) -> tuple[Pair, ...] | None:
    """Reads the pairs that the entry of a category states itself.

    Args:
        entry: An entry with ``flip_pairs`` (pairs of names or of indices), ``swap`` (the name of every joint's partner,
            "" for none, as a list or as a dictionary) or ``flip_idx`` (the index of every joint's partner).
        names: The K names of joints.

    Returns:
        Index pairs; None if the entry has none of the three.

    Raises:
        ValueError: A name is unknown, an index is out of range, or partners do not name each other.

    >>> pairs_from_entry({"flip_idx": [0, 2, 1]}, ["nose", "a", "b"])
    ((1, 2),)
    >>> pairs_from_entry({"swap": {"a": "b"}}, ["nose", "a", "b"])
    ((1, 2),)
    """
    if entry.get("flip_pairs") is not None:
        return parse_pairs(entry["flip_pairs"], names, what="the category's 'flip_pairs'")
    if entry.get("swap"):
        return _pairs_of_swap(entry["swap"], names)
    if entry.get("flip_idx"):
        return _pairs_of_permutation(entry["flip_idx"], len(names))
    return None


def parse_pairs(pairs: Any, names: Sequence[str], *, what: str = "flip_pairs") -> tuple[Pair, ...]:
    """Converts pairs of names or indices to index pairs.

    Indices count from 0, unless one of them is K, or only counting from 1 joins names that differ in their side.

    Args:
        pairs: Pairs of names or of indices; texts such as "left_ear:right_ear" or "3:4"; "none" for no pair.
        names: The K names of joints.
        what: The name of the pairs, for messages.

    Raises:
        ValueError: These are not pairs, a name is unknown, an index is out of range, or a joint is in two pairs.

    >>> parse_pairs(["left:right"], ["nose", "left", "right"]), parse_pairs(["none"], ["nose"])
    (((1, 2),), ())
    """
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise ValueError(f"{what}: expected a list of pairs of joints, got {pairs!r:.200}")
    pairs = list(pairs)
    if pairs == ["none"]:
        return ()
    split = [_split(pair, names, what) for pair in pairs]
    by_number = [joint for pair in split for joint in pair if isinstance(joint, int)]
    base = _base(split, names) if by_number else 0
    index = {name: i for i, name in enumerate(names)}
    parsed = tuple(tuple(j - base if isinstance(j, int) else index[j] for j in pair) for pair in split)
    for pair in parsed:
        if len(set(pair)) != 2 or not all(0 <= joint < len(names) for joint in pair):
            raise ValueError(
                f"{what}: a pair is of two different joints of {len(names)}, counted from {base}; got {pair}"
            )
    joints = [joint for pair in parsed for joint in pair]
    repeated = sorted({names[joint] for joint in joints if joints.count(joint) > 1})
    if repeated:
        raise ValueError(f"{what}: a joint has one partner, but {repeated} are in several pairs")
    return parsed


# ------------------------------------------------------------------------------------------------------ readings of names


def _clean(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip()


def _only_letters(key: str) -> str:
    return re.sub(r"[\W_]+", "", key.casefold())


def _match(
    names: Mapping[int, str], read: Callable[[str], Iterator[Reading]], simplify: Callable[[str], str]
) -> list[Pair]:
    """Returns pairs of joints whose readings leave the same name, if that is unambiguous."""
    sides: dict[tuple[str, ...], dict[str, set[int]]] = defaultdict(lambda: {"L": set(), "R": set()})
    for i, name in names.items():
        for side, key in read(name):
            sides[tuple(map(simplify, key))][side].add(i)
    pairs = {(*of["L"], *of["R"]) for of in sides.values() if len(of["L"]) == len(of["R"]) == 1}
    pairs = {pair for pair in pairs if pair[0] != pair[1]}
    joints = [joint for pair in pairs for joint in pair]
    return sorted(pair for pair in pairs if all(joints.count(joint) == 1 for joint in pair))


def _words(name: str) -> Iterator[Reading]:
    """Yields readings such as left_ear, leftear, earLeft, LEFT_EAR."""
    for words in WORDS:
        for side, word in zip("LR", words, strict=True):
            for match in re.finditer(word, name, re.IGNORECASE):
                yield side, (name[: match.start()], name[match.end() :])


def _letters(name: str) -> Iterator[Reading]:
    """Yields readings such as l_ear, ear.L, L1, LEar, lEar, earL, forelegL1."""
    tokens = TOKEN.findall(name)
    for i, token in enumerate(tokens):
        if token in "lLrR":
            yield token.upper(), ("_".join(tokens[:i]), "_".join(tokens[i + 1 :]))


def _parts(name: str) -> Iterator[tuple[str, Reading]]:
    """Yields parts of two or three letters that begin or end with the side: FL_paw, paw_LH, tl."""
    tokens = TOKEN.findall(name)
    for i, token in enumerate(tokens):
        if 2 <= len(token) <= 3:
            for at, rest, mark in ((0, token[1:], "*{}"), (-1, token[:-1], "{}*")):
                if token[at] in "lLrR":
                    key = ("_".join(tokens[:i]), mark.format(rest), "_".join(tokens[i + 1 :]))
                    yield token, (token[at].upper(), key)


def _capital_parts(name: str) -> Iterator[Reading]:
    for token, reading in _parts(name):
        if token.isupper():
            yield reading
    for match in re.finditer(r"(?<=[A-Z])[LR](?=[a-z])|(?<![A-Za-z])[LR](?=[A-Z][a-z])", name):  # FLpaw
        yield match.group(), (name[: match.start()], name[match.end() :])


def _small_parts(name: str) -> Iterator[Reading]:
    for _, reading in _parts(name):
        yield reading


def _first(name: str) -> Iterator[Reading]:
    """Yields readings such as lshoulder, LSHO, but also lump."""
    if re.match(r"[lLrR][A-Za-z]{2}", name):
        yield name[0].upper(), ("", name[1:])


def _last(name: str) -> Iterator[Reading]:
    """Yields readings such as eyel, forelegl1, but also heel."""
    for match in re.finditer(r"(?<=[A-Za-z]{2})[lLrR](?![A-Za-z])", name):
        yield match.group().upper(), (name[: match.start()], name[match.end() :])


def _looks_sided(name: str) -> bool:
    """Tells whether a name states a side by itself; a part such as "cleft" or "bright" does not."""
    tokens = TOKEN.findall(name)
    words = tuple(word for pair in WORDS for word in pair)
    return any(
        token in "lLrR" or token.casefold().startswith(words) or FORE_AND_HIND.fullmatch(token) for token in tokens
    )


# ------------------------------------------------------------------------------------------------------------ numbered


def _numbers(names: Sequence[str]) -> list[int] | None:
    """Returns the numbers at the ends of the names, if they are all that differs."""
    matches = [re.fullmatch(r"(.*?)(\d+)", _clean(name)) for name in names]
    if len(names) < 2 or not all(matches) or len({match.group(1) for match in matches}) != 1:
        return None
    return [int(match.group(2)) for match in matches]


def _chains(*ends: tuple[int, int, int]) -> tuple[Pair, ...]:
    """Returns pairs from (first, partner, count): ascending from `first`, descending from `partner`."""
    return tuple((first + i, partner - i) for first, partner, count in ends for i in range(count))


FACES = {
    68: _chains((0, 16, 8), (17, 26, 5), (31, 35, 2), (36, 45, 4), (40, 47, 2), (48, 54, 3), (55, 59, 2), (60, 64, 2))
    + ((65, 67),),
    98: _chains((0, 32, 16), (33, 46, 5), (38, 50, 4), (55, 59, 2), (60, 72, 5), (65, 75, 3), (76, 82, 3), (83, 87, 2))
    + _chains((88, 92, 2)) + ((93, 95), (96, 97)),
}  # fmt: skip
"""The pairs of the 68 points of iBUG's face (300W, and the face of COCO-WholeBody) and of the 98 points of WFLW."""


def _numbered_face(names: Sequence[str]) -> list[Pair]:
    numbers = _numbers(names)
    if numbers is None or len(names) not in FACES or numbers != list(range(numbers[0], numbers[0] + len(names))):
        return []
    return list(FACES[len(names)])


# --------------------------------------------------------------------------------------------------- pairs that are given


def _split(pair: Any, names: Sequence[str], what: str) -> tuple[Any, Any]:
    """Splits a pair into two names or two indices."""
    if isinstance(pair, str):
        halves = [(pair[: m.start()].strip(), pair[m.end() :].strip()) for m in re.finditer(r"[:,=|/]", pair)]
        valid = [half for half in halves if all(_is_joint(joint, names) for joint in half)]
        if len(valid) != 1:
            raise ValueError(
                f"{what}: {pair!r} is not two joints as in left_ear:right_ear; the joints are {list(names)}"
            )
        pair = valid[0]
    pair = list(pair) if isinstance(pair, Sequence) else [pair]
    if len(pair) != 2 or not all(_is_joint(joint, names) for joint in pair):
        raise ValueError(f"{what}: {pair!r} is not a pair of joints; the joints are {list(names)}")
    return tuple(int(joint) if joint not in names else joint for joint in pair)


def _is_joint(joint: Any, names: Sequence[str]) -> bool:
    whole = isinstance(joint, int) and not isinstance(joint, bool) or isinstance(joint, str) and joint.isdecimal()
    return joint in names or whole


def _base(pairs: Sequence[tuple[Any, Any]], names: Sequence[str]) -> int:
    numbers = [joint for pair in pairs for joint in pair if isinstance(joint, int)]
    if 0 in numbers:
        return 0
    if len(names) in numbers:
        return 1
    by_name = set(map(frozenset, pairs_from_names(names)[0]))
    agreeing = [
        sum(frozenset((a - base, b - base)) in by_name for a, b in pairs if isinstance(a, int)) for base in (0, 1)
    ]
    return int(agreeing[1] > agreeing[0])


def _pairs_of_swap(swap: Any, names: Sequence[str]) -> tuple[Pair, ...]:
    if not isinstance(swap, Mapping):
        if not isinstance(swap, Sequence) or isinstance(swap, str) or len(swap) != len(names):
            raise ValueError(
                f"the category's 'swap' holds for each of the {len(names)} joints its partner's name, or '' for none; "
                f"got {swap!r:.300}"
            )
        swap = dict(zip(names, swap, strict=True))
    partners = {a: b for a, b in swap.items() if b and b != a}
    for a, b in partners.items():
        if a not in names or b not in names:
            raise ValueError(f"the category's 'swap' pairs {a!r} with {b!r}, but the joints are {list(names)}")
        if partners.get(b, a) != a:
            raise ValueError(f"the category's 'swap' pairs {a!r} with {b!r}, but {b!r} with {partners[b]!r}")
    index = {name: i for i, name in enumerate(names)}
    return tuple(sorted({tuple(sorted((index[a], index[b]))) for a, b in partners.items()}))


def _pairs_of_permutation(index: Any, count: int) -> tuple[Pair, ...]:
    base = 1 if isinstance(index, Sequence) and count in index and 0 not in index else 0
    if (
        not isinstance(index, Sequence)
        or sorted(i for i in index if isinstance(i, int)) != list(range(base, base + count))
        or any(index[partner - base] - base != i for i, partner in enumerate(index))
    ):
        raise ValueError(
            f"the category's 'flip_idx' holds for each of the {count} joints the index of its partner, of which it is the "
            f"partner in turn; got {index!r:.300}"
        )
    return tuple((i, partner - base) for i, partner in enumerate(index) if i < partner - base)
