import dataclasses
import itertools
import logging

import numpy as np
import pytest
from PIL import Image

from jaxpose import geometry
from jaxpose.data import augment, builder, feed, whole_images
from jaxpose.data.augment import HIGHER_HRNET, WholeImage, draw_whole, whole_generator
from jaxpose.data.boxes import with_detections
from jaxpose.data.formats import coco
from jaxpose.data.masks import draw_segmentation, valid_mask
from jaxpose.data.whole_images import eval_batches, eval_sample, fitted_sizes, sample, train_batches
from tests import tiny_coco

pytest.importorskip("tensorflow")
cv2 = pytest.importorskip("cv2")

SIZE = (64, 64)
SETTINGS = ("none", "light", "higher_hrnet", "swahr_paper")


def read(folder, data):
    return coco.read(*coco.find(tiny_coco.write(folder, data), "train"))


def with_three_kinds(images=10):
    """Two persons an image; the first has an unlabelled one and a crowd besides, the second only a crowd, the third nobody."""
    data = tiny_coco.content(images)
    second, third = (data["images"][i] for i in (1, 2))
    people = [a for a in data["annotations"] if a["image_id"] not in (second["id"], third["id"])]
    unlabelled = tiny_coco.person(9002, second, rng=np.random.default_rng(4), labelled=0)
    corners = [30.0, 20.0, 140.0, 30.0, 120.0, 100.0, 40.0, 90.0]
    people.append(unlabelled | {"iscrowd": 1, "segmentation": [corners]})
    return data | {"annotations": people[::-1]}  # those to mask first: what comes after must not unmask them


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("people"), with_three_kinds())


@pytest.fixture(scope="module")
def direct(folder):
    return coco.read(*coco.find(folder, "train"))


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    return builder.prepare(folder, data_dir=tmp_path_factory.mktemp("data"), progress=False)


def take(source, count, **options):
    options = {"size_wh": SIZE, "batch_size": 6, "seed": 5} | options
    batches = train_batches(source, **options)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# --------------------------------------------------------------------------------------------------------- training


def test_the_batch_is_as_documented(direct):
    batch = take(direct, 1, size_wh=(96, 64), strides=(4, 2, 8))[0]
    expected = {
        "image": ((6, 64, 96, 3), np.uint8),
        "mask_4": ((6, 16, 24), np.bool_),
        "mask_2": ((6, 32, 48), np.bool_),
        "mask_8": ((6, 8, 12), np.bool_),
        "affine": ((6, 2, 3), np.float32),
        "joints": ((6, 2, 17, 2), np.float32),
        "visibility": ((6, 2, 17), np.int8),
        "extent": ((6, 2), np.float32),
        "width": ((6, 2), np.float32),
        "released_extent": ((6, 2), np.float32),
        "image_id": ((6,), np.int64),
        "valid": ((6,), np.bool_),
    }
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == expected
    assert batch["valid"].all() and isinstance(batch["image"], np.ndarray)


@pytest.mark.parametrize("augment", SETTINGS)
def test_batches_are_the_samples_bit_for_bit(prepared, augment):
    """Whatever the level of the source. The shortcut for images without anything to mask is seen here too."""
    number = {int(image_id): i for i, image_id in enumerate(prepared.images["image_id"])}
    for step, batch in enumerate(take(prepared.at_level("image"), 4, augment=augment, choose="all")):
        indices, epochs = feed.sample_indices(step * 6 + np.arange(6), num_samples=10, seed=5)
        for row, (index, epoch) in enumerate(zip(indices, epochs, strict=True)):
            expected = sample(prepared, int(index), size_wh=SIZE, augment=augment, seed=5, epoch=int(epoch))
            assert_equal({key: value[row] for key, value in batch.items()}, expected)
            assert number[int(expected["image_id"])] == index


