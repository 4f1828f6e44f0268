"""What a setting is: a field of a dataclass that is a flag and a value of config.json.

Its name, type, default, limits and help stand at the field and nowhere else.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping

CONFIG_FILE = "config.json"  # in a run's directory: the values of all its settings
_LARGEST = 2**63  # where the integers of TensorFlow end


def setting(default, help, *, fixed=False, expert=False, **limits):
    """Makes a field of a dataclass that is a flag, too.

    Args:
        default: Its value where nobody gives one.
        help: What it is, with its unit.
        fixed: Whether a run cannot go on with another value.
        expert: Whether only `--helpfull` shows the flag.
        **limits: `choices`, and a `remark` on them; `lower_bound`, `upper_bound`;
            `length` of a tuple; whether it is a `path`.
    """
    metadata = {"help": help, "fixed": fixed, "expert": expert, **limits}
    return dataclasses.field(default=default, metadata=metadata)


def expert_setting(default, help, **limits):
    """Makes a setting whose flag only `--helpfull` shows; see `setting`."""
    return setting(default, help, expert=True, **limits)


def settings_of(kind: type) -> list[dataclasses.Field]:
    """The fields of a dataclass that are settings."""
    return [field for field in dataclasses.fields(kind) if "help" in field.metadata]


class Limits:
    """What the value of a field may be.

    Attributes:
        kind: int, float, bool or str, of the value or of each in a tuple.
        is_tuple: Whether it is a tuple.
        is_optional: Whether it may be None.
        choices: All that there are; None for any.
    """

    def __init__(self, annotation: object, metadata: Mapping[str, object]):
        """Reads them off a field's type and its metadata."""
        kinds = {annotation}
        if isinstance(annotation, types.UnionType):
            kinds = set(typing.get_args(annotation))
        self.is_optional = types.NoneType in kinds
        (kind,) = kinds - {types.NoneType}
        self.is_tuple = typing.get_origin(kind) is tuple
        self.kind = typing.get_args(kind)[0] if self.is_tuple else kind
        self.choices = metadata.get("choices")
        self._remark = metadata.get("remark", "")
        self._length = metadata.get("length")
        self._lower = metadata.get("lower_bound", -math.inf)
        self._upper = metadata.get("upper_bound", math.inf)

    def allow(self, value: object) -> bool:
        """Whether a value is one that the setting may have."""
        if value is None:
            return self.is_optional
        if not self.is_tuple:
            return self._allow_one(value)
        return (
            isinstance(value, tuple)
            and self._length in (None, len(value))
            and all(map(self._allow_one, value))
        )

    def _allow_one(self, value: object) -> bool:
        kinds = {int: numbers.Integral, float: numbers.Real}  # NumPy's numbers, too
        is_of_kind = isinstance(value, kinds.get(self.kind, self.kind))
        if not is_of_kind or isinstance(value, bool) != (self.kind is bool):
            return False
        if self.choices:
            return value in self.choices
        if self.kind is str:
            return True
        return self._lower <= value <= self._upper and abs(value) < _LARGEST

    def __str__(self) -> str:
        if self.choices:
            text = " or ".join(map(str, self.choices))
            text += ", several with commas" if self.is_tuple else self._remark
        else:
            names = {bool: "yes or no", int: "a whole number", float: "a number"}
            text = names.get(self.kind, "a text")
            if self._length:
                text = f"{self._length} numbers with commas"
            elif self.is_tuple:
                text += " or several with commas"
            text += self._describe_bounds()
        return text + (", or none" if self.is_optional else "")

    def _describe_bounds(self) -> str:
        bounds = (self._lower, self._upper)
        if all(map(math.isfinite, bounds)):
            return " from {:.15g} to {:.15g}".format(*bounds)
        if math.isfinite(self._lower):
            return f" of at least {self._lower:g}"
        return f" of at most {self._upper:g}" if math.isfinite(self._upper) else ""


def check(values: object) -> None:
    """Checks the fields of a dataclass, but those that are dataclasses themselves.

    Args:
        values: The instance.

    Raises:
        ValueError: A value is not in its field's limits.
    """
    hints = typing.get_type_hints(type(values))
    for field in dataclasses.fields(values):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        value = getattr(values, field.name)
        limits = Limits(hints[field.name], field.metadata)
        if not limits.allow(value):
            raise ValueError(f"{field.name} must be {limits}, received {value}")


def from_json(kind: type, values: object):
    """Makes a dataclass, which checks its fields, of what `json` read of it.

    Raises:
        ValueError: A field is missing, unknown, or has a value that it may not have.
    """
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, found {values!r}")
    hints = typing.get_type_hints(kind)
    if odd := set(values) ^ set(hints):
        name = min(odd)
        raise ValueError(f"{name} is {'unknown' if name in values else 'missing'}")
    return kind(**{name: _convert(hints[name], values[name]) for name in hints})


def _convert(hint, value):
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)
    return tuple(value) if isinstance(value, list) else value
