"""Compare runs, score data under them, ask people."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service import runs, workshop
from polymode.app.service.detect import detect
from polymode.app.service.evaluate import differences
from polymode.app.service.schemas import DataOptions, DetectRequest, EvaluateRequest, make
from polymode.app.service.study.analyse import analyse
from polymode.app.studio import draw
from polymode.app.studio.base import Bench, settings, told, whole

#: rows of scores that are shown
MOST_ROWS = 100
#: what a detection tells of the studio's own folders
OURS = ("run", "out", "data")


def compare(bench: Bench) -> None:
    """The page of two runs row by row, and of reports beside each other."""

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

    @told
    def paired(first: str, second: str, n: float, seed: float) -> str:
        """Two runs of the same data on the same rows: what is different, and by how much."""
        asked = {"run": bench.run(first), "against": bench.run(second), "n": whole(n, "n"), "seed": whole(seed, "seed")}
        return _differences(differences(make(EvaluateRequest, asked), load=bench.kept))

    gr.Markdown("Two runs of the same data, row by row: what both share falls out of a difference, so its interval is "
                "narrower than those of two reports.")  # fmt: skip
    with gr.Row():
        first = bench.chooser(label="first run", elem_id="first-run")
        second = bench.chooser(label="second run", elem_id="second-run")
        n = gr.Number(300, label="rows and samples", precision=0, minimum=2, min_width=80, elem_id="pair-n")
        seed = gr.Number(0, label="seed", precision=0, minimum=0, min_width=80, elem_id="pair-seed")
    hold = gr.Button("hold them against each other", variant="primary", elem_id="pair")
    found = gr.HTML(elem_id="differences")
    hold.click(paired, [first, second, n, seed], found, api_name="differences")
    names = reports()
    gr.Markdown("Reports beside each other: at least three metrics with intervals, data against data as the ceiling, "
                "noise as the floor. `polymode compare DATA --out RUNS/name` makes a leaderboard.")  # fmt: skip
    chosen = gr.Dropdown(names, value=names[:1], multiselect=True, max_choices=3, label="reports", elem_id="reports")
    go = gr.Button("show", elem_id="show-reports")
    shown = gr.HTML(elem_id="report")
    go.click(opened, chosen, shown, api_visibility="private")


def _differences(found: dict[str, Any]) -> str:
    """A verdict, the table of differences, and each in a sentence."""
    a, b = html.escape(found["a"]), html.escape(found["b"])
    rows = []
    for d in found["differences"]:
        head = f"<th>{html.escape(d['metric'])}</th>"
        if d["value"] is None or d["low"] is None:
            rows.append(
                f'<tr>{head}<td colspan="5">not compared: {html.escape(d["refusal"] or "no interval")}</td></tr>'
            )
            continue
        numbers = "".join(f'<td class="pm-number">{d[k]:.4g}</td>' for k in ("a", "b"))
        between = f"{d['value']:.3g} [{d['low']:.3g}, {d['high']:.3g}]"
        line = draw.interval(d["low"], d["value"], d["high"], label=between)
        rows.append(
            f'<tr>{head}{numbers}<td class="pm-number">{between}</td><td class="pm-interval">{line}</td>'
            f'<td class="pm-number">{html.escape(d["verdict"])}</td></tr>'
        )
    heads = "".join(f"<th>{h}</th>" for h in ("metric", a, b, "difference [95 %]", "0 in the middle", f"{a} is"))
    table = f'<table class="pm-table"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in found["sentences"])
    return (
        f'<p>{html.escape(found["verdict"])}</p><div class="pm-scroll">{table}</div>'
        f'<ul class="pm-sentences">{sentences}</ul>'
    )


def score(bench: Bench) -> None:
    """The page of anomaly scores."""

    @told
    def scored(run: str, upload: str | None, reading: str, share: float) -> tuple[str, str, str | None]:
        """(facts, the rows that stand out first, all scores as a file)."""
        if upload is None:
            raise gr.Error("give a file of rows to score")
        out = Path(tempfile.mkdtemp(dir=bench.work)) / "scores.csv"
        source = str(workshop.opened(upload, bench.work))
        options: dict[str, Any] = {"run": bench.run(run), "data": source, "out": str(out), "false_alarms": share}
        found = detect(make(DetectRequest, options | {"reading": make(DataOptions, settings(reading))}))
        shown = [(k, v) for k, v in found.items() if isinstance(v, str | int | float) and k not in OURS]
        listed = next((v for v in found.values() if isinstance(v, list) and v and isinstance(v[0], dict)), [])
        listed = sorted(listed, key=lambda row: -row["score"])[:MOST_ROWS]
        return draw.facts([("rows of", Path(upload).name), *shown]), draw.table(listed), str(out)

    gr.Markdown("How unlike what a run has learned from is each row? Scores are calibrated on held-out rows, so that "
                "the share of false alarms is what you say.")  # fmt: skip
    with gr.Row():
        with gr.Column(min_width=280):
            run = bench.chooser(elem_id="score-run")
            upload = gr.File(label="rows: .csv, .npz, .txt, .zip", type="filepath", height=150)
            reading = gr.Textbox("", label="how it is read (key = value, a line each)", lines=1)
            share = gr.Slider(0.005, 0.2, 0.05, label="false alarms")
            go = gr.Button("score", variant="primary", elem_id="score")
        with gr.Column(scale=2, min_width=320):
            facts, listed = gr.HTML(), gr.HTML(elem_id="scores")
            file = gr.File(label="all scores", interactive=False, height=90)
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

    @told
    def counted() -> str:
        """What was answered so far, and by whom which was preferred."""
        return _judgements(analyse(study))

    gr.HTML('<p>The study is open: <a href="/judge/" target="_blank" rel="noopener">take part</a>. '
            f"Its answers: <code>polymode study analyse {html.escape(Path(study).name)}</code>, or here:</p>"
            )  # fmt: skip
    count = gr.Button("count the answers", elem_id="count")
    found = gr.HTML(elem_id="judgements")
    count.click(counted, None, found, api_name="judgements")


def _judgements(found: dict[str, Any]) -> str:
    """Items, the best first, with intervals; ratings or choices."""
    pairs = found["design"] == "pairs"
    key, name = ("strength", "log-strength") if pairs else ("score", "mean opinion score")
    rows = []
    for item in found["items"]:
        row = {"item": item["name"], "answers": item["n"]}
        if pairs:
            row["share of wins"] = f"{item['share']:.2f} ({item['share_low']:.2f} to {item['share_high']:.2f})"
        rows.append(row | {f"{name} (95 %)": f"{item[key]:.2f} ({item['low']:.2f} to {item['high']:.2f})"})
    facts = [
        ("question", found["question"]), ("answers", f"{found['answers']} of {found['raters']} people"),
        ("left out", ", ".join(found["left_out"]) or "nobody"), *(("note", note) for note in found["notes"]),
    ]  # fmt: skip
    return draw.facts(facts) + draw.table(rows)
