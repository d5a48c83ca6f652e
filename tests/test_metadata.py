"""What the package says of itself, in the places that say it."""

from __future__ import annotations

import tomllib
from typing import Any

import yaml
from packaging.requirements import Requirement

import stpl
from repository import REPOSITORY

WRITTEN: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = WRITTEN["project"]


def test_version_authors_and_licence_are_the_same_everywhere() -> None:
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == cited["version"] == stpl.__version__
    assert PROJECT["license"] == cited["license"]
    assert PROJECT["authors"] == [{"name": author["name"]} for author in cited["authors"]]


def test_users_get_nothing_that_only_tests_need() -> None:
    """The tools of developers are in dependency groups, which a wheel does not name."""
    offered = {name for extra in PROJECT["optional-dependencies"].values() for name in map(_name, extra)}
    for tool in (
        "pytest",
        "mypy",
        "triton",
        "cityscapesscripts",
        "pytorch-metric-learning",
        "twine",
        "mkdocs-material",
    ):
        assert tool not in offered | set(map(_name, PROJECT["dependencies"]))
        assert any(tool == _name(line) for group in WRITTEN["dependency-groups"].values() for line in group)


def test_torch_is_a_range_around_the_version_that_is_tested() -> None:
    (line,) = (line for line in PROJECT["dependencies"] if _name(line) == "torch")
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (pin,) = (pin for pin in pins if pin.startswith("torch=="))
    bounds = Requirement(line).specifier
    assert pin.removeprefix("torch==") in bounds
    assert {bound.operator for bound in bounds} == {">=", "<"}


def _name(requirement: str | dict[str, str]) -> str:
    return Requirement(requirement).name if isinstance(requirement, str) else ""
