"""The arithmetic of detectors beside plain NumPy loops, and beside executed torchvision and Detectron2."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose.detection import anchors, boxes, keypoint_maps, matching, roi_align

ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
OPTIONS = {"samples": 2, "aligned": False}


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def random_boxes(rng, count, extent=60.0):
    corners = rng.uniform(0, extent, (count, 2, 2)).round(1)
    return np.concatenate([corners.min(1), corners.max(1) + 1], -1)


def greedy(box, score, threshold, groups=None):
    """Non-maximum suppression as every textbook has it."""
    keep, overlaps = [], np.asarray(boxes.iou(box, box)) > threshold
    for i in np.argsort(-score, kind="stable"):
        if not any(overlaps[i, j] and (groups is None or groups[i] == groups[j]) for j in keep):
            keep.append(i)
    return sorted(keep)


def plain_roi_align(features, box, size_hw, scale, samples, aligned):
    """RoIAlign of one box, sample by sample."""
    (height, width, channels), shift = features.shape, 0.5 if aligned else 0.0
    low, high = box[[1, 0]] * scale - shift, box[[3, 2]] * scale - shift
    length = high - low if aligned else np.maximum(high - low, 1.0)
    cell = length / size_hw
    count = [samples or int(np.ceil(c)) for c in cell]
    out = np.zeros((*size_hw, channels))
    for p, q in np.ndindex(*size_hw):
        for i, j in np.ndindex(*count):
            y = low[0] + p * cell[0] + (i + 0.5) * cell[0] / count[0]
            x = low[1] + q * cell[1] + (j + 0.5) * cell[1] / count[1]
            if y < -1 or y > height or x < -1 or x > width:
                continue
            y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            top = (x1 - x) * features[y0, x0] + (x - x0) * features[y0, x1] if x1 > x0 else features[y0, x0]
            bottom = (x1 - x) * features[y1, x0] + (x - x0) * features[y1, x1] if x1 > x0 else features[y1, x0]
            out[p, q] += (top * (y1 - y) + bottom * (y - y0) if y1 > y0 else top) / (count[0] * count[1])
    return out


def test_suppression_is_that_of_the_greedy_loop(monkeypatch):
    rng = np.random.default_rng(0)
    box = random_boxes(rng, 90).astype(np.float32)
    score = rng.uniform(0, 1, 90).round(1).astype(np.float32)  # many ties
    groups, where = rng.integers(0, 3, 90), rng.uniform(size=90) < 0.8
    for threshold in (0.3, 0.7):
        assert np.flatnonzero(boxes.nms(box, score, threshold=threshold)).tolist() == greedy(box, score, threshold)
    # Blocks that do not divide the number of boxes, groups, and garbage where boxes are masked.
    monkeypatch.setattr(boxes, "BLOCK", 40)
    expected = np.flatnonzero(where)[greedy(box[where], score[where], 0.5, groups[where])]
    garbage = np.where(where[:, None], box, np.nan), np.where(where, score, np.nan)
    keep = boxes._nms(*map(jnp.asarray, (*garbage, groups, where)), threshold=0.5)
    assert np.flatnonzero(keep).tolist() == expected.tolist()


def test_an_overlap_equal_to_the_threshold_stays():
    box = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 2.0]])
    assert boxes.nms(box, jnp.array([0.9, 0.8]), threshold=0.5).tolist() == [True, True]
    assert boxes.nms(box, jnp.array([0.9, 0.8]), threshold=0.49).tolist() == [True, False]
    assert boxes.nms(jnp.zeros((2, 0, 4)), jnp.zeros((2, 0)), threshold=0.5).shape == (2, 0)
    assert float(boxes._at_most(0.3, np.float32)) <= 0.3  # float32(0.3) is above it


def test_offsets_are_inverted_and_bounded():
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 20).astype(np.float32), random_boxes(rng, 20).astype(np.float32)
    np.testing.assert_allclose(
        boxes.decode(boxes.encode(a, b, weights=ROI_WEIGHTS), b, weights=ROI_WEIGHTS), a, atol=1e-3
    )
    far = boxes.decode(jnp.array([0.0, 0.0, 100.0, 100.0]), jnp.array([0.0, 0.0, 16.0, 16.0]))
    np.testing.assert_allclose(far[2:] - far[:2], 1000.0, rtol=1e-4)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="expected the same"):
        boxes.encode(jnp.zeros((3, 4)), jnp.zeros((1, 4)))
    with pytest.raises(ValueError, match="as many axes"):
        boxes.decode(jnp.zeros((3, 2, 4)), jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="scores have shape"):
        boxes.nms(jnp.zeros((3, 4)), jnp.zeros(2), threshold=0.5)
    with pytest.raises(ValueError, match="size_hw has shape"):
        boxes.clip(jnp.zeros((3, 4)), (1.0,))
    with pytest.raises(ValueError, match=r"expected \(\.\.\., G, A\)"):
        matching.assign(jnp.zeros(3), high=0.7, low=0.3)
    with pytest.raises(ValueError, match="expected low <= high"):
        matching.assign(jnp.zeros((1, 3)), high=0.3, low=0.7)
    with pytest.raises(ValueError, match="variant"):
        anchors.pyramid((64, 64), variant="mmdet")
    with pytest.raises(ValueError, match="expected positive numbers"):
        roi_align.roi_align(jnp.zeros((8, 8, 1)), jnp.zeros((1, 4)), size_hw=(0, 7), scale=1.0)


@pytest.mark.parametrize("samples, aligned", [(0, True), (2, False), (3, True)])
def test_regions_are_resampled_as_sample_by_sample(samples, aligned):
    rng = np.random.default_rng(2)
    features = rng.normal(size=(9, 11, 2)).astype(np.float32)
    box = np.concatenate([random_boxes(rng, 4, 40.0), [[-9, -9, 60, 50], [50, 50, 70, 90], [3, 3, 3.2, 3.2]]])
    box = box.astype(np.float32)
    options = {"size_hw": (3, 2), "samples": samples, "aligned": aligned}
    expected = [plain_roi_align(features, b.astype(float), (3, 2), 0.25, samples, aligned) for b in box]
    ours = jax.jit(partial(roi_align.roi_align, scale=0.25, **options))(features, box)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    rows = {"origin": np.full(7, 5), "map_hw": np.tile([9, 11], (7, 1)), "scale": np.full(7, 0.25, np.float32)}
    flat = np.concatenate([np.full((5, 2), np.nan, np.float32), features.reshape(-1, 2)])
    ours = jax.jit(partial(roi_align.gather, **options))(flat, box, **rows)
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_the_gradient_of_regions_has_no_scatter_and_none_flows_to_the_boxes():
    def total(features, box):
        return roi_align.roi_align(features, box, size_hw=(2, 2), scale=0.5, samples=0).sum()

    features, box = jnp.ones((6, 6, 1)), jnp.array([[2.0, 2.0, 9.0, 7.0]])
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(total))(features, box))
    assert not np.any(jax.grad(total, 1)(features, box))
    np.testing.assert_allclose(jax.grad(total)(features, box).sum(), 4.0, rtol=1e-5)


def test_matches_of_no_labels_and_of_padding_are_background():
    assert matching.assign(jnp.zeros((0, 3)), high=0.7, low=0.3, low_quality=True).tolist() == [-1, -1, -1]
    overlap = jnp.array([[0.0, 0.5, 0.2], [1.0, 1.0, 1.0]])
    where = jnp.array([True, False])
    assert matching.assign(overlap, high=0.7, low=0.3, low_quality=True, where=where).tolist() == [-1, 0, -1]
    where = jnp.array([False, False])
    assert matching.assign(overlap, high=0.7, low=0.3, low_quality=True, where=where).tolist() == [-1, -1, -1]


def test_a_sample_is_filled_with_negatives_and_no_larger_than_its_size():
    positive = jnp.array([True, False, True, False, False, False])
    negative = jnp.array([False, True, False, True, True, False])
    priority = jnp.array([0.1, 0.2, 0.9, 0.3, 0.8, 0.99])
    first, second = matching.sample(positive, negative, priority=priority, size=3, most_positive=1)
    assert first.tolist() == [False, False, True, False, False, False]
    assert second.tolist() == [False, False, False, True, True, False]
    first, second = matching.sample(positive, negative, priority=priority, size=6, most_positive=3)
    assert (first == positive).all() and (second == negative).all()


def test_joints_on_the_border_of_their_box_and_outside():
    keypoints = jnp.array([[[10.0, 10.0, 1.0], [10.1, 5.0, 1.0], [0.0, 0.0, 2.0], [jnp.nan, 5.0, 0.0]]])
    cell, valid = matching.keypoint_targets(keypoints, jnp.array([[0.0, 0.0, 10.0, 10.0]]), size=5)
    assert cell.tolist() == [[24, 0, 0, 0]] and valid.tolist() == [[True, False, True, False]]
    assert not matching.keypoint_targets(keypoints, jnp.zeros((1, 4)))[1].any()


def test_maps_are_searched_beyond_one_tile():
    maps = np.zeros((2, 8, 8, 2), np.float32)
    maps[0, 6, 1, 0] = maps[0, 2, 7, 1] = maps[1, 0, 0, 0] = 4.0
    box = np.array([[10.0, 20.0, 170.0, 340.0], [5.0, 5.0, 5.2, 5.2]], np.float32)
    xy, value, probability = keypoint_maps.decode(maps, box)
    # Near the middle of the highest cell, of 20 x 40 px.
    np.testing.assert_allclose(xy[0], [[10 + 1.5 * 20, 20 + 6.5 * 40], [10 + 7.5 * 20, 20 + 2.5 * 40]], atol=20)
    np.testing.assert_allclose(xy[1], 5.5)  # a box below a pixel is one pixel
    assert value.shape == probability.shape == (2, 2) and np.all(probability > 0)


# ---------------------------------------------------------------------------------------------------------------------
# Executed reference code
# ---------------------------------------------------------------------------------------------------------------------


def test_golden_boxes(golden, double):
    g = golden("detection/boxes")
    deltas = g["deltas"].reshape(60, 2, 4)
    for name, weights in (("roi", ROI_WEIGHTS), ("rpn", (1.0,) * 4)):
        for code in ("tv", "d2"):
            ours = boxes.encode(g["target"], g["src"], weights=weights)
            np.testing.assert_allclose(ours, g[f"{code}_{name}_encode"], rtol=1e-12, atol=1e-12)
        ours = boxes.decode(deltas, g["src"][:, None], weights=weights).reshape(60, 8)
        np.testing.assert_allclose(ours, g[f"tv_{name}_decode"], rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(ours, g[f"d2_{name}_decode_f32"], rtol=1e-5, atol=1e-3)
    decoded = boxes.decode(deltas, g["src"][:, None], weights=(1.0,) * 4).reshape(-1, 4)
    assert g["clipped"].shape == decoded.shape
    np.testing.assert_allclose(boxes.iou(g["src"], g["target"]), g["iou"], atol=1e-12)
    for threshold in (30, 50, 70):
        keep = boxes.nms(g["nms_boxes"], g["nms_scores"], threshold=threshold / 100)
        assert np.flatnonzero(keep).tolist() == sorted(g[f"nms_keep_{threshold}"].tolist())
        keep = boxes.nms(g["nms_boxes"], g["nms_scores"], threshold=threshold / 100, groups=g["nms_level"])
        assert np.flatnonzero(keep).tolist() == sorted(g[f"batched_keep_{threshold}"].tolist())
    keep = boxes.nms(g["nms_edge_boxes"], g["nms_edge_scores"], threshold=0.5)
    assert np.flatnonzero(keep).tolist() == sorted(g["nms_edge_keep_50"].tolist())


def test_golden_anchors(golden):
    g = golden("detection/anchors")
    for n, padded in enumerate(g["padded_hw"].tolist()):
        for variant, code in (("torchvision", "tv"), ("detectron2", "d2")):
            ours = anchors.pyramid(padded, variant=variant)
            expected = g[f"{n}_{code}"] if n < 2 else g[f"{n}_{code}_at"]
            if n >= 2:
                assert len(ours) == g[f"{n}_count"]
                ours = ours[g[f"{n}_index"]]
            np.testing.assert_allclose(ours, expected, atol=1e-4 if code == "d2" else 0)


def test_golden_roi_align(golden, double):
    g = golden("detection/roi_align")
    features, rois = np.moveaxis(g["feature"], 1, -1), g["rois"]
    image = rois[:, 0].astype(int)
    for key in [key for key in g.keys() if key.startswith("a") and not key.endswith("grad")]:
        aligned, samples, out = key.split("_")
        size = tuple(map(int, out[1:].split("x"))) if "x" in out else (int(out[1:]),) * 2
        options = {"size_hw": size, "scale": 0.25, "samples": int(samples[1:]), "aligned": aligned == "a1"}

        def pooled(features, options=options):
            both = roi_align.roi_align(features, np.stack([rois[:, 1:]] * 2), **options)
            values = jnp.moveaxis(both[image, np.arange(len(rois))], -1, 1)
            return (values * np.sin(0.7 * np.arange(values.size) + 0.3).reshape(values.shape)).sum(), values

        gradient, ours = jax.jit(jax.grad(pooled, has_aux=True))(features)
        np.testing.assert_allclose(ours[:, : g[key].shape[1]], g[key], atol=1e-12)
        np.testing.assert_allclose(np.moveaxis(gradient, -1, 1), g[f"{key}_grad"], atol=1e-12)
        if out != "o5x3":
            continue
        flat = {"origin": image * 13 * 17, "map_hw": np.tile([13, 17], (14, 1)), "scale": np.full(14, 0.25)}
        del options["scale"]
        gathered = jax.jit(partial(roi_align.gather, **options))(features.reshape(-1, 4), rois[:, 1:], **flat)
        np.testing.assert_allclose(gathered, jnp.moveaxis(ours, 1, -1), atol=1e-12)


def test_golden_pyramid(golden, double):
    g = golden("detection/pyramid_pool")
    maps = [np.moveaxis(g[f"p{level}_f32"], 1, -1).astype(float) for level in range(2, 6)]
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    for variant, code in (("torchvision", "tv"), ("detectron2", "d2")):
        np.testing.assert_array_equal(
            roi_align.levels(g["level_boxes_f32"], variant=variant), g[f"{code}_level_f32"] + 2
        )
        start = 0
        options = {"samples": 0, "aligned": True} if code == "d2" else OPTIONS
        pool = jax.jit(partial(roi_align.pyramid, size_hw=(7, 7), scales=scales, **options))
        for i in range(2):
            box = g[f"boxes{i}"].astype(np.float32) if code == "d2" else g[f"boxes{i}"]
            ours = pool([m[i] for m in maps], box, roi_align.levels(box, variant=variant))
            expected = g[f"{code}_pool7"][start : start + len(box)]
            np.testing.assert_allclose(np.moveaxis(ours, -1, 1), expected, atol=1e-6 if code == "d2" else 1e-12)
            start += len(box)


def test_golden_matching(golden, double):
    g = golden("detection/matching")
    np.testing.assert_allclose(boxes.iou(g["gt"], g["proposals"]), g["iou"], atol=1e-12)
    rpn = matching.assign(g["iou"], high=0.7, low=0.3, low_quality=True)
    roi = matching.assign(g["iou"], high=0.5, low=0.5)
    np.testing.assert_array_equal(rpn, g["tv_rpn"])
    np.testing.assert_array_equal(roi, g["tv_roi"])
    np.testing.assert_array_equal(np.where(rpn >= 0, 1, np.where(rpn == matching.BELOW, 0, -1)), g["d2_rpn_label"])
    np.testing.assert_array_equal(np.where(roi >= 0, 1, 0), g["d2_roi_label"])


def test_golden_keypoints(golden):
    g = golden("detection/keypoints")
    for size in (56, 14):
        cell, valid = matching.keypoint_targets(g["keypoints_f32"], g["rois_f32"], size=size)
        for code in ("tv", "d2"):
            np.testing.assert_array_equal(valid, g[f"{code}_valid_{size}"] > 0)
            np.testing.assert_array_equal(cell, g[f"{code}_target_{size}"] * np.asarray(valid))


def test_golden_keypoint_maps(golden, double):
    g = golden("detection/keypoints")
    maps = np.moveaxis(g["maps_f32"], 1, -1).astype(float)
    xy, value, probability = keypoint_maps.decode(maps, g["map_rois_f32"].astype(float))
    np.testing.assert_allclose(xy, g["tv_decode"][..., :2], atol=1e-4)
    np.testing.assert_allclose(value, g["tv_decode_score"], atol=1e-4)
    np.testing.assert_allclose(xy, g["d2_decode"][..., :2], atol=1e-4)
    np.testing.assert_allclose(probability, g["d2_decode"][..., 3], atol=1e-6)


@pytest.mark.parametrize(("samples", "aligned"), [(2, False), (0, True)])
def test_every_form_of_regions_has_the_values_and_the_gradient_of_the_matrices(samples, aligned):
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(2, side, side + 1, 3)), jnp.float32) for side in (12, 6)]
    box = jnp.asarray(np.sort(rng.uniform(-5, 55, (2, 5, 2, 2)), -2).reshape(2, 5, 4), jnp.float32)
    level = jnp.asarray(rng.integers(3, 5, (2, 5)))
    options = {"size_hw": (3, 4), "scales": (1 / 4, 1 / 8), "first": 3, "samples": samples, "aligned": aligned}

    @partial(jax.jit, static_argnums=1)
    @partial(jax.grad, has_aux=True)
    def loss(maps, form):
        regions = roi_align.pyramid(maps, box, level, form=form, **options)
        return (regions * jnp.sin(regions)).sum(), regions

    expected = loss(maps, "matrices")
    for form in ("gather", "scatter"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), loss(maps, form), expected)
    with pytest.raises(ValueError, match="form='sum': expected 'matrices', 'gather' or 'scatter'"):
        loss(maps, "sum")


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxpose.detection import roi_align

rng = np.random.default_rng(0)
maps = [rng.normal(size=(4, side, side, 3)).astype(np.float32) for side in (12, 6)]
boxes = np.sort(rng.uniform(0, 48, (4, 5, 2, 2)), -2).reshape(4, 5, 4).astype(np.float32)
level = rng.integers(2, 4, (4, 5))

def loss(maps, boxes, level):
    options = {"size_hw": (3, 3), "scales": (1 / 4, 1 / 8), "samples": SAMPLES, "form": "scatter"}
    return jnp.sin(roi_align.pyramid(maps, boxes, level, **options)).sum((0, 1, 2, 3)).sum()

program = jax.jit(jax.grad(loss))
one = program(maps, boxes, level)
place = NamedSharding(Mesh(jax.devices(), "data"), P("data"))
given = jax.device_put((maps, boxes, level), place)
compiled = program.lower(*given).compile()
assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(one, compiled(*given)))
print(len(jax.devices()), compiled.as_text().count(" all-"))
"""


@pytest.mark.parametrize("samples", [2, 0])
def test_the_regions_of_a_sharded_batch_need_no_other_device(samples):
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    run = subprocess.run(
        [sys.executable, "-c", SHARDED.replace("SAMPLES", str(samples))], capture_output=True, text=True, check=False,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    # With 0 samples the number of them that a cell has at most is that of the whole batch: one all-reduce of two numbers.
    assert run.stdout.split() == ["2", "0" if samples else "1"], run.stderr


def test_a_gradient_in_bfloat16_is_summed_in_float32():
    where = {"origin": jnp.zeros(512, int), "map_hw": jnp.ones((512, 2), int), "scale": jnp.ones(512), "samples": 1}
    ones = jnp.ones((512, 1, 1, 1), jnp.bfloat16)
    ours = roi_align.scatter(
        ones, jnp.tile(jnp.array([0.0, 0.0, 1.0, 1.0]), (512, 1)), pixels=1, size_hw=(1, 1), **where
    )
    assert ours.dtype == jnp.bfloat16
    assert float(ours[0, 0]) == 512  # in bfloat16 256 + 1 is 256
