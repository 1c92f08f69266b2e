"""How `modelmesh vmodels` shows what instances count of the calls of a vmodel."""

from typing import TYPE_CHECKING

from modelmesh.cli.text import say
from modelmesh.cli.vmodel_rollouts import print_rollout

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2
    from modelmesh.cli.client import Client

ENDS = ("answered", "equal", "different", "failed", "cold", "dropped", "stream")
"""Results of copies of calls, as the fields of `ShadowCount` are named."""


def counts_of(client: "Client", entry: "admin_pb2.VModel") -> "admin_pb2.CountVModelResponse | None":
    """What the instances counted; None: they count nothing of the vmodel."""
    from modelmesh._proto import admin_pb2 as pb

    if not entry.HasField("shadow") and not entry.HasField("rollout"):
        return None
    request = pb.CountVModelRequest(vmodel_id=entry.id)
    return client.call("modelmesh.v1.Admin/CountVModel", request, pb.CountVModelResponse)


def print_counts(entry: "admin_pb2.VModel", counts: "admin_pb2.CountVModelResponse") -> None:
    """As lines below the status of the vmodel."""
    if entry.HasField("rollout"):
        print_rollout(entry, counts)
    if entry.HasField("shadow"):
        say(f"  {copies_to(entry.shadow)}")
    for one in counts.shadows:
        ends = ", ".join(f"{count} {end}" for end in ENDS if (count := getattr(one, end)))
        say(f"    {one.model_id}: {ends or 'none yet'}")
    for silent in counts.silent_instance_ids:
        say(f"    {silent} does not answer: what it counted is missing")


def counts_as_json(counts: "admin_pb2.CountVModelResponse") -> dict[str, object]:
    """Fields of the status of the vmodel."""
    return {
        "shadow_counts": {one.model_id: {end: getattr(one, end) for end in ENDS} for one in counts.shadows},
        "rollout_counts": {
            one.model_id: {"calls": one.calls, "failed": one.failed, "p95_us": one.p95_us} for one in counts.models
        },
        "rollout_verdict": counts.verdict,
        "silent_instances": list(counts.silent_instance_ids),
    }


def copies_to(shadow: "admin_pb2.Shadow") -> str:
    """Which model gets copies of calls."""
    compared = ", answers are compared" if shadow.compares else ""
    return f"copies of {shadow.percent} % of the calls to {shadow.model_id}{compared}"


def shadow_as_json(shadow: "admin_pb2.Shadow") -> dict[str, object]:
    """The same, as a field of the vmodel."""
    return {"model": shadow.model_id, "percent": shadow.percent, "compares": shadow.compares}
