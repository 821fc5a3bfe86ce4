"""`jaxpose live`: frames of a camera, a stream or a file in, poses out as lines of JSON, with latency figures.

A thread reads frames and keeps the newest one alone, so that a net that is slower than the camera shows the present and not a
growing past; the frames that were passed over are counted. Of a file every frame is taken, unless it is played in real time.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import tyro

from jaxpose.data.pixels import opencv
from jaxpose.predict import media
from jaxpose.predict.inputs import Live, is_live
from jaxpose.predict.poses import Poses
from jaxpose.view.overlay import draw

__all__ = ["Newest", "Stalled", "Summary", "box_after", "main", "record", "run"]

log = logging.getLogger("jaxpose")
MARGIN = 0.2
"""What the box around the last pose is enlarged by on each side, as a part of its longer side."""
LOST = 0.3
"""Mean confidence below which the person counts as lost, and the whole frame is looked at again."""
LEAST = 16.0
"""The shortest side of a box, pixels."""


def main(
    checkpoint: tyro.conf.Positional[Path],
    source: tyro.conf.Positional[str],
    *,
    out: Path | None = None,
    follow: bool = True,
    flip_test: bool = False,
    page: int | None = None,
    draw_above: float = 0.2,
    real_time: bool = False,
    max_frames: int | None = None,
    timeout: float = 5.0,
    step: int | Literal["best", "latest"] = "best",
) -> None:
    """Predict the poses of a camera or a stream while it runs.

    Prints a line of JSON for every frame: its number, the seconds since the first one, the latency in milliseconds from
    reading the frame (of a file: from taking it) to its poses, and the people with x, y and confidence of every joint; nets
    with a likelihood add the standard deviation of every coordinate. The last line has the summary: frames, dropped frames,
    frames per second, median and 95th percentile of the latency.

    Args:
        checkpoint: A run's folder, or an imported checkpoint.
        source: The number of a camera, such as 0; the address of a stream, such as rtsp://camera/1; or a video file.
        out: File for the lines; None: standard output.
        follow: One person: look at the box around the last pose, and at the whole frame again when the person is lost. No: always
            at the whole frame. Nets of whole images detect people themselves.
        flip_test: Average with the mirrored picture, at twice the time.
        page: Show the poses at http://127.0.0.1:PAGE, a number above 1023.
        draw_above: Joints with a lower confidence are not drawn.
        real_time: Play a file at its own rate, and drop frames as with a camera.
        max_frames: Stop after this number of frames; None: when the source ends, or with Ctrl-C.
        timeout: Seconds without a frame after which a stream counts as stalled.
        step: The checkpoint of the run to load.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    if not timeout > 0 or (max_frames is not None and max_frames < 1) or (page is not None and not 1023 < page < 65536):
        raise ValueError(
            f"--timeout {timeout} --max-frames {max_frames} --page {page}: expected positive numbers, a page from 1024 to 65535"
        )
    video = open_source(source)
    from jaxpose import predict

    predictor = predict.load(checkpoint, step=step, flip_test=flip_test, batch_size=1)
    with ExitStack() as stack:
        lines = sys.stdout
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            lines = stack.enter_context(out.open("w", encoding="utf-8"))
        show = None
        if page is not None:
            server = stack.enter_context(Page(page))
            show = lambda image, poses: server.show(draw_frame(image, poses, draw_above=draw_above))  # noqa: E731
        waits = not (video.opened is not None or real_time)
        frames = stack.enter_context(Newest(paced(video) if real_time else video, wait=waits, timeout=timeout))
        run(frames, predictor, lines, follow=follow and not predictor.finds_people, show=show, max_frames=max_frames)


def open_source(source: str) -> media.Video:
    """Opens a camera by its number, a stream by its address, or a video file; see `jaxpose.predict.media`."""
    if is_live(source):
        live = Live(source)
        return media.stream(live.source, live)
    return media.video(source)


def paced(video: media.Video) -> Iterator[np.ndarray]:
    """Yields the frames of a file at the rate at which it is played."""
    start = time.perf_counter()
    for i, frame in enumerate(video):
        time.sleep(max(start + i / video.rate - time.perf_counter(), 0.0))
        yield frame


