import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from mldec.data.image import (
    MAX_PIXELS,
    REDUCED_MARGIN,
    Interpolation,
    Normalization,
    cut_center,
    decode,
    resize,
    scaled_side,
)
from mldec.data.loader import Resize
from mldec.errors import DataError


def make_image(height: int = 60, width: int = 90) -> np.ndarray:
    """Smooth colours with grain, so that compression stays close."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, 255 - x * 128 / width], -1)
    return np.clip(smooth + np.random.default_rng(0).normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def stored(image: np.ndarray | Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **settings)
    return file.getvalue()


@pytest.fixture
def decoded(tmp_path: Path) -> Callable[..., np.ndarray]:
    """Bytes to pixels, by way of a file whose name says nothing about what is in it."""

    def decode_bytes(data: bytes, min_side: int | None = None) -> np.ndarray:
        (tmp_path / "image").write_bytes(data)
        image = decode(str(tmp_path / "image"), min_side)
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        return image

    return decode_bytes


Decoded = Callable[..., np.ndarray]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_decode_as_pillow_does(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "bild ü.jpg"
    Image.fromarray(make_image()).convert(mode).save(path, progressive=progressive)
    np.testing.assert_array_equal(decode(str(path)), np.array(Image.open(path).convert("RGB")))


def test_common_jpegs_are_not_opened_with_pillow(decoded: Decoded, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    plain, turned = stored(make_image(), "JPEG"), stored(make_image(), "JPEG", exif=exif, comment="behind EXIF")
    expected = decoded(plain)
    monkeypatch.setattr(Image, "open", None)
    np.testing.assert_array_equal(decoded(plain), expected)
    np.testing.assert_array_equal(decoded(turned), expected[::-1, ::-1])


@pytest.mark.parametrize("marked", [True, False])
def test_inks_of_jpegs_are_inverted(decoded: Decoded, marked: bool) -> None:
    y, x = np.mgrid[:32, :48]
    inks = np.stack([x * 5, y * 7, x * 0 + 128, x + y], -1).astype(np.uint8)
    data = stored(Image.frombytes("CMYK", (48, 32), inks.tobytes()), "JPEG", quality=100)  # Pillow, too, inverts
    if not marked:
        at = data.index(b"\xff\xee")
        data = data[:at] + data[at + 2 + struct.unpack_from(">H", data, at + 2)[0] :]
        assert b"Adobe" not in data
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:]) / 255
    assert np.abs(decoded(data) - expected).max() <= 1


def test_ycck_jpegs(decoded: Decoded) -> None:
    """The Adobe mark says that three of four channels are luma and chroma: of the paper's colour, its complement."""
    y, x = np.mgrid[:32, :48]
    values = np.stack([x * 3 + 30, y * 2 + 90, x + y + 80], -1).astype(np.uint8)
    luma = Image.frombytes("YCbCr", (48, 32), values.tobytes())
    light = (x * 2 + 100).astype(np.uint8)
    channels = [*luma.split(), Image.fromarray(light)]
    inverted = Image.merge("CMYK", [Image.fromarray(255 - np.asarray(channel)) for channel in channels])
    data = bytearray(stored(inverted, "JPEG", quality=100))
    data[data.index(b"Adobe") + 11] = 2
    expected = (255.0 - np.asarray(luma.convert("RGB"))) * light[..., None] / 255
    assert np.abs(decoded(bytes(data)) - expected).max() <= 2


LOSSLESS = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1"),
    "TIFF": ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG2000": ("RGB", "RGBA", "L", "LA"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("P", "L", "1"),
    "PPM": ("RGB", "L", "1"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in LOSSLESS.items() for mode in modes])
