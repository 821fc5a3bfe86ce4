"""The reader of MATLAB files: what it refuses, and that it reads the rest as scipy does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from jaxpose import matlab


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_are_read(tmp_path, compressed):
    arrays = {"rows": np.arange(600.0).reshape(20, 30), "names": np.array(["a", "b"], dtype=object)}
    savemat(tmp_path / "a.mat", arrays, do_compression=compressed)
    content = matlab.load(tmp_path / "a.mat", "arrays")
    assert (content["rows"] == arrays["rows"]).all() and [str(n.item()) for n in content["names"].ravel()] == ["a", "b"]


def test_the_inflated_size_is_that_of_the_parts(tmp_path):
    savemat(tmp_path / "a.mat", {"a": np.zeros(50_000), "b": np.ones(1000)}, do_compression=True)
    assert 408_000 <= matlab.inflated_size(tmp_path / "a.mat", limit=10**9) <= 408_000 + 400
    savemat(tmp_path / "plain.mat", {"a": np.zeros(50_000)})
    assert matlab.inflated_size(tmp_path / "plain.mat", limit=10**9) == 0


def test_a_file_that_inflates_out_of_proportion_is_refused_before_it_is_read(tmp_path, monkeypatch):
    savemat(tmp_path / "a.mat", {"a": np.zeros(500_000)}, do_compression=True)
    monkeypatch.setattr(matlab, "FEW_BYTES", 2**16)
    monkeypatch.setattr("scipy.io.loadmat", lambda path: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"a\.mat has \d+ bytes and inflates to more than \d+: expected scans"):
        matlab.load(tmp_path / "a.mat", "scans")


@pytest.mark.parametrize("content", [b"", b"no MATLAB", b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM" + bytes(600)])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mat is (not a MATLAB file|a MATLAB file of version 7\.3).*scans"):
        matlab.load(tmp_path / "a.mat", "scans")


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"a": np.random.default_rng(0).normal(size=5000)}, do_compression=True)
    data = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is not a MATLAB file"):
        matlab.load(tmp_path / "a.mat", "scans")