def test_both_sources_any_processes_and_a_resumed_run_see_the_same(direct, prepared):
    whole = take(prepared, 5)
    for a, b in zip(take(direct, 5), whole, strict=True):
        assert_equal(a, b)
    parts = [take(prepared, 5, process_index=i, process_count=2) for i in range(2)]
    for step in range(5):
        joined = {key: np.concatenate([part[step][key] for part in parts]) for key in whole[step]}
        assert_equal(joined, whole[step])
    for a, b in zip(take(prepared, 2, start_step=3, threads=3), whole[3:], strict=True):
        assert_equal(a, b)
    other = take(prepared, 1, seed=6)[0]
    assert not np.array_equal(other["image"], whole[0]["image"])


def test_which_images(direct):
    """Ten images: of the second only a crowd is annotated, of the third nothing. Each once an epoch."""
    ids = direct.images["image_id"]
    for choose, chosen in (("labelled", np.delete(ids, [1, 2])), ("annotated", np.delete(ids, 2)), ("all", ids)):
        seen = np.concatenate([b["image_id"] for b in take(direct, 2 * len(chosen), choose=choose, batch_size=1)])
        for epoch in seen.reshape(2, -1):
            assert sorted(epoch) == sorted(chosen)


def test_the_affine_is_the_draw(direct):
    for index, epoch in itertools.product((0, 3), range(4)):
        image = direct.images[index]
        d = draw_whole(HIGHER_HRNET, whole_generator(5, epoch, int(image["image_id"])), size_wh=image["size_wh"])
        row = sample(direct, index, size_wh=SIZE, augment="higher_hrnet", seed=5, epoch=epoch)
        straight = geometry.center_to_affine(d.centre, d.side, SIZE, rotation=d.rotation)
        expected = np.diag([-1, 1]) @ straight + [[0, 0, 63], [0, 0, 0]] if d.flip else straight
        np.testing.assert_allclose(row["affine"], expected, rtol=1e-5, atol=1e-4)
        boxes = direct.persons["box"][direct.persons["image"] == index]
        np.testing.assert_allclose(row["extent"], boxes[:, 2:].max(axis=1) * 64 / d.side, rtol=1e-5)
        np.testing.assert_allclose(row["width"], boxes[:, 2] * 64 / d.side, rtol=1e-5)
        released = boxes[:, 2:].max(axis=1) * min(image["size_wh"]) / d.side
        np.testing.assert_allclose(row["released_extent"], released, rtol=1e-5)


def test_the_square_spans_the_shorter_side(direct):
    for size_wh in ((96, 64), (64, 96)):
        row = sample(direct, 0, size_wh=size_wh)
        np.testing.assert_allclose(
            row["affine"], geometry.center_to_affine((48.5, 60.5), 97 * size_wh[0] / 64, size_wh)
        )


def test_mirroring_is_exact(direct):
    """The same draws with and without the flip: image and masks are each other's mirror images, joints change sides."""
    turned = dataclasses.replace(HIGHER_HRNET, flip=0.0)
    for index, epoch in itertools.product(range(3), range(3)):
        a, b = (
            sample(direct, index, size_wh=SIZE, augment=dataclasses.replace(turned, flip=p), epoch=epoch)
            for p in (0.0, 1.0)
        )
        for key in ("image", "mask_4", "mask_2"):
            np.testing.assert_array_equal(b[key], a[key][:, ::-1], err_msg=key)
        xy, visible = geometry.flip_joints(
            a["joints"], a["visibility"], width=64, flip_index=direct.skeleton.flip_index
        )
        np.testing.assert_array_equal(b["visibility"], visible)
        np.testing.assert_allclose(b["joints"], xy, atol=1e-4)
        np.testing.assert_array_equal(b["extent"], a["extent"])


