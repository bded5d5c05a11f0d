"""Continue a text with a run that learned texts, or answer a source with one that learned pairs of them.

`generate` answers when all is written, `stream` hands out what there is while it is written: the very same texts.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import runs
from polymode.app.service.conditions import condition_of_samples
from polymode.app.service.schemas import GenerateRequest
from polymode.core.errors import ConditionError, PolymodeError

if TYPE_CHECKING:
    from polymode.core.model import GenerativeModel


#: seconds between two looks at a text that is written: a page can't draw hundreds a second
PAUSE = 0.25


def generate(
    request: GenerateRequest,
    *,
    load: Callable[[Path], GenerativeModel] | None = None,
    on_text: Callable[[list[str]], None] | None = None,
) -> dict[str, Any]:
    """The texts, each as {"generated_text": ...}; without a seed, one is drawn and told.

    Of a run that learned pairs the prompt is the source, and the texts are its targets.

    Args:
        request: what is asked.
        load: gives the model of a run's folder; by default it is read from there.
        on_text: is told the texts as they are so far, see `tasks.text`; targets of sources come all at once.

    Raises:
        PolymodeError: no run, one that did not learn texts, a prompt it can't spell, unknown options, or a grammar that
            is none or has no sentence for it.
    """
    run = runs.read_run(request.run)
    if request.label is not None and not run.conditional:
        raise ConditionError(f"{run.folder} was trained without labels, so --label means nothing; leave it out")

    from polymode.app.service.building import load_model
    from polymode.tasks.seq2seq import reads_sources, translate
    from polymode.tasks.text import continue_text

    model = load_model(run.folder, request.device, load)
    options = request.options | _held_to(request, model)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    if reads_sources(model.condition_spec):
        if request.length is not None or request.label is not None:
            raise PolymodeError(
                "the run learned targets of sources, so --length and --label mean nothing; leave them out"
            )
        told = "the prompt as the source"
        texts = translate(model, [request.prompt] * request.n, seed=seed, **options)
    else:
        given = {} if request.label is None else {"label": request.label}
        condition, told = condition_of_samples(model, request.n, given, data=None, seed=seed)
        texts = continue_text(
            model, request.prompt, length=request.length, n=request.n, condition=condition, seed=seed,
            on_text=on_text, **options,
        )  # fmt: skip
    return {
        "run": str(run.folder), "model": run.model, "prompt": request.prompt, "seed": seed, "condition": told,
        "texts": [{"generated_text": text} for text in texts],
    }  # fmt: skip


def stream(request: GenerateRequest, *, load: Callable[[Path], GenerativeModel] | None = None) -> Iterator[list[str]]:
    """The texts of `generate` as they grow, the last ones whole; one who reads slowly misses steps on the way.

    A thread writes; closing the iterator stops it at its next symbol.

    Raises:
        PolymodeError: as `generate` does.
    """
    told: queue.Queue[list[str] | BaseException | None] = queue.Queue()
    closed = threading.Event()

    def on_text(texts: list[str]) -> None:
        if closed.is_set():
            raise _Closed
        told.put(texts)

    def write() -> None:
        try:
            found = generate(request, load=load, on_text=on_text)
            told.put([text["generated_text"] for text in found["texts"]])
            told.put(None)
        except BaseException as error:  # whatever it is, the reader is to know
            told.put(error)

    threading.Thread(target=write, name="stream", daemon=True).start()
    try:
        while True:
            news = [told.get()]
            while not told.empty():
                news.append(told.get())
            if texts := [entry for entry in news if isinstance(entry, list)]:
                yield texts[-1]
                time.sleep(PAUSE)
            if isinstance(news[-1], BaseException):
                raise news[-1]
            if news[-1] is None:
                return
    finally:
        closed.set()


class _Closed(Exception):
    """Nobody reads on."""


def _held_to(request: GenerateRequest, model: GenerativeModel) -> dict[str, Any]:
    """The options that hold texts to the grammar that was asked for."""
    if request.grammar is None:
        return {}

    from polymode.core.spelling import encode
    from polymode.tasks.grammar import allowed
    from polymode.tasks.seq2seq import reads_sources

    if reads_sources(model.condition_spec):
        return {"allowed": allowed(request.grammar, model.spec)}
    begun, window = len(encode(request.prompt, model.spec)), model.spec.num_dims
    if request.length is not None and begun + request.length > window:
        raise PolymodeError(
            f"--length {request.length} goes beyond the {window} symbols that the model sees at once, in which a "
            f"sentence of --grammar has to end; give at most {window - begun}"
        )
    held = allowed(request.grammar, model.spec, length=None if request.length is None else begun + request.length)
    held.check(request.prompt)
    return {"allowed": held, "stop": held.ending} if held.ending else {"allowed": held}
