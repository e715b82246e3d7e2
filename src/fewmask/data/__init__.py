"""Open a user's folder of images, check it and cut it into honest splits."""
