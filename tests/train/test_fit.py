"""The trainer keeps its promises: exact resume, clean stops, guard, budgets, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import polymode as pm
from polymode.core import spec as specs
from polymode.core.checkpoint import load
from polymode.core.errors import CheckpointError, ConditionError, DataError, PolymodeError, TrainingError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.train.history import read_history
from tests.toys import blobs

REPOSITORY = Path(__file__).parents[2]
#: a child that trains; its arguments are folder, steps, and seconds to sleep a step
CHILD = """
import sys, time
import torch
torch.set_num_threads(1)
import polymode as pm
from tests.toys import blobs
folder, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
data = blobs()
model = pm.create("vae", data.spec, seed=0, latent_dims=2, hidden=(16,))
pm.fit(model, data, out=folder, resume=True, steps=steps, seed=1, checkpoint_every=10, validate_every=20,
       log_every=1, batch_size=32, ema=0.9, listeners=[lambda event: time.sleep(pause)])
"""


def small_vae(data: pm.DataSet, **arguments) -> GenerativeModel:
    return pm.create("vae", data.spec, seed=0, latent_dims=2, hidden=(16,), **arguments)


def child(folder: Path, steps: int, pause: float) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(steps), str(pause)], env=environment)


def wait_for_steps(folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while not (history := read_history(folder)) or history[-1]["step"] < steps:
        assert time.monotonic() < deadline, "the child never got there"
        time.sleep(0.02)


def test_a_killed_run_resumes_bit_identically(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = child(killed, 60, 0.02)
    wait_for_steps(killed, 25)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert child(killed, 60, 0).wait() == 0
    assert child(whole, 60, 0).wait() == 0
    states = [torch.load(folder / "trainer.pt", weights_only=True) for folder in (killed, whole)]
    assert states[0]["counters"].pop("seconds") != states[1]["counters"].pop("seconds")
    assert_equal(states[0], states[1])
    samples = [load(folder).sample(16, seed=0) for folder in (killed, whole)]
    assert torch.equal(*samples)
    histories = [[{k: v for k, v in e.items() if k != "seconds"} for e in read_history(f)] for f in (killed, whole)]
    assert histories[0] == histories[1]


def assert_equal(a, b, where: str = "state") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def test_sigterm_saves_and_exits_cleanly(tmp_path):
    process = child(tmp_path, 100_000, 0.01)
    wait_for_steps(tmp_path, 15)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    saved = torch.load(tmp_path / "trainer.pt", weights_only=True)
    assert not saved["counters"]["finished"]
    assert read_history(tmp_path)[-1] | {"seconds": 0} == {
        "kind": "end", "step": saved["counters"]["step"], "seconds": 0, "message": "stopped as asked"
    }  # fmt: skip
    load(tmp_path).sample(2, seed=0)


DISTRIBUTED = """
import sys
import torch
torch.set_num_threads(1)
import polymode as pm
from tests.toys import blobs
data = blobs()
model = pm.create(sys.argv[2], data.spec, seed=0)
# SGD, because Adam turns a gradient of nothing but rounding into a whole step of either sign
pm.fit(model, data, out=sys.argv[1], steps=5, batch_size=int(sys.argv[3]), seed=0, device="cpu", keep_best=False,
       optimizer="sgd", learning_rate=1e-2)
