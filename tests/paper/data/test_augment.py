"""Augmentation against enumeration and slicing: distributions, exact pixels, independent streams."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch

from rais import rng
from rais.paper.data.augment import Augment


def augmentation(seed: int = 0, **options) -> Augment:
    return Augment(**options, generator=partial(rng.generator, seed))


def pictures(m: int, height: int, width: int, channels: int = 2) -> torch.Tensor:
    return torch.rand(m, channels, height, width, generator=torch.Generator().manual_seed(m))


def offsets_of(crop: int, m: int, side: torch.Tensor | None = None, seed: int = 0) -> list[tuple[int, int]]:
    """The offsets dy, dx of m crops, seen from where the window puts a pixel's unique value."""
    size = 2 * crop + 1
    image = torch.arange(size * size, dtype=torch.float32).view(1, 1, size, size).expand(m, 1, size, size)
    centre = augmentation(seed, crop=crop)(image, side)[:, 0, crop, crop].long()
    return [(int(value) // size - crop, int(value) % size - crop) for value in centre]


def chi_square(counts: Counter, shares: dict) -> float:
    assert set(counts) <= set(shares)
    keys, n = list(shares), sum(counts.values())
    return scipy.stats.chisquare([counts[key] for key in keys], [n * shares[key] for key in keys]).pvalue


def enumerated(crop: int) -> dict[float, list[tuple[int, int]]]:
    """All offsets by their size in pixels."""
    steps = range(-crop, crop + 1)
    sizes: dict[float, list[tuple[int, int]]] = {}
    for dy in steps:
        for dx in steps:
            sizes.setdefault(math.hypot(dx, dy), []).append((dy, dx))
    return dict(sorted(sizes.items()))


@pytest.mark.parametrize("crop", [1, 2, 4])
def test_sizes_and_shares_are_those_of_the_enumeration(crop):
    augment, offsets = augmentation(crop=crop), enumerated(crop)
    assert (augment.sizes.dtype, augment.shares.dtype) == (torch.float32, torch.float64)
    np.testing.assert_allclose(augment.sizes.numpy(), np.array(list(offsets)) / crop, rtol=1e-7)
    assert (augment.sizes.diff() > 0).all() and augment.sizes[0] == 0
    expected = np.array([len(some) for some in offsets.values()]) / (2 * crop + 1) ** 2
    np.testing.assert_allclose(augment.shares.numpy(), expected, rtol=1e-15)
    assert augment.shares.sum().item() == pytest.approx(1, abs=1e-15)


def test_sizes_without_crops():
    augment = augmentation(flip=True)
    assert augment.sizes.tolist() == [0] and augment.shares.tolist() == [1]


def test_offsets_without_side_are_uniform():
    counts = Counter(offsets_of(2, 20_000))
    shares = {offset: 1 / 25 for some in enumerated(2).values() for offset in some}
    assert chi_square(counts, shares) > 1e-3


def test_offsets_of_a_given_size_are_uniform_among_their_like():
    for k, some in enumerate(enumerated(2).values()):
        counts = Counter(offsets_of(2, 4_000, torch.full((4_000,), k), seed=k))
        assert set(counts) == set(some)
        assert len(some) == 1 or chi_square(counts, {offset: 1 / len(some) for offset in some}) > 1e-3


def test_sides_drawn_by_their_shares_give_uniform_offsets():
    m = 20_000
    side = augmentation(crop=2).shares.multinomial(m, replacement=True, generator=torch.Generator().manual_seed(1))
    drawn = offsets_of(2, m, side)
    assert chi_square(Counter(drawn), {offset: 1 / 25 for some in enumerated(2).values() for offset in some}) > 1e-3
    sizes = torch.tensor([math.hypot(*offset) / 2 for offset in drawn])
    assert torch.equal(sizes, augmentation(crop=2).sizes[side])


def test_offsets_of_one_batch_are_independent():
    pairs = Counter(zip(offsets_of(1, 20_000), offsets_of(1, 20_000)[1:], strict=False))
    all_offsets = [offset for some in enumerated(1).values() for offset in some]
    assert chi_square(pairs, {(one, two): 1 / 81 for one in all_offsets for two in all_offsets}) > 1e-3


def test_crop_equals_the_slice_of_the_padded_image_for_every_offset():
    crop, x = 2, pictures(600, 5, 7)
    shifted = augmentation(crop=crop)(x)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (crop, crop), (crop, crop)))
    seen = set()
    for image, result in zip(padded, shifted.numpy(), strict=True):
        windows = {(i, j): image[:, i : i + 5, j : j + 7] for i in range(5) for j in range(5)}
        (offset,) = [where for where, window in windows.items() if np.array_equal(window, result)]
        seen.add(offset)
    assert len(seen) == 25


