"""Poses of pictures, from a checkpoint: `load` returns a `Predictor`, a `Predictor` returns `Poses`.

    predictor = load("runs/coco_rle")
    poses = predictor("photo.jpg", boxes=[[x, y, w, h]])    # or a list of images, with a list of boxes
    poses.xy, poses.confidence, poses.score, poses.deviation

Top-down nets see a crop around each box; without boxes the whole picture is treated as one person. Nets of whole images
detect the people themselves. Both use the geometry, decoding and test-time averaging of an experiment's evaluation. Two
poses of one person, from overlapping boxes, are both kept (`jaxpose.evaluation.results.suppress` drops the weaker one).
Boxes can come from any person detector, also from one of this package:

    detector = load_detector("runs/fasterrcnn")
    poses = predictor(pictures, [people.scored_boxes for people in detector(pictures)])
"""

from jaxpose.predict.detector import Detections, Detector
from jaxpose.predict.detector import load as load_detector
from jaxpose.predict.poses import Poses
from jaxpose.predict.predictor import Predictor, load
from jaxpose.view.overlay import outlines

__all__ = ["Detections", "Detector", "Poses", "Predictor", "load", "load_detector", "outlines"]
