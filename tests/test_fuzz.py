"""Strange input: readers end in the documented errors, numerical functions in finite numbers of the right shape."""

from __future__ import annotations

import copy
import json
import math
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpose import geometry, grouping, heatmap, losses, metrics
from jaxpose.data.boxes import BoxFile
from jaxpose.data.formats import coco
from jaxpose.evaluation import average_precision, crowdpose_average_precision, oks_nms
from jaxpose.skeleton import COCO17, Skeleton
from tests import tiny_coco

FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FEW = settings(FUZZ, max_examples=40)
DOCUMENTED = (ValueError, FileNotFoundError)
STRANGE = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.lists(st.one_of(st.integers(-5, 500), st.floats(), st.none(), st.text(max_size=2)), max_size=5),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3), st.just("../../etc/passwd"), st.just("a\0b"),
)  # fmt: skip


def places(tree, path=()):
    """The path of every entry of a JSON value."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def mutated(draw, content):
    """A JSON value with one to three of its entries replaced, taken away or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        everywhere = list(places(content))
        if not everywhere:
            break
        *path, last = draw(st.sampled_from(everywhere))
        parent = content
        for key in path:
            parent = parent[key]
        how = draw(st.sampled_from(("replace", "replace", "remove", "double")))
        if how == "replace":
            parent[last] = draw(STRANGE)
        elif how == "remove":
            del parent[last]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
    return content


SMALL = tiny_coco.content(2, persons=1)
RECORDS = [
    {
        "image_id": person["image_id"],
        "category_id": 1,
        "keypoints": [float(v) for v in person["keypoints"]],
        "score": 0.5,
    }
    for person in SMALL["annotations"][:2]
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("fuzz"), SMALL)


@FUZZ
@given(content=mutated(SMALL), on_bad=st.sampled_from(("error", "skip")))
def test_the_coco_reader(folder, content, on_bad):
    path = folder / "annotations" / "train.json"
    path.write_text(json.dumps(content))
    try:
        source = coco.read(path, folder / "train", on_bad=on_bad)
    except DOCUMENTED as error:
        assert str(path.parent) in str(error) or str(folder) in str(error), "the file is named"
        return
    people = source.persons
    assert people["keypoints"].shape == (len(people), source.skeleton.num_joints, 3)
    assert (
        np.isfinite(people["keypoints"]).all() and np.isfinite(people["box"]).all() and (people["box"][:, 2:] > 0).all()
    )
    assert (people["image"] < len(source.images)).all() and set(np.unique(people["keypoints"][..., 2])) <= {0, 1, 2}


@FUZZ
@given(truth=st.one_of(st.just(SMALL), mutated(SMALL)), records=st.one_of(st.just(RECORDS), mutated(RECORDS)))
def test_the_evaluation(truth, records):
    for function in (average_precision, crowdpose_average_precision):
        try:
            numbers = function(truth, records, sigmas=COCO17.sigmas, engine="pycocotools")
        except DOCUMENTED:
            numbers = None
        if find_spec("hotcoco"):
            try:
                fast = function(truth, records, sigmas=COCO17.sigmas, engine="hotcoco")
            except DOCUMENTED:
                fast = None
            assert fast == numbers
        assert numbers is None or all(v == -1 or 0 <= v <= 1 for v in numbers.values()), numbers


@FUZZ
@given(category=mutated(tiny_coco.CATEGORY))
def test_a_skeleton_from_a_category(category):
    try:
        skeleton = Skeleton.from_coco_category(category)
    except ValueError:
        return
    assert len(skeleton.flip_index) == len(skeleton.sigmas) == skeleton.num_joints == len(category["keypoints"])


