"""What one can do with pictures and the two halves of their latent, z_i and x_T (Ramesh et al. 2022, §3 and §4).

Each verb is a function whose first argument is the pipeline; `Pipeline` has them as methods.
"""
