"""Rules of flags, declared at their fields and read here: which values are valid, and whether a resumed run may change them.

    batch_size: Annotated[int, Positive, Fixed] = 256
    nms: Annotated[float | None, Between(0, 1, "an OKS above 0, at most 1, or None", open_low=True), MayChange] = 0.9

Every field has one `Rule` (`AnyValue` if every value is valid). If runs are resumed, it also has one `Resume`: `Fixed`,
`MayChange` or `MayMove`. tyro ignores both. A rule about several flags is a method `check` of the class that holds them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from jaxpose import buckets, files


@dataclass(frozen=True)
class Rule:
    """The valid values of a flag. None is not checked: the type of the field says whether it is valid.

    Attributes:
        holds: function from a value to whether it is valid.
        expected: description of the valid values, for the error message.
    """

    holds: Callable[[Any], bool]
    expected: str

    def problem(self, value: Any) -> str | None:
        """Returns the problem with the value, or None.

        >>> Positive.problem(0)
        '0: expected a positive number'
        """
        return None if self.holds(value) else f"{value}: expected {self.expected}"


@dataclass(frozen=True)
class PathRule(Rule):
    """A path in this machine's file system, not a URL; with `buckets` also a URL of a bucket (gs://, s3://)."""

    buckets: bool = False

    def problem(self, value: Path) -> str | None:
        if self.buckets and buckets.is_url(value):
            return None
        try:
            files.local(value)
        except ValueError as error:
            return str(error)
        return None


def AtLeast(low: float, why: str = "") -> Rule:
    """Returns the rule for numbers from `low` on.

    >>> AtLeast(2, "one to train on, one to evaluate on").problem(1)
    '1: expected 2 or more: one to train on, one to evaluate on'
    """
    return Rule(lambda x: x >= low, f"{low} or more" + (f": {why}" if why else ""))


def Between(low: float, high: float, expected: str, *, open_low: bool = False, open_high: bool = False) -> Rule:
    """Returns the rule for numbers from `low` to `high`, without an end that is open.

    >>> Between(0, 1, "a share, from 0 to below 1", open_high=True).problem(1.0)
    '1.0: expected a share, from 0 to below 1'
    """
    return Rule(lambda x: (low < x if open_low else low <= x) and (x < high if open_high else x <= high), expected)


def MultipleOf(unit: int) -> Rule:
    """Returns the rule for positive multiples of a number.

    >>> MultipleOf(64).problem(100)
    '100: expected a multiple of 64'
    """
    return Rule(lambda x: x >= unit and x % unit == 0, f"a multiple of {unit}")


AnyValue = Rule(lambda _: True, "any value")  # a class of settings, such as Likelihood, checks itself
LocalPath = PathRule(lambda _: True, "a path of this machine")
AnyPath = PathRule(lambda _: True, "a path of this machine, or a URL of a bucket", buckets=True)
Positive = Rule(lambda x: x > 0, "a positive number")
AllPositive = Rule(lambda xs: all(x > 0 for x in xs), "positive numbers")
SomePositive = Rule(lambda xs: len(xs) > 0 and min(xs) > 0, "one or more positive numbers")
Size = Rule(lambda x: min(x) > 0, "a positive width and height")
Increasing = Rule(lambda xs: all(a < b for a, b in itertools.pairwise((0, *xs))), "epochs that increase")
Momentum = Between(0, 1, "a decay between 0 and 1, or None", open_low=True, open_high=True)


@dataclass(frozen=True)
class Resume:
    """How a flag of a resumed run may differ from that of the original run.

    Attributes:
        allows: function (stored value, value now), as JSON holds them, to whether it is still the same run.
    """

    allows: Callable[[Any, Any], bool]


def _same_name(stored: Any, now: Any) -> bool:
    return stored == now or (isinstance(stored, str) and isinstance(now, str) and Path(stored).name == Path(now).name)


Fixed = Resume(lambda stored, now: stored == now)  # it changes the batches or the optimiser
MayChange = Resume(lambda stored, now: True)
MayMove = Resume(_same_name)  # a folder of the same name in another place


