"""Who names a Secret of a model's own must be allowed to read it: rules that only policies can check, by asking for rights.

Without them whoever may create models of a namespace could use the keys of all its teams.
"""

from modelmesh.declared.inference_services import SECRET_KEY
from modelmesh.kubernetes.admission.annotation_rules import MODELS
from modelmesh.kubernetes.admission.rules import Rule
from modelmesh.values.storage_keys import secret_of

_MODEL_KEYS = (
    f"(({MODELS}).map(m, has(m.storage) && has(m.storage.key) ? string(m.storage.key) : '')"
    f" + [has(object.metadata.annotations) && '{SECRET_KEY}' in object.metadata.annotations"
    f" ? object.metadata.annotations['{SECRET_KEY}'] : ''])"
)
_PREDICTOR_KEYS = (
    "(has(object.spec.storage) ? [has(object.spec.storage.key) ? object.spec.storage.key : '',"
    " has(object.spec.storage.s3) ? object.spec.storage.s3.secretKey : ''] : [])"
)


def _variables(keys: str) -> list[dict[str, str]]:
    before = keys.replace("object.", "oldObject.")
    return [
        {"name": "keys", "expression": keys},
        {"name": "before", "expression": f"oldObject == null ? [] : {before}"},
    ]


SERVICE_KEYS = _variables(_MODEL_KEYS)
"""Variables: the storage keys that an InferenceService names now, and named before."""

PREDICTOR_KEYS = _variables(_PREDICTOR_KEYS)
"""The same of a Predictor."""

_NEW = "variables.keys.filter(k, k.contains(':') && !(k in variables.before))"
_NAME = f"'{secret_of('')}' + {{key}}.split(':')[0]"
_MAY_READ = (
    f"authorizer.group('').resource('secrets').namespace(request.namespace).name({_NAME.format(key='k')})"
    ".check('get').allowed()"
)

READABLE = (
    Rule(
        f"{_NEW}.all(k, {_MAY_READ})",
        "storage.key: names a Secret that you may not read",
        f"'storage.key: names the Secret ' + {_NAME.format(key=f'{_NEW}[0]')} + ', which you may not read'",
    ),
)
"""Only keys that are new: others may change a resource without rights to its Secret, as controllers do."""
