"""Between the spiders and the network: what a polite client does that Scrapy does not, and what a wary one must."""
