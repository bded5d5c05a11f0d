"""Fit: choose or upload data, see what was understood, choose a model, train it in the queue."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service import data as sources
from polymode.app.service import models as listing
from polymode.app.service import runs, workshop
from polymode.app.service.jobs import Job
from polymode.app.service.schemas import DataOptions, FitRequest, FitSettings, make
from polymode.app.studio import draw
from polymode.app.studio.base import Bench, settings, told
from polymode.app.studio.preview import preview

#: lines of a job's log that are shown
LINES = 12


def page(bench: Bench) -> None:
    """The page."""

    @told
    def understand(name: str, upload: str | None, options: str) -> tuple[str, Any, str]:
        """(what was understood, the models that take it, where it lies)."""
        source = name if upload is None else str(workshop.opened(upload, bench.work))
        reading = make(DataOptions, settings(options)).arguments()
        found = sources.describe(source, reading)
        rows = found["rows"] if isinstance(found.get("rows"), dict) else {}
        given = found.get("condition") or {}
        spelled = ", ".join(word for key in ("label_names", "token_symbols") for word in given.get(key, ()) if word)
        facts = [
            ("name", found["name"]), ("what", f"{found['signature']}, {'x'.join(map(str, found['shape']))}"),
            *((f"{part} rows", f"{count:,}") for part, count in rows.items()),
            ("beside each", spelled[:120] or " and ".join(given) or "nothing"),
            ("licence", found["licence"]), *(("note", note) for note in found.get("notes", ())),
        ]  # fmt: skip
        folder = Path(tempfile.mkdtemp(dir=bench.work))
        shown = draw.facts(facts) + preview(sources.some_rows(source, reading, folder))
        if found["columns"]:
            shown += draw.table(found["columns"])
        names = [m["name"] for m in found["models"]]
        first = next((n for n in ("realnvp", "gru", "ngram") if n in names), names[0] if names else None)
        return shown, gr.update(choices=names, value=first), source

    @told
    def explain(model: str | None) -> str:
        return "" if model is None else draw.paper(workshop.explained(model))

    @told
    def start(
        source: str, reading: str, model: str, chosen: str, name: str, minutes: float, seed: float, report: bool
    ) -> tuple[str, Any]:
        if not source:
            raise gr.Error("press read first: the data have not been looked at")
        name = (name or "").strip() or f"{model}-{sources.short_name(source)}-{time.strftime('%H%M%S')}"
        request = make(
            FitRequest,
            {
                "data": source, "model": model, "settings": settings(chosen), "out": str(bench.shelf.new(name)),
                "reading": make(DataOptions, settings(reading)), "report": report,
                "training": make(FitSettings, {"minutes": minutes, "seed": int(seed)}), "command": "polymode studio",
            },
        )  # fmt: skip
        job = bench.jobs.add(request)
        return board(), gr.update(choices=_choices(bench), value=str(job.id))

    def board() -> str:
        """All jobs, the newest first."""
        return draw.table([_row(job) for job in bench.jobs.all(20)])

    def look(number: str | None) -> str:
        """One job: its course, its numbers, its last words."""
        if not number:
            return ""
        job = bench.jobs.get(int(number))
        entries = [e for e in runs.read_history(job.run) if e.get("kind") in ("train", "validation")]
        cards = []
        for kind in ("train", "validation"):
            some = [e for e in entries if e["kind"] == kind]
            keys = [k for k in (some[0] if some else {}) if k not in ("kind", "step", "seconds")]
            if keys:
                drawn = draw.curve([e.get(keys[0]) for e in some], [e["step"] for e in some], label=f"{kind} {keys[0]}")
                last = ", ".join(f"{k} {some[-1].get(k, float('nan')):.4g}" for k in keys[:4])
                cards.append(draw.card(kind, f"step {some[-1]['step']:,}: {last}", drawn))
        log = job.log.read_text(encoding="utf-8", errors="replace") if job.log.is_file() else ""
        return draw.row(cards) + f'<pre class="pm-text">{draw.html.escape(_tail(log))}</pre>'

    def tick(number: str | None) -> tuple[str, str]:
        return board(), look(number)

    @told
    def stop(number: str | None) -> str:
        if number:
            bench.jobs.stop(int(number))
        return board()

    @told
    def go_on(number: str | None) -> tuple[str, Any]:
        if not number:
            raise gr.Error("choose a job first")
        job = bench.jobs.go_on(int(number))
        return board(), gr.update(choices=_choices(bench), value=str(job.id))

    where = gr.State("")
    gr.Markdown("Learn your own data. A training waits in the queue, goes on if the studio is closed in between, and "
                "becomes a run.")  # fmt: skip
    with gr.Row():
        with gr.Column(min_width=300):
            known = [entry["name"] for entry in sources.names() if entry["status"] != "missing"]
            name = gr.Dropdown(known, value="digits", label="data", elem_id="data")
            gr.Markdown("or your own: .csv, .parquet, .txt, .npz, .smi, or a .zip of pictures (text files beside them "
                        "are their captions), recordings, MIDI files")  # fmt: skip
            upload = gr.File(label="file", type="filepath", height=150, elem_id="upload")
            reading = gr.Textbox(label="how it is read (key = value, a line each)", lines=2, placeholder="size = 32")
            read = gr.Button("read", variant="primary", elem_id="read")
            understood = gr.HTML(elem_id="understood", elem_classes="pm-grid")
        with gr.Column(min_width=300):
            model = gr.Dropdown([row["name"] for row in listing.models()], value=None, label="model", elem_id="model")
            chosen = gr.Textbox(label="its options (key = value, a line each)", lines=3, elem_id="options")
            with gr.Row():
                minutes = gr.Number(1, label="minutes", minimum=0.01, min_width=80, elem_id="minutes")
                seed = gr.Number(0, label="seed", precision=0, minimum=0, min_width=80)
            run_name = gr.Textbox(label="name of the run", placeholder="made from model and data", elem_id="run-name")
            report = gr.Checkbox(True, label="measure for a report at the end")
            begin = gr.Button("start", variant="primary", elem_id="fit")
            with gr.Accordion("the model: paper, equations, file, options", open=False):
                words = gr.HTML()
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            jobs = gr.HTML(board(), elem_id="jobs")
        with gr.Column(scale=2, min_width=300):
            number = gr.Dropdown(_choices(bench), label="job", elem_id="job")
            with gr.Row():
                end = gr.Button("stop", elem_id="stop-job")
                more = gr.Button("go on", elem_id="go-on")
            seen = gr.HTML(elem_id="course")
    private: dict[str, Any] = {"api_visibility": "private"}
    read.click(understand, [name, upload, reading], [understood, model, where], **private)
    model.change(explain, model, words, **private)
    begin.click(start, [where, reading, model, chosen, run_name, minutes, seed, report], [jobs, number], **private)
    end.click(stop, number, jobs, queue=False, **private)
    more.click(go_on, number, [jobs, number], **private)
    gr.Timer(1.0).tick(tick, number, [jobs, seen], queue=False, show_progress="hidden", **private)


def _choices(bench: Bench) -> list[tuple[str, str]]:
    return [(f"{job.id}: {Path(job.run).name}", str(job.id)) for job in bench.jobs.all(50)]


def _row(job: Job) -> dict[str, Any]:
    last = runs.last_entry(job.run)
    spent = "" if job.started is None else f"{(job.ended or time.time()) - job.started:.0f} s"
    return {
        "job": job.id, "run": Path(job.run).name, "model": job.request.get("model") or "", "state": job.state,
        "step": last.get("step", ""), "time": spent, "message": job.message,
    }  # fmt: skip


def _tail(log: str) -> str:
    return "\n".join(log.strip().splitlines()[-LINES:])
