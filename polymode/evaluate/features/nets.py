"""The two networks behind image features: a classifier trained on the spot, and a net of fixed random weights.

The classifier learns in seconds (220 steps of AdamW on at most 10,000 training images), is fixed by data and seed,
and is kept in the user's cache under the data's fingerprint, so that later reports use the same features to the bit.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.checkpoint import digest, write_atomically
from polymode.core.errors import CheckpointError
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet
from polymode.data.store import cache_root
from polymode.parts.features import Features

#: dimensions of the classifier's features
WIDTH = 64
STEPS, BATCH, ROWS = 220, 64, 10_000
#: raised when the network or its training changes, so that old files of the cache are not read
VERSION = 1


class ImageNet(nn.Module):
    """(B, *shape) in data space -> (B, 64) features: two 3 x 3 convolutions, then one linear layer."""

    def __init__(self, spec: Spec, classes: int) -> None:
        super().__init__()
        self.features = Features(spec)
        self.spec = spec
        channels, height, width = spec.shape
        # images are pooled to about 8 x 8 after the first convolution, so that cost does not grow with size
        side = min(height, width) // 8
        pool = (nn.AvgPool2d(side),) if side > 1 else ()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), *pool, nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(16, 48, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(3), nn.Flatten(),
        )  # fmt: skip
        self.hidden = nn.Linear(48 * 9, WIDTH)
        self.last = nn.Linear(WIDTH, classes)
        self.register_buffer("loc", torch.zeros(WIDTH))
        self.register_buffer("scale", torch.ones(WIDTH))

    def logits(self, x: Tensor) -> Tensor:
        """(B, classes)."""
        return self.logits_of(self.features(x))

    def logits_of(self, y: Tensor) -> Tensor:
        """(B, classes) of features (B, D) as `parts.features` makes them."""
        return self.last(F.relu(self._hidden(y)))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised activations of the hidden layer, before its rectifier."""
        return (self._hidden(self.features(x)) - self.loc) / self.scale

    def _hidden(self, y: Tensor) -> Tensor:
        return self.hidden(self.convolutions(y.view(len(y), *self.spec.shape)))


def classifier(data: DataSet, seed: int) -> tuple[ImageNet, float]:
    """(the classifier of a labelled image set, its accuracy on the validation split), from the cache or trained."""
    assert data.condition_spec is not None
    assert data.condition_spec.label is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ImageNet(data.spec, data.condition_spec.label)
    path = cache_root() / "features" / f"{data.fingerprint}-cnn{VERSION}-{seed}.safetensors"
    if not read(net, path):
        _train(net, data, seed)
        write(net, path)
    net.eval().requires_grad_(False)
    return net, _accuracy(net, data)


def _train(net: ImageNet, data: DataSet, seed: int) -> None:
    draws = rng.generator(seed)
    rows = torch.randperm(len(data.train), generator=draws)[:ROWS]
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    net.train()
    for _ in range(STEPS):
        picked = rows[torch.randint(len(rows), (min(BATCH, len(rows)),), generator=draws)]
        x, condition = data.train.batch(picked, draws)
        assert condition is not None
        assert condition.label is not None
        loss = F.cross_entropy(net.logits(x), condition.label)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    x, _ = data.train.batch(rows[:2000], draws)
    with torch.no_grad():
        hidden = torch.cat([net(part) for part in x.split(512)])
    net.loc.copy_(hidden.mean(0))
    # a unit that never varies has nothing to say and must not be divided by zero
    deviation = hidden.std(0, correction=0)
    net.scale.copy_(torch.where(deviation > 0, deviation, 1.0))


def _accuracy(net: ImageNet, data: DataSet) -> float:
    x, condition = data.valid.take(2000, rng.generator(0))
    assert condition is not None
    assert condition.label is not None
    with torch.no_grad():
        guesses = torch.cat([net.logits(part).argmax(1) for part in x.split(512)])
    return float((guesses == condition.label).double().mean())


def read(net: nn.Module, path: Path) -> bool:
    """Load the cached weights; False where there are none or they are damaged, and they are made again."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (no __iter__)
            expected = (f.metadata() or {}).get("digest")
    except (SafetensorError, OSError):
        return False
    if expected != digest(tensors):
        return False
    net.load_state_dict(tensors)
    return True


def write(net: nn.Module, path: Path) -> None:
    """Keep weights for the next time, where the cache can be written."""
    from safetensors.torch import save_file

    tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
    try:
        write_atomically(path, lambda p: save_file(tensors, p, metadata={"digest": digest(tensors)}))
    except (CheckpointError, OSError):
        # a cache that can't be written (a read-only home) costs seconds at the next report, nothing else
        return


class RandomNet(nn.Module):
    """(B, *shape) -> (B, F): three random convolutions, each level's features averaged over quarters of the image."""

    dim = 4 * (16 + 32 + 64)

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.features = Features(spec)
        draws = rng.generator(0)
        widths = (spec.shape[0], 16, 32, 64)
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            # Kaiming's scale keeps the activations' variance through rectifiers (He et al. 2015, arXiv:1502.01852)
            weight = rng.randn((b, a, 3, 3), draws, torch.empty(0)) * (2.0 / (a * 9)) ** 0.5
            self.register_buffer(f"weight{i}", weight, persistent=False)
        self.register_buffer("loc", torch.zeros(self.dim), persistent=False)
        self.register_buffer("scale", torch.ones(self.dim), persistent=False)

    def layers(self, y: Tensor) -> list[Tensor]:
        """The activations of each level of planes (B, C, H, W) in [-1, 1], the finest first."""
        found = []
        for i in range(3):
            y = F.relu(F.conv2d(y, getattr(self, f"weight{i}"), padding=1))
            found.append(y)
            if min(y.shape[-2:]) >= 4:
                y = F.avg_pool2d(y, 2)
        return found

    def forward(self, x: Tensor) -> Tensor:
        found = [F.adaptive_avg_pool2d(h, 2).flatten(1) for h in self.layers(self.features(x).view(x.shape))]
        return (torch.cat(found, 1) - self.loc) / self.scale


def random_net(spec: Spec, x: Tensor) -> RandomNet:
    """The random network of a spec, its features standardised on training images x."""
    net = RandomNet(spec)
    with torch.no_grad():
        y = torch.cat([net(part) for part in x.split(512)])
    deviation = y.std(0, correction=0)
    net.loc.copy_(y.mean(0))
    net.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
    return net
