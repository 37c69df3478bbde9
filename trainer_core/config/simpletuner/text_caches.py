"""What the caches of text among the data backends do here: they say how captions are filtered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from trainer_core.config.plan import Backend
from trainer_core.config.simpletuner.caption_filters import filters_of
from trainer_core.config.simpletuner.captions import FILTERS
from trainer_core.config.simpletuner.reading import (
    Findings,
    Source,
    option_name,
    read_options,
    text_of,
    written_value,
)


@dataclass(slots=True)
class TextCaches:
    """The caches of text of a list of backends, as they are read one by one."""

    _filters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _default: str | None = None

    def add(
        self,
        item: Mapping[str, JsonValue],
        id_: str,
        pointer: str,
        findings: Findings,
        source: Source,
    ) -> None:
        """Read one, and report what is wrong with its filters."""
        written = {key: item[key] for key in item if option_name(key) == FILTERS.name}
        table = {FILTERS.name: FILTERS}
        options = read_options(written, table, pointer, findings, source, backend=id_)
        self._filters[id_] = filters_of(options, options[FILTERS], options.at(FILTERS))
        if str(written_value(item, "default")).strip().lower() in ("true", "1", "yes"):
            self._default = id_

    def applied_to(
        self, backends: Sequence[Backend], raw: Sequence[JsonValue]
    ) -> tuple[Backend, ...]:
        """The backends with the filters of the caches that they use.

        A backend uses the cache that its ``text_embeds`` names, else the default one, else the only
        one.

        ``raw``: the list that all of them were read from.
        """
        only = next(iter(self._filters)) if len(self._filters) == 1 else ""
        named = {
            text_of(written_value(item, "id")): text_of(written_value(item, "text_embeds"))
            for item in raw
            if isinstance(item, dict)
        }
        found = []
        for backend in backends:
            cache = named.get(backend.id) or self._default or only
            entries = self._filters.get(cache, ())
            is_filtered = entries and backend.role != "mask"
            found.append(
                backend.model_copy(update={"caption_filters": entries}) if is_filtered else backend
            )
        return tuple(found)
