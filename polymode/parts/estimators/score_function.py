"""Gradients of likelihood bounds with discrete latents, from the log-probabilities of S draws h_s ~ q(h | x).

With w_s = p(x, h_s) / q(h_s | x) and w~ = softmax(log w), all of these return (B,) losses whose value is minus a bound
and whose gradient is an estimate of that of the bound, or what the paper puts in its place:

    REINFORCE      grad log p + (log w - c) grad log q,   c free of h           Williams 1992; minus the ELBO
    NVIL           the same, c = C(x) + mean, divided by max(1, sd)             Mnih and Gregor 2014, arXiv:1402.0030
    VIMCO          sum_s w~_s grad log w_s + sum_s (L - L_-s) grad log q_s      Mnih and Rezende 2016, arXiv:1602.06725
                   L = log 1/S sum_s w_s, in L_-s the geometric mean of the others stands for w_s  (eq. 9, 10)
    RWS            sum_s w~_s grad log p_s for p, sum_s w~_s grad log q_s for q Bornschein and Bengio 2015,
                   (q: the wake phase)                                          arXiv:1406.2751, eq. 5 and 7
    wake-sleep     grad log p for p, nothing for q                              Hinton, Dayan, Frey and Neal 1995

The first three are unbiased for both p and q (NVIL up to its division). RWS is exact for p, and for q follows
KL(p(h | x) || q) instead of the bound; the sleep phase, which RWS may add and wake-sleep needs, is a maximum
likelihood step of q on draws of the model and needs no function.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.parts.estimators.importance import log_mean_exp

Samples = Float[Tensor, "S B"]
LayerSamples = Float[Tensor, "L S B"]


def reinforce(log_p: Samples, log_q: LayerSamples, signal: LayerSamples) -> Float[Tensor, " B"]:
    """The score-function gradient of the ELBO, with a signal that stands for log w in the gradient of q.

    Args:
        log_p: log p(x, h_s).
        log_q: log q of each layer of h_s, given what lies below it.
        signal: of each layer; log w less anything that does not depend on the layer.
    """
    elbo = (log_p - log_q.sum(0)).mean(0)
    return _value_and_gradient(-elbo, -(log_p + (signal.detach() * log_q).sum(0)).mean(0))


def nvil(log_p: Samples, log_q: LayerSamples, signal: LayerSamples, baseline: LayerSamples) -> Float[Tensor, " B"]:
    """`reinforce`, and the step of the baselines C by the same signal (algorithm 1).

    Args:
        signal: as a `LearningSignal` gives it.
        baseline: C of each layer, a function of what lies below it.
    """
    step = -(signal.detach() * baseline).sum(0).mean(0)  # the gradient of half the squared error of C
    return reinforce(log_p, log_q, signal) + _value_and_gradient(torch.zeros_like(step), step)


def vimco(log_p: Samples, log_q: Samples) -> Float[Tensor, " B"]:
    """The gradient of the bound of S >= 2 samples, each with the others for its baseline."""
    log_w = log_p - log_q
    s, total = len(log_w), log_mean_exp(log_w)
    with torch.no_grad():
        others = (log_w.sum(0) - log_w) / (s - 1)  # (S, B): logarithms of geometric means
        without = log_w + torch.diag_embed((others - log_w).T).permute(1, 2, 0)  # (S, S, B): row s lacks w_s
        signal = total - (without.logsumexp(1) - math.log(s))
    return _value_and_gradient(-total, -(total + (signal * log_q).sum(0)))


def rws(log_p: Samples, log_q: Samples) -> Float[Tensor, " B"]:
    """The wake phases of p and of q, which share the normalised weights."""
    log_w = (log_p - log_q).detach()
    return _value_and_gradient(-log_mean_exp(log_w), -(log_w.softmax(0) * (log_p + log_q)).sum(0))


def wake(log_p: Samples, log_q: Samples) -> Float[Tensor, " B"]:
    """The wake phase of wake-sleep, which moves p only; minus the ELBO."""
    return _value_and_gradient(-(log_p - log_q).mean(0), -log_p.mean(0))


def layer_signals(log_p: Float[Tensor, "M S B"], log_q: LayerSamples) -> LayerSamples:
    """log w of each layer without the terms that do not depend on it (arXiv:1402.0030, section 2.3.3).

    Args:
        log_p: M = L + 1 terms: of the data given layer 1, of layer 1 given layer 2, ..., of layer L.
    """
    terms = (log_p[:-1] - log_q).detach()
    return terms.flip(0).cumsum(0).flip(0) + log_p[-1].detach()


class LearningSignal(nn.Module):
    """(signal - baseline - running mean) / max(1, running standard deviation), of each layer.

    Deviation: the mean and variance are those of the steps before, so that they do not depend on the draws and the
    gradient stays unbiased but for its scale.

    Args:
        layers: L.
        decay: of the running mean and variance.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, layers: int, decay: float = 0.8) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(layers))
        self.register_buffer("variance", torch.ones(layers))

    @torch.no_grad()
    def start(self, residual: LayerSamples) -> None:
        """Take the mean and variance of a first signal less its baseline."""
        flat = residual.flatten(1)
        self.mean.copy_(flat.mean(1))
        self.variance.copy_(flat.var(1, unbiased=False))

    @torch.no_grad()
    def forward(self, residual: LayerSamples) -> LayerSamples:
        """The signal less its baseline, normalised; in training its mean and variance are remembered."""
        scale = self.variance.sqrt().clamp(min=1.0).view(-1, 1, 1)
        normalised = (residual - self.mean.view(-1, 1, 1)) / scale
        if self.training:
            flat = residual.flatten(1)
            self.mean.lerp_(flat.mean(1), 1 - self.decay)
            self.variance.lerp_(flat.var(1, unbiased=False), 1 - self.decay)
        return normalised


def _value_and_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """A tensor with the value of one and the gradient of the other."""
    return value.detach() + surrogate - surrogate.detach()
