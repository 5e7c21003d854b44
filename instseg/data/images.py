"""Reading images and label maps from disk; whatever is wrong with a file becomes one line that names it."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision.io import decode_jpeg

from instseg.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
"""Of images in folders, in lower case."""

# Besides OSError, Pillow's decoders raise these on damaged files.
_DECODER_ERRORS = (
    *(SyntaxError, ValueError, TypeError, EOFError, LookupError, OverflowError, MemoryError, RuntimeError),
    *(struct.error, zlib.error),
)

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# what turns an image of each EXIF orientation upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, orientation: int = 1) -> np.ndarray:
    """An image as RGB, in the pixels as they are stored.

    Greyscale is repeated, palettes are looked up, 16-bit greyscale is scaled to 8 bits and an alpha channel
    is dropped. EXIF's ``orientation`` is that by which it is turned; 1 leaves it as it is stored.

    Returns:
        (H, W, 3) uint8, writable.

    Raises:
        DataError: the file is missing, truncated, damaged, too large or no image.
    """
    with _opened(path) as image:
        if orientation in _TURNS:
            return _to_rgb(path, image.transpose(_TURNS[orientation]))
        if image.format == "JPEG" and image.mode == "RGB":
            # the same pixels from the same decoder in 3/4 of the time; files it refuses are left to Pillow
            with suppress(RuntimeError):
                return decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8))).permute(1, 2, 0).numpy()
        return _to_rgb(path, image)


def read_upright(path: Path, largest: int) -> np.ndarray:
    """An image as RGB the way a viewer shows it: turned as EXIF says, transparent pixels on white.

    Of several frames the first is read. All else is as in :func:`read_image`.

    It may have at most ``largest`` pixels; Pillow's own limit, which guards against files that unpack to more than
    memory holds, is set to that.

    Returns:
        (H, W, 3) uint8, writable.

    Raises:
        DataError: as :func:`read_image`, or there are more pixels.
    """
    with _pillow_limit(largest), _opened(path) as image:
        if image.width * image.height > largest:
            raise DataError(f"{path} is too large: {image.width} x {image.height} pixels, {largest} are the most")
        # some formats store EXIF after the pixels, and Pillow turns TIFF while it reads it
        image.load()
        orientation = _orientation(image)
        upright = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
        if not image.mode.startswith("I") and ("transparency" in image.info or image.mode in _WITH_ALPHA):
            opaque = Image.new("RGB", upright.size, "white")
            upright = upright.convert("RGBA")
            opaque.paste(upright, mask=upright.getchannel("A"))
            upright = opaque
        return _to_rgb(path, upright)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image in pixels, from its header only; a DataError where that can't be read."""
    with _opened(path) as image:
        return image.height, image.width


def image_header(path: Path) -> tuple[int, int, int]:
    """:func:`image_size` as the image is stored, and its EXIF orientation, 1 to 8."""
    with _opened(path) as image:
        # Pillow turns TIFF while it reads it
        orientation = 1 if image.format == "TIFF" else _orientation(image)
        return image.height, image.width, orientation if orientation in _TURNS else 1


def read_label_map(path: Path) -> np.ndarray:
    """The instance ids that a one-channel image holds: its raw grey values or palette indices.

    Returns:
        (H, W) int32, writable.

    Raises:
        DataError: the file is missing, truncated, damaged or no image, or it has more than one channel.
    """
    with _opened(path) as image:
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise DataError(
                f"{path} is an image of mode {image.mode}; a map of instance ids has one channel (greyscale or palette)"
            )
        return np.array(image).astype(np.int32)


def _to_rgb(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return np.repeat(_to_8_bits(path, np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise DataError(f"{path} has floating-point pixels of no fixed range; 8 bits are needed")
    if image.mode in ("P", "PA"):
        # Pillow warns when it goes straight from a transparent palette to RGB.
        image = image.convert("RGBA")
    # large images are not copied once more
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1, as stored, where there is none or it can't be read."""
    with suppress(OSError, *_DECODER_ERRORS):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


@contextmanager
def _pillow_limit(pixels: int) -> Iterator[None]:
    """Let Pillow open images of so many pixels, without its warnings."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _to_8_bits(path: Path, pixels: np.ndarray) -> np.ndarray:
    """16-bit grey values as uint8; some Pillow versions hand them over as int32."""
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise DataError(f"{path} holds grey values outside 0..65535; an 8- or 16-bit image is needed")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; what goes wrong while it is open becomes a DataError."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        fault = "an empty file, not an image" if empty else "no image in a known format, or its header is damaged"
        raise DataError(f"{path} is {fault}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large: {_reason(error)}") from None
    except (OSError, *_DECODER_ERRORS) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"image {path} cannot be opened: {error.strerror}") from None
        raise DataError(f"{path} is truncated or damaged: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
