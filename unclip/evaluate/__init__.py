"""Metrics of images, models and CLIPs. Those of the menagerie are in `unclip.menagerie`."""
