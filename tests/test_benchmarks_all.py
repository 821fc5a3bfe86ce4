"""benchmarks.all knows every script, and puts their lines into a table."""

from pathlib import Path

import pytest

from benchmarks import all as every


def test_every_script_is_among_them():
    folder = Path(every.__file__).parent
    scripts = {path.stem for path in folder.glob("*.py") if "throughput" in path.stem or path.stem.endswith("_time")}
    assert scripts == set(every.SCRIPTS)


@pytest.mark.slow
def test_a_quick_run_of_one_prints_its_lines_and_a_row(capfd):
    results = every.main(every.Options(quick=True, only=("grouping_throughput",)))
    assert len(results["grouping_throughput"]) == 4
    printed = capfd.readouterr().out
    assert (
        printed.count('{"benchmark": "grouping_throughput"') == 4
        and "| grouping_throughput | side host, people 5," in printed
    )


def test_mistakes_are_named(monkeypatch):
    with pytest.raises(ValueError, match="--only nothing: expected some of loss_throughput"):
        every.main(every.Options(only=("nothing",)))
    with pytest.raises(RuntimeError, match="ended with 2 and 0 results"):
        every.run("evaluation_time", "--no-such-flag")
