"""Multimodal deep Boltzmann machine: a pathway of its own for each modality, and a layer of bits that joins them.

Srivastava and Salakhutdinov 2012, Multimodal learning with deep Boltzmann machines (NIPS). In a row,

    x - h_x - j - h_c - c,     E = those of two machines (x, h_x, j) and (c, h_c, j) with their joint layer j in common

so that the couplings between modalities, which differ in their statistics, run between features of either. All of it is
`_modalities`, of five layers, of which h_x and h_c are at odd places: given them x, j and c are independent.
Deviation: all layers are trained at once, centred, in place of greedy pretraining of either pathway (see `dbm`), and
keywords are bits, not counts.

Likelihood: a bound on log p*(x | c) by mean field and samples of j, with log Z(c) by annealing: an estimate. Sampling:
Gibbs sweeps with the condition clamped. Retrieval: `polymode.evaluate.metrics.retrieval`.
Expected: behind multimodal_rbm in retrieval on a set as small as emoji; sums over every state in
tests/exact/test_deep_boltzmann.py.
"""

from __future__ import annotations

from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann._modalities import TokensAs, TwoModalities


class MultimodalDBM(TwoModalities):
    """A deep Boltzmann machine of two modalities.

    Args:
        spec: what one datum is.
        condition_spec: the second modality: a label, tokens or a vector.
        hidden: units of the layer next to the data.
        joint: units of the layer that joins both pathways.
        hidden_condition: units of the layer next to the condition.
        tokens_as: "words" for a bit each symbol, whether it occurs; "places" for which symbol stands where.
        mean_field_rounds: at most so many in a step of training.
        algorithm, k, chains: of the negative phase, see `rbm`.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 256,
        joint: int = 128,
        hidden_condition: int = 64,
        tokens_as: TokensAs = "words",
        mean_field_rounds: int = 10,
        algorithm: Algorithm = "pcd",
        k: int = 1,
        chains: int = 100,
    ) -> None:
        super().__init__(
            spec, condition_spec, (hidden, joint, hidden_condition), tokens_as=tokens_as,
            mean_field_rounds=mean_field_rounds, algorithm=algorithm, k=k, chains=chains,
        )  # fmt: skip
