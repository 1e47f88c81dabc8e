"""The diffusion core: pure maths on callables. It knows no network, no CLIP and no image."""
