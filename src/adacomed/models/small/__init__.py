"""Small multimodal models, each with an embedding and a linear head."""
