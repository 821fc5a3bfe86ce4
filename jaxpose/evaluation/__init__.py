"""From predictions to scores. The interface is a result JSON: whatever writes one can be scored, without JAX.

``results`` builds, checks, rescores, suppresses, writes and reads result records; ``coco`` computes average precision and
recall; ``mpii`` computes PCKh; ``poses_3d`` computes errors of poses in space; ``cases`` pairs predictions with people;
``report`` breaks the errors down; ``nms`` is OKS non-maximum suppression. The command is
``jaxpose evaluate GROUND_TRUTH.json RESULTS.json``.
"""

from jaxpose.evaluation import cases, mpii, poses_3d, report, results
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
    "poses_3d",
    "report",
    "results",
    "soft_oks_nms",
]
