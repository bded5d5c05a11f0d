"""Watchers see the weights to keep, at their own cadence, and training is the same with and without them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import polymode as pm
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.evaluate.diagnostics.collapse import collapse_watcher
from polymode.train.history import read_history
from polymode.train.log import Event
from tests.toys import blobs


class Seen:
    """Remembers what it was called with, and draws from every random source there is."""

    def __init__(self, message: str = "") -> None:
        self.steps: list[int] = []
        self.modes: list[bool] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.message = message

    def __call__(self, model: GenerativeModel, step: int) -> tuple[dict[str, float], str]:
        torch.rand(7)
        x = model.sample(5)
        self.steps.append(step)
        self.modes.append(model.training)
        self.weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"mean": float(x.mean())}, self.message


def train(name: str = "vae", **options):
    data = blobs()
    arguments = {"hidden": (16,)} | ({"latent_dims": 2} if name == "vae" else {"latent_dims": 4})
    model = pm.create(name, data.spec, seed=0, **arguments)
    return pm.fit(model, data, steps=40, seed=1, batch_size=32, **options)


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_training_is_bit_identical_with_and_without_watchers(name, tmp_path):
    plain = train(name, out=tmp_path / "plain", ema=0.9)
    watched = train(name, out=tmp_path / "watched", ema=0.9, watch=[Seen(), Seen()], watch_every=3)
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[key]), key
    states = [torch.load(tmp_path / f / "trainer.pt", weights_only=True) for f in ("plain", "watched")]
    for k, a in states[0]["model"].items():
        assert torch.equal(a, states[1]["model"][k])
    same = [
        [{k: v for k, v in e.items() if k != "seconds"} for e in r.history if e["kind"] != "watch"]
        for r in (plain, watched)
    ]
    assert same[0] == same[1]


def test_watchers_see_the_averaged_weights_in_evaluation_mode():
    seen = Seen()
    run = train(watch=[seen], watch_every=20, ema=0.9, keep_best=False)
    assert seen.steps == [20, 40]
    assert seen.modes == [False, False]
    for key, value in run.model.state_dict().items():
        assert torch.equal(seen.weights[-1][key], value), key


def test_the_cadence_is_about_ten_times_and_the_end():
    seen = Seen()
    run = train(watch=[seen])
    assert 5 <= len(seen.steps) <= 21
    assert seen.steps[-1] == 40
    assert sum(e["kind"] == "watch" for e in run.history) == len(seen.steps)
    last = Seen()
    train(watch=[last], watch_every=0)
    assert last.steps == [40]
    with pytest.raises(PolymodeError, match="no option 'watch_evry'"):
        train(watch=[last], watch_evry=1)
    with pytest.raises(PolymodeError, match="watch_every=-1"):
        train(watch=[last], watch_every=-1)


def test_a_message_reaches_the_log_and_the_listeners(tmp_path):
    heard: list[Event] = []
    train(out=tmp_path, watch=[Seen("look here"), lambda model, step: None], watch_every=40, listeners=[heard.append])
    (event,) = [e for e in heard if e.kind == "watch"]
    assert (event.step, event.message, list(event.values)) == (40, "look here", ["mean"])
    (entry,) = [e for e in read_history(tmp_path) if e["kind"] == "watch"]
    assert entry["message"] == "look here"
    json.dumps(entry)


def test_a_resumed_run_watches_as_one_never_stopped(tmp_path):
    def part(folder, resume, listeners=()):
        data = blobs()
        model = pm.create("vae", data.spec, seed=0, latent_dims=2, hidden=(16,))
        return pm.fit(model, data, steps=40, seed=1, batch_size=32, out=folder, resume=resume, watch=[Steps()],
                      watch_every=10, checkpoint_every=20, validate_every=0, log_every=10,
                      listeners=listeners)  # fmt: skip

    def interrupt(event: Event) -> None:
        if event.kind == "watch" and event.step == 30:
            raise KeyboardInterrupt

    whole = part(tmp_path / "whole", False)
    with pytest.raises(KeyboardInterrupt):
        part(tmp_path / "cut", False, [interrupt])
    assert [e["step"] for e in read_history(tmp_path / "cut") if e["kind"] == "watch"] == [10, 20, 30]
    again = part(tmp_path / "cut", True)
    histories = [[{k: v for k, v in e.items() if k != "seconds"} for e in run.history] for run in (whole, again)]
    assert histories[0] == histories[1]
    assert [e["step"] for e in again.history if e["kind"] == "watch"] == [10, 20, 30, 40]
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


class Steps:
    """Says the step."""

    def __call__(self, model: GenerativeModel, step: int) -> tuple[dict[str, float], str]:
        return {"at": float(step)}, ""


def test_rolling_back_and_watching_do_not_meet():
    """A loss that explodes once goes back to the last good weights; watchers only see finite ones."""
    data = blobs()
    model = pm.create("vae", data.spec, seed=0, latent_dims=2, hidden=(16,))
    plain, calls, seen = model.loss, [0], Seen()

    def loss(x, condition=None, *, generator):
        found = plain(x, condition, generator=generator)
        calls[0] += 1
        return found if calls[0] != 13 else type(found)(found.per_example * torch.nan, found.parts)

    model.loss = loss
    run = pm.fit(model, data, steps=30, seed=1, batch_size=32, watch=[seen], watch_every=5, checkpoint_every=10,
                 validate_every=0)  # fmt: skip
    assert [e["kind"] for e in run.history].count("rollback") == 1
    assert seen.steps == [5, 10, 15, 20, 25, 30]
    assert all(bool(v.isfinite().all()) for w in seen.weights for v in w.values())


def test_a_model_that_fits_directly_is_watched_once():
    data, seen = blobs(), Seen("done")
    run = pm.fit(pm.create("gaussian", data.spec, seed=0), data, watch=[seen])
    assert len(seen.steps) == 1
    assert [e["kind"] for e in run.history][-2:] == ["watch", "end"]


def test_what_a_watcher_raises_is_not_hidden():
    def broken(model: GenerativeModel, step: int) -> None:
        raise PolymodeError("no")

    with pytest.raises(PolymodeError, match="no"):
        train(watch=[broken])


def test_a_collapsing_generator_is_told_while_it_trains():
    data = blobs(2000)
    model = pm.create("gan", data.spec, seed=0, latent_dims=2, hidden=(8,), penalty="none")
    heard: list[Event] = []
    pm.fit(model, data, steps=30, seed=0, watch=[collapse_watcher(data, n=200)], watch_every=10,
           listeners=[heard.append])  # fmt: skip
    looks = [e for e in heard if e.kind == "watch"]
    assert [e.step for e in looks] == [10, 20, 30]
    # thirty steps leave the generator at a point
    assert all(e.values["collapsed"] == 1.0 and e.message.startswith("mode collapse") for e in looks)


def test_a_conditional_model_is_watched_under_the_datas_conditions():
    data = blobs(1000, labels=True)
    model = pm.create("gmm", data.spec, data.condition_spec, seed=0, components=1)
    run = pm.fit(model, data, seed=0, watch=[collapse_watcher(data, n=200)])
    (look,) = [e for e in run.history if e["kind"] == "watch"]
    assert look["collapsed"] == 0.0
    assert look["recall"] > 0.8


def test_the_command_line_warns_while_it_trains_and_in_the_report(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from polymode.app.cli.main import main

    out, data = tmp_path / "run", tmp_path / "blobs.npy"
    np.save(data, blobs(800).train.x.numpy())
    # three steps at a rate of nothing leave the generator where it began: near one point
    words = ["fit", str(data), "--model", "gan", "--steps", "3", "--learning-rate", "1e-9", "--watch", "collapse",
             "--watch-every", "2", "--out", str(out)]  # fmt: skip
    assert main(words) == 0
    told = capsys.readouterr().err
    assert told.count("gan: mode collapse: ") == 2
    looks = [e for e in read_history(out) if e["kind"] == "watch"]
    assert [e["step"] for e in looks] == [2, 3]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "2 of 2 looks had something to say" in page
    assert "Beware: mode collapse" in page
    assert main(["fit", str(data), "--model", "gan", "--watch", "colapse", "--out", str(tmp_path / "no")]) == 2
    assert "--watch=colapse, expected one of 'collapse'" in capsys.readouterr().err
