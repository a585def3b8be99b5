"""What surrounds a step in anyone's training loop."""
