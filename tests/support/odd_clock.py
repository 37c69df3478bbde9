"""A process with a wrong clock: a small library, compiled here, between it and the C library."""

import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


class OddClock:
    """The clock of the processes that are started with ``env``."""

    def __init__(self, folder: Path) -> None:
        """Raises RuntimeError where there is no C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise RuntimeError("a C compiler is not installed")
        self._library = folder / "odd_clock.so"
        self._file = folder / "odd_clock"
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(self._library), str(_SOURCE)]
        subprocess.run(command, check=True)
        self.set(0)

    @property
    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "ODD_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """How far the clock is ahead from now on; negative: behind."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds}\n")
        new.replace(self._file)
