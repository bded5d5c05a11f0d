"""Multimodal restricted Boltzmann machine: one layer of hidden bits that sees a datum and its condition alike.

Ngiam et al. 2011, Multimodal deep learning (ICML); Srivastava and Salakhutdinov 2012, Multimodal learning with deep
Boltzmann machines (the shallow machine that they compare with). With W and U between h and either modality,

    E(x, h, c) = -log m(x) - log m(c) - b.x - d.c - a.h - (h - 1/2) (W (x - mu) + U (c - nu))
    -log p*(x, c) = -log m(x) - log m(c) - b.x - d.c - sum_j (softplus(i_j) - (i_j - a_j) / 2),  i = a + W (x - mu) + ..

All of it is `_modalities`, of three layers: x, h, c. Classes are predicted exactly, by -log p*(x, c) of each; keywords
by the mean field of c and h given x.

Likelihood: log p(x | c), with log Z(c) of every distinct condition by enumeration or annealing. Sampling: Gibbs sweeps
with the condition clamped. Retrieval: `polymode.evaluate.metrics.retrieval`.
Expected: keywords of emoji and emoji of keywords at more than twice the prior; tests/learning/test_deep_boltzmann.py.
"""

from __future__ import annotations

from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann._modalities import TokensAs, TwoModalities


class MultimodalRBM(TwoModalities):
    """A restricted Boltzmann machine of two modalities.

    Args:
        spec: what one datum is.
        condition_spec: the second modality: a label, tokens or a vector.
        hidden: H, hidden units.
        tokens_as: "words" for a bit each symbol, whether it occurs; "places" for which symbol stands where.
        mean_field_rounds: at most so many in a step of training, where conditions are withheld.
        algorithm, k, chains: of the negative phase, see `rbm`.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 256,
        tokens_as: TokensAs = "words",
        mean_field_rounds: int = 10,
        algorithm: Algorithm = "pcd",
        k: int = 1,
        chains: int = 100,
    ) -> None:
        super().__init__(
            spec, condition_spec, (hidden,), tokens_as=tokens_as, mean_field_rounds=mean_field_rounds,
            algorithm=algorithm, k=k, chains=chains,
        )  # fmt: skip
