"""`modelmesh puller`: a process in front of any runtime that pulls the files of its models."""

import asyncio
import os

import typer


def puller() -> None:
    """Pull model files for a runtime that implements mmesh.ModelRuntime, and forward its calls.

    Settings are the environment of the puller's container: PORT (8084), MODEL_SERVER_ENDPOINT (port:8085 or unix:PATH),
    ROOT_MODEL_DIR (/models), STORAGE_CONFIG_DIR (/storage-config), PVC_MOUNTS_DIR (/pvc_mounts), LOG_LEVEL (debug: for
    people, else JSON); and MODEL_CACHE_BYTES (pulled files that are kept; unset: those of loaded models),
    MODEL_CACHE_DIR, METRICS_PORT (/metrics, /live, /ready; unset: none), MODELSIZE_MULTIPLIER (1.25).

    Ends after SIGTERM or Ctrl-C, when running loads and unloads have ended.
    """
    from modelmesh.puller.main import serve_puller, set_up_logs
    from modelmesh.puller.settings import read_settings

    try:
        settings = read_settings(os.environ)
        set_up_logs(plain=settings.plain_logs)
        asyncio.run(serve_puller(settings))
    except (OSError, ValueError) as error:
        typer.echo(f"modelmesh puller: {error}", err=True)
        raise typer.Exit(1) from error
