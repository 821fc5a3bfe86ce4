import json

import pytest

from tests import tiny_coco

pytest.importorskip("tensorflow")


@pytest.mark.slow
def test_input_throughput(tmp_path, capfd):
    """Both sides run, on a few images; the JSON lines hold what the page of the benchmark says."""
    pytest.importorskip("torch")
    from benchmarks import input_throughput

    folder = tiny_coco.write(tmp_path / "people", tiny_coco.content(6))
    options = input_throughput.Options(data=folder, size_wh=(48, 64), batch=4, turns=2, batches=2, memory_samples=64)
    ours, theirs = input_throughput.main(options)
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["side"] for line in printed] == ["jaxpose", "opencv + torch DataLoader"]
    for line in (ours, theirs):
        low, high = line["spread"]
        assert 0 < low <= line["samples_per_s_per_core"] <= high and line["runs"] == 2
    assert ours["ratio"] > 0 and "ratio" not in theirs
    assert ours["memory"]["samples"] >= 64 and ours["memory"]["resident_mb"] > 0
    assert "tensorflow" in ours["versions"] and "torch" in theirs["versions"]


def test_the_rival_makes_the_same_crops(tmp_path):
    """Without augmentation (its draws pinned) the rival's crop and targets are ours: the two do the same work."""
    pytest.importorskip("torch")
    import numpy as np

    from benchmarks.peers.torch_input import MEAN, OfficialCrops
    from jaxpose.data import crops
    from jaxpose.data.formats import coco

    class Still:
        """No flip, no rotation, no half body, scale 1."""

        def random(self):
            return 0.999

        def uniform(self, low, high):
            return (low + high) / 2

    annotations, images = coco.find(tiny_coco.write(tmp_path / "people", tiny_coco.content(6)), "train")
    source = coco.read(annotations, images)
    rival = OfficialCrops(annotations, images, size_wh=(48, 64), flip_pairs=source.skeleton.flip_pairs)
    rival.rng = Still()
    assert len(rival) == len(source)
    for index in range(len(source)):
        pixels, target, weight = rival[index]
        row = crops.sample(source, index, size_wh=(48, 64))
        image = (pixels.numpy() + MEAN).transpose(1, 2, 0) * 255
        assert np.abs(image - row["image"]).max() <= 1.01
        labelled = row["visibility"] > 0
        np.testing.assert_array_equal(weight.numpy()[:, 0] > 0, labelled)
        np.testing.assert_allclose(target.numpy()[labelled], (row["joints"] / (48, 64) - 0.5)[labelled], atol=1e-3)


@pytest.fixture
def here(monkeypatch):
    """Every side in this process: without the seconds that fresh ones take for their imports, and without pinning."""
    from benchmarks import input_throughput

    class Here(input_throughput._Runners):
        def __init__(self, sides, cores):
            self.pipes = {side: start(*arguments) for side, (start, arguments) in sides.items()}

        def __exit__(self, *error):
            pass

        def ask(self, side, question):
            return input_throughput.ANSWERS[question[0]](self.pipes[side], *question[1:])

    monkeypatch.setattr(input_throughput, "_Runners", Here)
    return input_throughput


def test_decoded_smaller_over_cores_and_in_parts(here, tmp_path, capsys):
    """The tiny run of --decode scaled --cores 1 1 --parts."""
    folder = tiny_coco.write(tmp_path / "people", tiny_coco.content(6))
    options = here.Options(
        data=folder, size_wh=(24, 32), batch=4, turns=2, batches=1, memory_samples=0, rival=False, decode="scaled",
        cores=(1,), parts=True,
    )  # fmt: skip
    here.main(options)
    exact, scaled, one, parts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["side"] for line in (exact, scaled, one, parts)] == [
        here.OURS,
        here.SCALED,
        "jaxpose, 1 core",
        here.PARTS,
    ]
    shares = scaled["decoded_at"]
    assert list(shares) == ["1/1", "1/2", "1/4", "1/8"] and sum(shares.values()) == pytest.approx(1, abs=0.01)
    assert 0 < shares["1/1"] < 1 and scaled["ratio_to_exact"] > 0 and "ratio_to_exact" not in exact
    assert one["efficiency"] == one["efficiency_cpu"] == 1 and one["samples_per_s"] > 0

    assert set(parts["parts_us"]) == {"plan", "read", "decode", "warp", "rest"}
    assert sum(parts["parts_us"].values()) == pytest.approx(parts["us_a_sample"], abs=0.2)
    sizes = parts["bytes_a_sample"]
    assert sizes["crop"] == 24 * 32 * 3 and 0 < sizes["region_mean"] <= sizes["region_p95"]
    assert parts["device_warp"]["mean_difference"] < 0.02 and parts["device_warp"]["us_a_sample"] > 0
    limit, saved = parts["host_limit"], parts["us_a_sample"] - parts["parts_us"]["warp"] + parts["pad_us"]
    assert limit["samples_per_s"] == round(limit["cores"] * 1e6 / parts["us_a_sample"])
    assert limit["samples_per_s_without_warp"] == pytest.approx(limit["cores"] * 1e6 / saved, rel=0.01)


def test_what_cannot_be_measured_is_refused(here):
    for options, message in [
        ({"cores": (0, 1)}, r"--cores \(0, 1\): this process may use"),
        ({"cores": (10**6,)}, "--cores .*: this process may use"),
        ({"whole": True, "parts": True}, "are of crops: leave --whole out"),
    ]:
        with pytest.raises(ValueError, match=message):
            here.main(here.Options(**options))


