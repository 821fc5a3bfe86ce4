"""`jaxpose predict`: pictures, folders and videos in; overlays, COCO results and tables out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from jaxpose import buckets, tasks
from jaxpose.checkpoint import find, read_config
from jaxpose.data.boxes import BoxFile
from jaxpose.data.reading import Exif
from jaxpose.evaluation.baselines import BASELINES, WHOLE_IMAGE
from jaxpose.files import local, read_json
from jaxpose.hands import Side
from jaxpose.interchange import Format
from jaxpose.predict import lift, media, scans
from jaxpose.predict.guarantee import Guarantee
from jaxpose.predict.inputs import Live, expand_inputs
from jaxpose.predict.sequences import Options
from jaxpose.predict.work import Work

logger = logging.getLogger(__name__)


def main(
    checkpoint: tyro.conf.Positional[Path],
    inputs: tyro.conf.Positional[tuple[str, ...]],
    *,
    out: Path = Path("runs/predict"),
    boxes: Path | None = None,
    detector: Path | None = None,
    category: int = 1,
    min_box_score: float = 0.3,
    max_people: int | None = None,
    overlay: bool = True,
    draw_above: float | None = None,
    region: float | None = None,
    guarantee: bool = False,
    whole_pose: bool = False,
    flip_test: bool | None = None,
    batch_size: int | None = None,
    test_size: int | None = None,
    fit: Literal["short", "long"] | None = None,
    scales: tuple[float, ...] | None = None,
    max_pixels: int = media.MAX_PIXELS,
    recursive: bool = False,
    max_frames: int | None = None,
    formats: tuple[Format, ...] = (),
    within: float = 5.0,
    fps: float = 25.0,
    track: bool = False,
    people: int | None = None,
    exif: Exif | None = None,
    camera: tuple[float, ...] | None = None,
    root_depth: float | None = None,
    side: Side | None = None,
    images: Path | None = None,
    pixel_um: tuple[float, ...] | None = None,
    step: int | Literal["best", "latest"] = "best",
) -> None:
    """Predict poses of pictures and videos, or boundaries of scans, or lift joints to 3D.

    Writes into OUT: NAME_poses.jpg (.mp4 for a video) for every input; results.json, COCO result records; images.json,
    the pictures of their image ids, which pycocotools loads as a data set (it does not load an empty result list, []);
    poses.csv, a row for every joint (of a detector of boxes boxes.csv, a row for everybody). With --formats also the
    trajectories of every video, and of every folder of frames of one size: NAME_poses.npz (mean and covariance of every
    joint), NAME_poses_dlc.csv, NAME_poses.slp, NAME_poses.analysis.h5.

    With a run of experiments.oct_rle the inputs are scans, as pictures or as .mat files of the Duke DME data. It writes
    NAME_boundaries.png for every scan, with the bands of --region (0.9), and boundaries.csv, a row for every boundary and
    column, in pixels and in micrometres (--pixel-um).

    With a run of experiments.h36m_lifting the input is one result file of 2D joints, such as the results.json of another
    run's predict. It writes results_3d.json, joints in mm relative to the root, and space.html, poses that can be turned.

    Args:
        checkpoint: A run's folder, or an imported checkpoint; also in a bucket, gs://bucket/run.
        inputs: Pictures, videos, folders of them, and patterns such as "photos/*.jpg"; the number of a camera, such as
            0; the address of a stream, such as rtsp://camera/1.
        out: The folder for the output files.
        boxes: JSON of a detector, [{"file_name" or "image_id", "bbox": [x, y, w, h], "score", "category_id"}, ...], for
            a video with "frame", from 0; or a COCO data set, whose annotated boxes are taken. None: the whole picture
            is one person. Nets of whole images detect people themselves.
        detector: The run, or imported checkpoint, of a detector, which finds the people that are posed.
        category: Id of the persons in that JSON; boxes without category_id count too.
        min_box_score: Boxes with a lower score are left out, those of a JSON and of a detector, and people of a net of pose anchors.
        max_people: The number of slots of a detector for the people of a picture; None: that of its net, 100 for released ones.
        overlay: Draw the poses.
        draw_above: Joints with a lower confidence are not drawn; the output files have them all. None: 0.2, or 0.05 for the
            probabilities of a detector's maps.
        region: Also draw the region that holds each joint with this probability (nets with a likelihood).
        guarantee: Regions that hold their joints with that probability whether or not the density is right, from the scores
            of the run's calibration set (a run with --calibrate); guarantee.json states them and whether the pictures have
            drifted away from that set, and poses.csv has the limits of every region.
        whole_pose: With --guarantee: regions that hold all joints of a person at once with that probability.
        flip_test: Average with the mirrored picture, at twice the time; None: as the run was evaluated.
        batch_size: The number of crops, or whole images, at a time.
        test_size: For whole images: side of the net's input, a multiple of 64; None: as the run was evaluated.
        fit: For whole images: the side that test_size refers to; None: as the run was evaluated.
        scales: For whole images: scales whose heatmaps are averaged, 1 among them; None: as the run was evaluated.
        max_pixels: Pictures with more pixels are refused.
        recursive: Look into nested folders too.
        max_frames: Stop each camera and stream after this number of frames; None: when it ends, or with Ctrl-C.
        formats: Also write trajectories of videos and folders of frames: npz (mean, covariance and score of every joint,
            jaxpose.trajectories), dlc (the CSV of DeepLabCut), slp and h5 (SLEAP and its analysis file; they need the
            extra labels).
        within: The likelihood in those files is the probability that a joint's error is below this number of image pixels
            (nets with a likelihood; others write their confidence).
        fps: Frames per second of folders of frames; a video has its own.
        track: Give the persons of a video, or of a folder of frames, their identities before trajectories are written (the
            command track).
        people: The number of persons, if it is known; it implies --track.
        exif: Turn pictures as their EXIF orientation says (apply), or take the stored pixels (ignore); auto: turned,
            except for a COCO data set (--boxes), where image sizes and labelled poses decide; None: as the run was
            trained (its --exif).
        camera: For a run in space: f cx cy or fx fy cx cy in pixels of the pictures. None: the size of a person follows from the
            mean length of the training persons' limbs. Hands with depth have joints in space only with it.
        root_depth: For a run in space with --camera: the depth of the root (the wrist of a hand) in mm; the joints are coordinates of
            the camera then.
        side: For hands of a run with --one-side, the side of those whose box does not state it ("hand" in --boxes).
        images: With a lifter: COCO JSON with the sizes of the pictures and the names of the joints; None: images.json beside
            the result file.
        pixel_um: For scans: the height, or the height and the width, of a pixel in micrometres. None: axial_um and lateral_um of
            a .mat file; without them 3.87, that of a Spectralis scan. Scans of another height are resampled for the net.
        step: The checkpoint of the run to load.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = Options(formats=formats, radius=within, fps=fps, tracked=track or people is not None, people=people)
    level = tasks.from_config(read_config(checkpoint, step=step)["task"]).level
    of_people = {
        "boxes": boxes, "detector": detector, "max_people": max_people, "guarantee": guarantee, "whole_pose": whole_pose,
        "draw_above": draw_above, "test_size": test_size, "fit": fit, "scales": scales, "formats": formats, "track": track,
        "people": people, "max_frames": max_frames, "exif": exif, "camera": camera, "root_depth": root_depth, "side": side,
    }  # fmt: skip
    if level == "pair":
        _refuse_flags_of_people(**of_people, what="lifts joints of a result file")
        _refuse_pixel_size(pixel_um, checkpoint)
        lift.run(checkpoint, inputs, out=out, images=images, region=region, step=step, flip_test=flip_test)
        return
    if images is not None:
        raise ValueError(f"--images {images}: it is for a lifter, which {checkpoint} is not; leave it out")
    if level == "scan":
        _refuse_flags_of_people(**of_people)
        settings = {"level": region, "pixel_um": pixel_um, "overlay": overlay, "step": step, "flip_test": flip_test}
        scans.run(checkpoint, inputs, out=out, **settings)
        return
    _refuse_pixel_size(pixel_um, checkpoint)
    local(out)
    inputs = tuple(str(buckets.here(entry, buckets.CACHE)) if buckets.is_url(entry) else entry for entry in inputs)
    files = expand_inputs(inputs, recursive=recursive)
    box_file = (
        None if boxes is None else BoxFile.read(boxes, category=category, min_score=min_box_score).matched(files, boxes)
    )
    from jaxpose import predict

    predictor = predict.load(
        checkpoint,
        step=step,
        flip_test=flip_test,
        batch_size=batch_size,
        test_size=test_size,
        fit=fit,
        scales=scales,
        max_pixels=max_pixels,
        min_score=min_box_score,
        max_people=max_people,
        camera=camera,
        root_depth=root_depth,
        side=side,
    )
    _check_against_net(
        predictor, checkpoint, boxes=boxes, formats=formats, region=region, guarantee=guarantee, whole_pose=whole_pose
    )
    if predictor.hand is not None and not predictor.in_space:
        logger.warning("pixels only: %s", predictor.hand.lacking(camera=None))
    finder = _finder(detector, predictor, checkpoint, boxes=boxes, min_score=min_box_score, max_people=max_people)
    if draw_above is None:
        draw_above = 0.05 if getattr(predictor.task.net, "keypoint_output", None) == "heatmap" else 0.2
    if boxes is None and finder is None and not predictor.finds_people:
        _warn_of_whole_pictures(checkpoint, guarantee=guarantee)
    guaranteed = Guarantee(checkpoint, predictor, level=region, whole_pose=whole_pose) if guarantee else None
    exif = exif_of_run(predictor.config) if exif is None else exif
    work = Work(
        predictor, out, box_file, category=category, overlay=overlay, draw_above=draw_above, region=region, max_pixels=max_pixels,
        max_frames=max_frames, exif=exif, options=options, guarantee=guaranteed, finder=finder,
    )  # fmt: skip
    with work:
        work.run(files)
    _report(work, files, boxes=boxes, formats=formats, min_box_score=min_box_score)


