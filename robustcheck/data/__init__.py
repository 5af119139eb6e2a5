"""Images and labels in, in their pixel space."""
