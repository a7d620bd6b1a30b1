"""What the schema wants behind a key, in words that a person would use."""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from runner.config import RunnerConf
from runner.errors import UsageError

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def type_at(key: str, root: Any = RunnerConf) -> Any:
    """The type of the dotted key in the schema; None where the schema has no such key."""
    for part in key.split(".") if key else ():
        root = inner_type(bare(root), part)
        if root is None:
            return None
    return root


def inner_type(kind: Any, name: str) -> Any:
    """What stands behind a name of a section, or of a mapping whose names are free."""
    if is_dataclass(kind):
        return next((field.type for field in fields(kind) if field.name == name), None)
    return get_args(kind)[1] if get_origin(kind) is dict else Any if kind is Any else None


def bare(kind: Any) -> Any:
    """The type without its Optional."""
    options = [option for option in get_args(kind) if option is not type(None)]
    return options[0] if get_origin(kind) in (Union, UnionType) else kind


def may_be_null(kind: Any) -> bool:
    """Whether null is a value of this type."""
    return kind is Any or type(None) in get_args(kind)


def keys_of(kind: Any) -> list[str]:
    """The names that a section has; none for what is no section, or whose names are free."""
    kind = bare(kind)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []


def is_section_key(key: str) -> bool:
    """Whether this key is one of a section, which needs all of its own."""
    parent, _, name = key.rpartition(".")
    return name in keys_of(type_at(parent))


def wanted(kind: Any) -> str:
    """`a whole number or null`, `a list such as [a, b]`, or a section with its keys."""
    orelse, kind = " or null" * (may_be_null(kind) and kind is not Any), bare(kind)
    if is_dataclass(kind):
        return f"a section with the keys {', '.join(keys_of(kind))}{orelse}"
    if get_origin(kind) is dict:
        inside = bare(get_args(kind)[1])
        what = f"each with {', '.join(keys_of(inside))}" if is_dataclass(inside) else "{name: value}"
        return f"a mapping from names of yours, {what}{orelse}"
    return ("a list such as [a, b]" if get_origin(kind) is list else SCALARS.get(kind, "a value")) + orelse


def refuse_mismatch(value: Any, kind: Any = RunnerConf, key: str = "") -> None:
    """UsageError for what an interpolation brought that the schema does not want there."""
    if (value is None and may_be_null(kind)) or kind is Any:
        return
    kind = bare(kind)
    if not fits(value, kind):
        raise UsageError(f"{key} comes to {shortened(value)} here; it must be {wanted(kind)}")
    for name, item in value.items() if isinstance(value, dict) else ():
        if inner := inner_type(kind, name):  # what was added by + and no section knows is nobody's business
            refuse_mismatch(item, inner, f"{key}.{name}" if key else str(name))


def fits(value: Any, kind: Any) -> bool:
    """Whether the value has the shape of the type: its keys, if it is a section."""
    if is_dataclass(kind):
        return isinstance(value, dict) and set(keys_of(kind)) <= set(value)
    plain = get_origin(kind) or kind
    return isinstance(value, int | float if plain is float else plain)


def shortened(value: Any) -> str:
    """The value on a part of a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
