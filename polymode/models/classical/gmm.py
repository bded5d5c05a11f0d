"""Gaussian mixture by expectation maximisation.

Dempster, Laird and Rubin 1977, Maximum Likelihood from Incomplete Data via the EM Algorithm; start by k-means++
(Arthur and Vassilvitskii 2007); a conjugate prior on covariances (Fraley and Raftery 2007, Bayesian Regularization
for Normal Mixture Estimation and Model-Based Clustering, section 2.1); short runs first (Biernacki, Celeux and
Govaert 2003).

    r_nk = softmax_k(log w_k + E_u log N(y_n + u; mu_k, Sigma_k))                                   (E)
    N_k = sum_n r_nk,   w_k = N_k / N,   mu_k = sum_n r_nk y_n / N_k                                (M)
    Sigma_k = (sum_n r_nk (y_n - mu_k)(y_n - mu_k)^T + N_k V + m Lambda) / (N_k + m)
    J = sum_n logsumexp_k(...) - m/2 sum_k (log |Sigma_k| + tr Sigma_k^-1 Lambda)      never decreases

`expect` holds (E), `maximise` (M), `step` one iteration and J, `penalty` the prior's part of it. u is the uniform noise
of dequantised lattices and V its diagonal covariance (both 0 on reals): its moments are known, so EM runs without
drawing it and J bounds the dequantised likelihood. Lambda is the diagonal covariance within the clusters of the first
start, worth m rows (`prior_rows`); m = 0 is maximum likelihood.
Deviation: the prior's scale comes from clusters, not from all rows (a ring of narrow modes would be blurred by their
distance), it is diagonal and counted in rows; means and weights have none.
components="auto" takes the K of the largest 2 log L - p log N, p the number of free parameters (the Bayesian
information criterion: Schwarz 1978, Estimating the Dimension of a Model), `GMM._choose`; L is the bound on lattices.

Likelihood: exact on reals, a bound by uniform dequantisation on lattices; K D^2 operations a row (D^2 + K D when tied,
K D when diagonal). Sampling: one component's share of it. Completing: any mask (`models.classical._gaussians`). One
iteration of EM: twice the likelihood of all rows (2 K D a row when tied).
Expected: within 0.15 nats of the ring of 8 Gaussians (tests/learning/test_toys.py);
`polymode reproduce gmm_digits`: 2.47 bits/dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.models.classical._blocks import LEAST_ROWS, LEAST_VARIANCE, centred, each
from polymode.models.classical._gaussians import GaussianFamily, Parted
from polymode.parts.kmeans import cluster

Covariance = Literal["auto", "full", "tied", "diag"]
#: up to this many dimensions "auto" means "full"
MOST_FULL = 100
#: rows and EM iterations of a short run
SHORT_ROWS, SHORT_RUN = 5000, 20
#: numbers of components that "auto" tries, until the criterion has fallen twice in a row
TRIED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: numbers held at once by a pass over the rows
CHUNK = 2**22


class Mixture(NamedTuple):
    """K Gaussians: log_weights (K,), means (K, D), and whiten, the inverse Cholesky factors of the covariances:
    (K, D, D) full, (1, D, D) tied, (K, D) diagonal."""

    log_weights: Tensor
    means: Tensor
    whiten: Tensor


class Rows(NamedTuple):
    """Training rows y (N, D) and, where the covariance is tied, gram (1, D, D), the sum of y y^T that never changes."""

    y: Tensor
    gram: Tensor | None

    @staticmethod
    def of(y: Tensor, covariance: str) -> Rows:
        """Rows with what their covariance needs."""
        return Rows(y, (y.T @ y).unsqueeze(0) if covariance == "tied" else None)


class Prior(NamedTuple):
    """What every covariance is made of besides the data: noise V (D,), rows m, scale Lambda (D,)."""

    noise: Tensor
    rows: float
    scale: Tensor


class GMM(GaussianFamily):
    """A mixture of Gaussians, one mixture a class where there are labels.

    A class with fewer rows than 10, or than twice the components, is served by the mixture of all rows.

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing.
        components: K, Gaussians of a mixture; "auto" chooses it among 1, 2, 3, 4, 6, ..., 64 by the Bayesian
            information criterion of all rows.
        covariance: "full", one each; "tied", one for all; "diag", one diagonal each; "auto" is full up to 100
            dimensions and tied above.
        prior_rows: m, rows of prior knowledge in every covariance; 0 for none.
        restarts: short runs from different starts, of which the best goes on.
        max_iterations: of the long run.
        tolerance: nats a row; a smaller gain stops it.

    Raises:
        PolymodeError: an argument out of range; when fitting, fewer rows than components, or without a prior a
            component that collapsed.
    """

    resizable: ClassVar = ("log_weights", "means", "whiten")
    log_weights: Tensor
    means: Tensor
    whiten: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        components: int | Literal["auto"] = 16,
        covariance: Covariance = "auto",
        prior_rows: float = 8.0,
        restarts: int = 4,
        max_iterations: int = 200,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("covariance", covariance, ("auto", "full", "tied", "diag"))
        if isinstance(components, str):
            require_choice("components", components, ("auto",))
        self.chooses = components == "auto"
        components = 1 if isinstance(components, str) else components
        if components < 1 or restarts < 1 or max_iterations < 1:
            raise PolymodeError(
                f"components={components}, restarts={restarts} and max_iterations={max_iterations}: "
                "expected each at least 1"
            )
        if prior_rows < 0 or tolerance < 0:
            raise PolymodeError(f"prior_rows={prior_rows} and tolerance={tolerance}: expected both at least 0")
        d = spec.num_dims
        self.prior_rows, self.restarts = prior_rows, restarts
        self.max_iterations, self.tolerance = max_iterations, tolerance
        self.covariance = covariance if covariance != "auto" else "full" if d <= MOST_FULL else "tied"
        self._allocate(components)

    def _allocate(self, k: int) -> None:
        """Room for k components a fit."""
        f, d = self.classes.fits, self.spec.num_dims
        unit = torch.ones(k, d) if self.covariance == "diag" else torch.eye(d).expand(self._matrices(k), d, d)
        buffers = {
            "log_weights": torch.full((f, k), -math.log(k)), "means": torch.zeros(f, k, d),
            "whiten": unit.repeat(f, *[1] * unit.dim()),
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value.to(self._anchor))

    @property
    def components(self) -> int:
        """K."""
        return self.log_weights.shape[1]

    def _matrices(self, k: int) -> int:
        return 1 if self.covariance == "tied" else k

    def mixture(self, fit: int = -1) -> Mixture:
        """The mixture of a class, or of all rows."""
        return Mixture(self.log_weights[fit], self.means[fit], self.whiten[fit])

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
        if len(x) < self.components:
            raise PolymodeError(f"{len(x)} rows can't start {self.components} components; give fewer components")
        if self.chooses:
            self._choose(x, generator, report)
        least = max(LEAST_ROWS, 2 * self.components)
        for fit, rows in self.classes.divide(condition, len(x), least):
            y, noise = centred(self.dequantizer, x[rows])
            centre = y.mean(0)
            y = y - centre  # second moments about 0 would cancel far from it
            mixture, prior = self._start(y, noise, self.components, generator)
            found, _ = self._climb(y, mixture, prior, report, fit)
            self.log_weights[fit], self.means[fit] = found.log_weights, found.means + centre
            self.whiten[fit] = found.whiten

    def _choose(self, x: Tensor, generator: torch.Generator, report: Callable[[dict[str, float]], None] | None) -> None:
        """Make room for the number of components of the largest criterion."""
        y, noise = centred(self.dequantizer, x)
        y = y - y.mean(0)
        found: dict[int, float] = {}
        for k in TRIED:
            if 2 * k > len(y) or (len(found) > 2 and max(list(found.values())[-2:]) < max(found.values())):
                break
            mixture, prior = self._start(y, noise, k, generator)
            _, nats = self._climb(y, mixture, prior, None, -1)
            found[k] = 2 * len(y) * nats - self.num_free(k) * math.log(len(y))
            if report is not None:
                report({"components": float(k), "log_likelihood": nats, "bic": found[k] / len(y)})
        self._allocate(max(found, key=lambda k: found[k], default=1))

    def num_free(self, components: int) -> int:
        """How many free parameters a mixture of so many components has."""
        d = self.spec.num_dims
        each_covariance = d if self.covariance == "diag" else d * (d + 1) // 2
        return components - 1 + components * d + self._matrices(components) * each_covariance

    def _start(self, y: Tensor, noise: Tensor, components: int, generator: torch.Generator) -> tuple[Mixture, Prior]:
        """The best of several short runs on some rows, and the prior."""
        best, prior, most = None, None, -math.inf
        for _ in range(self.restarts):
            some = y[torch.randperm(len(y), generator=generator)[:SHORT_ROWS].to(y.device)]
            owner, centres = cluster(some, components, generator)
            if prior is None:
                within = (some - centres[owner]).square().mean(0) + noise
                prior = Prior(noise, self.prior_rows, within.clamp(min=LEAST_VARIANCE))
            one_hot = torch.nn.functional.one_hot(owner, components).to(y)
            data = Rows.of(some, self.covariance)
            mixture = maximise(statistics(some, one_hot, self.covariance), data, prior, self.covariance)
            value = {"objective": -math.inf}
            for _ in range(SHORT_RUN if self.restarts > 1 else 0):
                mixture, value = step(data, mixture, prior, self.covariance)
            if best is None or value["objective"] > most:
                best, most = mixture, value["objective"]
        assert best is not None
        assert prior is not None
        return best, prior

    def _climb(
        self, y: Tensor, mixture: Mixture, prior: Prior, report: Callable[[dict[str, float]], None] | None, fit: int
    ) -> tuple[Mixture, float]:
        """EM until the objective gains less than the tolerance; what it ends at, and about its nats a row."""
        before, data, value = -math.inf, Rows.of(y, self.covariance), {"log_likelihood": -math.inf}
        for _ in range(self.max_iterations):
            after, value = step(data, mixture, prior, self.covariance)
            if report is not None:
                report({**value, "fit": float(fit)})
            if value["objective"] - before < self.tolerance:
                break
            mixture, before = after, value["objective"]
        return mixture, value["log_likelihood"]

    def log_density(self, y: Tensor, condition: Condition | None) -> Tensor:
        out = torch.empty(len(y), dtype=y.dtype, device=y.device)
        for fit, rows in each(self.classes.of(condition, len(y))):
            out[rows] = expect(y[rows], self.mixture(fit)).logsumexp(1)
        return out

    def draw(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        fits = self.classes.of(condition, n)
        k = rng.categorical(self.log_weights[fits], generator)
        y = rng.randn((n, self.spec.num_dims), generator, self.means)
        for fit, rows in each(fits):
            for component, these in each(k[rows]):
                chosen, whiten = rows[these], self.whiten[fit, component if self.covariance != "tied" else 0]
                if self.covariance == "diag":
                    y[chosen] = y[chosen] / self.whiten[fit, component]
                else:
                    y[chosen] = torch.linalg.solve_triangular(whiten, y[chosen].T, upper=False).T
        return y + self.means[fits, k]

    # -- parts of a datum ------------------------------------------------------------------------------------------
    def num_components(self, fit: int) -> int:
        return self.components

    def log_weights_of(self, fit: int) -> Tensor:
        return self.log_weights[fit].double()

    def log_joint(self, fit: int, y: Tensor, known: Tensor) -> Tensor:
        if known.all() or self.covariance == "diag":
            log_weights, means, whiten = (t.double() for t in self.mixture(fit))
            whiten = whiten[:, known] if self.covariance == "diag" else whiten
            return expect(y[:, known].double(), Mixture(log_weights, means[:, known], whiten))
        parts = [self._parted(fit, k, known).log_density(y) for k in range(self.components)]
        return self.log_weights_of(fit) + torch.stack(parts, 1)

    def fill(self, fit: int, y: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        y, noise = y.clone(), rng.randn((len(y), int((~known).sum())), generator, y)
        for k, rows in each(component):
            part = y[rows]
            part[:, ~known] = self._parted(fit, k, known).draw(part, noise[rows])
            y[rows] = part
        return y

    def _parted(self, fit: int, k: int, known: Tensor) -> Parted:
        whiten = self.whiten[fit, 0 if self.covariance == "tied" else k].double()
        if self.covariance == "diag":
            return Parted.of(self.means[fit, k], whiten.pow(-2).diag(), known)
        eye = torch.eye(len(whiten), dtype=whiten.dtype, device=whiten.device)
        factor = torch.linalg.solve_triangular(whiten, eye, upper=False)
        return Parted.of(self.means[fit, k], factor @ factor.T, known)


def expect(y: Tensor, mixture: Mixture, noise: Tensor | None = None) -> Tensor:
    """log w_k + E_u log N(y + u; mu_k, Sigma_k), (B, K); u has variance ``noise`` (D,), None for no noise."""
    log_weights, means, whiten = mixture
    if whiten.dim() == 2:
        quadratic = torch.stack([(((y - m) * w) ** 2).sum(1) for m, w in zip(means, whiten, strict=True)], 1)
    elif len(whiten) == 1:
        y, means = y @ whiten[0].T, means @ whiten[0].T
        quadratic = torch.stack([((y - m) ** 2).sum(1) for m in means], 1)
    else:
        quadratic = torch.stack([(((y - m) @ w.T) ** 2).sum(1) for m, w in zip(means, whiten, strict=True)], 1)
    log_norm = log_determinant(whiten) - 0.5 * means.shape[1] * math.log(2 * math.pi)
    if noise is not None:
        log_norm = log_norm - 0.5 * trace(whiten, noise)
    return log_weights + log_norm - 0.5 * quadratic


def log_determinant(whiten: Tensor) -> Tensor:
    """log |Sigma^-1/2| of each covariance."""
    return (whiten if whiten.dim() == 2 else whiten.diagonal(dim1=1, dim2=2)).log().sum(1)


def trace(whiten: Tensor, diagonal: Tensor) -> Tensor:
    """tr(Sigma^-1 diag(diagonal)) of each covariance."""
    return (whiten**2 * diagonal).flatten(1).sum(1)


def statistics(y: Tensor, r: Tensor, covariance: str) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows under responsibilities r (B, K): of 1 (K,), of y (K, D), of y y^T (K, D, D), diagonal (K, D).

    Where covariances are tied the last is empty: responsibilities sum to one, and `Rows` has it already.
    """
    if covariance == "full":
        second = torch.stack([(y * r_k.unsqueeze(1)).T @ y for r_k in r.T])  # (K, D, D)
    elif covariance == "tied":
        second = y.new_zeros(0)
    else:
        second = r.T @ y**2  # (K, D)
    return r.sum(0), r.T @ y, second


