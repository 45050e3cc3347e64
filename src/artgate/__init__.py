"""artgate: crawl, label, train a quality gate, and generate until N artworks are accepted."""

__version__ = "0.1.0"
