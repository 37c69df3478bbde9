"""What can be wrong with a source, as a whole or with one of its rows."""

from trainer_core.errors import Category, TrainerError


class SourceError(TrainerError):
    """Nothing of a source can be fetched; the message names the backend or the option to change."""

    code = "bad_source"
    category: Category = Category.USER


class NotPublicError(SourceError):
    """A dataset of the Hub needs a token, or there is none of this name."""


class UnreachableError(SourceError):
    """The source cannot be asked now; what was fetched before may do."""

    code = "source_unreachable"
    retryable = True


class RowError(Exception):
    """One row has no usable picture, and is left out; the message says why, and names the row."""


class ChangedError(RowError):
    """The row is not what it was when it was listed: another listing has its new content."""
