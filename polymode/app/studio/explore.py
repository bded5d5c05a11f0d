"""Explore: ways between data, along codes and directions, and beside what was learned."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service.editing import Edits, directions, named
from polymode.app.service.latents import latents
from polymode.app.service.schemas import LatentsRequest, make
from polymode.app.service.workshop import neighbours
from polymode.app.studio import draw
from polymode.app.studio.base import Bench, settings, told, whole
from polymode.app.studio.preview import preview

VERBS = ("interpolate", "traverse", "edit", "reconstruct", "denoise")
#: strengths of an edit, in deviations of the codes
STRONGEST = 4.0


def page(bench: Bench) -> None:
    """The page."""
    edits = Edits(bench.kept)

    def asked(run: str, verb: str, n: float, seed: float, more: str, along: str | None) -> LatentsRequest:
        from polymode.app.service.building import sample_name

        spec = bench.kept(bench.shelf.folder(run)).spec
        out = Path(tempfile.mkdtemp(dir=bench.work)) / sample_name(spec)
        own = settings(more)
        if verb == "edit" and along and not own.keys() & {"attribute", "direction"}:
            own |= named(along)
        values = {"verb": verb, "run": bench.run(run), "n": whole(n, "n"), "seed": whole(seed, "seed") or 0}
        return make(LatentsRequest, values | {"out": str(out)} | own)

    @told
    def walked(run: str, verb: str, n: float, seed: float, more: str, along: str | None = None) -> tuple[str, str]:
        """A sheet of one verb on the run's codes: (as HTML, facts)."""
        return _shown(latents(asked(run, verb, n, seed, more, along), load=bench.kept))

    @told
    def moved(run: str, n: float, seed: float, more: str, along: str | None, strength: float) -> tuple[str, str]:
        """Test rows above, and below what they become at one strength of one direction: (as HTML, facts)."""
        request = asked(run, "edit", n, seed, more, along)
        return _shown(edits(request.model_copy(update={"strengths": [strength]})))

    @told
    def near(run: str, n: float, seed: float) -> str:
        """Samples, each with the training rows that lie nearest."""
        folder, many = bench.shelf.folder(run), whole(n, "n") or 6
        return preview(neighbours(folder, bench.work, many, whole(seed, "seed") or 0, load=bench.kept))

    @told
    def offered(run: str | None, verb: str, along: str | None) -> tuple[Any, Any]:
        """The directions of a run, where one is wanted."""
        if verb != "edit" or not run:
            return gr.update(visible=verb == "edit"), gr.update()
        found = directions(bench.shelf.folder(run))
        return gr.update(visible=True), gr.update(choices=found, value=along if along in found else found[0])

    gr.Markdown("Walk through a model's codes; see what lies nearest to its samples among what it has learned from.")
    with gr.Row():
        with gr.Column(min_width=280):
            run = bench.chooser(elem_id="explore-run")
            verb = gr.Radio(list(VERBS), value="interpolate", label="along the codes", elem_id="verb")
            with gr.Group(visible=False) as of_edit:
                along = gr.Dropdown(
                    [], label="towards", info="a label of the data, or a direction in which codes vary most",
                    allow_custom_value=True, elem_id="along",
                )  # fmt: skip
                strength = gr.Slider(
                    -STRONGEST, STRONGEST, 0.0, step=0.25, label="strength", elem_id="edit-strength",
                    info="in deviations of the codes; let go to see the pictures there", buttons=[],
                )  # fmt: skip
            with gr.Row():
                n = gr.Number(6, label="how many", precision=0, minimum=1, min_width=80)
                seed = gr.Number(0, label="seed", precision=0, minimum=0, min_width=80)
            more = gr.Textbox("", label="more (key = value, a line each)", lines=2, placeholder="steps = 10\nspan = 3")
            go = gr.Button("walk", variant="primary", elem_id="walk")
            close = gr.Button("nearest training rows", elem_id="near")
        with gr.Column(scale=2, min_width=320):
            shown, facts = gr.HTML(elem_id="walked", elem_classes=["pm-grid", "pm-large"]), gr.HTML()
    go.click(walked, [run, verb, n, seed, more, along], [shown, facts], api_name="latents")
    strength.release(moved, [run, n, seed, more, along, strength], [shown, facts], api_name="edit")
    close.click(near, [run, n, seed], shown, api_name="neighbours")
    gr.on([verb.change, run.change], offered, [run, verb, along], [of_edit, along], api_visibility="private")


def _shown(found: dict[str, Any]) -> tuple[str, str]:
    """(a result as HTML, what there is to say about it)."""
    facts = [(k, ", ".join(map(str, v)) if isinstance(v, list) else v) for k, v in found.items()
             if k not in ("run", "out") and v != []]  # fmt: skip
    return preview(found["out"]), draw.facts(facts)
