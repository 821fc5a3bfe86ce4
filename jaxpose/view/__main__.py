"""``python -m jaxpose.view``: the older name of `jaxpose view`."""

from jaxpose.cli import alias

if __name__ == "__main__":
    alias("view", "jaxpose.view")
