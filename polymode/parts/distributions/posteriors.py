"""Approximate posteriors q(z | x): a diagonal Gaussian, or one carried on by a flow that reads the datum's context.

Kingma and Welling 2014 (arXiv:1312.6114) for the Gaussian; Rezende and Mohamed 2015, Variational Inference with
Normalizing Flows (arXiv:1505.05770, eq. 13); Kingma et al. 2016, Improving Variational Inference with Inverse
Autoregressive Flow (arXiv:1606.04934, algorithm 1):

    z_0 = mu + sigma eps,   z = f(z_0; h),   log q(z | x) = log N(z_0; mu, sigma^2) - log |det df/dz_0|

The encoder's output holds mu, log sigma and, where there is a flow, its context h. With "iaf" f is a stack of gated
autoregressive maps in alternate orders, with "couplings" one of affine couplings, with "planar" and "radial" one of
the maps of 1505.05770, whose parameters follow h.
"""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.errors import PolymodeError, require_choice
from polymode.parts.bijections.autoregressive import Autoregressive
from polymode.parts.bijections.base import Bijection, Chain
from polymode.parts.bijections.coupling import Couplings
from polymode.parts.bijections.elementwise import Gated
from polymode.parts.bijections.planar import Planar, Radial
from polymode.parts.distributions.gaussian import log_normal, split_gaussian
from polymode.parts.nn.mlp import MLP

PosteriorKind = Literal["gaussian", "iaf", "couplings", "planar", "radial"]
#: permutations of couplings are part of the architecture: they are the same for every seed
PERMUTATION_SEED = 1505


class Posterior(nn.Module):
    """q(z | x) over R^Z from parameters (B, num_params).

    Args:
        dims: Z.
        kind: of the flow, "gaussian" for none.
        layers: of the flow.
        width: of the flow's networks and of its context.

    Raises:
        PolymodeError: an unknown kind, or couplings of one dimension.
    """

    def __init__(self, dims: int, kind: PosteriorKind = "gaussian", *, layers: int = 4, width: int = 128) -> None:
        super().__init__()
        require_choice("posterior", kind, get_args(PosteriorKind))
        self.dims, self.flow = dims, None
        if kind == "iaf":
            self.flow = Chain(
                Autoregressive(dims, (width,), Gated(), context_features=width, reverse=i % 2 == 1, act="elu")
                for i in range(layers)
            )
        elif kind == "couplings":
            self.flow = _couplings(dims, layers, width)
        elif kind in ("planar", "radial"):
            make = Planar if kind == "planar" else Radial
            self.flow = Chain(make(dims, context_features=width) for _ in range(layers))
        self.num_params = 2 * dims + (0 if self.flow is None else width)

    def gaussian(self, params: Float[Tensor, "B P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """(mu, log sigma) of z_0."""
        return split_gaussian(params[:, : 2 * self.dims])

    def draw(
        self, params: Float[Tensor, "N P"], eps: Float[Tensor, "N Z"]
    ) -> tuple[Float[Tensor, "N Z"], Float[Tensor, " N"]]:
        """(z, log q(z | x)) of standard normal eps."""
        mu, log_sigma = self.gaussian(params)
        z, log_q = mu + log_sigma.exp() * eps, (log_normal(eps) - log_sigma).sum(1)
        if self.flow is None:
            return z, log_q
        z, log_det = self.flow.to_base(z, params[:, 2 * self.dims :])
        return z, log_q - log_det

    def mean(self, params: Float[Tensor, "B P"]) -> Float[Tensor, "B Z"]:
        """The code of the posterior's centre: mu, carried on by the flow."""
        mu, _ = self.gaussian(params)
        return mu if self.flow is None else self.flow.to_base(mu, params[:, 2 * self.dims :])[0]


def _couplings(dims: int, layers: int, width: int) -> Bijection:
    if dims < 2:
        raise PolymodeError(f"posterior='couplings' came with latent_dims={dims}, expected at least 2: take 'gaussian'")
    return Couplings(
        dims,
        lambda ins, outs: MLP(ins, outs, (width,), context_features=width, zero_last=True),
        layers=layers,
        generator=rng.generator(PERMUTATION_SEED),
    )
