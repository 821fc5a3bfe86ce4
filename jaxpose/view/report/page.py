"""The frame of a self-contained page: its style, its only script, and the policy that allows nothing else.

The style sheet ``report.css`` and the scripts, ``report.js`` (the cases of a report), ``space.js`` (poses in space) and
``scans.js`` (scans with boundaries), are files next to this one.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
from importlib import resources
from typing import Any

from jaxpose.view.palette import LEFT, MIDDLE, RIGHT, TILE_ERROR, TILE_PREDICTION, TILE_TRUTH

__all__ = ["asset", "escaped", "page"]


def escaped(value: Any) -> str:
    """Makes any value safe as the text of an element, or of an attribute in double quotes.

    >>> escaped('<b> "x" \\x00')
    '&lt;b&gt; &quot;x&quot; \ufffd'
    """
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in str(value)), quote=True)


@functools.cache
def asset(name: str) -> str:
    """Reads a file that belongs to the page.

    Args:
        name: "report.css", "report.js", "scans.js" or "space.js".

    >>> asset("report.js").splitlines()[0]
    '"use strict";'
    """
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def page(title: str, body: str, *, script: str = "report.js", command: str = "jaxpose view report") -> str:
    """Combines title and body into a complete document.

    The Content-Security-Policy allows pictures within the page, its own style and the script whose hash it states.

    Args:
        title: the title, plain text.
        body: HTML elements in which every name is `escaped`.
        script: the file of the page's only script.
        command: the command that the footer names.

    Returns:
        The HTML document.

    >>> "script-src 'sha256-" in page("<a>", "") and "<a>" not in page("<a>", "")
    True
    """
    code = "\n" + asset(script)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    colors = (
        f":root {{ --truth: {TILE_TRUTH}; --prediction: {TILE_PREDICTION}; --error: {TILE_ERROR}; --left: {LEFT}; "
        f"--right: {RIGHT}; --middle: {MIDDLE}; }}"
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<style>
{colors}
{asset("report.css")}</style>
</head>
<body>
<main>
{body}
</main>
<footer>Written by <code>{escaped(command)}</code>. The file holds everything that it shows.</footer>
<script>{code}</script>
</body>
</html>
"""
