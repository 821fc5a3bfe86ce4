"""What a task is: the Protocols, configs that give a task back, parts that can be called alone, and families from outside."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpose import losses, parallel, tasks, train
from jaxpose.skeleton import COCO17
from tests import tiny_run
from tests.test_tasks import Echo, batch, make
from tests.test_tasks_heatmap import make as make_heatmaps

MAKERS = {
    "regression": tiny_run.regression_task,
    "heatmaps": tiny_run.heatmap_task,
    "bottom_up": tiny_run.bottom_up_task,
    "point_sets": tiny_run.point_sets_task,
}
MEMBERS = {
    tasks.Task: {"family", "level", "outputs", "config", "init", "loss", "predict", "density"},
    tasks.PoseTask: {"skeleton"},
    tasks.ImageTask: {
        "size_wh", "size_multiple", "preprocess", "public_outputs", "rescore", "inference_variables",
    },
}  # fmt: skip


@pytest.fixture(params=MAKERS)
def task(request):
    return MAKERS[request.param]()


def shapes(task):
    return jax.eval_shape(task.init, jax.random.key(0))


def test_every_family_is_an_image_task(task):
    assert type(task) is tasks.FAMILIES[task.family] and task.level in ("person", "image")
    for protocol, members in MEMBERS.items():
        assert isinstance(task, protocol)
        assert all(hasattr(task, name) for name in members)


@pytest.mark.parametrize("missing", ["density", "outputs", "level"])
def test_what_lacks_a_member_is_no_task(missing):
    members = {name: None for name in MEMBERS[tasks.Task] - {missing}}
    assert not isinstance(type("Lacking", (), members)(), tasks.Task)


def test_every_familys_config_gives_an_equal_task_back(task):
    again = tasks.from_config(json.loads(json.dumps(task.config)))
    assert type(again) is type(task) and again.config == task.config and again.size_wh == task.size_wh
    assert again.skeleton == task.skeleton == COCO17
    assert jax.tree.map(lambda x: x.shape, shapes(again)) == jax.tree.map(lambda x: x.shape, shapes(task))
    named = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    assert {field.name: getattr(again, field.name) for field in dataclasses.fields(again)} == named


@pytest.mark.parametrize("flip_test", [False, True])
def test_the_outputs_are_those_that_predict_returns(task, flip_test):
    (width, height), predict = task.size_wh, lambda v, x: task.predict(v, {"image": x}, flip_test=flip_test)
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.uint8)
    outputs = jax.eval_shape(predict, task.inference_variables(shapes(task)), images)
    assert set(outputs) == set(task.outputs) and len(task.outputs) == len(set(task.outputs))
    assert set(task.public_outputs) <= set(task.outputs)
    assert all(x.shape[0] == 2 for x in outputs.values())


def test_a_sigma_that_no_loss_trains_is_not_public():
    assert "sigma" in make().public_outputs
    assert make(tasks.Likelihood(loss="l1")).public_outputs == ("xy", "confidence")


@pytest.mark.parametrize(("loss", "with_flow"), [("rle", False), ("basic", True), ("laplace", False)])
def test_prediction_reads_the_flow_of_the_basic_design_only(loss, with_flow):
    task = make(tasks.Likelihood(loss=loss))
    variables = task.init(jax.random.key(0))
    smaller = task.inference_variables(variables)
    assert ("flow" in smaller["params"]) == with_flow
    assert ("flow" in variables["params"]) == (loss != "laplace")  # the argument is left as it was
    data = batch()
    np.testing.assert_array_equal(task.predict(smaller, data)["xy"], task.predict(variables, data)["xy"])


def test_only_a_likelihood_states_a_density(task):
    variables = {"params": {"net": {}}}
    assert task.density(variables) is None
    if task.family in ("regression", "point_sets"):
        with pytest.raises(ValueError, match="the flow was left out"):
            task.density(variables, required=True)
    else:
        assert task.density(variables, required=True) is None
    assert make(tasks.Likelihood(loss="gaussian")).density(variables, required=True).base == "gaussian"


def test_a_task_is_equal_to_itself_only():
    """JAX caches a compiled `task.predict` by it: tasks of equal settings, but of two nets' variables, are two."""
    one, other = make(), make()
    assert one.config == other.config and one != other
    assert one.loss == one.loss and hash(one.loss) == hash(one.loss) and one.loss != other.loss


