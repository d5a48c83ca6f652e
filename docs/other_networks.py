"""Other networks than that of `streets`: how much every source-free method gains on them, and how far it moves them.

    python docs/other_networks.py [--kinds=[unet,segnet]] [--methods=[stpl]] [--cameras=[fog]] [--lr=1e-4]

It trains four small networks, which are nothing like DeepLab, on tuning drives of the studio; adapts each, as
`stpl.adapt` does, to drives of two cameras, with each method; and scores what the run kept by labels of other drives.
Nothing of it is in a reported number of `streets` (`data.options.seed` 100). Results come line by line; called again,
it goes on where it ended. One network takes minutes to train, one adaptation about one minute.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import yaml
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import stpl
from stpl.apply.loaded import load_network
from stpl.apply.settings import ADAPTED
from stpl.cli import main
from stpl.data.clip import BACKWARD, Clip, Wants, collate
from stpl.data.datamodule import StreetsData
from stpl.data.streets import StreetsOptions
from stpl.data.streets.domain import ShiftName
from stpl.files import write_atomically
from stpl.metrics.segmentation import SegmentationMetrics
from stpl.nn.segmenter import upsample

CLASSES, SPACE = 15, "viper15"
Kind = Literal["unet", "segnet", "pyramid", "transformer"]
METHODS = (
    "affine_teacher", "affine_teacher_all", "tent", "cotta", "self_training", "mean_teacher", "cbst_target", "ur",
    "hcl", "da_vsn_target", "tps_target", "vat_vst_target", "spatial", "stpl",
)  # fmt: skip


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())


def pair(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """Two blocks."""
    return nn.Sequential(block(inside, outside, stride), block(outside, outside))


class UNet(nn.Module):
    """An encoder–decoder with skips: 1/16 at its deepest."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        downs = [pair(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True)]
        self.down, self.pool = nn.ModuleList(downs), nn.MaxPool2d(2)
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in steps)
        self.join, self.head = nn.ModuleList(pair(2 * b, b) for _, b in steps), nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at the frames' size."""
        skips = [self.down[0](x)]
        for down in list(self.down)[1:]:
            skips += [down(self.pool(skips[-1]))]
        x = skips[-1]
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.head(x)  # type: ignore[no-any-return]


