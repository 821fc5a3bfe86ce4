"""``python -m jaxpose.evaluation``: the older name of `jaxpose evaluate`."""

from jaxpose.cli import alias

if __name__ == "__main__":
    alias("evaluate", "jaxpose.evaluation")
