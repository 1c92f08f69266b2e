"""How many models each tenant has registered, and the quotas of tenants.

The record of a model names the tenant that registered it. Beside it stands a key `tenants/<tenant>/<model>`, written and deleted
in the same transaction as the record, so that the models of a tenant can be counted without the registry.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from modelmesh.control.view.feed import Relisting
from modelmesh.control.view.keys import Keys, TenantKey
from modelmesh.control.view.state import ClusterState
from modelmesh.policy.access import Tenant
from modelmesh.policy.quota import LoadQuota, refuse_model
from modelmesh.ports import Change, ChangeKind
from modelmesh.values.ids import ModelId, Revision
from modelmesh.values.memory import NOTHING, Memory


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """Models that a tenant has registered, and what its copies take that are loaded or loading."""

    quota: Tenant
    models: int
    loaded: Memory


class OverQuotaError(Exception):
    """A tenant has as many models as it may have."""


class Tenants:
    """Counts from the watch (`modelmesh.control.view.feed.Fed`), with what was written here and is not seen there yet."""

    def __init__(self, keys: Keys, state: ClusterState) -> None:
        self._keys = keys
        self._state = state
        self._quotas: Mapping[str, Tenant] = {}
        self._models: Counter[str] = Counter()
        self._written: dict[tuple[str, ModelId], Revision] = {}
        self._begun: Counter[str] = Counter()
        self._seen = Revision(0)

    def limit(self, quotas: Mapping[str, Tenant]) -> None:
        """From now on these quotas hold. What is registered and loaded stays."""
        self._quotas = quotas

    def registered(self, tenant: str) -> int:
        """Models of a tenant, with those whose registration has begun here."""
        written = sum(of == tenant for of, _ in self._written)
        return self._models[tenant] + written + self._begun[tenant]

    @contextmanager
    def registration(self, tenant: str) -> Iterator[None]:
        """While a model of a tenant is being registered it counts already. Raises OverQuotaError."""
        quota = self._quotas.get(tenant)
        if quota is not None and quota.models is not None:
            refused = refuse_model(tenant, limit=quota.models, registered=self.registered(tenant))
            if refused:
                raise OverQuotaError(refused)
        self._begun[tenant] += 1
        try:
            yield
        finally:
            self._begun[tenant] -= 1

    def wrote(self, tenant: str, model: ModelId, revision: Revision) -> None:
        """A model was registered here at a revision, which the watch may not have delivered yet."""
        if tenant and revision > self._seen:
            self._written[tenant, model] = revision

    def load_quota(self, tenant: str) -> LoadQuota | None:
        """What the models of a tenant may take, and take; None: as much as there is."""
        quota = self._quotas.get(tenant)
        if quota is None or quota.loaded is None:
            return None
        return LoadQuota(tenant, quota.loaded, self._state.loaded.get(tenant, NOTHING))

    def usage(self) -> list[TenantUsage]:
        """What each tenant has that has a quota, a model or a copy, by name."""
        names = {*self._quotas, *(name for name, count in self._models.items() if count > 0), *self._state.loaded}
        return [
            TenantUsage(
                self._quotas.get(name) or Tenant(name),
                self.registered(name),
                self._state.loaded.get(name, NOTHING),
            )
            for name in sorted(names)
        ]

    # --- the watch ------------------------------------------------------------------------------

    def ranges(self) -> tuple[str, ...]:
        """See `Fed`."""
        return (self._keys.tenants,)

    def remembered(self) -> Sequence[str]:
        """See `Fed`."""
        return ()

    def apply(self, changes: Sequence[Change]) -> None:
        """See `Fed`."""
        for change in changes:
            self._seen = max(self._seen, change.item.mod_revision)
            parsed = self._keys.parse(change.item.key)
            if not isinstance(parsed, TenantKey):
                continue
            if change.kind is ChangeKind.DELETE:
                self._models[parsed.tenant] -= 1
            elif change.item.create_revision == change.item.mod_revision:
                self._models[parsed.tenant] += 1
        self._forget_seen()

    def replace(self, listing: Relisting) -> None:
        """See `Fed`."""
        keys = (self._keys.parse(item.key) for item in listing.items)
        self._models = Counter(key.tenant for key in keys if isinstance(key, TenantKey))
        self._seen = listing.revision
        if listing.replaced:
            self._written.clear()
        self._forget_seen()

    def settle(self) -> None:
        """See `Fed`: nothing depends on it."""

    def _forget_seen(self) -> None:
        self._written = {key: revision for key, revision in self._written.items() if revision > self._seen}
