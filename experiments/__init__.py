"""One page per experiment, `python -m experiments.NAME`; what the pages share is in `experiments.common`."""

import os

# distrax brings TensorFlow in where it is installed, and TensorFlow greets; before any import that could.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
