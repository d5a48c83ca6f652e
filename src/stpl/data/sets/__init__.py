"""The recorded data sets, one a file: names on disk, label ids, sizes, counts, and how a tiny one is drawn.

A new data set is one new file here whose `SET` is a `DataSet`, or such a file of your own, named by its import path.
"""

from importlib import import_module
from pkgutil import iter_modules

from stpl.data.data_set import DataSet
from stpl.errors import ConfigError
from stpl.machine import find_own_modules


def names() -> list[str]:
    """The names of the data sets here."""
    return [module.name for module in iter_modules(__path__)]


def data_set(name: str) -> DataSet:
    """The data set of a name, or of a module of your own (`my_set`, or `my_sets:NAME` for another one than `SET`).

    Raises:
        ConfigError: there is none, or its module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    find_own_modules()
    place = f"{__name__}.{name}" if name in names() else module
    try:
        found = getattr(import_module(place), attribute or "SET", None)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name and f"{place}.".startswith(f"{error.name}.")
        why = "" if missing else f": {place} cannot be imported ({error!r})"
        raise _unknown(name, why) from error
    if not isinstance(found, DataSet):
        raise _unknown(name, f": {place}.{attribute or 'SET'} is {'not there' if found is None else 'no DataSet'}")
    return found


def _unknown(name: str, why: str) -> ConfigError:
    mend = f"choose one of: {', '.join(names())}; or name a module of your own whose SET is a DataSet"
    return ConfigError(f"there is no data set '{name}'{why}", mend=mend)
