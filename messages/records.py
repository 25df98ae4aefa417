"""The records of every message and their names; the files beside this one fill and read them.

========================  =============================  =======================================
message type              server -> node                 node -> server
========================  =============================  =======================================
``query.hello``           ``config``                     ``node`` (see ``NodeInfo``)
``query.digests``         ``config``                     ``images``, ``reply``
``train``                 ``arrays``, ``config``, aux    ``arrays``, ``metrics``, ``reply``, aux
``evaluate``              ``arrays``, ``config``,        one record of sums per held-out part,
                          ``parameters``                 ``sets``, ``reply``
``train.calibrate``       ``arrays``, ``config``,        ``sums``, ``reply``
                          ``parameters``
========================  =============================  =======================================

``arrays`` is the adapter: float32, sorted names; of a server in Flower's own loop a node takes it
in float64 too. Of a message whose ``config`` has ``at-start``, tensors are left out that are those
of the adapter a run begins with, which every node makes for itself; ``at-start`` is their digest.
If a train message says ``changes-only``, its reply has only those that training changed, and says
in ``reply`` how many are ``unchanged``. Either way matrices are sent without the rows and columns
at their ends that are all zero; ``cut`` says of how many that is so. If a train message names a
``compression``, ``arrays`` of the reply are parts of changes; see ``compressed.py``. ``parameters``
and ``sums`` are float64. ``aux`` is there only where a strategy asks for it, and ``sets`` where a
calibrator answers with sets of classes. Every message but the first to a node whose classes are in
another order than the run's, or fewer, also has ``classes``: the names in the run's order; to a
node that leaves out copies of other nodes' images, ``left-out``: their digests.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Message

HELLO, TRAIN, EVALUATE, CALIBRATE = "query.hello", "train", "evaluate", "train.calibrate"
DIGESTS = "query.digests"
ARRAYS, AUX, CONFIG, METRICS, REPLY = "arrays", "aux", "config", "metrics", "reply"
PARAMETERS, SUMS, CALIBRATOR, PARTS = "parameters", "sums", "calibrator", "parts"
SETS = "sets"
CLASSES = "classes"
OWN = "own"
LEFT_OUT = "left-out"
ROUND, NUM_ROUNDS, CLIENT_RULE = "server-round", "num-rounds", "client-rule"
EXAMPLES, CLIENT = "num-examples", "client"
CHANGES_ONLY, UNCHANGED = "changes-only", "unchanged"
AT_START, CUT = "at-start", "cut"
COMPRESSION = "compression"

LONGEST_TEXT = 1000
"""Characters of a text from a node that are kept: it goes into logs and onto terminals."""


class UnusableMessageError(ValueError):
    """A message that cannot be used; the text is the reason, one printable line.

    Args:
        reason: may quote what a node sent.
    """

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(reason))


def reply_record(client: str) -> ConfigRecord:
    """Return the record that says whose reply it is."""
    return ConfigRecord({CLIENT: client})


def one_line(text: object) -> str:
    """Return a text from outside as one printable line of at most ``LONGEST_TEXT`` characters."""
    head = str(text)[: 2 * LONGEST_TEXT]
    if not head.isprintable():
        head = "".join(c if c.isprintable() else " " for c in head)
    line = " ".join(head.split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def error_reason(reply: Message) -> str:
    """Return one line for a failed reply; of a Ray traceback its last line."""
    tail = (reply.error.reason or "")[-4 * LONGEST_TEXT :]
    lines = [line for line in tail.splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else f"error code {reply.error.code}"


def refuse_error(reply: Message) -> None:
    """Raise the reason of a reply that is an error.

    Raises:
        UnusableMessageError: it is one.
    """
    if reply.has_error():
        raise UnusableMessageError(error_reason(reply))