@pytest.mark.parametrize("augment", SETTINGS)
def test_joints_are_where_the_pixels_are(tmp_path, augment):
    """A white square is painted at a joint: it must be found there in any input."""
    data = tiny_coco.content(1, persons=1)
    person, entry = data["annotations"][0], data["images"][0]
    entry.update(width=320, height=240)
    keypoints = np.zeros((17, 3))
    keypoints[5] = (170, 100, 2)  # left shoulder
    person.update(bbox=[100.0, 50.0, 100.0, 100.0], keypoints=keypoints.ravel().tolist())
    data["annotations"] = [person]
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[96:105, 166:175] = 255
    tiny_coco.write(tmp_path, data)
    Image.fromarray(pixels).save(tmp_path / "train" / entry["file_name"], quality=95)
    source, seen = read(tmp_path, data), 0
    rows, columns = np.mgrid[:128, :128]
    for epoch in range(10):
        row = sample(source, 0, size_wh=(128, 128), augment=augment, epoch=epoch)
        mirrored = np.linalg.det(row["affine"][:, :2]) < 0
        joint = 6 if mirrored else 5
        assert row["visibility"][0].tolist() == [2 if k == joint else 0 for k in range(17)]
        x, y = row["joints"][0, joint]
        if 8 < x < 119 and 8 < y < 119:
            light = row["image"][..., 1].astype(float)
            found = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
            np.testing.assert_allclose(found, (x, y), atol=0.3)
            seen += 1
    assert seen >= 5


