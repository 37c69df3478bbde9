"""Patterns of module paths, as expressions and as shell patterns, matched in bounded time.

Patterns come from strangers, and a regular expression can take Python's own matcher for ever. RE2
takes time in proportion to the text whatever the expression, and knows no look-around and no
back-reference; where both read an expression, they answer alike.
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
"""Classes such as ``[[:alpha:]]`` and ``{,3}`` mean one thing to RE2 and another to Python."""


class UnsupportedPatternError(ValueError):
    """An expression with more than is taken here."""


def matcher(pattern: str, *, use_fnmatch: bool) -> Callable[[str], bool]:
    """Whether a path is the pattern or matches it, as ``fnmatch`` or ``re.match`` would say.

    Raises UnsupportedPatternError.
    """
    if use_fnmatch:
        test: Any = re.compile(fnmatch.translate(pattern))
    else:
        test = _expression(pattern)
    return lambda path: path == pattern or test.match(path) is not None


@functools.lru_cache(maxsize=1024)
def _expression(pattern: str) -> Any:
    if _READ_DIFFERENTLY.search(pattern):
        raise UnsupportedPatternError(pattern)
    quiet = re2.Options()
    quiet.log_errors = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # Python may come to read it otherwise
            re.compile(pattern)
        return re2.compile(pattern, quiet)
    except (re.error, re2.error, FutureWarning, OverflowError) as error:
        raise UnsupportedPatternError(pattern) from error
