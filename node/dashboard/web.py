"""The page's addresses: the page and its files, what is known as JSON, pictures by digest, and a wish to draw."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, Final

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp

from paris.node.dashboard.board import Board
from paris.node.dashboard.guard import Guard
from paris.node.dashboard.studio import BusyError, Wish
from paris.protocol.errors import UsageError

TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOR_EVER: Final = "private, max-age=31536000, immutable"


def make_app(board: Board, names: list[str], token: str, *, any_address: bool = False, draws: bool = True) -> ASGIApp:
    """The application.

    Args:
        board: What is shown.
        names: Values of `Host` it is served under.
        token: What the page must show to have something drawn.
        any_address: See `Guard`.
        draws: Whether anything may be drawn from the page.
    """
    app = FastAPI(openapi_url=None)
    page, static = _page(token), _static()

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/static/{name}")
    async def part(name: str) -> Response:
        if name not in static:
            raise HTTPException(404)
        return Response(
            static[name], media_type=TYPES[PurePosixPath(name).suffix], headers={"cache-control": "no-cache"}
        )

    @app.get("/api/v1/state")
    async def state(run: str = "") -> JSONResponse:
        return JSONResponse({**await board.state(run), "draws": draws})

    @app.get("/media/{digest}")
    async def media(digest: str) -> FileResponse:
        piece = board.find(digest)
        if piece is None:
            raise HTTPException(404)
        return FileResponse(piece.path, media_type=piece.media_type, headers={"cache-control": _FOR_EVER})

    @app.post("/api/v1/draw", status_code=202)
    async def draw(wish: Wish) -> dict[str, Any]:
        if not draws:
            raise HTTPException(403, "Nothing is drawn for a page that other machines can open.")
        try:
            board.studio.begin(wish)
        except UsageError as error:
            raise HTTPException(409 if isinstance(error, BusyError) else 404, str(error)) from error
        return board.studio.state()

    return Guard(app, names, token, any_address=any_address)


def _page(token: str) -> str:
    return (files(__package__) / "static" / "index.html").read_text("utf-8").replace("{token}", escape(token))


def _static() -> dict[str, bytes]:
    """The page's files by name, read once: no address leads to any other."""
    parts = (files(__package__) / "static").iterdir()
    return {part.name: part.read_bytes() for part in parts if PurePosixPath(part.name).suffix in TYPES}
