"""The page of an evaluation of scans: its numbers, its scans, what it escapes, and the command that writes it again."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxpose.data.scans import Scan
from jaxpose.evaluation import boundaries
from jaxpose.view import report as commands
from jaxpose.view import scans as page
from tests.test_data_scans import write_subject

NAMES = ("ILM", "<BM>")


def scan_of(number: int, *, width: int = 40, error: float = 1.0, name: str | None = None) -> tuple[Scan, np.ndarray]:
    """A scan with two boundaries and fluid in its left half, and rows that are `error` pixels off."""
    rows = np.stack([np.full(width, 30.0), np.full(width, 60.0)])
    fluid = np.zeros((90, width), bool)
    fluid[40:50, : width // 2] = True
    image = np.full((90, width), 20 * number + 5, np.uint8)
    return Scan(name or f"scan {number}", "one", image, rows, axial_um=4.0, fluid=fluid), rows.T + error


def written(folder, scans, *, sigma=True, **more):
    """The result file of scans and their predictions, as an evaluation writes it."""
    scored = [
        boundaries.ScoredScan(
            s.name, s.axial_um, rows, s.rows.T, sigma=np.full(rows.shape, 2.0) if sigma else None,
            level=np.full(rows.shape, 0.6), groups=boundaries.groups_of(s),
        )
        for s, rows in scans
    ]  # fmt: skip
    details = boundaries.report(scored, NAMES)
    path = folder / "results" / "step_3.json"
    boundaries.write(path, scored, NAMES, details | {"regions": {"0.9": [[-1.5, 2.0]]}} | more)
    return path


@pytest.mark.parametrize(("error", "corner"), [(400.0, "0.5,365.5"), (-140.0, "0.5,-109.5")])
def test_predictions_outside_of_a_scan_are_shown_beside_its_nearest_rows(tmp_path, error, corner):
    scan, rows = scan_of(1, error=error)
    path = written(tmp_path, [(scan, rows)])
    page.of_run(tmp_path, [scan], results=path)
    figure = re.search(r"<figure data-error.*?</figure>", (tmp_path / "report.html").read_text())[0]
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", figure)[1])))
    assert picture.size == (40, page.MARGIN)
    assert re.search(r'<polyline stroke="[^"]+" points="([^ ]+) ', figure)[1] == corner


def test_the_page_shows_numbers_bands_and_the_worst_scan_first(tmp_path):
    scans = [scan_of(1, error=1.0), scan_of(2, error=3.0, name="<i>second</i>"), scan_of(3, error=2.0)]
    path = written(tmp_path, scans)
    summary = page.of_run(tmp_path, [scan for scan, _ in scans], results=path)
    document = (tmp_path / "report.html").read_text()
    assert summary["scans"] == 3 and len(document.encode()) == summary["bytes"]
    assert "<i>" not in document and "<BM>" not in document, "names are escaped"
    figures = re.findall(r"<figure data-error.*?</figure>", document)
    assert [float(re.search(r'data-error="([\d.]+)"', f)[1]) for f in figures] == [12.0, 8.0, 4.0]
    # Rows 30 + 3 - 1.5 x 2 to 33 + 2 x 2 in an image that begins at row 33 - 25; the centre of pixel 0 is at 0.5.
    band = re.search(r'<polygon fill="[^"]+" points="([^"]+)"', figures[0])[1].split()
    assert (band[0], band[-1]) == ("0.5,22.5", "0.5,29.5") and len(band) == 80
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", figures[0])[1])))
    assert picture.size == (40, 80) and abs(int(np.asarray(picture).mean()) - 45) < 3
    assert figures[0].count('class="fluid"') == 20
    text = re.sub(r"<[^>]+>", " ", document)
    # Errors of 4, 12 and 8 um everywhere; a level of 0.6 is outside the 50 % bands and inside the 90 % bands.
    assert re.search(r"all\s+8.00\s+8.00\s+0.000\s+1.000\s+240", text)
    assert re.search(r"fluid\s+8.00\s+8.00\s+0.000\s+1.000\s+120", text)
    assert "3 scans, 240 labels of 2 boundaries; a pixel is 4 µm high" in text
    assert "calibration: labels inside the bands" in text


def test_a_net_without_sigma_has_neither_bands_nor_calibration(tmp_path):
    scans = [scan_of(1)]
    page.of_run(tmp_path, [scans[0][0]], results=written(tmp_path, scans, sigma=False))
    document = (tmp_path / "report.html").read_text()
    assert "<polygon" not in document and 'name="bands"' not in document and "<polyline" in document


def test_the_command_reads_the_scans_again(tmp_path, capsys):
    scans = [scan_of(1)]
    run = tmp_path / "run"
    path = written(run, scans, grader=1)
    content = json.loads(path.read_text())
    with pytest.raises(ValueError, match="name the folder of the scans that .*run was evaluated on"):
        commands.report(run)
    with pytest.raises(ValueError, match="--images: it is for poses, .*run predicts boundaries in scans"):
        commands.report(run, images=tmp_path)
    eight = Scan("a", "a", scans[0][0].image, np.repeat(scans[0][0].rows, 4, axis=0), fluid=scans[0][0].fluid)
    (tmp_path / "data").mkdir()
    write_subject(tmp_path / "data" / "Subject_01.mat", [eight])
    content["boundaries"] = [str(i) for i in range(8)]
    content["scans"][0] |= {"name": "Subject_01 scan 2", "rows": eight.rows.tolist()}
    content["scans"][0].pop("sigma")
    path.write_text(json.dumps(content, separators=(",", ":")))
    commands.report(run, data=tmp_path / "data")
    assert json.loads(capsys.readouterr().out)["scans"] == 1 and (run / "report.html").exists()
    content["scans"][0]["name"] = "Subject_01 scan 9"
    path.write_text(json.dumps(content, separators=(",", ":")))
    with pytest.raises(ValueError, match="'Subject_01 scan 9' is not among the scans of the data"):
        commands.report(run, data=tmp_path / "data")
    path.write_text('{"boundaries":[]}')
    with pytest.raises(ValueError, match="step_3.json is no result file of scans"):
        commands.report(run, data=tmp_path / "data")


def test_the_scans_on_a_page_are_spread_from_the_worst_to_the_best():
    errors = np.arange(50.0)
    indices = page.select(errors, 10)
    assert indices[:6] == [49, 48, 47, 46, 45, 44] and indices[-2:] == [1, 0] and len(set(indices)) == 10
    assert indices == sorted(indices, reverse=True)
