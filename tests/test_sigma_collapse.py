"""The tiny run of experiments/sigma_collapse.py, and that it shows what its docstring says."""

import pytest

from experiments import sigma_collapse


@pytest.mark.slow
def test_what_holds_sigma(capsys, tmp_path):
    plot = tmp_path / "sigma.png"
    options = ["--steps", "600", "--points", "64", "--hidden", "8", "8", "--learning-rate", "0.05", "--plot", str(plot)]
    curves = sigma_collapse.main(options)
    printed = capsys.readouterr().out
    assert "paper, no log s" in printed and "RealNVP" in printed
    assert plot.stat().st_size > 5000
    rescaling = {label: curve[-1] for label, curve in curves["rescaling"].items()}
    held = {"laplace", "paper, log s", "2 log sigma, 1 log G"}
    for label in ("paper, no log s", "official", "mmpose"):
        assert rescaling[label] > 8, label
        assert curves["RealNVP"][label][-1] > 8, label
    for label in held:
        assert 0.7 < rescaling[label] < 1.6, label
