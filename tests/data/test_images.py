"""Every kind of image becomes RGB or ids; every kind of damage becomes one line."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instseg.data.images import image_size, read_image, read_label_map, read_upright
from instseg.errors import DataError

HEIGHT, WIDTH = 5, 7
Refused = Callable[..., str]


def ramp() -> np.ndarray:
    """(5, 7) uint8 with different values everywhere."""
    return (np.arange(HEIGHT * WIDTH, dtype=np.uint8) * 7).reshape(HEIGHT, WIDTH)


def upright(path: Path) -> np.ndarray:
    return read_upright(path, largest=10_000)


def photo(path: Path, size: int = 64) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_rgb_is_read_as_it_is_and_may_be_written_to(tmp_path: Path) -> None:
    pixels = np.stack([ramp(), ramp() + 1, ramp() + 2], axis=2)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert np.array_equal(image, pixels)
    assert image_size(tmp_path / "a.png") == (HEIGHT, WIDTH)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(ramp())
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    grey.convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - ramp()[:, :, None]).max() <= 1


def test_alpha_is_dropped_and_a_transparent_palette_gives_no_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pixels = np.dstack([ramp(), ramp(), ramp(), np.zeros_like(ramp())])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels[:, :, :3])
    palette = Image.fromarray(ramp() % 4).convert("P")
    palette.save(tmp_path / "p.png", transparency=bytes([0, 128, 255, 255]))
    assert read_image(tmp_path / "p.png").shape == (HEIGHT, WIDTH, 3)
    assert not recwarn.list


def test_one_bit_and_16_bit_grey_fill_the_8_bit_range(tmp_path: Path) -> None:
    Image.fromarray(ramp() > 100).save(tmp_path / "1.png")
    assert set(np.unique(read_image(tmp_path / "1.png"))) == {0, 255}
    deep = np.array([[0, 257, 256 * 128, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "16.png")
    assert read_image(tmp_path / "16.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_pixels_of_no_fixed_range_are_refused(tmp_path: Path, refused: Refused) -> None:
    Image.fromarray(ramp().astype(np.float32)).save(tmp_path / "f.tif")
    refused(lambda: read_image(tmp_path / "f.tif"), "f.tif", "floating-point")
    Image.fromarray(ramp().astype(np.int32) * 10_000).save(tmp_path / "i.tif")
    refused(lambda: read_image(tmp_path / "i.tif"), "i.tif", "0..65535")


def test_label_maps_are_raw_indices(tmp_path: Path, refused: Refused) -> None:
    ids = (ramp() % 5).astype(np.uint8)
    Image.fromarray(ids).save(tmp_path / "l.png")
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([200, 10, 10, 0, 0, 0] * 128)
    palette.putdata(ids.ravel().tolist())
    palette.save(tmp_path / "p.png")
    Image.fromarray(ids.astype(np.uint16) * 1000).save(tmp_path / "16.png")
    for name, expected in (("l.png", ids), ("p.png", ids), ("16.png", ids.astype(int) * 1000)):
        labels = read_label_map(tmp_path / name)
        assert labels.dtype == np.int32
        assert np.array_equal(labels, expected)
    Image.fromarray(np.dstack([ids] * 3)).save(tmp_path / "rgb.png")
    refused(lambda: read_label_map(tmp_path / "rgb.png"), "rgb.png", "RGB", "one channel")


@pytest.mark.parametrize("read", [read_image, image_size, read_label_map, upright])
def test_what_is_no_image_is_refused(tmp_path: Path, refused: Refused, read: Callable[[Path], object]) -> None:
    refused(lambda: read(tmp_path / "none.png"), tmp_path / "none.png", "does not exist")
    (tmp_path / "folder.png").mkdir()
    refused(lambda: read(tmp_path / "folder.png"), "folder.png", "cannot be opened")
    (tmp_path / "empty.png").touch()
    refused(lambda: read(tmp_path / "empty.png"), "empty.png", "empty file")
    (tmp_path / "text.png").write_text("this is\nno image\n" * 100)
    refused(lambda: read(tmp_path / "text.png"), "text.png", "no image")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif"])
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_a_truncated_image_is_refused(tmp_path: Path, refused: Refused, suffix: str, part: float) -> None:
    path = photo(tmp_path / f"cut.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    refused(lambda: read_image(path), path)


def test_a_image_cut_anywhere_or_with_a_flipped_byte_never_ends_in_another_error(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    for suffix in ("png", "jpg"):
        whole = photo(tmp_path / f"a.{suffix}", size=24).read_bytes()
        path = tmp_path / f"b.{suffix}"
        for _ in range(150):
            broken = bytearray(whole)
            broken[dice.integers(len(whole))] ^= int(dice.integers(1, 256))
            path.write_bytes(broken[: dice.integers(1, len(whole) + 1)])
            with suppress(DataError):  # a JPEG may survive
                assert read_image(path).shape[2] == 3


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
def test_jpegs_have_the_pixels_of_pillow_as_they_are_stored(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    for quality in (30, 75, 98):
        path = tmp_path / "a.jpg"
        Image.fromarray(pixels).save(path, quality=quality, exif=sideways, **options)
        image = read_image(path)
        assert image.flags.writeable
        with Image.open(path) as expected:
            assert np.array_equal(image, np.array(expected))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_modes_become_rgb_by_pillow(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(ramp()).convert("RGB").convert(mode).save(path)
    with Image.open(path) as expected:
        assert expected.mode == mode
        assert np.array_equal(read_image(path), np.array(expected.convert("RGB")))


def test_a_damaged_jpeg_is_read_or_refused_as_by_pillow(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    whole = photo(tmp_path / "a.jpg", size=40).read_bytes()
    path = tmp_path / "b.jpg"
    verdicts = set()
    for number in range(200):
        broken = bytearray(whole)
        if number % 2:
            broken[dice.integers(len(whole))] ^= int(dice.integers(1, 256))
        # every second cut takes but a few bytes: Pillow reads images that lack their end marker alone
        least = len(whole) - 6 if number % 4 < 2 else 1
        path.write_bytes(broken[: dice.integers(least, len(whole) + 1)])
        expected: np.ndarray | None = None
        with suppress(Exception), Image.open(path) as image:
            expected = np.array(image.convert("RGB"))
        verdicts.add(expected is None)
        if expected is None:
            with pytest.raises(DataError):
                read_image(path)
        else:
            assert np.array_equal(read_image(path), expected)
    assert verdicts == {True, False}


def test_a_decompression_bomb_is_refused(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photo(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused(lambda: read_image(path), path, "too large")


# where the stored image's first row and first column are in the upright one, by EXIF 2.32
ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_are_turned_as_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = photo(tmp_path / "plain.png").with_name(f"a.{suffix}")
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(tmp_path / "plain.png") as image:
        # wide, so that an image on its side is seen to be
        image.crop((0, 0, 64, 40)).save(path, exif=exif)
        image.crop((0, 0, 64, 40)).save(path.with_stem("none"))
    stored = upright(path.with_stem("none"))
    image = upright(path)
    assert np.array_equal(image, ORIENTATIONS[orientation](stored))
    assert image.flags.writeable


def test_grey_of_16_bits_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp().astype(np.uint16) * 257).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(upright(tmp_path / "a.png")[:, :, 1], ORIENTATIONS[6](ramp()))


@pytest.mark.parametrize("value", [0, 9, 200])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(ramp()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(upright(tmp_path / "a.png")[:, :, 0], ramp())


def test_damaged_exif_is_no_reason_to_refuse_a_image(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for number, damaged in enumerate((b"", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x05\0\x12")):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(ramp()).save(path, exif=b"Exif\0\0" + damaged)
        assert upright(path).shape == (HEIGHT, WIDTH, 3)
    assert not recwarn.list


def test_what_is_transparent_is_white(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    clear = np.dstack([ramp(), ramp(), ramp(), np.full_like(ramp(), 255)])
    clear[0, :, 3], clear[1, :, 3] = 0, 51
    Image.fromarray(clear).save(tmp_path / "rgba.png")
    image = upright(tmp_path / "rgba.png")
    assert (image[0] == 255).all() and np.array_equal(image[2:], clear[2:, :, :3])
    assert np.abs(image[1] - (0.2 * clear[1, :, :3] + 0.8 * 255)).max() <= 1
    grey = Image.fromarray(ramp())
    grey.putalpha(Image.fromarray(clear[:, :, 3]))
    grey.save(tmp_path / "la.png")
    assert np.array_equal(upright(tmp_path / "la.png"), image)
    palette = Image.fromarray(ramp() % 4).convert("P")
    palette.save(tmp_path / "p.png", transparency=bytes([0, 255, 255, 255]))
    assert (upright(tmp_path / "p.png")[ramp() % 4 == 0] == 255).all()
    Image.fromarray(ramp()).save(tmp_path / "l.png", transparency=0)
    assert upright(tmp_path / "l.png")[0, 0].tolist() == [255] * 3
    assert upright(tmp_path / "l.png")[0, 1].tolist() == [7] * 3
    assert not recwarn.list


def test_upright_images_may_be_as_large_as_they_are_let_be(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    path = photo(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(read_upright(path, largest=64 * 64), upright(path))
    assert Image.MAX_IMAGE_PIXELS == 100
    for largest in (64 * 64 - 1, 10):
        refused(lambda largest=largest: read_upright(path, largest=largest), path, "too large")
    assert Image.MAX_IMAGE_PIXELS == 100
    assert not recwarn.list
