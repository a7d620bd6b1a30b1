"""The grammar of this phase: cells, derivations, trees, and what is true of them. Pure Python, no model in it."""

from __future__ import annotations

import random
import re
import zlib

SYMBOLS = "TF!&^|()="
BINDING = {"&": 2, "^": 1, "|": 0}  # and, exclusive or, or; the first binds tightest
CELL = re.compile(r"\([^()]*\)")  # a pair of parentheses with no other pair inside: an innermost cell


# ----------------------------------------------------------------------------------------------------------------------
# Cells and their derivations


def parse(cell: str) -> tuple[list[str], list[str]]:
    """The operands and the operators of a flat cell: `(T&!F|T)` has [T, !F, T] and [&, |]."""
    tokens = re.findall(r"!?[TF]|[&^|]", cell)
    return tokens[::2], tokens[1::2]


def literal_value(literal: str) -> bool:
    return literal.endswith("T") ^ literal.startswith("!")


def write(operands: list[str], operators: list[str]) -> str:
    """A cell's text; a single constant stands without parentheses."""
    if not operators:
        return operands[0]
    return "(" + operands[0] + "".join(o + x for o, x in zip(operators, operands[1:], strict=True)) + ")"


def reduce_at(operands: list[str], operators: list[str], i: int, wrong: bool = False) -> tuple[list[str], list[str]]:
    left, right = literal_value(operands[i]), literal_value(operands[i + 1])
    value = {"&": left and right, "^": left != right, "|": left or right}[operators[i]]
    return [*operands[:i], "FT"[value != wrong], *operands[i + 2 :]], [*operators[:i], *operators[i + 1 :]]


def reducible(operators: list[str]) -> list[int]:
    """The operators that may go first: no neighbour binds tighter."""
    return [i for i, operator in enumerate(operators)
            if all(BINDING[operators[j]] <= BINDING[operator] for j in (i - 1, i + 1) if 0 <= j < len(operators))]


def derivation(rng: random.Random, cell: str, noise: float = 0.0) -> str:
    """A way from the cell to its answer, in random order: `(T|T^F)=(T|T)=T`. Each step is wrong with this chance."""
    operands, operators = parse(cell)
    steps = []
    while operators:
        operands, operators = reduce_at(operands, operators, rng.choice(reducible(operators)), rng.random() < noise)
        steps.append(write(operands, operators))
    return "=".join(steps)


def is_valid(cell: str, completion: str) -> bool:
    """True when every step follows from the one before, down to a constant. The answer need not be known for that."""
    for step in completion.split("="):
        operands, operators = parse(cell)
        if step not in {write(*reduce_at(operands, operators, i)) for i in reducible(operators)}:
            return False
        cell = step
    return cell in ("T", "F")


def answer_of(completion: str) -> str | None:
    """The answer that a derivation ends in; None when it ends in anything but T or F."""
    last = completion.rsplit("=", 1)[-1]
    return last if last in ("T", "F") else None


# ----------------------------------------------------------------------------------------------------------------------
# Trees


def substitute(tree: str, answers: dict[str, str]) -> str:
    """The tree after one step: every innermost cell replaced by its answer."""
    return CELL.sub(lambda match: answers[match[0]], tree)


def cell_value(cell: str) -> str:
    operands, operators = parse(cell)
    while operators:
        operands, operators = reduce_at(operands, operators, reducible(operators)[0])
    return "FT"[literal_value(operands[0])]


def evaluate(tree: str) -> str:
    """The true value of a tree, `T` or `F`."""
    while cells := CELL.findall(tree):
        tree = substitute(tree, {cell: cell_value(cell) for cell in cells})
    return tree


def random_tree(rng: random.Random, depth: int, operands: tuple[int, int], branching: float = 0.1) -> str:
    """A tree of exactly this depth: one operand reaches down to it, others branch off with this probability."""
    num_operands = rng.randint(*operands)
    spine = rng.randrange(num_operands)
    text = ""
    for position in range(num_operands):
        text += rng.choice("&^|") if position else ""
        text += "!" if rng.random() < 0.5 else ""
        if depth > 1 and position == spine:
            text += random_tree(rng, depth - 1, operands, branching)
        elif depth > 1 and rng.random() < branching:
            text += random_tree(rng, rng.randint(1, depth - 1), operands, branching)
        else:
            text += rng.choice("TF")
    return f"({text})"


def held_out(expression: str) -> bool:
    """True for one expression in ten: these are never trained on, whatever the seed."""
    return zlib.crc32(expression.encode()) % 10 == 0


def draw_problems(seed: int, count: int, depth: int, operands: tuple[int, int]) -> list[str]:
    """Distinct expressions for testing, none of them trained on, half of them true so that guessing gives 0.5."""
    rng = random.Random(f"{seed} test")
    drawn: list[str] = []
    for _ in range(1000 * count):
        expression = random_tree(rng, depth, operands)
        wanted = held_out(expression) and evaluate(expression) == "TF"[len(drawn) % 2]
        if wanted and expression not in drawn:
            drawn.append(expression)
        if len(drawn) == count:
            break
    return drawn
