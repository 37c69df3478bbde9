"""The errors of the client; each message names the cause and, where there is one, the way out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

_NAMED_AT_MOST: Final = 20


class ClientError(Exception):
    """Base of every error that the client raises."""


class ServiceUnreachableError(ClientError):
    """No answer after the last try; the message names the address without its query."""


class WaitTooLongError(ClientError):
    """Something did not happen in the time that was allowed for it."""


class EmptyFolderError(ClientError):
    """The folder has no image and no caption."""


class BadNamesError(ClientError):
    """Files of the folder cannot be in a dataset because of their names; the message says why."""

    def __init__(self, faults: Sequence[str]) -> None:
        """``faults`` each name a file and what is wrong with it."""
        self.faults = tuple(faults)
        lines = [f"  {fault}" for fault in faults[:_NAMED_AT_MOST]]
        if len(faults) > _NAMED_AT_MOST:
            lines.append(f"  and {len(faults) - _NAMED_AT_MOST} more")
        super().__init__("\n".join(["rename these files, then push the folder again:", *lines]))


class UploadFailedError(ClientError):
    """The object store refused a file; the message names the file, never the signed URL."""


class DownloadFailedError(ClientError):
    """A file did not come whole; the message names it, never the signed URL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldProblem:
    """One thing wrong with a request or a dataset."""

    pointer: str
    """JSON Pointer into the request's body, or a file's path."""
    code: str
    message: str

    @classmethod
    def of_json(cls, body: dict[str, Any]) -> Self:
        return cls(
            pointer=str(body.get("pointer") or ""),
            code=str(body.get("code") or "unknown"),
            message=str(body.get("message") or body.get("detail") or ""),
        )

    def __str__(self) -> str:
        where = f"{self.pointer}: " if self.pointer else ""
        return f"{where}{self.message} [{self.code}]"


class ProblemError(ClientError):
    """The service answered with a problem (RFC 9457)."""

    def __init__(
        self,
        *,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[FieldProblem] = (),
        request_id: str | None = None,
    ) -> None:
        """``status`` is the HTTP status; ``errors`` lists everything that is wrong."""
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.request_id = request_id
        lines = [f"{detail} [{status} {code}]", *(f"  {error}" for error in self.errors)]
        super().__init__("\n".join(lines))

    @classmethod
    def of_answer(cls, status: int, body: object, *, request_id: str | None) -> Self:
        """Read a problem; another body, such as a proxy's page, still becomes a readable error."""
        facts: dict[str, Any] = body if isinstance(body, dict) else {}
        listed = facts.get("errors")
        return cls(
            status=status,
            code=str(facts.get("code") or f"http_{status}"),
            detail=str(
                facts.get("detail")
                or facts.get("title")
                or f"The service answered with status {status}."
            ),
            errors=[
                FieldProblem.of_json(error)
                for error in (listed if isinstance(listed, list) else [])
                if isinstance(error, dict)
            ],
            request_id=str(facts["request_id"]) if facts.get("request_id") else request_id,
        )


class DatasetRejectedError(ClientError):
    """The service verified the files and rejected some; ``errors`` names each."""

    def __init__(self, dataset_id: str, errors: Sequence[FieldProblem]) -> None:
        self.dataset_id = dataset_id
        self.errors = tuple(errors)
        lines = [f"dataset {dataset_id} was rejected", *(f"  {error}" for error in self.errors)]
        super().__init__("\n".join(lines))


class FileChangedError(ClientError):
    """A file changed after the folder was listed."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} changed while it was being pushed; push the folder again")
