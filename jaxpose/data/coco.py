"""Former name of `jaxpose.data.formats.coco` and of what moved out of it, for scripts that import it."""

from __future__ import annotations

from jaxpose.data.boxes import touches, with_detections, with_jittered_boxes
from jaxpose.data.formats.coco import CocoFolder, assemble, check_joints, find, own_skeleton, read
from jaxpose.data.pixels import decode_picture, load_jpeg
from jaxpose.data.source import DamagedData, Source, is_labelled, person_dtype, person_table
from jaxpose.metrics import AREA_OF_BOX

__all__ = [
    "AREA_OF_BOX",
    "CocoFolder",
    "DamagedData",
    "Source",
    "assemble",
    "check_joints",
    "decode_picture",
    "find",
    "is_labelled",
    "load_jpeg",
    "own_skeleton",
    "person_dtype",
    "person_table",
    "read",
    "touches",
    "with_detections",
    "with_jittered_boxes",
]
