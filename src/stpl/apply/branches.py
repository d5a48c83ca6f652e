"""Whether a network reads values of its frames: a traced file would keep what it then decided for the frame at hand."""

import ast
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stpl.errors import first_line, note

_READS = {
    Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__complex__, Tensor.__index__, Tensor.item,
    Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.equal, torch.equal, Tensor.allclose, torch.allclose,
    Tensor.is_nonzero, torch.is_nonzero, Tensor.__format__, Tensor.__dlpack__, Tensor.nonzero, torch.nonzero,
    torch.argwhere, Tensor.argwhere, Tensor.masked_select, torch.masked_select, Tensor.unique, torch.unique,
}  # fmt: skip
"""What makes a value of Python, or a shape, from values of a tensor. Other shapes are no reading."""

_OWN = (str(Path(torch.__file__).parent), __file__)


def values_read(net: nn.Module, inputs: tuple[Tensor, ...]) -> str | None:
    """Where a network reads values that depend on its inputs, as "file:line (`source`)"; `None` if it does nowhere.

    The network is called once. A check that only raises an error is no such place: a file without it gives the same on
    every frame that passes.
    """
    _Watched.places, _Watched.turned = [], []
    try:
        with torch.no_grad():
            net(*(one.as_subclass(_Watched) for one in inputs))
    except Exception as error:
        note(f"whether the network reads values of its frames could not be checked ({first_line(error)})")
        return None
    finally:
        for tensor in _Watched.turned:
            tensor.__class__ = Tensor
    return next(filter(None, (_place(file, line) for file, line in _Watched.places)), None)


class _Watched(Tensor):
    """A tensor that depends on the frame: what is computed from it is one too, and reading it is noted."""

    places: list[tuple[str, int]]
    turned: list[Tensor]

    def __format__(self, form: str) -> str:  # as of a plain tensor, whose name is not in it
        self.places.append(_caller())
        return format(self.detach().as_subclass(Tensor), form)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _READS or (func is Tensor.__getitem__ and _masks(args[1])):
            cls.places.append(_caller())
        for written in _written(func, args, kwargs or {}):
            if type(written) is Tensor:  # a plain one into which values of the frame are written
                written.__class__ = cls
                cls.turned.append(written)
        compute: Any = super().__torch_function__
        return compute(func, types, args, kwargs or {})


def _masks(index: Any) -> bool:
    """Whether an index chooses as many values as are true."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts)


def _written(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a function writes into: its first argument or `out`."""
    name = getattr(func, "__name__", "")
    inplace = name == "__setitem__" or (name.startswith("__i") and name != "__index__" and name != "__int__")
    first = args[:1] if inplace or (name.endswith("_") and not name.endswith("__")) else ()
    return (*first, kwargs.get("out"))


def _caller() -> tuple[str, int]:
    """File and line, outside torch, that is being executed."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _place(file: str, line: int) -> str | None:
    """A place in words; `None` if all that is done there is to check."""
    lines = linecache.getlines(file)
    try:
        nodes = list(ast.walk(ast.parse("".join(lines))))
    except SyntaxError:  # no source
        nodes = []
    caught = any(isinstance(node, ast.Try) and node.handlers and _spans(node.body, line) for node in nodes)
    if not caught and any(_only_checks(node, line) for node in nodes):
        return None
    source = lines[line - 1].strip() if line <= len(lines) else ""
    return f"{Path(file).name}:{line}" + (f" (`{source[:80]}`)" if source else "")


def _spans(statements: Sequence[ast.stmt], line: int) -> bool:
    """Whether a line is one of successive statements."""
    return statements[0].lineno <= line <= (statements[-1].end_lineno or line)


def _only_checks(node: ast.AST, line: int) -> bool:
    """Whether a statement is an assertion, or a condition under which an error is raised, at that line."""
    if isinstance(node, ast.Assert):
        return _spans([node], line)
    if isinstance(node, ast.If) and not node.orelse and all(isinstance(one, ast.Raise) for one in node.body):
        return node.lineno <= line < node.body[0].lineno or (line == node.lineno == node.body[0].lineno)
    return False
