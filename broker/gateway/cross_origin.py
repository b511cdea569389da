"""Cross-origin requests: which web pages may call AWS's protocol from a browser, and the headers that tell browsers.

Where signatures are checked, a page without an access key can do nothing, so every page may call, as at AWS. Where
anybody may call, a page of any web site that a developer visits could write to the broker on his machine: there only
the origins of the setting `cors_origins` may call. A request that names another origin is refused even if its browser
never asked beforehand, which also stops a site that has its own name resolve to this machine.

Source: Fetch Standard, "HTTP extensions" (CORS protocol).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Collection

_ANY_ORIGIN: Final = "*"
# How long a browser may remember what it was allowed; browsers have lower limits of their own.
_PREFLIGHT_SECONDS: Final = 172_800
_METHODS: Final = "POST, GET, OPTIONS"
_EXPOSED: Final = "x-amzn-RequestId, x-amz-crc32, Content-Encoding"


class CrossOrigin:
    """The origins that may call."""

    def __init__(self, origins: Collection[str] | None) -> None:
        """Allow these origins, or all of them if `origins` is None."""
        self._origins = origins

    def allows(self, origin: str) -> bool:
        """Report whether pages of an origin may call."""
        return self._origins is None or origin in self._origins

    def headers(self, origin: str) -> dict[str, str]:
        """Return the headers of a response to a page of an allowed origin."""
        if self._origins is None:
            return {"Access-Control-Allow-Origin": _ANY_ORIGIN, "Access-Control-Expose-Headers": _EXPOSED}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _EXPOSED,
            # Caches must not give the response to another page.
            "Vary": "Origin",
        }

    def preflight(self, request: web.BaseRequest) -> web.Response:
        """Answer OPTIONS: by this a browser asks whether a page may send what it wants to send."""
        origin = request.headers.get("Origin")
        if origin is None:
            return web.Response(headers={"Allow": _METHODS})
        if not self.allows(origin):
            return web.Response(status=HTTPStatus.FORBIDDEN, text=refusal(origin))
        headers = {
            **self.headers(origin),
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        }
        wanted = request.headers.get("Access-Control-Request-Headers")
        if wanted is not None:
            # Any header may be sent; the signature says which of them matter.
            headers["Access-Control-Allow-Headers"] = wanted
        return web.Response(headers=headers)


def refusal(origin: str) -> str:
    """Say why a page of an origin may not call."""
    return f"Web pages of {origin[:128]!a} may not call this broker; the setting cors_origins names those that may"
