"""Images of containers: rows of a table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class NotYetError(Exception):
    """A container cannot start now: something that it needs is missing. The message is shown in the pod's status."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a container of the image starts.

    Attributes:
        entrypoint, command: As an image has them; a container may replace either.
        environment: Variables.
        folder: In which it starts.
        layers: Folders whose content lies over the root of the machine.
        shared: Folders of the machine that containers see even if they are mounts of their own, which the overlay leaves out.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"
    layers: tuple[Path, ...] = ()
    shared: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Images:
    """Images by the pattern (a regular expression) of the references that mean them."""

    table: Mapping[str, Image]

    def find(self, reference: str) -> Image:
        """The first image whose pattern fits.

        Raises:
            NotYetError: None fits.
        """
        for pattern, image in self.table.items():
            if re.fullmatch(pattern, reference):
                return image
        raise NotYetError(f"image {reference} is not in the table of images")
