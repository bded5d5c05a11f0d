"""One loop for every family: it knows phases, budgets and checkpoints, and no model.

A turn runs each phase of the present stage `repeats` times on fresh batches (`train.batches`). The draws of a turn come
from a generator seeded by (seed, rank, turn), so a resumed run needs no saved random state to be bit-identical to one
never stopped.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymode.core import checkpoint
from polymode.core.condition import Condition
from polymode.core.errors import TrainingError
from polymode.core.loss import Loss, Phase, merge_parts
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet
from polymode.train import memory
from polymode.train.batches import Batches
from polymode.train.log import Event, Log, Watcher
from polymode.train.options import Budget, FitOptions
from polymode.train.state import TrainerState, optimizer_for, read_state, step_seed, write_state

#: rollbacks after which training gives up, and the factor on the learning rate at each
MOST_ROLLBACKS, ROLLBACK_RATE = 3, 0.3
#: a loss this many times the usual size is an explosion
EXPLOSION = 1e3


class Trainer:
    """Trains one model on one data set; `fit` is its public face.

    Args:
        model: a model whose phases have gradients.
        data: what it learns from.
        options: the checked arguments of `fit`.
        folder: the run's folder, None to keep everything in memory.
        facts: what config.json shall say beside the model.
        watch: watchers, called on the weights to keep now and then.
    """

    def __init__(
        self, model: GenerativeModel, data: DataSet, options: FitOptions, folder: Path | None, facts: dict[str, Any],
        watch: Sequence[Watcher] = (),
    ) -> None:  # fmt: skip
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs

        self.data, self.options, self.folder, self.facts, self.watch = data, options, folder, facts, tuple(watch)
        self.chosen = options.over(model.defaults)
        # phases move different parameters, and a null condition may be unused in a batch
        kwargs = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        precision = "no" if options.precision == "fp32" else options.precision
        if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
            AcceleratorState._reset_state()  # an earlier fit of this process fixed another precision
        self.accelerator = Accelerator(
            mixed_precision=precision,
            cpu=options.device == "cpu",
            kwargs_handlers=[kwargs],
        )
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.device = torch.device(options.device) if options.device else self.accelerator.device
        self.model = model.to(self.device)
        share = 0.0 if model.condition_spec is None else self.chosen.labelled_share
        self.batches = Batches(data.train, self.chosen.batch_size, self.world, options.seed, share)
        self.stop_asked = False

    # -- the loop --------------------------------------------------------------------------------------------------
    def run(self, log_to: list[Any], *, resume: bool) -> tuple[TrainerState, list[dict[str, Any]]]:
        """Train until the budget is used, training is told to stop, or validation stops improving."""
        saved = read_state(self.folder, self._identity(), self.device) if resume and self.folder else None
        if saved is None:
            with torch.no_grad():
                # every process sees the whole first batch, so that all start from the same weights
                g = torch.Generator().manual_seed(step_seed(self.options.seed, -1))
                self.model.prepare(*self._first_batch(), g)
        phases = self.model.phases()
        self.parameters = {p.name: p.parameters() for p in phases}  # walking a module tree each step is slow
        state = TrainerState(self.model, {p.name: optimizer_for(p, self.chosen) for p in phases}, self.chosen.ema)
        wrapped = self.accelerator.prepare_model(self.model) if self.world > 1 else self.model
        state.start_ema()  # after wrapping, which may give parameters new storage
        if saved is not None:
            state.restore(saved)
        self.budget = Budget(self.options, self.batches.per_epoch, spent=state.seconds)
        main = self.accelerator.is_main_process
        folder = self.folder if main else None
        log = Log(folder, log_to if main else [], tensorboard=self.options.tensorboard, resumed_at=state.step)
        try:
            with _listening_for_sigterm(self), memory.kept(), torch.random.fork_rng(devices=[]):
                self._turns(state, phases, wrapped, log)
        finally:
            log.close()
        self.model.load_state_dict(state.chosen())
        self.model.eval()
        return state, log.history

    def _turns(self, state: TrainerState, phases: list[Phase], wrapped: Any, log: Log) -> None:
        good = state.snapshot()
        losses: dict[str, list[Tensor]] = {}
        parts: list[dict[str, Tensor]] = []
        usual = math.nan
        clock = {"checkpoint": self.budget.seconds, "step": state.step}
        self.model.train()
        while (progress := self._agreed_progress(state)) < 1 and not state.finished:
            stage, within = _stage(phases, progress)
            worst = self._turn(state, [p for p in phases if p.stage == stage], wrapped, within, losses, parts)
            if not math.isfinite(worst) or abs(worst) > EXPLOSION * (usual if usual == usual else math.inf):
                self._roll_back(state, good, worst, log)
                losses, parts = {}, []
                continue
            usual = abs(worst) + 1 if usual != usual else 0.98 * usual + 0.02 * (abs(worst) + 1)
            state.step += 1
            state.update_ema()
            if self._due(state, self.options.log_every, 200):
                means = {name: float(torch.stack(values).mean()) for name, values in losses.items()}
                log(self._event("train", state, means | merge_parts(parts)))
                losses, parts = {}, []
            if self._due(state, self.options.validate_every, 20) and self.model.defaults.loss_is_objective:
                self._validate(state, log)
            if self.watch and self._due(state, self.options.watch_every, 10):
                self._look(state, log)
            if self._checkpoint_due(state, clock):
                state.seconds = self.budget.seconds
                good = state.snapshot()
                self._write(state, log)
            if self.stop_asked:
                break
        if not self.stop_asked:
            validates = self.model.defaults.loss_is_objective and self.options.validate_every != 0
            if validates and not any(e["kind"] == "validation" and e["step"] == state.step for e in log.history[-2:]):
                self._validate(state, log)
            if self.watch and not any(e["kind"] == "watch" and e["step"] == state.step for e in log.history):
                self._look(state, log)
            state.finished = True
        state.seconds = self.budget.seconds
        self._write(state, log)
        log(self._event("end", state, {}, "stopped as asked" if self.stop_asked else ""))

    def _turn(
        self,
        state: TrainerState,
        phases: list[Phase],
        wrapped: Any,
        progress: float,
        losses: dict[str, list[Tensor]],
        parts: list[dict[str, Tensor]],
    ) -> float:
        """One turn of every phase; returns the loss furthest from zero (nan if any is not finite)."""
        generator = self._generator(state.step, state.rollbacks)
        torch.default_generator.manual_seed(generator.initial_seed())  # dropout draws from torch's own
        worst = 0.0
        for phase in phases:
            optimizer = state.optimizers[phase.name]
            rate = self._rate(state.step, progress) * state.rate * phase.learning_rate_scale
            for group in optimizer.param_groups:
                group["lr"] = rate
            for _ in range(phase.repeats):
                x, condition = self._batch(state.batches, generator)
                state.batches += 1
                loss, mean = self._step(phase, optimizer, wrapped, x, condition, generator)
                losses.setdefault("loss" if len(phases) == 1 else phase.name, []).append(mean)
            parts[:] = [*parts[-8:], loss.parts]
            value = float(mean)
            worst = value if not math.isfinite(value) or abs(value) > abs(worst) else worst
        return worst

    def _step(
        self,
        phase: Phase,
        optimizer: torch.optim.Optimizer,
        wrapped: Any,
        x: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
    ) -> tuple[Loss, Tensor]:
        parameters = self.parameters[phase.name]
        optimizer.zero_grad(set_to_none=True)
        if self.world > 1:
            self.model.zero_grad(set_to_none=True)
            loss: Loss = wrapped(phase.name, x, condition, generator)
            mean = loss.value
            self.accelerator.backward(mean)
        else:
            with self.accelerator.autocast():
                loss = phase.loss(x, condition, generator)
            # gradients of this phase's parameters only: a generator step need not fill its critic's
            mean = loss.value
            self.accelerator.backward(mean, inputs=parameters)
        if self.chosen.clip is not None:
            # fused optimisers divide gradients by this as they read them, which saves a pass over all weights
            optimizer.grad_scale = _excess(parameters, self.chosen.clip)  # type: ignore[attr-defined]
        optimizer.step()
        if phase.after_step is not None:
            phase.after_step()
        return loss, mean.detach()

    # -- data and rates --------------------------------------------------------------------------------------------
    def _batch(self, index: int, generator: torch.Generator) -> tuple[Tensor, Condition | None]:
        """This process's share of global batch ``index``."""
        return self._rows(self.batches.rows(index, self.rank), generator)

    def _first_batch(self) -> tuple[Tensor, Condition | None]:
        g = torch.Generator().manual_seed(step_seed(self.options.seed, 0))
        rows = torch.randperm(len(self.data.train), generator=g)[: self.batches.size * self.world]
        return self._rows(rows, g)

    def _rows(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Condition | None]:
        x, condition = self.data.train.batch(rows, generator)
        if self.model.condition_spec is None:
            condition = None
        return x.to(self.device), None if condition is None else condition.to(self.device)

    def _generator(self, step: int, rollbacks: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(step_seed(self.options.seed, self.rank, step, rollbacks))

    def _rate(self, step: int, progress: float) -> float:
        """The learning rate: a linear rise over `warmup` steps, then constant or a cosine to zero."""
        rise = min(1.0, (step + 1) / max(1, self.chosen.warmup))
        fall = 0.5 * (1 + math.cos(math.pi * progress)) if self.chosen.schedule == "cosine" else 1.0
        return self.chosen.learning_rate * rise * fall

    def _agreed_progress(self, state: TrainerState) -> float:
        """Progress by this process's clock, or the first process's where there are several."""
        progress = self.budget.progress(state.step, state.batches)
        if self.world > 1 and self.options.minutes is not None:
            from accelerate.utils import broadcast

            progress = float(broadcast(torch.tensor(progress, dtype=torch.float64, device=self.device)))
        return progress

    def _due(self, state: TrainerState, every: int | None, times: int) -> bool:
        """Whether something that happens every so many steps, or about `times` times a run, is due now."""
        if every is None:
            expected = self.budget.expected_steps(state.step, state.batches)
            every = max(1, 2 ** round(math.log2(max(1.0, expected / times))))
        return every > 0 and state.step % every == 0

    # -- what happens now and then ---------------------------------------------------------------------------------
    def _validate(self, state: TrainerState, log: Log) -> None:
        """Mean training loss on validation data with the weights to keep; remembers the best."""
        loss = self.validation_loss(state.weights())
        better = loss < state.best[0]
        state.bad_validations = 0 if better else state.bad_validations + 1
        keep = self.options.keep_best
        if better:
            kept = state.weights() if keep or keep is None else {}
            state.best = (loss, {k: v.detach().clone() for k, v in kept.items()})
        log(self._event("validation", state, {"loss": loss}))
        if self.options.patience is not None and state.bad_validations >= self.options.patience:
            state.finished = True

    @torch.no_grad()
    def validation_loss(self, weights: dict[str, Tensor]) -> float:
        """The mean loss over validation rows, with the same draws at every call."""
        g, total, n = self._generator(-3), 0.0, min(len(self.data.valid), self.options.validation_rows)
        rows = min(256, self.model.rows_at_once)
        with self._wearing(weights):
            for start in range(0, n, rows):
                x, condition = self.data.valid.batch(slice(start, min(start + rows, n)), g)
                given = None if self.model.condition_spec is None or condition is None else condition.to(self.device)
                with self.accelerator.autocast():
                    loss = self.model.loss(x.to(self.device), given, generator=g)
                    total += float(loss.per_example.double().sum())
        return total / n

    @contextmanager
    def _wearing(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """The model with other weights, in evaluation mode; afterwards training goes on as if nothing had been."""
        live = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(weights)
        self.model.eval()
        try:
            yield
        finally:
            self.model.load_state_dict(live)
            self.model.train()

    def _look(self, state: TrainerState, log: Log) -> None:
        """Call the watchers on the weights to sample from. Their draws are their own: those of training go by step."""
        if not self.accelerator.is_main_process:
            return
        with torch.no_grad(), torch.random.fork_rng(devices=[]), self._wearing(state.weights()):
            found = [told for watcher in self.watch if (told := watcher(self.model, state.step)) is not None]
        for values, message in found:
            log(self._event("watch", state, values, message))

    def _roll_back(self, state: TrainerState, good: dict[str, Any], worst: float, log: Log) -> None:
        rollbacks, rate = state.rollbacks + 1, state.rate * ROLLBACK_RATE
        at = state.step
        state.restore(good)
        state.rollbacks, state.rate = rollbacks, rate
        message = f"the loss became {worst:g} at step {at}; went back to step {state.step}, rate times {rate:.3g}"
        log(self._event("rollback", state, {}, message))
        if rollbacks > MOST_ROLLBACKS:
            self._write(state, log)
            raise TrainingError(
                f"training diverged {rollbacks} times (last: {message}); the last good weights are kept: "
                "try a lower learning_rate, a smaller clip or other model options"
            )

    def _checkpoint_due(self, state: TrainerState, clock: dict[str, float]) -> bool:
        if self.options.checkpoint_every is not None:
            return state.step % self.options.checkpoint_every == 0
        if self.budget.seconds - clock["checkpoint"] < self.options.checkpoint_seconds:
            return False
        clock["checkpoint"] = self.budget.seconds
        return True

    def _write(self, state: TrainerState, log: Log) -> None:
        """trainer.pt first, for resuming; then the model to load."""
        if self.folder is None or not self.accelerator.is_main_process:
            return
        write_state(self.folder, state, self._identity())
        checkpoint.save(self.model, self.folder, state=state.chosen(), **self.facts)
        log(self._event("checkpoint", state, {}))

    def _identity(self) -> dict[str, str]:
        return {"model": checkpoint.name_of(type(self.model)), "data": self.data.fingerprint}

    def _event(self, kind: str, state: TrainerState, values: dict[str, float], message: str = "") -> Event:
        progress = self.budget.progress(state.step, state.batches)
        return Event(kind, state.step, progress, self.budget.seconds, values, message)


def _stage(phases: list[Phase], progress: float) -> tuple[int, float]:
    """(The stage whose turn it is, how much of it is done), where each takes its share of the budget."""
    shares = {s: max(p.share for p in phases if p.stage == s) for s in sorted({p.stage for p in phases})}
    done = progress * sum(shares.values())
    for stage, share in shares.items():
        if done < share:
            return stage, done / share
        done -= share
    return max(shares), 1.0


def _excess(parameters: list[nn.Parameter], most: float) -> Tensor | None:
    """By what gradients have to be divided so that their norm is ``most``; None where it is no larger."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return None
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    return norm / most if norm > most else None


@contextmanager
def _listening_for_sigterm(trainer: Trainer) -> Iterator[None]:
    """SIGTERM asks the loop to save and stop; only a main thread may listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(*_: object) -> None:
        trainer.stop_asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
