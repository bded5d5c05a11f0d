"""Prompt recall: how often a picture drawn from words is nearer to its own words than to those of nine others.

Xu et al. 2018, AttnGAN: fine-grained text to image generation with attentional generative adversarial networks
(arXiv:1711.10485), section 4, R-precision with R = 1 and a hundred captions:

    R@1 among M = 1/n sum_i P(no other of M - 1 captions, drawn without replacement, is as near to x_i as its own)
                = 1/n sum_i prod_{k < M - 1} (m - b_i - k) / (m - k),    b_i of the m other captions as near or nearer

`recall_at_one` holds it: the mean over all draws of the others, in closed form. Nearness is the cosine of
`features.captions`, two small networks that learned from the training split. Captions are the prompts of the samples,
each but once, as sets of symbols; empty ones ask for nothing. What real test rows have under the same judge is the
mark, given in the protocol; chance is 1/M. Interval: Student's, over samples, the judge as it is. It says nothing of
variety; read it beside recall.
Cost one training of the judge, kept in the user's cache.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.features.captions import Captions, captions
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval

#: captions of which the own is one
AMONG = 10


def recall_at_one(scores: Float[Tensor, "N C"], own: Int[Tensor, " N"], among: int = AMONG) -> Float[Tensor, " N"]:
    """The probability of each row that its own of C captions scores above all others of so many; ties are lost.

    Raises:
        PolymodeError: fewer captions than that.
    """
    others = scores.shape[1] - 1
    if others < among - 1:
        raise PolymodeError(f"{others + 1} different prompts came, expected at least {among}; use more rows")
    beaten_by = (scores >= scores.gather(1, own.unsqueeze(1))).sum(1) - 1
    k = torch.arange(among - 1)
    left = (others - beaten_by.unsqueeze(1) - k).clamp(min=0)
    return (left.double() / (others - k)).prod(1)


def recalls(judge: Captions, x: Tensor, tokens: Tensor) -> Float[Tensor, " N"]:
    """`recall_at_one` of the pictures (N, *shape) that were drawn from captions (N, T), of those that say something.

    Raises:
        PolymodeError: too few different captions.
    """
    held = judge.symbols(tokens)
    asked = held.any(1)
    distinct, own = held[asked].unique(dim=0, return_inverse=True)
    with torch.no_grad():
        seen = torch.cat([judge.look(part) for part in x[asked].split(512)])
        return recall_at_one(seen @ judge.read(distinct).T, own)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    real, wanted = c.reference.condition, c.condition
    if real is None or real.tokens is None or wanted is None or wanted.tokens is None:
        raise PolymodeError("samples that were drawn without prompts have none to recall; use a model given tokens")
    truth = real.tokens
    judge = c.reference.cached("captions", lambda: captions(c.data))
    mark = c.reference.cached("captioned", lambda: recalls(judge, c.reference.real, truth).mean())
    found = recalls(judge, c.samples, wanted.tokens.cpu())
    protocol = (
        f"R@1 among {AMONG} prompts by a small contrastive net trained on the training split; of {c.reference.n} real "
        f"test rows {100 * mark:.1f} %, chance {100 / AMONG:.0f} %; 95 % over samples"
    )
    return [Measurement("prompt recall", *mean_interval(found), len(found), "higher", protocol)]
