"""The official A2A client for Python: one request to the agent at A2A_URL, as the peer who holds A2A_TOKEN.

    a2a-client.py send|stream|get|cancel|subscribe TEXT_OR_TASK [CONTEXT]

Each document that comes is a line on stdout, in the protocol's own JSON; an error of the SDK's is one, too, by its class.
Where the token goes is found by the SDK itself, from the agent's card.
"""

import asyncio
import json
import os
import sys

from a2a.client import AuthInterceptor, ClientConfig, CredentialService, create_client
from a2a.helpers import new_text_message
from a2a.types.a2a_pb2 import CancelTaskRequest, GetTaskRequest, Role, SendMessageRequest, SubscribeToTaskRequest
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict


class Token(CredentialService):
    async def get_credentials(self, security_scheme_name, context):
        return os.environ.get("A2A_TOKEN")


async def documents(client, what, about, context):
    if what in ("send", "stream"):
        message = new_text_message(about, context_id=context, role=Role.ROLE_USER)
        async for event in client.send_message(SendMessageRequest(message=message)):
            yield event
    elif what == "subscribe":
        async for event in client.subscribe(SubscribeToTaskRequest(id=about)):
            yield event
    elif what == "get":
        yield await client.get_task(GetTaskRequest(id=about))
    else:
        yield await client.cancel_task(CancelTaskRequest(id=about))


async def main(what, about, context=None):
    config = ClientConfig(streaming=what != "send")
    async with await create_client(os.environ["A2A_URL"], config, [AuthInterceptor(Token())]) as client:
        try:
            async for document in documents(client, what, about, context):
                print(json.dumps(MessageToDict(document)), flush=True)
        except A2AError as error:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)


asyncio.run(main(*sys.argv[1:]))
