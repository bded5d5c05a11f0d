"""Continue a text with a run that learned texts, or answer a source with one that learned pairs of them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from polymode.app.service import runs
from polymode.app.service.sample import condition_of_samples
from polymode.app.service.schemas import GenerateRequest
from polymode.core.errors import ConditionError, PolymodeError

if TYPE_CHECKING:
    from polymode.core.model import GenerativeModel


def generate(request: GenerateRequest) -> dict[str, Any]:
    """The texts, each as {"generated_text": ...}; without a seed, one is drawn and told.

    Of a run that learned pairs the prompt is the source, and the texts are its targets.

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

    model = load_model(run.folder, request.device)
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
        condition, told = condition_of_samples(model, request.n, request.label, data=None, seed=seed)
        texts = continue_text(
            model, request.prompt, length=request.length, n=request.n, condition=condition, seed=seed,
            **options,
        )  # fmt: skip
    return {
        "run": str(run.folder), "model": run.model, "prompt": request.prompt, "seed": seed, "condition": told,
        "texts": [{"generated_text": text} for text in texts],
    }  # fmt: skip


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
