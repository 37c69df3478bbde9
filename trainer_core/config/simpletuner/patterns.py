"""Matches module paths by regular expressions and shell patterns, in bounded time.

Patterns come from users, and some regular expressions take exponential time in Python's ``re``. RE2
takes time linear in the text, but has no look-around and no back-references. Expressions that both
accept match the same text.
"""

import fnmatch
import functools
import re
import warnings
from collections.abc import Callable
from typing import Any, Final

import re2

MAX_PATTERN_CHARACTERS: Final = 200
_READ_DIFFERENTLY: Final = re.compile(r"\[\[|\[\^\[|\{,|\[:")
"""``[[:alpha:]]``, ``{,3}`` and the like have different meanings in RE2 and in Python."""


class UnsupportedPatternError(ValueError):
    """A regular expression that RE2 does not support, or reads differently from Python."""


def matcher(pattern: str, *, use_fnmatch: bool) -> Callable[[str], bool]:
    """A function that is True for a path that equals or matches the pattern.

    Matches as ``fnmatch.fnmatch`` or ``re.match`` do.

    Raises UnsupportedPatternError.
    """
    if use_fnmatch:
        test: Any = re.compile(fnmatch.translate(pattern))
    else:
        test = expression(pattern)
    return lambda path: path == pattern or test.match(path) is not None


@functools.lru_cache(maxsize=1024)
def expression(pattern: str) -> Any:
    """The compiled expression of RE2; raises UnsupportedPatternError."""
    if _READ_DIFFERENTLY.search(pattern):
        raise UnsupportedPatternError(pattern)
    quiet = re2.Options()
    quiet.log_errors = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # its meaning may change in Python
            re.compile(pattern)
        return re2.compile(pattern, quiet)
    except (re.error, re2.error, FutureWarning, OverflowError, RecursionError) as error:
        raise UnsupportedPatternError(pattern) from error
