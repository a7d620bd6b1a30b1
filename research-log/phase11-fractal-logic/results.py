# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Copy the figures of the recorded run into RESULTS.md, so that no figure in it is typed by hand.

    python results.py --record    take the newest finished trainings of metrics.jsonl into recorded/metrics.jsonl
    python results.py             write their figures into RESULTS.md, between its markers
    python results.py --check     exit code 1 if RESULTS.md says anything else than the recorded run
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "recorded" / "metrics.jsonl"
BEGIN, END = "<!-- figures: written by results.py -->\n", "<!-- end of figures -->\n"


# ----------------------------------------------------------------------------------------------------------------------
# The recorded run


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def finished_trainings(lines: list[dict]) -> dict[bool, list[dict]]:
    """The lines of the newest finished training of cells (False) and of whole trees (True)."""
    finished = {line["training"] for line in lines if line["event"] == "end"}
    newest: dict[bool, str] = {}
    for line in lines:
        if line["event"] == "start" and line["training"] in finished:
            newest[line["settings"]["train_depth"] > 1] = line["training"]
    return {whole: [line for line in lines if line["training"] == name] for whole, name in newest.items()}


def record() -> None:
    found = finished_trainings(read(HERE / "metrics.jsonl"))
    if set(found) != {False, True}:
        sys.exit("metrics.jsonl holds no finished training of each kind: run train.py and train.py --train_depth=3")
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text("".join(json.dumps(line) + "\n" for whole in (False, True) for line in found[whole]))


# ----------------------------------------------------------------------------------------------------------------------
# The tables


def training_table(trainings: dict[bool, list[dict]]) -> list[str]:
    rows = ["| | cell | whole trees |", "| --- | --- | --- |"]
    columns = [{line["event"]: line for line in trainings[whole]} for whole in (False, True)]

    def row(name: str, value) -> None:
        rows.append(f"| {name} | " + " | ".join(value(column) for column in columns) + " |")

    row("command", lambda c: f"`python {' '.join(c['start']['command'])}`")
    row("parameters", lambda c: f"{c['start']['num_parameters']:,}")
    row("trained on expressions of depth", lambda c: depths_of(c["start"]["settings"]["train_depth"]))
    row("distinct expressions seen", lambda c: f"{c['start']['num_distinct']:,}")
    row("steps × expressions", lambda c: "{steps:,} × {effective_batch:,}".format(**c["start"]["settings"]))
    row("expressions a second", lambda c: f"{c['train']['samples_per_second']:,.0f}")
    row("exact match on unseen expressions of these depths",
        lambda c: f"{c['end']['exact_match']:.4f} of {c['start']['num_test']:,}")
    row("all in all, evaluation included", lambda c: f"{c['end']['seconds']:.0f} s")
    row("machine", lambda c: f"{c['start']['device']}, torch {c['start']['torch']}")
    return rows


def depths_of(train_depth: int) -> str:
    return "1" if train_depth == 1 else f"1 to {train_depth}"


def depth_table(trainings: dict[bool, list[dict]]) -> list[str]:
    by_depth = [{line["depth"]: line for line in trainings[whole] if line["event"] == "depth"}
                for whole in (False, True)]
    rows = ["| depth | cells a tree | cell, applied to itself | … every cell right | cell, directly "
            "| whole trees, directly | whole trees, applied to itself | … every cell right |", "| ---: " * 8 + "|"]
    for depth in sorted(set(by_depth[0]) & set(by_depth[1])):
        cell, trees = (column[depth] for column in by_depth)
        figures = (cell["self_application"], cell["every_cell_right"], cell["direct"], trees["direct"],
                   trees["self_application"], trees["every_cell_right"])
        told = " | ".join(f"{figure:.3f}" for figure in figures)
        rows.append(f"| {depth} | {cell['cells_a_tree']:.1f} | {told} |")
    return rows


def cells_line(trainings: dict[bool, list[dict]]) -> str:
    cells = next(line for line in trainings[False] if line["event"] == "cells")
    num_trees = next(line["num_trees"] for line in trainings[False] if line["event"] == "depth")
    wrong = round(cells["num_cells"] * (1 - cells["exact_match"]))
    return (f"{num_trees} trees a depth, the same for both models, half of them true and half false. They hold "
            f"{cells['num_cells']:,} distinct cells; the cell's model answered {wrong} of them wrong.")


def figures() -> str:
    trainings = finished_trainings(read(RECORDED))
    parts = [training_table(trainings), [cells_line(trainings)], depth_table(trainings)]
    return BEGIN + "\n" + "\n\n".join("\n".join(part) for part in parts) + "\n\n" + END


# ----------------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="take the newest finished trainings of metrics.jsonl")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if RESULTS.md is out of date")
    args = parser.parse_args()
    if args.record:
        record()
    page = HERE / "RESULTS.md"
    before = page.read_text()
    head, tail = before.split(BEGIN)[0], before.split(END)[1]
    after = head + figures() + tail
    if args.check and after != before:
        sys.exit("RESULTS.md does not say what recorded/metrics.jsonl says; run: python results.py")
    if not args.check:
        page.write_text(after)


if __name__ == "__main__":
    main()
