"""Loads that wait here while another instance has a free slot: their callers are sent on to it."""

from collections import Counter

from modelmesh.control.copies.entry import DropReason, LoadRefused
from modelmesh.control.copies.steps import CopySteps
from modelmesh.control.decide import Decider
from modelmesh.control.journal import Journal
from modelmesh.machines.model_copy import CopyState
from modelmesh.policy.attempt import SendTo
from modelmesh.policy.requeue import begins_elsewhere
from modelmesh.policy.waiting import common_load_ms, wait_ms
from modelmesh.values.dataplane import Outcome
from modelmesh.values.ids import InstanceId

LOOKED_AT = 8
"""Loads from the end of the queue that are looked at in one turn."""


class Requeue:
    """Sends waiting loads on, the last in the queue first."""

    def __init__(self, *, steps: CopySteps, decider: Decider, journal: Journal) -> None:
        self._steps = steps
        self._decider = decider
        self._journal = journal

    def tick(self) -> None:
        """Look around; about once a second."""
        steps = self._steps
        slots = max(1, steps.parameters.loading_slots)
        ahead_ms = steps.backlog.ms()
        sent: Counter[InstanceId] = Counter()
        for load in steps.slots.last_queued(LOOKED_AT):
            entry = steps.entry_of(load)
            ahead_ms -= steps.learned.expected_load_ms(entry.model, entry.size)
            if not entry.waited_for or entry.stays or entry.state is not CopyState.QUEUED:
                continue
            step = self._decider.rehearse(entry.model, entry.registered)
            if not isinstance(step, SendTo):
                continue
            view = self._decider.cluster_view()
            place = view.instance(step.instance)
            if place is None:
                continue
            loads = view.loads_at(place) + sent[step.instance]
            here_ms, there_ms = ahead_ms // slots, wait_ms(place, loads, common_ms=common_load_ms(view))
            load_ms = steps.learned.expected_load_ms(entry.model, entry.size)
            if begins_elsewhere(here_ms=here_ms, there_ms=there_ms, load_ms=load_ms):
                sent[step.instance] += 1
                detail = f"it would wait {here_ms} ms here, {there_ms} ms at {step.instance}"
                self._journal.note("sent_on", entry.model, detail=detail)
                refused = LoadRefused(Outcome.BUSY, f"model {entry.model} begins to load sooner elsewhere: {detail}")
                steps.drop(entry.model, DropReason.BEGINS_ELSEWHERE, end=refused)
