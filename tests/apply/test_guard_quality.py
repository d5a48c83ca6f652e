"""`stpl adapt guard`: the guard's choices in recorded runs, measured by labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stpl.apply import guard_quality
from stpl.cli import main
from stpl.commands.adapt import adapt_guard
from stpl.data.clip import BACKWARD, Clip
from stpl.errors import RecordError

pytestmark = pytest.mark.slow


def test_how_well_the_guard_chooses(
    tiny_run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a recorded run that kept its checkpoints: what would be chosen, beside what labels say of all candidates."""
    with pytest.raises(RecordError, match="sweep recommended"):
        adapt_guard(runs=tmp_path / "none")
    kept = ["--run.keep_all=true", "--trainer.val_check_interval=1"]
    assert main(["fit", *tiny_run("batchnorm_augmented", "--start_from=null", steps=2)]) == 0
    assert main(["fit", *tiny_run("affine_teacher", "--start_from=null", *kept, steps=2)]) == 0
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 2, 3, 48, 96), dtype=torch.uint8, generator=generator)
    monkeypatch.setattr(
        guard_quality, "spread", lambda data, count: [Clip(frames, {BACKWARD: torch.zeros(2, 2, 48, 96)})]
    )
    file = tmp_path / "figures.json"
    assert main(["adapt", "guard", f"--runs={tmp_path / 'runs'}", f"--json={file}"]) == 0
    figures = json.loads(file.read_text())
    (case,) = figures["cases"]
    assert (case["shift"], case["seed"]) == ("camera", 0)
    assert case["title"] in ("start", "renewed statistics", "step 1", "step 2")
    assert case["chosen"] <= case["best"]
    assert figures["near"] == (case["best"] - case["chosen"] <= 1)
    assert figures["worse"] == (case["chosen"] < case["start"])
    assert "within 1 mIoU of the best" in capsys.readouterr().out
