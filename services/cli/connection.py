"""The service's address and API key: from options, the environment, or `reverie up`'s own file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.client.client import Client

_DEFAULT_HOME: Final = "~/.reverie"
_HELP: Final = (
    "start one on this machine with `reverie up`, or give --url and --api-key "
    "(or REVERIE_URL and REVERIE_API_KEY)"
)


class CommandError(Exception):
    """A command failed; the message names the cause and the way out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A service and a tenant's API key for it."""

    url: str
    api_key: str


@dataclass(slots=True)
class Invocation:
    """The options before the command's name; the root of the command line fills them in."""

    env: Mapping[str, str]
    url: str | None = None
    api_key: str | None = None
    is_debugging: bool = False

    def connect(self) -> "Client":
        """A client for the chosen service; raises CommandError where none is known."""
        # Imported here so that `reverie --help` does not load an HTTP library.
        from services.client.client import Client

        address = find_address(url=self.url, api_key=self.api_key, env=self.env)
        return Client(address.url, address.api_key)


def find_address(*, url: str | None, api_key: str | None, env: Mapping[str, str]) -> Address:
    """Options first, then REVERIE_URL and REVERIE_API_KEY, then ``$REVERIE_HOME/service.json``.

    The key in that file is used for the address in that file only, never for another one.

    Raises:
        CommandError: no address, or no key for it.
    """
    url = url or env.get("REVERIE_URL") or None
    api_key = api_key or env.get("REVERIE_API_KEY") or None
    if url is not None and api_key is not None:
        return Address(url=url, api_key=api_key)
    file = Path(env.get("REVERIE_HOME") or _DEFAULT_HOME).expanduser() / "service.json"
    own = _read_address(file)
    if url is None and own is None:
        raise CommandError(f"no service is known, and {file} does not exist: {_HELP}")
    if url is not None and (own is None or own.url.rstrip("/") != url.rstrip("/")):
        raise CommandError(f"there is no key for {url}: give --api-key or set REVERIE_API_KEY")
    assert own is not None
    return Address(url=own.url, api_key=api_key or own.api_key)


def _read_address(file: Path) -> Address | None:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        return Address(url=body["url"], api_key=body["api_key"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{file} is not what `reverie up` writes; {_HELP}") from error
