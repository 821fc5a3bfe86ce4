"""The arithmetic of detectors: boxes, anchors, RoIAlign, and the matching of predictions with labels.

Every function is jitted or can be, has static shapes, and takes a mask where a detector has a varying number of things. The two
code bases whose detectors this package reads differ in most of these steps; each function says in which (docs/detection.md).

Boxes are xyxy in the continuous coordinates of detectors, where pixel i covers [i, i + 1): a box that spans an image of width W
is 0..W. The joints of this package are in index coordinates, where pixel i is at i.

>>> from jaxpose.detection import anchors, boxes, keypoint_maps, matching, point_sets, roi_align
"""

from jaxpose.detection import anchors, boxes, keypoint_maps, matching, point_sets, roi_align

__all__ = ["anchors", "boxes", "keypoint_maps", "matching", "point_sets", "roi_align"]
