"""Restricted Boltzmann machine: visible and hidden units that see each other and never their own kind.

Smolensky 1986, Information processing in dynamical systems: foundations of harmony theory; Hinton 2002, Training
products of experts by minimizing contrastive divergence; Tieleman 2008, Training restricted Boltzmann machines using
approximations to the likelihood gradient; Teh and Hinton 2001, Rate-coded restricted Boltzmann machines (levels);
Salakhutdinov, Mnih and Hinton 2007, Restricted Boltzmann machines for collaborative filtering (softmax units).
With n = levels - 1, so that n = 1 is the binary machine, and mu the data's mean,

    E(v, h) = -sum_i log C(n, v_i) - b.v - c.h - (h - 1/2) W (v - mu),     v_i in 0 .. n,  h_j in {0, 1}
    p(h_j = 1 | v) = sigmoid(a_j),  a = c + W (v - mu),     p(v_i | h) = Binomial(n, sigmoid(b + (h - 1/2) W)_i)
    F(v) = -log sum_h exp(-E(v, h)) = -sum_i log C(n, v_i) - b.v - sum_j (softplus(a_j) - (a_j - c_j) / 2)

and on symbols v is one-hot, p(v_i | h) a softmax over K, and no C(n, v). The mathematics is in `_restricted`, written
for all kinds of visible units (`_units`); how chains give the gradient, and its choices, in `_machine`, log Z in
`_likelihood`.
Deviation: units are centred (Melchior, Fischer and Wiskott 2016, arXiv:1311.1354, with the mean of the first batch
and 1/2 as fixed offsets), which is the same family of machines, learned several times as fast; W = weight / sqrt(n),
so that one learning rate serves every number of levels. Only the visible units are rate-coded, the hidden ones are
single bits. Hidden states of persistent chains are drawn under the weights before the step, which saves one of six
matrix products and moves the chains by less than a step of the optimiser.

Likelihood: exact by enumeration up to 16 hidden units (or as few visible states), else an estimate by annealed
importance sampling from the base-rate machine (Salakhutdinov and Murray 2008, On the quantitative analysis of deep
belief networks). Sampling: Gibbs sweeps from the training chains, two matrix products each.
Expected: bars and stripes of 3x3 below 0.1 nats from the truth; tests/learning/test_boltzmann.py.
"""

from __future__ import annotations

from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann._restricted import RestrictedMachine
from polymode.models.boltzmann._units import units_for


class RBM(RestrictedMachine):
    """A restricted Boltzmann machine on bits, levels or symbols.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        hidden: H, hidden units.
        algorithm: "pcd" keeps chains between steps, "cd" starts them at the batch each time, "fpcd" adds fast weights
            and "tempering" further temperatures to "pcd".
        k: Gibbs sweeps of a training step.
        chains: how many persistent chains; with labels they are shared out among the classes.
        temperatures: of "tempering"; it costs as many times as much.
        fast_rate: the learning rate of the weights of "fpcd".

    Raises:
        PolymodeError: numbers out of range, or fewer chains than classes.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 256,
        algorithm: Algorithm = "pcd",
        k: int = 1,
        chains: int = 100,
        temperatures: int = 10,
        fast_rate: float = 0.1,
    ) -> None:
        super().__init__(
            spec, condition_spec, units_for(spec), hidden=hidden, algorithm=algorithm, k=k, chains=chains,
            temperatures=temperatures, fast_rate=fast_rate,
        )  # fmt: skip
