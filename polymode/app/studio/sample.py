"""Sample: draw from a run under a condition, lay options out in a grid, vary one sample, bring a picture's settings
back."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service import arguments, workshop
from polymode.app.service.conditions import PARTS, takes_negative
from polymode.app.service.generate import stream
from polymode.app.service.sample import sample
from polymode.app.service.schemas import GenerateRequest, SampleRequest, make
from polymode.app.studio import draw
from polymode.app.studio.base import Bench, at_opening, fields, settings, told, whole
from polymode.app.studio.conditions import Fields, given
from polymode.app.studio.preview import preview

#: pictures of a grid of options, at most
MOST_CELLS = 36
#: options of sampling with a field of their own, where a model has them
KNOBS = ("temperature", "guidance_scale", "truncation")
#: what is told beside label and options, by the names that programs give
MORE: dict[str, Any] = dict.fromkeys((*PARTS[1:], *(f"negative_{part}" for part in PARTS)), "") | dict.fromkeys(KNOBS)


def page(bench: Bench) -> None:
    """The page."""

    def drawn(
        name: str, n: int, seed: int | None, of: dict[str, str], away: dict[str, str], options: dict[str, Any]
    ) -> tuple[str, Any]:
        run = bench.run(name)
        folder = Path(tempfile.mkdtemp(dir=bench.work))
        from polymode.app.service.building import sample_name

        spec = bench.kept(Path(run)).spec
        request = make(
            SampleRequest,
            {"run": run, "n": n, "seed": seed, "given": of, "negative": away, "options": options,
             "out": str(folder / sample_name(spec))},
        )  # fmt: skip
        found = sample(request, load=bench.kept)
        return found.out, found

    @fields(**MORE)
    @told
    def draw_samples(
        run: str, n: float, seed: float | None, label: str | None, options: str, *more: Any
    ) -> tuple[str, str | None, str]:
        """Samples of a run: (what they look like, as HTML; the file, with its recipe in it; facts)."""
        of, away, fixed = _asked(label, options, more)
        out, found = drawn(run, whole(n, "n") or 1, whole(seed, "seed"), of, away, fixed)
        told_of = draw.facts(
            [("seed", found.seed), ("condition", found.condition), ("seconds", found.seconds), ("what", found.what)]
        )
        return preview(out, bench.run(run)), out if Path(out).is_file() else None, told_of

    @fields(**MORE)
    @told
    def grid(
        run: str, n: float, seed: float | None, x: str, y: str, z: str, label: str | None, options: str, *more: Any
    ) -> str:
        """A sheet for each choice of the values of up to three options, all at one seed."""
        of, away, fixed = _asked(label, options, more)
        axes = [_axis(text) for text in (z, y, x)]
        cells = len(axes[0][1]) * len(axes[1][1]) * len(axes[2][1])
        if cells > MOST_CELLS:
            raise gr.Error(f"{cells} sheets were asked for, at most {MOST_CELLS} are drawn")
        seed, made = whole(seed, "seed"), []
        for values in itertools.product(*(axis[1] for axis in axes)):
            own = {name: value for (name, _), value in zip(axes, values, strict=True) if name}
            place = own.pop("seed", 0 if seed is None else seed)
            labelled = {"label": str(own.pop("label"))} if "label" in own else {}
            out, _ = drawn(run, whole(n, "n") or 1, place, of | labelled, away, fixed | own)
            made.append(preview(out, bench.run(run)))
        return draw.sheets(axes[0], axes[1], axes[2], made)

    @fields(**MORE)
    @told
    def varied(
        run: str, n: float, seed: float | None, which: float, strength: float, label: str | None, options: str,
        *more: Any,
    ) -> str:  # fmt: skip
        """One of the samples that these settings draw, then variants of it."""
        of, away, fixed = _asked(label, options, more)
        if away:
            raise gr.Error("variants are drawn without a negative condition; empty its fields")
        if seed is None:
            raise gr.Error("give the seed of the samples that one of is to be varied; without it they are others")
        asked = {"n": whole(n, "n") or 1, "seed": whole(seed, "seed"), "given": of, "options": fixed}
        folder = bench.shelf.folder(run)
        return preview(
            workshop.variants(folder, bench.work, whole(which, "which") or 0, strength, load=bench.kept, **asked),
            folder,
        )

    @told
    def whose(path: str) -> str:
        """The run that a file was drawn from."""
        return workshop.recipe_of(path, bench.shelf)["run"]

    @told
    def restored(path: str) -> tuple[Any, ...]:
        """The settings in a file that polymode has written."""
        found = workshop.recipe_of(path, bench.shelf)
        of, away = ([found[k].get(part, "") for part in PARTS] for k in ("given", "negative"))
        knobs = [found["options"].pop(k, None) for k in KNOBS]
        options = "\n".join(f"{k} = {v}" for k, v in found["options"].items())
        return found["n"], found["seed"], of[0], options, *of[1:], *away, *knobs

    @told
    def about(name: str | None) -> list[Any]:
        """What the run is, and fields for its condition and for what its sampling can be told."""
        if not name:
            return ["", "", gr.update(visible=False), *wanted.fitted(None), *unwanted.fitted(None),
                    *(gr.update(value=None, visible=False) for _ in KNOBS)]  # fmt: skip
        model = bench.kept(bench.shelf.folder(name))
        can, spec = workshop.sampling_options(model), model.condition_spec
        leads = spec is not None and takes_negative(model)
        defaults = {row["option"]: row["default"] for row in can}
        knobs = [gr.update(value=None, visible=k in defaults, info=f"usual: {defaults.get(k)}") for k in KNOBS]
        return [
            draw.facts(bench.shelf.facts(name)), draw.table(can), gr.update(visible=leads), *wanted.fitted(spec),
            *unwanted.fitted(spec if leads else None), *knobs,
        ]  # fmt: skip

    @told
    def written(run: str, prompt: str, length: float | None, seed: float | None, options: str) -> Iterator[str]:
        """A text continued, or a source answered; as it grows."""
        request = make(
            GenerateRequest,
            {"run": bench.run(run), "prompt": prompt, "length": whole(length, "length"), "seed": whole(seed, "seed"),
             "options": settings(options)},
        )  # fmt: skip
        for texts in stream(request, load=bench.kept):
            yield "\n\n".join(texts)

    gr.Markdown("Draw from a run. A saved picture holds its recipe: drop it below, and the same bytes come again.")
    with gr.Row():
        with gr.Column(min_width=280):
            run = bench.chooser(elem_id="sample-run")
            with gr.Row():
                n = gr.Number(64, label="how many", info="samples", precision=0, minimum=1, min_width=80, elem_id="n")
                seed = gr.Number(
                    0, label="seed", info="empty: a new one", precision=0, minimum=0, min_width=80,
                    elem_id="sample-seed",
                )  # fmt: skip
            wanted = Fields("given")
            with gr.Accordion("away from (needs guidance_scale above 1)", open=False, visible=False) as against:
                unwanted = Fields("negative", ("nothing", ""))
            with gr.Row():
                knobs = [
                    gr.Number(None, label=k.replace("_", " "), visible=False, min_width=80, elem_id=k) for k in KNOBS
                ]
            options = gr.Textbox("", label="options (key = value, a line each)", lines=2, elem_id="sample-options")
            go = gr.Button("draw", variant="primary", elem_id="draw")
            back = gr.File(label="a saved file, drawn again", type="filepath", height=180, elem_id="recipe")
            with gr.Accordion("what the run is, and what its sampling can be told", open=False):
                facts, can = gr.HTML(), gr.HTML()
        with gr.Column(scale=2, min_width=320):
            shown = gr.HTML(elem_id="samples", elem_classes="pm-grid")
            file = gr.File(label="the file", interactive=False, height=90, elem_id="sample-file")
            of = gr.HTML()
            with gr.Accordion("grid over two or three options", open=False):
                with gr.Row():
                    x = gr.Textbox("seed = 0, 1, 2", label="across", elem_id="across", min_width=120)
                    y = gr.Textbox(
                        "", label="down", placeholder="temperature = 0.7, 1.0", elem_id="down", min_width=120
                    )
                    z = gr.Textbox("", label="sheets", placeholder="label = 3, 5", elem_id="sheets", min_width=120)
                many = gr.Button("draw the grid", elem_id="draw-grid")
                sheet = gr.HTML(elem_id="grid", elem_classes="pm-grid")
            with gr.Accordion("variations of one", open=False):
                with gr.Row():
                    which = gr.Number(0, label="sample", info="counted from 0", precision=0, minimum=0, min_width=80)
                    strength = gr.Slider(0.05, 1.0, 0.4, label="how far", info="1: nothing of it is kept")
                vary = gr.Button("vary it", elem_id="vary")
                like = gr.HTML(elem_id="variants", elem_classes="pm-grid")
            with gr.Accordion("a text: prompt, and how it goes on", open=False):
                prompt = gr.Textbox("", label="prompt", lines=2, elem_id="prompt")
                length = gr.Number(
                    None, label="symbols after it (empty: to the window's end)", precision=0, elem_id="length"
                )
                with gr.Row():
                    write = gr.Button("write", elem_id="write")
                    halt = gr.Button("stop", elem_id="stop-writing")
                text = gr.Textbox(label="text", lines=8, interactive=False, elem_id="text")
    more = [*wanted.all[1:], *unwanted.all, *knobs]
    label = wanted.all[0]
    go.click(draw_samples, [run, n, seed, label, options, *more], [shown, file, of], api_name="sample")
    many.click(grid, [run, n, seed, x, y, z, label, options, *more], sheet, api_name="grid")
    vary.click(varied, [run, n, seed, which, strength, label, options, *more], like, api_name="variants")
    writing = write.click(written, [run, prompt, length, seed, options], text, api_name="generate")
    halt.click(None, cancels=[writing], api_visibility="private")
    of_run = [facts, can, against, *wanted.all, *unwanted.all, *knobs]
    # the run first, whose fields are emptied; then what they held
    back.upload(whose, back, run, api_visibility="private").success(about, run, of_run, api_visibility="private").then(
        restored, back, [n, seed, label, options, *more], api_visibility="private"
    ).then(draw_samples, [run, n, seed, label, options, *more], [shown, file, of], api_visibility="private")
    run.input(about, run, of_run, api_visibility="private")
    at_opening(about, run, of_run)


def _asked(
    label: str | None, options: str, more: tuple[Any, ...]
) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """(what is given, what is led away from, options) of the page's fields."""
    parts = len(PARTS)
    of, away, knobs = given(label, *more[: parts - 1]), given(*more[parts - 1 : 2 * parts - 1]), more[2 * parts - 1 :]
    set_by_field = {k: v for k, v in zip(KNOBS, knobs, strict=True) if v is not None}
    return of, away, settings(options) | set_by_field


def _axis(text: str) -> tuple[str, list[Any]]:
    """(option, values) of "option = a, b, c"; an empty line is one cell."""
    if not text.strip():
        return "", [None]
    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        raise gr.Error(f"{draw.html.escape(text)}: expected option = value, value, ...")
    return name.strip(), [arguments.value_of(v.strip(), name) for v in values.split(",") if v.strip()]
