"""Run a notebook without Jupyter and keep what it prints and draws: `python docs/hooks/run_notebook.py docs/notebooks/NAME.ipynb`."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

DPI = 80  # of the committed pictures


def run(notebook: dict) -> Iterator[tuple[dict, str, list[bytes]]]:
    """The code cells in one namespace, in order: (cell, what it printed, its pictures as PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    names: dict = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.parse("".join(cell["source"])), cell["id"], "exec"), names)
        pictures = []
        for number in plt.get_fignums():
            file = io.BytesIO()
            plt.figure(number).savefig(file, dpi=DPI, metadata={"Software": None})
            pictures.append(file.getvalue())
        plt.close("all")
        yield cell, printed.getvalue(), pictures


def main(path: Path) -> None:
    notebook = json.loads(path.read_text())
    for count, (cell, printed, pictures) in enumerate(run(notebook), 1):
        cell["execution_count"], cell["outputs"] = count, []
        if printed:
            lines = printed.splitlines(keepends=True)
            cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": lines})
        for png in pictures:
            data = {"image/png": base64.b64encode(png).decode()}
            cell["outputs"].append({"data": data, "metadata": {}, "output_type": "display_data"})
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
