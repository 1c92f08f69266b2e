"""Writes the manifests of definitions and policies: `python -m modelmesh.kubernetes.admission [FOLDER]`."""

import sys
from pathlib import Path

import yaml

from modelmesh.kubernetes.admission.definitions import definitions
from modelmesh.kubernetes.admission.policies import policies

FOLDER = Path(__file__).parents[4] / "deploy" / "kubernetes" / "serving"
_MADE = "# Made by `make docs` from src/modelmesh/kubernetes/admission.\n"


def manifests() -> dict[str, str]:
    """Text by path below the folder of manifests."""
    files = {f"crds/{name}.yaml": [definition] for name, definition in definitions().items()}
    files["admission/policies.yaml"] = policies()
    return {
        path: _MADE + yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120)
        for path, objects in files.items()
    }


class _Dumper(yaml.SafeDumper):
    """Without anchors, which people do not expect in manifests."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for path, text in manifests().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
