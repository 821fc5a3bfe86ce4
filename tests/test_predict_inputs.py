"""What the inputs of `jaxpose predict` stand for: every file is taken or named; cameras and streams; boxes of other names."""

from __future__ import annotations

import functools
import http.server
import json
import stat
import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image

from jaxpose.data import pixels
from jaxpose.data.boxes import BoxFile
from jaxpose.predict import media
from jaxpose.predict.inputs import Live, expand_inputs, is_live, is_video, limited
from tests import tiny_coco

HEIC = b"\0\0\0\x18ftypheic" + bytes(40)


def picture(path, kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tiny_coco.picture((32, 24))).save(path, kind)
    return path


def test_every_file_of_a_folder_is_taken_or_named(tmp_path, caplog):
    taken = [picture(tmp_path / name) for name in ("a.jpg", "b.jfif", "d", "e.photo")]
    taken += [picture(tmp_path / "c.avif", "AVIF"), picture(tmp_path / "f.data", "PNG")]
    with media.VideoWriter(tmp_path / "walk.mp4", size_wh=(32, 24), rate=5) as writer:
        writer.write(np.zeros((24, 32, 3), np.uint8))
    (tmp_path / "walk.mp4").rename(tmp_path / "clip")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "x.heic").write_bytes(HEIC)
    (tmp_path / ".hidden").write_text("")
    picture(tmp_path / "more" / "g.jpg")
    caplog.clear()
    files = expand_inputs([str(tmp_path)])
    assert set(files) == {*taken, tmp_path / "clip"} and is_video(tmp_path / "clip") and not is_video(tmp_path / "d")
    assert "1 files are left out, being no pictures or videos: notes.txt" in caplog.text
    assert "1 HEIC pictures are left out, such as x.heic" in caplog.text and "pip install pillow-heif" in caplog.text
    assert "1 folders in it are left out (--recursive looks into them): more" in caplog.text
    assert tmp_path / "more" / "g.jpg" in expand_inputs([str(tmp_path)], recursive=True)
    caplog.clear()
    assert len(expand_inputs([str(tmp_path / "more")])) == 1 and caplog.text == ""
    assert expand_inputs([str(tmp_path / "*.jfif"), str(tmp_path / "b.jfif")]) == [tmp_path / "b.jfif"]
    for nothing in ("*.txt", "absent", "notes"):
        with pytest.raises(FileNotFoundError, match="no such file, and no folder or pattern"):
            expand_inputs([str(tmp_path / nothing)])


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, monkeypatch):
    (tmp_path / "x.heic").write_bytes(HEIC)
    monkeypatch.setattr(pixels, "_HEIC", {})
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match="x.heic cannot be read: it looks like HEIC.*pip install pillow-heif"):
        media.picture(tmp_path / "x.heic")

    def register():  # what the real one does: a format that Pillow knows from then on
        Image.register_open(
            "HEIF", lambda file, name: Image.new("RGB", (4, 3), (9, 9, 9)), lambda head: head[4:12] == b"ftypheic"
        )
        if "HEIF" not in Image.ID:
            Image.ID.append("HEIF")

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    try:
        assert expand_inputs([str(tmp_path)]) == [tmp_path / "x.heic"]
        assert media.picture(tmp_path / "x.heic").shape == (3, 4, 3)
        assert pixels.load_jpeg(tmp_path / "x.heic", size_wh=(4, 3)).startswith(b"\xff\xd8\xff")
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")


@pytest.mark.parametrize(
    ("name", "live", "stem"),
    [
        ("0", True, "camera_0"),
        ("12", True, "camera_12"),
        ("rtsp://admin:secret@10.0.0.7:554/garden?x=1", True, "garden"),
        ("http://127.0.0.1:8000/walk.mp4", True, "walk"),
        ("photo.jpg", False, ""),
        ("20240101", False, ""),
    ],
)
def test_cameras_and_addresses(name, live, stem):
    assert is_live(name) is live
    if live:
        (source,) = expand_inputs([name])
        assert source == Live(name) and source.stem == stem and "secret" not in str(source) and is_video(source)


def test_a_file_named_like_a_camera_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "0")
    assert not is_live("0") and str(expand_inputs(["0"])[0]) == "0"