class Stalled(ValueError):
    """No frame came for some time."""


class Newest:
    """The newest frame of a source, read by a thread; a context manager.

    Args:
        frames: (h, w, 3) uint8 RGB each.
        wait: Keep a frame until it is taken, so that none is dropped.
        timeout: Seconds.

    Attributes:
        dropped: The number of frames that were passed over.
    """

    def __init__(self, frames: Iterable[np.ndarray], *, wait: bool, timeout: float):
        self.frames, self.wait, self.timeout = frames, wait, timeout
        self.dropped = 0
        self._slot: tuple[int, float, np.ndarray] | None = None
        self._ended = self._stopped = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        try:
            for i, frame in enumerate(self.frames):
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or not self.wait or self._slot is None)
                    if self._stopped:
                        return
                    self.dropped += self._slot is not None
                    self._slot = i, time.perf_counter(), frame
                    self._changed.notify_all()
        except Exception as error:  # it belongs to whoever asks for the next frame
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def __enter__(self) -> Newest:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def forget(self) -> None:
        """Leaves out the frame that is there, unless every frame is wanted, and counts dropped frames from here."""
        with self._changed:
            self._slot = self._slot if self.wait else None
            self.dropped = 0

    def take(self) -> tuple[int, float, np.ndarray] | None:
        """Returns the number of the newest frame, the time when it was read, and the frame; None at the end.

        A frame that is kept until it is taken counts as read then: that it had to wait says nothing of the net.

        Raises:
            Stalled: No frame came within the timeout.
            Exception: What the source raised.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._slot is not None or self._ended, self.timeout):
                raise Stalled(f"no picture for {self.timeout:g} s: the stream has stalled (--timeout)")
            taken, self._slot = self._slot, None
            self._changed.notify_all()
        if taken is None and self._error is not None:
            raise self._error
        return (taken[0], time.perf_counter(), taken[2]) if taken is not None and self.wait else taken


@dataclass
class Summary:
    """What a run of `jaxpose live` took.

    Attributes:
        latencies: Seconds from reading a frame to its line, of every frame but the first, which compiles.
        first: Seconds of the first frame.
        dropped: Frames that were passed over.
        seconds: From the second frame to the end.
    """

    latencies: list[float] = field(default_factory=list)
    first: float = 0.0
    dropped: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns figures for JSON; None where there are too few frames.

        >>> Summary([0.01, 0.03], first=2.0, dropped=1, seconds=0.1).to_dict()["latency_ms_median"]
        20.0
        """
        count = len(self.latencies)
        median, high = (round(1000 * float(np.quantile(self.latencies, q)), 1) if count else None for q in (0.5, 0.95))
        rate = round(count / self.seconds, 2) if count and self.seconds > 0 else None
        figures = {"latency_ms_median": median, "latency_ms_p95": high, "frames_per_second": rate}
        return {
            "frames": count + (self.first > 0),
            "dropped": self.dropped,
            **figures,
            "first_frame_s": round(self.first, 2),
        }


def run(
    frames: Newest,
    predictor: Callable[..., Poses],
    lines: TextIO,
    *,
    follow: bool,
    show: Callable[[np.ndarray, Poses], None] | None = None,
    max_frames: int | None = None,
) -> Summary:
    """Predicts frame after frame until the source ends, stalls, or is interrupted; writes a line for each, and the summary.

    Args:
        frames: The source.
        predictor: (image, boxes) -> poses.
        lines: Where lines are written.
        follow: Look at the box around the last pose.
        show: Is called with every frame and its poses.
        max_frames: The number of frames to stop after.

    Returns:
        The figures of the run.

    Raises:
        Stalled: The stream stalled; the summary is written before.
    """
    summary, box = Summary(), None
    start = None
    try:
        while max_frames is None or len(summary.latencies) + (summary.first > 0) < max_frames:
            taken = frames.take()
            if taken is None:
                break
            number, read, image = taken
            poses = predictor(image, None if box is None else [box])
            line = record(poses, frame=number)
            done = time.perf_counter()
            if summary.first == 0:
                summary.first, start, origin = done - read, done, read
                frames.forget()  # what came while the net was compiled is old, and says nothing about dropping
            else:
                summary.latencies.append(done - read)
            line |= {"time_s": round(read - origin, 3), "latency_ms": round(1000 * (done - read), 1)}
            print(json.dumps(line), file=lines, flush=True)
            box = box_after(poses, image.shape[1::-1]) if follow else None
            if show is not None:
                show(image, poses)
    except KeyboardInterrupt:
        log.warning("stopped")
    finally:
        summary.dropped = frames.dropped
        summary.seconds = 0.0 if start is None else time.perf_counter() - start
        print(json.dumps({"summary": summary.to_dict()}), file=lines, flush=True)
    return summary


