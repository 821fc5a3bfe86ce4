"""The console script `jaxpose`: tools around the experiments. `jaxpose --help` lists them."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from jaxpose.buckets import is_url
from jaxpose.files import local

COMMANDS = {
    "new": ("jaxpose.new:main", "Train, evaluate and describe a first model of a labelled set."),
    "evaluate": ("jaxpose.evaluation.command:main", "Score a result file: print a table, then the same numbers as one line of JSON."),
    "submit": ("jaxpose.evaluation.submission:main", "Pack a result file as the server of COCO (.zip) or MPII (.mat) takes it, and "
               "check it by reading it back."),
    "predict": ("jaxpose.predict.command:main", "Predict poses of pictures and videos, or boundaries of scans, or lift joints to 3D."),
    "live": ("jaxpose.predict.live:main", "Predict the poses of a camera or a stream while it runs."),
    "track": ("jaxpose.predict.track:main", "Give the persons of a video their identities."),
    "smooth": ("jaxpose.predict.smooth:main", "Smooth the trajectories of joints by their predicted covariances."),
    "triangulate": ("jaxpose.predict.triangulate:main", "Joints in space from the trajectories of several calibrated cameras."),
    "view": ("jaxpose.view.tools:view", "Draw data, predictions next to the truth, a net's maps, or several runs; write an "
             "evaluation as one HTML file."),
    "import": ("jaxpose.importer:main", "Turn a paper's PyTorch checkpoint into one that the pages evaluate; nothing in the file "
               "is run."),
    "suggest": ("jaxpose.suggest:main", "List the pictures whose labels would teach a model most."),
    "export": ("jaxpose.export:main", "Write a trained net to one file that runs without this package."),
    "prepare": ("jaxpose.data.command:prepare", "Prepare one split of a folder once, so that every later run starts at once."),
    "synthetic": ("jaxpose.data.command:synthetic", "Draw the embedded synthetic people: COCO JSON and JPEG files."),
    "summary": ("jaxpose.summary:main", "Print the parameters and operations of a net of the papers, or of a run's net."),
}  # fmt: skip
"""One line per command: its name, "module:function", and the first line of that function's docstring. The module is
imported when the command is called."""


IN_BUCKETS = (("predict",), ("prepare",), ("view", "compare"))
"""Commands that take folders of buckets, gs://bucket/run, and refuse those that they cannot take themselves."""
STREAM = re.compile(r"(rtsps?|rtmp|https?|udp|tcp)://", re.IGNORECASE)
"""The beginning of the address of a video stream, which `jaxpose predict` and `jaxpose live` accept."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the first word names, and imports that command only.

    Args:
        argv: The words after the program's name; None takes them from `sys.argv`.

    Raises:
        SystemExit: Status 0 after --help; status 2 for a command line that cannot be parsed; one sentence and status 1
            for a fault of a file or of the value of a flag.

    >>> main(["sumary"])
    Traceback (most recent call last):
    SystemExit: 2
    """
    import tyro

    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else ""
    if first in COMMANDS:
        functions = {first: load(first)}
    elif first.startswith(
        "--tyro-"
    ):  # such as --tyro-print-completion: tyro's own flags need the flags of all commands
        functions = {name: load(name) for name in COMMANDS}
    elif first.startswith("-") or not first:
        functions = {name: _described_by(summary) for name, (_, summary) in COMMANDS.items()}
    else:
        print(_unknown(first), file=sys.stderr)
        raise SystemExit(2)
    with _one_line_errors("jaxpose", words):
        tyro.extras.subcommand_cli_from_dict(functions, prog="jaxpose", args=words, description=__doc__)


def alias(command: str, package: str) -> None:
    """Runs a command under its older name ``python -m PACKAGE``.

    Args:
        command: A name among `COMMANDS`.
        package: The package's name, for the help.

    Raises:
        SystemExit: The same as for `main`.
    """
    import tyro

    words = sys.argv[1:]
    with _one_line_errors("error", words):
        tyro.cli(load(command), prog=f"python -m {package}", args=words)


def load(command: str) -> Callable[..., None]:
    """Imports the function of a command.

    Args:
        command: A name among `COMMANDS`.

    >>> load("summary").__module__
    'jaxpose.summary'
    """
    module, _, name = COMMANDS[command][0].partition(":")
    return getattr(import_module(module), name)


@contextmanager
def _one_line_errors(label: str, words: Sequence[str]) -> Iterator[None]:
    """Refuses URLs among the words, and ends the program with one line for an error in a file or a flag."""
    try:
        for word in words:
            value = word.partition("=")[2] if word.startswith("--") else word
            is_stream = words[0] in ("predict", "live") and STREAM.match(
                value
            )  # a camera's address is a valid input of these
            if not is_stream and not (is_url(value) and any(tuple(words[: len(c)]) == c for c in IN_BUCKETS)):
                local(value)
        yield
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{label}: " + " ".join(str(error).split())) from error


def _described_by(summary: str) -> Callable[[], None]:
    """Returns a function that represents a command in the list of `jaxpose --help`, without importing it."""

    def command() -> None: ...

    command.__doc__ = summary
    return command


def _unknown(word: str) -> str:
    nearest = difflib.get_close_matches(word, COMMANDS, n=1)
    question = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return (
        f"jaxpose: there is no command {word!r}.{question} The commands are {', '.join(COMMANDS)}; see jaxpose --help."
    )


if __name__ == "__main__":
    main()