@FUZZ
@given(
    content=st.one_of(
        mutated([{"file_name": "a.jpg", "bbox": [1, 2, 3, 4], "score": 0.9, "category_id": 1}] * 2), mutated(SMALL)
    )
)
def test_a_file_of_boxes(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "boxes.json"
    path.write_text(json.dumps(content))
    try:
        found = BoxFile.read(path, category=1, min_score=0.3)
    except DOCUMENTED as error:
        assert "boxes.json" in str(error)
        return
    for frames in found.rows.values():
        for rows in frames.values():
            assert all(len(row) == 5 and all(map(math.isfinite, row)) for row in rows)


# --------------------------------------------------------------------------------------------------------------- numbers

NUMBERS = st.floats(-1e6, 1e6, width=32)
POSITIVE = st.floats(2.0**-10, 1e6, width=32)
GARBAGE = st.sampled_from((0.0, 1e30, -1e30, float("nan"), float("inf"), -float("inf")))


def arrays(shape, elements):
    size = math.prod(shape)
    return st.lists(elements, min_size=size, max_size=size).map(
        lambda values: np.array(values, np.float32).reshape(shape)
    )


@FUZZ
@given(corner=arrays((2,), NUMBERS), size=arrays((2,), POSITIVE), wh=st.tuples(st.integers(1, 999), st.integers(1, 999)),
       rotation=st.floats(-720, 720), xy=arrays((3, 2), NUMBERS))  # fmt: skip
def test_affines_go_there_and_back(corner, size, wh, rotation, xy):
    affine = geometry.box_to_affine(np.concatenate([corner, size]).astype(np.float64), wh, rotation=rotation)
    there = geometry.apply_affine(affine, xy.astype(np.float64))
    back = geometry.apply_affine(geometry.invert_affine(affine), there)
    reach = np.abs(xy).max() + np.abs(corner).max() + size.max()
    np.testing.assert_allclose(back, xy, atol=1e-7 * reach)
    inside = geometry.clip_box(np.concatenate([corner, size]), np.array(wh))
    assert np.isfinite(inside).all() and (inside[2:] >= 0).all()


LOSSES = {
    "rle official": lambda mu, sigma, x, where: losses.rle(mu, sigma, x, _log_g, variant="official", where=where),
    "rle paper": lambda mu, sigma, x, where: losses.rle(mu, sigma, x, _log_g, variant="paper", where=where),
    "rle mmpose": lambda mu, sigma, x, where: losses.rle(mu, sigma, x, _log_g, variant="mmpose", where=where),
    "laplace": lambda mu, sigma, x, where: losses.laplace_nll(mu, sigma, x, where=where),
    "gaussian": lambda mu, sigma, x, where: losses.gaussian_nll(mu, sigma, x, where=where),
    "l1": lambda mu, sigma, x, where: losses.l1(mu, x, where=where),
    "l2": lambda mu, sigma, x, where: losses.l2(mu, x, where=where),
    "smooth_l1": lambda mu, sigma, x, where: losses.smooth_l1(mu, x, where=where),
}


def _log_g(e):
    return -jnp.abs(e).sum(-1)


COMPILED = {
    name: jax.jit(jax.value_and_grad(lambda mu, sigma, x, where, f=f: f(mu, sigma, x, where).sum(), argnums=(0, 1)))
    for name, f in LOSSES.items()
}


@pytest.mark.parametrize("name", LOSSES)
@FEW
@given(mu=arrays((3, 2), st.floats(-4, 4, width=32)), sigma=arrays((3, 2), st.floats(2.0**-6, 8, width=32)),
       x=arrays((3, 2), st.floats(-4, 4, width=32)), garbage=arrays((3, 2), GARBAGE),
       where=st.lists(st.booleans(), min_size=3, max_size=3))  # fmt: skip
def test_masked_joints_are_worth_nothing_whatever_they_hold(name, mu, sigma, x, garbage, where):
    where = np.array(where)
    dirty = [np.where(where[:, None], clean, garbage) for clean in (mu, sigma, x)]
    value, gradients = COMPILED[name](*dirty, where)
    clean_value, clean_gradients = COMPILED[name](mu, sigma, x, where)
    assert np.isfinite(value) and value == clean_value
    for gradient, clean in zip(gradients, clean_gradients, strict=True):
        assert np.isfinite(gradient).all() and not gradient[~where].any()
        np.testing.assert_array_equal(gradient, clean)


DECODERS = {
    "argmax": jax.jit(heatmap.argmax),
    "dark": jax.jit(heatmap.dark),
    "udp": jax.jit(heatmap.udp),
    "soft_argmax": jax.jit(heatmap.soft_argmax),
    "compensated": jax.jit(lambda maps: heatmap.soft_argmax(maps, beta=10.0, compensate=True)),
}


@pytest.mark.parametrize("name", DECODERS)
@FEW
@given(
    maps=arrays(
        (6, 5, 2), st.one_of(st.just(0.0), st.floats(-1, 1, width=32), st.floats(-(2.0**20), 2.0**20, width=32))
    )
)
def test_decoders_give_finite_places_of_finite_maps(name, maps):
    xy, score = DECODERS[name](maps)
    assert xy.shape == (2, 2) and np.isfinite(xy).all() and np.isfinite(score).all()
    if name != "compensated":  # whose weights may be negative
        assert (np.asarray(xy) > -8).all() and (np.asarray(xy) < 14).all()


@FEW
@given(pose=arrays((2, 17, 2), NUMBERS), target=arrays((2, 17, 2), NUMBERS), area=arrays((2,), POSITIVE),
       where=st.lists(st.booleans(), min_size=34, max_size=34), garbage=GARBAGE)  # fmt: skip
def test_metrics_are_finite_and_blind_to_what_is_masked(pose, target, area, where, garbage):
    where = np.array(where).reshape(2, 17)
    dirty = np.where(where[..., None], target, garbage)
    clean, found = (
        metrics.oks(pose, t, area=area, sigmas=np.array(COCO17.sigmas), where=where) for t in (target, dirty)
    )
    np.testing.assert_array_equal(clean, found)
    assert ((found >= 0) & (found <= 1)).all()
    kept = oks_nms(
        np.concatenate([pose, where[..., None]], -1), np.array([0.4, 0.9]), area, sigmas=np.array(COCO17.sigmas)
    )
    assert 1 in kept and set(kept) <= {0, 1}


@FEW
@given(
    seed=st.integers(0, 2**31),
    peaks=st.integers(0, 40),
    level=st.sampled_from((0.0, 0.05, 0.5, 1.0, 50.0)),
    tags=st.sampled_from((0.0, 1.0, 1e6)),
)
def test_grouping_of_any_maps(seed, peaks, level, tags):
    rng = np.random.default_rng(seed)
    maps = np.zeros((12, 10, 3), np.float32)
    maps[rng.integers(0, 12, peaks), rng.integers(0, 10, peaks), rng.integers(0, 3, peaks)] = level * rng.random(peaks)
    poses, scores = grouping.group(
        maps, rng.normal(0, tags, (12, 10, 3, 1)).astype(np.float32), max_people=5, joint_order=(0, 1, 2)
    )
    assert poses.shape[1:] == (3, 4) and len(poses) == len(scores)
    assert np.isfinite(poses).all() and np.isfinite(scores).all()
