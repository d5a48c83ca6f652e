"""A run is what it was given: another video, network or checkpoint of the same name is never taken for it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor

import own_networks
import stpl
from fakes import MovingShapes
from stpl.apply.loaded import LoadedNetwork
from stpl.data.image import read_rgb
from stpl.errors import CheckpointError, ConfigError, RecordError, StplError, Terminated
from stpl.runs.folder import lock_run, run_folder
from stpl.yaml_files import load_yaml

pytestmark = pytest.mark.slow

SIZE = (64, 96)


def draw(folder: Path, count: int = 6, seed: int = 6) -> Path:
    folder.mkdir(parents=True)
    scene = MovingShapes(seed, SIZE)
    for time in range(count):
        cv2.imwrite(str(folder / f"{time}.png"), scene.frame(time))
    return folder


def network(**options: Any) -> LoadedNetwork:
    torch.manual_seed(0)
    return stpl.load(own_networks.Dictionary(19), size=SIZE, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video and an adaptation to it."""
    place = tmp_path_factory.mktemp("finished")
    stpl.adapt(network(), draw(place / "drive"), place / "out", steps=4)
    return place


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same elsewhere."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(folder / "adapted.pt", weights_only=True)
    return found


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- footage ----------------------------------------------------------------------------------------------------------


