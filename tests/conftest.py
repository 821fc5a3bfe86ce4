"""Fixtures with the golden numbers and the small real data sets.

Without options the tests read `tests/golden` (at most 2 MB, no photographs, no COCO annotations) and skip what needs more.
`python -m pytest` leaves out the tests marked slow; `python -m pytest -m slow` runs those.
With `--golden=DIR --data=DIR` the full comparison runs, and an incomplete folder is an error. (With a space instead of the
equals sign, pytest takes DIR as the folder of the tests, unless `tests jaxpose` precedes it.)
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time is spent compiling small programs that run once: without LLVM's optimisations this takes a third. With
# XLA_FLAGS set, for example to nothing, programs are compiled as for a user; .ci/run does so for the full comparison.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# The processes that tests start share compiled programs.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"jaxpose_jax_cache_{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Of the two processes that run tests, each with threads of PyTorch for all cores, one would wait for the other in busy loops.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

HERE = Path(__file__).parent
collect_ignore = ["some_devices.py"]  # a script for separate processes: it parses flags when imported


def pytest_addoption(parser):
    parser.addoption(
        "--golden", type=Path, default=None, help="folder with the full golden files of the reference code"
    )
    parser.addoption(
        "--data", type=Path, default=None, help="folder with the small real data sets (coco_mini, openfield)"
    )


def pytest_collection_modifyitems(items):
    """Marks the tests of the full comparison: `pytest -m reference --golden=DIR --data=DIR`."""
    for item in items:
        if {"golden", "golden_json", "golden_path", "data_dir"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("reference")


class Golden:
    """One .npz of expected numbers; a missing array skips the test (with --golden: fails it)."""

    def __init__(self, path: Path, full: bool):
        self.arrays, self.path, self.full = np.load(path, allow_pickle=False), path, full

    def __getitem__(self, key: str) -> np.ndarray:
        if key in self.arrays.files:
            return self.arrays[key]
        message = f"{self.path.name} has no array {key!r}"
        if self.full:
            pytest.fail(f"{message}: the folder given with --golden is incomplete")
        pytest.skip(f"{message}: needs --golden DIR")

    def __contains__(self, key: str) -> bool:
        return key in self.arrays.files

    def keys(self) -> list[str]:
        return list(self.arrays.files)


def _golden_file(config, name: str) -> tuple[Path, bool]:
    folder = config.getoption("--golden")
    path = (folder or HERE / "golden") / name
    if path.exists():
        return path, folder is not None
    if folder is not None:
        pytest.fail(f"{path} does not exist: the folder given with --golden is incomplete")
    pytest.skip(f"{name} is not in tests/golden: needs --golden DIR")


@pytest.fixture(scope="session")
def golden(pytestconfig):
    """Returns a function: golden("rle_official") -> the arrays of rle_official.npz."""
    return lambda name: Golden(*_golden_file(pytestconfig, f"{name}.npz"))


@pytest.fixture(scope="session")
def golden_json(pytestconfig):
    """Returns a function: golden_json("eval") -> the contents of eval.json."""
    return lambda name: json.loads(_golden_file(pytestconfig, f"{name}.json")[0].read_text())


@pytest.fixture(scope="session")
def golden_path(pytestconfig):
    """Returns a function: golden_path("affine_images/x.jpg") -> a file of the golden folder."""
    return lambda name: _golden_file(pytestconfig, name)[0]


@pytest.fixture(scope="session")
def data_dir(pytestconfig):
    """Returns a function: data_dir("coco_mini") -> a folder of the small real data sets."""

    def get(name: str) -> Path:
        folder = pytestconfig.getoption("--data")
        if folder is None:
            pytest.skip(f"{name} is real data outside the repository: needs --data DIR")
        if not (folder / name).is_dir():
            pytest.fail(f"{folder / name} does not exist: the folder given with --data is incomplete")
        return folder / name

    return get
