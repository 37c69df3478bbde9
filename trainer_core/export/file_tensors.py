"""What an adapter file holds, told by the names of trained parameters. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTensor:
    """A tensor of an adapter file: a trained parameter, perhaps scaled; fp32."""

    name: str
    """In the file."""
    parameter: str
    scale: float = 1.0
    """Multiplied in fp64, then rounded to fp32."""
