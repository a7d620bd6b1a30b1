"""The grammar of this phase: cells, trees, and their true values. Pure Python, no model in it."""

from __future__ import annotations

import random
import re
import zlib

OPERATORS = "&^|"  # and, exclusive or, or; the first binds tightest
SYMBOLS = "TF!&^|()="
CELL = re.compile(r"\([^()]*\)")  # a pair of parentheses with no other pair inside: an innermost cell


def literal_value(literal: str) -> bool:
    return literal.endswith("T") ^ literal.startswith("!")


def cell_value(cell: str) -> bool:
    """The value of one flat cell: `(T&!F|T)` is True."""
    sums = (part.split("^") for part in cell.strip("()").split("|"))
    return any(sum(all(map(literal_value, term.split("&"))) for term in terms) % 2 for terms in sums)


def substitute(tree: str, answers: dict[str, str]) -> str:
    """The tree after one step: every innermost cell replaced by its answer."""
    return CELL.sub(lambda match: answers[match[0]], tree)


def evaluate(tree: str) -> str:
    """The true value of a tree, `T` or `F`."""
    while cells := CELL.findall(tree):
        tree = substitute(tree, {cell: "FT"[cell_value(cell)] for cell in cells})
    return tree


def random_tree(rng: random.Random, depth: int, max_operands: int = 4, branching: float = 0.15) -> str:
    """A tree of exactly this depth: one operand reaches down to it, others branch off with this probability."""
    num_operands = rng.randint(2, max_operands)
    spine = rng.randrange(num_operands)
    text = ""
    for position in range(num_operands):
        text += rng.choice(OPERATORS) if position else ""
        text += "!" if rng.random() < 0.5 else ""
        if depth > 1 and position == spine:
            text += random_tree(rng, depth - 1, max_operands, branching)
        elif depth > 1 and rng.random() < branching:
            text += random_tree(rng, rng.randint(1, depth - 1), max_operands, branching)
        else:
            text += rng.choice("TF")
    return f"({text})"


def balanced_trees(rng: random.Random, depth: int, count: int, max_operands: int = 4) -> list[str]:
    """Trees of this depth, half of them true and half of them false, so that guessing gives 0.5."""
    trees: list[str] = []
    while len(trees) < count:
        tree = random_tree(rng, depth, max_operands)
        if evaluate(tree) == "TF"[len(trees) % 2]:
            trees.append(tree)
    return trees


def held_out(expression: str) -> bool:
    """True for one expression in ten: these are never trained on, whatever the seed."""
    return zlib.crc32(expression.encode()) % 10 == 0
