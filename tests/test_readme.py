"""The commands of the README and of the documentation have the flags that exist, and the README's code runs."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.config import parse
from jaxpose import cli
from jaxpose.evaluation import command as evaluation
from tests import tiny_coco, tiny_run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands(page: str) -> set[str]:
    """Commands stand alone on a line of a block, or in backticks; blocks of ```text are not checked."""
    page = re.sub(r"^```text\n.*?^```$", "", page, flags=re.M | re.S)
    lines = re.findall(r"^(?:python -m|jaxpose) .*$", page, re.M)
    lines += re.findall(r"`((?:python -m|jaxpose) [^`]*)`", page)
    return {line.split("#")[0].strip() for line in lines}


COMMANDS = sorted(commands(README).union(*(commands(page.read_text()) for page in (ROOT / "docs").glob("*.md"))))


def code(first_words: str) -> str:
    """The Python block that starts with these words."""
    [block] = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if b.startswith(first_words)]
    return block


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, monkeypatch, capsys):
    module, *flags = shlex.split(command.removeprefix("python -m "))
    flags = ["2" if flag == "N" else "1" if flag == "I" else flag for flag in flags]
    kind, _, name = module.partition(".")
    match kind, name:
        case "experiments", _ if hasattr(page := importlib.import_module(module), "PRESETS"):
            if "--eval-only" in flags:  # names a run that has to exist
                at = flags.index("--eval-only")
                del flags[at : at + 2]
            flags = [flag for flag in flags if flag != "--help"]
            parse(page.PRESETS, name=name, default="tiny", description="", argv=flags)
        case "experiments", _:
            assert set(flags[flags.index("--rows") + 1 :] if "--rows" in flags else []) <= set(
                getattr(page, "ROWS", ())
            )
        case "jaxpose", "":
            with pytest.raises(SystemExit) as stop:
                cli.main([*flags[: 2 if flags[0] == "view" else 1], "--help"])
            assert stop.value.code == 0
            known = capsys.readouterr().out
            assert all(flag in known for flag in flags if flag.startswith("--"))
        case "jaxpose", "evaluation":
            parameters = evaluation.main.__kwdefaults__
            assert all(flag[2:].replace("-", "_") in parameters for flag in flags if flag.startswith("--"))
        case "benchmarks", _:
            importlib.import_module(module)
        case "jaxpose", _ if name.startswith("data.synthetic"):
            parameters = importlib.import_module(module).main.__kwdefaults__
            assert all(flag[2:].replace("-", "_") in parameters for flag in flags if flag.startswith("--"))
        case "pytest", _:
            pass
        case _:
            pytest.fail(f"no test knows {module}")


def test_the_readme_is_an_introduction():
    lines = README.splitlines()
    assert len(lines) <= 110 and max(map(len, lines)) <= 120, "the rest belongs into docs/"
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert len(links) > 10 and not [link for link in links if not (ROOT / link).exists()]


def test_a_loss_in_your_own_model():
    names: dict = {}
    exec(code("import jax, jax.numpy"), names)
    mu, target = (jax.random.normal(jax.random.key(i), (3, 17, 2)) for i in range(2))
    sigma, visible = jnp.full((3, 17, 2), 0.3), jnp.arange(17) < jnp.array([[17], [5], [0]])
    value, gradient = jax.value_and_grad(names["loss"])(mu, sigma, target, visible, names["flow_variables"])
    assert np.isfinite(value) and (np.asarray(gradient)[2] == 0).all() and (np.asarray(gradient)[0] != 0).all()


def test_your_own_pictures(tmp_path, monkeypatch):
    tiny_run.write(tmp_path / "runs" / "coco_rle", tiny_run.regression_task())
    (tmp_path / "photo.jpg").write_bytes(tiny_coco.jpeg(tiny_coco.picture((300, 400))))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code("from jaxpose import predict"), names)
    assert names["poses"].xy.shape == names["poses"].deviation.shape == (1, 17, 2)
