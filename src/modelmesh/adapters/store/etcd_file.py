"""The file with the connection to etcd, and those it names, read again when they change: secrets are renewed."""

import asyncio
from collections.abc import Callable

from modelmesh.adapters.files import POLL_S
from modelmesh.adapters.store.etcd import EtcdStore
from modelmesh.adapters.store.etcd_settings import EtcdSettings, StoreSettingError, parse_etcd
from modelmesh.ports import StoreError


class EtcdFile:
    """Lets a store follow the file it was opened with.

    A change is taken when two looks saw the same, for a certificate and its key may be replaced one after the other,
    and only if etcd lets us in with it; until then what was before stays in use.

    Args:
        text: What follows `etcd:` in KV_STORE; the path of a file.
        store: Was opened with it.
        changed: Called when the store uses the new content.
        refused: Called once for each reason why it does not.
    """

    def __init__(
        self, text: str, store: EtcdStore, *, changed: Callable[[], None], refused: Callable[[str], None]
    ) -> None:
        self._text = text
        self._store = store
        self._changed = changed
        self._refused = refused
        self._seen: EtcdSettings | None = None
        self._said = ""

    async def look(self) -> None:
        """Take the files as they are now, if they differ from what is in use."""
        try:
            settings = parse_etcd(self._text)
            if settings == self._store.settings:
                self._said = ""
            elif settings == self._seen:
                await self._store.renew(settings)
                self._said = ""
                self._changed()
            self._seen = settings
        except (StoreSettingError, StoreError, OSError) as error:
            why = f"{error}; what was before stays in use"
            if why != self._said:
                self._refused(why)
            self._said = why

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.look()