def _check_against_net(
    predictor: Any, checkpoint: Path, *, boxes: Path | None, formats: tuple[Format, ...], region: float | None, guarantee: bool,
    whole_pose: bool,
) -> None:  # fmt: skip
    """Raises a ValueError if a flag asks for something that the net does not predict."""
    from jaxpose import predict

    if predictor.in_space and guarantee:
        raise ValueError("--guarantee: there are no guaranteed regions in space; give --region alone")
    if formats and not predictor.skeleton.num_joints:
        raise ValueError(f"--formats {' '.join(formats)}: the detector in {checkpoint} predicts no joints")
    if boxes is not None and predictor.finds_people:
        raise ValueError(f"--boxes {boxes}: the net in {checkpoint} finds the people itself; leave the boxes out")
    if region is not None and predictor.in_space:
        if predictor.space_density is None or not 0 < region < 1:
            raise ValueError(
                f"--region {region}: expected a level between 0 and 1, and a net with a likelihood in {checkpoint}"
            )
    elif region is not None:
        if predictor.density is None:
            raise ValueError(f"--region {region}: the net in {checkpoint} states no density of its error")
        predict.outlines(predictor.density, region)  # fails before anything is drawn if it cannot be drawn
    if (guarantee and region is None) or (whole_pose and not guarantee):
        raise ValueError(
            "--guarantee needs the level of --region, --whole-pose needs --guarantee: --region 0.9 --guarantee"
        )


