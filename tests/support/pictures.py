"""Bytes of small pictures that differ from each other."""

import io

from PIL import Image


def picture(number: int, *, kind: str = "PNG", size: tuple[int, int] = (80, 64)) -> bytes:
    """An image of one colour; equal numbers give equal bytes."""
    colour = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()
