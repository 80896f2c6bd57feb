"""kopf's session: the token that is valid now on every request, and no flood of logins where it is refused."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
from aiohttp import web

from finetune_operator.cluster import Connection
from finetune_operator.liveness import Deliveries
from finetune_operator.login import Login

CONNECTION = Connection("http://127.0.0.1", ssl.create_default_context(), "Bearer first")


class Tokens:
    """A connection whose token the kubelet rotates."""

    connection = CONNECTION

    async def __call__(self) -> Connection:
        return self.connection


def make_login(tokens: Tokens) -> Login:
    return Login(tokens, Deliveries(lambda: 0.0))


async def test_every_request_carries_the_token_that_is_valid_now() -> None:
    seen: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({})

    application = web.Application()
    application.router.add_get("/", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    tokens = Tokens()
    session = (await make_login(tokens).session()).aiohttp_session

    for authorization in ("Bearer first", "Bearer second", None):
        tokens.connection = replace(CONNECTION, authorization=authorization)
        async with session.get(url):
            pass

    await session.close()
    await runner.cleanup()
    assert seen == ["Bearer first", "Bearer second", None]


@pytest.mark.parametrize(
    ("logins_at", "pauses"),
    [
        pytest.param([0], [0], id="the first login is made at once"),
        pytest.param([0, 3600, 7200], [0, 0, 0], id="so is one after a login that was good for a while"),
        pytest.param(
            [0, 1, 2, 4, 8, 16, 32],
            [0, 0.5, 1, 2, 4, 8, 10],
            id="where a token is refused again and again, longer and longer",
        ),
        pytest.param([0, 1, 2, 3600, 3601], [0, 0.5, 1, 0, 0.5], id="until one is good again"),
    ],
)
def test_logins_are_paced(logins_at: list[float], pauses: list[float]) -> None:
    login = make_login(Tokens())

    made = []
    for now in logins_at:
        made.append(login._next_pause(now))
        login._last_at = now

    assert made == pauses
