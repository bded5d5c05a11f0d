"""What an approximate posterior makes of its code: units that are used, nats a dimension, and what its shape costs.

    active units         #{d: Var_x(E_q[z_d | x]) > 0.01}          (Burda, Grosse and Salakhutdinov 2016, Importance
                                                                    Weighted Autoencoders, arXiv:1509.00519, section 5)
    KL of a dimension    mean over x of KL(q(z_d | x) || p(z_d))
    amortisation gap     L[q*] - L[q],    L[q] = E_q[log p(x, z) - log q(z)]
    approximation gap    log p(x) - L[q*]                          (Cremer, Li and Duvenaud 2018, Inference
                                                                    Suboptimality in Variational Autoencoders,
                                                                    arXiv:1801.03558, eq. 6 to 8)

q* is the best diagonal Gaussian for one datum, q the encoder's. `active_units` and `kl_by_dim` hold the first two,
`inference_gaps` the others: q* by Adam from the encoder's own q, with fresh draws at every step, and log p(x) by
importance weighting with q* and a wider Gaussian as the proposal. A code with few active units has collapsed.
Both gaps are of two estimates on the same standard normal draws; the entropy of a Gaussian is in closed form. Where
draws that are used for nothing else find the encoder's q no worse, q* is the encoder's, and the gap zero.
Deviation: log p(x) is an importance-weighted bound, so the approximation gap is at least what is shown; the paper takes
the larger of it and annealed importance sampling.

Cost: 300 steps of 8 decoder passes a datum, and some 4,500 passes to judge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasPosterior, require
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.parts.codes import ACTIVE, activity
from polymode.parts.distributions.gaussian import kl_to_standard_normal, log_normal
from polymode.parts.estimators.importance import log_mean_exp

#: steps of Adam, its rate at the start (it falls to zero by a cosine), and draws of a datum a step
STEPS, RATE, DRAWS = 300, 0.03, 8
#: draws that choose between the two posteriors, that judge them, and rows of a decoder pass
CHOOSING, JUDGING, ROWS = 256, 1000, 8192
#: half of the draws that weigh log p(x) come of a Gaussian so much wider: the best q has too little in its tails
WIDER = 1.5


@dataclass(frozen=True)
class Gaps:
    """What an encoder's posterior loses, in nats of each datum.

    Args:
        elbo: (B,) of the encoder's q.
        best_elbo: (B,) of the best diagonal Gaussian that was found.
        log_prob: (B,) importance-weighted lower bound of log p(x).
        mu, log_sigma: (B, Z) of the best Gaussian.
    """

    elbo: Tensor
    best_elbo: Tensor
    log_prob: Tensor
    mu: Tensor
    log_sigma: Tensor

    @property
    def amortisation(self) -> Float[Tensor, " B"]:
        """What a q for each datum would gain over the encoder's."""
        return self.best_elbo - self.elbo

    @property
    def approximation(self) -> Float[Tensor, " B"]:
        """What is lost by q being a diagonal Gaussian; at least this much."""
        return self.log_prob - self.best_elbo


def active_units(mu: Float[Tensor, "N Z"]) -> int:
    """How many dimensions of the posterior's mean vary over data."""
    return int((activity(mu) > ACTIVE).sum())


def kl_by_dim(mu: Float[Tensor, "N Z"], log_sigma: Float[Tensor, "N Z"]) -> Float[Tensor, " Z"]:
    """Nats of each dimension, (Z,), the mean over data of the divergence from a standard normal prior."""
    return kl_to_standard_normal(mu.double(), log_sigma.double()).mean(0)


