"""Quantisers against brute force, hand-written loops and autograd."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.parts.nn.quantiser import FiniteScalarQuantiser, VectorQuantiser, usage


def maps(b: int, d: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(b, d, *shape, generator=rng.generator(seed), dtype=torch.float64)


def quantiser(k: int = 7, d: int = 3, **options) -> VectorQuantiser:
    torch.manual_seed(0)
    return VectorQuantiser(k, d, **options).double()


def test_the_nearest_code_is_that_of_brute_force():
    q, y = quantiser(), maps(4, 3, 5, 2)
    found = q(y)
    for b, i, j in itertools.product(range(4), range(5), range(2)):
        distances = [((y[b, :, i, j] - code) ** 2).sum() for code in q.codebook]
        k = int(torch.stack(distances).argmin())
        assert int(found.indices[b, i, j]) == k
        assert torch.equal(found.values[b, :, i, j], q.codebook[k])
    distance = (y - q.codebook[found.indices].movedim(-1, 1)) ** 2
    torch.testing.assert_close(found.commitment, distance.sum((1, 2, 3)))


def test_the_gradient_is_that_at_the_codes_and_of_the_commitment():
    q, y, beta = quantiser(), maps(4, 3, 5, 2).requires_grad_(), 0.3

    def task(values: torch.Tensor) -> torch.Tensor:
        return (values.sin() * torch.linspace(1, 2, values.numel(), dtype=torch.float64).view_as(values)).sum()

    found = q(y)
    (task(found.values) + beta * found.commitment.sum()).backward()
    codes = q.codebook[found.indices].movedim(-1, 1).clone().requires_grad_()
    task(codes).backward()
    torch.testing.assert_close(y.grad, codes.grad + 2 * beta * (y - codes).detach())
    assert not q.codebook.requires_grad


def test_codes_are_the_averages_of_a_hand_written_loop():
    q, decay, g = quantiser(k=4, decay=0.9, restart=0.0), 0.9, rng.generator(0)
    counts, sums = [1.0] * 4, [code.clone() for code in q.codebook]
    for step in range(6):
        y = maps(5, 3, 2, seed=step)
        indices = q(y).indices
        q.learn(y, indices, g)
        for k in range(4):
            rows = [y[b, :, t] for b in range(5) for t in range(2) if indices[b, t] == k]
            counts[k] = decay * counts[k] + (1 - decay) * len(rows)
            sums[k] = decay * sums[k] + (1 - decay) * sum(rows, torch.zeros(3, dtype=torch.float64))
    for k in range(4):
        torch.testing.assert_close(q.codebook[k], sums[k] / counts[k])
        assert abs(float(q.count[k]) - counts[k]) < 1e-12


def test_a_code_that_nothing_falls_to_stays_or_starts_again_at_a_vector():
    y = maps(50, 3, 4)
    for restart in (0.0, 0.2):
        q = quantiser(k=3, decay=0.5, restart=restart)
        q.codebook[2] = q.total[2] = 1e3
        for step in range(40):
            q.learn(y, q(y).indices, rng.generator(step))
            if restart and float(q.codebook[2].abs().max()) < 1e3:
                break
        if restart:
            rows = y.movedim(1, -1).reshape(-1, 3)
            assert (rows == q.codebook[2]).all(1).any()
            assert float(q.count[2]) == 200 / 3
            assert usage(q(y).indices, 3)[1] == 1
        else:
            assert (q.codebook[2] == 1e3).all()
            assert torch.isfinite(q.codebook).all()


def test_learning_repeats_under_one_seed_and_goes_on_from_what_was_saved():
    def after(q: VectorQuantiser, steps: range) -> VectorQuantiser:
        for step in steps:
            y = maps(6, 3, 4, seed=step)
            q.learn(y, q(y).indices, rng.generator(step))
        return q

    whole, half = after(quantiser(restart=0.5), range(6)), after(quantiser(restart=0.5), range(3))
    resumed = VectorQuantiser(7, 3, restart=0.5).double()
    resumed.load_state_dict(half.state_dict())
    after(resumed, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_codes_start_at_clusters_and_with_few_vectors_at_the_vectors():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=torch.float64)
    y = (centres[torch.arange(60) % 3] + 0.01 * maps(60, 2)).view(10, 6, 2).movedim(2, 1)
    q = quantiser(k=3, d=2)
    q.start(y, rng.generator(0))
    assert float(torch.cdist(centres, q.codebook).min(1).values.max()) < 0.02
    assert float(q(y).commitment.max()) < 0.01
    q = quantiser(k=8, d=2)
    q.start(y[:1, :, :3], rng.generator(0))
    assert float(q(y[:1, :, :3]).commitment) < 1e-20


def test_processes_learn_one_codebook_from_the_rows_of_all(tmp_path: Path):
    script = tmp_path / "learn.py"
    script.write_text(
        "import sys, torch, torch.distributed as dist\n"
        "from polymode.core import rng\n"
        "from polymode.parts.nn.quantiser import VectorQuantiser\n"
        "rank = int(sys.argv[1])\n"
        # they meet at a file: a port that was free may be taken by another test
        f"dist.init_process_group('gloo', init_method='file://{tmp_path}/meeting', rank=rank, world_size=2)\n"
        "torch.manual_seed(0)\n"
        "q = VectorQuantiser(6, 3, restart=0.3).double()\n"
        "for step in range(5):\n"
        "    y = torch.randn(8, 3, 4, generator=rng.generator(step), dtype=torch.float64)[rank * 4 : rank * 4 + 4]\n"
        "    q.learn(y, q(y).indices, rng.generator(100 * rank + step))\n"
        f"torch.save(q.state_dict(), '{tmp_path}/' + str(rank))\n"
        # a group that is left behind may end its process by a signal
        "dist.barrier()\n"
        "dist.destroy_process_group()\n",
        encoding="utf-8",
    )
    processes = [subprocess.Popen([sys.executable, str(script), str(rank)]) for rank in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    torch.manual_seed(0)
    alone = VectorQuantiser(6, 3, restart=0.3).double()
    for step in range(5):  # the first process draws where codes start again, from its own half of the rows
        y = maps(8, 3, 4, seed=step)
        indices, half = alone(y).indices, maps(8, 3, 4, seed=step)[:4].movedim(1, -1).reshape(-1, 3)
        dead = _learnt(alone, y, indices)
        fresh = half[rng.randint(len(half), (6,), rng.generator(step))]
        alone.codebook[dead], alone.total[dead], alone.count[dead] = fresh[dead], fresh[dead] * 32 / 6, 32 / 6
    for name, value in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value)


def _learnt(q: VectorQuantiser, y: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """One step without restarts, and which codes would have started again."""
    restart, q.restart = q.restart, 0.0
    q.learn(y, indices, rng.generator(0))
    q.restart = restart
    return q.count < restart * y[:, 0].numel() / q.num_codes


# -- finite scalars ----------------------------------------------------------------------------------------------------
def test_finite_scalars_round_to_the_nearest_combination_of_levels():
    q = FiniteScalarQuantiser((4, 3, 5)).double()
    every = torch.arange(60)
    assert q.num_codes == 60
    assert torch.equal(q.nearest(q.embed(every)), every)
    assert len(q.embed(every).unique(dim=0)) == 60
    y = 3 * maps(20, 3, 4)
    found, bounded = q(y), q.bound(y).movedim(1, -1)
    nearest = torch.cdist(bounded * torch.tensor([2.0, 1.0, 2.0]), q.embed(every) * torch.tensor([2.0, 1.0, 2.0]))
    assert torch.equal(found.indices, nearest.argmin(-1))
    assert (found.commitment == 0).all()
    assert torch.equal(q(torch.zeros(1, 3, 2).double()).values, torch.zeros(1, 3, 2).double())


def test_the_gradient_of_finite_scalars_is_that_of_the_bound():
    q, y = FiniteScalarQuantiser((4, 3)).double(), maps(5, 2, 3).requires_grad_()
    weights = maps(5, 2, 3, seed=1)
    (q(y).values * weights).sum().backward()
    (expected,) = torch.autograd.grad((q.bound(y) * weights).sum(), y)
    torch.testing.assert_close(y.grad, expected)


def test_usage_is_that_of_counting():
    perplexity, used = usage(torch.tensor([[0, 0], [2, 3]]), 8)
    torch.testing.assert_close(perplexity, torch.tensor(2.0).double().pow(1.5))
    assert float(used) == 3 / 8


def test_sizes_that_make_no_sense_are_refused():
    for options in ({"num_codes": 0, "width": 2}, {"num_codes": 2, "width": 2, "decay": 1.0}):
        with pytest.raises(PolymodeError, match="expected sizes"):
            VectorQuantiser(**options)
    for levels in ((), (3, 1)):
        with pytest.raises(PolymodeError, match="2 levels"):
            FiniteScalarQuantiser(levels)
