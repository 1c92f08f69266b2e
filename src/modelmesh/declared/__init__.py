"""Manifests: resources of `serving.kserve.io` to what must be in a mesh. Pure.

The same code serves `modelmesh apply` and `modelmesh up -f`, which read files, and a controller, which reads Kubernetes. Read
first: `resources` (which kinds there are), then `spec` (the model that a resource asks for, and its id), then `choice`
(which runtime takes it). Nothing here raises for the content of a resource: it returns every problem, with the path of its
field.
"""

from modelmesh.declared.choice import Choice, Verdict, choose
from modelmesh.declared.documents import Document, read_documents
from modelmesh.declared.plan import OWNERS, Change, Plan, Standing, Step, plan
from modelmesh.declared.problems import Problem
from modelmesh.declared.resources import Declared, Wanted, declare
from modelmesh.declared.runtimes import Runtime
from modelmesh.declared.spec import ModelSpec, StorageSpec

__all__ = [
    "OWNERS",
    "Change",
    "Choice",
    "Declared",
    "Document",
    "ModelSpec",
    "Plan",
    "Problem",
    "Runtime",
    "Standing",
    "Step",
    "StorageSpec",
    "Verdict",
    "Wanted",
    "choose",
    "declare",
    "plan",
    "read_documents",
]