@dataclass(frozen=True)
class Unsaid:
    """The meaning of a flag that is None, or that did not exist when the run was started.

    Attributes:
        value: the meaning; None if the flag has no value then.
        also: other values with which such an older run may be resumed, because they have the same effect.
    """

    value: Any
    also: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Flag:
    """The declarations of a field: its rule, whether a resumed run may change it (None: no run is resumed), and its default meaning."""

    rule: Rule
    resume: Resume | None
    unsaid: Unsaid | None = None


@cache
def flags(kind: type) -> dict[str, Flag]:
    """Returns the declarations of a dataclass, by field.

    Raises:
        TypeError: a field has no rule, or more than one.

    >>> @dataclass
    ... class Config:
    ...     steps: int = 1
    >>> flags(Config)
    Traceback (most recent call last):
    TypeError: Config.steps declares no rule: annotate it, Annotated[int, Positive, Fixed]; see experiments/common/rules.py
    """
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: _flag(f"{kind.__qualname__}.{field.name}", hints[field.name]) for field in dataclasses.fields(kind)
    }


def _flag(name: str, hint: Any) -> Flag:
    metadata = getattr(hint, "__metadata__", ())
    rules, resumes, unsaid = ([m for m in metadata if isinstance(m, kind)] for kind in (Rule, Resume, Unsaid))
    if len(rules) != 1 or len(resumes) > 1:
        raise TypeError(
            f"{name} declares {'more than one' if metadata else 'no'} rule: annotate it, Annotated[int, Positive, Fixed]; "
            "see experiments/common/rules.py"
        )
    return Flag(rules[0], resumes[0] if resumes else None, unsaid[0] if unsaid else None)


def check(config: Any) -> None:
    """Raises a ValueError that names the flag, its value and the valid values.

    Args:
        config: a dataclass whose fields declare their rules. Its method `check`, if it has one, is called last.
    """
    for name, flag in flags(type(config)).items():
        value = getattr(config, name)
        if value is not None and (problem := flag.rule.problem(value)):
            raise ValueError(f"--{name.replace('_', '-')} {problem}")
    together = getattr(config, "check", None)
    if together is not None:
        together()


def resume_rules(kind: type) -> dict[str, Resume]:
    """Returns how each flag of a resumed run may differ.

    Raises:
        TypeError: a field does not declare it.
    """
    silent = [name for name, flag in flags(kind).items() if flag.resume is None]
    if silent:
        raise TypeError(
            f"{kind.__qualname__}: say of {', '.join(silent)} whether a resumed run may change it: Fixed or MayChange"
        )
    return {name: flag.resume for name, flag in flags(kind).items()}


def changes(
    kind: type, stored: Mapping[str, Any], now: Mapping[str, Any], *, allowed: Mapping[str, Resume]
) -> dict[str, tuple[Any, Any]]:
    """Returns the flags that make `now` a different run from `stored`, with both values.

    Args:
        kind: the dataclass of the flags.
        stored: the settings that a run was started with, as JSON holds them; they lack flags that were added later.
        now: the settings to resume with.
        allowed: the allowed difference of each flag; a missing flag may not differ.
    """
    unsaid = {name: flag.unsaid for name, flag in flags(kind).items() if flag.unsaid is not None}
    hints, different = get_type_hints(kind), {}
    for name in now:
        meaning = unsaid.get(name, Unsaid(None))
        if name not in stored and (name not in unsaid or now[name] in meaning.also):
            continue
        pair = tuple(meaning.value if run.get(name) is None else run[name] for run in (stored, now))
        if dataclasses.is_dataclass(hints[name]) and all(isinstance(values, dict) for values in pair):
            pair = tuple(_completed(hints[name], values) for values in pair)
        if not allowed.get(name, Fixed).allows(*pair):
            different[name] = pair
    return different


def _completed(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested settings as JSON holds them, with the defaults of fields that were added after the run was started."""
    fields = dataclasses.fields(kind)
    missing = {f.name: f.default for f in fields if f.name not in values and f.default is not dataclasses.MISSING}
    return {**json.loads(json.dumps(missing)), **values}
