"""GPT against transformers' GPT2LMHeadModel and x-transformers: training tokens and cached generation of one size.

4 layers, 128 wide, 4 heads, context 256, 65 symbols, float32, 2 threads, one fused AdamW for all, no dropout; peers
draw from the softmax as ours does, with their own caches. Rounds alternate.

    pip install --no-deps x-transformers einx loguru
    python -m benchmarks.gpt
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polymode as pm
from benchmarks._side_by_side import alternate, measurement, ratios, save
from polymode.core import spec as specs

WIDTH, LAYERS, HEADS, CONTEXT, SYMBOLS, BATCH, THREADS = 128, 4, 4, 256, 65, 16, 2
STEPS, ROUNDS = 3, 5


class Contender:
    """One library's transformer: the loss of rows (B, T) and its own sampler of n rows."""

    def __init__(self, net: nn.Module, loss: Callable[[Tensor], Tensor], draw: Callable[[int], object]) -> None:
        self.net, self.loss, self.draw = net, loss, draw
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def train(self, x: Tensor) -> None:
        self.net.train()
        for _ in range(STEPS):
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(x).backward()
            self.optimizer.step()

    def generate(self, n: int) -> None:
        self.net.eval()
        with torch.no_grad():
            self.draw(n)


def polymode() -> Contender:
    spec = specs.tokens(CONTEXT, SYMBOLS)
    model = pm.create("gpt", spec, seed=0, width=WIDTH, layers=LAYERS, heads=HEADS)
    g = torch.Generator().manual_seed(0)
    return Contender(
        model, lambda x: model.loss(x, generator=g).value / CONTEXT, lambda n: model.sample(n, generator=g)
    )


def transformers() -> Contender:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=SYMBOLS, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)

    def draw(n: int) -> Tensor:
        start, mask = torch.zeros(n, 1, dtype=torch.long), torch.ones(n, 1, dtype=torch.long)
        return model.generate(
            start, attention_mask=mask, max_length=CONTEXT, do_sample=True, top_k=0, pad_token_id=0, use_cache=True
        )

    return Contender(model, lambda x: model(input_ids=x, labels=x).loss, draw)


def x_transformers() -> Contender:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    net = TransformerWrapper(
        num_tokens=SYMBOLS, max_seq_len=CONTEXT, attn_layers=Decoder(dim=WIDTH, depth=LAYERS, heads=HEADS,
                                                                     attn_dim_head=WIDTH // HEADS, attn_flash=True),
    )  # fmt: skip
    wrapped = AutoregressiveWrapper(net)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(net(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())

    def draw(n: int) -> Tensor:
        return wrapped.generate(torch.zeros(n, 1, dtype=torch.long), CONTEXT - 1, cache_kv=True)

    return Contender(wrapped, loss, draw)


def main() -> None:
    torch.set_num_threads(THREADS)
    x = torch.randint(SYMBOLS, (BATCH, CONTEXT), generator=torch.Generator().manual_seed(0))
    contenders = {"polymode": polymode(), "transformers": transformers(), "x-transformers": x_transformers()}
    protocol = f"{LAYERS} layers, {WIDTH} wide, {HEADS} heads, context {CONTEXT}, float32, {THREADS} threads"
    work: dict[str, dict[str, Callable[[], None]]] = {
        f"training at batch {BATCH}": {k: lambda c=c: c.train(x) for k, c in contenders.items()},
        "cached generation at batch 1": {k: lambda c=c: c.generate(1) for k, c in contenders.items()},
        "cached generation at batch 32": {k: lambda c=c: c.generate(32) for k, c in contenders.items()},
    }
    entries = []
    for metric, calls in work.items():
        for name, (median, least, most) in ratios(alternate(calls, rounds=ROUNDS), "polymode").items():
            print(
                f"gpt {metric}: {name} takes {median:.2f} times as long (rounds {least:.2f} to {most:.2f})", flush=True
            )
            entries.append(
                measurement("bench_gpt", "gpt", f"time of {metric}, {name} / polymode", median, protocol, n=ROUNDS,
                            least=least, most=most)
            )  # fmt: skip
    save("bench_gpt", entries)


if __name__ == "__main__":
    main()
