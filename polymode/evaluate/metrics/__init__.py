"""Every metric there is, in one literal table; each is one file with a function ``measure(comparison)``.

`needs` says what must be there for a metric to be asked at all:
    likelihood     the model has one that is normalised
    log_density    the data set knows its own density
    modes          the data set knows its own modes
    classifier     the feature space belongs to a classifier
    labels         the samples were drawn under labels
    prompts        the samples were drawn under tokens
    model          it measures a model, not samples, so it has no ceiling
    posterior      the model has a Gaussian posterior over its code
    conditionals   the model knows the distribution of any symbol given any others
    codes          the model stands for data by codes
    pairs          a model of targets given sources: symbols conditioned on symbols
    sources        a model of pictures given pictures
    smaller        the pictures that it is given are smaller by a whole number
    frames         the data are series of bits
    music          the data are piano rolls
    factors        the data set knows what made its rows
    latents        the model has a code for every datum
    classifies     the model tells classes apart by a network of its own
    initialises    the model has a network that a classifier can begin from
    associates     the model is one of data and conditions together
    train          it compares with training rows, so real training rows are no ceiling for it
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass

from polymode.core.capabilities import (
    Associates,
    Classifies,
    HasCodes,
    HasConditionals,
    HasLatents,
    HasPosterior,
    Initialises,
)
from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError, nearest
from polymode.core.rolls import is_music
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Better, Measurement
from polymode.evaluate.metrics.resolution import factor_of
from polymode.evaluate.metrics.translation import gives_sources


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: what the user asks for.
        path: its module here.
        title: what reports call it.
        better: which direction is better.
        needs: what must be there, see above.
        min_n: the fewest rows on each side that it works with.
        instead: the metric to use below that.
        paper: where it comes from.
        kinds: the kinds of data that it measures; empty for all.
        on_request: measured only where it is asked for by name, as it costs much.
        titles: (kind of data, title) where the field has another word for it there.
    """

    name: str
    path: str
    title: str
    better: Better
    needs: tuple[str, ...]
    min_n: int
    instead: str
    paper: str
    kinds: tuple[str, ...] = ()
    on_request: bool = False
    titles: tuple[tuple[str, str], ...] = ()

    def title_for(self, kind: str) -> str:
        """What reports on data of a kind call it."""
        return dict(self.titles).get(kind, self.title)


