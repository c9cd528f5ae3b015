"""What a Postgres server says when something goes wrong, and what that means for a commit."""

from __future__ import annotations

__all__ = [
    "STORE_ERRORS",
    "ConnectionLost",
    "ServerError",
    "is_outcome_unknown",
    "is_retryable",
    "is_server_unfit",
    "server_error",
    "severity",
]


class ConnectionLost(Exception):
    """The connection failed, was closed, or cannot be made; the text names the kind."""


class ServerError(Exception):
    """An error that the server reported: its severity and SQLSTATE, and its words."""

    def __init__(self, severity: str, sqlstate: str, words: str) -> None:
        super().__init__(f"{sqlstate} {words}")
        self.severity = severity
        self.sqlstate = sqlstate


STORE_ERRORS = (ConnectionLost, ServerError)
"""What a broken store can raise on a lane's kind of connection."""


def _fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their letters."""
    return {
        field[:1].decode("ascii", "replace"): field[1:].decode("utf-8", "replace")
        for field in body.split(b"\0")
        if field
    }


def server_error(body: bytes) -> ServerError:
    """What an ErrorResponse says. Its severity is the one that is in no language (V)."""
    fields = _fields(body)
    return ServerError(fields.get("V", ""), fields.get("C", ""), fields.get("M", ""))


def severity(body: bytes) -> str:
    """The severity of a NoticeResponse, in no language."""
    return _fields(body).get("V", "")


def is_outcome_unknown(error: BaseException) -> bool:
    """Whether a statement that ended with this error may still have been committed.

    True for everything but an error that the server reported about the statement itself: severity
    ERROR rolled it back, even where the server's own data are at fault (XX, 58). FATAL and PANIC,
    class 57P (shutdown, crash) and class 08 (connection) say nothing about the commit.
    """
    if not isinstance(error, ServerError):
        return True
    return error.severity != "ERROR" or error.sqlstate.startswith(("57P", "08"))


def is_retryable(error: BaseException) -> bool:
    """Deadlock, serialization failure, lock not available, cancelled by an operator.

    Nothing was done, and the batch is not to blame: decide again.
    """
    return getattr(error, "sqlstate", "") in ("40P01", "40001", "55P03", "57014")


def is_server_unfit(error: BaseException) -> bool:
    """No resources, a read-only server, no rights, no such database or function.

    Nothing was done. It is the server that cannot serve, not the batch that is bad.
    """
    return str(getattr(error, "sqlstate", "")).startswith(("53", "25", "28", "3D", "42"))
