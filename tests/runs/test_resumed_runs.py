"""A run ends as what it was: diverged, stopped early, interrupted, or gone on with under other settings."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from PIL import Image
from torch import Tensor

from stpl.cli import main
from stpl.data.clip import Batch
from stpl.errors import DIVERGED, STOPPED, ConfigError, DivergedError, StoppedError
from stpl.methods import BatchNormStatistics, SelfTraining
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.finite import LossWatch, fault
from stpl.nn.network import NetworkOptions, build_network
from stpl.runs.build import build
from stpl.runs.fit import _failures_reported, fit
from stpl.runs.identity import keep_settings
from stpl.runs.record import RunKey, read_metrics, read_record
from stpl.runs.trainer import SessionTimer
from stpl.yaml_files import load_yaml

pytestmark = pytest.mark.slow

Arguments = Callable[..., list[str]]
OPTIONS = NetworkOptions(DeepLabV2(18, 8, (1, 3)))


@pytest.fixture
def run(tiny_run: Arguments) -> Arguments:
    """A run of a few steps without a source model."""

    def arguments(*extra: str, steps: int = 4) -> list[str]:
        return tiny_run("self_training", "--start_from=null", *extra, steps=steps)

    return arguments


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Lightning ignores Ctrl-C from the first one on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def folder(tmp_path: Path) -> Path:
    return RunKey("streets", "self_training", 0).directory(tmp_path / "runs")


def at_step(number: int, act: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]) -> Callable[..., Any]:
    """`SelfTraining.losses`, changed by `act` at the step of that number, counted from 1."""
    original = SelfTraining.losses

    def losses(self: SelfTraining, batch: Batch) -> dict[str, Tensor]:
        found = original(self, batch)
        return act(self, found) if self.global_step + 1 == number else found

    return losses


def state(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = weights.read(directory / "checkpoints" / "last.ckpt")["state_dict"]
    return found


# --- numbers that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_the_first_loss_that_is_not_finite_ends_the_run(
    factor: float, run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = at_step(3, lambda _, found: {**found, "other": factor * found["self_training"]})
    monkeypatch.setattr(SelfTraining, "losses", lambda self, clip: {"other": torch.zeros(()), **spoilt(self, clip)})
    assert main(["fit", *run("--run.log_every=100", steps=6)]) == DIVERGED
    said = capsys.readouterr().err
    assert "the loss 'other' is not finite at step 3; not recorded" in said  # told before the evaluation of step 4
    assert "lower optimizer.lr" in said
    assert read_record(folder(tmp_path)) is None
    assert fault(state(folder(tmp_path))) is None
    assert [step for step, name, _ in read_metrics(folder(tmp_path) / "metrics.csv") if name == "val/miou"] == [0, 2]


def test_a_rate_that_is_too_high_gets_no_score(
    run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *run("--optimizer.lr=1e30")]) == DIVERGED
    assert "not recorded" in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))
    assert all(fault(weights.read(path)["state_dict"]) is None for path in tmp_path.rglob("*.ckpt"))


def test_statistics_that_went_off_are_never_saved(
    tiny_run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method without any loss."""
    original = BatchNormStatistics.losses

    def losses(self: BatchNormStatistics, batch: Batch) -> dict[str, Tensor]:
        found = original(self, batch)
        next(buffer for name, buffer in self.named_buffers() if name.endswith("running_var"))[0] = -1e-3
        return found

    monkeypatch.setattr(BatchNormStatistics, "losses", losses)
    arguments = tiny_run("batchnorm_statistics", "--start_from=null", "--run.checkpoint_every=1")
    assert main(["fit", *arguments]) == DIVERGED
    assert "running_var holds a variance below 0 (-0.001); not recorded" in capsys.readouterr().err
    assert {weights.entry(path)["step"] for path in tmp_path.rglob("*.ckpt")} == {0}  # the starting point


