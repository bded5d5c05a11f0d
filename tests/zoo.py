"""What generic tests run over: every catalogue row on every kind of data it takes, small and fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode import catalogue
from polymode.core.capabilities import FitsDirectly
from polymode.core.checkpoint import create
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.model import GenerativeModel

COLUMNS = (
    specs.Numeric("age", 0.0, 9.0, 4.5, 2.0, step=1.0),
    specs.Categorical("colour", ("red", "green", "blue")),
    specs.Numeric("height", -3.0, 3.0, 0.0, 1.0),
)
SPECS: dict[str, specs.Spec] = {
    "vector/real": specs.vector(2, loc=(1.0, -2.0), scale=(2.0, 0.5)),
    "vector/binary": specs.Spec("vector", (4,), specs.Binary()),
    "vector/levels": specs.Spec("vector", (3,), specs.Levels(4)),
    "image/binary": specs.image(1, 4, 4, levels=2),
    "image/levels": specs.image(1, 4, 4, levels=5),
    "image/real": specs.Spec("image", (2, 4, 4), specs.Real()),
    "series/real": specs.Spec("series", (3, 2), specs.Real((1.0, -2.0) * 3, (2.0, 0.5) * 3)),
    "series/binary": specs.Spec("series", (2, 2), specs.Binary()),
    "tokens": specs.tokens(4, 3),
    "grid/tokens": specs.Spec("grid", (2, 2), specs.Tokens(3)),
    "waveform/levels": specs.Spec("waveform", (6,), specs.Levels(4), {"sample_rate": 8000}),
    "table": specs.table(COLUMNS),
}
#: a small prior of codes, and small codes
PRIOR: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}
CODED = {"codes": 5, "code_dims": 3, "width": 8, "blocks": 1, "halvings": 1, "prior_options": PRIOR}
#: a small diffusion model of codes
CHAIN: dict[str, Any] = {"widths": (16, 16), "likelihood_steps": 4}
#: constructor arguments that make a model small; a model without a row here is tested with its defaults
SMALL: dict[str, dict[str, Any]] = {
    "gan": {"hidden": (32, 32), "latent_dims": 4},
    "lsgan": {"hidden": (32, 32), "latent_dims": 4},
    # a constant that is added to all of a critic's scores moves nothing, and has no gradient
    "wgan": {"hidden": (32, 32), "latent_dims": 4, "objective": "non-saturating"},
    "wgan_gp": {"hidden": (32, 32), "latent_dims": 4, "objective": "non-saturating"},
    "dragan": {"hidden": (32, 32), "latent_dims": 4},
    "sngan": {"hidden": (32, 32), "latent_dims": 4, "objective": "non-saturating"},
    "pacgan": {"hidden": (32, 32), "latent_dims": 4},
    "unrolled_gan": {"hidden": (32, 32), "latent_dims": 4},
    "improved_gan": {"hidden": (32, 32), "latent_dims": 4},
    "dcgan": {"channels": 4, "latent_dims": 4},
    "infogan": {"hidden": (32, 32), "latent_dims": 4, "categories": (3,)},
    "acgan": {"hidden": (32, 32), "latent_dims": 4},
    "bigan": {"hidden": (32, 32), "latent_dims": 4},
    "aae": {"latent_dims": 3, "hidden": (32,), "judge": (16,)},
    "sagan": {"channels": 8, "latent_dims": 4, "shared": 4},
    # a hinge does not move the last bias while all scores are within its margins
    "biggan": {"channels": 8, "latent_dims": 4, "shared": 4, "objective": "non-saturating"},
    "stylegan": {"channels": 8, "latent_dims": 4, "style_dims": 8, "mapping_layers": 2},
    "stylegan2": {"channels": 8, "latent_dims": 4, "style_dims": 8, "mapping_layers": 2},
    "pix2pix": {"widths": (8, 8), "channels": 8, "noise_dims": 4},
    "cyclegan": {"width": 8, "blocks": 1, "channels": 8, "pool": 8},
    "srgan": {"width": 8, "blocks": 1, "channels": 4},
    "stargan": {"width": 8, "blocks": 1, "channels": 8},
    "ddpm": {"widths": (16, 16), "likelihood_steps": 8},
    "sohl_dickstein": {"widths": (16, 16), "steps": 8},
    "improved_ddpm": {"widths": (16, 16), "likelihood_steps": 8},
    "ncsn": {"widths": (16, 16), "least": 0.05, "most": 5.0, "levels": 6, "langevin_steps": 5},
    "score_sde": {"widths": (16, 16), "likelihood_steps": 8},
    "vdm": {"widths": (16, 16), "likelihood_steps": 8},
    "edm": {"widths": (16, 16), "likelihood_steps": 8},
    "flow_matching": {"widths": (16, 16), "likelihood_steps": 8},
    "rectified_flow": {"widths": (16, 16), "likelihood_steps": 8, "reflow_after": 300, "pair_steps": 4},
    "consistency": {"widths": (16, 16), "most_levels": 40, "horizon": 300},
    "sr3": {"widths": (16, 16), "likelihood_steps": 8, "drop": 0.1},
    "grbm": {"hidden": 6, "chains": 20},
    "ssrbm": {"hidden": 6, "chains": 20},
    "discriminative_rbm": {"hidden": 6, "chains": 20},
    "d3pm": {"widths": (16, 16), "likelihood_steps": 4},
    "tab_ddpm": {"widths": (16, 16), "likelihood_steps": 8},
    "boltzmann": {"hidden": 4, "chains": 20},
    "structured_boltzmann": {"chains": 20},
    "conv_rbm": {"filters": 3, "kernel": 2, "chains": 20},
    "cdbn": {"filters": (4, 6), "kernel": (2, 2), "pool": (1, 2), "chains": 20},
    "ebm": {"hidden": (16, 16), "chains": 64, "chain_steps": 3},
    "dbn": {"hidden": (8, 6), "chains": 16},
    "dbm": {"hidden": (8, 6), "chains": 16, "pretrain": "pairs", "k": 1},
    # the class of the tests' tokens is in a place of theirs
    "multimodal_rbm": {"hidden": 8, "chains": 16, "tokens_as": "places"},
    "multimodal_dbm": {"hidden": 8, "joint": 6, "hidden_condition": 6, "chains": 16, "tokens_as": "places"},
    "short_run": {"hidden": (16, 16), "chain_steps": 30},
    "nce": {"hidden": (16, 16), "noise_samples": 2, "sample_steps": 10},
    "score_matching": {"hidden": (32, 32), "sample_steps": 30, "sigma": 0.3},
    "jem": {"hidden": (16, 16), "chains": 64, "chain_steps": 3},
    "made": {"hidden": (24, 24), "components": 3},
    "chow_liu": {"bins": 6},
    "hmm": {"states": 3, "max_iterations": 10},
    "nade": {"hidden": 16},
    "ngram": {"order": 3},
    "gru": {"embed": 8, "hidden": 16},
    "gpt": {"width": 16, "layers": 2, "heads": 2},
    "gpt2": {"width": 16, "layers": 2, "heads": 2},
    "bert": {"width": 16, "layers": 2, "heads": 2},
    "transformer": {"width": 16, "layers": 2, "heads": 2},
    "rnn_nade": {"width": 12, "hidden": 8},
    "pixelcnn": {"width": 12, "layers": 3, "first_kernel": 3},
    "pixelrnn": {"width": 12, "layers": 1, "first_kernel": 3},
    "image_transformer": {"width": 16, "layers": 2, "heads": 2, "block": 6},
    "sbn": {"hidden": (8, 6)},
    "darn": {"latents": 6, "encoder": (8,)},
    "realnvp": {"layers": 3, "hidden": (16, 16)},
    "maf": {"layers": 2, "hidden": (16, 16)},
    "iaf": {"layers": 2, "hidden": (16, 16)},
    "nsf": {"layers": 3, "hidden": (16, 16), "bins": 5},
    "nice": {"hidden": (16, 16)},
    "glow": {"layers": 2, "width": 16},
    "residual": {"layers": 3, "hidden": (16,), "exact_dims": 2},
    "ffjord": {"hidden": (16, 16), "exact_dims": 2, "method": "rk4", "steps": 6},
    "planar": {"layers": 8, "width": 8},
    "wavenet": {"channels": 8, "skip": 8, "layers": 2},
    "vae": {"latent_dims": 3, "hidden": (32,)},
    "factor_vae": {"latent_dims": 3, "hidden": (32,), "discriminator": (16,)},
    "beta_tcvae": {"latent_dims": 3, "hidden": (32,), "data_rows": 64},
    "ladder": {"latent_dims": (3, 2), "hidden": (16, 12), "anneal": 0},
    "vdvae": {"blocks": (1, 1), "latent_dims": 2, "width": 8, "middle": 4},
    "pixelvae": {"latent_dims": 3, "hidden": (8,), "width": 8, "layers": 2, "first_kernel": 3},
    "vqvae": CODED,
    # `drop`, so that the prior's vector for withheld sources learns too
    # of one top code alone, attention would have nothing to choose from
    "vqvae2": CODED | {"halvings": 0, "bottom_prior_options": PRIOR | {"drop": 0.3}},
    "latent_diffusion": {"latent_channels": 2, "width": 8, "blocks": 1, "diffusion_options": CHAIN},
    "m2": {"latent_dims": 3, "hidden": (16,)},
    # one component: mixtures tell a toy's classes apart without a code
    "m1_m2": {"features": 2, "latent_dims": 3, "hidden": (64,), "hidden_m2": (32,), "components": 1},
    "vae_gan": {"latent_dims": 4, "hidden": (8,), "channels": 8},
    "dae": {"latent_dims": 8, "hidden": (16,)},
    "gsn": {"hidden": (16, 12, 8), "walkback": 4},
    "mae": {"width": 16, "layers": 2, "decoder_width": 16, "decoder_layers": 1, "heads": 2, "patch": 2},
    "crbm": {"hidden": 8, "chains": 16},
    "temporal_crbm": {"hidden": 6, "order": 2, "k": 2},
    "trbm": {"hidden": 4, "k": 2},
    "rtrbm": {"hidden": 6, "k": 2},
    "rnn_rbm": {"hidden": 6, "width": 12, "k": 2},
    "bayes_net": {"edges": ((0, 1),), "hidden": (16,)},
    "sequence_vae": {"latent_dims": 3, "embed": 8, "hidden": 16},
    "dmm": {"latent_dims": 3, "width": 12, "transition": 8, "emission": 12},
}
CONDITIONS: dict[str, ConditionSpec] = {
    "label": ConditionSpec(label=2),
    "vector": ConditionSpec(vector=3),
    "tokens": ConditionSpec(tokens=(4, 5)),
    "series": ConditionSpec(series=(3, 2)),
    "image": ConditionSpec(image=(1, 4, 4, 5)),
}


def always(row: catalogue.Row) -> str | None:
    """The condition that a model is nothing without, None for most models."""
    return row.conditions[0] if row.needs_condition else None


@dataclass(frozen=True)
class Case:
    """One model on one kind of data, perhaps conditioned."""

    name: str
    signature: str
    condition: str | None = None

    def __str__(self) -> str:
        return "-".join(filter(None, (self.name, self.signature.replace("/", "."), self.condition)))

    @property
    def spec(self) -> specs.Spec:
        return SPECS[self.signature]

    @property
    def condition_spec(self) -> ConditionSpec | None:
        return None if self.condition is None else CONDITIONS[self.condition]

    def build(self, seed: int = 0, **arguments: Any) -> GenerativeModel:
        return create(self.name, self.spec, self.condition_spec, seed=seed, **(SMALL.get(self.name, {}) | arguments))

    def ready(self, seed: int = 0, n: int = 64) -> GenerativeModel:
        """A model that has seen data once: direct fits done, data-dependent initialisation done."""
        model = self.build(seed)
        x, condition = data(self.spec, n), conditions(self.condition, n)
        g = torch.Generator().manual_seed(seed)
        if isinstance(model, FitsDirectly):
            model.fit_directly(x, condition, generator=g)
        else:
            model.prepare(x, condition, g)
        return model.eval()


ROWS = [row.name for row in catalogue.MODELS]
CASES = [Case(row.name, s, always(row)) for row in catalogue.MODELS for s in row.takes]
CONDITIONAL = [Case(row.name, row.takes[0], c) for row in catalogue.MODELS for c in row.conditions]


#: another model with other defaults and no code of its own
VARIANTS = {"lsgan", "wgan", "wgan_gp", "dragan", "sngan", "pacgan", "unrolled_gan", "improved_gan", "dcgan"}


#: kinds of data beside its first that a model is tested on in the default suite; `make test-slow` takes all
OTHER_KINDS = 1


def over(cases: list[Case]) -> Any:
    """Parametrise a test over cases; what is left to the slow suite is marked, see `is_slow`."""
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=str(case), marks=[pytest.mark.slow] if is_slow(case) else []) for case in cases]
    )


def is_slow(case: Case) -> bool:
    """Whether a case is left to the slow suite: conditions beyond a model's first, and most kinds of data beyond its
    first, others for each model, so that every kind is in the default suite with some model of each family."""
    row = catalogue.find(case.name)
    if case.condition is not None and case.condition != row.conditions[0]:
        return True
    others = row.takes[1:]
    if case.signature not in others:
        return False
    place = (others.index(case.signature) - 2 * ROWS.index(case.name)) % len(others)
    return case.name in VARIANTS or place >= OTHER_KINDS


def data(spec: specs.Spec, n: int, seed: int = 0) -> Tensor:
    """n rows of some non-uniform, dependent data of a spec."""
    g = torch.Generator().manual_seed(seed)
    d = spec.num_dims
    z = torch.randn(n, 1, generator=g) + 0.5 * torch.randn(n, d, generator=g)  # (n, D), correlated
    if isinstance(spec.support, specs.Columns):
        age = (z[:, 0] * 2 + 4.5).round().clamp(0, 9)
        colour = (z[:, 1] > 0).long() + (z[:, 1] > 1).long()
        return torch.stack([age, colour.float(), z[:, 2].clamp(-3, 3)], 1).double()
    if spec.levels is None:
        loc, scale = torch.tensor(spec.support.loc), torch.tensor(spec.support.scale)
        return (z * scale + loc).float().view(n, *spec.shape)
    return (z.sigmoid() * spec.levels).floor().clamp(0, spec.levels - 1).to(spec.dtype).view(n, *spec.shape)


def conditions(kind: str | None, n: int, seed: int = 1) -> Condition | None:
    """n random conditions of a kind."""
    g = torch.Generator().manual_seed(seed)
    match kind:
        case "label":
            return Condition(label=torch.randint(2, (n,), generator=g))
        case "vector":
            return Condition(vector=torch.randn(n, 3, generator=g))
        case "tokens":
            return Condition(tokens=torch.randint(4, (n, 5), generator=g))
        case "series":
            return Condition(series=torch.randn(n, 3, 2, generator=g))
        case "image":
            return Condition(image=data(SPECS["image/levels"], n, seed))
        case _:
            return None
