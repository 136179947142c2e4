"""Files for browsers: kept by them, and asked for again with their tag."""

import hashlib

from litestar import Request, Response
from litestar.datastructures import State

AnyRequest = Request[object, object, State]


def static_file(request: AnyRequest, content: bytes, media_type: str, policy: str) -> Response[bytes]:
    """A file that browsers keep, and of which they ask whether it is still the same.

    Args:
        request: Its `If-None-Match` names the content that the browser has.
        content: Of the file.
        media_type: Of the file.
        policy: Its `Content-Security-Policy`.
    """
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": policy}
    if request.headers.get("if-none-match") == tag:
        return Response(b"", status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
