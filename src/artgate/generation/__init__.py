"""From prompts to accepted, enlarged artworks."""
