"""Protocol Buffers, written: the four wire types that profile.proto needs. A field that is 0 or empty is not written."""


def varint(value):
    """Of an int64, as the format has it: negative numbers are 64-bit two's complement."""
    value &= (1 << 64) - 1
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field, value):
    return varint(field << 3) + varint(value) if value else b""


def data(field, value):
    """A message or bytes, also when empty: a repeated field must keep its place."""
    return varint(field << 3 | 2) + varint(len(value)) + value


def packed(field, values):
    return data(field, b"".join(map(varint, values))) if values else b""
