"""The Kubernetes controller: resources of `serving.kserve.io` become Deployments, Services and models of a mesh.

`config` reads the layered configuration, `render` says which objects there must be; both are pure.
`loop` observes the cluster and enacts what is decided, through `ports`, which `adapters` implement.
"""
