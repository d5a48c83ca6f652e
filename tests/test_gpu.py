"""What only a GPU shows. Every body runs on the CPU too, with stand-ins where it needs any, so that it is tried there.

`pytest -m gpu` runs the GPU's half alone; without a GPU that half is skipped.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import contrast_kernels
from benchmarks.contrast import dense
from crash import crash_at
from stpl.data import augment_device
from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import BACKWARD, Batch, Clip
from stpl.data.datamodule import StreetsData
from stpl.data.loading import Loading
from stpl.losses.pixel_contrast import Denominator, EngineName, pixel_contrast
from stpl.methods import STPL, BatchNormStatistics, Contrast, SelfTraining, Supervised
from stpl.methods.mean_teacher import MeanTeacher
from stpl.nn import weights
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.teacher import Teacher
from stpl.runs.build import build
from stpl.runs.fit import fit
from stpl.runs.record import RunKey, read_record, runs_root
from stpl.testing import TINY
from stpl.training import Method, OptimizerOptions, cuda_graph
from stpl.training.evaluation import Evaluator

pytestmark = pytest.mark.slow

Arguments = Callable[..., list[str]]
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")], id="gpu"
)
DEVICES = [pytest.param("cpu", id="stand-in"), CUDA]
SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True))
RATE = OptimizerOptions(lr=1e-3)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A GPU as a run has it, or the CPU with stand-ins."""
    name: str = request.param
    if name == "cpu":
        monkeypatch.setattr(cuda_graph, "Capture", CaptureOnTheCpu)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch.use_deterministic_algorithms(True)
    yield name
    torch.use_deterministic_algorithms(False)


