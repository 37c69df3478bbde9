"""What can go wrong in training, with the facts a service needs to act on it.

``code`` is public and is not renamed; ``category`` says who has to act; ``retryable`` whether the
same work may succeed unchanged.
"""

from enum import StrEnum


class Category(StrEnum):
    """Who has to act on a failure."""

    USER = "user"
    QUOTA = "quota"
    CAPACITY = "capacity"
    INFRA = "infra"
    PLATFORM = "platform"


class TrainerError(Exception):
    """The base of every error that trainer_core raises on purpose."""

    code: str = "trainer_error"
    category: Category = Category.PLATFORM
    retryable: bool = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class DocumentError(TrainerError):
    """A configuration file that cannot be read; the message names the file and the line."""

    code = "bad_document"
    category: Category = Category.USER


class BadImageError(TrainerError):
    """A picture that cannot be decoded or is not accepted; the message names the file."""

    code = "bad_image"
    category: Category = Category.USER


class BadCaptionError(TrainerError):
    """A caption file that is not text, or is too long; the message names the file."""

    code = "bad_caption"
    category: Category = Category.USER


class BaseModelError(TrainerError):
    """A base model's folder is missing, incomplete or not what its description says."""

    code = "bad_base_model"


class AdapterFileError(TrainerError):
    """An adapter file cannot be read, or was not made for this base model; the message names it."""

    code = "bad_adapter_file"
    category: Category = Category.USER


class OutputError(TrainerError):
    """Something stands where a result is to be written, or the asked picture cannot be made."""

    code = "bad_output"
    category: Category = Category.USER


class ShardMissingError(TrainerError):
    """A cache shard did not arrive in time."""

    code = "shard_missing"
    category: Category = Category.INFRA
    retryable = True


class ShardCorruptError(TrainerError):
    """A cache shard is not what its manifest or its spec says."""

    code = "shard_corrupt"
    category: Category = Category.INFRA
    retryable = True


class CheckpointError(TrainerError):
    """A checkpoint is torn, or belongs to another plan, data set or base model."""

    code = "bad_checkpoint"


class NonFiniteLossError(TrainerError):
    """Loss or gradient is not a number; no update was made from it."""

    code = "non_finite_loss"
    category: Category = Category.USER


class OutOfMemoryError(TrainerError):
    """The accelerator cannot hold the run with these options."""

    code = "out_of_memory"
    category: Category = Category.USER


class DeviceError(TrainerError):
    """The asked device is not there or not supported."""

    code = "bad_device"
    category: Category = Category.INFRA


class InjectedFaultError(TrainerError):
    """Raised by a fault point on request of a test."""

    code = "injected_fault"
    category: Category = Category.INFRA
    retryable = True
