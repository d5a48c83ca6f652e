"""The conformance suite: what every method must keep, checked on runs of seconds through the real command line."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stpl.data.clip import Batch
from stpl.nn import weights
from stpl.nn.teacher import Teacher
from stpl.runs.experiments import VARIABLE
from stpl.runs.fit import fit
from stpl.runs.record import read_record
from stpl.testing.processes import compare_ranks, losses_of
from stpl.testing.runs import draw_tiny, fit_until, tiny_arguments
from stpl.training import Method

_STEPS, _CUT = 4, 3

# Operators whose result, or its shape, the host has to wait for; methods of tensors and functions of torch that wait.
# On a CPU nothing does, so it is seen by what is called.
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "_unique2", "is_nonzero", "equal"}
_METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "new_tensor")
_FUNCTIONS = ("tensor", "as_tensor")


def check_method(
    experiment: str,
    folder: Path,
    *settings: str,
    source: bool = False,
    labels: bool = False,
    ranks: bool = True,
    golden: Sequence[float] | None = None,
    streets: Path | None = None,
    experiments: Path | None = None,
) -> None:
    """Check that a method keeps what the suite relies on; takes ten seconds, most of them for two processes.

    Losses are named, finite scalars, and the same as ever where `golden` has them. Gradients reach what learns and
    nothing else: no teacher, no frozen parameter. The step asks the device for no value. Labels of the target are not
    opened, nor anything of the source, unless the method is said to want them; what it gets is what it asked for. A run
    that is killed and called again ends with the same bits, optimiser included. Two processes with half of each batch
    train as one with all of it.

    Args:
        experiment: its name in the catalogue.
        folder: an empty folder to work in.
        settings: more arguments of `stpl fit`.
        source: whether the method may see source clips; without, it must be source-free.
        labels: whether it may see labels of the target.
        ranks: whether to compare two processes with one (see `check_ranks` for several methods at once); a method whose
            random numbers differ from process to process cannot be compared.
        golden: the sum of the losses at each of the four steps, to 2 in 1000.
        streets: folder of the tiny benchmark, drawn if it is not there; in `folder` if not given.
        experiments: folder of your own overlays and tables.yaml.

    Raises:
        AssertionError: saying what does not hold.
    """
    drawn = streets or folder / "streets"
    environment = {"STPL_RUNS": str(folder / "runs")} | ({} if experiments is None else {VARIABLE: str(experiments)})
    with mock.patch.dict(os.environ, environment):
        draw_tiny(drawn)
        options = ("--start_from=null", *settings)
        watched = _Watch(source=source, labels=labels)
        with mock.patch("stpl.losses.pixel_contrast._best", return_value="masked"):  # the engine of devices
            with watched.watching():
                whole = fit(tiny_arguments(experiment, drawn, *options, "--run.experiment=whole", steps=_STEPS))
            assert watched.steps == _STEPS, f"{watched.steps} of {_STEPS} steps ran"
            _check_opened(watched, drawn)
            _check_golden(whole, golden)
            _check_resumed(whole, tiny_arguments(experiment, drawn, *options, "--run.experiment=cut", steps=_STEPS))
        if ranks:
            compare_ranks({experiment: settings}, folder, drawn)


class _Watch:
    """Looks over every step of a run: what the method gets, what it gives, where gradients go, which files are opened.

    Args:
        source: whether source clips are allowed.
        labels: whether labels of the target are.
    """

    def __init__(self, *, source: bool, labels: bool) -> None:
        self.source, self.labels = source, labels
        self.steps, self.opened = 0, list[str]()
        self.wants_source = self.wants_labels = self.minimises = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look over the steps of all methods."""
        whole, step, backward = Method.training_step, Method.step, Method.backward
        before, watch = Method.on_before_optimizer_step, self

        def training_step(self: Method, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
            watch.check_batch(self, batch)
            return whole(self, batch, batch_idx)

        def watched_step(self: Method, batch: Batch) -> dict[str, Tensor] | None:
            with no_read_back():
                output = step(self, batch)
            watch.check_losses(output)
            return output

        def on_before_optimizer_step(self: Method, optimizer: torch.optim.Optimizer) -> None:
            watch.check_gradients(self, optimizer)
            before(self, optimizer)

        def go_backward(self: Method, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            with no_read_back():
                backward(self, loss, *args, **kwargs)

        with (
            mock.patch.object(Method, "training_step", training_step),
            mock.patch.object(Method, "step", watched_step),
            mock.patch.object(Method, "backward", go_backward),
            mock.patch.object(Method, "on_before_optimizer_step", on_before_optimizer_step),
            _listening(self.opened),
        ):
            yield

    def check_batch(self, method: Method, batch: Batch) -> None:
        """What the method gets is what it asked for, and what it may."""
        self.steps += 1
        self.wants_source, self.wants_labels = method.source_wants is not None, bool(method.wants.labels)
        assert self.source or not self.wants_source, "it wants source clips; say source=True if it is to have them"
        assert self.labels or not self.wants_labels, "it wants labels of the target; say labels=True if it may"
        assert (batch.source is not None) == self.wants_source, "source clips came without being wanted, or did not"
        for stream, clip in batch.clips().items():
            wants = method.streams.get(stream)
            assert wants is not None, f"clips of the stream {stream} came without being wanted"
            assert clip.offsets == wants.frames, f"frames {wants.frames} were wanted"
            for name in ("flows", "labels"):
                there = tuple(getattr(clip, name))
                assert there == getattr(wants, name), f"{name}: wanted and absent, or there and not wanted"
            assert wants.augmented or clip.augmented is None, "an augmented view came without being wanted"

    def check_losses(self, output: dict[str, Tensor] | None) -> None:
        """Named, finite scalars; their sum has a gradient."""
        self.minimises = output is not None
        if output is None:
            return
        assert len(output) > 1, "the step gives no named loss"
        for name, value in output.items():
            assert value.shape == (), f"{name} is no scalar but {list(value.shape)}"
            assert bool(value.isfinite()), f"{name} is {value.item()}"
        assert output["loss"].requires_grad, "no loss has a gradient"

    def check_gradients(self, method: Method, optimizer: torch.optim.Optimizer) -> None:
        """They are finite, reach what learns, and nothing that does not."""
        learning = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        teachers = [module for module in method.modules() if isinstance(module, Teacher)]
        taught = {id(parameter) for teacher in teachers for parameter in teacher.parameters()}
        reached = 0
        for name, parameter in method.named_parameters():
            if parameter.grad is None:
                continue
            assert parameter.requires_grad, f"{name} is frozen and has a gradient"
            assert id(parameter) in learning, f"{name} has a gradient and no optimiser"
            assert bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite"
            reached += bool(parameter.grad.any())
        assert reached or not self.minimises, "no parameter has a gradient"
        assert not taught & learning, "the teacher is in the optimiser"


_listeners: list[list[str]] = []


@cache
def _listen() -> None:
    """Hear of every file that Python opens, by any means: for good, there is no way to take a hook out."""

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _listeners:
            _listeners[-1].append(str(arguments[0]))

    sys.addaudithook(heard)


@contextmanager
def _listening(opened: list[str]) -> Iterator[None]:
    _listen()
    _listeners.append(opened)
    try:
        yield
    finally:
        _listeners.pop()


def _check_opened(watched: _Watch, streets: Path) -> None:
    inside = [path for path in watched.opened if str(streets) in path]
    assert any("camera-train" in path for path in inside), "no training clip was read"
    labels = [path for path in inside if "camera-train" in path and "labels" in path]
    assert watched.wants_labels or not labels, f"labels of the target were opened: {labels[0]}"
    source = [path for path in inside if "studio" in path]
    assert watched.wants_source or not source, f"the source was opened: {source[0]}"


def _check_golden(run: Path, golden: Sequence[float] | None) -> None:
    found = losses_of(run)
    if golden is not None:
        close = len(found) == len(golden) and all(
            abs(a - b) <= 2e-3 * abs(b) for a, b in zip(found, golden, strict=True)
        )
        shown = ", ".join(f"{loss:.6g}" for loss in found)
        assert close, f"the losses changed; if on purpose, write golden=[{shown}]"


def _check_resumed(whole: Path, args: list[str]) -> None:
    again = [*args, "--run.checkpoint_every=1"]
    assert fit_until(_CUT, again), "the run did not come to the step at which it was to be killed"
    resumed = fit(again)
    first, second = (weights.read(run / "checkpoints" / "last.ckpt") for run in (whole, resumed))
    for name, value in first["state_dict"].items():
        same = torch.equal(value, second["state_dict"].get(name, torch.zeros(0)))
        assert same, f"after a kill the run ends with another {name}"
    moments = [content["optimizer_states"][0]["state"] for content in (first, second)]
    for index, state in moments[0].items():
        for name, value in state.items():
            same = torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][index][name]))
            assert same, f"after a kill the optimiser has another {name}"
    assert losses_of(whole) == losses_of(resumed), "after a kill the losses differ"
    one, other = read_record(whole), read_record(resumed)
    assert one is not None
    assert other is not None
    assert one["last"] == other["last"], "after a kill the evaluation differs"


class ReadBackError(Exception):
    """A tensor's value was asked for."""


class _NoReadBack(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operators that make the host wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)
            for a in args
            if isinstance(a, list)
            for i in a
        )
        if name in _WAITING or masks:
            raise ReadBackError(name)
        return func(*args, **(kwargs or {}))


def _refuse(name: str) -> Callable[..., None]:
    def refused(*args: object, **kwargs: object) -> None:
        raise ReadBackError(name)

    return refused


@contextmanager
def no_read_back() -> Iterator[None]:
    """Raise `ReadBackError` where the block would have a GPU's host wait: for a value, a shape, a copy to the GPU."""
    refused: list[tuple[Any, str]] = [(Tensor, name) for name in _METHODS] + [(torch, name) for name in _FUNCTIONS]
    with ExitStack() as stack:
        for owner, name in refused:
            stack.enter_context(mock.patch.object(owner, name, _refuse(name)))
        with _NoReadBack():  # type: ignore[no-untyped-call]
            yield
