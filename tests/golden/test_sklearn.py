"""`polymode.sklearn.Density` keeps every rule that scikit-learn checks, and works where its users work."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import polymode as pm
from polymode.core.errors import PolymodeError
from polymode.sklearn import Density

SHORT = {"options": {"layers": 2, "hidden": (8,)}, "steps": 3}


def moons(n: int, seed: int = 0) -> np.ndarray:
    g = np.random.default_rng(seed)
    angle = np.pi * g.random(n)
    upper = g.random(n) < 0.5
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], 1) + 0.1 * g.standard_normal((n, 2))


@parametrize_with_checks([Density("realnvp", **SHORT), Density("gaussian"), Density("kde")])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", ["gaussian", "ppca", "histogram", "chow_liu"])
def test_directly_fitted_models_score_as_polymode_does(name: str):
    x = moons(300)
    fitted = Density(name, random_state=0).fit(x)
    assert fitted.score_samples(x).shape == (300,)
    assert fitted.score(x) == pytest.approx(fitted.score_samples(x).mean())
    assert fitted.sample(5, random_state=1).shape == (5, 2)
    np.testing.assert_array_equal(fitted.sample(5, random_state=1), fitted.sample(5, random_state=1))
    assert not np.array_equal(fitted.sample(5, random_state=1), fitted.sample(5, random_state=2))
    again = Density(name, random_state=0).fit(x)
    np.testing.assert_array_equal(fitted.score_samples(x), again.score_samples(x))


def test_a_kernel_density_scores_as_scikit_learns():
    x, grid = moons(200), moons(50, seed=1)
    x = (x - x.mean(0)) / x.std(0)
    fitted = Density("kde", options={"bandwidth": 0.3}).fit(x)
    expected = KernelDensity(bandwidth=0.3).fit(x).score_samples(grid)
    np.testing.assert_allclose(fitted.score_samples(grid), expected, rtol=1e-5, atol=1e-5)


def test_units_are_the_users():
    x = moons(400)
    a, b = Density("gmm", random_state=0).fit(x), Density("gmm", random_state=0).fit(1000 * x + 5)
    np.testing.assert_allclose(a.score_samples(x) - 2 * np.log(1000), b.score_samples(1000 * x + 5), atol=2e-2)


def test_a_pipeline_and_a_search_over_models():
    x = moons(300)
    pipe = make_pipeline(StandardScaler(), Density(random_state=0))
    name = "density"
    grid = [
        {f"{name}__model": ["gaussian", "kde"]},
        {f"{name}__model": ["gmm"], f"{name}__options": [{"components": k} for k in (2, 8)]},
    ]
    search = GridSearchCV(pipe, grid, cv=3).fit(x)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_params_[f"{name}__model"] in ("kde", "gmm")
    assert search.score(moons(200, seed=1)) > clone(pipe).set_params(density__model="gaussian").fit(x).score(
        moons(200, seed=1)
    )
    assert len(cross_val_score(Density("gaussian"), x, cv=4)) == 4


def test_a_flow_learns_and_is_copied_whole():
    import pandas as pd

    frame = pd.DataFrame(moons(400), columns=["a", "b"])
    flow = Density("realnvp", options={"layers": 4, "hidden": (32,)}, steps=150, random_state=0).fit(frame)
    assert list(flow.feature_names_in_) == ["a", "b"]
    assert flow.score(frame) > Density("gaussian").fit(frame).score(frame)
    for other in (pickle.loads(pickle.dumps(flow)), copy.deepcopy(flow)):
        np.testing.assert_array_equal(flow.score_samples(frame), other.score_samples(frame))
        np.testing.assert_array_equal(flow.sample(4, random_state=3), other.sample(4, random_state=3))
    untrained = clone(flow)
    assert untrained.get_params() == flow.get_params()
    assert not hasattr(untrained, "model_")


def test_models_that_do_not_fit_are_refused():
    x = moons(50)
    with pytest.raises(PolymodeError, match="did you mean"):
        Density("realnpv").fit(x)
    with pytest.raises(PolymodeError, match="no exact likelihood"):
        Density("vae").fit(x)
    with pytest.raises(PolymodeError, match="can't take"):
        Density("gpt").fit(x)
    with pytest.raises(PolymodeError, match="no option"):
        Density("gaussian", options={"layers": 3}).fit(x)
    assert pm.sklearn.Density is Density


def test_polymode_alone_does_not_import_scikit_learn():
    code = "import sys, polymode; polymode.create, polymode.fit; print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