@pytest.fixture
def served(tmp_path):
    """A video of twelve frames on a loopback address."""
    with media.VideoWriter(tmp_path / "walk.mp4", size_wh=(64, 48), rate=12.5) as writer:
        for i in range(12):
            writer.write(np.full((48, 64, 3), 20 + 15 * i, np.uint8))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_stream_is_read_once_from_its_first_frame(served):
    stream = media.stream(f"{served}/walk.mp4", "walk")
    assert (stream.size_wh, stream.rate, stream.frames) == ((64, 48), 12.5, 0)
    levels = [int(frame.mean()) for frame in limited(stream, None)]
    assert len(levels) == 12 and abs(levels[0] - 20) < 6 and abs(levels[-1] - 185) < 6
    assert len(list(limited(media.stream(f"{served}/walk.mp4", "walk"), 5))) == 5
    with pytest.raises(ValueError, match="stream absent sends no picture"):
        media.stream(f"{served}/absent.mp4", "absent")
    with pytest.raises(ValueError, match="camera 97 sends no picture"):
        media.stream(97, Live("97"))


def test_ctrl_c_ends_a_stream_and_keeps_what_was_read(caplog):
    def frames():
        yield from (1, 2)
        raise KeyboardInterrupt

    assert list(limited(frames(), None)) == [1, 2] and "stopped" in caplog.text


FFMPEG = """#!/bin/sh
case "$*" in
*-encoders*) echo " V....D libx264              H.264" ;;
*) for last; do :; done; echo "$@" > "$0.log"; [ -z "$FAIL" ] || exit 1; echo encoded > "$last" ;;
esac
"""


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A program of this name that writes a word in place of a video."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(FFMPEG)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    media.h264_program.cache_clear()
    yield program
    media.h264_program.cache_clear()


def write_video(path):
    with media.VideoWriter(path, size_wh=(32, 24), rate=5) as writer:
        writer.write(np.zeros((24, 32, 3), np.uint8))


def test_overlays_are_h264_where_ffmpeg_is_there(tmp_path, ffmpeg, monkeypatch, caplog):
    write_video(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_text() == "encoded\n"
    arguments = (ffmpeg.parent / "ffmpeg.log").read_text()
    assert "libx264" in arguments and "yuv420p" in arguments and "pad=ceil(iw/2)*2" in arguments
    monkeypatch.setenv("FAIL", "1")
    write_video(tmp_path / "b.mp4")
    assert media.video(tmp_path / "b.mp4").size_wh == (32, 24) and "ffmpeg failed" in caplog.text
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["a.mp4", "b.mp4"]


def test_without_ffmpeg_a_hint_is_given_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    media.h264_program.cache_clear()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name)
    media.h264_program.cache_clear()
    assert caplog.text.count("install ffmpeg with libx264") == 1
    assert media.video(tmp_path / "b.mp4").size_wh == (32, 24)


# ------------------------------------------------------------------------------------------------- names of boxes


def boxes_of(tmp_path, content):
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return BoxFile.read(tmp_path / "boxes.json", category=1, min_score=0.3), tmp_path / "boxes.json"


def box(name):
    return {"file_name" if isinstance(name, str) else "image_id": name, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize("names", [["C:\\photos\\a.jpg"], ["/other/folder/a.jpg"], ["other/a.png"]])
def test_boxes_of_other_folders_and_endings(tmp_path, names, caplog):
    boxes, path = boxes_of(tmp_path, [box(name) for name in names] + [box("x/twice.jpg"), box("y/twice.jpg")])
    near = boxes.matched([tmp_path / "a.jpg", tmp_path / "twice.jpg"], path)
    assert near.of(tmp_path / "a.jpg", 0) == [(1.0, 2.0, 3.0, 4.0, 1.0)]
    assert near.of(tmp_path / "twice.jpg", 0) == [], "of two of one name none is taken"
    assert "1 of its pictures are among the inputs by their names without folders" in caplog.text


def test_boxes_that_fit_are_taken_as_they_are(tmp_path, caplog):
    boxes, path = boxes_of(tmp_path, [box("a.jpg"), box("elsewhere/b.jpg")])
    assert boxes.matched([tmp_path / "a.jpg", tmp_path / "b.jpg"], path) is boxes and caplog.text == ""
    empty, path = boxes_of(tmp_path, [])
    assert empty.matched([tmp_path / "a.jpg"], path) is empty


def test_boxes_of_no_input_are_an_error(tmp_path):
    boxes, path = boxes_of(tmp_path, [box(1), box(2), box(3)])
    with pytest.raises(ValueError, match=r"no box belongs to any of the 2 inputs.*such as 1, 2, 3: give \"file_name\""):
        boxes.matched([tmp_path / "val0001.jpg", tmp_path / "val0002.jpg"], path)
