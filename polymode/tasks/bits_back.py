"""Bits back with asymmetric numeral systems: lossless compression by a model whose likelihood is a bound.

Townsend, Bird and Barber 2019, Practical lossless compression with latent variables using bits back coding
(arXiv:1901.04866), section 2.3 to 2.5; Hinton and van Camp 1993 for the argument.

    encode x: take z ~ q(z | x) from the stack, put x on it by p(x | z), put z on it by p(z)
    decode x: take z by p(z), take x by p(x | z), put z back by q(z | x)
    bits a datum: -log2 p(z) - log2 p(x | z) + log2 q(z | x), on average the negative ELBO

What is put back at the end of decoding one datum is what the stack held before it, so data chain: each draws its code
from the bits of those before it, and the first one from words that a seed makes, which stay below all others in the
archive. Codes of a standard normal prior lie in 2^B bins of equal mass, so that p(z) is uniform over bins; a bin's code
is its median, and q(bin | x) is the posterior's mass in it. `encode` and `decode` hold the two procedures.
Deviation: several data go at once, as many as the stack holds bits for: 1, 1, 2, 4, ... up to `cells` bins in a table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polymode.core import rng
from polymode.tasks.coding import Recorder, StackReader, need_constriction, quantised, symbols, values, weights

#: log2 of the number of bins of a code's dimension
BITS = 10
#: bins of all codes that go at once, at most: a table of so many float64
CELLS = 2**21


class Bins:
    """2^bits bins of equal mass of a standard normal."""

    def __init__(self, bits: int = BITS) -> None:
        count = 2**bits
        self.bits, self.count = bits, count
        places = torch.arange(1, 2 * count, dtype=torch.float64) / (2 * count)
        quantiles = torch.special.ndtri(places)
        self.centres, self.edges = quantiles[0::2], quantiles[1::2]

    def codes(self, chosen: Int[Tensor, "n Z"]) -> Float[Tensor, "n Z"]:
        """The median of each bin."""
        return self.centres[chosen]

    def masses(self, mu: Float[Tensor, "n Z"], log_sigma: Float[Tensor, "n Z"]) -> Float[Tensor, "m K"]:
        """The mass of each Gaussian in every bin, (n Z, 2^bits)."""
        mu, sigma = mu.double().reshape(-1, 1), log_sigma.double().exp().reshape(-1, 1)
        below = torch.special.ndtr((self.edges - mu) / sigma)
        one = torch.ones(len(mu), 1, dtype=torch.float64)
        return torch.cat([below, one], 1) - torch.cat([0 * one, below], 1)


class Stack:
    """An ANS coder that codes, and data given them, are put on and taken from."""

    def __init__(self, bins: Bins, words: np.ndarray) -> None:
        stream = need_constriction()
        self.bins, self.coder = bins, stream.stack.AnsCoder(words)
        self.family, self.uniform = stream.model.Categorical(perfect=False), stream.model.Uniform(bins.count)

    @property
    def held(self) -> int:
        """Bits on the stack."""
        return self.coder.num_valid_bits()

    def take(self, mu: Tensor, log_sigma: Tensor) -> Int[Tensor, "n Z"]:
        """Draw bins from posteriors."""
        table = weights(quantised(self.bins.masses(mu, log_sigma)))
        return values(self.coder.decode(self.family, table)).view(mu.shape)

    def put_back(self, chosen: Int[Tensor, "n Z"], mu: Tensor, log_sigma: Tensor) -> None:
        """Undo `take`."""
        table = weights(quantised(self.bins.masses(mu, log_sigma)))
        self.coder.encode_reverse(symbols(chosen.flatten()), self.family, table)

    def put_prior(self, chosen: Int[Tensor, "n Z"]) -> None:
        """Put bins on by the prior."""
        self.coder.encode_reverse(symbols(chosen.flatten()), self.uniform)

    def take_prior(self, n: int, dims: int) -> Int[Tensor, "n Z"]:
        """Undo `put_prior`."""
        return values(self.coder.decode(self.uniform, n * dims)).view(n, dims)


def first_words(seed: int, dims: int, bits: int) -> np.ndarray:
    """The words that the first code of so many dimensions is drawn from."""
    words = rng.randint(2**32, (-(-dims * bits // 32) + 2,), rng.generator(seed)).numpy().astype(np.uint32)
    words[-1] |= 1  # an ANS coder's last word is above zero
    return words


def encode(
    model: Any, x: Tensor, live: Bool[Tensor, "N D"] | None, *, seed: int, bits: int = BITS
) -> tuple[np.ndarray, list[int], int]:
    """(code words, how many data went at once, dimensions of a code) of data x (N, *shape)."""
    bins, sizes, at = Bins(bits), [], 0
    dims = model.posterior_gaussian(x[:1])[0].shape[1]
    stack, most = Stack(bins, first_words(seed, dims, bits)), max(1, CELLS // (bins.count * dims))
    while at < len(x):
        grown = 1 if not sizes else min(most, sum(sizes), stack.held // (dims * bits))
        rows = slice(at, at + max(1, grown))
        mu, log_sigma = model.posterior_gaussian(x[rows])
        chosen = stack.take(mu, log_sigma)
        told = Recorder(x[rows].flatten(1).long(), None if live is None else live[rows])
        model.decode_in_order(bins.codes(chosen), told)
        told.push(stack.coder)
        stack.put_prior(chosen)
        sizes.append(len(chosen))
        at = rows.stop
    return stack.coder.get_compressed(), sizes, dims


def decode(
    model: Any, words: np.ndarray, live: Bool[Tensor, "N D"] | None, sizes: list[int], *, dims: int, bits: int = BITS
) -> tuple[Int[Tensor, "N D"], np.ndarray]:
    """(data, flattened; the words that are left, which are those that the seed made)."""
    bins, spec, found = Bins(bits), model.spec, []
    stack, end = Stack(bins, words), sum(sizes)
    for n in reversed(sizes):
        chosen = stack.take_prior(n, dims)
        told = StackReader(stack.coder, n, spec.num_dims, None if live is None else live[end - n : end])
        model.decode_in_order(bins.codes(chosen), told)
        found.append(told.x)
        stack.put_back(chosen, *model.posterior_gaussian(told.x.to(spec.dtype).view(n, *spec.shape)))
        end -= n
    return torch.cat(found[::-1]), stack.coder.get_compressed()
