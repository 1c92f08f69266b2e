"""`modelmesh access`: make keys for callers, and explain what an access document allows."""

import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh.policy.access import AccessRules, Unknown
    from modelmesh.values.access import Identity

KEY_BYTES = 32
"""Of randomness in a new key: it cannot be found by trying, so its plain hash may be in the document."""

access = typer.Typer(no_args_is_help=True, help="Who may do what: make keys, and explain an access document.")

Document = Annotated[
    Path,
    typer.Option(
        "--file", "-f", envvar="MM_ACCESS_PATH", help="The access document.", exists=True, dir_okay=False, readable=True
    ),
]


@access.command()
def key(as_json: Annotated[bool, typer.Option("--json", help="Print key and hash as JSON.")] = False) -> None:
    """Make a new API key. Give the key to the caller and write its hash into the access document."""
    from modelmesh.policy.access import KEY_HASH, hash_of_key

    new = f"mm_{secrets.token_urlsafe(KEY_BYTES)}"
    hashed = KEY_HASH + hash_of_key(new)
    if as_json:
        say(json.dumps({"key": new, "hash": hashed}))
    else:
        say(f"key:  {new}")
        say(f"hash: {hashed}")


@access.command("hash")
def hash_key() -> None:
    """Print the hash of an API key that is read from standard input, as the access document has it."""
    from modelmesh.policy.access import KEY_HASH, hash_of_key

    given = sys.stdin.readline().strip()
    if not given:
        say("modelmesh access hash: standard input has no key in its first line", error=True)
        raise typer.Exit(1)
    say(KEY_HASH + hash_of_key(given))


@access.command()
def check(
    credential: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="An API key; `-` reads it from standard input; `@NAME` means that principal."
        ),
    ],
    verb: Annotated[str, typer.Argument(help="infer, status, load, register or admin.")],
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Id of a model, or of a vmodel with --vmodel.")],
    document: Document,
    vmodel: Annotated[bool, typer.Option("--vmodel", help="The name is that of a vmodel.")] = False,
    listener: Annotated[str, typer.Option("--listener", help="By which port: grpc or rest.")] = "grpc",
    groups: Annotated[
        list[str] | None, typer.Option("--group", help="A group of the principal, as a token names it. Repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Explain whether a caller may do something with a model. Exits with 1 if not."""
    from modelmesh.instance.access_document import parse_access
    from modelmesh.policy.access import Decision, Unknown, decide, highest_priority
    from modelmesh.values.access import Identity, Kind, Listener, Verb

    try:
        rules = parse_access(document.read_text())
        wanted, port = Verb(verb), Listener(listener)
    except (OSError, ValueError) as error:
        say(f"modelmesh access check: {document}: {error}", error=True)
        raise typer.Exit(2) from error
    found = _who(rules, credential, groups or [])
    if isinstance(found, Unknown):
        who, decision = Identity(""), Decision(allowed=False, reason=found.reason)
    else:
        who, decision = found, decide(rules, found, wanted, Kind.VMODEL if vmodel else Kind.MODEL, name, port)
    highest = highest_priority(rules, who) if decision.allowed and wanted is Verb.INFER else None
    if as_json:
        answer = {"allowed": decision.allowed, "principal": who.name, "tenant": who.tenant, "reason": decision.reason}
        if highest is not None:
            answer |= {"highest_priority": highest.priority.word, "priority_reason": highest.reason}
        say(json.dumps(answer))
    else:
        caller = f"{who.name or 'an unknown caller'}{f' of tenant {who.tenant}' if who.tenant else ''}"
        bound = (
            f"; highest class of its calls: {highest.priority.word}, {highest.reason}" if highest is not None else ""
        )
        say(f"{'yes' if decision.allowed else 'no'}: {caller}: {decision.reason}{bound}")
    if not decision.allowed:
        raise typer.Exit(1)


def _who(rules: "AccessRules", credential: str, groups: list[str]) -> "Identity | Unknown":
    from modelmesh.policy.access import of_anonymous, of_key
    from modelmesh.values.access import Identity

    if credential.startswith("@"):
        named = credential[1:]
        known = rules.principals.get(named, Identity(named))
        return Identity(known.name, (*known.groups, *groups), known.tenant)
    given = sys.stdin.readline().strip() if credential == "-" else credential
    return of_key(rules, given) if given else of_anonymous(rules)
