"""Former name of `jaxpose.data.whole_images`, for scripts that import it."""

from __future__ import annotations

from jaxpose.data.whole_images import chosen, eval_batches, eval_sample, fitted_sizes, sample, train_batches, views

__all__ = ["chosen", "eval_batches", "eval_sample", "fitted_sizes", "sample", "train_batches", "views"]
