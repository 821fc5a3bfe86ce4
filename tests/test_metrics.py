"""Metrics against the reference code's numbers, against definitions written out, and their properties."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpose import metrics
from jaxpose.metrics import Mean
from jaxpose.skeleton import COCO17

properties = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


def rotation_matrix(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q if np.linalg.det(q) > 0 else -q


# ------------------------------------------------------------------------------------------- the reference's numbers


@pytest.fixture
def mpii(golden):
    g = golden("eval")
    return dict(
        pred=g["mpii_pred0"] + 1,  # labels count pixels from 1
        target=g["mpii_gt"].transpose(2, 0, 1),
        head_size=metrics.head_size(g["mpii_headboxes"].transpose(2, 0, 1)),
        where=g["mpii_missing"].T == 0,
    )


def test_pckh_of_mpii(mpii, golden_json):
    official, extra = golden_json("eval")["mpii_official"], golden_json("eval")["mpii_extra"]
    half = metrics.pckh(**mpii)
    np.testing.assert_allclose(100 * half.per_joint, extra["per_joint_at_0p5"], rtol=1e-12)
    groups = dict(Head=9, Shoulder=(12, 13), Elbow=(11, 14), Wrist=(10, 15), Hip=(2, 3), Knee=(1, 4), Ankle=(0, 5))
    for name, joints in groups.items():
        assert 100 * half.per_joint[np.atleast_1d(joints)].mean() == pytest.approx(official[name], rel=1e-12)
    assert 100 * half.mean == pytest.approx(official["Mean"], rel=1e-12)
    assert 100 * metrics.pckh(**mpii, threshold=0.11).mean == pytest.approx(official["Mean@0.1"], rel=1e-12)
    assert 100 * metrics.pckh(**mpii, threshold=0.10).mean == pytest.approx(extra["mean_at_0p10"], rel=1e-12)
    assert 100 * metrics.pckh_auc(**mpii) == pytest.approx(extra["auc_0_to_0p5_51pts"], rel=1e-12)
    np.testing.assert_array_equal(half.count, mpii["where"].sum(axis=0))


def test_pck_auc_epe_nme(golden, golden_json):
    g, expected = golden("eval"), golden_json("eval")
    pred, target, where = g["pck_pred"], g["pck_gt"], g["pck_mask"]
    for threshold in (5, 20):
        rates = metrics.pck(pred, target, norm=g["pck_norm"], threshold=threshold / 100, where=where)
        np.testing.assert_allclose(rates.per_joint, g[f"pck_acc_t{threshold:02d}"], rtol=1e-12)
        mean, labelled = expected[f"pck_avg_t{threshold:02d}"]
        assert rates.mean == pytest.approx(mean, rel=1e-6)
        assert (rates.per_joint >= 0).sum() == labelled
    assert metrics.auc(pred, target, norm=30, where=where) == pytest.approx(expected["auc_norm30"], rel=1e-6)
    assert metrics.epe(pred, target, where=where) == pytest.approx(expected["epe"], rel=1e-6)
    assert metrics.nme(pred, target, norm=g["nme_norm"], where=where) == pytest.approx(expected["nme"], rel=1e-6)


def test_training_accuracy_of_the_rle_code(golden, golden_json):
    """Within half of a tenth of the 48 x 64 heatmap, over labelled joints beyond its first row and column."""
    g, size = golden("eval"), np.array([48.0, 64.0])
    pred, target = ((g[f"rleacc_{name}"] + 0.5) * size for name in ("pred", "target"))
    weight = g["rleacc_weight"]
    pred, target = pred * weight, target * weight
    norm = np.broadcast_to(size / 10, (6, 2))
    rates = metrics.pck(pred, target, norm=norm, threshold=0.5, where=(target > 1).all(axis=-1))
    assert rates.mean == pytest.approx(golden_json("eval")["rle_coord_accuracy_hm48x64"], rel=1e-9)


def test_mpjpe_and_alignments(golden, golden_json):
    g, expected = golden("eval"), golden_json("eval")
    pred, target, where = g["mpjpe_pred"], g["mpjpe_gt"], g["mpjpe_mask"]

    def over_data_set(aligned):
        return metrics.epe(aligned, target, where=where)

    aligned = metrics.procrustes_align(pred, target)  # the reference aligns with all joints, and masks afterwards
    np.testing.assert_allclose(aligned, g["procrustes_aligned"], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(aligned, g["rle_procrustes_aligned"], rtol=1e-9, atol=1e-7)
    rigid = metrics.procrustes_align(pred, target, scale=False)
    np.testing.assert_allclose(rigid, g["rle_rigid_aligned"], rtol=1e-9, atol=1e-7)
    assert over_data_set(pred) == pytest.approx(expected["mpjpe_none"], rel=1e-9)
    assert over_data_set(aligned) == pytest.approx(expected["mpjpe_procrustes"], rel=1e-9)
    assert over_data_set(metrics.scale_align(pred, target)) == pytest.approx(expected["mpjpe_scale"], rel=1e-9)


def test_oks_as_in_coco(golden_json):
    results, truth = golden_json("coco_results_val2017"), golden_json("coco_gt_val2017")
    for image_id, matrix in golden_json("eval")["coco_val2017_ious"].items():
        people = [a for a in truth["annotations"] if a["image_id"] == int(image_id)]
        found = [r for r in results if r["image_id"] == int(image_id)]
        found.sort(key=lambda r: -r["score"])
        for result, row in zip(found, matrix, strict=True):
            for person, expected in zip(people, row, strict=True):
                label, pred = (np.reshape(a["keypoints"], (-1, 3)).astype(float) for a in (person, result))
                where = label[:, 2] > 0
                if where.any():  # COCO measures the others by the distance to their box
                    value = metrics.oks(
                        pred[:, :2], label[:, :2], area=person["area"], sigmas=COCO17.sigmas, where=where
                    )
                    assert value == pytest.approx(expected, abs=1e-10)


# --------------------------------------------------------------------------------------- definitions and properties


def test_oks_formula():
    """One joint off by d: exp(-d^2 / (2 area (2 sigma)^2))."""
    target = np.zeros((2, 17, 2))
    xy = target.copy()
    xy[:, 5, 0] = 10.0
    area = np.array([1000.0, 4000.0])
    expected = (16 + np.exp(-(10**2) / (2 * area * (2 * 0.079) ** 2))) / 17
    np.testing.assert_allclose(metrics.oks(xy, target, area=area, sigmas=COCO17.sigmas), expected, rtol=1e-12)


@properties
@given(seeds)
def test_oks_properties(seed):
    rng = np.random.default_rng(seed)
    target, xy = rng.normal(0, 50, (3, 17, 2)), rng.normal(0, 50, (3, 17, 2))
    area = rng.uniform(100, 10000, 3)
    options = dict(sigmas=COCO17.sigmas, where=rng.random((3, 17)) < 0.7)
    value = metrics.oks(xy, target, area=area, **options)
    assert np.all((value >= 0) & (value <= 1))
    np.testing.assert_allclose(metrics.oks(target, xy, area=area, **options), value, rtol=1e-12)
    np.testing.assert_allclose(metrics.oks(3 * xy, 3 * target, area=9 * area, **options), value, rtol=1e-9)
    assert np.all(metrics.oks((xy + target) / 2, target, area=area, **options) >= value)


def masked_garbage(rng, shape):
    """Joints, half of them masked out: as they are, holding NaN and infinity, and with zeros in their place."""
    target, pred, where = rng.normal(size=shape), rng.normal(size=shape), rng.random(shape[:-1]) < 0.5
    where[..., 0] = True
    dirty = [np.where(where[..., None], a, rng.choice([np.nan, np.inf, -np.inf], shape)) for a in (pred, target)]
    clean = [np.where(where[..., None], a, 0.0) for a in (pred, target)]
    return (pred, target), dirty, clean, where


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "metric",
    [
        metrics.distance,
        metrics.epe,
        metrics.mpjpe,
        metrics.pa_mpjpe,
        metrics.n_mpjpe,
        metrics.procrustes_align,
        lambda *a, where: metrics.oks(*a, where=where, area=np.ones(6), sigmas=np.full(17, 0.1)),
        lambda *a, where: metrics.pck(*a, where=where, norm=2.0).per_joint,
        lambda *a, where: metrics.pckh(*a, where=where, head_size=np.full(6, 4.0)).mean,
        lambda *a, where: metrics.auc(*a, where=where, norm=2.0),
        lambda *a, where: metrics.nme(*a, where=where, norm=np.full(6, 2.0)),
        lambda *a, where: metrics.pearson(a[0][..., 0], a[1][..., 0], where=where),
        lambda *a, where: Mean.from_values(a[0][..., 0], where=where).value,
    ],
)
def test_what_is_masked_out_never_matters(metric):
    full, dirty, clean, where = masked_garbage(np.random.default_rng(0), (6, 17, 3))
    result = metric(*dirty, where=where)
    assert np.all(np.isfinite(result))
    np.testing.assert_array_equal(result, metric(*clean, where=where))
    assert not np.array_equal(result, metric(*full, where=np.ones_like(where)))


def test_nothing_labelled():
    pred, none = np.full((2, 3, 2), np.nan), np.zeros((2, 3), bool)
    options = dict(where=none)
    np.testing.assert_array_equal(metrics.oks(pred, pred, area=np.ones(2), sigmas=np.ones(3), **options), [0, 0])
    np.testing.assert_array_equal(metrics.mpjpe(pred, pred, **options), [0, 0])
    np.testing.assert_array_equal(metrics.pa_mpjpe(pred, pred, **options), [0, 0])
    assert np.isnan(metrics.epe(pred, pred, **options))
    rates = metrics.pck(pred, pred, norm=1.0, **options)
    np.testing.assert_array_equal(rates.per_joint, [-1, -1, -1])
    assert rates.mean == -1 and metrics.pckh(pred, pred, head_size=1.0, **options).mean == -1
    assert np.isnan(metrics.pearson(pred[..., 0], pred[..., 0], **options))


@properties
@given(seeds)
def test_mean_merges(seed):
    rng = np.random.default_rng(seed)
    values, where = rng.normal(size=50), rng.random(50) < 0.6
    cuts = np.sort(rng.integers(0, 50, 3))
    parts = [Mean.from_values(v, where=w) for v, w in zip(np.split(values, cuts), np.split(where, cuts), strict=True)]
    merged = sum(rng.permutation(np.array(parts, dtype=object)), Mean())
    assert merged.count == where.sum()
    assert merged.value == pytest.approx(values[where].mean(), rel=1e-9)


def test_empty_mean():
    assert np.isnan(Mean().value)
    assert Mean() + Mean(3.0, 2.0) == Mean(3.0, 2.0)
    with pytest.raises(TypeError):
        Mean() + 1


@properties
@given(seeds)
def test_procrustes_undoes_a_similarity_and_never_mirrors(seed):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(4, 17, 3))
    moved = rng.uniform(0.3, 3) * target @ rotation_matrix(rng) + rng.normal(size=3)
    np.testing.assert_allclose(metrics.procrustes_align(moved, target), target, atol=1e-9)
    np.testing.assert_allclose(metrics.pa_mpjpe(moved, target), 0, atol=1e-9)
    rigid = target @ rotation_matrix(rng) + rng.normal(size=3)
    np.testing.assert_allclose(metrics.procrustes_align(rigid, target, scale=False), target, atol=1e-9)
    mirrored = target * (-1, 1, 1)
    assert np.all(metrics.pa_mpjpe(mirrored, target) > 0.1)
    # Aligned is never further away in the squared error than not aligned, and sized than rigid.
    noisy = target + rng.normal(size=target.shape)

    def squared(pred):
        return ((pred - target) ** 2).sum(axis=(-2, -1))

    similar, rigid = (metrics.procrustes_align(noisy, target, scale=s) for s in (True, False))
    assert np.all(squared(similar) <= squared(rigid) + 1e-9) and np.all(squared(rigid) <= squared(noisy) + 1e-9)


def test_masked_joints_do_not_steer_the_alignment():
    rng = np.random.default_rng(3)
    target = rng.normal(size=(17, 3))
    moved = 2 * target @ rotation_matrix(rng) + 5
    moved[4] += 100
    where = np.arange(17) != 4
    assert metrics.pa_mpjpe(moved, target, where=where) == pytest.approx(0, abs=1e-9)
    assert metrics.pa_mpjpe(moved, target) > 0.1


@properties
@given(seeds)
def test_best_scale(seed):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(2, 9, 3))
    np.testing.assert_allclose(metrics.n_mpjpe(2.5 * target, target), 0, atol=1e-12)
    noisy = target + rng.normal(size=target.shape)
    best = ((metrics.scale_align(noisy, target) - target) ** 2).sum(axis=(-2, -1))
    for other in (0.9, 1.1):
        assert np.all(((other * metrics.scale_align(noisy, target) - target) ** 2).sum(axis=(-2, -1)) >= best)


def test_root_alignment():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(3, 17, 3))
    np.testing.assert_allclose(metrics.mpjpe(target + 7, target, root=0), 0, atol=1e-12)
    np.testing.assert_allclose(metrics.mpjpe(target + 7, target), 7 * np.sqrt(3))


def test_thresholds_strict_or_inclusive():
    pred, target = np.array([[[0.5, 0.0]]]), np.zeros((1, 1, 2))
    assert metrics.pckh(pred, target, head_size=1.0, threshold=0.5, exclude=()).mean == 1
    assert metrics.pckh(pred, target, head_size=1.0, threshold=0.5, exclude=(), inclusive=False).mean == 0
    assert metrics.pck(pred, target, norm=1.0, threshold=0.5).mean == 0


def test_only_mpii_leaves_joints_out_of_pckh():
    """Joints 6 and 7 are pelvis and thorax of MPII's 16; of COCO's 17 they are an elbow and a shoulder."""
    for num_joints, expected in ((16, 1.0), (17, 15 / 17)):
        pred, target = np.zeros((1, num_joints, 2)), np.zeros((1, num_joints, 2))
        target[:, 6:8] = 100
        assert metrics.pckh(pred, target, head_size=10.0).mean == pytest.approx(expected)
        assert metrics.pckh(pred, target, head_size=10.0, exclude=()).mean == pytest.approx(1 - 2 / num_joints)
        assert metrics.pckh_auc(pred, target, head_size=10.0) == pytest.approx(expected)


def test_a_mask_of_nan_masks():
    pred, target = np.zeros((1, 3, 2)), np.ones((1, 3, 2))
    assert Mean.from_values([1.0, 5.0], where=[1.0, np.nan]) == Mean(1.0, 1.0)
    np.testing.assert_array_equal(metrics.distance(pred, target, where=[[np.nan, 0, 1]]) > 0, [[False, False, True]])


def test_a_norm_of_zero_drops_the_person():
    pred, target = np.array([[[0.0, 0.0]], [[9.0, 0.0]]]), np.zeros((2, 1, 2))
    rates = metrics.pck(pred, target, norm=np.array([1.0, 0.0]), threshold=0.5)
    assert rates.mean == 1 and rates.count.tolist() == [1]
    assert metrics.nme(pred, target, norm=np.array([0.0, 3.0])) == 3


def test_pearson_is_numpys():
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    assert metrics.pearson(x, x + y) == pytest.approx(np.corrcoef(x, x + y)[0, 1], rel=1e-12)
    assert metrics.pearson(x, -2 * x) == pytest.approx(-1)
    assert np.isnan(metrics.pearson(x, np.ones(40))) and np.isnan(metrics.pearson([1.0], [2.0]))
    for scale in (1e-200, 1e200):
        assert metrics.pearson(scale * x, x + y) == pytest.approx(np.corrcoef(x, x + y)[0, 1], rel=1e-9)


@pytest.mark.filterwarnings("error")
def test_pearson_is_nan_where_it_is_not_defined():
    x = np.random.default_rng(0).normal(size=7)
    for constant in (0.1, 0.7, -1.1, 1e-300, 1e300):  # the mean of seven 0.7 is not 0.7
        assert np.isnan(metrics.pearson(np.full(7, constant), x))
        assert np.isnan(metrics.pearson(x, np.full(7, constant, np.float32 if constant < 1 else np.float64)))
    for bad in (np.nan, np.inf, -np.inf):
        y = np.where(np.arange(7) == 3, bad, x + 1)
        assert np.isnan(metrics.pearson(x, y)) and np.isnan(metrics.pearson(y, x))
        assert metrics.pearson(x, y, where=np.isfinite(y)) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_dtypes(dtype):
    pred, target = np.full((2, 3, 2), 2, dtype), np.zeros((2, 3, 2), dtype)
    expected = np.float64 if dtype in (np.float64, np.int64) else np.float32
    assert metrics.distance(pred, target).dtype == expected
    assert metrics.procrustes_align(pred, target).dtype == expected
    assert metrics.epe(pred, target) == pytest.approx(2 * np.sqrt(2))


JOINTS = np.ones((4, 17, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.distance(JOINTS, JOINTS[:1]), r"\(4, 17, 2\) and \(1, 17, 2\)"),
        (lambda: metrics.distance(JOINTS, JOINTS, where=np.ones((4, 1))), r"where must be \(4, 17\).*\(4, 1\)"),
        (lambda: metrics.oks(JOINTS, JOINTS, area=np.ones((4, 1)), sigmas=np.ones(17)), r"area.*\(4,\).*\(4, 1\)"),
        (lambda: metrics.oks(JOINTS, JOINTS, area=1.0, sigmas=np.ones(17)), "area"),
        (lambda: metrics.oks(JOINTS, JOINTS, area=-np.ones(4), sigmas=np.ones(17)), "negative"),
        (lambda: metrics.oks(JOINTS, JOINTS, area=np.ones(4), sigmas=np.ones(14)), r"\(17,\).*\(14,\)"),
        (lambda: metrics.oks(JOINTS, JOINTS, area=np.ones(4), sigmas=np.zeros(17)), "positive"),
        (lambda: metrics.pck(JOINTS, JOINTS, norm=np.ones((4, 1))), r"norm.*\(4, 1\)"),
        (lambda: metrics.pck(JOINTS, JOINTS, norm=-1.0), "negative"),
        (lambda: metrics.pck(JOINTS[0], JOINTS[0], norm=1.0), r"\(N, K, D\)"),
        (lambda: metrics.head_size(np.ones(4)), r"\(4,\)"),
        (lambda: metrics.pearson(np.ones(4), np.ones((4, 1))), r"\(4,\) and \(4, 1\)"),
        (lambda: Mean.from_values(np.ones(4), where=np.ones((4, 1))), r"\(4,\).*\(4, 1\)"),
        (lambda: metrics.mpjpe(JOINTS, JOINTS, where=np.zeros((4, 17)), root=0), "root joint 0"),
        (lambda: metrics.mpjpe(JOINTS, JOINTS, root=17), r"root=17: expected a joint of 0\.\.16"),
        (lambda: metrics.mpjpe(JOINTS, JOINTS, root=-1), "root=-1"),
        (lambda: metrics.auc(JOINTS, JOINTS, num_thresholds=0), "num_thresholds=0"),
        (lambda: metrics.pckh(JOINTS, JOINTS, head_size=1.0, exclude=(17,)), r"exclude holds \[17\]"),
        (lambda: metrics.pa_mpjpe(JOINTS * np.nan, JOINTS), r"prediction\[0, 0, 0\] is not finite.*`where`"),
        (lambda: metrics.pa_mpjpe(JOINTS, JOINTS * np.inf), r"target\[0, 0, 0\] is not finite"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_no_jax_is_loaded():
    code = "import sys, jaxpose.metrics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Poses in space


def test_metrics_3d_of_the_reference_code(golden):
    g = golden("three_d/metrics3d")
    pred, target, mask = g["pred_m"], g["gt_m"], g["mask"]
    assert metrics.mpjve(pred, target) == pytest.approx(float(g["vp3d_mpjve"]), rel=1e-9)
    for name, aligned in (
        ("none", pred),
        ("scale", metrics.scale_align(pred, target)),
        ("procrustes", metrics.procrustes_align(pred, target)),
    ):
        mm = 1000 * aligned, 1000 * target
        assert 100 * metrics.pck_3d(*mm, where=mask) == pytest.approx(float(g[f"mmpose0_3dpck_{name}"]), rel=1e-6)
        assert 100 * metrics.auc_3d(*mm, where=mask) == pytest.approx(float(g[f"mmpose0_3dauc_{name}"]), rel=1e-6)
        assert metrics.mpjpe(aligned, target).mean() == pytest.approx(float(g[f"mmpose_mpjpe_{name}"]), rel=1e-9)
        errors = metrics.distance(aligned, target)[mask]  # masked joints take part in the alignment there
        assert errors.mean() == pytest.approx(float(g[f"mmpose_masked_{name}"]), rel=1e-9)
    within = metrics.pck_3d(1000 * pred, 1000 * target, threshold=50.0, where=mask)
    assert 100 * within == pytest.approx(float(g["mmpose0_3dpck_thr50mm"]), rel=1e-6)
    for name, error in (("mpjpe", metrics.mpjpe), ("p_mpjpe", metrics.pa_mpjpe), ("n_mpjpe", metrics.n_mpjpe)):
        assert error(pred, target).mean() == pytest.approx(float(g[f"vp3d_{name}"]), rel=1e-9)
    weighted = (g["vp3d_w"] * metrics.distance(pred, target)).mean()
    assert weighted == pytest.approx(float(g["vp3d_weighted_mpjpe"]), rel=1e-9)
    boundary = 1000 * g["pck_boundary_pred"]
    assert 100 * metrics.pck_3d(boundary, 0 * boundary) == pytest.approx(float(g["pck_boundary_pck"]))
    assert 100 * metrics.auc_3d(boundary, 0 * boundary) == pytest.approx(float(g["pck_boundary_auc"]), rel=1e-6)
    aligned = metrics.procrustes_align(pred, target)
    for prefix, poses in (("srnet", pred), ("srnet_aligned", aligned)):
        assert metrics.pck_3d(1000 * poses, 1000 * target) == pytest.approx(float(g[f"{prefix}_pck"]), rel=1e-9)
        assert metrics.auc_3d(1000 * poses, 1000 * target) == pytest.approx(float(g[f"{prefix}_auc"]), rel=1e-9)
    assert 1000 * metrics.mpjpe(aligned, target).mean() == pytest.approx(float(g["srnet_aligned_mpjpe"]), rel=1e-9)
    for key, measured in (
        ("frame_mpjpe", metrics.mpjpe(pred, target)),
        ("frame_p_mpjpe", metrics.pa_mpjpe(pred, target)),
        ("frame_n_mpjpe", metrics.n_mpjpe(pred, target)),
        ("martinez_aligned", aligned),
        ("rle_aligned", aligned),
        ("int_rigid_aligned", metrics.procrustes_align(pred, target, scale=False)),
        ("martinez_aligned_noscale", metrics.procrustes_align(pred, target, scale=False)),
    ):
        np.testing.assert_allclose(measured, g[key], rtol=1e-9, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("tag", ["m2_0_30px_20", "m3_0_50mm_20", "m3_0_50mm_100", "m3_20_50mm_100"])
def test_auc_of_errors_of_the_reference_code(golden, tag):
    g = golden("hands/hands")
    kind = tag[:2]
    if kind == "m2":
        error, where = metrics.distance(g["m2_pred"], g["m2_gt"]), g["m2_vis"]
    else:
        gt = g["m3_gt"] - g["m3_gt"][:, :1]
        error, where = metrics.distance(g["m3_pred_rel"], gt), None
    area = metrics.auc_of_errors(error, thresholds=g[f"{tag}_thresholds"], where=where)
    assert area == pytest.approx(float(g[f"{tag}_auc"]), rel=1e-9)


def test_velocity_counts_pairs_of_visible_frames_only():
    pred = np.zeros((4, 2, 3))
    pred[2, 0] = np.nan
    pred[3, 1, 0] = 3.0
    where = np.ones((4, 2), bool)
    where[2, 0] = False
    assert metrics.mpjve(pred, np.zeros((4, 2, 3)), where=where) == pytest.approx(3.0 / 4)
    batched = metrics.mpjve(np.stack([pred, pred]), np.zeros((2, 4, 2, 3)), where=np.stack([where, where]))
    assert batched.shape == (2,) and np.isnan(metrics.mpjve(pred, pred, where=np.zeros((4, 2))))


def test_rates_in_space_and_areas_of_errors():
    target = np.zeros((2, 2, 3))
    pred = target.copy()
    pred[0, 0, 0], pred[1, 1, 2] = 100.0, np.nan
    where = np.array([[True, True], [True, False]])
    assert metrics.pck_3d(pred, target, where=where) == 1 and metrics.pck_3d(pred, target) == 0.75
    assert metrics.pck_3d(pred, target, threshold=100.0, where=where) == pytest.approx(2 / 3)
    assert metrics.auc_3d(pred, target, thresholds=[100.0, 100.5], where=where) == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(metrics.pck_3d(pred, target, where=np.zeros((2, 2))))
    error = np.array([[1.0, np.nan], [3.0, np.nan]])
    visible = np.array([[True, False], [True, False]])
    # The share within 0, 2, 4 is 0, 1/2, 1: the trapezoid is (1/2 + 3/2) / 4.
    assert metrics.auc_of_errors(error, thresholds=[0, 2, 4], where=visible) == pytest.approx(0.5)
    assert np.isnan(metrics.auc_of_errors(error, thresholds=[0, 2], where=0 * visible))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mpjve(np.zeros((1, 2, 3)), np.zeros((1, 2, 3))), "two successive frames"),
        (lambda: metrics.mpjve(np.zeros((2, 3)), np.zeros((2, 3))), "two successive frames"),
        (lambda: metrics.pck_3d(np.zeros((2, 3)), np.zeros((2, 3)), threshold=0.0), "threshold=0.0"),
        (lambda: metrics.auc_3d(np.zeros((2, 3)), np.zeros((2, 3)), thresholds=[]), "one or more"),
        (lambda: metrics.auc_of_errors(np.zeros(3), thresholds=[0, 1]), r"\(N, K\)"),
        (lambda: metrics.auc_of_errors(np.zeros((3, 2)), thresholds=[1, 1]), "increasing"),
    ],
)
def test_metrics_in_space_say_what_they_expect(call, message):
    with pytest.raises(ValueError, match=message):
        call()
