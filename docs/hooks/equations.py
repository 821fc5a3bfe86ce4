"""MkDocs hook: `$...$` and `$$...$$` become MathML while the site is built, so that no page loads a script for them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as etree

import latex2mathml.converter
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

# What TeX spaces by itself and latex2mathml does not: a function before its argument, bars around theirs.
SPACING = (
    (r"\\(log|ln)\s*(?=\\[a-z]|(?<=\s)\w)", r"\\\1\\, "),
    (r"\\lvert\b", r"\\left\\vert"),
    (r"\\rvert\b", r"\\right\\vert"),
)


class Equation(InlineProcessor):
    """One equation; between two dollar signs in the line, between two pairs of them on a line of its own."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:
        display = m.group(1) is not None
        latex = m.group(1) if display else m.group(2)
        for pattern, replacement in SPACING:
            latex = re.sub(pattern, replacement, latex)
        mathml = latex2mathml.converter.convert(latex.strip(), display="block" if display else "inline")
        unknown = [e.text for e in etree.fromstring(mathml).iter() if e.text and "\\" in e.text]
        if unknown:  # latex2mathml passes on what it does not know
            raise ValueError(f"equation {latex!r}: no MathML for {unknown}")
        return self.md.htmlStash.store(mathml), m.start(0), m.end(0)


class Equations(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        # After code spans (190), before backslash escapes (180), which would eat the equation's.
        md.inlinePatterns.register(Equation(r"\$\$(.+?)\$\$|(?<!\w)\$(?! )([^$\n]+?)\$(?!\w)", md), "equation", 185)


def on_config(config):
    config.markdown_extensions.append(Equations())
    return config
