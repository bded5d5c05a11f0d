"""Diagonal Gaussians: log-densities and divergences of each entry, in nats.

    log N(z; mu, sigma^2) = -1/2 ((z - mu) / sigma)^2 - log sigma - 1/2 log 2 pi
    KL(q || p) = log sigma_p / sigma_q + (sigma_q^2 + (mu_q - mu_p)^2) / (2 sigma_p^2) - 1/2

(Kingma and Welling 2014, arXiv:1312.6114, appendix B, for the standard normal p), and the normalised product of two,
whose precisions add and whose mean weighs theirs by them (Sonderby et al. 2016, arXiv:1602.02282, section 2.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: log-scales of a posterior or prior are kept within +- this: beyond, exp overflows in the first steps on wild data
MOST_LOG_SIGMA = 10.0


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, 1) of each entry."""
    return -0.5 * (z**2 + math.log(2 * math.pi))


def log_normal_at(z: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
    """log N(z; mu, sigma^2) of each entry."""
    return log_normal((z - mu) * (-log_sigma).exp()) - log_sigma


def kl_to_standard_normal(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) of each entry."""
    return 0.5 * (mu**2 + (2 * log_sigma).exp() - 1) - log_sigma


def kl_between(mu_q: Tensor, log_sigma_q: Tensor, mu_p: Tensor, log_sigma_p: Tensor) -> Tensor:
    """KL(N(mu_q, sigma_q^2) || N(mu_p, sigma_p^2)) of each entry."""
    ratio, shift = log_sigma_q - log_sigma_p, (mu_q - mu_p) * (-log_sigma_p).exp()
    return 0.5 * ((2 * ratio).exp() + shift**2 - 1) - ratio


def product_of(mu_a: Tensor, log_sigma_a: Tensor, mu_b: Tensor, log_sigma_b: Tensor) -> tuple[Tensor, Tensor]:
    """(mu, log sigma) of the Gaussian proportional to N(mu_a, sigma_a^2) N(mu_b, sigma_b^2), of each entry."""
    share = (2 * (log_sigma_b - log_sigma_a)).sigmoid()  # of a in the sum of both precisions
    return mu_b + share * (mu_a - mu_b), -0.5 * torch.logaddexp(-2 * log_sigma_a, -2 * log_sigma_b)


def split_gaussian(params: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """(mu, log sigma) of a network's output, halves of an axis."""
    mu, log_sigma = params.chunk(2, dim=dim)
    return mu, log_sigma.clamp(-MOST_LOG_SIGMA, MOST_LOG_SIGMA)
