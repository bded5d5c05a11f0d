"""Training with remedies: attempts are judged, the healthy one is kept, nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polymode.app.cli.main import main
from polymode.app.service import remedies, runs
from polymode.app.service.remedies import REMEDIES, remedies_for
from polymode.catalogue import load, select
from polymode.core.errors import PolymodeError, TrainingError

FIT = ["fit", "8gaussians", "--model", "gan", "--set", "hidden=[8]", "--steps", "2", "--quiet", "--remedy", "auto"]


def verdict(healthy: bool, covered: float) -> dict[str, object]:
    return {"healthy": healthy, "covered": covered, "sentence": "healthy" if healthy else f"covers {covered}"}


def judge(monkeypatch: pytest.MonkeyPatch, *verdicts: dict[str, object] | BaseException) -> list[str]:
    """The verdicts that attempts will get, in order; returns the names of the runs that were judged."""
    asked: list[str] = []

    def judged(folder: Path, source: str, reading: dict[str, object]) -> dict[str, object]:
        asked.append(folder.name)
        found = verdicts[len(asked) - 1]
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(remedies, "_judged", judged)
    return asked


def test_every_remedy_is_known_to_an_adversarial_model():
    found = {remedy.name for row in select(family="gan") for remedy in REMEDIES if remedy in _try(row.name)}
    assert found == {remedy.name for remedy in REMEDIES}
    for remedy in REMEDIES:
        assert remedy.source


def _try(name: str) -> list[remedies.Remedy]:
    try:
        return remedies_for(name, {"penalty": "none"})
    except PolymodeError:
        return []


def test_what_a_model_already_does_is_no_remedy():
    assert "r1-penalty" not in {r.name for r in remedies_for("gan", {})}
    assert "r1-penalty" in {r.name for r in remedies_for("gan", {"penalty": "none"})}
    assert "spectral-norm" not in {r.name for r in remedies_for("sngan", {})}
    with pytest.raises(PolymodeError, match="vae, which has no remedy"):
        remedies_for("vae", {})
    assert load(select(family="gan")[0]).__name__ == "GAN"


def test_the_first_healthy_attempt_is_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked = judge(monkeypatch, verdict(False, 0.1), verdict(True, 0.2))
    assert main([*FIT, "--out", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert asked == ["0-as-asked", "1-two-time-scales"]
    assert told["notes"][-1] == "two time scales: healthy, and kept"
    run = runs.read_run(tmp_path / "run")
    assert run.arguments == {"hidden": [8], "critic_rate": 4.0}
    assert runs.is_finished(run.folder)
    assert (run.folder / runs.REPORT).is_file()
    written = json.loads((run.folder / runs.VERDICTS).read_text())
    assert [v["attempt"] for v in written] == ["as-asked", "two-time-scales"]
    assert main([*FIT, "--out", str(tmp_path / "run"), "--resume"]) == 0  # finished: nothing is done
    assert len(asked) == 2


def test_where_none_is_healthy_the_one_that_covers_most_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shares = [0.1, 0.2, 0.9, 0.3, 0.2, 0.2, 0.1, 0.0]
    judge(monkeypatch, *(verdict(False, share) for share in shares))
    assert main([*FIT, "--out", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "no remedy made it healthy; minibatch deviation covers most and was kept" in told["notes"][-1]
    assert runs.read_run(tmp_path / "run").arguments["minibatch"] == "deviation"


def test_the_same_command_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = str(tmp_path / "run")
    judge(monkeypatch, verdict(False, 0.1), KeyboardInterrupt())
    assert main([*FIT, "--out", out]) == 130
    before = (tmp_path / "run/attempts/0-as-asked/model.safetensors").stat().st_mtime_ns
    judge(monkeypatch, verdict(False, 0.1), verdict(True, 0.5))
    assert main([*FIT, "--out", out]) == 0
    assert (tmp_path / "run/attempts/0-as-asked/model.safetensors").stat().st_mtime_ns == before


def test_an_attempt_that_diverged_is_followed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = remedies.fit

    def diverging(request, **more):
        if request.out.endswith("0-as-asked"):
            raise TrainingError("training diverged")
        return plain(request, **more)

    monkeypatch.setattr(remedies, "fit", diverging)
    judge(monkeypatch, verdict(True, 0.5))
    assert main([*FIT, "--out", str(tmp_path / "run"), "--set", "penalty=none"]) == 0
    written = json.loads((tmp_path / "run" / runs.VERDICTS).read_text())
    assert [(v["attempt"], v["healthy"]) for v in written] == [("as-asked", False), ("r1-penalty", True)]
    assert written[0]["sentence"] == "training diverged"


def test_labels_are_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = judge(monkeypatch, *(verdict(False, 0.1) for _ in range(7)))
    words = ["fit", "digits", *FIT[2:], "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert [name.partition("-")[2] for name in asked] == [
        "as-asked", "two-time-scales", "minibatch-deviation", "mixture-noise", "spectral-norm", "wasserstein-gp",
        "unrolling",
    ]  # fmt: skip
