"""From votes of people to grades that training can use."""
