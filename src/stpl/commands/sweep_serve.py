"""`stpl sweep serve`: several machines share a database through one process."""

from __future__ import annotations

from stpl.option_types import Natural


def sweep_serve(*, storage: str, host: str = "localhost", port: Natural = 13000) -> None:
    """Share a database through one port.

    One process, Optuna's gRPC proxy, serves it: `stpl sweep --storage=grpc://HOST:PORT`.

    For SQLite over several machines, and for more workers than a database takes connections.

    Args:
        storage: URL of the database.
        host: name or address to listen on; `0.0.0.0` for all. There is no password: use it within one network.
        port: to listen on.
    """
    from stpl.sweeps.storage import serve

    serve(storage, host, port)
