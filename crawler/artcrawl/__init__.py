"""Scrapy project: crawls galleries politely into an artgate Collection. Of artgate it imports artworks and errors."""
