"""Cookies: what a Cookie header says, and what a Set-Cookie header may say (RFC 6265, section 4).

Imports  grammar. Values in, values out.
Never    lets a malformed cookie break a request: those are passed over. What we set ourselves is checked strictly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from email.utils import format_datetime

from .grammar import is_token

__all__ = ["format_cookie", "format_cookies", "parse_cookies"]

_match_value = re.compile(r'[!#-+\--:<-\[\]-~]*|"[!#-+\--:<-\[\]-~]*"').fullmatch  # cookie-value: cookie-octets
_match_attribute = re.compile(r"[!-:<-~]+").fullmatch  # no control character, blank or ";"


def parse_cookies(value: str) -> list[tuple[str, str]]:
    """Return the (name, value) pairs of a Cookie header in order, duplicates kept, malformed ones left out.

    The quotes around a value are taken off; percent signs mean nothing.
    """
    pairs = []
    for part in value.split(";"):
        name, equals, content = part.partition("=")
        name, content = name.strip(" \t"), content.strip(" \t")
        if len(content) > 1 and content[0] == content[-1] == '"':
            content = content[1:-1]
        if equals and is_token(name):
            pairs.append((name, content))
    return pairs


def format_cookies(cookies: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """Return the value of a client's Cookie header; raises ValueError for names and values it may not have."""
    pairs = cookies.items() if isinstance(cookies, Mapping) else cookies
    return "; ".join(_format_pair(name, value) for name, value in pairs)


def format_cookie(
    name: str,
    value: str,
    *,
    path: str | None = None,
    domain: str | None = None,
    expires: datetime | None = None,
    max_age: int | None = None,
    secure: bool = False,
    httponly: bool = False,
    samesite: str | None = None,
) -> str:
    """Return the value of a Set-Cookie header.

    ``expires`` is an aware datetime, ``max_age`` seconds (0 deletes the cookie), ``samesite`` "Strict", "Lax" or
    "None" (which browsers take with ``secure`` only). Raises ValueError or TypeError for what may not be sent.
    """
    parts = [_format_pair(name, value)]
    if path is not None:
        parts.append(f"Path={_checked_path(path)}")
    if domain is not None:
        parts.append(f"Domain={_checked('domain', domain).lower()}")
    if expires is not None:
        parts.append(f"Expires={_http_date(expires)}")
    if max_age is not None:
        parts.append(f"Max-Age={_checked_age(max_age)}")
    if secure:
        parts.append("Secure")
    if httponly:
        parts.append("HttpOnly")
    if samesite is not None:
        parts.append(f"SameSite={_checked_samesite(samesite, secure)}")
    return "; ".join(parts)


def _format_pair(name: str, value: str) -> str:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"cookie name and value must be str, not {type(name).__name__} and {type(value).__name__}")
    if not is_token(name):
        raise ValueError(f"cookie name must be a token, not {name!r}")
    if not _match_value(value):  # RFC 6265, 4.1.1
        raise ValueError(
            f"value of cookie {name} must be visible ASCII without blanks, commas, semicolons, backslashes and "
            "inner quotes; encode it, for example with urllib.parse.quote()"
        )
    return f"{name}={value}"


def _checked(attribute: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{attribute} of a cookie must be a str, not {type(value).__name__}")
    if not _match_attribute(value):
        raise ValueError(f"{attribute} of a cookie must be visible ASCII without blanks and semicolons, not {value!r}")
    return value


def _checked_path(path: str) -> str:
    if not _checked("path", path).startswith("/"):  # RFC 6265, 5.2.4: browsers would take another path then
        raise ValueError(f"path of a cookie must begin with a slash, not {path!r}")
    return path


def _http_date(moment: datetime) -> str:
    if not isinstance(moment, datetime):
        raise TypeError(f"expires of a cookie must be a datetime, not {type(moment).__name__}")
    if moment.tzinfo is None:
        raise ValueError("expires of a cookie must have a time zone, for example datetime.now(timezone.utc)")
    return format_datetime(moment.astimezone(timezone.utc), usegmt=True)


def _checked_age(seconds: int) -> int:
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise TypeError(f"max_age of a cookie must be an int, not {type(seconds).__name__}")
    if seconds < 0:
        raise ValueError(f"max_age of a cookie must be 0 or more seconds, not {seconds}")
    return seconds


def _checked_samesite(samesite: str, secure: bool) -> str:
    if samesite not in ("Strict", "Lax", "None"):
        raise ValueError(f'samesite of a cookie must be "Strict", "Lax" or "None", not {samesite!r}')
    if samesite == "None" and not secure:
        raise ValueError('samesite="None" needs secure=True: browsers drop the cookie otherwise')
    return samesite
