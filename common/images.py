"""Safe image decoding: damaged, disguised and bomb-sized images are errors that name the image."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import DataError

MAX_PIXELS = 80_000_000
"""Pixels above which an image is refused before it is decoded: 240 MB as RGB, far above any page or photo.

Below Pillow's own limit, which is global and stays as it is.
"""

# Only decoders for web and document images: Pillow's list also has formats that call other programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def open_image(data: bytes | Path, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image completely and return it as RGB, upright, transparency over white.

    Parameters
    ----------
    data
        The file's bytes, or its path.
    name
        What messages call the image.
    max_pixels
        Width times height above which the image is refused, read from its header before anything is decoded.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, loaded (no open file behind it). The first frame of an animated image.

    Raises
    ------
    DataError
        No such file, empty, not an image (a text file, an unknown format), truncated, damaged, or too large.
    """
    raw = _read(data, name)
    try:
        with Image.open(BytesIO(raw), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(name, f"{width} x {height} = {width * height:,} pixels", max_pixels)
            return _to_rgb(image)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(
            "the file is not an image",
            where=name,
            expected="one of " + ", ".join(FORMATS),
            got=f"{len(raw):,} bytes that start with {raw[:16]!r}",
            todo="replace the file; a download that ended in an error page looks like this",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error), max_pixels) from None
    except Exception as error:  # decoders raise many types on damaged data: OSError, SyntaxError, struct.error, ...
        raise DataError(
            "the image is truncated or damaged",
            where=name,
            got=f"{type(error).__name__}: {error}",
            todo="download the file again",
        ) from None


def _read(data: bytes | Path, name: str) -> bytes:
    if isinstance(data, Path):
        try:
            data = data.read_bytes()
        except OSError as error:
            raise DataError(
                "the image cannot be read", where=name, got=f"{error.strerror or error}: {data}", todo="check its path"
            ) from None
    if not data:
        raise DataError("the image is empty (0 bytes)", where=name, todo="download the file again")
    return data


def _too_large(name: str, got: str, max_pixels: int) -> DataError:
    return DataError(
        "the image is too large to decode",
        where=name,
        expected=f"at most {max_pixels:,} pixels",
        got=got,
        todo="scale the image down",
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block only loses the orientation, not the image
        upright = image
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    if upright.mode.startswith("I"):  # 16 and 32 bits a pixel: convert() alone would clip all but the darkest
        upright = upright.point(lambda value: value / 256).convert("L")
    # copy(): an RGB image converts to itself, still tied to the decoder's buffer
    return upright.convert("RGB").copy()
