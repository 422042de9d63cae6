"""From a file to pixels: decode, resize, normalise."""

from __future__ import annotations

import functools
import io
import math
import re
import struct
import warnings
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image

from mldec.data.unread_formats import HEIC
from mldec.errors import DataError, printable_name
from mldec.untrusted import read_bytes

Interpolation = Literal["bilinear", "bicubic"]

MAX_PIXELS = 178_956_970  # where Pillow, too, refuses an image as a decompression bomb
MAX_BYTES = 3 * MAX_PIXELS + 2**20  # of a file: that many pixels of 8 bits without compression
# Each scan of a JPEG is a pass over all its coefficients, and takes a few bytes. Encoders write 1 to 20 of them; more
# than 100 are refused by libtiff, too. Of large images fewer are allowed: none takes longer than 20 of MAX_PIXELS.
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS
# A decoder of TIFF unpacks whole tiles, however little of them lies within the image. Encoders write tiles of 16 to
# 1024 pixels a side, with which even an image of 30,000 x 1 stays below this.
MAX_TILE_EXCESS = 2**25  # pixels that all tiles may have beyond those of the image

# The shorter side of a JPEG decoded at reduced scale is at least this many times `min_side`. Measured on 215 images
# of COCO, VOC, Open Images and NUS-WIDE, resized to 48..112 pixels, against decoding in full: at 2.0 they differ by 0.6
# to 0.9 of 255 levels in the mean and 67 at most, like one more compression at quality 90 (0.6 to 1.1; 51); at 1.5 by
# 1.1 to 1.4 and 81; at 1.0 by 1.5 to 2.3 and 146, since the resize then no longer smooths what the scaled transform
# lets alias. Decoding and resizing together take a third less time at 1/2 and 43 % less at 1/4 (640x427).
REDUCED_MARGIN = 2.0

# What Pillow may open: the formats of images. Other plugins of its start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")


def decode(path: str, min_side: int | None = None) -> np.ndarray:
    """Read an image as (H,W,3) uint8 RGB, upright, whatever it is stored as.

    Grey, palette and CMYK become RGB, 16 bits become 8 by scaling, transparency is laid over white, an animation gives
    its first frame. ICC profiles are not applied. The orientation noted in EXIF is applied, which the published code,
    reading with Pillow's `convert("RGB")`, does not do.

    Args:
        path: a regular file, in one of FORMATS by its content; the name's ending does not matter.
        min_side: the side to which the image will be resized. A JPEG may then come at 1/2, 1/4 or 1/8 of its size, as
            long as its shorter side stays at least REDUCED_MARGIN * min_side. None: always in full.

    Raises:
        DataError: naming the file and the reason, in one line: it is missing, no regular file, truncated, larger than
            MAX_PIXELS, of floating point or 32-bit pixels, or no image that can be read.
    """
    data = _read(path)
    try:
        image = _decode_common_jpeg(data, min_side)
        return _decode_any(data) if image is None else image
    except Exception as error:  # Pillow's plugins meet broken files with errors of a dozen types
        raise DataError(
            f"cannot decode image {printable_name(path)} ({data.size:,} bytes): {_reason(error, data)}"
        ) from None


