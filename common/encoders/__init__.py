"""Text, image and late-interaction encoders, and the resumable embedding store."""