def inference_gaps(
    model: GenerativeModel,
    x: Tensor,
    condition: Condition | None = None,
    *,
    steps: int = STEPS,
    generator: torch.Generator,
) -> Gaps:
    """The gaps of data (B, *shape) under a model with a Gaussian posterior.

    Args:
        steps: of Adam, for q*.
        generator: of all draws.

    Raises:
        CapabilityError: a model without a Gaussian posterior.
    """
    require(model, HasPosterior, "Gaussian posterior")
    assert isinstance(model, HasPosterior)
    if steps < 1:
        raise PolymodeError(f"steps={steps}, expected at least 1")
    x, condition = model.enter(x, condition)
    mu, log_sigma = model.posterior_gaussian(x, condition)
    with model._evaluating():
        best_mu, best_log_sigma = _best(model, x, condition, mu, log_sigma, steps, generator)
        choosing = _draws(CHOOSING, mu, generator)
        kept = _elbo(model, x, condition, best_mu, best_log_sigma, choosing) > _elbo(
            model, x, condition, mu, log_sigma, choosing
        )
        best_mu, best_log_sigma = (
            torch.where(kept[:, None], new, old) for new, old in ((best_mu, mu), (best_log_sigma, log_sigma))
        )
        eps = _draws(JUDGING, mu, generator)
        elbo = _elbo(model, x, condition, mu, log_sigma, eps)
        best_elbo = _elbo(model, x, condition, best_mu, best_log_sigma, eps)
        weights = _log_weights(model, x, condition, best_mu, best_log_sigma, _draws(2 * JUDGING, mu, generator))
        log_prob = log_mean_exp(weights)
    return Gaps(*(t.cpu() for t in (elbo, best_elbo, log_prob, best_mu, best_log_sigma)))


def _best(
    model: HasPosterior, x: Tensor, condition: Condition | None, mu: Tensor, log_sigma: Tensor, steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(mu, log sigma) of the best Gaussians: data do not share parameters, so one optimiser serves all."""
    with torch.enable_grad():
        mu, log_sigma = mu.clone().requires_grad_(), log_sigma.clone().requires_grad_()
        solver = torch.optim.Adam([mu, log_sigma], lr=RATE)
        for step in range(steps):
            solver.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            bound = _elbo(model, x, condition, mu, log_sigma, _draws(DRAWS, mu, generator))
            gradients = torch.autograd.grad(-bound.sum(), [mu, log_sigma])  # the model's weights get none
            mu.grad, log_sigma.grad = gradients
            solver.step()
    return mu.detach(), log_sigma.detach()


def _draws(n: int, like: Float[Tensor, "B Z"], generator: torch.Generator) -> Float[Tensor, "S B Z"]:
    """n standard normal draws a datum, in pairs of opposite sign: what is odd in them cancels."""
    half = rng.randn(((n + 1) // 2, *like.shape), generator, like)
    return torch.cat([half, -half])[:n]


def _log_joint(
    model: HasPosterior, x: Tensor, condition: Condition | None, z: Float[Tensor, "S B Z"]
) -> Float[Tensor, "S B"]:
    """log p(x, z) of S codes a datum, some rows at a time."""
    found = []
    for piece in z.split(max(1, ROWS // len(x))):
        s = len(piece)
        rows = x.repeat(s, *(1,) * (x.dim() - 1))
        beside = None if condition is None else condition.map(lambda v, s=s: v.repeat(s, *(1,) * (v.dim() - 1)))
        found.append(model._log_joint(rows, piece.flatten(0, 1), beside).view(s, -1))
    return torch.cat(found)


def _elbo(
    model: HasPosterior, x: Tensor, condition: Condition | None, mu: Tensor, log_sigma: Tensor,
    eps: Float[Tensor, "S B Z"],
) -> Float[Tensor, " B"]:  # fmt: skip
    """L[N(mu, sigma^2)]: the mean log joint of its draws and its entropy."""
    entropy = (log_sigma + 0.5 * math.log(2 * math.pi * math.e)).sum(1)
    return _log_joint(model, x, condition, mu + log_sigma.exp() * eps).mean(0) + entropy


def _log_weights(
    model: HasPosterior, x: Tensor, condition: Condition | None, mu: Tensor, log_sigma: Tensor,
    eps: Float[Tensor, "S B Z"],
) -> Float[Tensor, "S B"]:  # fmt: skip
    """log p(x, z) - log r(z) of draws of r, an equal mixture of q and a Gaussian that is WIDER: E[w] = p(x)."""
    half = len(eps) // 2
    own, wide = eps[:half], WIDER * eps[half:]  # both in deviations of q
    v = torch.cat([own, wide])
    shapes = log_normal(v).sum(-1), (log_normal(v / WIDER) - math.log(WIDER)).sum(-1)
    log_r = torch.logaddexp(*shapes) - math.log(2) - log_sigma.sum(-1)
    return _log_joint(model, x, condition, mu + log_sigma.exp() * v) - log_r
