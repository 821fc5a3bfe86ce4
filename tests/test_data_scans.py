"""Scans: the Duke files, He's preprocessing, the retina in a single scan, and the batches of a run."""

import dataclasses

import numpy as np
import pytest
from scipy.io import savemat

from jaxpose.data.scans import Scan, duke, feed, flatten, prepare, surfaces
from jaxpose.data.scans.scan import AXIAL_UM, LATERAL_UM
from jaxpose.data.synthetic import retina

SMALL = retina.Style(height=240, width=64)


@pytest.fixture(scope="module")
def scans():
    return retina.draw_scans(4, seed=3, style=SMALL, scans_per_subject=2)


def write_subject(path, scans, **changes):
    """A file in Duke's layout with an unlabelled scan in front of each scan."""
    pairs = [(s, labelled) for s in scans for labelled in (False, True)]
    content = {
        "images": np.stack([s.image for s, _ in pairs], -1),
        "manualLayers1": np.stack(
            [s.rows + 1 if labelled else np.full_like(s.rows, np.nan) for s, labelled in pairs], -1
        ),
        "manualLayers2": np.full((8, scans[0].image.shape[1], len(pairs)), np.nan),
        "manualFluid1": np.stack([np.where(s.fluid, 3.0, np.nan) for s, _ in pairs], -1),
    }
    content |= changes
    savemat(path, {name: value for name, value in content.items() if value is not None})
    return path


# He's preprocessing


def test_the_steps_of_he_match_executed_numbers(golden):
    z = golden("hands/oct_he")
    lateral = 1000 * float(z["scaleX"])
    for i in range(z["images"].shape[2]):
        black = flatten.blacken_border(z["images"][..., i])
        np.testing.assert_array_equal(black, z["pre_u8"][..., i])
        values = flatten.compensate(black, lateral_um=lateral)
        np.testing.assert_allclose(values[::7, ::5], z["norm4_sub"][..., i], atol=1e-6)
        assert flatten.middle_row(len(black)) == 247
        shift = z["bds"][:, i, 2] - 1 - 247  # rows from 0
        np.testing.assert_allclose(shift, z["shifts"][:, i], atol=1e-9)
        flat = flatten.flatten(values, shift, height=len(black))
        np.testing.assert_allclose(flat[::7, ::5], z["flat_norm_sub"][..., i], atol=1e-6)
        if i in z["labelled"]:
            place, top = list(z["labelled"]).index(i), int(z["tv"]) - 1
            crop = flatten.flatten(values, shift + top, height=flatten.HEIGHT)
            np.testing.assert_allclose(crop[::3, ::3], z["flat_vol_sub"][..., place], atol=1e-6)
            rows = z["manualLayers1"][..., i] - 1 - shift - top
            np.testing.assert_allclose(rows.T + 1, z["out_bds"][:, place], atol=1e-6)


def test_white_borders_and_nothing_else_become_black():
    image = np.full((12, 14), 100, np.uint8)
    image[:3], image[:, :2], image[6, 7] = 255, 255, 255
    black = flatten.blacken_border(image)
    assert (black[:5] == 0).all() and (black[:, :4] == 0).all()
    assert (black[5:, 4:] == image[5:, 4:]).all() and black[6, 7] == 255


def test_attenuation_is_compensated():
    """Uniform tissue whose light falls exponentially has one value again: dI/E is the attenuation."""
    depth = np.arange(400)[:, None]
    intensity = np.exp(-0.02 * depth) * np.ones((1, 5))
    image = np.round(255 * intensity**0.25).astype(np.uint8)
    values = flatten.compensate(image, lateral_um=11.33)[:200]
    assert values.std() / values.mean() < 0.01


def test_a_scan_is_flattened_about_its_own_membrane(scans):
    for scan in scans:
        prepared = prepare(scan, height=176)
        assert prepared.image.shape == (176, 64) and prepared.image.dtype == np.float32
        membrane = scan.truth[7] - prepared.offset
        assert np.abs(membrane - membrane.mean()).max() < 3
        np.testing.assert_allclose(prepared.rows.T + prepared.offset, scan.rows, atol=1e-3, equal_nan=True)
        unflattened = prepare(scan, height=176, is_flattened=False, is_compensated=False)
        assert len(set(unflattened.offset)) == 1 and unflattened.image.max() <= 1


def test_a_retina_above_the_crop_is_said(scans, caplog):
    prepare(scans[0], height=64)
    assert "drawn scan 1: the retina reaches" in caplog.text and "give a larger height" in caplog.text


def test_the_finder_is_near_the_true_surfaces(scans):
    for scan in scans:
        bordered = scan.image.copy()
        bordered[:20] = 255
        for image in (scan.image, bordered):
            surface = surfaces.find(
                image, axial_um=scan.axial_um, lateral_um=scan.lateral_um, border=flatten.white_border(image)
            )
            assert np.abs(surface.bm - scan.truth[7]).mean() < 2
            assert np.abs(surface.isos - scan.truth[5]).mean() < 4
            assert (surface.ilm <= surface.isos).all() and (surface.isos < surface.bm).all()


