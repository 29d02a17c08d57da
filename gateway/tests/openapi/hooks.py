"""What schemathesis cannot know: whose keys there are, and what of a valid value no schema says."""

import atexit
import collections
import itertools
import json
import os
import random
from datetime import datetime, timedelta, timezone

import schemathesis

# One key may ask ten times a second: each request takes the next one's turn.
KEYS = itertools.cycle(os.environ["ORBIT_KEYS"].split())
MOST = timedelta(days=400)
# The keys' tenant and some below it.
TENANTS = os.environ["ORBIT_TENANTS"].split()
# What came back, by operation and status: a run in which everything was refused proves little.
ANSWERS = collections.Counter()
CHOICE = random.Random(os.environ["ORBIT_SEED"])


@schemathesis.auth(refresh_interval=None)
class NextKey:
    def get(self, case, context):
        return next(KEYS)

    def set(self, case, data, context):
        case.headers["Authorization"] = f"Bearer {data}"


def instant(text):
    """A day or an RFC 3339 time; None where it is outside the years there are."""
    try:
        at = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
    except ValueError:
        return None
    return at.replace(tzinfo=timezone.utc) if at.tzinfo is None else at


def is_in_order(query):
    """Whether `from` is before `to`, not by more than 400 days, and within the bounds."""
    now = datetime.now(timezone.utc)
    until = instant(query["to"]) if "to" in query else now
    since = instant(query["from"]) if "from" in query else None
    if until is None or "from" in query and since is None:
        return False
    if not 1972 <= until.year <= 2104 or since is not None and not 1972 <= since.year <= 2104:
        return False
    return since is None or timedelta() < until - since <= MOST


@schemathesis.hook
def filter_case(context, case):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return True
    query = dict(case.query or {})
    # A cursor is what an answer gave, and never what a pattern gives.
    return "cursor" not in query and is_in_order(query)


@schemathesis.hook
def before_call(context, case, kwargs):
    # Of the tenants that a pattern gives none is there; of these, all.
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if positive and "tenant" in (case.query or {}) and CHOICE.random() < 0.8:
        case.query["tenant"] = CHOICE.choice(TENANTS)


@schemathesis.hook
def after_call(context, case, response):
    ANSWERS[f"{case.operation.path} {response.status_code}"] += 1


@atexit.register
def tell():
    with open(os.environ["ORBIT_ANSWERS"], "w") as file:
        json.dump(ANSWERS, file)
