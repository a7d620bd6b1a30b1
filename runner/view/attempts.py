"""The attempts of a launch for people: a table, and one curl line for all."""

from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap

from runner.plan.plan import Offer, Request, Step

_WIDE = 100  # columns, whatever the terminal has: a plan looks the same everywhere
_MANY = 8
_OWN = ("region_name", "instance_type_name")  # the words in which attempts differ


def attempts_lines(attempts: Sequence[Step]) -> list[str]:
    """A row for each attempt (of many, a row for each type), then what is sent, whole for the first."""
    offers = [step.offer for step in attempts if step.offer]
    rows = _by_type(offers) if len(offers) > _MANY else _one_by_one(offers)
    first, *others = attempts
    if any(_but_own(step) != _but_own(first) for step in others):
        return [*rows, *(f"    {step.command}" for step in attempts)]
    return [
        *rows,
        f"    attempt 1; the others differ from it in {' and '.join(_OWN)} alone:",
        f"    {first.command}",
    ]


def _one_by_one(offers: Sequence[Offer]) -> list[str]:
    """Order, type, region, price, and whether one is free now."""
    rows = [
        (str(number), o.type, o.region, f"${o.usd_per_hour:.2f}/h", "free now" if o.is_free else "")
        for number, o in enumerate(offers, 1)
    ]
    return _aligned(("order", "type", "region", "price", ""), rows)


def _by_type(offers: Sequence[Offer]) -> list[str]:
    """The same, the regions of a type in their order in one row, those with a free machine marked."""
    rows: list[tuple[str, ...]] = []
    before, above = 0, ""
    for (type_name, price), group in groupby(offers, lambda o: (o.type, o.usd_per_hour)):
        names = [o.region + "*" * o.is_free for o in group]
        regions = ", ".join(names)
        order = f"{before + 1}–{before + len(names)}"
        rows.append((order, type_name, f"${price:.2f}/h", "as above" if regions == above else regions))
        before, above = before + len(names), regions
    lines = _aligned(("order", "type", "price", "regions, in this order (* free now)"), rows)
    indent = " " * lines[0].index("regions, ")
    return [
        part
        for line in lines
        for part in wrap(
            line, _WIDE, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    ]


def _aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows below their heads; what is counted stands to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "    "
        + "  ".join(
            cell.rjust(width) if n == 0 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def _but_own(step: Step) -> object:
    """The request without the words in which attempts differ."""
    asked = step.action
    assert isinstance(asked, Request)
    return asked.method, asked.url, {k: v for k, v in asked.json.items() if k not in _OWN}
