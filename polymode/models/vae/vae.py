"""Variational autoencoder: a latent Gaussian, a decoder, and an encoder that approximates the posterior.

Kingma and Welling 2014, Auto-Encoding Variational Bayes (arXiv:1312.6114); Rezende, Mohamed and Wierstra 2014
(arXiv:1401.4082); Burda, Grosse and Salakhutdinov 2016, Importance Weighted Autoencoders (arXiv:1509.00519).

    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z)),   z = mu(x) + sigma(x) eps     (eq. 3, 4)
    log p(x) >= E log 1/k sum_i p(x, z_i) / q(z_i | x)                                   (1509.00519, eq. 8)

`_gaussian` holds networks, posterior and prior, `VAE._elbo_loss` the first bound and `VAE._iwae_loss` the second, for
num_samples above one. What the trade calls by other names is an argument: beta-VAE is beta (Higgins et al. 2017), the
VampPrior prior="vamp", IAF posterior="iaf", a conditional VAE one with a condition, a VAE with a flow or an
autoregressive prior prior="realnvp" or "made".
Deviation: `free_bits` (Kingma et al. 2016, arXiv:1606.04934, eq. 16), `beta` and `anneal` (Bowman et al. 2016,
arXiv:1511.06349, section 3.1) change the training loss only; bounds are always those of the model itself.
`path_gradient` drops the score of q from the encoder's gradient, whose mean it does not change (Roeder et al. 2017,
arXiv:1703.09194, for one sample; Tucker et al. 2019, arXiv:1810.04152, eq. 9, for many). `elbo_steps` trains by the
first bound before the second, whose steps cost as many decoder passes as it has samples. `noise` is the denoising
criterion of Im, Ahn, Memisevic and Bengio 2017 (arXiv:1511.06406): codes of noisy data, charged for the clean ones.

Likelihood: a lower bound, one encoder pass and one decoder pass a sample. Sampling: one decoder pass.
Expected: recipes vae_mnist, iwae_mnist, iaf_mnist_dynamic; tests/learning/test_latents.py on digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss
from polymode.core.spec import Spec
from polymode.models.vae._bounds import Annealing, free_nats
from polymode.models.vae._gaussian import GaussianVAE, Network
from polymode.parts.corruption import corrupt
from polymode.parts.distributions.gaussian import kl_to_standard_normal, log_normal_at
from polymode.parts.distributions.posteriors import PosteriorKind
from polymode.parts.estimators.importance import log_mean_exp
from polymode.parts.nn.mlp import Activation


class VAE(GaussianVAE):
    """A variational autoencoder for any data.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims, hidden, network, posterior, prior, prior_size, components, levels_as, activation: see GaussianVAE.
        beta: weight of the KL term in the training loss; 1 is the bound itself.
        free_bits: nats of each latent dimension that the training loss does not charge.
        anneal: training steps over which the KL's weight rises from zero; 0 for none.
        num_samples: importance samples of the training bound; 1 for the ELBO.
        elbo_steps: training steps by the ELBO before those by the bound of many samples.
        path_gradient: the lower-variance gradient for the encoder.
        noise: of what the encoder reads in training: a share of bits, levels, tokens and categories that are drawn
            anew, deviations of numbers.

    Raises:
        PolymodeError: a beta, free_bits or anneal below zero, no sample, or options that exclude one another.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 16,
        hidden: Sequence[int] | None = None,
        network: Network = "auto",
        posterior: PosteriorKind = "gaussian",
        prior: str = "normal",
        prior_size: int = 100,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        activation: Activation = "relu",
        beta: float = 1.0,
        free_bits: float = 0.0,
        anneal: int = 0,
        num_samples: int = 1,
        elbo_steps: int = 0,
        path_gradient: bool = False,
        noise: float = 0.0,
    ) -> None:
        super().__init__(
            spec, condition_spec, latent_dims=latent_dims, hidden=hidden, network=network, posterior=posterior,
            prior=prior, prior_size=prior_size, components=components, levels_as=levels_as, activation=activation,
        )  # fmt: skip
        if beta < 0 or free_bits < 0 or num_samples < 1 or not 0 <= noise <= 1:
            raise PolymodeError(
                f"beta={beta}, free_bits={free_bits}, num_samples={num_samples}, noise={noise}: expected the first two "
                "at least 0, one sample or more, and noise from 0 to 1"
            )
        if free_bits and not self.has_closed_kl:
            raise PolymodeError(
                f"free_bits={free_bits} came with posterior={posterior!r} and prior={prior!r}: the KL of a dimension "
                "is known for posterior='gaussian' and prior='normal' only"
            )
        if (num_samples > 1 or path_gradient) and (beta != 1 or free_bits or anneal or noise):
            raise PolymodeError(
                f"num_samples={num_samples}, path_gradient={path_gradient} came with beta={beta}, "
                f"free_bits={free_bits}, anneal={anneal}, noise={noise}: a bound of several samples, or of the path "
                "alone, has no KL term to weigh; give num_samples=1 without path_gradient, or leave these out"
            )
        if elbo_steps < 0 or (elbo_steps and num_samples == 1):
            raise PolymodeError(
                f"elbo_steps={elbo_steps}, num_samples={num_samples}: expected steps before those of many samples"
            )
        if path_gradient and posterior != "gaussian":
            raise PolymodeError(f"path_gradient came with posterior={posterior!r}, expected posterior='gaussian'")
        # at its last step the weight is 1 already
        self.annealing = Annealing(anneal or (elbo_steps + 1 if elbo_steps else 0))
        self.beta, self.free_bits = beta, free_bits
        self.num_samples, self.path_gradient, self.noise = num_samples, path_gradient, noise

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        context, weight = self.context(condition), self.annealing()  # with many samples, it counts elbo_steps
        samples = self.num_samples if weight >= 1 else 1
        if samples > 1 or self.path_gradient:
            return self._iwae_loss(x, context, generator, samples)
        return self._elbo_loss(x, context, generator, weight if self.num_samples == 1 else 1.0)

    def _elbo_loss(self, x: Tensor, context: Tensor | None, generator: torch.Generator, weight: Tensor | float) -> Loss:
        noisy = self.training and self.noise > 0
        read = corrupt(x, self.spec, generator, rate=self.noise, sigma=self.noise) if noisy else x
        z, kl, (mu, log_sigma) = self.draw_posterior(read, context, generator)
        reconstruction = -self.log_likelihood(x, z, context)
        charged = kl
        if self.free_bits:
            charged = kl + free_nats(kl_to_standard_normal(mu, log_sigma), self.free_bits)
        parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
        return Loss(reconstruction + self.beta * weight * charged, parts)

    def _iwae_loss(self, x: Tensor, context: Tensor | None, generator: torch.Generator, samples: int) -> Loss:
        rows, params, beside = self.repeated(x, self.posterior_params(x, context), context, samples)
        z, log_q = self.posterior_kind.draw(params, rng.randn((len(rows), self.latent_dims), generator, params))
        if self.path_gradient:  # q as a density of fixed parameters: only the path through z is left
            mu, log_sigma = self.posterior_kind.gaussian(params.detach())
            log_q = log_normal_at(z, mu, log_sigma).sum(1)
        log_weights = (self.log_joint(rows, z, beside) - log_q).view(samples, -1)  # (S, B)
        if self.path_gradient and z.requires_grad:
            # by eq. 9 the encoder's gradient takes the squares of the normalised weights; one factor is in the bound
            share = log_weights.detach().softmax(0).flatten().unsqueeze(1)
            z.register_hook(lambda gradient: gradient * share)
        return Loss(-log_mean_exp(log_weights))
