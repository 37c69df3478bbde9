"""Errors of supervised child processes."""


class ChildError(Exception):
    """A child cannot be started or kept running; the message names its log."""


class ChildDiedError(ChildError):
    """The child ended before it was ready."""


class StopAskedError(ChildError):
    """The caller asked to stop before the child was ready."""
