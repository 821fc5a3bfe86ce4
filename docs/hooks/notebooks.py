"""MkDocs hook: every notebook under docs/ is a page of its text, code, printed lines and pictures, as they were committed."""

from __future__ import annotations

import base64
import json
from pathlib import PurePosixPath

from mkdocs.structure.files import File

FENCE = "````"  # longer than any in a cell


def on_files(files, config):
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        place = PurePosixPath(notebook.src_uri)
        text, pictures = as_markdown(json.loads(notebook.content_string), place.stem)
        text += f"\nThe notebook itself: [{place.name}]({place.name}).\n"
        files.append(File.generated(config, str(place.with_suffix(".md")), content=text))
        for name, png in pictures.items():
            files.append(File.generated(config, str(place.parent / name), content=png))
    return files


def as_markdown(notebook: dict, stem: str) -> tuple[str, dict[str, bytes]]:
    """The page, and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"{FENCE}python\n{source}\n{FENCE}")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![{cell['metadata'].get('alt', 'what the cell draws')}]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"{FENCE}text\n{text.rstrip()}\n{FENCE}")
    return "\n\n".join(parts) + "\n", pictures
