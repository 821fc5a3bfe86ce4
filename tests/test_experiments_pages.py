"""The pages: presets; and those of heatmaps, integral regression and MPII:, methods, schedules, tiny runs."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import json
import operator
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    ablation_few_frames,
    ablation_integral,
    coco_debias,
    coco_integral,
    coco_rle,
    h36m_integral,
    h36m_rle,
    mpii_debias,
    mpii_integral,
    mpii_rle,
)
from experiments.common import ablation, families, rules
from experiments.common.config import parse, settings
from experiments.common.log import Log
from jaxpose import checkpoint, cli, tasks
from jaxpose.data.augment import named
from jaxpose.evaluation import mpii, submission
from jaxpose.nets import HeatmapNet, IntegralRegressor, MapHead, MultiStageNet, PeakRegressor, PoseRegressor
from jaxpose.skeleton import COCO17
from tests import test_data_formats_mpii, test_evaluation_mpii

ROOT = Path(__file__).parents[1]
PAGES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if "PRESETS = {" in p.read_text())
TINY = ("--synthetic-images", "24", "--width", "4", "--batch-size", "8", "--log-every", "1", "--no-plots")
SMALL = ("--size-wh", "32", "32", "--deconvs", "8", "8", "--no-flip-test")


def page(name: str):
    return importlib.import_module(f"experiments.{name}")


def test_the_pages_are_found():
    assert set(PAGES) == {
        "coco_rle", "coco_simple_baseline", "coco_hrnet", "coco_integral", "coco_debias", "mpii_rle", "mpii_integral",
        "coco_swahr", "crowdpose_swahr", "oct_rle", "h36m_lifting", "mpii_debias", "mpii_simple_baseline", "rhd_integral",
        "h36m_rle", "h36m_integral", "coco_keypoint_rcnn", "coco_pointset_anchor",
    }  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_presets_parse_and_the_page_says_how_to_run_it(name):
    presets = page(name).PRESETS
    for preset, default in presets.items():
        config = parse(presets, name=name, default="tiny", description="", argv=["--preset", preset, "--seed", "7"])
        assert config == dataclasses.replace(default, seed=7, out=Path("runs") / name)
        assert preset == "tiny" or f"--preset {preset} " in page(name).__doc__, preset
    assert f"python -m experiments.{name}" in page(name).__doc__


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_once_what_it_is(name):
    module = page(name)
    assert (module.PAGE.name, module.PAGE.presets, module.PAGE.description) == (name, module.PRESETS, module.__doc__)


@pytest.mark.parametrize("name", ["analyse", "common.log", "common.rules"])
def test_the_examples_in_docstrings_run(name):
    failures, examples = doctest.testmod(page(name))
    assert examples and not failures


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda path: path.stem)
def test_every_parameter_has_a_type(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            untyped = [a.arg for a in named if a and a.annotation is None and a.arg not in ("self", "cls")]
            assert not untyped, f"{path.name}:{node.lineno} {node.name}: {', '.join(untyped)}"


def small(config, **changes):
    """The config with nets that are quick to trace."""
    width = {"resnet": 4, "hrnet": 4, "mobilenet_v2": 8}[config.backbone]
    return dataclasses.replace(config, depth=18, width=width, size_wh=(64, 64), **changes)


@pytest.mark.parametrize("preset", ["official", "mmpose", "mobilenet_v2", "hrnet_w32", "auxiliary", "peaks"])
def test_rle_presets_make_their_nets(preset):
    task = families.regression_task(small(coco_rle.PRESETS[preset]), COCO17)
    net = tasks.describe.build(task.config["net"])
    expected = {"hrnet_w32": IntegralRegressor, "peaks": PeakRegressor}.get(preset, PoseRegressor)
    assert type(net) is expected
    if preset == "peaks":
        assert net.net.skips and net.net.backbone.stem == "strided" and task.likelihood.loss == "rle"
    if preset == "auxiliary":
        assert type(net.maps) is MapHead and task.config["auxiliary"]["kind"] == "mse"


# What each method of the two pages trains, first and then, and how it reads.
METHODS = {
    "H1": (None, ("mse", "none"), "argmax"),
    "H2": (None, ("cross_entropy", "none"), "argmax"),
    "H3": (None, ("bce", "none"), "argmax"),
    "I1": (("mse", "none"), ("mse", "l1"), "soft_argmax"),
    "I2": (("cross_entropy", "none"), ("cross_entropy", "l1"), "soft_argmax"),
    "I3": (("bce", "none"), ("bce", "l1"), "soft_argmax"),
    "I*": (None, ("none", "l1"), "soft_argmax"),
    "sbl": (None, ("mse", "none"), "argmax"),
    "ipr": (None, ("none", "l1"), "soft_argmax"),
    "l_de": (None, ("mse", "l1"), "soft_argmax"),
    "l_aug": (("mse", "l1"), ("none", "l1"), "soft_argmax"),
    "debias": (None, ("none", "l1"), "soft_argmax"),
    "ours": (("mse", "l1"), ("none", "l1"), "soft_argmax"),
    "dsnt": (None, ("js", "smooth_l1"), "soft_argmax"),
    "mmpose_ipr": (None, ("softmax_mse", "smooth_l1"), "soft_argmax"),
    "mmpose_debias": (None, ("js", "smooth_l1"), "soft_argmax"),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_those_of_the_papers(method):
    first, then, decode = METHODS[method]
    here = coco_integral if method[0] in "HI" else coco_debias
    preset = {coco_integral: "paper", coco_debias: "resnet50"}[here]
    config = here.with_method(small(here.PRESETS[preset], method=method))
    task, before = families.heatmap_tasks(config, COCO17)
    losses = lambda task: (task.config["maps"]["kind"], task.config["joints"]["kind"])  # noqa: E731
    assert losses(task) == then and task.config["read"]["decode"] == decode
    assert (before is None) == (first is None)
    if first:
        assert losses(before[1]) == first and 0 < before[0] < config.epochs
    assert task.config["read"]["compensate"] == (method in ("debias", "ours"))
    at_10 = ("ipr", "l_de", "l_aug", "debias", "ours", "mmpose_debias")
    assert task.config["read"]["beta"] == (10.0 if method in at_10 else 1.0)


def test_r1_is_direct_regression_and_stages_are_supervised():
    config = small(coco_integral.PRESETS["paper"], method="R1")
    task, first = coco_integral.make(coco_integral.with_method(config), COCO17)
    assert task.config["family"] == "regression" and task.config["likelihood"]["loss"] == "l1" and first is None
    config = small(coco_integral.PRESETS["paper"], stages=3, deconvs=(8, 8))
    task, _ = coco_integral.make(coco_integral.with_method(config), COCO17)
    assert type(tasks.describe.build(task.config["net"])) is MultiStageNet
    plain = coco_integral.make(coco_integral.with_method(dataclasses.replace(config, stages=1)), COCO17)[0]
    assert type(tasks.describe.build(plain.config["net"])) is HeatmapNet
    with pytest.raises(ValueError, match="--stages 3 --backbone hrnet: the multi-stage net is made of a ResNet"):
        families.heatmap_tasks(dataclasses.replace(config, backbone="hrnet"), COCO17)
    with pytest.raises(ValueError, match="--first-epochs needs two losses"):
        families.heatmap_tasks(dataclasses.replace(config, first_epochs=3), COCO17)
    with pytest.raises(ValueError, match="--first-epochs 140: expected 0 .none. to below --epochs 140"):
        families.heatmap_tasks(dataclasses.replace(config, first_epochs=140), COCO17)
    with pytest.raises(ValueError, match="--backbone hrnet: HRNet's maps have stride 4"):
        families.heatmap_tasks(dataclasses.replace(config, backbone="hrnet", stages=1), COCO17)
    with pytest.raises(ValueError, match="--method R1 --stages 3"):
        coco_integral.with_method(dataclasses.replace(config, method="R1"))
    with pytest.raises(ValueError, match="--alone 1.5: expected a share"):
        rules.check(dataclasses.replace(config, alone=1.5))


def test_what_the_flags_say_about_the_two_losses_is_what_is_trained():
    config = small(coco_debias.PRESETS["resnet50"], method="ours")
    then, (_, first) = families.heatmap_tasks(coco_debias.with_method(config), COCO17)
    assert first.config["maps"]["weight"] == 100
    heavier = dataclasses.replace(config, maps=dataclasses.replace(config.maps, weight=7.0, target="udp"))
    then, (_, first) = families.heatmap_tasks(coco_debias.with_method(heavier), COCO17)
    assert first.config["maps"]["weight"] == 7 and then.config["maps"] == {**first.config["maps"], "kind": "none"}
    at_once, first = families.heatmap_tasks(
        coco_debias.with_method(dataclasses.replace(config, first_epochs=0)), COCO17
    )
    assert first is None and at_once.config["maps"]["kind"] == "none"
    for method, weight in (("I1", 100.0), ("I2", 0.01), ("I3", 0.1)):
        config = small(coco_integral.PRESETS["paper"], method=method)
        task, _ = families.heatmap_tasks(coco_integral.with_method(config), COCO17)
        assert task.config["maps"]["weight"] == weight
        task, _ = families.heatmap_tasks(coco_integral.with_method(dataclasses.replace(config, map_weight=3.0)), COCO17)
        assert task.config["maps"]["weight"] == 3.0


@pytest.mark.parametrize("preset", ["official", "auxiliary", "hrnet_w32", "mpii"])
def test_the_authors_rle_sees_their_colours_and_suppresses_nobody_who_is_annotated(preset):
    """QUIRK R14 and R21: rlepose/utils/presets/simple_transform.py and validate_gt of its trainer."""
    config = mpii_rle.PRESETS["official"] if preset == "mpii" else coco_rle.PRESETS[preset]
    task = families.regression_task(small(config), COCO17)
    assert task.config["preprocess"] == "rle_official" and not config.test_settings().nms_annotated
    grey = tasks.base.preprocessor(task.preprocess)(np.full((1, 1, 3), 255, np.uint8))
    np.testing.assert_allclose(grey[0, 0], 1 - np.array([0.406, 0.457, 0.480]), atol=1e-6)
    for other in ("tiny", "mmpose", "resnet152_384", "mobilenet_v2", "auto"):
        assert coco_rle.PRESETS[other].preprocess == "imagenet" and coco_rle.PRESETS[other].nms_annotated


@pytest.mark.parametrize("method", ["H1", "H2", "H3"])
def test_equation_1_of_sun_is_the_highest_pixel_itself(method):
    config = small(coco_integral.PRESETS["paper"], method=method)
    task, _ = coco_integral.make(coco_integral.with_method(config), COCO17)
    maps = np.full((1, 16, 16, 17), 0.1, np.float32)
    maps[:, 5, 7], maps[:, 5, 8] = 0.9, 0.5
    np.testing.assert_array_equal(task.decode(maps)[0], np.broadcast_to([28.0, 20.0], (1, 17, 2)))
    given = dataclasses.replace(config, read=dataclasses.replace(config.read, shift=0.25), by_hand=("read.shift",))
    task, _ = coco_integral.make(coco_integral.with_method(given), COCO17)
    assert task.config["read"]["shift"] == 0.25 if "shift" in task.config["read"] else True
    np.testing.assert_array_equal(task.decode(maps)[0][0, 0], [29.0, 20.0])


def test_a_readout_from_before_there_was_a_shift_keeps_its_quarter_pixel():
    stored = dataclasses.asdict(tasks.Readout())
    del stored["shift"]
    assert tasks.Readout(**stored).shift == 0.25 and "shift" not in tasks.base.stated(tasks.Readout())
    run = settings(coco_integral.PRESETS["paper"])
    before = run | {"read": stored}
    assert not rules.changes(coco_integral.Config, before, run, allowed=coco_integral.Config.resume_rules(run))
    moved = run | {"read": run["read"] | {"shift": 0.0}}
    assert set(rules.changes(coco_integral.Config, before, moved, allowed=coco_integral.Config.resume_rules(run))) == {
        "read"
    }


def with_flags(module, *flags):
    """The settings that a page runs with."""
    preset = {coco_integral: "paper", mpii_integral: "paper", coco_debias: "resnet50"}[module]
    return module.PAGE.adjust(module.PAGE.parse(["--preset", preset, *flags]))


@pytest.mark.parametrize(
    ("module", "flags", "expected"),
    [
        (coco_integral, ["--method", "I1", "--read.compensate", "--read.beta", "10"], {"read.compensate": True}),
        (mpii_integral, ["--method", "H1", "--maps.sigma", "2"], {"maps.sigma": 2.0, "maps.weight": 1.0}),
        (coco_integral, ["--method", "I1", "--maps.sigma", "2", "--maps.target", "udp"], {"maps.target": "udp"}),
        (coco_integral, ["--method", "I3", "--maps.radius", "9"], {"maps.radius": 9.0}),
        (coco_integral, ["--method", "I*", "--joints.variant", "mmpose"], {"joints.variant": "mmpose"}),
        (coco_integral, ["--method", "I1", "--read.confidence", "one"], {"read.confidence": "one"}),
        (coco_integral, ["--method", "I1", "--maps.kind", "mse"], {"maps.kind": "mse"}),
        (coco_debias, ["--method", "dsnt", "--maps.sigma", "1.5"], {"maps.sigma": 1.5, "maps.kind": "js"}),
        (coco_debias, ["--method", "ours", "--read.floor", "0.1"], {"read.floor": 0.1}),
        (coco_debias, ["--method", "sbl", "--read.shift", "0"], {"read.shift": 0.0}),
        (coco_debias, ["--method", "sbl", "--read.confidence", "one"], {"read.confidence": "one"}),
        (coco_debias, ["--method", "ipr", "--joints.weight", "3"], {"joints.weight": 3.0, "joints.kind": "l1"}),
    ],
)
def test_a_flag_beside_the_method_reaches_the_task(module, flags, expected, tmp_path):
    config = with_flags(module, *flags)
    values = {name: operator.attrgetter(name)(config) for name in expected}
    assert values == expected
    task, first = module.PAGE.make(small(config), COCO17)
    stored = [task.config] + ([first[1].config] if first else [])
    for name, value in expected.items():
        group, field = name.split(".")
        assert value in [c[group].get(field, getattr(tasks.Readout(), field, None)) for c in stored]
    # --config repeats the run, the flags given by hand included.
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings(config)))
    again = module.PAGE.adjust(module.PAGE.parse(["--config", str(path)]))
    assert dataclasses.replace(again, out=None) == dataclasses.replace(config, out=None)
    assert again.by_hand == config.by_hand


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        (coco_integral, ["--method", "H1", "--read.compensate"], "--read.compensate True has no effect with --method H1"),
        (coco_integral, ["--method", "H2", "--maps.sigma", "2"], "--maps.sigma 2.0 has no effect with --method H2"),
        (coco_integral, ["--method", "I2", "--maps.kind", "mse"], "--maps.kind mse: --method I2 decides this, cross_entropy"),
        (mpii_integral, ["--maps.weight", "3"], "--maps.weight 3.0 has no effect with --method I1, for whose losses there is "
                                                "--map-weight"),
        (coco_integral, ["--read.decode", "dark"], "--read.decode dark: --method I1 decides this, soft_argmax"),
        (coco_integral, ["--method", "R1", "--read.beta", "3"], "--read.beta 3.0 has no effect with --method R1"),
        (coco_integral, ["--method", "I*", "--alone", "0.2"], "--alone 0.2 has no effect with --method I*"),
        (coco_integral, ["--method", "R1", "--rescore", "mean"], "--rescore mean --method R1: there are no maps"),
        (coco_debias, ["--method", "dsnt", "--beta", "10"], "--beta 10.0: --method dsnt decides this, 1.0"),
        (coco_debias, ["--method", "mmpose_debias", "--beta", "20"], "--beta 20.0: --method mmpose_debias decides this, 10.0"),
        (coco_debias, ["--method", "ipr", "--maps.weight", "5"], "--maps.weight 5.0 has no effect with --method ipr"),
        (coco_debias, ["--method", "ours", "--read.beta", "5"], "--read.beta 5.0: --method ours --beta 10 decides this"),
        (coco_debias, ["--method", "ipr", "--first-epochs", "5"], "--first-epochs 5.0 has no effect with --method ipr"),
        (coco_debias, ["--joints.kind", "l2"], "--joints.kind l2: --method ours decides this, l1"),
    ],
)  # fmt: skip
def test_a_flag_that_the_method_decides_or_does_not_use_is_refused(module, flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        with_flags(module, *flags)


def test_poses_of_integral_regression_are_rescored_by_their_heatmaps():
    """Section 6.2 of Sun 2018; QUIRK I4."""
    for method, confidence in (("H1", "peak"), ("I1", "peak"), ("I2", "peak"), ("I*", "probability")):
        config = with_flags(coco_integral, "--method", method)
        assert (config.read.confidence, config.test_settings().rescore) == (confidence, "mean")
    assert with_flags(coco_integral, "--method", "R1").test_settings().rescore == "box"


def test_each_debias_preset_says_how_long_its_first_part_is():
    for name in ("resnet50", "resnet152_384", "hrnet_w32"):
        preset = coco_debias.PRESETS[name]
        assert f"--first-epochs {preset.first_epochs:g}" in coco_debias.__doc__
        assert preset.first_epochs / preset.epochs == pytest.approx(40 / 140)


def test_integral_regression_changes_colours_and_nobody_else_does():
    for name in PAGES:
        for preset, config in page(name).PRESETS.items():
            expected = 0.2 if name.endswith("integral") and preset == "paper" else 0.0
            assert getattr(config, "colour", 0.0) == expected, (name, preset)
    assert with_flags(coco_integral).augmentation().colour == 0.2
    assert coco_rle.PRESETS["official"].augmentation() == named("official")


def test_the_default_of_the_main_job_has_maps_of_its_weight():
    assert coco_rle.PAGE.default == "peaks" and coco_rle.PAGE.settings([]) == dataclasses.replace(
        coco_rle.PRESETS["peaks"], out=Path("runs/coco_rle")
    )
    config = coco_rle.PRESETS["peaks"]
    maps = jax.eval_shape(
        lambda x: families.regression_task(config, COCO17).net.init_with_output(jax.random.key(0), x, with_maps=True)[
            0
        ][2],
        jax.ShapeDtypeStruct((1, *config.size_wh[::-1], 3), jnp.float32),
    )
    assert config.auxiliary.weight == np.prod(maps.shape), "half the squared error, summed over joints and pixels"


@pytest.mark.parametrize("config", [coco_rle.PRESETS["peaks"], h36m_rle.PRESETS["tiny"], h36m_integral.PRESETS["tiny"]])
def test_the_sides_of_synthetic_people_differ_in_hue_so_that_they_are_not_mirrored(config):
    assert config.augmentation() == dataclasses.replace(named("light"), name="unmirrored", flip=0)
    assert not config.flips()


def test_skips_are_of_a_resnet_with_enough_stages():
    for flags in (("--resnet-stages", "2"), ("--backbone", "mobilenet_v2"), ("--deconvs", "8", "8", "8")):
        config = coco_rle.PAGE.parse(["--preset", "peaks", *flags])
        with pytest.raises(ValueError, match="--skips .* expected a ResNet with more stages than deconvolutions"):
            families.regression_task(config, COCO17)


def commands_of_coverage() -> list[list[str]]:
    """The commands of docs/coverage.md that start a page with a preset."""
    text = (ROOT / "docs" / "coverage.md").read_text()
    commands = [shlex.split(c) for c in re.findall(r"`([^`]+)`", text)]
    return [c for c in commands if c[0] in PAGES and "--preset" in c]


@pytest.mark.parametrize("command", commands_of_coverage(), ids=" ".join)
def test_every_command_of_the_coverage_page_is_taken(command):
    here = page(command[0]).PAGE
    config = here.adjust(here.parse(command[1:]))
    rules.check(config)


def test_the_rows_of_ablations_on_the_coverage_page_exist():
    text = (ROOT / "docs" / "coverage.md").read_text()
    commands = [shlex.split(c) for c in re.findall(r"`(ablation_[^`]+)`", text)]
    rows = {name: [row for c in commands if c[0] == name for row in c[1:] if row != "--rows"] for name, *_ in commands}
    assert set(rows) == {"ablation_rle", "ablation_integral", "ablation_swahr"} and len(rows["ablation_rle"]) > 5
    for name, given in rows.items():
        assert set(given) <= set(page(name).ROWS), name


def test_the_coverage_page_has_every_table_and_figure():
    text = (ROOT / "docs" / "coverage.md").read_text()
    sections = dict(re.findall(r"^## (\w+).*?\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    expected = {
        "RLE": (18, (3, 4, 5, 6, 7, 8)),
        "Removing": (6, range(1, 7)),
        "Integral": (8, (1, 2, 3)),
        "SWAHR": (9, (1, 5)),
    }
    for section, (tables, figures) in expected.items():
        first_cells = " ".join(line.split("|")[1] for line in sections[section].splitlines() if line.startswith("| "))
        numbers = {"table": set(), "figure": set()}
        for kind, rest in re.findall(r"(table|figure)s? ([0-9](?:[0-9a-d, ]*[0-9a-d])?(?: to [0-9]+)?)", first_cells):
            low = [int(n) for n in re.findall(r"\d+", rest)]
            numbers[kind] |= set(range(low[0], low[-1] + 1)) if " to " in rest else set(low)
        assert numbers["table"] | {1} == set(range(1, tables + 1)), section  # table 1 of Sun 2018 lists methods
        assert numbers["figure"] == set(figures), section


def test_a_resnet_is_grafted_into_every_stage():
    backbone = {
        "conv1": {"kernel": np.ones(3)},
        "layer3_0": {"conv1": {"kernel": np.ones(2)}, "conv2": {"kernel": np.ones(2)}},
    }

    def net():
        return {
            "conv1": {"kernel": np.zeros(3)},
            "stage1": {
                "layer3_0": {"conv1": {"kernel": np.zeros(2)}, "conv2": {"kernel": np.zeros(2)}},
                "final_layer": 0,
            },
            "stage2": {
                "layer3_0": {"conv1": {"kernel": np.zeros(5)}, "conv2": {"kernel": np.zeros(2)}},
                "final_layer": 0,
            },
        }

    stages = net()
    families.graft(stages, backbone, Path("r.pth"))
    with pytest.raises(ValueError, match="--init r.pth has .'conv1', 'layer3_0', 'layer3_1'.: this net takes"):
        families.graft(net(), {**backbone, "layer3_1": {}}, Path("r.pth"))
    with pytest.raises(ValueError, match="its conv1 is not that of this net's --depth and --width"):
        families.graft(net(), {**backbone, "conv1": {"kernel": np.ones(4)}}, Path("r.pth"))
    assert stages["conv1"]["kernel"].all() and stages["stage1"]["layer3_0"]["conv1"]["kernel"].all()
    assert (
        not stages["stage2"]["layer3_0"]["conv1"]["kernel"].any()
        and stages["stage2"]["layer3_0"]["conv2"]["kernel"].all()
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, prepared):
    """A run of I1: an epoch of heatmaps alone, then one of both losses; its folder, flags and scores."""
    out = tmp_path_factory.mktemp("i1")
    flags = ["--out", str(out), "--data-dir", str(prepared), *TINY, *SMALL, "--method", "I1", "--epochs", "2"]
    return out, flags, coco_integral.main([*flags, "--eval-every", "2"])


@pytest.mark.slow
def test_heatmaps_first_then_both_losses(pretrained, capsys):
    out, flags, scores = pretrained
    assert {"AP", "EPE"} <= set(scores) and np.isfinite(scores["EPE"])
    events = [e for e in Log(out).events() if e["event"] == "train"]
    half = len(events) // 2
    assert all(e["joint_loss"] == 0 < e["map_loss"] for e in events[:half])
    assert all(e["joint_loss"] > 0 and e["map_loss"] > 0 for e in events[half:])
    evaluated = coco_integral.main(["--eval-only", str(out), *flags[2:]])
    assert evaluated["EPE"] == pytest.approx(scores["EPE"])


@pytest.mark.slow
def test_rle_starts_from_a_heatmap_run_with_an_auxiliary_loss(pretrained, prepared, tmp_path):
    folder, _, _ = pretrained
    there, _ = checkpoint.restore_model(folder)
    flags = ["--out", str(tmp_path), "--data-dir", str(prepared), *TINY, *SMALL, "--init", str(folder)]
    flags += ["--auxiliary.kind", "mse", "--auxiliary.sigma", "1"]
    config = parse(coco_rle.PRESETS, name="coco_rle", default="tiny", description="", argv=flags)
    task = families.regression_task(config, COCO17)
    variables = families.from_pretrained(task, config)
    jax.tree.map(
        np.testing.assert_array_equal, variables["params"]["net"]["backbone"], there["params"]["net"]["backbone"]
    )
    scores = coco_rle.main(["--preset", "tiny", *flags, "--epochs", "0.4"])
    assert np.isfinite(scores["EPE"])
    events = Log(tmp_path).events()
    assert all(e["map_loss"] > 0 for e in events if e["event"] == "train")
    with pytest.raises(ValueError, match="is not the resnet of --depth 18, --resnet-stages 4 and --width 8"):
        wider = dataclasses.replace(config, width=8)
        families.from_pretrained(families.regression_task(wider, COCO17), wider)
    with pytest.raises(ValueError, match="was trained with --preprocess imagenet, this run has rle_official"):
        families.from_pretrained(task, dataclasses.replace(config, preprocess="rle_official"))


@pytest.mark.slow
def test_mpii_from_its_own_layout_to_pckh(tmp_path, prepared, caplog):
    folder = test_data_formats_mpii.write(tmp_path / "mpii")
    (folder / "annot" / "train.json").write_text((folder / "annot" / "valid.json").read_text())
    flags = ["--data", str(folder), "--data-dir", str(prepared), *TINY[2:], *SMALL, "--method", "I*"]
    flags[flags.index("--batch-size") + 1] = "4"
    scores = mpii_integral.main([*flags, "--out", str(tmp_path / "run"), "--epochs", "2"])
    assert np.isfinite(scores["EPE"]) and "PCKh@0.5" not in scores
    assert "gt_valid.mat" in caplog.text and "EPE" in caplog.text

    people = test_data_formats_mpii.content()
    test_evaluation_mpii.write_mat(
        folder / "annot" / "gt_valid.mat",
        joints=np.array([p["joints"] for p in people]).transpose(1, 2, 0),
        missing=1 - np.array([p["joints_vis"] for p in people]).T,
        boxes=np.repeat(np.array([[[0.0], [0.0]], [[300.0], [400.0]]]), len(people), axis=2),
    )
    evaluated = mpii_integral.main([*flags, "--eval-only", str(tmp_path / "run")])
    assert evaluated["EPE"] == pytest.approx(scores["EPE"])
    assert 0 < evaluated["PCKh@0.5"] <= 1 and 0 <= evaluated["PCKh@0.1"] <= evaluated["PCKh@0.5"]
    assert 0 < evaluated["AUC"] < 1


def test_mpii_wants_its_own_boxes(tmp_path):
    with pytest.raises(ValueError, match="--detections: MPII is evaluated on its own boxes"):
        mpii_integral.main(["--out", str(tmp_path), "--data", str(tmp_path), "--detections", "d.json"])
    with pytest.raises(ValueError, match="--val-fraction 0.1: PCKh is counted with the head boxes of --val-split"):
        mpii_integral.main(["--out", str(tmp_path), "--data", str(tmp_path), "--val-fraction", "0.1"])


@pytest.mark.slow
def test_the_integral_ablation_prints_its_table_and_when_it_converged(tmp_path, capsys):
    options = ["--out", str(tmp_path), "--rows", "ipr_1", "joint_1", "--seeds", "0", "--steps", "6", "--images", "15",
               "--copies", "1", "--batch-size", "8", "--width", "4", "--deconvs", "8", "8", "--size-wh", "32", "32",
               "--evaluations", "2"]  # fmt: skip
    runs = ablation_integral.main(options)
    assert [run["row"] for run in runs] == ["ipr_1", "joint_1"]
    assert all(len(run["curve"]) == 2 and np.isfinite(run["EPE"]) and run["diverged"] < 0 for run in runs)
    assert "reached" in runs[1] and "reached" not in runs[0]
    assert all(run["EPE, read otherwise"] != run["EPE"] and run["its deviation"] > 0 for run in runs)
    assert "| joint_1 | 1 | 0 |" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert ablation_integral.main(options) == runs, "the same command again trains nothing"


def test_the_methods_for_few_frames_take_one_set():
    with pytest.raises(ValueError, match="--data x --images 7: --images is the number of synthetic pictures"):
        ablation_few_frames.main(["--data", "x", "--images", "7"])
    with pytest.raises(ValueError, match="--data x --label-noise 2: --label-noise is that of synthetic labels"):
        ablation_few_frames.main(["--data", "x", "--label-noise", "2"])
    with pytest.raises(ValueError, match="--data x --person-sizes 0.2 1: --person-sizes are those of synthetic people"):
        ablation_few_frames.main(["--data", "x", "--person-sizes", "0.2", "1"])
    with pytest.raises(ValueError, match=r"--person-sizes \(1.0, 0.2\): expected the least and the largest height"):
        ablation_few_frames.main(["--person-sizes", "1", "0.2"])
    with pytest.raises(ValueError, match="--augment none: here it follows from the data"):
        ablation_few_frames.main(["--augment", "none"])
    with pytest.raises(ValueError, match=r"--size-wh \(64, 64\): here it follows from the data"):
        ablation_few_frames.main(["--size-wh", "64", "64"])


def test_synthetic_people_too_small_for_a_label_are_named(tmp_path):
    config = ablation_few_frames.Config(images=2, person_sizes=(0.05, 0.05), out=tmp_path, workers=1)
    with pytest.raises(
        ValueError, match="nobody in the split 'train' is large enough for a label.*larger --person-sizes"
    ):
        ablation.people(config, 0)


@pytest.mark.slow
def test_methods_for_few_frames_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablation_few_frames, "HELD_OUT", 4)
    options = ["--out", str(tmp_path), "--rows", "heatmap_then_rle", "--seeds", "0", "--steps", "6", "--images", "6",
               "--copies", "1", "--batch-size", "8", "--width", "4", "--largest", "64"]  # fmt: skip
    runs = ablation_few_frames.main(options)
    (run,) = runs
    assert run["of_mean_position"] == pytest.approx(run["EPE"] / run["EPE_mean_position"])
    assert 0 < run["EPE"] < 1000 and 0 <= run["coverage_90"] <= 1 and run["diverged"] < 0
    assert "| heatmap_then_rle | 1 | 0 |" in capsys.readouterr().out


def test_convergence_is_the_first_epoch_as_good_as_the_plain_ones_last():
    def run(row, errors, seed=0):
        curve = [{"epoch": float(i + 1), "EPE": e} for i, e in enumerate(errors)]
        return {"row": row, "seed": seed, "curve": curve, "EPE": errors[-1]}

    runs = [run("ipr_1", [9, 6, 5]), run("comp_1", [9, 4.9, 7]), run("joint_1", [9, 8, 7]), run("comp_10", [1, 1, 1])]
    found = {r["row"]: r for r in ablation_integral.add_convergence(runs)}
    diverged = [{**runs[0], "diverged": 7, "EPE": float("inf")}, runs[1]]
    assert "reached" not in ablation_integral.add_convergence(diverged)[1]
    assert found["comp_1"]["reached"] == 2.0 and found["comp_1"]["never"] == 0
    assert found["joint_1"]["reached"] is None and found["joint_1"]["never"] == 1
    assert "reached" not in found["comp_10"] and found["ipr_1"]["of"] == 3.0
    assert (
        found["comp_1"]["to 6 px"] == 2.0 and found["joint_1"]["to 6 px"] is None and found["comp_10"]["to 6 px"] == 1.0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco_simple_baseline", "coco_hrnet", "coco_debias", "mpii_simple_baseline"])
def test_every_other_page_runs(name, prepared, tmp_path):
    """The others run above and in test_experiments. HRNet takes minutes to compile: its page runs with a ResNet here."""
    flags = ["--out", str(tmp_path), "--data-dir", str(prepared), *TINY, "--size-wh", "32", "32", "--epochs", "0.4"]
    flags += ["--no-flip-test", "--ema", "None"]
    flags += ["--backbone", "resnet", "--deconvs", "8", "8"]
    flags += ["--first-epochs", "0.2"] if name == "coco_debias" else []
    flags += ["--resnet-stages", "1"] if name == "mpii_simple_baseline" else []
    scores = page(name).main(flags)
    assert np.isfinite(scores["EPE"]) and checkpoint.exists(tmp_path)
    assert ("PCKh@0.5" in scores) == (name == "mpii_simple_baseline")


@pytest.mark.slow
def test_mpii_rle_runs(prepared, tmp_path):
    folder = test_data_formats_mpii.write(tmp_path / "mpii")
    (folder / "annot" / "train.json").write_text((folder / "annot" / "valid.json").read_text())
    flags = ["--data", str(folder), "--data-dir", str(prepared), *TINY[2:], "--size-wh", "32", "32", "--no-flip-test"]
    flags[flags.index("--batch-size") + 1] = "4"
    scores = page("mpii_rle").main([*flags, "--out", str(tmp_path / "run"), "--epochs", "1", "--likelihood.loss", "l1"])
    assert np.isfinite(scores["EPE"])


@pytest.mark.slow
def test_a_run_that_is_resumed_at_the_change_of_losses_ends_with_the_same_bits(pretrained, tmp_path):
    """Five steps of heatmaps alone and five of both losses, in one go and in two."""
    _, flags, _ = pretrained
    flags = flags[2 : flags.index("--method")]
    flags += [
        "--joints.kind",
        "l1",
        "--read.decode",
        "soft_argmax",
        "--maps.sigma",
        "1",
        "--maps.weight",
        "100",
        "--first-epochs",
        "1",
    ]
    runs = {"one": ["2"], "two": ["1.1", "2"]}
    found = {}
    for name, epochs in runs.items():
        for end in epochs:
            page("coco_simple_baseline").main(
                [*flags, "--out", str(tmp_path / name), "--epochs", end, "--eval-every", "9"]
            )
        events = [e for e in Log(tmp_path / name).events() if e["event"] == "train"]
        assert [e["joint_loss"] > 0 for e in events] == [False] * 5 + [True] * 5
        found[name] = checkpoint.restore_model(tmp_path / name, step="latest")[0]
    jax.tree.map(np.testing.assert_array_equal, found["one"], found["two"])


@pytest.mark.parametrize(("preset", "of_coco"), [("resnet50", "resnet50"), ("hrnet_w32", "hrnet_w32")])
def test_gu_on_mpii_is_gu_on_coco_but_for_the_data(preset, of_coco):
    ours, theirs = mpii_debias.PRESETS[preset], coco_debias.PRESETS[of_coco]
    changed = {f.name for f in dataclasses.fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)}
    assert changed <= {"format", "size_wh", "train_split", "val_split", "nms", "rescore", "augment"}
    assert ours.size_wh == (256, 256) and ours.augment == "mpii" and mpii_debias.PRESETS["resnet152"].depth == 152
    for method, compensated in (("sbl", False), ("ipr", False), ("ours", True)):
        config = mpii_debias.PAGE.settings(["--preset", preset, "--method", method])
        assert config.read.compensate == compensated and config.read.decode == METHODS[method][2]


@pytest.mark.slow
def test_mpii_on_synthetic_people_from_training_to_the_file_for_its_server(prepared, tmp_path, capsys, caplog):
    flags = ["--data-dir", str(prepared), *TINY, "--size-wh", "32", "32", "--no-flip-test"]
    train = ["--method", "debias", "--epochs", "0.4", "--resnet-stages", "1", "--deconvs", "4", "--ema", "None"]
    scores = page("mpii_debias").main(["--out", str(tmp_path / "run"), *flags, *train])
    assert 0 <= scores["PCKh@0.1"] <= scores["PCKh@0.5"] <= 1 and np.isfinite(scores["EPE"])

    caplog.clear()
    test = ["--eval-only", str(tmp_path / "run"), "--data-dir", str(prepared), "--synthetic-images", "24"]
    assert page("mpii_debias").main([*test, "--val-split", "test", "--no-plots", "--batch-size", "8"]) == {}
    assert "jaxpose submit" in caplog.text
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    folder = prepared / "synthetic_24_0_mpii"
    cli.main(["submit", results, str(tmp_path / "pred.mat"), "--annotations", str(folder / "annot" / "test.json")])
    # The test split has the people of the validation split, so its predictions have the scores of the run.
    truth = mpii.load_truth(folder / "annot" / "gt_valid.mat")
    xy = submission.read_mat(tmp_path / "pred.mat") - 1
    again = mpii.pckh(truth, xy, np.arange(1, len(xy) + 1))
    assert again["PCKh@0.5"] == pytest.approx(scores["PCKh@0.5"]) and len(xy) == len(truth)
