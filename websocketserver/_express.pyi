"""The C functions have the types of the Python ones, which are the specification."""

from .express import flush_at_once as flush_at_once
from .express import handle_at_once as handle_at_once
from .express import ping_at_once as ping_at_once
from .express import poll_at_once as poll_at_once
from .express import ready_at_once as ready_at_once
from .express import receive_at_once as receive_at_once
from .express import send_at_once as send_at_once
from .express import serve_at_once as serve_at_once
from .express import share_at_once as share_at_once

def renew() -> None: ...
