"""The studio's server: pages, queue, limits; on this machine only, unless told otherwise.

Gradio brings the page, its queue and its interface for programs. What is added here: every answer says that nothing may
be loaded from elsewhere, requests that another site's page makes are refused, what is uploaded has a limit, and the
pages of a study live under /judge. An address that others can reach is served only behind a name and a password.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from polymode.app.service import PolymodeError
from polymode.app.service.jobs import Jobs, Runner
from polymode.app.service.workshop import MOST_BYTES, Shelf

LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: what a page may load: itself; Gradio's own scripts are made of pieces, and custom HTML brings its handlers
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
#: where the queue lies among the runs
JOBS = ".studio/jobs.sqlite"
TITLE = "polymode studio"
#: open pages whose state is kept, the latest; each takes half a MiB
PAGES = 100


def _check_packages() -> None:
    from polymode.core.errors import MissingPackageError

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        with mock.patch.object(inspect, "getfile", _no_file_of_gradio):
            import gradio  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(error.name or "gradio", "studio", "the studio") from None


def _no_file_of_gradio(thing: Any, file_of: Callable[[Any], str] = inspect.getfile) -> str:
    """Where a thing is written, hidden from Gradio: it parses its sources at every import to write stubs for editors.

    It leaves out components that have no file, and the seconds that this takes.
    """
    if type(thing).__module__ == "gradio.component_meta":
        raise OSError
    return file_of(thing)


def blocks(bench: Any, study: str | None = None) -> Any:
    """The pages."""
    import gradio as gr

    from polymode.app.studio import explore, fit, judge, learn, restore, sample

    # it would make its application whenever it changes its mind about the queue; one is made when it is mounted
    with (
        mock.patch.object(gr.routes.App, "create_app", return_value=None),
        gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as pages,
    ):
        pages.state_session_capacity = PAGES
        gr.Markdown("# polymode studio")
        with gr.Tab("Learn", id="learn"):
            learn.page()
        with gr.Tab("Fit", id="fit"):
            fit.page(bench)
        with gr.Tab("Sample", id="sample"):
            sample.page(bench)
        with gr.Tab("Explore", id="explore"):
            explore.page(bench)
        with gr.Tab("Restore", id="restore"):
            restore.page(bench)
        with gr.Tab("Compare", id="compare"):
            judge.compare(bench)
        with gr.Tab("Score", id="score"):
            judge.score(bench)
        with gr.Tab("Judge", id="judge"):
            judge.people(study)
        pages.queue(default_concurrency_limit=2, max_size=256)
    return pages


def theme() -> Any:
    """Plain, with the fonts of the reader's own machine."""
    import gradio as gr

    plain = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    return gr.themes.Soft(font=plain, font_mono=["ui-monospace", "Menlo", "monospace"], primary_hue="indigo")


class Guard:
    """ASGI middleware: headers of every answer, and no requests from other origins.

    Args:
        app: what is guarded.
        hosts: names that a request may be made to; empty for any.
    """

    def __init__(self, app: Any, hosts: tuple[str, ...] = ()) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        name = urlsplit(f"//{host}").hostname or ""
        if self.hosts and name not in self.hosts:
            await _refuse(send, 400, f"this studio is not called {name}")
            return
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or (headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET"):
            await _refuse(send, 403, "a page of another site has asked; open the studio itself")
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [] if scope["path"].startswith("/judge") else [(b"content-security-policy", POLICY.encode())]
                added = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"), *own]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, with_headers)


async def _refuse(send: Any, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


def application(bench: Any, *, study: str | None = None, auth: tuple[str, str] | None = None, host: str = "") -> Any:
    """The studio as an ASGI application."""
    _check_packages()
    import gradio as gr
    from fastapi import FastAPI

    from polymode.app.studio.draw import CSS

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if study is not None:
        from polymode.app.service.study.store import Store
        from polymode.app.study.server import application as judged

        app.mount("/judge", judged(Store(study)))
    allowed = [str(bench.work)]
    app = gr.mount_gradio_app(
        app, blocks(bench, study), path="/", auth=auth, allowed_paths=allowed, show_error=True,
        max_file_size=MOST_BYTES, theme=theme(), css=CSS, ssr_mode=False,
    )  # fmt: skip
    hosts = LOOPBACK if host in LOOPBACK else ()
    return Guard(app, hosts)


def serve(
    runs: str = "runs", *, host: str = "127.0.0.1", port: int = 7860, auth: str | None = None, study: str | None = None,
    ready: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Serve the studio until it is stopped.

    Raises:
        PolymodeError: an address that others can reach without a name and a password, or a port that is taken.
    """
    if host not in LOOPBACK and not auth:
        raise PolymodeError(f"--host {host} can be reached by others; give --auth NAME:PASSWORD")
    pair = _pair(auth)
    _check_packages()
    import socket

    import uvicorn

    from polymode.app.studio.base import Bench

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise PolymodeError(f"--port {port} of {host} can't be used ({error.strerror}); give another --port") from None
    root = Path(runs).expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="polymode-studio-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(work)
    bench = Bench(Shelf(root), Jobs(root / JOBS), work)
    runner = Runner(bench.jobs)
    config = uvicorn.Config(
        application(bench, study=study, auth=pair, host=host), log_level="warning", lifespan="on",
        timeout_graceful_shutdown=2,  # open pages never close their connections
    )  # fmt: skip
    logging.getLogger("uvicorn.error").addFilter(_of_no_open_page)
    server = uvicorn.Server(config)
    runner.start()
    shown = f"[{host}]" if ":" in host else host
    threading.Thread(
        target=_tell, args=(server, f"http://{shown}:{listening.getsockname()[1]}/", ready), daemon=True
    ).start()
    try:
        server.run(sockets=[listening])
    finally:
        runner.close()
        shutil.rmtree(work, ignore_errors=True)


def _of_no_open_page(record: logging.LogRecord) -> bool:
    """Whether a message of the server's is of anything but pages that were open when it ended."""
    cancelled = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "graceful shutdown exceeded" not in str(record.msg)


def _tell(server: Any, address: str, ready: Callable[[str], None]) -> None:
    """Say the address once it answers, then load what the first sample needs."""
    while not server.started and not server.should_exit:
        threading.Event().wait(0.05)
    if server.started:
        ready(address)
        for module in ("polymode.app.service.building", "polymode.data.write"):
            importlib.import_module(module)  # with them PyTorch, while the page is opened and read


def _pair(auth: str | None) -> tuple[str, str] | None:
    if auth is None:
        return None
    name, colon, password = auth.partition(":")
    if not (name and colon and len(password) >= 8):
        raise PolymodeError("--auth: expected NAME:PASSWORD with a password of at least 8 characters")
    return name, password
