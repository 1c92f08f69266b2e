"""Documents of the operator that take effect while an instance runs: read at the start, and again when they change."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modelmesh.adapters.files import WatchedFile
from modelmesh.control.plane import ControlPlane
from modelmesh.instance.access_document import parse_access
from modelmesh.instance.documents import parse_constraints, parse_methods, parse_static_models
from modelmesh.instance.settings import Settings, SettingsError
from modelmesh.management.access import Access
from modelmesh.management.static import StaticModel
from modelmesh.policy.access import AccessRules

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class LiveDocuments:
    """The files to follow, and what is registered once."""

    watched: tuple[WatchedFile[Any], ...]
    static_models: tuple[StaticModel, ...]

    def follow(self, plane: ControlPlane) -> None:
        """Take changes from now on, until the plane's tasks end."""
        for file in self.watched:
            plane.tasks.start(file.run(), f"watch {file.path}")


def read_documents(settings: Settings, plane: ControlPlane, access: Access) -> LiveDocuments:
    """Apply the documents as they are now.

    Raises:
        SettingsError: One cannot be read or used; the message names its setting.
    """
    watched: list[WatchedFile[Any]] = []

    def take(
        name: str, text: str, path: Path | None, parse: Callable[[str], Parsed], use: Callable[[Parsed], None]
    ) -> None:
        try:
            if path is not None:
                file = WatchedFile(path, parse, use, lambda why: _refused(plane, name, why))
                file.read()
                watched.append(file)
            elif text:
                use(parse(text))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{name}{'_PATH' if path is not None else ''}: {error}") from error

    take(
        "MM_TYPE_CONSTRAINTS",
        settings.type_constraints,
        settings.type_constraints_path,
        parse_constraints,
        plane.constrain,
    )
    take(
        "MM_DATAPLANE_CONFIG",
        settings.dataplane_config,
        settings.dataplane_config_path,
        parse_methods,
        plane.allow_methods,
    )

    def use_access(rules: AccessRules) -> None:
        access.use(rules)
        plane.tenants.limit(rules.tenants)
        principals, grants = len(rules.principals), len(rules.grants)
        plane.journal.note("access_changed", detail=f"{principals} principals, {grants} grants")

    take("MM_ACCESS", "", settings.access_path, parse_access, use_access)
    return LiveDocuments(tuple(watched), tuple(_static_models(settings)))


def _static_models(settings: Settings) -> list[StaticModel]:
    found: list[StaticModel] = []
    try:
        if settings.static_models_path is not None:
            found += parse_static_models(settings.static_models_path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"MM_AUTO_REGISTER_MODEL_PATH: {error}") from error
    try:
        if settings.static_models:
            found += parse_static_models(settings.static_models)
    except ValueError as error:
        raise SettingsError(f"MM_AUTO_REGISTER_MODELS: {error}") from error
    return found


def _refused(plane: ControlPlane, name: str, why: str) -> None:
    plane.journal.note("document_refused", detail=f"{name}: {why}; what was read before holds")
