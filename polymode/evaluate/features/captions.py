"""Pictures and the words that they are drawn from, read into one space by two small networks.

Radford et al. 2021, Learning transferable visual models from natural language supervision (arXiv:2103.00020),
section 2.3, figure 3: of a batch's pairs of unit vectors u_i (picture) and v_i (words)

    s_ij = exp(t) <u_i, v_j>,    L = 1/2 mean_i [-log softmax_j s_ij at i] + 1/2 mean_j [-log softmax_i s_ij at j]

The picture's network is that of the space cnn, the words' a perceptron of which symbols there are, in any order.
Deviation: learned on the spot from the training split, seconds for some thousand pairs; pictures are augmented and
symbols left out at random, for there are so few. Kept in the user's cache.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet
from polymode.data.store import cache_root
from polymode.evaluate.features import nets
from polymode.parts.augment import Augmentation

WIDTH = 64
STEPS, BATCH = 600, 128
#: how often a transform is applied to a picture and a symbol left out, in training
AUGMENTED, LEFT_OUT = 0.3, 0.3
#: the first t, and the largest e^t
TEMPERATURE, LIMIT = math.log(10), 30.0
#: raised when the networks or their training change, so that old files of the cache are not read
VERSION = 1


class Captions(nn.Module):
    """(B, *shape) in data space and tokens (B, T) -> unit vectors (B, 64).

    Args:
        spec: of the pictures.
        condition_spec: with tokens.
    """

    def __init__(self, spec: Spec, condition_spec: ConditionSpec) -> None:
        super().__init__()
        assert condition_spec.tokens is not None
        size, symbols = condition_spec.tokens[0], condition_spec.token_symbols
        self.net = nets.ImageNet(spec, WIDTH)
        self.words = nn.Sequential(nn.Linear(size, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))
        self.augmentation = Augmentation(spec.shape)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        said = [0.0 if symbols and symbols[i] == "" else 1.0 for i in range(size)]
        self.register_buffer("said", torch.tensor(said), persistent=False)

    def symbols(self, tokens: Tensor) -> Float[Tensor, "B K"]:
        """1 where a caption holds a symbol that says something, else 0."""
        return torch.zeros(len(tokens), len(self.said)).scatter_(1, tokens, 1.0) * self.said

    def read(self, held: Float[Tensor, "B K"]) -> Float[Tensor, "B W"]:
        """The vectors of captions by their symbols."""
        return F.normalize(self.words(F.normalize(held, dim=1)), dim=1)

    def look(self, x: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "B W"]:
        """The vectors of pictures, which are augmented where a generator is given."""
        y = self.net.features(x)
        if generator is not None:
            y = self.augmentation(y, AUGMENTED, generator)
        return F.normalize(self.net.logits_of(y), dim=1)

    def loss(self, x: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """The contrastive loss of a batch of pairs."""
        held = self.symbols(tokens)
        held = held * (rng.rand(held.shape, generator, held) >= LEFT_OUT)
        scores = self.temperature.exp().clamp(max=LIMIT) * self.look(x, generator) @ self.read(held).T
        own = torch.arange(len(x))
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def captions(data: DataSet, seed: int = 0) -> Captions:
    """The two networks of a set of pictures with tokens, from the cache or trained.

    Raises:
        PolymodeError: data that are no pictures, or have no tokens.
    """
    spec = data.condition_spec
    if data.spec.kind != "image" or spec is None or spec.tokens is None:
        raise PolymodeError(f"{data.name} is {data.spec} given {spec}: expected pictures given tokens")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Captions(data.spec, spec)
    path = cache_root() / "features" / f"{data.fingerprint}-captions{VERSION}-{seed}.safetensors"
    if not nets.read(net, path):
        _train(net, data, seed)
        nets.write(net, path)
    return net.eval().requires_grad_(False)


def _train(net: Captions, data: DataSet, seed: int) -> None:
    draws = rng.generator(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        x, condition = data.train.batch(torch.randint(len(data.train), (BATCH,), generator=draws), draws)
        assert condition is not None
        assert condition.tokens is not None
        loss = net.loss(x, condition.tokens, draws)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
