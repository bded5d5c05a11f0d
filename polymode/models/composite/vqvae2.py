"""VQ-VAE-2: two grids of codes, a coarse one for what is where and a fine one, given it, for how it looks.

Razavi, van den Oord and Vinyals 2019, Generating Diverse High-Fidelity Images with VQ-VAE-2 (arXiv:1906.00446).

    h = E_bottom(x),   z_top = quantise(E_top(h)),   z_bottom = quantise(E(h, D_top(z_top)))              (algorithm 1)
    x ~ p(x | z_top, z_bottom),   decoded from both                                                       (algorithm 1)
    log p(x) >= log p(x | z_top, z_bottom) + log p(z_top) + log p(z_bottom | z_top)                  (algorithm 2 and 3)

`VQVAE2.quantise` holds algorithm 1, `VQVAE2.given` what the bottom prior is told; the loss, the bound, the two stages
of training and sampling are those of every model of codes (`_codes`), the codes those of `parts.nn.quantiser`. The
bottom prior reads the top codes as a source of tokens, to which a label is appended as one more; its default, an
encoder-decoder transformer, looks at any of them from any place.
Deviation: the reconstruction term is the likelihood of the data, not a squared error; codes that die start again; the
priors are transformers, where the paper has PixelCNNs with attention; no rejection sampling by a classifier.

Likelihood: a lower bound, one pass of encoder, decoder and priors; the same at every call. Sampling: the priors', over
the top grid and then the bottom one, and one pass of the decoder.
Expected: recipe vqvae2_emoji; tests/learning/test_vqvae.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Spec
from polymode.models.composite._codes import CodedModel
from polymode.models.composite.vqvae import make_quantiser
from polymode.parts.nn.quantiser import Quantised
from polymode.parts.nn.strided import ConvDecoder, ConvEncoder, halved


class VQVAE2(CodedModel):
    """A vector-quantised autoencoder of images with two levels of codes and a prior over each.

    Args:
        spec: what one datum is.
        condition_spec: a label, which the priors are told.
        codes: K, size of each of the two codebooks.
        code_dims: D of a code.
        fsq: levels of each channel of a finite scalar quantiser, in place of learned codebooks.
        width: channels of encoders and decoders.
        blocks: residual blocks of each.
        halvings: how often the sides are halved down to the bottom codes.
        top_halvings: and how often from there to the top codes.
        commitment: beta.
        decay: of the codebooks' moving averages.
        restart: share of the average use below which a code starts again; 0 for never.
        components: mixture components of the head where it is a mixture.
        prior: catalogue name of a model of grids of tokens, of the top codes.
        bottom_prior: one that takes tokens as a condition, of the bottom codes.
        prior_options, bottom_prior_options: their arguments.

    Raises:
        PolymodeError: models that can't be priors, numbers below one, or shares outside [0, 1).
    """

    levels: ClassVar = ("top", "bottom")

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
        top_halvings: int = 1,
        commitment: float = 0.25,
        decay: float = 0.95,
        restart: float = 0.1,
        components: int = 1,
        prior: str = "gpt",
        bottom_prior: str = "transformer",
        prior_options: dict[str, Any] | None = None,
        bottom_prior_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, condition_spec, components=components, commitment=commitment)
        channels, *size = spec.shape
        bottom = halved(tuple(size), halvings)
        top = halved(bottom, top_halvings)
        for level in self.levels:
            self.quantisers[level] = make_quantiser(codes, code_dims, fsq, decay=decay, restart=restart)
        dims = self.quantisers["top"].width
        shape = {"width": width, "blocks": blocks}
        self.bottom_encoder = ConvEncoder(channels, width, halvings=halvings, **shape)
        self.top_encoder = ConvEncoder(width, dims, halvings=top_halvings, **shape)
        self.top_decoder = ConvDecoder(dims, width, bottom, halvings=top_halvings, **shape)
        self.to_bottom = nn.Conv2d(2 * width, dims, 1)
        self.decoder = ConvDecoder(width + dims, self.out_channels, tuple(size), halvings=halvings, **shape)
        self.start_at(self.decoder.last)
        self.set_prior("top", prior, top, condition_spec, prior_options)
        self.classes = 0 if condition_spec is None else condition_spec.label or 0
        # a class more stands for a label that is withheld
        known = self.quantisers["top"].num_codes + (self.classes + 1 if self.classes else 0)
        source = ConditionSpec(tokens=(known, top[0] * top[1] + (self.classes > 0)))
        self.set_prior("bottom", bottom_prior, bottom, source, bottom_prior_options)

    def quantise(self, y: Tensor) -> Iterator[tuple[str, Tensor, Quantised]]:
        h = self.bottom_encoder(y)
        before = self.top_encoder(h.relu())
        top = self.quantisers["top"](before)
        yield "top", before, top
        before = self.to_bottom(torch.cat([h, self.top_decoder(top.values)], dim=1).relu())
        yield "bottom", before, self.quantisers["bottom"](before)

    def reconstruct(self, values: dict[str, Tensor]) -> Tensor:
        return self.decoder(torch.cat([self.top_decoder(values["top"]), values["bottom"]], dim=1))

    def given(self, level: str, codes: dict[str, Tensor], condition: Condition | None) -> Condition | None:
        if level == "top":
            return condition
        source = codes["top"].flatten(1)
        if condition is not None and condition.label is not None:
            label = condition.label
            if condition.dropped is not None:
                label = torch.where(condition.dropped, self.classes, label)
            source = torch.cat([source, self.quantisers["top"].num_codes + label.unsqueeze(1)], dim=1)
        return Condition(tokens=source)
