# /// script
# requires-python = ">=3.11"
# dependencies = ["torch>=2.9", "transformers>=5.0", "vllm>=0.30", "tqdm>=4.66"]
# ///
"""Sample derivations from the cell, vote at every node, and count: one generation config, or a sweep of them.

    python generate.py --temperature=0.7 --n=16                        one config
    python generate.py --depth=6 --temperature=1 --n=16                trees: each node's vote is put in its place
    python generate.py --configs=configs.jsonl --out=sweep             a sweep in one process: the model is loaded once
    python generate.py --problems=mutations.jsonl --temperature=0      the test set that mutate.py wrote

A line of configs.jsonl is {"member": 0, "values": {"temperature": 0.2, "n": 16}}; the names are those of the options
here, and options given beside --configs hold for every member that says nothing else.

Each member appends to OUT/MEMBER.jsonl, one line a problem after a line with its options, batch by batch; when it is
through, OUT/MEMBER.json holds its figures. The same command again goes on after the last whole batch and leaves
finished members alone. A member that fails leaves OUT/MEMBER.error.json and the others go on; the exit code is the
first failure's.

vLLM samples where it is installed, transformers otherwise (--backend). Every sample has a seed of its own, from the
seed, the problem, the node and the sample: a member gives the same in a sweep as alone.
"""

from __future__ import annotations

import argparse
import collections
import gc
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from logic import CELL, answer_of, draw_problems, evaluate, is_valid
from sampling import complete, seed_of

HERE = Path(__file__).resolve().parent
STARTED = time.perf_counter()
PROCESS_OPTIONS = ("configs", "out")  # of the process, not of a member
# What a member may change between two attempts and still go on: its samples do not depend on it.
MEMORY_OPTIONS = ("batch_size", "gpu_memory_utilization", "usd_per_hour")


class UsageError(ValueError):
    """An option that cannot be: of one member of a sweep, or of the command line."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UsageError(message)


def make_parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--temperature", type=float, default=0.7, help="0 is greedy: one derivation a node (default: %(default)s)")
    add("--top_p", type=float, default=1.0, help="smallest set of tokens of this probability (default: %(default)s)")
    add("--top_k", type=int, default=0, help="only the k likeliest tokens; 0: all (default: %(default)s)")
    # Out of memory: lower batch_size first, then n; with vLLM also gpu_memory_utilization.
    add("--n", type=int, default=8, help="derivations a node (default: %(default)s)")
    add("--batch_size", type=int, default=50, help="problems sampled and saved together (default: %(default)s)")
    add("--max_tokens", type=int, default=128, help="length of a derivation at most (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    add("--num_problems", type=int, default=200, help="unseen problems drawn (default: %(default)s)")
    add("--problem_seed", type=int, default=0, help="of the problems drawn (default: %(default)s)")
    add("--depth", type=int, default=1, help="1: cells; more: trees of this depth (default: %(default)s)")
    add("--min_operands", type=int, default=3, help="operands in a cell, at least (default: %(default)s)")
    add("--max_operands", type=int, default=6, help="operands in a cell, at most (default: %(default)s)")
    add("--problems", type=Path, help="JSON lines with an `expression` each, instead of problems drawn")
    add("--model", type=Path, default=HERE / "checkpoints" / "final", help="(default: checkpoints/final here)")
    add("--backend", choices=("auto", "vllm", "transformers"), default="auto", help="(default: %(default)s)")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="auto: bfloat16 on a GPU, float32 on a CPU (default: %(default)s)")
    add("--gpu_memory_utilization", type=float, default=0.8, help="vLLM's share of a GPU (default: %(default)s)")
    add("--usd_per_hour", type=float, default=0, help="price of the machine, told as dollars so far (default: 0)")
    add("--configs", type=Path, help="a sweep: JSON lines of members")
    add("--out", type=Path, default=HERE / "generations", help="folder of the results (default: generations here)")
    return parser


def check(options: argparse.Namespace) -> None:
    for name in ("n", "batch_size", "max_tokens", "num_problems", "depth"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} must be at least 1, not {getattr(options, name)}")
    if not 0 < options.top_p <= 1:
        raise UsageError(f"--top_p must be above 0 and at most 1, not {options.top_p}")
    for name in ("temperature", "top_k"):
        if not getattr(options, name) >= 0:
            raise UsageError(f"--{name} must not be negative, but is {getattr(options, name)}")
    if not 2 <= options.min_operands <= options.max_operands:
        raise UsageError(f"--min_operands={options.min_operands} must lie between 2 and {options.max_operands}")


# ----------------------------------------------------------------------------------------------------------------------
# Members


def read_members(args: argparse.Namespace, argv: list[str]) -> list[tuple[str, dict, list[str]]]:
    """Each member's name, its values, and its command line: what the sweep says after what holds for every member."""
    if not args.configs:
        return [("0", {}, argv)]
    members = [json.loads(line) for line in args.configs.read_text().splitlines() if line.strip()]
    return [(str(member["member"]), member["values"], [*argv, *words(member["values"])]) for member in members]


