"""Recipes of diffusion, score and flow-matching models."""

from __future__ import annotations

from typing import Any

from polymode.recipes.base import Measure, Recipe

#: toys and the steps they take
_TOYS = {"8gaussians": 4000, "moons": 4000, "pinwheel": 4000, "checkerboard": 10_000}
_TRAINING: dict[str, Any] = {"batch_size": 256, "validate_every": 0}
#: of the ring also its modes, and samples of ten evaluations of the network beside those of a whole chain
_RING = (
    Measure("modes", "modes hit", n=2000, aim=8, better="higher"),
    Measure("modes", "high quality", n=2000, better="higher"),
    Measure("sliced_wasserstein", n=2000, options={"sampler": "unipc", "steps": 10, "between": (0.05, 20.0)}),
    Measure("sliced_wasserstein", n=2000, options={"sampler": "ancestral", "steps": 1000}),
)


def _toys(model: str) -> tuple[Recipe, ...]:
    """Nats from two-dimensional densities that are known, by the probability flow."""
    return tuple(
        Recipe(f"{model}_{toy}", model, toy, (
            Measure("density_kl", estimator="ode", aim=0.1), *(_RING if toy == "8gaussians" else ()),
        ), training=_TRAINING | {"steps": steps}, cost=f"{steps // 2000} min, one core")
        for toy, steps in _TOYS.items()
    )  # fmt: skip


def _few_steps(steps: int, aim: float) -> tuple[Measure, ...]:
    """What so many steps draw of a ring of modes."""
    told: dict[str, Any] = {"n": 2000, "options": {"steps": steps}, "better": "higher"}
    return Measure("modes", "modes hit", aim=8, **told), Measure("modes", "high quality", aim=aim, **told)


#: emoji as they are, with words
_COLOURED: dict[str, Any] = {"style": "noto", "colour": True, "keywords": 300}


def _drawn_from_words(**options: Any) -> tuple[Measure, ...]:
    """Pictures drawn from the words of test rows; a prompt is its own picture's nearest by chance in one of ten."""
    options = {"guidance_scale": 2.0, **options}
    return (
        Measure("prompts", n=1000, aim=0.3, better="higher", options=options), Measure("kid", n=1000, options=options),
    )  # fmt: skip


