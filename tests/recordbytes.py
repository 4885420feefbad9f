"""A RecordIO set written out by hand, byte for byte, from the documented format: no code of ours made it.

Four images, of which one holds the magic word at a multiple of four bytes (and is split there) and one elsewhere,
of two identities; record 0 says that keys 1 to 4 are images and 5 and 6 identities.
"""

MAGIC = b"\x0a\x23\xd7\xce"
NO_IDS = bytes(16)

IMAGES = [b"ABCDE", b"wxyz" + MAGIC + b"tail!", b"q" + MAGIC + b"...", b""]
LABELS = [0, 0, 1, 1]

HEAD = (
    MAGIC + b"\x20\x00\x00\x00"  # a whole record of 32 bytes
    + b"\x02\x00\x00\x00" + b"\x00\x00\x00\x00" + NO_IDS  # two labels follow; the header's own is 0
    + b"\x00\x00\xa0\x40" + b"\x00\x00\xe0\x40"  # 5.0 7.0
)  # fmt: skip
WHOLE = (
    MAGIC + b"\x1d\x00\x00\x00"  # 24 + 5 bytes
    + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x00" + b"\x01" + bytes(7) + bytes(8)  # label 0.0, id 1
    + b"ABCDE" + b"\x00\x00\x00"  # padded to a multiple of four
)  # fmt: skip
SPLIT = (
    MAGIC + b"\x1c\x00\x00\x20"  # part 1, the first: 24 + 4 bytes
    + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x00" + b"\x02" + bytes(7) + bytes(8)
    + b"wxyz"  # here stood the magic word
    + MAGIC + b"\x05\x00\x00\x60"  # part 3, the last: 5 bytes
    + b"tail!" + b"\x00\x00\x00"
)  # fmt: skip
UNALIGNED = (
    MAGIC + b"\x24\x00\x00\x00"  # flag 1: the label stands behind the header, 24 + 4 + 8 bytes
    + b"\x01\x00\x00\x00" + b"\x00\x00\x00\x00" + b"\x03" + bytes(7) + bytes(8)
    + b"\x00\x00\x80\x3f"  # 1.0
    + b"q" + MAGIC + b"..."
)  # fmt: skip
EMPTY = (
    MAGIC + b"\x18\x00\x00\x00" + b"\x00\x00\x00\x00" + b"\x00\x00\x80\x3f" + b"\x04" + bytes(7) + bytes(8)
)
FIRST_IDENTITY = (
    MAGIC
    + b"\x20\x00\x00\x00"
    + b"\x02\x00\x00\x00"
    + bytes(4)
    + NO_IDS
    + b"\x00\x00\x80\x3f"
    + b"\x00\x00\x40\x40"
)  # images 1.0 to 3.0
SECOND_IDENTITY = (
    MAGIC
    + b"\x20\x00\x00\x00"
    + b"\x02\x00\x00\x00"
    + bytes(4)
    + NO_IDS
    + b"\x00\x00\x40\x40"
    + b"\x00\x00\xa0\x40"
)  # images 3.0 to 5.0

PARTS = [HEAD, WHOLE, SPLIT, UNALIGNED, EMPTY, FIRST_IDENTITY, SECOND_IDENTITY]
RECORDS = b"".join(PARTS)
INDEX = b"0\t0\n1\t40\n2\t80\n3\t132\n4\t176\n5\t208\n6\t248\n"
