"""From a classifier and an image to a map of what the classifier looked at."""