def test_lossless_formats_decode_as_pillow_does(decoded: Decoded, kind: str, mode: str) -> None:
    data = stored(Image.fromarray(make_image()).convert(mode), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decoded(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_webp_and_avif_decode_as_pillow_does(decoded: Decoded) -> None:
    Image.init()
    for kind in {"WEBP", "AVIF"} & Image.SAVE.keys():
        data = stored(make_image(), kind)
        np.testing.assert_array_equal(decoded(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "MPO"])
def test_animations_give_their_first_frame(decoded: Decoded, kind: str) -> None:
    first, second = (Image.fromarray(image) for image in (make_image(), 255 - make_image()))
    if kind == "GIF":
        first, second = first.quantize(64), second.quantize(64)
    settings = {"WEBP": {"lossless": True}, "MPO": {"quality": 95}}.get(kind, {})
    found = decoded(stored(first, kind, save_all=True, append_images=[second], **settings))
    assert np.abs(found - np.asarray(first.convert("RGB")).astype(int)).max() <= (30 if kind == "MPO" else 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(decoded: Decoded, kind: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 90).round(), (60, 1)).astype(np.uint8)
    layered = np.dstack([make_image(), alpha])
    settings = {"WEBP": {"lossless": True, "exact": True}}.get(kind, {})
    expected = 255 + (make_image().astype(float) - 255) * alpha[..., None] / 255
    assert np.abs(decoded(stored(layered, kind, **settings)) - expected).max() <= 1


def test_grey_with_alpha_is_laid_over_white(decoded: Decoded) -> None:
    grey, alpha = make_image()[..., 0], make_image()[..., 1]
    expected = 255 + (grey.astype(float) - 255) * alpha / 255
    found = decoded(stored(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), "PNG"))
    assert np.abs(found - expected[..., None]).max() <= 1


@pytest.mark.parametrize(("kind", "transparency"), [("PNG", 3), ("GIF", 3), ("PNG", bytes(range(0, 160, 10)))])
def test_transparent_entries_of_a_palette_are_white(decoded: Decoded, kind: str, transparency: int | bytes) -> None:
    image = Image.fromarray(make_image()).quantize(16)
    entries, colours = np.asarray(image), np.asarray(image.convert("RGB"))
    alphas = np.full(16, 255.0)
    if isinstance(transparency, int):
        alphas[transparency] = 0
    else:
        alphas[:] = list(transparency)
    expected = 255 + (colours.astype(float) - 255) * alphas[entries][..., None] / 255
    assert np.abs(decoded(stored(image, kind, transparency=transparency, optimize=False)) - expected).max() <= 1


@pytest.mark.parametrize(
    ("ending", "channels"),
    [(".png", 1), (".png", 3), (".png", 4), (".tiff", 1), (".tiff", 3), (".tiff", 4), (".pgm", 1), (".ppm", 3)],
)
def test_sixteen_bits_become_eight(decoded: Decoded, ending: str, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (64, 48, channels)).astype(np.uint16)
    deep[0], deep[1] = 0, 65535
    data = cv2.imencode(ending, deep)[1].tobytes()  # of BGR(A)
    expected = (deep if channels == 1 else deep[..., 2::-1]) / 257
    if channels == 4:
        expected = 255 + (expected - 255) * deep[..., 3:] / 65535
    assert np.abs(decoded(data) - expected).max() <= (3 if channels == 4 else 1)


def tiff(photometric: int, bits: int, height: int, width: int, data: bytes) -> bytes:
    """A plain TIFF; 262 is the photometric interpretation: 0 white is zero, 1 black is zero."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))])
    data += b"\0" * (len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 9) + entries + b"\0" * 4


def test_deep_tiffs_of_other_conventions(decoded: Decoded) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (16, 12)).astype(np.uint16)
    found = decoded(tiff(0, 16, 16, 12, deep.astype("<u2").tobytes()))
    assert np.abs(found - (255 - deep / 257)[..., None]).max() <= 1
    pairs = (deep >> 4).reshape(-1, 2).tolist()
    twelve = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    found = decoded(tiff(1, 12, 16, 12, twelve))
    assert np.abs(found - ((deep >> 4) / 4095 * 255)[..., None]).max() <= 1


def tiled(width: int, height: int, tile: tuple[int, int], *, more: tuple[Any, ...] = (), form: str = "<") -> bytes:
    """A packed TIFF of one empty tile, or one that is cut off; `form`: byte order, and Q for a BigTIFF."""
    order, big = form[0], "Q" in form
    whole = tile[0] * tile[1] <= 2**20
    content = zlib.compress(bytes(tile[0] * tile[1])) if whole else zlib.compress(bytes(2**20))[:500]
    head = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    sizes = [(256, 4, width), (257, 4, height), (322, 4, tile[0]), (323, 4, tile[1])]
    entries = sorted([*sizes, *more, *((tag, 3, value) for tag, value in ((258, 8), (259, 8), (262, 1), (277, 1)))])
    place = 2 + len(head) + (16 + 20 * (len(entries) + 2) if big else 6 + 12 * (len(entries) + 2))
    entries = sorted([*entries, (324, 4, place), (325, 4, len(content))], key=lambda entry: entry[0])
    packed = b"".join(
        struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, 1)
        + (struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value))
        + bytes(4 * big)
        for tag, kind, value in entries
    )
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    return (b"II" if order == "<" else b"MM") + head + count + packed + bytes(8 if big else 4) + content


@pytest.mark.parametrize("form", ["<", ">", "<Q"])
def test_a_tiff_whose_tiles_dwarf_its_image_is_refused_unread(decoded: Decoded, form: str) -> None:
    assert decoded(tiled(64, 48, (512, 512), form=form)).shape == (48, 64, 3)
    for width, height, tile in ((64, 64, (46000, 46000)), (64, 64, (2**31, 16)), (30_000, 3, (16, 2**20))):
        with pytest.raises(DataError, match=r"pixels in tiles of .*a decompression bomb"):
            decoded(tiled(width, height, tile, form=form))
    for more in ((322, 4, 64), (323, 3, 64), (256, 4, 64)):  # libtiff takes the first, Pillow the last
        with pytest.raises(DataError, match="is there twice"):
            decoded(tiled(64, 64, (46000, 46000), more=(more,), form=form))
    with pytest.raises(DataError, match=r"in tiles of 0 x 16"):
        decoded(tiled(64, 64, (0, 16), form=form))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_range_are_refused(decoded: Decoded, mode: str) -> None:
    with pytest.raises(DataError, match=rf"pixels of 32 bits \(mode {mode}\)"):
        decoded(stored(Image.fromarray(make_image()).convert(mode), "TIFF"))


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "CMYK JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("min_side", [None, 20])
def test_exif_orientation_is_applied(decoded: Decoded, kind: str, orientation: int, min_side: int | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(make_image(100, 150))
    if kind == "CMYK JPEG":
        image = image.convert("CMYK")
    settings = {"WEBP": {"lossless": True}}.get(kind, {})
    upright = decoded(stored(image, kind.split()[-1], **settings), min_side)
    found = decoded(stored(image, kind.split()[-1], exif=exif, **settings), min_side)
    np.testing.assert_array_equal(found, TURNS[orientation](upright))


@pytest.mark.parametrize("exif", [b"", b"broken", b"II*\0\xff\xff\0\0", b"MM\0*\0\0\0\x08\xff"])
def test_broken_exif_turns_nothing(decoded: Decoded, exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        found = decoded(stored(make_image(), kind, exif=b"Exif\0\0" + exif))
        np.testing.assert_array_equal(found, decoded(stored(make_image(), kind)))


@pytest.mark.parametrize(("height", "width"), [(160, 240), (163, 241), (479, 330)])
def test_scaled_jpegs_are_close_and_large_enough(decoded: Decoded, height: int, width: int) -> None:
    data = stored(make_image(height, width), "JPEG", quality=90)
    full = decoded(data)
    assert full.shape == (height, width, 3)
    for min_side in (8, 10, 20, 40, 41, 80, 200):
        found = decoded(data, min_side)
        room = min(height, width) / (REDUCED_MARGIN * min_side)
        scale = max(scale for scale in (1, 2, 4, 8) if scale == 1 or scale <= room)
        assert found.shape == (-(-height // scale), -(-width // scale), 3)
        difference = np.abs(resize(found, min_side).astype(int) - resize(full, min_side))
        assert difference.max() <= 6 + 255 / min_side / 2  # half a pixel's slope, where 8 does not divide the sides


def test_only_jpegs_are_scaled(decoded: Decoded) -> None:
    for kind in ("PNG", "WEBP", "TIFF"):
        assert decoded(stored(make_image(160, 240), kind), 10).shape == (160, 240, 3)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    whole = stored(make_image(), "JPEG")
    contents = {
        "cut.jpg": (whole[:-100], "image file is truncated"),
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"broken", "not an image"),
        "head.jpg": (whole[:30], "Truncated File Read"),
        "head.png": (b"\x89PNG\r\n\x1a\nbroken", "PNG, broken"),
        "a.pdf": (b"%PDF-1.7 ...", "PDF, "),
        "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, "),
        "a.svg": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG, "),
        "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, "),
        "a.mp4": (b"\0\0\0\x18ftypisom\0\0\0\0", "video, "),
        "missing.jpg": (b"<!DOCTYPE html><html>Not found</html>", "HTML, "),
        "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS, "),
    }
    for name, (content, reason) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            decode(str(path))
        assert str(caught.value).startswith(f"cannot decode image {path} ({len(content):,} bytes): {reason}")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes and devices among the files")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reasons = {tmp_path / "pipe": "not a regular file", "/dev/zero": "not a regular file", tmp_path: "folder"}
    for path, reason in {**reasons, tmp_path / "absent.jpg": "No such file", "a\0b": "null"}.items():
        with pytest.raises(DataError, match=reason) as caught:
            decode(str(path))
        shown = str(path).replace("\0", "\\x00")
        assert str(caught.value).startswith(f"cannot read image {shown}: ")


def jpeg_of_claimed_size(height: int, width: int) -> bytes:
    data = bytearray(stored(make_image(), "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def png_of_claimed_size(height: int, width: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    zeros = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")


@pytest.mark.parametrize("unlimited", [False, True])
def test_decompression_bombs_are_refused(decoded: Decoded, monkeypatch: pytest.MonkeyPatch, unlimited: bool) -> None:
    if unlimited:  # as many a script sets it, to open large images
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(cv2, "imdecode", None)  # the header must be enough
    for data in (jpeg_of_claimed_size(60000, 60000), png_of_claimed_size(60000, 60000)):
        for min_side in (None, 8):
            with pytest.raises(DataError, match=r"60000 x 60000 pixels|3600000000 pixels") as caught:
                decoded(data, min_side)
            assert str(MAX_PIXELS) in str(caught.value).replace(",", "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "CMYK"])
def test_nothing_warns_of_images_below_the_limit(
    decoded: Decoded, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, kind: str
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 90 - 1)  # Pillow warns above it, and refuses at twice as much
    exif = Image.Exif()
    exif[0x0112] = 1
    image = Image.fromarray(make_image()).convert("CMYK" if kind == "CMYK" else "RGB")
    decoded(stored(image, "JPEG" if kind == "CMYK" else kind, exif=exif))
    assert not recwarn.list


def test_junk_behind_the_end_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(make_image()).save(path)
    expected = decode(str(path))
    for junk in (b"\0" * 100, b"\xff\xda" + b"x" * 50):
        (tmp_path / "b.jpg").write_bytes(path.read_bytes() + junk)
        np.testing.assert_array_equal(decode(str(tmp_path / "b.jpg")), expected)


def samples() -> dict[str, bytes]:
    """Small files of each format."""
    image = make_image(24, 36)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": stored(image, "JPEG"),
        "progressive": stored(image, "JPEG", progressive=True, exif=exif),
        "cmyk": stored(Image.fromarray(image).convert("CMYK"), "JPEG"),
        "png": stored(image, "PNG", exif=exif),
        "palette": stored(Image.fromarray(image).quantize(16), "PNG", transparency=3),
        "deep": stored(image[..., 0].astype(np.uint16) * 257, "PNG"),
        "gif": stored(Image.fromarray(image).quantize(16), "GIF", transparency=3),
        "webp": stored(image, "WEBP", exif=exif),
        "lossless": stored(np.dstack([image, image[..., :1]]), "WEBP", lossless=True),
        "bmp": stored(image, "BMP"),
        "tiff": stored(image, "TIFF"),
        "lzw": stored(image, "TIFF", compression="tiff_lzw", exif=exif),
        "fax": stored(Image.fromarray(image).convert("1"), "TIFF", compression="group4"),
        "ppm": stored(image, "PPM"),
        "ico": stored(image, "ICO"),
    }


@pytest.mark.parametrize("name", samples())
def test_a_cut_file_is_an_error_or_whole(decoded: Decoded, name: str) -> None:
    """Never an image with a part made up; what is cut from the end may be no pixels, such as PNG's last chunk."""
    data = samples()[name]
    expected = decoded(data)
    errors = 0
    for length in np.linspace(0, len(data) - 1, 40).astype(int):
        try:
            np.testing.assert_array_equal(decoded(data[:length]), expected)
        except DataError:
            errors += 1
    assert errors >= 37


@pytest.mark.parametrize("name", samples())
def test_damaged_files_decode_or_are_one_clear_line(
    decoded: Decoded, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    rng = np.random.default_rng(0)
    whole, messages = samples()[name], []
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):  # half of them in the header
            data[rng.integers(min(len(data), rng.choice([100, len(data)])))] = rng.integers(256)
        if rng.random() < 0.3:
            start = rng.integers(len(data))
            del data[start : start + rng.integers(1, 100)]
        try:
            decoded(bytes(data), rng.choice([None, 8]))
        except DataError as error:
            messages.append((str(error), f" ({len(data):,} bytes): "))
    assert messages
    assert all(size in message and "\n" not in message for message, size in messages)
    assert not recwarn.list


@pytest.mark.parametrize("size", [17, 64, 200])
def test_resize_is_a_triangle_filter(size: int) -> None:
    """Against the definition: weights fall linearly over the wider of an input and an output pixel."""

    def weights(length: int) -> np.ndarray:
        scale = length / size
        support = max(scale, 1.0)
        centres = (np.arange(size) + 0.5) * scale
        matrix = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / support)
        return matrix / matrix.sum(1, keepdims=True)

    image = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
    expected = np.einsum("yh,xw,hwc->yxc", weights(60), weights(90), image.astype(float))
    found = resize(image, size)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1


