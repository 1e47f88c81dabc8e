"""The judge: a classifier that reads the attributes of a menagerie scene from a picture."""
