"""A network and footage in, a safe result out: the library, the page, what it needs."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import own_networks
import stpl
from fakes import MovingShapes
from repository import REPOSITORY
from stpl.apply import adapt as adaptation
from stpl.apply import resources
from stpl.apply.loaded import LoadedNetwork, load_network, open_network
from stpl.apply.option_values import check_size
from stpl.apply.origin import NetworkOrigin
from stpl.apply.settings import AdaptationSettings
from stpl.cli import main
from stpl.data.videos.video_clips import VideoFrames
from stpl.errors import ConfigError
from stpl.nn.own import IN_MEMORY

pytestmark = pytest.mark.slow

SIZE = (64, 96)


def test_a_network_is_adapted_from_python(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are told of; what comes back predicts; a second call finds all of it done."""
    monkeypatch.chdir(tmp_path)
    net = stpl.load("streets", size=SIZE)
    told: list[stpl.Stage] = []
    result = stpl.adapt(net, drive, "out", steps=4, progress=told.append)
    assert [(stage.done, stage.total) for stage in told if stage.name == "affine_teacher"] == [
        (n, 4) for n in (1, 2, 3, 4)
    ]
    assert {stage.name for stage in told} == {"affine_teacher", "renewing statistics", "looking"}
    assert told[-1].left == 0
    titles = [one.title for one in result.verdict.scored]
    assert titles == ["start", "original statistics", "augmented statistics", "step 1", "step 2", "step 3", "step 4"]
    kept = json.loads((result.folder / "adaptation.json").read_text())
    assert kept["chosen"] == result.verdict.chosen.title
    frames = list(VideoFrames(drive).frames())
    labels = list(result.network.predict(iter(frames)))
    assert len(labels) == len(frames)
    assert all(map_.shape == SIZE and map_.max() < len(net.classes) for map_ in labels)
    assert isinstance(result.module, nn.Module)
    again: list[stpl.Stage] = []
    assert stpl.adapt(net, drive, "out", steps=4, progress=again.append).verdict == result.verdict
    assert "affine_teacher" not in {stage.name for stage in again}
    taken = stpl.adapt(net, drive, "out", steps=4, take="step2")
    assert taken.verdict.chosen.step == 2
    before, now = (load_network(path) for path in (taken.verdict.chosen.checkpoint, taken.checkpoint))
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), now.parameters(), strict=True))
    page = (result.folder / "index.html").read_text()
    assert taken.verdict.reason in page
    assert page.count("data:image/jpeg;base64,") in (
        12,
        16,
    )  # 4 frames: input, before, after, best that is not returned
    assert not re.search(r'(src|href)="https?:', page)
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)