def words(values: dict) -> list[str]:
    """Values as they would be typed: `--key=value`, true and false in small letters, null left out."""
    return [f"--{key}={json.dumps(value) if isinstance(value, bool) else value}" for key, value in values.items()
            if value is not None]


def member_options(values: dict, argv: list[str]) -> argparse.Namespace:
    for name in PROCESS_OPTIONS:
        if name in values:
            raise UsageError(f"--{name} belongs to the whole process, not to one member")
    options = make_parser().parse_args(argv)
    check(options)
    if options.backend == "auto":
        options.backend = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    return options


def load_problems(options: argparse.Namespace) -> list[str]:
    if options.problems:
        lines = options.problems.read_text().splitlines()
        return [json.loads(line)["expression"] for line in lines if line.strip()][: options.num_problems]
    return draw_problems(options.problem_seed, options.num_problems, options.depth,
                         (options.min_operands, options.max_operands))


def samples_a_node(options: argparse.Namespace) -> int:
    return 1 if options.temperature == 0 else options.n


# ----------------------------------------------------------------------------------------------------------------------
# Engines: both give a list of `samples_a_node` completions for each prompt


class TransformersEngine:
    def __init__(self, model: Path, dtype: str, _: float):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()

    def sample(self, prompts: list[str], seeds: list[int], options: argparse.Namespace) -> list[list[str]]:
        count = samples_a_node(options)
        texts = complete(
            self.model, self.tokenizer, [prompt for prompt in prompts for _ in range(count)],
            [seed + i for seed in seeds for i in range(count)], options.temperature, options.top_p, options.top_k,
            options.max_tokens)
        return [texts[start : start + count] for start in range(0, len(texts), count)]


class VllmEngine:
    def __init__(self, model: Path, dtype: str, gpu_memory_utilization: float):
        # In this process, so that batches do not depend on the timing between two; a torch error then arrives here too.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; plenty for prompts of this length
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from vllm import LLM

        # No prefix cache: what one member leaves in it would change the rounding of the next. No chunked prefill: on a
        # CPU vLLM 0.32 cannot rewind the generator of a seeded prompt that is split ("CPU Generator does not use offset").
        self.llm = LLM(str(model), dtype=dtype, enforce_eager=True, enable_prefix_caching=False,
                       enable_chunked_prefill=False, seed=0, gpu_memory_utilization=gpu_memory_utilization,
                       disable_log_stats=True)

    def sample(self, prompts: list[str], seeds: list[int], options: argparse.Namespace) -> list[list[str]]:
        from vllm import SamplingParams

        params = [SamplingParams(n=samples_a_node(options), temperature=options.temperature, top_p=options.top_p,
                                 top_k=options.top_k, max_tokens=options.max_tokens, seed=seed) for seed in seeds]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [[sample.text for sample in output.outputs] for output in outputs]


class Engines:
    """The engine that is loaded. Another model, dtype or backend takes its place; so does a new one after a failure."""

    def __init__(self, on_load: Callable[[], None]) -> None:
        self.on_load = on_load
        self.key: tuple | None = None
        self.engine: TransformersEngine | VllmEngine | None = None
        self.load_seconds = 0.0

    def get(self, options: argparse.Namespace):
        key = (options.backend, str(options.model), options.dtype, options.gpu_memory_utilization)
        if key != self.key:
            self.drop()
            if not (options.model / "config.json").is_file():
                raise UsageError(f"no checkpoint at {options.model}; run train.py first, or name one by --model")
            print(f"loading {options.model} with {options.backend}", flush=True)
            started = time.perf_counter()
            self.engine = load(*key)
            self.key, self.load_seconds = key, round(time.perf_counter() - started, 2)
            print(f"loaded in {self.load_seconds:.1f} s", flush=True)
            self.on_load()
        return self.engine

    def drop(self) -> None:
        """Gives the memory back."""
        if self.engine is None:
            return
        import torch

        with_vllm = isinstance(self.engine, VllmEngine)
        self.key = self.engine = None
        gc.collect()
        if with_vllm:
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load(backend: str, model: str, dtype: str, gpu_memory_utilization: float):
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # on a shared CPU, threads that wait should soon give way
    import torch

    if dtype == "auto":
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    return {"vllm": VllmEngine, "transformers": TransformersEngine}[backend](Path(model), dtype, gpu_memory_utilization)


# ----------------------------------------------------------------------------------------------------------------------
# Nodes and problems


