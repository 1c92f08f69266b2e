"""How long a load would wait at an instance before it begins.

Called by `modelmesh.policy.placement`, `modelmesh.control.duties.requeue` and `modelmesh.management.admin`. What is known of other
instances is what they publish, brought up to date by the number of their copies that are loading.
"""

from modelmesh.values.records import MemberRecord
from modelmesh.values.view import ClusterView, InstanceView

UNKNOWN_LOAD_MS = 1_000
"""Assumed duration of a load if none was measured."""


def common_load_ms(view: ClusterView) -> int:
    """Assumed duration of a load at an instance that has published none: as here."""
    own = view.instance(view.own)
    return (own.record.load_ms if own is not None else 0) or UNKNOWN_LOAD_MS


def usable_slots(record: MemberRecord) -> int:
    """How many loads run at a time: the slots, or what has room of the copies that are there if that is fewer."""
    slots = max(1, record.loading_slots)
    typical = record.used // max(1, record.copies)
    return max(1, min(slots, record.capacity.holds(typical))) if typical else slots


def wait_ms(entry: InstanceView, loads: int, *, common_ms: int = UNKNOWN_LOAD_MS) -> int:
    """Until a load that is given to the instance now would have a slot.

    Args:
        entry: The instance.
        loads: At work and waiting there.
        common_ms: How long a load takes if the instance has not published it.
    """
    if not loads:
        # As below, but placement asks this of every instance, and most load nothing.
        return 0
    record = entry.record
    slots = usable_slots(record)
    if loads < slots:
        return 0
    each_ms = record.load_ms or common_ms
    # The backlog was true when the entry was written; loads have begun and ended since.
    backlog_ms = record.backlog_ms + (loads - record.loads) * each_ms
    # Of those at work half is done in the mean.
    least_ms = (loads - slots) * each_ms + slots * each_ms // 2
    return max(backlog_ms, least_ms, 0) // slots
