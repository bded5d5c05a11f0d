"""The studio's service side: jobs that survive, lessons that replay, uploads and requests that are refused."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import polymode as pm
import polymode.core.spec as specs
from polymode.app.service import workshop
from polymode.app.service.complete import complete_drawn, is_same_picture, picture_of
from polymode.app.service.editing import Edits, directions, named
from polymode.app.service.jobs import Jobs, Runner
from polymode.app.service.learning import Lesson, make_request, target_density
from polymode.app.service.restore import restore
from polymode.app.service.sample import sample
from polymode.app.service.schemas import FitRequest, LatentsRequest, RestoreRequest, SampleRequest, make
from polymode.app.service.workshop import Kept, Shelf
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, ConditionError, DataError, PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.data.write import write_samples

WEIGHTS = [math.exp(-(((i - 8) / 4) ** 2) / 2) + 0.05 for i in range(24)]


# -- lessons -----------------------------------------------------------------------------------------------------------
def test_the_divergence_from_a_histogram_falls_at_every_frame_and_replays():
    """At no less than 95 % of frames, and below 0.01 at the end; the same from a seed."""
    request = make_request(
        target="histogram", model="made", weights=WEIGHTS, steps=160, every=4, settings={"hidden": (32,)}
    )
    first, again = (list(Lesson(request).frames()) for _ in range(2))
    values = [frame.distance for frame in first]
    assert first[0].step == 0
    assert first[-1].step == 160
    assert values[0] > 0.1
    assert values[-1] < 0.01
    assert sum(b <= a for a, b in itertools.pairwise(values)) >= 0.95 * (len(values) - 1)
    assert values == [frame.distance for frame in again]
    assert all((a.samples == b.samples).all() for a, b in zip(first, again, strict=True))
    # the number is the divergence of the bars that are shown
    p, q = target_density(request), first[-1].density
    assert sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0) == pytest.approx(values[-1])


def test_a_lesson_waits_for_each_frame_and_ends_when_it_is_closed():
    lesson = Lesson(make_request(target="moons", model="realnvp", steps=40, every=10, settings={"hidden": (8,)}))
    frames = [lesson.next(), lesson.next()]
    assert [f.step for f in frames] == [0, 10]
    assert frames[1].density.shape == (64, 64)
    lesson.close()
    assert lesson.next() is None


def test_one_without_a_likelihood_is_measured_by_its_samples():
    frames = list(Lesson(make_request(target="8gaussians", model="gan", steps=4, every=4)).frames())
    assert frames[-1].density is None
    assert "sliced Wasserstein" in frames[-1].meaning
    fitted = list(Lesson(make_request(target="8gaussians", model="gmm")).frames())
    assert len(fitted) == 1
    assert fitted[0].distance < 0.1


@pytest.mark.parametrize(("model", "meaning"), [("made", "test bits a pixel, exact"), ("rbm", "sliced Wasserstein")])
def test_digits_are_shown_as_pictures(model, meaning):
    request = make_request(
        target="digits", model=model, steps=30, every=30, settings={"hidden": 16 if model == "rbm" else (32,)}
    )
    first, last = Lesson(request).frames()
    assert last.samples.shape == (48, 48)
    assert last.meaning.startswith(meaning)
    assert last.distance < first.distance
    assert target_density(request).shape == (48, 48)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target": "8gausians"}, "did you mean"), ({"model": "realnpv"}, "did you mean"),
        ({"model": "gru"}, "can't take"), ({"steps": 0}, "steps"),
        ({"target": "histogram", "model": "made", "weights": [0.0, 0.0]}, "draw a bar"),
        ({"target": "histogram", "model": "made", "weights": [1.0]}, "2 to 128"),
        ({"settings": {"hiden": 3}}, "did you mean"),
    ],
)  # fmt: skip
def test_what_can_t_be_watched_is_refused(values, sentence):
    with pytest.raises(PolymodeError, match=sentence):
        Lesson(make_request(**values))


# -- jobs --------------------------------------------------------------------------------------------------------------
def request_for(out: Path, **training) -> FitRequest:
    return make(
        FitRequest,
        {"data": "digits", "model": "realnvp", "out": str(out), "settings": {"hidden": (16,)}, "report": False,
         "training": {"checkpoint_every": 10, **training}},
    )  # fmt: skip


def wait_for(jobs: Jobs, number: int, *states: str, seconds: float = 90) -> str:
    deadline = time.monotonic() + seconds
    while (state := jobs.get(number).state) not in states:
        assert time.monotonic() < deadline, f"still {state}: {jobs.get(number)}"
        time.sleep(0.1)
    return state


def test_jobs_run_one_after_another_and_a_mistake_is_told_before(tmp_path):
    jobs = Jobs(tmp_path / "jobs.sqlite")
    with pytest.raises(PolymodeError, match="no model"):
        jobs.add(make(FitRequest, {"data": "digits", "out": str(tmp_path / "x")}))
    with pytest.raises(PolymodeError, match="there is no job 7"):
        jobs.get(7)
    one = jobs.add(request_for(tmp_path / "one", steps=3))
    with pytest.raises(PolymodeError, match="already"):
        jobs.add(request_for(tmp_path / "one", steps=3))
    two = jobs.add(request_for(tmp_path / "two", steps=3))
    assert jobs.stop(two.id).state == "stopped"
    runner = Runner(jobs)
    runner.start()
    try:
        assert wait_for(jobs, one.id, "done", "failed") == "done"
    finally:
        runner.close()
    assert (tmp_path / "one" / "model.safetensors").is_file()
    assert not (tmp_path / "two").exists()


def test_a_job_is_stopped_goes_on_and_survives_the_death_of_its_server(tmp_path):
    jobs = Jobs(tmp_path / "jobs.sqlite")
    job = jobs.add(request_for(tmp_path / "run", minutes=10))
    runner = Runner(jobs)
    runner.start()
    metrics = tmp_path / "run" / "trainer.pt"
    deadline = time.monotonic() + 90
    while not metrics.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    begun = time.monotonic()
    jobs.stop(job.id)
    assert jobs.get(job.id).state == "stopping"
    assert time.monotonic() - begun < 1
    wait_for(jobs, job.id, "stopped")
    again = jobs.go_on(job.id)
    wait_for(jobs, again.id, "running")
    deadline = time.monotonic() + 60
    while jobs.get(again.id).pid is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # the server dies in the middle: its process too, as when the machine goes down
    pid = jobs.get(again.id).pid
    runner.ended.set()
    os.kill(pid, signal.SIGKILL)
    runner.join(30)
    jobs.set(again.id, "running", pid=pid)
    settled = Jobs(tmp_path / "jobs.sqlite").recover()
    assert [(j.id, j.state, j.message) for j in settled] == [(again.id, "queued", "resumed after a restart")]
    assert settled[0].request["resume"]


def test_a_failure_is_told(tmp_path):
    jobs = Jobs(tmp_path / "jobs.sqlite")
    job = jobs.add(request_for(tmp_path / "run", steps=3))
    jobs.set(job.id, "queued", request=json.dumps(job.request | {"settings": {"hidden": [-3]}}))
    runner = Runner(jobs)
    runner.start()
    try:
        assert wait_for(jobs, job.id, "done", "failed") == "failed"
    finally:
        runner.close()
    assert jobs.get(job.id).message


# -- runs, uploads, recipes --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    data = pm.data.load("digits")
    pm.fit(pm.create("ppca", data.spec, seed=0), data, out=root / "ppca", seed=0)
    return Shelf(root)


def test_names_that_lead_out_are_refused(shelf, tmp_path):
    assert shelf.names() == ["ppca"]
    for name in ("../ppca", "/etc", str(shelf.root / "ppca"), "ppca/../../x", "", "nothing", "ppca\x00"):
        with pytest.raises((PolymodeError, ValueError)):
            shelf.folder(name)
    for name in ("../x", "a/b", ".hidden", "", "<script>"):
        with pytest.raises(PolymodeError, match="no name for a run"):
            shelf.new(name)


def test_a_picture_brings_its_settings_and_the_same_bytes(shelf, tmp_path):
    request = SampleRequest(run=str(shelf.folder("ppca")), n=6, seed=11, out=str(tmp_path / "a.png"))
    sample(request)
    found = workshop.recipe_of(tmp_path / "a.png", shelf)
    assert found == {"run": "ppca", "n": 6, "seed": 11, "given": {}, "negative": {}, "options": {}}
    old = {"run": "ppca", "n": 6, "seed": 11, "condition": "label 3"}  # before "given" was told
    digits = pm.data.load("digits")
    write_samples(digits.spec, digits.test.x[:6], tmp_path / "old.png", provenance=old)
    assert workshop.recipe_of(tmp_path / "old.png", shelf)["given"] == {"label": "3"}
    kept = Kept()
    sample(request.model_copy(update={"out": str(tmp_path / "b.png")}), load=kept)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert kept(shelf.folder("ppca")) is kept(shelf.folder("ppca"))
    plain = tmp_path / "plain.png"
    pytest.importorskip("PIL.Image").new("L", (4, 4)).save(plain)
    with pytest.raises(PolymodeError, match="carries no recipe"):
        workshop.recipe_of(plain, shelf)


def test_a_picture_drawn_from_words_brings_them_back(tmp_path):
    """A prompt, what to lead away from, the scale: settings of the picture, which draw the same bytes."""
    g = torch.Generator().manual_seed(0)
    spec = specs.image(3, 8, 8, levels=4)
    words = ConditionSpec(tokens=(4, 2), token_symbols=("", "red", "heart", "sunrise"))
    rows = Split(torch.randint(4, (8, 3, 8, 8), generator=g).to(spec.dtype), Condition(tokens=torch.ones(8, 2).long()))
    data = DataSet("signs", spec, rows, rows, rows, words)
    model = pm.create("edm", spec, words, seed=0, widths=(8,), condition_by="attention", drop=0.5)
    pm.fit(model, data, steps=2, batch_size=8, seed=0, out=tmp_path / "runs" / "signs")
    shelf, drawn = Shelf(tmp_path / "runs"), tmp_path / "drawn.png"
    told = {"given": {"tokens": "red heart"}, "negative": {"tokens": "sunrise"}}
    asked = told | {"options": {"guidance_scale": 2.0, "steps": 3}}
    sample(SampleRequest(run=str(shelf.folder("signs")), n=4, seed=5, out=str(drawn), **asked))
    found = workshop.recipe_of(drawn, shelf)
    assert found == {"run": "signs", "n": 4, "seed": 5, **asked}
    again = SampleRequest(**(found | {"run": str(shelf.folder("signs")), "out": str(tmp_path / "again.png")}))
    sample(again)
    assert drawn.read_bytes() == (tmp_path / "again.png").read_bytes()
    sample(again.model_copy(update={"given": {"tokens": "sunrise"}, "out": str(tmp_path / "other.png")}))
    assert drawn.read_bytes() != (tmp_path / "other.png").read_bytes()


FORGETS = """
import sys
from pathlib import Path
from polymode.app.studio.server import PAGES, _check_packages, blocks
_check_packages()
import gradio
from polymode.app.service.jobs import Jobs
from polymode.app.service.workshop import Shelf
from polymode.app.studio.base import Bench
root = Path(sys.argv[1])
pages = blocks(Bench(Shelf(root), Jobs(root / "jobs.sqlite"), root), None)
kept = gradio.routes.App.create_app(pages).state_holder
for i in range(PAGES + 5):
    kept[f"page {i}"]
