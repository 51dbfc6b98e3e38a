"""Serves the page on this machine: its folder of uploads, its address, its end."""

import contextlib
import os
import pathlib
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.runtime import console
from imagebind_jax.search import query
from imagebind_jax.search.encoders import CheckpointEncoders
from imagebind_jax.search.store import EmbeddingStore
from imagebind_jax.web import limits, ui
from imagebind_jax.web.handlers import PageHandlers
from imagebind_jax.web.request_guard import RequestGuard, is_loopback
from imagebind_jax.web.uploads import UploadEmbedder

# Nothing is told to anybody, and nothing looked up: these are read where gradio is imported.
TELEMETRY_OFF = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
MONO = ["ui-monospace", "monospace"]
STARTING = 30.0  # seconds


def serve_forever(
    index: str | os.PathLike | None = None,
    *,
    checkpoint: str | os.PathLike | None = None,
    config: str | os.PathLike | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    say: Callable[[str], None] = console.print_line,
) -> None:
    """Serves the page until Ctrl-C or SIGTERM. Raises UserError.

    index: a store to search in. checkpoint: default is the store's. fields: {modality: what its
    records have beside the file}. port: 0 for any that is free.
    """
    with serve(
        index, checkpoint=checkpoint, config=config, fields=fields, host=host, port=port, say=say
    ) as address:
        say(f"page: {address} (Ctrl-C ends it)")
        if not is_loopback(host):
            say(
                f"warning: --host {host}: whoever reaches this machine can use the page, without a password"
            )
        _until_stopped()


def _until_stopped() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:  # the way to end it, and no failure
        return
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def serve(
    index: str | os.PathLike | None = None,
    *,
    checkpoint: str | os.PathLike | None = None,
    config: str | os.PathLike | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    say: Callable[[str], None] = console.print_line,
) -> Iterator[str]:
    """The page's address, which is served in the block. Raises UserError."""
    if index is None and checkpoint is None:
        raise UserError("nothing to embed with: give --index STORE or --checkpoint CKPT")
    with _silent(), tempfile.TemporaryDirectory(prefix="imagebind-jax-page-") as made:
        _gradio()  # before gigabytes are read
        bound = _bound(host, port)
        with contextlib.closing(bound):
            store = None if index is None else EmbeddingStore(index)
            if store is None:
                encoders = CheckpointEncoders(str(checkpoint), config=config, tell=say)
            else:
                encoders = query.load_store_encoders(store, checkpoint, config, say)
            folder = pathlib.Path(made).resolve()  # 0700
            reader = UploadEmbedder(encoders, folder, fields)
            served = build_app(PageHandlers(reader, store), host, folder)
            with _running(served, bound, reader):
                name = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
                shown = f"[{name}]" if ":" in name else name
                yield f"http://{shown}:{bound.getsockname()[1]}/"


def build_app(page: PageHandlers, host: str, folder: pathlib.Path) -> RequestGuard:
    """The page as an ASGI app behind its limits; `folder` is where uploads lie."""
    import fastapi

    gradio = _gradio()
    with _environment({"GRADIO_TEMP_DIR": str(folder)}):
        blocks = ui.build_ui(page)
        # A mounted page does not check the paths it is given unless it believes to be launched.
        blocks.has_launched = True
        blocks.state_session_capacity = limits.SESSIONS
        inner = gradio.mount_gradio_app(
            fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None),
            blocks,
            path="/",
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            show_error=False,
            max_file_size=limits.MAX_UPLOAD_BYTES,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=_theme(gradio),
            css=ui.load_css(),
        )  # fmt: skip
    return RequestGuard(inner, host, folder)


def _theme(gradio: Any) -> Any:
    """Calm, and with the fonts that the machine has: gradio's own come from the network."""
    theme = gradio.themes.Base(
        primary_hue="teal", neutral_hue="gray", radius_size="lg", font=FONTS, font_mono=MONO
    )
    return theme.set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#17191d",
        block_background_fill_dark="#202329",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
    )


def _gradio() -> Any:
    """Raises UserError where it is not installed."""
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs gradio: pip install 'imagebind-jax[demo]'") from error
    return gradio


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port}: a port is from 0 (any that is free) to 65,535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(64)
    except OSError as error:
        bound.close()
        raise UserError(
            f"cannot listen on {host}:{port} ({first_line(error)}): give another --port"
        ) from error
    return bound


@contextlib.contextmanager
def _running(served: RequestGuard, bound: socket.socket, reader: UploadEmbedder) -> Iterator[None]:
    """In a thread of its own, so that signals stay with whoever started it."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            served, log_level="critical", access_log=False, server_header=False, ws="none",
            limit_concurrency=64, timeout_keep_alive=5, timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=1 << 16,
        )
    )  # fmt: skip
    with _environment({"GRADIO_TEMP_DIR": str(reader.folder)}):
        thread = threading.Thread(target=server.run, args=([bound],), name="page", daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + STARTING
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise UserError("the page did not start: another --port may help")
                time.sleep(0.02)
            yield
        finally:
            server.should_exit = True
            thread.join(10)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with _environment(TELEMETRY_OFF):
        yield


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
