"""The errors of training, with what a service needs to act on them.

``code`` is public and is never renamed. ``category`` says who has to act. ``retryable`` says
whether the same work may succeed without a change.
"""

from enum import StrEnum
from typing import Literal

ImageFault = Literal[
    "decode_error", "no_decoder", "too_many_pixels", "unknown_levels", "bad_name", "black_mask"
]
"""What is wrong with an image; ``unknown_levels``: which of its values are black and white;
``no_decoder``: nothing, but this machine lacks a plugin."""


class Category(StrEnum):
    """Who has to act on a failure."""

    USER = "user"
    QUOTA = "quota"
    CAPACITY = "capacity"
    INFRA = "infra"
    PLATFORM = "platform"


class TrainerError(Exception):
    """Base class of the errors that trainer_core raises."""

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
    """An image that cannot be decoded or is not accepted; the message names the file."""

    code = "bad_image"
    category: Category = Category.USER

    def __init__(self, message: str, fault: ImageFault = "decode_error") -> None:
        super().__init__(message)
        self.fault = fault


class DecoderMissingError(TrainerError):
    """This machine lacks the plugin for an image that another one could read."""

    code = "decoder_missing"
    category: Category = Category.INFRA
    retryable = True


class BadCaptionError(TrainerError):
    """A caption file that is not text, or is too long; the message names the file."""

    code = "bad_caption"
    category: Category = Category.USER


class BaseModelError(TrainerError):
    """A base model's folder is missing, incomplete, or does not match its description."""

    code = "bad_base_model"


class AdapterFileError(TrainerError):
    """An adapter file cannot be read, or was not made for this base model; the message names it."""

    code = "bad_adapter_file"
    category: Category = Category.USER


class OutputError(TrainerError):
    """An output file or folder cannot be written, or the requested image cannot be generated."""

    code = "bad_output"
    category: Category = Category.USER


class ShardMissingError(TrainerError):
    """A cache entry did not arrive in time."""

    code = "shard_missing"
    category: Category = Category.INFRA
    retryable = True


class ShardCorruptError(TrainerError):
    """A cache entry, or the image of one, is damaged or not what its digest says."""

    code = "shard_corrupt"
    category: Category = Category.INFRA
    retryable = True


class CheckpointError(TrainerError):
    """A checkpoint is missing, or was made with another plan, dataset or base model."""

    code = "bad_checkpoint"


class CheckpointCorruptError(CheckpointError):
    """A checkpoint's folder is damaged; the message names the file and what is wrong with it.

    The next attempt goes on from the newest whole one.
    """

    code = "checkpoint_corrupt"
    category: Category = Category.INFRA
    retryable = True


class NoWholeCheckpointError(CheckpointCorruptError):
    """A run has checkpoints, and all of them are damaged. It is never started over silently."""

    retryable = False


class NonFiniteLossError(TrainerError):
    """A loss or gradient is not finite; no update was applied, or the message says so."""

    code = "non_finite_loss"
    category: Category = Category.USER


class OutOfMemoryError(TrainerError):
    """The accelerator's memory is too small for the run with these options."""

    code = "out_of_memory"
    category: Category = Category.USER


class GpuMemoryTakenError(TrainerError):
    """Other processes hold so much of the GPU's memory that the run does not fit."""

    code = "gpu_memory_taken"
    category: Category = Category.INFRA
    retryable = True


class DeviceError(TrainerError):
    """The requested device is not available or not supported."""

    code = "bad_device"
    category: Category = Category.INFRA


class GpuMissingError(DeviceError):
    """A GPU is required, and CUDA finds none; another machine may have one."""

    code = "gpu_missing"
    retryable = True


class InjectedFaultError(TrainerError):
    """Raised by a fault point that a test activated."""

    code = "injected_fault"
    category: Category = Category.INFRA
    retryable = True
