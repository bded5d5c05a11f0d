"""Hidden Markov model: a state that moves unseen, and a frame that depends on it.

Baum, Petrie, Soules and Weiss 1970; Rabiner 1989, A Tutorial on Hidden Markov Models and Selected Applications in
Speech Recognition (Proceedings of the IEEE 77).

    p(x, q) = pi(q_1) b(x_1 | q_1) prod_t a(q_t | q_{t-1}) b(x_t | q_t)                              (section III)
    alpha_t(j) = b_j(x_t) sum_i alpha_{t-1}(i) a_ij,   p(x) = sum_i alpha_T(i)                       (eq. 19-21)
    beta_t(i) = sum_j a_ij b_j(x_{t+1}) beta_{t+1}(j)                                                 (eq. 24, 25)
    gamma_t(i) = P(q_t = i | x),   a_ij = expected moves i -> j / expected stays at i                (eq. 27, 40)

`HMM.alphas` and `HMM.betas` hold the recursions in logarithms, all rows at once; `HMM._expect` and `HMM._maximise`
Baum and Welch's EM; `HMM.viterbi` the likeliest states (section III-B), `HMM.posterior` gamma. What a state says is
`models.classical._emissions`: symbols, frames of bits, or reals of a diagonal Gaussian. What is missing of a sequence
is summed out, or drawn after states that are drawn backwards (Carter and Kohn 1994): any mask can be completed.
Deviation: a conjugate prior worth `prior_rows` frames a state (0 for maximum likelihood), and the best of a few short
runs goes on.

Likelihood: exact, T K^2 a row. Sampling: T steps. Completing, and the likelihood of a part: T K^2.
Expected: `polymode reproduce hmm_shakespeare`: 2.59 nats a character; independent characters have 3.37.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import (
    Completes,
    FitsDirectly,
    HasConditionals,
    HasFrameLogProb,
    HasLogProb,
    HasMarginals,
)
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.classical._blocks import LEAST_ROWS, Classes, each
from polymode.models.classical._emissions import emission_for

#: numbers of a block of state probabilities (B, T, K)
CHUNK = 2**21
#: rows and iterations of a short run
SHORT_ROWS, SHORT_RUN = 500, 10


class HMM(GenerativeModel, HasLogProb, HasMarginals, HasFrameLogProb, HasConditionals, Completes, FitsDirectly):
    """A hidden Markov model, one a class where there are labels.

    A class of fewer than 10 rows is served by the model of all rows.

    Args:
        spec: what one datum is: tokens, levels of a recording, frames of bits or of reals.
        condition_spec: a label or nothing.
        states: K.
        prior_rows: frames of prior knowledge in what each state says and in where it goes; 0 for none.
        restarts: short runs from different starts, of which the best goes on.
        max_iterations: of the long run.
        tolerance: nats a frame; a smaller gain stops it.

    Raises:
        PolymodeError: an argument out of range; when fitting, fewer frames than states.
    """

    log_start: Tensor
    log_move: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        states: int = 16,
        prior_rows: float = 1.0,
        restarts: int = 3,
        max_iterations: int = 100,
        tolerance: float = 1e-4,
    ) -> None:
        super().__init__(spec, condition_spec)
        if min(states, restarts, max_iterations) < 1:
            raise PolymodeError(
                f"states={states}, restarts={restarts} and max_iterations={max_iterations}: expected each at least 1"
            )
        if prior_rows < 0 or tolerance < 0:
            raise PolymodeError(f"prior_rows={prior_rows} and tolerance={tolerance}: expected both at least 0")
        self.states, self.prior_rows, self.restarts = states, prior_rows, restarts
        self.max_iterations, self.tolerance = max_iterations, tolerance
        self.classes = Classes(condition_spec)
        f = self.classes.fits
        self.emission = emission_for(spec, f, states)
        even = torch.full((f, states, states), -math.log(states), dtype=torch.float64)
        self.register_buffer("log_start", even[:, 0].clone())
        self.register_buffer("log_move", even)
        self.withheld = () if spec.kind == "series" else (HasFrameLogProb,)
        if self.emission.levels is None:
            self.withheld = (HasConditionals,)

    # -- learning --------------------------------------------------------------------------------------------------
    def fit_directly(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator,
        valid: tuple[Tensor, Condition | None] | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        x, condition = self.enter(x, condition)
        frames = self.emission.frames(x)
        if frames[..., 0].numel() < self.states:
            raise PolymodeError(f"{frames[..., 0].numel()} frames can't start {self.states} states; give fewer states")
        least = max(LEAST_ROWS, math.ceil(self.states / frames.shape[1]))
        for fit, rows in self.classes.divide(condition, len(x), least):
            self._start(fit, frames[rows], generator)
            before, many = -math.inf, frames[rows][..., 0].numel()
            for _ in range(self.max_iterations):
                sums, nats = self._expect(fit, frames[rows])
                value = (nats + self._log_prior(fit)) / many
                if report is not None:
                    report({"log_likelihood": nats / many, "objective": value, "fit": float(fit)})
                if value - before < self.tolerance:
                    break
                before = value
                self._maximise(fit, sums)

    def _start(self, fit: int, frames: Tensor, generator: torch.Generator) -> None:
        """The best of several short runs on some rows."""
        best, most = None, -math.inf
        for _ in range(self.restarts):
            some = frames[torch.randperm(len(frames), generator=generator)[:SHORT_ROWS].to(frames.device)]
            self.emission.start(fit, some, generator, self.prior_rows)
            self.log_start[fit] = -math.log(self.states)
            self.log_move[fit] = (0.5 * rng.randn(self.log_move.shape[1:], generator, self.log_move)).log_softmax(1)
            value = -math.inf
            for _ in range(SHORT_RUN if self.restarts > 1 else 0):
                sums, nats = self._expect(fit, some)
                value = nats + self._log_prior(fit)
                self._maximise(fit, sums)
            if best is None or value > most:
                best, most = {k: v[fit].clone() for k, v in self._learned().items()}, value
        assert best is not None
        for name, held in self._learned().items():
            held[fit] = best[name]

    def _learned(self) -> dict[str, Tensor]:
        """The buffers whose first axis is the fit."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("classes")}

    def _expect(self, fit: int, frames: Tensor) -> tuple[tuple[Tensor, ...], float]:
        """(sums of first states, moves and what the emission needs; the log-likelihood) of frames (N, T, D)."""
        total: tuple[Tensor, ...] | None = None
        nats, move = 0.0, self.log_move[fit].exp()
        for part in frames.split(max(1, CHUNK // (frames.shape[1] * self.states))):
            log_b = self.emission.log_prob(fit, part, torch.ones_like(part, dtype=torch.bool))
            alpha, beta = self.alphas(fit, log_b), self.betas(fit, log_b)
            nats += float(alpha[:, -1].logsumexp(1).sum())
            gamma = (alpha + beta).softmax(2)
            u = (alpha[:, :-1] - alpha[:, :-1].amax(2, keepdim=True)).exp().flatten(0, 1)  # (B (T - 1), K)
            v = (log_b + beta)[:, 1:]
            v = (v - v.amax(2, keepdim=True)).exp().flatten(0, 1)
            moves = (u / ((u @ move) * v).sum(1, keepdim=True)).T @ v * move
            found = (gamma[:, 0].sum(0), moves, *self.emission.sums(part, gamma))
            total = found if total is None else tuple(a + b for a, b in zip(total, found, strict=True))
        assert total is not None
        return total, nats

    def _maximise(self, fit: int, sums: tuple[Tensor, ...]) -> None:
        first, moves, *rest = sums
        shared = self.prior_rows / self.states
        self.log_start[fit] = ((first + shared) / (first + shared).sum()).log()
        moves = moves + shared
        count = moves.sum(1, keepdim=True)
        # a state that is never left has no moves to count
        self.log_move[fit] = torch.where(count > 0, moves / count, 1 / self.states).log()
        self.emission.update(fit, tuple(rest), self.prior_rows)

    def _log_prior(self, fit: int) -> float:
        """The prior's part of what EM raises."""
        if not self.prior_rows:
            return 0.0
        shared = self.prior_rows / self.states
        moves = float(self.log_start[fit].sum() + self.log_move[fit].sum())
        return shared * moves + self.emission.log_prior(fit, self.prior_rows)

    # -- recursions ------------------------------------------------------------------------------------------------
    def alphas(self, fit: int, log_b: Tensor) -> Tensor:
        """log alpha, (B, T, K), of log b (B, T, K)."""
        move, alpha = self.log_move[fit].exp(), [self.log_start[fit] + log_b[:, 0]]
        for t in range(1, log_b.shape[1]):
            alpha.append(_log_matmul(alpha[-1], move) + log_b[:, t])
        return torch.stack(alpha, 1)

    def betas(self, fit: int, log_b: Tensor) -> Tensor:
        """log beta, (B, T, K), of log b (B, T, K)."""
        back, beta = self.log_move[fit].exp().T, [torch.zeros_like(log_b[:, 0])]
        for t in range(log_b.shape[1] - 1, 0, -1):
            beta.append(_log_matmul(log_b[:, t] + beta[-1], back))
        return torch.stack(beta[::-1], 1)

    def _groups(self, condition: Condition | None, n: int) -> list[tuple[int, Tensor]]:
        """(fit, some rows of it) until all rows have come."""
        steps = self.spec.shape[0] if self.spec.kind == "series" else self.spec.num_dims
        size = max(1, CHUNK // (steps * self.states))
        fits = self.classes.of(condition, n)
        return [(fit, piece) for fit, rows in each(fits) for piece in rows.split(size)]

    def _log_b(self, fit: int, x: Tensor, known: Tensor | None = None) -> Tensor:
        """log b (B, T, K) of data, of its known part only."""
        frames = self.emission.frames(x)
        part = torch.ones_like(frames, dtype=torch.bool) if known is None else known.view(frames.shape)
        return self.emission.log_prob(fit, frames, part)

    # -- likelihood ------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self._marginal_log_prob(x, torch.ones_like(x, dtype=torch.bool), condition)

    def _marginal_log_prob(self, x: Tensor, known: Tensor, condition: Condition | None) -> Tensor:
        out = torch.empty(len(x), dtype=self.dtype, device=x.device)
        for fit, rows in self._groups(condition, len(x)):
            alpha = self.alphas(fit, self._log_b(fit, x[rows], known[rows]))
            out[rows] = alpha[:, -1].logsumexp(1).to(out.dtype)
        return out

    def _frame_log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        out = torch.empty(x.shape[:2], dtype=self.dtype, device=x.device)
        for fit, rows in self._groups(condition, len(x)):
            until = self.alphas(fit, self._log_b(fit, x[rows])).logsumexp(2)  # log p(x_1, ..., x_t)
            out[rows] = torch.cat([until[:, :1], until.diff(dim=1)], 1).to(out.dtype)
        return out

    def conditionals(self, condition: Condition | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        assert self.emission.levels is not None

        def logits(x: Tensor, known: Tensor) -> Tensor:
            found = torch.empty(*x.shape, self.emission.levels or 0, dtype=self.dtype, device=x.device)
            for fit, rows in self._groups(condition, len(x)):
                data, part = (v[rows].view(-1, *self.spec.shape) for v in (x, known))
                log_b, frames = self._log_b(fit, data, part), self.emission.frames(data)
                states = self.alphas(fit, log_b) + self.betas(fit, log_b)
                found[rows] = self.emission.each(fit, states, frames, part.view(frames.shape)).to(found.dtype)
            return found

        return logits

    # -- states ----------------------------------------------------------------------------------------------------
    def posterior(
        self, x: Tensor, condition: Condition | None = None, *, known: Tensor | None = None
    ) -> Float[Tensor, "B T K"]:
        """P(q_t = k | x) of every state at every step, given all of a sequence or what is known of it (B, *shape)."""
        x, condition = self.enter(x, condition)
        found = []
        with self._evaluating():
            for i, fit in enumerate(self.classes.of(condition, len(x)).tolist()):
                log_b = self._log_b(fit, x[i : i + 1], None if known is None else known[i : i + 1].to(x.device))
                found.append((self.alphas(fit, log_b) + self.betas(fit, log_b)).softmax(2))
        return torch.cat(found)

    def viterbi(self, x: Tensor, condition: Condition | None = None) -> tuple[Int[Tensor, "B T"], Float[Tensor, " B"]]:
        """(the likeliest states, log p(x, those states) in nats) of each sequence (Viterbi 1967)."""
        x, condition = self.enter(x, condition)
        paths, nats = [], []
        with self._evaluating():
            for i, fit in enumerate(self.classes.of(condition, len(x)).tolist()):
                log_b = self._log_b(fit, x[i : i + 1])[0]  # (T, K)
                best, came = self.log_start[fit] + log_b[0], []
                for here in log_b[1:]:
                    most, which = (best.unsqueeze(1) + self.log_move[fit]).max(0)
                    came.append(which)
                    best = most + here
                path = [int(best.argmax())]
                for which in reversed(came):
                    path.append(int(which[path[-1]]))
                paths.append(path[::-1])
                nats.append(best.max())
        return torch.tensor(paths), torch.stack(nats)

    # -- drawing ---------------------------------------------------------------------------------------------------
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        x = torch.zeros(n, *self.spec.shape, dtype=self.spec.dtype, device=self.device)
        return self._complete(x, torch.zeros_like(x, dtype=torch.bool), condition, generator)

    def _complete(self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        out = torch.empty_like(x)
        for fit, rows in self._groups(condition, len(x)):
            alpha = self.alphas(fit, self._log_b(fit, x[rows], mask[rows]))
            states = [rng.categorical(alpha[:, -1], generator)]
            for t in range(alpha.shape[1] - 2, -1, -1):  # P(q_t | q_t+1, what is known until t)
                logits = alpha[:, t] + self.log_move[fit].T[states[-1]]
                states.append(rng.categorical(logits, generator))
            drawn = self.emission.draw(fit, torch.stack(states[::-1], 1), generator)
            out[rows] = self.emission.data(drawn).to(x.dtype)
        return out


def _log_matmul(log_v: Tensor, matrix: Tensor) -> Tensor:
    """log(exp(log_v) @ matrix), rows (B, K) shifted by their largest entry."""
    most = log_v.amax(1, keepdim=True)
    return ((log_v - most).exp() @ matrix).log() + most
