"""Express: with C the same happens as without, in fewer steps; what is not simple is left alone.

All other tests of connections go this way too, where C is built, and the other with WEBSOCKETSERVER_PURE=1.
"""
