"""Perplexity of a text longer than the window, against transformers on the same randomly initialised network."""

import math

import pytest
import torch
from torch import Tensor

from polymode.evaluate.metrics.perplexity import perplexity, sliding_nll

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

WINDOW = 32


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_positions=WINDOW, n_embd=16, n_layer=2, n_head=2)
    net = transformers.GPT2LMHeadModel(config).eval()
    # logits far from uniform, so that an error of one token shows
    with torch.no_grad():
        net.transformer.wte.weight.mul_(60)
    return net


def recipe(net, ids: Tensor, stride: int) -> tuple[float, int]:
    """(sum of nats, tokens scored) as the documentation's "Perplexity of fixed-length models" makes them.

    Each window's loss is the mean over its labels that are not -100 after the network's own shift by one. The
    documentation takes one off the number of labels in every window; only those whose first label is not masked
    lose one by the shift, so here the labels are counted after it.
    """
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + WINDOW, len(ids))
        labels = ids[None, begin:end].clone()
        labels[:, : -(end - before)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(net(ids[None, begin:end], labels=labels).loss) * scored
        count, before = count + scored, end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize(("length", "stride"), [(100, 16), (100, 32), (97, 5), (64, 1), (20, 16)])
def test_sliding_windows_are_those_of_transformers(network, length: int, stride: int) -> None:
    ids = torch.randint(50, (length,), generator=torch.Generator().manual_seed(length))
    nats = sliding_nll(lambda x: network(x).logits, ids, window=WINDOW, stride=stride)
    total, count = recipe(network, ids, stride)
    assert len(nats) == count
    value, low, high = perplexity(-nats, torch.ones(len(nats)))
    assert value == pytest.approx(math.exp(total / count), rel=1e-5)
    assert low < value < high


def test_a_text_of_one_window_has_the_networks_own_loss(network) -> None:
    ids = torch.randint(50, (WINDOW,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = float(network(ids[None], labels=ids[None]).loss)
    nats = sliding_nll(lambda x: network(x).logits, ids, window=WINDOW, stride=8)
    assert perplexity(-nats, torch.ones(len(nats)))[0] == pytest.approx(math.exp(loss), rel=1e-5)


def test_more_context_changes_the_number(network) -> None:
    ids = torch.randint(50, (100,), generator=torch.Generator().manual_seed(1))
    few, many = (sliding_nll(lambda x: network(x).logits, ids, window=WINDOW, stride=s)[40:] for s in (31, 1))
    assert not torch.allclose(few, many, atol=1e-3)
