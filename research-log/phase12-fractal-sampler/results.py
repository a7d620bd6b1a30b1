# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Copy the figures of the recorded sweeps into RESULTS.md, so that no figure in it is typed by hand.

    python results.py --record --cells=0003-generate --trees=0004-generate    take these runs into recorded/
    python results.py             write their figures into RESULTS.md, between its markers
    python results.py --check     exit code 1 if RESULTS.md says anything else than the recorded runs
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "recorded"
BEGIN, END = "<!-- figures: written by results.py -->\n", "<!-- end of figures -->\n"
AXES = ("temperature", "top_p", "n")
FIGURES = ("pass_at_1", "valid_at_1", "majority_vote", "pass_at_n", "tree_accuracy", "unreadable", "num_problems",
           "num_nodes", "num_samples", "samples_per_second", "generation_seconds", "load_seconds")


# ----------------------------------------------------------------------------------------------------------------------
# The recorded runs


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def record(cells: str, trees: str) -> None:
    RECORDED.mkdir(exist_ok=True)
    for name, run in (("cells", cells), ("trees", trees)):
        lines = [run_line(run), *(member_line(run, config) for config in read(HERE / "runs" / run / "configs.jsonl"))]
        (RECORDED / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for picture in ("quality.png", "time.png"):
        shutil.copy(HERE / "runs" / cells / "report" / picture, RECORDED / picture)
    training = json.loads((HERE / "checkpoints" / "final" / "training.json").read_text())["training"]
    logged = [line for line in read(HERE / "metrics.jsonl") if line["training"] == training]
    (RECORDED / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))


def run_line(run: str) -> dict:
    result = json.loads((HERE / "runs" / run / "result.json").read_text())
    seconds = {step["name"]: step["seconds"] for step in result["steps"]}
    return {"event": "run", "run": run, "digest": result["digest"], "seconds": seconds, "ok": result["ok"]}


def member_line(run: str, config: dict) -> dict:
    """The member's figures, and for each problem whether it came out right: two members can be compared pair by pair."""
    folder = HERE / "samples" / run
    told = json.loads((folder / f"{config['member']}.json").read_text())
    lines = [line for line in read(folder / f"{config['member']}.jsonl") if "right" in line]
    right = "".join("1" if line["right"] else "0" for line in lines)
    return {"event": "member", "member": config["member"], "values": config["values"],
            "figures": {name: told[name] for name in FIGURES}, "right": right}


# ----------------------------------------------------------------------------------------------------------------------
# The tables


def members_of(name: str) -> dict[tuple, dict]:
    """The members by their place on the axes."""
    lines = [line for line in read(RECORDED / f"{name}.jsonl") if line["event"] == "member"]
    return {tuple(line["values"][axis] for axis in AXES): line for line in lines}


def training_line() -> str:
    lines = {line["event"]: line for line in read(RECORDED / "metrics.jsonl")}
    settings = lines["start"]["settings"]
    return (f"The cell: preset `{settings['model']}`, noise {settings['noise']}, {settings['steps']:,} steps of "
            f"{settings['effective_batch']} expressions. At the end it answers "
            f"{lines['end']['exact_match']:.3f} of its unseen test cells rightly when decoded greedily.")


def cells_table(members: dict[tuple, dict]) -> list[str]:
    ns = sorted({place[2] for place in members if place[0] > 0})
    rows = ["| temperature | top_p | pass@1 | valid@1 | " + " | ".join(f"vote of {n}" for n in ns[1:])
            + f" | a valid one among {ns[-1]} | samples/s |", "| ---: " * (6 + len(ns) - 1) + "|"]
    for temperature, top_p in dict.fromkeys(place[:2] for place in members):
        own = {n: members[temperature, top_p, n]["figures"] for n in ns}
        last = own[ns[-1]]
        votes = " | ".join(f"{own[n]['majority_vote']:.3f}" for n in ns[1:])
        rows.append(f"| {temperature} | {top_p} | {last['pass_at_1']:.3f} | {last['valid_at_1']:.3f} | {votes} "
                    f"| {last['pass_at_n']:.3f} | {last['samples_per_second']:.0f} |")
    return rows


