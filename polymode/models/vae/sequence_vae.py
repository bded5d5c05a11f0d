"""Sequence VAE: a recurrent net reads a sequence into one Gaussian code, another writes it from that code.

Bowman et al. 2016, Generating Sentences from a Continuous Space (CoNLL, arXiv:1511.06349).

    log p(x) >= E_q[sum_t log p(x_t | x_<t, z)] - KL(q(z | x) || N(0, 1))                         (eq. 1)
    q(z | x) = N(mu, sigma^2), linear in the last states of the encoder                            (section 2.1)
    h_t = cell([embedding of x_{t-1}, z], h_{t-1}),  h_0 = tanh(W z + b),  p(x_t | x_<t, z) = softmax(W' h_t + b')

A decoder that predicts well from what came before has no use for a code and the KL term drives it out: q becomes the
prior. Against it: the KL term comes in over the first `anneal` steps (section 3.1), symbols that the decoder reads are
lost in training with probability `word_dropout` (section 3.2), and the first `free_bits` nats of each dimension are not
charged (Kingma et al. 2016, arXiv:1606.04934, eq. 16). All three change the training loss only.

`SequenceVAE.posterior` holds q, `SequenceVAE.run` the decoder's recurrence, `SequenceVAE.loss` the bound; how symbols
are drawn is `parts.samplers.decoding`, of which `_Reader` is the model's side.
Deviation: the code is part of every input (theirs sets the first state only); the encoder reads in both directions; the
annealing is linear (theirs a sigmoid); cells are torch's; a condition's vector stands beside the code in both nets.

Likelihood: a lower bound, one pass of each net; samples of the code share the encoder's. Sampling: T steps of a symbol.
Expected: recipe sequence_vae_shakespeare; what each remedy saves of the code in tests/learning/test_sequence_vae.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import HasBound, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.vae._bounds import Annealing, free_nats
from polymode.parts.distributions.gaussian import kl_to_standard_normal, log_normal, split_gaussian
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.samplers.decoding import Allowed, Decoding, beam_search, decoding_for, draw_sequences

#: symbols of all samples that are scored at a time
MOST_SYMBOLS = 2**16


class SequenceVAE(Conditioned, GenerativeModel, HasBound, HasLatents):
    """A variational autoencoder of token sequences; symbol K starts a sequence, K + 1 stands for one that is lost.

    Args:
        spec: what one datum is: a sequence of tokens.
        condition_spec: what it is conditioned on.
        latent_dims: Z, dimensions of the code.
        embed: width of the symbols' vectors.
        hidden: width of both nets' states.
        dropout: share of embedded symbols and of the decoder's states dropped in training.
        word_dropout: share of symbols that the decoder does not see in training.
        anneal: training steps over which the KL term comes in, 0 for none.
        free_bits: nats of each dimension of the code that the training loss does not charge.

    Raises:
        PolymodeError: sizes below one, shares outside [0, 1) (word_dropout may be 1), or anneal or free_bits below 0.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=3e-3, batch_size=32, ema=0.99, clip=1.0)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 16,
        embed: int = 64,
        hidden: int = 256,
        dropout: float = 0.0,
        word_dropout: float = 0.3,
        anneal: int = 500,
        free_bits: float = 0.0,
    ) -> None:
        super().__init__(spec, condition_spec)
        if min(latent_dims, embed, hidden) < 1 or not 0 <= dropout < 1 or not 0 <= word_dropout <= 1 or free_bits < 0:
            raise PolymodeError(
                f"latent_dims={latent_dims}, embed={embed}, hidden={hidden}, dropout={dropout}, "
                f"word_dropout={word_dropout}, free_bits={free_bits}: expected sizes of at least 1, a dropout of at "
                "least 0 and below 1, a word_dropout from 0 to 1 and free_bits of at least 0"
            )
        assert spec.levels is not None
        self.levels, self.latent_dims = spec.levels, latent_dims
        self.word_dropout, self.free_bits = word_dropout, free_bits
        self.annealing, self.dropout = Annealing(anneal), nn.Dropout(dropout)
        self.condition_encoder, context = encoder_for(condition_spec, hidden)
        self.read_embedding = nn.Embedding(self.levels, embed)
        self.encoder = nn.GRU(embed, hidden, batch_first=True, bidirectional=True)
        self.to_posterior = nn.Linear(2 * hidden + context, 2 * latent_dims)
        self.write_embedding = nn.Embedding(self.levels + 2, embed)
        self.decoder = nn.GRU(embed + latent_dims + context, hidden, batch_first=True)
        self.to_state = nn.Linear(latent_dims + context, hidden)
        self.last = nn.Linear(hidden, self.levels)

    # -- the two nets ----------------------------------------------------------------------------------------------
    def posterior(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(mu, log sigma) of q(z | x), (B, Z) each."""
        states = self.encoder(self.dropout(self.read_embedding(x)))[1]  # (2, B, H)
        return split_gaussian(self.to_posterior(_beside(torch.cat([*states], dim=1), context)))

    def first_state(self, code: Tensor) -> Tensor:
        """The decoder's state before the first symbol, from code and context (B, Z + W)."""
        return self.to_state(code).tanh().unsqueeze(0)

    def run(self, inputs: Tensor, state: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Read symbols (B, t) one before each place: the logits of those places (B, t, K), and the state after them."""
        embedded = self.dropout(self.write_embedding(inputs))
        told = code.unsqueeze(1).expand(-1, inputs.shape[1], -1)
        h, state = self.decoder(torch.cat([embedded, told], dim=2), state)
        return self.last(self.dropout(h)), state

    def logits(self, x: Tensor, code: Tensor, lost: Tensor | None = None) -> Tensor:
        """The logits of every symbol given the code and those before it that are not `lost` (B, T - 1), (B, T, K)."""
        before = x[:, :-1] if lost is None else x[:, :-1].masked_fill(lost, self.levels + 1)
        inputs = torch.cat([self.begin(len(x)), before], dim=1)
        return self.run(inputs, self.first_state(code), code)[0]

    def begin(self, n: int) -> Tensor:
        """What stands before the first symbol, (n, 1)."""
        return torch.full((n, 1), self.levels, device=self.device)

    # -- the bound -------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        context = self.context(condition)
        mu, log_sigma = self.posterior(x, context)
        z = mu + log_sigma.exp() * rng.randn(mu.shape, generator, mu)
        lost = None
        if self.training and self.word_dropout:
            lost = rng.rand((len(x), x.shape[1] - 1), generator, mu) < self.word_dropout
        reconstruction = -_log_prob(self.logits(x, _beside(z, context), lost), x)
        kl = kl_to_standard_normal(mu, log_sigma)  # (B, Z)
        charged = kl.sum(1)
        if self.training and self.free_bits:
            charged = charged + free_nats(kl, self.free_bits)
        parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach().sum(1)}
        return Loss(reconstruction + self.annealing() * charged, parts)

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        context = self.context(condition)
        mu, log_sigma = self.posterior(x, context)
        most = max(1, MOST_SYMBOLS // x.numel())
        for start in range(0, num_samples, most):
            s = min(most, num_samples - start)
            eps = rng.randn((s, *mu.shape), generator, mu)
            z = mu + log_sigma.exp() * eps  # (S, B, Z)
            code = _beside(z.flatten(0, 1), None if context is None else context.repeat(s, 1))
            rows = x.repeat(s, 1)
            told = _log_prob(self.logits(rows, code), rows).view(s, -1)
            yield told + (log_normal(z) - log_normal(eps) + log_sigma).sum(2)

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return next(self._log_weights(x, condition, 1, generator))[0]

    # -- codes and samples -----------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.posterior(x, self.context(condition))[0]

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        greedy = Decoding(temperature=0.0)  # takes no draw into account, so any generator does
        return self._write(z.to(self.dtype), condition, rng.generator(0), greedy)

    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        no_repeat_ngram: int | None = None,
        allowed: Allowed | None = None,
        stop: int | Sequence[int] | Sequence[Sequence[int]] | None = None,
        length: int | None = None,
        beams: int = 1,
        length_penalty: float = 0.0,
    ) -> Tensor:
        how = decoding_for(
            self.spec, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, no_repeat_ngram=no_repeat_ngram, allowed=allowed, stop=stop,
            length=length, beams=beams, length_penalty=length_penalty,
        )  # fmt: skip
        z = rng.randn((n, self.latent_dims), generator, self._anchor)
        return self._write(z, condition, generator, how)

    def _write(self, z: Tensor, condition: Condition | None, generator: torch.Generator, how: Decoding) -> Tensor:
        """One sequence of each code (n, Z)."""
        reader = _Reader(self, _beside(z, self.context(condition)))
        blank = torch.zeros(len(z), *self.spec.shape, dtype=torch.int64, device=self.device)
        if how.beams > 1:
            return beam_search(reader, blank, None, how)[0]
        return draw_sequences(reader, blank, None, how, generator)[0]


class _Reader:
    """What decoding sees of the model: its decoder, each row under a code of its own."""

    def __init__(self, model: SequenceVAE, code: Tensor) -> None:
        self.model, self.code, self.state = model, code, model.first_state(code)

    def begin(self) -> Tensor:
        return self.model.begin(len(self.code))

    def read(self, symbols: Tensor, start: int) -> tuple[Tensor, Tensor]:
        logits, self.state = self.model.run(symbols, self.state, self.code)
        return logits, logits

    def keep(self, rows: Tensor) -> None:
        self.code, self.state = self.code[rows], self.state[:, rows]


def _beside(z: Tensor, context: Tensor | None) -> Tensor:
    return z if context is None else torch.cat([z, context], dim=1)


def _log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p of whole rows, (B,)."""
    nats = -F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none")
    return nats.view(x.shape).sum(1)
