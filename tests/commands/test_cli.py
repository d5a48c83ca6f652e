"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import MovingShapes, write_cityscapes
from repository import REPOSITORY
from stpl.arguments import Command
from stpl.cli import main
from stpl.commands import VERBS, function
from stpl.data.fake import fake
from stpl.data.image import write_png
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.runs.fit import fit
from stpl.runs.record import read_record
from stpl.runs.request import Request

Arguments = Callable[..., list[str]]
LIGHT = [
    "--network.architecture.depth=18",
    "--network.architecture.width=8",
    "--network.architecture.dilations=[1,2]",
    "--trainer.precision=32-true",
]


@pytest.mark.slow
def test_help_is_short_and_loads_no_torch() -> None:
    code = "import sys; from stpl.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(verb.split()[0] in done.stdout for verb in VERBS)
    assert len(done.stdout.splitlines()) < 27
    names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line[2] != " "]
    assert sorted(names) == sorted({verb.split()[0] for verb in VERBS})  # each once, and apart from what it says


@pytest.mark.slow
def test_help_of_every_verb_loads_nothing_heavy() -> None:
    """Of all in one process, which imports less than any one may: torch alone takes longer than all of them."""
    code = f"""
import sys
from stpl.cli import main
for verb in {list(VERBS)!r}:
    assert main([*verb.split(), "--help"]) == 0
    heavy = {{"torch", "lightning", "cv2", "numpy", "optuna", "wandb", "scipy"}} & set(sys.modules)
    assert not heavy, (verb, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_fits_a_terminal_and_explains_each_option(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    for option in Command(function(verb), verb).options.values():
        assert option.about, option.name
        assert option.hidden or option.name in shown or option.name.upper() in shown


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main([*verb.split(), "--help"]) == 0
    assert f"stpl {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fti"], "did you mean 'fit'?"),
        (["sweep", "sweeps/table3.yaml", "--seed=3"], "did you mean --seeds?"),
        (["fit", "--bench=street", "--experiment=stpl"], "did you mean 'streets'?"),
        (["fit", "--bench=streets", "--experiment=stlp"], "did you mean 'stpl'?"),
        (["fit", "--bench=streets"], "--bench and --experiment belong together"),
        (["fit", "--bench=streets", "--experiment=stpl", "--network.dept=18"], "unknown setting --network.dept=18"),
        (["fit", "--bench=streets", "--experiment=stpl", "--model.temprature=1"], "did you mean 'temperature'?"),
        (["fit", "--bench=streets", "--experiment=stpl", "--model.temperature=hot"], "model.temperature: Expected"),
        (["fit", "--bench=streets", "--experiment=stpl", "--trainer.max_steps=7"], "is not a multiple of"),
        (["fit", "--bench=streets", "--experiment=stpl", "--network.label_space=viper"], "unknown label space 'viper'"),
        (["fit", "--bench=streets", "--experiment=stpl", "--data.options.severity=7"], "between 0 and 1"),
        (["fit", "--bench=streets", "--experiment=stpl", "--model.confident_proportion=1.5"], "outside (0, 1]"),
        (["fit", "--bench=streets", "--experiment=stpl", "--model.temperature=0"], "is not above 0"),
        (["fit", "--bench=streets", "--experiment=stpl", "--trainer.max_steps=-1"], "max_steps is -1"),
        (["fit", "--bench=streets", "--experiment=stpl", "--data.loading.batch_size=0"], "batch_size"),
        (["fit", "--bench=streets", "--experiment=stpl", "--trainer.accumulate_grad_batches=2"], "one batch a step"),
        (["fit", "stpl"], "'stpl' is not an option"),
    ],
)
def test_mistakes_get_one_short_message(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    extra = ["--start_from=null", *LIGHT[:3]] if "--experiment=stpl" in arguments else []
    assert main([*arguments, *extra]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["report", "--help"], ["report", "--page=false"]])
def test_a_pipe_that_is_closed_ends_the_program_quietly(arguments: list[str]) -> None:
    """`stpl … | head -1`."""
    for unbuffered in ("", "1"):
        reader, writer = os.pipe()
        os.close(reader)
        (REPOSITORY / "runs").mkdir(exist_ok=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        call = [sys.executable, "-m", "stpl", *arguments]
        done = subprocess.run(
            call, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment, check=False
        )
        os.close(writer)
        assert done.stderr == ""
        assert done.returncode in (0, 1, 128 + 13)  # argparse does not care, rich says 1; Python's own would be 120


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_of_any_encoding_shows_readable_text(encoding: str) -> None:
    call = [sys.executable, "-m", "stpl"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for extra, stream, expected in (
        (["fit"], "stdout", "tau of Eq. 3"),
        (["sweep", "none.yaml"], "stderr", "-> check the path"),
    ):
        done = subprocess.run([*call, *extra], capture_output=True, cwd=REPOSITORY, env=environment, check=False)
        said = getattr(done, stream).decode(encoding)
        assert "Traceback" not in said
        assert (expected if encoding != "utf-8" else expected.replace("tau", "τ").replace("->", "→")) in said
        assert "?" not in said


def test_runs_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "mine").mkdir()
    for verb in (["report", "--page=false"], ["video"], ["sweep", "status"]):
        assert main([*verb, f"--runs={tmp_path / 'mien'}"]) == 2
        assert str(tmp_path / "mien") in capsys.readouterr().err
    assert main(["report", f"--runs={tmp_path / 'mien'}"]) == 2
    assert f"did you mean '{tmp_path / 'mine'}'?" in capsys.readouterr().err
    assert not (tmp_path / "mien").exists()


@pytest.mark.slow
def test_unknown_key_in_a_yaml_names_the_file(
    tmp_path: Path, tiny_run: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("model:\n  init_args:\n    temprature: 1\n")
    assert main(["fit", *tiny_run("stpl", "--start_from=null", "-c", str(bad))]) == 2
    said = capsys.readouterr().err
    assert str(bad) in said
    assert "did you mean 'temperature'?" in said


@pytest.mark.slow
def test_checkpoint_of_other_classes_or_torn_or_missing(
    tmp_path: Path, tiny_run: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "synthia.ckpt"
    options = NetworkOptions(DeepLabV2(18, 8, (1, 3)), label_space="synthia12")
    meta = {"schema": 2, "network": options.to_dict(), "classes": list(options.space.classes)}
    torch.save({"state_dict": build_network(options).state_dict(), "stpl": meta}, checkpoint)
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(checkpoint.read_bytes()[:1000])
    told = {checkpoint: "was trained for 12 classes", torn: "torn", tmp_path / "none.ckpt": "no such checkpoint"}
    for path, expected in told.items():
        capsys.readouterr()
        assert main(["fit", *tiny_run("stpl", f"--model.checkpoint={path}")]) == 2
        said = capsys.readouterr().err
        assert expected in said
        assert str(path) in said
        assert "→" in said


@pytest.mark.slow
def test_a_network_of_other_classes_than_the_data(tiny_run: Arguments, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *tiny_run("stpl", "--start_from=null", "--network.label_space=synthia12")]) == 2
    assert "predicts synthia12, the data set has labels of viper15" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_that_holds_code_is_never_run(
    tmp_path: Path, tiny_run: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "payload": Request()}, path)
    assert main(["fit", *tiny_run("stpl", f"--model.checkpoint={path}")]) == 2
    assert "never unpickled" in capsys.readouterr().err


@pytest.mark.slow
def test_full_disk_leaves_no_record(
    tiny_run: Arguments, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning.Trainer.save_checkpoint", full)
    assert main(["fit", *tiny_run("self_training", "--start_from=null")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.fixture
def transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Arguments of `stpl fit` on tiny data sets in their true layout, with the paper's overlay and a light network."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "runs"))
    write_cityscapes(tmp_path / "data" / "Cityscapes", cities=("ulm",), snippets=1)

    def arguments(bench: str, experiment: str) -> list[str]:
        return [
            f"--bench={bench}", f"--experiment={experiment}", "--start_from=null", f"--data.root={tmp_path / 'data'}",
            "--data.target_size=[32,64]", "--data.source_size=[32,64]", "--data.loading.num_workers=0", *LIGHT,
        ]  # fmt: skip

    return arguments


STEPS = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--run.experiment=tiny"]


@pytest.mark.slow
def test_stpl_on_cityscapes_from_the_command_line(transfer: Arguments) -> None:
    record = read_record(fit([*transfer("viper", "stpl"), *STEPS]))
    assert record is not None
    assert record["steps"] == 2
    assert len(record["classes"]) == 15


@pytest.mark.slow
def test_source_training_on_viper_from_the_command_line(transfer: Arguments, tmp_path: Path) -> None:
    """Frames and flow come from the cache, which the run makes itself."""
    fake("viper", tmp_path / "data", size=(64, 128), clips=2)
    record = read_record(fit([*transfer("viper", "source"), *STEPS, "--data.cache=true", "--model.checkpoint=null"]))
    assert record is not None
    assert record["last"]["iou"]["road"] is not None
    assert (tmp_path / "data" / "Viper" / "cache_32x64" / "train" / "flow_dis").is_dir()


@pytest.mark.slow
def test_torn_frame_is_named(transfer: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = tmp_path / "data" / "Cityscapes" / "leftImg8bit_sequence" / "val"
    frame = sorted(frames.rglob("*_000019_leftImg8bit.png"))[0]
    frame.write_bytes(frame.read_bytes()[:100])
    assert main(["fit", *transfer("viper", "source_only")]) == 2
    said = capsys.readouterr().err
    assert frame.name in said
    assert "→" in said
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
def test_adapt_to_a_video(tiny_run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of frames in; an adapted checkpoint and a side-by-side video out; then the checkpoint evaluates."""
    source = fit(tiny_run("source")) / "checkpoints" / "last.ckpt"
    frames = tmp_path / "drive"
    scene = MovingShapes(3, (60, 112))
    for time in range(6):
        write_png(frames / f"{time:03d}.png", np.asarray(scene.frame(time)))
    out = tmp_path / "out"
    arguments = [
        "adapt",
        f"--network={source}",
        f"--video={frames}",
        f"--output={out}",
        "--film=true",
        "--steps=2",
        "--batch_size=2",
    ]
    assert main(arguments) == 0
    assert (out / "side_by_side.webm").stat().st_size > 1000
    trained = out / "checkpoints" / "step2.ckpt"
    before, after = (torch.load(p, weights_only=True)["state_dict"] for p in (source, trained))
    moved = [k for k in before if k.startswith("network.") and not torch.equal(before[k], after[k])]
    assert moved
    assert torch.load(out / "adapted.ckpt", weights_only=True)["stpl"]["frame_size"] == [48, 96]
    capsys.readouterr()
    assert main([*arguments[:-2], "--steps=4", "--batch_size=2"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_agrees_with_the_record(tiny_run: Arguments, capsys: pytest.CaptureFixture[str]) -> None:
    directory = fit(tiny_run("source"))
    record = read_record(directory)
    assert record is not None
    data = [arg for arg in tiny_run("source") if arg.startswith(("--data", "--trainer.precision"))]
    checkpoint = directory / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    assert main(["test", "--bench=streets", f"--network={checkpoint}", "--data.domain=source", *data]) == 0
    printed = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(printed["mIoU"]) == pytest.approx(record["last"]["miou"], abs=0.005)
    assert float(printed["road"]) == pytest.approx(record["last"]["iou"]["road"], abs=0.005)


def test_the_makefile_s_sweep_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 workers: one for each GPU or core."""
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "sweeps/ablation.yaml", "--bench=streets", "--seeds=1", "--workers=0", "--dry_run"]) == 0


@pytest.mark.parametrize(
    ("former", "present"),
    [
        (["--checkpoint=none.ckpt"], "--checkpoint is now --network"),
        (["--model=no_module:build", "--size=8,8"], "--model is now --network"),
        (["--checkpoint=none.ckpt", "--model=a:b"], "--checkpoint is now --network, --model is now --builder"),
    ],
)
def test_former_names_of_the_network_s_options_are_understood(
    former: list[str], present: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", *former, "--video=none.mp4"]) == 2
    said = capsys.readouterr().err
    assert f"note: stpl adapt: {present}\n" in said
    assert "no such checkpoint" in said or "No module named 'no_module'" in said
