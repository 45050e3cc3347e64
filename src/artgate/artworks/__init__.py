"""What an artwork is, and how a folder of them is kept."""
