"""`stpl report --live`: the page served on this machine alone, following a running sweep."""

from __future__ import annotations

import hashlib
import html
import json
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from stpl.errors import ConfigError, StplError
from stpl.report.curves import unfinished
from stpl.report.gallery import gallery
from stpl.report.report_page import PAGE, Contents, render
from stpl.report.rows import tables
from stpl.report.suite import Suite
from stpl.runs.experiments import Catalogue
from stpl.runs.record import RECORD

_HOST = "127.0.0.1"
_PLACE = "report"


class LivePage:
    """The page of a benchmark about the experiment `chosen`, made anew when a record has come or gone."""

    def __init__(self, bench: str, runs: Path, catalogue: Catalogue, chosen: str) -> None:
        self._suite = partial(Suite, bench, runs, catalogue)  # a new one for every look: a suite reads records once
        self._chosen, self._lock = chosen, Lock()
        self._made_of, self._page = "", ""

    def version(self) -> str:
        """A hash of which records there are; it changes when a run ends or is deleted."""
        records = sorted(self._suite().folder.glob(f"*/seed*/{RECORD}"))
        states = [(str(path), path.stat().st_mtime_ns) for path in records]
        return hashlib.sha256(repr(states).encode()).hexdigest()[:16]

    def state(self) -> str:
        """What the page requests every two seconds, as JSON: the version, and how far the unfinished runs are."""
        return json.dumps({"version": self.version(), "running": [asdict(run) for run in unfinished(self._suite())]})

    def html(self) -> str:
        """The page of now; several readers wait for one drawing."""
        with self._lock:
            version = self.version()
            if version != self._made_of:
                suite = self._suite()
                found, place = tables(suite), suite.folder / _PLACE
                pictures = gallery(suite, found, self._chosen, place, suite.folder / "tables")
                self._page = render(Contents(suite, found, pictures, self._chosen), place, live=True)
                self._made_of = version
            return self._page


class _Handler(SimpleHTTPRequestHandler):
    """Serves the page at `/report/`, its state, and the files of the runs that it links to."""

    def __init__(self, *args: Any, page: LivePage, folder: Path, **options: Any) -> None:
        self._page = page
        super().__init__(*args, directory=str(folder), **options)

    def do_GET(self) -> None:
        """Answer a request, unless it was meant for another host's name (DNS rebinding)."""
        path = urlsplit(self.path).path
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in (_HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "served to this machine alone")
        elif path == f"/{_PLACE}/state":
            self._answer(self._page.state(), "application/json")
        elif path in (f"/{_PLACE}/", f"/{_PLACE}/{PAGE}"):
            try:
                text = self._page.html()
            except StplError as error:  # a record that is torn while one looks: say so, and serve on
                said = f"<pre>{html.escape(str(error))}</pre>"
                text = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="3">{said}'
            self._answer(text, "text/html; charset=utf-8")
        elif path == "/":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", f"/{_PLACE}/")
            self.end_headers()
        else:
            super().do_GET()

    def _answer(self, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def guess_type(self, path: str | PathLike[str]) -> str:
        """Show configurations and logs instead of downloading them."""
        shown = str(path).endswith((".yaml", ".csv", ".txt"))
        return "text/plain; charset=utf-8" if shown else super().guess_type(path)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name is the base's
        """Say nothing: the page asks every two seconds."""


def server(page: LivePage, folder: Path, port: int) -> ThreadingHTTPServer:
    """A server, on this machine alone, of the page and of the benchmark's `folder` of runs; port 0 takes a free one.

    Raises:
        ConfigError: if the port is in use or no port.
    """
    try:
        return ThreadingHTTPServer((_HOST, port), partial(_Handler, page=page, folder=folder))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port {port} cannot be served ({error})", mend="choose another --port, or 0") from error


def serve(suite: Suite, chosen: str, port: int) -> None:
    """Serve the page until interrupted; raises `ConfigError` as `server` does."""
    page = LivePage(suite.bench, suite.runs, suite.catalogue, chosen)
    with server(page, suite.folder, port) as http:
        print(f"live: http://{_HOST}:{http.server_address[1]}/{_PLACE}/ (Ctrl-C ends)", flush=True)
        http.serve_forever()
