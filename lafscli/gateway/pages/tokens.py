"""Tokens in forms: they show that a form comes from a page of this process (and no other site made it up).

A token is bound to the cap that its form acts on: only who knows that cap, and so may do all the form does, can have
got it. One for no cap serves forms that act on nothing yet. All are void when the gateway ends.
"""

from __future__ import annotations

import hashlib
import hmac
import os

_KEY = os.urandom(32)


def token(cap: str) -> str:
    """The token for forms about a cap, given as text."""
    return hmac.new(_KEY, cap.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def is_token(given: str, cap: str) -> bool:
    """Whether it is that token; takes as long for every wrong one."""
    return hmac.compare_digest(given.encode(errors="surrogatepass"), token(cap).encode())