print(len(kept.session_data) == PAGES, "page 4" in kept, "page 5" in kept)
"""


def test_pages_that_were_left_are_forgotten(tmp_path):
    """Gradio would keep the state of 10,000, half a MiB each; in a process of its own, as it leaves loops open."""
    pytest.importorskip("gradio", reason="needs polymode[studio]")
    told = subprocess.run([sys.executable, "-c", FORGETS, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert told.stdout.split() == ["True", "False", "True"], told.stderr


def archive(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
        if link is not None:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            made.writestr(info, "/etc/passwd")
    return path


def test_archives_are_opened_and_the_dangerous_refused(tmp_path):
    good = workshop.opened(archive(tmp_path / "good.zip", {"set/a.txt": b"a" * 90, "set/b.txt": b"b"}), tmp_path)
    assert sorted(p.name for p in good.iterdir()) == ["a.txt", "b.txt"]
    before = {p.name for p in tmp_path.iterdir()}
    bad = {
        "up": ({"../up.txt": b"x"}, None), "root": ({"/root.txt": b"x"}, None), "drive": ({"C:\\x.txt": b"x"}, None),
        "link": ({"a.txt": b"x"}, "passwd"), "bomb": ({"zeros": bytes(40 * 2**20)}, None),
    }  # fmt: skip
    for name, (members, link) in bad.items():
        path = archive(tmp_path / f"{name}.zip", members, link)
        with pytest.raises(DataError):
            workshop.opened(path, tmp_path)
        path.unlink()
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match="no archive"):
        workshop.opened(tmp_path / "torn.zip", tmp_path)
    (tmp_path / "torn.zip").unlink()
    assert {p.name for p in tmp_path.iterdir()} == before


def test_a_picture_of_absurd_size_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "huge.png").write_bytes(png)
    with pytest.raises(DataError, match=r"huge\.png"):
        workshop.opened(tmp_path / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png"):
        workshop.opened(archive(tmp_path / "set.zip", {"set/huge.png": png}), tmp_path)


def test_every_model_explains_itself():
    from polymode import catalogue

    for row in catalogue.MODELS:
        found = workshop.explained(row.name)
        assert found["text"]
        assert (Path(pm.__file__).parents[1] / found["file"]).is_file()
        untold = [o["option"] for o in found["options"] if not o["meaning"]]
        assert not untold, f"{row.name} does not say what {untold} are"


# -- mending, painting, editing ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def mending(shelf, tmp_path_factory):
    """Runs of the digits: a model with codes, and diffusion with and without labels, trained for four steps."""
    root = tmp_path_factory.mktemp("mending")
    data = pm.data.load("digits")
    (root / "ppca").symlink_to(shelf.folder("ppca"))
    for name, condition_spec in (("ddpm", None), ("labelled", data.condition_spec)):
        model = pm.create("ddpm", data.spec, condition_spec, seed=0, widths=(8, 16), likelihood_steps=5)
        pm.fit(model, data, out=root / name, steps=4, seed=0)
    return root


def uploads(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    """Pictures in colour of (width, height)."""
    from PIL import Image

    rng, made = np.random.default_rng(3), []
    for i, (width, height) in enumerate(sizes):
        made.append(folder / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(made[-1])
    return made


def tiles(path: str | Path, across: int):
    """The pictures of a sheet of 8 x 8 digits, (N, 8, 8)."""
    from PIL import Image

    pixels, step = np.asarray(Image.open(path)), 66
    assert pixels.shape[1] == across * step - 2
    found = [pixels[i : i + 64 : 8, j : j + 64 : 8] for i in range(0, len(pixels), step)
             for j in range(0, pixels.shape[1], step)]  # fmt: skip
    return np.stack(found)


def cli(*words: object) -> None:
    from polymode.app.cli.main import main

    assert main([*map(str, words)]) == 0


VERBS = [
    ("ddpm", "upscale", {"factor": 4}), ("ddpm", "denoise", {"noise": 3.0}), ("ddpm", "deblur", {"blur": 0.7}),
    ("ddpm", "complete", {"known": "left"}), ("ddpm", "vary", {"strength": 0.3}),
    ("labelled", "vary", {"strength": 0.6, "given": {"label": "3"}}), ("ppca", "denoise", {}),
    ("ppca", "complete", {}), ("ppca", "vary", {"strength": 0.4}),
]  # fmt: skip


@pytest.mark.parametrize(("run", "task", "own"), VERBS)
def test_the_studio_mends_what_the_command_mends(mending, tmp_path, run, task, own):
    """Test rows and uploaded pictures: the same bytes at the same seed."""
    kept, folder = Kept(), str(mending / run)
    flags = [w for k, v in own.items() for w in ([f"--{k}", f"label={v['label']}"] if k == "given" else [f"--{k}", v])]
    request = make(
        RestoreRequest, {"run": folder, "task": task, "n": 3, "seed": 5, "out": str(tmp_path / "page.png"), **own}
    )
    found = restore(request, load=kept)
    cli("restore", folder, "--task", task, "-n", 3, "--seed", 5, "-o", tmp_path / "typed.png", *flags)
    assert (tmp_path / "page.png").read_bytes() == (tmp_path / "typed.png").read_bytes()
    assert ("consistency" in found) == ("psnr_plain" in found) == (task != "vary")

    given = uploads(tmp_path, (20, 12), (8, 8))
    asked = {"sources": list(map(str, given)), "out": str(tmp_path / "page")}
    restore(request.model_copy(update=asked), load=kept, sheet=tmp_path / "sheet.png")
    cli("restore", folder, *given, "--task", task, "--seed", 5, "-o", tmp_path / "typed", *flags)
    for name in ("0.png", "1.png"):
        assert (tmp_path / "page" / name).read_bytes() == (tmp_path / "typed" / name).read_bytes()
    assert len(tiles(tmp_path / "sheet.png", 4)) == 4


def test_what_a_model_has_no_way_to_do_is_told_in_a_sentence(mending, tmp_path):
    cases = [
        ("ppca", "upscale", CapabilityError, "PPCA .* has no restore"), ("ddpm", "colourise", DataError, "no colours"),
        ("labelled", "vary", ConditionError, "given label, and none came"),
    ]  # fmt: skip
    for run, task, kind, told in cases:
        sources = list(map(str, uploads(tmp_path, (8, 8)))) if run == "labelled" else []
        values = {"run": str(mending / run), "task": task, "n": 1, "sources": sources, "seed": 0,
                  "out": str(tmp_path / f"{task}.png")}  # fmt: skip
        with pytest.raises(kind, match=told) as error:
            restore(make(RestoreRequest, values))
        assert "\n" not in str(error.value)
    with pytest.raises(ConditionError, match="label came; leave it out"):
        restore(make(RestoreRequest, {"run": str(mending / "ddpm"), "task": "vary", "given": {"label": "3"}}))


@pytest.mark.parametrize(("run", "given"), [("ppca", {}), ("ddpm", {}), ("labelled", {"label": "7"})])
def test_an_uploaded_picture_is_completed_where_it_was_painted(mending, tmp_path, run, given):
    """It is fitted as files are; painted pixels are drawn anew, the others stay."""
    from PIL import Image

    from polymode.data.readers.images import fitted

    file = uploads(tmp_path, (40, 24))[0]
    picture = np.asarray(Image.open(file))
    painted = np.zeros((24, 40), dtype=bool)
    painted[:, 8:20] = True  # the left half of the 24 x 24 about the centre
    told = complete_drawn(
        mending / run, 0, painted, tmp_path / "filled.png", picture=picture, given=given, each=3, seed=1, load=Kept()
    )
    shown = tiles(tmp_path / "filled.png", 5)
    model = pm.load(mending / run)
    whole = np.round(fitted(file, model.spec)[0].numpy() * (255 / (model.spec.levels - 1)))
    assert (shown[-1] == whole).all()
    assert (shown[0, :, :4] == 128).all()
    assert (shown[:, :, 4:] == whole[:, 4:]).all()
    assert all((draw[:, :4] != whole[:, :4]).any() for draw in shown[1:4])
    assert told["unknown"] == "50% of the picture"
    assert (told["what is known"], told["picture"]) == ("unchanged", "40x24, fitted to 8x8")
    beyond = np.zeros_like(painted)
    beyond[:, :8] = True
    with pytest.raises(PolymodeError, match="nothing was painted over"):
        complete_drawn(mending / run, 0, beyond, tmp_path / "x.png", picture=picture, given=given)


def test_transparency_goes_onto_white_and_other_arrays_are_refused(mending, tmp_path):

    painted = np.zeros((8, 8), dtype=bool)
    painted[:4] = True
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    complete_drawn(mending / "ppca", 0, painted, tmp_path / "filled.png", picture=clear, each=1)
    assert (tiles(tmp_path / "filled.png", 3)[-1] == 255).all()
    with pytest.raises(DataError, match="expected \\(H, W, 3\\)"):
        complete_drawn(mending / "ppca", 0, painted, tmp_path / "x.png", picture=clear[..., 0])
    with pytest.raises(ConditionError, match="given label, and none came"):
        complete_drawn(mending / "labelled", 0, painted, tmp_path / "x.png", picture=clear[..., :3])


def test_a_picture_is_known_when_it_comes_back_from_a_canvas(mending):
    """With rounded colours and a fourth channel; another one of its size is not."""
    picture = picture_of(mending / "ppca", 3, least=100)
    assert picture.shape == (104, 104, 3)
    back = np.concatenate([picture.clip(3, 252), np.full((104, 104, 1), 255, np.uint8)], -1)
    assert is_same_picture(picture, back)
    assert not is_same_picture(picture, back[:, ::-1])
    assert not is_same_picture(picture, back[:96])
    assert not is_same_picture(picture_of(mending / "ppca", 4, least=100), back)


def test_a_slider_moves_rows_as_the_command_does(mending, tmp_path, monkeypatch):
    """One strength of an edit is a column of the command's sheet; the direction is learned at the first only."""
    from polymode.app.service import latents as service

    assert directions(mending / "ppca")[:10] == list("0123456789")
    assert directions(mending / "ppca")[10:] == [f"principal:{k}" for k in range(1, 6)]
    learned = []
    begin = service.edit_of
    monkeypatch.setattr(service, "edit_of", lambda *given: learned.append(given) or begin(*given))
    kept = Kept()
    edits = Edits(kept)
    for direction, flag in (("3", "--attribute"), ("principal:2", "--direction")):
        out = tmp_path / "typed.png"
        strengths = ["--strength", "-2", "--strength", "1.5"]
        cli("latents", "edit", mending / "ppca", "-n", 4, "--seed", 2, flag, direction, *strengths, "--out", out)
        sheet = tiles(out, 3).reshape(4, 3, 8, 8)  # a row a datum, itself in front
        learned.clear()
        for column, strength in ((1, -2.0), (2, 1.5)):
            values = {"verb": "edit", "run": str(mending / "ppca"), "n": 4, "seed": 2, "strengths": [strength],
                      "out": str(tmp_path / "moved.png"), **named(direction)}  # fmt: skip
            found = edits(make(LatentsRequest, values))
            assert (tiles(found["out"], 4).reshape(2, 4, 8, 8) == sheet[:, [0, column]].swapaxes(0, 1)).all()
        assert len(learned) == 1
    with pytest.raises(ConditionError, match="there is no label 'smile'"):
        edits(make(LatentsRequest, values | {"attribute": "smile", "direction": None}))


