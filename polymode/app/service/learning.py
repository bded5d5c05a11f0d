"""Watch a model learn a known distribution: a training in slow motion, frame after frame, that can be replayed.

A `Lesson` trains one model on draws of a target whose density is known, in a thread of its own, and hands out a `Frame`
every few steps: samples, the density where the model has one, and how far it is from the target. The distance is

    KL(target || model) = sum_x p(x) log p(x) / q(x)         exact on a histogram; on toys its mean over fixed points of
                                                             the target, an upper bound where q is a lower bound
    sliced Wasserstein                                       of samples, for models without a likelihood
    -log2 q(x) / D                                           of digits, whose own density nobody knows: their test rows

The training is `polymode.train.fit` with a watcher that waits at a gate, so that what is watched is what `polymode fit`
does, and the same seed shows the same frames, byte for byte.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from polymode import catalogue
from polymode.app.service.arguments import settled
from polymode.app.service.schemas import Schema, make
from polymode.core.errors import PolymodeError, nearest
from polymode.data.index import BY_NAME

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from polymode.core.model import GenerativeModel
    from polymode.data.dataset import DataSet

TOYS = ("8gaussians", "moons", "pinwheel", "checkerboard", "spirals", "25gaussians")
HISTOGRAM, DIGITS = "histogram", "digits"
#: half the side of the square that toys are shown on, points a side of the density, samples and scored points a frame
EXTENT, GRID, SHOWN, SCORED = 4.5, 64, 600, 500
#: pictures a side of the sheet that digits are shown on
SIDE = 6
#: rows that a histogram is turned into
ROWS = 2048
#: one model's construction at a time, because it draws from the global generator
_BUILDING = threading.Lock()


class LessonRequest(Schema):
    """What is to be watched; `weights` are the heights of a drawn histogram."""

    target: str = "8gaussians"
    model: str = "realnvp"
    weights: list[float] = []
    settings: dict[str, Any] = {}
    steps: int = Field(1000, gt=0, le=100_000)
    every: int = Field(20, gt=0)
    seed: int = Field(0, ge=0)
    learning_rate: float | None = Field(None, gt=0)


@dataclass(frozen=True)
class Frame:
    """One moment of a lesson.

    Attributes:
        step, steps: of the training, and its length.
        distance, meaning: how far the model is from the target, and what that number is.
        density: (GRID, GRID) of a toy, rows from the top, or (K,) of a histogram; None where the model has none.
        samples: (N, 2) of a toy, (K,) counts of a histogram, or a sheet of pictures (H, W) uint8.
    """

    step: int
    steps: int
    distance: float | None
    meaning: str
    density: np.ndarray | None = field(repr=False)
    samples: np.ndarray = field(repr=False)


class Lesson:
    """A training that waits before every frame until it is asked to go on.

    Raises:
        PolymodeError: no such target or model, or a model that can't take such data.
    """

    def __init__(self, request: LessonRequest) -> None:
        self.request = request
        self.row = catalogue.find(request.model)
        self.settings = settled(self.row, request.settings)
        self.target = target_of(request)
        catalogue.check_takes(self.row, self.target.spec.signature, ())
        if self.row.needs_condition:
            raise PolymodeError(f"{self.row.name} needs a condition, and {request.target} has none")
        self._frames: queue.Queue[Frame | BaseException | None] = queue.Queue()
        self._gate, self._closed = threading.Semaphore(0), False
        self._thread: threading.Thread | None = None
        self._at = 0

    def frames(self) -> Iterator[Frame]:
        """The frames, each made when it is asked for; the first is the untrained model."""
        while (frame := self.next()) is not None:
            yield frame

    def next(self) -> Frame | None:
        """The next frame, or None at the end."""
        if self._closed:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lesson", daemon=True)
            self._thread.start()
        self._gate.release()
        frame = self._frames.get()
        if frame is None or isinstance(frame, BaseException):
            self._closed = True
            if isinstance(frame, PolymodeError):
                raise frame
            if frame is not None:
                raise PolymodeError(f"{self.row.name} could not learn {self.request.target}: {frame}") from frame
        return frame

    def close(self) -> None:
        """End the training, wherever it is."""
        self._closed = True
        self._gate.release()

    def _run(self) -> None:
        from polymode.core.capabilities import FitsDirectly
        from polymode.train.fit import fit

        try:
            self._wait()
            with _BUILDING:
                from polymode.app.service.building import build

                model = build(self.row.name, self.target, None, self.settings, self.request.seed)
            if isinstance(model, FitsDirectly):
                self._frames.put(self._look(fit(model, self.target, seed=self.request.seed).model, self.request.steps))
            else:
                model.prepare(self.target.train.x[:256], None, _generator(self.request.seed))
                self._frames.put(self._look(model, 0))
                fit(model, self.target, watch=[self._watch], watch_every=self.request.every, **self._training())
            self._wait()
            self._frames.put(None)
        except _Closed:
            self._frames.put(None)
        except BaseException as error:  # told where the frames are asked for
            self._frames.put(error)

    def _training(self) -> dict[str, Any]:
        """What `fit` is told; of a histogram all rows make a step, so that its gradient is exact."""
        told: dict[str, Any] = {"steps": self.request.steps, "seed": self.request.seed, "validate_every": 0}
        if self.request.target == HISTOGRAM:
            told |= {"batch_size": ROWS, "ema": 0.0, "schedule": "constant", "learning_rate": 2e-3}
        return told | ({} if self.request.learning_rate is None else {"learning_rate": self.request.learning_rate})

    def _wait(self) -> None:
        self._gate.acquire()
        if self._closed:
            raise _Closed

    def _watch(self, model: GenerativeModel, step: int) -> None:
        if step != self._at:  # the last step may be looked at twice
            self._wait()
            self._frames.put(self._look(model, step))
        self._at = step

    def _look(self, model: GenerativeModel, step: int) -> Frame:
        import torch

        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                x = model.sample(SIDE**2 if self.request.target == DIGITS else SHOWN, seed=1)
            if self.request.target == HISTOGRAM:
                return self._of_histogram(model, step, x)
            if self.request.target == DIGITS:
                return self._of_digits(model, step, x)
            return self._of_toy(model, step, x)
        finally:
            model.train(training)

    def _of_histogram(self, model: GenerativeModel, step: int, x: Tensor) -> Frame:
        import torch

        bins = len(self.request.weights)
        every = torch.arange(bins, dtype=torch.uint8).unsqueeze(1)
        nats, kind = _scored(model, every)
        counts = torch.bincount(x.flatten().long(), minlength=bins).numpy()
        if nats is None:
            return Frame(step, self.request.steps, _total_variation(counts, self.request.weights),
                         "total variation of samples", None, counts)  # fmt: skip
        p = torch.tensor(shares(self.request.weights), dtype=torch.float64)
        some = p > 0
        kl = float((p[some] * (p[some].log() - nats.double()[some])).sum())
        return Frame(step, self.request.steps, kl, _meaning(kind), nats.double().exp().numpy(), counts)

    def _of_digits(self, model: GenerativeModel, step: int, x: Tensor) -> Frame:
        from polymode.core.capabilities import HasBound, HasLogProb
        from polymode.evaluate.metrics.sliced_wasserstein import sliced_wasserstein

        rows, shown = self.target.test.x, _sheet(self.target, x)
        if isinstance(model, HasLogProb | HasBound):  # normalising an energy would take longer than the steps between
            nats, kind = _scored(model, rows)
            assert nats is not None
            bits = -float(nats.double().mean()) / (math.log(2) * self.target.spec.num_dims)
            return Frame(step, self.request.steps, bits, f"test bits a pixel, {kind}", None, shown)
        with_all = model.sample(len(rows), seed=2)
        distance = sliced_wasserstein(rows.flatten(1).float(), with_all.flatten(1).float(), generator=_generator(0))[0]
        return Frame(step, self.request.steps, distance, "sliced Wasserstein of samples", None, shown)

    def _of_toy(self, model: GenerativeModel, step: int, x: Tensor) -> Frame:
        import torch

        from polymode.core.capabilities import HasEnergy, HasLogProb

        assert self.target.log_density is not None
        points = self.target.test.x[:SCORED]
        nats, kind = _scored(model, points)
        density = None
        if isinstance(model, HasLogProb | HasEnergy):
            values = model.log_prob(_grid()) if isinstance(model, HasLogProb) else -model.energy(_grid())
            density = (values - values.max()).exp().view(GRID, GRID).flip(0).numpy()
        finite = torch.isfinite(x).all(1)
        shown = x[finite].numpy()
        if nats is not None and bool(torch.isfinite(nats).all()):
            kl = float((self.target.log_density(points) - nats.double()).mean())
            return Frame(step, self.request.steps, kl, _meaning(kind), density, shown)
        from polymode.evaluate.metrics.sliced_wasserstein import sliced_wasserstein

        if int(finite.sum()) < 2:
            return Frame(step, self.request.steps, None, "no sample is finite", density, shown)
        distance = sliced_wasserstein(points, x[finite], generator=_generator(0))[0]
        return Frame(step, self.request.steps, distance, "sliced Wasserstein of samples", density, shown)


class _Closed(Exception):
    """The lesson was closed."""


def target_of(request: LessonRequest) -> DataSet:
    """The data set that is learned: a toy, or the rows that a drawn histogram stands for."""
    if request.target == HISTOGRAM:
        return _histogram(request.weights)
    targets = (*TOYS, HISTOGRAM, DIGITS)
    if request.target not in targets:
        raise PolymodeError(
            f"there is no target {request.target!r}{nearest(request.target, targets)}; there are {', '.join(targets)}"
        )
    from polymode.data.loader import load

    assert request.target in BY_NAME
    return load(request.target)


def target_density(request: LessonRequest) -> np.ndarray:
    """The target as frames show it: a density (GRID, GRID), rows from the top, or (K,); of digits a sheet of some."""
    import numpy as np

    if request.target == HISTOGRAM:
        return np.array(shares(request.weights))
    target = target_of(request)
    if request.target == DIGITS:
        return _sheet(target, target.test.x[: SIDE**2])
    assert target.log_density is not None
    values = target.log_density(_grid())
    return (values - values.max()).exp().view(GRID, GRID).flip(0).numpy()


def shares(weights: list[float]) -> list[float]:
    """Heights as shares of one.

    Raises:
        PolymodeError: fewer than two heights, more than 128, none above 0, or one that is no such number.
    """
    if not 2 <= len(weights) <= 128:
        raise PolymodeError(f"a histogram of {len(weights)} bars came, expected 2 to 128")
    if any(not math.isfinite(w) or w < 0 for w in weights) or sum(weights) <= 0:
        raise PolymodeError("the heights of a histogram are at least 0 and one of them above; draw a bar")
    return [w / sum(weights) for w in weights]


def _histogram(weights: list[float]) -> DataSet:
    import torch

    from polymode.core.spec import Levels, Spec
    from polymode.data.dataset import DataSet, Split

    # rows in proportion, not drawn: what is learned is the histogram itself
    ends = (torch.tensor(shares(weights), dtype=torch.float64).cumsum(0) * ROWS).round().long()
    counts = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long))
    x = torch.arange(len(weights), dtype=torch.uint8).repeat_interleave(counts).unsqueeze(1)
    x = x[torch.randperm(len(x), generator=_generator(0))]
    part = Split(x)
    spec = Spec("vector", (1,), Levels(len(weights)))
    return DataSet("histogram", spec, part, Split(x[:1000]), Split(x[:1000]), source="drawn by hand")


def _sheet(data: DataSet, x: Tensor) -> np.ndarray:
    """Pictures (SIDE^2, 1, h, w) beside and under each other, (SIDE h, SIDE w) uint8."""
    from polymode.data.write import to_pixels

    pixels = to_pixels(data.spec, x)[:, 0]
    return pixels.unflatten(0, (SIDE, SIDE)).transpose(1, 2).flatten(2).flatten(0, 1).numpy()


def _scored(model: GenerativeModel, x: Tensor) -> tuple[Tensor | None, str]:
    from polymode.evaluate.likelihood import log_likelihood

    samples = 1 if getattr(model, "default_num_samples", 16) == 1 else 64  # of a bound
    found = log_likelihood(model, x, num_samples=samples)
    return found.nats, found.kind


def _meaning(kind: str) -> str:
    return {"exact": "KL(target||model), nats", "lower bound": "KL(target||model), an upper bound, nats"}.get(
        kind, "KL(target||model), an estimate, nats"
    )


def _total_variation(counts: np.ndarray, weights: list[float]) -> float:
    import numpy as np

    return float(np.abs(counts / max(1, counts.sum()) - np.array(shares(weights))).sum() / 2)


def _grid() -> Tensor:
    """(GRID^2, 2) centres of cells, the second coordinate slowest, from the bottom."""
    import torch

    at = (torch.arange(GRID) + 0.5) / GRID * 2 * EXTENT - EXTENT
    return torch.cartesian_prod(at, at).flip(1)


def _generator(seed: int) -> Any:
    from polymode.core import rng

    return rng.generator(seed)


def make_request(**values: Any) -> LessonRequest:
    """A request from plain values, or PolymodeError with the first thing that is wrong."""
    return make(LessonRequest, values)
