"""A right answer to `gaps`."""


def encode_gaps(positions, gap_bits):
    escape = 2**gap_bits - 1
    symbols = []
    place = 0
    for position in positions:
        gap = position - place
        while gap >= escape:
            symbols.append(escape)
            gap -= escape
        symbols.append(gap)
        place = position + 1
    return symbols


def decode_gaps(symbols, gap_bits):
    escape = 2**gap_bits - 1
    positions = []
    place = 0
    for symbol in symbols:
        place += symbol
        if symbol != escape:
            positions.append(place)
            place += 1
    return positions