def maximise(sums: tuple[Tensor, Tensor, Tensor], data: Rows, prior: Prior, covariance: str) -> Mixture:
    """The mixture that maximises J under the responsibilities that made the sums."""
    count, first, second = sums
    second = second if data.gram is None else data.gram
    # an empty component has no mean; at the centre of the data with weight zero it is harmless
    means = first / count.clamp(min=torch.finfo(count.dtype).tiny).unsqueeze(1)
    if covariance == "diag":
        scatter = (second - first * means).clamp(min=0)  # rounding may fall below zero
        total = count.unsqueeze(1)
        variance = (scatter + total * prior.noise + prior.rows * prior.scale) / (total + prior.rows)
        whiten, failed = variance.rsqrt(), ~(variance > 0)
    else:
        outer = first.unsqueeze(2) * means.unsqueeze(1)  # (K, D, D)
        total = count.sum().view(1, 1) if covariance == "tied" else count.unsqueeze(1)
        scatter = second - (outer.sum(0, keepdim=True) if covariance == "tied" else outer)
        scatter = scatter + torch.diag_embed(total * prior.noise + prior.rows * prior.scale)
        factor, failed = torch.linalg.cholesky_ex(scatter / (total + prior.rows).unsqueeze(2))
        eye = torch.eye(means.shape[1], dtype=means.dtype, device=means.device)
        whiten = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    if failed.any() or not torch.isfinite(whiten).all():
        raise PolymodeError(
            f"a component collapsed to a singular covariance with prior_rows={prior.rows:g}; "
            "raise prior_rows, give fewer components, or covariance='diag'"
        )
    return Mixture((count / count.sum()).log(), means, whiten)