def test_a_network_that_overflows_gets_no_score(
    run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights are finite, what it answers is not: the largest of NaN would be class 0."""
    network = build_network(OPTIONS)
    with torch.no_grad():
        network.score_fusion.weight.fill_(3e38)
    path = tmp_path / "huge.ckpt"
    torch.save({"state_dict": network.state_dict(), "stpl": weights.description(OPTIONS, (48, 96), 1)}, path)
    data = [arg for arg in run() if arg.startswith(("--data", "--trainer.precision"))]
    for verb in (["test"], ["predict", f"--out={tmp_path / 'out'}"]):
        assert main([*verb, "--bench=streets", f"--network={path}", *data]) == DIVERGED
        assert "the network's output is not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("weight", "nan"), ("weight", "-inf"), ("running_var", "-1")])
def test_a_checkpoint_of_a_network_that_went_off_is_refused_by_every_verb(
    name: str, value: str, run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = build_network(OPTIONS).state_dict()
    spoilt = next(key for key in content if key.endswith(f"bn1.{name}"))
    content[spoilt][0] = float(value)
    bad = tmp_path / "bad.ckpt"
    torch.save({"state_dict": content, "stpl": weights.description(OPTIONS, (48, 96), 1)}, bad)
    foreign = {k.removeprefix(weights.BACKBONE): v for k, v in content.items() if k.startswith(weights.BACKBONE)}
    torch.save(foreign, tmp_path / "foreign.pth")
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(2):
        Image.new("RGB", (96, 48)).save(frames / f"{number}.png")
    calls = [
        ["fit", *run(f"--model.checkpoint={bad}")],
        ["test", "--bench=streets", f"--network={bad}"],
        ["predict", "--bench=streets", f"--network={bad}", f"--out={tmp_path / 'out'}"],
        ["adapt", f"--network={bad}", f"--video={frames}", f"--output={tmp_path / 'adapted'}"],
        ["video", f"--video={frames}", f"--network=[{bad}]", f"--output={tmp_path / 'side.webm'}"],
        ["weights", "convert", str(tmp_path / "foreign.pth"), f"--out={tmp_path / 'converted.ckpt'}"],
    ]
    for call in calls:
        assert main(call) == 2, call
        said = capsys.readouterr().err
        assert "is of a network that diverged" in said, call
        assert spoilt.removeprefix("segmenter.backbone.") in said
    assert {path.name for path in tmp_path.rglob("*.ckpt")} == {"bad.ckpt"}


def test_a_run_never_goes_on_from_such_a_checkpoint(
    run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = fit(run()) / "checkpoints" / "last.ckpt"
    (last.parents[1] / "result.json").unlink()
    content = torch.load(last, weights_only=True)
    content["state_dict"]["network.score_fusion.weight"][0] = float("nan")
    torch.save(content, last)
    assert main(["fit", *run()]) == 2
    assert "score_fusion.weight holds NaN" in capsys.readouterr().err


def test_the_watch_finds_the_first_of_all() -> None:
    watch, cpu = LossWatch(), torch.device("cpu")
    assert watch.described(watch.first(cpu)) is None
    for step, losses in enumerate(([1, 2], [1, float("inf")], [float("nan"), 1], [1, 1]), 1):
        watch.see(step, ["a", "b"], torch.tensor(losses, dtype=torch.float32))
    assert watch.described(watch.first(cpu)) == (2, "b")


def test_faults_are_named() -> None:
    sound = {
        "a": torch.tensor([3e38, -3e38]),
        "n": torch.tensor(3),
        "bn.running_var": torch.zeros(2),
        "e": torch.ones(0),
    }
    assert fault(sound) is None
    assert fault({}) is None
    assert fault({**sound, "b": torch.tensor([1, float("inf")])}) == "b holds infinity"
    assert fault({**sound, "b": torch.tensor([float("nan"), float("inf")])}) == "b holds NaN"
    assert (
        fault({**sound, "bn.running_var": torch.tensor([1.0, -2.0])}) == "bn.running_var holds a variance below 0 (-2)"
    )


def test_a_failed_run_is_told_to_wandb() -> None:
    class Listener:
        codes: list[int]

        def fail(self) -> None:
            self.codes.append(1)

    listener: Any = Listener()
    listener.codes = []
    with pytest.raises(DivergedError), _failures_reported(listener):
        raise DivergedError("off")
    with pytest.raises(KeyboardInterrupt), _failures_reported(listener):  # it may go on
        raise KeyboardInterrupt
    with _failures_reported(listener):
        pass
    assert listener.codes == [1]


# --- a session that ends early ----------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_is_not_recorded_and_goes_on(
    run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped between evaluations and at one, it ends as a run that nobody stopped: weights, curves, evaluations."""
    stops = [1, 2, 5]

    def end(self: SessionTimer, trainer: Any, *_: Any) -> None:
        if stops and trainer.global_step == stops[0]:
            trainer.should_stop = True

    monkeypatch.setattr(SessionTimer, "on_train_batch_end", end)
    arguments = run("--trainer.max_time=00:01:00:00", steps=6)
    while stops:
        assert main(["fit", *arguments]) == STOPPED
        assert f"stopped at step {stops.pop(0)} of 6, not recorded" in capsys.readouterr().err
        assert read_record(folder(tmp_path)) is None
    stopped = fit(arguments)
    whole = fit(run("--run.experiment=whole", steps=6))
    ours, theirs = state(stopped), state(whole)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert list(read_metrics(stopped / "metrics.csv")) == list(read_metrics(whole / "metrics.csv"))
    one, other = read_record(stopped), read_record(whole)
    assert one is not None
    assert other is not None
    assert (one["steps"], one["best"], one["selections"]) == (6, other["best"], other["selections"])


def test_a_loop_that_ends_by_itself_is_no_complete_run(
    run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends Lightning's loop."""
    monkeypatch.setattr(
        "lightning.pytorch.loops.fit_loop._FitLoop.advance", lambda self: self.trainer.__setattr__("should_stop", True)
    )
    with pytest.raises(StoppedError, match="stopped at step 0 of 4"):
        fit(run())
    assert read_record(folder(tmp_path)) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_run_with_its_code_and_a_checkpoint(
    number: signal.Signals,
    run: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def terminate(_: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
        os.kill(os.getpid(), number)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(SelfTraining, "losses", at_step(3, terminate))
        assert main(["fit", *run()]) == 128 + number
    assert f"ended by {number.name}; call again to go on" in capsys.readouterr().err
    assert read_record(folder(tmp_path)) is None
    assert weights.entry(folder(tmp_path) / "checkpoints" / "last.ckpt")["step"] == 3
    assert main(["fit", *run()]) == 0
    assert read_record(folder(tmp_path)) is not None


def test_nothing_of_slurm_is_read_from_the_working_directory(
    run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Lightning would save when a signal comes, and what every later run there would go on from."""
    for name, value in {"NTASKS": 1, "JOB_ID": 77, "JOB_NAME": "adapt", "PROCID": 0, "LOCALID": 0, "NODEID": 0,
                        "NNODES": 1, "NODELIST": "localhost"}.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    arguments = run()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("of another run")
    cli, _ = build(arguments)
    environment = cli.trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    assert Path(cli.trainer.default_root_dir) == cli.recorder.directory
    assert main(["fit", *arguments]) == 0


def test_ctrl_c_ends_a_run_as_it_ends_any_program(
    run: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    monkeypatch.setattr(SelfTraining, "losses", at_step(2, interrupt))
    assert main(["fit", *run()]) == 130
    assert "interrupted; call again to go on" in capsys.readouterr().err


# --- settings between two sessions ------------------------------------------------------------------------------------


def test_a_run_goes_on_with_the_settings_that_it_began_with(
    run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("optimizer: {lr: 1.0e-5}\nbatchnorm: {momentum: null}\n")
    arguments = run("-c", str(overlay), "--run.checkpoint_every=1")

    def interrupt(*_: Any) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SelfTraining, "losses", at_step(2, interrupt))
        assert main(["fit", *arguments]) == 130
    config = folder(tmp_path) / "config.yaml"
    before = config.read_text()
    overlay.write_text(
        "optimizer: {lr: 5.0e-2}\nmodel: {init_args: {confident_proportion: 0.5}}\nbatchnorm: {momentum: 0.1}\n"
    )
    capsys.readouterr()
    assert main(["fit", *arguments]) == 2
    said = capsys.readouterr().err
    for change in ("optimizer.lr: 1e-05 → 0.05", "confident_proportion: 0.7 → 0.5", "batchnorm.momentum: null → 0.1"):
        assert change in said
    assert "put them back to go on with it; or delete" in said
    assert config.read_text() == before
    overlay.write_text("optimizer: {lr: 1.0e-5}\nbatchnorm: {momentum: null}\n")
    assert main(["fit", *arguments, "--data.init_args.loading.num_workers=1"]) == 0


def test_what_may_differ_between_sittings(tmp_path: Path) -> None:
    """Where and how fast, not what."""
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()

    def kept(settings: dict[str, Any]) -> None:
        keep_settings(tmp_path, last, settings)

    old = {
        "start_from": "source", "trainer": {"precision": "32-true", "max_time": None, "devices": 1},
        "model": {"init_args": {"checkpoint": "runs/streets/source/seed0/checkpoints/last.ckpt"}},
        "data": {"init_args": {"root": "data", "loading": {"num_workers": 0}}}, "run": {"wandb": "disabled"},
    }  # fmt: skip
    kept({"never": "gone on from"})
    kept(old)  # without a checkpoint there is nothing to go on from
    assert load_yaml(tmp_path / "config.yaml") == old
    last.touch()
    text = (
        "start_from: source\ntrainer: {precision: 32-true, devices: 1}\nmodel: {init_args: {checkpoint: "
        "/elsewhere/streets/source/seed0/checkpoints/last.ckpt}}\n"
        "data: {init_args: {root: /d, loading: {num_workers: 4}}}\n"
        "run: {wandb: offline}\n"
    )
    (tmp_path / "config.yaml").write_text(text)
    kept({**old, "trainer": {"precision": "32-true", "max_time": "00:01:00:00", "devices": 1}})
    with pytest.raises(ConfigError, match=r"other settings: trainer.devices: 1 → 2\n"):
        kept({**old, "trainer": {"precision": "32-true", "devices": 2}})
    with pytest.raises(ConfigError, match=r"model.init_args.checkpoint: null → .*/other.ckpt"):
        kept({**old, "model": {"init_args": {"checkpoint": "other.ckpt"}}})
    assert (tmp_path / "config.yaml").read_text() == text
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="nothing says with what settings"):
        kept(old)


def test_a_run_keeps_its_precision_on_another_machine(run: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody chose it, it is the hardware's of the first session."""
    arguments = [argument for argument in run() if not argument.startswith("--trainer.precision")]
    monkeypatch.setattr("stpl.runs.build.hardware_precision", lambda accelerator: "bf16-mixed")
    directory = fit(arguments)
    (directory / "result.json").unlink()
    monkeypatch.setattr("stpl.runs.build.hardware_precision", lambda accelerator: "32-true")
    fit(arguments)
    assert "precision: bf16-mixed" in (directory / "config.yaml").read_text()
