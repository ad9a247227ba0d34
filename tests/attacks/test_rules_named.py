"""Where to find the attack on each rule of FORMAT.md: the rule's own words, then names out of `test_rules`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.test_rules import METADATA, TENSOR, WHOLE

FORMAT = " ".join((Path(__file__).parents[2] / "FORMAT.md").read_text(encoding="utf-8").replace("**", "").split())

RULES: dict[str, list[str]] = {
    # Conventions
    "a reader must refuse other filling": [
        "filled with ones", "tables filled with ones", "block filled with ones", "planes: filled with ones", "planes: padding",
    ],
    "at most 9 bytes (63 bits)": ["varint of ten bytes"],
    "no leading zero groups": ["varint with a leading zero"],
    # The whole file
    "magic `DC 44 43 5A`": ["magic"],
    "CRC-32 (zlib's, polynomial 0xEDB88320) over head, directory and the four bytes of D": [
        "directory checksum", "a directory that begins early", "a directory of 2 GiB", "a directory of 4 GiB",
    ],
    "A reader refuses another major version": ["major version"],
    "A bit in `flags` that it does not know": ["flags", "flag 0x0004"],
    "records may have the flag 0x20, which they must not have otherwise": ["one offset, not announced"],
    "their lengths must add up to P": [
        "a gap behind the sections", "sections past their end", "a section past the end", "sections of 2**64 bytes",
        "sections that overlap", "one offset, two there",
    ],
    "the bytes skipped are zero and a reader refuses others": ["padding"],
    # Directory
    "In this order, nothing between, nothing after": ["more directory", "2**62 tensors", "a tensor without a name"],
    "If v is even, v / 2 bytes follow": ["block cut off"],
    "a table of code lengths (below, alphabet at most 256)": ["block code", "block alphabet"],
    "The content may not be longer than 8 m bytes": ["block too large"],
    "the m bytes hold nothing else": ["block left over"],
    "No codeword here is longer than 12 bits": ["block with 13 bits"],
    "Else the tail is the `tail`-th (from 1) of the new tails so far": ["tail"],
    "The name is the first `keep` bytes of the previous name": ["keep"],
    "Names are UTF-8": ["UTF-8 in a name", "surrogate in a name"],
    "at most 65,535 bytes, not empty": ["long name", "empty name"],
    "without NUL, without `..`": ["NUL in a name", ".. in a name"],
    "no name stands twice": ["a name twice", "a name twice, spelled in two ways"],
    "Names (block content), per tensor": ["names left over", "a name cut off"],
    # Records
    "Block content, one record per tensor": ["records left over", "records cut off"],
    "0x80 tie (no other bit may be set)": ["tie with flags"],
    "value map (0 none, 1 codebook, 2 affine, 3 refused)": ["value map 3"],
    "0x20 one offset for all channels (value map 2 and an axis above 0 only": [
        "one offset without a map", "one offset of a codebook", "one offset of one channel",
    ],
    "0x40 the same as before (no other bit may be set)": ["record flag 0x60", "record flag 0x41"],
    "That tensor must be neither tied nor sparse, and its values raw": [
        "the same as nothing", "the same as a sparse one", "the same as planes",
    ],
    "(1 <= back <= its own position)": ["tie to itself", "tie out of the records"],
    "which must not be a tie itself": ["tie to a tie"],
    "number of dimensions (at most 64)": ["dimensions"],
    "times the bytes per element, must be below 2^63": [
        "bytes", "2**63 elements", "a product of 2**64", "a product of 2**64 + 4", "bytes of an empty shape",
    ],
    "Allowed pairs": ["stored as itself", "stored as wider", "stored in integers"],
    "| code | dtype | bytes |": ["dtype"],
    "k, number of centroids (at most 65,536)": ["centroids"],
    "gap_bits (1 to 16)": ["gap_bits 0", "gap_bits 17"],
    "its gap count, which is at most numel": ["gaps > numel", "nonzeros > numel"],
    "The gap stream must hold symbols: codecs 0 and 3 are refused there": ["raw gaps", "planes of gaps"],
    "it fails that tensor by name, whatever its geometry and parameters say": ["unknown codec"],
    "Elements of bool are 0 or 1": ["bool", "bool, sparse", "planes: bool"],
    "Codecs 0 and 3 need value map 0": ["raw with a map", "planes with a codebook", "planes with an affine map"],
    "codecs 1, 2 and 4 need value map 1 or 2": ["symbols without a map", "codewords without a map", "levels without a map"],
    "A sparse tensor has codec 4 neither in its values nor in its gaps": ["levels in a sparse tensor", "levels as gaps"],
    # Values cut into planes
    "per plane u8 width (1 to what is left of W; all together are W)": [
        "planes that leave bits", "no planes", "planes of too many bits", "a plane of no bits", "a plane behind the last bit",
    ],
    "and u8 kind": ["kind of plane"],
    "Parameters: varint, the number of planes": [
        "a number of planes", "planes: parameters left over", "planes: parameters cut off",
    ],
    "a bit string of N fields of `width` (at most 56) bits": ["a wide plain plane"],
    "the number that every word has there, below 2^width": ["constant", "constant of 63 bits"],
    "fill the section exactly. A coded": [
        "planes: section too short", "planes: section far too short", "planes: section too long", "planes: bytes of a constant",
        "planes: a coded plane too long",
    ],
    "A coded plane (width at most 16)": ["a wide coded plane"],
    "of N symbols below 2^width, with the geometry of the stream record": [
        "planes: symbols beyond the plane", "planes: table number", "planes: a symbol too many", "planes: a symbol too few",
        "planes: chunk table", "planes: chunk table far too long", "planes: chunk bytes", "planes: a broken chunk",
    ],
    "The geometry is there, and its l <= 5, even if no plane is coded": ["planes: lanes"],
    # Value maps
    "symbol s is centroid s - 1; s <= k": ["code with symbol k + 1", "symbol k + 1", "base k + 1", "base 2**62"],
    "strictly ascending, and none is zero": [
        "centroid zero", "centroid minus zero", "centroid infinite", "centroid NaN", "centroids equal", "centroids descending",
    ],
    "In a sparse tensor symbol 0 does not occur": ["symbol 0 in sparse"],
    "Only for float16, bfloat16, float32, float64": ["map of integers", "affine map of integers"],
    "s <= 65,535. The difference": ["affine symbol"],
    "Scales are finite": ["scale infinite", "scale NaN"],
    "a is at most the number of dimensions": ["axis"],
    # Streams of symbols
    "In a sparse tensor both streams of symbols have the same g": ["two chunk sizes"],
    "L = 2^l lanes, l <= 5": ["lanes"],
    "the chunk table: C x u32, each chunk's bytes": [
        "no chunk table", "chunk bytes", "chunk bytes that sum to 2**32 + 4", "chunk bytes one too many, one too few",
    ],
    "the sums over the table must be those numbers": ["chunk counts", "chunk counts that sum to 2**32 + 2"],
    "A chunk without symbols has no bytes": ["bytes of no symbols"],
    "(L - 1) x u32, the bytes of all lanes but the last": ["lane bytes", "lane table", "lane bytes that sum to 2**32 + 1"],
    "lane j holds symbols s j up to min(s (j + 1), n) (none where s j >= n)": ["lane", "bytes of a lane without symbols"],
    "exactly as long as its symbols need": ["a symbol too many", "a symbol too few"],
    "parameters u8 width (at most 17)": ["width 18"],
    "the number of a code-length table of the directory": ["table number", "parameters left over", "parameters cut off"],
    "The code may have codewords only for symbols that can stand in the stream": ["gap code with a symbol above the escape"],
    "0 to 2^gap_bits - 1 for gaps": ["gap above the escape"],
    "A chunk's symbols must not run past its elements": ["gap past the end"],
    "must not end with an escape": ["last gap an escape"],
    "The number of symbols other than escapes is the number of the chunk's nonzeros": [
        "nonzeros", "chunk nonzeros", "escapes that are nonzeros",
    ],
    # Symbols by context
    "the varint B (at most k)": ["levels: centroids below zero", "levels: 2**62 centroids below zero"],
    "(A <= Z; Z + H <= 65,535)": [
        "levels: below symbol 0", "levels: above symbol 65,535", "levels: far above symbol 65,535",
    ],
    "the varints `first`, from 1 to 4,095, and `lag`": [
        "levels: first 0", "levels: first 4,096", "levels: parameters left over", "levels: parameters cut off",
    ],
    "`lag` is 0, or, with kernel = 1, below `columns`": [
        "levels: lag of a row", "levels: lag of 2**63 - 1", "levels: lag beside a kernel",
    ],
    "one lane (l = 0) and chunks of at most 2^20 levels (g <= 20)": [
        "levels: two lanes", "levels: 64 lanes", "levels: large chunks",
    ],
    "a chunk table if C > 1, then the chunks": ["levels: no chunk table", "levels: chunk bytes"],
    "A size above `top` is refused": ["levels: none but 0", "levels: above the largest"],
    "A reader refuses a chunk that is not exactly what went out": [
        "levels: zeros behind", "levels: other bytes at the end", "levels: a chunk too short", "levels: bytes of no symbols",
    ],
    # Compact files
    "Form 3 is refused": ["compact: form 3"],
    "content of more than 4,096 bytes by context": ["compact: too many bytes by context"],
    "a reader refuses others than those that went out": [
        "compact: bytes by context that go on", "compact: bytes by context cut off",
    ],
    "it is coded by code lengths, as an odd v says elsewhere": ["compact: too many codewords"],
    "Flags 0x20 is refused here": ["compact: 0x20 of a constant"],
    "an element that follows must not have all bits zero": ["compact: zeros that follow"],
    "it does not follow, and there is no stored dtype": ["compact: zeros of another type"],
    "the element follows, in the stored dtype, and ends the record": ["compact: a constant cut off", "compact: a large constant"],
    "An element of bool is 1": ["compact: bool"],
    "That tensor must be a constant, or neither tied nor sparse with its values raw": [
        "compact: the same as nothing", "compact: the same as levels",
    ],
    "is for value map 2 with any axis": ["compact: 0x20 of a codebook"],
    "which follows the axis as a varint, at most 65,535": ["compact: offset"],
    "Instead of `first` stands its step d, at most 23": ["compact: step 24"],
    "then the parameters at once, with no geometry": [
        "compact: a record of others", "compact: no value map", "compact: raw with a map",
    ],
    # Codes
    "0 for a symbol that does not occur, at most 20": [
        "table length 0", "table length 21", "table length 20 + 1", "table length 1 - 1",
    ],
    "the sum of 2^-length over occurring symbols is 1": ["table over-subscribed", "table under-subscribed"],
    "exactly one symbol occurs, with length 1 and the codeword 0": ["one-symbol code", "table of one long codeword"],
    "n being the alphabet's size (at most 65,537)": ["table alphabet"],
    "runs do not pass the alphabet's end": ["table run"],
    "their bytes; the tables": ["tables cut off", "tables left over", "more tables than bits"],
    # Metadata
    "A metadata section is a block": ["block"],
    "A kind stands at most once": ["metadata twice"],
    "An odd kind is critical": ["critical metadata"],
    "a JSON object of strings, UTF-8": ["no JSON", "no object", "no strings", "no UTF-8"],
    "the pipeline's configuration as a JSON object": ["recipe", "NaN", "deep"],
    "per module a varint, its version": ["versions cut off", "versions left over"],
    "nothing; that it is there says: for inference": ["inference"],
    "module versions of those around": ["versions around left over"],
    # Limits
    "all names together | 2^26 bytes": ["long names together"],
    "alphabets of all code-length tables together | 2^26": ["alphabets together"],
}  # fmt: skip

ATTACKS = {*WHOLE, *TENSOR, *METADATA}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_stands_in_the_format_and_has_an_attack(rule: str) -> None:
    assert rule in FORMAT
    assert RULES[rule]
    assert set(RULES[rule]) <= ATTACKS


def test_every_attack_is_on_a_rule() -> None:
    assert {attack for attacks in RULES.values() for attack in attacks} == ATTACKS
    assert len(ATTACKS) == len(WHOLE) + len(TENSOR) + len(METADATA)
