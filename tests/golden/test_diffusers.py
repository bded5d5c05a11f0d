"""diffusers: networks and schedules go both ways with the same predictions and samples; samplers are step for step
those of its schedulers, on the same tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.errors import CheckpointError, PolymodeError
from polymode.parts.samplers import diffusion as samplers

diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install diffusers")

T = 1000
TINY = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4, "attention_head_dim": 8,
}  # fmt: skip
#: networks as they are shared: the defaults, and those of the first published checkpoints
KINDS = {
    "default": {},
    "published": {
        "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
        "norm_eps": 1e-6,
        "layers_per_block": 2, "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pipeline(kind: str = "default", **schedule):
    """A random network, every part of which matters, with a schedule."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(**(TINY | KINDS[kind])).eval()
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return diffusers.DDPMPipeline(unet=network, scheduler=diffusers.DDPMScheduler(**schedule))


# -- networks and schedules --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_their_network_predicts_the_same_here(kind, tmp_path):
    theirs = pipeline(kind)
    theirs.save_pretrained(tmp_path)
    ours = pm.load_diffusers(tmp_path)
    x, k = torch.randn(3, 3, 8, 8, generator=generator()), torch.tensor([0, 417, 999])
    with torch.no_grad():
        expected = theirs.unet(x, k).sample
        found = ours.network(x.flatten(1), (k + 1) / T).view(x.shape)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("said", ["epsilon", "sample", "v_prediction"])
def test_their_schedule_is_the_same_here(schedule, said, tmp_path):
    theirs = pipeline(beta_schedule=schedule, prediction_type=said)
    theirs.save_pretrained(tmp_path)
    ours = pm.load_diffusers(tmp_path)
    torch.testing.assert_close(ours.path.alpha_bar[1:], theirs.scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-7)
    assert ours.prediction == {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[said]


def test_samples_are_the_same_on_both_sides(tmp_path):
    """50 steps of DDIM at the timesteps that the model visits, from one noise."""
    theirs = pipeline()
    theirs.save_pretrained(tmp_path)
    ours = pm.load_diffusers(tmp_path)
    steps = [round(T * ours.path.time(r)) - 1 for r in ours.levels(50)]
    scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config)
    x = torch.randn(4, 3 * 64, generator=generator(7)).view(4, 3, 8, 8)
    with torch.no_grad():
        for t, s in zip(steps, [*steps[1:], -1], strict=True):
            said = theirs.unet(x, t).sample
            a, before = scheduler.alphas_cumprod[t], 1.0 if s < 0 else scheduler.alphas_cumprod[s]
            x0 = ((x - (1 - a) ** 0.5 * said) / a**0.5).clamp(-1, 1)
            x = before**0.5 * x0 + (1 - before) ** 0.5 * (x - a**0.5 * x0) / (1 - a) ** 0.5
    expected = ((x / 2 + 0.5) * 255).round().clamp(0, 255)
    found = ours.sample(4, sampler="ddim", generator=generator(7)).float()
    assert (found - expected).abs().max() <= 1  # a level, where rounding falls the other way
    assert (found == expected).float().mean() > 0.99


