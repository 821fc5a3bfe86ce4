"""The arithmetic of pose anchors beside plain loops, pycocotools and PyTorch, and beside the executed published code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import losses
from jaxpose.detection import matching, point_sets
from jaxpose.evaluation import oks_nms
from jaxpose.skeleton import COCO17

SIGMAS = np.asarray(COCO17.sigmas)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def people(rng, count, extent=100.0):
    """Poses of 17 joints in boxes of a random size and place."""
    corner, size = rng.uniform(0, extent, (count, 1, 2)), rng.uniform(20, extent, (count, 1, 2))
    return corner + size * rng.uniform(0, 1, (count, 17, 2))


def test_the_similarity_is_that_of_pycocotools(double):
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(0)
    target, xy = people(rng, 3), people(rng, 4)
    where = rng.uniform(size=(3, 17)) < 0.7
    ours = np.asarray(point_sets.oks(np.where(where[..., None], target, np.nan), xy, sigmas=SIGMAS, where=where))
    for g, a in np.ndindex(3, 4):
        labelled = target[g][where[g]]
        area = (np.square(np.ptp(labelled, 0)).sum() + np.square(np.ptp(xy[a], 0)).sum()) / 2
        both = [
            np.concatenate([pose, v[:, None]], -1).ravel()
            for pose, v in ((target[g], 2 * where[g]), (xy[a], np.ones(17)))
        ]
        evaluation = cocoeval.COCOeval(iouType="keypoints")
        evaluation.params.kpt_oks_sigmas = SIGMAS
        evaluation._gts = {(1, 1): [{"keypoints": list(both[0]), "area": area, "bbox": [0, 0, 1, 1]}]}
        evaluation._dts = {(1, 1): [{"keypoints": list(both[1]), "score": 1.0}]}
        assert evaluation.computeOks(1, 1)[0, 0] == pytest.approx(ours[g, a], rel=1e-9)


def test_garbage_in_unlabelled_joints_reaches_no_gradient():
    rng = np.random.default_rng(1)
    target, xy = people(rng, 2).astype(np.float32), people(rng, 3).astype(np.float32)
    where = np.ones((2, 17), bool)
    where[0, 3:] = where[1] = False
    dirty = np.where(where[..., None], target, np.nan)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def similarity(xy):
        values = point_sets.oks(dirty, xy, sigmas=SIGMAS, where=where)
        return values.sum(), values

    (_, values), grad = similarity(xy)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0
    np.testing.assert_array_equal(values[1], 0)


def test_decoding_undoes_encoding_and_both_commute_with_mirroring(double):
    rng = np.random.default_rng(2)
    target, anchors, scale = people(rng, 5), people(rng, 5), rng.uniform(10, 99, 5)
    deltas = point_sets.encode(target, anchors, scale=scale)
    np.testing.assert_allclose(point_sets.decode(deltas, anchors, scale=scale), target, atol=1e-12)

    def mirrored(xy):
        return (xy * [-1, 1] + [199, 0])[:, COCO17.flip_index]

    flipped = point_sets.encode(mirrored(target), mirrored(anchors), scale=scale)
    np.testing.assert_allclose(flipped, (np.asarray(deltas) * [-1, 1])[:, COCO17.flip_index], atol=1e-12)
    similarity = point_sets.oks(target, anchors, sigmas=SIGMAS)
    np.testing.assert_allclose(
        point_sets.oks(mirrored(target), mirrored(anchors), sigmas=SIGMAS), similarity, atol=1e-12
    )


def test_anchors_of_a_mirrored_template_are_the_mirrored_anchors():
    template = np.random.default_rng(3).uniform(-0.5, 0.5, (1, 4, 2)).astype(np.float32)
    options = {"maps_hw": [(2, 4), (1, 2)], "strides": [8, 16], "scale": 3.0, "rounded": False}
    anchors, scale = point_sets.pyramid(template, **options)
    flipped, _ = point_sets.pyramid(template * np.float32([-1, 1]), **options)
    levels = [np.asarray(anchors)[:8].reshape(2, 4, 4, 2), np.asarray(anchors)[8:].reshape(1, 2, 4, 2)]
    expected = np.concatenate([(level[:, ::-1] * [-1, 1] + [31, 0]).reshape(-1, 4, 2) for level in levels])
    np.testing.assert_allclose(flipped, expected, atol=1e-5)
    np.testing.assert_array_equal(scale, [24] * 8 + [48] * 2)


def plain_match(similarity, high, low, best):
    """The published assignment, with loops."""
    index = np.full(similarity.shape[1], matching.BETWEEN)
    for a, column in enumerate(similarity.T):
        index[a] = (
            column.argmax() if column.max() >= high else matching.BELOW if column.max() < low else matching.BETWEEN
        )
    for rank in (best, 1):
        for g, row in enumerate(similarity):
            for value in sorted(row)[::-1][:rank]:
                index[row == value] = g
    return index


def test_everybody_has_an_anchor():
    rng = np.random.default_rng(4)
    similarity = rng.uniform(0.01, 0.6, (4, 30)).round(2).astype(np.float32)
    for options in ({"high": 0.5, "low": 0.4, "best": 3}, {"high": 0.99, "low": 0.89, "best": 9}):
        index = np.asarray(point_sets.match(similarity, **options))
        np.testing.assert_array_equal(index, plain_match(similarity, **options))
        assert set(range(4)) <= set(index)
    where = np.array([True, False, False, True])
    assert set(np.asarray(point_sets.match(similarity, where=where))) <= {0, 3, matching.BELOW, matching.BETWEEN}
    assert (np.asarray(point_sets.match(similarity, where=~np.ones(4, bool))) == matching.BELOW).all()
    assert (np.asarray(point_sets.match(np.zeros((0, 5), np.float32))) == matching.BELOW).all()
    # An underflow to 0 does not make every anchor a person.
    assert (np.asarray(point_sets.match(np.zeros((1, 5), np.float32))) == matching.BELOW).all()


@pytest.mark.parametrize("method", ["gather", "matrix"])
def test_sampling_and_its_gradients_are_those_of_grid_sample(method):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    features = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    xy = rng.uniform(-2, 9, (2, 40, 2)).astype(np.float32)
    upstream = rng.normal(size=(2, 40, 3)).astype(np.float32)

    @jax.jit
    def sampled(features, xy):
        values, pull = jax.vjp(partial(point_sets.bilinear, method=method), features, xy)
        return values, *pull(jnp.asarray(upstream))

    ours, grad_features, grad_points = sampled(features, xy)

    of_features = torch.tensor(features.transpose(0, 3, 1, 2), requires_grad=True)
    of_points = torch.tensor(xy, requires_grad=True)
    grid = of_points / torch.tensor([3.0, 2.0]) - 1  # corners aligned
    theirs = torch.nn.functional.grid_sample(of_features, grid[:, None], align_corners=True)[:, :, 0].transpose(1, 2)
    theirs.backward(torch.tensor(upstream))
    np.testing.assert_allclose(ours, theirs.detach(), atol=1e-5)
    np.testing.assert_allclose(grad_features, of_features.grad.permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(grad_points, of_points.grad, atol=1e-4)


def test_both_ways_of_sampling_agree_at_cells_and_at_garbage():
    features = np.random.default_rng(6).normal(size=(4, 4, 2)).astype(np.float32)
    xy = np.array(
        [[0, 0], [3, 3], [1.5, 3], [np.nan, 1], [np.inf, 1], [-1e9, 2], [-1, 0], [4, 0], [-0.5, 0]], np.float32
    )

    def outputs(method):
        return jax.value_and_grad(lambda f, p: (point_sets.bilinear(f, p, method=method) ** 2).sum(), argnums=(0, 1))(
            features, xy
        )

    for one, other in zip(jax.tree.leaves(outputs("gather")), jax.tree.leaves(outputs("matrix")), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert np.isfinite(one).all()
    values = np.asarray(point_sets.bilinear(features, xy))
    np.testing.assert_allclose(values[[0, 1, 8]], [features[0, 0], features[3, 3], features[0, 0] / 2], atol=1e-6)
    assert not values[3:8].any()


def test_a_lattice_is_sampled_like_single_points():
    rng = np.random.default_rng(11)
    features, shift = rng.normal(size=(2, 4, 6, 3)).astype(np.float32), rng.uniform(-3, 3, (5, 2)).astype(np.float32)
    shift[0] = 0, 1
    cells = np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1)[:, :, None]
    xy = np.broadcast_to((cells + shift).reshape(-1, 2), (2, 120, 2)).astype(np.float32)
    upstream = rng.normal(size=(2, 4, 6, 5, 3)).astype(np.float32)

    @jax.jit
    def both(features):
        ways = (
            lambda f: point_sets.bilinear(f, xy, method="gather").reshape(2, 4, 6, 5, 3),
            lambda f: point_sets.bilinear_lattice(f, shift),
        )
        results = [jax.vjp(way, features) for way in ways]
        return [(value, pull(upstream)[0]) for value, pull in results]

    for one, other in zip(*both(features), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_suppression_is_that_of_the_evaluation():
    rng = np.random.default_rng(7)
    base = people(rng, 6)
    xy = np.repeat(base, 5, 0) + rng.normal(0, 3, (30, 17, 2))
    scores = rng.uniform(size=30).round(1)
    where = rng.uniform(size=30) < 0.9
    areas = np.ptp(xy, axis=1).prod(-1)
    poses = np.concatenate([xy, np.ones((30, 17, 1))], -1)[where]
    expected = np.nonzero(where)[0][oks_nms(poses, scores[where], areas[where], sigmas=SIGMAS, threshold=0.5)]
    dirty = np.where(where[:, None, None], xy, np.nan)
    keep = jax.jit(lambda *a: point_sets.nms(*a, sigmas=SIGMAS, where=where))(dirty, scores)
    assert set(np.nonzero(np.asarray(keep))[0]) == set(expected) and 1 < len(expected) < where.sum()


def test_joints_move_to_the_nearest_of_the_highest_peaks():
    rng = np.random.default_rng(8)
    maps = rng.uniform(size=(12, 16, 2)).astype(np.float32)
    cell, xy, height = (np.asarray(x) for x in point_sets.peaks(maps, count=4, size=3))
    padded = np.pad(maps, ((1, 1), (1, 1), (0, 0)), constant_values=-1)
    for k in range(2):
        is_peak = [
            (maps[y, x, k], x, y)
            for y, x in np.ndindex(12, 16)
            if maps[y, x, k] == padded[y : y + 3, x : x + 3, k].max()
        ]
        best = sorted(is_peak)[::-1][:4]
        np.testing.assert_array_equal(xy[k], [[x, y] for _, x, y in best])
        np.testing.assert_array_equal(cell[k], [y * 16 + x for _, x, y in best])
    pose = rng.uniform(0, 12, (3, 2, 2)).astype(np.float32)
    moved = np.asarray(point_sets.move_to_nearest(pose, xy))
    distance = np.linalg.norm(pose[:, :, None] - xy, axis=-1)
    for n, k in np.ndindex(3, 2):
        np.testing.assert_array_equal(moved[n, k], xy[k, distance[n, k].argmin()])
    near = np.asarray(point_sets.move_to_nearest(pose, xy, reach=np.full(3, 2.0)))
    np.testing.assert_array_equal((near != pose).any(-1), distance.min(-1) <= 2)
    np.testing.assert_array_equal(point_sets.move_to_nearest(pose, xy, where=np.zeros((2, 4), bool)), pose)


def test_templates_are_the_shapes_that_the_people_have():
    rng = np.random.default_rng(9)
    shapes = np.stack([people(rng, 1)[0] for _ in range(2)])
    low, high = shapes.min(1, keepdims=True), shapes.max(1, keepdims=True)
    shapes = (shapes - (low + high) / 2) / np.linalg.norm(high - low, axis=-1, keepdims=True)
    which = np.arange(30) % 3 > 0  # 10 of one, 20 of the other
    xy = shapes[which.astype(int)] * rng.uniform(20, 90, (30, 1, 1)) + rng.uniform(0, 200, (30, 1, 2))
    where = np.ones((30, 17), bool)
    where[::4, 5] = False
    extremes = np.unique([*shapes.argmin(1).ravel(), *shapes.argmax(1).ravel()])
    where[:, extremes] = True
    two = point_sets.templates(np.where(where[..., None], xy, np.nan), sigmas=SIGMAS, where=where, count=2)
    np.testing.assert_allclose(two, shapes[::-1], atol=1e-9)
    assert point_sets.templates(xy, sigmas=SIGMAS, count=1).shape == (1, 17, 2)
    centered = point_sets.templates(xy, sigmas=SIGMAS, count=2, center=(11, 12))
    np.testing.assert_allclose(centered[:, [11, 12]].mean(1), 0, atol=1e-9)
    with pytest.raises(ValueError, match="none of the 30 poses"):
        point_sets.templates(xy * 0, sigmas=SIGMAS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: point_sets.oks(np.zeros((1, 3, 2)), np.zeros((1, 2, 2)), sigmas=(0.1, 0.1)), "expected .* K and"),
        (lambda: point_sets.match(np.zeros((1, 2)), high=0.1, low=0.4), "expected low <= high"),
        (lambda: point_sets.encode(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), scale=np.ones(2)), "scale"),
        (lambda: point_sets.bilinear(np.zeros((2, 4, 4, 1)), np.zeros((5, 2))), "same leading axes"),
        (lambda: point_sets.bilinear(np.zeros((4, 4, 1)), np.zeros((5, 2)), method="fast"), "'gather' or 'matrix'"),
        (lambda: point_sets.peaks(np.zeros((4, 4, 1)), size=4), "an odd size"),
        (lambda: point_sets.nms(np.zeros((2, 3, 2)), np.zeros(3), sigmas=(0.1,) * 3), "scores"),
        (lambda: point_sets.pyramid(np.zeros((3, 2)), maps_hw=[(1, 1)], strides=[8]), "expected .T, K, 2."),
        (lambda: point_sets.extent(np.zeros((3, 2)), kind="circle"), "'diagonal' or 'box'"),
        (lambda: losses.focal(np.zeros(3), np.zeros((3, 1))), "nothing is broadcast"),
        (lambda: losses.focal(np.zeros(3), np.zeros(3), alpha=2.0), "alpha=2.0"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_focal_loss_is_its_formula_and_masks_reach_no_gradient(double):
    rng = np.random.default_rng(10)
    logits, target = rng.normal(0, 3, 20), rng.integers(0, 2, 20)
    p = 1 / (1 + np.exp(-logits))
    right = np.where(target, p, 1 - p)
    expected = -np.where(target, 0.3, 0.7) * (1 - right) ** 1.5 * np.log(right)
    np.testing.assert_allclose(losses.focal(logits, target, alpha=0.3, gamma=1.5), expected, rtol=1e-9)
    np.testing.assert_allclose(losses.focal(logits, target, alpha=0.5, gamma=0.0), -np.log(right) / 2, rtol=1e-9)
    where = np.arange(20) % 2 == 0
    dirty = np.where(where, logits, np.nan)
    value, grad = jax.jit(jax.value_and_grad(lambda x: losses.focal(x, target, where=where).sum()))(dirty)
    assert np.isfinite(value) and np.isfinite(grad).all() and not np.asarray(grad)[~where].any()
    extreme = jax.jit(jax.grad(lambda x: losses.focal(x, np.array([0.0, 1.0])).sum()))(np.array([500.0, -500.0]))
    assert np.isfinite(extreme).all()


# ------------------------------------------------------------------------------------------------ the executed published code

MAPS_HW = [(20, 28), (10, 14), (5, 7)]


def golden_anchors(golden):
    return point_sets.pyramid(golden("detection/psa_anchors")["mean_pose"][None], maps_hw=MAPS_HW, strides=[8, 16, 32])


def test_golden_anchors(golden, double):
    g = golden("detection/psa_anchors")
    anchors, scale = golden_anchors(golden)
    np.testing.assert_array_equal(anchors[560:].reshape(-1, 34), np.concatenate([g["anchors1"], g["anchors2"]]))
    assert [float(scale[i]) for i in (0, 560, 700)] == [128, 256, 512]


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize(("stage", "high", "low"), [(1, 0.5, 0.4), (2, 0.99, 0.89)])
def test_golden_assignment(golden, double, image, stage, high, low):
    g = golden("detection/psa_head")
    truth = g[f"gt_keypoints{image}"].astype(np.float64)
    anchors, scale = golden_anchors(golden)
    if stage == 2:
        anchors = np.concatenate([g[f"stage2_anchor{level}"][image] for level in range(3)]).reshape(-1, 17, 2)
    where = truth[..., 2] > 0
    similarity = point_sets.oks(truth[..., :2], np.asarray(anchors, np.float64), sigmas=SIGMAS, where=where)
    np.testing.assert_allclose(similarity, g[f"stage{stage}_oks{image}"], atol=1e-6)
    index = np.asarray(point_sets.match(g[f"stage{stage}_oks{image}"], high=high, low=low))
    positive = np.nonzero(index >= 0)[0]
    np.testing.assert_array_equal(positive, g[f"stage{stage}_pos{image}"])
    np.testing.assert_array_equal(
        np.maximum(index, -1)[index != -2] + 1, g[f"stage{stage}_assigned{image}"][index != -2]
    )
    np.testing.assert_array_equal(index != matching.BETWEEN, g[f"stage{stage}_label_weight{image}"] > 0)
    target = point_sets.encode(
        truth[index[positive], :, :2], np.asarray(anchors, np.float64)[positive], scale=np.asarray(scale)[positive]
    )
    target = np.where(where[index[positive]][..., None], target, 0)
    np.testing.assert_allclose(target.reshape(-1, 34), g[f"stage{stage}_reg_targets{image}"], atol=1e-6)


def test_golden_operations(golden, double):
    g = golden("detection/psa_ops")
    poses = g["oks_py_kpts"].reshape(5, 17, 3)
    np.testing.assert_allclose(point_sets.extent(poses[..., :2], kind="box"), g["oks_py_areas"], rtol=1e-9)
    similarity = point_sets.oks(poses[..., :2], poses[..., :2], sigmas=SIGMAS, kind="box")
    np.testing.assert_allclose(similarity, g["oks_py"], atol=1e-6)
    total = losses.focal(g["focal_logits"][:, 0], g["focal_labels"]).sum()
    np.testing.assert_allclose(total, g["focal_py_sum"], rtol=1e-9)
    heat = (g["absorb_heat_x4096_u16"] / 4096).transpose(1, 2, 0)
    cell, xy, _ = (np.asarray(x) for x in point_sets.peaks(heat))
    offset = g["absorb_offset"].astype(np.float64).reshape(17, 2, -1)
    peak = (xy + np.take_along_axis(offset, cell[:, None], 2).transpose(0, 2, 1)) * 4
    moved = point_sets.move_to_nearest(g["absorb_in"].astype(np.float64).reshape(-1, 17, 2), peak)
    np.testing.assert_allclose(moved.reshape(-1, 34), g["absorb_out"], atol=1e-4)
