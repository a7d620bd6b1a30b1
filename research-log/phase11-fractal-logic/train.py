# /// script
# requires-python = ">=3.11"
# dependencies = ["torch>=2.9", "transformers>=5.0", "datasets>=3.0", "tqdm>=4.66"]
# ///
"""Train the cell: a small causal language model that evaluates one flat logic expression, `(T&!F|T)=` -> `T`.

    python train.py                                    the cell, on a CPU in about a minute
    python train.py --train_depth=3                    the baseline: the same model on whole trees of depth 1 to 3
    python train.py --model=base --batch_size=1024     a GPU size

At the end trees of depth 1 to 16 are evaluated: by self-application (every innermost cell is answered, the answers are
put in its place, and so on) and directly (the whole tree in one prompt).

Writes, beside this script unless told otherwise: checkpoints/ (checkpoints_trees/ for the baseline) with step-NNNNNN/
while it trains and final/ when it is done, in the format of Hugging Face; and metrics.jsonl, one JSON object a line,
appended to. Stopped in the middle, the same command goes on from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import secrets
import shutil
import sys
import time
from pathlib import Path

from logic import CELL, SYMBOLS, balanced_trees, evaluate, held_out, random_tree, substitute

HERE = Path(__file__).resolve().parent
STARTED = time.perf_counter()

# hidden size, layers, heads, inner size. vLLM wants heads of 32 or more.
PRESETS = {
    "nano": (64, 3, 2, 128),  # 0.1 M parameters, a CPU
    "small": (256, 6, 4, 1024),  # 6 M
    "base": (768, 12, 12, 3072),  # 113 M, one GPU
}
# A training is resumed only by a command that agrees in these. batch_size and grad_accum count by their product, so
# that a training that ran out of memory goes on with a smaller batch.
IDENTITY = ("model", "steps", "lr", "seed", "train_depth", "num_train", "max_operands")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=PRESETS, default="nano", help="size of the model (default: %(default)s)")
    # Out of memory: halve batch_size and double grad_accum; the effective batch, their product, stays the same.
    add("--batch_size", type=int, default=128, help="expressions a forward pass (default: %(default)s)")
    add("--grad_accum", type=int, default=1, help="forward passes an optimizer step (default: %(default)s)")
    add("--steps", type=int, default=1200, help="optimizer steps (default: %(default)s)")
    add("--lr", type=float, default=5e-3, help="peak learning rate; 1e-3 suits base (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the data and the weights (default: %(default)s)")
    add("--train_depth", type=int, default=1, help="1: cells; more: whole trees up to it (default: %(default)s)")
    add("--num_train", type=int, default=40_000, help="expressions drawn for training (default: %(default)s)")
    add("--max_operands", type=int, default=4, help="operands in a cell, at most (default: %(default)s)")
    add("--eval_depth", type=int, default=16, help="deepest trees at the end; 0: none (default: %(default)s)")
    # Out of memory at the very end: halve this one; the trees of the last evaluation are long.
    add("--eval_batch_size", type=int, default=256, help="expressions a forward pass there (default: %(default)s)")
    add("--eval_trees", type=int, default=200, help="trees of each depth (default: %(default)s)")
    add("--eval_every", type=int, default=100, help="steps between two lines of metrics (default: %(default)s)")
    add("--save_every", type=int, default=200, help="steps between two checkpoints (default: %(default)s)")
    add("--keep", type=int, default=2, help="newest checkpoints kept beside final (default: %(default)s)")
    add("--resume", type=boolean, default=True, help="go on with an unfinished training (default: true)")
    add("--threads", type=int, default=0, help="CPU threads; 0: as torch likes (default: %(default)s)")
    add("--checkpoints", type=Path, help="folder (default: checkpoints or checkpoints_trees beside this script)")
    add("--metrics", type=Path, default=HERE / "metrics.jsonl", help="file (default: metrics.jsonl beside this script)")
    args = parser.parse_args()
    for name in ("batch_size", "grad_accum", "steps", "train_depth", "num_train", "eval_batch_size", "eval_every",
                 "save_every", "keep"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.max_operands < 2:
        parser.error(f"--max_operands must be at least 2, not {args.max_operands}")
    args.checkpoints = args.checkpoints or HERE / ("checkpoints" if args.train_depth == 1 else "checkpoints_trees")
    return args


def boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
    return text == "true"


# ----------------------------------------------------------------------------------------------------------------------
# Data


def make_tokenizer():
    """One token a character; answers come back without spaces between them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<bos>", "<eos>", "<unk>", *SYMBOLS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
                                   unk_token="<unk>", clean_up_tokenization_spaces=False)


