"""Learn: watch models approach a target, frame after frame."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from polymode.app.service import learning, workshop
from polymode.app.studio import draw
from polymode.app.studio.base import told

FAMILIES = (
    "realnvp", "nsf", "maf", "gmm", "kde", "vae", "ddpm", "edm", "flow_matching", "ebm", "gan", "wgan_gp", "pacgan",
    "unrolled_gan",
)  # fmt: skip
OF_BARS = ("made", "histogram", "vae", "gan", "ebm")
OF_DIGITS = ("vae", "made", "realnvp", "ddpm", "gmm", "rbm", "gan", "dcgan", "pixelcnn", "ebm")
#: what the switch shows: a plain game that collapses, and its remedies
COLLAPSE = ("gan", "pacgan", "unrolled_gan", "wgan_gp")
BARS = 32
FIRST = [math.exp(-(((i - 8) / 4) ** 2) / 2) + 0.6 * math.exp(-(((i - 22) / 3) ** 2) / 2) + 0.02 for i in range(BARS)]
#: a drawing of bars with the mouse, a finger or the keys; its value is a JSON list of heights from 0 to 1
DRAWING = """
const box = element.querySelector('.pm-draw');
let heights = JSON.parse(props.value), at = 0, busy = false;
function show() {
  box.replaceChildren(...heights.map((h) => {
    const bar = document.createElement('div'); bar.style.height = (100 * h) + '%'; return bar;
  }));
}
function put(e) {
  const r = box.getBoundingClientRect();
  const i = Math.min(heights.length - 1, Math.max(0, Math.floor((e.clientX - r.left) / r.width * heights.length)));
  heights[i] = Math.round(100 * Math.min(1, Math.max(0, 1 - (e.clientY - r.top) / r.height))) / 100; at = i; show();
}
box.addEventListener('pointerdown', (e) => { busy = true; box.setPointerCapture(e.pointerId); put(e); });
box.addEventListener('pointermove', (e) => { if (busy) put(e); });
box.addEventListener('pointerup', () => { busy = false; props.value = JSON.stringify(heights); trigger('change'); });
box.addEventListener('keydown', (e) => {
  const step = {ArrowUp: 0.05, ArrowDown: -0.05}[e.key], move = {ArrowRight: 1, ArrowLeft: -1}[e.key];
  if (step === undefined && move === undefined) return;
  e.preventDefault();
  if (move) at = Math.min(heights.length - 1, Math.max(0, at + move));
  else { heights[at] = Math.min(1, Math.max(0, heights[at] + step)); show(); props.value = JSON.stringify(heights); }
});
show();
"""


@dataclass
class Watched:
    """Lessons side by side, and what they have shown."""

    requests: list[learning.LessonRequest]
    target: Any
    lessons: list[learning.Lesson] = field(default_factory=list)
    frames: list[list[learning.Frame]] = field(default_factory=list)

    def begin(self) -> None:
        """From the first frame."""
        self.close()
        self.lessons = [learning.Lesson(request) for request in self.requests]
        self.frames = [[] for _ in self.lessons]

    def advance(self) -> bool:
        """One frame of every lesson that has not ended; False where none is left."""
        some = False
        for lesson, seen in zip(self.lessons, self.frames, strict=True):
            if (frame := lesson.next()) is not None:
                seen.append(frame)
                some = True
        return some

    def close(self) -> None:
        """End the trainings."""
        for lesson in self.lessons:
            lesson.close()

    def html(self) -> str:
        """The target and every model."""
        match target := self.requests[0].target:
            case learning.HISTOGRAM:
                whole = draw.bars(self.target, label="target")
            case learning.DIGITS:
                whole = draw.sheet(self.target, label="some of the target")
            case _:
                whole = draw.plane(self.target, label="target density")
        cards = [draw.card("target", target, whole)]
        for request, seen in zip(self.requests, self.frames, strict=True):
            cards.append(self._card(request, seen) if seen else draw.card(request.model, "building ..."))
        return draw.row(cards)

    def _card(self, request: learning.LessonRequest, seen: list[learning.Frame]) -> str:
        now = seen[-1]
        label = f"{request.model} at step {now.step}"
        match request.target:
            case learning.HISTOGRAM:
                drawn = now.density if now.density is not None else now.samples / max(1, now.samples.sum())
                panel = draw.bars(self.target, drawn.tolist(), label=label)
            case learning.DIGITS:
                panel = draw.sheet(now.samples, label=label)
            case _:
                panel = draw.plane(now.density, now.samples, label=label)
        value = "not measured" if now.distance is None else f"{now.distance:.4f}"
        course = draw.curve([f.distance for f in seen], [f.step for f in seen], label=now.meaning)  # type: ignore[misc]
        note = f"step {now.step:,} of {now.steps:,}: {now.meaning} {value}"
        return draw.card(request.model, note, panel, course)

    def numbers(self) -> str:
        """The last distance of each, for whoever reads along."""
        return "\n".join(
            f"{request.model}: {seen[-1].distance:.6f} at step {seen[-1].step}, {seen[-1].meaning}"
            for request, seen in zip(self.requests, self.frames, strict=True)
            if seen and seen[-1].distance is not None
        )


@told
def start(
    target: str, weights: str, models: list[str], steps: float, every: float, seed: float, old: Watched | None
) -> tuple[Watched, str, str]:
    """New lessons at their first frame."""
    if old is not None:
        old.close()
    heights = json.loads(weights) if target == learning.HISTOGRAM else []
    requests = [
        learning.make_request(
            target=target, model=model, weights=heights, steps=int(steps), every=int(every), seed=int(seed),
            settings={"hidden": (32,)} if model == "made" and heights else {},
        )
        for model in (models or ["realnvp"])
    ]  # fmt: skip
    watched = Watched(requests, learning.target_density(requests[0]))
    watched.begin()
    watched.advance()
    return watched, watched.html(), watched.numbers()


@told
def play(watched: Watched | None, speed: float) -> Iterator[tuple[str, str]]:
    """Frame after frame until the end, at most `speed` a second."""
    if watched is None:
        raise gr.Error("press start first")
    while True:
        begun = time.monotonic()
        if not watched.advance():
            return
        yield watched.html(), watched.numbers()
        time.sleep(max(0.0, 1 / speed - (time.monotonic() - begun)))


@told
def step(watched: Watched | None) -> tuple[str, str]:
    """One frame."""
    if watched is None:
        raise gr.Error("press start first")
    watched.advance()
    return watched.html(), watched.numbers()


@told
def replay(watched: Watched | None, speed: float) -> Iterator[tuple[str, str]]:
    """The same again from the first frame."""
    if watched is None:
        raise gr.Error("press start first")
    watched.begin()
    yield from play(watched, speed)


@told
def explain(models: list[str]) -> str:
    """What the models' files say."""
    return "".join(draw.paper(workshop.explained(name)) for name in models)


