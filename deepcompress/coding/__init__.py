"""Integers to bits and back: packing, Huffman codes, gaps between nonzeros. numpy and numba, never torch."""
