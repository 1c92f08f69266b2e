"""The control plane of one instance: observe → decide → enact, over the ports alone.

Reading order: `plane` (what there is and how it starts), `observe` (the store's changes become the
view), `requests` (a held request's way to an answer), `decide` (policies and the rules that span
them), `cache` (copies and memory), `enact` (store transactions), `membership` (lease and entry),
`link` (the runtime). What does not belong here: sockets, files, clocks, process start.
"""
