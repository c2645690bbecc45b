"""The API of the Prefect server, asked once and never in vain for long."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from sciflow.errors import Failed

BATCH = 200
"""What a server gives back in one answer, and log lines in one request."""


class Away(Failed):
    """The server did not answer, or not with what was asked for."""


class Refused(Failed):
    """The server will never take this request."""


class Server:
    """The configured Prefect server, asked without retries: after a doubtful answer it is asked what it has.

    Use it as a context manager.
    """

    def __enter__(self) -> Server:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        self._stack = contextlib.ExitStack()
        self._stack.enter_context(temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}))
        try:
            self._client = self._stack.enter_context(get_client(sync_client=True))
        # The client asks for the server's version here, and wraps what goes wrong.
        except Exception as error:
            self._stack.close()
            raise Away(f"the Prefect server does not answer: {error}") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request; the answer's JSON, None where there is none or nothing was found.

        Raises
        ------
        Away
            If it was not answered, or only with an error that may pass.
        Refused
            If it was refused for good.
        """
        import httpx

        try:
            answer = self._client.request(method, path, json=None if body is None else finite(body))
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status == 404:
                return None
            if status >= 500 or status in (401, 403, 408, 429):
                raise Away(f"the Prefect server answered {status} to {method} {path}") from error
            raise Refused(f"{method} {path}: {status} {error.response.text[:300]}") from error
        except httpx.HTTPError as error:
            raise Away(f"the Prefect server does not answer: {type(error).__name__}: {error}") from error
        return answer.json() if answer.content else None

    def all(self, path: str, body: Mapping[str, Any]) -> list[Any]:
        """Everything that a filter finds, page by page."""
        found: list[Any] = []
        while True:
            page = self.ask("POST", path, {**body, "limit": BATCH, "offset": len(found)}) or []
            found += page
            if len(page) < BATCH:
                return found


def finite(value: Any) -> Any:
    """JSON without what a server cannot store: numbers that are none, and null characters."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