def from_pillow(image: Image.Image) -> np.ndarray:
    """An image of Pillow as (H,W,3) uint8 RGB, made of its pixels and EXIF as `decode` makes it of a file's.

    A note of orientation that Pillow still carries is applied; `ImageOps.exif_transpose` applies and removes it. Raises
    DataError for pixels that `decode` refuses, and for an image that turns out broken as it is loaded.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return _from_open(image)
    except Exception as error:
        name = getattr(image, "filename", "") or f"of mode {image.mode}"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read image {printable_name(name)}, {image.width} x {image.height}: {reason}") from None


def read_size(path: str) -> tuple[int, int]:
    """(width, height) of an image as `decode` gives it, from its header alone. Raises DataError as `decode` does."""
    data = _read(path)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data.data), formats=_formats()) as image:
            _refuse_bomb(*image.size)
            width, height = image.size
            return (height, width) if _TURNS.get(_orientation(image), (False, None))[0] else (width, height)
    except Exception as error:
        raise DataError(f"cannot read the size of image {printable_name(path)}: {_reason(error, data)}") from None


def resize(image: np.ndarray, size: int, interpolation: Interpolation = "bilinear") -> np.ndarray:
    """(H,W,3) uint8 to (size,size,3) uint8: both sides to `size`, aspect ratio given up, with antialias.

    This is Pillow's own filter, as published (bilinear). torch's uint8 kernel is a quarter faster at 448 pixels, but
    differs by up to two levels, and by processor.
    """
    if image.shape[:2] == (size, size):
        return image.copy()
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling[interpolation.upper()]))


def cut_center(image: np.ndarray, size: int, crop: float, interpolation: Interpolation = "bicubic") -> np.ndarray:
    """(H,W,3) uint8 to (size,size,3) uint8: the shorter side to `scaled_side(size, crop)`, then the center crop.

    Bit for bit what timm's evaluation transform gives (`timm.data.create_transform`, crop_mode="center") before its
    normalization; `crop` is in 0..1, without 0. For images that would be resized to more than MAX_PIXELS, up to the
    rounding between Pillow's two passes.
    """
    height, width = image.shape[:2]
    resized, left, top = _center(height, width, size, crop)
    pil_image = Image.fromarray(image)
    if resized[0] * resized[1] > MAX_PIXELS:  # of an image a thousand times as long as wide: only what is kept is made
        across, down = width / resized[0], height / resized[1]
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return np.array(pil_image.resize((size, size), Image.Resampling[interpolation.upper()], box=box))
    pil_image = pil_image.resize(resized, Image.Resampling[interpolation.upper()])
    return np.array(pil_image.crop((left, top, left + size, top + size)))


def scaled_side(size: int, crop: float) -> int:
    """Pixels of the shorter side before the center crop of `size`: rounded down, as timm does (224 / 0.95 is 235)."""
    return math.floor(size / crop)


def center_box(height: int, width: int, size: int, crop: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what `cut_center` keeps of an image, in its own pixels, rounded."""
    (new_width, new_height), left, top = _center(height, width, size, crop)
    across, down = width / new_width, height / new_height
    return round(left * across), round(top * down), round((left + size) * across), round((top + size) * down)