def test_flip_is_exact_and_happens_to_half():
    x = pictures(4_000, 3, 4, channels=1)
    flipped = augmentation(flip=True)(x).numpy()
    is_same = (flipped == x.numpy()).all((1, 2, 3))
    is_flipped = (flipped == x.numpy()[:, :, :, ::-1]).all((1, 2, 3))
    assert (is_same ^ is_flipped).all()
    assert abs(is_flipped.mean() - 0.5) < 4 * 0.5 / 4_000**0.5


def turned_slowly(image: np.ndarray, angle: float) -> np.ndarray:
    """The image (height, width), float64, turned anticlockwise, pixel by pixel."""
    height, width = image.shape
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            right, up = column - (width - 1) / 2, (height - 1) / 2 - row
            x = (width - 1) / 2 + math.cos(angle) * right + math.sin(angle) * up
            y = (height - 1) / 2 - (math.cos(angle) * up - math.sin(angle) * right)
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        result[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return result


def fixed(augment: Augment, value: float, monkeypatch) -> Augment:
    """Let the augmentation draw `value` in [0, 1) for every example."""
    monkeypatch.setattr(augment, "_uniform", lambda kind, m: torch.full((m,), value, dtype=torch.float64))
    return augment


@pytest.mark.parametrize("turns", [-2, -1, 0, 1])
@pytest.mark.parametrize("size", [5, 6])
def test_rotation_by_quarter_turns(turns, size, monkeypatch):
    x = pictures(3, size, size)
    turned = fixed(augmentation(rotate=180), 0.5 + turns / 4, monkeypatch)(x)
    torch.testing.assert_close(turned, torch.rot90(x, turns, (2, 3)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(7, 7), (6, 9)])
@pytest.mark.parametrize("degrees", [-31.0, 12.5, 100.0])
def test_rotation_by_any_angle_equals_the_slow_loop(shape, degrees, monkeypatch):
    x = pictures(2, *shape)
    turned = fixed(augmentation(rotate=180), 0.5 + degrees / 360, monkeypatch)(x)
    expected = [[turned_slowly(plane, math.radians(degrees)) for plane in image] for image in x.double().numpy()]
    np.testing.assert_allclose(turned.numpy(), np.array(expected), rtol=0, atol=5e-6)


def test_angles_are_uniform_within_their_range():
    # A point 20 pixels to the right of the centre: where it goes tells the angle to about a pixel's width.
    m, size = 4_000, 51
    x = torch.zeros(m, 1, size, size)
    x[:, 0, 24:27, 44:47] = 1
    turned = augmentation(rotate=30)(x)[:, 0]
    place = torch.arange(size) - 25.0
    mass = turned.sum((1, 2))
    up, right = -(turned.sum(2) * place).sum(1) / mass, (turned.sum(1) * place).sum(1) / mass
    angles = torch.atan2(up, right).rad2deg().numpy()
    assert -30.2 < angles.min() < -29 and 29 < angles.max() < 30.2
    assert scipy.stats.kstest(angles, "uniform", (-30, 60)).pvalue > 1e-3


def test_kinds_follow_one_another_as_crop_flip_rotate():
    x = pictures(40, 9, 9)
    one = augmentation(crop=2, flip=True, rotate=20)(x)
    for options in ({"crop": 2}, {"flip": True}, {"rotate": 20}):
        x = augmentation(**options)(x)
    assert torch.equal(one, x)


def test_streams_are_independent_of_one_another_and_of_the_side():
    x = pictures(50, 6, 6)
    side = torch.full((50,), 3)
    both, alone = augmentation(crop=2, flip=True), augmentation(flip=True)
    for _ in range(2):
        cropped = augmentation(seed=5, crop=2)
        cropped.load_state_dict(both.state_dict())
        assert torch.equal(both(x, side), alone(cropped(x, side)))
    one, two = augmentation(crop=2), augmentation(crop=2)
    one(x), two(x, side)
    assert torch.equal(one(x), two(x)), "a side costs as many random numbers as none"


def test_every_kind_has_a_stream_of_its_own_name():
    asked = []
    Augment(generator=lambda name: asked.append(name) or rng.generator(0, name))
    assert sorted(asked) == ["augmentation/crop", "augmentation/flip", "augmentation/rotate"]


def test_same_seed_same_result_whatever_the_global_generator_holds():
    x, options = pictures(30, 8, 8), {"crop": 2, "flip": True, "rotate": 15.0}
    one = augmentation(3, **options)(x)
    state = torch.get_rng_state()
    with rng.seeded(9, "init"):
        assert torch.equal(augmentation(3, **options)(x), one)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(augmentation(4, **options)(x), one)


def test_input_is_left_as_it_was():
    x = pictures(10, 6, 6)
    before = x.clone()
    augmentation(crop=1, flip=True, rotate=10)(x)
    assert torch.equal(x, before)


def test_nothing_is_changed_with_everything_off():
    x = pictures(10, 6, 6)
    assert torch.equal(augmentation()(x), x)
    assert torch.equal(augmentation()(x, torch.zeros(10, dtype=torch.int64)), x)


def test_saved_state_continues_where_it_was_taken():
    x, options = pictures(20, 6, 6), {"crop": 1, "flip": True, "rotate": 10}
    one, two = augmentation(0, **options), augmentation(1, **options)
    one(x)
    state = one.state_dict()
    expected = [one(x), one(x)]
    two.load_state_dict(state)
    assert all(torch.equal(two(x), result) for result in expected)
    with pytest.raises(ValueError, match=r"entries \['crop'\], augmentation needs \['crop', 'flip', 'rotate'\]"):
        two.load_state_dict({"crop": state["crop"]})


@pytest.mark.parametrize("crop", [-1, -4])
def test_negative_crop(crop):
    with pytest.raises(ValueError, match=f"crop={crop} is out of range: give the pixels of padding, 0 or more"):
        augmentation(crop=crop)


def test_crop_that_is_no_integer():
    with pytest.raises(TypeError):
        augmentation(crop=1.5)


@pytest.mark.parametrize("rotate", [-1.0, 180.5, math.nan, math.inf])
def test_rotation_out_of_range(rotate):
    with pytest.raises(ValueError, match=f"rotate={rotate} is out of range: give the largest angle in degrees, 0 to"):
        augmentation(rotate=rotate)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (3, 3)])