def _report(
    work: Work, files: Sequence[Path | Live], *, boxes: Path | None, formats: tuple[Format, ...], min_box_score: float
) -> None:
    """Prints what was predicted, as JSON; raises a ValueError that names the inputs that failed."""
    counts = {
        "pictures": len(work.images),
        "people": len(work.records),
        "failed": len(work.failed),
        "out": str(work.out),
    }
    print(json.dumps(counts | ({"trajectories": [str(path) for path in work.trajectories]} if formats else {})))
    if work.boxes is not None and (unused := work.boxes.unused(work.images)):
        logger.warning("%s: boxes of %d pictures that are not among the inputs", boxes, unused)
    if work.empty:
        is_scored = work.draws_boxes or "candidates" in work.predictor.task.outputs
        logger.warning(
            "no people in %d of %d pictures, such as %s%s",
            len(work.empty), len(work.images), work.empty[0],
            f": people with a score below --min-box-score {min_box_score:g} are left out" if is_scored else "",
        )  # fmt: skip
    if work.failed:
        examples = "; ".join(work.failed[:3]) + (f"; and {len(work.failed) - 3} more" if len(work.failed) > 3 else "")
        raise ValueError(f"{len(work.failed)} problems with {len(files)} inputs, the rest is in {work.out}: {examples}")


