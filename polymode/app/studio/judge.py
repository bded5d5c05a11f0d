"""Compare runs, score data under them, ask people."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service import runs, workshop
from polymode.app.service.detect import detect
from polymode.app.service.schemas import DataOptions, DetectRequest, make
from polymode.app.studio import draw
from polymode.app.studio.base import Bench, settings, told


def compare(bench: Bench) -> None:
    """The page of reports beside each other."""

    def reports() -> list[str]:
        """Leaderboards and reports, by the folder they lie in."""
        found = sorted(bench.shelf.root.glob("**/report.html"), key=lambda p: p.stat().st_mtime, reverse=True)
        return [str(p.parent.relative_to(bench.shelf.root)) or "." for p in found]

    @told
    def opened(names: list[str]) -> str:
        frames = []
        for name in names or []:
            path = (bench.shelf.root / name / runs.REPORT).resolve()
            if not path.is_relative_to(bench.shelf.root.resolve()) or not path.is_file():
                raise gr.Error(f"there is no report of {html.escape(name)}")
            # a frame without rights: what a report holds can run nothing and reach nothing
            frames.append(
                f'<iframe class="pm-report" sandbox="" title="{html.escape(name)}" '
                f'srcdoc="{html.escape(path.read_text(encoding="utf-8"))}"></iframe>'
            )
        return f'<div class="pm-reports">{"".join(frames)}</div>'

    names = reports()
    gr.Markdown("Reports beside each other: at least three metrics with intervals, data against data as the ceiling, "
                "noise as the floor. `polymode compare DATA --out RUNS/name` makes a leaderboard.")  # fmt: skip
    chosen = gr.Dropdown(names, value=names[:1], multiselect=True, max_choices=3, label="reports", elem_id="reports")
    go = gr.Button("show", variant="primary", elem_id="show-reports")
    shown = gr.HTML(elem_id="report")
    go.click(opened, chosen, shown, api_visibility="private")


def score(bench: Bench) -> None:
    """The page of anomaly scores."""

    @told
    def scored(run: str, upload: str | None, reading: str, share: float) -> tuple[str, str, str | None]:
        """(facts, the rows that stand out, all scores as a file)."""
        if upload is None:
            raise gr.Error("give a file of rows to score")
        out = Path(tempfile.mkdtemp(dir=bench.work)) / "scores.csv"
        source = str(workshop.opened(upload, bench.work))
        options: dict[str, Any] = {"run": bench.run(run), "data": source, "out": str(out), "false_alarms": share}
        found = detect(make(DetectRequest, options | {"reading": make(DataOptions, settings(reading))}))
        flat = [(k, v) for k, v in found.items() if isinstance(v, str | int | float) and k not in ("run", "out")]
        listed = next((v for v in found.values() if isinstance(v, list) and v and isinstance(v[0], dict)), [])
        return draw.facts(flat), draw.table(listed), str(out)

    gr.Markdown("How unlike what a run has learned from is each row? Scores are calibrated on held-out rows, so that "
                "the share of false alarms is what you say.")  # fmt: skip
    with gr.Row():
        with gr.Column(min_width=280):
            run = bench.chooser(elem_id="score-run")
            upload = gr.File(label="rows: .csv, .npz, .txt, .zip", type="filepath", height=150)
            reading = gr.Textbox(label="how it is read (key = value, a line each)", lines=1)
            share = gr.Slider(0.005, 0.2, 0.05, label="false alarms")
            go = gr.Button("score", variant="primary", elem_id="score")
        with gr.Column(scale=2, min_width=320):
            facts, listed = gr.HTML(), gr.HTML(elem_id="scores")
            file = gr.File(label="all scores", interactive=False)
    go.click(scored, [run, upload, reading, share], [facts, listed, file], api_name="score")


def people(study: str | None) -> None:
    """The page that leads to a study."""
    if study is None:
        gr.Markdown(
            "Ask people which samples are better, blinded and balanced. Make a study of two or more runs:\n\n"
            "```\npolymode study create RUN RUN --out study.db\npolymode studio --study study.db\n```\n\n"
            "It then has its own pages here, at **/judge**, and `polymode study analyse study.db` gives the ranking."
        )
        return
    gr.HTML('<p>The study is open: <a href="/judge/" target="_blank" rel="noopener">take part</a>. '
            f"Its answers: <code>polymode study analyse {html.escape(Path(study).name)}</code>.</p>")  # fmt: skip