def test_the_same_footage_by_any_path_goes_on(
    finished: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved with its output, by a relative path, by a link of another name."""
    monkeypatch.chdir(copied.parent)
    (tmp_path / "link").symlink_to(copied / "drive")
    for video in (Path("copy/drive"), tmp_path / "link"):
        result = stpl.adapt(network(), video, "copy/out", steps=4)
        assert same(finished / "out", result.folder)
    settings = load_yaml(copied / "out" / "config.yaml")
    assert settings["data"]["init_args"]["path"] == [str(finished / "drive")]
    assert "data.init_args.path" in settings["run"]["inputs"]


@pytest.mark.parametrize("change", ["another", "longer", "edited"])
def test_other_footage_under_the_same_name_is_refused(copied: Path, change: str) -> None:
    before = weights(copied / "out")
    if change == "another":
        shutil.rmtree(copied / "drive")
        draw(copied / "drive", seed=7)
    elif change == "longer":
        shutil.copy(copied / "drive" / "5.png", copied / "drive" / "6.png")
    else:
        path = copied / "drive" / "3.png"
        times = path.stat()
        image = read_rgb(path)[..., ::-1].copy()
        image[0, 0] += 1
        cv2.imwrite(str(path), image)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ConfigError, match=r"the files of data\.init_args\.path .* are not those"):
        stpl.adapt(network(), copied / "drive", copied / "out", steps=4)
    assert all(torch.equal(before[name], value) for name, value in weights(copied / "out").items())


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "torn"])
def test_what_is_returned_does_not_hang_on_metrics(finished: Path, copied: Path, how: str) -> None:
    path = copied / "out" / "metrics.csv"
    content = path.read_bytes()
    path.unlink()
    if how == "torn":
        path.write_bytes(content[: len(content) // 2])
    stpl.adapt(network(), copied / "drive", copied / "out", steps=4)
    assert same(finished / "out", copied / "out")


def test_a_network_of_a_finished_run_that_is_gone_is_named(copied: Path) -> None:
    (copied / "out" / "checkpoints" / "step2.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"step2\.ckpt: a network of this finished run is gone"):
        stpl.adapt(network(), copied / "drive", copied / "out", steps=4)


@pytest.mark.parametrize("name", ["step4.ckpt", "last.ckpt"])
def test_a_checkpoint_of_another_run_is_refused(copied: Path, name: str) -> None:
    """Among the candidates and as what the run goes on from."""
    path = copied / "out" / "checkpoints" / name
    content = torch.load(path, weights_only=True)
    torch.save(content | {"run": content["run"] | {"seed": 1}}, path)
    with pytest.raises(CheckpointError, match=rf"{path.name}: is a checkpoint of the run video/drive/seed1, not of"):
        stpl.adapt(network(), copied / "drive", copied / "out", steps=4)
    torch.save(content | {"run": content["run"] | {"settings": "0"}}, path)
    with pytest.raises(CheckpointError, match="of a run of this name with other settings"):
        stpl.adapt(network(), copied / "drive", copied / "out", steps=4)


def test_other_classes_are_a_change_of_the_settings(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"classes: [{', '.join(f'k{i}' for i in range(19))}]\n")
    with pytest.raises(ConfigError, match=r"began with other settings of the network: classes"):
        stpl.adapt(network(classes=str(tmp_path / "c.yaml")), copied / "drive", copied / "out", steps=4)


# --- folders and threads ----------------------------------------------------------------------------------------------


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    for name in ("index.html", "config.yaml", "adapted.pt", "checkpoints"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"holds files that no run wrote \(adapted.pt, checkpoints, config.yaml"):
        stpl.adapt(network(), draw(tmp_path.parent / f"{tmp_path.name}-drive"), tmp_path, steps=1)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_a_refusal_leaves_nothing_and_a_run_stays(tmp_path: Path) -> None:
    def refused(folder: Path, *files: str) -> None:
        def body() -> None:
            with run_folder(folder):
                for name in files:
                    (folder / name).parent.mkdir(exist_ok=True)
                    (folder / name).touch()
                raise StplError("no")

        with pytest.raises(StplError):
            body()

    refused(tmp_path / "a" / "b", "start.ckpt", "batchnorm_augmented/config.yaml")
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "start.ckpt")
    assert list((tmp_path / "empty").iterdir()) == []
    refused(tmp_path / "run", "checkpoints/last.ckpt", "config.yaml")
    assert (tmp_path / "run" / "config.yaml").exists()
    refused(tmp_path / "run", "more")
    assert (tmp_path / "run" / "more").exists()


def test_one_folder_takes_one_thread(tmp_path: Path) -> None:
    with lock_run(tmp_path):
        for place in (tmp_path, tmp_path / "." / ".." / tmp_path.name):
            with pytest.raises(RecordError, match=f"process {os.getpid()} is training in this folder"), lock_run(place):
                pass
    with lock_run(tmp_path):
        pass


def test_two_threads_adapt_and_stay_where_they_are(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, each with the same result as alone; the working directory is never changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "chdir", lambda place: pytest.fail(f"changes to {place}"))
    failed = []
    networks = {name: network() for name in ("a", "b")}

    def body(name: str) -> None:
        try:
            stpl.adapt(networks[name], finished / "drive", name, steps=4)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=body, args=(name,)) for name in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert same(tmp_path / "a", finished / "out")
    assert same(tmp_path / "b", finished / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_generators_are_left_as_they_were(finished: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    stpl.load("streets")
    mine = stpl.load(own_networks.Dictionary(19), size=SIZE)
    torch.set_rng_state(state)
    adapted = stpl.adapt(mine, finished / "drive", tmp_path / "out", steps=1)
    list(adapted.network.predict([read_rgb(finished / "drive" / "0.png")]))
    assert torch.equal(torch.get_rng_state(), state)


def test_sigterm_in_an_adaptation_ends_it_between_two_steps_and_the_next_call_goes_on(
    finished: Path, tmp_path: Path
) -> None:
    def terminate(stage: stpl.Stage) -> None:
        if stage.name == "affine_teacher" and stage.done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    handlers = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated):
        stpl.adapt(network(), finished / "drive", tmp_path, steps=4, progress=terminate)
    # Step 3 is reported after its evaluation, so the run goes on after it.
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert (tmp_path / "checkpoints" / "step3.ckpt").is_file()
    assert signal.getsignal(signal.SIGTERM) == handlers
    stpl.adapt(network(), finished / "drive", tmp_path, steps=4)
    assert same(tmp_path, finished / "out")
