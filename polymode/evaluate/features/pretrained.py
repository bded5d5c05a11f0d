"""Feature spaces of networks that others trained: Inception, DINOv2 and CLIP, where the user has them.

    inception   Szegedy et al. 2016 (arXiv:1512.00567) with the weights of Heusel et al. 2017 (arXiv:1706.08500),
                through torch-fidelity, which resizes to 299 x 299 as TensorFlow 1 did and downloads the weights
                unless a file is given; 2048 features, 1008 classes
    dinov2      Oquab et al. 2024 (arXiv:2304.07193), through transformers: the class token, as in Stein et al. 2023
                (arXiv:2306.04675)
    clip        Radford et al. 2021 (arXiv:2103.00020), through transformers: the projected image embedding

Images become 8-bit colour first: K levels are spread over 0 to 255, one channel is repeated. For dinov2 and clip they
are resized to the network's size by antialiased bicubic interpolation and normalised as in their training.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.core.errors import MissingPackageError, PolymodeError
from polymode.core.spec import Spec

NETWORKS = ("inception", "dinov2", "clip")
#: what transformers loads where no folder is given
HUB = {"dinov2": "facebook/dinov2-base", "clip": "openai/clip-vit-base-patch32"}
#: means and deviations of the colours that each network was trained with
COLOURS = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}

Map = Callable[[Tensor], Tensor]


def space(spec: Spec, network: str, path: str = "") -> tuple[str, Map, int, str, Map | None]:
    """(name, features, their number, protocol, class probabilities or None) of a network for images of a spec.

    Args:
        network: one of `NETWORKS`.
        path: a file of weights (inception) or a folder (dinov2, clip); empty for the package's own download.

    Raises:
        MissingPackageError: torch-fidelity or transformers is not there.
        PolymodeError: images that are no 8-bit pixels of one or three channels, or weights that can't be read.
    """
    if spec.levels is None or spec.shape[0] not in (1, 3):
        raise PolymodeError(
            f"features {network} need pixels in one or three channels and {spec} came; use features random-conv"
        )
    return (_inception if network == "inception" else _transformer)(spec, network, path)


def to_colour(x: Tensor, levels: int) -> Tensor:
    """(B, C, H, W) of K levels to (B, 3, H, W) uint8."""
    y = (x.double() * 255 / (levels - 1)).round().to(torch.uint8)
    return y if y.shape[1] == 3 else y[:, :1].expand(-1, 3, -1, -1)


def _inception(spec: Spec, network: str, path: str) -> tuple[str, Map, int, str, Map | None]:
    if importlib.util.find_spec("torch_fidelity") is None:
        raise MissingPackageError("torch-fidelity", "", "a space of Inception features")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if path:
        _check_weights(Path(path))
    try:
        net = FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=path or None
        )
    except (OSError, RuntimeError) as error:
        raise PolymodeError(
            f"the weights of Inception can't be had ({_first_line(error)}); give a file as inception:WEIGHTS.pth"
        ) from None
    levels = spec.levels or 256

    def features(x: Tensor) -> Tensor:
        return net(to_colour(x, levels))[0]

    def probabilities(x: Tensor) -> Tensor:
        return net(to_colour(x, levels))[1].double().softmax(1)

    where = f"weights of {Path(path).name}" if path else "torch-fidelity's weights"
    return "inception-v3", features, 2048, f"{where}, TensorFlow's bilinear resizing to 299 x 299", probabilities


def _check_weights(path: Path) -> None:
    """Tensors by name and nothing else may be in a file that torch-fidelity will unpickle."""
    if not path.is_file():
        raise PolymodeError(f"there is no file {path}; give the weights of Inception as torch-fidelity keeps them")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise PolymodeError(f"{path} is no file of weights ({_first_line(error)})") from None
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise PolymodeError(f"{path} holds no dictionary of tensors, expected the weights of Inception")


def _transformer(spec: Spec, network: str, path: str) -> tuple[str, Map, int, str, Map | None]:
    if importlib.util.find_spec("transformers") is None:
        raise MissingPackageError("transformers", "", f"a space of {network} features")
    from transformers import AutoModel, CLIPVisionModelWithProjection

    source = path or HUB[network]
    if path and not Path(path).is_dir():
        raise PolymodeError(f"there is no folder {path}; give one that transformers' save_pretrained wrote")
    loader: Any = CLIPVisionModelWithProjection if network == "clip" else AutoModel
    try:
        net = loader.from_pretrained(source).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise PolymodeError(
            f"{source} can't be loaded ({_first_line(error)}); give a folder as {network}:FOLDER"
        ) from None
    size, levels = int(net.config.image_size), spec.levels or 256
    if network == "dinov2":
        # trained at 518, used at 224 throughout the literature; positions are interpolated by the network
        size = min(size, 224)
    loc, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in COLOURS[network])
    dim = int(net.config.projection_dim if network == "clip" else net.config.hidden_size)

    def features(x: Tensor) -> Tensor:
        y = to_colour(x, levels).float() / 255
        y = F.interpolate(y, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        found = net(pixel_values=(y - loc) / scale)
        return found.image_embeds if network == "clip" else found.pooler_output

    name = f"{network}-{Path(source).name}" if path else source.split("/")[1]
    return name, features, dim, f"{source}, antialiased bicubic resizing to {size} x {size}", None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
