"""BERT as a generator: a transformer that sees both sides says what stands at masked places, in any order.

Devlin, Chang, Lee and Toutanova 2019, BERT (arXiv:1810.04805), the network and masking; Wang and Cho 2019, BERT has a
Mouth, and It Must Speak (arXiv:1902.04094), Gibbs sampling from it; Ghazvininejad et al. 2019, Mask-Predict
(arXiv:1904.09324); Chang et al. 2022, MaskGIT (arXiv:2202.04200), for images; Hoogeboom et al. 2022, Autoregressive
Diffusion Models (arXiv:2110.02037), the bound.

    p(x_d | x_known) = softmax(E h_d + c)_{x_d},   h = transformer(E x' + P),   x'_d = x_d where known, else [MASK]
    loss = -E_m E_M[ D / m sum_{d in M} log p(x_d | x_known) ],   M random, |M| = m uniform in 1 .. D    (Hoogeboom, 3)
         = -E_s[ sum_t log p(x_{s_t} | x_{s_1} .. x_{s_{t-1}}) ] >= -log p(x),   p(x) = E_s p(x | s),   s an order

`BERT.logits` holds the network, `BERT.masks` which places are masked in training, `BERT.corrupt` with what;
`parts/samplers/masked.py` holds p(x | s), the ways of sampling and the pseudo-likelihood.
Masking by default is uniform, not the paper's 15 %: a generator that starts from nothing meets every share of masks,
and a network that has only seen 15 % was never asked for the others: on the Markov chain of tests/learning/test_bert.py
the bound is 0.013 nats a token from the entropy after 400 steps, and after as many at 15 % 0.030. A `mask_rate` brings
the paper's masking back, 80 % [MASK], 10 % other symbols and 10 % left as they are, for features and for filling small
gaps. Its loss is no bound; `elbo` still is one, of the p(x) that such a network draws by orders.
Deviation: norms come before the blocks (as in GPT-2) and the output is tied to the embedding without a layer between;
there is no second loss on pairs of sentences; a condition's vector is added to every input; shares m are stratified
over a batch (Kingma et al. 2021, arXiv:2107.00630, appendix I.1). Beside the positions' embedding, each head adds a
learned number to attention at each distance (Raffel et al. 2020, arXiv:1910.10683, section 2.1), the same in all
blocks, which begins by falling off to one side (Press et al. 2022, ALiBi, arXiv:2108.12409, one-sided): a network that
has to find its neighbours by position alone stays at the unigram distribution for its first hundreds of steps.

Likelihood: a lower bound, of the mixture over random orders cut into `steps` blocks: `steps` passes. The bound of
several orders (importance-weighted) goes to log p(x). `pseudo_log_likelihood` (Besag 1975) is no likelihood, D passes.
Sampling: "orders" draws from that p(x) in `steps` passes; "mask_predict" takes as many passes as it is given, "gibbs"
D passes a sweep, and neither follows p(x). `complete` fills any gaps, by orders of the gaps.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Completes, HasBound, HasConditionals
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.nn.transformer import CausalTransformer, distances, sides
from polymode.parts.samplers import masked
from polymode.parts.samplers.autoregressive import check_options

Method = Literal["orders", "mask_predict", "gibbs"]
#: blocks of an order where nobody says: one symbol each, but no more passes than this
MOST_STEPS = 64
#: passes of mask-predict, of the paper's 4 and 10 the better
MASK_PREDICT_STEPS = 10


class BERT(Conditioned, GenerativeModel, HasBound, Completes, HasConditionals):
    """A bidirectional transformer of masked tokens, or of any lattice data flattened.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        width: of the residual stream, a multiple of heads.
        layers: blocks.
        heads: of attention in each block.
        dropout: share of activations and attention weights dropped in training.
        mask_rate: share of symbols masked in training, 0.15 in the paper; None draws it uniformly.
        steps: blocks that an order is cut into, and passes of the bound; None for one symbol a block, at most 64.

    Raises:
        PolymodeError: a width that is no multiple of heads, sizes below one, or shares out of range.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-3, batch_size=32, weight_decay=0.01, betas=(0.9, 0.99), ema=0.99, clip=1.0, warmup=50
    )
    default_num_samples: ClassVar = 1
    distance: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        mask_rate: float | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__(spec, condition_spec)
        if min(width, layers, heads) < 1 or not 0 <= dropout < 1:
            raise PolymodeError(
                f"width={width}, layers={layers}, heads={heads}, dropout={dropout}: expected sizes of at least 1 and a "
                "dropout of at least 0 and below 1"
            )
        if mask_rate is not None and not 0 < mask_rate <= 1:
            raise PolymodeError(f"mask_rate={mask_rate}: expected a share above 0 and up to 1, or None for all shares")
        if steps is not None and steps < 1:
            raise PolymodeError(f"steps={steps}, expected at least 1 pass")
        assert spec.levels is not None
        self.levels, self.mask_rate = spec.levels, mask_rate
        self.steps = min(spec.num_dims, MOST_STEPS if steps is None else steps)
        self.bound_name = f"elbo over random orders in {self.steps} passes"
        self.embedding = nn.Embedding(self.levels + 1, width)  # the last row is [MASK]
        self.positions = nn.Embedding(spec.num_dims, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = CausalTransformer(width, layers=layers, heads=heads, dropout=dropout, causal=False)
        #: what each head adds to attention at each distance, (H, 2 D - 1)
        self.distances = nn.Parameter(sides(heads, spec.num_dims))
        self.register_buffer("distance", distances(spec.num_dims), persistent=False)
        self.bias = nn.Parameter(torch.zeros(self.levels))
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.condition_encoder, context_width = encoder_for(condition_spec, width)
        if context_width:
            self.to_input = nn.Linear(context_width, width, bias=False)

    # -- the network -----------------------------------------------------------------------------------------------
    def logits(self, x: Tensor, known: Tensor, context: Tensor | None) -> Tensor:
        """Logits (B, D, K) of symbols x (B, D) given those that are known (B, D) and the context (B, W)."""
        h = self.embedding(torch.where(known, x, self.levels)) + self.positions.weight  # (B, D, W)
        if context is not None:
            h = h + self.to_input(context).unsqueeze(1)
        h = self.transformer(self.dropout(h), bias=self.distances[:, self.distance])
        return F.linear(h, self.embedding.weight[: self.levels], self.bias)  # [MASK] is read and never drawn

    def conditionals(self, condition: Condition | None = None) -> masked.Conditionals:
        context = self.context(condition)
        return lambda x, known: self.logits(x, known, context)

    # -- training --------------------------------------------------------------------------------------------------
    def masks(self, n: int, generator: torch.Generator) -> Tensor:
        """Which of n data's symbols the loss asks for, (n, D) bool, at least one each."""
        d = self.spec.num_dims
        if self.mask_rate is None:
            share = (rng.rand((1,), generator, self._anchor) + torch.arange(n, device=self.device) / n) % 1
            count = (share * d).long().clamp(max=d - 1) + 1  # (n,), each uniform in 1 .. D
        else:
            count = torch.full((n,), max(1, round(self.mask_rate * d)), device=self.device)
        places = rng.rand((n, d), generator, self._anchor).argsort(dim=1).argsort(dim=1)
        return places < count.unsqueeze(1)

    def corrupt(self, x: Tensor, asked: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the network reads: symbols (B, D), and where they are shown rather than [MASK]."""
        if self.mask_rate is None:
            return x, ~asked
        u = rng.rand(x.shape, generator, self._anchor)
        other = rng.randint(self.levels, x.shape, generator, self.device)
        return torch.where(asked & (u >= 0.9), other, x), ~asked | (u >= 0.8)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """D times the mean nats of the symbols asked for; with uniform shares one draw of the bound's negative."""
        x = x.flatten(1).long()
        asked = self.masks(len(x), generator)
        logits = self.logits(*self.corrupt(x, asked, generator), self.context(condition))
        nats = F.cross_entropy(logits.transpose(1, 2), x, reduction="none") * asked  # (B, D)
        correct = ((logits.argmax(-1) == x) & asked).sum() / asked.sum()
        return Loss(self.spec.num_dims * nats.sum(1) / asked.sum(1), {"accuracy": correct})

    # -- scores ----------------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        x = x.flatten(1).long()
        block = masked.random_blocks(torch.zeros_like(x, dtype=torch.bool), self.steps, generator)
        return masked.log_prob_by_orders(self.conditionals(condition), x, block).to(self.dtype)

    def pseudo_log_likelihood(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """sum_d log p(x_d | all other x), (B,) nats: ranks data of one length, and is no likelihood."""
        x, condition = self.enter(x, condition)
        with self._evaluating():
            nats = masked.pseudo_log_likelihood(self.conditionals(condition), x.flatten(1).long())
        return nats.to(self.dtype)

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        method: Method = "orders",
        steps: int | None = None,
        sweeps: int = 10,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
    ) -> Tensor:
        """By `method`, in `steps` passes ("orders", "mask_predict") and then `sweeps` ("gibbs")."""
        x = torch.zeros(n, *self.spec.shape, dtype=torch.int64, device=self.device)
        return self._complete(
            x, torch.zeros_like(x, dtype=torch.bool), condition, generator, method=method, steps=steps, sweeps=sweeps,
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        )  # fmt: skip

    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        method: Method = "orders",
        steps: int | None = None,
        sweeps: int = 10,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
    ) -> Tensor:
        require_choice("method", method, ("orders", "mask_predict", "gibbs"))
        check_options(temperature, top_k, top_p, min_p)
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        given = self.conditionals(condition), x.flatten(1).long(), mask.flatten(1), generator
        if method == "mask_predict":
            filled = masked.fill_by_confidence(*given, steps=MASK_PREDICT_STEPS if steps is None else steps, **options)
        else:
            filled = masked.fill_by_orders(*given, steps=self.steps if steps is None else steps, **options)
        if method == "gibbs":
            filled = masked.fill_by_gibbs(given[0], filled, *given[2:], sweeps=sweeps, **options)
        return filled.view(x.shape)
