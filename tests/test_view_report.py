"""The page: what it says, that it fetches nothing and trusts nobody's names, and that its script works in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jaxpose import cli
from jaxpose.evaluation import average_precision, cases, report
from jaxpose.view import palette
from jaxpose.view import report as tool
from jaxpose.view.report import charts, document
from jaxpose.view.report import page as frame
from tests import tiny_coco, tiny_results

ROOT = Path(__file__).parents[1]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&amp;"
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p", "section", "dl", "div", "dt", "dd",
    "small", "svg", "text", "line", "polyline", "circle", "rect", "table", "thead", "tbody", "tr", "th", "td", "span", "form",
    "label", "input", "select", "option", "button", "output", "figure", "img", "figcaption", "b", "br", "strong", "details",
    "summary", "footer", "code", "script",
}  # fmt: skip


class Page(HTMLParser):
    """The elements of a page, and its text outside of style and script."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text, self.script, self.inside = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.script += data
        elif self.inside != "style":
            self.text += data

    def all(self, tag, **wanted):
        return [a for t, a in self.elements if t == tag and all(v in (a.get(k) or "") for k, v in wanted.items())]


def check_closed(text: str) -> Page:
    """It fetches nothing, runs one script, and has no element or handler that its names brought along."""
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= TAGS
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert not set(attributes) & {"href", "action", "srcset", "data", "formaction", "xlink:href"}
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert not re.search(r"url\(|@import", text)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    for part in ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"):
        assert part in policy["content"].split("; ")
    assert len(page.all("script")) == 1
    return page


def hostile(folder: Path) -> tuple[Path, Path, Path]:
    """A data set all of whose names are attacks, and results for it."""
    truth, results, images = tiny_results.write(folder)
    data = json.loads(truth.read_text())
    data["categories"][0] |= {"name": HOSTILE, "keypoints": [f"{HOSTILE}{i}\x00" for i in range(17)]}
    data["images"][0]["file_name"] = HOSTILE
    odd = "\"onmouseover='alert(1)' \ud800.jpg"
    data["images"][1]["file_name"] = odd
    for entry in data["annotations"]:
        entry["id"] = f"<b>{entry['id']}</b>"
    truth.write_text(json.dumps(data))
    return truth, results, images


def test_the_page_says_what_the_evaluation_says(tmp_path):
    truth, results, images = tiny_results.write(tmp_path)
    events = [{"event": "train", "step": t, "loss": 1 / (t + 1), "epe": math.nan if t == 2 else 5.0} for t in range(5)]
    events += [{"event": "eval", "step": 4, "AP": 0.25, "AR": -1}, {"event": "end", "step": 4}]
    levels = [0.5, 0.9]
    density = {
        "all": {"count": 1234, "levels": levels, "coverage": [0.4, None], "calibration_error": 0.1},
        "occluded": {"count": 0, "levels": levels, "coverage": [None, None], "calibration_error": None},
    }
    path = tmp_path / "a" / "page.html"
    said = tool.write(
        path, ground_truth=truth, results=results, images=images, events=events, density=density, title="<It>"
    )
    page = check_closed(path.read_text())
    found, _ = cases.compare(truth, results)
    assert said == {"path": str(path), "bytes": path.stat().st_size, "cases": len(found), "images_missing": 0}
    assert len(page.all("figure")) == len(page.all("img")) == len(found)
    numbers = average_precision(truth, results) | report.from_results(truth, results)["summary"]
    for name in ("AP", "AP50", "AR", "EPE", "OKS"):
        assert f"{name}{numbers[name]:.{2 if name == 'EPE' else 3}f}" in page.text
    assert "APL–" in page.text, "-1: there is nobody large"
    details = report.from_results(truth, results)
    for name, joint in details["per_joint"].items():
        assert f"{name}{joint['EPE']:.2f}{joint['count']}" in page.text
    assert "calibration: labels inside the region" in page.text and "all 0.100, occluded –" in page.text
    assert len(page.all("svg")) == 5 and "nan" not in page.text.lower() and "inf" not in page.text
    shown = [float(a["data-oks"]) for a in page.all("figure") if a["data-oks"]]
    assert shown == sorted(shown) and len(shown) == details["matched"]["pairs"]
    assert {a["data-kind"] for a in page.all("figure")} == {"matched", "missed", "unmatched"}
    assert page.text.count("<It>") == 2, "title and heading"
    assert "coverage_90" not in page.text, "no factor of sigma was fitted on these frames"
    options = {"ground_truth": truth, "results": results, "images": images, "density": density}
    tool.write(path, **options, scores=numbers | {"sigma_scale": 1.5, "calibration_error": 0.1})
    text = check_closed(path.read_text()).text
    assert "The factor of sigma was fitted on these same frames" in text
    assert "coverage and level, on the frames that sigma was fitted on" in text


