"""The judge: a classifier of the attributes of menagerie scenes."""
