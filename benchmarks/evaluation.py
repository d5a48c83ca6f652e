"""An evaluation of a benchmark's size: network, all metrics, clips moved from the host."""

from dataclasses import replace

import torch
from torch.utils.benchmark import timer

from benchmarks import cuda
from benchmarks.measure import Figures, run, table
from benchmarks.step import draw
from stpl.data.clip import BACKWARD, Clip, Wants
from stpl.nn.accel import Accel
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.training.evaluation import Evaluator


def evaluation(
    frames: int = 500, height: int = 512, width: int = 1024, network: DeepLabV2 | None = None, device: str = "cpu"
) -> Figures:
    """Seconds of an evaluation of clips that lie in memory, labels at twice the frames' size as Cityscapes has them.

    Args:
        frames: clips that are evaluated, one at a time; Cityscapes' validation split has 500.
        height: of the frames.
        width: of the frames.
        network: the network; ResNet-101 if not given.
        device: cpu or cuda.
    """
    place, architecture = cuda.check_device(device), network or DeepLabV2()
    options = NetworkOptions(architecture)
    model = build_network(options).to(place, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    evaluator = Evaluator(options.space).to(place)
    generator = torch.Generator().manual_seed(0)
    clip = draw(height, width, Wants(flows=(BACKWARD,)), generator)
    label = torch.randint(0, 15, (1, height // 8, width // 8), generator=generator)
    clip = replace(clip, labels={0: label.repeat_interleave(16, 1).repeat_interleave(16, 2)})
    if place.type == "cuda":
        clip = clip.pin_memory()
    for _ in range(2):
        _evaluate(model, evaluator, clip, place, "warm/0")
    evaluator.reset()
    start = timer()
    for number in range(frames):
        _evaluate(model, evaluator, clip, place, f"drive/{number:05d}")
    evaluator.gather()
    evaluator.numbers()
    seconds = timer() - start
    title = f"evaluation at {height}×{width}, ResNet-{architecture.depth}, {cuda.name(place)}"
    print(table(title, ["clips", "seconds", "clips/s"], [[str(frames), f"{seconds:.1f}", f"{frames / seconds:.1f}"]]))
    return {"frames": frames, "seconds": seconds, "clips_per_second": frames / seconds, "device": cuda.name(place)}


@torch.no_grad()
def _evaluate(model: Accel, evaluator: Evaluator, clip: Clip, place: torch.device, key: str) -> None:
    moved = replace(clip.to(place), key=(key,))
    with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
        evaluator.update(moved, model.observe(moved))


if __name__ == "__main__":
    run(evaluation)
