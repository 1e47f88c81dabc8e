"""Models on disk: their index, what a reference names, the Hub, conversion of other programs' files, and
assembly.
"""
