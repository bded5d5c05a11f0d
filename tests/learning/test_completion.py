"""Half of a digit is hidden and drawn again by three families through one verb: what an independent classifier makes of
the result. Numbers are printed: pytest tests/learning/test_completion.py -m "slow or not slow" -rP.

Half a digit does not tell all of it: a draw from a classifier's p(y | half) is right for about 83 % of top halves and
87 % of left ones, which is what a perfect model would reach.
"""

from __future__ import annotations

import pytest

import polymode as pm
from polymode.evaluate.metrics.recognised import classifier_of
from polymode.evaluate.statistics import mean_interval
from polymode.tasks.completion import completions, known_part

#: draws of each test digit
EACH = 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "training", "part", "options"),
    [
        # a raster order can be given the top only
        ("pixelcnn", {}, {"steps": 1500}, "top", {"temperature": 0.5}),
        ("ddpm", {}, {"steps": 4000, "learning_rate": 1e-3}, "right", {"resamplings": 20}),
        ("rbm", {"hidden": 512}, {"steps": 20_000, "validate_every": 0}, "right", {}),
    ],
    ids=["autoregressive", "RePaint", "energy"],
)
def test_half_a_digit_is_completed_to_what_it_was(name, settings, training, part, options):
    data = pm.data.load("digits")
    classify, how = classifier_of(data)
    model = pm.create(name, data.spec, seed=0, **settings)
    pm.fit(model, data, seed=0, **training)
    known, labels = known_part(data.spec, part), data.test.condition.label.unsqueeze(1)
    filled = completions(model.eval(), data.test.x, known, each=EACH, seed=0, **options)
    right = (classify(filled.flatten(0, 1)).argmax(1).view(-1, EACH) == labels).double()
    value, low, high = mean_interval(right.mean(1))
    print(f"{name}, {part} known: {value:.3f} ({low:.3f} to {high:.3f}) of {len(labels)} recognised; {how}")
    assert bool((filled == data.test.x.unsqueeze(1))[:, :, known].all())
    assert value >= 0.8
