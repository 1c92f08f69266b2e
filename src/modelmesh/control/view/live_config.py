"""Settings in the store that take effect while instances run: `config/<name>`.

Source: `spec/cluster-state.md` 1.10. A value that cannot be used counts as absent, and is reported.
"""

from collections.abc import Callable, Sequence

from modelmesh.control.journal import Journal
from modelmesh.control.view.feed import Relisting
from modelmesh.control.view.keys import ConfigKey, Keys
from modelmesh.ports import Change, ChangeKind


class StartDisabledError(Exception):
    """The key `config/disable` forbids the start."""


class LiveConfig:
    """Follows the keys (`modelmesh.control.view.feed.Fed`) and informs those that asked for them."""

    def __init__(self, keys: Keys, journal: Journal) -> None:
        self._keys = keys
        self._journal = journal
        self._values: dict[str, str] = {}
        self._followers: dict[str, Callable[[str | None], None]] = {}

    def follow(self, name: str, apply: Callable[[str | None], None]) -> None:
        """Call `apply` with each new value, None when the key is deleted; it raises ValueError for one it cannot use."""
        self._followers[name] = apply
        if name in self._values:
            self._pass_on(name, self._values[name])

    def ranges(self) -> tuple[str, ...]:
        """All settings; there are few."""
        return (self._keys.config,)

    def remembered(self) -> Sequence[str]:
        """Nothing else."""
        return ()

    def apply(self, changes: Sequence[Change]) -> None:
        """See `Fed`."""
        for change in changes:
            parsed = self._keys.parse(change.item.key)
            if isinstance(parsed, ConfigKey):
                self._set(parsed.name, None if change.kind is ChangeKind.DELETE else change.item.value)

    def replace(self, listing: Relisting) -> None:
        """See `Fed`."""
        found: dict[str, bytes] = {}
        for item in listing.items:
            parsed = self._keys.parse(item.key)
            if isinstance(parsed, ConfigKey):
                found[parsed.name] = item.value
        for name in dict.fromkeys([*self._values, *found]):
            self._set(name, found.get(name))

    def settle(self) -> None:
        """All is done."""

    def _set(self, name: str, value: bytes | None) -> None:
        text = None if value is None else value.decode(errors="replace").strip()
        if self._values.get(name) == text:
            return
        if text is None:
            del self._values[name]
        else:
            self._values[name] = text
        self._pass_on(name, text)

    @property
    def values(self) -> dict[str, str]:
        """The keys that there are."""
        return dict(self._values)

    def check_start(self) -> None:
        """Raise StartDisabledError if the cluster is disabled."""
        value = self._values.get("disable", "false")
        if value != "false":
            raise StartDisabledError(
                f"the key config/disable of this cluster is {value!r}; delete it, or set it to false, to let instances start"
            )

    def _pass_on(self, name: str, value: str | None) -> None:
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