def step(data: Rows, mixture: Mixture, prior: Prior, covariance: str) -> tuple[Mixture, dict[str, float]]:
    """One iteration of EM over all rows, and what the mixture was worth before it, in nats a row."""
    y, gram = data
    sums, total = None, 0.0
    if gram is not None:
        total = -0.5 * float((gram[0] * (mixture.whiten[0].T @ mixture.whiten[0])).sum())
    for piece in y.split(max(1, CHUNK // y.shape[1])):
        joint = expect(piece, mixture, prior.noise) if gram is None else discriminate(piece, mixture, prior.noise)
        total += float(joint.logsumexp(1).sum())
        part = statistics(piece, joint.softmax(1), covariance)
        sums = part if sums is None else tuple(a + b for a, b in zip(sums, part, strict=True))
    assert sums is not None
    value = {"log_likelihood": total / len(y), "objective": (total + penalty(mixture, prior)) / len(y)}
    return maximise(sums, data, prior, covariance), value


def discriminate(y: Tensor, mixture: Mixture, noise: Tensor) -> Tensor:
    """`expect` of a tied mixture plus 1/2 y^T Sigma^-1 y, which is the same for all components: K D a row, not D^2."""
    slopes = mixture.means @ mixture.whiten[0].T @ mixture.whiten[0]  # (K, D)
    at_zero = expect(torch.zeros_like(y[:1]), mixture, noise)
    return at_zero + y @ slopes.T


def penalty(mixture: Mixture, prior: Prior) -> float:
    """The prior's part of J."""
    whiten = mixture.whiten
    return float(prior.rows * (log_determinant(whiten) - 0.5 * trace(whiten, prior.scale)).sum())
