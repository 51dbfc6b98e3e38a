"""The door of the page: which requests are let in, from where and how large; all else is refused."""

import asyncio
import ipaddress
import json
import os
import pathlib
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from imagebind_jax.web.limits import (
    BODY_TIMEOUT,
    MAX_CONCURRENCY,
    MAX_JSON_BYTES,
    MAX_UPLOAD_BYTES,
    MAX_UPLOAD_DIR_BYTES,
)

BUSY = "The page is busy with other questions: try again in a moment."
BAD_REQUEST_MESSAGE = "This is not a question of the page."
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# All that the page's own script asks for. gradio serves more: files, a proxy, editors.
GET_ROUTES = re.compile(
    r"/|/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt)|/(assets|static|svelte)/[\w./-]+"
    r"|/gradio_api/(info|queue/data|startup-events|upload_progress|theme\.css|heartbeat/\w+)"
)
POST_ROUTES = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)/?")
HEADERS = (
    # The browser itself refuses what is not from here, whatever a page's script may want.
    (b"content-security-policy",
     b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
     b"'unsafe-inline'; img-src 'self' data: blob:; media-src data: blob:; font-src 'self' data:; "
     b"connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)  # fmt: skip

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class HttpError(Exception):
    """A request that is not let in: its status and one line."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status, self.line = status, line


class RequestGuard:
    """An ASGI app before another one, that lets in only what the page itself asks for.

    host: that the server listens on. folder: where uploads lie; a question names no other file.
    """

    def __init__(self, app: Callable, host: str, folder: pathlib.Path):
        self._app, self._host, self._folder = app, host, folder
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._let_in(scope, receive, send)
            except HttpError as refused:
                await _answer(send, refused)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        check_origin(headers, self._host, scope["method"] == "GET" and scope["path"] == "/")
        path, method = scope["path"], scope["method"]
        if (
            ".." in path
            or "//" in path
            or not (GET_ROUTES if method in ("GET", "HEAD") else POST_ROUTES).fullmatch(path)
        ):
            raise HttpError(404, "There is no such page.")
        answer = _Answer(send)
        if method in ("GET", "HEAD"):
            await self._app(scope, receive, answer)
            return
        if method != "POST":
            raise HttpError(405, "Only GET and POST are answered.")
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                await self._post(scope, headers, receive, answer)
        except TimeoutError:
            raise HttpError(408, "This took too long to arrive.") from None

    async def _post(
        self, scope: Scope, headers: dict[bytes, str], receive: Receive, send: Send
    ) -> None:
        if not scope["path"].startswith("/gradio_api/upload"):
            check_body_size(headers, MAX_JSON_BYTES)
            body = await _whole(receive)
            check_upload_paths(body, self._folder)
            await self._app(scope, _replay_body(body, receive), send)
            return
        check_body_size(headers, MAX_UPLOAD_BYTES)
        if self._uploads >= MAX_CONCURRENCY:
            raise HttpError(429, BUSY)
        if folder_bytes(self._folder) + int(headers[b"content-length"]) > MAX_UPLOAD_DIR_BYTES:
            raise HttpError(429, "Too many uploads wait to be read: try again in a few minutes.")
        self._uploads += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._uploads -= 1


def check_origin(headers: dict[bytes, str], host: str, first: bool = False) -> None:
    """Raises `HttpError` where the page was asked by another name, or by another site's script.

    A site may call its own name 127.0.0.1, and would then read what is here. first: the page itself,
    to which a link may lead from anywhere.
    """
    asked = headers.get(b"host", "")
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::\d+)?", asked)
    name = (match.group(1) or match.group(2)).lower() if match else ""
    if name not in {*LOOPBACK, host.lower()} and not (_is_any(host) and _is_own(name)):
        raise HttpError(421, f"This page answers to {host} alone.")
    origin = headers.get(b"origin")
    if origin is not None and origin.partition("://")[2] != asked:
        raise HttpError(403, "Other sites may not ask this page.")
    if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin") and not first:
        raise HttpError(403, "Other sites may not ask this page.")


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")


def _is_own(name: str) -> bool:
    """An address, which no site can pretend to be, or this machine's own name."""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return name == socket.gethostname().lower()


def is_loopback(host: str) -> bool:
    """Whether no other machine can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_body_size(headers: dict[bytes, str], most: int) -> None:
    """Raises `HttpError` where a body is too long, or does not say how long it is: the server reads no
    more of it than it says."""
    length = headers.get(b"content-length", "")
    if not re.fullmatch(r"\d{1,15}", length) or b"transfer-encoding" in headers:
        raise HttpError(411, "A request has to say how long it is.")
    if int(length) > most:
        raise HttpError(413, f"More than {most >> 20} MiB at once: drop fewer, or smaller files.")


def check_upload_paths(body: bytes, folder: pathlib.Path) -> None:
    """Raises `HttpError` where a question is no JSON, or names a file that is not an upload.

    gradio takes the path of an upload from the browser, that is from anybody.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise HttpError(400, BAD_REQUEST_MESSAGE) from None
    if not isinstance(asked, dict):
        raise HttpError(400, BAD_REQUEST_MESSAGE)
    for each in _dicts(asked):
        if "path" in each or "url" in each:
            path = each.get("path")
            if not isinstance(path, str) or not is_upload(path, folder):
                raise HttpError(403, "This file was not uploaded here, or is read already.")


def is_upload(path: str, folder: pathlib.Path) -> bool:
    """Whether it is a regular file below the folder of uploads, by no link."""
    try:
        real = os.path.realpath(path, strict=True)
    except (OSError, ValueError):
        return False
    return real == path and os.path.isfile(real) and pathlib.Path(real).is_relative_to(folder)


def _dicts(value: Any) -> Iterator[dict]:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield each
            left += each.values()
        elif isinstance(each, list):
            left += each


def folder_bytes(folder: pathlib.Path) -> int:
    """Bytes of all files below it."""
    sizes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                sizes += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # just removed
                continue
    return sizes


class _Answer:
    """Sends on, with the headers of the page. gradio's 503 is a full queue, and its 500 a question that
    makes no sense: both are the visitor's to know, and no failure of the page."""

    def __init__(self, send: Send):
        self._send, self._refused = send, False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            status = message["status"]
            if status >= 500:
                self._refused = True
                busy = (
                    HttpError(429, BUSY) if status == 503 else HttpError(400, BAD_REQUEST_MESSAGE)
                )
                await _answer(self._send, busy)
            names = {name for name, _ in HEADERS}
            others = [pair for pair in message.get("headers", []) if pair[0].lower() not in names]
            message = {**message, "headers": [*others, *HEADERS]}
        if not self._refused:
            await self._send(message)


async def _answer(send: Send, refused: HttpError) -> None:
    body = json.dumps({"detail": refused.line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refused.status == 429:
        headers.append((b"retry-after", b"2"))
    start = {"type": "http.response.start", "status": refused.status}
    await send({**start, "headers": [*headers, *HEADERS]})
    await send({"type": "http.response.body", "body": body})


async def _whole(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request" or len(body) > MAX_JSON_BYTES:
            raise HttpError(400, "The request ended before its end.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """The body again, for whoever comes behind; then whatever else is received."""
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> MutableMapping[str, Any]:
        return next(given, None) or await receive()

    return again