def solve(batch: list[tuple[int, str]], engine, options: argparse.Namespace) -> list[dict]:
    """Self-application with a vote: all open cells of all problems of the batch, then their votes in their places."""
    trees = dict(batch)
    nodes: dict[int, list[dict]] = {index: [] for index in trees}
    while open_cells := [(index, cell) for index, tree in trees.items() for cell in CELL.findall(tree)]:
        seeds = []
        counted = {index: len(nodes[index]) for index in trees}
        for index, _ in open_cells:
            seeds.append(seed_of(options.seed, index, counted[index]))
            counted[index] += 1
        sampled = engine.sample([f"{cell}=" for _, cell in open_cells], seeds, options)
        for (index, cell), texts in zip(open_cells, sampled, strict=True):
            nodes[index].append(node(cell, texts))
        first_new = {index: counted[index] - len(CELL.findall(tree)) for index, tree in trees.items()}
        for index, tree in trees.items():
            votes = iter(nodes[index][first_new[index] :])
            trees[index] = CELL.sub(lambda _, votes=votes: next(votes)["vote"] or "F", tree)
    return [{"problem": index, "expression": expression, "answer": evaluate(expression), "voted": trees[index],
             "right": trees[index] == evaluate(expression), "nodes": nodes[index]} for index, expression in batch]


def node(cell: str, texts: list[str]) -> dict:
    """What became of one cell: the vote, and how many derivations were right, valid, and not to be read at all."""
    answers = [answer_of(text) for text in texts]
    counts = collections.Counter(answer for answer in answers if answer)
    truth = evaluate(cell)
    return {"cell": cell, "truth": truth, "vote": counts.most_common(1)[0][0] if counts else None,
            "num_samples": len(texts), "num_right": answers.count(truth),
            "num_valid": sum(is_valid(cell, text) for text in texts), "num_unreadable": answers.count(None),
            "samples": texts}


def figures(lines: list[dict]) -> dict:
    """The figures of a member, from its lines alone."""
    nodes = [node for line in lines for node in line["nodes"]]
    num_samples = sum(node["num_samples"] for node in nodes)
    seconds = sum(line["seconds"] for line in lines)
    return {
        "num_problems": len(lines), "num_nodes": len(nodes), "num_samples": num_samples,
        "pass_at_1": sum(node["num_right"] for node in nodes) / num_samples,
        "valid_at_1": sum(node["num_valid"] for node in nodes) / num_samples,
        "majority_vote": sum(node["vote"] == node["truth"] for node in nodes) / len(nodes),
        "pass_at_n": sum(node["num_valid"] > 0 for node in nodes) / len(nodes),
        "tree_accuracy": sum(line["right"] for line in lines) / len(lines),
        "unreadable": sum(node["num_unreadable"] for node in nodes) / num_samples,
        "generation_seconds": round(seconds, 3), "samples_per_second": round(num_samples / seconds, 2),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Results on disk


def described(options: argparse.Namespace) -> dict:
    """The options that make a member what it is, and the training that its checkpoint is from."""
    told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
            if name not in PROCESS_OPTIONS + MEMORY_OPTIONS}
    training = options.model / "training.json"
    return told | {"training": json.loads(training.read_text())["training"] if training.is_file() else None}


def whole_batches(path: Path, header: dict, batch_size: int) -> list[dict]:
    """The lines of whole batches that this very member has written; whatever else the file holds is cut off."""
    raw = path.read_bytes() if path.is_file() else b""
    lines = raw[: raw.rfind(b"\n") + 1].splitlines(keepends=True)  # the last line may be torn
    if not lines or lines[0] != line_of(header):
        write_durably(path, line_of(header), "wb")
        return []
    num_kept = (len(lines) - 1) // batch_size * batch_size
    kept = lines[: 1 + num_kept]
    if sum(map(len, kept)) < len(raw):
        os.truncate(path, sum(map(len, kept)))
    return [json.loads(line) for line in kept[1:]]


def line_of(value: dict) -> bytes:
    return json.dumps(value).encode() + b"\n"


def write_durably(path: Path, content: bytes, mode: str) -> None:
    with open(path, mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, value: dict) -> None:
    """Under another name first: a file of this name is a whole one."""
    write_durably(path.with_name(path.name + ".tmp"), json.dumps(value, indent=1).encode() + b"\n", "wb")
    os.replace(path.with_name(path.name + ".tmp"), path)


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


# ----------------------------------------------------------------------------------------------------------------------
# The loop


