"""Former name of `jaxpose.data.whole_images`, for scripts that import it."""

from __future__ import annotations

from jaxpose.data.whole_images import eval_batches, eval_sample, fitted_sizes, sample, train_batches, views
from jaxpose.data.whole_images import select_images as chosen

__all__ = ["chosen", "eval_batches", "eval_sample", "fitted_sizes", "sample", "train_batches", "views"]
