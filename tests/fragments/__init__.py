"""Fragments: messages received in pieces as they arrive, and sent in pieces as they are made."""
