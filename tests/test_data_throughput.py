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
    from jaxpose.data import coco, pipeline

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
        row = pipeline.sample(source, index, size_wh=(48, 64))
        image = (pixels.numpy() + MEAN).transpose(1, 2, 0) * 255
        assert np.abs(image - row["image"]).max() <= 1.01
        labelled = row["visibility"] > 0
        np.testing.assert_array_equal(weight.numpy()[:, 0] > 0, labelled)
        np.testing.assert_allclose(target.numpy()[labelled], (row["joints"] / (48, 64) - 0.5)[labelled], atol=1e-3)
