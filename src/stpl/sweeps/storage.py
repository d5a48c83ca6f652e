"""The database that the workers of a sweep share, and errors in it as people understand them."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, run_grpc_proxy_server
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from stpl.errors import ConfigError, StplError, first_line

_OPENINGS = 5
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
_GRPC = "grpc://"
GRPC_PORT = 13000
"""Where `stpl sweep serve` listens by default."""


def default_url(runs: Path, bench: str) -> str:
    """The SQLite file beside the runs of `bench`."""
    return f"sqlite:///{(runs / bench / 'sweeps.sqlite3').absolute()}"


def open_storage(url: str) -> BaseStorage:
    """Open or make the database at `url` (SQLite, PostgreSQL, MySQL, `grpc://host:port`), or raise `ConfigError`."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    for more in reversed(range(_OPENINGS)):
        try:
            return _open_proxy(url) if url.startswith(_GRPC) else _open_database(url)
        except Exception as error:  # of SQLAlchemy, its drivers, Optuna (RuntimeError for another version)
            if not isinstance(error, (OperationalError, IntegrityError)) or not more:
                raise _cannot_be_opened(url, error) from error
            time.sleep(0.5)  # two workers that make the same new database get in each other's way
    raise AssertionError("unreachable")


def _cannot_be_opened(url: str, error: Exception) -> ConfigError:
    if isinstance(error, ImportError):
        what = f"needs a driver that is not installed ({error.name})"
        return ConfigError(what, where=url, mend="pip install 'stpl[cluster]'")
    mend = "check the URL; an SQLite file that is damaged or another Optuna's may be deleted, the records decide what"
    return ConfigError(f"cannot be opened: {first_line(error)}", where=url, mend=f"{mend} is done")


def _open_database(url: str) -> RDBStorage:
    sqlite = url.startswith("sqlite")
    scheme, _, rest = url.partition("://")
    storage = RDBStorage(
        f"{_DRIVERS.get(scheme, scheme)}://{rest}" if rest else url,
        engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True},
    )
    if sqlite:
        # SQLite ignores the SELECT … FOR UPDATE by which Optuna lets only one worker claim a trial.
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _open_proxy(url: str) -> GrpcStorageProxy:
    host, _, port = url.removeprefix(_GRPC).rstrip("/").partition(":")
    storage = GrpcStorageProxy(host=host, port=int(port or GRPC_PORT))
    try:
        storage.wait_server_ready(timeout=10)
    except Exception as error:  # grpc's own classes, which only exist where grpcio is installed
        if isinstance(error, ImportError):
            raise
        raise OSError("no server answers; start one: stpl sweep serve --storage=URL") from error
    return storage


@contextmanager
def opened(url: str) -> Iterator[BaseStorage]:
    """The database at `url`, closed in the end.

    Raises:
        StplError: naming `url`, if it cannot be opened, or fails in the middle: damaged, full, gone.
    """
    storage = open_storage(url)
    try:
        yield storage
    except Exception as error:
        of_database = isinstance(error, SQLAlchemyError | StorageInternalError)
        if not of_database and type(error).__module__.split(".")[0] != "grpc":
            raise
        cause = (error.__cause__ or error) if of_database else error
        raise StplError(
            f"the database failed: {first_line(getattr(cause, 'orig', None) or cause)}",
            where=url,
            mend="mend or free its disk (a damaged SQLite file may be deleted, the records decide what is done), then"
            " call again",
        ) from error
    finally:
        if isinstance(storage, RDBStorage):
            storage.engine.dispose()


def serve(url: str, host: str, port: int) -> None:
    """Serve a database by Optuna's gRPC proxy until interrupted; raises `ConfigError` if it cannot be opened."""
    storage = open_storage(url)
    print(f"workers: stpl sweep FILE… --storage=grpc://{host}:{port}", flush=True)
    try:
        run_grpc_proxy_server(storage, host=host, port=port)
    except ImportError as error:
        raise _cannot_be_opened(f"grpc://{host}:{port}", error) from error