# ------------------------------------------------------------------------------------------------------ families from outside


@dataclasses.dataclass(frozen=True, eq=False)
class Lifting:
    """Joints in the image -> the same joints in space, by a linear map: no net of images, no size, no crop."""

    skeleton = COCO17
    family, level, outputs = "lifting", "person", ("xyz",)
    config = {"family": "lifting"}

    def init(self, key):
        return {"params": {"matrix": 0.01 * jax.random.normal(key, (34, 51))}, "batch_stats": {}}

    def loss(self, variables, batch, *, key):
        error = losses.l1(self.predict(variables, batch)["xyz"], batch["joints"])
        return error.mean(), ({}, {"largest": error.max()})

    def predict(self, variables, batch, *, flip_test=True):
        return {"xyz": (batch["xy"].reshape(-1, 34) @ variables["params"]["matrix"]).reshape(-1, 17, 3)}

    def density(self, variables, *, required=False):
        return None


def test_a_family_that_reads_no_image_is_a_task_and_trains():
    task, mesh = Lifting(), parallel.make_mesh()
    assert isinstance(task, tasks.PoseTask) and not isinstance(task, tasks.ImageTask)
    tx = train.optimizer(train.multi_step(0.02, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
    step = train.make_train_step(task, tx, mesh=mesh)
    xy = np.random.default_rng(0).normal(size=(8, 17, 2)).astype(np.float32)
    data = parallel.global_batch({"xy": xy, "joints": np.concatenate([xy, xy[..., :1]], -1)}, mesh)
    values = []
    for _ in range(60):
        state, metrics = step(state, data)
        values.append(float(metrics["loss"]))
    assert values[-1] < 0.3 * values[0] and float(metrics["largest"]) >= values[-1]
    predict = train.make_predict_step(task, mesh=mesh)
    assert set(predict(state.variables, data)) == set(task.outputs)


class Deep(nn.Module):
    """mu and sigma of three coordinates."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Dense(17 * 6, kernel_init=nn.initializers.normal(0.1))(images.mean((1, 2)))
        mu, raw = jnp.split(x.reshape(-1, 17, 6), 2, -1)
        return mu, nn.sigmoid(raw - 1)


class SpaceRegression(tasks.Regression):
    """Joints whose third coordinate is a depth in millimetres, as parts of 2 m."""

    dim = 3

    @property
    def extent(self):
        return (*self.size_wh, 2000.0)


def test_a_regression_of_three_coordinates_is_a_subclass():
    task = SpaceRegression(Deep(), skeleton=COCO17, size_wh=(24, 32))
    variables, data = task.init(jax.random.key(0)), batch()
    depth = np.random.default_rng(1).uniform(-500, 500, (4, 17, 1)).astype(np.float32)
    data["joints"] = jnp.concatenate([data["joints"], depth], -1)
    value, (_, metrics) = jax.jit(task.loss)(variables, data, key=jax.random.key(0))
    assert np.isfinite(value) and float(metrics["epe"]) > 0
    outputs = task.predict(variables, data)
    np.testing.assert_allclose(task.normalized(task.pixels(outputs["mu"])), outputs["mu"], atol=1e-5)
    assert outputs["xy"].shape == (4, 17, 3) and task.density(variables).dim == 3
    error = (outputs["xy"] - data["joints"])[np.asarray(data["visibility"]) > 0]
    plain = task.predict(variables, data, flip_test=False)["xy"] - data["joints"]
    expected = np.linalg.norm(plain[np.asarray(data["visibility"]) > 0], axis=-1).mean()
    np.testing.assert_allclose(metrics["epe"], expected, rtol=1e-4)
    assert np.abs(error[:, 2]).max() > 100  # it is millimetres that are measured, not parts of 2 m


# ------------------------------------------------------------------------------------------------------------- parts alone


def test_the_parts_of_a_regression_can_be_called_alone():
    task, data = make(tasks.Likelihood(loss="laplace")), batch()
    variables = task.init(jax.random.key(0))
    mu, sigma = task.view(variables, data["image"])
    outputs = task.predict(variables, data, flip_test=False)
    np.testing.assert_array_equal(mu, outputs["mu"])
    np.testing.assert_array_equal(task.pixels(mu), outputs["xy"])
    where = data["visibility"] > 0
    nothing = task.metrics(
        variables, task.normalized(data["joints"]), sigma, task.normalized(data["joints"]), where=where
    )
    assert float(nothing["epe"]) == 0 and 0 < float(nothing["sigma"]) < 1
    assert task.bound_flow(variables) is None and make().bound_flow(make().init(jax.random.key(0))) is not None


def test_the_parts_of_a_heatmap_task_can_be_called_alone():
    task, data = make_heatmaps(joints=tasks.JointLoss("l1", weight=2.0)), batch()
    variables, where = task.init(jax.random.key(0)), jnp.ones((4, 17), bool)
    stage = task.last_stage(variables, data["image"])
    np.testing.assert_array_equal(task.decode(stage)[0], task.predict(variables, data, flip_test=False)["xy"])
    np.testing.assert_array_equal(task.maps(variables, data["image"]), stage)
    assert float(task.loss_of_joints(data["joints"], data["joints"], where=where)) == 0
    beside = data["joints"] + jnp.array([24.0, 0.0])  # one width: 1 for each of 17 joints, by the weight of 2
    assert float(task.loss_of_joints(beside, data["joints"], where=where)) == pytest.approx(34, rel=1e-5)


def test_the_parts_of_a_bottom_up_task_can_be_called_alone():
    task = tasks.bottom_up(Echo(), skeleton=COCO17, size_wh=(32, 32), people=tasks.FindPeople(max_people=2))
    where, base = jnp.ones((1, 8, 8), bool), jnp.zeros((1, 8, 8, 17))
    term, penalty = task.loss_of_maps({"heatmap": base + 2.0}, base, where=where)
    assert float(term) == 4 and float(penalty) == 0
    assert task.sigma({}) == 2.0
    outputs = {"heatmap": np.zeros((1, 8, 8, 17)), "tag": np.zeros((1, 8, 8, 17, 1))}
    outputs["heatmap"][0, 3, 5] = 0.9
    people = task.people(outputs, stride=2)
    again = tasks.find_people(outputs, tasks.FindPeople(max_people=2), stride=2)
    assert people["valid"].tolist() == [[True, False]]
    for name, value in again.items():
        np.testing.assert_array_equal(people[name], value)


def test_a_batch_with_colours_is_seen_in_them_in_training_only():
    task = make()
    data = batch()
    assert task.training_images(data) is data["image"]
    factors = np.array([[0.8, 1.0, 1.2]] * len(data["image"]), np.float32)
    images = task.training_images({**data, "colour": factors})
    expected = np.clip(np.asarray(data["image"], np.float32) * factors[:, None, None], 0, 255)
    np.testing.assert_array_equal(images, expected)
    assert expected.max() == 255


# ----------------------------------------------------------------------------------------------- families known by their name

KEYS = "family|net|skeleton|size_wh|preprocess|likelihood|outside|auxiliary|maps|joints|read|loss|people"
ASKS_A_CONFIG = re.compile(
    rf"""(config|\["task"\])\[["']({KEYS})["']\]|\bfamily\s*(==|!=|in\b|not\s+in\b)|\bFindPeople\(\*\*"""
)


def test_nobody_outside_of_tasks_asks_a_config_for_its_family_or_its_settings():
    """A task has methods and fields for all of it: a family that is added touches no file that asks."""
    root = Path(__file__).parents[1]
    paths = [p for folder in ("jaxpose", "experiments", "benchmarks") for p in (root / folder).rglob("*.py")]
    outside = [p for p in paths if root / "jaxpose" / "tasks" not in p.parents]
    assert len(outside) > 50
    hits = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in outside
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if ASKS_A_CONFIG.search(line)
    ]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ('side = min(task.config["size_wh"])', True),
        ("if stored[\"task\"]['family'] not in FAMILIES:", True),
        ('if family == "regression":', True),
        ("settings = tasks.FindPeople(**settings)", True),
        ('"family": task.family,', False),
        ("task = tasks.from_config(stored['task'])", False),
    ],
)
def test_the_search_for_such_questions_finds_them(line, asks):
    assert bool(ASKS_A_CONFIG.search(line)) == asks
