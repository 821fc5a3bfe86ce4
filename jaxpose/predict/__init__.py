"""Poses of pictures, from a checkpoint: `load` gives a `Predictor`, a `Predictor` gives `Poses`.

    predictor = load("runs/coco_rle")
    poses = predictor("photo.jpg", boxes=[[x, y, w, h]])    # or a list of images, with a list of boxes
    poses.xy, poses.confidence, poses.score, poses.deviation

Nets of persons see a crop around each box; without boxes the whole picture is taken for one person. Nets of whole images find
the people themselves. Both go through the same geometry, decoding and test-time averaging as the evaluation of an experiment; two
poses of one person, from overlapping boxes, are both kept (`jaxpose.evaluation.results.suppress` drops the weaker one).
A person detector is not part of this package: boxes come from any.
"""

from jaxpose.predict.poses import Poses
from jaxpose.predict.predictor import Predictor, load
from jaxpose.view.overlay import outlines

__all__ = ["Poses", "Predictor", "load", "outlines"]
