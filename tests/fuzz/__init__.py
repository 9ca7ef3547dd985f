"""Coverage-guided fuzzing of what reads bytes from peers: ``python3 -m tests.fuzz``."""
