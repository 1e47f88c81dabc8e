"""A procedural world of dressed-up creatures: scenes, their captions and their renderings."""
