"""Training data: WebDataset shards in, batches out."""
