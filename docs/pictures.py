"""Makes the pictures of README and documentation from what `make ablation` recorded: `make pictures`.

docs/pictures/before_after.jpg   a drive of `streets`: frame, source model, adapted, label
docs/pictures/cameras.jpg        the cameras of `streets`
docs/pictures/page.jpg           the head of the dashboard's page (needs Chromium)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stpl.data.label_space import VIPER_15
from stpl.data.streets import StreetsOptions, draw_drive
from stpl.data.streets.domain import SHIFTS
from stpl.pictures.colours import picture_palette
from stpl.pictures.labels import legend, paint
from stpl.runs.artifacts import read_samples

RUNS, OUT = Path("runs/streets"), Path("docs/pictures")
BEFORE, AFTER = "source_only", "stpl"
MOST_BYTES = 200_000
_SCALE, _GAP, _TITLE = 2, 8, 48
_BACKGROUND, _TEXT = (22, 24, 28), (226, 228, 232)
Picture = NDArray[np.uint8]


def before_after() -> Picture:
    """A frame, its labels by the source model and after adaptation, and the true ones: of the clip in the middle."""
    before, after = (read_samples(RUNS / name / "seed0") for name in (BEFORE, AFTER))
    if before is None or after is None:
        sys.exit("no samples: run `make ablation` first")
    palette, shown = picture_palette(VIPER_15), len(before.keys) // 2
    maps = (before.predictions[shown], after.predictions[shown], before.labels[shown])
    panels = [before.frames[shown], *(paint(labels, palette) for labels in maps)]
    titles = ("frame of the new camera", "source model", "adapted by STPL", "label")
    height, width = (_SCALE * side for side in panels[0].shape[:2])
    image = Image.new("RGB", (len(titles) * (width + _GAP) + _GAP, _TITLE + height + _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(28)
    for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        x = _GAP + column * (width + _GAP)
        draw.text((x, _TITLE // 2), title, font=font, fill=_TEXT, anchor="lm")
        image.paste(Image.fromarray(panel).resize((width, height), Image.Resampling.NEAREST), (x, _TITLE))
    return np.vstack([np.array(image), legend(VIPER_15.classes, palette, image.width)])


def cameras() -> Picture:
    """The studio and two drives before each camera, side by side."""
    rows = []
    for drive in (3, 8):
        shown = [draw_drive(StreetsOptions(frames=2), "studio", "val", drive)]
        shown += [draw_drive(StreetsOptions(frames=2, shift=name), "camera", "val", drive) for name in SHIFTS]
        rows.append(np.hstack([drawn.frames[1].transpose(1, 2, 0) for drawn in shown]))
    image = Image.fromarray(np.vstack([np.full((_TITLE, rows[0].shape[1], 3), _BACKGROUND, np.uint8), *rows]))
    draw, font, width = ImageDraw.Draw(image), ImageFont.load_default(16), image.width // (len(SHIFTS) + 1)
    for place, title in enumerate(("studio", *SHIFTS)):
        draw.text((place * width + _GAP, _TITLE // 2), title, font=font, fill=_TEXT, anchor="lm")
    return np.array(image)


def page() -> Picture | None:
    """The head of the page as Chromium shows it; `None` without Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("no Chromium: the picture of the page stays as it is", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        flags = ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--window-size=1200,1300")
        address = (RUNS / "report" / "index.html").absolute().as_uri()
        command = [browser, *flags, f"--user-data-dir={folder}", f"--screenshot={shot}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return np.asarray(Image.open(shot).convert("RGB"))


def save(picture: Picture, path: Path) -> None:
    """Write a JPEG of the best quality that keeps it small."""
    for quality in range(92, 30, -6):
        done, data = cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
        if done and data.size <= MOST_BYTES:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.tobytes())
            print(f"{path}: {data.size // 1000} kB")
            return
    sys.exit(f"{path}: larger than {MOST_BYTES} bytes at any quality")


if __name__ == "__main__":
    save(cameras(), OUT / "cameras.jpg")
    save(before_after(), OUT / "before_after.jpg")
    picture = page()
    if picture is not None:
        save(picture, OUT / "page.jpg")
