"""Piano rolls: music as bits (T, D), whether a key sounds at a step.

A roll does not tell a note that is held from one that is struck again. `Spec.extra` says what its bits are:

    lowest_key       the MIDI number of the first key (60 is C4)
    steps_per_beat   steps in a quarter note
    padded           True where rows are whole pieces, each followed by silence up to the T of the longest
    voices           D is this many blocks of keys, a voice each from the highest down; without it a key is a key

A piece ends with its last sounding step, so its length can be read from its row (`lengths`), for data and samples
alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.spec import Binary, Spec


def is_music(spec: Spec) -> bool:
    """Whether data of a spec are piano rolls."""
    return spec.kind == "series" and isinstance(spec.support, Binary) and "lowest_key" in spec.extra


def lengths(x: Tensor) -> Tensor:
    """Steps up to the last that sounds, of each row of (N, T, D); 0 for silence: (N,)."""
    steps = torch.arange(1, x.shape[1] + 1, device=x.device)
    return (x.bool().any(2) * steps).amax(1)


def by_voice(spec: Spec, x: Tensor) -> Tensor:
    """(N, T, D) as voices and their keys (N, T, V, K); V is 1 where voices are not told apart."""
    return x.unflatten(2, (int(spec.extra.get("voices", 1)), -1))


def keys(spec: Spec, x: Tensor) -> Tensor:
    """(N, T, D) as the keys that sound in any voice (N, T, K)."""
    return by_voice(spec, x).amax(2)