class CaptureOnTheCpu:
    """What stands in for recording: do it again, and put what comes out where it was."""

    def warm_up(self, action: Callable[[], None], times: int) -> None:
        for _ in range(times):
            action()

    def __call__(self, action: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        def again() -> None:
            with torch.enable_grad():  # a graph is replayed where gradients are not recorded
                for old, new in zip(flat(result), flat(action()), strict=True):
                    old.data.copy_(new.detach())

        def flat(found: Any) -> list[Tensor]:
            return [found] if isinstance(found, Tensor) else [grad for _, grad in found]

        result = action()
        return again, result


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Have torch refuse whatever makes the host wait for the GPU. (On the CPU: tests/training/test_step.py.)"""
    if device == "cpu":
        yield
        return
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


SIZES = ((1000, 777, 128), (137, 101, 24), (64, 64, 128), (70, 20, 200), (33, 65, 512), (1, 1, 8))


@pytest.mark.parametrize("denominator", ["negatives", "supcon", "positive+negatives"])
@pytest.mark.parametrize("engine", ["auto", "masked"])
def test_the_contrast_equals_float64(device: str, engine: EngineName, denominator: Denominator) -> None:
    """Value and gradients; sizes that no block divides, a class without keys, ignored pixels."""
    for n, m, dim in SIZES:
        inputs = contrast_kernels.sample(n, m, torch.float32, dim)
        expected = gradients([x.double() if x.is_floating_point() else x for x in inputs], "masked", denominator)
        found = gradients([x.to(device) for x in inputs], engine, denominator)
        for ours, wanted in zip(found, expected, strict=True):
            assert (ours.cpu() - wanted).norm() <= 2e-5 * wanted.norm(), (n, m, dim)


def gradients(inputs: list[Tensor], engine: EngineName, denominator: Denominator) -> list[Tensor]:
    """Loss, and its gradients by queries and keys."""
    queries, keys = (x.requires_grad_() for x in inputs[:2])
    loss = pixel_contrast(queries, keys, *inputs[2:], denominator=denominator, engine=engine)
    return [loss.detach(), *torch.autograd.grad(loss, [queries, keys])]


def test_the_reference_is_eq_3() -> None:
    """The float64 engine of the test above against Eq. 3 written with autograd."""
    queries, keys, labels, _ = contrast_kernels.sample(90, 90, torch.float64)
    labels = labels.clamp(max=4)
    found = pixel_contrast(queries, keys, labels, labels, engine="masked")
    torch.testing.assert_close(found, dense(queries, keys, labels))


def clip(device: str, number: int = 0) -> Clip:
    generator = torch.Generator().manual_seed(number)
    frames, augmented = torch.randint(0, 256, (2, 2, 2, 3, 40, 56), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 15, (2, 40, 56), generator=generator)
    label[:, :9] = 255
    return Clip(frames, {BACKWARD: torch.randn(2, 2, 40, 56, generator=generator)}, {0: label}, augmented=augmented).to(
        device
    )


METHODS: dict[str, Callable[[], Method]] = {
    "source": lambda: Supervised(network=SMALL, optimizer=RATE),
    "statistics": lambda: BatchNormStatistics(network=SMALL, optimizer=RATE, batchnorm=BatchNormOptions(momentum=None)),
    "self-training": lambda: SelfTraining(network=SMALL, optimizer=RATE),
    "self-training by class": lambda: SelfTraining(network=SMALL, optimizer=RATE, confident_scope="class"),
    "temporal": lambda: STPL(network=SMALL, optimizer=RATE, contrasts=[Contrast("current", "previous-warped")]),
    "spatial": lambda: STPL(network=SMALL, optimizer=RATE, contrasts=[Contrast("current", "augmented current")]),
    "add": lambda: STPL(network=SMALL, optimizer=RATE, fusion="add", denominator="supcon"),
    "conv": lambda: STPL(network=SMALL, optimizer=RATE, fusion="conv", denominator="positive+negatives"),
    "concat": lambda: STPL(network=SMALL, optimizer=RATE, fusion="concat", confident_scope="class", key_scope="batch"),
    "stpl": lambda: STPL(network=SMALL, optimizer=RATE, batchnorm=BatchNormOptions(momentum=None)),
    "stpl, both gradients": lambda: STPL(network=SMALL, optimizer=RATE, previous_gradient=True),
    "mean teacher": lambda: MeanTeacher(network=SMALL, optimizer=RATE),
}


@pytest.mark.parametrize("name", METHODS)
def test_steps(device: str, name: str) -> None:
    """No step waits for the device; the same steps give the same bits; bfloat16 gives nearly the same losses."""
    exact, state = steps(METHODS[name], device)
    again, same = steps(METHODS[name], device)
    assert exact == again
    assert [key for key in state if not torch.equal(state[key], same[key])] == []
    rough, _ = steps(METHODS[name], device, torch.bfloat16)
    assert rough[:1] == pytest.approx(exact[:1], rel=0.05)  # a few dozen pixels, of whose pseudo-labels some waver
    assert rough == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_recorded_steps_are_the_steps(device: str, name: str, precision: torch.dtype) -> None:
    """Losses, weights and statistics after steps that were replayed from a CUDA graph, to the last bit."""
    plain, state = steps(METHODS[name], device, precision)
    recorded, same = steps(METHODS[name], device, precision, record=True)
    assert recorded == plain
    assert [key for key in state if not torch.equal(state[key], same[key])] == []


def steps(
    make: Callable[[], Method], device: str, precision: torch.dtype = torch.float32, record: bool = False
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of four steps, each on another clip, and the state after them."""
    torch.manual_seed(0)
    method = make().train().to(device)
    method._trainer = OneProcess()  # type: ignore[assignment]
    if record:
        assert method.recordable
        method.record_step()
    optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9)
    batches = [clip(device, shift) for shift in range(4)]
    found = [step(method, optimizer, batches[0], precision)]  # compiles, records; the others are watched
    for batch in batches[1:]:
        with no_waiting(device):
            found.append(step(method, optimizer, batch, precision))
    return [float(loss) for loss in found if loss is not None], {k: v.clone() for k, v in method.state_dict().items()}


class OneProcess:
    """What a step asks of its trainer."""

    world_size, global_step = 1, 0


