"""Peers that nobody here wrote: npm websocket, npm ws, Python websockets, Chromium, nginx.

The Node ones are installed by ``npm ci --ignore-scripts`` in this folder. Where a tool is missing its tests are
skipped, except in CI.
"""
