"""The C twins have the types of the Python twins, which are the specification."""

from .frames import FrameParser as FrameParser
from .frames import serialize as serialize
from .frames import serialize_header as serialize_header
from .masking import mask as mask
from .masking import mask_in_place as mask_in_place
from .payload import PayloadBuffer as PayloadBuffer
from .utf8 import Utf8Validator as Utf8Validator
from .utf8 import decode as decode
from .utf8 import encode as encode
from .wholehead import split_request as split_request
from .wholehead import split_response as split_response
