"""Score-based diffusion: data diffuse into noise by a stochastic equation, and a network that knows the score runs it
backwards, or runs the ordinary equation of the same marginals.

Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole 2021, Score-based generative modeling through stochastic
differential equations (arXiv:2011.13456); Song, Durkan, Murray and Ermon 2021, Maximum likelihood training of
score-based diffusion models (arXiv:2101.09258).

    dx = f x dt + g dw,   VE  f = 0;   VP  g^2 = beta;   sub-VP  g^2 = beta (1 - e^(-2 B)), B the integral of beta
    dx = (f x - g^2 score) dt + g dw backwards,   dx/dt = f x - g^2 score / 2                    (eqs. 6 and 13)
    loss = E lambda |score(x_t, t) + eps / s|^2,   lambda = s^2 (simple) or g^2 (likelihood)         (eq. 7)

In terms of eps the first weight is 1, and the second g^2 / s^2 = d log r^2 / dt on any of these paths, r = s / a: times
that are drawn with log r even carry it without a weight (the importance sampling of the second paper, section 4.2).
`times` and `weight` hold the two, `parts/processes/gaussian.py` the three diffusions. With lambda = g^2 the loss,
summed over features and times log(r_T / r_0), bounds the negative log-likelihood of the stochastic equation up to a
constant.
The sampler by default is predictor-corrector; `sampler="ode"` is the probability flow at a tolerance.
Deviation: the network says v, in which the least and the most noise are equally easy, and `weight` turns its error into
that of eps; the paper's is prediction="eps". On VE the network is told t, linear in log s.

Likelihood: a lower bound by the chain through `likelihood_steps` noises; an estimate by the probability flow. Sampling:
2 `steps` - 1 passes. The loss is a mean over features.
Expected: 2-D toys within 0.1 nats of their entropy in two minutes (recipes score_sde_*).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core.condition import ConditionSpec
from polymode.core.errors import require_choice
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import gaussian as process
from polymode.parts.samplers import diffusion as samplers

PATHS: dict[str, type[process.VP | process.VE]] = {"vp": process.VP, "ve": process.VE, "subvp": process.SubVP}


class ScoreSDE(Diffusion):
    """A score network of a stochastic differential equation, for vectors, images, series, sounds and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        kind: "vp" (variance preserving), "ve" (exploding) or "subvp".
        weighting: lambda, "simple" or "likelihood".
        prediction: what the network says: "v", "eps" or "x0".
        likelihood_steps, backbone, widths, drop, condition_by: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    default_sampler: ClassVar[samplers.Name] = "predictor_corrector"
    path: process.VP | process.VE

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        kind: Literal["vp", "ve", "subvp"] = "vp",
        weighting: Literal["simple", "likelihood"] = "likelihood",
        prediction: process.Prediction = "v",
        likelihood_steps: int = 100,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
    ) -> None:
        require_choice("kind", kind, tuple(PATHS))
        require_choice("weighting", weighting, ("simple", "likelihood"))
        require_choice("prediction", prediction, ("v", "eps", "x0"))
        super().__init__(
            spec, condition_spec, path=PATHS[kind](), prediction=prediction, likelihood_steps=likelihood_steps,
            backbone=backbone, widths=widths, drop=drop, condition_by=condition_by,
        )  # fmt: skip
        self.weighting = weighting

    def times(self, u: Tensor) -> Tensor:
        """Even in t, or in log r where that is the weighting."""
        if self.weighting == "simple":
            return super().times(u)
        low, high = math.log(self.first), math.log(self.path.most)
        return self.path.times(torch.exp(low + u * (high - low)))

    def weight(self, t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """What a squared error of the prediction is in eps."""
        return process.error_in_x0(self.prediction, (a / s) ** 2, a, s)