# ------------------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("index", [0, 1, 2])  # polygon and run lengths; a crowd's polygon; nobody
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_mask_is_that_of_the_image_at_the_centres_of_the_cells(direct, index, stride):
    """Point by point through the inverse of the affine; where the mask has an edge within a pixel, either will do."""
    inside = valid_mask(direct.image(index))
    assert inside.all() == (index == 2)
    padded = np.pad(inside, 2)  # beyond the image the loss does not look
    masked = 0
    for epoch in range(3):
        row = sample(direct, index, size_wh=SIZE, augment="higher_hrnet", epoch=epoch, strides=(stride,))
        rows, columns = np.mgrid[: 64 // stride, : 64 // stride]
        centres = stride * np.stack([columns, rows], axis=-1) + (stride - 1) / 2
        back = geometry.invert_affine(row["affine"].astype(np.float64))
        x, y = np.moveaxis(geometry.apply_affine(back, centres), -1, 0)
        x, y = np.clip(x, -1.5, inside.shape[1] + 0.5), np.clip(y, -1.5, inside.shape[0] + 0.5)
        corners = np.stack(
            [
                padded[(a(y) + 2).astype(int), (b(x) + 2).astype(int)]
                for a in (np.floor, np.ceil)
                for b in (np.floor, np.ceil)
            ]
        )
        clear = corners.all(axis=0) | ~corners.any(axis=0)
        np.testing.assert_array_equal(row[f"mask_{stride}"][clear], corners[0][clear])
        assert clear.mean() > 0.85
        masked += (~row[f"mask_{stride}"] & clear).sum()
    assert masked > 0


def test_without_augmentation_the_mask_is_the_cropped_one(tmp_path):
    """An image of 64 x 64 is its own input: the mask of stride 1 is the image's, bit for bit; that of stride 2 says what
    most of the four pixels do."""
    data = tiny_coco.content(1, persons=1)
    data["images"][0].update(width=64, height=64)
    data["annotations"][0].update(bbox=[5.0, 5.0, 30.0, 30.0])
    unlabelled, crowd = data["annotations"][1:]
    unlabelled.update(segmentation=[[10.0, 10.0, 30.0, 12.0, 25.0, 40.0]], bbox=[10.0, 10.0, 20.0, 30.0])
    crowd.update(segmentation={"size": [64, 64], "counts": [3000, 300, 796]})
    source = read(tmp_path, data)
    row = sample(source, 0, size_wh=SIZE, strides=(1, 2))
    hidden = [draw_segmentation(person["segmentation"], SIZE) for person in (unlabelled, crowd)]
    assert all(h.any() for h in hidden)
    expected = ~(hidden[0] | hidden[1])
    np.testing.assert_array_equal(row["mask_1"], expected)
    shares = expected.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert {0.25, 0.75} <= set(shares.ravel())
    np.testing.assert_array_equal(row["mask_2"][shares != 0.5], shares[shares != 0.5] > 0.5)


def test_images_without_labelled_people(direct):
    for index, masked in ((1, True), (2, False)):
        row = sample(direct, index, size_wh=SIZE)
        assert not row["visibility"].any() and not row["joints"].any() and not row["extent"].any()
        assert row["image"].any() and row["mask_2"].all() != masked


def crowded(count=35):
    """One image of `count` persons in a grid, areas growing with their number; a second with one person."""
    data = tiny_coco.content(2, persons=1)
    entry = data["images"][0]
    entry.update(width=350, height=200)
    people = [data["annotations"][1]]
    for i in range(count):
        x, y = 50.0 * (i % 7), 40.0 * (i // 7)
        keypoints = np.zeros((17, 3))
        keypoints[0] = (x + 20, y + 15, 2)
        person = tiny_coco.person(100 + i, entry, rng=np.random.default_rng(i))
        people.append(person | {"bbox": [x, y, 39.0, 29.0], "area": 1.0 + i, "keypoints": keypoints.ravel().tolist()})
    return data | {"annotations": people}


def test_nobody_is_dropped_unless_asked_for(tmp_path, caplog):
    source = read(tmp_path, crowded())
    (batch,) = take(source, 1, batch_size=2, augment="none")
    assert batch["joints"].shape == (2, 35, 17, 2)
    assert sorted((batch["visibility"] > 0).any(axis=-1).sum(axis=1)) == [1, 35]
    assert batch["mask_2"].all() and not caplog.records
    take(source, 1, batch_size=2, max_people=40)
    assert not caplog.records


def test_the_smaller_of_too_many_people_are_masked(tmp_path, caplog):
    source = read(tmp_path, crowded())
    with caplog.at_level(logging.WARNING):
        (batch,) = take(source, 1, batch_size=2, augment="none", max_people=30, size_wh=(352, 352))
    (record,) = caplog.records
    assert "1 images have more than max_people=30 labelled persons: 5 persons are masked" in record.getMessage()
    assert batch["joints"].shape == (2, 30, 17, 2)
    row = {key: value[(batch["visibility"] > 0).any(axis=-1).sum(axis=1).argmax()] for key, value in batch.items()}
    assert_equal(row, sample(source, 0, size_wh=(352, 352), seed=5, max_people=30))
    keypoints = source.persons["keypoints"][source.persons["image"] == 0]
    places = geometry.apply_affine(row["affine"].astype(np.float64), keypoints[:, 0, :2])
    np.testing.assert_allclose(row["joints"][:, 0], places[5:], atol=1e-3)  # the first five are the smallest
    inside = np.all((places > 2) & (places < 350), axis=-1)
    for stride in (4, 2):
        cells = np.round((places[inside] - (stride - 1) / 2) / stride).astype(int)
        looked = row[f"mask_{stride}"][cells[:, 1], cells[:, 0]]
        np.testing.assert_array_equal(looked, np.arange(35)[inside] >= 5)
    assert 0 < inside[:5].sum()


# ------------------------------------------------------------------------------------------------------- evaluation


def test_the_sizes_of_inputs():
    """By hand from the published rule."""
    assert fitted_sizes((640, 480), size=512) == [(704, 512)]  # 682.7 up
    assert fitted_sizes((480, 640), size=640) == [(640, 896)]  # 853.3 up
    assert fitted_sizes((512, 512), size=512) == [(512, 512)]
    assert fitted_sizes((640, 480), size=512, scales=(2, 1, 0.5)) == [(1536, 1024), (768, 512), (384, 256)]
    assert fitted_sizes((640, 480), size=512, fit="long", scales=(1, 0.5)) == [(512, 512), (256, 256)]
    for scales, message in [
        ((0.5, 2), "1 among them, got"),
        ((1, 1), "different"),
        ((0.75, 1), "multiples of half the smallest"),
        ((-1, 1), "positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted_sizes((640, 480), size=512, scales=scales)
    for options, message in [({"size": 0}, "size must be"), ({"size": 512, "fit": "wide"}, "fit must be")]:
        with pytest.raises(ValueError, match=message):
            fitted_sizes((640, 480), **options)


@pytest.mark.parametrize(("fit", "processes"), [("short", 1), ("short", 2), ("long", 2)])
def test_evaluation_counts_every_image_once(prepared, fit, processes):
    options = {"size": 64, "batch_size": 4, "fit": fit, "process_count": processes}
    loaders = [eval_batches(prepared, process_index=i, **options) for i in range(processes)]
    shapes, seen = [], []
    for batches in zip(*loaders, strict=True):
        joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        shapes.append(joined["image"].shape)
        valid = joined["valid"]
        assert len(valid) == 4 and valid.any()
        assert ((joined["image_id"] == -1) == ~valid).all() and ((joined["index"] == -1) == ~valid).all()
        for i in np.flatnonzero(valid):
            row = {key: value[i] for key, value in joined.items()}
            assert_equal(row, eval_sample(prepared, int(row["index"]), size=64, fit=fit))
            assert row["image_id"] == prepared.images["image_id"][row["index"]]
            seen.append(int(row["index"]))
    assert sorted(seen) == list(range(10)) and {len(loader) for loader in loaders} == {len(shapes)}
    kinds = [shape for shape, _ in itertools.groupby(shapes)]
    assert len(set(kinds)) == len(kinds)  # those of one shape come together
    assert kinds == [(4, 64, 64, 3)] if fit == "long" else set(kinds) == {(4, 128, 64, 3), (4, 64, 128, 3)}


@pytest.mark.parametrize(("fit", "size_wh"), [("short", (128, 64)), ("long", (64, 64))])
def test_the_whole_image_is_in_the_input(direct, fit, size_wh):
    """The 160 x 120 image: its corners come back, padding has one zoom, the centre is in the centre."""
    row = eval_sample(direct, 1, size=64, fit=fit)
    assert row["image"].shape == (*size_wh[::-1], 3)
    corners = np.array([(-0.5, -0.5), (159.5, -0.5), (-0.5, 119.5), (159.5, 119.5)])
    placed = geometry.apply_affine(row["affine"].astype(np.float64), corners)
    assert (placed > -1.01).all() and (placed < np.array(size_wh)).all()
    back = geometry.apply_affine(geometry.invert_affine(row["affine"].astype(np.float64)), placed)
    np.testing.assert_allclose(back, corners, atol=1e-6)
    zoom = 64 / 120 if fit == "short" else 64 / 160
    np.testing.assert_allclose(row["affine"][:, :2], zoom * np.eye(2), rtol=1e-6)
    np.testing.assert_allclose(row["affine"] @ (80, 60, 1), np.array(size_wh) / 2, rtol=1e-6)
    x, y = (int(v) for v in np.ceil(placed[0] + 1))
    assert row["image"][y + 2, x + 2].any() and not row["image"][: max(0, y - 2)].any()


def test_several_scales_show_the_same(direct):
    """Each map of scale s is the scene of scale 1 enlarged: sizes exactly, pixels but for sampling."""
    scales = (1, 2, 0.5)
    loader = eval_batches(direct, size=128, batch_size=3, scales=scales)
    seen = 0
    for batch in loader:
        height, width = batch["image"].shape[1:3]
        assert list(batch) == ["image", "image_2", "image_0.5", "affine", "index", "image_id", "valid"]
        for scale in (2, 0.5):
            assert batch[f"image_{scale:g}"].shape[1:3] == (height * scale, width * scale)
        half = batch["image_2"].astype(float).reshape(-1, height, 2, width, 2, 3).mean(axis=(2, 4))
        # The cell of 2 x 2 lies a quarter of a pixel beside the pixel of the same number; the scenes are smooth.
        assert np.abs(half - batch["image"])[batch["valid"]].mean() < 6
        for i in np.flatnonzero(batch["valid"]):
            row = {key: value[i] for key, value in batch.items()}
            assert_equal(row, eval_sample(direct, int(row["index"]), size=128, scales=scales))
            seen += 1
    assert seen == 10
    for a, b in zip(loader, loader, strict=True):  # it can be repeated
        assert_equal(a, b)


def test_an_odd_image_is_centred_as_published(direct):
    """97 x 121: the centre is int(w / 2 + 0.5) = 49, 61."""
    row = eval_sample(direct, 0, size=64)
    np.testing.assert_allclose(row["affine"] @ (49, 61, 1), (32, 64), rtol=1e-6)
    assert row["image"].shape == (128, 64, 3)


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("kind", ["truncated", "damaged", "absent"])
@pytest.mark.parametrize("loader", ["train", "eval"])
def test_a_bad_image_is_named(tmp_path, loader, kind):
    source = read(tmp_path, tiny_coco.content(5))
    path = tmp_path / "train" / "000003.jpg"
    data = path.read_bytes()
    path.unlink()
    if kind != "absent":
        path.write_bytes(data[: len(data) // 2] if kind == "truncated" else tiny_coco.damaged(data))
    if loader == "train":
        batches = train_batches(source, size_wh=SIZE, batch_size=2)
    else:
        batches = iter(eval_batches(source, size=64, batch_size=2))
    with pytest.raises(ValueError, match=r"image 109: .*000003\.jpg.*--verify --on-bad skip"):
        for _ in range(4):
            next(batches)


def test_a_bad_mask_is_named(tmp_path):
    data = tiny_coco.content(5)
    data["annotations"][-1]["segmentation"]["size"] = [7, 8]
    batches = train_batches(read(tmp_path, data), size_wh=SIZE, batch_size=5)
    with pytest.raises(ValueError, match=r"image 100 \(000000\.jpg\): run lengths of size \[7, 8\]"):
        next(batches)


def test_arguments_are_checked(direct, tmp_path):
    for options, message in [
        ({"batch_size": 6, "process_count": 4}, "batch_size 6 must be a positive multiple of the number of processes"),
        ({"process_index": 2, "process_count": 2}, r"process_index 2 must be in 0\.\.1"),
        ({"start_step": -1}, "start_step -1"),
        ({"augment": "official"}, "no augmentation 'official' of whole images: choose one of"),
        ({"choose": "some"}, "choose must be"),
        ({"size_wh": (66, 64)}, r"the strides \(4, 2\) divide, got \(66, 64\)"),
        ({"strides": (4, 4)}, "strides must be"),
        ({"max_people": 0}, "max_people must be 1 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_batches(direct, **({"size_wh": SIZE, "batch_size": 6} | options))
    for options, message in [({"batch_size": 0}, "batch_size 0"), ({"scales": (2,)}, "1 among them")]:
        with pytest.raises(ValueError, match=message):
            eval_batches(direct, **({"size": 64, "batch_size": 6} | options))
    nobody = read(tmp_path, tiny_coco.content(2) | {"annotations": []})
    for choose in ("labelled", "annotated"):
        with pytest.raises(ValueError, match="has no image with a"):
            train_batches(nobody, size_wh=SIZE, batch_size=2, choose=choose)
    assert take(nobody, 1, choose="all")[0]["joints"].shape == (6, 1, 17, 2)
    (tmp_path / "boxes.json").write_text('[{"image_id": 100, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 1}]')
    detected = with_detections(direct, tmp_path / "boxes.json")
    with pytest.raises(ValueError, match="boxes without keypoints"):
        train_batches(detected, size_wh=SIZE, batch_size=2)


# ------------------------------------------------------------------------------------------------ published numbers


def test_the_published_matrix():
    """That of the HigherHRNet code for one draw: centre, scale of 200 px, rotation; then the one of the 1/4 map."""
    affine = geometry.center_to_affine((332.0, 228.5), 200 * 2.36715798, (512, 512), rotation=27.46926149)
    expected = [[0.95953949, 0.49885055, -176.55446185], [-0.49885055, 0.95953949, 202.36360637]]
    np.testing.assert_allclose(affine, expected, rtol=1e-7)


@pytest.mark.parametrize("number", [0, 1])
def test_golden(golden, golden_json, number):
    """Matrices, joints and mask of the HigherHRNet code, which samples the mask at the corners of our cells."""
    swahr = golden("swahr")
    x, y, scale, rotation = swahr[f"hhaff{number}_center_scale_rot"]
    affine = geometry.center_to_affine((x, y), 200 * scale, (512, 512), rotation=rotation)
    np.testing.assert_allclose(affine, swahr[f"hhaff{number}_mat512"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(affine / 4, swahr[f"hhaff{number}_mat128"], rtol=1e-9, atol=1e-9)
    keypoints = swahr[f"mask{number}_joints_intsigma"]
    _, joints = augment.move_joints(
        keypoints[..., :3], np.repeat(affine[None], len(keypoints), 0), np.zeros(len(keypoints), bool), np.arange(17)
    )
    labelled = (keypoints[..., :2] != 0).any(axis=-1)
    np.testing.assert_allclose(joints[labelled], swahr[f"hhaff{number}_joints512"][labelled], rtol=1e-9, atol=1e-9)
    height, width = (int(v) for v in swahr[f"mask{number}_shape"])
    inside = np.unpackbits(swahr[f"mask{number}_packbits"])[: height * width].reshape(height, width).astype(bool)
    expected = np.unpackbits(swahr[f"hhaff{number}_mask128_packbits"]).reshape(128, 128).astype(bool)
    ours = whole_images._mask(inside, affine, (512, 512), 4)
    assert (ours & expected).sum() / (ours | expected).sum() > 0.96
    assert (~ours & ~expected).sum() / (~ours | ~expected).sum() > 0.93
    corners = affine + np.array([[0, 0, 1.5], [0, 0, 1.5]])
    np.testing.assert_array_equal(whole_images._mask(inside, corners, (512, 512), 4), expected)


def test_real_data(data_dir, tmp_path):
    source = builder.prepare(data_dir("coco_mini"), data_dir=tmp_path, progress=False)
    number = {int(image_id): i for i, image_id in enumerate(source.images["image_id"])}
    batches = take(source, 2, size_wh=(512, 512), batch_size=8, choose="all")
    assert batches[0]["joints"].shape[1] == np.bincount(source.persons["image"]).max()
    masked = sum(not valid_mask(source.image(i)).all() for i in range(len(source.images)))
    assert masked > 0
    for row in range(8):
        taken = {key: value[row] for key, value in batches[1].items()}
        index, epoch = number[int(taken["image_id"])], 0
        assert_equal(taken, sample(source, index, size_wh=(512, 512), augment="higher_hrnet", seed=5, epoch=epoch))
    seen = [row for batch in eval_batches(source, size=512, batch_size=4) for row in batch["index"][batch["valid"]]]
    assert sorted(seen) == list(range(len(source.images)))


def test_a_setting_of_ones_own(direct):
    mine = WholeImage("mine", scale=(2.0, 2.0))
    np.testing.assert_allclose(sample(direct, 0, size_wh=SIZE, augment=mine)["affine"][0, 0], 64 / (2 * 97), rtol=1e-6)
