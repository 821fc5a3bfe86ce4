"""griffe extension: a docstring's examples, which here need no heading of their own, become its section "Examples"."""

from __future__ import annotations

import griffe


def with_section(text: str) -> str:
    """The docstring with its first `>>> ` line, and all that follows, under a heading.

    Where text follows the examples, they and that text stay one section, in which griffe tells code from text.
    """
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith(">>> ")), None)
    if first is None:
        return text
    return "\n".join([*lines[:first], "", "Examples:", *(f"    {line}" if line else line for line in lines[first:])])


class Examples(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = with_section(obj.docstring.value)