def test_names_are_text_whatever_they_hold(tmp_path):
    truth, results, images = hostile(tmp_path)
    path = tmp_path / "page.html"
    events = [{"event": "train", "step": 1, "loss": "<script>", "epe": None}, {"event": "eval", "step": 1, "AP": 0.5}]
    scores = {f"{HOSTILE}AP": 0.5, "text": HOSTILE, "nan": math.nan, "flag": True, "infinite": math.inf}
    said = tool.write(
        path, ground_truth=truth, results=results, images=images, scores=scores, title=HOSTILE, events=events
    )
    page = check_closed(path.read_text())
    assert said["images_missing"] == 2 and "2 of the 5 images shown could not be read" in page.text
    assert page.text.count(HOSTILE) > 20 and "nan–" in page.text and "infinite–" in page.text
    assert "<b>1000</b>" in page.text and "\x00" not in path.read_text()


def test_of_many_cases_each_kind_gets_its_share(tmp_path):
    person = {"bbox": [0, 0, 9, 9], "keypoints": [1, 1, 2]}
    record = {"keypoints": [1.0, 1.0, 0.5], "score": 0.5}
    found = [cases.Case("matched", {"id": i}, person, record, i, i / 100) for i in range(100)]
    found += [cases.Case("missed", {"id": i}, person) for i in range(50)]
    found += [cases.Case("unmatched", {"id": i}, None, record, i, excused=i < 25) for i in range(50)]
    chosen = document.select_cases(found, 20)
    assert [case.oks for case in chosen if case.kind == "matched"] == [i / 100 for i in (*range(10), *range(96, 100))]
    assert [sum(case.kind == kind for case in chosen) for kind in ("missed", "unmatched")] == [3, 3]
    assert not any(case.excused for case in chosen)
    assert len(document.select_cases(found, 1000)) == 200 and document.select_cases(found, 0) == []
    few = [case for case in found if case.kind == "matched"]
    assert len(document.select_cases(few, 20)) == 20, "what others leave is filled up"
    assert len(document.select_cases(found, 7)) == 7


