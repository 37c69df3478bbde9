"""What can keep a stack from running."""


class StackError(Exception):
    """The stack cannot start or go on; the message says what to do and which log to read."""


class HomeInUseError(StackError):
    """Another ``up`` holds this home."""


class ChildDiedError(StackError):
    """A child ended before it was ready."""
