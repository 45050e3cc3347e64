"""Settings of the crawl. Each differs from Scrapy's default for a reason; `-s NAME=VALUE` changes one for a run."""

import os

from artgate import __version__

BOT_NAME = "artgate-crawler"
SPIDER_MODULES = ["artcrawl.spiders"]
NEWSPIDER_MODULE = "artcrawl.spiders"
COMMANDS_MODULE = "artcrawl.commands"

# Who we are. The operator's contact is required: the spider puts it into the user agent, or refuses to start.
CRAWL_CONTACT = os.environ.get("ARTGATE_CRAWL_CONTACT", "")
USER_AGENT = f"{BOT_NAME}/{__version__}"
ROBOTSTXT_USER_AGENT = BOT_NAME

# What we may do. Images need what their hosts' robots.txt, tdmrep.json and ai.txt allow; a host whose robots.txt asks
# for more than CRAWL_DELAY_LIMIT seconds between requests is given up.
ROBOTSTXT_OBEY = True
CRAWL_DELAY_LIMIT = 60
COOKIES_ENABLED = False
DOWNLOAD_VERIFY_CERTIFICATES = True

# How fast. AutoThrottle goes no faster than DOWNLOAD_DELAY, and slower when answers come slower.
DOWNLOAD_DELAY = 0.5
CONCURRENT_REQUESTS = 16
CONCURRENT_REQUESTS_PER_DOMAIN = 4
AUTOTHROTTLE_ENABLED = True
AUTOTHROTTLE_START_DELAY = 1.0
AUTOTHROTTLE_TARGET_CONCURRENCY = 2.0

# When it does not answer. Retry-After is honoured up to RETRY_AFTER_LIMIT seconds; a host that asks for more ends the
# crawl, which the same command takes up again later. Other retries wait a random time of up to RETRY_BACKOFF_BASE
# seconds, then twice that, and so on up to RETRY_BACKOFF_LIMIT. After BREAKER_FAILURES failures in a row a host is left
# alone for BREAKER_REST seconds, then probed; requests wait for it until it has been down for BREAKER_HOLD seconds.
RETRY_TIMES = 5
RETRY_HTTP_CODES = [408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524]
RETRY_GIVE_UP_LOG_LEVEL = "INFO"
RETRY_AFTER_LIMIT = 600
RETRY_BACKOFF_BASE = 1.0
RETRY_BACKOFF_LIMIT = 60.0
BREAKER_FAILURES = 20
BREAKER_REST = 60
BREAKER_HOLD = 3600
# From the request to the end of the body, whatever drips in between.
DOWNLOAD_TIMEOUT = 60

# Where we may go: the public internet, and of other addresses only those named here (hosts, addresses, networks).
# No proxy, for it would resolve names itself, unguarded.
CRAWL_ALLOW_PRIVATE = os.environ.get("ARTGATE_CRAWL_ALLOW_PRIVATE", "")
TWISTED_DNS_RESOLVER = "artcrawl.network.guard.GuardedResolver"
HTTPPROXY_ENABLED = False
DOWNLOAD_HANDLERS = {
    "http": "artcrawl.network.headers.BoundedHeadersHandler",
    "https": "artcrawl.network.headers.BoundedHeadersHandler",
    **dict.fromkeys(("file", "ftp", "s3", "data")),
}

# How much we take: pages up to DOWNLOAD_MAXSIZE bytes, as sent and decompressed (images up to what decode takes, see
# network/images.py).
DOWNLOAD_MAXSIZE = 8 * 2**20
DOWNLOAD_WARNSIZE = 0
REDIRECT_MAX_TIMES = 10
# A page that reloads itself is no redirect.
METAREFRESH_ENABLED = False
# Too long addresses are counted by network/guard.py; Scrapy would drop them without a word.
URLLENGTH_LIMIT = 0
# List pages after each other in one crawl; 0 for no limit.
CRAWL_MAX_PAGES = 10_000

# What we need not ask for again: pages of earlier crawls that have not changed since.
HTTPCACHE_ENABLED = True
HTTPCACHE_STORAGE = "artcrawl.network.cache.SqlitePageStorage"
HTTPCACHE_POLICY = "artcrawl.network.cache.AskAgainPolicy"
HTTPCACHE_EXPIRATION_SECS = 90 * 24 * 3600
CRAWL_CACHE_MAX_BYTES = 2**30

# The way of a request, from the spider (low numbers) to the network; the answer goes back from high to low. Scrapy's
# own lie between: retry at 550.
DOWNLOADER_MIDDLEWARES = {
    "artcrawl.network.guard.AddressMiddleware": 40,
    "scrapy.downloadermiddlewares.robotstxt.RobotsTxtMiddleware": None,
    "artcrawl.network.robots.RobotsMiddleware": 100,
    "artcrawl.network.reservations.ReservationMiddleware": 110,
    "artcrawl.network.refusals.NamedExceptionsMiddleware": 540,
    "scrapy.downloadermiddlewares.httpcompression.HttpCompressionMiddleware": None,
    "artcrawl.network.refusals.BoundedCompressionMiddleware": 590,
    "scrapy.downloadermiddlewares.redirect.RedirectMiddleware": None,
    "artcrawl.network.refusals.BoundedRedirectMiddleware": 600,
    "scrapy.downloadermiddlewares.httpcache.HttpCacheMiddleware": None,
    "artcrawl.network.cache.PageCacheMiddleware": 900,
    "artcrawl.network.patience.PatienceMiddleware": 905,
    "artcrawl.network.breaker.BreakerMiddleware": 910,
    "artcrawl.network.guard.ResolvedAddressMiddleware": 920,
}

# Items of one page at a time; the pipeline bounds how many images that are, over all pages.
CONCURRENT_ITEMS = 32
ITEM_PIPELINES = {"artcrawl.pipelines.CollectionPipeline": 300}

# No door into the running process.
REMOTE_CONTROL_ENABLED = False
TELNETCONSOLE_ENABLED = False

LOG_LEVEL = "INFO"
# A line on progress every so many seconds, in place of Scrapy's pages and items a minute.
PROGRESS_SECONDS = 5.0
EXTENSIONS = {"scrapy.extensions.logstats.LogStats": None, "artcrawl.progress.Progress": 0}
# A drop is counted and written to drops.jsonl with its reason: no cause for two lines of the log each.
DEFAULT_DROPITEM_LOG_LEVEL = "DEBUG"
