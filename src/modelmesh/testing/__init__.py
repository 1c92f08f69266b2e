"""Public fakes: for our tests, our simulator, and the tests of those who build on ModelMesh.

`clock` virtual time · `dataplane` a small data plane in Python · `network` between several · `cluster` whole clusters on one
loop · `store` faults of a store · `fake_runtime` and `runtime` model servers in memory and on a socket ·
`conformance` a suite for any runtime · `etcd` a real etcd process.

`campaign` plays many seeds of `simulation`: a `world`, its `faults`, the `invariants` · `scenario` plays transcripts ·
`sizing` serves a `workload`, `replay` the `traces` that eviction policies are compared on.
"""
