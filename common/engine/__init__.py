"""Engines: where work that outgrows one process runs; `local` (processes of this machine) or `ray` (a cluster)."""
