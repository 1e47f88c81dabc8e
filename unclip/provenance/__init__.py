"""Provenance marks of generated images: invisible watermark, metadata, C2PA; and their detection."""
