import hashlib
import importlib.metadata
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from stpl.data import augment_device
from stpl.data.augment import CrossFrameAugmentation, refuse_agpl_fork
from stpl.data.clip import clip_seed
from stpl.errors import ConfigError, DataError

Image8 = NDArray[np.uint8]


def street(height: int = 96, width: int = 192, seed: int = 0) -> Image8:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.uint8)


def clip(*images: Image8) -> Image8:
    return np.stack(images)


def only_blur(sigma: float, **options: Any) -> CrossFrameAugmentation:
    return CrossFrameAugmentation(blur_sigmas=(sigma,), blur_probability=1.0, jitter_probability=0.0, **options)


def only_jitter(**options: Any) -> CrossFrameAugmentation:
    zero = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    return CrossFrameAugmentation(blur_probability=0.0, jitter_probability=1.0, **{**zero, **options})


def test_shape_type_and_input_are_kept() -> None:
    frames = clip(street(), street(seed=1))
    before = frames.copy()
    augmented = CrossFrameAugmentation()(frames, 3)
    assert augmented.shape == frames.shape
    assert augmented.dtype == np.uint8
    assert augmented.flags.c_contiguous
    assert not np.shares_memory(augmented, frames)
    np.testing.assert_array_equal(frames, before)


def test_one_draw_serves_all_frames_of_the_clip() -> None:
    frames, augment = clip(street(), street()), CrossFrameAugmentation()
    for seed in range(30):
        augmented = augment(frames, seed)
        np.testing.assert_array_equal(augmented[0], augmented[1])


def test_a_frame_is_augmented_as_it_would_be_alone() -> None:
    first, second, augment = street(), street(seed=1), CrossFrameAugmentation()
    for seed in range(10):
        both = augment(clip(first, second), seed)
        np.testing.assert_array_equal(both[:1], augment(clip(first), seed))
        np.testing.assert_array_equal(both[1:], augment(clip(second), seed))


def test_per_frame_draws_differ_between_frames() -> None:
    frames = clip(street(), street())
    augment = CrossFrameAugmentation(per_frame=True)
    different = [not np.array_equal(*augment(frames, seed)) for seed in range(20)]
    assert sum(different) >= 18
    np.testing.assert_array_equal(augment(frames, 5), augment(frames, 5))


def test_pure_function_of_frames_and_seed() -> None:
    frames, augment = clip(street(), street(seed=1)), CrossFrameAugmentation()
    wanted = [augment(frames, seed) for seed in range(8)]
    for seed in (5, 2, 7, 2):  # any order, repeated, and by another object
        np.testing.assert_array_equal(augment(frames, seed), wanted[seed])
        np.testing.assert_array_equal(CrossFrameAugmentation()(frames, seed), wanted[seed])
    assert len({result.tobytes() for result in wanted}) > 5


def test_threads_give_what_one_thread_gives() -> None:
    frames, augment = clip(street(), street(seed=1)), CrossFrameAugmentation()
    wanted = [augment(frames, seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda seed: augment(frames, seed), range(40)))
    assert all(np.array_equal(a, b) for a, b in zip(results, wanted, strict=True))


def test_pickled_into_a_worker_it_gives_the_same() -> None:
    frames, augment = clip(street()), CrossFrameAugmentation(blur_sigmas=(0.01, 0.02))
    wanted = augment(frames, 3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(augment))(frames, 3), wanted)


def test_no_global_generator_is_touched() -> None:
    augment, frames = CrossFrameAugmentation(), clip(street())
    augment(frames, 0)
    random.seed(1)
    np.random.seed(1)
    wanted = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    augment(frames, 1)
    assert (random.random(), np.random.rand()) == wanted


@pytest.mark.parametrize("radius", [5, 7, 9])
def test_blur_is_pillows_blur_at_the_papers_size(radius: int) -> None:
    image = street(512, 256)
    blurred = only_blur(radius / 512)(clip(image), 0)[0]
    pillow = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    inner = np.abs(blurred.astype(int) - pillow)[40:-40, 40:-40]
    assert inner.mean() < 0.6  # Pillow approximates the Gaussian by boxes
    assert np.abs(image.astype(int) - pillow)[40:-40, 40:-40].mean() > 5


@pytest.mark.parametrize("height", [96, 256])
def test_blur_sigma_is_relative_to_the_height(height: int) -> None:
    image = street(height, 128)
    blurred = only_blur(7 / 512)(clip(image), 0)[0]
    wanted = cv2.GaussianBlur(image, (0, 0), height * 7 / 512)
    assert np.abs(blurred.astype(int) - wanted)[12:-12, 12:-12].max() <= 2


def test_brightness_is_one_factor_within_its_range() -> None:
    image = np.tile(np.arange(20, 100, dtype=np.uint8)[:, None, None], (1, 40, 3))
    factors = []
    for seed in range(200):
        augmented = only_jitter(brightness=0.5)(clip(image), seed)[0].astype(float)
        factor = (augmented / image).mean()
        assert np.abs(augmented - image * factor).max() < 1.5  # truncated; below a factor of 2.5 nothing saturates
        factors.append(factor)
    assert 0.49 <= min(factors) < 0.6
    assert 1.4 < max(factors) <= 1.51
    assert np.mean(factors) == pytest.approx(1.0, abs=0.08)


