"""`jaxpose evaluate` for scans: a table of jaxpose predict, or a result file, against the labels of Duke's files."""

import csv
import json

import numpy as np
import pytest

from jaxpose.data.scans import Scan
from jaxpose.evaluation import boundaries, command, scans
from tests.test_data_scans import write_subject

WIDTH = 200
NAMES = [f"boundary {k}" for k in range(8)]


def labelled(seed: int) -> Scan:
    rows = np.sort(np.random.default_rng(seed).uniform(20, 80, (8, WIDTH)), 0)
    rows[:, :3] = np.nan
    return Scan("x", "x", np.full((100, WIDTH), 9, np.uint8), rows, fluid=np.zeros((100, WIDTH), bool))


@pytest.fixture
def files(tmp_path):
    """Two labelled scans of a subject, and a table whose rows are 2 and 3 pixels too low."""
    data, table = tmp_path / "data", tmp_path / "boundaries.csv"
    data.mkdir()
    both = [labelled(0), labelled(1)]
    write_subject(data / "Subject_03.mat", both)
    write_table(table, [np.nan_to_num(scan.rows) + 2 + i for i, scan in enumerate(both)])
    return data, table


def write_table(
    path, predictions, *, axial_um=4.0, columns=("scan", "boundary", "column", "row", "low", "high", "row_um")
):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i, rows in enumerate(predictions):
            for name, values in zip(NAMES, rows, strict=True):
                for x, row in enumerate(values):
                    every = [f"Subject_03 scan {2 * i + 2}", name, x, row, row - 2.5, row + 1, row * axial_um]
                    writer.writerow(every[: len(columns)])


def test_a_table_is_scored_against_the_labels(files, capsys):
    data, table = files
    command.main(data, table, columns="labelled")
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert numbers["error_um"] == pytest.approx(4.0 * 2.5, abs=1e-3), "micrometres by the height that the table states"
    assert numbers["error_um_boundary 7"] == pytest.approx(10, abs=1e-3) and numbers["scans"] == 2
    assert numbers["inside_bands"] == 0.5 and numbers["within_2px"] == pytest.approx(0.5, abs=0.01)
    command.main(data / "Subject_03.mat", table)
    scored = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scored["error_um"] == pytest.approx(10, abs=1e-3), "columns 135 to 200"


def test_a_result_file_of_a_run_is_scored(files, tmp_path):
    data, _ = files
    results = tmp_path / "step_1.json"
    predictions = [
        boundaries.ScoredScan(f"Subject_03 scan {2 * i + 2}", 3.87, np.nan_to_num(scan.rows.T) + 1, scan.rows.T)
        for i, scan in enumerate((labelled(0), labelled(1)))
    ]
    boundaries.write(results, predictions, NAMES, {"scores": {}})
    assert scans.score(data, results, columns="labelled")["error_um"] == pytest.approx(3.87, abs=0.02)


def test_what_cannot_be_scored_is_named(files, tmp_path):
    data, table = files
    for flags, message in (
        ({"grader": 2}, "manualLayers2 has no finite value"),
        ({"errors": True}, "holds boundaries in scans, which take --grader and --columns"),
    ):
        with pytest.raises(ValueError, match=message):
            command.main(data, table, **flags)
    with pytest.raises(
        ValueError, match="--grader 2 --columns rathke: for boundaries in scans, which .*people.json does not hold"
    ):
        command.main(tmp_path / "people.json", tmp_path / "people.json", grader=2)
    with pytest.raises(FileNotFoundError, match="absent.csv: no such file; expected boundaries.csv of jaxpose predict"):
        command.main(data, tmp_path / "absent.csv")
    write_table(table, [np.full((8, WIDTH), 5.0)])
    with pytest.raises(ValueError, match="no prediction for 1 of 2 labelled scans, the first is 'Subject_03 scan 4'"):
        scans.score(data, table)
    write_table(table, [np.full((8, WIDTH - 1), 5.0)] * 2)
    with pytest.raises(
        ValueError, match="'Subject_03 scan 2' has 8 boundaries in 199 columns, the labels have 8 in 200"
    ):
        scans.score(data, table)
    write_table(table, [np.full((8, WIDTH), 5.0)], columns=("scan", "boundary", "column"))
    with pytest.raises(ValueError, match="boundaries.csv has no column 'row'"):
        scans.score(data, table)
    table.write_text("scan,boundary,column,row\nSubject_03 scan 2,ILM,0,low\n")
    with pytest.raises(ValueError, match="boundaries.csv, line 2: could not convert string to float: 'low'"):
        scans.score(data, table)
    table.write_text("scan,boundary,column,row\nSubject_09 scan 2,ILM,0,5\n")
    with pytest.raises(ValueError, match="holds no prediction for a file of .*: its first scan is 'Subject_09 scan 2'"):
        scans.score(data, table)
