"""Batched sampling with transformers, each row by a random generator of its own: its text depends on its seed alone."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """A seed for these parts, the same on every machine; 48 bits, so that neighbours by +1 never meet another seed."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def complete(model, tokenizer, prompts: list[str], seeds: list[int], temperature: float, top_p: float, top_k: int,
             max_tokens: int) -> list[str]:
    """One completion for each prompt and seed, without the end token. Temperature 0 is greedy and needs no seed."""
    import torch

    encoded = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    ids, mask = encoded.input_ids, encoded.attention_mask
    draws = torch.stack([torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    draws = draws.to(model.device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    written, cache = [], None
    with torch.inference_mode():
        for position in range(max_tokens):
            places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = model(input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True,
                        logits_to_keep=1)
            cache = out.past_key_values
            token = pick(out.logits[:, -1].float(), draws[:, position], temperature, top_p, top_k)
            token = token.masked_fill(done, tokenizer.pad_token_id)
            done |= token == tokenizer.eos_token_id
            written.append(token)
            if done.all():
                break
            ids = token[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=-1)
    return tokenizer.batch_decode(torch.stack(written, dim=1), skip_special_tokens=True)


def pick(logits, draws, temperature: float, top_p: float, top_k: int):
    """One token a row: the smallest one at which the kept probabilities, likeliest first, exceed the row's draw."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities, tokens = (logits / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    if top_k > 0:
        probabilities[:, top_k:] = 0.0
    upto = probabilities.cumsum(-1)
    chosen = (upto <= draws[:, None] * upto[:, -1:]).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return tokens.gather(-1, chosen)[:, 0]
