# /// script
# requires-python = ">=3.11"
# dependencies = ["datasets>=3.0"]
# ///
"""Write a harder test set: unseen cells, rewritten so that their value stays, and so that it changes.

    python mutate.py                              200 cells, a pair of rewrites of each
    python mutate.py --rewrites=4 --seed=1        further away from what they were

Rewrites that keep the value: commutation of two neighbours, a constant for its negated opposite, `x` to `x&x`, `x` to
`x&T`, De Morgan on a conjunction (which makes a tree of depth 2). Rewrites that break it: another operand, another
negation, another operator, until the value has really changed. A breaking line has the keeping rewrites as well.

Writes JSON lines: expression, answer, source, source_answer, rewrites (their names, in order), keeps_value. The file is
written whole, under another name first. generate.py reads it by --problems.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable
from pathlib import Path

from logic import draw_problems, evaluate, parse, reducible, write

HERE = Path(__file__).resolve().parent
Cell = tuple[list[str], list[str]]  # operands and operators


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--num_problems", type=int, default=200, help="cells to rewrite (default: %(default)s)")
    add("--problem_seed", type=int, default=0, help="of the cells, as in generate.py (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the rewrites (default: %(default)s)")
    add("--rewrites", type=int, default=2, help="rewrites that keep the value, for each line (default: %(default)s)")
    add("--min_operands", type=int, default=3, help="operands of the cells, at least (default: %(default)s)")
    add("--max_operands", type=int, default=6, help="operands of cells and rewrites, at most (default: %(default)s)")
    add("--batch_size", type=int, default=100, help="cells a call of datasets.map (default: %(default)s)")
    add("--out", type=Path, default=HERE / "mutations.jsonl", help="file (default: mutations.jsonl here)")
    args = parser.parse_args()
    for name in ("num_problems", "rewrites", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    if not 2 <= args.min_operands <= args.max_operands:
        parser.error(f"--min_operands={args.min_operands} must lie between 2 and --max_operands={args.max_operands}")
    return args


# ----------------------------------------------------------------------------------------------------------------------
# Rewrites that keep the value


def commute(rng: random.Random, operands: list[str], operators: list[str]) -> Cell:
    i = rng.choice(reducible(operators))  # what may be reduced first may also change places
    return [*operands[:i], operands[i + 1], operands[i], *operands[i + 2 :]], operators


def negate_constant(rng: random.Random, operands: list[str], operators: list[str]) -> Cell:
    i = rng.randrange(len(operands))
    opposite = "FT"[operands[i].endswith("F")]
    return [*operands[:i], opposite if operands[i].startswith("!") else "!" + opposite, *operands[i + 1 :]], operators


def double(rng: random.Random, operands: list[str], operators: list[str]) -> Cell:
    i = rng.randrange(len(operands))
    return [*operands[: i + 1], operands[i], *operands[i + 1 :]], [*operators[:i], "&", *operators[i:]]


def and_true(rng: random.Random, operands: list[str], operators: list[str]) -> Cell:
    i = rng.randrange(len(operands))
    return [*operands[: i + 1], "T", *operands[i + 1 :]], [*operators[:i], "&", *operators[i:]]


def de_morgan(rng: random.Random, operands: list[str], operators: list[str]) -> Cell:
    """`a&b` becomes `!(!a|!b)`; a cell without a conjunction stays as it is."""
    places = [i for i, operator in enumerate(operators) if operator == "&"]
    if not places:
        return operands, operators
    i = rng.choice(places)
    inner = f"!({negated(operands[i])}|{negated(operands[i + 1])})"
    return [*operands[:i], inner, *operands[i + 2 :]], [*operators[:i], *operators[i + 1 :]]


def negated(literal: str) -> str:
    return literal[1:] if literal.startswith("!") else "!" + literal


KEEPING: dict[str, Callable[..., Cell]] = {
    "commute": commute, "negate_constant": negate_constant, "double": double, "and_true": and_true}


# ----------------------------------------------------------------------------------------------------------------------
# Rewrites that may break it


def other_operand(rng: random.Random, operands: list[str], operators: list[str]) -> Cell:
    i = rng.randrange(len(operands))
    return [*operands[:i], operands[i].translate(str.maketrans("TF", "FT")), *operands[i + 1 :]], operators


def other_negation(rng: random.Random, operands: list[str], operators: list[str]) -> Cell:
    i = rng.randrange(len(operands))
    return [*operands[:i], negated(operands[i]), *operands[i + 1 :]], operators


def other_operator(rng: random.Random, operands: list[str], operators: list[str]) -> Cell:
    i = rng.randrange(len(operators))
    return operands, [*operators[:i], rng.choice([o for o in "&^|" if o != operators[i]]), *operators[i + 1 :]]


BREAKING: dict[str, Callable[..., Cell]] = {
    "other_operand": other_operand, "other_negation": other_negation, "other_operator": other_operator}


# ----------------------------------------------------------------------------------------------------------------------
# Lines


def mutant(rng: random.Random, source: str, args: argparse.Namespace, keeps_value: bool) -> dict:
    """One line of the test set."""
    cell, names = parse(source), []
    while len(names) < args.rewrites:
        name = rng.choice(list(KEEPING))
        rewritten = KEEPING[name](rng, *cell)
        if len(rewritten[0]) <= args.max_operands and rewritten not in (cell, parse(source)):
            cell, names = rewritten, [*names, name]
    if not keeps_value:
        cell, names = broken(rng, cell, names)
    elif rng.random() < 0.5 and "&" in cell[1] and len(cell[1]) > 1:
        cell, names = de_morgan(rng, *cell), [*names, "de_morgan"]
    expression = write(*cell)
    return {"expression": expression, "answer": evaluate(expression), "source": source,
            "source_answer": evaluate(source), "rewrites": names, "keeps_value": keeps_value}


def broken(rng: random.Random, cell: Cell, names: list[str]) -> tuple[Cell, list[str]]:
    """Rewritten until the value has changed, by a single rewrite if it can be done."""
    before = evaluate(write(*cell))
    while True:
        name = rng.choice(list(BREAKING))
        candidate = BREAKING[name](rng, *cell)
        if evaluate(write(*candidate)) != before:
            return candidate, [*names, name]
        if rng.random() < 0.05:  # no single change may do it (`T|T|T`): go on from this one
            cell, names = candidate, [*names, name]


def main() -> None:
    args = parse_arguments()

    # ------------------------------------------------------------------------------------------------------------------
    # Load once

    import datasets

    datasets.disable_progress_bars()
    cells = draw_problems(args.problem_seed, args.num_problems, 1, (args.min_operands, args.max_operands))
    sources = datasets.Dataset.from_dict({"source": cells})

    # ------------------------------------------------------------------------------------------------------------------
    # Rewrite: each source has a random generator of its own

    def rewrite(batch: dict) -> dict:
        lines = [mutant(random.Random(f"{args.seed} {source} {keeps}"), source, args, keeps)
                 for source in batch["source"] for keeps in (True, False)]
        return {key: [line[key] for line in lines] for key in lines[0]}

    mutants = sources.map(rewrite, batched=True, batch_size=args.batch_size)

    # ------------------------------------------------------------------------------------------------------------------
    # Save

    args.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.out.with_name(args.out.name + ".tmp")
    mutants.to_json(unfinished)
    os.replace(unfinished, args.out)
    keeping = sum(mutants["keeps_value"])
    print(f"{len(mutants)} expressions from {len(cells)} cells: {keeping} keep the value, the others break it")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
