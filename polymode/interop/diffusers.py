"""Pipelines of the diffusers library: a folder of a network and a schedule, read as a DDPM and written from one.

    here                              there
    backbone "unet2d"                 unet/config.json, diffusion_pytorch_model.safetensors: `UNet2DModel`, names alike
    schedule                          scheduler/scheduler_config.json: betas, linear or as they are (`trained_betas`)
    prediction eps, x0, v             prediction_type epsilon, sample, v_prediction
    step k of 1 .. T                  timestep k - 1
    levels 0 .. 255 as -1 .. 1        the same, after the pipeline's (x + 1) / 2

`load_diffusers` and `save_diffusers` hold the two directions, `_options` what a network is. Predictions are the same on
both sides, and so are samples of the same sampler from the same noise as long as predictions of x_0 are
clipped there too (clip_sample, the default). Conditional networks, other blocks and pickles are refused in a sentence.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from polymode.core import checkpoint
from polymode.core import spec as specs
from polymode.core.errors import CheckpointError, PolymodeError
from polymode.core.model import GenerativeModel

INDEX, UNET, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
#: what a network has to say, as their configuration spells it; another value is another function
FIXED: dict[str, Any] = {
    "center_input_sample": False, "time_embedding_type": "positional", "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1, "downsample_type": "conv", "upsample_type": "conv", "act_fn": "silu",
    "resnet_time_scale_shift": "default", "class_embed_type": None, "num_class_embeds": None,
    "attn_norm_num_groups": None, "time_embedding_dim": None,
}  # fmt: skip
DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")


def load_diffusers(folder: str | Path, *, likelihood_steps: int = 50) -> GenerativeModel:
    """The `DDPM` in a folder of a DDPMPipeline or DDIMPipeline, in evaluation mode.

    Args:
        folder: unet/ and scheduler/, as `save_pretrained` writes them.
        likelihood_steps: how many noises bounds and default samples visit.

    Raises:
        CheckpointError: files that are missing or damaged, or a network that the table does not know.
    """
    folder = Path(folder).expanduser()
    network, schedule = _json(folder / UNET), _json(folder / SCHEDULER)
    options, widths = _options(network, folder / UNET), tuple(network["block_out_channels"])
    betas = _betas(schedule, folder / SCHEDULER)
    said = schedule.get("prediction_type", "epsilon")
    if said not in PREDICTIONS:
        raise CheckpointError(f"{folder / SCHEDULER} predicts {said!r}, expected one of {', '.join(PREDICTIONS)}")
    side = network.get("sample_size")
    height, width = side if isinstance(side, list) else (side, side)
    if not height or not width:
        raise CheckpointError(f"{folder / UNET} says no sample_size; write the side of its pictures there")
    model = checkpoint.create(
        "ddpm", specs.image(network["in_channels"], height, width), prediction=PREDICTIONS[said], schedule=betas,
        steps=len(betas), likelihood_steps=min(likelihood_steps, len(betas)), backbone="unet2d", widths=widths,
        backbone_options=options | {"steps": len(betas)},
    )  # fmt: skip
    net: Any = model
    try:
        net.network.body.load_state_dict(_weights(folder))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder / WEIGHTS} does not fit {UNET}: {reason}") from None
    net.error.zero_()  # no running error is known: variances are the posteriors' ("fixed_small")
    return model.eval()


def save_diffusers(model: GenerativeModel, folder: str | Path) -> Path:
    """Write a `DDPM` so that ``diffusers.DDPMPipeline.from_pretrained(folder)`` reads it; returns the folder.

    Raises:
        PolymodeError: a model that is no unconditional DDPM of pictures with backbone="unet2d".
        CheckpointError: the folder can't be written.
    """
    from safetensors.torch import save_file

    folder, net = Path(folder).expanduser(), model
    arguments = model.arguments
    if checkpoint.name_of(type(model)) != "ddpm" or arguments.get("backbone") != "unet2d" or model.condition_spec:
        raise PolymodeError(
            f"a {type(model).__name__} came, and only an unconditional DDPM with backbone='unet2d' has the layout of "
            "diffusers; make and train one of that backbone"
        )
    body: Any = net.network.body  # type: ignore[union-attr]
    channels, height, width = model.spec.shape
    path: Any = net.path
    bar = path.alpha_bar
    scheduler = {
        "_class_name": "DDPMScheduler", "num_train_timesteps": path.steps, "beta_schedule": "linear",
        "trained_betas": (1 - bar[1:] / bar[:-1]).tolist(), "variance_type": "fixed_small", "clip_sample": True,
        "clip_sample_range": 1.0, "prediction_type": {v: k for k, v in PREDICTIONS.items()}[net.prediction],
    }  # fmt: skip
    index = {
        "_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }  # fmt: skip
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in body.state_dict().items()}
    own = _config(body) | {
        "in_channels": channels, "out_channels": channels, "sample_size": height if height == width else [height, width]
    }  # fmt: skip
    for part in ("unet", "scheduler"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomically(folder / WEIGHTS, lambda p: save_file(tensors, p, metadata={"format": "pt"}))
    for name, content in ((UNET, own), (SCHEDULER, scheduler), (INDEX, index)):
        text = json.dumps({"_diffusers_version": "0.30.0"} | content, indent=1)
        checkpoint.write_atomically(folder / name, lambda p, text=text: p.write_text(text, encoding="utf-8"))
    return folder


def _options(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of `parts.nn.unet2d.UNet2D` for their configuration."""
    other = [f"{k}={config[k]!r}" for k, v in FIXED.items() if config.get(k, v) != v]
    other += [f"{k}={config[k]!r}" for k in ("dropout",) if config.get(k)]
    down, up = config.get("down_block_types", ()), config.get("up_block_types", ())
    other += [repr(kind) for kind in down if kind not in DOWN] + [repr(kind) for kind in up if kind not in UP]
    if config.get("in_channels") != config.get("out_channels"):
        other.append(f"out_channels={config.get('out_channels')} for in_channels={config.get('in_channels')}")
    if other:
        raise CheckpointError(f"{path} says {', '.join(other)}, which is a network that can't be read; see the table")
    return {
        "layers": config.get("layers_per_block", 2), "attends": [k == DOWN[1] for k in down],
        "attends_up": [k == UP[1] for k in up], "head_dims": config.get("attention_head_dim", 8),
        "groups": config.get("norm_num_groups", 32), "eps": config.get("norm_eps", 1e-5),
        "flip": config.get("flip_sin_to_cos", True), "shift": config.get("freq_shift", 0),
        "padding": config.get("downsample_padding", 1), "middle": config.get("add_attention", True),
    }  # fmt: skip


