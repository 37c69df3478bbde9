"""What the text of a picture's PNG says. Imports no torch."""

from pathlib import Path

from PIL import Image


def plan_digest_of(file: Path) -> str | None:
    """The digest of the plan whose run made the picture; None where the file names none."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            # What ``write_picture`` writes is before the pixels, which need not be decoded.
            digest: str | None = image.info.get("plan_digest")
            return digest
    except (OSError, ValueError, SyntaxError):
        return None
