"""``python -m services.api.describe``: print the OpenAPI document of this version."""

import json
import sys
from typing import Any, Final

from services.api.app import create_app
from services.settings.env import Settings

_SETTINGS: Final = {
    "REVERIE_DATABASE_URL": "postgresql://nobody@localhost/none",
    "REVERIE_OBJECTS_URL": "file:///none",
    "REVERIE_SIGNING_KEY": "00" * 32,
    "REVERIE_KEY_PEPPER": "00" * 32,
}
"""The document is the same for all; nothing is opened."""


def document() -> dict[str, Any]:
    """The document that a service of this version has at ``/openapi.json``."""
    app = create_app(Settings.from_env(_SETTINGS))
    return dict(app.openapi())


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
