"""Settings in the store that take effect while instances run: `config/<name>`.

Source: `spec/cluster-state.md` 1.10. A value that cannot be used counts as absent, and is told.
"""

from collections.abc import Callable

from modelmesh.control.journal import Journal
from modelmesh.control.keys import ConfigKey, Keys
from modelmesh.ports import Change, ChangeKind


class StartDisabledError(Exception):
    """The key `config/disable` forbids the start."""


class LiveConfig:
    """Follows the keys and tells who asked for them."""

    def __init__(self, keys: Keys, journal: Journal) -> None:
        self._keys = keys
        self._journal = journal
        self._values: dict[str, str] = {}
        self._followers: dict[str, Callable[[str | None], None]] = {}

    def follow(self, name: str, apply: Callable[[str | None], None]) -> None:
        """Call `apply` with each new value, None when the key goes; it raises ValueError for one it cannot use."""
        self._followers[name] = apply
        if name in self._values:
            self._tell(name, self._values[name])

    def changed(self, change: Change) -> None:
        """A key was put or deleted."""
        parsed = self._keys.parse(change.item.key)
        assert isinstance(parsed, ConfigKey)
        if change.kind is ChangeKind.DELETE:
            self._values.pop(parsed.name, None)
            self._tell(parsed.name, None)
            return
        text = change.item.value.decode(errors="replace").strip()
        if self._values.get(parsed.name) != text:
            self._values[parsed.name] = text
            self._tell(parsed.name, text)

    def check_start(self) -> None:
        """Raise StartDisabledError if the cluster is disabled."""
        value = self._values.get("disable", "false")
        if value != "false":
            raise StartDisabledError(
                f"the key config/disable of this cluster is {value!r}; delete it, or set it to false, to let instances start"
            )

    def _tell(self, name: str, value: str | None) -> None:
        apply = self._followers.get(name)
        if apply is None:
            return
        try:
            apply(value)
        except ValueError as error:
            self._journal.note("config_refused", detail=f"{name}: {error}; the default holds")
            apply(None)
        else:
            self._journal.note("config_changed", detail=f"{name} is {value if value is not None else 'the default'}")
