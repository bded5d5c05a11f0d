"""`pipeline("text-generation", model)`: a text model asked as the library transformers asks, offline.

    generator = polymode.pipeline("text-generation", "runs/plays")
    generator("ROMEO:", max_length=30, num_return_sequences=2)[0]["generated_text"]

The model is a run's folder, a folder of GPT-2's published files, or a model that is already there. Answers have the
form of transformers': a list of {"generated_text": ...}, and a list of such lists for a list of prompts. Drawing is
plain unless options say otherwise (transformers restricts to 50 tokens by default), and one seed gives one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch

from polymode.core import checkpoint, rng
from polymode.core.errors import CheckpointError, PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.core.spelling import END_OF_TEXT, code_of, encode
from polymode.interop.gpt2 import is_run, load_gpt2
from polymode.tasks.text import continue_text

TASKS = ("text-generation",)
Answer = list[dict[str, str]]


class TextGeneration:
    """Continues prompts by a model of texts."""

    task = "text-generation"

    def __init__(self, model: GenerativeModel) -> None:
        encode("", model.spec)  # a model of something else is refused here
        self.model = model

    @overload
    def __call__(self, prompt: str, **options: Any) -> Answer: ...

    @overload
    def __call__(self, prompt: Sequence[str], **options: Any) -> list[Answer]: ...

    def __call__(
        self,
        prompt: str | Sequence[str] = "",
        *,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        num_return_sequences: int = 1,
        do_sample: bool = True,
        return_full_text: bool = True,
        stop: str | Sequence[str] = (),
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Answer | list[Answer]:
        """Texts that go on from a prompt, or from each of several.

        Args:
            prompt: what they begin with.
            max_length: tokens, those of the prompt included.
            max_new_tokens: tokens after the prompt; without either, to the window's end.
            num_return_sequences: texts a prompt.
            do_sample: draw; False takes the likeliest token at each step, of which there is one text a prompt.
            return_full_text: the prompt is part of the answer.
            stop: where one of these comes after the prompt, the text ends before it, as it does before
                "<|endoftext|>" where the vocabulary has that symbol.
            generator, seed: one of them for a repeatable answer.
            options: of the model's decoding: temperature, top_k, top_p, repetition_penalty, ...

        Raises:
            PolymodeError: both lengths, one that leaves no token to draw, several texts without drawing, or options
                that the model lacks.
        """
        if max_length is not None and max_new_tokens is not None:
            raise PolymodeError("max_length and max_new_tokens say the same in two ways; give one of them")
        if num_return_sequences < 1 or (not do_sample and num_return_sequences > 1):
            raise PolymodeError(
                f"num_return_sequences={num_return_sequences} with do_sample={do_sample}: expected at least one text, "
                "and one only where the likeliest tokens are taken"
            )
        if not do_sample:
            options |= {"temperature": 0.0}
        g, code = rng.resolve(generator, seed), code_of(self.model.spec)
        ends = [stop] if isinstance(stop, str) else [*stop]
        if code is not None and END_OF_TEXT in code.special:
            ends.append(END_OF_TEXT)
        answers = []
        for text in [prompt] if isinstance(prompt, str) else prompt:
            length = max_new_tokens
            if max_length is not None:
                given = len(encode(text, self.model.spec))
                if (length := max_length - given) < 1:
                    raise PolymodeError(f"max_length={max_length} and the prompt has {given} tokens; give more")
            texts = continue_text(
                self.model, text, length=length, n=num_return_sequences, stop=ends, generator=g, **options
            )
            cut = 0 if return_full_text else len(text)
            answers.append([{"generated_text": found[cut:]} for found in texts])
        return answers[0] if isinstance(prompt, str) else answers


def pipeline(task: str, model: str | Path | GenerativeModel, *, device: torch.device | str = "cpu") -> TextGeneration:
    """A generator of texts.

    Args:
        task: "text-generation".
        model: a run's folder, a folder of GPT-2's published files, or a model.
        device: where it computes.

    Raises:
        PolymodeError: another task, a folder that holds no model, or a model of something else than texts.
    """
    require_choice("task", task, TASKS)
    if isinstance(model, GenerativeModel):
        return TextGeneration(model.to(device).eval())
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}; give one of a run, or of GPT-2's files, which are got with: hf download "
            f"openai-community/gpt2 --local-dir gpt2"
        )
    found = checkpoint.load(folder, device=device) if is_run(folder) else load_gpt2(folder).to(device)
    return TextGeneration(found)
