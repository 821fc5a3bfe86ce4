"""Finds the image files that a label file names in the image folder, also under similar names, and never outside it."""

from __future__ import annotations

import difflib
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jaxpose.data.reading import Links

__all__ = ["ImageFiles"]

MOST_HINTS = 3  # each hint compares a name with all files


class ImageFiles:
    """The files of an image folder, looked up by the names in a label file.

    Args:
        folder: The image folder.
        follow_links: The same as in `jaxpose.data.reading.Reading`.
    """

    def __init__(self, folder: str | Path, *, follow_links: Links = "files"):
        if follow_links not in ("files", "all", "none"):
            raise ValueError(f"follow_links must be 'files', 'all' or 'none', got {follow_links!r}")
        self.folder, self.follow_links = str(folder), follow_links
        self.root = os.path.realpath(folder)
        self.outside: list[str] = []  # names of files outside the folder, reached through links
        self._parents: dict[str, bool] = {}
        self._hints = 0

    def find(self, name: Any) -> tuple[str, str]:
        """Finds a file.

        Args:
            name: The name in the label file.

        Returns:
            Its name within the folder, and how it differs: "" for the same name, else a few words.

        Raises:
            ValueError: The name is not valid, or leads out of the folder. The first argument is a kind, the second a
                clause that begins with "which".
            FileNotFoundError: No file, or more than one, has a similar name; the arguments are as above.
        """
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(
                "file name unusable", f"which is not the name of a file: expected a path within {self.root}"
            )
        if "\\" in name:
            raise ValueError("file name unusable", "which has a backslash: write / between folders")
        parts = name.split("/")
        outside = ValueError("file name outside the folder", f"which leads out of the image folder {self.root}")
        if ".." in parts:
            raise outside
        absolute = os.path.isabs(name)
        if absolute:
            inside = os.path.relpath(os.path.join(os.path.realpath(os.path.dirname(name)), parts[-1]), self.root)
            if not inside.startswith("..") and self._is_file(inside):
                return inside, "as an absolute name"
        elif self._is_file(name):
            return name, ""
        near = self._near(name.lstrip("/"))
        if near is not None:
            return near
        if absolute:
            raise outside
        raise FileNotFoundError("image file absent", f"which is not in {self.folder}{self._hint(name)}")

    def _is_file(self, name: str) -> bool:
        """Tells whether a name within the folder is a file. Links are followed as far as `follow_links` permits.

        Raises:
            ValueError: The name is a link that must not be followed.
        """
        path = os.path.join(self.root, name)
        try:
            mode = os.lstat(path).st_mode
        except (OSError, ValueError):
            return False
        link = stat.S_ISLNK(mode)
        if not link and not stat.S_ISREG(mode):
            return False
        if link and not os.path.isfile(path):
            return False
        if not self._inside(os.path.dirname(path)):
            if self.follow_links != "all":
                raise ValueError(
                    "file name outside the folder",
                    f"which leads out of the image folder {self.root} through a link of a folder: give the folder that the "
                    "link leads to, or follow such links (--follow-links all)",
                )
            self.outside.append(name)
        elif link and not _within(os.path.realpath(path), self.root):
            if self.follow_links == "none":
                raise ValueError(
                    "file name outside the folder",
                    f"which leads out of the image folder {self.root} through a link: copy the file, or follow links of "
                    "files (--follow-links files)",
                )
            self.outside.append(name)
        return True

    def _inside(self, parent: str) -> bool:
        if parent not in self._parents:
            self._parents[parent] = _within(os.path.realpath(parent), self.root)
        return self._parents[parent]

    @cached_property
    def _files(self) -> list[str]:
        """The names of all files below the folder."""
        names = []
        for place, _, files in os.walk(self.root, followlinks=self.follow_links == "all"):
            inside = os.path.relpath(place, self.root)
            names += [file if inside == "." else f"{inside}/{file}" for file in files]
        return sorted(names)

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        """The files by their names without regard to case and Unicode form."""
        files: dict[str, list[str]] = defaultdict(list)
        for name in self._files:
            files[_key(name)].append(name)
        return files

    @cached_property
    def _by_last(self) -> dict[str, list[str]]:
        files: dict[str, list[str]] = defaultdict(list)
        for name in self._files:
            files[_key(name.rpartition("/")[2])].append(name)
        return files

    def _near(self, name: str) -> tuple[str, str] | None:
        """Returns the only file with a similar name, and how it differs."""
        spellings = [(name, "in another Unicode form or case")]
        if unquote(name) != name:
            spellings.append((unquote(name), "percent-encoded"))
        for spelling, how in spellings:
            for tail, without in _tails(spelling, how):
                fitting = self._by_key.get(_key(tail), [])
                exact = [file for file in fitting if _normal(file) == _normal(tail)]
                for files in (exact, fitting):
                    if len(files) == 1 and self._is_file(files[0]):
                        return files[0], without
                if fitting:
                    return None  # more than one
        fitting = self._by_last.get(_key(spellings[-1][0]), [])
        if "/" not in spellings[-1][0] and len(fitting) == 1 and self._is_file(fitting[0]):
            return fitting[0], "in a folder within the image folder"
        return None

    def _hint(self, name: str) -> str:
        self._hints += 1
        if self._hints > MOST_HINTS:
            return ""
        if not self._files:
            return ": there is no file in it; give the image folder (--images)"
        last = _key(name.rpartition("/")[2])
        same = self._by_last.get(last, [])
        if len(same) > 1:
            return f": there are {len(same)} files of nearly this name, such as {same[0]!r} and {same[1]!r}"
        close = difflib.get_close_matches(last, list(self._by_last)[:50_000], 1, 0.8)
        if close:
            return f": did you mean {self._by_last[close[0]][0]!r}?"
        return f": the image folder is {self.folder}, which holds {len(self._files)} files such as {self._files[0]!r}"


def _tails(name: str, how: str) -> Iterator[tuple[str, str]]:
    """Yields the name, then without its first folder, without its first two, ..."""
    parts = name.split("/")
    yield name, how
    for i in range(1, len(parts)):
        yield "/".join(parts[i:]), "without a leading folder"


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _key(name: str) -> str:
    return _normal(name).casefold()


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
