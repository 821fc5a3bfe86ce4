"""`jaxpose live`: the newest frame, the box that follows a person, lines of JSON and latency figures; without a net."""

from __future__ import annotations

import io
import json
import time
import urllib.request

import numpy as np
import pytest

from jaxpose import cli, density, predict
from jaxpose.predict import Poses, live, media
from jaxpose.predict.live import Newest, Page, Stalled
from jaxpose.skeleton import COCO17

FRAME = np.zeros((48, 64, 3), np.uint8)


class Stub:
    """A predictor that finds a person in the middle of the box, or of the frame, and takes some time."""

    finds_people, skeleton = False, COCO17

    def __init__(self, seconds: float = 0.0, confidence: float = 0.9):
        self.seconds, self.confidence, self.boxes = seconds, confidence, []

    def __call__(self, image, boxes):
        time.sleep(self.seconds)
        self.boxes.append(boxes)
        x, y, w, h = (0, 0, 64, 48) if boxes is None else boxes[0]
        places = np.linspace(0.3, 0.7, 17)
        xy = np.stack([x + w * places, y + h * places[::-1]], -1)[None]
        model = density.Model(log_g=None, base="laplace")
        return Poses(xy, np.full((1, 17), self.confidence), np.ones(1), COCO17, sigma=np.ones_like(xy), density=model)


def slow(count: int, seconds: float):
    for _ in range(count):
        time.sleep(seconds)
        yield FRAME


def lines_of(frames, predictor, *, wait=True, timeout=5.0, **options):
    text = io.StringIO()
    with Newest(frames, wait=wait, timeout=timeout) as newest:
        live.run(newest, predictor, text, follow=True, **options)
    rows = [json.loads(line) for line in text.getvalue().splitlines()]
    return rows[:-1], rows[-1]["summary"]


def test_every_frame_of_a_file_is_predicted_and_the_person_is_followed():
    predictor = Stub()
    rows, summary = lines_of([FRAME] * 6, predictor)
    assert [row["frame"] for row in rows] == list(range(6)) and summary["frames"] == 6 and summary["dropped"] == 0
    assert predictor.boxes[0] is None and all(boxes is not None for boxes in predictor.boxes[1:])
    (person,) = rows[3]["people"]
    assert len(person["keypoints"]) == 51 and person["deviation"][0] == pytest.approx(2**0.5, abs=0.01)
    assert summary["latency_ms_median"] <= summary["latency_ms_p95"] and summary["frames_per_second"] > 0
    lost = Stub(confidence=0.1)
    lines_of([FRAME] * 3, lost)
    assert lost.boxes == [None] * 3


def test_a_frame_of_a_file_does_not_wait_at_the_cost_of_the_latency():
    with Newest([FRAME] * 2, wait=True, timeout=5.0) as frames:
        assert frames.take()[0] == 0
        time.sleep(0.05)  # the second frame is there already
        asked = time.perf_counter()
        number, read, _ = frames.take()
        assert number == 1 and read >= asked


def test_a_net_slower_than_the_camera_sees_the_newest_frames_and_counts_the_others():
    rows, summary = lines_of(slow(30, 0.01), Stub(0.05), wait=False)
    numbers = [row["frame"] for row in rows]
    assert numbers == sorted(set(numbers)) and len(rows) < 15
    assert 10 <= summary["dropped"] <= 30 - len(rows) and summary["latency_ms_median"] >= 50
    assert all(row["latency_ms"] < 1000 for row in rows), "the past does not pile up"


def test_a_stalled_stream_is_a_sentence_after_the_summary():
    def stalls():
        yield FRAME
        time.sleep(1.5)

    text = io.StringIO()
    with Newest(stalls(), wait=False, timeout=0.2) as newest, pytest.raises(Stalled, match="no picture for 0.2 s"):
        live.run(newest, Stub(), text, follow=False)
    assert json.loads(text.getvalue().splitlines()[-1])["summary"]["frames"] == 1


def test_errors_of_the_source_interruptions_and_a_number_of_frames():
    def breaks():
        yield FRAME
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match="the camera is gone"):
        lines_of(breaks(), Stub())
    assert lines_of([], Stub())[1]["frames"] == 0
    assert lines_of([FRAME] * 9, Stub(), max_frames=4)[1]["frames"] == 4

    def interrupted(image, poses):
        raise KeyboardInterrupt

    assert lines_of([FRAME] * 9, Stub(), show=interrupted)[1]["frames"] == 1


@pytest.mark.parametrize("x", [-500.0, 700.0])
def test_a_person_who_leaves_the_frame_is_looked_for_everywhere(x):
    poses = Poses(np.full((1, 17, 2), [x, 20.0]), np.ones((1, 17)), np.ones(1), COCO17)
    assert live.box_after(poses, (64, 48)) is None


def test_the_page_shows_the_newest_picture():
    with Page(0) as page:
        page.show(FRAME)
        address = f"http://127.0.0.1:{page._server.server_port}/"
        with urllib.request.urlopen(address, timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace")
            assert b"image/jpeg\r\n\r\n\xff\xd8" in answer.read(64)
        with pytest.raises(OSError, match="no page can be shown there"):
            Page(page._server.server_port)


def test_the_command(tmp_path, monkeypatch, capsys):
    with media.VideoWriter(tmp_path / "walk.mp4", size_wh=(64, 48), rate=100) as writer:
        for _ in range(5):
            writer.write(FRAME)
    monkeypatch.setattr(predict, "load", lambda *_, **options: Stub())
    cli.main(["live", "run", str(tmp_path / "walk.mp4"), "--out", str(tmp_path / "o" / "poses.jsonl"), "--real-time"])
    rows = [json.loads(line) for line in (tmp_path / "o" / "poses.jsonl").read_text().splitlines()]
    assert rows[-1]["summary"]["frames"] == len(rows) - 1 >= 1
    cli.main(["live", "run", str(tmp_path / "walk.mp4"), "--max-frames", "3"])
    assert len(capsys.readouterr().out.splitlines()) == 4
    for words, message in (
        (["absent.mp4"], "video absent.mp4 does not exist"),
        (["rtsp://127.0.0.1:9/none"], "stream .* sends no picture"),
        ([str(tmp_path / "walk.mp4"), "--timeout", "0"], "--timeout 0.0"),
        ([str(tmp_path / "walk.mp4"), "--page", "80"], "--page 80"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["live", "run", *words])


def test_a_file_in_real_time_keeps_its_rate():
    start = time.perf_counter()
    video = media.Video("a", (64, 48), 50.0, 0, (Reader(6), None))
    assert len(list(live.paced(video))) == 6 and time.perf_counter() - start >= 5 / 50


class Reader:
    """A capture of OpenCV."""

    def __init__(self, count: int):
        self.count = count

    def read(self):
        self.count -= 1
        return self.count >= 0, FRAME

    def release(self) -> None: ...
