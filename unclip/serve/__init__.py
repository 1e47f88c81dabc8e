"""A server that speaks OpenAI's Images API as dall-e-2 did: change the base URL, keep the code."""