def _center(height: int, width: int, size: int, crop: float) -> tuple[tuple[int, int], int, int]:
    """(width, height) to which an image is resized, and the left and the top edge of the square that is cut of it."""
    side, shorter = scaled_side(size, crop), min(height, width)
    resized = (side * width // shorter, side * height // shorter)
    return resized, round((resized[0] - size) / 2), round((resized[1] - size) / 2)


@dataclass(frozen=True)
class Normalization:
    """The pixels that the network's weights expect: per-channel mean and standard deviation of values in [0,1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def unit(cls) -> Normalization:
        """Values in [0,1] as they are, as in the paper."""
        return cls((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def __call__(self, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """(B,3,H,W) uint8 on any device to `dtype` on the same one; computed in float32."""
        scaled = images.to(torch.float32).div_(255)
        if self != Normalization.unit():
            mean, std = (
                torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (self.mean, self.std)
            )
            scaled = scaled.sub_(mean).div_(std)
        return scaled.to(dtype)


# EXIF's orientations: whether to swap rows and columns, then what to flip: 1 left-right, 0 top-bottom, -1 both.
_TURNS = {2: (False, 1), 3: (False, -1), 4: (False, 0), 5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0)}
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}

# A marker of a JPEG within coded data: neither a stuffed zero nor a restart.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)

# Tags of a TIFF that hold the sizes of its image and its tiles, and the types of whole numbers in it.
_SIZE_TAGS = {256: "ImageWidth", 257: "ImageLength", 322: "TileWidth", 323: "TileLength"}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}

# How files begin, for the errors.
_SIGNATURES = re.compile(
    rb"(?P<JPEG>\xff\xd8)|(?P<PNG>\x89PNG)|(?P<GIF>GIF8)|(?P<WebP>RIFF....WEBP)|(?P<TIFF>II\*\0|MM\0\*)|(?P<BMP>BM)"
    rb"|....ftyp(?:(?P<AVIF>avi)|(?P<HEIC>hei|hev|mif|msf)|(?P<video>))|(?P<PDF>%PDF)|(?P<PostScript>%!PS)"
    rb"|(?P<ZIP>PK\3\4)|(?P<Photoshop>8BPS)|(?P<Git_LFS>version https://git-lfs)"
    rb"|(?i:.{0,999}<(?:(?P<SVG>svg)|(?P<HTML>html|!doctype html)))",
    re.DOTALL,
)


def _read(path: str) -> np.ndarray:
    try:  # not imread: that fails on non-ASCII paths on Windows
        return np.frombuffer(read_bytes(path, most=MAX_BYTES), np.uint8)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise DataError(f"cannot read image {printable_name(path)}: {reason}")


def _decode_common_jpeg(data: np.ndarray, min_side: int | None) -> np.ndarray | None:
    """As `decode`; None for files that are left to Pillow."""
    header = _jpeg_header(data.data)
    if header is None or _may_be_truncated(data):
        return None
    width, height, exif = header
    _refuse_bomb(width, height)
    _refuse_scans(data, width * height)
    scale = 0.0 if min_side is None else min(width, height) / (REDUCED_MARGIN * min_side)
    flag = next((flag for divisor, flag in _REDUCED.items() if divisor <= scale), cv2.IMREAD_COLOR)
    image = cv2.imdecode(data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        return None
    return _upright(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), _orientation(exif) if exif else 1)


def _decode_any(data: np.ndarray) -> np.ndarray:
    """As `decode`, in full. Raises whatever Pillow raises."""
    if not data.size:
        raise ValueError("the file is empty")
    source = io.BytesIO(data.data)
    # Pillow's warnings are suppressed: a broken image is an error.
    with warnings.catch_warnings(action="ignore"), Image.open(source, formats=_formats()) as image:
        _refuse_scans(data, image.width * image.height)
        if image.format == "TIFF":
            _refuse_tiles(data.data, image.width * image.height)
        return _from_open(image)


def _from_open(pil_image: Image.Image) -> np.ndarray:
    _refuse_bomb(*pil_image.size)
    pil_image.load()
    image = _to_rgb(pil_image)
    return _upright(image, _orientation(pil_image))  # only now: loading turns a TIFF and finds PNG's late EXIF


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):  # 16 bits in either case
        values = np.asarray(image).astype(np.uint16)
        tags = getattr(image, "tag_v2", {})  # TIFF's: Pillow does not look at these for such images
        if tags.get(262) == 0:  # white is zero
            values = ~values
        bits = tags.get(258, (16,))[0]
        return np.repeat((values >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=2)
    if mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {mode}) have no set range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        # Transparent pixels hold arbitrary colours, often noise or black; white is what most viewers show.
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer)
        return np.array(white)
    # CMYK in JPEG is taken as inverted, with Adobe's mark or without, as browsers do.
    return np.array(image.convert("RGB"))


def _orientation(source: Image.Image | bytes) -> int:
    """Of an image or of EXIF's bytes, as EXIF counts it; 1 where it has none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            if isinstance(source, Image.Image):
                return source.getexif().get(0x0112, 1)
            exif = Image.Exif()
            exif.load(source)
            return exif.get(0x0112, 1)
    except Exception:  # broken EXIF raises errors of many types, and affects no pixel
        return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    swap, flip = _TURNS.get(orientation, (False, None))
    image = cv2.transpose(image) if swap else image
    return image if flip is None else cv2.flip(image, flip)


def _refuse_bomb(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels; at most {MAX_PIXELS:,} in all are read (a decompression bomb?)")


def _refuse_scans(data: np.ndarray, pixels: int) -> None:
    """Raise ValueError for a JPEG with more scans than encoders write, which a decoder would take minutes for."""
    content = data.tobytes()
    most = min(MAX_SCANS, max(20, MAX_SCANNED_PIXELS // max(pixels, 1)))
    # Counting bytes, which is fast, counts too many where thumbnails or profiles are embedded.
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > most and _count_scans(content, most + 1) > most:
        raise ValueError(f"more than {most} scans, which no encoder writes (a decompression bomb?)")


def _refuse_tiles(data: memoryview, pixels: int) -> None:
    """Raise ValueError for a TIFF whose tiles are much larger than its image of `pixels`, before one is decoded.

    Read by hand, since Pillow takes the last of several equal tags, and libtiff, which decodes, the first.
    """
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    place = struct.unpack_from(order + "Q", data, 8)[0] if big else struct.unpack_from(order + "I", data, 4)[0]
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    first, step = (place + 8, 20) if big else (place + 2, 12)
    found: dict[int, int] = {}
    for at in range(first, min(first + step * min(count, 2**16), len(data) - step + 1), step):
        tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        if tag in _SIZE_TAGS:
            if tag in found or values != 1 or kind not in _INTEGERS or (kind == 16 and not big):
                raise ValueError(f"{_SIZE_TAGS[tag]} is there twice, or is no whole number, which no encoder writes")
            (found[tag],) = struct.unpack_from(order + _INTEGERS[kind], data, at + (12 if big else 8))
    width, height, tile_width, tile_height = (found.get(tag, 0) for tag in _SIZE_TAGS)
    if not (tile_width or tile_height):  # in strips, of which both decoders take no more rows than the image has
        return
    if not all((width, height, tile_width, tile_height)):
        raise ValueError(f"{width} x {height} pixels in tiles of {tile_width} x {tile_height}")
    covered = math.ceil(width / tile_width) * tile_width * math.ceil(height / tile_height) * tile_height
    if covered > pixels + MAX_TILE_EXCESS:
        raise ValueError(
            f"{width} x {height} pixels in tiles of {tile_width} x {tile_height}, which hold {covered:,} in all; at "
            f"most {MAX_TILE_EXCESS:,} more than the image has are read (a decompression bomb?)"
        )


def _count_scans(content: bytes, most: int) -> int:
    """How many scans a JPEG has, counted up to `most`: those before its end marker, which are decoded."""
    scans, at = 0, 2
    while scans < most and (found := _MARKER.search(content, at)) is not None:
        marker, at = content[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        if marker not in (0x01, 0xD8):  # all others have a length, which counts itself
            at += int.from_bytes(content[at : at + 2], "big")
    return scans


def _jpeg_header(data: memoryview) -> tuple[int, int, bytes] | None:
    """(width, height, EXIF or nothing) of a grey or colour JPEG of 8 bits; None for anything else.

    By hand: Pillow's takes 2 % of the decoding, and to catch its warnings makes Python repeat others already shown.
    """
    if data[:2] != b"\xff\xd8":
        return None
    size, exif, at = None, b"", 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker == 0xDA:  # the first scan: the header is over
            return None if size is None else (*size, exif)
        if marker in (0xC0, 0xC1, 0xC2) and at + 10 <= len(data):
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            if size is not None or bits != 8 or components not in (1, 3) or not width or not height:
                return None
            size = width, height
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = exif or bytes(data[at + 4 : at + 2 + length])
        elif marker not in (0xC4, 0xDB, 0xDD, 0xFE) and not 0xE0 <= marker <= 0xEF:
            return None
        at += 2 + length
    return None


def _may_be_truncated(data: np.ndarray) -> bool:
    """True for a JPEG without an end marker after its last scan. Junk behind the end can make this a false alarm."""
    if data[-2:].tobytes() == b"\xff\xd9":
        return False
    content = data.tobytes()
    return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")


def _reason(error: Exception, data: np.ndarray) -> str:
    """The reason of an error, in one line; the probable kind of a file that Pillow cannot open."""
    if not isinstance(error, Image.UnidentifiedImageError):
        return " ".join(str(error).split()) or type(error).__name__
    match = _SIGNATURES.match(data[:2000].tobytes())
    if match is None:
        return "not an image"
    name = (match.lastgroup or "").replace("_", " ")
    if name == "HEIC":
        return f"HEIC, which is not read; {HEIC}"
    return f"{name}, broken or of an unsupported kind; supported are {', '.join(_formats())}"
