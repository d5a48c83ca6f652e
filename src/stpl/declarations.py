"""What a verb's function takes, read from its source: help must answer at once, and its module may import torch.

Importing torch and Lightning takes seconds. A function's parameters, their types and its docstring can be had without:
from the text of its module the function is made anew with nothing in its body, and so is, by name, whatever its
signature mentions (an alias such as `Size`, a group of options, a constant), in other modules of this package too.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def declared(target: str) -> Callable[..., object]:
    """The function "module:name" without its body: same signature and docstring, nothing else imported.

    Args:
        target: of a verb; the module is one of this package.
    """
    module, name = target.split(":")
    function: Callable[..., object] = _Source(module).value(name)
    return function


class _Source:
    """A module of this package as text.

    Args:
        name: of the module.
    """

    def __init__(self, name: str) -> None:
        place = Path(__file__).parent.joinpath(*name.split(".")[1:])
        self._file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        # Not a module of this package: jsonargparse looks for short paths to a function, and `stpl.adapt` is one that
        # imports everything.
        self._made: dict[str, Any] = {"__name__": "declared"}
        self._statements: dict[str, ast.stmt] = {}
        for statement in ast.parse(self._file.read_text(encoding="utf-8")).body:
            self._statements |= dict.fromkeys(_bound(statement), statement)

    def value(self, name: str) -> Any:
        """What `name` is bound to at the top of the module, functions and methods without their bodies."""
        if name not in self._made:
            statement = self._statements[name]
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("stpl"):
                original = next(alias.name for alias in statement.names if name in (alias.name, alias.asname))
                self._made[name] = _Source(str(statement.module)).value(original)
            else:
                self._run(_bare(statement))
        return self._made[name]

    def _run(self, statement: ast.stmt) -> None:
        """Execute a statement once all that it mentions is made."""
        mentioned = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        for name in (mentioned & self._statements.keys()).difference(_bound(statement), dir(builtins)):
            self.value(name)
        # Types as they are, not as text, which would be looked up in a module that is not there.
        exec(compile(ast.Module([statement], []), str(self._file), "exec", dont_inherit=True), self._made)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a module binds."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.split(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _bare(statement: ast.stmt) -> ast.stmt:
    """A function without its body, a class without its methods; other statements as they are."""
    if isinstance(statement, ast.FunctionDef):
        statement.body = statement.body[:1] if ast.get_docstring(statement) else [ast.Pass()]
    elif isinstance(statement, ast.ClassDef):
        statement.body = [part for part in statement.body if not isinstance(part, ast.FunctionDef)]
    return ast.fix_missing_locations(statement)
