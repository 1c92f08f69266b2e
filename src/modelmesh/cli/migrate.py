"""`modelmesh migrate`: what will happen when the controller takes over from ModelMesh Serving's."""

import json
from pathlib import Path
from typing import Annotated

import typer

migrate = typer.Typer(help="Move over from ModelMesh Serving.", no_args_is_help=True, rich_markup_mode=None)


@migrate.callback()
def root() -> None:
    """Move over from ModelMesh Serving."""


@migrate.command()
def check(
    files: Annotated[
        list[Path],
        typer.Option("--file", "-f", help="Objects as kubectl get -o yaml shows them; - reads standard input."),
    ],
    namespace: Annotated[str, typer.Option(help="Of the controller.")] = "modelmesh-serving",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for machines.")] = False,
) -> None:
    """Show what will happen to each resource, and change nothing.

    Give it what is there: kubectl get servingruntimes,clusterservingruntimes,inferenceservices,predictors,configmaps,deployments,validatingwebhookconfigurations -A -o yaml.
    Exits with status 1 if something must be mended first.
    """
    import sys

    from modelmesh.cli.text import say
    from modelmesh.declared import read_documents
    from modelmesh.kubernetes import migration

    documents = []
    for file in files:
        try:
            text = sys.stdin.read() if file == Path("-") else file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            typer.echo(f"modelmesh migrate: {file}: {error}", err=True)
            raise typer.Exit(1) from error
        found, problems = read_documents(str(file), text)
        documents.extend(found)
        for problem in problems:
            typer.echo(f"modelmesh migrate: {problem}", err=True)
        if problems:
            raise typer.Exit(1)
    findings = migration.check(documents, home=namespace)
    if as_json:
        typer.echo(json.dumps(migration.as_json(findings)))
    else:
        for one in findings:
            say(f"{'!' if one.stops else ' '} {one.what}: {one.says}")
    if any(one.stops for one in findings):
        raise typer.Exit(1)
