"""Frames come to a network in one way: film, page, `predict`, exported file and guard say the same of every frame."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fakes import MovingShapes
from stpl.apply import export, labelling, page
from stpl.apply.adapt import FLOW, spread
from stpl.apply.guard import Candidate, Looked, Verdict, look
from stpl.apply.labelling import write_labels
from stpl.apply.loaded import open_network, predict
from stpl.apply.origin import NetworkOrigin
from stpl.apply.settings import LOOKED, AdaptationSettings
from stpl.data.clip import BACKWARD, Wants, collate
from stpl.data.datamodule import VideoData
from stpl.data.flow import FlowCache
from stpl.data.image import read_ids, resize_ids, resize_rgb
from stpl.data.videos.stream import FrameStream
from stpl.data.videos.video_clips import clips_in_order
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network

pytestmark = pytest.mark.slow

NATIVE, SIZE, COUNT = (540, 960), (256, 512), 5


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, scene = tmp_path_factory.mktemp("video") / "drive.mkv", MovingShapes(3, NATIVE)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25.0, NATIVE[::-1])
    for time in range(COUNT):
        writer.write(scene.frame(time)[..., ::-1])
    writer.release()
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was not trained, and uses the frame before."""
    path, options = tmp_path_factory.mktemp("network") / "net.ckpt", NetworkOptions(DeepLabV2(18, 8, (1, 3)))
    torch.manual_seed(0)
    network = build_network(options)
    torch.nn.init.normal_(network.score_fusion.weight)
    torch.save({"state_dict": network.state_dict(), "stpl": weights.description(options, SIZE, 2)}, path)
    return path


def test_the_same_labels_everywhere(
    video: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_network(NetworkOrigin(network=str(checkpoint)))
    labels: dict[str, list[Any]] = {"film": [], "page": []}
    for module, name in ((labelling, "film"), (page, "page")):

        def shown(frame: Any, ids: Any, palette: Any, name: str = name) -> Any:
            labels[name].append(ids)
            return frame

        monkeypatch.setattr(module, "overlay", shown)

    write_labels(model, [FrameStream(video)], tmp_path, {"ids"})
    predicted = [read_ids(tmp_path / "ids" / f"{number:06d}.png") for number in range(COUNT)]
    assert predicted[0].shape == NATIVE
    assert len(np.unique(predicted)) > 2

    labelling.film({"net": model}, [FrameStream(video)], tmp_path / "film.webm")
    panel = labels["film"][0].shape
    assert panel == (360, 640)
    assert len(labels["film"]) == COUNT - 1
    for ids, expected in zip(labels["film"], predicted[1:], strict=True):
        assert np.array_equal(ids, resize_ids(expected.astype(np.uint8), panel))

    data = VideoData(video, size=SIZE, flow_cache=tmp_path / FLOW)
    places, batches = spread(data, LOOKED)
    assert places == list(range(COUNT - 1))
    sight = look(model.accel, batches)
    guarded, start = sight.labels.numpy(), Candidate("start", checkpoint, shares=(0.0,) * 15)
    done: Any = SimpleNamespace(
        before=model, folder=tmp_path, videos=[video], settings=AdaptationSettings(),
        looked=Looked(places, batches, [sight]), verdict=Verdict(start, (start,), "", start),
    )  # fmt: skip
    page.look(done)
    for ids, seen in zip(labels["page"], guarded, strict=True):
        assert np.array_equal(ids, resize_ids(seen, NATIVE))

    reader = data.reader("train", "target")
    clips = [collate([reader.read(place, Wants(flows=(BACKWARD,)))]) for place in range(len(reader))]
    streamed = [clip for _, clip in clips_in_order(FrameStream(video), SIZE, FlowCache())][1:]
    exported = export.Classes(export.TwoFrames(model.accel)).eval()
    frames = [resize_rgb(frame, SIZE) for frame in FrameStream(video).frames()]
    pictures = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in frames]
    for place, (clip, own) in enumerate(zip(clips, streamed, strict=True)):
        assert all(torch.equal(tensor[0], own.tensors()[name]) for name, tensor in clip.tensors().items())
        flow = torch.from_numpy(FlowCache().get("", frames[place + 1], frames[place]))[None]
        with torch.no_grad():
            written = exported(pictures[place + 1], pictures[place], flow)[0].numpy()
        assert np.array_equal(guarded[place], written)
        assert np.array_equal(guarded[place], predict(model.accel, own, SIZE))
    by_arrays = list(model.predict(FrameStream(video).frames()))
    assert all(np.array_equal(ids, expected) for ids, expected in zip(by_arrays, predicted, strict=True))


class Sideways:
    """An estimator of one's own: everything moves by two pixels."""

    name, batch = "sideways", 2

    def __call__(self, pairs: Any) -> list[Any]:
        return [np.full((2, *of.shape[:2]), 2, np.float32) for of, _ in pairs]


def test_the_estimator_of_a_run_is_that_of_all(video: Path, checkpoint: Path, tmp_path: Path) -> None:
    own = f"{__name__}.Sideways"
    data = VideoData(video, size=SIZE, flow_cache=tmp_path, flow_estimator=own)
    assert (data.reader("train", "target").flow(1) == 2).all()
    assert (data.reader("train", "target").flow(1, 0, 1) == 2).all()
    assert {path.parts[-4] for path in tmp_path.rglob("*.npy")} == {"flow_sideways"}
    _, clip = list(clips_in_order(FrameStream(video), SIZE, FlowCache(tmp_path, own)))[2]
    assert (clip.flows[BACKWARD] == 2).all()
    model = open_network(NetworkOrigin(network=str(checkpoint), flow_estimator=own))
    assert model.flow_estimator == own
    usual = open_network(NetworkOrigin(network=str(checkpoint)))
    frames = list(FrameStream(video).frames())
    assert not np.array_equal(list(model.predict(frames)), list(usual.predict(frames)))
