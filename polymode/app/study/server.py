"""The server of a study: routes, sessions, headers; on this machine only, unless told otherwise.

    GET  /               what is asked, consent          POST /begin    consent; a new rater
    GET  /trial          the first open trial            POST /resume   an old rater by code
    GET  /stimulus/ID    something of one's own trials   POST /answer   an answer; the second to a trial is ignored
                                                         POST /leave    forget the session

Every POST carries a token that only a page of the same session holds. Nothing is read but the study's file. Where the
pages are a part of another application (the studio's /judge), their addresses begin with its place for them.
"""

from __future__ import annotations

import secrets
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from polymode.app.service.study.store import OrderError, SessionError, Store, UnknownError
from polymode.app.study import assets, pages
from polymode.core.errors import MissingPackageError, PolymodeError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

#: longest body of a form
LONGEST_FORM = 16_384
#: seconds that a session's cookie is kept, a month
KEPT = 30 * 24 * 3600
HEADERS = (
    (b"content-security-policy",
     b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; media-src 'self'; form-action 'self'; "
     b"base-uri 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"), (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"), (b"cache-control", b"no-store"),
)  # fmt: skip
_STATUS = ((UnknownError, 404), (SessionError, 403), (OrderError, 409))
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _packages() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(error.name or "starlette", "study", "serving a study") from None


def application(store: Store, *, hosts: tuple[str, ...] = ("*",)) -> Starlette:
    """The study as an ASGI application; requests to other ``hosts`` are refused."""
    _packages()
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    face = _Face(store)

    def posted(act: Callable[[Request, dict[str, str]], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            form = await _form(request)
            return await run_in_threadpool(act, request, form)

        return endpoint

    def refused(request: Request, error: Exception) -> Response:
        status = next((s for kind, s in _STATUS if isinstance(error, kind)), 400)
        return _html(request, pages.problem(str(error)), status)

    def failed(request: Request, error: Exception) -> Response:
        print(f"polymode study: {error}", file=sys.stderr)
        sentence = "the study's file could not be used just now; your earlier answers are safe, try again"
        return _html(request, pages.problem(sentence), 503)

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _html(request, pages.problem(f"{error.detail}".rstrip(".")), error.status_code)

    return Starlette(
        routes=[
            Route("/", face.welcome), Route("/trial", face.trial), Route("/stimulus/{name}", face.stimulus),
            Route("/style.css", face.style), Route("/study.js", face.script),
            Route("/icon.svg", face.icon),
            *(
                Route(f"/{act.__name__}", posted(act), methods=["POST"])
                for act in (face.begin, face.resume, face.answer, face.leave)
            ),
        ],
        middleware=[
            Middleware(_Headers), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={PolymodeError: refused, sqlite3.Error: failed, HTTPException: http},
    )  # fmt: skip


class _Headers:
    """ASGI middleware: the headers of every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class _Face:
    """The routes; those that are plain functions run in threads."""

    def __init__(self, store: Store) -> None:
        self.store, self.cookie = store, f"study_{store.facts['id']}"

    def welcome(self, request: Request) -> Response:
        session = self._session(request)
        if session and self.store.rater(session) is not None:
            return _to(request, "/trial")
        return self._first_page(request, session)

    def begin(self, request: Request, form: dict[str, str]) -> Response:
        session = self._checked(request, form)
        self.store.begin(session, self.store.facts["consent"])
        return _to(request, "/trial")

    def resume(self, request: Request, form: dict[str, str]) -> Response:
        session = self._checked(request, form)
        try:
            self.store.resume(session, form.get("code", ""))
        except UnknownError as error:
            return self._first_page(request, session, error=f"{error}.", status=404)
        return _to(request, "/trial")

    def trial(self, request: Request) -> Response:
        session, rater = self._rater(request)
        if rater is None:
            return _to(request, "/")
        step, token = self.store.step(rater), self.store.token(session)
        shown = pages.trial(self.store.facts, step, token) if step.trial else pages.thanks(step, token)
        return _html(request, shown)

    def answer(self, request: Request, form: dict[str, str]) -> Response:
        self._checked(request, form)
        _, rater = self._rater(request)
        if rater is None:
            raise SessionError("this session has not agreed to take part; open the study's first page")
        self.store.answer(rater, form.get("trial", ""), form.get("choice", ""), _seconds(form.get("seconds", "")))
        return _to(request, "/trial")

    def leave(self, request: Request, form: dict[str, str]) -> Response:
        self._checked(request, form)
        answer = _to(request, "/")
        answer.delete_cookie(self.cookie)
        return answer

    def stimulus(self, request: Request) -> Response:
        from starlette.responses import Response

        _, rater = self._rater(request)
        if rater is None:
            raise SessionError("this is shown to participants only; open the study's first page")
        found = self.store.stimulus(rater, request.path_params["name"])
        return Response(found.content, media_type=found.media)

    def style(self, _: Request) -> Response:
        from starlette.responses import Response

        return Response(assets.STYLE, media_type="text/css")

    def script(self, _: Request) -> Response:
        from starlette.responses import Response

        return Response(assets.SCRIPT, media_type="text/javascript")

    def icon(self, _: Request) -> Response:
        from starlette.responses import Response

        return Response(assets.ICON, media_type="image/svg+xml")

    # -- parts -----------------------------------------------------------------------------------------------------
    def _session(self, request: Request) -> str:
        return request.cookies.get(self.cookie, "")

    def _rater(self, request: Request) -> tuple[str, int | None]:
        session = self._session(request)
        return session, self.store.rater(session) if session else None

    def _checked(self, request: Request, form: dict[str, str]) -> str:
        session = self._session(request)
        self.store.check_token(session, form.get("token", ""))
        return session

    def _first_page(self, request: Request, session: str, *, error: str = "", status: int = 200) -> Response:
        fresh = session or secrets.token_urlsafe(24)
        answer = _html(request, pages.welcome(self.store.facts, self.store.token(fresh), error=error), status)
        if not session:
            answer.set_cookie(self.cookie, fresh, max_age=KEPT, httponly=True, samesite="lax")
        return answer


def _base(request: Request) -> str:
    """Where the pages begin: the place of the application in another one."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def _html(request: Request, text: str, status: int = 200) -> Response:
    from starlette.responses import HTMLResponse

    return HTMLResponse(pages.under(text, _base(request)), status)


def _to(request: Request, place: str) -> Response:
    from starlette.responses import RedirectResponse

    return RedirectResponse(_base(request) + place, 303)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form; of a repeated one, the last."""
    from starlette.exceptions import HTTPException

    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            raise HTTPException(413, "this form is too long")
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=20)
    except ValueError:
        raise HTTPException(413, "this form has too many fields") from None
    return {k: v[-1] for k, v in fields.items()}


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def serve(path: str, *, host: str = "127.0.0.1", port: int = 8377, ready: Callable[[str], None] = print) -> None:
    """Serve a study until Ctrl-C or SIGTERM; `ready` is told the address.

    Raises:
        PolymodeError: no study, or an address that can't be used.
        KeyboardInterrupt: Ctrl-C, after the last request was answered.
    """
    _packages()
    import uvicorn

    store = Store(path)
    local = host in LOOPBACK
    app = application(store, hosts=("127.0.0.1", "localhost", "[::1]") if local else ("*",))
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise PolymodeError(f"the address {host} port {port} can't be used ({error}); give another --port") from None
    # uvicorn raises the signal that ended it once more when all is closed; SIGTERM is no failure here
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with listener:
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{listener.getsockname()[1]}/")
            config = uvicorn.Config(
                app, log_level="warning", access_log=False, lifespan="off", server_header=False,
                timeout_graceful_shutdown=5, proxy_headers=False,
            )  # fmt: skip
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
