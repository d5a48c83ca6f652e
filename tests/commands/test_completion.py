"""The script for bash, in a real bash; the one for zsh says the same words."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from stpl.cli import main
from stpl.commands import VERBS


def completed(script: str, *words: str) -> set[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    code = (
        f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_stpl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    return set(subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_verbs_options_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert {verb.split()[0] for verb in VERBS} <= completed(script, "stpl", "")
    assert completed(script, "stpl", "data", "c") == {"check", "cache"}
    assert completed(script, "stpl", "fit", "--bench", "s") == {"streets", "streets-long", "synthia"}
    assert "mean_teacher" in completed(script, "stpl", "fit", "--experiment", "")
    assert {"table1", "table2", "table3", "table4", "tau"} == completed(script, "stpl", "sweep", "ta")
    assert "status" in completed(script, "stpl", "sweep", "st")
    words = next(line for line in script.splitlines() if line.startswith("_shtab_stpl_sweep_pos_0_choices="))
    assert words.count("tune") == 1
    assert "--network" in completed(script, "stpl", "adapt", "--ne")
    of_fit = {"--bench", "--experiment", "--experiments", "--config", "--start_from", "--seed_everything"}
    assert completed(script, "stpl", "fit", "--") - {"--help"} == of_fit
    assert {"--bench", "--network", "--builder", "--config"} <= completed(script, "stpl", "test", "--")
    assert not {"--experiment", "--start_from"} & completed(script, "stpl", "test", "--")


def test_zsh_has_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef stpl")
    assert all(word in script for word in ("mean_teacher", "synthia", "adapt"))


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "bash" in capsys.readouterr().err