METRICS: tuple[Metric, ...] = (
    Metric("kid", "kid", "KID", "lower", (), 40, "sliced_wasserstein", "Binkowski et al. 2018, arXiv:1801.01401"),
    Metric("frechet", "frechet", "Frechet", "lower", (), 40, "kid", "Heusel et al. 2017, arXiv:1706.08500",
           titles=(("image", "FID"), ("waveform", "FAD"))),
    Metric("inception_score", "inception_score", "IS", "higher", ("classifier",), 40, "kid",
           "Salimans et al. 2016, arXiv:1606.03498", kinds=("image",)),
    Metric("recognised", "recognised", "recognised", "higher", ("labels",), 2, "speed",
           "Ravuri and Vinyals 2019, arXiv:1905.10887", kinds=("image", "waveform")),
    Metric("prompts", "prompts", "prompt recall", "higher", ("prompts",), 20, "kid",
           "Xu et al. 2018, arXiv:1711.10485; Radford et al. 2021, arXiv:2103.00020", kinds=("image",)),
    Metric("prdc", "prdc", "precision", "higher", (), 20, "sliced_wasserstein",
           "Kynkaanniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797"),
    Metric("mmd", "mmd", "MMD²", "lower", (), 20, "sliced_wasserstein", "Gretton et al. 2012, JMLR 13"),
    Metric("sliced_wasserstein", "sliced_wasserstein", "sliced W2", "lower", (), 8, "speed",
           "Bonneel et al. 2015, J. Math. Imaging Vis. 51"),
    Metric("c2st", "c2st", "C2ST", "lower", (), 50, "mmd", "Lopez-Paz and Oquab 2017, arXiv:1610.06545"),
    Metric("modes", "modes", "modes", "higher", ("modes",), 20, "sliced_wasserstein",
           "Srivastava et al. 2017, arXiv:1705.07761"),
    Metric("density_kl", "density_kl", "KL(data||model)", "lower", ("log_density", "likelihood"), 20,
           "sliced_wasserstein", "Kullback and Leibler 1951"),
    Metric("memorisation", "memorisation", "memorisation", None, ("train",), 20, "gap",
           "Meehan, Chaudhuri and Dasgupta 2020, arXiv:2004.05675"),
    Metric("ndb", "ndb", "NDB/K", "lower", (), 40, "prdc", "Richardson and Weiss 2018, arXiv:1805.12462"),
    Metric("diversity", "diversity", "diversity", None, (), 20, "sliced_wasserstein",
           "Srivastava et al. 2017, arXiv:1705.07761"),
    Metric("vendi", "vendi", "Vendi ratio", None, (), 20, "diversity", "Friedman and Dieng 2022, arXiv:2210.02410",
           on_request=True),
    Metric("table_fidelity", "table_fidelity", "marginal similarity", "higher", (), 20, "sliced_wasserstein",
           "Kolmogorov 1933; Bergsma 2013; Kelley 1935", kinds=("table",)),
    Metric("tstr", "tstr", "TSTR", "higher", ("model",), 20, "table_fidelity", "Esteban et al. 2017, arXiv:1706.02633",
           kinds=("table",), on_request=True),
    Metric("privacy", "privacy", "privacy", None, ("train",), 20, "memorisation",
           "Platzer and Reutterer 2021; Chen et al. 2020, arXiv:1909.03935", kinds=("table", "vector")),
    Metric("ngrams", "ngrams", "BLEU", "higher", (), 20, "perplexity",
           "Papineni et al. 2002, ACL; Zhu et al. 2018, arXiv:1802.01886", kinds=("tokens",)),
    Metric("pairs", "pairs", "exact match", "higher", ("pairs",), 2, "perplexity", "Lin 2004, ACL workshop (ROUGE)",
           kinds=("tokens",)),
    Metric("translation", "translation", "L1", "lower", ("model", "sources"), 2, "kid",
           "Zhu et al. 2017, arXiv:1703.10593; Isola et al. 2017, arXiv:1611.07004", kinds=("image",)),
    Metric("resolution", "resolution", "PSNR", "higher", ("model", "sources", "smaller"), 2, "translation",
           "Wang et al. 2004, IEEE TIP 13; Ledig et al. 2017, arXiv:1609.04802", kinds=("image",)),
    Metric("perplexity", "perplexity", "perplexity", "lower", ("likelihood",), 2, "ngrams",
           "Jelinek et al. 1977, J. Acoust. Soc. Am. 62", kinds=("tokens",)),
    Metric("masked", "masked", "masked accuracy", "higher", ("model", "conditionals"), 2, "perplexity",
           "Devlin et al. 2019, arXiv:1810.04805"),
    Metric("codebook", "codebook", "codebook use", "higher", ("model", "codes"), 2, "speed",
           "van den Oord et al. 2017, arXiv:1711.00937", kinds=("image",)),
    Metric("words", "words", "known words", "higher", ("train",), 2, "ngrams", "Graves 2013, arXiv:1308.0850",
           kinds=("tokens",)),
    Metric("parses", "parses", "parses", "higher", (), 2, "ngrams", "Kusner et al. 2017, arXiv:1703.01925",
           kinds=("tokens",), on_request=True),
    Metric("frame_nll", "frame_nll", "frame NLL", "lower", ("likelihood", "frames"), 2, "gap",
           "Boulanger-Lewandowski et al. 2012, arXiv:1206.6392", kinds=("series",)),
    Metric("music", "music", "pitch-class distance", "lower", ("music",), 8, "speed",
           "Yang and Lerch 2020, Neural Computing and Applications 32", kinds=("series",)),
    Metric("mcd", "audio", "MCD", None, (), 2, "speed", "Kubichek 1993, IEEE PACRIM", kinds=("waveform",)),
    Metric("disentanglement", "disentanglement", "MIG", "higher", ("factors", "latents"), 2, "speed",
           "Chen et al. 2018, arXiv:1802.04942; Kim and Mnih 2018, arXiv:1802.05983", on_request=True),
    Metric("parzen", "parzen", "Parzen log-likelihood", "higher", (), 20, "kid",
           "Parzen 1962; Breuleux, Bengio and Vincent 2011", kinds=("image", "vector"), on_request=True),
    Metric("posterior", "posterior", "active units", None, ("model", "posterior"), 2, "gap",
           "Burda et al. 2016, arXiv:1509.00519; Cremer et al. 2018, arXiv:1801.03558", on_request=True),
    Metric("labels", "labels", "accuracy", "higher", ("model", "labels", "classifies"), 2, "recognised",
           "Kingma et al. 2014, arXiv:1406.5298"),
    Metric("pretraining", "pretraining", "pretraining gain", "higher", ("model", "initialises"), 2, "labels",
           "Hinton, Osindero and Teh 2006, Neural Computation 18", on_request=True),
    Metric("retrieval", "retrieval", "retrieval of conditions", "higher", ("model", "associates"), 2, "speed",
           "Srivastava and Salakhutdinov 2012, NIPS", on_request=True),
    Metric("gap", "gap", "train/test gap", "lower", ("likelihood", "model"), 8, "memorisation", ""),
    Metric("speed", "speed", "samples/s", "higher", ("model",), 1, "", ""),
)  # fmt: skip


