"""Adapters: our process beside a foreign model server, which speaks `mmesh.ModelRuntime` to the mesh for it.

Inference goes straight from the instance to the server; only loads, unloads and sizes pass here. Each server is one file
with a layout (pure: which files the server wants) and a driver (its API). What all share: `adapter` loads and unloads a
model, `epochs` serves one life of the server after the other, `sizes` tells what a model takes. Reading order: `driver`,
`adapter`, `epochs`, then a server, `mlserver` first.
Source: spec/runtime-adapters.md 4 to 9.
"""
