"""What a browser may do with our answers: Content-Security-Policy (CSP Level 3) and the headers beside it.

One policy per kind of page, by its path; whatever has none of its own may do nothing at all. No policy allows inline scripts,
inline styles or another host. Written here and not taken from django-csp: four constant strings need no policy builder.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

OF_NOTHING = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"  # the empty string
OF_SCROLLBAR = "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='"  # what ReDoc writes for its scroll bar

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
OWN_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# unfold's pages are Alpine templates, which it compiles with `new Function`; inline scripts stay forbidden
ADMIN = OWN_PAGE.replace("script-src 'self'", "script-src 'self' 'unsafe-eval'")
# ReDoc fills <style> elements, empty in the document, by script, and one of fixed text; it searches in a worker of its own
DOCUMENTATION = (
    OWN_PAGE.replace("style-src 'self'", f"style-src 'self' {OF_NOTHING} {OF_SCROLLBAR}") + "; worker-src blob:"
).replace("form-action 'self'", "form-action 'none'")

POLICIES = {"/admin": ADMIN, "/v1/docs": DOCUMENTATION, "/v1/redoc": DOCUMENTATION}  # by the beginning of the path

UNUSED_FEATURES = (
    "accelerometer", "autoplay", "bluetooth", "browsing-topics", "camera", "display-capture", "encrypted-media", "fullscreen",
    "geolocation", "gyroscope", "hid", "identity-credentials-get", "magnetometer", "microphone", "midi", "payment",
    "picture-in-picture", "publickey-credentials-get", "screen-wake-lock", "serial", "usb", "web-share", "xr-spatial-tracking",
)  # fmt: skip
PERMISSIONS = ", ".join([*(f"{name}=()" for name in UNUSED_FEATURES), "clipboard-read=()", "clipboard-write=(self)"])


class ContentSecurityMiddleware:
    """Puts the headers on every answer, those of static files and of refusals included."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer with the policy of the path; what the view has set itself stays."""
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", policy_for(request.path, response))
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        response.headers.setdefault("Permissions-Policy", PERMISSIONS)
        if caching := _caching(request, response):
            response.headers.setdefault("Cache-Control", caching)
        return response


def policy_for(path: str, response: HttpResponse) -> str:
    """The policy of an answer: its own for a page of ours, nothing allowed for everything else."""
    if not response.headers.get("Content-Type", "").startswith("text/html"):
        return NOTHING
    return next((policy for start, policy in POLICIES.items() if _is_below(path, start)), OWN_PAGE)


def _is_below(path: str, start: str) -> bool:
    return path == start or path.startswith(f"{start}/")


def _caching(request: HttpRequest, response: HttpResponse) -> str:
    """What belongs to a caller is kept by nobody; with an entity tag the caller may keep it, and asks each time."""
    if "Authorization" not in request.headers:
        return ""
    return "private, no-cache" if response.has_header("ETag") else "no-store"
