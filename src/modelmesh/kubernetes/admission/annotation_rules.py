"""Rules that look at annotations, which only policies see. Source: spec/serving-controller.md 1.2 and 1.4."""

from modelmesh.declared.inference_services import (
    DEPLOYMENT_MODE,
    FRAMEWORKS,
    MESH_MODE,
    RUNTIME,
    WHOLE_URI,
)
from modelmesh.declared.runtimes import SCALERS
from modelmesh.kubernetes.admission.rules import Rule
from modelmesh.kubernetes.demand import CALLS, SAVED

NOTES = "variables.annotations"
"""CEL: the annotations, an empty mapping if there are none."""

_CLASS = "serving.kserve.io/autoscalerClass"
_METRIC = "serving.kserve.io/metrics"
_TARGET = "serving.kserve.io/targetUtilizationPercentage"
_LEAST, _MOST = "serving.kserve.io/min-scale", "serving.kserve.io/max-scale"
_HPA = f"('{_CLASS}' in {NOTES} && {NOTES}['{_CLASS}'] == 'hpa')"
_SCALED = f"('{_CLASS}' in {NOTES} && {NOTES}['{_CLASS}'] != 'none')"


def _number(name: str, least: int, most: int = 2**31 - 1, *, where: str = "true") -> Rule:
    value = f"{NOTES}['{name}']"
    most_said = f" and at most {most}" if most < 2**31 - 1 else ""
    sentence = f"{name}: must be a whole number of at least {least}{most_said}"
    return Rule(
        f"!({where}) || !('{name}' in {NOTES})"
        f" || ({value}.matches('^[0-9]{{1,10}}$') && int({value}) >= {least} && int({value}) <= {most})",
        sentence,
        f"'{sentence}, is ' + {value}",
    )


RUNTIME_ANNOTATIONS: tuple[Rule, ...] = (
    _number("maxLoadingConcurrency", 1),
    _number("perModelConcurrencyLimit", 0),
    Rule(
        f"!('{_CLASS}' in {NOTES}) || {NOTES}['{_CLASS}'] in {list(SCALERS)}",
        f"{_CLASS}: must be one of {', '.join(SCALERS)}",
        f"'{_CLASS}: must be one of {', '.join(SCALERS)}, is ' + {NOTES}['{_CLASS}']",
    ),
    _number(_TARGET, 1, 100),
    *(_number(name, 1, 1_000_000) for name in (CALLS, SAVED)),
    Rule(
        f"!{_HPA} || !('{_METRIC}' in {NOTES}) || {NOTES}['{_METRIC}'] in ['cpu', 'memory']",
        f"{_METRIC}: must be cpu or memory",
        f"'{_METRIC}: must be cpu or memory, is ' + {NOTES}['{_METRIC}']",
    ),
    Rule(
        f"!{_SCALED} || !has(SPEC.replicas)",
        f"{_CLASS}: is set, so it sets the replicas; take spec.replicas away",
        f"'{_CLASS}: is ' + {NOTES}['{_CLASS}'] + ', which sets the replicas; take spec.replicas away'",
    ),
    _number(_LEAST, 1, where=_SCALED),
    _number(_MOST, 1, where=_SCALED),
    Rule(
        f"""!{_SCALED} || !('{_LEAST}' in {NOTES}) || !('{_MOST}' in {NOTES})
        || !{NOTES}['{_LEAST}'].matches('^[0-9]{{1,10}}$') || !{NOTES}['{_MOST}'].matches('^[0-9]{{1,10}}$')
        || int({NOTES}['{_MOST}']) >= int({NOTES}['{_LEAST}'])""",
        f"{_MOST}: must be at least {_LEAST}",
    ),
)
"""Of multi-model runtimes."""

MESH_SERVICE = f"'{DEPLOYMENT_MODE}' in {NOTES} && {NOTES}['{DEPLOYMENT_MODE}'] == '{MESH_MODE}'"
"""CEL: whether an InferenceService is for the mesh."""

_SCHEMES = ("s3", "gs", "pvc", "http", "https", *WHOLE_URI)

INFERENCE_SERVICE: tuple[Rule, ...] = (
    Rule(
        " || ".join(f"has(SPEC.predictor.{name})" for name in ("model", *FRAMEWORKS)),
        f"predictor.model: is required, or one of {', '.join(FRAMEWORKS)}",
    ),
    Rule(
        f"!has(SPEC.predictor.model) || !({' || '.join(f'has(SPEC.predictor.{name})' for name in FRAMEWORKS)})",
        "predictor.model: a framework is set beside it; set only one of them",
    ),
    Rule(
        f"!has(SPEC.predictor.model) || !('{RUNTIME}' in {NOTES})",
        f"{RUNTIME}: belongs to the old form; use spec.predictor.model.runtime",
    ),
    Rule(
        """variables.models.all(m, !(has(m.storageUri) && has(m.storage) && has(m.storage.path)))""",
        "storageUri: is set beside storage.path; set only one of them",
    ),
    Rule(
        "variables.models.all(m, has(m.storageUri) || (has(m.storage) && has(m.storage.path)))",
        "storageUri: is required, or storage.path",
    ),
    Rule(
        f"variables.models.all(m, !has(m.storageUri) || m.storageUri.matches('^({'|'.join(_SCHEMES)}):'))",
        f"storageUri: has an unknown scheme; known are {', '.join(_SCHEMES)}",
    ),
)
"""Of InferenceServices for the mesh."""

MODELS = " : ".join(
    [
        *(
            f"has(object.spec.predictor.{name}) ? [dyn(object.spec.predictor.{name})]"
            for name in ("model", *FRAMEWORKS)
        ),
        "[]",
    ]
)
"""CEL: the model of an InferenceService in a list; empty if it has none."""
