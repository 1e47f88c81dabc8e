"""Measures pictures, models and CLIPs; the measures of the menagerie are in `unclip.menagerie`."""
