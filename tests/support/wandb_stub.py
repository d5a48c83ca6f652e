"""A W&B server small enough for a test: it keeps what the real client sends, and hands out the cells of one grid.

It answers the GraphQL operations and the uploads that `wandb sweep`, `wandb agent`, `wandb.init` and `wandb sync` of
wandb 0.31 make, and those by which wandb-workspaces 0.4 saves a view; an operation that it does not know is kept in
`unknown` and answered with nothing.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import yaml

ENTITY = {"id": "entity", "name": "tester"}
PROJECT = {"id": "project", "name": "stpl", "entity": ENTITY}


@dataclass
class Run:
    """What arrived of one run.

    Attributes:
        config: as the client last sent it, each value under its `value`.
        history: rows in the order of arrival.
        summary: the last one.
        files: uploaded files by name.
        commit: of the code.
        tags: of the run.
        sweep: the sweep that it belongs to.
        exit_code: once it has ended.
    """

    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    commit: str | None = None
    tags: list[str] = field(default_factory=list)
    sweep: str | None = None
    exit_code: int | None = None

    def values(self) -> dict[str, Any]:
        """The configuration as a user reads it."""
        return {key: entry["value"] for key, entry in self.config.items() if isinstance(entry, dict)}

    def curve(self, name: str) -> list[Any]:
        """The values of one metric, in the order of arrival."""
        return [row[name] for row in self.history if name in row]


class WandbStub:
    """The server; a context manager.

    Attributes:
        runs: run's id → what arrived.
        sweeps: sweep's id → its configuration.
        views: saved views of the project, as the client sent them, in the order of arrival.
        unknown: operations that it could not answer.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = defaultdict(Run)
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.views: list[dict[str, Any]] = []
        self.unknown: list[str] = []
        self.operations: list[str] = []
        self._cells: dict[str, list[dict[str, Any]]] = {}
        self._agents: dict[str, str] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    def __enter__(self) -> WandbStub:
        """Listen."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def limit(self, sweep: str, command: list[str], cells: int) -> list[dict[str, Any]]:
        """Let agents run another command, and the first few cells only; all cells as they were."""
        before = self._cells[sweep]
        self.sweeps[sweep]["command"], self._cells[sweep] = command, before[:cells]
        return before

    @property
    def url(self) -> str:
        """What `WANDB_BASE_URL` is to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL operation."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else query
        with self._lock:
            self.operations.append(name)
            method = getattr(self, f"_{name}", None)
            if method is None:
                self.unknown.append(f"{name}: {query}")
                return {}
            data: dict[str, Any] = method(variables)
            return data

    def stream(self, run: str, body: dict[str, Any]) -> None:
        """Keep what a run's file stream brings."""
        with self._lock:
            files = body.get("files") or {}
            for line in files.get("wandb-history.jsonl", {}).get("content", []):
                self.runs[run].history.append(json.loads(line))
            for line in files.get("wandb-summary.json", {}).get("content", []):
                self.runs[run].summary = json.loads(line)
            if body.get("complete"):
                self.runs[run].exit_code = body.get("exitcode")

    def keep(self, run: str, name: str, content: bytes) -> None:
        """Keep an uploaded file."""
        with self._lock:
            self.runs[run].files[name] = content

    # --- operations: named as in the client ---------------------------------------------------------------------------

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        teams: dict[str, Any] = {"edges": []}
        return {"viewer": {"id": "viewer", "entity": "tester", "username": "tester", "flags": "{}", "teams": teams}}

    _GetDefaultEntity = _Viewer

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        config = yaml.safe_load(variables["config"])
        identifier = f"sweep{len(self.sweeps)}"
        self.sweeps[identifier] = config
        names = sorted(config["parameters"])
        choices = [_values(config["parameters"][name]) for name in names]
        self._cells[identifier] = [dict(zip(names, cell, strict=True)) for cell in itertools.product(*choices)]
        sweep = {"id": identifier, "name": identifier, "project": PROJECT}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        identifier = variables["name"] if "name" in variables else variables["sweep"]
        config = self.sweeps[identifier]
        sweep = {
            "id": identifier, "name": identifier, "method": config["method"], "state": "RUNNING", "description": None,
            "config": yaml.safe_dump(config), "createdAt": None, "heartbeatAt": None, "updatedAt": None,
            "earlyStopJobRunning": False, "controller": None, "scheduler": None, "runs": {"edges": []},
        }  # fmt: skip
        return {"project": {"sweep": sweep}}

    def _UpsertView2(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.views.append(variables)
        return {"upsertView": {"view": {"id": f"view{len(self.views)}", "name": variables["name"]}, "inserted": True}}

    def _CreateAgent(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        identifier = f"agent{len(self._agents)}"
        self._agents[identifier] = str(variables["sweep"])
        return {"createAgent": {"agent": {"id": identifier}}}

    def _Heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        identifier = str(variables["id"])
        sweep = self._agents[identifier]
        commands: list[dict[str, Any]] = []
        running = any(run.sweep == sweep and run.exit_code is None for run in self.runs.values())
        begun = len([run for run in self.runs.values() if run.sweep == sweep])
        if not running and self._cells[sweep]:
            cell = self._cells[sweep].pop(0)
            arguments = {name: {"value": value} for name, value in cell.items()}
            program = self.sweeps[sweep].get("program", "")
            commands = [{"type": "run", "run_id": f"{sweep}run{begun}", "program": program, "args": arguments}]
            self.runs[f"{sweep}run{begun}"].sweep = sweep
        elif not running:
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": identifier}, "commands": json.dumps(commands)}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = str(variables["name"] or variables["id"])
        run = self.runs[name]
        run.config = json.loads(variables.get("config") or "{}") or run.config
        run.commit = variables.get("commit") or run.commit
        run.tags = variables.get("tags") or run.tags
        run.sweep = variables.get("sweep") or run.sweep
        bucket = {
            "id": name, "name": name, "displayName": variables.get("displayName"), "description": None,
            "config": json.dumps(run.config), "sweepName": run.sweep, "project": PROJECT, "historyLineCount": 0,
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _RunResumeStatus(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"model": {"id": "project", "name": "stpl", "entity": ENTITY, "bucket": None}}

    def _OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"entity": {"organization": None}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"artifactType": {"name": "run_table"}}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        artifact = {
            "id": "artifact",
            "state": "PENDING",
            "artifactSequence": {"id": "sequence", "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        edges = [
            {
                "node": {
                    "id": "file", "name": item["name"], "displayName": item["name"], "uploadHeaders": [],
                    "uploadUrl": f"{self.url}/upload/artifact/{item['name']}", "artifact": {"id": "artifact"},
                    "storagePath": item["name"], "uploadMultipartUrls": None,
                }
            }
            for item in variables["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        file = {
            "id": "file", "name": "wandb_manifest.json", "displayName": "wandb_manifest.json",
            "uploadUrl": f"{self.url}/upload/artifact/wandb_manifest.json", "uploadHeaders": [],
        }  # fmt: skip
        return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}}

    def _CommitArtifact(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"commitArtifact": {"artifact": {"id": "artifact", "digest": "0"}}}


def _values(parameter: dict[str, Any]) -> list[Any]:
    return [parameter["value"]] if "value" in parameter else list(parameter["values"])


def _handler(stub: WandbStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            if self.path == "/graphql":
                request = json.loads(body)
                self._send({"data": stub.answer(request["query"], request.get("variables") or {})})
            elif self.path.endswith("/file_stream"):
                stub.stream(self.path.split("/")[-2], json.loads(body))
                self._send({"limits": {}})
            else:
                self._send({})

        def do_PUT(self) -> None:
            run, _, name = unquote(self.path).removeprefix("/upload/").partition("/")
            stub.keep(run, name, self._body())
            self._send({})

        def do_GET(self) -> None:
            self._send({})

        def _body(self) -> bytes:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def _send(self, content: dict[str, Any]) -> None:
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    return Handler