def trees_table(members: dict[tuple, dict]) -> list[str]:
    rows = ["| temperature | n | right answers at a node (vote) | right trees | if errors just multiplied |",
            "| ---: " * 5 + "|"]
    for (temperature, _, n), line in members.items():
        figures = line["figures"]
        nodes_a_tree = figures["num_nodes"] / figures["num_problems"]
        alone = figures["majority_vote"] ** nodes_a_tree
        rows.append(f"| {temperature} | {n} | {figures['majority_vote']:.3f} | {figures['tree_accuracy']:.3f} "
                    f"| {alone:.3f} |")
    return rows


def compared(one: dict, other: dict) -> str:
    """Problems that only one of the two gets right, and how likely so uneven a split is by chance (sign test)."""
    wins = sum(a > b for a, b in zip(one["right"], other["right"], strict=True))
    losses = sum(a < b for a, b in zip(one["right"], other["right"], strict=True))
    num = wins + losses
    tail = sum(math.comb(num, k) for k in range(max(wins, losses), num + 1)) / 2**num if num else 0.5
    return f"{wins} won, {losses} lost, p = {min(1.0, 2 * tail):.2g}"


def comparisons(members: dict[tuple, dict], what: str) -> list[str]:
    greedy = next(line for place, line in members.items() if place[0] == 0)
    most = max(place[2] for place in members)
    rows = [f"| majority vote of {most}, against greedy decoding | {what} that only one of the two gets right |",
            "| --- | --- |"]
    for (temperature, top_p, n), line in members.items():
        if n == most and temperature > 0:
            rows.append(f"| temperature {temperature}, top_p {top_p} | {compared(line, greedy)} |")
    return rows


def run_sentence(name: str) -> str:
    lines = read(RECORDED / f"{name}.jsonl")
    run = next(line for line in lines if line["event"] == "run")
    members = [line for line in lines if line["event"] == "member"]
    load = max(line["figures"]["load_seconds"] for line in members)
    generation = sum(line["figures"]["generation_seconds"] for line in members)
    samples = sum(line["figures"]["num_samples"] for line in members)
    num = members[0]["figures"]["num_problems"]
    return (f"Run {run['run']}, plan {run['digest']}: {len(members)} members on the same {num:,} {name}, one process, "
            f"{samples:,} derivations. Loading {load:.0f} s, once; generating {generation:.0f} s; "
            f"the whole step {run['seconds']['start']:.0f} s.")


def figures() -> str:
    cells, trees = members_of("cells"), members_of("trees")
    picture = ["![pass@1, majority vote and pass@n over temperature, top_p and n](recorded/quality.png)"]
    parts = [[training_line()], ["### Cells"], [run_sentence("cells")], cells_table(cells), picture,
             comparisons(cells, "cells"), ["### Trees"], [run_sentence("trees")], trees_table(trees),
             comparisons(trees, "trees")]
    return BEGIN + "\n" + "\n\n".join("\n".join(part) for part in parts) + "\n\n" + END


# ----------------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="take the runs --cells and --trees into recorded/")
    parser.add_argument("--cells", help="the run that swept over cells")
    parser.add_argument("--trees", help="the run that swept over trees")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if RESULTS.md is out of date")
    args = parser.parse_args()
    if args.record:
        record(args.cells, args.trees)
    page = HERE / "RESULTS.md"
    before = page.read_text()
    head, tail = before.split(BEGIN)[0], before.split(END)[1]
    after = head + figures() + tail
    if args.check and after != before:
        sys.exit("RESULTS.md does not say what recorded/ says; run: python results.py")
    if not args.check:
        page.write_text(after)


if __name__ == "__main__":
    main()
