"""The network of a chain of symbols: what x_0 was, given noisy symbols, the time and the condition.

Tokens and whatever has no space are read as symbols by a transformer (`parts.nn.dit.SymbolDiT`); images, long series
and sounds of bits and levels as numbers, by the backbones of `_network`, beside a plane that says what is masked. The
output are the parameters of `parts.distributions.heads`: a softmax over few values, a mixture of discretised logistics
over many (Austin et al. 2021, arXiv:2107.03006, appendix A.8, where it is one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec, Tokens
from polymode.models.diffusion._network import Context, Network, heads_of, spacious
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.dit import SymbolDiT

SymbolBackbone = Literal["auto", "transformer", "mlp", "unet", "dit"]
#: more symbols than this are read as numbers by a perceptron, where they are numbers
MOST_SYMBOLS = 512
#: components of a mixture of logistics
COMPONENTS = 3


class SymbolNetwork(nn.Module):
    """States (B, D) of 0 .. states - 1, t (B,), context -> log p(x_0), (B, D, K).

    Args:
        spec: what one datum is, a lattice.
        states: how many states a symbol has, one more than values where it can be masked.
        condition_spec: what it is conditioned on.
        backbone: "transformer" for anything, the others of `Network` for bits and levels; "auto" is a U-Net where
            `Network` has one, else a transformer of tokens and of what is short, else a perceptron.
        widths: of the blocks, see `Network`; None chooses by the data.

    Raises:
        PolymodeError: a backbone of numbers for tokens, or unequal widths of a transformer.
    """

    def __init__(
        self,
        spec: Spec,
        states: int,
        condition_spec: ConditionSpec | None = None,
        *,
        backbone: SymbolBackbone = "auto",
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        require_choice("backbone", backbone, ("auto", "transformer", "mlp", "unet", "dit"))
        assert spec.levels is not None
        unordered = isinstance(spec.support, Tokens)
        if backbone == "auto":
            backbone = "transformer" if unordered or spec.num_dims <= MOST_SYMBOLS else "mlp"
            backbone = "unet" if spacious(spec) and not unordered else backbone
        if unordered and backbone != "transformer":
            raise PolymodeError(f"backbone={backbone!r} on {spec}: tokens are no numbers; give backbone='transformer'")
        self.values, self.masks = spec.levels, states > spec.levels
        self.head = head_for(spec, components=COMPONENTS)
        outputs = self.head.num_params // spec.num_dims
        self.reads_symbols = backbone == "transformer"
        self.body: Any
        if self.reads_symbols:
            widths = widths or (128,) * 4
            if len(set(widths)) != 1:
                raise PolymodeError(f"widths={tuple(widths)} of a transformer, expected equal ones")
            width = widths[0]
            self.encoder, context = encoder_for(condition_spec, width)
            self.body = SymbolDiT(
                states, spec.num_dims, outputs, width=width, layers=len(widths), heads=heads_of(width),
                context_features=context,
            )  # fmt: skip
        else:
            self.body = Network(
                spec, spec.num_dims, condition_spec, backbone=backbone, widths=widths, outputs=outputs,
                inputs=1 + self.masks,
            )  # fmt: skip
        #: what the head begins with, which a network that says 0 at first is added to
        self.bias = nn.Parameter(self.head.initial())

    def read(self, condition: Condition) -> Context | Tensor:
        """What the body is to know of a condition; once for all times."""
        return self.encoder(condition) if self.reads_symbols else self.body.read(condition)

    def forward(self, x: Int[Tensor, "B D"], t: Tensor, context: Context | Tensor | None) -> Float[Tensor, "B D K"]:
        t = t.to(self.bias.dtype)
        if self.reads_symbols:
            params = self.body(x, t, context).flatten(1)
        else:
            planes = x.to(self.bias.dtype) * (2 / max(1, self.values - 1)) - 1
            if self.masks:
                masked = x == self.values
                planes = torch.cat([planes.masked_fill(masked, 0.0), masked.to(planes.dtype)], 1)
            said = self.body(planes, t, context)  # (B, P, D): the heads' parameters plane by plane
            params = said.view(len(x), -1, x.shape[1]).transpose(1, 2).flatten(1)
        (_, table), *_ = self.head.tables(params + self.bias)
        return table
