"""The bottom-up task: the loss as composed against SWAHR's totals, masks, empty images, what a prediction is, and people."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpose import heatmap, tasks
from jaxpose.nets import HigherHRNet, ResNet, Upsampled
from jaxpose.skeleton import COCO17, CROWDPOSE14
from jaxpose.tasks import FindPeople, PeopleLoss

SWAHR = PeopleLoss(targets="scale_adaptive", weighting="adaptive")
K = 17


class Given(nn.Module):
    """The same two maps whatever the image."""

    maps: tuple[np.ndarray, np.ndarray]
    num_joints: int
    scale: bool = False

    @nn.compact
    def __call__(self, images, *, train=False):
        given = tuple(self.param(f"maps{i}", lambda key, m=m: jnp.asarray(m)) for i, m in enumerate(self.maps))
        return tuple(jnp.broadcast_to(m, (len(images), *m.shape[1:])) if len(m) == 1 else m for m in given)

    def split(self, maps):
        return HigherHRNet(None, self.num_joints, scale=self.scale, parent=None).split(maps)


class Looking(nn.Module):
    """Maps that depend on the image alone, pixel by pixel, and so turn with it: no convolution, no borders."""

    scale: bool = False

    @nn.compact
    def __call__(self, images, *, train=False):
        weights = self.param("weights", nn.initializers.normal(0.1), (3, 2 * K))
        alpha = self.param("alpha", nn.initializers.zeros, (3, K))
        coarse, fine = (nn.avg_pool(images, (s, s), (s, s)) / 64 for s in (4, 2))
        maps = coarse @ weights, fine @ weights[:, :K]
        return tuple(jnp.concatenate([x @ alpha, m], -1) for x, m in zip((coarse, fine), maps)) if self.scale else maps

    def split(self, maps):
        return HigherHRNet(None, K, scale=self.scale, parent=None).split(maps)


def tiny_net(scale: bool = True, joints: int = K) -> HigherHRNet:
    return HigherHRNet(Upsampled(ResNet(depth=18, width=4), (8, 8, 8)), joints, scale=scale, dilations=(1,))


def make_batch(count: int = 2, people: int = 3, side: int = 64, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        "joints": rng.uniform(0, side - 1, (count, people, K, 2)).astype(np.float32),
        "visibility": rng.integers(0, 3, (count, people, K)).astype(np.int8),
        "extent": rng.uniform(10, side, (count, people)).astype(np.float32),
        "mask_4": np.ones((count, side // 4, side // 4), bool),
        "mask_2": np.ones((count, side // 2, side // 2), bool),
    }


@pytest.mark.parametrize("name", ["swahr", "higher"])
def test_the_loss_is_the_reference_total(golden, name):
    arrays = golden("swahr")
    with jax.enable_x64(True):
        first = 0 if name == "swahr" else 14  # HigherHRNet's outputs are those without the scale maps
        outs = tuple(np.moveaxis(arrays[f"multi_out{s}"], 1, -1)[..., first:].astype(np.float64) for s in (0, 1))
        joints = arrays["multi_joints"]
        batch = {
            "image": jnp.zeros((2, 128, 128, 3)),
            "joints": jnp.asarray(4 * joints[..., :2]),
            "visibility": jnp.asarray(joints[..., 2]),
            "mask_4": jnp.asarray(arrays["multi_mask0"] > 0),
            "mask_2": jnp.asarray(arrays["multi_mask1"] > 0),
        }
        skeleton = dataclasses.replace(CROWDPOSE14)
        net = Given(outs, 14, scale=name == "swahr")
        settings = SWAHR if name == "swahr" else PeopleLoss()
        task = tasks.bottom_up(net, skeleton=skeleton, size_wh=(128, 128), loss=settings)
        variables = {"params": {"net": {f"maps{i}": jnp.asarray(m) for i, m in enumerate(outs)}}, "batch_stats": {}}

        def total(params):
            return task.loss({**variables, "params": params}, batch, key=jax.random.key(0))

        (value, (_, metrics)), gradient = jax.value_and_grad(total, has_aux=True)(variables["params"])
        np.testing.assert_allclose(value, arrays[f"multi_{name}_total_f64"], rtol=1e-6)
        np.testing.assert_allclose(metrics["map_loss"], arrays[f"multi_{name}_heat_f64"].mean(1).sum(), rtol=1e-6)
        for term in ("push", "pull"):
            np.testing.assert_allclose(1e-3 * metrics[term], arrays[f"multi_{name}_{term}0_f64"].mean(), rtol=1e-6)
        if name == "swahr":
            expected = np.moveaxis(arrays["multi_swahr_dout0"], 1, -1)
            found = gradient["net"]["maps0"]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def grads(task, batch):
    variables = jax.jit(task.init)(jax.random.key(0))
    loss = lambda params: task.loss({**variables, "params": params}, batch, key=jax.random.key(1))[0]  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(variables["params"])


def norm(tree):
    return float(sum(np.abs(x).sum() for x in jax.tree.leaves(tree)))


@pytest.mark.parametrize("loss", [
    PeopleLoss(), SWAHR, PeopleLoss(targets="box"), dataclasses.replace(SWAHR, order="exact", exponent="std"),
])  # fmt: skip
def test_images_with_nobody_with_crowds_only_and_with_many_are_finite(loss):
    task = tasks.bottom_up(Looking(scale=True), skeleton=COCO17, size_wh=(64, 64), loss=loss)
    many = make_batch(people=35)
    nobody = {**many, "visibility": np.zeros_like(many["visibility"]), "joints": np.full_like(many["joints"], np.nan)}
    crowd = {**nobody, **{k: np.zeros_like(many[k]) for k in ("mask_4", "mask_2")}}
    for batch in (many, nobody, crowd):
        value, gradient = grads(task, batch)
        assert np.isfinite(value) and np.isfinite(norm(gradient))
    assert value == 0 and norm(gradient) == 0  # everything masked, nobody to tell apart
    assert norm(grads(task, many)[1]) > 0


def test_what_is_masked_has_no_effect():
    task = tasks.bottom_up(Looking(), skeleton=COCO17, size_wh=(64, 64), loss=PeopleLoss(weighting="adaptive"))
    batch = make_batch()
    batch["mask_4"][:, 4:8, 4:8] = batch["mask_2"][:, 8:16, 8:16] = False
    changed = {**batch, "image": batch["image"].copy()}
    changed["image"][:, 16:32, 16:32] = 255
    inside = ((batch["joints"] >= 16) & (batch["joints"] < 32)).all(-1)
    for b in (batch, changed):  # the tags of the joints there would see it
        b["visibility"] = np.where(inside, 0, b["visibility"])
    assert grads(task, batch)[0] == grads(task, changed)[0]
    unmasked = {k: np.ones_like(v) if k.startswith("mask") else v for k, v in changed.items()}
    assert grads(task, unmasked)[0] != grads(task, changed)[0]


def test_box_targets_follow_the_person_and_round_up():
    """With maps of 0 the loss is the mean square of the targets: those of sigma 2, 3 and 1 for boxes of 256, 300 and 20."""
    outs = (np.zeros((1, 64, 64, 34)), np.zeros((1, 128, 128, 17)))
    task = tasks.bottom_up(
        Given(outs, K), skeleton=COCO17, size_wh=(256, 256), loss=PeopleLoss(targets="box", embedding=0.0)
    )
    for extent, sigma in ((256.0, 2), (300.0, 3), (20.0, 1)):
        batch = make_batch(1, 1, side=256)
        batch |= {"extent": np.full((1, 1), extent, np.float32), "visibility": np.ones((1, 1, K), np.int8)}
        joints = batch["joints"]
        maps = [heatmap.people(joints / s, np.ones((1, 1, K)), (256 // s,) * 2, sigma=float(sigma)) for s in (4, 2)]
        expected = sum(float(jnp.square(m).mean()) for m in maps)
        np.testing.assert_allclose(grads(task, batch)[0], expected, rtol=1e-5)


def test_shr_by_paper_and_by_code_is_not_rounded_and_sees_its_own_length():
    """QUIRK S9: the paper's width of the box; the code's max(w, h) of the original image over aug_scale, INT_SIGMA False."""
    batch = {
        "joints": np.zeros((1, 2, K, 2), np.float32),
        "extent": np.array([[256.0, 0.0]]),
        "width": np.array([[100.0, 0.0]], np.float32),
        "released_extent": np.array([[300.0, 0.0]], np.float32),
    }
    outs = (np.zeros((1, 64, 64, 34)), np.zeros((1, 128, 128, 17)))
    for targets, sigma in (("box_paper", 200 / 256), ("box_official", 600 / 256), ("box", 2.0)):
        loss = PeopleLoss(targets=targets)
        task = tasks.bottom_up(Given(outs, K), skeleton=COCO17, size_wh=(256, 256), loss=loss)
        values = task.sigma(batch)
        assert values.shape == (1, 2, K)
        np.testing.assert_allclose(values[0, 0], sigma, rtol=1e-6)
        maps = heatmap.people(batch["joints"], np.array([[[1] * K, [0] * K]]), (8, 8), sigma=values)
        assert np.isfinite(maps).all(), "a slot without a person has no size"


def test_alpha_changes_the_targets_and_is_held_by_lambda():
    batch, net = make_batch(), Looking(scale=True)
    variables = tasks.bottom_up(net, skeleton=COCO17, size_wh=(64, 64)).init(jax.random.key(0))

    def value_and_alpha_gradient(settings, alpha=0.0):
        task = tasks.bottom_up(net, skeleton=COCO17, size_wh=(64, 64), loss=settings)
        params = {"net": {**variables["params"]["net"], "alpha": jnp.full((3, K), alpha)}}
        loss = lambda p: task.loss({**variables, "params": p}, batch, key=jax.random.key(1))  # noqa: E731
        (value, (_, metrics)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return value, metrics["scale_loss"], norm(gradient["net"]["alpha"])

    for fixed in (PeopleLoss(), PeopleLoss(targets="box")):
        assert value_and_alpha_gradient(fixed)[1:] == (0, 0)
    value, penalty, gradient = value_and_alpha_gradient(SWAHR)
    strong = dataclasses.replace(SWAHR, penalty=5.0)
    assert penalty == 0 and gradient > 0  # alpha starts at 0
    assert value_and_alpha_gradient(strong)[0] == value
    value, penalty, _ = value_and_alpha_gradient(SWAHR, 0.5)
    assert penalty > 0
    np.testing.assert_allclose(value_and_alpha_gradient(strong, 0.5)[0] - value, 4 * penalty, rtol=1e-3)


@pytest.mark.parametrize("project", [True, False])
def test_a_mirrored_image_gives_mirrored_maps_under_the_flip_test(project):
    task = tasks.bottom_up(Looking(), skeleton=COCO17, size_wh=(64, 64), people=FindPeople(project=project))
    variables, batch = task.init(jax.random.key(0)), make_batch()
    predict = jax.jit(lambda images: task.predict(variables, {"image": images}, flip_test=True))
    maps, mirrored = predict(batch["image"]), predict(batch["image"][:, :, ::-1])
    side = 64 if project else 32
    assert maps["heatmap"].shape == (2, side, side, K) and maps["tag"].shape == (2, side, side, K, 2)
    index = list(COCO17.flip_index)
    np.testing.assert_allclose(mirrored["heatmap"], maps["heatmap"][:, :, ::-1, index], atol=1e-5)
    np.testing.assert_allclose(mirrored["tag"], maps["tag"][:, :, ::-1, index, ::-1], atol=1e-5)
    plain = task.predict(variables, {"image": batch["image"]}, flip_test=False)
    assert plain["tag"].shape[-1] == 1
    np.testing.assert_allclose(plain["tag"][..., 0], maps["tag"][..., 0], atol=1e-5)


def test_scales_are_averaged_and_tags_come_from_the_first():
    task = tasks.bottom_up(Looking(), skeleton=COCO17, size_wh=(64, 64))
    variables, batch = task.init(jax.random.key(0)), make_batch()
    small = np.full((2, 32, 32, 3), 100, np.uint8)
    one, other = (task.predict(variables, {"image": x}, flip_test=True) for x in (batch["image"], small))
    both = task.predict(variables, {"image_0.5": small, "image": batch["image"]}, flip_test=True)
    expected = (one["heatmap"] + jax.image.resize(other["heatmap"], one["heatmap"].shape, "linear")) / 2
    np.testing.assert_allclose(both["heatmap"], expected, atol=1e-5)
    np.testing.assert_array_equal(both["tag"], one["tag"])


def two_people() -> dict[str, np.ndarray]:
    """Maps at 1/2 of a 64 x 96 image: two people whose 17 joints are on two columns."""
    maps = {"heatmap": np.zeros((2, 32, 48, K), np.float32), "tag": np.zeros((2, 32, 48, K, 1), np.float32)}
    for person, (column, tag) in enumerate(((8, 1.0), (30, -2.0))):
        for joint in range(K):
            maps["heatmap"][0, 3 + joint, column, joint] = 0.9 - 0.2 * person
            maps["tag"][0, 3 + joint, column, joint] = tag
    return maps


@pytest.mark.parametrize("device", [False, True])
def test_people_come_back_in_input_pixels_best_first(device):
    found = tasks.find_people(two_people(), FindPeople(max_people=5), stride=2, device=device)
    np.testing.assert_array_equal(found["valid"], [[True, True, False, False, False], [False] * 5])
    np.testing.assert_allclose(found["scores"][0, :2], [0.9, 0.7], rtol=1e-6)
    # pixel c covers input pixels 2 c to 2 c + 2: its middle, a quarter of a pixel down where no neighbour is larger
    np.testing.assert_allclose(found["poses"][0, 0, :, 0], 2 * 8.25)
    np.testing.assert_allclose(found["poses"][0, 1, :, 1], 2 * (np.arange(K) + 3.25))


def test_scale_factors_are_those_of_the_standard_deviation():
    alpha = np.full((1, 8, 8, K), 0.5, np.float32)
    outs = (np.concatenate([alpha[:, ::2, ::2], np.zeros((1, 4, 4, 34))], -1), np.concatenate([alpha, 0 * alpha], -1))
    net = Given(tuple(o.astype(np.float32) for o in outs), K, scale=True)
    images = np.zeros((1, 16, 16, 3), np.uint8)
    for exponent, expected in (("alpha", 1.5**-0.5), ("std", 1 / 1.5)):
        loss = dataclasses.replace(SWAHR, exponent=exponent)
        task = tasks.bottom_up(net, skeleton=COCO17, size_wh=(32, 32), loss=loss)
        factors = tasks.scale_factors(task.config, task.init(jax.random.key(0)), images, net=net)
        np.testing.assert_allclose(factors, np.full((1, 8, 8, K), expected), rtol=1e-6)
    with pytest.raises(ValueError, match="no scale maps"):
        tasks.scale_factors(task.config, tasks.bottom_up(Looking(), skeleton=COCO17, size_wh=(32, 32)).init(
            jax.random.key(0)), images, net=Looking())  # fmt: skip


def test_a_config_gives_the_task_back():
    task = tasks.bottom_up(
        tiny_net(), skeleton=COCO17, size_wh=(64, 64), loss=SWAHR, people=FindPeople(detection_threshold=0.12)
    )
    again = tasks.from_config(json.loads(json.dumps(task.config)))
    assert again.config == task.config
    batch, key = make_batch(), jax.random.key(0)
    variables = jax.jit(task.init)(key)
    run = lambda t: float(jax.jit(t.loss)(variables, batch, key=key)[0])  # noqa: E731
    assert run(again) == run(task)


def test_mistakes_are_named():
    options = {"skeleton": COCO17, "size_wh": (64, 64)}
    with pytest.raises(ValueError, match="needs scale maps"):
        tasks.bottom_up(tiny_net(scale=False), loss=SWAHR, **options)
    with pytest.raises(ValueError, match="the net has 14 joints"):
        tasks.bottom_up(tiny_net(joints=14), **options)
    with pytest.raises(ValueError, match=r"size_wh=\(64, 72\): expected multiples of 32"):
        tasks.bottom_up(tiny_net(), skeleton=COCO17, size_wh=(64, 72))
    with pytest.raises(ValueError, match="targets='wide'"):
        PeopleLoss(targets="wide")
    with pytest.raises(ValueError, match="gamma=0"):
        PeopleLoss(gamma=0)
    with pytest.raises(ValueError, match="penalty=-1"):
        PeopleLoss(penalty=-1)
    with pytest.raises(ValueError, match="detection_threshold=-0.1"):
        FindPeople(detection_threshold=-0.1)
