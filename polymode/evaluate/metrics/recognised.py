"""Recognised: the share of conditional samples whose label an independent classifier gives back.

Ravuri and Vinyals 2019, "Classification accuracy score for conditional generative models", arXiv:1905.10887, ask how
well a classifier trained on samples does on data; this is the other way round, as in the human test of a digit that is
spoken to order: a classifier that knows real data only hears the samples.

    recognised = 1/n sum_i [ argmax_y p(y | x_i) = y_i ],    x_i drawn under the label y_i

`classifier_of` gives the classifier: of images, that of the feature space where it has one, else the network of the
space cnn; of waveforms, the same network on pictures of their 20 mel bands (`pictures`). It learns from the training
split. What it says of real test rows is the mark, given in the protocol: a model whose samples are all of one voice can
be above it, so it says nothing of variety; read it beside recall. Chance is 1/K. Interval: Wilson's, over samples,
the classifier as it is. Cost one training of the classifier, kept in the user's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.features import FeatureSpace, nets, sound
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import share_interval

Classify = Callable[[Tensor], Tensor]


def pictures(x: Tensor, spec: Spec) -> Tensor:
    """Waveforms (N, T) as pictures (N, 1, bands, frames) of their log-mel power, 256 levels from silence to full."""
    bands = torch.cat([sound.log_mel(sound.amplitude(part, spec), sound.rate_of(spec)) for part in x.split(256)])
    level = 255 * (1 - bands.transpose(1, 2) / math.log(sound.FLOOR))
    return level.round().clamp(0, 255).to(torch.uint8).unsqueeze(1)


def classifier_of(data: DataSet, space: FeatureSpace | None = None, *, seed: int = 0) -> tuple[Classify, str]:
    """(what gives class probabilities (N, K) of data (N, *shape), how it was made).

    Raises:
        PolymodeError: data without labels, or of which there is no classifier here.
    """
    if data.condition_spec is None or data.condition_spec.label is None:
        raise PolymodeError(f"{data.name} has no labels to be recognised; give labelled data")
    if space is not None and space.probabilities is not None and data.spec.kind == "image":
        return space.classify, space.protocol
    if data.spec.kind != "image" and not sound.is_audible(data.spec):
        raise PolymodeError(f"samples of {data.spec} can't be recognised; there are classifiers of images and of sound")
    heard = data if data.spec.kind == "image" else _heard(data)
    net, accuracy = nets.classifier(heard, seed)

    def classify(x: Tensor) -> Tensor:
        seen = x if heard is data else pictures(x, data.spec)
        with torch.no_grad():
            return torch.cat([net.logits(part).double().softmax(1) for part in seen.split(512)])

    of = "" if heard is data else " of log-mel pictures"
    return classify, f"classifier{of} trained on the training split, held-out accuracy {100 * accuracy:.1f} %"


def _heard(data: DataSet) -> DataSet:
    """Labelled waveforms as pictures of the same rows."""
    parts = [Split(pictures(s.x, data.spec), s.condition) for s in (data.train, data.valid, data.test)]
    height, width = parts[0].x.shape[2:]
    return replace(
        data, name=f"{data.name}-mel", spec=specs.image(1, height, width), train=parts[0], valid=parts[1],
        test=parts[2], log_density=None, modes=None,
    )  # fmt: skip


def recognised(classify: Classify, x: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """(share, low, high) of rows whose likeliest class is their label."""
    return share_interval(float((classify(x).argmax(1) == labels).sum()), len(x))


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    real, wanted = c.reference.condition, c.condition
    if real is None or real.label is None or wanted is None or wanted.label is None:
        raise PolymodeError("samples that were drawn without labels can't be recognised; use a model given labels")
    classify, made = c.reference.cached("recogniser", lambda: classifier_of(c.data, c.reference.space))
    truth = real.label
    mark, _, _ = c.reference.cached("recognised", lambda: recognised(classify, c.reference.real, truth))
    share, low, high = recognised(classify, c.samples, wanted.label.cpu())
    protocol = f"{made}; of {c.reference.n} real test rows it recognises {100 * mark:.1f} %; 95 % over samples"
    return [Measurement("recognised", share, low, high, len(c.samples), "higher", protocol)]
