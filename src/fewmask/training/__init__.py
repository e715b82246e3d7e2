"""The parts of a training loop that have no paper in them."""
