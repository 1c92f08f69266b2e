"""What the API server refuses: the definitions of the resources, and policies over them. Pure.

`python -m modelmesh.kubernetes.admission` writes the manifests in deploy/kubernetes/serving from this. The rules are those
of `declared`, which are checked again when a resource is read: a cluster may lack the policies.
"""