def page() -> None:
    """The page."""
    watched = gr.State(None, time_to_live=3600, delete_callback=lambda w: w.close() if w is not None else None)
    gr.Markdown("Watch a model learn to approximate a distribution that is known.")
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            target = gr.Dropdown(
                [*learning.TOYS, learning.HISTOGRAM, learning.DIGITS], value="8gaussians", label="target"
            )
            with gr.Column(visible=False) as own:
                bars = gr.HTML(
                    json.dumps([round(h, 3) for h in FIRST]), label="draw it with the mouse, or the arrow keys",
                    html_template='<div class="pm-draw" tabindex="0" role="slider" aria-label="heights"></div>',
                    js_on_load=DRAWING, elem_id="weights",
                )  # fmt: skip
            models = gr.Dropdown(list(FAMILIES), value=["realnvp"], multiselect=True, label="models", elem_id="models")
            collapse = gr.Checkbox(label="show mode collapse, and its remedies", elem_id="collapse")
            with gr.Row():
                steps = gr.Number(600, label="steps", precision=0, minimum=1, maximum=100_000, min_width=80)
                every = gr.Number(20, label="steps a frame", precision=0, minimum=1, min_width=80)
                seed = gr.Number(0, label="seed", precision=0, minimum=0, min_width=80)
            speed = gr.Slider(0.5, 20, 5, label="frames a second, at most")
            with gr.Row():
                begin = gr.Button("start", variant="primary", elem_id="start", min_width=70)
                go = gr.Button("play", elem_id="play", min_width=70)
                pause = gr.Button("pause", elem_id="pause", min_width=70)
                one = gr.Button("step", elem_id="step", min_width=70)
                again = gr.Button("replay", elem_id="replay", min_width=70)
        with gr.Column(scale=3, min_width=320):
            stage = gr.HTML('<p class="pm-note">press start</p>', elem_id="stage")
            numbers = gr.Textbox(label="distances", elem_id="numbers", lines=1, max_lines=8, interactive=False)
    with gr.Accordion("what the models are: papers, equations, files, options", open=False) as more:
        words = gr.HTML()

    def chosen(name: str) -> tuple[Any, Any]:
        choices = {learning.HISTOGRAM: OF_BARS, learning.DIGITS: OF_DIGITS}.get(name, FAMILIES)
        return gr.update(visible=name == learning.HISTOGRAM), gr.update(choices=list(choices), value=[choices[0]])

    target.change(chosen, target, [own, models], api_visibility="private")
    collapse.change(
        lambda on: (gr.update(value="8gaussians"), gr.update(value=list(COLLAPSE if on else ["realnvp"]))),
        collapse, [target, models], api_visibility="private",
    )  # fmt: skip
    begin.click(
        start, [target, bars, models, steps, every, seed, watched], [watched, stage, numbers], api_visibility="private",
        show_progress="minimal", concurrency_limit=2,
    )  # fmt: skip
    running = [
        go.click(play, [watched, speed], [stage, numbers], api_visibility="private", show_progress="hidden"),
        again.click(replay, [watched, speed], [stage, numbers], api_visibility="private", show_progress="hidden"),
    ]
    pause.click(None, None, None, cancels=running)
    one.click(step, watched, [stage, numbers], api_visibility="private", show_progress="hidden")
    more.expand(explain, models, words, api_visibility="private")
