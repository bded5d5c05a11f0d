"""Spectral normalisation of every matrix of a network.

Miyato et al. 2018, Spectral normalization for generative adversarial networks (arXiv:1802.05957): W / sigma(W), with
the largest singular value sigma by one step of power iteration at each training pass (eq. 8 and algorithm 1); a
convolution's is that of its kernel as a matrix (C_out, C_in K K) (section 2.1).
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def spectrally_normalised(net: nn.Module) -> None:
    """Divide the weight of every linear layer, convolution and embedding of ``net`` by its largest singular value."""
    for module in list(net.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding) and not hasattr(module, "parametrizations"):
            spectral_norm(module)
