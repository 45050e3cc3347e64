"""Settings of the crawl. Each differs from Scrapy's default for a reason; `-s NAME=VALUE` changes one for a run."""

import os

from artgate import __version__
from artgate.artworks.decode import LIMITS

BOT_NAME = "artgate-crawler"
SPIDER_MODULES = ["artcrawl.spiders"]
NEWSPIDER_MODULE = "artcrawl.spiders"
COMMANDS_MODULE = "artcrawl.commands"

# Who we are. The operator's contact is required: the spider puts it into the user agent, or refuses to start.
CRAWL_CONTACT = os.environ.get("ARTGATE_CRAWL_CONTACT", "")
USER_AGENT = f"{BOT_NAME}/{__version__}"
ROBOTSTXT_USER_AGENT = BOT_NAME

# What we may do.
ROBOTSTXT_OBEY = True
COOKIES_ENABLED = False
DOWNLOAD_VERIFY_CERTIFICATES = True

# How fast. AutoThrottle goes no faster than DOWNLOAD_DELAY, and slower when answers come slower.
DOWNLOAD_DELAY = 0.5
CONCURRENT_REQUESTS = 16
CONCURRENT_REQUESTS_PER_DOMAIN = 4
AUTOTHROTTLE_ENABLED = True
AUTOTHROTTLE_START_DELAY = 1.0
AUTOTHROTTLE_TARGET_CONCURRENCY = 2.0

# When it does not answer. Retry-After is honoured up to this many seconds; a host that asks for more ends the crawl,
# which the same command takes up again later.
RETRY_TIMES = 5
RETRY_AFTER_LIMIT = 600
DOWNLOAD_TIMEOUT = 60
DOWNLOADER_MIDDLEWARES = {"artcrawl.middlewares.RetryAfterMiddleware": 560}

# What we keep: nothing larger than what decode would take, one item's bytes at a time in few hands.
DOWNLOAD_MAXSIZE = LIMITS.max_bytes
DOWNLOAD_WARNSIZE = LIMITS.max_bytes // 2
CONCURRENT_ITEMS = 16
ITEM_PIPELINES = {"artcrawl.pipelines.CollectionPipeline": 300}

# No door into the running process.
REMOTE_CONTROL_ENABLED = False
TELNETCONSOLE_ENABLED = False

LOG_LEVEL = "INFO"
LOGSTATS_INTERVAL = 10.0
# A drop is counted and written to drops.jsonl with its reason; it is no cause for a warning each.
DEFAULT_DROPITEM_LOG_LEVEL = "INFO"