def draw_expressions(args: argparse.Namespace, count: int, test: bool) -> list[str]:
    """Expressions drawn from the seed; those for testing are distinct, and never in the training set."""
    rng = random.Random(f"{args.seed} {'test' if test else 'train'}")
    drawn: list[str] = []
    seen: set[str] = set()
    for _ in range(100 * count):  # small cells are soon used up, so that a test set may stay smaller than asked for
        expression = random_tree(rng, rng.randint(1, args.train_depth), args.max_operands)
        if held_out(expression) == test and not (test and expression in seen):
            drawn.append(expression)
            seen.add(expression)
        if len(drawn) == count:
            break
    return drawn


def make_dataset(expressions: list[str], tokenizer):
    """A dataset of expression, answer, input_ids: `<bos> expression = answer <eos>`."""
    from datasets import Dataset

    def encode(batch: dict) -> dict:
        texts = [f"{e}={a}<eos>" for e, a in zip(batch["expression"], batch["answer"], strict=True)]
        return {"input_ids": tokenizer(texts).input_ids}

    rows = {"expression": expressions, "answer": [evaluate(expression) for expression in expressions]}
    return Dataset.from_dict(rows).map(encode, batched=True)


def padded(rows: list[list[int]], device):
    """Token ids, padded on the right with 0, and the length of each row."""
    import torch

    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return ids.to(device), torch.tensor([len(row) for row in rows], device=device)


# ----------------------------------------------------------------------------------------------------------------------
# Model and checkpoints


def make_model(preset: str, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, heads, inner = PRESETS[preset]
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=2048, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    ))


def identity(args: argparse.Namespace) -> dict:
    return {name: getattr(args, name) for name in IDENTITY} | {"effective_batch": args.batch_size * args.grad_accum}


def read_training(folder: Path) -> dict:
    try:
        return json.loads((folder / "training.json").read_text())
    except (OSError, ValueError):
        return {}


def newest_unfinished(args: argparse.Namespace) -> Path | None:
    """The newest checkpoint of a training of these very settings that has not reached its end."""
    finished = read_training(args.checkpoints / "final").get("training")
    found = [(folder.stat().st_mtime_ns, folder) for folder in args.checkpoints.glob("step-*")
             if (told := read_training(folder)).get("settings") == identity(args) and told["training"] != finished]
    return max(found)[1] if found and args.resume else None


def open_training(args: argparse.Namespace, tokenizer) -> tuple:
    """The model, its state and what the training is: of the newest unfinished checkpoint, or of a new training."""
    import torch
    from transformers import LlamaForCausalLM

    args.checkpoints.mkdir(parents=True, exist_ok=True)
    if checkpoint := newest_unfinished(args):
        state = torch.load(checkpoint / "trainer_state.pt", weights_only=True)
        torch.set_rng_state(state["torch_rng"])
        return LlamaForCausalLM.from_pretrained(checkpoint), state, read_training(checkpoint)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    new = {"training": name, "settings": identity(args)}
    return make_model(args.model, tokenizer), {"step": 0, "seconds": 0.0}, new


