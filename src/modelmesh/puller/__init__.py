"""The puller: in front of any runtime: pulls the files of models and passes their path to the runtime.

    mesh ── mmesh.ModelRuntime ──▶ puller (8086) ── mmesh.ModelRuntime, path and key rewritten ──▶ runtime

Here belongs the process in the middle; files and where they come from are `modelmesh.storage`. Reading order: `settings`,
`service` (what it answers), `turns` (in which order), `upstream` (the runtime), `main` (start and stop).
"""
