"""A report shows what a model's codes hold, on every kind of data and for every kind of code."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.features import FeatureSpace
from polymode.evaluate.pictures import Picture, pictures_for
from tests.zoo import CONDITIONS, SPECS, conditions, data

pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n\x1a\n"


class Indexed(GenerativeModel, HasLatents):
    """Codes that are whole numbers, of two axes."""

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(x.flatten(1).sum(1))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, *self.spec.shape)

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return x.flatten(1).long().unsqueeze(-1)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return z.view(-1, *self.spec.shape)


def codes_of(model: GenerativeModel, spec: Spec, n: int = 40, kind: str | None = None) -> Picture | None:
    """The picture of codes of n test rows."""
    x, labels = data(spec, n), conditions(kind, n)
    split = Split(x, labels)
    found = DataSet("some", spec, split, split, split, None if kind is None else CONDITIONS[kind])
    space = FeatureSpace("flat", lambda x: x.flatten(1).double().nan_to_num(), spec.num_dims, "")
    reference = Reference(found, space, n=n, seed=0, limit=10)
    given = None if model.condition_spec is None else reference.condition
    comparison = Comparison(reference, x, model.eval(), condition=given)
    return next((p for p in pictures_for(comparison) if p.title == "Codes"), None)


@pytest.mark.parametrize("signature", pm.catalogue.find("vae").takes)
def test_every_kind_of_data_shows_its_codes(signature: str):
    spec = SPECS[signature]
    found = codes_of(pm.create("vae", spec, seed=0, latent_dims=3, hidden=(8,)), spec)
    assert found is not None
    assert "codes of 3 dimensions" in found.caption
    assert "of 3 dimensions are active" in found.caption
    plane = found.panels[-1]
    assert plane.label == "codes of test rows"
    assert plane.draw().startswith(PNG)
    assert len(found.panels) == {"image": 4, "tokens": 2}.get(spec.kind, 1)
    if spec.kind == "tokens":
        assert found.panels[0].text.count("data") == found.panels[0].text.count("code") == 4


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_sheets_are_whole_however_few_rows(n: int):
    from matplotlib.image import imread

    spec = SPECS["image/levels"]
    found = codes_of(pm.create("vae", spec, seed=0, latent_dims=2, hidden=(8,)), spec, n)
    assert found is not None
    sheets = [imread(io.BytesIO(p.draw())) for p in found.panels if p.pixels]
    across = min(8, n)
    assert sheets[0].shape[1] == across * 5 - 1
    assert np.all(sheets[0][:4, :4, 3] == 1)  # the first tile is opaque: 4 pixels and a gap
    if n > 1:
        assert sheets[1].shape[1] == 8 * 5 - 1
        assert sheets[2].shape[0] == 2 * 5 - 1  # both dimensions
        assert "dimensions" in found.panels[2].label


def test_labels_colour_the_plane_and_condition_the_decoder():
    spec = SPECS["image/levels"]
    plain = codes_of(pm.create("vae", spec, seed=0, latent_dims=2, hidden=(8,)), spec, kind="label")
    assert plain is not None
    assert plain.panels[-1].label == "codes of test rows, coloured by label"
    assert plain.panels[-1].draw().startswith(PNG)
    assert "condition" not in plain.caption
    given = codes_of(
        pm.create("vae", spec, CONDITIONS["label"], seed=0, latent_dims=2, hidden=(8,)), spec, kind="label"
    )
    assert given is not None
    assert "under the condition" in given.caption


def test_flows_machines_and_indices_show_what_they_can():
    spec = SPECS["image/levels"]
    for name in ("realnvp", "rbm"):
        found = codes_of(pm.create(name, spec, seed=0), spec)
        assert found is not None
        assert [p.pixels for p in found.panels] == [True, True, True, False]
        assert "active" not in found.caption.replace("the most active first", "")
    indices = codes_of(Indexed(spec), spec)
    assert indices is not None
    (panel,) = indices.panels
    assert panel.label == "each above its reconstruction"
    assert codes_of(Indexed(SPECS["vector/levels"]), SPECS["vector/levels"]) is None
    assert codes_of(pm.create("made", spec, seed=0, hidden=(8,)), spec) is None
