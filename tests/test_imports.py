"""What a room gives is the thing itself, in whatever order things are imported; and help stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

IN_ANY_ORDER = """
import importlib, os, pickle, sys, types
import torch, torchmetrics  # once for all: each order runs in a fork of this process

NAMES = {"warp": "stpl.nn"} | dict.fromkeys(("pixel_contrast", "cross_entropy", "instance_contrast"), "stpl.losses")
FORMS = [
    "import {room}.{name}",
    "import {room}.{name} as bound",
    "from {room}.{name} import {name}",
    "from {room} import {name}",
    "import {room}; {room}.{name}",
]

def check(order):
    for form in order:
        for name, room in NAMES.items():
            exec(form.format(room=room, name=name), {})
    for name, room in NAMES.items():
        given = {}
        exec(f"from {room} import {name} as one; from {room}.{name} import {name} as other", given)
        exec(f"import {room}.{name} as third", given)
        assert given["one"] is given["other"] is given["third"], order
        assert isinstance(given["one"], types.FunctionType), order
        assert isinstance(importlib.import_module(f"{room}.{name}"), types.ModuleType), order
        assert pickle.loads(pickle.dumps(given["one"])) is given["one"], order

assert not any(name.startswith("stpl") for name in sys.modules)
for order in [(*FORMS[i:], *FORMS[:i])[::step] for i in range(5) for step in (1, -1)]:  # each form first, twice
    child = os.fork()
    if child == 0:
        try:
            check(order)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, order
"""


@pytest.mark.slow
def test_a_function_with_the_name_of_its_module_is_the_function_in_any_order() -> None:
    done = subprocess.run([sys.executable, "-c", IN_ANY_ORDER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_rooms_give_what_they_say() -> None:
    """`from room import *` gives every name in `__all__`, none of them a module."""
    code = """
import types
for room in ("stpl", "stpl.losses", "stpl.metrics", "stpl.nn", "stpl.methods", "stpl.data.flow"):
    given = {}
    exec(f"from {room} import *\\nimport {room}; names = {room}.__all__", given)
    assert len(given["names"]) >= 5, room
    assert not [name for name in given["names"] if isinstance(given[name], types.ModuleType)], room
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_light_modules_of_nn_are_light_and_unknown_names_are_named() -> None:
    code = """
import sys
import stpl.nn
from stpl.nn import normalization
assert not {"torch", "lightning"} & set(sys.modules)
stpl.nn.twist
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'stpl.nn' has no attribute 'twist'"
