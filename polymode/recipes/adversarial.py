"""Recipes of adversarial networks and of pictures given pictures."""

from __future__ import annotations

from polymode.recipes.base import Measure, Recipe

#: of emoji, those of most pictures
_GROUPS = ("Flags", "Food & Drink", "People & Body", "Smileys & Emotion", "Travel & Places")


def _enlarged(aim: float | None = None) -> tuple[Measure, ...]:
    """Pictures of 32 pixels from 16, beside bicubic enlargement, and as such that shrink back."""
    return (
        Measure("resolution", "PSNR over bicubic", aim=aim, better="higher"),
        Measure("resolution", "PSNR", better="higher"),
        Measure("resolution", "SSIM over bicubic", better="higher"),
        Measure("resolution", "consistency", options={"project": True}, aim=40.0, better="higher"),
    )


RECIPES: tuple[Recipe, ...] = (
    # every mode of the ring
    *(Recipe(f"{model}_8gaussians", model, "8gaussians", (
        Measure("modes", "modes hit", n=2000, aim=8, better="higher"),
        Measure("modes", "high quality", n=2000, aim=0.9, better="higher"),
    ), training={"steps": 2000, "validate_every": 0}, seeds=5, cost=cost)
      for model, cost in (("gan", "20 s, one core"), ("wgan_gp", "1 min, one core"))),
    # 25 modes far apart, of noise that is a mixture: what is made of one Gaussian is connected
    *(Recipe(f"{model}_25gaussians", model, "25gaussians", (
        Measure("modes", "modes hit", n=2000, aim=23, better="higher"),
        Measure("modes", "high quality", n=2000, aim=0.9, better="higher"),
    ), settings={"noise_components": 100, **more}, training={"steps": steps, "validate_every": 0}, seeds=5,
        cost="80 s, one core")
      for model, more, steps in (("gan", {"penalty_weight": 0.01}, 8000), ("wgan_gp", {}, 3000))),
    # five groups of emoji by name; truncation is to trade recall for precision
    Recipe("biggan_emoji", "biggan", "emoji", (
        Measure("recognised", n=500, aim=0.6, better="higher"),
        *(Measure("prdc", row, n=105, options={"truncation": psi}, better="higher")
          for psi in (0.3, 0.8, 2.0) for row in ("precision", "recall")),
        Measure("kid", n=500),
    ), reading={"groups": _GROUPS}, settings={"channels": 24, "latent_dims": 40, "shared": 32, "augment": "ada"},
        training={"steps": 2000, "batch_size": 32, "learning_rate": 6e-4, "validate_every": 0},
        cost="20 min, one core"),
    # pictures given pictures
    Recipe("pix2pix_emoji", "pix2pix", "emoji_lines", (
        Measure("translation", "L1 over copying", n=190, aim=0.7), Measure("translation", "L1", n=190),
        Measure("translation", "gap over copying", n=190),
    ), settings={"widths": (16, 32, 64), "channels": 24, "jitter": 2, "distance_weight": 300.0},
        training={"steps": 8000, "batch_size": 16, "learning_rate": 2e-3, "validate_every": 0},
        cost="10 min, one core"),
    # the same emoji is nearest by chance in one of 190
    Recipe("cyclegan_emoji", "cyclegan", "emoji_vendors", (
        Measure("translation", "own nearest", n=190, aim=3 / 190, better="higher"),
        Measure("translation", "cycle L1", n=190, aim=0.1), Measure("translation", "gap over copying", n=190),
        Measure("translation", "L1 over copying", n=190),
    ), settings={"width": 16, "blocks": 3, "channels": 24, "halvings": 1, "cycle_weight": 3.0},
        training={"steps": 2400, "batch_size": 8, "learning_rate": 1e-3, "validate_every": 0},
        cost="15 min, one core"),
    Recipe("srresnet_cifar", "srgan", "cifar10", _enlarged(aim=0.5), reading={"shrink": 2},
           settings={"width": 24, "blocks": 3, "adversarial_weight": 0.0},
           training={"steps": 5000, "batch_size": 16, "learning_rate": 2e-3, "validate_every": 0},
           cost="10 min, one core"),
    Recipe("srgan_cifar", "srgan", "cifar10", _enlarged(), reading={"shrink": 2},
           settings={"width": 24, "blocks": 3, "channels": 16},
           training={"steps": 5000, "batch_size": 16, "learning_rate": 1e-3, "validate_every": 0},
           cost="10 min, one core"),
    Recipe("stargan_emoji", "stargan", "emoji_styles", (
        Measure("recognised", n=500, aim=0.8, better="higher"), Measure("kid", n=500),
    ), settings={"width": 16, "blocks": 3, "channels": 24, "critic_steps": 2, "cycle_weight": 1.0, "class_weight": 2.0},
        training={"steps": 3000, "batch_size": 8, "learning_rate": 1e-3, "validate_every": 0},
        cost="15 min, one core"),
)  # fmt: skip