def test_strengths_of_zero_change_nothing() -> None:
    frames = clip(street())
    for seed in range(5):
        assert np.abs(only_jitter()(frames, seed).astype(int) - frames).max() <= 1


def test_saturation_zero_to_one_keeps_luma() -> None:
    image = street()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int)
    for seed in range(5):
        augmented = only_jitter(saturation=0.5)(clip(image), seed)[0]
        luma = cv2.cvtColor(np.ascontiguousarray(augmented), cv2.COLOR_RGB2GRAY).astype(int)
        assert np.abs(luma - grey).mean() < 2


def test_blur_and_jitter_act_independently_with_their_probabilities() -> None:
    # Grey images with one bright square: blur moves values across the edge, brightness scales the flat parts.
    image = np.full((48, 48, 3), 60, np.uint8)
    image[16:32, 16:32] = 100
    augment = CrossFrameAugmentation(contrast=0.0, saturation=0.0, hue=0.0)
    count = np.zeros((2, 2))
    for seed in range(1500):
        out = augment(clip(image), clip_seed(0, seed, 0))[0, ..., 0].astype(int)
        blurred, jittered = len(np.unique(out)) > 2, out[0, 0] != 60
        count[int(blurred), int(jittered)] += 1
    share = count / count.sum()
    independent = np.outer([0.4, 0.6], [0.2, 0.8])
    np.testing.assert_allclose(share, independent, atol=0.045)


def test_clip_seed_is_fixed_for_ever() -> None:
    # A change of these values would change every published run.
    assert clip_seed(0, 0, 0) == 0x141023D683575B15
    assert clip_seed(1, 2, 3) == 6520558355739401531
    packed = b"".join(number.to_bytes(8, "little", signed=True) for number in (-7, 20000, 3))
    assert clip_seed(-7, 20000, 3) == int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") // 2


def test_clip_seeds_do_not_collide_for_neighbours() -> None:
    seeds = {clip_seed(s, t, p) for s in range(-2, 8) for t in range(100) for p in range(8)}
    assert len(seeds) == 10 * 100 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert clip_seed(1, 2, 3) != clip_seed(3, 2, 1)
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds])
    np.testing.assert_allclose(bits.mean(axis=0), 0.5, atol=0.03)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 3, 8, 8), np.uint8)],
)
def test_unfit_frames_are_refused(frames: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"uint8 frames \[T,H,W,3\], got[\s\S]*→ "):
        CrossFrameAugmentation()(frames, 0)


@pytest.mark.parametrize(
    ("option", "value"),
    [("blur_probability", 1.2), ("brightness", -0.1), ("hue", 0.6), ("blur_sigmas", ()), ("blur_sigmas", (5.0, 7.0)),
     ("jitter_probability", float("nan"))],
)  # fmt: skip
def test_option_out_of_range_is_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"'{option}': [\s\S]*outside[\s\S]*→"):
        CrossFrameAugmentation(**{option: value})


def test_agpl_fork_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "2.1.0" if name == "albumentationsx" else real(name)
    )
    with pytest.raises(ConfigError, match=r"AlbumentationsX 2\.1\.0 \(AGPL[\s\S]*→ run: pip uninstall albumentationsx"):
        CrossFrameAugmentation()


def test_the_mit_package_passes() -> None:
    refuse_agpl_fork()


@pytest.mark.parametrize("per_frame", [False, True])
def test_the_device_augments_as_the_workers_do(per_frame: bool) -> None:
    """The same draws and arithmetic: frames are equal but for single grey levels, which a later one may stretch."""
    frames, augmentation = clip(street(), street(seed=1)), CrossFrameAugmentation(per_frame=per_frame)
    for seed in range(40):
        expected = augmentation(frames, seed).astype(int)
        found = augment_device.augment(augmentation, torch.from_numpy(frames).permute(0, 3, 1, 2), seed)
        difference = np.abs(found.permute(0, 2, 3, 1).numpy().astype(int) - expected)
        assert difference.mean() < 0.05, seed
        assert np.quantile(difference, 0.999) <= 4, seed


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("strength", [0.0, 0.13, 0.5])
def test_each_operation_of_the_device_is_opencvs(name: str, strength: float) -> None:
    """One at a time, on random colours, grey and black among them, against the package's own function."""
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    colours[0] = colours[0, :, :1]
    colours[1] = 0
    factor = strength if name == "hue" else 1 + strength
    functions = import_module("albumentations.augmentations.pixel.functional")
    expected = getattr(functions, f"adjust_{name}_torchvision")(colours, factor).astype(int)
    planes = torch.from_numpy(colours).permute(2, 0, 1)[None].float()
    found = augment_device._COLOURS[name](planes, factor)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.02


def test_draws_on_the_device_are_those_of_the_workers() -> None:
    """Also after other draws: a transform keeps the parameters of the call before."""
    augmentation = CrossFrameAugmentation()
    first = [augment_device.draw(augmentation, 96, seed) for seed in range(60)]
    assert first == [augment_device.draw(augmentation, 96, seed) for seed in range(60)]
    assert 0.4 < np.mean([drawn.sigma is not None for drawn in first]) < 0.8
    assert 0.6 < np.mean([len(drawn.jitter) == 4 for drawn in first]) < 0.95
    assert {drawn.sigma for drawn in first} == {None, *(96 * sigma for sigma in augmentation.blur_sigmas)}
