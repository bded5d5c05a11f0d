"""DARN: a layer of latent bits, which are drawn one after the other, over data that are drawn one after the other.

Gregor, Danihelka, Mnih, Blundell and Wierstra 2014, Deep AutoRegressive Networks (arXiv:1310.8499).

    p(h) = prod_j p(h_j | h_<j),       p(h_j = 1 | h_<j) = sigmoid(c_j + sum_{i<j} M_ji h_i)
    p(x | h) = prod_d p(x_d | x_<d, h),  p(x_d = 1 | x_<d, h) = sigmoid(b_d + U_d f(h) + sum_{e<d} L_de x_e)
    q(h | x) = prod_j q(h_j | x),      q(h_j = 1 | x) = sigmoid(g(x)_j)
    description length = E_q[log q(h | x) - log p(h) - log p(x | h)] >= -log p(x)

f and g are perceptrons (f the identity where it has no hidden layer). `DARN.weigh` holds the three distributions,
`DARN.loss` the description length, `Chain` the autoregressive layers: one masked product for all their conditionals,
and one column at a time where they are drawn. The gradient of q comes through the draws ("mdl": the estimator of the
paper, `parts.estimators.straight_through`, with the entropy of q in closed form), or from the scores of S draws by
"rws" (without a sleep phase, since dreams come one bit after the other), "vimco" or "nvil" (`parts.estimators.
score_function`); L x is the same for all draws and is computed once.
Deviation: bits are read as -1 and 1; the data's own biases start at the log-odds of the first batch; a condition's
encoding is added to the biases and to g; Adam; no noise on the weights. Where x_<d tell most of x_d
the code of h is soon dropped: below `free_nats` of it "mdl" does not charge q (free bits, Kingma et al. 2016,
arXiv:1606.04934), which changes gradients only, and U starts at zero.

Likelihood: a lower bound, tighter with more draws, which share one pass over x. Sampling: H + D small steps.
Expected: recipe darn_mnist; tests/learning/test_directed.py on digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.directed._blocks import BinaryLatents, Weighed, shifted
from polymode.parts.distributions.bits import draw_signs, log_bits
from polymode.parts.estimators.straight_through import half_draw
from polymode.parts.nn.masked import MaskedLinear
from polymode.parts.nn.mlp import MLP


class Chain(MaskedLinear):
    """What signs s add to the logits of those behind them: L s, with a strictly lower triangular L."""

    def __init__(self, size: int) -> None:
        super().__init__(torch.ones(size, size).tril(-1).bool(), bias=False)
        nn.init.zeros_(self.weight)

    @torch.no_grad()
    def draw(self, start: Float[Tensor, "n D"], generator: torch.Generator, temperature: float) -> Float[Tensor, "n D"]:
        """Signs, one after the other, whose logits are `start` before any is known."""
        logits, columns = start.clone(), self.masked_weight.T.contiguous()
        signs = torch.empty_like(logits)
        for j in range(signs.shape[1]):
            signs[:, j] = draw_signs(logits[:, j], generator, temperature)
            logits[:, j + 1 :].addr_(signs[:, j], columns[j, j + 1 :])
        return signs


class Shared(NamedTuple):
    """What all draws for some data share: the logits of q, what x adds to its own, and c."""

    posterior: Tensor
    data: Tensor
    prior: Tensor


class DARN(BinaryLatents):
    """A deep autoregressive network of bits.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latents: H, bits of the latent layer.
        encoder: widths of the hidden layers of g; none for a linear map.
        decoder: widths of the hidden layers of f; none for the identity.
        estimator: of the gradient: "mdl", "rws", "vimco" or "nvil".
        num_samples: S, draws of the latents a datum in training.
        free_nats: of the code of h, that "mdl" does not charge q for.

    Raises:
        PolymodeError: an unknown estimator, no latent bit, too few samples, or free_nats below zero.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-2, batch_size=100, ema=0.99, clip=None)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latents: int = 200,
        encoder: Sequence[int] = (),
        decoder: Sequence[int] = (),
        estimator: Literal["mdl", "rws", "vimco", "nvil"] = "mdl",
        num_samples: int = 1,
        free_nats: float = 0.0,
    ) -> None:
        super().__init__(spec, condition_spec)
        self.set_up(spec, (latents,), estimator, num_samples, more=("mdl",))
        if free_nats < 0:
            raise PolymodeError(f"free_nats={free_nats}: expected at least 0")
        d, self.free_nats = spec.num_dims, free_nats
        self.encoder = MLP(self.features.size, latents, encoder, act="tanh")
        self.prior, self.prior_bias = Chain(latents), nn.Parameter(torch.zeros(latents))
        self.decoder = MLP(latents, d, decoder, act="tanh")
        with torch.no_grad():
            # h starts as an informative code of x that adds no noise to it: otherwise its bits are soon made constant
            self.encoder.last.weight.mul_(3)
            self.decoder.last.weight.zero_()
        self.chain = Chain(d)
        self.set_condition(condition_spec, [latents, latents, d])

    @torch.no_grad()
    def start_at(self, logits: Tensor) -> None:
        self.decoder.last.bias.copy_(logits)

    def recognise(self, x: Tensor, condition: Condition | None) -> Shared:
        to_q, to_h, to_x = self.shifts(condition)
        s = self.features(x)
        return Shared(shifted(self.encoder(s), to_q), shifted(self.chain(s), to_x), shifted(self.prior_bias, to_h))

    def weigh(self, x: Tensor, shared: Shared, samples: int, generator: torch.Generator) -> Weighed:
        h = draw_signs(shared.posterior.expand(samples, *shared.posterior.shape), generator)  # (S, B, H)
        log_p = [log_bits(self.features(x), self.decoder(h) + shared.data), log_bits(h, self.prior(h) + shared.prior)]
        return Weighed(torch.stack(log_p), log_bits(h, shared.posterior).unsqueeze(0), [h])

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        if self.estimator != "mdl":
            return super().loss(x, condition, generator=generator)
        shared = self.recognise(x, condition)
        logits = shared.posterior
        h = 2 * half_draw(logits.expand(self.num_samples, *logits.shape), generator) - 1
        data = -log_bits(self.features(x), self.decoder(h) + shared.data).mean(0)
        entropy = (F.softplus(logits) - logits * logits.sigmoid()).sum(1)  # of q, in nats
        code = -log_bits(h, self.prior(h) + shared.prior).mean(0) - entropy
        if code.mean() < self.free_nats:  # the prior goes on learning, and q learns from the data alone
            drawn = h.detach()
            code = -log_bits(drawn, self.prior(drawn) + shared.prior).mean(0) - entropy.detach()
        return Loss(data + code, {"data": data.detach(), "code": code.detach()})

    @torch.no_grad()
    def _ancestral(
        self, n: int, condition: Condition | None, generator: torch.Generator, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Signs of x (n, D) and of h (n, H)."""
        _, to_h, to_x = self.shifts(condition)
        h = self.prior.draw(shifted(self.prior_bias, to_h).expand(n, -1), generator, temperature)
        return self.chain.draw(shifted(self.decoder(h), to_x), generator, temperature), h

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        return self.features.decode(self._ancestral(n, condition, generator, temperature)[0])

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The likeliest value of each bit in turn, given probabilities or bits of h."""
        start = shifted(self.decoder(2 * z.to(self.dtype) - 1), self.shifts(condition)[2])
        likeliest = torch.Generator()  # at temperature zero no draw depends on it
        return self.features.decode(self.chain.draw(start, likeliest, 0.0))
