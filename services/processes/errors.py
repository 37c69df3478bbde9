"""What can go wrong with a child that is supervised."""


class ChildError(Exception):
    """A child cannot be started or kept running; the message names its log."""


class ChildDiedError(ChildError):
    """It ended before it was ready."""


class StopAskedError(ChildError):
    """The caller asked to stop before the child was ready."""
