"""The mathematics of diffusion, on callables: no networks, no CLIP and no images here."""