RECIPES: tuple[Recipe, ...] = (
    # two-dimensional densities that are known
    *_toys("ddpm"), *_toys("edm"), *_toys("flow_matching"), *_toys("score_sde"),
    # symbols, tables, series and codes
    Recipe("d3pm_shakespeare", "d3pm", "tinyshakespeare", (
        Measure(unit="nats/symbol", split="valid"),
        Measure("words", "known words of 3 letters or less", n=500, aim=0.9, better="higher",
                options={"method": "confidence", "steps": 64, "temperature": 0.8}),
    ), settings={"bound": "continuous", "likelihood_steps": 64}, reading={"length": 64}, training={"minutes": 10},
        cost="10 min, one core"),
    Recipe("d3pm_digits", "d3pm", "digits", (Measure(unit="bits/symbol", aim=2.6),), training={"steps": 2000},
           condition="none", cost="3 min, one core"),
    Recipe("dit_digits", "ddpm", "digits", (Measure(unit="bits/symbol", aim=2.5), Measure("kid", n=1000)),
           settings={"backbone": "dit"}, training={"steps": 2000, "learning_rate": 1e-3}, condition="none",
           cost="5 min, one core"),
    # pictures of a label: guidance makes them plainer and less varied
    Recipe("ddpm_digits", "ddpm", "digits", (
        *(Measure("recognised", n=1000, options={"guidance_scale": w}, aim=aim, better="higher")
          for w, aim in ((1.0, None), (2.0, 0.95), (3.0, 0.95), (5.0, None))),
        *(Measure("prdc", "recall", n=1000, options={"guidance_scale": w}, better="higher")
          for w in (1.0, 2.0, 3.0, 5.0)),
        Measure("kid", n=1000), Measure(unit="bits/symbol", aim=2.5),
    ), training={"steps": 3000}, condition="label", cost="5 min, one core"),
    # pictures: bounds and samples, after minutes where the papers have days of many accelerators
    Recipe("ddpm_fashion", "ddpm", "fashion_mnist", (
        Measure(unit="bits/symbol", rows=500), Measure("kid", n=1000), Measure("frechet", n=1000),
    ), training={"steps": 3000, "batch_size": 32, "learning_rate": 1e-3, "validate_every": 0}, condition="none",
        cost="10 min, one core"),
    *(Recipe(f"{model}_cifar10", model, "cifar10", (
        Measure(unit="bits/symbol", rows=100, estimator=estimator, published=bits, source=source),
        Measure("kid", n=1000), Measure("frechet", n=1000, published=fid, source=f"{source}, by Inception of 50,000"),
    ), training={"steps": 2500, "batch_size": 32, "learning_rate": 1e-3, "validate_every": 0}, condition="none",
        cost="10 min, one core")
      for model, estimator, bits, fid, source in (
          ("ddpm", "auto", 3.75, 3.17, "arXiv:2006.11239, table 1"),
          ("score_sde", "ode", 2.99, 2.20, "arXiv:2011.13456, tables 2 and 3"),
          ("vdm", "auto", 2.64, None, "google-research/vdm"),
          ("edm", "auto", None, 1.97, "arXiv:2206.00364, table 2"),
      )),
    Recipe("tab_ddpm_adult", "tab_ddpm", "adult", (
        Measure("tstr", "TSTR macro-F1", n=10_000, aim=0.77, better="higher", published=0.7951,
                source="tab-ddpm repository, exp/adult, by CatBoost"),
        Measure("tstr", "SMOTE macro-F1", n=10_000, better="higher"),
        Measure("tstr", "TRTR macro-F1", n=10_000, better="higher"),
        Measure("table_fidelity", n=10_000, better="higher"), Measure(),
    ), reading={"labels": "income"}, training={"minutes": 6}, cost="8 min, one core"),
    Recipe("edm_stock", "edm", "ts_google_stock", (Measure(), Measure("sliced_wasserstein", n=300)),
           training={"steps": 2000}, cost="3 min, one core"),
    Recipe("latent_diffusion_fashion", "latent_diffusion", "fashion_mnist", (
        Measure("kid", n=1000, options={"noise": False}), Measure(unit="bits/symbol"),
    ), training={"minutes": 12}, cost="15 min, one core"),
    Recipe("edm_emoji", "edm", "emoji_keywords", _drawn_from_words(),
           settings={"widths": (32, 64, 96), "condition_by": "attention", "drop": 0.1}, reading=_COLOURED,
           training={"steps": 8000, "batch_size": 32, "learning_rate": 1e-3, "validate_every": 0},
           cost="50 min, one core"),
    Recipe("latent_diffusion_emoji", "latent_diffusion", "emoji_keywords", _drawn_from_words(noise=False),
           settings={"width": 32, "blocks": 1,
                     "diffusion_options": {"widths": (64, 96), "condition_by": "attention", "drop": 0.1}},
           reading=_COLOURED, training={"steps": 12_000, "batch_size": 32, "validate_every": 0},
           cost="10 min, one core"),
    # a step or a few
    Recipe("rectified_flow_8gaussians", "rectified_flow", "8gaussians", _few_steps(1, 0.8),
           settings={"reflow_after": 2000}, training=_TRAINING | {"steps": 4000}, cost="4 min, one core"),
    Recipe("consistency_8gaussians", "consistency", "8gaussians", (*_few_steps(1, 0.7), *_few_steps(2, 0.8)),
           settings={"horizon": 3000}, training=_TRAINING | {"steps": 4000}, cost="4 min, one core"),
    # pictures of 32 pixels from 16: one step is the mean, which PSNR asks for, samples stand beside
    Recipe("sr3_cifar", "sr3", "cifar10", (
        Measure("resolution", "PSNR over bicubic", options={"sampler": "ddim", "steps": 1}, aim=0.5, better="higher"),
        Measure("resolution", "PSNR over bicubic", options={"sampler": "ddim", "steps": 20}, better="higher"),
        Measure("resolution", "consistency", options={"sampler": "ddim", "steps": 1, "project": True}, aim=40.0,
                better="higher"),
    ), settings={"widths": (32, 64)}, reading={"shrink": 2},
        training={"steps": 5000, "batch_size": 16, "learning_rate": 1e-3, "validate_every": 0},
        cost="10 min, one core"),
)  # fmt: skip
