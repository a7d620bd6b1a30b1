"""Words without quotes that YAML 1.1 reads as something else than what stands there: they are refused.

`2024_01` is the number 202401 to it, `010` is 8, `12e4567` is infinite, `no` is false. Where a text is
wanted, none of them would arrive; where any value may stand, only what Python prints otherwise is in doubt.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from math import isfinite
from typing import Any, get_args, get_origin

import yaml
from omegaconf._utils import get_yaml_loader
from yaml.constructor import SafeConstructor

from runner.config.schema import arrives_as, bare, inner_type, is_text

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLAGS = ("true", "false")


@dataclass(frozen=True)
class Lost:
    """A word at a line (from 1) that would not arrive as it stands, and what to write instead."""

    line: int
    message: str
    hint: str


def lost_words(node: Any, kind: Any, key: str = "") -> Iterator[Lost]:
    """All that would be lost below this node of a YAML file, which is of this type of the schema."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = inner_type(bare(kind), str(name.value))
            if isinstance(name, yaml.ScalarNode) and (key or name.value != "defaults"):
                yield from lost_words(value, inner, f"{key}.{name.value}" if key else name.value)
    elif isinstance(node, yaml.SequenceNode):
        items = get_args(bare(kind))[0] if get_origin(bare(kind)) is list else Any
        for item in node.value:
            yield from lost_words(item, items, key)
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        yield from _lost(node, kind, key)


def _lost(node: yaml.ScalarNode, kind: Any, key: str) -> Iterator[Lost]:
    """This word, if it is one of those."""
    text, tag = node.value, _tag_of(node)
    if tag not in ("int", "float", "bool"):
        return
    value = _read(node, tag)
    if is_text(kind, key):
        is_kept, or_else = arrives_as(value, key) == text, ""
    elif bare(kind) in (int, float):
        is_kept, or_else = (
            not re.match(r"[-+]?0[0-9]|.*:", text),
            f", or as the number that is meant: {value}",
        )
    else:
        is_kept, or_else = _is_plain(value, text), f", or {_meaning(value)}"
    if not is_kept:
        line = node.start_mark.line + 1
        yield Lost(
            line, f"{key}: YAML reads {text} as {_said(value)}", f'Write it in quotes: "{text}"{or_else}'
        )


def _is_plain(value: Any, text: str) -> bool:
    """Whether the word of an argument means what it says: a number by its digits, true and false."""
    if isinstance(value, bool):
        return text.lower() in _FLAGS
    if isinstance(value, int):
        return str(value) == text
    if not isfinite(value):
        return text.lstrip("+-.").lower() in ("inf", "nan")
    return not re.search("[:_]", text) and Decimal(repr(value)) == Decimal(text)


def _said(value: Any) -> str:
    """How YAML's reading is told."""
    return str(value).lower() if isinstance(value, bool) else f"the number {value}"


def _meaning(value: Any) -> str:
    """What to write for what YAML read, if that was meant."""
    return f"{str(value).lower()} for the flag" if isinstance(value, bool) else f"{value} for the number"


def _read(node: yaml.ScalarNode, tag: str) -> Any:
    """The value that OmegaConf gets."""
    maker = SafeConstructor()
    if tag == "bool":
        return maker.construct_yaml_bool(node)
    return maker.construct_yaml_int(node) if tag == "int" else maker.construct_yaml_float(node)


def _tag_of(node: yaml.ScalarNode) -> str:
    """What the word is to OmegaConf, which reads `1e3` as a number and no date; a tag in the file counts."""
    tag = str(node.tag)
    if tag == _resolved(LOADER.yaml_implicit_resolvers, node.value):
        tag = _resolved(_resolvers(), node.value)
    return tag.rpartition(":")[2]


def _resolved(resolvers: dict[Any, list[tuple[str, Any]]], text: str) -> str:
    """The tag of a plain word, as the loader with these resolvers finds it."""
    found = (tag for tag, pattern in resolvers.get(text[:1], []) if pattern.match(text))
    return next(found, "tag:yaml.org,2002:str")


@cache
def _resolvers() -> dict[Any, list[tuple[str, Any]]]:
    """Those of OmegaConf's loader."""
    return get_yaml_loader().yaml_implicit_resolvers  # type: ignore[no-any-return]
