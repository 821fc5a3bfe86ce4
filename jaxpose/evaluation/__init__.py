"""From predictions to numbers. A result JSON is the border: whatever writes one can be scored, without JAX.

``results`` builds, checks, rescores, thins out, writes and reads result records; ``coco`` gives average precision and
recall; ``mpii`` PCKh; ``cases`` pairs predictions with people; ``report`` says where the errors are; ``nms`` is OKS
non-maximum suppression. On the command line: ``jaxpose evaluate GROUND_TRUTH.json RESULTS.json``.
"""

from jaxpose.evaluation import cases, mpii, report, results
from jaxpose.evaluation.coco import (
    average_precision,
    average_precision_by_category,
    crowdpose_average_precision,
)
from jaxpose.evaluation.nms import oks_nms, soft_oks_nms

__all__ = [
    "average_precision",
    "average_precision_by_category",
    "cases",
    "crowdpose_average_precision",
    "mpii",
    "oks_nms",
    "report",
    "results",
    "soft_oks_nms",
]
