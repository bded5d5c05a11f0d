"""Explore and restore: ways between data, along codes, beside what was learned; and parts of pictures drawn anew."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service.complete import complete_drawn, picture_of
from polymode.app.service.latents import latents
from polymode.app.service.schemas import LatentsRequest, make
from polymode.app.service.workshop import neighbours
from polymode.app.studio import draw
from polymode.app.studio.base import Bench, preview, settings, told, whole

VERBS = ("interpolate", "traverse", "edit", "reconstruct", "denoise")
#: pixels a side, about, at which a small picture is drawn on
CANVAS = 384


def explore(bench: Bench) -> None:
    """The page of codes and neighbours."""

    @told
    def walked(run: str, verb: str, n: float, seed: float, more: str) -> tuple[str, str]:
        """A sheet of one verb on the run's codes: (as HTML, facts)."""
        out = Path(tempfile.mkdtemp(dir=bench.work)) / "codes.png"
        asked = {"verb": verb, "run": bench.run(run), "n": whole(n, "n"), "seed": whole(seed, "seed") or 0}
        from polymode.app.service.building import sample_name

        spec = bench.kept(bench.shelf.folder(run)).spec
        out = out.with_name(sample_name(spec))
        found = latents(make(LatentsRequest, asked | {"out": str(out)} | settings(more)))
        facts = [(k, v) for k, v in found.items() if k not in ("run", "out")]
        return preview(found["out"]), draw.facts(facts)

    @told
    def near(run: str, n: float, seed: float) -> str:
        """Samples, each with the training rows that lie nearest."""
        return preview(neighbours(bench.shelf.folder(run), bench.work, whole(n, "n") or 6, whole(seed, "seed") or 0))

    gr.Markdown("Walk through a model's codes; see what lies nearest to its samples among what it has learned from.")
    with gr.Row():
        with gr.Column(min_width=280):
            run = bench.chooser(elem_id="explore-run")
            verb = gr.Radio(list(VERBS), value="interpolate", label="along the codes")
            with gr.Row():
                n = gr.Number(6, label="how many", precision=0, minimum=1, min_width=80)
                seed = gr.Number(0, label="seed", precision=0, minimum=0, min_width=80)
            more = gr.Textbox(
                label="more (key = value, a line each)", lines=2, placeholder="steps = 10\nattribute = smile"
            )
            go = gr.Button("walk", variant="primary", elem_id="walk")
            close = gr.Button("nearest training rows", elem_id="near")
        with gr.Column(scale=2, min_width=320):
            shown, facts = gr.HTML(elem_id="walked", elem_classes="pm-grid"), gr.HTML()
    go.click(walked, [run, verb, n, seed, more], [shown, facts], api_name="latents")
    close.click(near, [run, n, seed], shown, api_name="neighbours")


def restore(bench: Bench) -> None:
    """The page of pictures with holes."""

    @told
    def taken(run: str, row: float) -> Any:
        """A test picture, large enough to draw on."""
        picture = picture_of(bench.shelf.folder(run), whole(row, "row") or 0, least=CANVAS)
        return {"background": picture, "layers": [], "composite": picture}

    @told
    def filled(run: str, row: float, drawn: dict[str, Any] | None, n: float, seed: float, more: str) -> tuple[str, str]:
        """Draws of what was painted over: (as HTML, facts)."""
        if drawn is None or not drawn.get("layers"):
            raise gr.Error("paint over what is to be drawn anew first")
        painted = sum((layer[..., 3] > 0).astype(int) for layer in drawn["layers"]) > 0
        out = Path(tempfile.mkdtemp(dir=bench.work)) / "filled.png"
        found = complete_drawn(
            bench.shelf.folder(run), whole(row, "row") or 0, painted, out, each=whole(n, "n") or 6,
            seed=whole(seed, "seed") or 0, options=settings(more), load=bench.kept,
        )  # fmt: skip
        return preview(out), draw.facts(list(found.items()))

    gr.Markdown("Paint over a part of a picture: what you paint is drawn anew, the rest stays as it is.")
    with gr.Row():
        with gr.Column(min_width=320):
            run = bench.chooser(elem_id="restore-run")
            row = gr.Number(0, label="test picture", precision=0, minimum=0, elem_id="row")
            take = gr.Button("take it", elem_id="take")
            canvas = gr.ImageEditor(
                label="paint here", type="numpy", image_mode="RGBA", sources=("upload",), height=CANVAS + 90,
                brush=gr.Brush(default_size=36, colors=["#ef4444"], color_mode="fixed"), elem_id="canvas",
                layers=False, transforms=(),
            )  # fmt: skip
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                n = gr.Number(6, label="draws", precision=0, minimum=1, min_width=80)
                seed = gr.Number(0, label="seed", precision=0, minimum=0, min_width=80)
            more = gr.Textbox(label="options (key = value, a line each)", lines=1)
            go = gr.Button("draw it anew", variant="primary", elem_id="fill")
            shown, facts = gr.HTML(elem_id="filled", elem_classes="pm-grid"), gr.HTML()
    take.click(taken, [run, row], canvas, api_visibility="private")
    go.click(filled, [run, row, canvas, n, seed, more], [shown, facts], api_visibility="private")
