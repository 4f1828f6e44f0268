"""What a setting is: a field of a dataclass that is a flag and a value of config.json.

Its name, type, default, limits and help stand at the field and nowhere else.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping

CONFIG_FILE = "config.json"  # in a run's directory: the values of all its settings


def setting(default, help, *, fixed=False, expert=False, **limits):
    """Makes a field of a dataclass that is a flag, too.

    Args:
        default: Its value where nobody gives one.
        help: What it is, with its unit.
        fixed: Whether a run cannot go on with another value.
        expert: Whether only `--helpfull` shows the flag.
        **limits: `choices`, `lower_bound`, `upper_bound`; `length` of a tuple; whether
            it is a `path`.
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
    """What the value of a setting may be.

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
        self._length = metadata.get("length")
        self._lower = metadata.get("lower_bound", -math.inf)
        self._upper = metadata.get("upper_bound", math.inf)

    def allow(self, value: object) -> bool:
        """Whether a value is one that the setting may have."""
        if value is None:
            return self.is_optional
        values = value if self.is_tuple else (value,)
        has_length = self._length in (None, len(values))
        return has_length and all(map(self.allow_one, values))

    def allow_one(self, value: object) -> bool:
        """Whether a value, or one of a tuple's, is in the limits."""
        if self.choices:
            return value in self.choices
        if self.kind is str or isinstance(value, str):
            return self.kind is type(value)
        return self._lower <= value <= self._upper and math.isfinite(value)

    def __str__(self) -> str:
        if self.choices:
            text = " or ".join(map(str, self.choices))
            text += ", several with commas" if self.is_tuple else ""
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
            return " from {:g} to {:g}".format(*bounds)
        if math.isfinite(self._lower):
            return f" of at least {self._lower:g}"
        return f" of at most {self._upper:g}" if math.isfinite(self._upper) else ""


def check(values: object) -> None:
    """Checks the settings of a dataclass.

    Args:
        values: The instance.

    Raises:
        ValueError: A value is not in its setting's limits.
    """
    hints = typing.get_type_hints(type(values))
    for field in settings_of(type(values)):
        value = getattr(values, field.name)
        limits = Limits(hints[field.name], field.metadata)
        if not limits.allow(value):
            raise ValueError(f"{field.name} must be {limits}, received {value}")


def from_json(kind: type, values: object):
    """Makes a dataclass of what `json` read of it, field by field.

    Raises:
        ValueError: A field is missing, unknown, or has a value of another type or out
            of its limits.
    """
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, found {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if set(values) != set(fields):
        odd = min(set(values) ^ set(fields))
        raise ValueError(f"{odd} is {'unknown' if odd in values else 'missing'}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _convert(name, hints[name], values[name]) for name in fields})


def _convert(name: str, hint, value):
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list):
            (item, _) = typing.get_args(option)
            return tuple(_convert(name, item, x) for x in value)
        if option is float and type(value) in (int, float):
            return float(value)
        if type(value) is option:
            return value
    raise ValueError(f"{name} is {value!r}")
