"""MPII for the pages: PCKh in addition to EPE."""

from __future__ import annotations

import dataclasses
import logging

from experiments.common import kinds, persons
from experiments.common.kinds import Predictions
from jaxpose.evaluation import mpii as evaluation
from jaxpose.skeleton import Skeleton

log = logging.getLogger(__name__)


def load(config: persons.PersonConfig, *, skeleton: Skeleton | None = None) -> persons.Persons:
    """Loads MPII's splits, with its own scores if the head boxes (gt_valid.mat) are present.

    Without --data, these are synthetic people in MPII's layout. With --eval-only, --val-split test predicts the persons of the test
    set, which have no labels.
    """
    if config.detections is not None:
        raise ValueError("--detections: MPII is evaluated on its own boxes, which belong to its labels")
    if config.val_fraction:
        raise ValueError(
            f"--val-fraction {config.val_fraction:g}: PCKh is counted with the head boxes of --val-split, which are not for the "
            "persons of the training file; leave --val-fraction out"
        )
    kind = persons.load(config, skeleton=skeleton)
    if kind.ground_truth is None:
        return kind
    folder = kinds.synthetic_folder(config) if config.data is None else config.data
    try:
        truth = evaluation.load_truth(evaluation.find_truth(folder, config.val_split))
    except FileNotFoundError as error:
        log.warning("no PCKh, EPE only: %s", error)
        return kind

    last = int(kind.val.persons["annotation_id"].max(initial=0))
    if last > len(truth):
        raise ValueError(
            f"{truth.name} has {len(truth)} persons, the split {config.val_split!r} has {last}: the file belongs to another split"
        )

    def pckh(predictions: Predictions) -> dict[str, float]:
        missing = "wrong" if config.on_bad == "skip" else "error"
        return evaluation.pckh(truth, predictions["xy"], predictions["annotation_id"], on_missing=missing)

    return dataclasses.replace(
        kind, own_scores=pckh, best="PCKh@0.5", headline=("PCKh@0.5", "PCKh@0.1", "AUC", *kind.headline)
    )
