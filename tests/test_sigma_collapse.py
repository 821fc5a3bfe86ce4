"""The tiny run of experiments/sigma_collapse.py, and that it shows what its docstring says."""

import pytest

from experiments import sigma_collapse

START = 2.0
HELD = ("laplace", "paper, log s", "2 log sigma, 1 log G")
GROWING = ("paper, no log s", "official", "mmpose")


@pytest.mark.slow
def test_what_holds_sigma(capsys, tmp_path):
    """Started at twice the truth, sigma has to move a long way up, or down to 1: a run that does nothing fails."""
    plot = tmp_path / "sigma.png"
    options = f"--steps 300 --points 64 --hidden 8 8 --learning-rate 0.05 --start {START} --plot {plot}"
    curves = sigma_collapse.main(options.split())
    printed = capsys.readouterr().out
    assert "paper, no log s" in printed and "RealNVP" in printed
    assert plot.stat().st_size > 5000
    for flow, least in (("rescaling", 5), ("RealNVP", 3)):
        growth = {label: curve[-1] / START for label, curve in curves[flow].items()}
        for label in GROWING:
            assert growth[label] > least, (flow, label)
        for label in HELD:
            assert 0.7 < START * growth[label] < 1.4, (flow, label)