def run_member(name: str, options: argparse.Namespace, engines: Engines, out: Path) -> Iterator[int]:
    """Samples what is missing of one member, batch by batch; yields the number of samples after each."""
    header = {"member": name, "options": described(options)}
    if read_json(out / f"{name}.json").get("options") == header["options"]:
        print(f"member {name} is finished already: {out / f'{name}.json'}", flush=True)
        return
    problems = list(enumerate(load_problems(options)))
    if not problems:
        raise UsageError("there are no problems to sample for")
    lines = whole_batches(out / f"{name}.jsonl", header, options.batch_size)
    if lines:
        yield sum(node["num_samples"] for line in lines for node in line["nodes"])
    for start in range(len(lines), len(problems), options.batch_size):
        batch = problems[start : start + options.batch_size]
        engine = engines.get(options)
        started = time.perf_counter()
        solved = solve(batch, engine, options)
        seconds = round((time.perf_counter() - started) / len(batch), 6)
        fresh = [line | {"seconds": seconds} for line in solved]
        write_durably(out / f"{name}.jsonl", b"".join(map(line_of, fresh)), "ab")
        lines += fresh
        yield sum(node["num_samples"] for line in fresh for node in line["nodes"])
    write_whole(out / f"{name}.json", header | figures(lines) | {"batch_size": options.batch_size,
                                                            "load_seconds": engines.load_seconds})
    (out / f"{name}.error.json").unlink(missing_ok=True)


def out_of_memory(error: BaseException) -> bool:
    """torch has its own class for a GPU, and a RuntimeError for a CPU that says it in words."""
    told = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or "out of memory" in told or "can't allocate memory" in told


def report_failure(name: str, values: dict, error: Exception, out: Path) -> int:
    exit_code = 2 if isinstance(error, UsageError) else 1
    oom = out_of_memory(error)
    write_whole(out / f"{name}.error.json", {
        "member": name, "values": values, "type": type(error).__name__, "error": str(error), "out_of_memory": oom,
        "exit_code": exit_code, "traceback": traceback.format_exception(error)})
    print(f"member {name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if oom:
        print(f"member {name} ran out of memory: a smaller --batch_size or --n needs less", file=sys.stderr, flush=True)
    return exit_code


def expected_samples(options: argparse.Namespace) -> int:
    """Every pair of parentheses is one node, and is sampled once."""
    return samples_a_node(options) * sum(problem.count("(") for problem in load_problems(options))


def print_table(names: list[str], values: dict[str, dict], out: Path) -> None:
    columns = ("pass_at_1", "majority_vote", "pass_at_n", "tree_accuracy", "samples_per_second", "generation_seconds")
    told = {name: read_json(out / f"{name}.json") for name in names}
    if any(told.values()):
        print("member  " + "  ".join(columns) + "  values")
    for name, one in told.items():
        if one:
            cells = "  ".join(f"{one[column]:{len(column)}.3f}" for column in columns)
            print(f"{name:>6}  {cells}  {' '.join(f'{k}={v}' for k, v in values[name].items())}")


def main() -> int:
    argv = sys.argv[1:]
    try:
        args = make_parser().parse_args(argv)
        members = read_members(args, argv)
    except (UsageError, OSError, KeyError, json.JSONDecodeError) as error:
        print(f"generate.py: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------------------------------------------------------
    # Options of every member first: a wrong one is told before the model is loaded

    exit_codes: list[int] = []
    checked: list[tuple[str, dict, argparse.Namespace]] = []
    num_samples = 0
    for name, values, words_of_member in members:
        try:
            options = member_options(values, words_of_member)
            num_samples += expected_samples(options)
            checked.append((name, values, options))
        except (UsageError, OSError, KeyError, json.JSONDecodeError) as error:
            exit_codes.append(report_failure(name, values, UsageError(str(error)), args.out))

    if not checked:
        return exit_codes[0] if exit_codes else 0

    # ------------------------------------------------------------------------------------------------------------------
    # Load once, sample, save

    from tqdm import tqdm

    progress = tqdm(total=num_samples, unit="sample", mininterval=0.5)
    engines = Engines(on_load=progress.unpause)  # the time left is told from generation, not from loading
    for position, (name, values, options) in enumerate(checked):
        progress.set_description(f"members {position}/{len(checked)}")
        try:
            for count in run_member(name, options, engines, args.out):
                progress.update(count)
                if options.usd_per_hour:
                    spent = options.usd_per_hour * (time.perf_counter() - STARTED) / 3600
                    progress.set_postfix_str(f"${spent:.2f} so far", refresh=False)
        except Exception as error:  # a member fails alone, whatever it fails of
            exit_codes.append(report_failure(name, values, error, args.out))
            if not isinstance(error, UsageError):
                engines.drop()  # after a failure in the middle nothing is known of what the engine still holds
    progress.set_description(f"members {len(checked)}/{len(checked)}")
    progress.close()
    print_table([name for name, _, _ in members], {name: values for name, values, _ in members}, args.out)
    print(f"results {args.out}")
    return exit_codes[0] if exit_codes else 0


if __name__ == "__main__":
    sys.exit(main())
