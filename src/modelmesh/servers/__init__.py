"""Adapters: a process beside another model server that implements `mmesh.ModelRuntime` for it.

Inference calls are sent directly from the instance to the server; only loads, unloads and sizes pass the adapter. Each server is one file
with a layout (pure: which files the server wants) and a driver (its API). What all share: `adapter` loads and unloads a
model, `epochs` serves again after each restart of the server, `sizes` computes the size of a model. Reading order: `driver`,
`adapter`, `epochs`, then a server, `mlserver` first.
Source: spec/runtime-adapters.md 4 to 9.
"""
