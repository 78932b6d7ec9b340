"""What a schema cannot say: values that are valid only because of what they mean.

Every format below is one that the document names; the strategy makes values that the format's description promises to
be taken. Nothing here hides an answer: the checks see whatever comes back.
"""

import json
import os
import uuid
import zlib

import schemathesis
from hypothesis import strategies as st

LETTERS = "abcdefghijklmnopqrstuvwxyz"
word = st.text(alphabet=LETTERS, min_size=1, max_size=12)
# Nobody guesses these, and every run makes its own.
passwords = st.builds(lambda a, b: f"{a} lantern {b} kettle dawn {uuid.uuid4().hex[:8]}", word, word)

schemathesis.openapi.format("email", st.builds(lambda name: f"{name}@example.org", word))
schemathesis.openapi.format("password", passwords)
# A cursor is only what a page before said; empty is the first page.
schemathesis.openapi.format("cursor", st.just(""))
schemathesis.openapi.format("time-zone", st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
schemathesis.openapi.format("currency", st.sampled_from(["USD", "EUR", "JPY"]))
schemathesis.openapi.format("idempotency-key", st.builds(lambda: str(uuid.uuid4())))


# What the caller has, by the path of its collection: made up ids alone would only ever meet 404.
KNOWN = json.loads(os.environ.get("CONSTRUCT_TEST_KNOWN", "{}"))
MEMBERS = {"plan_id": "/v1/plans", "payment_method_id": "/v1/payment-methods"}


def known(collection, instead_of):
    """A known id in place of every second one that was made up."""
    ids = KNOWN.get(collection, [])
    chosen = zlib.crc32(str(instead_of).encode()) % max(1, 2 * len(ids))
    return ids[chosen] if chosen < len(ids) else instead_of


def whole(value):
    """An integer is written without a fraction: 1.0 is one for JSON Schema, and none for the node."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(member) for name, member in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


@schemathesis.hook
def before_call(context, case, kwargs):
    """A client makes a new key for every request; only keys that are wrong on purpose are left as they are."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 0 < len(key) <= 255 and key.isascii() and key.isprintable() and " " not in key:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    collection = case.path.split("/{id}")[0]
    if collection in KNOWN and (case.path_parameters or {}).get("id"):
        case.path_parameters["id"] = known(collection, case.path_parameters["id"])
    if isinstance(case.body, dict):
        case.body = whole(case.body)
        for member, collection in MEMBERS.items():
            if isinstance(case.body.get(member), str):
                case.body[member] = known(collection, case.body[member])
        if case.path == "/v1/payment-methods" and isinstance(case.body.get("token"), str):
            case.body["token"] = "pm_card_visa"


if os.environ.get("CONSTRUCT_TEST_TOKEN"):

    @schemathesis.auth()
    class Bearer:
        """The role's token, so that `ignored_auth` can leave it out."""

        def get(self, case, context):
            return os.environ["CONSTRUCT_TEST_TOKEN"]

        def set(self, case, data, context):
            case.headers = case.headers or {}
            case.headers["Authorization"] = f"Bearer {data}"