def record(poses: Poses, *, frame: int) -> dict[str, Any]:
    """Returns the line of one frame: x, y and confidence of every joint, pixels, and standard deviations where there are any."""
    people = []
    for p in range(len(poses)):
        joints = np.concatenate([poses.xy[p].round(2), poses.confidence[p, :, None].round(4)], -1)
        person = {"score": round(float(poses.score[p]), 4), "keypoints": joints.ravel().tolist()}
        if poses.deviation is not None:
            person["deviation"] = poses.deviation[p].round(2).ravel().tolist()
        people.append(person)
    return {"frame": frame, "people": people}


def box_after(poses: Poses, size_wh: tuple[int, int]) -> list[float] | None:
    """Returns the box to look at in the next frame: around the joints of the first person, enlarged; None: the whole frame.

    Args:
        poses: Those of this frame.
        size_wh: The width and height of the frame.

    >>> from jaxpose.skeleton import COCO17
    >>> xy = np.stack([np.linspace(100, 200, 17), np.linspace(50, 250, 17)], -1)[None]
    >>> [round(v) for v in box_after(Poses(xy, np.ones((1, 17)), np.ones(1), COCO17), (640, 480))]
    [60, 10, 180, 280]
    >>> box_after(Poses(xy, np.full((1, 17), 0.1), np.ones(1), COCO17), (640, 480)) is None
    True
    """
    if not len(poses) or poses.confidence[0].mean() < LOST:
        return None
    trusted = poses.confidence[0] >= min(LOST, float(np.median(poses.confidence[0])))
    low, high = poses.xy[0][trusted].min(0), poses.xy[0][trusted].max(0)
    margin = max(MARGIN * float((high - low).max()), LEAST / 2)
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, size_wh)
    if (high - low).min() < LEAST:  # at the border, or gone
        return None
    return [*low.tolist(), *(high - low).tolist()]


def draw_frame(image: np.ndarray, poses: Poses, *, draw_above: float) -> np.ndarray:
    """Returns the frame with its poses drawn on it."""
    return draw(image, poses.xy, poses.confidence > draw_above, poses.skeleton, outlines=[], box=None)


class Page:
    """A page on this machine that shows the newest picture, as a stream of JPEGs; a context manager.

    Args:
        port: Where browsers find it.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, port: int):
        self._jpeg, self._changed, self._ended = b"", threading.Condition(), False
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for jpeg in page._pictures():
                        self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n")
                except OSError:  # the browser has left
                    return

            def log_message(self, *_: Any) -> None: ...

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise OSError(
                f"--page {port}: no page can be shown there ({error.strerror}); give another number"
            ) from None
        self._server.daemon_threads = True

    def _pictures(self) -> Iterator[bytes]:
        last = b""
        while True:
            with self._changed:
                while not self._ended and self._jpeg is last:
                    self._changed.wait()
                if self._ended:
                    return
                last = self._jpeg
            yield last

    def show(self, image: np.ndarray) -> None:
        """Shows a picture (h, w, 3) uint8 RGB."""
        encoded = opencv().imencode(".jpg", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
        with self._changed:
            self._jpeg = encoded
            self._changed.notify_all()

    def __enter__(self) -> Page:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        log.warning("poses are shown at http://127.0.0.1:%d", self._server.server_port)
        return self

    def __exit__(self, *_: Any) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
