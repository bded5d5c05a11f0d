"""The pages as HTML. Every text is escaped here; there is no inline script or style, so the policy can forbid them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from polymode.app.service.study.store import Step, Stimulus

#: the five points of ITU-T P.800's absolute category rating
SCALE = (("1", "Bad"), ("2", "Poor"), ("3", "Fair"), ("4", "Good"), ("5", "Excellent"))

#: one pixel of a small picture on the page, where there is room; larger ones turn a digit into blocks
LARGEST_PIXEL = 36


def welcome(facts: dict[str, Any], token: str, *, error: str = "") -> str:
    """What is asked, the consent line, and the way back in for those who have a code."""
    design = facts["design"]
    # each check of an opinion study is a real datum and a noise
    n = design["trials"] + design["checks"] * (2 if design["kind"] == "opinion" else 1)
    if design["kind"] == "pairs":
        tie = ", <kbd>0</kbd> or <kbd>↓</kbd> for no difference" if facts["ties"] else ""
        how = f"You will see {n} pairs. For each, choose one side."
        keys = f"<kbd>1</kbd> or <kbd>←</kbd> for the left, <kbd>2</kbd> or <kbd>→</kbd> for the right{tie}"
    else:
        how = f"You will see {n} items, one at a time. Rate each from 1 (bad) to 5 (excellent)."
        keys = "<kbd>1</kbd> to <kbd>5</kbd>"
    return _page("Study", [
        f"<h1>{escape(facts['question'])}</h1>",
        f'<p class="error consent" role="alert">{escape(error)}</p>' if error else "",
        f"<p>{how} There is no right or wrong speed; go by your first impression.</p>",
        f'<p class="soft keys">Keys: {keys}.</p>',
        "<h2>Consent</h2>",
        f'<p class="consent">{escape(facts["consent"])}</p>',
        f'<form method="post" action="/begin">{_token(token)}'
        '<button class="main" id="begin">I agree, begin</button></form>',
        "<h2>Go on where you stopped</h2>",
        '<p class="soft">Your code stands at the top of every page of the study.</p>',
        f'<form method="post" action="/resume" class="row">{_token(token)}'
        '<label for="code" class="soft">Code</label>'
        '<input type="text" name="code" id="code" maxlength="20" autocomplete="off" spellcheck="false" required>'
        '<button id="resume">Go on</button></form>',
    ])  # fmt: skip


def trial(facts: dict[str, Any], step: Step, token: str) -> str:
    """One thing to judge."""
    pair = len(step.stimuli) == 2
    sides = ("left", "right") if pair else ("",)
    stages = [_stage(s, side, sharp=facts["sharp"]) for s, side in zip(step.stimuli, sides, strict=True)]
    told = step.stimuli[0].condition
    wide = step.stimuli[0].media in ("text/plain", "application/json", "audio/wav")
    if pair:
        body = [
            f'<div class="shown{" stacked" if wide else ""}">',
            f'<div class="side">{stages[0]}{_button("left", "1 ArrowLeft", "Left", "1")}</div>',
            f'<div class="side">{stages[1]}{_button("right", "2 ArrowRight", "Right", "2")}</div></div>',
            _button("tie", "0 ArrowDown", "No difference", "0", "plain") if facts["ties"] else "",
        ]
    else:
        points = [
            f'<button name="choice" value="{v}" data-keys="{v}"><b>{v}</b><small>{word}</small></button>'
            for v, word in SCALE
        ]
        body = [f'<div class="shown one">{stages[0]}</div>', f'<div class="scale">{"".join(points)}</div>']
    return _page(f"{step.done + 1} of {step.total}", [
        f'<header><span id="place">{step.done + 1} of {step.total}</span>'
        f'<progress value="{step.done}" max="{step.total}" aria-label="progress"></progress>'
        f'<span>code <code id="mycode">{escape(step.code)}</code></span></header>',
        f"<h1>{escape(facts['question'])}</h1>",
        f'<p class="told">asked for: <b>{escape(told)}</b></p>' if told else "",
        f'<form method="post" action="/answer" class="answer">{_token(token)}',
        f'<input type="hidden" name="trial" value="{escape(step.trial)}"><input type="hidden" name="seconds" value="">',
        *body,
        "</form>",
    ], kind="trial")  # fmt: skip


def thanks(step: Step, token: str) -> str:
    """The end."""
    return _page("Thank you", [
        "<h1>Thank you</h1>",
        f'<p id="done">All {step.total} answers are saved. You can close this page.</p>',
        f'<p class="soft">Your code was <code>{escape(step.code)}</code>.</p>',
        f'<form method="post" action="/leave">{_token(token)}<button>Next participant on this computer</button></form>',
    ])  # fmt: skip


def problem(sentence: str) -> str:
    """One sentence and the way back."""
    return _page("Study", [f"<h1>That did not work</h1><p>{escape(sentence)}.</p>", '<p><a href="/">Go on</a></p>'])


def under(page: str, base: str) -> str:
    """A page whose own addresses begin with a base; texts hold no plain quotation marks, so they stay as they are."""
    return page.replace('="/', f'="{escape(base)}/') if base else page


def _stage(stimulus: Stimulus, side: str, *, sharp: bool) -> str:
    name = f"{side} item".strip()
    source = f"/stimulus/{escape(stimulus.id)}"
    match stimulus.media:
        case "text/plain":
            inner = f"<pre tabindex=0>{escape(stimulus.content.decode(errors='replace'))}</pre>"
        case "application/json":
            table = json.loads(stimulus.content)
            heads = "".join(f"<th>{escape(h)}</th>" for h in table["heads"])
            rows = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in table["rows"])
            inner = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
            return f'<div class="stage table" tabindex=0>{inner}</div>'
        case "audio/wav":
            inner = f'<audio controls preload="auto" src="{source}" aria-label="{name}"></audio>'
        case _:
            wide = int.from_bytes(stimulus.content[16:20], "big") * (LARGEST_PIXEL if sharp else 1)  # of the PNG's head
            inner = f'<img class="{"sharp" if sharp else ""}" width="{wide}" src="{source}" alt="{name}">'
    return f'<div class="stage">{inner}</div>'


def _button(value: str, keys: str, word: str, key: str, kind: str = "") -> str:
    return f'<button class="{kind}" name="choice" value="{value}" data-keys="{keys}">{word}<kbd>{key}</kbd></button>'


def _token(token: str) -> str:
    return f'<input type="hidden" name="token" value="{escape(token)}">'


def _page(title: str, body: Iterable[str], *, kind: str = "text") -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/style.css"><link rel="icon" href="/icon.svg">'
        '<script src="/study.js" defer></script></head>\n'
        f'<body><main class="{kind}">{"".join(body)}</main></body></html>\n'
    )
