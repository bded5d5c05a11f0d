"""The command line: parses, calls one use case, prints, and gives a status that scripts can trust.

0    done
1    something failed that is not the user's input (the self-test)
2    a mistake the user can mend, told in one sentence
130  interrupted by Ctrl-C; a training has saved its checkpoint
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from polymode import catalogue
from polymode.app.cli import (
    classify,
    compress,
    detect,
    latents,
    look,
    restore,
    show,
    studio,
    study,
    train,
    translate,
    use,
)
from polymode.app.service import PolymodeError, nearest

#: typer brings its own parser since 0.26 and uses click's before; this is the class of all usage errors in both
UsageError: Any = typer.BadParameter.__base__


def application(*, rich: bool) -> typer.Typer:
    """The commands; `rich` frames the help."""
    app = typer.Typer(
        rich_markup_mode="rich" if rich else None, add_completion=False, pretty_exceptions_enable=False,
        help="Fit a generative model of any family to your data, sample from it, score with it.",
    )  # fmt: skip

    @app.callback(invoke_without_command=True)
    def face(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    ) -> None:
        if version:
            print(f"polymode {catalogue.VERSION}")
        elif context.invoked_subcommand is None:
            print(context.get_help())

    for command in (
        look.models, look.data, train.fit, use.sample, use.generate, use.complete, translate.translate, restore.restore,
        use.evaluate, detect.detect, detect.forensics, classify.classify, compress.compress, compress.decompress,
        train.compare, train.reproduce, studio.studio, look.doctor,
    ):  # fmt: skip
        app.command()(command)
    app.add_typer(latents.commands(), name="latents")
    app.add_typer(study.commands(), name="study")
    return app


def main(given: Sequence[str] | None = None) -> int:
    """Run one command line and return its status."""
    words = list(sys.argv[1:] if given is None else given)
    command = typer.main.get_command(application(rich=sys.stdout.isatty()))
    try:
        status = command.main(
            args=words, prog_name="polymode", standalone_mode=False, obj=shlex.join(["polymode", *words])
        )
        sys.stdout.flush()
    except PolymodeError as error:
        show.complain(str(error))
        return 2
    except UsageError as error:
        show.complain(usage(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except BrokenPipeError:
        # whoever read our output has seen enough; nothing more may be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if status == 130:
        show.complain("interrupted")
    return status or 0


def usage(error: Any) -> str:
    """The parser's complaint as one sentence that names the nearest."""
    sentence = error.format_message().replace("Value error, ", "").rstrip(".")
    if error.ctx is None:
        return sentence
    if found := re.match(r"No such option:? (\S+)", sentence):
        name = found[1].strip("'\"")
        flags = [flag for p in error.ctx.command.params for flag in (*p.opts, *p.secondary_opts)]
        # without the dashes, which every option shares
        hint = nearest(name.strip("-"), [flag[2:] for flag in flags if flag.startswith("--")]).replace(" '", " '--")
        return f"{error.ctx.command_path} has no option {name}{hint or '; see --help'}"
    if found := re.match(r"No such command '(.+?)'", sentence):
        known = error.ctx.command.list_commands(error.ctx)
        return f"there is no command {found[1]!r}{nearest(found[1], known) or '; commands are: ' + ', '.join(known)}"
    return f"{sentence[:1].lower()}{sentence[1:]}; see {error.ctx.command_path} --help"
