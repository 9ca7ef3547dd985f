"""What goes over the wire: bytes in, values out.

No socket, thread, clock, log or randomness of its own: what is needed of them comes in as arguments.
Each section of RFC 6455 has its file here.
"""
