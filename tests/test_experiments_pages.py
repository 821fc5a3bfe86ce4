"""The pages: presets; and those of heatmaps, integral regression and MPII:, methods, schedules, tiny runs."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import ablation_few_frames, ablation_integral, coco_debias, coco_integral, coco_rle, mpii_integral
from experiments.common import families, rules
from experiments.common.config import parse
from experiments.common.log import Log
from jaxpose import checkpoint, tasks
from jaxpose.nets import HeatmapNet, IntegralRegressor, MapHead, MultiStageNet, PoseRegressor
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
        "coco_swahr", "crowdpose_swahr",
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


@pytest.mark.parametrize("preset", ["official", "mmpose", "mobilenet_v2", "hrnet_w32", "auxiliary"])
def test_rle_presets_make_their_nets(preset):
    task = families.regression_task(small(coco_rle.PRESETS[preset]), COCO17)
    net = tasks.describe.build(task.config["net"])
    expected = {"hrnet_w32": IntegralRegressor}.get(preset, PoseRegressor)
    assert type(net) is expected
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
    assert task.config["read"]["beta"] == (10.0 if method in ("ipr", "l_de", "l_aug", "debias", "ours") else 1.0)


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
    scores = coco_rle.main([*flags, "--epochs", "0.4"])
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


def test_mpii_wants_its_folder_and_its_own_boxes(tmp_path):
    with pytest.raises(ValueError, match="--data: name MPII's folder"):
        mpii_integral.main(["--out", str(tmp_path)])
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
    assert "| joint_1 | 1 | 0 |" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert ablation_integral.main(options) == runs, "the same command again trains nothing"


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
@pytest.mark.parametrize("name", ["coco_simple_baseline", "coco_hrnet", "coco_debias"])
def test_every_other_page_runs(name, prepared, tmp_path):
    """The others run above and in test_experiments. HRNet takes minutes to compile: its page runs with a ResNet here."""
    flags = ["--out", str(tmp_path), "--data-dir", str(prepared), *TINY, "--size-wh", "32", "32", "--epochs", "0.4"]
    flags += ["--no-flip-test", "--ema", "None"]
    flags += ["--backbone", "resnet", "--deconvs", "8", "8"]
    flags += ["--first-epochs", "0.2"] if name == "coco_debias" else []
    scores = page(name).main(flags)
    assert np.isfinite(scores["EPE"]) and checkpoint.exists(tmp_path)


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
