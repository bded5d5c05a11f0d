"""Ladder VAE: layers of Gaussian codes, inferred by a pass up that corrects what the pass down expects.

Sonderby, Raiko, Maaloe, Sonderby and Winther 2016, Ladder Variational Autoencoders (arXiv:1602.02282); with
inference="bottom_up" the plain hierarchy that it corrects: the deep latent Gaussian model of Rezende, Mohamed and
Wierstra 2014 (arXiv:1401.4082) with the layers of Burda et al. 2016 (arXiv:1509.00519, section 5).

    p(z) = N(z_L; 0, I) prod_l N(z_l; mu_p(z_{l+1}), sigma_p^2(z_{l+1})),   p(x | z) = p(x | z_1)
    bottom up:  q(z | x) = q(z_1 | x) prod_l q(z_{l+1} | z_l)
    ladder:     d_l = MLP(d_{l-1}),   mu_hat_l and sigma_hat_l linear in d_l
                q(z_l | z_{l+1}, x) proportional to N(mu_hat_l, sigma_hat_l^2) p(z_l | z_{l+1})

`LadderVAE.read` holds the pass up, `walk` the pass down, which inference and generation share, `posterior` the
combination (`parts.distributions.gaussian.product_of`), `_climb` the draws of the plain hierarchy; training, weights
and sampling are those of every hierarchy (`_hierarchy`).
Deviation: layers are normalised over the units of a row, where the paper normalises over the batch; log sigma is
linear in d, where the paper has a softplus, and starts below that of p; `free_bits` beside the paper's warm-up
(`anneal`); the KL of the plain hierarchy is that of a sample, but for its top layer, because q and p condition on codes
of opposite sides.

Likelihood: a lower bound, one pass down a sample and one pass up for all. Sampling: one pass down.
Expected: recipe ladder_mnist; tests/learning/test_hierarchical_vae.py on digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.models.vae._hierarchy import Choose, Gaussian, HierarchicalVAE, Noise, check_positive
from polymode.parts.distributions.gaussian import kl_between, log_normal_at, product_of, split_gaussian
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.mlp import MLP, Activation

#: log sigma of the pass up at first, below that of p: codes that say nothing at first would be given up before x is
#: decoded from them
FIRST_LOG_SIGMA = -1.0


class LadderVAE(HierarchicalVAE):
    """A variational autoencoder of several layers of codes, for any data.

    Its code is that of the layer next to the data, of which alone x is decoded; those above are its prior.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims: dimensions of the codes, the layer next to the data first.
        hidden: widths of the perceptrons of each layer, both ways.
        depth: hidden layers of each.
        inference: "ladder", or "bottom_up" for the plain hierarchy.
        components: mixture components of the head, a dimension.
        levels_as: head of ordered levels.
        activation: of the networks.
        free_bits: nats of each layer that the training loss does not charge.
        anneal: training steps over which the KL's weight rises from zero; 0 for none, which may leave codes unused.
        num_samples: importance samples of the training bound; 1 for the ELBO.

    Raises:
        PolymodeError: an unknown inference, sizes below one, or as many widths as there are not layers.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: Sequence[int] = (32, 16),
        hidden: Sequence[int] = (256, 128),
        depth: int = 2,
        inference: Literal["ladder", "bottom_up"] = "ladder",
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        activation: Activation = "elu",
        free_bits: float = 0.0,
        anneal: int = 500,
        num_samples: int = 1,
    ) -> None:
        super().__init__(spec, condition_spec, free_bits=free_bits, anneal=anneal, num_samples=num_samples)
        require_choice("inference", inference, ("ladder", "bottom_up"))
        check_positive(latent_dims=tuple(latent_dims), hidden=tuple(hidden), depth=depth)
        if len(latent_dims) != len(hidden):
            raise PolymodeError(
                f"latent_dims={tuple(latent_dims)} came with hidden={tuple(hidden)}: expected a width for every layer"
            )
        self.inference, self.latent_dims = inference, tuple(latent_dims)
        self.layers = tuple(str(i) for i in range(len(latent_dims), 0, -1))
        self.features = Features(spec)
        self.head = head_for(spec, components=components, levels_as=levels_as)
        self.condition_encoder, width = encoder_for(condition_spec, max(hidden))
        options: dict[str, Any] = {"context_features": width, "act": activation, "norm": True}
        # on the way up a layer reads the hidden units of the one before, or the code that it drew
        between = hidden if inference == "ladder" else latent_dims
        self.ups = nn.ModuleList(
            MLP(before, 2 * z, (w,) * depth, **options)
            for before, z, w in zip((self.features.size, *between), latent_dims, hidden, strict=False)
        )
        outputs = [self.head.num_params, *(2 * z for z in latent_dims)]
        #: to the data, and to the layers from the one next to them
        self.downs = nn.ModuleList(
            MLP(z, out, (w,) * depth, **options) for z, out, w in zip(latent_dims, outputs, hidden, strict=False)
        )
        with torch.no_grad():
            self.downs[0].last.bias.copy_(self.head.initial())
            for up in self.ups:
                up.last.bias.chunk(2)[1].fill_(FIRST_LOG_SIGMA)

    # -- the hierarchy -----------------------------------------------------------------------------------------------
    def read(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """Parameters of the Gaussians that the pass up gives, from the top; of the plain hierarchy that next to x."""
        y = self.features(x)
        if self.inference == "bottom_up":
            return [self.ups[0](y, context)]
        seen = []
        for up in self.ups:
            y = up.body(y, context)
            seen.append(up.last(y))
        return seen[::-1]

    def walk(self, n: int, context: Tensor | None, choose: Choose) -> Tensor:
        standard = self._anchor.new_zeros(n, self.latent_dims[-1])
        z = choose(0, standard, Gaussian(standard, standard))
        for layer, down in enumerate(reversed(self.downs[1:]), start=1):
            z = choose(layer, z, Gaussian(*split_gaussian(down(z, context))))
        return self.downs[0](z, context)

    def posterior(
        self, layer: int, state: Tensor, prior: Gaussian, seen: list[Tensor], context: Tensor | None
    ) -> Gaussian:
        likelihood = split_gaussian(seen[layer])
        return Gaussian(*likelihood) if layer == 0 else Gaussian(*product_of(*likelihood, *prior))

    def infer(
        self, seen: list[Tensor], context: Tensor | None, noise: Noise, *, closed: bool = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        if self.inference == "ladder":
            return super().infer(seen, context, noise, closed=closed)
        climbed, costs = self._climb(seen[0], context, noise)[::-1], []

        def choose(layer: int, state: Tensor, prior: Gaussian) -> Tensor:
            z, q = climbed[layer]
            # only the top layer's p does not depend on codes that were drawn from this one
            known = closed and layer == 0
            cost = kl_between(*q, *prior) if known else log_normal_at(z, *q) - log_normal_at(z, *prior)
            costs.append(cost.sum(1))
            return z

        params = self.walk(len(seen[0]), context, choose)
        return params, torch.stack(costs), [z for z, _ in climbed]

    def _climb(self, params: Tensor, context: Tensor | None, noise: Noise) -> list[tuple[Tensor, Gaussian]]:
        """Draws of q(z_1 | x), q(z_2 | z_1), ... with these distributions."""
        found = []
        for above in (*self.ups[1:], None):
            q = Gaussian(*split_gaussian(params))
            z = q.at(noise(q.mu))
            found.append((z, q))
            if above is not None:
                params = above(z, context)
        return found

    # -- codes -------------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The mean of q for the layer next to the data, with those above at their means."""
        context = self.context(condition)
        return self.infer(self.read(x, context), context, torch.zeros_like)[2][-1]

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.latent_dims[0]:
            raise PolymodeError(f"codes have shape {tuple(z.shape)}, expected (B, {self.latent_dims[0]})")
        return self.head.mean(self.downs[0](z.to(self.dtype), self.context(condition)))