def test_the_warp_on_the_device_is_that_of_the_host():
    """Turned, magnified and reaching beyond the region; what lies behind the region in its row does not show."""
    np, jax, cv2 = pytest.importorskip("numpy"), pytest.importorskip("jax"), pytest.importorskip("cv2")
    from benchmarks import input_throughput
    from jaxpose import geometry
    from jaxpose.data import pixels

    affine = geometry.box_to_affine(
        np.array([[10.0, -5, 60, 40], [20, 30, 9, 15]]), (24, 32), rotation=np.array([30.0, 0])
    )
    sizes = np.array([[50, 70], [48, 33]])
    regions = np.full((2, 50, 70, 3), 255, np.uint8)
    for i, (h, w) in enumerate(sizes):
        regions[i, :h, :w] = tiny_coco.picture((w, h), seed=i)
    made = jax.jit(input_throughput._warp_on_device((24, 32)))(regions, sizes, geometry.invert_affine(affine))
    expected = [pixels.warped(r[:h, :w], a, (24, 32)) for r, a, (h, w) in zip(regions, affine, sizes, strict=True)]
    limit = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 5
    assert np.abs(np.asarray(made).astype(int) - np.stack(expected)).max() <= limit


def test_whole_images(here, tmp_path, capsys):
    """The tiny run of --whole, in this process: ours, and the rival with and without target maps."""
    torch, cv2 = pytest.importorskip("torch"), pytest.importorskip("cv2")
    threads = torch.get_num_threads(), cv2.getNumThreads()
    folder = tiny_coco.write(tmp_path / "people", tiny_coco.content(4))
    sizes = {"size_wh": (64, 64), "batch": 2, "turns": 1, "batches": 1, "memory_samples": 8}
    here.main(here.Options(data=folder, whole=True, **sizes))
    torch.set_num_threads(threads[0])  # the rival keeps to one
    cv2.setNumThreads(threads[1])
    ours, theirs, bare = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    sides = [line["side"] for line in (ours, theirs, bare)]
    assert sides == ["jaxpose", "opencv + torch DataLoader", "opencv + torch DataLoader, no targets"]
    for line in (ours, theirs, bare):
        assert line["samples"] == "whole images" and line["samples_per_s_per_core"] > 0 and line["runs"] == 1
    for key, rival in (("ratio", theirs), ("ratio_without_targets", bare)):
        expected = ours["samples_per_s_per_core"] / rival["samples_per_s_per_core"]
        assert ours[key] == pytest.approx(expected, rel=0.02, abs=0.002) and key not in rival
    assert ours["memory"]["samples"] >= 8


def test_the_rival_makes_the_same_whole_images(tmp_path):
    """With our draws the rival's image, mask, joints and target maps are ours: all sides do the same work."""
    pytest.importorskip("torch")
    import numpy as np

    from benchmarks.peers.torch_whole import MEAN, STD, WholeImages
    from jaxpose import heatmap
    from jaxpose.data import whole_images
    from jaxpose.data.augment import HIGHER_HRNET, draw_whole, whole_generator
    from jaxpose.data.formats import coco

    content = tiny_coco.content(6)
    unlabelled = content["annotations"][-2] | {"id": 9002, "image_id": content["images"][1]["id"], "segmentation": []}
    content["annotations"].append(unlabelled)
    annotations, pictures = coco.find(tiny_coco.write(tmp_path / "people", content), "train")
    source, size = coco.read(annotations, pictures), 128
    options = {"size_wh": (size, size), "flip_index": source.skeleton.flip_index}
    drawing, bare = (WholeImages(annotations, pictures, targets=targets, **options) for targets in (True, False))
    assert len(drawing) == len(whole_images.select_images(source, "annotated")) == 6
    mirrored = set()
    for index in range(6):
        generator = whole_generator(1, 0, int(source.images["image_id"][index]))
        draw = draw_whole(HIGHER_HRNET, generator, size_wh=source.images["size_wh"][index])
        mirrored.add(draw.flip)
        row = whole_images.sample(source, index, size_wh=(size, size), augment="higher_hrnet", seed=1)
        pixels, masks, made = drawing.transform(index, **draw._asdict())
        image = ((pixels * STD + MEAN) * 255).transpose(1, 2, 0)
        assert np.abs(image - row["image"]).max() <= 1.01
        seen = row["visibility"] > 0
        for stride, mask, (maps, places), slots in zip(
            (4, 2), masks, made, bare.transform(index, **draw._asdict())[2], strict=True
        ):
            # The published maps lie (s - 1) / 2 input pixels beside ours (`jaxpose.data.whole_images`).
            assert (mask == row[f"mask_{stride}"]).mean() > 0.95
            xy = np.where(seen[..., None], row["joints"], np.nan) / stride
            xy[..., 0] -= draw.flip * (1 - 1 / stride)
            h = size // stride
            inside = ((xy >= 0) & (xy < h)).all(-1)
            slots, there = slots[: len(xy)], places[: len(xy)]
            np.testing.assert_array_equal(slots[..., 2] > 0, seen)
            np.testing.assert_allclose(slots[seen, :2], xy[seen], atol=1e-3)
            np.testing.assert_array_equal(there[..., 1] > 0, inside)
            ours = heatmap.gaussian(np.where(inside[..., None], xy, np.nan), (h, h), sigma=2.0, method="bottom_up")
            np.testing.assert_allclose(maps, np.asarray(ours).max(0).transpose(2, 0, 1), atol=1e-5)
            np.testing.assert_array_equal(there[inside][:, 0] // h**2, np.nonzero(inside)[1])
            assert (maps.reshape(-1)[there[inside][:, 0]] == 1).all()
    assert mirrored == {True, False}
