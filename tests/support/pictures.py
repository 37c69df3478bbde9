"""Bytes of small pictures that differ from each other, and what PNG files say of themselves."""

import io

from PIL import Image
from PIL.PngImagePlugin import PngImageFile


def picture(number: int, *, kind: str = "PNG", size: tuple[int, int] = (80, 64)) -> bytes:
    """An image of one colour; equal numbers give equal bytes."""
    colour = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def png_text(image: Image.Image) -> dict[str, str]:
    """The text of an opened PNG file."""
    assert isinstance(image, PngImageFile)
    return {name: str(value) for name, value in image.text.items()}
