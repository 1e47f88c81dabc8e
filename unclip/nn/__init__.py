"""Networks: tensors in, tensors out, independent of diffusion."""
