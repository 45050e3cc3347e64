"""Does a server ask that its content stay out of training data?"""

from collections.abc import Iterable

from parsel import Selector
from scrapy.http import Response

# X-Robots-Tag and <meta name="robots">: noai and noimageai speak of training, the others of being collected at all.
DIRECTIVES = {"noai", "noimageai", "noindex", "noimageindex", "none"}


def response_opt_out(response: Response, agent: str, meta_tags: Iterable[str] = ()) -> str | None:
    """The signal in a response's headers, or in its page's robots meta tags, that says no; or None."""
    tags = [tag.decode("latin-1") for tag in response.headers.getlist("X-Robots-Tag")]
    reservation = response.headers.get("tdm-reservation") or b""
    return opt_out([*tags, *meta_tags], reservation.decode("latin-1"), agent)


def page_opt_out(page: Selector, response: Response, agent: str) -> str | None:
    """As `response_opt_out`, with what an HTML page says of itself in <meta name="robots"> and "tdm-reservation"."""
    if page.type != "html":
        return response_opt_out(response, agent)
    said = [(meta.attrib["name"].strip().lower(), meta.attrib["content"]) for meta in page.css("meta[name][content]")]
    if any(name == "tdm-reservation" and content.strip() == "1" for name, content in said):
        return "tdm-reservation: 1"
    return response_opt_out(response, agent, [content for name, content in said if name in ("robots", agent.lower())])


def opt_out(robots_tags: Iterable[str], tdm_reservation: str, agent: str) -> str | None:
    """The signal that says no, or None.

    robots_tags: values of X-Robots-Tag headers or robots meta tags; a part that begins with the name of another
    agent (`otherbot: noindex`) is not for us. tdm_reservation: value of that header (TDM Reservation Protocol, W3C
    community group); 1 means reserved. agent: our name in such tags.
    """
    if tdm_reservation.strip() == "1":
        return "tdm-reservation: 1"
    for tag in robots_tags:
        addressee, _, directives = tag.rpartition(":")
        if addressee.strip().lower() in ("", agent.lower()):
            for directive in directives.split(","):
                if directive.strip().lower() in DIRECTIVES:
                    return f"robots: {directive.strip()}"
    return None
