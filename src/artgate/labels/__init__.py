"""People's opinions: votes and ratings, and the grade probabilities that training learns from."""
