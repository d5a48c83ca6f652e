"""`stpl report --guard`: the guard's choices in recorded runs, measured by labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from stpl.apply import guard_quality
from stpl.apply.guard_quality import Case, regrets
from stpl.apply.loaded import load_network
from stpl.cli import main
from stpl.commands.report import report
from stpl.data.clip import BACKWARD, Clip
from stpl.errors import RecordError

pytestmark = pytest.mark.slow


def test_regret_of_the_guard_and_of_simple_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """In closed form, of two cases."""
    first = Case({"start": 10, "original": 30, "augmented": 20, "step20": 35, "step40": 25}, "step20", ["step40"], {})
    second = Case({"start": 15, "original": 10, "augmented": 20, "step20": 18, "step40": 24}, "augmented", [], {})
    Console(width=200).print(regrets([first, second]))
    rows = {line.split("│")[1].strip(): line.split("│")[2:7] for line in capsys.readouterr().out.splitlines()[3:-1]
            if "│" in line}  # fmt: skip
    cells = {name: [cell.strip() for cell in row] for name, row in rows.items()}
    assert cells["guard"] == ["2.00", "4.0", "0", "0", "0"]
    assert cells["always start"] == ["17.00", "25.0", "0", "50", "100"]
    assert cells["always the last"] == ["5.00", "10.0", "0", "50", "0"]
    assert cells["oracle"] == ["0.00", "0.0", "0", "0", "0"]


def test_how_well_the_guard_chooses(
    tiny_run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a run that kept its checkpoints: what would be chosen, and what becomes of damaged networks."""
    with pytest.raises(RecordError, match="sweep guard"):
        report(runs=tmp_path / "none", guard=True)
    assert main(["fit", *tiny_run("source")]) == 0
    kept = ["--run.keep_all=true", "--trainer.val_check_interval=1"]
    assert main(["fit", *tiny_run("affine_teacher", *kept, steps=2)]) == 0
    capsys.readouterr()
    assert main(["report", "--guard=true", f"--runs={tmp_path / 'runs'}"]) == 0
    first = capsys.readouterr().out
    for said in ("over 1 cases", "always step2", "oracle", "without 3 classes", "without 5 classes", "random weights"):
        assert said in first
    assert re.findall(r"[01] of (\d)\n", first)[:4] == ["1"] * 4
    monkeypatch.setattr(guard_quality, "look", pytest.fail)
    assert main(["report", "--guard=true", f"--runs={tmp_path / 'runs'}"]) == 0
    assert capsys.readouterr().out == first


def test_a_damaged_network_never_predicts_some_classes() -> None:
    network = load_network(Path("streets"))
    damaged = guard_quality._damaged(Path("streets"), [0, 3], 1.5)
    frames = torch.randint(0, 256, (1, 2, 3, 64, 96), dtype=torch.uint8)
    clip = Clip(frames, {BACKWARD: torch.zeros(1, 2, 64, 96)})
    with torch.no_grad():
        (_, logits, _), (_, lost, previous) = network.observe(clip), damaged.observe(clip)
    assert not {0, 3} & {k for one in (lost, previous) for k in one.argmax(1).flatten().tolist()}
    others = [k for k in range(15) if k not in (0, 3)]
    torch.testing.assert_close(lost[:, others], 1.5 * logits[:, others])
