"""Marks that say a picture was made by a model: an invisible watermark, metadata, and what finds them
again.
"""
