"""Sample: draw from a run, vary its options in a grid, and bring a saved picture's settings back."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service import arguments, workshop
from polymode.app.service.generate import generate
from polymode.app.service.sample import sample
from polymode.app.service.schemas import GenerateRequest, SampleRequest, make
from polymode.app.studio import draw
from polymode.app.studio.base import Bench, preview, settings, told, whole

#: pictures of a grid of options, at most
MOST_CELLS = 36


def page(bench: Bench) -> None:
    """The page."""

    def drawn(name: str, n: int, seed: int | None, label: str | None, options: dict[str, Any]) -> tuple[str, Any]:
        run = bench.run(name)
        folder = Path(tempfile.mkdtemp(dir=bench.work))
        from polymode.app.service.building import sample_name

        spec = bench.kept(Path(run)).spec
        request = make(
            SampleRequest,
            {"run": run, "n": n, "seed": seed, "label": label or None, "options": options,
             "out": str(folder / sample_name(spec))},
        )  # fmt: skip
        found = sample(request, load=bench.kept)
        return found.out, found

    @told
    def draw_samples(
        run: str, n: float, seed: float | None, label: str | None, options: str
    ) -> tuple[str, str | None, str]:
        """Samples of a run: (what they look like, as HTML; the file, with its recipe in it; facts)."""
        out, found = drawn(run, whole(n, "n") or 1, whole(seed, "seed"), label, settings(options))
        told_of = draw.facts(
            [("seed", found.seed), ("condition", found.condition), ("seconds", found.seconds), ("what", found.what)]
        )
        return preview(out), out if Path(out).is_file() else None, told_of

    @told
    def grid(run: str, n: float, seed: float | None, label: str | None, options: str, x: str, y: str) -> str:
        """A sheet for each pair of values of two options, all at one seed."""
        fixed, across, down = settings(options), _axis(x), _axis(y)
        if len(across[1]) * len(down[1]) > MOST_CELLS:
            raise gr.Error(f"{len(across[1])} x {len(down[1])} sheets were asked for, at most {MOST_CELLS} are drawn")
        seed = whole(seed, "seed")
        cards = []
        for v, u in itertools.product(down[1], across[1]):
            own = {k: value for k, value in ((across[0], u), (down[0], v)) if k}
            place = own.pop("seed", 0 if seed is None else seed)
            tag = own.pop("label", label)
            out, _ = drawn(run, whole(n, "n") or 1, place, None if tag is None else str(tag), fixed | own)
            named = ", ".join(f"{k} = {value}" for k, value in ((across[0], u), (down[0], v)) if k)
            cards.append(draw.card(named, "", preview(out)))
        return draw.row(cards)

    @told
    def restored(path: str | None) -> tuple[Any, ...]:
        """The settings in a file that polymode has written."""
        if path is None:
            return tuple(gr.update() for _ in range(5))
        found = workshop.recipe_of(path, bench.shelf)
        options = "\n".join(f"{k} = {v}" for k, v in found["options"].items())
        return found["run"], found["n"], found["seed"], found["label"], options

    @told
    def about(name: str | None) -> tuple[str, Any, Any]:
        """What the run is, its labels, and what its sampling can be told."""
        if not name:
            return "", gr.update(visible=False), ""
        model = bench.kept(bench.shelf.folder(name))
        spec = model.condition_spec
        labels = [] if spec is None or spec.label is None else list(spec.label_names or map(str, range(spec.label)))
        choice = gr.update(choices=[("all in turn", ""), *((v, v) for v in labels)], value="", visible=bool(labels))
        return draw.facts(bench.shelf.facts(name)), choice, draw.table(workshop.sampling_options(model))

    @told
    def written(run: str, prompt: str, length: float | None, seed: float | None, options: str) -> str:
        """A text continued, or a source answered."""
        request = make(
            GenerateRequest,
            {"run": bench.run(run), "prompt": prompt, "length": whole(length, "length"), "seed": whole(seed, "seed"),
             "options": settings(options)},
        )  # fmt: skip
        return "\n\n".join(text["generated_text"] for text in generate(request)["texts"])

    gr.Markdown("Draw from a run. A saved picture holds its recipe: drop it below, and the same bytes come again.")
    with gr.Row():
        with gr.Column(min_width=280):
            run = bench.chooser(elem_id="sample-run")
            with gr.Row():
                n = gr.Number(64, label="how many", info="samples", precision=0, minimum=1, min_width=80, elem_id="n")
                seed = gr.Number(
                    0, label="seed", info="empty: a new one", precision=0, minimum=0, min_width=80, elem_id="seed"
                )
            label = gr.Dropdown([("all in turn", "")], value="", label="label", visible=False, allow_custom_value=True)
            options = gr.Textbox(label="options (key = value, a line each)", lines=2, elem_id="sample-options")
            go = gr.Button("draw", variant="primary", elem_id="draw")
            back = gr.File(label="a saved file, drawn again", type="filepath", height=150, elem_id="recipe")
            with gr.Accordion("what the run is, and what its sampling can be told", open=False):
                facts, can = gr.HTML(), gr.HTML()
        with gr.Column(scale=2, min_width=320):
            shown = gr.HTML(elem_id="samples", elem_classes="pm-grid")
            file = gr.File(label="the file", interactive=False, elem_id="sample-file")
            of = gr.HTML()
            with gr.Accordion("grid over two options", open=False):
                with gr.Row():
                    x = gr.Textbox("seed = 0, 1, 2", label="across", elem_id="across")
                    y = gr.Textbox("", label="down", placeholder="temperature = 0.7, 1.0", elem_id="down")
                many = gr.Button("draw the grid", elem_id="draw-grid")
                sheet = gr.HTML(elem_id="grid", elem_classes="pm-grid")
            with gr.Accordion("a text: prompt, and how it goes on", open=False):
                prompt = gr.Textbox(label="prompt", lines=2)
                length = gr.Number(None, label="symbols after it (empty: to the window's end)", precision=0)
                write = gr.Button("write")
                text = gr.Textbox(label="text", lines=8, interactive=False)
    go.click(draw_samples, [run, n, seed, label, options], [shown, file, of], api_name="sample")
    many.click(grid, [run, n, seed, label, options, x, y], sheet, api_name="grid")
    write.click(written, [run, prompt, length, seed, options], text, api_name="generate")
    back.upload(restored, back, [run, n, seed, label, options], api_visibility="private").then(
        draw_samples, [run, n, seed, label, options], [shown, file, of], api_visibility="private"
    )
    run.change(about, run, [facts, label, can], api_visibility="private")


def _axis(text: str) -> tuple[str, list[Any]]:
    """(option, values) of "option = a, b, c"; an empty line is one cell."""
    if not text.strip():
        return "", [None]
    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        raise gr.Error(f"{draw.html.escape(text)}: expected option = value, value, ...")
    return name.strip(), [arguments.value_of(v.strip(), name) for v in values.split(",") if v.strip()]
