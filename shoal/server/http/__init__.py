"""HTTP: routes, keys, limits, errors, uploads, and the page's files.

`app` puts it together. A request passes `known_hosts`, `same_origin` and `body_limit`, then `who`
with its key and rate; its route asks the store, and wakes the clerk.
"""

from shoal.server.http.app import Parts, make_app
from shoal.server.http.known_hosts import is_loopback

__all__ = [
    "Parts",
    "is_loopback",
    "make_app",
]
