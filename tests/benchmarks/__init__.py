"""How fast this is, beside its peers: ``python -m tests.benchmarks``."""