"""


@pytest.mark.parametrize("name", ["made", pytest.param("realnvp", marks=pytest.mark.slow)])
def test_two_processes_equal_one_at_double_batch(tmp_path, name):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED)
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    subprocess.run([*two, str(tmp_path / "two"), name, "16"], env=environment, check=True)
    subprocess.run([sys.executable, str(script), str(tmp_path / "one"), name, "32"], env=environment, check=True)
    one, two_ = load(tmp_path / "one").state_dict(), load(tmp_path / "two").state_dict()
    for key, value in one.items():
        torch.testing.assert_close(value, two_[key], rtol=1e-5, atol=1e-5, msg=key)


class Diverging(GenerativeModel):
    """Its loss is fine for some steps and then not a number, at any rate above a limit."""

    defaults: ClassVar = TrainingDefaults(schedule="constant", optimizer="sgd", clip=None)

    def __init__(self, spec, condition_spec=None, *, limit: float = 0.0) -> None:
        super().__init__(spec, condition_spec)
        self.limit = limit
        self.weight = nn.Parameter(torch.zeros(()))

    def loss(self, x, condition=None, *, generator):
        # each step moves the weight by the rate: 20 steps at the first rate end in nan
        bad = self.weight.detach() < -20 * self.limit
        return Loss((self.weight + (torch.nan if bad else 0.0)).expand(len(x)))

    def _sample(self, n, condition, generator):
        return torch.zeros(n, *self.spec.shape)


class Falling(GenerativeModel):
    """A loss whose slope is the same everywhere: (3, 4), of norm 5."""

    defaults: ClassVar = TrainingDefaults(schedule="constant", optimizer="sgd", betas=(0.0, 0.0), ema=0.0)

    def __init__(self, spec, condition_spec=None) -> None:
        super().__init__(spec, condition_spec)
        self.weight = nn.Parameter(torch.zeros(2))

    def loss(self, x, condition=None, *, generator):
        return Loss((self.weight * torch.tensor([3.0, 4.0])).sum().expand(len(x)))

    def _sample(self, n, condition, generator):
        return torch.zeros(n, *self.spec.shape)


@pytest.mark.parametrize(("clip", "norm"), [(10.0, 5.0), (2.5, 2.5)])
def test_gradients_are_no_longer_than_clip(clip, norm):
    data = blobs()
    model = Falling(data.spec)
    pm.fit(model, data, steps=4, learning_rate=0.1, clip=clip, validate_every=0)
    torch.testing.assert_close(model.weight.detach(), -0.4 * norm * torch.tensor([0.6, 0.8]))


def test_divergence_rolls_back_lowers_the_rate_and_stops_with_a_sentence(tmp_path):
    data = blobs()
    model = Diverging(data.spec, limit=1e-3)
    with pytest.raises(TrainingError, match=r"diverged 4 times.*lower learning_rate"):
        pm.fit(model, data, steps=1_000_000, learning_rate=1e-2, checkpoint_every=5, out=tmp_path, validate_every=0)
    rollbacks = [e for e in read_history(tmp_path) if e["kind"] == "rollback"]
    assert len(rollbacks) == 4
    assert "became nan" in rollbacks[0]["message"]
    saved = torch.load(tmp_path / "trainer.pt", weights_only=True)
    assert torch.isfinite(saved["model"]["weight"])
    assert saved["counters"]["rate"] == pytest.approx(0.3**4)


def test_fit_keeps_the_best_validated_weights_and_stops_early():
    data = blobs(100)
    model = small_vae(data)
    run = pm.fit(model, data, steps=5000, patience=3, validate_every=20, learning_rate=1e-2, batch_size=20)
    validations = [e["loss"] for e in run.history if e["kind"] == "validation"]
    assert run.steps < 5000
    assert min(validations) == validations[-4]
    assert validations[-1] > min(validations)


def test_budgets_end_training():
    data = blobs()
    assert pm.fit(small_vae(data), data, steps=7).steps == 7
    assert pm.fit(small_vae(data), data, epochs=2, batch_size=60).steps == 2 * (240 // 60)
    assert 0.5 < pm.fit(small_vae(data), data, minutes=0.01).seconds < 3


def test_same_seed_same_weights():
    data = blobs()
    runs = [pm.fit(small_vae(data), data, steps=10, seed=s) for s in (3, 3, 4)]
    weights = [r.model.decoder.last.weight for r in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bf16_matches_fp32_within_a_percent():
    data = blobs(2000)
    losses = []
    for precision in ("fp32", "bf16"):
        run = pm.fit(small_vae(data), data, steps=200, precision=precision)
        losses.append([e["loss"] for e in run.history if e["kind"] == "validation"][-1])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_run_is_a_folder_of_named_files(tmp_path):
    data = blobs(labels=True)
    model = pm.create("vae", data.spec, data.condition_spec, latent_dims=2, hidden=[8], seed=0)
    pm.fit(model, data, steps=3, out=tmp_path, facts={"command": "polymode fit blobs"})
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "metrics.jsonl", "trainer.pt", "README.md"
    }  # fmt: skip
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"] == "vae"
    assert config["data"]["fingerprint"] == data.fingerprint
    assert config["command"] == "polymode fit blobs"
    assert "Source of the data" in (tmp_path / "README.md").read_text()


def test_another_model_in_the_same_folder_is_refused(tmp_path):
    data = blobs()
    pm.fit(small_vae(data), data, steps=2, out=tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another data"):
        pm.fit(small_vae(data), blobs(seed=1), steps=2, out=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        pm.fit(pm.create("made", data.spec), data, steps=2, out=tmp_path, resume=True)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    data = blobs()
    pm.fit(small_vae(data), data, steps=2, out=tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("model.safetensors", "trainer.pt", "config.json")}

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*intact"):
        pm.fit(small_vae(data), data, steps=4, out=tmp_path, resume=True)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"step": 3}, "no option 'step'; did you mean 'steps'"),
        ({"steps": 0}, "steps=0, expected a number above 0"),
        ({"precision": "int8"}, "precision='int8' is not a choice"),
        ({"ema": 1.5}, "expected 0 <= ema < 1"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    data = blobs()
    with pytest.raises(PolymodeError, match=sentence):
        pm.fit(small_vae(data), data, **options)


def test_data_of_another_form_is_refused():
    data = blobs()
    with pytest.raises(DataError, match="the model was made for vector 3 of reals"):
        pm.fit(pm.create("vae", specs.vector(3)), data, steps=1)
    labelled = pm.create("vae", data.spec, pm.ConditionSpec(label=2))
    with pytest.raises(ConditionError, match="gives no condition"):
        pm.fit(labelled, data, steps=1)