def _finder(
    detector: Path | None, predictor, checkpoint: Path, *, boxes: Path | None, min_score: float, max_people: int | None
):
    """Returns the `Detector` of --detector, or None; raises a ValueError where it does not fit the other flags."""
    if detector is None:
        if max_people is not None and predictor.detector is None:
            raise ValueError(f"--max-people {max_people}: the slots of a detector, and there is none (--detector)")
        return None
    if boxes is not None:
        raise ValueError(f"--detector {detector} --boxes {boxes}: both say where people are; give one of them")
    if predictor.finds_people:
        raise ValueError(
            f"--detector {detector}: the net in {checkpoint} finds the people itself; leave the detector out"
        )
    from jaxpose.predict import detector as detectors

    return detectors.load(detector, min_score=min_score, max_people=max_people)


def _warn_of_whole_pictures(checkpoint: Path, *, guarantee: bool) -> None:
    """Warns of whole pictures that are taken for boxes; raises a ValueError where --guarantee was calibrated on boxes."""
    sentence = whole_pictures(checkpoint)
    if sentence and guarantee:
        raise ValueError(f"--guarantee: it holds for boxes such as those of the calibration set. {sentence}")
    if sentence:
        logger.warning("%s", sentence)


def whole_pictures(checkpoint: Path) -> str:
    """Returns a sentence if a net that was trained on crops will see whole pictures; "" if its training boxes were as large.

    Args:
        checkpoint: A run's folder, or an imported checkpoint.
    """
    path = find(checkpoint).parent / BASELINES
    share = read_json(path, "baselines of a run").get("box_share") if path.is_file() else None
    if share is not None and share >= WHOLE_IMAGE:
        return ""
    boxes = "boxes around one person each" if share is None else f"boxes that span {share:.0%} of the picture (median)"
    return (
        f"without --boxes each whole picture is taken for the box of one person, but this net was trained on {boxes}: "
        "expect large errors where a person fills less than that of its box"
    ).replace("%", " %")


def exif_of_run(config: Mapping[str, Any]) -> Exif:
    """Returns the --exif of the checkpoint's run; auto for imported checkpoints and for runs from before the flag."""
    exif = (config.get("run") or {}).get("exif", "auto")
    if exif == "ignore":
        logger.warning("pictures are not turned as their EXIF data say: the run was trained with --exif ignore")
    return exif


def _refuse_pixel_size(pixel_um: tuple[float, ...] | None, checkpoint: Path) -> None:
    """Raises a ValueError if --pixel-um was given to a run that reads no scans."""
    if pixel_um is not None:
        raise ValueError(
            f"--pixel-um {' '.join(f'{value:g}' for value in pixel_um)}: it is for scans, which {checkpoint} does not read; leave "
            "it out"
        )


def _refuse_flags_of_people(*, what: str = "predicts boundaries in scans", **given: Any) -> None:
    """Raises a ValueError if a flag was given that has no meaning for scans, or for joints."""
    for name, value in given.items():
        if value:
            raise ValueError(
                f"--{name.replace('_', '-')}: it is for people in pictures, and this run {what}; leave it out"
            )
