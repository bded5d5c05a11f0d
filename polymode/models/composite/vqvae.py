"""VQ-VAE: an image becomes a small grid of codes of a learned codebook, and another model learns which grids there are.

van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning (arXiv:1711.00937).

    z_q(x) = e_k,  k = argmin_j |z_e(x) - e_j|^2, at every position                                (eq. 1 and 2)
    L = -log p(x | z_q(x)) + beta |z_e(x) - sg(e)|^2,   e moving averages           (eq. 3, appendix A.1)
    log p(x) >= log p(x | z_q(x)) + log p(z_q(x))                                         (section 3.1)

`parts.nn.quantiser` holds the codes, their averages and the straight-through gradient, `VQVAE.quantise` the encoder,
`VQVAE.reconstruct` the decoder, `_codes` the loss, the bound and the two stages of training; the prior is any
autoregressive model of grids, told a condition if there is one. `fsq` takes fixed codes instead (Mentzer et al. 2023,
arXiv:2309.15505), which have no codebook to lose.
Deviation: the reconstruction term is the likelihood of the data themselves (bits, levels), not of a Gaussian of fixed
width; codes that die start again, and the averages forget after 20 steps and not 100 (`decay`), since codes that
follow slowly hold up a short training; the paper's prior, PixelCNN, is `prior="pixelcnn"`, and the default a
transformer.

Likelihood: a lower bound, one pass of encoder, decoder and prior; the same at every call. Sampling: the prior's, over a
grid of 4^halvings times fewer positions than pixels, and one pass of the decoder.
Expected: recipe vqvae_emoji; tests/learning/test_vqvae.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Spec
from polymode.models.composite._codes import CodedModel
from polymode.parts.nn.quantiser import FiniteScalarQuantiser, Quantised, Quantiser, VectorQuantiser
from polymode.parts.nn.strided import ConvDecoder, ConvEncoder, halved


class VQVAE(CodedModel):
    """A vector-quantised autoencoder of images with a prior over its codes.

    Args:
        spec: what one datum is.
        condition_spec: what the prior is conditioned on; codes themselves know of no condition.
        codes: K, size of the codebook.
        code_dims: D of a code.
        fsq: levels of each channel of a finite scalar quantiser, in place of a learned codebook.
        width: channels of encoder and decoder.
        blocks: residual blocks of each.
        halvings: how often the sides are halved.
        commitment: beta.
        decay: of the codebook's moving averages.
        restart: share of the average use below which a code starts again; 0 for never.
        components: mixture components of the head where it is a mixture.
        prior: catalogue name of a model of grids of tokens.
        prior_options: its arguments.

    Raises:
        PolymodeError: a model that can't be the prior, numbers below one, or shares outside [0, 1).
    """

    levels: ClassVar = ("codes",)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        codes: int = 256,
        code_dims: int = 16,
        fsq: Sequence[int] = (),
        width: int = 48,
        blocks: int = 2,
        halvings: int = 2,
        commitment: float = 0.25,
        decay: float = 0.95,
        restart: float = 0.1,
        components: int = 1,
        prior: str = "gpt",
        prior_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, condition_spec, components=components, commitment=commitment)
        channels, *size = spec.shape
        quantiser = make_quantiser(codes, code_dims, fsq, decay=decay, restart=restart)
        shape = {"width": width, "halvings": halvings, "blocks": blocks}
        self.encoder = ConvEncoder(channels, quantiser.width, **shape)
        self.decoder = ConvDecoder(quantiser.width, self.out_channels, tuple(size), **shape)
        self.start_at(self.decoder.last)
        self.quantisers["codes"] = quantiser
        self.set_prior("codes", prior, halved(tuple(size), halvings), condition_spec, prior_options)

    def quantise(self, y: Tensor) -> Iterator[tuple[str, Tensor, Quantised]]:
        before = self.encoder(y)
        yield "codes", before, self.quantisers["codes"](before)

    def reconstruct(self, values: dict[str, Tensor]) -> Tensor:
        return self.decoder(values["codes"])

    def given(self, level: str, codes: dict[str, Tensor], condition: Condition | None) -> Condition | None:
        return condition


def make_quantiser(codes: int, code_dims: int, fsq: Sequence[int], *, decay: float, restart: float) -> Quantiser:
    """Fixed codes where `fsq` says their levels, else learned ones."""
    if fsq:
        return FiniteScalarQuantiser(fsq)
    return VectorQuantiser(codes, code_dims, decay=decay, restart=restart)
