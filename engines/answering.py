"""What a node answers: its ClientApp's reply, or what that raised."""

from __future__ import annotations

import logging
import traceback

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

logger = logging.getLogger(__name__)


def answered(client_app: ClientApp, message: Message, context: Context) -> Message:
    """Answer one message, or report what was raised, as a SuperNode does."""
    try:
        return client_app(message, context)
    except Exception as error:
        return refusal(message, error)


def refusal(message: Message, error: Exception) -> Message:
    """Return the reply to a message whose ClientApp raised an error."""
    logger.debug("ClientApp raised:\n%s", "".join(traceback.format_exception(error)))
    reason = f"{type(error).__name__}: {error}"
    return Message(
        Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message
    )
