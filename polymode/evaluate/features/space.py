"""Named feature spaces in which samples are compared with data; every metric carries the name of its space.

    raw           the data's own features (`parts.features`): numbers standardised by the training split, categories
                  one-hot at distance 1 from each other
    <data>-cnn    images with labels: the last hidden layer of a small classifier trained on the training split
    random-conv   images without labels: a convolutional net of fixed random weights; random features keep distances
                  (Saxe et al. 2011, ICML, "On random weights and unsupervised feature learning")
    log-mel       waveforms: mean and standard deviation over time of the logarithmic power in 20 mel bands (`sound`)
    bigrams       tokens: square roots of unigram and hashed bigram frequencies (Hellinger distance between texts)

    inception, dinov2, clip    colour images: the networks of the literature, where the user has them (`pretrained`)

Numbers measured in the spaces that need no download compare models with each other on one data set, never with
published FID or KID; those in Inception's space compare with published ones of the same n and the same resizing only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError, require_choice
from polymode.core.rng import generator
from polymode.core.spec import Columns, Tokens
from polymode.data.dataset import DataSet
from polymode.evaluate.features import nets, pretrained, sound
from polymode.parts.features import Features

#: training rows that scales are measured on
SCALE_ROWS = 5000
#: buckets of the bigram features
UNIGRAMS, BIGRAMS = 256, 512


@dataclass(frozen=True)
class FeatureSpace:
    """A map from data space to R^F.

    Args:
        name: carried by every metric measured in it.
        function: (B, *shape) -> (B, F).
        dim: F.
        protocol: how it was made, in words.
        probabilities: (B, *shape) -> (B, K) class probabilities, where the space belongs to a classifier.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    dim: int
    protocol: str
    probabilities: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor, *, batch_size: int = 512) -> Tensor:
        """Features (N, F), float64, a batch at a time."""
        with torch.no_grad():
            return torch.cat([self.function(part).double() for part in x.split(batch_size)])

    def classify(self, x: Tensor, *, batch_size: int = 512) -> Tensor:
        """Class probabilities (N, K), float64, a batch at a time.

        Raises:
            PolymodeError: the space belongs to no classifier.
        """
        if self.probabilities is None:
            raise PolymodeError(
                f"class probabilities need a classifier and the features {self.name} have none; "
                "use labelled images with features cnn, or features inception"
            )
        with torch.no_grad():
            return torch.cat([self.probabilities(part).double() for part in x.split(batch_size)])


def features_for(data: DataSet, name: str = "auto", *, seed: int = 0) -> FeatureSpace:
    """The feature space of a data set.

    Args:
        name: "auto" (the best of those that need no download), "raw", "cnn", "random-conv", "log-mel", "bigrams", or
            "inception", "dinov2", "clip", each also with a path: "inception:weights.pth".
        seed: fixes the training of a classifier.

    Raises:
        PolymodeError: a space that data of this kind do not have.
    """
    spec = data.spec
    is_image = spec.kind == "image"
    network, _, path = name.partition(":")
    if is_image and network in pretrained.NETWORKS:
        return FeatureSpace(*pretrained.space(spec, network, path))
    labelled = is_image and data.condition_spec is not None and data.condition_spec.label is not None
    if isinstance(spec.support, Tokens):
        choices = ("bigrams",)
    else:
        choices = ("cnn",) * labelled + ("random-conv",) * is_image + ("log-mel",) * sound.is_audible(spec) + ("raw",)
    require_choice("features", name, ("auto", *choices, *pretrained.NETWORKS * is_image))
    match choices[0] if name == "auto" else name:
        case "cnn":
            return _cnn(data, seed)
        case "random-conv":
            return _random_conv(data)
        case "log-mel":
            return _log_mel(data)
        case "bigrams":
            return _bigrams(spec.num_dims, spec.levels or 2)
        case _:
            return _raw(data)


def _some_train(data: DataSet) -> Tensor:
    return data.train.take(SCALE_ROWS, generator(0))[0]


def _raw(data: DataSet) -> FeatureSpace:
    """Standardised features; a dimension that hardly varies is not blown up beyond ten times the typical one."""
    features = Features(data.spec)
    y = features(_some_train(data)).double()
    loc, scale = y.mean(0), y.std(0, correction=0)
    if isinstance(data.spec.support, Columns):
        ordered = torch.zeros(features.size, dtype=torch.bool)
        ordered[features.numeric_at] = True
        # two one-hot rows at 1/sqrt(2) are at distance 1, as two numbers one standard deviation apart
        scale = torch.where(ordered, scale, 2**0.5)
    else:
        scale = scale.clamp(min=0.1 * float(scale.square().mean().sqrt()))
    scale = torch.where(scale > 0, scale, 1.0)
    return FeatureSpace(
        "raw", lambda x: (features(x).double() - loc) / scale, features.size, "standardised by the training split"
    )


def _cnn(data: DataSet, seed: int) -> FeatureSpace:
    net, accuracy = nets.classifier(data, seed)
    held_out = f"held-out accuracy {100 * accuracy:.1f} %"
    return FeatureSpace(
        f"{data.name}-cnn", net, nets.WIDTH, f"classifier trained on the training split, {held_out}",
        lambda x: net.logits(x).softmax(1),
    )  # fmt: skip


def _random_conv(data: DataSet) -> FeatureSpace:
    net = nets.random_net(data.spec, _some_train(data))
    return FeatureSpace("random-conv", net, net.dim, "convolutions of fixed random weights")


def _log_mel(data: DataSet) -> FeatureSpace:
    """A short embedding of sound for the Frechet audio distance, standardised as KID's kernel needs it."""
    spec, rate = data.spec, sound.rate_of(data.spec)

    def embed(x: Tensor) -> Tensor:
        bands = sound.log_mel(sound.amplitude(x, spec), rate)  # (B, frames, M)
        return torch.cat([bands.mean(1), bands.std(1, correction=0)], dim=1)

    y = torch.cat([embed(part) for part in _some_train(data).split(512)])
    loc, scale = y.mean(0), y.std(0, correction=0)
    # a feature that rounding alone moves (a band that is always silent) stays as it is
    scale = torch.where(scale > 1e-6, scale, 1.0)
    return FeatureSpace(
        "log-mel", lambda x: (embed(x) - loc) / scale, 2 * sound.BANDS,
        f"mean and deviation over time of {sound.BANDS} mel bands at {rate:,} Hz, standardised by the training split",
    )  # fmt: skip


def _bigrams(length: int, vocabulary: int) -> FeatureSpace:
    """Hashing is multiplicative (Knuth), so a bucket depends on the pair of ids only."""
    if length < 2:
        raise PolymodeError(f"bigram features need sequences of at least 2 tokens, these have {length}")
    pairs = min(vocabulary * vocabulary, BIGRAMS)
    singles = min(vocabulary, UNIGRAMS)

    def function(x: Tensor) -> Tensor:
        x = x.long().flatten(1)
        both = x[:, :-1] * vocabulary + x[:, 1:]  # (B, T - 1)
        if vocabulary * vocabulary > BIGRAMS:
            both = (both % 2**31 * 2654435761 % 2**32) * BIGRAMS // 2**32
        counts = torch.zeros(len(x), singles + pairs)
        counts.scatter_add_(1, x % singles, torch.full(x.shape, 1.0 / length))
        counts.scatter_add_(1, both + singles, torch.full(both.shape, 1.0 / (length - 1)))
        return counts.sqrt()

    return FeatureSpace(
        "bigrams", function, singles + pairs, f"square roots of {singles} unigram and {pairs} bigram frequencies"
    )
