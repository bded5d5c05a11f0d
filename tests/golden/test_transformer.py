"""Blocks of encoder and decoder against those of torch with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from polymode.parts.nn.transformer import DecoderBlock, EncoderBlock, Residual

WIDTH, HEADS = 12, 3


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def copy_attention(ours: nn.Module, theirs: nn.MultiheadAttention) -> None:
    """The weights of torch's attention into a `CausalAttention` or an `Attention`."""
    weight, bias = theirs.in_proj_weight.data, theirs.in_proj_bias.data
    if hasattr(ours, "qkv"):
        ours.qkv.weight.data, ours.qkv.bias.data = weight, bias
    else:
        ours.query.weight.data, ours.query.bias.data = weight[:WIDTH], bias[:WIDTH]
        ours.key_value.weight.data, ours.key_value.bias.data = weight[WIDTH:], bias[WIDTH:]
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def copy_rest(ours: nn.Module, theirs: nn.Module, norms: list[nn.Module]) -> None:
    ours.perceptron[0].load_state_dict(theirs.linear1.state_dict())
    ours.perceptron[2].load_state_dict(theirs.linear2.state_dict())
    for residual, norm in zip(ours.residuals, norms, strict=True):
        assert isinstance(residual, Residual)
        residual.norm.load_state_dict(norm.state_dict())


def scattered(module: nn.Module) -> nn.Module:
    """With biases and norms that are not those of an untrained layer."""
    for i, p in enumerate(module.parameters()):
        p.data += 0.3 * randn(*p.shape, seed=i)
    return module.eval()


SEEN = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_block_is_torchs(norm_first: bool):
    options = {"dim_feedforward": 4 * WIDTH, "dropout": 0.0, "batch_first": True, "norm_first": norm_first}
    theirs = scattered(nn.TransformerEncoderLayer(WIDTH, HEADS, **options).double())
    ours = EncoderBlock(WIDTH, HEADS, 0.0, norm_first=norm_first).double()
    copy_attention(ours.attention, theirs.self_attn)
    copy_rest(ours, theirs, [theirs.norm1, theirs.norm2])
    h = randn(2, 5, WIDTH, seed=0)
    found, expected = ours(h, SEEN[:, None, None]), theirs(h, src_key_padding_mask=~SEEN)
    torch.testing.assert_close(found[SEEN], expected[SEEN], rtol=0, atol=1e-10)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_decoder_block_is_torchs(norm_first: bool):
    options = {"dim_feedforward": 4 * WIDTH, "dropout": 0.0, "batch_first": True, "norm_first": norm_first}
    theirs = scattered(nn.TransformerDecoderLayer(WIDTH, HEADS, **options).double())
    ours = DecoderBlock(WIDTH, HEADS, 0.0, norm_first=norm_first).double()
    copy_attention(ours.attention, theirs.self_attn)
    copy_attention(ours.cross, theirs.multihead_attn)
    copy_rest(ours, theirs, [theirs.norm1, theirs.norm2, theirs.norm3])
    h, memory = randn(2, 4, WIDTH, seed=0), randn(2, 5, WIDTH, seed=1)
    found = ours(h, ours.cross.read(memory), SEEN[:, None, None], 0, 0, None)
    later = torch.ones(4, 4, dtype=torch.bool).triu(1)
    expected = theirs(h, memory, tgt_mask=later, memory_key_padding_mask=~SEEN)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
