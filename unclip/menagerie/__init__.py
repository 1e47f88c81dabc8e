"""A procedural world of dressed-up creatures: what is in a picture, how it is said, and how it is drawn."""
