"""The command line of `stpl fit`, parsed and expanded: overlays by name, files, settings. Imports no torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from stpl.errors import ConfigError
from stpl.runs.experiments import experiment_folders, overlays
from stpl.runs.record import experiment_name
from stpl.yaml_files import check_named_files, is_file, load_yaml, parse_yaml, read_yaml

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""What `trainer.precision` may be."""

_GROUPS = ("trainer", "model", "data", "run", "network", "optimizer", "batchnorm")
_SETTINGS = (".yaml", ".yml", ".json")


def as_text(key: str, value: Path | str) -> dict[str, str]:
    """The setting `key` as one of its group, in JSON: YAML would read a name such as `a: b.mp4` as something else."""
    group, _, name = key.rpartition(".")
    return {group: json.dumps({name: str(value)}, ensure_ascii=False)}


def _written(key: str, value: str) -> str:
    """A setting as an option; what is there under a name that YAML takes for a mapping or a comment stays a name."""
    if "." in key and value not in ("null", "~", "") and os.path.lexists(value):
        try:
            misread = isinstance(yaml.safe_load(value), dict | NoneType)
        except yaml.YAMLError:
            misread = False
        if misread:
            ((key, value),) = as_text(key, value).items()
    return f"--{key}={value}"


def _text_of(file: Path) -> str:
    """The text of a configuration file, with the files in it that stand for a group of settings.

    The parser is given texts and not paths: it would change the working directory of the process while it reads a file.
    """
    content = load_yaml(file)
    check_named_files(content, file.parent)
    groups = {name: value for name, value in content.items() if name in _GROUPS}
    for name, value in groups.items():
        if not isinstance(value, dict | str):
            what = f"'{name}' is {'null' if value is None else value}, not a group of settings"
            raise ConfigError(what, where=file, mend=f"leave {name} out, or write 'name: value' lines below it")
    whole = {name: load_yaml(file.parent / v) if isinstance(v, str) else v for name, v in groups.items()}
    found = _placed(content | whole, file.parent)
    return file.read_text(encoding="utf-8") if found == content else yaml.safe_dump(found, sort_keys=False)


def _placed(value: Any, folder: Path) -> Any:
    """Settings, in which files that lie beside the file that names them, and not here, have their whole path."""
    if isinstance(value, dict):
        return {name: _placed(one, folder) for name, one in value.items()}
    if isinstance(value, list):
        return [_placed(one, folder) for one in value]
    beside = isinstance(value, str) and value.endswith(_SETTINGS) and not is_file(Path(value))
    return str((folder / value).absolute()) if beside and is_file(folder / value) else value


def _check_value(key: str, value: str) -> None:
    """Refuse what YAML would never end with, in a setting's text and in the files that it names."""
    if "&" in value and "*" in value and not os.path.lexists(value):
        with suppress(yaml.YAMLError, RecursionError):  # what is no YAML is a text
            yaml.compose(value)
            parse_yaml(value, f"--{key}")
    elif key in _GROUPS and is_file(Path(value)):
        read_yaml(Path(value))
    check_named_files(value, Path())


@dataclass
class Request:
    """A parsed command line.

    Attributes:
        bench: benchmark, or `None` if given by a configuration file; `experiment` likewise.
        folder: the user's own overlays; see `experiment_folders`.
        configs: configuration files, in the order of merging.
        overrides: every other `--key=value`.
        settings: typed settings, nested, which win over the configuration files; with `run.experiment`, the run's name.
    """

    bench: str | None = None
    experiment: str | None = None
    folder: Path | None = None
    configs: list[str] = field(default_factory=list)
    overrides: dict[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, args: Sequence[str]) -> Request:
        """Split `--key=value` and `--key value`; raises `ConfigError` for anything else."""
        request, rest = cls(), list(args)
        while rest:
            key, equals, value = rest.pop(0).partition("=")
            if not key.startswith("-"):
                raise ConfigError(f"'{key}' is not an option", mend="write settings as --key=value")
            if not equals:
                if not rest:
                    raise ConfigError(f"{key} needs a value", mend=f"write {key}=value")
                value = rest.pop(0)
            match key:
                case "--bench":
                    request.bench = value
                case "--experiment":
                    request.experiment = value
                case "--experiments":
                    request.folder = Path(value)
                case "-c" | "--config":
                    request.configs.append(value)
                case _:
                    request.overrides[key.removeprefix("--")] = value
        return request

    def arguments(self) -> list[str]:
        """The same for LightningCLI: overlays by their files, the experiment's name spelled out."""
        files = self._files()
        settings = dict(self.overrides)
        if self.experiment is not None and "experiment" not in self.settings.get("run", {}):
            named = {k: v for k, v in settings.items() if k != "seed_everything"}
            named |= {f"config{place}": Path(file).stem for place, file in enumerate(self.configs)}
            settings.setdefault("run.base", self.experiment)
            settings.setdefault("run.experiment", experiment_name(self.experiment, named))
        if self.bench is not None:
            settings.setdefault("run.bench", self.bench)
        for key, value in settings.items():
            _check_value(key, value)
        for key in settings.keys() & set(_GROUPS):
            if is_file(Path(settings[key])):
                settings[key] = _text_of(Path(settings[key]))
        configs = [f"--config={_text_of(file)}" for file in files]
        if self.settings:
            configs.append(f"--config={json.dumps(self.settings, ensure_ascii=False)}")
        return [*configs, *(_written(key, value) for key, value in settings.items())]

    def file_with(self, key: str | None) -> Path | None:
        """The last of the configuration files in which `key` is written; `None` if it came from the command line."""
        if any(name.split(".")[-1] == key for name in self.overrides):
            return None
        written = re.compile(rf"\b{re.escape(key or '')}\s*:")
        found = [file for file in self._files() if key and written.search(file.read_text("utf-8"))]
        return found[-1] if found else None

    def _files(self) -> list[Path]:
        """All configuration files, in the order of merging."""
        if (self.experiment is None) != (self.bench is None):
            raise ConfigError("--bench and --experiment belong together", mend="give both, or only -c files")
        named: list[Path] = []
        if self.experiment is not None and self.bench is not None:
            named = overlays(self.experiment, self.bench, experiment_folders(self.folder))
        return [*named, *map(Path, self.configs)]
