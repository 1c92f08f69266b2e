"""One running instance: settings, and the one place where everything is put together.

`settings` what an operator sets · `wire` ports to adapters · `main` start, run, stop · `local_etcd`
and `processes` child processes for `modelmesh up`.
"""