def test_the_pipeline_itself_draws_the_same(tmp_path):
    """20 of 20 ancestral steps, with the noise of one generator on both sides."""
    theirs = pipeline(num_train_timesteps=20, beta_start=0.005, beta_end=0.6)
    theirs.save_pretrained(tmp_path)
    ours = pm.load_diffusers(tmp_path, likelihood_steps=20)
    assert len(ours.levels(20)) == 20
    theirs.set_progress_bar_config(disable=True)
    drawn = theirs(batch_size=2, num_inference_steps=20, generator=generator(3), output_type="np").images
    expected = torch.from_numpy(drawn).permute(0, 3, 1, 2)  # in [0, 1]
    z, levels = torch.randn(2, 3, 8, 8, generator=generator(3)), ours.levels(20)
    denoise = ours.denoiser(None)
    g = generator(3)
    torch.randn(2, 3, 8, 8, generator=g)  # what the pipeline began from
    with torch.no_grad():
        start = (1 + levels[0] ** 2) ** 0.5 * z.flatten(1)
        x0 = samplers.ancestral(denoise, start, levels, g).view(2, 3, 8, 8)
    torch.testing.assert_close((x0 / 2 + 0.5).clamp(0, 1), expected.float(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_our_model_is_a_pipeline_there(prediction, tmp_path):
    model = pm.create(
        "ddpm", specs.image(1, 8, 8), seed=0, backbone="unet2d", widths=(8, 16), prediction=prediction, steps=200
    ).eval()
    for p in model.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator(1))
    theirs = diffusers.DDPMPipeline.from_pretrained(pm.save_diffusers(model, tmp_path / "out"))
    x, k = torch.randn(3, 1, 8, 8, generator=generator()), torch.tensor([0, 100, 199])
    with torch.no_grad():
        found = model.network(x.flatten(1), (k + 1) / 200).view(x.shape)
        torch.testing.assert_close(theirs.unet(x, k).sample, found, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs.scheduler.alphas_cumprod.double(), model.path.alpha_bar[1:], rtol=1e-4, atol=1e-7)
    again = pm.load_diffusers(tmp_path / "out")
    for name, value in again.network.body.state_dict().items():
        assert torch.equal(value, model.network.body.state_dict()[name]), name
    assert torch.equal(
        model.sample(2, seed=0, sampler="ddim", steps=5), again.sample(2, seed=0, sampler="ddim", steps=5)
    )


def test_what_can_not_be_read_or_written_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no"):
        pm.load_diffusers(tmp_path / "nowhere")
    pipeline().save_pretrained(tmp_path)
    path = tmp_path / "unet" / "config.json"
    config = json.loads(path.read_text())
    for change in ({"resnet_time_scale_shift": "scale_shift"}, {"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]},
                   {"num_class_embeds": 10}):  # fmt: skip
        path.write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match="which is a network that can't be read"):
            pm.load_diffusers(tmp_path)
    path.write_text(json.dumps(config))
    weights = Path(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="never loaded"):
        pm.load_diffusers(tmp_path)
    with pytest.raises(PolymodeError, match="only an unconditional DDPM"):
        pm.save_diffusers(pm.create("ddpm", specs.image(1, 8, 8), widths=(8,)), tmp_path / "out")


# -- steps -------------------------------------------------------------------------------------------------------------
MEAN, SD = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([0.8, 0.3], dtype=torch.float64)


def denoise(z: Tensor, r: float) -> Tensor:
    """E[x_0 | z] of N(MEAN, SD^2), a network that depends on its input."""
    return MEAN + SD**2 / (SD**2 + r**2) * (z - MEAN)


def start(levels: list[float]) -> Tensor:
    return levels[0] * torch.randn(16, 2, generator=generator(), dtype=torch.float64)


def walked(scheduler, x: Tensor, scale, timesteps=None, sampling_generator=None) -> Tensor:
    """Their loop with our denoiser; `scale(t)` is (a, s) of a timestep where x = a x_0 + s eps."""
    for t in scheduler.timesteps if timesteps is None else timesteps:
        a, s = scale(t)
        x0 = denoise(x / a, s / a)
        eps = (x - a * x0) / s
        options = {} if sampling_generator is None else {"generator": sampling_generator}
        x = scheduler.step(eps, t, x, **options).prev_sample
    return x


def of_alphas(scheduler):
    bar = scheduler.alphas_cumprod.double()

    def scale(t) -> tuple[float, float]:
        return float(bar[int(t)]) ** 0.5, float(1 - bar[int(t)]) ** 0.5

    return scale


def ratios(scheduler) -> list[float]:
    """Noise ratios of their timesteps."""
    return [s / a for a, s in map(of_alphas(scheduler), scheduler.timesteps)]


OPTIONS = {"num_train_timesteps": T, "beta_schedule": "linear"}


def test_ddim_is_theirs():
    scheduler = diffusers.DDIMScheduler(**OPTIONS, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(25)
    levels = ratios(scheduler)
    a, _ = of_alphas(scheduler)(scheduler.timesteps[0])
    expected = walked(scheduler, a * start(levels), of_alphas(scheduler))
    # their last step goes to the ratio 0, where x is the last prediction
    torch.testing.assert_close(samplers.ddim(denoise, start(levels), levels, generator()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise_is_theirs(eta):
    scheduler = diffusers.DDIMScheduler(**OPTIONS, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    levels, scale, g = ratios(scheduler), of_alphas(scheduler), generator(2)
    x = scale(scheduler.timesteps[0])[0] * start(levels)
    for i, t in enumerate(scheduler.timesteps):
        a, s = scale(t)
        eps = (x - a * denoise(x / a, s / a)) / s
        # at ratio 0 there is no noise to add, and none is drawn here
        noise = torch.randn(x.shape, generator=g, dtype=x.dtype) if i < len(levels) - 1 else torch.zeros_like(x)
        x = scheduler.step(eps, t, x, eta=eta, variance_noise=noise).prev_sample
    torch.testing.assert_close(
        samplers.ddim(denoise, start(levels), levels, generator(2), eta=eta), x, rtol=0, atol=1e-5
    )


def test_the_ancestral_chain_is_ddpm():
    scheduler = diffusers.DDPMScheduler(**OPTIONS, clip_sample=False, variance_type="fixed_small")
    scheduler.set_timesteps(50)
    levels = ratios(scheduler)
    a, _ = of_alphas(scheduler)(scheduler.timesteps[0])
    expected = walked(scheduler, a * start(levels), of_alphas(scheduler), sampling_generator=generator(4))
    found = samplers.ancestral(denoise, start(levels), levels, generator(4))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize("karras", [False, True])
def test_euler_and_heun_are_theirs(name, karras):
    kind = diffusers.EulerDiscreteScheduler if name == "euler" else diffusers.HeunDiscreteScheduler
    scheduler = kind(**OPTIONS, use_karras_sigmas=karras)
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    levels = list(dict.fromkeys(sigmas[:-1].tolist()))  # heun's are repeated
    x = start(levels)
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        sigma = float(sigmas[i])
        torch.testing.assert_close(scaled, x / (sigma**2 + 1) ** 0.5, rtol=1e-5, atol=1e-5)
        x = scheduler.step((x - denoise(x, sigma)) / sigma, t, x).prev_sample
    found = samplers.run(name, denoise, start(levels), levels, generator())
    torch.testing.assert_close(found, x.double(), rtol=0, atol=1e-5 if name == "heun" else 1e-4)


def multistep(kind, steps: int, **options):
    """(their scheduler, our ratios) of a solver in (alpha, sigma), whose steps are of full order to the end."""
    scheduler = kind(**OPTIONS, lower_order_final=False, final_sigmas_type="zero", **options)
    scheduler.set_timesteps(steps)
    return scheduler, scheduler.sigmas.double()[:-1].tolist()


def predictions(scheduler, levels: list[float], g: torch.Generator | None = None) -> list[Tensor]:
    """What our denoiser says at each step of theirs but the last, to the ratio 0, and at the level it begins from."""
    said, x = [], start(levels) * (1 + levels[0] ** 2) ** -0.5
    for i, t in enumerate(scheduler.timesteps):
        a = (1 + levels[i] ** 2) ** -0.5
        said.append(denoise(x / a, levels[i]))
        if i < len(levels) - 1:
            more = {} if g is None else {"variance_noise": torch.randn(x.shape, generator=g, dtype=x.dtype)}
            x = scheduler.step((x - a * said[-1]) / (levels[i] * a), t, x, **more).prev_sample
    return said


def test_dpmpp_2m_is_theirs():
    scheduler, levels = multistep(
        diffusers.DPMSolverMultistepScheduler, 15, algorithm_type="dpmsolver++", solver_order=2
    )
    found = samplers.dpmpp_2m(denoise, start(levels), levels, generator())
    torch.testing.assert_close(found, predictions(scheduler, levels)[-1], rtol=0, atol=1e-5)


def test_dpmpp_sde_is_theirs():
    scheduler, levels = multistep(
        diffusers.DPMSolverMultistepScheduler, 15, algorithm_type="sde-dpmsolver++", solver_order=2
    )
    found = samplers.dpmpp_sde(denoise, start(levels), levels, generator(6))
    torch.testing.assert_close(found, predictions(scheduler, levels, generator(6))[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_theirs(order):
    scheduler, levels = multistep(diffusers.UniPCMultistepScheduler, 15, solver_order=order, solver_type="bh2")
    said: list[Tensor] = []

    def recorded(z: Tensor, r: float) -> Tensor:
        said.append(denoise(z, r))
        return said[-1]

    samplers.unipc(recorded, start(levels), levels, generator(), order=order)
    # theirs ends at what is said of the predicted z, ours asks once more about the corrected one
    for ours, theirs in zip(said[:-1], predictions(scheduler, levels), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