def test_a_page_of_hundred_cases_has_a_bounded_size(tmp_path):
    """Noise, the worst that a JPEG can get."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (300, 240, 3), dtype=np.uint8)
    person = {"id": 1, "image_id": 1, "bbox": [50, 50, 100, 150], "keypoints": [100, 100, 2]}
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "keypoints": ["nose"]}]}
    truth["annotations"] = [person | {"id": i} for i in range(12)]
    options = dict(ground_truth=truth, results=[], images=lambda entry: tiny_coco.jpeg(pixels))
    sizes = [tool.write(tmp_path / "page.html", count=n, **options)["bytes"] for n in (2, 12)]
    assert 10 * 10_000 < sizes[1] - sizes[0] <= 10 * 42_000


def test_no_results_and_no_pictures(tmp_path):
    truth, results, images = tiny_results.write(tmp_path)
    path = tmp_path / "page.html"
    tool.write(path, ground_truth=truth, results=[], images=tmp_path / "nowhere")
    page = check_closed(path.read_text())
    assert "The result file is empty" in page.text and "5 of the 5 images shown could not be read" in page.text
    assert page.text.count("image could not be read") == 10
    data = json.loads(truth.read_text()) | {"annotations": []}
    assert tool.write(path, ground_truth=data, results=[], images=images)["cases"] == 0
    check_closed(path.read_text())


def run_folder(folder: Path, results: Path) -> Path:
    run = folder / "run"
    (run / "results").mkdir(parents=True)
    for name in ("step_5", "step_10"):
        (run / "results" / f"{name}.json").write_text(results.read_text())
    details = report.from_results(folder / "annotations" / "train.json", results)
    details["per_joint"]["nose"]["EPE"] = 77.77
    (run / "results" / "step_10_report.json").write_text(json.dumps(details))
    lines = [{"event": "eval", "step": 5, "AP": 0.111}, {"event": "eval", "step": 10, "AP": 0.222, "time": 1.0}]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "tr')
    return run


def test_the_command_takes_a_run_or_two_files(tmp_path, capsys):
    truth, results, images = tiny_results.write(tmp_path)
    run = run_folder(tmp_path, results)

    def written(*arguments):
        cli.main(["view", "report", *map(str, arguments)])
        said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        return said, check_closed(Path(said["path"]).read_text())

    said, page = written(run, "--data", tmp_path, "--split", "train", "--count", "4")
    assert said["path"] == str(run / "report.html") and said["cases"] == 4
    assert "run: step_10" in page.text and "AP0.222" in page.text and "77.77" in page.text and "time" not in page.text
    said, page = written(run, run / "results" / "step_5.json", "--data", tmp_path, "--split", "train", "--count", "0")
    assert "run: step_5" in page.text and "AP0.111" in page.text and "77.77" not in page.text
    (images / "000002.jpg").unlink()
    said, page = written(run, "--data", tmp_path, "--split", "train")
    assert said["images_missing"] == 1 and "the first is 000002.jpg (No such file or directory)" in page.text
    said, page = written(truth, results, "--images", images, "--out", tmp_path / "x.html")
    assert said["path"] == str(tmp_path / "x.html")


def test_bad_input_is_one_line(tmp_path):
    truth, results, images = tiny_results.write(tmp_path)
    run = run_folder(tmp_path, results)
    (tmp_path / "none").mkdir()

    def refused(words, *arguments):
        with pytest.raises(SystemExit, match=words) as stop:
            cli.main(["view", "report", *map(str, arguments)])
        assert "\n" not in stop.value.code

    refused("name the folder that .* was evaluated on .--data.", run)
    refused("give the result file after the ground truth, and the image folder", truth)
    refused("which --data needs: give --images", truth, results, "--data", tmp_path)
    refused("--images .*gone is not a folder", truth, results, "--images", tmp_path / "gone")
    refused("none/results holds no result file", tmp_path / "none", "--data", tmp_path, "--split", "train")
    refused("no annotations for split 'val'", run, "--data", tmp_path)
    refused("--count -1: expected 0 or more", truth, results, "--images", images, "--count=-1")
    (run / "results" / "step_10_report.json").write_text("[]")
    refused("step_10_report.json is not a report of an evaluation", run, "--data", tmp_path, "--split", "train")


def test_charts_have_round_ticks_and_finite_places():
    assert charts.ticks(0, 0.5) == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert charts.ticks(-3.2, 12) == [0, 5, 10] or len(charts.ticks(-3.2, 12)) >= 3
    for series in ({}, {"a": ([], [])}, {"a": ([3], [7])}, {"a": ([1, 2], [5, 5])}, {"a": (range(9999), range(9999))}):
        for log in (False, True):
            chart = charts.lines(series, title="t", x="x", log=log)
            assert "nan" not in chart and "inf" not in chart and len(chart) < 12_000
    assert charts.columns([], title="t", x="x").endswith("</svg>")


def test_files_beside_the_result_records_are_not_taken_for_them(tmp_path):
    for name in ("step_9.json", "step_10_report.json", "step_10_conformal.json", "step_10_3d.json"):
        (tmp_path / name).write_text("[]")
    assert document._newest(tmp_path).name == "step_9.json"


def test_the_newest_line_of_a_step_counts(tmp_path):
    lines = ['{"event": "eval", "step": 2, "AP": 0.1}', '{"event": "train", "step": 1}', "[]", "1", '{"event": "eval"}',
             '{"event": "eval", "step": "x"}', '{"event": "eval", "step": 2, "AP": 0.3}', "\ufffd"]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert [(e["event"], e.get("AP")) for e in tool.read_events(tmp_path / "log.jsonl")] == [
        ("train", None),
        ("eval", 0.3),
    ]


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome in the path")
def test_in_a_browser_the_script_runs_and_no_other(tmp_path):
    truth, results, images = hostile(tmp_path)
    path = tmp_path / "page.html"
    total = tool.write(path, ground_truth=truth, results=results, images=images, title="calm")["cases"]
    # As an attacker would: a script that the policy does not know has to stay silent.
    text = path.read_text().replace(
        "</main>", "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"></main>"
    )
    (tmp_path / "attacked.html").write_text(text)

    def opened(name: str) -> Page:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]  # fmt: skip
        command = [BROWSER, *flags, f"file://{tmp_path}/{name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        assert re.search("<title>(.*?)</title>", done.stdout)[1] == "calm"
        return Page(done.stdout)

    def counted(page: Page) -> tuple[int, int]:
        found = re.search(r"(\d+) of (\d+) cases\b(?! are)", page.text)
        visible = [a for a in page.all("figure") if "hidden" not in a]
        assert int(found[1]) == len(visible)
        return int(found[1]), int(found[2])

    everything = opened("page.html")
    assert counted(everything) == (total, total) and "hidden" not in everything.all("form")[0]
    assert {tag for tag, _ in everything.elements} <= TAGS and len(everything.all("script")) == 1
    page = opened("page.html#q=000002.jpg+image&kind=matched&sort=best&size=nonsense")
    shown = [a for a in page.all("figure") if "hidden" not in a]
    assert 0 < len(shown) < total and counted(page)[0] == len(shown)
    assert all("000002.jpg" in a["data-q"] and a["data-kind"] == "matched" for a in shown)
    ranked = [float(a["data-oks"]) for a in page.all("figure") if a["data-oks"]]
    assert ranked == sorted(ranked, reverse=True)
    page = opened("attacked.html#min=0.5&max=0.9")
    shown = [float(a["data-oks"]) for a in page.all("figure") if "hidden" not in a]
    assert all(0.5 <= oks <= 0.9 for oks in shown) and counted(page)[0] == len(shown)


def test_style_and_script_are_files_of_the_package():
    """What setuptools puts into a wheel, and what the page reads, are the same files."""
    pytest.importorskip(
        "setuptools", minversion="77"
    )  # as pyproject.toml asks for; that of an environment may be older
    code = (
        "from setuptools.dist import Distribution; d = Distribution({'script_name': 'setup.py'})\n"
        "d.parse_config_files(); d.include_package_data = False\n"  # which would write an egg-info folder here
        "build = d.get_command_obj('build_py'); build.ensure_finalized()\n"
        "print([name for package, _, _, names in build.data_files if package == 'jaxpose.view.report' for name in names])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "['report.css', 'report.js', 'scans.js', 'space.js']" in done.stdout, done.stderr[-2000:]
    for name in ("report.css", "report.js", "scans.js", "space.js"):
        assert frame.asset(name) == (ROOT / "jaxpose" / "view" / "report" / name).read_text()
        assert "</" not in frame.asset(name), "it would end the element that it stands in"


def test_the_page_names_the_colours_of_its_tiles():
    document = frame.page("a", "")
    for name, color in (
        ("truth", palette.TILE_TRUTH),
        ("prediction", palette.TILE_PREDICTION),
        ("error", palette.TILE_ERROR),
    ):
        assert f"--{name}: {color};" in document and f"var(--{name})" in document