def test_a_network_of_one_s_own_from_python(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BatchNorm: nothing to renew, so the start is what candidates are compared with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.yaml").write_text("classes: [road, car, tree, sky, other]\n")
    card = tmp_path / "network.yaml"
    card.write_text("network: own_networks:WithoutBatchNorm\nsize: [64, 96]\nclasses: classes.yaml\nfeatures: mix\n")
    result = stpl.adapt(str(card), [drive], "out", steps=2, batch_size=2)
    assert [one.title for one in result.verdict.scored] == ["start", "step 1", "step 2"]
    assert isinstance(result.module, own_networks.WithoutBatchNorm)
    weights = result.weights
    assert weights is not None
    own_networks.WithoutBatchNorm().load_state_dict(torch.load(weights, weights_only=True))


def test_a_network_that_python_holds(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is copied, and left as it is; what comes back is of its class, and only its weights have a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.yaml").write_text("classes: [road, car, tree, sky, other]\n")
    mine = own_networks.PoolingIndices().train()
    before = copy.deepcopy(mine.state_dict())
    net = stpl.load(mine, size=SIZE, classes="classes.yaml")
    result = stpl.adapt(net, drive, "out", steps=2, batch_size=2)
    assert result.module is not mine
    assert isinstance(result.module, own_networks.PoolingIndices)
    assert mine.training
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    assert not any(layer._forward_hooks for layer in nn.Module.modules(mine))
    assert result.weights is not None
    mine.load_state_dict(torch.load(result.weights, weights_only=True))
    assert "PoolingIndices" in (result.folder / "index.html").read_text()
    with pytest.raises(ConfigError, match="held by a Python program"):
        load_network(result.checkpoint, IN_MEMORY)
    again = stpl.adapt(net, drive, "out", steps=2, batch_size=2)
    assert again.verdict == result.verdict


def test_an_adapted_network_of_one_s_own_is_adapted_again(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.yaml").write_text("classes: [road, car, tree, sky, other]\n")
    (tmp_path / "net.yaml").write_text("network: own_networks:Dictionary\nsize: [64, 96]\nclasses: classes.yaml\n")
    small = ["--steps=1", "--batch_size=1", f"--video={drive}"]
    assert main(["adapt", "--network=net.yaml", "--output=one", *small]) == 0
    assert main(["adapt", "--network=one/adapted.ckpt", "--builder=net.yaml", "--output=two", *small]) == 0
    first, second = (torch.load(f"{name}.pt", weights_only=True) for name in ("one/adapted", "two/adapted"))
    assert first.keys() == second.keys()
    assert main(["predict", "--network=two/adapted.ckpt", "--builder=net.yaml", f"--video={drive}", "--out=ids"]) == 0
    assert main(["export", "--network=two/adapted.ckpt", "--builder=net.yaml", "--out=net.pt"]) == 0
    assert main(["video", "--network=[one/adapted.ckpt]", "--builder=net.yaml", f"--video={drive}"]) == 0
    capsys.readouterr()
    assert main(["adapt", "--network=two/adapted.ckpt", "--output=three", *small]) == 2
    assert "--builder=own_networks:Dictionary" in capsys.readouterr().err
    assert main(["adapt", "--network=streets", "--builder=net.yaml", "--output=three", *small]) == 2
    assert "--builder: this does nothing here" in capsys.readouterr().err
    assert main(["adapt", "--network=streets", "--output=three", "--size=64,96", *small]) == 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_sitting_goes_on_with_the_batch_it_began_with(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though memory is short by now; nine steps are evaluated three times, eleven once."""
    monkeypatch.chdir(tmp_path)
    net = stpl.load("streets", size=SIZE)
    settings = AdaptationSettings(steps=9, batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "_candidate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            adaptation.adapt_to(net, [drive], tmp_path / "out", settings)
    result = stpl.adapt(net, drive, "out", steps=9)
    assert result.estimate.batch_size == 2
    assert [one.step for one in result.verdict.scored] == [0, 0, 0, 3, 6, 9]
    command = ["adapt", "--network=streets", f"--video={drive}", "--steps=11", "--size=64,96", "--output=other"]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert re.search(r"estimate: about [\d.]+ of \d+ GiB, 4 clips a step", said)
    assert re.search(r"about \d+ s left of all", said)
    assert len(json.loads(Path("other/adaptation.json").read_text())["candidates"]) == 4


def test_only_what_normalises_has_moved(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stpl.adapt("streets", drive, "out", steps=2, batch_size=1)
    before, after = (
        open_network(NetworkOrigin(network=str(path), size=SIZE)).accel
        for path in ("streets", "out/checkpoints/step2.ckpt")
    )
    affine = {id(p) for layer in before.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()}
    moved = {
        id(one) for one, other in zip(before.parameters(), after.parameters(), strict=True) if not one.equal(other)
    }
    assert moved
    assert moved <= affine


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("size: [64, 96]", "lacks 'network'"),
        ("network: streets\ncolour: red", "unknown key 'colour'"),
        ("network: other.yaml", "names another file"),
        ("network: streets\nsize: 3", "size: 3 is not a height and a width"),
    ],
)
def test_a_file_that_describes_no_network(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(content)
    with pytest.raises(ConfigError, match=said):
        stpl.load(tmp_path / "net.yaml")


def test_memory_is_estimated_and_the_batch_made_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network = open_network(NetworkOrigin(network="streets")).accel.segmenter
    small, large = (resources.estimate(network, size, 4) for size in ((64, 128), (128, 256)))
    wide = resources.estimate(network, (512, 1024), 4)
    assert small.memory < large.memory < wide.memory
    grows = (wide.memory - resources._PROGRAM) / (large.memory - resources._PROGRAM)
    assert grows == pytest.approx(16, rel=0.35)
    estimates = [resources.Estimate(size, size * 2**30, int(2.6 * 2**30)) for size in (4, 2, 1)]
    assert resources.fitting(estimates).batch_size == 2
    with pytest.raises(ConfigError, match=r"8\.0 GiB even with one clip, 2\.0 are free\n.*a size of 38 %"):
        resources.fitting([resources.Estimate(1, 8 * 2**30, 2 * 2**30)])
    with pytest.raises(ConfigError, match=r"0\.1 are free\n  → free some memory"):
        resources.fitting([resources.Estimate(1, 8 * 2**30, 2**27)])
    with pytest.raises(ConfigError, match=r"_size: 100 clips a step need 100\.0 GiB, 10\.0 are free\n.*choose 8 or"):
        resources.fitting([resources.Estimate(100, 100 * 2**30, 10 * 2**30, clip=2**30)])
    assert small.clip > 0
    assert 2**20 < resources.free_memory(torch.device("cpu")) < 2**50
    assert "GiB" in str(wide)


@pytest.mark.parametrize(
    ("size", "batch_size", "said"),
    [
        ((999999999, 999999999), None, "GiB at the least"),
        ((200000, 200000), 1, "GiB at the least"),
        ((64, 96), 10**9, "--batch_size: 1000000000 clips a step need"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused_by_themselves(
    size: tuple[int, int] | None, batch_size: int | None, said: str
) -> None:
    check_size((512, 1024), 4)
    with pytest.raises(ConfigError, match=said):
        check_size(size, batch_size)


def test_a_network_of_one_size_is_estimated_at_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("classes: [road, car, tree, sky, other]\n")
    monkeypatch.setattr(resources, "_PROBED", (32, 64))
    nets = [stpl.load(f"own_networks:{name}", size=SIZE, classes=str(tmp_path / "classes.yaml"))
            for name in ("FixedSize", "Dictionary")]  # fmt: skip
    fixed, free = (resources.estimate(net.accel.segmenter, SIZE, 1) for net in nets)
    assert fixed.memory == pytest.approx(free.memory, rel=0.05)
    with pytest.raises(ConfigError, match="expected 64x96"):
        resources.estimate(nets[0].accel.segmenter, (96, 128), 1)
    assert all(parameter.requires_grad for parameter in nets[0].module.parameters())


def test_what_does_not_fit_is_refused_before_anything_is_done(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "free_memory", lambda device: 2**20)
    monkeypatch.setattr(adaptation, "run", pytest.fail)
    assert main(["adapt", "--network=streets", f"--video={drive}", "--output=out"]) == 2
    assert "GiB even with one clip" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_several_videos_from_the_command_line(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them of another size; then the folder's page tells of both."""
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for time in range(3):
        cv2.imwrite(str(other / f"{time}.png"), np.asarray(MovingShapes(3, (48, 80)).frame(time)))
    videos = f"--video=[{drive},{other}]"
    assert main(["adapt", "--network=streets", videos, "--output=out", "--steps=1", "--size=64,96", "--film=true"]) == 0
    said = capsys.readouterr().err
    assert "verdict: " in said
    assert "to drive and 1 more" in (tmp_path / "out" / "index.html").read_text()
    assert len(list(VideoFrames(tmp_path / "out" / "side_by_side.webm").frames())) == 5 + 2


def test_a_model_is_one(drive: Path) -> None:
    net = stpl.load("streets:1", size=SIZE)
    assert isinstance(net, LoadedNetwork)
    assert net.name == "source-1"
    assert net.classes[0] == "road"
    with pytest.raises(AttributeError, match="nothing"):
        stpl.nothing  # noqa: B018


def blocks(page: str, language: str) -> list[str]:
    """The code of a page of the documentation."""
    text = (REPOSITORY / "docs" / f"{page}.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.long
def test_the_examples_of_the_documentation_run(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand there, with two steps for their eighty and forty."""
    monkeypatch.chdir(tmp_path)
    for name in ("drive", "monday", "tuesday"):
        (tmp_path / f"{name}.mp4").symlink_to(drive)
    net = "import own_networks\n\n\ndef build():\n    return own_networks.Dictionary(num_classes=15)\n"
    (tmp_path / "my_networks.py").write_text(net)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        "stpl.apply.library.AdaptationSettings",
        lambda *given: replace(AdaptationSettings(*given), steps=2, batch_size=1),
    )
    examples = blocks("adapt", "python")
    assert len(examples) == 2
    for example in examples:
        scope: dict[str, object] = {"frames": VideoFrames(drive).frames()}
        exec(compile(example, "docs/adapt.md", "exec"), scope)
        result = scope["result"]
        assert isinstance(result, stpl.Adaptation)
        assert [one.step for one in result.verdict.scored] == [0, 0, 0, 1, 2]
    commands = [line for page in ("adapt", "predict") for block in blocks(page, "bash") for line in block.splitlines()
                if "--network=adapted/" in line or ("--output=adapted" in line and "streets" in line)]  # fmt: skip
    assert len(commands) == 4
    for command in dict.fromkeys(commands):  # one stands on both pages
        fewer = ["--steps=2", "--batch_size=1"] if " adapt " in command else []
        assert main([*command.split()[1:], *fewer]) == 0
    assert (tmp_path / "adapted" / "index.html").is_file()
    assert len(list((tmp_path / "labels" / "ids").iterdir())) == 6
    assert (tmp_path / "net.onnx").is_file()
