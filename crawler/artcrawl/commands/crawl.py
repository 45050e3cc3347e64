"""`scrapy crawl`, with arguments checked before the engine starts."""

import argparse

from scrapy.commands import crawl
from scrapy.exceptions import UsageError

from artgate.errors import UserError

from ..network.addresses import allowed


class Command(crawl.Command):
    """Scrapy's own command; but a wrong argument ends it with one message and status 2, not with a traceback."""

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Build the spider once to have its arguments and settings checked, then run it as Scrapy does."""
        if len(args) == 1 and self.crawler_process is not None:
            try:
                spider_class = self.crawler_process.spider_loader.load(args[0])
                spider_class(**opts.spargs)
                # A copy, because the crawler that is made of them later puts the contact in itself.
                spider_class.update_settings(self.crawler_process.settings.copy())
                allowed(self.crawler_process.settings.getlist("CRAWL_ALLOW_PRIVATE"))
            except UserError as error:
                raise UsageError(str(error), print_help=False) from None
            except KeyError as error:
                names = ", ".join(self.crawler_process.spider_loader.list())
                message = f"spider {error} is not one of {names}"
                raise UsageError(message, print_help=False) from None
        super().run(args, opts)