def save_checkpoint(folder: Path, model, tokenizer, training: dict, state: dict | None = None) -> None:
    """Written under another name and renamed: a folder with a checkpoint's name holds a whole checkpoint."""
    import torch

    unfinished = folder.with_name(f".unfinished-{folder.name}")
    replaced = folder.with_name(f".replaced-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    if state:
        torch.save(state, unfinished / "trainer_state.pt")
    (unfinished / "training.json").write_text(json.dumps(training, indent=1) + "\n")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        os.rename(folder, replaced)
    os.rename(unfinished, folder)
    shutil.rmtree(replaced, ignore_errors=True)


def drop_old_checkpoints(args: argparse.Namespace) -> None:
    by_age = sorted(args.checkpoints.glob("step-*"), key=lambda folder: folder.stat().st_mtime_ns)
    for folder in by_age[: -args.keep]:
        shutil.rmtree(folder, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------------------
# Evaluation


def answer(expressions: list[str], model, tokenizer, batch_size: int, progress=None) -> list[str]:
    """The model's answers, greedily: the likeliest token after each `=`."""
    import torch

    answers: list[str] = []
    by_length = sorted(range(len(expressions)), key=lambda i: len(expressions[i]))  # little padding in a batch
    with torch.inference_mode():
        for start in range(0, len(by_length), batch_size):
            batch = [expressions[i] + "=" for i in by_length[start : start + batch_size]]
            ids, lengths = padded(tokenizer(batch).input_ids, model.device)
            hidden = model.model(input_ids=ids).last_hidden_state  # right padding is never seen by a causal model
            last = hidden[torch.arange(len(batch), device=model.device), lengths - 1]
            answers += tokenizer.convert_ids_to_tokens(model.lm_head(last).argmax(-1).tolist())
            if progress is not None:
                progress.update(len(batch))
    in_order = dict(zip(by_length, answers, strict=True))
    return [in_order[i] for i in range(len(expressions))]


def exact_match(expressions: list[str], model, tokenizer, batch_size: int) -> float:
    model.eval()
    answers = answer(expressions, model, tokenizer, batch_size)
    model.train()
    return mean(a == evaluate(e) for a, e in zip(answers, expressions, strict=True))


def apply_to_itself(trees: list[str], model, tokenizer, batch_size: int, known: dict[str, str]) -> list:
    """For each tree: the answer that the cell arrives at, and whether each single cell on the way was right.

    `known` remembers the cells answered so far: the model is deterministic, asking again would say the same."""
    traces = [(tree, True) for tree in trees]
    while open_cells := sorted({cell for tree, _ in traces for cell in CELL.findall(tree)}):
        new = [cell for cell in open_cells if cell not in known]
        known |= dict(zip(new, answer(new, model, tokenizer, batch_size), strict=True))
        traces = [(substitute(tree, known), right and all(known[c] == evaluate(c) for c in CELL.findall(tree)))
                  for tree, right in traces]
    return traces


def evaluate_depths(args: argparse.Namespace, model, tokenizer, log) -> None:
    """Exact match by depth, by self-application and directly, on trees half of which are true."""
    from tqdm import tqdm

    model.eval()
    known: dict[str, str] = {}
    rng = random.Random(f"{args.seed} depth")
    table = ["depth  cells a tree  self-application  every cell right  directly"]
    for depth in tqdm(range(1, args.eval_depth + 1), desc="depths", mininterval=0.5):
        started = time.perf_counter()
        trees = balanced_trees(rng, depth, args.eval_trees, args.max_operands)
        truth = [evaluate(tree) for tree in trees]
        traces = apply_to_itself(trees, model, tokenizer, args.eval_batch_size, known)
        direct = answer(trees, model, tokenizer, max(1, args.eval_batch_size // depth))
        figures = {
            "cells_a_tree": mean(tree.count("(") for tree in trees),
            "self_application": mean(a == t for (a, _), t in zip(traces, truth, strict=True)),
            "every_cell_right": mean(right for _, right in traces),
            "direct": mean(a == t for a, t in zip(direct, truth, strict=True)),
        }
        took = round(time.perf_counter() - started, 2)
        log("depth", depth=depth, num_trees=len(trees), **figures, depth_seconds=took)
        table.append("{:5} {cells_a_tree:13.1f} {self_application:17.3f} {every_cell_right:17.3f} {direct:9.3f}".format(
            depth, **figures))
    if known:
        print("\n".join(table), flush=True)
        log("cells", num_cells=len(known), exact_match=mean(a == evaluate(c) for c, a in known.items()))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


# ----------------------------------------------------------------------------------------------------------------------
# Training


class Log:
    """Appends metrics, one JSON object a line, each with the id of its training and the seconds that it has taken."""

    def __init__(self, path: Path, training: str, seconds_before: float):
        self.path, self.training, self.seconds_before = path, training, seconds_before

    def seconds(self) -> float:
        return round(self.seconds_before + time.perf_counter() - STARTED, 2)

    def __call__(self, event: str, **values) -> None:
        line = {"training": self.training, "event": event, **values, "seconds": self.seconds()}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")


def describe(args: argparse.Namespace, model, state: dict, training: dict, log: Log, **counts: int) -> None:
    """The first line of this training, or of its resumption: what runs, and on what."""
    import torch
    import transformers

    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    on_gpu = model.device.type == "cuda"
    log("resume" if state["step"] else "start", step=state["step"], command=sys.argv, settings=training["settings"],
        batch_size=args.batch_size, num_parameters=num_parameters, **counts,
        device=torch.cuda.get_device_name() if on_gpu else f"CPU, {os.cpu_count()} cores",
        python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__)
    print(f"training {training['training']}: {num_parameters:,} parameters on {model.device.type}, "
          f"from step {state['step']} of {args.steps}", flush=True)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """A warm-up over the first twentieth, then half a cosine down to nothing."""
    warmup = max(1, args.steps // 20)
    if step < warmup:
        return args.lr * (step + 1) / warmup
    return args.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, args.steps - warmup)))


def make_optimizers(model, lr: float) -> list:
    """Muon for the matrices, AdamW for embeddings and norms: AdamW alone needs several times as many steps here."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]


def optimizer_step(model, optimizers: list, rows: list[list[int]], args: argparse.Namespace, device) -> float:
    """One step on the effective batch, in grad_accum pieces; gives the mean loss."""
    import torch

    total = 0.0
    for start in range(0, len(rows), args.batch_size):
        ids, lengths = padded(rows[start : start + args.batch_size], device)
        positions = torch.arange(ids.shape[1], device=device)
        asked = (positions >= lengths[:, None] - 2) & (positions < lengths[:, None])  # the answer and <eos>
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            loss = model(input_ids=ids, labels=ids.masked_fill(~asked, -100)).loss / args.grad_accum
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total


def train(args: argparse.Namespace, model, tokenizer, rows, test, state: dict, training: dict, log: Log) -> None:
    """Steps from where `state` says to the end, with a line of metrics and a checkpoint every so often."""
    import torch
    from tqdm import tqdm

    device = model.device.type
    optimizers = make_optimizers(model, args.lr)
    generator = torch.Generator().manual_seed(args.seed)
    if "optimizers" in state:
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        generator.set_state(state["data_rng"])
    effective = args.batch_size * args.grad_accum
    model.train()
    progress = tqdm(total=args.steps, initial=state["step"], desc="train", unit="step", mininterval=0.5)
    since, since_step = time.perf_counter(), state["step"]
    for step in range(state["step"] + 1, args.steps + 1):
        picked = torch.randint(len(rows), (effective,), generator=generator).tolist()
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(step - 1, args)
        loss = optimizer_step(model, optimizers, [rows[i] for i in picked], args, device)
        progress.update()
        if step % args.eval_every == 0 or step == args.steps:
            rate = (step - since_step) * effective / (time.perf_counter() - since)
            right = exact_match(test, model, tokenizer, args.eval_batch_size)
            log("train", step=step, loss=round(loss, 6), exact_match=right, samples_per_second=round(rate, 1))
            progress.set_postfix(loss=f"{loss:.4f}", exact_match=f"{right:.4f}", refresh=False)
            since, since_step = time.perf_counter(), step
        if step % args.save_every == 0 or step == args.steps:
            state = {"step": step, "seconds": log.seconds(), "optimizers": [o.state_dict() for o in optimizers],
                     "data_rng": generator.get_state(), "torch_rng": torch.get_rng_state()}
            save_checkpoint(args.checkpoints / f"step-{step:06d}", model, tokenizer, training | {"step": step}, state)
            drop_old_checkpoints(args)
    progress.close()


def main() -> None:
    args = parse_arguments()

    # ------------------------------------------------------------------------------------------------------------------
    # Load once: the libraries, the data, the model, the newest unfinished checkpoint

    # On a CPU that others use as well, threads that wait should soon give way; spinning made steps ten times as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    print("loading torch, transformers and datasets", flush=True)
    import datasets
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    tokenizer = make_tokenizer()
    dataset = make_dataset(draw_expressions(args, args.num_train, test=False), tokenizer)
    rows = dataset["input_ids"][:]
    test = draw_expressions(args, 1000, test=True)

    model, state, training = open_training(args, tokenizer)
    model.to(device)
    log = Log(args.metrics, training["training"], state["seconds"])
    describe(args, model, state, training, log, num_distinct=len(set(dataset["expression"][:])), num_test=len(test))

    # ------------------------------------------------------------------------------------------------------------------
    # Loop

    train(args, model, tokenizer, rows, test, state, training, log)

    # ------------------------------------------------------------------------------------------------------------------
    # Evaluate, save

    evaluate_depths(args, model, tokenizer, log)
    save_checkpoint(args.checkpoints / "final", model, tokenizer, training | {"step": args.steps})
    for folder in args.checkpoints.glob("step-*"):
        if read_training(folder).get("training") == training["training"]:
            shutil.rmtree(folder, ignore_errors=True)  # final stands for them; what is left is an unfinished training
    final = exact_match(test, model, tokenizer, args.eval_batch_size)
    log("end", step=args.steps, exact_match=final)
    print(f"exact match on {len(test)} unseen expressions: {final:.4f}")
    print(f"checkpoint {args.checkpoints / 'final'}\nmetrics    {args.metrics}\ntook       {log.seconds():.0f} s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the newest checkpoint", file=sys.stderr)
        sys.exit(130)
