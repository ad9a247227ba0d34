"""The container: bytes of a file, whatever they mean."""
