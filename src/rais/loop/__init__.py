"""What surrounds a step in a training loop of one's own."""
