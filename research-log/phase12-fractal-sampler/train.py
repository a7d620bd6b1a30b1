# /// script
# requires-python = ">=3.11"
# dependencies = ["torch>=2.9", "transformers>=5.0", "datasets>=3.0", "tqdm>=4.66"]
# ///
"""Train an imperfect cell: a small causal language model that writes its way to the value of one flat expression.

    python train.py                                                    on a CPU, in about two minutes
    python train.py --model=base --batch_size=512 --lr=0.001           a GPU size
    python train.py --noise=0.2                                        a worse teacher

The prompt `(T&!F|T^F)=` is to be completed by `(T|T^F)=(T|T)=T`, one reduction a step, in any valid order. In the
training set every reduction is wrong with probability --noise.

Writes, beside this script unless told otherwise: checkpoints/ with step-NNNNNN/ while it trains and final/ when it is
done, in the format of Hugging Face, which generate.py, vLLM and transformers load; and metrics.jsonl, one JSON object a
line, appended to. Stopped in the middle, the same command goes on from the newest checkpoint.
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

from logic import SYMBOLS, answer_of, derivation, draw_problems, evaluate, held_out, is_valid, random_tree
from sampling import complete

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
IDENTITY = ("model", "steps", "lr", "seed", "noise", "num_train", "min_operands", "max_operands")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=PRESETS, default="nano", help="size of the model (default: %(default)s)")
    # Out of memory: halve batch_size and double grad_accum; the effective batch, their product, stays the same.
    add("--batch_size", type=int, default=64, help="expressions a forward pass (default: %(default)s)")
    add("--grad_accum", type=int, default=1, help="forward passes an optimizer step (default: %(default)s)")
    add("--steps", type=int, default=1200, help="optimizer steps (default: %(default)s)")
    add("--lr", type=float, default=5e-3, help="peak learning rate; 1e-3 suits base (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the data and the weights (default: %(default)s)")
    add("--noise", type=float, default=0.1, help="wrong reductions in the training set (default: %(default)s)")
    add("--num_train", type=int, default=60_000, help="derivations drawn for training (default: %(default)s)")
    add("--min_operands", type=int, default=3, help="operands in a cell, at least (default: %(default)s)")
    add("--max_operands", type=int, default=6, help="operands in a cell, at most (default: %(default)s)")
    # Out of memory while evaluating: lower this one; all of them are one batch.
    add("--num_test", type=int, default=200, help="unseen cells that are tested on (default: %(default)s)")
    add("--eval_every", type=int, default=200, help="steps between two lines of metrics (default: %(default)s)")
    add("--save_every", type=int, default=200, help="steps between two checkpoints (default: %(default)s)")
    add("--keep", type=int, default=2, help="newest checkpoints kept beside final (default: %(default)s)")
    add("--resume", type=boolean, default=True, help="go on with an unfinished training (default: true)")
    add("--threads", type=int, default=0, help="CPU threads; 0: as torch likes (default: %(default)s)")
    add("--checkpoints", type=Path, help="folder (default: checkpoints beside this script)",
        default=HERE / "checkpoints")
    add("--metrics", type=Path, default=HERE / "metrics.jsonl", help="file (default: metrics.jsonl beside this script)")
    args = parser.parse_args()
    for name in ("batch_size", "grad_accum", "steps", "num_train", "num_test", "eval_every", "save_every", "keep"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    if not 2 <= args.min_operands <= args.max_operands:
        parser.error(f"--min_operands={args.min_operands} must lie between 2 and --max_operands={args.max_operands}")
    if not 0 <= args.noise <= 1:
        parser.error(f"--noise must lie between 0 and 1, not {args.noise}")
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


def make_dataset(args: argparse.Namespace, tokenizer):
    """A dataset of cell, completion, input_ids: `<bos> cell = derivation <eos>`."""
    from datasets import Dataset

    rng = random.Random(f"{args.seed} train")
    cells: list[str] = []
    while len(cells) < args.num_train:
        cell = random_tree(rng, 1, (args.min_operands, args.max_operands))
        if not held_out(cell):
            cells.append(cell)

    def encode(batch: dict) -> dict:
        texts = [f"{cell}={done}<eos>" for cell, done in zip(batch["cell"], batch["completion"], strict=True)]
        return {"input_ids": tokenizer(texts).input_ids}

    rows = {"cell": cells, "completion": [derivation(rng, cell, args.noise) for cell in cells]}
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
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=512, tie_word_embeddings=True,
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


def evaluate_greedily(cells: list[str], model, tokenizer) -> dict[str, float]:
    """The share of right answers, and of derivations in which every step follows, decoding greedily."""
    model.eval()
    completions = complete(model, tokenizer, [f"{cell}=" for cell in cells], [0] * len(cells), temperature=0, top_p=1,
                           top_k=0, max_tokens=12 * max(map(len, cells)) // 2)
    model.train()
    pairs = list(zip(cells, completions, strict=True))
    return {"exact_match": sum(answer_of(text) == evaluate(cell) for cell, text in pairs) / len(pairs),
            "valid": sum(is_valid(cell, text) for cell, text in pairs) / len(pairs)}


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


def optimizer_step(model, optimizers: list, rows: list, equals: int, args: argparse.Namespace, device) -> float:
    """One step on the effective batch, in grad_accum pieces; gives the mean loss. The loss is on what follows the
    prompt, which ends with the first token `equals`."""
    import torch

    total = 0.0
    for start in range(0, len(rows), args.batch_size):
        ids, lengths = padded(rows[start : start + args.batch_size], device)
        positions = torch.arange(ids.shape[1], device=device)
        prompt = (ids == equals).int().argmax(-1, keepdim=True)
        asked = (positions > prompt) & (positions < lengths[:, None])
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
    equals = tokenizer.convert_tokens_to_ids("=")
    model.train()
    progress = tqdm(total=args.steps, initial=state["step"], desc="train", unit="step", mininterval=0.5)
    since, since_step = time.perf_counter(), state["step"]
    for step in range(state["step"] + 1, args.steps + 1):
        picked = torch.randint(len(rows), (effective,), generator=generator).tolist()
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(step - 1, args)
        loss = optimizer_step(model, optimizers, [rows[i] for i in picked], equals, args, device)
        progress.update()
        if step % args.eval_every == 0 or step == args.steps:
            rate = (step - since_step) * effective / (time.perf_counter() - since)
            figures = evaluate_greedily(test, model, tokenizer)
            log("train", step=step, loss=round(loss, 6), **figures, samples_per_second=round(rate, 1))
            progress.set_postfix(loss=f"{loss:.4f}", **figures, refresh=False)
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
    dataset = make_dataset(args, tokenizer)
    rows = dataset["input_ids"][:]
    test = draw_problems(args.seed, args.num_test, 1, (args.min_operands, args.max_operands))

    model, state, training = open_training(args, tokenizer)
    model.to(device)
    log = Log(args.metrics, training["training"], state["seconds"])
    describe(args, model, state, training, log, num_distinct=len(set(dataset["cell"][:])), num_test=len(test))

    # ------------------------------------------------------------------------------------------------------------------
    # Loop

    train(args, model, tokenizer, rows, test, state, training, log)

    # ------------------------------------------------------------------------------------------------------------------
    # Evaluate, save

    figures = evaluate_greedily(test, model, tokenizer)
    save_checkpoint(args.checkpoints / "final", model, tokenizer, training | {"step": args.steps})
    for folder in args.checkpoints.glob("step-*"):
        if read_training(folder).get("training") == training["training"]:
            shutil.rmtree(folder, ignore_errors=True)  # final stands for them; what is left is an unfinished training
    log("end", step=args.steps, **figures)
    print("{} unseen cells, greedily: exact match {exact_match:.4f}, valid derivations {valid:.4f}".format(
        len(test), **figures))
    print(f"checkpoint {args.checkpoints / 'final'}\nmetrics    {args.metrics}\ntook       {log.seconds():.0f} s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the newest checkpoint", file=sys.stderr)
        sys.exit(130)
