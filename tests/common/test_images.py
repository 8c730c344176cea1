import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from common.errors import DataError
from common.images import open_image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_return_the_pixels(kind: str) -> None:
    image = noise()
    result = open_image(encoded(image, kind), "a")
    assert result.mode == "RGB"
    assert np.array_equal(np.asarray(result), np.asarray(image))


def test_reads_from_a_path_and_bytes_alike(tmp_path: Path) -> None:
    data = encoded(noise(), "JPEG")
    (tmp_path / "x.JPEG").write_bytes(data)
    assert open_image(tmp_path / "x.JPEG", "x").tobytes() == open_image(data, "x").tobytes()


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert open_image(encoded(clear, "PNG"), "a").getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_range() -> None:
    grey = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    values = np.asarray(open_image(encoded(grey, "PNG"), "a"))[0, :, 0]
    assert values.tolist() == [0, 128, 255]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    assert open_image(encoded(noise(64, 48), "JPEG", exif=exif), "a").size == (48, 64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_image_names_the_image(kind: str) -> None:
    data = encoded(noise(), kind)
    with pytest.raises(DataError, match=r"photo_17\.jpg"):
        open_image(data[: len(data) // 2], "photo_17.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_text_file_as_image(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_text("<html>404 not found</html>")
    with pytest.raises(DataError, match="not an image") as info:
        open_image(path, "page.jpg")
    assert "page.jpg" in str(info.value)
    assert "<html>" in str(info.value)


def test_postscript_is_never_opened() -> None:
    with pytest.raises(DataError, match="not an image"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "a.eps")


def test_empty_and_absent_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        open_image(b"", "a")
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*gone\.png"):
        open_image(tmp_path / "gone.png", "gone.png")


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels; 100 bytes long."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9_000, 9_000), (60_000, 60_000)])
@pytest.mark.filterwarnings("ignore")
def test_bombs_are_refused_from_the_header(size: tuple[int, int]) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match="too large") as info:
        open_image(bomb(*size), "bomb.png")
    assert "bomb.png" in str(info.value)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_inclusive() -> None:
    data = encoded(noise(64, 48), "PNG")
    assert open_image(data, "a", max_pixels=64 * 48).size == (64, 48)
    with pytest.raises(DataError, match="too large"):
        open_image(data, "a", max_pixels=64 * 48 - 1)
