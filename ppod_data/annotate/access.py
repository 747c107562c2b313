"""Access to the labelling page: which requests are answered.

Requests are checked before they are read: the Host header, so that no other site reaches a loopback address under its
own name; the origin of the request; and beyond loopback the token of the address, which a cookie carries from then on.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable

from starlette.datastructures import URL
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from ppod_data.support.http import is_json, is_loopback, is_same_origin, requested_host

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_OPEN_ADDRESS = "open the whole address that ppod-pair label printed, with its token, in this browser"


def guard(token: str | None) -> Callable[[Request, RequestResponseEndpoint], Awaitable[Response]]:
    """Return a dispatch function of a middleware that rejects requests without access and sets headers of security.

    Args:
        token: secret that the address must carry once, as `/?token=…`; None if only this machine can connect.
    """

    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = _access_response(request, token)
        if response is None:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    return dispatch


def _access_response(request: Request, token: str | None) -> Response | None:
    """Return a response that rejects a request or sets the token's cookie; None if the request may continue."""
    if token is None and not is_loopback(requested_host(request)):
        return _rejection(request, "open the address that ppod-pair label printed", 403)
    if request.method == "POST":
        if not is_same_origin(request):
            return _rejection(request, "rejected: the request comes from another site", 403)
        if not is_json(request):
            return _rejection(request, "send JSON", 415)
    if token is None:
        return None
    given = request.query_params.get("token")
    if given is not None and _equal(given, token):
        redirect = RedirectResponse(str(URL(request.url.path or "/")), 303)
        # "lax", because "strict" would fail for a link in a mail.
        redirect.set_cookie(_cookie(token), token, httponly=True, samesite="lax")
        return redirect
    if not _equal(request.cookies.get(_cookie(token), ""), token):
        return _rejection(request, _OPEN_ADDRESS, 403)
    return None


def _cookie(token: str) -> str:
    """Return the name of the token's cookie, which differs between sessions.

    Browsers send a cookie to all ports of a host, so one name would log a browser out of another session there.
    """
    return "ppod_label_" + hashlib.sha256(token.encode()).hexdigest()[:8]


def _rejection(request: Request, reason: str, status: int) -> Response:
    """Return the reason as JSON to the page's requests, which show it, and as text to the address bar."""
    return (
        JSONResponse({"error": reason}, status)
        if request.method == "POST"
        else PlainTextResponse(reason, status)
    )


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