def find(name: str) -> Metric:
    """The row of a metric, or an error that names the nearest."""
    for metric in METRICS:
        if metric.name == name:
            return metric
    names = [m.name for m in METRICS]
    raise PolymodeError(f"there is no metric {name!r}{nearest(name, names) or '; metrics are: ' + ', '.join(names)}")


def applicable(comparison: Comparison, names: Iterable[str] | None) -> list[Metric]:
    """The metrics of these names that this comparison can have, in the table's order; None for all but the costly."""
    named = [m for m in METRICS if not m.on_request] if names is None else map(find, dict.fromkeys(names))
    likelihood, data = comparison.likelihood, comparison.data
    met = {
        "likelihood": likelihood is not None and likelihood.kind in ("exact", "lower bound", "estimate"),
        "log_density": data.log_density is not None,
        "modes": data.modes is not None,
        "classifier": comparison.reference.space.probabilities is not None,
        "labels": comparison.condition is not None and comparison.condition.label is not None,
        "prompts": comparison.condition is not None and comparison.condition.tokens is not None,
        "model": comparison.model is not None,
        "posterior": isinstance(comparison.model, HasPosterior),
        "conditionals": isinstance(comparison.model, HasConditionals),
        "codes": isinstance(comparison.model, HasCodes),
        "pairs": comparison.model is not None and _is_given_tokens(comparison.model.condition_spec),
        "sources": comparison.model is not None and gives_sources(comparison.model.condition_spec),
        "smaller": factor_of(data.condition_spec, data.spec) > 1,
        "frames": data.spec.signature == "series/binary",
        "music": is_music(data.spec),
        "factors": bool(data.factors),
        "latents": isinstance(comparison.model, HasLatents),
        "classifies": isinstance(comparison.model, Classifies),
        "initialises": isinstance(comparison.model, Initialises),
        "associates": isinstance(comparison.model, Associates),
        "train": comparison.model is not None,
    }
    return [
        metric
        for metric in named
        if all(met[need] for need in metric.needs) and (not metric.kinds or data.spec.kind in metric.kinds)
    ]


def _is_given_tokens(spec: ConditionSpec | None) -> bool:
    return spec is not None and spec.kinds == ("tokens",)


def measure(metric: Metric, comparison: Comparison) -> list[Measurement]:
    """The numbers of a metric, or one measurement that holds the sentence of its refusal."""
    title = metric.title_for(comparison.data.spec.kind)
    try:
        if comparison.n < metric.min_n:
            raise PolymodeError(
                f"{title} needs at least {metric.min_n} rows on each side and there are {comparison.n}; "
                f"use more rows, or {metric.instead}"
            )
        module = importlib.import_module(f"polymode.evaluate.metrics.{metric.path}")
        return module.measure(comparison)
    except PolymodeError as error:
        return [Measurement.refused(title, comparison.n, metric.better, str(error))]