# -- the server --------------------------------------------------------------------------------------------------------
def test_an_address_for_others_needs_a_password():
    for words in (["--host", "0.0.0.0"], ["--auth", "me:short"], ["--auth", "nobody"]):
        done = subprocess.run(
            [sys.executable, "-m", "polymode", "studio", *words], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        assert done.stderr.startswith("polymode: ")
        assert "--auth" in done.stderr


def test_requests_of_other_origins_and_names_are_refused():
    anyio = pytest.importorskip("anyio")
    from polymode.app.studio.server import LOOPBACK, Guard

    async def inside(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    def asked(method: str, **headers: str) -> tuple[int, dict[bytes, bytes]]:
        sent = []

        async def send(message):
            sent.append(message)

        raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        scope = {"type": "http", "method": method, "path": "/", "headers": raw}
        anyio.run(Guard(inside, LOOPBACK), scope, None, send)
        return sent[0]["status"], dict(sent[0]["headers"])

    here = {"host": "127.0.0.1:7860"}
    status, headers = asked("GET", **here)
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert asked("POST", **here, origin="http://127.0.0.1:7860")[0] == 200
    assert asked("POST", **here, origin="https://evil.example")[0] == 403
    assert asked("POST", **here, origin="null")[0] == 403
    assert asked("POST", **here, sec_fetch_site="cross-site")[0] == 403
    assert asked("GET", host="evil.example")[0] == 400