def test_resize_never_hands_out_its_input() -> None:
    image = make_image(32, 32)
    found = resize(image, 32)
    np.testing.assert_array_equal(found, image)
    assert not np.shares_memory(found, image)


def test_normalization() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    unit = Normalization.unit()(images)
    assert torch.equal(unit, images.float() / 255)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = torch.stack([(unit[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(Normalization(mean, std)(images), expected)
    half = Normalization(mean, std)(images, torch.bfloat16)
    assert torch.equal(half, Normalization(mean, std)(images).bfloat16())


SHAPES = [(500, 375), (375, 500), (640, 427), (64, 64), (301, 40), (1000, 333)]  # width, height


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [32, 224, 288, 384])
def test_the_center_crop_is_that_of_timm(size: int, crop: float, interpolation: str) -> None:
    """Bit for bit, on images of several shapes: what a model of timm is evaluated with is what it sees here."""
    oracle = create_transform(
        size, is_training=False, interpolation=interpolation, crop_pct=crop, crop_mode="center", normalize=False
    )
    random = np.random.default_rng(0)
    for width, height in SHAPES if size < 300 else SHAPES[:2]:
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        wanted = oracle(Image.fromarray(image)).permute(1, 2, 0).numpy()
        assert wanted.dtype == np.uint8
        assert np.array_equal(Resize(size, crop, interpolation)(image), wanted), (width, height)
        if interpolation == "bicubic":
            assert np.array_equal(cut_center(image, size, crop), wanted)  # the default


@pytest.mark.parametrize(
    ("size", "crop", "side"),
    [(224, 0.875, 256), (224, 0.9, 248), (224, 0.95, 235), (224, 1.0, 224), (288, 0.95, 303), (384, 0.9, 426)],
)
def test_the_side_before_the_center_crop_is_rounded_down(size: int, crop: float, side: int) -> None:
    assert scaled_side(size, crop) == Resize(size, crop).min_side == side


def test_without_a_crop_the_resize_is_bilinear_as_published_unless_said_otherwise() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for interpolation, used in ((None, Image.BILINEAR), ("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)):
        wanted = np.array(Image.fromarray(image).resize((48, 48), used))
        assert np.array_equal(Resize(48, None, interpolation)(image), wanted)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("width", "height"), [(200, 6000), (6000, 200), (211, 5999), (64, 4001)])
@pytest.mark.parametrize(("size", "crop"), [(128, 0.5), (96, 0.875), (300, 1.0)])
def test_the_center_of_a_long_image_is_the_same_whether_all_of_it_is_resized_or_a_part(
    size: int, crop: float, width: int, height: int, interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plain = cut_center(image, size, crop, interpolation)
    monkeypatch.setattr("mldec.data.image.MAX_PIXELS", 10_000)
    part = cut_center(image, size, crop, interpolation)
    assert part.shape == plain.shape
    different = np.abs(part.astype(int) - plain)
    if width > height:
        assert different.max() <= 1
        assert np.mean(different > 0) < 0.01
    assert different.mean() < 0.5  # of noise: Pillow enlarges a part of a tall image in the other direction first


def test_nothing_is_lost_with_a_crop_of_one():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert np.array_equal(cut_center(image, 48, 1.0), image)
