"""Locate and check model folders; read their tensors, configs, tokenizers and vocabularies."""
