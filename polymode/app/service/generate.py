"""Continue a text with a run that learned texts."""

from __future__ import annotations

import secrets
from typing import Any

from polymode.app.service import runs
from polymode.app.service.sample import condition_of_samples
from polymode.app.service.schemas import GenerateRequest
from polymode.core.errors import ConditionError


def generate(request: GenerateRequest) -> dict[str, Any]:
    """The texts, each as {"generated_text": ...}; without a seed, one is drawn and told.

    Raises:
        PolymodeError: no run, one that did not learn texts, a prompt it can't spell, unknown options.
    """
    run = runs.read_run(request.run)
    if request.label is not None and not run.conditional:
        raise ConditionError(f"{run.folder} was trained without labels, so --label means nothing; leave it out")

    from polymode.app.service.building import load_model
    from polymode.tasks.text import continue_text

    model = load_model(run.folder, request.device)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    condition, told = condition_of_samples(model, request.n, request.label, data=None, seed=seed)
    texts = continue_text(
        model, request.prompt, length=request.length, n=request.n, condition=condition, seed=seed, **request.options
    )
    return {
        "run": str(run.folder), "model": run.model, "prompt": request.prompt, "seed": seed, "condition": told,
        "texts": [{"generated_text": text} for text in texts],
    }  # fmt: skip
