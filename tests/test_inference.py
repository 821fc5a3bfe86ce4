"""How a net is tested: the settings, what a checkpoint says of them, and the one loop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import geometry, inference, parallel
from jaxpose.data import augment
from jaxpose.inference import Settings, from_checkpoint

ROOT = Path(__file__).parents[1]
CHANGED = Settings(
    flip_test=False, padding=1.5, decode="scaled", rescore="box", nms=None, nms_annotated=False, soft_nms=True, test_size=640,
    fit="long", scales=(0.5, 1.0, 2.0), sigma_scale=2.0,
)  # fmt: skip


def test_settings_survive_json():
    assert all(value != asdict(CHANGED)[name] for name, value in asdict(Settings()).items()), (
        "all differ from the default"
    )
    for settings in (Settings(), CHANGED):
        assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert Settings.from_dict({"rescore": "box"}) == Settings(rescore="box"), "what is absent takes its default"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip_test": 1}, "flip_test=1: expected True or False"),
        ({"padding": 0}, "padding=0: expected a positive factor"),
        ({"padding": float("nan")}, "padding=nan: expected"),
        ({"padding": "1.25"}, "padding='1.25': expected"),
        ({"decode": "half"}, "decode='half': expected one of exact, scaled"),
        ({"rescore": ["box"]}, "rescore=.*: expected one of box"),
        ({"nms": 0}, "nms=0: expected an OKS above 0"),
        ({"nms": 1.5}, "nms=1.5: expected"),
        ({"soft_nms": "no"}, "soft_nms='no': expected True or False"),
        ({"test_size": 100}, "test_size=100: expected a multiple of 64"),
        ({"test_size": 64.0}, "test_size=64.0: expected a multiple of 64"),
        ({"fit": "wide"}, "fit='wide': expected one of short, long"),
        ({"scales": []}, "scales=.*: expected positive numbers, 1 among them"),
        ({"scales": [0.5, 2]}, "scales=.0.5, 2.: expected"),
        ({"scales": [1, -1]}, "scales=.1, -1.: expected"),
        ({"scales": None}, "scales=None: expected"),
        ({"tiles": 4, "nms": 0.5, "overlap": 1}, "hold tiles, overlap, which this version of jaxpose does not know"),
        ([1], r"the settings of inference are \[1\]: expected names with their values"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        Settings.from_dict(values)


def test_the_side_of_a_whole_image():
    assert Settings().side((640, 512)) == 512 and CHANGED.side((100, 100)) == 640
    with pytest.raises(ValueError, match=r"test_size=100, the shorter side of the training images \(128, 100\)"):
        Settings().side((128, 100))


def test_what_a_checkpoint_says_wins_over_its_run():
    stored = {"inference": CHANGED.to_dict(), "run": {"flip_test": True, "rescore": "box*mean"}}
    assert from_checkpoint(stored, default=Settings(padding=2.0)) == CHANGED


def test_checkpoints_from_before_there_were_settings():
    default = Settings(rescore="box*mean", nms=0.5)
    run = {
        "flip_test": False, "decode": "scaled", "rescore": "box", "nms": None, "soft_nms": True, "test_size": 640, "fit": "long",
        "scales": [0.5, 1.0, 2.0], "epochs": 3, "augment": "official", "padded_people": None, "group_on": "device",
        "nms_annotated": False,
    }  # fmt: skip
    assert from_checkpoint({"run": run}, default=default) == replace(CHANGED, padding=1.25, sigma_scale=1.0)
    for nothing in ({}, {"run": {}}, {"run": None}, {"run": {"flip_test": None, "decode": None, "test_size": None}}):
        assert from_checkpoint(nothing, default=default) == default
    with pytest.raises(ValueError, match="decode='half'"):
        from_checkpoint({"run": {"decode": "half"}})


def test_whole_images_were_tested_with_their_mirror_images_where_the_training_mirrored():
    known = {s.name for s in vars(augment).values() if isinstance(s, augment.WholeImage)}
    assert known == set(inference.MIRRORS)
    for name in known:
        settings = from_checkpoint(
            {"run": {"augment": name, "flip_test": None}}, default=Settings(flip_test=name == "light")
        )
        assert settings.flip_test == (augment.named_whole(name).flip > 0)
        assert from_checkpoint({"run": {"augment": name, "flip_test": True}}).flip_test, "what was said counts"


# ---------------------------------------------------------------------------------------------------------------- the loop


def samples(count: int):
    for i in range(count):
        yield {"image": np.full((2, 3), i, np.float32), "image_id": np.int64(2**40 + i)}


@pytest.mark.parametrize("count", [1, 4, 5, 8, 11])
@pytest.mark.parametrize("smallest", [None, 1, 2])
def test_every_sample_is_predicted_once_and_in_order(count, smallest):
    sizes = []

    def step(batch):
        sizes.append(len(batch["image"]))
        assert batch["image"][-1, 0, 0] == count - 1 or batch["valid"].all(), "padded with copies of the last sample"
        return {"sum": jnp.asarray(batch["image"]).sum((1, 2))}

    found = inference.run(step, inference.batches(samples(count), size=4, smallest=smallest))
    np.testing.assert_array_equal(found["sum"], 6.0 * np.arange(count))
    np.testing.assert_array_equal(found["image_id"], 2**40 + np.arange(count))
    assert "image" not in found and found["valid"].all() and isinstance(found["sum"], np.ndarray)
    left = (count - 1) % 4 + 1
    assert sizes[:-1] == [4] * ((count - 1) // 4)
    assert sizes[-1] == (4 if smallest is None else max(smallest, 1 << (left - 1).bit_length()))


def test_samples_are_taken_when_their_batch_is():
    taken = []
    source = (taken.append(i) or {"image": np.zeros(1)} for i in range(9))
    next(inference.batches(source, size=3))
    assert taken == [0, 1, 2]
    assert list(inference.batches([], size=3)) == [] and inference.run(lambda batch: {}, []) == {}
    with pytest.raises(ValueError, match="size=0"):
        next(inference.batches([], size=0))


def test_a_step_on_a_mesh_sees_what_it_asks_for():
    mesh, seen = parallel.make_mesh(), []

    def predict(variables, batch):
        seen.append(set(batch))
        return {"y": variables * sum(batch.values())}

    batch = {"image": np.ones(8), "image_0.5": np.ones(8), "image_id": np.arange(8), "joints": np.full(8, 3.0)}
    assert inference.run(inference.on_mesh(predict, 2.0, mesh), [batch])["y"].tolist() == [4.0] * 8
    assert inference.run(inference.on_mesh(predict, 2.0, mesh, inputs=["joints"]), [batch])["y"].tolist() == [6.0] * 8
    assert seen == [{"image", "image_0.5"}, {"joints"}]


def test_points_go_back_to_the_image():
    box = np.array([[10.0, 20, 30, 40], [5, 6, 70, 80]])
    affine = geometry.box_to_affine(box, (24, 32))
    xy = np.random.default_rng(0).uniform(0, 90, (2, 17, 2))
    there = geometry.apply_affine(affine, xy)
    np.testing.assert_allclose(inference.to_image(there, affine), xy, atol=1e-9)
    where = np.arange(34).reshape(2, 17, 1) % 3 > 0
    np.testing.assert_allclose(inference.to_image(there, affine, where=where), np.where(where, xy, 0), atol=1e-9)


@pytest.mark.parametrize("on_device", [False, True])
def test_people_come_in_the_order_of_their_images_and_in_their_pixels(on_device):
    """The joint of person p of image i lies at (i, p) of the map, which is half the image."""
    grouped = []

    def maps(batch):
        return {"heatmap": jnp.asarray(batch["image"])[:, ::2, ::2, None], "tag": jnp.zeros((len(batch["image"]), 1))}

    def group(maps, *, stride, device=False):
        assert stride == 2 and device == on_device
        number = np.asarray(maps["heatmap"])[:, 0, 0, 0]
        grouped.append(len(number))
        poses = np.stack([np.stack([stride * number, np.full_like(number, 2 * p), np.full_like(number, 1 - p)], -1)
                          for p in range(2)], 1)[:, :, None]  # fmt: skip
        return {"poses": poses, "scores": poses[..., 0, 0], "valid": poses[..., 0, 2] > 0}

    def batch(rows, size):
        affine = np.array([[2.0, 0, 4], [0, 2, 0]], np.float32)
        entries = [{"image": np.full((size, size), i, np.float32), "affine": affine, "index": i} for i in rows]
        return inference.batches(entries, size=4)

    batches = [*batch([3, 1], 4), *batch([0, 4, 2], 8)]
    people = inference.people(maps, batches, group, on_device=on_device)
    assert people["index"].tolist() == [0, 1, 2, 3, 4] and "affine" not in people
    np.testing.assert_array_equal(people["poses"][:, 0, 0], [[(2 * i - 4) / 2, 0, 1] for i in range(5)])
    assert (people["poses"][:, 1, 0] == 0).all(), "a joint that was not found is 0"
    assert people["valid"].tolist() == [[True, False]] * 5
    assert grouped == ([4, 4] if on_device else [2, 3]), "the host groups no padding"


IN_A_CLUSTER = """
import sys
import numpy as np
from jaxpose import inference, parallel
parallel.start_multihost(coordinator=sys.argv[2], num_processes=2, process_id=int(sys.argv[1]))
import jax
mesh, me = parallel.make_mesh(), jax.process_index()
def batches():
    for first in (0, 4, 8):  # 9 samples in batches of 4
        rows = first + 2 * me + np.arange(2)
        yield {"image": np.minimum(rows, 8).astype(np.float32), "image_id": 2**40 + rows, "valid": rows < 9}
step = jax.jit(lambda variables, batch: {"y": variables * batch["image"]}, out_shardings=parallel.batch_sharding(mesh))
found = inference.run(inference.on_mesh(step, 2.0, mesh), batches())
assert found["y"].tolist() == [2.0 * i for i in range(9)], found
assert found["image_id"].tolist() == [2**40 + i for i in range(9)], found
host = inference.run(lambda batch: {"y": batch["image"] + 1}, batches())
assert host["y"].tolist() == [i + 1.0 for i in range(9)], host
mine = inference.run(lambda batch: {"y": batch["image"]}, batches(), gather=False)
assert mine["y"].tolist() == [[0, 1, 4, 5, 8], [2, 3, 6, 7]][me], mine
"""


@pytest.mark.slow
def test_the_last_batch_is_ragged_and_its_rows_lie_on_two_processes():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", IN_A_CLUSTER, str(i), address], cwd=ROOT, env=environment,
                         stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


def test_the_module_touches_no_device_when_it_is_imported():
    code = "import jaxpose.inference as i; print(i.from_checkpoint({'run': {'rescore': 'box'}}).rescore)"
    environment = os.environ | {"JAX_PLATFORMS": "nowhere"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "box", done.stderr