def _config(body: Any) -> dict[str, Any]:
    """Their configuration of a network of ours."""
    levels, widths = list(body.down_blocks), [block.resnets[0].conv1.out_channels for block in body.down_blocks]
    attended = [a for b in (*levels, *body.up_blocks) if b.attends for a in b.attentions]
    attended += body.mid_block.attentions
    dims = {a.to_q.out_features // a.heads for a in attended}
    strided = [block.downsamplers[0].conv for block in levels[:-1]]
    return FIXED | {
        "_class_name": "UNet2DModel", "block_out_channels": widths, "layers_per_block": len(levels[0].resnets),
        "down_block_types": [DOWN[block.attends] for block in levels],
        "up_block_types": [UP[block.attends] for block in body.up_blocks],
        # one head a level has a size of its own at each
        "attention_head_dim": dims.pop() if len(dims) == 1 else None, "dropout": 0.0,
        "norm_num_groups": body.conv_norm_out.num_groups, "norm_eps": body.conv_norm_out.eps,
        "flip_sin_to_cos": body.flip, "freq_shift": body.shift,
        "downsample_padding": strided[0].padding[0] if strided else 1,
        "add_attention": len(body.mid_block.attentions) > 0,
    }  # fmt: skip


def _betas(config: dict[str, Any], path: Path) -> list[float]:
    """Their betas, one a step."""
    if config.get("trained_betas") is not None:
        return [float(b) for b in config["trained_betas"]]
    n, first, last = (
        config.get(k, d) for k, d in (("num_train_timesteps", 1000), ("beta_start", 1e-4), ("beta_end", 0.02))
    )
    share = [k / (n - 1) for k in range(n)]
    match config.get("beta_schedule", "linear"):
        case "linear":
            return [first + s * (last - first) for s in share]
        case "scaled_linear":
            return [(math.sqrt(first) + s * (math.sqrt(last) - math.sqrt(first))) ** 2 for s in share]
        case "squaredcos_cap_v2":
            bar = [math.cos((k / n + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(n + 1)]
            return [min(1 - b / a, 0.999) for a, b in pairwise(bar)]
        case other:
            raise CheckpointError(f"{path} has beta_schedule={other!r}, expected linear, scaled_linear or "
                                  "squaredcos_cap_v2")  # fmt: skip


def _weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        if (pickled := path.with_suffix(".bin")).is_file():
            raise CheckpointError(
                f"{pickled} is a pickle, which may run any code when it is read, and is never loaded; save the "
                "pipeline again with safe_serialization=True"
            )
        raise CheckpointError(f"{folder} has no {WEIGHTS}; give the folder that save_pretrained wrote")
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); get it again") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no {path}; give the folder that a pipeline's save_pretrained wrote")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, expected a configuration; restore it")
    return found
