"""One page an experiment: `python -m experiments.NAME`."""

import os

# distrax brings TensorFlow in where it is installed, and TensorFlow greets; before any import that could.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
