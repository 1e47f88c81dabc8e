"""Models on disk: index, references, Hub downloads, conversion and assembly."""