def step(method: Method, optimizer: torch.optim.Optimizer, batch: Clip, precision: torch.dtype) -> Tensor | None:
    for teacher in (module for module in method.modules() if isinstance(module, Teacher)):
        teacher.follow(method.network, 3)
    with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        output = method.step(Batch(batch))
    if output is None:
        return None
    optimizer.zero_grad()
    output["loss"].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return output["loss"].detach()


@pytest.mark.parametrize(("precision", "place"), [("32-true", "workers"), ("bf16-mixed", "device")])
def test_a_killed_run_ends_with_the_same_weights(device: str, precision: str, place: str, tiny_run: Arguments) -> None:
    """Through the command line: steps recorded, loaders with workers and pinned memory, evaluation, resumption."""
    extra = (f"--trainer.precision={precision}", "--start_from=null", "--run.checkpoint_every=1")
    here = (f"--data.init_args.loading.augment_on={place}", f"--trainer.accelerator={device}")
    options = tiny_run("stpl", *extra, *here, steps=6)
    whole = fit([*options, "--run.experiment=whole"])
    again = [*options, "--run.experiment=crashed", "--data.init_args.loading.num_workers=2"]
    crash_at(4, again)
    resumed = fit(again)
    states = [weights.read(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    first, second = map(read_record, (whole, resumed))
    assert first is not None
    assert second is not None
    assert first["last"] == second["last"]


def test_the_device_augments(device: str) -> None:
    """As the CPU does, to single grey levels."""
    frames = clip("cpu").frames[0]
    for seed in range(12):
        expected = augment_device.augment(CrossFrameAugmentation(), frames, seed)
        found = augment_device.augment(CrossFrameAugmentation(), frames.to(device), seed).cpu()
        difference = (found.int() - expected.int()).abs().float()
        assert difference.mean() < 0.05
        assert difference.quantile(0.999) <= 4


def test_distributed_training_starts(device: str, tiny_run: Arguments) -> None:
    """One process under DDP (NCCL on a GPU): its gradients are averaged one by one, so nothing may be recorded.

    In a process of its own: a group of processes, once formed, would be met by every test that follows.
    """
    extra = ("--trainer.strategy=ddp", "--start_from=null", f"--trainer.accelerator={device}")
    command = [sys.executable, "-m", "stpl", "fit", *tiny_run("source", *extra, steps=2)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_record(RunKey("streets", "source", 0).directory(runs_root())) is not None


def test_evaluation_equals_the_cpus(device: str, tiny_streets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All numbers, within rounding: of one network on the same clips, in float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    network = build_network(SMALL).eval()
    data = StreetsData(tiny_streets, TINY, loading=Loading(eval_batch_size=2))
    found = []
    for place in ("cpu", device):
        evaluator = Evaluator(SMALL.space).to(place)
        network.to(place)
        for batch in data.val_dataloader():
            evaluator.update(batch.to(place), network.observe(batch.to(place)))
        evaluator.gather()
        found.append(leaves(evaluator.numbers()))
    assert found[0].keys() == found[1].keys()
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=0.2)


def leaves(numbers: dict[str, Any], path: str = "") -> dict[str, float]:
    """The numbers in a tree, by path."""
    found: dict[str, float] = {}
    for name, value in numbers.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{path}{name}/")
        elif isinstance(value, int | float):
            found[f"{path}{name}"] = float(value)
    return found


def test_loaders_pin_what_they_load(device: str, tiny_run: Arguments) -> None:
    """Batches from workers are page-locked for a GPU, arrive there unchanged, and do not make the host wait."""
    batches = []
    for workers in (0, 2):
        options = tiny_run("stpl", f"--data.init_args.loading.num_workers={workers}", "--start_from=null", steps=4)
        cli, _ = build([*options, f"--trainer.accelerator={device}"])
        cli.trainer.strategy.connect(cli.model)
        cli.datamodule.trainer = cli.trainer
        batches.append(list(cli.datamodule.train_dataloader()))
    for plain, loaded in zip(*batches, strict=True):
        assert loaded.target.frames.is_pinned() == (device == "cuda")
        with no_waiting(device):
            moved = loaded.to(device)
        for name, tensor in plain.tensors().items():
            assert torch.equal(moved.tensors()[name].cpu(), tensor), name