class SegNet(nn.Module):
    """An encoder–decoder that unpools by the indices of its pooling: 1/16 at its deepest."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.encoder = nn.ModuleList(pair(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True))
        self.bottom = block(widths[-1], widths[-1])
        self.decoder = nn.ModuleList(pair(b, a) for a, b in zip([width, *widths[:-1]], widths, strict=True))
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at the frames' size."""
        places = []
        for encoder in self.encoder:
            x, indices = F.max_pool2d(encoder(x), 2, return_indices=True)
            places.append(indices)
        x = self.bottom(x)
        for decoder, indices in zip(list(self.decoder)[::-1], places[::-1], strict=True):
            x = decoder(F.max_unpool2d(x, indices, 2))
        return self.head(x)  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """A strided encoder to 1/8, whose end is pooled to grids of 1, 2, 3 and 6 cells a side beside it (PSPNet)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(pair(3, width, 2), pair(width, 4 * width, 2), pair(4 * width, 8 * width, 2))
        cells = (nn.Sequential(nn.AdaptiveAvgPool2d(n), nn.Conv2d(8 * width, 2 * width, 1)) for n in (1, 2, 3, 6))
        self.pyramid = nn.ModuleList(cells)
        self.head = nn.Sequential(block(16 * width, 4 * width), nn.Conv2d(4 * width, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at 1/8."""
        x = self.encoder(x)
        cells = [F.interpolate(part(x), size=x.shape[-2:], mode="bilinear") for part in self.pyramid]
        return self.head(torch.cat([x, *cells], 1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """A layer of a transformer whose keys and values are read at a coarser grid (PVT, SegFormer)."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, grid: Tensor) -> Tensor:
        """Another grid `[B,D,h,w]` of the same size."""
        tokens = grid.flatten(2).mT
        seen = self.before(tokens)
        read = self.reduce(seen.mT.reshape(grid.shape)).flatten(2).mT
        tokens = tokens + self.attention(seen, read, read, need_weights=False)[0]
        return (tokens + self.mlp(self.after(tokens))).mT.reshape(grid.shape)


class Transformer(nn.Module):
    """Three stages to 1/16, whose ends are joined at 1/4 (SegFormer); BatchNorm in the head alone."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.patches = nn.ModuleList(
            nn.Conv2d(a, b, size, stride, size // 2)
            for a, b, size, stride in zip([3, *widths[:-1]], widths, (7, 3, 3), (4, 2, 2), strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Attention(b, reduction) for _ in range(2)))
            for b, reduction in zip(widths, (4, 2, 1), strict=True)
        )
        self.level = nn.ModuleList(nn.Conv2d(b, width, 1) for b in widths)
        self.head = nn.Sequential(block(3 * width, width), nn.Conv2d(width, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at 1/4."""
        ends = []
        for patches, stage in zip(self.patches, self.stages, strict=True):
            ends.append(x := stage(patches(x)))
        size = ends[0].shape[-2:]
        levels = [
            F.interpolate(level(end), size=size, mode="bilinear") for level, end in zip(self.level, ends, strict=True)
        ]
        return self.head(torch.cat(levels, 1))  # type: ignore[no-any-return]


BUILDERS: dict[Kind, type[nn.Module]] = {"unet": UNet, "segnet": SegNet, "pyramid": Pyramid, "transformer": Transformer}
unet, segnet, pyramid, transformer = BUILDERS.values()


def words(options: StreetsOptions) -> list[str]:
    """What is drawn, as settings of `stpl fit`."""
    return [f"--data.options.{name}={value}" for name, value in asdict(options).items() if name != "strengths"]


def trained(kind: Kind, options: StreetsOptions, steps: int, out: Path) -> Path:
    """The checkpoint of a network that has learned the studio's drives."""
    torch.manual_seed(0)
    network = stpl.load(f"other_networks:{kind}", size=(options.height, options.width), classes=SPACE)
    print(f"{kind}: features: {network.proposal}")
    described = out / f"{kind}.yaml"
    write_atomically(described, yaml.safe_dump({"network": network.options.to_dict()}))
    run = ["fit", "--bench=streets", "--experiment=source", f"--run.experiment={kind}", "-c", str(described)]
    run += [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}", "--trainer.deterministic=warn"]
    if main([*run, *words(options)]):
        sys.exit(f"{kind} could not be trained")
    return out / "streets" / kind / "seed0" / "checkpoints" / "last.ckpt"


def footage(options: StreetsOptions, drives: int, out: Path) -> list[Path]:
    """Folders of images, one a drive of the camera's train split."""
    split = StreetsData(options=options).reader("train", "target")
    folders = []
    for place in range(len(split)):
        *_, drive, number = split.key(place).split("/")
        folder = out / "footage" / options.shift / drive
        if len(folders) == drives and folder != folders[-1]:
            break
        if folder not in folders:
            folders.append(folder)
        file = folder / f"{int(number):02d}.png"
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            content = BytesIO()
            Image.fromarray(np.ascontiguousarray(split.frame(place))).save(content, "PNG")
            write_atomically(file, content.getvalue())
    return folders


@torch.inference_mode()
def miou(checkpoint: Path, kind: Kind, clips: Sequence[Clip]) -> float:
    """Of a network on labelled clips, in percent."""
    network, metrics = load_network(checkpoint, f"other_networks:{kind}"), SegmentationMetrics(CLASSES)
    for clip in clips:
        seen = clip.to(next(network.parameters()).device)
        metrics.update(upsample(network.observe(seen).logits, clip.size).argmax(1), seen.labels[0])
    return float(metrics.compute()["miou"])


def moved(start: Path, end: Path, kind: Kind) -> float:
    """Change of a network's parameters, in percent of their norm."""
    first, last = (dict(load_network(path, f"other_networks:{kind}").named_parameters()) for path in (start, end))
    change = sum(float((last[name] - value).detach().square().sum()) for name, value in first.items())
    return 100 * (change / sum(float(value.detach().square().sum()) for value in first.values())) ** 0.5


def scores(folder: Path, start: Path, kind: Kind, clips: Sequence[Clip]) -> dict[str, float]:
    """Score the start, renewed statistics, every step that was kept, and what was returned, by mIoU in percent."""
    kept = {int(path.stem.removeprefix("step")): path for path in (folder / "checkpoints").glob("step*.ckpt")}
    found = {
        "start": start,
        **{f"{path.stem} statistics": path for path in sorted((folder / "statistics").glob("*.ckpt"))},
    }
    found |= {f"step {step}": kept[step] for step in sorted(kept) if step} | {"returned": folder / ADAPTED}
    return {name: miou(path, kind, clips) for name, path in found.items()} | {
        "moved": moved(start, kept[max(kept)], kind)
    }


def compare(
    kinds: tuple[Kind, ...] = get_args(Kind),
    methods: tuple[str, ...] = METHODS,
    cameras: tuple[ShiftName, ...] = ("camera", "fog"),
    lr: float | None = None,
    steps: int = 80,
    train_steps: int = 600,
    drives: int = 100,
    streets: StreetsOptions = StreetsOptions(seed=100),  # noqa: B008
    out: Path = Path("runs/networks"),
) -> None:
    """Train networks, adapt each before each camera with each method, and print and record what came of it.

    Args:
        kinds: which networks.
        methods: which experiments.
        cameras: shifts of `streets`.
        lr: learning rate of all methods, in place of each one's own.
        steps: of an adaptation.
        train_steps: of a network's training on the studio.
        drives: of the camera, that are adapted to.
        streets: what is drawn; its shift is that of each camera in turn.
        out: folder of all that is written; `results.jsonl` has a line for each adaptation.
    """
    os.environ["STPL_RUNS"] = str(out)
    out.mkdir(parents=True, exist_ok=True)
    store = out / "results.jsonl"
    done = [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []
    for kind in kinds:
        start = trained(kind, streets, train_steps, out)
        for camera, method in product(cameras, methods):
            case = {"kind": kind, "camera": camera, "method": method, "lr": lr, "steps": steps}
            row = next((row for row in done if case.items() <= row.items()), None)
            if row is None:
                options = replace(streets, shift=camera)
                folder = out / "adapted" / "-".join(str(value) for value in case.values())
                network = stpl.load(start, builder=f"other_networks:{kind}")
                stpl.adapt(network, footage(options, drives, out), folder, experiment=method, steps=steps, lr=lr)
                reader, wants = (
                    StreetsData(options=options).reader("val", "target"),
                    Wants(flows=(BACKWARD,), labels=(0,)),
                )
                clips = [collate([reader.read(place, wants)]) for place in range(len(reader))]
                row = case | scores(folder, start, kind, clips)
                with store.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(
                " ".join(
                    f"{name}={value:.2f}" if isinstance(value, float) else str(value) for name, value in row.items()
                )
            )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    auto_cli(compare, as_positional=False)
