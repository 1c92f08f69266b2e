"""The services that Python answers, over the control plane.

Reading order: `calls` (how a call of the data plane becomes a coroutine), then one file per service:
`models`, `admin`, `peer`, `health`, `reflection`; `services` puts them together.
"""
