"""What went wrong with the Hub, as a sentence: what happened, whether waiting helps, and what a person can do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers

from paris.protocol.errors import NetworkError

_TOKEN = re.compile(r"\b(hf|api)_\w+")
_FULL = re.compile(r"quota|storage|limit reached|exceeded|payment", re.IGNORECASE)
LONGEST_WAIT_S = 3600.0
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


class HubError(NetworkError):
    """The Hub did not do what was asked.

    Attributes:
        status: Of its answer; 0: there was none.
        wait_s: How long it asks to be left alone; 0: it does not say.
        lasting: Whether only a person can change it: a token, a quota.
    """

    def __init__(
        self, what: str, why: str = "", hint: str = "", *, status: int = 0, wait_s: float = 0.0, lasting: bool = False
    ) -> None:
        super().__init__(what, why, hint)
        self.status, self.wait_s, self.lasting = status, wait_s, lasting


def explained(error: BaseException, repository: str) -> HubError:
    """What an error of the Hub's client means. No token is in it.

    Args:
        error: What the client raised.
        repository: Which repository it was about.
    """
    for cause in _causes(error):
        if isinstance(cause, HubError):
            return cause
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            said = without_tokens(cause.server_message or "")
            return answered(cause.response.status_code, cause.response.headers, said, repository)
        if isinstance(cause, OfflineModeIsEnabled):
            return HubError("the Hub is switched off here (HF_HUB_OFFLINE)", lasting=True)
        if isinstance(cause, LocalTokenNotFoundError):
            return HubError("no token for the Hub is known here", hint=_LOGIN, lasting=True)
    reason = without_tokens(str(error).strip().partition("\n")[0] or type(error).__name__)
    return HubError(f"the Hub cannot be reached for {repository}", reason, "it is tried again later")


def answered(status: int, headers: Mapping[str, str], said: str, repository: str) -> HubError:
    """What a status of the Hub means."""
    wait_s = min(LONGEST_WAIT_S, _wait_s(headers)) if status in {429, 503} else 0.0
    match status:
        case 401:
            what, hint, lasting = f"the Hub does not let this token into {repository}", _LOGIN, True
        case 403 | 402 | 413 if _FULL.search(said):
            what, lasting = f"there is no room left on the Hub for {repository}", True
            hint = "make room on https://huggingface.co/settings/storage; what waits here is kept"
        case 403:
            what, lasting = f"the Hub does not let this token write to {repository}", True
            hint = "use a token with write permission, or another owner's name"
        case 404:
            what, hint, lasting = f"{repository} is not on the Hub", "", False
        case 409 | 412:
            what, hint, lasting = f"somebody else wrote to {repository} at the same time", "it is tried again", False
        case 429:
            what, hint, lasting = f"the Hub asks to slow down ({repository})", "it is tried again later", False
        case _:
            what, hint, lasting = f"the Hub failed for {repository}", "it is tried again later", False
    return HubError(what, f"it answered {status} {said}".strip(), hint, status=status, wait_s=wait_s, lasting=lasting)


def without_tokens(text: str) -> str:
    """A text in which no token of the Hub can be read."""
    return _TOKEN.sub(r"\1_…", text)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cursor: BaseException | None = error
    while cursor is not None:
        yield cursor
        cursor = cursor.__cause__


def _wait_s(headers: Mapping[str, str]) -> float:
    """Seconds that an answer asks to wait, by `Retry-After` or the Hub's own `RateLimit`."""
    after = headers.get("retry-after", "").strip()
    if after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else 0.0