def test_crop_that_is_not_smaller_than_the_images(shape):
    with pytest.raises(ValueError, match=f"crop=4 leaves nothing of images of {shape[0]}x{shape[1]} pixels: lower it"):
        augmentation(crop=4)(pictures(2, *shape))


def test_wrong_inputs():
    augment, x = augmentation(crop=1), pictures(3, 5, 5)
    for bad in (x.double(), x[0], (x * 255).to(torch.uint8)):
        with pytest.raises(ValueError, match=r"images must be float32 \(m, channels, height, width\), got torch"):
            augment(bad)
    for bad in (torch.zeros(2, dtype=torch.int64), torch.zeros(3), torch.zeros(3, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"side must be int64 of shape \(3,\), got torch"):
            augment(x, bad)
    for outside in (-1, 3):
        with pytest.raises((IndexError, RuntimeError)):
            augment(x, torch.full((3,), outside))


@pytest.mark.gpu
def test_on_a_gpu_nothing_is_awaited():
    augment = Augment(crop=2, flip=True, rotate=10, generator=partial(rng.generator, 0, device="cuda"))
    x = pictures(20, 8, 8).cuda()
    side = torch.zeros(20, dtype=torch.int64, device="cuda")
    augment(x, side)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = augment(augment(x), side)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.is_cuda and result.shape == x.shape