def test_what_holds_no_retina_is_refused(scans):
    empty = dataclasses.replace(scans[0], image=np.full((240, 64), 7, np.uint8))
    with pytest.raises(ValueError, match="drawn scan 1: the scan is empty"):
        prepare(empty)
    with pytest.raises(ValueError, match="drawn scan 1: the scan is empty: all of its pixels are white"):
        prepare(dataclasses.replace(empty, image=np.full((240, 64), 255, np.uint8)))
    with pytest.raises(ValueError, match="a scan of 40 rows of 3.87 um is too low for a retina"):
        prepare(Scan("low", "a", np.ones((40, 64), np.uint8)))
    with pytest.raises(ValueError, match=r"x: rows of shape \(8, 9\), expected \(8, 64\)"):
        Scan("x", "a", scans[0].image, rows=np.zeros((8, 9)))
    with pytest.raises(ValueError, match="infinite row"):
        Scan("x", "a", scans[0].image, rows=np.full((8, 64), np.inf))


# The drawn scans


def test_drawn_boundaries_keep_their_order_and_their_noise_is_known():
    scans = retina.draw_scans(30, seed=0, style=SMALL)
    errors = []
    for scan in scans:
        assert (np.diff(scan.truth, axis=0) >= 0).all() and scan.truth.min() > 0 and scan.truth.max() < 240
        assert scan.fluid is not None and not scan.fluid[scan.truth[5].astype(int) + 1, np.arange(64)].any()
        errors.append(((scan.rows - scan.truth) / scan.noise).ravel())
    e = np.concatenate(errors)
    e = e[np.isfinite(e)]
    assert 0.1 < 1 - len(e) / (30 * 8 * 64) < 0.15, "the outer columns have no labels"
    assert abs(np.abs(e).mean() - 1) < 0.03 and abs(np.median(np.abs(e)) - np.log(2)) < 0.03  # a standard Laplace
    assert len({scan.subject for scan in scans}) == 3
    again = retina.draw_scans(2, seed=0, style=SMALL)
    np.testing.assert_array_equal(again[1].image, scans[1].image)


# The Duke files


