"""Ways to turn several routes' scores into one ranking."""
