"""Where `reverie` starts.

Exit status: 0 done, 1 an error (its message is on stderr), 2 wrong usage, 130 interrupted.
"""

import os
import signal
import sys
from types import FrameType
from typing import Final

_INTERRUPTED: Final = 130


def main() -> None:
    """Run one command; an expected error is printed on stderr without a traceback."""
    is_ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if not is_ignored:
        # Imports take half a second, and some of them make another exception of Ctrl-C.
        signal.signal(signal.SIGINT, _leave)
    from services.cli import output
    from services.cli.connection import Invocation
    from services.cli.program import app

    if not is_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    invocation = Invocation(env=os.environ)
    try:
        app(obj=invocation)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        from trainer_core.disk import disk_error

        if invocation.is_debugging:
            raise
        known = disk_error(error) or error
        if not _is_expected(known):
            raise
        output.print_error(str(known))
        sys.exit(1)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End the program, which has not started anything."""
    os._exit(_INTERRUPTED)


def _is_expected(error: Exception) -> bool:
    """Whether the error is an expected one, whose message suffices without a traceback."""
    if isinstance(error, OSError | UnicodeError):
        return True
    # An error of these kinds can only come from a module that is already imported. Importing all of
    # them here would cost the time that lazy commands save.
    named = (
        ("services.cli.connection", "CommandError"),
        ("services.client.errors", "ClientError"),
        ("services.embedded.errors", "EmbeddedError"),
        ("services.settings.env", "SettingsError"),
        ("trainer_core.errors", "TrainerError"),
    )
    kinds = [getattr(sys.modules[room], name) for room, name in named if room in sys.modules]
    return isinstance(error, tuple(kinds))


if __name__ == "__main__":
    main()
