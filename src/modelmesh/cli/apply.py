"""`modelmesh apply`: make a mesh serve what manifests declare."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.models import LOCAL, Address, AsJson, Authority
from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh.cli.client import Client
    from modelmesh.declared import Change, Plan, Problem, Standing, Wanted

MOVE_TIMEOUT_S = 600.0
WATCH_S = 1.0
"""Between two looks at the files."""

AWAY_S = 5.0
"""Before a mesh that does not answer is asked again."""

_SIGNS = {"create": "+", "move": "~", "keep": "=", "delete": "-"}
_DONE = {"create": "created", "move": "moved", "keep": "kept", "delete": "deleted"}


def apply(
    files: Annotated[
        list[Path],
        typer.Option(
            "--file", "-f", help="File or folder of manifests (.yaml, .yml, .json); - reads them from standard input."
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, and apply the files again whenever they change.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete vmodels that came from manifests and are in none of these files.")
    ] = False,
    load: Annotated[bool, typer.Option("--load", help="Load what is new now, not at its first call.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every name has moved to its model.")] = False,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Make a running mesh serve the models of InferenceService and Predictor manifests, under their names.

    Nothing is changed while any manifest has a problem; all problems are shown. Runtimes are not started: their
    manifests are checked, and show which of them would take a model.
    """
    from modelmesh.cli.client import connect
    from modelmesh.cli.manifests import fingerprint

    if watch and Path("-") in files:
        raise typer.BadParameter("standard input cannot be watched", param_hint="--watch")

    def once() -> bool:
        with connect(address, ca) as client:
            return _once(client, files, dry_run=dry_run, prune=prune, load=load, wait=wait, as_json=as_json)

    if not watch:
        raise typer.Exit(0 if once() else 1)
    seen: object = None
    while True:
        now = fingerprint(files)
        if now != seen:
            try:
                once()
                seen = now
                say("watching the files; Ctrl-C stops", error=True)
            except typer.Exit:  # it was printed already; the mesh may be back soon
                time.sleep(AWAY_S)
        time.sleep(WATCH_S)


def _once(
    client: "Client", files: Sequence[Path], *, dry_run: bool, prune: bool, load: bool, wait: bool, as_json: bool
) -> bool:
    """Apply the files as they are now; returns whether all succeeded."""
    from modelmesh.cli.manifests import read_manifests, show_problems
    from modelmesh.declared import plan

    declared = read_manifests(files)
    if not as_json:
        show_problems(declared)
    found = plan(declared.wanted, standing(client), prune=prune)
    problems = [*declared.problems, *found.problems]
    if not as_json:
        for problem in found.problems:
            say(f"{'error' if problem.fatal else 'note'}: {problem}", error=True)
    wrong = any(problem.fatal for problem in problems)
    failures = {}
    if not wrong and not dry_run:
        failures = dict(enact(client, found, load=load, wait=wait))
    if as_json:
        typer.echo(
            json.dumps(_as_json(found, [*problems, *declared.passed_over], failures, changed=not (wrong or dry_run)))
        )
    else:
        _show(found, failures, wrong=wrong, dry_run=dry_run)
    return not wrong and not failures


def standing(client: "Client") -> "dict[str, Standing]":
    """The vmodels of the mesh, by name."""
    from modelmesh.declared import Standing

    found, _ = client.vmodels()
    return {one.id: Standing(one.active_model_id, one.target_model_id, one.owner) for one in found}


def enact(
    client: "Client",
    found: "Plan",
    *,
    load: bool = False,
    wait: bool = False,
    path_of: "Callable[[Wanted], str]" = lambda wanted: wanted.spec.model_path,
) -> Iterator[tuple[str, str]]:
    """Make the changes; yields those that failed, with the error. The others are made nevertheless.

    `path_of`: the path that a model is registered with.
    """
    import grpc

    from modelmesh.declared import Step

    for change in found.changes:
        if change.step is Step.KEEP:
            continue
        try:
            message = _enact(client, change, path_of, load=load, wait=wait)
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}:
                raise  # the next one would fare no better
            message = f"{error.details()} ({error.code().name})"
        if message:
            yield change.name, message


def _enact(client: "Client", change: "Change", path_of: "Callable[[Wanted], str]", *, load: bool, wait: bool) -> str:
    """Make one change; empty, or what is wrong with it."""
    from modelmesh._proto import model_mesh_pb2 as pb

    wanted = change.wanted
    if wanted is None:
        request = pb.DeleteVModelRequest(vModelId=change.name, owner=change.owner)
        client.call("mmesh.ModelMesh/deleteVModel", request, pb.DeleteVModelResponse)
        return ""
    info = client.call(
        "mmesh.ModelMesh/setVModel",
        pb.SetVModelRequest(
            vModelId=wanted.name,
            targetModelId=wanted.model_id,
            modelInfo=pb.ModelInfo(type=wanted.spec.type, path=path_of(wanted), key=wanted.spec.key),
            autoDeleteTargetModel=True,
            owner=wanted.owner,
            loadNow=load,
            sync=wait,
        ),
        pb.VModelStatusInfo,
        timeout_s=MOVE_TIMEOUT_S if wait else None,
        doing=f"setting {wanted.name}",
    )
    failed = pb.ModelStatusInfo.LOADING_FAILED
    if info.status == pb.VModelStatusInfo.TRANSITION_FAILED:
        return "; ".join(info.targetModelStatus.errors) or "its new model does not load"
    if wait and info.activeModelStatus.status == failed:
        return "; ".join(info.activeModelStatus.errors) or "its model does not load"
    return ""


def _show(found: "Plan", failures: "dict[str, str]", *, wrong: bool, dry_run: bool) -> None:
    from modelmesh.declared import Step

    for change in found.changes:
        if change.step is Step.KEEP and not dry_run:
            continue
        say(f"{_SIGNS[change.step.value]} {_line(change)}")
        if change.name in failures:
            say(f"error: {change.name}: {failures[change.name]}", error=True)
    counts = (
        ", ".join(f"{count} {_DONE[step.value]}" for step, count in found.steps.items() if count) or "nothing declared"
    )
    if wrong:
        say("nothing was changed", error=True)
    elif dry_run:
        say(f"would be: {counts}")
    else:
        say(counts if not failures else f"{counts}; {len(failures)} of them failed")


def _line(change: "Change") -> str:
    if change.wanted is None:
        assert change.standing is not None
        return f"{change.name} (was {change.standing.target})"
    moved = f"{change.standing.target} -> " if change.step.value == "move" and change.standing is not None else ""
    path = change.wanted.spec.model_path
    return f"{change.name}  {moved}{change.wanted.model_id}  {change.wanted.spec.type}  {path}"


def _as_json(
    found: "Plan", problems: "Sequence[Problem]", failures: "dict[str, str]", *, changed: bool
) -> dict[str, object]:
    return {
        "changed": changed,
        "changes": [
            {
                "vmodel": change.name,
                "step": change.step.value,
                "owner": change.owner,
                "from": change.standing.target if change.standing is not None else None,
                "to": change.wanted.model_id if change.wanted is not None else None,
                "type": change.wanted.spec.type if change.wanted is not None else None,
                "runtimes": list(change.wanted.choice.runtimes) if change.wanted is not None else None,
                "why": change.wanted.choice.why if change.wanted is not None else None,
                "error": failures.get(change.name),
            }
            for change in found.changes
        ],
        "problems": [
            {
                "source": problem.source,
                "resource": problem.resource,
                "path": problem.path,
                "message": problem.message,
                "fatal": problem.fatal,
            }
            for problem in problems
        ],
    }
