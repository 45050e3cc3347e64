"""The one way in which this package says no."""

from scrapy.exceptions import IgnoreRequest


class Withheld(IgnoreRequest):
    """A request that is not made, or an answer that is not taken.

    reason: a code to count by; by its name (`host-…`, `…-failed`, `timeout`) the ledger tells what may be otherwise at
    the next crawl, so that the artwork is tried again then. detail: the value, the limit and the cure.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