def test_the_labelled_scans_of_a_subject_are_read(scans, tmp_path):
    folder = tmp_path / "2015_BOE_Chiu"
    folder.mkdir()
    write_subject(folder / "Subject_01.mat", scans[:2])
    write_subject(folder / "Subject_02.mat", scans[2:])
    assert list(duke.subjects(folder)) == [1, 2] and list(duke.subjects(tmp_path)) == [1, 2]
    read = duke.read(folder, [1, 2])
    assert [(s.name, s.subject) for s in read[:3]] == [
        ("Subject_01 scan 2", "subject 1"), ("Subject_01 scan 4", "subject 1"), ("Subject_02 scan 2", "subject 2"),
    ]  # fmt: skip
    for ours, theirs in zip(read, scans, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_allclose(ours.rows, theirs.rows)
        np.testing.assert_array_equal(ours.fluid, theirs.fluid)
    assert len(duke.read_file(folder / "Subject_01.mat", labelled=False)) == 4
    assert np.arange(1, 769)[duke.RATHKE][[0, -1]].tolist() == [135, 634]


def layers(scans):
    """The labels that write_subject writes."""
    return np.stack(
        [s.rows + 1 if is_drawn else np.full_like(s.rows, np.nan) for s in scans for is_drawn in (0, 1)], -1
    )


def test_single_labels_that_cannot_be_are_left_out_with_a_warning(scans, tmp_path, caplog):
    wrong = np.nan_to_num(layers(scans[:2]))  # 0 where nothing is drawn
    wrong[7, 20, 1], wrong[2, 30, 3] = 900.0, wrong[1, 30, 3] - 25
    read = duke.read_file(write_subject(tmp_path / "Subject_01.mat", scans[:2], manualLayers1=wrong))
    assert len(read) == 2 and np.isnan(read[0].rows[7, 20])
    for ours, theirs in zip(read, scans):
        same = np.isclose(ours.rows, theirs.rows, equal_nan=True)
        assert (~same).sum() == 1
    number = int((wrong == 0).sum())
    assert f"manualLayers1: left out {number} labels that are 0, where rows count from 1, and 1 outside" in caplog.text
    assert (
        "in 1 places a boundary lies above the one before it by more than 20 pixels, such as boundary 3, column 31, scan 4"
        in caplog.text
    )


def test_files_that_are_no_subject_are_refused(scans, tmp_path):
    path, drawn = tmp_path / "Subject_01.mat", layers(scans[:2])
    cases = {
        "has no array 'manualLayers1', the labels: it holds": {"manualLayers1": None},
        "manualLayers1 has no finite value, so that no scan has labels": {"manualLayers1": np.full((8, 64, 4), np.nan)},
        r"manualLayers1 has shape \(7, 64, 4\) .* expected numbers of shape \(8, 64, 4\)": {
            "manualLayers1": np.zeros((7, 64, 4))
        },
        "manualLayers1 holds infinite values": {"manualLayers1": np.full((8, 64, 4), np.inf)},
        r"rows outside the pictures, such as \d+.* \(boundary 1, column \d+, scan 2\): expected rows in pixels from 1": {
            "manualLayers1": drawn + 400
        },
        "lies above boundary . in 100% of the columns: expected 8 boundaries": {"manualLayers1": drawn[::-1]},
        "manualLayers1 has no finite value, so": {"manualLayers1": np.zeros((8, 64, 4))},
        "has no array 'images': expected": {"images": None},
        "has images of shape .* and type float64": {"images": np.zeros((240, 64, 4))},
    }
    for message, changes in cases.items():
        write_subject(path, scans[:2], **changes)
        with pytest.raises(ValueError, match=message):
            duke.read_file(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="is not a MATLAB file"):
        duke.read_file(path)
    path.write_text("no MATLAB file, but long enough for its header" * 9)
    with pytest.raises(ValueError, match="is not a MATLAB file"):
        duke.read_file(path)
    with pytest.raises(ValueError, match="has no file of subject 3: the subjects are 1"):
        duke.read(tmp_path, [3])
    path.unlink()
    with pytest.raises(ValueError, match="holds no Subject_NN.mat"):
        duke.subjects(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        duke.subjects(tmp_path / "absent")


# Batches


def test_a_file_may_state_the_size_of_its_pixels(scans, tmp_path):
    path = write_subject(tmp_path / "Subject_04.mat", scans[:1], axial_um=2.5)
    (scan,) = duke.read_file(path)
    assert (scan.axial_um, scan.lateral_um) == (2.5, LATERAL_UM)
    (scan,) = duke.read_file(path, pixel_um=(3.0, 6.0))
    assert (scan.axial_um, scan.lateral_um) == (3.0, 6.0), "a flag goes before the file"
    for value, message in (
        (0.0025, "axial_um, lateral_um 0.0025: expected the height of a pixel in micrometres"),
        (np.ones(3), r"axial_um has shape \(1, 3\), expected one number of micrometres"),
    ):
        write_subject(path, scans[:1], axial_um=value)
        with pytest.raises(ValueError, match=message):
            duke.read_file(path)


def test_labels_of_a_resampled_scan_find_their_way_back(scans):
    fine = Scan("fine", "one", np.repeat(scans[0].image, 2, 0), 2 * scans[0].rows + 0.5, axial_um=AXIAL_UM / 2)
    ours, usual = prepare(fine), prepare(Scan("usual", "one", scans[0].image, scans[0].rows))
    np.testing.assert_allclose(ours.image, usual.image, atol=1e-5)
    np.testing.assert_allclose(ours.rows, usual.rows, atol=1e-3)
    rows, sigma = ours.to_scan(ours.rows.astype(np.float64), np.ones(ours.rows.shape))
    where = np.isfinite(ours.rows)
    np.testing.assert_allclose(rows[where], fine.rows.T[where], atol=1e-3)
    assert (sigma == 2).all()


def test_batches_are_a_function_of_seed_and_step(scans):
    prepared = [prepare(scan, height=176) for scan in scans]
    plan = feed.Feed(prepared, width=32, batch_size=4, seed=5, crops=2)
    whole = list(plan.batches(start_step=0, stop_step=5))
    resumed = list(plan.batches(start_step=3, stop_step=5))
    halves = [list(plan.batches(start_step=3, stop_step=5, process_index=i, process_count=2)) for i in (0, 1)]
    for i in (0, 1):
        for name in ("image", "rows"):
            np.testing.assert_array_equal(resumed[i][name], whole[3 + i][name])
            np.testing.assert_array_equal(np.concatenate([h[i][name] for h in halves]), whole[3 + i][name])
    assert len(plan) == 8 and whole[0]["image"].shape == (4, 176, 32) and whole[0]["rows"].shape == (4, 32, 8)
    assert np.isfinite(whole[0]["rows"]).any(axis=(1, 2)).all()


def test_mirrored_and_stretched_labels_stay_on_their_boundaries(scans):
    prepared = prepare(scans[0], height=176)
    clean = dataclasses.replace(prepared, rows=(scans[0].truth - prepared.offset).T.astype(np.float32))
    image, rows = feed.stretched(clean.image, clean.rows, 1.1)
    inside = (rows[:, 0] > 4) & (rows[:, 0] < 170)
    x = np.flatnonzero(inside)
    below, above = (image[np.round(rows[x, 0] + d).astype(int), x] for d in (3, -3))
    assert (below - above).mean() > 0.05, "the retina begins at ILM"
    np.testing.assert_allclose(175 - rows, 1.1 * (175 - clean.rows), rtol=1e-5)
    shifts = {feed.crop(clean, np.random.default_rng(i), width=64)["rows"][10, 7] for i in range(12)}
    assert len(shifts) > 3
    plain = feed.crop(clean, np.random.default_rng(0), width=64, augment=False)
    np.testing.assert_array_equal(plain["image"], clean.image)
