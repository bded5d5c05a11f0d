"""Restore: parts of pictures drawn anew, and pictures enlarged, cleaned, sharpened, coloured or varied."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service.complete import complete_drawn, is_same_picture, picture_of
from polymode.app.service.conditions import PARTS
from polymode.app.service.restore import restore
from polymode.app.service.schemas import RestoreRequest, make
from polymode.app.service.workshop import opened
from polymode.app.studio import draw
from polymode.app.studio.base import Bench, at_opening, fields, settings, told, whole
from polymode.app.studio.conditions import Fields, given
from polymode.app.studio.preview import preview

TASKS = (("complete (paint)", "complete"), "upscale", "denoise", "deblur", "colourise", "vary")
#: pixels a side, about, at which a small picture is drawn on
CANVAS = 384


def page(bench: Bench) -> None:
    """The page."""

    @told
    def taken(run: str, row: float) -> tuple[Any, Any, str]:
        """(a test picture, large enough to draw on; which one it is; the same in words)."""
        place = whole(row, "row") or 0
        picture = picture_of(bench.shelf.folder(run), place, least=CANVAS)
        shown = {"background": picture, "layers": [], "composite": picture}
        return shown, (run, place, picture), _note(f"test picture {place} of {run}")

    def named(source: Any, drawn: dict[str, Any] | None) -> Any:
        """What is on the canvas, in words. It calls a test picture that is put there an upload, too."""
        if drawn is None or drawn.get("background") is None:
            return gr.skip()
        own = source is not None and is_same_picture(source[2], drawn["background"])
        return _note(f"test picture {source[1]} of {source[0]}" if own else "your own picture")

    @told
    def filled(
        run: str, source: Any, drawn: dict[str, Any] | None, n: float, seed: float | None, more: str, *parts: str | None
    ) -> tuple[str, str, str]:
        """Draws of what was painted over: (as HTML, the file, facts)."""
        if drawn is None or drawn.get("background") is None:
            raise gr.Error("take a test picture, or upload one, first")
        if not drawn.get("layers"):
            raise gr.Error("paint over what is to be drawn anew first")
        painted = sum((layer[..., 3] > 0).astype(int) for layer in drawn["layers"]) > 0
        own = source is not None and source[0] == run and is_same_picture(source[2], drawn["background"])
        out = Path(tempfile.mkdtemp(dir=bench.work)) / "filled.png"
        found = complete_drawn(
            bench.shelf.folder(run), source[1] if own else 0, painted, out,
            picture=None if own else drawn["background"], given=given(*parts),
            each=whole(n, "draws") or 6, seed=whole(seed, "seed") or 0, options=settings(more), load=bench.kept,
        )  # fmt: skip
        return preview(out), str(out), draw.facts(list(found.items()))

    @fields(**dict.fromkeys(PARTS, ""))
    @told
    def mended(
        run: str, task: str, files: list[str] | None, n: float, factor: float, noise: float | None, blur: float,
        strength: float, seed: float | None, more: str, *parts: str | None,
    ) -> tuple[str, list[str], str]:  # fmt: skip
        """Pictures before and after: (as HTML, the files, facts)."""
        folder = Path(tempfile.mkdtemp(dir=bench.work))
        sheet, out = folder / "restored.png", folder / "restored"
        values = {
            "run": bench.run(run), "task": task, "sources": [str(opened(file, bench.work)) for file in files or ()],
            "out": str(out if files else sheet), "n": whole(n, "n") or 8, "factor": whole(factor, "factor"),
            "noise": noise, "blur": blur, "strength": strength, "seed": whole(seed, "seed"),
            "given": given(*parts), "options": settings(more),
        }  # fmt: skip
        found = restore(make(RestoreRequest, values), load=bench.kept, sheet=sheet if files else None)
        made = sorted(map(str, out.rglob("*.png"))) if files else []
        return preview(sheet), [*made, str(sheet)], draw.facts(_facts(found))

    @told
    def about(run: str | None) -> list[Any]:
        """The fields for what the run is conditioned on."""
        return wanted.fitted(bench.kept(bench.shelf.folder(run)).condition_spec if run else None)

    def fitting(task: str) -> list[Any]:
        """The fields that a task looks at."""
        paints = task == "complete"
        wanted = {"upscale": 0, "denoise": 1, "deblur": 2, "vary": 3}.get(task)
        return [gr.update(visible=paints), gr.update(visible=not paints),
                *(gr.update(visible=i == wanted) for i in range(4))]  # fmt: skip

    gr.Markdown("What you paint over is drawn anew and the rest stays as it is. Or mend pictures: your own, or test "
                "pictures that are damaged first, so that the result can be measured.")  # fmt: skip
    with gr.Row():
        with gr.Column(min_width=320):
            run = bench.chooser(elem_id="restore-run")
            task = gr.Radio(list(TASKS), value="complete", label="task", elem_id="task")
            with gr.Column() as by_hand:
                with gr.Row():
                    row = gr.Number(0, label="test picture", precision=0, minimum=0, min_width=80, elem_id="row")
                    n_draws = gr.Number(6, label="draws", precision=0, minimum=1, min_width=80)
                take = gr.Button("take it", elem_id="take")
                canvas = gr.ImageEditor(
                    label="paint here", type="numpy", image_mode="RGBA", format="png", sources=("upload",),
                    height=CANVAS + 90, brush=gr.Brush(default_size="auto", colors=["#ef4444"], color_mode="fixed"),
                    elem_id="canvas", layers=False, transforms=(), placeholder="upload a picture, or take one above",
                )  # fmt: skip
                source, what = gr.State(None), gr.HTML(elem_id="on-canvas")
            with gr.Column(visible=False) as by_file:
                files = gr.File(
                    label="your own pictures", file_count="multiple",
                    file_types=["image", ".zip"], type="filepath", height=150, elem_id="damaged",
                )  # fmt: skip
                n = gr.Number(
                    8, label="test pictures", info="damaged first; taken where none of your own are given", precision=0,
                    minimum=1, elem_id="restore-n",
                )  # fmt: skip
                factor = gr.Number(2, label="factor", info="times as wide", precision=0, minimum=2, elem_id="factor")
                noise = gr.Number(
                    None, label="noise", info="its deviation in levels; empty: a tenth of their range",
                    visible=False, elem_id="noise",
                )  # fmt: skip
                blur = gr.Number(1.0, label="blur", info="its deviation in pixels", visible=False, elem_id="blur")
                strength = gr.Slider(
                    0.0, 1.0, 0.5, step=0.05, label="strength", info="0: nothing changes, 1: nothing is kept",
                    visible=False, elem_id="strength", buttons=[],
                )  # fmt: skip
            wanted = Fields("restore", ("that of the test picture", ""))
            seed = gr.Number(0, label="seed", precision=0, minimum=0, elem_id="restore-seed")
            more = gr.Textbox("", label="options (key = value, a line each)", lines=1, elem_id="restore-options")
            fill = gr.Button("draw it anew", variant="primary", elem_id="fill")
            mend = gr.Button("mend", variant="primary", elem_id="mend", visible=False)
        with gr.Column(scale=2, min_width=320):
            shown = gr.HTML(elem_id="filled", elem_classes=["pm-grid", "pm-large"])
            file = gr.File(
                label="files", interactive=False, file_count="multiple", visible=False, elem_id="restored-file"
            )
            facts = gr.HTML(elem_id="restore-facts")
    take.click(taken, [run, row], [canvas, source, what], api_visibility="private")
    canvas.upload(named, [source, canvas], what, api_visibility="private")
    done = fill.click(
        filled, [run, source, canvas, n_draws, seed, more, *wanted.all], [shown, file, facts], api_visibility="private"
    ), mend.click(
        mended, [run, task, files, n, factor, noise, blur, strength, seed, more, *wanted.all], [shown, file, facts],
        api_name="restore",
    )  # fmt: skip
    for event in done:
        event.success(lambda: gr.update(visible=True), None, file, api_visibility="private", queue=False)
    task.change(
        fitting, task, [by_hand, by_file, factor, noise, blur, strength], api_visibility="private", queue=False
    ).then(lambda t: (gr.update(visible=t == "complete"), gr.update(visible=t != "complete")), task, [fill, mend],
           api_visibility="private", queue=False)  # fmt: skip
    run.change(about, run, wanted.all, api_visibility="private")
    at_opening(about, run, wanted.all)


def _note(text: str) -> str:
    return f'<p class="pm-note">on the canvas: {html.escape(text)}</p>'


def _facts(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """What there is to say of restored pictures."""
    facts = [("what", f"{found['n']} pictures, each {found['what']}"), ("task", found["task"]), ("seed", found["seed"])]
    if "consistency" in found:
        facts.append(("consistency", f"{found['consistency']:.1f} dB, damaged again against what came"))
    if "psnr" in found:
        facts.append(("PSNR", f"{found['psnr']:.1f} dB against the test pictures"))
        facts.append(("PSNR of the plain inverse", f"{found['psnr_plain']:.1f} dB, of A\u207a y"))
    return facts
